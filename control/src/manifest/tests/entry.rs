//! Facts about what is read of ServiceEntries and WorkloadEntries, and what is refused, with which field.

use super::{
    super::{
        service_entry::{Members, Resolution},
        workload_entry::Address,
    },
    *,
};

fn service(spec: &str) -> String {
    object("ServiceEntry", spec)
}

fn workload(spec: &str) -> String {
    object("WorkloadEntry", spec)
}

fn object(kind: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: e, namespace: shop}}, spec: {spec}}}"
    )
}

/// With a host.
fn of(spec: &str) -> String {
    service(&format!("{{hosts: [a.example], {spec}}}"))
}

fn listing(endpoint: &str) -> String {
    of(&format!("resolution: STATIC, endpoints: [{endpoint}]"))
}

fn is_refused_for(cases: &[(String, &str, &str)]) {
    for (text, field, reason) in cases {
        let refused = refused(text);
        let [fault] = refused.faults.as_slice() else {
            panic!("{text}\n{:?}", refused.faults)
        };
        assert_eq!(fault.field, *field, "{text}: {fault}");
        assert!(fault.reason.contains(reason), "{text}: {fault}");
    }
}

#[test]
fn invalid_service_entries_are_refused_by_field_and_reason() {
    is_refused_for(&[
        (object("ServiceEntry", "7"), "spec", "expected fields"),
        (service("{}"), "spec.hosts", "at least one"),
        (
            service("{hosts: ['*']}"),
            "spec.hosts[0]",
            "not a host name",
        ),
        (
            service("{hosts: ['a.*.example']}"),
            "spec.hosts[0]",
            "not a host name",
        ),
        (
            service("{hosts: ['a/b']}"),
            "spec.hosts[0]",
            "not a host name",
        ),
        (
            service("{hosts: [a.example, 'a b']}"),
            "spec.hosts[1]",
            "not a host name",
        ),
        (of("address: [192.0.2.1]"), "spec.address", "no such field"),
        (
            of("addresses: [192.0.2]"),
            "spec.addresses[0]",
            "neither an address",
        ),
        (
            of("addresses: [192.0.2.0/33]"),
            "spec.addresses[0]",
            "neither an address",
        ),
        (
            of("addresses: [192.0.2.0/24], resolution: DNS"),
            "spec.addresses[0]",
            "no address range with resolution DNS",
        ),
        (
            of("resolution: static"),
            "spec.resolution",
            "NONE, STATIC, DNS,",
        ),
        (of("location: HERE"), "spec.location", "MESH_EXTERNAL"),
        (of("exportTo: [A]"), "spec.exportTo[0]", "not a namespace"),
    ]);
}

#[test]
fn invalid_ports_and_endpoints_are_refused_by_field_and_reason() {
    is_refused_for(&[
        (of("ports: [{name: a}]"), "spec.ports[0].number", "required"),
        (
            of("ports: [{number: 80}]"),
            "spec.ports[0].name",
            "required",
        ),
        (
            of("ports: [{number: 0, name: a}]"),
            "spec.ports[0].number",
            "1 to 65535",
        ),
        (
            of("ports: [{number: 80, name: a, targetPort: b}]"),
            "spec.ports[0].targetPort",
            "1 to 65535",
        ),
        (
            of("ports: [{number: 80, name: a}, {number: 80, name: b}]"),
            "spec.ports[1].number",
            "there twice",
        ),
        (
            of("ports: [{number: 80, name: a}, {number: 81, name: a}]"),
            "spec.ports[1].name",
            "there twice",
        ),
        (
            of(
                "resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {a: b}}",
            ),
            "spec",
            "at most one of",
        ),
        (
            of("endpoints: [{address: 192.0.2.1}]"),
            "spec.endpoints",
            "none with resolution NONE",
        ),
        (
            of(
                "resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.example}, {address: b.example}]",
            ),
            "spec.endpoints",
            "at most one",
        ),
        (
            of("workloadSelector: {matchLabels: {a: b}}"),
            "spec.workloadSelector.matchLabels",
            "no such field",
        ),
        (
            of("workloadSelector: {labels: {a: 1}}"),
            "spec.workloadSelector.labels.a",
            "expected text",
        ),
        (
            listing("{address: 192.0.2.1, weight: -1}"),
            "spec.endpoints[0].weight",
            "not a number",
        ),
        (
            listing("{port: 80, address: a}"),
            "spec.endpoints[0].port",
            "no such field",
        ),
    ]);
}

#[test]
fn invalid_workload_entries_are_refused_by_field_and_reason() {
    is_refused_for(&[
        (workload("{}"), "spec.address", "required"),
        (
            workload("{address: 'a b'}"),
            "spec.address",
            "neither an address",
        ),
        (
            workload("{address: 'unix://run'}"),
            "spec.address",
            "absolute path",
        ),
        (
            workload("{address: 'unix:///run/x', ports: {http: 80}}"),
            "spec.ports",
            "a socket has no ports",
        ),
        (
            workload("{address: a, ports: {http: web}}"),
            "spec.ports.http",
            "1 to 65535",
        ),
        (
            workload("{address: a, locality: a/b/c/d}"),
            "spec.locality",
            "<region>/",
        ),
        (
            workload("{address: a, serviceAccount: a/b}"),
            "spec.serviceAccount",
            "DNS subdomain",
        ),
        (
            workload("{address: a, weight: 5000000000}"),
            "spec.weight",
            "not a number",
        ),
        (
            workload("{address: a, labels: {x: 1}}"),
            "spec.labels.x",
            "put it in quotes",
        ),
        (
            workload("{address: a, host: b}"),
            "spec.host",
            "no such field",
        ),
    ]);
}

#[test]
fn labels_of_the_object_count_before_those_of_its_spec() {
    let text = workload("{address: 192.0.2.1, weight: 0, labels: {a: spec, b: spec}}")
        .replace("name: e,", "name: e, labels: {a: meta},");
    let Object::WorkloadEntry(entry) = good(&text) else {
        panic!()
    };
    let labels = [("a", "meta"), ("b", "spec")].map(|(key, it)| (key.to_owned(), it.to_owned()));
    assert_eq!(entry.labels(), labels.into());
    assert_eq!(entry.endpoint.weight, None);
    assert_eq!(
        entry.endpoint.address,
        Address::Ip("192.0.2.1".parse().unwrap())
    );
}

/// What is closed for want of a good version depends on it.
#[test]
fn of_a_faulty_entry_is_known_what_can_be_read() {
    let read = |text: &str| match refused(text).read.map(|it| *it) {
        Some(Object::ServiceEntry(entry)) => entry,
        other => panic!("{text}\n{other:?}"),
    };
    let bad = "location: HERE, addresses: [192.0.2.1, x], resolution: STATIC";
    let entry = read(&of(bad));
    assert_eq!(entry.hosts, ["a.example"]);
    assert_eq!(entry.addresses.len(), 1);
    assert_eq!(entry.resolution, Resolution::Static);
    assert_eq!(entry.members, Members::Listed(Vec::new()));
    let selected = read(&of(&format!(
        "{bad}, workloadSelector: {{labels: {{a: b}}}}"
    )));
    let labels = |pair: [&str; 2]| Labels::from([pair.map(str::to_owned).into()]);
    assert!(selected.members.may_select(&labels(["a", "b"])));
    assert!(!selected.members.may_select(&labels(["a", "c"])));
    let unknown = read(&of("workloadSelector: 7"));
    assert!(unknown.members.may_select(&Labels::new()));
    // Without labels it selects nobody.
    let nobody = read(&of(&format!("{bad}, workloadSelector: {{}}")));
    assert!(!nobody.members.may_select(&labels(["a", "b"])));
}
