//! The control plane on a real cluster: how long it takes to publish a burst of objects, what memory it has then, and how
//! long a policy takes from its API server to the wire of a node proxy.
//!
//! A cluster of the tests' fixture, with a node of which there is only the object; the control plane as a process of this
//! machine; a subscriber with the token of a node proxy. No pod runs and no traffic flows: what is measured is the way of
//! objects alone.

mod api;
mod process;
mod subscriber;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bench_control::Size;
use clap::Parser;
use control::manifest::Kind;
use tests_kube::Cluster;
use tokio::time::sleep;

use crate::{api::Api, process::Control, subscriber::Subscriber};

/// What a policy may take from before it is written to the wire, for half of them.
const MUST: Duration = Duration::from_millis(10);
const AIM: Duration = Duration::from_millis(3);

/// For how long nothing must come before it is quiet.
const QUIET: Duration = Duration::from_secs(5);

/// Measures the control plane on a real Kubernetes cluster.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    size: Size,

    /// Policies that are measured.
    #[arg(long, default_value_t = 50)]
    rounds: usize,

    /// Requests to the API server at once.
    #[arg(long, default_value_t = 32)]
    at_once: usize,

    /// The control plane, built for release with Kubernetes.
    #[arg(long, default_value = "target/release/ambit-control")]
    control: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.control.exists() {
        eprintln!(
            "{} is not there: cargo build --release -p control --features kubernetes",
            arguments.control.display()
        );
        return ExitCode::FAILURE;
    }
    let Some(cluster) = Cluster::start("bench-kube", 1) else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads");
    match runtime.block_on(measure(&cluster, &arguments)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether what must hold does.
async fn measure(cluster: &Cluster, arguments: &Arguments) -> bool {
    let size = arguments.size;
    let api = Api::new(cluster, arguments.at_once).await;
    api.prepare(cluster, size).await;
    let control = Control::start(cluster, &arguments.control);
    let mut subscriber = Subscriber::connect(cluster, &control).await;
    println!(
        "memory of control with nothing to serve: {}",
        control.memory()
    );

    burst(size, &api, &mut subscriber, &control).await;
    let objects = size
        .objects()
        .filter(|(kind, _)| *kind == Kind::AuthorizationPolicy);
    api.create(objects).await;
    println!("waiting until the cluster's own controllers are done");
    subscriber.quiet(QUIET).await;
    println!("memory of control then: {}", control.memory());
    let good = policies(size, arguments.rounds, &api, &mut subscriber).await;
    println!("memory of control at the end: {}", control.memory());
    api.done();
    good
}

/// Services and pods at once.
async fn burst(size: Size, api: &Api, subscriber: &mut Subscriber, control: &Control) {
    let cpu = control.cpu();
    let begun = Instant::now();
    let objects = size
        .objects()
        .filter(|(kind, _)| [Kind::Service, Kind::Pod].contains(kind));
    api.create(objects).await;
    let answered = begun.elapsed();
    let last = subscriber.until(size.services, size.pods).await;
    let published = last.duration_since(begun);
    println!(
        "{} services and {} pods, each of these with a status of its own: the API server took {:.1} s for all of them; the last was \
         at the subscriber {:+.0} ms after its answer; {} responses; {:.1} s of CPU time of control; memory {}",
        size.services,
        size.pods,
        answered.as_secs_f64(),
        (published.as_secs_f64() - answered.as_secs_f64()) * 1e3,
        subscriber.responses(),
        (control.cpu() - cpu).as_secs_f64(),
        control.memory(),
    );
}

/// Policies, one after another.
async fn policies(size: Size, rounds: usize, api: &Api, subscriber: &mut Subscriber) -> bool {
    println!(
        "{:28} {:>8} {:>8} {:>8}   ms",
        "", "best", "median", "worst"
    );
    let mut good = true;
    for (what, first) in [("of a namespace", 1), ("for the pods of a service", 0)] {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for i in 0..rounds {
            // Policies with odd numbers are for namespaces.
            let number = size.policies + 2 * (i + 1) - size.policies % 2 + first;
            let policy = size.policy(number, "caller");
            let name = format!("{}/policy-{number}", size.namespace(number));
            let begun = Instant::now();
            api.create_one(Kind::AuthorizationPolicy, &policy).await;
            let answered = Instant::now();
            let arrived = subscriber.policy(&name).await;
            before.push(millis(begun, arrived));
            after.push(millis(answered, arrived));
            // Its status is written, and that is a change too.
            sleep(Duration::from_millis(150)).await;
        }
        let median = row(&format!("{what}, since before"), &mut before);
        row(&format!("{what}, since answered"), &mut after);
        let must = MUST.as_secs_f64() * 1e3;
        let aim = AIM.as_secs_f64() * 1e3;
        let verdict = if median <= aim { "yes" } else { "no" };
        println!(
            "  must be {must} ms: {}; is to be {aim} ms: {verdict}",
            median <= must
        );
        good &= median <= must;
    }
    good
}

fn millis(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(later) => later.as_secs_f64() * 1e3,
        None => -(from.duration_since(to).as_secs_f64() * 1e3),
    }
}

fn row(what: &str, times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        "{what:28} {:8.2} {median:8.2} {:8.2}",
        times[0],
        times[times.len() - 1]
    );
    median
}
