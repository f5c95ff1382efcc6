//! The `when` of a rule: a key and its values, as users write them (AuthorizationPolicy, Condition).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    http::authorize::{Condition, Operation, host, text},
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
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
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
        name if !name.is_empty() && name.bytes().all(token) => {
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
fn range(text: &str) -> Option<IpRange> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| single()).ok()?;
    let bytes = match net.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (address, length) = parse::range(&bytes, net.prefix_len().into()).ok()?;
    Some(IpRange { address, length })
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn account(text: &str, namespace: &str) -> Option<WorkloadAccount> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let named = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    named.then(|| WorkloadAccount {
        namespace: namespace.into(),
        service_account: name.into(),
    })
}

fn is_star_within(value: &str) -> bool {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*'));
    inner.unwrap_or(value).contains('*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, values: &[&str]) -> Result<Condition, Rejected> {
        Condition::read(key, values, &[], "shop")
    }

    #[test]
    fn keys_that_are_served_become_what_is_evaluated() {
        let namespaces = Match {
            namespaces: [text("b*")].into(),
            not_namespaces: [text("bank")].into(),
            ..Match::default()
        };
        assert_eq!(
            Condition::read("source.namespace", &["b*"], &["bank"], "shop"),
            Ok(Condition::Peer(namespaces))
        );
        let ports = Match {
            destination_ports: [80].into(),
            ..Match::default()
        };
        assert_eq!(
            read("destination.port", &["80"]),
            Ok(Condition::Peer(ports))
        );
        let ips = Match {
            source_ips: ["10.0.0.0/8", "fd00::1/128"]
                .map(|t| range(t).unwrap())
                .into(),
            ..Match::default()
        };
        assert_eq!(
            read("source.ip", &["10.0.0.0/8", "fd00::1"]),
            Ok(Condition::Peer(ips))
        );
        let account = |namespace: &str| WorkloadAccount {
            namespace: namespace.into(),
            service_account: "a".into(),
        };
        let accounts = Match {
            service_accounts: ["shop", "bank"].map(account).into(),
            ..Match::default()
        };
        assert_eq!(
            read("source.serviceAccount", &["a", "bank/a"]),
            Ok(Condition::Peer(accounts))
        );
        assert_eq!(
            read("request.headers[X-User]", &["*"]),
            Ok(Condition::Header {
                name: "X-User".into(),
                values: [StringMatch::Presence].into(),
                not_values: [].into(),
            })
        );
        let methods = Operation {
            methods: [text("GET")].into(),
            ..Operation::default()
        };
        assert_eq!(
            read("request.headers[:method]", &["GET"]),
            Ok(Condition::Operation(methods))
        );
        let hosts = Operation {
            hosts: [text("a")].into(),
            ..Operation::default()
        };
        for key in ["request.headers[:authority]", "request.headers[Host]"] {
            let hosts = Condition::Operation(hosts.clone());
            assert_eq!(read(key, &["a."]), Ok(hosts), "{key}");
        }
    }

    #[test]
    fn keys_that_are_not_served_cannot_be_evaluated() {
        for key in [
            "request.auth.principal",
            "request.auth.claims[iss]",
            "remote.ip",
            "connection.sni",
            "source.labels[app]",
            "request.headers[]",
            "request.headers[:path]",
            "request.headers[a",
            "request.headers[a b]",
            "Source.ip",
            "",
        ] {
            assert_eq!(
                read(key, &["a"]),
                Ok(Condition::Unserved(key.into())),
                "{key}"
            );
        }
        let star = read("source.namespace", &["a*b"]);
        assert_eq!(star, Ok(Condition::Unserved("source.namespace".into())));
    }

    #[test]
    fn addresses_are_ranges_of_one_family() {
        for (text, address, length) in [
            ("10.1.0.0/16", "10.1.0.0", 16),
            ("10.1.2.3", "10.1.2.3", 32),
            ("fd00::/8", "fd00::", 8),
            ("::ffff:10.1.2.3", "10.1.2.3", 32),
            ("::ffff:10.0.0.0/104", "10.0.0.0", 8),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(range(text), Some(IpRange { address, length }), "{text}");
        }
    }

    #[test]
    fn values_that_are_none_are_refused() {
        for (key, value) in [
            ("source.ip", "10.0.0.0/33"),
            ("source.ip", "shop"),
            ("destination.port", "0"),
            ("destination.port", "http"),
            ("source.serviceAccount", ""),
            ("source.serviceAccount", "/a"),
            ("source.serviceAccount", "a/b/c"),
        ] {
            assert_eq!(
                read(key, &[value]),
                Err(Rejected::Value(value.to_owned())),
                "{key}"
            );
        }
        assert_eq!(read("source.ip", &[]), Err(Rejected::Empty));
    }
}
