//! What a scrape says.

use prost::Message;

use super::*;

fn labels(source: &str) -> Labels {
    let party = |name: &str| {
        Arc::new(Party {
            workload: name.into(),
            namespace: "shop".into(),
            principal: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
            zone: "z1".into(),
            ..Party::default()
        })
    };
    Labels {
        reporter: Reporter::Destination,
        source: party(source),
        destination: party("bank"),
        service: Some(Arc::new(Service {
            host: "bank.shop.svc".into(),
            namespace: "shop".into(),
            name: "bank".into(),
        })),
        security: Security::MutualTls,
        flag: Flag::None,
    }
}

fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(name)).collect()
}

#[test]
fn a_series_has_its_27_labels_in_order_and_adds_up_the_workers() {
    let metrics = Metrics::new("ztunnel", "0.1.0", 3);
    for worker in 0..3 {
        let traffic = metrics.traffic.traffic(worker, &labels("cart"));
        traffic.opened();
        traffic.received(10);
    }
    let text = metrics.encode().unwrap();
    let want = "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"cart\",\
        source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\",source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"unknown\",source_version=\"unknown\",\
        source_cluster=\"unknown\",destination_service=\"bank.shop.svc\",destination_service_namespace=\"shop\",\
        destination_service_name=\"bank\",destination_workload=\"bank\",destination_canonical_service=\"unknown\",\
        destination_canonical_revision=\"unknown\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/bank\",destination_app=\"unknown\",\
        destination_version=\"unknown\",destination_cluster=\"unknown\",request_protocol=\"tcp\",response_flags=\"-\",\
        connection_security_policy=\"mutual_tls\",source_region=\"unknown\",source_zone=\"z1\",\
        destination_region=\"unknown\",destination_zone=\"z1\"} 3";
    assert_eq!(lines(&text, "istio_tcp_connections_opened_total"), [want]);
    assert_eq!(want.matches("=\"").count(), 27);
    assert!(lines(&text, "istio_tcp_received_bytes_total")[0].ends_with("} 30"));
    assert!(lines(&text, "istio_tcp_connections_failed_total").is_empty());
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new("ztunnel", "0.1.0", 1);
    metrics.traffic.traffic(0, &labels("a\"b\\c\nd\\")).opened();
    let text = metrics.encode().unwrap();
    let line = lines(&text, "istio_tcp_connections_opened_total")[0];
    assert!(
        line.contains(r#"source_workload="a\"b\\c\nd\\","#),
        "{line}"
    );
}

#[test]
fn too_many_label_sets_are_counted_together() {
    let table = Table::bounded(1, 3);
    for i in 0..10 {
        table.traffic(0, &labels(&format!("w{i}"))).opened();
    }
    table.traffic(0, &labels("w1")).opened();
    assert_eq!(table.len(), 4);
    let metrics = Metrics {
        traffic: Arc::new(table),
        ..Metrics::new("ztunnel", "0.1.0", 1)
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(traffic::Collected(Arc::clone(&metrics.traffic))));
    let text = Metrics {
        registry,
        ..metrics
    }
    .encode()
    .unwrap();
    let count = |name: &str| {
        let line = lines(&text, "istio_tcp_connections_opened_total")
            .into_iter()
            .find(|line| line.contains(&format!("source_workload=\"{name}\"")));
        line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
    };
    assert_eq!(
        (
            count("w1").as_deref(),
            count("w5"),
            count("overflow").as_deref()
        ),
        (Some("2"), None, Some("7"))
    );
}

#[test]
fn series_go_with_their_workload() {
    let metrics = Metrics::new("ztunnel", "0.1.0", 1);
    let (cart, till) = (
        metrics.traffic.traffic(0, &labels("cart")),
        metrics.traffic.traffic(0, &labels("till")),
    );
    cart.opened();
    till.opened();
    metrics
        .traffic
        .retain(|labels| labels.source.workload != "cart");
    cart.closed();
    let text = metrics.encode().unwrap();
    assert_eq!(
        (
            lines(&text, "istio_tcp_connections_opened_total").len(),
            metrics.traffic.len()
        ),
        (1, 1)
    );
    assert!(!text.contains("\"cart\""));
}

#[test]
fn a_workload_is_known_by_who_made_it_or_by_its_own_name() {
    let workload = |name: &str, made_by: &str| {
        let told = proto::workload::Workload {
            uid: format!("Kubernetes//Pod/shop/{name}"),
            name: name.into(),
            namespace: "shop".into(),
            workload_name: made_by.into(),
            ..proto::workload::Workload::default()
        };
        let uid = told.uid.clone();
        let told = proto::workload::Address {
            r#type: Some(proto::workload::address::Type::Workload(told)),
        };
        match mesh::parse::address(&uid, &told.encode_to_vec()).unwrap() {
            mesh::parse::Address::Workload(workload) => Arc::new(workload),
            mesh::parse::Address::Service(_) => unreachable!("it is a workload"),
        }
    };
    let all = [workload("cart-1", "cart"), workload("bank-1", "")];
    let known = Known::of(all.iter());
    for (workload, namespace, want) in [
        ("cart", "shop", true),
        ("cart-1", "shop", false),
        ("bank-1", "shop", true),
        ("cart", "bank", false),
        ("", "shop", true),
    ] {
        let party = Party {
            workload: workload.into(),
            namespace: namespace.into(),
            ..Party::default()
        };
        assert_eq!(known.has(&party), want, "{namespace}/{workload}");
    }
    // What many are counted as together goes with none of them.
    assert!(known.has(&labels("cart").overflow().destination));
}

#[test]
fn the_rest_is_there() {
    let mut metrics = Metrics::new("ztunnel", "0.1.0", 1);
    let more: Counter = Counter::default();
    metrics.registry().register("ambit_more", "More", more);
    metrics.discovery.ended(Ended::Complete);
    metrics.discovery.received(proto::ADDRESS_TYPE, 100);
    metrics.discovery.received("anything", 1);
    let proxies = Proxies::register(metrics.registry());
    proxies.active.inc();
    proxies.started.inc();
    let text = metrics.encode().unwrap();
    for line in [
        "istio_build{component=\"ztunnel\",tag=\"0.1.0\"} 1",
        "istio_xds_connection_terminations_total{reason=\"Complete\"} 1",
        "istio_xds_message_total{url=\"type.googleapis.com/istio.workload.Address\"} 1",
        "istio_xds_message_bytes_total{url=\"type.googleapis.com/istio.workload.Address\"} 100",
        "istio_xds_message_total{url=\"other\"} 1",
        "workload_manager_active_proxy_count 1",
        "workload_manager_pending_proxy_count 0",
        "workload_manager_proxies_started_total 1",
        "workload_manager_proxies_stopped_total 0",
        "ambit_more_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let value = |name: &str| {
        lines(&text, name)[0]
            .rsplit_once(' ')
            .unwrap()
            .1
            .parse::<u64>()
            .unwrap()
    };
    assert!(
        value("process_open_fds ") > 2 && value("process_max_fds ") > value("process_open_fds ")
    );
}
