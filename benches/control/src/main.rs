//! What one changed object costs the control plane, without a cluster and without a network: CPU time of one thread from the
//! object to what goes to a subscriber, the best of several.

mod cost;

use bench_control::Size;
use clap::Parser;
use control::manifest::Kind;
use serde_json::Value;

use crate::cost::Control;

/// Measures what one changed object costs the control plane.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    size: Size,

    /// Changes of each kind; the best of each step is shown.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

/// What is written in round `i` of a kind of change.
type Change = fn(Size, usize) -> (Kind, Value);

const CHANGES: [(&str, Change); 5] = [
    ("a policy for pods", |size, i| {
        let policy = size.policy(0, &format!("caller-{i}"));
        (Kind::AuthorizationPolicy, policy)
    }),
    ("a policy of a namespace", |size, i| {
        let policy = size.policy(1, &format!("caller-{i}"));
        (Kind::AuthorizationPolicy, policy)
    }),
    ("a pod", |size, i| {
        let mut pod = size.pod(7);
        pod["metadata"]["labels"]["version"] = format!("v{}", i + 2).into();
        (Kind::Pod, pod)
    }),
    ("a service", |size, i| {
        let mut service = size.service(7);
        service["spec"]["ports"][0]["port"] = (81 + i).into();
        (Kind::Service, service)
    }),
    ("a slice", |size, i| {
        let mut slice = size.slice(7);
        slice["endpoints"][0]["conditions"]["ready"] = i.is_multiple_of(2).into();
        (Kind::EndpointSlice, slice)
    }),
];

fn main() {
    let arguments = Arguments::parse();
    let size = arguments.size;
    println!(
        "{} services, {} pods, {} policies in {} namespaces; CPU time in ms",
        size.services, size.pods, size.policies, size.namespaces
    );
    let mut control = Control::new(size);
    println!("{:24} {}", "from nothing", control.change(None));
    for (what, change) in CHANGES {
        let costs = (0..arguments.rounds).map(|i| {
            let (kind, tree) = change(size, i);
            control.change(Some((kind, &tree)))
        });
        let best = costs.reduce(|one, other| one.best(&other));
        if let Some(best) = best {
            println!("{what:24} {best}");
        }
    }
}
