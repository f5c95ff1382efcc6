//! `istio.security.Authorization` to [`Policy`]. There is always a policy: what cannot be understood denies.

use prost::Message;
use proto::security as wire;

use crate::{
    model::{
        Action, Effect, Group, IpRange, Match, Policy, Rule, Scope, StringMatch, WorkloadAccount,
    },
    name::Name,
    parse::{port, range, tags},
};

/// Reads an `Authorization` resource. `name` is the resource's name, `<namespace>/<name>`.
///
/// Where it cannot be understood the policy denies everything in its scope: the scope that it says,
/// if that and its namespace can be read; else the namespace that its name says, or the mesh if that
/// is the root namespace; a name without a namespace only denies for the workloads that list it.
/// [`Effect::DenyAll`] then holds the reason.
pub fn authorization(name: &str, bytes: &[u8], root_namespace: Name) -> Policy {
    let decoded = wire::Authorization::decode(bytes);
    let decoded = decoded.map_err(|e| format!("not an Authorization: {e}"));
    let said = match &decoded {
        Ok(message) => said_scope(message.scope, &message.namespace),
        Err(_) => tags::scope(bytes).and_then(|(scope, namespace)| said_scope(scope, namespace)),
    };
    let effect = decoded.and_then(|message| {
        tags::all_known(bytes)?;
        named(name, &message)?;
        rules(&message)
    });
    Policy {
        name: Name::new(name),
        scope: said.unwrap_or_else(|| implied_scope(name, root_namespace)),
        effect: effect.unwrap_or_else(Effect::DenyAll),
    }
}

/// The scope that a message says, if it is one.
fn said_scope(scope: i32, namespace: &str) -> Option<Scope> {
    match wire::Scope::try_from(scope).ok()? {
        wire::Scope::Global => Some(Scope::Mesh),
        wire::Scope::Namespace if namespace.is_empty() => None,
        wire::Scope::Namespace => Some(Scope::Namespace(Name::new(namespace))),
        wire::Scope::WorkloadSelector => Some(Scope::Selected),
    }
}

/// The scope to assume from the resource's name alone.
fn implied_scope(name: &str, root_namespace: Name) -> Scope {
    match name.split_once('/') {
        Some((namespace, _)) if namespace == root_namespace.as_str() => Scope::Mesh,
        Some((namespace, _)) if !namespace.is_empty() => Scope::Namespace(Name::new(namespace)),
        _ => Scope::Selected,
    }
}

fn named(name: &str, message: &wire::Authorization) -> Result<(), String> {
    let held = format!("{}/{}", message.namespace, message.name);
    if held == name {
        Ok(())
    } else {
        Err(format!("holds the policy {held:?}"))
    }
}

fn rules(message: &wire::Authorization) -> Result<Effect, String> {
    let action = match wire::Action::try_from(message.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Err(_) => return Err(format!("unknown action {}", message.action)),
    };
    let groups = message.groups.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Effect::Rules {
        action,
        dry_run: message.dry_run,
        groups,
    })
}

fn group(message: &wire::Group) -> Result<Group, String> {
    let rule = |rules: &wire::Rules| {
        rules
            .matches
            .iter()
            .map(one_match)
            .collect::<Result<_, _>>()
            .map(Rule)
    };
    message
        .rules
        .iter()
        .map(rule)
        .collect::<Result<_, _>>()
        .map(Group)
}

fn one_match(m: &wire::Match) -> Result<Match, String> {
    Ok(Match {
        namespaces: strings(&m.namespaces)?,
        not_namespaces: strings(&m.not_namespaces)?,
        principals: strings(&m.principals)?,
        not_principals: strings(&m.not_principals)?,
        source_ips: ranges(&m.source_ips)?,
        not_source_ips: ranges(&m.not_source_ips)?,
        destination_ips: ranges(&m.destination_ips)?,
        not_destination_ips: ranges(&m.not_destination_ips)?,
        destination_ports: ports(&m.destination_ports)?,
        not_destination_ports: ports(&m.not_destination_ports)?,
        service_accounts: accounts(&m.service_accounts),
        not_service_accounts: accounts(&m.not_service_accounts),
    })
}

fn strings(list: &[wire::StringMatch]) -> Result<Box<[StringMatch]>, String> {
    use wire::string_match::MatchType;
    let one = |m: &wire::StringMatch| match &m.match_type {
        Some(MatchType::Exact(value)) => Ok(StringMatch::Exact(value.as_str().into())),
        Some(MatchType::Prefix(value)) => Ok(StringMatch::Prefix(value.as_str().into())),
        Some(MatchType::Suffix(value)) => Ok(StringMatch::Suffix(value.as_str().into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        None => Err("a string match says nothing".to_owned()),
    };
    list.iter().map(one).collect()
}

fn ranges(list: &[wire::Address]) -> Result<Box<[IpRange]>, String> {
    let one = |a: &wire::Address| {
        range(&a.address, a.length).map(|(address, length)| IpRange { address, length })
    };
    list.iter().map(one).collect()
}

fn ports(list: &[u32]) -> Result<Box<[u16]>, String> {
    list.iter().map(|number| port(*number, "port")).collect()
}

fn accounts(list: &[wire::ServiceAccountMatch]) -> Box<[WorkloadAccount]> {
    let one = |m: &wire::ServiceAccountMatch| WorkloadAccount {
        namespace: Name::new(&m.namespace),
        service_account: Name::new(&m.service_account),
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny() -> wire::Authorization {
        let exact = wire::string_match::MatchType::Exact("cluster.local/ns/a/sa/b".to_owned());
        let one = wire::Match {
            principals: vec![wire::StringMatch {
                match_type: Some(exact),
            }],
            not_source_ips: vec![wire::Address {
                address: vec![10, 0, 0, 1],
                length: 8,
            }],
            destination_ports: vec![80, 8080],
            ..Default::default()
        };
        wire::Authorization {
            name: "p".to_owned(),
            namespace: "shop".to_owned(),
            scope: wire::Scope::Namespace.into(),
            action: wire::Action::Deny.into(),
            groups: vec![wire::Group {
                rules: vec![wire::Rules { matches: vec![one] }],
            }],
            ..Default::default()
        }
    }

    fn read(name: &str, bytes: &[u8]) -> Policy {
        authorization(name, bytes, Name::new("ambit-system"))
    }

    fn refused(policy: &Policy) -> &str {
        match &policy.effect {
            Effect::DenyAll(reason) => reason,
            Effect::Rules { .. } => panic!("understood: {policy:?}"),
        }
    }

    #[test]
    fn reads_what_it_knows() {
        let policy = read("shop/p", &deny().encode_to_vec());
        assert_eq!(policy.scope, Scope::Namespace("shop".into()));
        let Effect::Rules {
            action: Action::Deny,
            dry_run: false,
            groups,
        } = policy.effect
        else {
            panic!("understood as something else")
        };
        let one = &groups[0].0[0].0[0];
        assert_eq!(
            *one.principals,
            [StringMatch::Exact("cluster.local/ns/a/sa/b".into())]
        );
        let range = IpRange {
            address: "10.0.0.1".parse().unwrap(),
            length: 8,
        };
        assert_eq!(*one.not_source_ips, [range]);
        assert_eq!(*one.destination_ports, [80, 8080]);
    }

    #[test]
    fn ipv4_written_as_ipv6_is_ipv4() {
        let v6: std::net::Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        let read = |length| {
            let address = wire::Address {
                address: v6.octets().to_vec(),
                length,
            };
            ranges(&[address]).unwrap()[0]
        };
        assert_eq!(
            read(104),
            IpRange {
                address: "10.0.0.1".parse().unwrap(),
                length: 8
            }
        );
        assert_eq!(
            read(80),
            IpRange {
                address: v6.into(),
                length: 80
            }
        );
    }

    #[test]
    fn unknown_things_deny_for_the_scope_that_is_said() {
        let extension = wire::Extension {
            name: "x".to_owned(),
            config: None,
        };
        let with_extension = wire::Authorization {
            extensions: vec![extension],
            ..deny()
        };
        let unknown_action = wire::Authorization {
            action: 7,
            ..deny()
        };
        let mut unknown_field = deny().encode_to_vec();
        unknown_field.extend([0x7a, 0x01, 0x00]);
        let mut deep = deny();
        deep.groups[0].rules[0].matches[0].principals[0].match_type = None;
        let long = wire::Address {
            address: vec![1, 2, 3],
            length: 8,
        };
        let mut address = deny();
        address.groups[0].rules[0].matches[0].source_ips.push(long);
        let mut big_port = deny();
        big_port.groups[0].rules[0].matches[0]
            .destination_ports
            .push(70_000);
        for (bytes, reason) in [
            (with_extension.encode_to_vec(), "unknown field 7"),
            (unknown_action.encode_to_vec(), "unknown value 7"),
            (unknown_field, "unknown field 15"),
            (deep.encode_to_vec(), "says nothing"),
            (address.encode_to_vec(), "3 bytes"),
            (big_port.encode_to_vec(), "70000"),
        ] {
            let policy = read("shop/p", &bytes);
            assert!(refused(&policy).contains(reason), "{policy:?}");
            assert_eq!(policy.scope, Scope::Namespace("shop".into()));
        }
    }

    #[test]
    fn nothing_readable_denies_for_what_the_name_implies() {
        for (name, scope) in [
            ("shop/p", Scope::Namespace("shop".into())),
            ("ambit-system/p", Scope::Mesh),
            ("p", Scope::Selected),
            ("/p", Scope::Selected),
            ("", Scope::Selected),
        ] {
            let policy = read(name, &[0xff; 5]);
            refused(&policy);
            assert_eq!(policy.scope, scope, "{name:?}");
        }
    }

    #[test]
    fn an_unknown_scope_denies_for_what_the_name_implies() {
        let bytes = wire::Authorization { scope: 9, ..deny() }.encode_to_vec();
        let policy = read("shop/p", &bytes);
        refused(&policy);
        assert_eq!(policy.scope, Scope::Namespace("shop".into()));
    }

    #[test]
    fn another_name_inside_denies() {
        assert!(refused(&read("shop/q", &deny().encode_to_vec())).contains("shop/p"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            read("shop/p", &bytes);
        }

        #[test]
        fn no_damage_panics(at in 0usize..80, to in proptest::prelude::any::<u8>()) {
            let mut bytes = deny().encode_to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            read("shop/p", &bytes);
        }
    }
}
