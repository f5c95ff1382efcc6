//! What a policy means, and what one that cannot be read denies.

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
fn a_namespace_that_is_not_named_denies_for_what_the_name_implies() {
    let message = wire::Authorization {
        namespace: String::new(),
        ..deny()
    };
    for (name, scope, reason) in [
        (
            "shop/p",
            Scope::Namespace("shop".into()),
            "holds the policy \"/p\"",
        ),
        ("ambit-system/p", Scope::Mesh, "holds the policy \"/p\""),
        (
            "/p",
            Scope::Selected,
            "it is for a namespace and names none",
        ),
    ] {
        let policy = read(name, &message.encode_to_vec());
        assert_eq!((refused(&policy), policy.scope), (reason, scope), "{name}");
    }
}

#[test]
fn another_name_inside_denies() {
    assert!(refused(&read("shop/q", &deny().encode_to_vec())).contains("shop/p"));
}

/// An encoded policy that breaks off after `bytes` of its rules.
fn damaged(policy: &wire::Authorization, bytes: usize) -> Vec<u8> {
    let head = wire::Authorization {
        groups: vec![],
        ..policy.clone()
    }
    .encode_to_vec();
    let whole = policy.encode_to_vec();
    assert!(whole.starts_with(&head) && whole.len() > head.len() + bytes);
    whole[..head.len() + bytes].to_vec()
}

#[test]
fn a_policy_that_breaks_off_denies_for_the_scope_that_it_still_says() {
    let scoped = |scope: wire::Scope, namespace: &str| wire::Authorization {
        scope: scope.into(),
        namespace: namespace.to_owned(),
        ..deny()
    };
    let shop = Scope::Namespace("shop".into());
    for (name, message, scope) in [
        ("shop/p", scoped(wire::Scope::Namespace, "shop"), shop),
        (
            "shop/p",
            scoped(wire::Scope::WorkloadSelector, "shop"),
            Scope::Selected,
        ),
        (
            "ambit-system/p",
            scoped(wire::Scope::Namespace, "ambit-system"),
            Scope::Namespace("ambit-system".into()),
        ),
        // The scope of the mesh is not written, so it may as well be lost.
        ("shop/p", scoped(wire::Scope::Global, "shop"), shop),
        (
            "ambit-system/p",
            scoped(wire::Scope::Global, "ambit-system"),
            Scope::Mesh,
        ),
        // A scope without its namespace says nothing.
        ("shop/p", scoped(wire::Scope::Namespace, ""), shop),
        (
            "ambit-system/p",
            scoped(wire::Scope::WorkloadSelector, ""),
            Scope::Mesh,
        ),
        ("p", scoped(wire::Scope::Namespace, ""), Scope::Selected),
    ] {
        for cut in [1, 2, 5] {
            let policy = read(name, &damaged(&message, cut));
            assert!(
                refused(&policy).contains("not an Authorization"),
                "{policy:?}"
            );
            assert_eq!(
                (policy.scope, policy.name),
                (scope, name.into()),
                "{message:?}"
            );
        }
    }
}

#[test]
fn what_stands_behind_the_damage_is_not_read() {
    let shop = Scope::Namespace("shop".into());
    let namespace = [&[0x12, 4][..], b"bank"].concat();
    let (selector, garbage) = ([0x18, 2], [0x0f]);
    for (bytes, scope) in [
        (
            [&namespace[..], &selector, &garbage].concat(),
            Scope::Selected,
        ),
        (
            [&selector, &namespace[..], &garbage].concat(),
            Scope::Selected,
        ),
        ([&selector[..], &garbage, &namespace].concat(), shop),
        ([&namespace[..], &garbage, &selector].concat(), shop),
        ([&garbage[..], &namespace, &selector].concat(), shop),
        // A scope that nobody knows, or that is no number of ours.
        ([&namespace[..], &[0x18, 9], &garbage].concat(), shop),
        (
            [
                &namespace[..],
                &[0x18, 0xff, 0xff, 0xff, 0xff, 0x7f],
                &garbage,
            ]
            .concat(),
            shop,
        ),
        // The last one counts, as it does when nothing is damaged.
        (
            [&namespace[..], &[0x18, 1], &selector, &garbage].concat(),
            Scope::Selected,
        ),
        (
            [&namespace[..], &selector, &[0x18, 1], &garbage].concat(),
            Scope::Namespace("bank".into()),
        ),
        // Written out, the mesh is the mesh.
        ([&namespace[..], &[0x18, 0], &garbage].concat(), Scope::Mesh),
        // Other fields stand between, of every wire type.
        (
            [
                &namespace[..],
                &[0x30, 1, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7d, 1, 2, 3, 4],
                &selector,
                &garbage,
            ]
            .concat(),
            Scope::Selected,
        ),
        // No UTF-8, no namespace.
        ([&[0x12, 1, 0xff][..], &selector].concat(), shop),
    ] {
        let policy = read("shop/p", &bytes);
        assert!(
            refused(&policy).contains("not an Authorization"),
            "{bytes:x?} {policy:?}"
        );
        assert_eq!(policy.scope, scope, "{bytes:x?}");
    }
}

#[test]
fn what_is_unknown_is_found_at_every_depth() {
    // Authorization{groups 5: Group{rules 1: Rules{matches 2: Match{namespaces 1: StringMatch{…}}}}}
    let wrap =
        |number: u8, inner: &[u8]| [&[number << 3 | 2, inner.len() as u8][..], inner].concat();
    let group = |inner: &[u8]| wrap(5, inner);
    let rules = |inner: &[u8]| group(&wrap(1, inner));
    let one = |inner: &[u8]| rules(&wrap(2, inner));
    let unknown = [0x78, 1];
    let base = wire::Authorization {
        groups: vec![],
        ..deny()
    }
    .encode_to_vec();
    for (inner, reason) in [
        (unknown.to_vec(), "Authorization has an unknown field 15"),
        (group(&unknown), "Group has an unknown field 15"),
        (rules(&unknown), "Rules has an unknown field 15"),
        // Field 1 of a rule belongs to another version of the message.
        (rules(&wrap(1, &[])), "Rules has an unknown field 1"),
        (one(&unknown), "Match has an unknown field 15"),
        (one(&wrap(13, &[])), "Match has an unknown field 13"),
        (
            one(&wrap(1, &unknown)),
            "StringMatch has an unknown field 15",
        ),
        (
            one(&wrap(1, &wrap(4, &unknown))),
            "Presence has an unknown field 15",
        ),
        (one(&wrap(5, &unknown)), "Address has an unknown field 15"),
        (
            one(&wrap(11, &unknown)),
            "ServiceAccount has an unknown field 15",
        ),
        (
            vec![0x20, 7],
            "Authorization field 4 has an unknown value 7",
        ),
        (one(&wrap(3, &[])), "a string match says nothing"),
        (
            one(&wrap(11, &wrap(2, b"x"))),
            "a service account lacks its namespace or name",
        ),
        (
            one(&wrap(12, &wrap(1, b"x"))),
            "a service account lacks its namespace or name",
        ),
        (
            one(&wrap(6, &wrap(1, &[1, 2, 3, 4, 5]))),
            "an address has 5 bytes, not 4 or 16",
        ),
        (
            one(&wrap(7, &[0x0a, 4, 10, 0, 0, 1, 0x10, 33])),
            "10.0.0.1 has a prefix of more than 32 bits",
        ),
        (
            one(&wrap(10, &[0x80, 0x80, 4])),
            "port 65536 is more than 65535",
        ),
    ] {
        let policy = read("shop/p", &[&base[..], &inner].concat());
        assert_eq!(refused(&policy), reason);
        assert_eq!(policy.scope, Scope::Namespace("shop".into()));
    }
}

#[test]
fn a_scope_of_the_mesh_need_not_be_written() {
    let message = wire::Authorization { scope: 0, ..deny() };
    let policy = read("shop/p", &message.encode_to_vec());
    assert_eq!(policy.scope, Scope::Mesh);
    assert!(matches!(policy.effect, Effect::Rules { .. }));
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
