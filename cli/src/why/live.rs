//! A mesh that runs: what its control plane has on disk, and whether its proxies hold what comes of that.
//!
//! Nobody is disturbed: files and operator's pages are read, no stream is opened. A proxy's dump shows what it holds in
//! words for people; rules made of those would be another reading of them. So the facts are what the control plane
//! compiles, and each proxy's are compared by the versions that it has accepted: hashes of all that it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use control::{
    compile::Settings,
    follow::recorded::{Recorded, recorded},
    manifest::Pod,
    publish::{Kind, Snapshot},
    serve::metrics,
    subject::Subject,
    world::World,
};
use serde_json::Value;
use sys::netns::Netns;

use super::facts::{Facts, GATEWAY};
use crate::{
    Failure,
    demo::room,
    http::Connection,
    mesh::{CONTROL, MANIFESTS, NETNS, STATE},
    zc,
};

/// Of the operator's pages of the control plane and of proxies.
const CONTROL_ADMIN: u16 = 15014;
const ADMIN: u16 = 15000;
const PATIENCE: Duration = Duration::from_secs(2);
/// The annotation that names a pod's network namespace.
const NETNS_OF: &str = "ambit.dev/netns";

/// How a proxy that runs stands to what is told of it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does not answer. Says why.
    Away(String),
    /// It has not accepted all of it. Says what of it.
    Behind(String),
}

/// From the demo that runs.
pub(super) fn from_running() -> Result<Facts, Failure> {
    let room = room::path();
    if !matches!(room::holder(&room), Ok(Some(_))) {
        return Err(Failure::Unreachable(format!(
            "no demo runs in {}\nGive a directory of manifests with -f, start one with `ambit demo`, or say where it is with {}.",
            room.display(),
            room::VARIABLE
        )));
    }
    let settings = Settings {
        deploys: true,
        ..Settings::default()
    };
    let mut facts = look(&room, &settings)?;
    // An edit is on its way to the proxies for a moment.
    for _ in 0..10 {
        let behind = |it: &Standing| matches!(it, Standing::Behind(_));
        if !facts.standings.values().any(behind) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        facts = look(&room, &settings)?;
    }
    Ok(facts)
}

fn look(room: &Path, settings: &Settings) -> Result<Facts, Failure> {
    let found = recorded(&room.join(MANIFESTS), &room.join(STATE), settings);
    let Recorded {
        world,
        problems,
        compiled,
    } = found.map_err(Failure::Failed)?;
    let snapshot = Snapshot::new(&compiled, &Snapshot::default());
    let netns = room.join(NETNS);
    let mut lines = vec![format!(
        "From the mesh that runs in {}: its manifests, with what its nodes report and how far its waypoints have come.",
        room.display()
    )];
    let (standings, line) = match subscribers(&netns) {
        Err(error) => (
            BTreeMap::new(),
            format!(
                "Its control plane does not answer ({error}): whether its proxies hold this, nobody has checked."
            ),
        ),
        Ok(page) => {
            let standings = standings(&page, &netns, &world, &snapshot);
            let line = in_words(&standings);
            (standings, line)
        }
    };
    lines.push(line);
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let doubt = (!problems.is_empty()).then(|| in_doubt(problems.len()));
    let settings = settings.clone();
    let facts = Facts::new(lines, problems, world, settings, &compiled, &snapshot);
    Ok(Facts {
        standings,
        doubt,
        serves: false,
        ..facts
    })
}

/// What is said where some of the files are faulty.
fn in_doubt(faults: usize) -> String {
    let faulty = match faults {
        1 => "One of its manifests is".to_owned(),
        more => format!("{more} of its manifests are"),
    };
    format!(
        "Cannot tell: {faulty} faulty, and its proxies may hold a last good version, which the files do not show."
    )
}

/// The control plane's page of subscribers.
fn subscribers(netns: &Path) -> io::Result<Value> {
    let stream = connect(&netns.join(CONTROL), CONTROL_ADMIN)?;
    let answer = Connection::over(stream, "control").send("GET", "/debug/syncz", b"")?;
    if answer.status != 200 {
        return Err(io::Error::other(format!("status {}", answer.status)));
    }
    Ok(serde_json::from_slice(&answer.body)?)
}

fn connect(netns: &Path, port: u16) -> io::Result<TcpStream> {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let stream = Netns::open(netns)?.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Of all proxies that do not hold what is compiled.
fn standings(
    page: &Value,
    netns: &Path,
    world: &World,
    snapshot: &Snapshot,
) -> BTreeMap<Subject, Standing> {
    let nodes: BTreeSet<&String> = world.pods.values().map(|pod| &pod.node).collect();
    let nodes = nodes.into_iter().filter(|node| !node.is_empty());
    let nodes = nodes.map(|node| (Subject::Node(node.clone()), netns.join(node)));
    let waypoints = world.pods.values().filter_map(|pod| {
        let gateway = pod.meta.labels.get(GATEWAY)?;
        let key = (pod.meta.namespace.clone(), gateway.clone());
        Some((Subject::Waypoint(key), netns.join(netns_of(pod)?)))
    });
    let mut standings = BTreeMap::new();
    for (subject, netns) in nodes.chain(waypoints) {
        let answers = connect(&netns, ADMIN).and_then(|stream| zc::dump(stream, "localhost"));
        let standing = match answers {
            Err(error) => Some(Standing::Away(in_time(&error))),
            Ok(_) => behind(page, &subject, snapshot).map(Standing::Behind),
        };
        if let Some(standing) = standing {
            standings.insert(subject, standing);
        }
    }
    standings
}

/// The kernel's word for a read that took too long is "temporarily unavailable".
fn in_time(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("nothing within {PATIENCE:?}")
        }
        _ => error.to_string(),
    }
}

fn netns_of(pod: &Pod) -> Option<&String> {
    pod.meta.annotations.get(NETNS_OF)
}

/// What a subject has not accepted of what it is to be told.
fn behind(page: &Value, subject: &Subject, snapshot: &Snapshot) -> Option<String> {
    let name = match subject {
        Subject::Node(node) => ("node", node.clone()),
        Subject::Waypoint((namespace, gateway)) => ("waypoint", format!("{namespace}/{gateway}")),
    };
    let all = page["subscribers"].as_array().map(Vec::as_slice);
    let mut own = all.unwrap_or_default().iter();
    // The newest is last: one that it takes over from may still be there.
    let Some(subscriber) = own.rfind(|it| it[name.0] == name.1.as_str()) else {
        return Some("it is not connected to the control plane".to_owned());
    };
    let part = snapshot.part(subject);
    let lacks = |kind: &&Kind| {
        let version = part.version(**kind).map(|version| version.to_string());
        let accepted = &subscriber["types"][metrics::name(**kind)]["accepted"];
        accepted.as_str().map(str::to_owned) != version
    };
    let lacking = Kind::served(subject).iter().filter(lacks);
    let lacking: Vec<_> = lacking.map(|kind| metrics::name(*kind)).collect();
    (!lacking.is_empty()).then(|| format!("it holds another version of: {}", lacking.join(", ")))
}

fn in_words(standings: &BTreeMap<Subject, Standing>) -> String {
    if standings.is_empty() {
        return "All its proxies hold exactly that.".to_owned();
    }
    let each = standings.iter().map(|(subject, standing)| match standing {
        Standing::Away(why) => format!("the proxy of {subject} does not answer ({why})"),
        Standing::Behind(what) => format!("of {subject}: {what}"),
    });
    let each: Vec<_> = each.collect();
    format!("Not all its proxies hold that: {}.", each.join("; "))
}
