//! A second evaluator of policies, on the messages as they come and as plain as can be: no parse, no order, no short cut.
//! The tests hold the real one against it. It shares no code with what it checks.

use std::net::IpAddr;

use proptest::prelude::*;
use proto::security::{
    Action, Address, Authorization, Group, Match, Presence, Rules, Scope, ServiceAccountMatch,
    StringMatch, string_match::MatchType,
};

/// What is asked, in plain values.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Trust domain, namespace and service account of the peer, if it showed any.
    pub peer: Option<(&'static str, &'static str, &'static str)>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    /// The namespace of the workload that is asked for.
    pub namespace: &'static str,
    /// What the workload lists.
    pub listed: Vec<String>,
}

/// Whether the request is allowed under those policies that `counts` by name.
pub(super) fn allowed(
    policies: &[Authorization],
    asked: &Asked,
    counts: impl Fn(&str) -> bool,
) -> bool {
    let name = |p: &Authorization| format!("{}/{}", p.namespace, p.name);
    let all_known = asked
        .listed
        .iter()
        .filter(|listed| counts(listed))
        .all(|listed| policies.iter().any(|p| name(p) == *listed));
    let applied: Vec<_> = policies
        .iter()
        .filter(|p| counts(&name(p)))
        .filter(|p| {
            p.scope == Scope::Global as i32
                || p.scope == Scope::Namespace as i32 && p.namespace == asked.namespace
                || asked.listed.contains(&name(p))
        })
        .filter(|p| !p.dry_run)
        .collect();
    let of = |action: Action| applied.iter().filter(move |p| p.action == action as i32);
    let denied = of(Action::Deny).any(|p| matches(p, asked));
    let allowed = of(Action::Allow).count() == 0 || of(Action::Allow).any(|p| matches(p, asked));
    all_known && !denied && allowed
}

fn matches(policy: &Authorization, asked: &Asked) -> bool {
    policy.groups.iter().any(|group| {
        group.rules.iter().all(|rules| {
            rules.matches.is_empty() || rules.matches.iter().any(|m| matched(m, asked))
        })
    })
}

fn matched(m: &Match, asked: &Asked) -> bool {
    if *m == Match::default() {
        return false;
    }
    let namespace = asked.peer.map(|(_, namespace, _)| namespace.to_owned());
    let principal = asked
        .peer
        .map(|(td, ns, sa)| [td, "ns", ns, "sa", sa].join("/"));
    let text = |wanted: &[StringMatch], value: &Option<String>| {
        wanted.iter().any(|w| text_matches(w, value.as_deref()))
    };
    let ip = |wanted: &[Address], value: IpAddr| wanted.iter().any(|w| within(w, value));
    let port = |wanted: &[u32]| wanted.iter().any(|&w| w == u32::from(asked.port));
    let account = |wanted: &[ServiceAccountMatch]| {
        wanted.iter().any(|w| {
            asked.peer.is_some_and(|(_, namespace, account)| {
                w.namespace == namespace && w.service_account == account
            })
        })
    };
    (m.namespaces.is_empty() || text(&m.namespaces, &namespace))
        && !text(&m.not_namespaces, &namespace)
        && (m.principals.is_empty() || text(&m.principals, &principal))
        && !text(&m.not_principals, &principal)
        && (m.source_ips.is_empty() || ip(&m.source_ips, asked.source))
        && !ip(&m.not_source_ips, asked.source)
        && (m.destination_ips.is_empty() || ip(&m.destination_ips, asked.destination))
        && !ip(&m.not_destination_ips, asked.destination)
        && (m.destination_ports.is_empty() || port(&m.destination_ports))
        && !port(&m.not_destination_ports)
        && (m.service_accounts.is_empty() || account(&m.service_accounts))
        && !account(&m.not_service_accounts)
}

fn text_matches(wanted: &StringMatch, value: Option<&str>) -> bool {
    match (
        wanted.match_type.as_ref().expect("generated with one"),
        value,
    ) {
        (_, None) => false,
        (MatchType::Exact(text), Some(value)) => value == text,
        (MatchType::Prefix(text), Some(value)) => value.starts_with(text),
        (MatchType::Suffix(text), Some(value)) => value.ends_with(text),
        (MatchType::Presence(_), Some(_)) => true,
    }
}

/// Compares bit by bit.
fn within(range: &Address, ip: IpAddr) -> bool {
    let bits = |bytes: &[u8]| {
        bytes
            .iter()
            .flat_map(|b| (0..8).rev().map(move |i| b >> i & 1))
            .collect::<Vec<_>>()
    };
    let ip = match ip {
        IpAddr::V4(ip) => bits(&ip.octets()),
        IpAddr::V6(ip) => bits(&ip.octets()),
    };
    let range_bits = bits(&range.address);
    let length = range.length as usize;
    range_bits.len() == ip.len() && range_bits[..length] == ip[..length]
}

// Small alphabets, so that what is drawn meets often.
const TRUST_DOMAINS: [&str; 2] = ["td", "td2"];
const NAMESPACES: [&str; 3] = ["a", "ab", "b"];
const ACCOUNTS: [&str; 2] = ["x", "xy"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1", "fd01::1"];
const PORTS: [u16; 2] = [80, 8080];
const POLICIES: [&str; 4] = ["p", "q", "made_r", "made_s"];

pub(super) fn requests() -> impl Strategy<Value = Asked> {
    let peer = prop::option::weighted(
        0.8,
        (
            prop::sample::select(&TRUST_DOMAINS[..]),
            prop::sample::select(&NAMESPACES[..]),
            prop::sample::select(&ACCOUNTS[..]),
        ),
    );
    let address = || prop::sample::select(&ADDRESSES[..]).prop_map(|ip| ip.parse().unwrap());
    let listed = prop::collection::vec(names(), 0..3).prop_map(|names| {
        names
            .into_iter()
            .map(|(namespace, name)| format!("{namespace}/{name}"))
            .collect()
    });
    (
        peer,
        address(),
        address(),
        prop::sample::select(&PORTS[..]),
        prop::sample::select(&NAMESPACES[..]),
        listed,
    )
        .prop_map(
            |(peer, source, destination, port, namespace, listed)| Asked {
                peer,
                source,
                destination,
                port,
                namespace,
                listed,
            },
        )
}

/// A set of policies with distinct names.
pub(super) fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    prop::collection::vec(policy(), 0..5).prop_map(|mut policies| {
        let mut seen = std::collections::HashSet::new();
        policies.retain(|p| seen.insert((p.namespace.clone(), p.name.clone())));
        policies
    })
}

fn names() -> impl Strategy<Value = (&'static str, &'static str)> {
    (
        prop::sample::select(&NAMESPACES[..]),
        prop::sample::select(&POLICIES[..]),
    )
}

fn policy() -> impl Strategy<Value = Authorization> {
    let rules = prop::collection::vec(matching(), 0..3).prop_map(|matches| Rules { matches });
    let group = prop::collection::vec(rules, 0..3).prop_map(|rules| Group { rules });
    let groups = prop::collection::vec(group, 0..3);
    (names(), 0..3i32, 0..2i32, groups, prop::bool::weighted(0.1)).prop_map(
        |((namespace, name), scope, action, groups, dry_run)| Authorization {
            name: name.into(),
            namespace: namespace.into(),
            scope,
            action,
            groups,
            dry_run,
            extensions: vec![],
        },
    )
}

fn matching() -> impl Strategy<Value = Match> {
    let namespaces = || few(text(NAMESPACES.iter().map(|n| (*n).to_owned()).collect()));
    let principals = || {
        let all = TRUST_DOMAINS.iter().flat_map(|td| {
            NAMESPACES.iter().flat_map(move |ns| {
                ACCOUNTS
                    .iter()
                    .map(move |sa| format!("{td}/ns/{ns}/sa/{sa}"))
            })
        });
        few(text(all.collect()))
    };
    let ips = || few(range());
    let ports = || few(prop::sample::select(&PORTS[..]).prop_map(u32::from));
    let accounts = || {
        few((
            prop::sample::select(&NAMESPACES[..]),
            prop::sample::select(&ACCOUNTS[..]),
        )
            .prop_map(|(namespace, account)| ServiceAccountMatch {
                namespace: namespace.into(),
                service_account: account.into(),
            }))
    };
    let texts = (namespaces(), namespaces(), principals(), principals());
    let addresses = (ips(), ips(), ips(), ips());
    (texts, addresses, (ports(), ports(), accounts(), accounts())).prop_map(
        |(texts, addresses, rest)| Match {
            namespaces: texts.0,
            not_namespaces: texts.1,
            principals: texts.2,
            not_principals: texts.3,
            source_ips: addresses.0,
            not_source_ips: addresses.1,
            destination_ips: addresses.2,
            not_destination_ips: addresses.3,
            destination_ports: rest.0,
            not_destination_ports: rest.1,
            service_accounts: rest.2,
            not_service_accounts: rest.3,
            extensions: vec![],
        },
    )
}

/// Mostly none, because every attribute that is there narrows the match.
fn few<T: Clone + std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    let some = prop::collection::vec(one, 1..3);
    prop::option::weighted(0.15, some).prop_map(Option::unwrap_or_default)
}

fn text(values: Vec<String>) -> impl Strategy<Value = StringMatch> {
    (
        prop::sample::select(values),
        0..4,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(value, kind, cut)| {
            let at = cut.index(value.len() + 1);
            let kind = match kind {
                0 => MatchType::Exact(value),
                1 => MatchType::Prefix(value[..at].to_owned()),
                2 => MatchType::Suffix(value[at..].to_owned()),
                _ => MatchType::Presence(Presence {}),
            };
            StringMatch {
                match_type: Some(kind),
            }
        })
}

fn range() -> impl Strategy<Value = Address> {
    (
        prop::sample::select(&ADDRESSES[..]),
        prop::sample::select(&[0, 7, 8, 16, 31, 32, 64, 128][..]),
    )
        .prop_map(|(ip, length)| {
            let address = match ip.parse().unwrap() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let length = u32::min(length, address.len() as u32 * 8);
            Address { address, length }
        })
}
