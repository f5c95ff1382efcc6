//! What keys and values become.

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
