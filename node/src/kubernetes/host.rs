//! Keeps the host's rules for probes ([`probes`](super::probes)) in place, and finds out whether this node can have them.
//!
//! Where it cannot, no pod takes probes past the proxy: they are plain text like any other, and are refused where that is.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use sys::{
    group,
    netns::Netns,
    nft::{self, Family, Group},
};

use super::{
    netns::PROC,
    probes::{self, Target},
};
use crate::rules::TABLE;

/// From this version of Linux on, rules count control groups from the root of their maker's namespace.
const COUNTS_FROM_NAMESPACE: (u32, u32) = (6, 11);

/// The host of this node's pods.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    /// Of its control groups.
    namespace: PathBuf,
    pods: Group,
    /// What was put in place last.
    targets: Option<BTreeSet<Target>>,
}

impl Host {
    /// Finds the host of the pod that this process is in.
    ///
    /// # Errors
    /// Why its probes cannot be told apart, in words.
    pub fn find() -> Result<Self, String> {
        let first = Path::new(PROC).join("1");
        let namespace = first.join("ns/cgroup");
        let words = |error: io::Error| error.to_string();
        let netns = Netns::open(first.join("ns/net")).map_err(words)?;
        let own = group::within(&namespace, group::own).map_err(words)?;
        let own = own.ok_or("it has no control groups of version 2")?;
        let (path, level) = all_pods(&own).ok_or_else(|| {
            format!("the agent's control group {own} is not that of a pod: processes of pods are told by theirs")
        })?;
        let root = group::mounted(&first.join("root"))
            .ok_or("its control groups of version 2 are not mounted")?;
        let id = group::id(&root.join(path.trim_start_matches('/'))).map_err(words)?;
        if !group::is_first(&namespace).map_err(words)? && kernel() < COUNTS_FROM_NAMESPACE {
            return Err(
                "it is a container, in which Linux before 6.11 tells no control groups apart"
                    .to_owned(),
            );
        }
        Ok(Self {
            netns,
            namespace,
            pods: Group { level, id },
            targets: None,
        })
    }

    /// Whether the rules were ever put in place.
    pub fn stands(&self) -> bool {
        self.targets.is_some()
    }

    /// Has the rules stand for these targets. They are looked at if `verify`, or if the targets are others than before.
    ///
    /// # Errors
    /// If the kernel does not take them.
    pub fn guard(&mut self, targets: &BTreeSet<Target>, verify: bool) -> io::Result<()> {
        if !verify && self.targets.as_ref() == Some(targets) {
            return Ok(());
        }
        if !self.netns.within(put_bridges)? && has_bridges() {
            return Err(io::Error::other(
                "the node has bridges, and its kernel no rules for them (CONFIG_NF_TABLES_BRIDGE): pods on one could forge probes",
            ));
        }
        let table = probes::table(self.pods, targets);
        let (netns, namespace) = (&self.netns, &self.namespace);
        let stands = netns.within(|| nft::list_table(Family::Inet, TABLE))?;
        if !table.stands(&stands) {
            group::within(namespace, || netns.within(|| nft::replace(&table)))?;
        }
        self.targets = Some(targets.clone());
        Ok(())
    }
}

/// Takes the rules out of this node's network namespace. They may be gone already.
pub fn remove() -> io::Result<()> {
    let netns = Netns::open(Path::new(PROC).join("1/ns/net"))?;
    for family in [Family::Inet, Family::Bridge] {
        let removed = netns.within(|| nft::remove(family, TABLE));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound && family == Family::Inet => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// False if the kernel knows no rules for bridges.
fn put_bridges() -> io::Result<bool> {
    let table = probes::bridges();
    let listed = nft::list_table(Family::Bridge, TABLE);
    if listed.is_ok_and(|listed| table.stands(&listed)) {
        return Ok(true);
    }
    Ok(nft::replace(&table).is_ok())
}

/// Whether the host may have bridges.
fn has_bridges() -> bool {
    let links = std::fs::read_dir(Path::new(PROC).join("1/root/sys/class/net"));
    let is_bridge = |path: PathBuf| path.join("bridge").exists();
    links.map_or(true, |mut links| {
        links.any(|link| link.map_or(true, |link| is_bridge(link.path())))
    })
}

/// The control group of all pods, above that of one pod, and how far below the root it is.
fn all_pods(own: &str) -> Option<(String, u32)> {
    super::netns::pod_uid(own)?;
    let parts: Vec<_> = own.split('/').skip(1).collect();
    let at = parts.iter().position(|part| part.contains("kubepods"))?;
    let level = u32::try_from(at + 1).ok()?;
    Some((format!("/{}", parts[..=at].join("/")), level))
}

/// The version of Linux; 0.0 if it cannot be told.
fn kernel() -> (u32, u32) {
    let release = sys::sysctl::read("kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_group_of_all_pods_is_above_that_of_one() {
        let uid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let slice = uid.replace('-', "_");
        for (own, path, level) in [
            (format!("/kubepods/besteffort/pod{uid}/3f"), "/kubepods", 1),
            (
                format!("/kubepods.slice/kubepods-pod{slice}.slice/a.scope"),
                "/kubepods.slice",
                1,
            ),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/a.scope"
                ),
                "/kubelet.slice/kubelet-kubepods.slice",
                2,
            ),
        ] {
            assert_eq!(all_pods(&own), Some((path.to_owned(), level)), "{own}");
        }
        for own in ["/", "/system.slice/agent.service", "/kubepods/besteffort"] {
            assert_eq!(all_pods(own), None, "{own}");
        }
    }
}
