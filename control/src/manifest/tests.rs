//! Facts about single manifests: what is read of them, and what is refused, with which field.

use super::{
    core::{Families, Target},
    peer::Mode,
    *,
};

mod authorization;
mod entry;
mod route;
mod schema;

fn read(text: &str) -> Manifest {
    let documents = documents(text);
    assert_eq!(documents.len(), 1, "{text}");
    manifest(&tree(&documents[0]).unwrap(), "")
}

fn good(text: &str) -> Object {
    match read(text) {
        Manifest::Object(object) => *object,
        other => panic!("{text}\n{other:?}"),
    }
}

fn refused(text: &str) -> Refused {
    match read(text) {
        Manifest::Refused(refused) | Manifest::Vague(Vague { refused, .. }) => refused,
        other => panic!("{text}\n{other:?}"),
    }
}

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    )
}

fn peer(spec: &str) -> String {
    policy(spec).replace("AuthorizationPolicy", "PeerAuthentication")
}

#[test]
fn invalid_peer_authentications_are_refused_by_field_and_reason() {
    let ports = |ports: &str| {
        peer(&format!(
            "{{selector: {{matchLabels: {{a: b}}}}, portLevelMtls: {ports}}}"
        ))
    };
    let cases = [
        (
            peer("{mtls: {mode: strict}}"),
            "spec.mtls.mode",
            "UNSET, DISABLE, PERMISSIVE, STRICT",
        ),
        (peer("{mtls: STRICT}"), "spec.mtls", "expected fields"),
        (
            peer("{mtls: {mod: STRICT}}"),
            "spec.mtls.mod",
            "no such field",
        ),
        (peer("{mTLS: {mode: STRICT}}"), "spec.mTLS", "no such field"),
        (
            ports("{http: {mode: STRICT}}"),
            "spec.portLevelMtls.http",
            "not a port number",
        ),
        (
            ports("{'0': {mode: STRICT}}"),
            "spec.portLevelMtls.0",
            "not a port number",
        ),
        (
            ports("{'80': STRICT}"),
            "spec.portLevelMtls.80",
            "expected a field mode",
        ),
        (
            ports("{'80': {mode: OPEN}}"),
            "spec.portLevelMtls.80.mode",
            "UNSET",
        ),
        (
            peer("{portLevelMtls: {'80': {mode: STRICT}}}"),
            "spec.portLevelMtls",
            "selector",
        ),
    ];
    for (text, field, reason) in cases {
        let refused = refused(&text);
        let [fault] = refused.faults.as_slice() else {
            panic!("{text}\n{:?}", refused.faults)
        };
        assert_eq!(fault.field, field, "{text}: {fault}");
        assert!(fault.reason.contains(reason), "{text}: {fault}");
    }
}

#[test]
fn port_keys_may_be_numbers() {
    let text = peer(
        "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}, '81': {}}}",
    );
    let Object::PeerAuthentication(policy) = good(&text) else {
        panic!()
    };
    assert_eq!(policy.mode, Mode::Strict);
    assert_eq!(
        policy.ports,
        [(80, Mode::Disable), (81, Mode::Unset)].into()
    );
}

#[test]
fn core_kinds_ignore_what_is_not_read() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{image: x, tty: true}], hostname: h}, extra: 1}";
    let Object::Pod(pod) = good(text) else {
        panic!()
    };
    assert_eq!(
        (pod.meta.namespace.as_str(), pod.service_account.as_str()),
        ("default", "")
    );
    for (text, field) in [
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIPs: [{ip: 10.0.0}]}}",
            "status.podIPs[0].ip",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccountName: a/b}}",
            "spec.serviceAccountName",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwork: maybe}}",
            "spec.hostNetwork",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: x}}",
            "spec.clusterIP",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 0}]}}",
            "spec.ports[0].port",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{}]}}",
            "spec.ports[0].port",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: TCP}]}}",
            "spec.ports[2].port",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ipFamilies: [IPv5]}}",
            "spec.ipFamilies[0]",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}}",
            "addressType",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: [{}]}",
            "endpoints[0].addresses",
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: A}}",
            "metadata.name",
        ),
    ] {
        assert_eq!(refused(text).faults[0].field, field, "{text}");
    }
}

#[test]
fn a_service_gets_the_defaults_of_the_api_server() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}, {port: 81, targetPort: web}]}}";
    let Object::Service(service) = good(text) else {
        panic!()
    };
    assert_eq!(
        service.addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        service.families,
        Families {
            v4: true,
            v6: false
        }
    );
    let targets: Vec<_> = service.ports.into_iter().map(|port| port.target).collect();
    assert_eq!(
        targets,
        [Target::Number(80), Target::Name("web".to_owned())]
    );
}

#[test]
fn other_kinds_are_told_apart_from_mistakes() {
    let unused = |version: &str, kind: &str| {
        read(&format!(
            "{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}"
        ))
    };
    assert_eq!(
        unused("apps/v1", "Deployment"),
        Manifest::Unused("apps/v1/Deployment".to_owned())
    );
    assert_eq!(
        unused("v1", "ConfigMap"),
        Manifest::Unused("v1/ConfigMap".to_owned())
    );
    assert!(matches!(
        unused("security.istio.io/v1", "RequestAuthentication"),
        Manifest::Object(_)
    ));
    assert!(matches!(
        unused("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
        Manifest::Unused(_)
    ));
    assert!(!matches!(
        unused("policy.example/v1", "AuthorizationPolicy"),
        Manifest::Unused(_)
    ));
    // Whatever it was meant to be, it was meant to be a policy.
    assert!(matches!(
        unused("security.istio.io/v1", "AuthorisationPolicy"),
        Manifest::Vague(Vague {
            refused: Refused {
                kind: Kind::AuthorizationPolicy,
                ..
            },
            ..
        })
    ));
    assert!(matches!(read("{metadata: {name: a}}"), Manifest::Alien(_)));
    assert!(matches!(read("just text"), Manifest::Alien(_)));
}

#[test]
fn metadata_have_no_other_fields_whatever_the_kind() {
    for kind in ["Namespace", "Pod", "Service", "Node", "ServiceAccount"] {
        let text =
            format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a, labls: {{b: c}}}}}}");
        let fields: Vec<_> = refused(&text)
            .faults
            .into_iter()
            .map(|it| it.field)
            .collect();
        assert_eq!(fields, ["metadata.labls"], "{kind}");
    }
}

#[test]
fn what_is_read_of_a_core_kind_has_its_own_case() {
    for (kind, spec, field, meant) in [
        ("Pod", "spec: {nodename: n}", "spec.nodename", "nodeName"),
        (
            "Pod",
            "spec: {serviceaccountname: n}",
            "spec.serviceaccountname",
            "serviceAccountName",
        ),
        ("Pod", "Spec: {nodeName: n}", "Spec", "spec"),
        (
            "Service",
            "spec: {Selector: {a: b}}",
            "spec.Selector",
            "selector",
        ),
    ] {
        let text = format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a}}, {spec}}}");
        let faults = refused(&text).faults;
        let expected = format!("{field}: no such field: it is written {meant}");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].to_string(), expected);
    }
}

#[test]
fn files_are_cut_into_documents() {
    let cut = |text| {
        documents(text)
            .into_iter()
            .map(|it| (it.number, it.line, it.text.trim()))
            .collect::<Vec<_>>()
    };
    assert_eq!(cut(""), []);
    assert_eq!(cut("# nothing\n---\n---\n"), []);
    assert_eq!(cut("a: 1"), [(1, 1, "a: 1")]);
    assert_eq!(
        cut("---\na: 1\n---\nb: 1\n"),
        [(1, 1, "a: 1"), (2, 3, "b: 1")]
    );
    assert_eq!(
        cut("# c\n---\na: 1\n---\n\n---\nb: 1\n"),
        [(1, 2, "a: 1"), (3, 6, "b: 1")]
    );
    assert_eq!(
        cut("--- {a: 1}\r\n--- # x\r\nb: 1"),
        [(1, 1, "{a: 1}"), (2, 2, "# x\r\nb: 1")]
    );
    assert_eq!(
        cut("a: |\n  ---\n  text\n----\n"),
        [(1, 1, "a: |\n  ---\n  text\n----")]
    );
}

#[test]
fn what_is_not_yaml_names_its_line() {
    for (text, line) in [
        ("a: 1\n---\nb: [\n", None),
        ("---\na: 1\n---\nb: 1\nb: 2\n", Some("line 5")),
        ("---\na: 1\n---\nb: 1\n c: 2\n", Some("line 5")),
    ] {
        let documents = documents(text);
        let fault = tree(documents.last().unwrap()).expect_err(text);
        assert!(fault.reason.starts_with("not YAML"), "{fault}");
        assert!(
            line.is_none_or(|line| line == fault.field),
            "{text}: {fault}"
        );
    }
}

#[test]
fn a_document_may_not_be_too_deep_nor_grow_by_aliases() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        bomb.push_str(&format!(
            "a{i}: &a{i} [{}]\n",
            vec![format!("*a{}", i - 1); 10].join(", ")
        ));
    }
    for text in [deep, bomb] {
        assert!(tree(&documents(&text)[0]).is_err());
    }
}
