//! What requests leave behind in metrics.

use std::{sync::Arc, time::Duration};

use net::metrics;
use prometheus_client::{encoding::text, registry::Registry};

use super::{
    requests::{
        Bounded, Collected, Count, Families, Family, Labels, PolicyLabels, Requests, RouteLabels,
    },
    *,
};

fn labels(status: u16) -> Labels {
    Labels {
        ends: metrics::Labels {
            reporter: Reporter::Waypoint,
            source: Arc::new(Party {
                workload: "cart".into(),
                ..Party::default()
            }),
            destination: Arc::default(),
            service: None,
            security: Security::MutualTls,
            flag: Flag::None,
        },
        protocol: "grpc",
        status,
        grpc_status: Some(7),
        flags: "UH",
    }
}

fn families(workers: usize) -> (Arc<Families>, impl Fn() -> String) {
    let families = Arc::new(Families {
        requests: Family::new(workers),
        routes: Family::new(workers),
        policies: Family::new(workers),
    });
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(Arc::clone(&families))));
    let scrape = move || {
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        out
    };
    (families, scrape)
}

fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ').map(|(_, value)| value.to_owned())
}

#[test]
fn requests_of_all_workers_are_added_up_in_series_with_known_names() {
    let (families, scrape) = families(2);
    assert_eq!(scrape(), "# EOF\n");
    let cells = families.requests.cells(&labels(200));
    cells[0].add(Duration::from_micros(300), 0, 17);
    cells[1].add(Duration::from_millis(7), 2000, 17);
    let text = scrape();
    let total = text
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    for part in [
        "{reporter=\"waypoint\",source_workload=\"cart\",",
        "request_protocol=\"grpc\",response_flags=\"UH\",connection_security_policy=\"mutual_tls\"",
        "response_code=\"200\",grpc_response_status=\"7\"} 2",
    ] {
        assert!(total.contains(part), "{part} in {total}");
    }
    let of = |name| value(&text, name).unwrap();
    assert_eq!(of("istio_request_duration_milliseconds_sum"), "7.3");
    assert_eq!(of("istio_request_duration_milliseconds_count"), "2");
    assert_eq!(of("istio_request_bytes_sum"), "2000.0");
    assert_eq!(of("istio_response_bytes_sum"), "34.0");
    let messages = |name| text.contains(&format!("# TYPE {name} counter"));
    assert!(messages("istio_request_messages") && messages("istio_response_messages"));
    let bucket = |le: &str| {
        let le = format!("le=\"{le}\"");
        let mut buckets = text
            .lines()
            .filter(|line| line.starts_with("istio_request_duration_milliseconds_bucket"));
        let line = buckets.find(|line| line.contains(&le)).unwrap();
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(
        ["0.5", "5.0", "10.0", "+Inf"].map(bucket),
        ["1", "1", "2", "2"].map(str::to_owned)
    );
}

#[test]
fn routes_and_policies_have_series_of_their_own() {
    let (families, scrape) = families(1);
    let route = RouteLabels {
        kind: "HTTPRoute",
        namespace: "shop".into(),
        name: "orders".into(),
        rule: "0".into(),
        service: "orders".into(),
        backend: "orders-v2".into(),
        status: 200,
    };
    families.routes.cells(&route)[0].add();
    let policy = PolicyLabels {
        policy: "shop/no-admin".into(),
        rule: "1".into(),
        what: "denied",
        service: "orders".into(),
    };
    families.policies.cells(&policy)[0].add();
    let text = scrape();
    for line in [
        "ambit_route_requests_total{route_kind=\"HTTPRoute\",route_namespace=\"shop\",route_name=\"orders\",rule=\"0\",\
         destination_service=\"orders\",backend_service=\"orders-v2\",response_code=\"200\"} 1",
        "ambit_policy_decisions_total{policy=\"shop/no-admin\",rule=\"1\",decision=\"denied\",\
         destination_service=\"orders\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn too_many_label_sets_are_counted_together() {
    let family: Family<Labels, Requests> = Family::bounded(1, 3);
    let cells: Vec<_> = (0..10).map(|i| family.cells(&labels(200 + i))).collect();
    assert!(Arc::ptr_eq(&cells[0], &family.cells(&labels(200))));
    assert!(Arc::ptr_eq(&cells[4], &cells[9]));
    assert_eq!(family.len(), 4);
    assert_eq!(labels(209).overflow().ends.source.workload, "overflow");
    let routes: Family<RouteLabels, Count> = Family::bounded(1, 3);
    for i in 0..10 {
        let labels = RouteLabels {
            kind: "HTTPRoute",
            namespace: "shop".into(),
            name: format!("r{i}"),
            rule: String::new(),
            service: String::new(),
            backend: String::new(),
            status: 200,
        };
        routes.cells(&labels);
    }
    assert_eq!(routes.len(), 4);
}

#[test]
fn series_go_with_their_workload() {
    let (families, scrape) = families(1);
    families.requests.cells(&labels(200))[0].add(Duration::ZERO, 0, 0);
    families.requests.retain(|labels| labels.status != 200);
    assert_eq!(scrape(), "# EOF\n");
}

#[test]
fn a_client_says_its_names_and_proves_its_namespace() {
    let peer = Identity::new("cluster.local", "shop", "cart");
    let says = Baggage {
        workload: Some("till".to_owned()),
        namespace: Some("bank".to_owned()),
        version: Some("v".repeat(NAME + 1)),
        ..Baggage::default()
    };
    let party = said(peer, says);
    assert_eq!(
        (&*party.workload, &*party.namespace, &*party.version),
        ("till", "shop", "")
    );
    assert_eq!(party.principal, "spiffe://cluster.local/ns/shop/sa/cart");
}
