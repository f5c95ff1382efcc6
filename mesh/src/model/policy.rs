//! A layer 4 authorization policy.

use std::net::IpAddr;

use crate::name::Name;

/// One policy (`istio.security.Authorization`), or what stands in for one that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: Name,
    /// Which workloads it is for.
    pub scope: Scope,
    /// What it does.
    pub effect: Effect,
}

/// Whether a policy, `<namespace>/<name>`, is the control plane's own. Such a name has a `_`, which no name of a Kubernetes
/// object can have (RFC 1123 §2.1).
pub fn is_generated(name: Name) -> bool {
    name.as_str()
        .rsplit_once('/')
        .is_some_and(|(_, name)| name.contains('_'))
}

impl Policy {
    /// Whether it is the control plane's own: see [`is_generated`].
    pub fn is_generated(&self) -> bool {
        is_generated(self.name)
    }
}

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Mesh,
    /// Those of a namespace.
    Namespace(Name),
    /// Those that list its name.
    Selected,
}

/// What a policy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It could not be understood: it denies everything in its scope. Says why.
    DenyAll(String),
    /// It allows or denies what its groups match.
    Rules {
        /// What happens to what matches.
        action: Action,
        /// Evaluated and told, never enforced.
        dry_run: bool,
        /// Any of them that matches makes the policy match.
        groups: Box<[Group]>,
    },
}

/// What a policy does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only what some such policy matches passes.
    Allow,
    /// What it matches does not pass.
    Deny,
}

/// All its rules must match; none: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group(pub Box<[Rule]>);

/// Any of its entries must match; none: it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Box<[Match]>);

/// Attributes that are present must all match, by any of their values; none present: never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Of the peer's identity.
    pub namespaces: Box<[StringMatch]>,
    /// Must not match.
    pub not_namespaces: Box<[StringMatch]>,
    /// The peer's SPIFFE id without scheme.
    pub principals: Box<[StringMatch]>,
    /// Must not match.
    pub not_principals: Box<[StringMatch]>,
    /// Of the peer, as seen on the socket.
    pub source_ips: Box<[IpRange]>,
    /// Must not match.
    pub not_source_ips: Box<[IpRange]>,
    /// Of the pod.
    pub destination_ips: Box<[IpRange]>,
    /// Must not match.
    pub not_destination_ips: Box<[IpRange]>,
    /// Of the pod.
    pub destination_ports: Box<[u16]>,
    /// Must not match.
    pub not_destination_ports: Box<[u16]>,
    /// Of the peer's identity, in any trust domain.
    pub service_accounts: Box<[WorkloadAccount]>,
    /// Must not match.
    pub not_service_accounts: Box<[WorkloadAccount]>,
}

/// A pattern over text; case matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole.
    Exact(Box<str>),
    /// The beginning.
    Prefix(Box<str>),
    /// Any text, as long as there is one.
    Presence,
    /// The end.
    Suffix(Box<str>),
}

/// A range of addresses. IPv4 written as IPv6 is IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    /// Host bits mean nothing.
    pub address: IpAddr,
    /// Prefix length.
    pub length: u8,
}

/// A service account of any trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadAccount {
    /// Kubernetes namespace.
    pub namespace: Name,
    /// Kubernetes service account.
    pub service_account: Name,
}

impl IpRange {
    /// Whether an address lies in the range. The families are apart: `::/0` holds no IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let host_bits = |width: u8| u32::from(width - self.length.min(width));
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let differing = u32::from(range) ^ u32::from(address);
                differing.checked_shr(host_bits(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differing = u128::from(range) ^ u128::from(address);
                differing.checked_shr(host_bits(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl StringMatch {
    /// Whether it matches a text.
    pub fn matches(&self, text: &str) -> bool {
        self.matches_bytes(text.as_bytes())
    }

    /// Whether it matches a value of any bytes.
    pub fn matches_bytes(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Presence => !value.is_empty(),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: &str, length: u8) -> IpRange {
        IpRange {
            address: address.parse().unwrap(),
            length,
        }
    }

    #[test]
    fn ranges_compare_network_bits_only() {
        for (range, address, inside) in [
            (range("10.1.2.3", 8), "10.200.0.1", true),
            (range("10.1.2.3", 8), "11.0.0.1", false),
            (range("10.1.2.3", 32), "10.1.2.3", true),
            (range("10.1.2.3", 32), "10.1.2.2", false),
            (range("0.0.0.0", 0), "1.2.3.4", true),
            (range("0.0.0.0", 0), "::1", false),
            (range("::", 0), "fd00::1", true),
            (range("::", 0), "1.2.3.4", false),
            (range("::", 0), "::ffff:1.2.3.4", false),
            (range("0.0.0.0", 0), "::ffff:1.2.3.4", true),
            (range("fd00::", 8), "fd12::1", true),
            (range("fd00::1", 128), "fd00::2", false),
        ] {
            assert_eq!(
                range.contains(address.parse().unwrap()),
                inside,
                "{range:?} {address}"
            );
        }
    }

    #[test]
    fn only_the_name_part_says_who_made_a_policy() {
        for (name, generated) in [
            ("ambit-system/istio_converted_static_strict", true),
            ("shop/ambit_waypoint_8080_0f", true),
            ("shop/only-web", false),
            ("sh_op/only-web", false),
            ("shop/", false),
            ("only_web", false),
            ("", false),
        ] {
            assert_eq!(is_generated(name.into()), generated, "{name}");
        }
    }

    #[test]
    fn strings_match_by_plain_comparison() {
        let exact = |s: &str| StringMatch::Exact(s.into());
        for (pattern, text, matches) in [
            (exact("a.b"), "a.b", true),
            (exact("a.b"), "axb", false),
            (exact("A"), "a", false),
            (StringMatch::Prefix("a.".into()), "a.b", true),
            (StringMatch::Prefix("a.".into()), "ab", false),
            (StringMatch::Suffix("*".into()), "b", false),
            (StringMatch::Presence, "x", true),
            (StringMatch::Presence, "", false),
        ] {
            assert_eq!(pattern.matches(text), matches, "{pattern:?} {text}");
        }
    }
}
