//! Which connections of a captured pod do not go through the node proxy: those that were open before it was captured. Pure.
//!
//! A connection that the proxy has carries on in a second one: what the pod sends ends at [`OUTBOUND`], and what it is sent
//! comes from a socket of the proxy in the same namespace. So no list of what was open has to outlive the agent.

use std::{collections::BTreeSet, net::SocketAddr};

use sys::diag::Connection;

use crate::rules::{INBOUND_PLAINTEXT, MASK, OUTBOUND, PACKET_MARK, PROBE, PROBE6, TUNNEL};

/// A captured pod's connections with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted<'a> {
    /// Past the proxy.
    pub past: Vec<&'a Connection>,
    /// Through it.
    pub through: Vec<&'a Connection>,
}

/// Sorts all connections of a captured pod's namespace. The proxy's own, those of the pod with itself, and probes are neither.
pub fn sort(all: &[Connection]) -> Sorted<'_> {
    let mut sorted = Sorted::default();
    let ends: BTreeSet<(SocketAddr, SocketAddr, bool)> = all
        .iter()
        .map(|it| (it.local, it.remote, is_proxys(it)))
        .collect();
    let taken: BTreeSet<SocketAddr> = all
        .iter()
        .filter(|it| it.local.port() == OUTBOUND)
        .map(|it| it.remote)
        .collect();
    for connection in all {
        let Connection { local, remote, .. } = connection;
        let with_itself = ends.contains(&(*remote, *local, false));
        let probe = [PROBE.into(), PROBE6.into()].contains(&remote.ip());
        let inside = local.ip().is_loopback() || remote.ip().is_loopback();
        if is_proxys(connection) || with_itself || probe || inside {
            continue;
        }
        if ends.contains(&(*remote, *local, true)) || taken.contains(local) {
            sorted.through.push(connection);
        } else {
            sorted.past.push(connection);
        }
    }
    sorted
}

fn is_proxys(connection: &Connection) -> bool {
    let port = connection.local.port();
    connection.mark & MASK == PACKET_MARK || [OUTBOUND, INBOUND_PLAINTEXT, TUNNEL].contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(local: &str, remote: &str, mark: u32) -> Connection {
        Connection::of(local.parse().unwrap(), remote.parse().unwrap(), mark)
    }

    fn ends(list: &[&Connection]) -> Vec<String> {
        list.iter()
            .map(|it| format!("{}-{}", it.local, it.remote))
            .collect()
    }

    #[test]
    fn what_the_proxy_carries_on_is_told_from_what_was_open_before() {
        let all = [
            // Sent: taken over, with the proxy's end of it and its tunnel; and from before.
            connection("10.0.0.1:40000", "10.0.0.2:80", 0),
            connection("127.0.0.1:15001", "10.0.0.1:40000", 0),
            connection("10.0.0.1:50000", "10.0.0.2:15008", PACKET_MARK),
            connection("10.0.0.1:40001", "10.0.0.2:80", 0),
            // Got: by the proxy in the client's name, with what came in a tunnel and in plain text; and from before.
            connection("10.0.0.1:8080", "10.0.0.3:30000", 0),
            connection("10.0.0.3:30000", "10.0.0.1:8080", PACKET_MARK),
            connection("10.0.0.1:15008", "10.0.0.3:30009", 0),
            connection("10.0.0.1:15006", "10.0.0.4:30000", 0),
            connection("10.0.0.1:8080", "10.0.0.3:30001", 0),
            connection("[fd00::1]:8080", "[fd00::3]:30001", 0),
        ];
        let sorted = sort(&all);
        assert_eq!(
            ends(&sorted.past),
            [
                "10.0.0.1:40001-10.0.0.2:80",
                "10.0.0.1:8080-10.0.0.3:30001",
                "[fd00::1]:8080-[fd00::3]:30001"
            ]
        );
        assert_eq!(
            ends(&sorted.through),
            ["10.0.0.1:40000-10.0.0.2:80", "10.0.0.1:8080-10.0.0.3:30000"]
        );
    }

    #[test]
    fn a_pod_with_itself_and_probes_of_it_are_neither() {
        let all = [
            connection("127.0.0.1:40000", "127.0.0.1:80", 0),
            connection("10.0.0.1:40000", "10.0.0.1:80", 0),
            connection("10.0.0.1:80", "10.0.0.1:40000", 0),
            connection("10.0.0.1:8080", "169.254.7.127:40000", 0),
        ];
        assert_eq!(sort(&all), Sorted::default());
    }
}
