//! A control plane without its network, and what each step of a change costs it.

use std::{collections::BTreeMap, fmt, time::Duration};

use bench_control::Size;
use control::{
    compile::{Compiled, Compiler, Settings},
    kubernetes::{
        objects::{Change, Objects, Stored},
        write::writes,
    },
    manifest::Kind,
    publish::{Snapshot, Stream},
    subject::Subject,
    world::Waypoints,
};
use nix::time::{ClockId, clock_gettime};
use proto::discovery::DeltaDiscoveryRequest;
use serde_json::Value;
use time::OffsetDateTime;

/// From objects to what a subscriber is sent.
pub(crate) struct Control {
    objects: Objects,
    compiler: Compiler,
    compiled: Compiled,
    snapshot: Snapshot,
    stream: Stream,
}

/// By step.
pub(crate) struct Cost {
    steps: Vec<(&'static str, Duration)>,
    /// Resources that were sent.
    sent: usize,
}

impl Control {
    pub(crate) fn new(size: Size) -> Self {
        let mut objects = Objects::default();
        let none = Kind::all().map(|kind| (kind, Vec::new()));
        let mut all: BTreeMap<Kind, Vec<Stored>> = none.collect();
        for (kind, tree) in size.objects() {
            all.entry(kind)
                .or_default()
                .extend(Stored::read(kind, &tree));
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
            objects,
            compiler: Compiler::default(),
            compiled: Compiled::default(),
            snapshot: Snapshot::default(),
            stream,
        }
    }

    /// Takes in a changed object.
    pub(crate) fn change(&mut self, object: Option<(Kind, &Value)>) -> Cost {
        let mut steps = Steps(Vec::new());
        if let Some((kind, tree)) = object {
            let stored = steps.take("read", || Stored::read(kind, tree).expect("it is one"));
            let change = Change::Stored(Box::new(stored));
            steps.take("apply", || self.objects.apply(change));
        }
        let (world, settings) = (self.objects.world_mut(), Settings::default());
        world.waypoints = Some(Waypoints::default());
        let compiled = steps.take("compile", || self.compiler.compile(world, &settings));
        let snapshot = steps.take("encode", || Snapshot::new(&compiled, &self.snapshot));
        let responses = steps.take("push", || self.stream.push(&snapshot));
        let sent = responses.iter();
        let sent = sent
            .map(|it| it.resources.len() + it.removed_resources.len())
            .sum();
        let now = OffsetDateTime::UNIX_EPOCH;
        let writes = steps.take("statuses", || {
            writes(&self.objects, &compiled.statuses, now)
        });
        steps.take("drop", || {
            drop(writes);
            self.compiled = compiled;
            self.snapshot = snapshot;
        });
        Cost {
            steps: steps.0,
            sent,
        }
    }
}

impl Cost {
    /// The best of each step of two changes of the same kind.
    pub(crate) fn best(&self, other: &Self) -> Self {
        let both = self.steps.iter().zip(&other.steps);
        let steps = both.map(|((step, one), (_, other))| (*step, *one.min(other)));
        Self {
            steps: steps.collect(),
            sent: self.sent.max(other.sent),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let sum: Duration = self.steps.iter().map(|(_, time)| *time).sum();
        write!(f, "{:7.2} for {:4} resources:", ms(sum), self.sent)?;
        let mut steps = self.steps.iter();
        steps.try_for_each(|(step, time)| write!(f, " {step} {:.2}", ms(*time)))
    }
}

struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn take<T>(&mut self, what: &'static str, step: impl FnOnce() -> T) -> T {
        let before = cpu();
        let value = step();
        self.0.push((what, cpu() - before));
        value
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map(Duration::from).unwrap_or_default()
}
