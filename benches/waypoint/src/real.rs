//! What a waypoint adds to a request on its whole way: from a pod on one node to a pod on another one, through the node
//! proxies of both, straight and with a waypoint between.
//!
//! The mesh is the demo's kind, in network namespaces of this process: control plane, node agents, ztunnels and waypoint
//! are processes of this executable, and tunnels, policies and access logs are what they are anywhere. Nothing is pinned to
//! a core, and clients and applications share the machine with what is measured: the figures count beside each other.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cli::{
    Failure,
    demo::Stage,
    http::Request,
    lab::process::Processes,
    mesh::{MANIFESTS, Mesh, Settings},
};
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};

use crate::{
    Arguments,
    load::{self, Client},
    proxy::cpu_of,
};

const STRAIGHT: SocketAddr = at([10, 96, 0, 10], 80);
const BOUND: SocketAddr = at([10, 96, 0, 11], 80);
/// Where the pod of the bound service itself listens.
const AROUND: SocketAddr = at([10, 71, 2, 11], 8080);
const CLIENT: &str = "web";
/// Whose CPU time counts, and what the table calls them.
const PROXIES: [(&str, &str); 3] = [
    ("ztunnel-n1", "ztunnel n1"),
    ("waypoint-waypoint", "waypoint"),
    ("ztunnel-n2", "ztunnel n2"),
];
/// As many as the routes in the manifests.
const ROUTES: usize = 2;
/// How long the mesh may take until all of it is in force.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one measurement may take.
const LONGEST: Duration = Duration::from_secs(120);

/// The components that [`Mesh`] starts by these names as processes of this executable.
pub(crate) const COMPONENTS: [&str; 5] = ["control", "node", "ztunnel", "waypoint", "echo"];

const fn at(address: [u8; 4], port: u16) -> SocketAddr {
    let [a, b, c, d] = address;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

/// What was seen on one way; the best of the rounds, each figure by itself.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Requests per second.
    rate: f64,
    /// Microseconds of CPU time per request, in the order of [`PROXIES`].
    cpu: [f64; 3],
}

impl Seen {
    fn best(self, other: Self) -> Self {
        Self {
            p50: self.p50.min(other.p50),
            p99: self.p99.min(other.p99),
            rate: self.rate.max(other.rate),
            cpu: std::array::from_fn(|at| self.cpu[at].min(other.cpu[at])),
        }
    }

    fn total(&self) -> f64 {
        self.cpu.iter().sum()
    }
}

/// Builds the mesh, measures, prints, and takes it down. Signals end it as well.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("ambit-real-{}", std::process::id()));
    let stage = Stage::take(&directory)?;
    let outcome = measure(arguments, stage.path(), stage.processes());
    stage.leave();
    outcome
}

fn measure(
    arguments: &Arguments,
    directory: &Path,
    processes: Arc<Processes>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(error.to_string());
    let manifest = directory.join(MANIFESTS).join("bench.yaml");
    fs::write(manifest, include_str!("real/mesh.yaml")).map_err(failed)?;
    let settings = Settings {
        executable: std::env::current_exe().map_err(failed)?,
        root: directory.to_owned(),
        // None is renewed while something is measured.
        certificates: "24h".to_owned(),
        environment: Vec::new(),
    };
    let mesh = Mesh::lay_out(settings, processes)?;
    mesh.start(&mut |what| eprintln!("waiting for {what}"))?;
    in_force(&mesh)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    header(arguments, &mesh)?;
    for concurrency in [1, 32] {
        let seen = compare(arguments, &mesh, &runtime, concurrency).map_err(failed)?;
        mesh.alive()?;
        print(concurrency, seen);
    }
    Ok(())
}

/// Waits until one service is bound with its route and its policy, and the other one is reached without.
fn in_force(mesh: &Mesh) -> Result<(), Failure> {
    let status = |to, path| {
        let answer = mesh.ask(CLIENT, to, &Request::get(path));
        answer.ok().map(|answer| answer.response.status)
    };
    mesh.wait("the waypoint judges what is asked of it", PATIENCE, || {
        let straight = status(STRAIGHT, "/route-0") == Some(200);
        let (open, shut) = (status(BOUND, "/route-0"), status(BOUND, "/other"));
        // That the way around is shut comes last, and ends connections.
        let around = status(AROUND, "/route-0");
        let holds = straight && (open, shut, around) == (Some(200), Some(403), None);
        Ok(holds.then_some(()))
    })
}

/// Both ways in turns.
fn compare(
    arguments: &Arguments,
    mesh: &Mesh,
    runtime: &Runtime,
    concurrency: usize,
) -> io::Result<[Seen; 2]> {
    let mut best = [None, None];
    // The first round warms up.
    for round in 0..=arguments.rounds.max(1) {
        for (to, best) in [STRAIGHT, BOUND].into_iter().zip(&mut best) {
            let seen = once(mesh, runtime, to, concurrency, arguments.requests)?;
            if round > 0 {
                *best = Some(best.map_or(seen, |held| seen.best(held)));
            }
        }
    }
    match best {
        [Some(straight), Some(bound)] => Ok([straight, bound]),
        _ => Err(io::Error::other("nothing was measured")),
    }
}

fn once(
    mesh: &Mesh,
    runtime: &Runtime,
    to: SocketAddr,
    concurrency: usize,
    requests: usize,
) -> io::Result<Seen> {
    let connections = (0..concurrency).map(|_| mesh.connect(CLIENT, to));
    let connections: Vec<_> = connections.collect::<io::Result<_>>()?;
    runtime.block_on(async {
        let mut clients = Vec::new();
        for connection in connections {
            connection.set_nonblocking(true)?;
            let mut client = Client::over(TcpStream::from_std(connection)?);
            // Tunnels and connections behind it are made now.
            timeout(PATIENCE, client.ask(&load::path(0, ROUTES))).await??;
            clients.push(client);
        }
        let before = spent(mesh)?;
        let taken = timeout(LONGEST, load::taken(clients, ROUTES, requests)).await??;
        let after = spent(mesh)?;
        let count = taken.each.len() as f64;
        let at = |share: f64| taken.each[((count - 1.0) * share) as usize].as_secs_f64() * 1e6;
        Ok(Seen {
            p50: at(0.5),
            p99: at(0.99),
            rate: count / taken.whole.as_secs_f64(),
            cpu: std::array::from_fn(|at| {
                let spent = after[at].saturating_sub(before[at]);
                spent.as_secs_f64() * 1e6 / count
            }),
        })
    })
}

/// CPU time of each proxy so far.
fn spent(mesh: &Mesh) -> io::Result<[Duration; 3]> {
    let mut spent = [Duration::ZERO; 3];
    for ((name, _), spent) in PROXIES.iter().zip(&mut spent) {
        let id = mesh.processes.id(name);
        let id = id.ok_or_else(|| io::Error::other(format!("{name} does not run")))?;
        *spent = cpu_of(id)?;
    }
    Ok(spent)
}

fn header(arguments: &Arguments, mesh: &Mesh) -> Result<(), Failure> {
    let waypoint = mesh.pod("waypoint").map_err(Failure::Failed)?;
    println!(
        "HTTP/1.1 from a pod on n1 to a pod on n2, straight and through a waypoint on {}; kept connections, closed loop, best of {} rounds of {} requests",
        waypoint.node.name(),
        arguments.rounds.max(1),
        arguments.requests
    );
    let [one, two, three] = PROXIES.map(|(_, name)| name);
    println!(
        "{:<26} {:>9} {:>9} {:>9}   CPU us a request:  {one:>10} {two:>10} {three:>10} {:>10}",
        "", "p50 us", "p99 us", "r/s", "all"
    );
    Ok(())
}

fn print(concurrency: usize, [straight, bound]: [Seen; 2]) {
    let figures = |seen: Seen| {
        let [one, two, three] = seen.cpu;
        [seen.p50, seen.p99, one, two, three, seen.total()]
    };
    let line = |what: &str, rate: &str, figures: [String; 6]| {
        let [p50, p99, one, two, three, all] = figures;
        println!(
            "{:<26} {p50:>9} {p99:>9} {rate:>9}   {:<18} {one:>10} {two:>10} {three:>10} {all:>10}",
            format!("c{concurrency} {what}"),
            "",
        );
    };
    let [of_straight, of_bound] = [straight, bound].map(figures);
    let both = |show: fn(f64, f64) -> String| {
        std::array::from_fn(|at| show(of_bound[at], of_straight[at]))
    };
    for (what, seen) in [("straight", straight), ("through a waypoint", bound)] {
        let rate = format!("{:.0}", seen.rate);
        line(
            what,
            &rate,
            figures(seen).map(|figure| format!("{figure:.1}")),
        );
    }
    let more = both(|bound, straight| format!("{:+.1}", bound - straight));
    line("what the hop adds", "", more);
    // Of the waypoint that is what it does beside, since nobody asks it on the straight way.
    let times = both(|bound, straight| match straight < 1.0 {
        true => "-".to_owned(),
        false => format!("x{:.2}", bound / straight),
    });
    line(
        "as a ratio",
        &format!("x{:.2}", bound.rate / straight.rate),
        times,
    );
}
