//! How the node's own probes of captured pods are told from everything else, as values: packet rules of the host.
//!
//! The kubelet speaks plain text, and has no identity. What comes from this node but not out of a pod, to an address and port
//! that a captured pod is probed at, gets the source [`PROBE`], which that pod takes past the proxy to those ports alone. What
//! pods on the node's network send (`hostNetwork`) is told by their control group. And nobody else can send with that
//! source: wherever it arrives, from another node or from a pod, it is dropped.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{api::core::v1, apimachinery::pkg::util::intstr::IntOrString};
use sys::nft::{Action, Chain, Family, Group, Hook, Kind, Match, Rule, Table};

use crate::rules::{MASK, PACKET_MARK, PROBE, PROBE6, Probed, TABLE};

/// Where a captured pod is probed.
pub type Target = (IpAddr, u16);

/// Before connection tracking.
const RAW: i32 = -300;
/// Before the destinations of services are changed: a pod that is reached by a service is not being probed.
const BEFORE_NAT: i32 = -101;
/// Before others change sources, which then leave it alone.
const BEFORE_SOURCE_NAT: i32 = 99;

/// The rules of a host whose pods are all below a control group.
pub fn table(pods: Group, targets: &BTreeSet<Target>) -> Table {
    let chain = |name: &str, kind, hook, priority, rules| Chain {
        name: name.into(),
        kind,
        hook,
        priority,
        rules,
    };
    let nat = Kind::Nat;
    Table {
        family: Family::Inet,
        name: TABLE.into(),
        chains: vec![
            chain("arriving", Kind::Filter, Hook::Prerouting, RAW, forged()),
            chain(
                "probes",
                nat,
                Hook::Output,
                BEFORE_NAT,
                told_apart(pods, targets),
            ),
            chain(
                "source",
                nat,
                Hook::Postrouting,
                BEFORE_SOURCE_NAT,
                source(),
            ),
        ],
    }
}

/// The rules of a host's bridges: pods may be on one with each other, where nothing is routed.
pub fn bridges() -> Table {
    Table {
        family: Family::Bridge,
        name: TABLE.into(),
        chains: vec![Chain {
            name: "arriving".into(),
            kind: Kind::Filter,
            hook: Hook::Prerouting,
            priority: RAW,
            rules: forged(),
        }],
    }
}

/// The ports that a pod is probed at, or called at when it starts and ends.
pub fn ports(pod: &v1::PodSpec) -> Probed {
    let first = pod.init_containers.iter().flatten();
    first.chain(&pod.containers).flat_map(of).collect()
}

fn of(container: &v1::Container) -> Vec<u16> {
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    let hooks = container.lifecycle.iter();
    let hooks = hooks
        .flat_map(|all| [&all.post_start, &all.pre_stop])
        .flatten();
    let mut http: Vec<_> = hooks.filter_map(|hook| hook.http_get.as_ref()).collect();
    let mut ports = Vec::new();
    for probe in probes.into_iter().flatten() {
        http.extend(&probe.http_get);
        // With a host of its own it is not the pod that is asked.
        let tcp = probe
            .tcp_socket
            .iter()
            .filter(|it| is_pod(it.host.as_ref()));
        ports.extend(tcp.filter_map(|it| number(&it.port, container)));
        ports.extend(
            probe
                .grpc
                .iter()
                .filter_map(|it| u16::try_from(it.port).ok()),
        );
    }
    let http = http.into_iter().filter(|it| is_pod(it.host.as_ref()));
    ports.extend(http.filter_map(|it| number(&it.port, container)));
    ports
}

fn is_pod(host: Option<&String>) -> bool {
    host.is_none_or(String::is_empty)
}

/// A port by its number, or by the name that the same container gives it.
fn number(port: &IntOrString, container: &v1::Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// What arrives from where nobody else may be.
fn forged() -> Vec<Rule> {
    let drop = |ip: IpAddr| Rule {
        when: vec![Match::Source {
            ip,
            prefix: whole(ip),
            is: true,
        }],
        then: Action::Drop,
    };
    vec![drop(PROBE.into()), drop(PROBE6.into())]
}

/// First packets of connections that this host makes: probes get a mark.
fn told_apart(pods: Group, targets: &BTreeSet<Target>) -> Vec<Rule> {
    let marked = |mark| Action::Mark { mark, mask: MASK };
    let own_mark = Match::Mark {
        mark: PACKET_MARK,
        mask: MASK,
        is: true,
    };
    let mut rules = vec![
        // A pod may have put it there itself.
        Rule {
            when: vec![Match::Tcp, own_mark],
            then: marked(0),
        },
        Rule {
            when: vec![Match::Tcp, Match::Group(pods)],
            then: Action::Accept,
        },
    ];
    rules.extend(targets.iter().map(|(ip, port)| Rule {
        when: vec![
            Match::Tcp,
            Match::Destination {
                ip: *ip,
                prefix: whole(*ip),
                is: true,
            },
            Match::Port {
                port: *port,
                is: true,
            },
        ],
        then: marked(PACKET_MARK),
    }));
    rules
}

/// What has the mark gets the source.
fn source() -> Vec<Rule> {
    let mark = Match::Mark {
        mark: PACKET_MARK,
        mask: MASK,
        is: true,
    };
    let families: [(IpAddr, IpAddr); 2] = [
        (std::net::Ipv4Addr::UNSPECIFIED.into(), PROBE.into()),
        (std::net::Ipv6Addr::UNSPECIFIED.into(), PROBE6.into()),
    ];
    let rules = families.map(|(any, probe)| Rule {
        when: vec![
            Match::Tcp,
            mark.clone(),
            Match::Destination {
                ip: any,
                prefix: 0,
                is: true,
            },
        ],
        then: Action::SourceAddress(probe),
    });
    rules.to_vec()
}

fn whole(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests;
