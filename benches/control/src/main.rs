//! What one changed object costs the control plane, step by step, without a cluster and without a network: CPU time of this
//! thread, the best of several.

use std::{collections::BTreeMap, time::Duration};

use bench_control::Size;
use clap::Parser;
use control::{
    compile::{Compiled, Settings, compile},
    kubernetes::{
        objects::{Change, Objects, Stored},
        write::writes,
    },
    manifest::Kind,
    publish::{Snapshot, Stream},
    subject::Subject,
    world::Waypoints,
};
use proto::discovery::DeltaDiscoveryRequest;
use serde_json::Value;
use time::OffsetDateTime;

/// Measures what one changed object costs the control plane.
#[derive(Debug, Parser)]
struct Arguments {
    /// Namespaces.
    #[arg(long, default_value_t = 20)]
    namespaces: usize,

    /// Services.
    #[arg(long, default_value_t = 1000)]
    services: usize,

    /// Pods.
    #[arg(long, default_value_t = 5000)]
    pods: usize,

    /// Policies.
    #[arg(long, default_value_t = 100)]
    policies: usize,

    /// Changes of each kind; the best of each step is shown.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

fn main() {
    let arguments = Arguments::parse();
    let size = Size {
        namespaces: arguments.namespaces,
        services: arguments.services,
        pods: arguments.pods,
        policies: arguments.policies,
    };
    let mut bench = Bench::new(size);
    bench.change("nothing", 1, |_, _| None);
    bench.change("policy for pods", arguments.rounds, |size, round| {
        Some((
            Kind::AuthorizationPolicy,
            size.policy(0, &format!("caller-{round}")),
        ))
    });
    bench.change("policy of a namespace", arguments.rounds, |size, round| {
        Some((
            Kind::AuthorizationPolicy,
            size.policy(1, &format!("caller-{round}")),
        ))
    });
    bench.change("pod", arguments.rounds, |size, round| {
        let mut pod = size.pod(7);
        pod["metadata"]["labels"]["version"] = format!("v{}", round + 2).into();
        Some((Kind::Pod, pod))
    });
    bench.change("service", arguments.rounds, |size, round| {
        let mut service = size.service(7);
        service["spec"]["ports"][0]["port"] = (81 + round).into();
        Some((Kind::Service, service))
    });
    bench.change("slice", arguments.rounds, |size, round| {
        let mut slice = size.slice(7);
        slice["endpoints"][0]["conditions"]["ready"] = (round % 2 == 0).into();
        Some((Kind::EndpointSlice, slice))
    });
}

struct Bench {
    size: Size,
    objects: Objects,
    settings: Settings,
    compiled: Compiled,
    snapshot: Snapshot,
    stream: Stream,
}

impl Bench {
    fn new(size: Size) -> Self {
        let mut objects = Objects::default();
        let mut all: BTreeMap<Kind, Vec<Stored>> =
            Kind::all().map(|kind| (kind, Vec::new())).collect();
        for (kind, tree) in size.objects() {
            let read = Stored::read(kind, &tree).expect("it is one");
            all.entry(kind).or_default().push(read);
        }
        for (kind, all) in all {
            objects.apply(Change::All(kind, all));
        }
        let mut stream = Stream::new(Subject::Node("n1".to_owned()));
        for type_url in [proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE] {
            let request = DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            stream.request(request).expect("it is served");
        }
        Self {
            size,
            objects,
            settings: Settings::default(),
            compiled: Compiled::default(),
            snapshot: Snapshot::default(),
            stream,
        }
    }

    fn change(
        &mut self,
        what: &str,
        rounds: usize,
        make: impl Fn(Size, usize) -> Option<(Kind, Value)>,
    ) {
        let mut best: Vec<(&str, Duration)> = Vec::new();
        let mut sent = 0;
        for round in 0..rounds {
            let mut steps = Steps::default();
            if let Some((kind, tree)) = make(self.size, round) {
                let stored = steps.take("read", || Stored::read(kind, &tree).expect("it is one"));
                steps.take("apply", || {
                    self.objects.apply(Change::Stored(Box::new(stored)))
                });
            }
            let mut world = steps.take("clone", || self.objects.world().clone());
            world.waypoints = Some(Waypoints::default());
            let compiled = steps.take("compile", || compile(&world, &self.settings));
            steps.take("drop", || drop(world));
            let snapshot = steps.take("snapshot", || Snapshot::new(&compiled, &self.snapshot));
            let writes = steps.take("writes", || {
                writes(
                    &self.objects,
                    &compiled.statuses,
                    OffsetDateTime::UNIX_EPOCH,
                )
            });
            let responses = steps.take("push", || self.stream.push(&snapshot));
            sent = responses
                .iter()
                .map(|it| it.resources.len() + it.removed_resources.len())
                .sum();
            steps.take("drop", || {
                drop(writes);
                self.compiled = compiled;
                self.snapshot = snapshot;
            });
            if best.is_empty() {
                best = steps.done;
            } else {
                for (best, now) in best.iter_mut().zip(steps.done) {
                    best.1 = best.1.min(now.1);
                }
            }
        }
        let sum: Duration = best.iter().map(|(_, time)| *time).sum();
        let steps: Vec<_> = best
            .iter()
            .map(|(step, time)| format!("{step} {:.2}", time.as_secs_f64() * 1e3))
            .collect();
        println!(
            "{what}: {:.2} ms for {sent} resources ({})",
            sum.as_secs_f64() * 1e3,
            steps.join(", ")
        );
    }
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn take<T>(&mut self, what: &'static str, step: impl FnOnce() -> T) -> T {
        let before = cpu();
        let value = step();
        self.done.push((what, cpu() - before));
        value
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
