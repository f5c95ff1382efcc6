//! The `when` of a rule: a key and its values, as users write them (AuthorizationPolicy, Condition).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    http::{
        authorize::{Condition, Operation, host, text},
        head::is_token,
    },
    model::{IpRange, Match, StringMatch, WorkloadAccount},
    parse,
};

/// Why a condition is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It has neither values nor values that it must not have.
    Empty,
    /// One of its values is not what the key is compared with.
    Value(String),
}

impl Condition {
    /// Reads a condition of a policy in `namespace`, whose service accounts are meant where none is said. A key that is not
    /// served, or that nobody knows, is a condition that cannot be evaluated.
    pub fn read(
        key: &str,
        values: &[&str],
        not_values: &[&str],
        namespace: &str,
    ) -> Result<Self, Rejected> {
        if values.is_empty() && not_values.is_empty() {
            return Err(Rejected::Empty);
        }
        let lists = [values, not_values];
        let peer = |peer| Ok(Self::Peer(peer));
        let unserved = || Ok(Self::Unserved(key.into()));
        if let Some(header) = bracketed(key, "request.headers") {
            return Ok(of_header(header, lists).unwrap_or_else(|| Self::Unserved(key.into())));
        }
        match key {
            "source.ip" => {
                let [source_ips, not_source_ips] = each(lists, range)?;
                peer(Match {
                    source_ips,
                    not_source_ips,
                    ..Match::default()
                })
            }
            "destination.ip" => {
                let [destination_ips, not_destination_ips] = each(lists, range)?;
                peer(Match {
                    destination_ips,
                    not_destination_ips,
                    ..Match::default()
                })
            }
            "destination.port" => {
                let [destination_ports, not_destination_ports] = each(lists, port)?;
                peer(Match {
                    destination_ports,
                    not_destination_ports,
                    ..Match::default()
                })
            }
            "source.serviceAccount" => {
                let [service_accounts, not_service_accounts] =
                    each(lists, |value| account(value, namespace))?;
                peer(Match {
                    service_accounts,
                    not_service_accounts,
                    ..Match::default()
                })
            }
            // A star within would be one for a namespace, and is not served.
            "source.namespace" if lists.concat().iter().any(|value| is_star_within(value)) => {
                unserved()
            }
            "source.namespace" => {
                let [namespaces, not_namespaces] = texts(lists);
                peer(Match {
                    namespaces,
                    not_namespaces,
                    ..Match::default()
                })
            }
            "source.principal" => {
                let [principals, not_principals] = texts(lists);
                peer(Match {
                    principals,
                    not_principals,
                    ..Match::default()
                })
            }
            _ => unserved(),
        }
    }
}

/// A header; the method and the host go by headers of their own. None: not a header's name.
fn of_header(name: &str, lists: [&[&str]; 2]) -> Option<Condition> {
    match name {
        ":method" => {
            let [methods, not_methods] = texts(lists);
            Some(Condition::Operation(Operation {
                methods,
                not_methods,
                ..Operation::default()
            }))
        }
        ":authority" => {
            let [hosts, not_hosts] = lists.map(|list| list.iter().map(|v| host(v)).collect());
            Some(Condition::Operation(Operation {
                hosts,
                not_hosts,
                ..Operation::default()
            }))
        }
        // Whoever spells the host otherwise there would not be seen.
        name if name.eq_ignore_ascii_case("host") => of_header(":authority", lists),
        name if !name.is_empty() && name.bytes().all(is_token) => {
            let [values, not_values] = texts(lists);
            Some(Condition::Header {
                name: name.into(),
                values,
                not_values,
            })
        }
        _ => None,
    }
}

fn bracketed<'a>(key: &'a str, attribute: &str) -> Option<&'a str> {
    let name = key.strip_prefix(attribute)?.strip_prefix('[')?;
    name.strip_suffix(']')
}

fn texts(lists: [&[&str]; 2]) -> [Box<[StringMatch]>; 2] {
    lists.map(|list| list.iter().map(|value| text(value)).collect())
}

fn each<T>(
    [values, not_values]: [&[&str]; 2],
    read: impl Fn(&str) -> Option<T>,
) -> Result<[Box<[T]>; 2], Rejected> {
    let one = |value: &&str| read(value).ok_or_else(|| Rejected::Value((*value).to_owned()));
    let list = |list: &[&str]| list.iter().map(one).collect::<Result<Box<[T]>, _>>();
    Ok([list(values)?, list(not_values)?])
}

/// An address or a range of them. IPv4 written as IPv6 is IPv4.
pub(crate) fn range(text: &str) -> Option<IpRange> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| single()).ok()?;
    let bytes = match net.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (address, length) = parse::range(&bytes, net.prefix_len().into()).ok()?;
    Some(IpRange { address, length })
}

pub(crate) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

pub(crate) fn account(text: &str, namespace: &str) -> Option<WorkloadAccount> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let named = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    named.then(|| WorkloadAccount {
        namespace: namespace.into(),
        service_account: name.into(),
    })
}

/// Whether a value has a star that is neither alone nor at one end. For a namespace it would be a wildcard, which is not
/// served, so that such a value is in doubt; for anything else it is a star.
pub fn is_star_within(value: &str) -> bool {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*'));
    inner.unwrap_or(value).contains('*')
}

#[cfg(test)]
mod tests;
