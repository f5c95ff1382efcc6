//! What a mesh could leave on a node: files, rules of packets and of routing, on the host and in each pod.

use crate::Cluster;

/// Where the mesh puts files on a host, and where it changes those of others. Directories without files do not count: a
/// kubelet makes them for whoever mounts them.
const PLACES: &str = "/etc/cni /opt/cni/bin /var/lib/ambit /var/run/ambit /var/run/ztunnel";

/// Tables of the node's own proxy of Services, whose content comes and goes with these.
const OTHERS: &str = "kube-proxy|nat|filter|mangle|raw";

/// A line for each of them.
///
/// # Panics
/// If there is no such node.
pub fn on(cluster: &Cluster, node: &str) -> Vec<String> {
    let files = format!(
        "find {PLACES} -type f -exec sha256sum {{}} + 2>/dev/null; find {PLACES} ! -type d -printf '%p %y %m\\n' 2>/dev/null"
    );
    let network = format!(
        "ip rule; ip -6 rule; nft list tables; nft list tables | grep -vwE '{OTHERS}' | while read -r table; do nft -s list $table; done"
    );
    let pods = format!(
        "for it in /run/netns/*; do [ -e $it ] && nsenter --net=$it sh -c \"{}\" | sed \"s|^|$it |\"; done",
        network.replace('$', "\\$")
    );
    let look = format!("{files}; {network}; {pods}; true");
    let said = cluster.node(node, &["sh", "-c", &look]);
    let said = said.unwrap_or_else(|failed| panic!("{failed}"));
    let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Lines that are there now and were not (`+`), or were and are not (`-`).
pub fn changes(before: &[String], now: &[String]) -> Vec<String> {
    let more = now.iter().filter(|it| !before.contains(it));
    let fewer = before.iter().filter(|it| !now.contains(it));
    let more = more.map(|it| format!("+ {it}"));
    more.chain(fewer.map(|it| format!("- {it}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_what_goes_are_both_changes() {
        let lines = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let found = changes(&lines(&["a", "b"]), &lines(&["b", "c"]));
        assert_eq!(found, ["+ c", "- a"]);
    }
}
