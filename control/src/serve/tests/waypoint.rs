//! What a waypoint gets with its token, and what it does not.

use super::*;
use crate::compile::Told;

const OWN: &str = "spiffe://cluster.local/ns/shop/sa/waypoint";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";

fn key(name: &str) -> Key {
    ("shop".to_owned(), name.to_owned())
}

fn subject(name: &str) -> Subject {
    Subject::Waypoint(key(name))
}

/// Gateways shop/waypoint and shop/other, each told of a route of its own name.
fn two_gateways() -> Compiled {
    let told = ["waypoint", "other"].map(|name| {
        let route = proto::waypoint::Route {
            name: name.to_owned(),
            ..Default::default()
        };
        let told = Told {
            routes: [(name.to_owned(), route)].into(),
            ..Told::default()
        };
        (key(name), told)
    });
    Compiled {
        told: told.into(),
        ..Compiled::default()
    }
}

async fn waypoint(control: &Control, scratch: &Scratch) -> Client {
    control
        .with_token(scratch, "waypoint-tokens/shop.waypoint")
        .await
}

fn uri(pem: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    match names.value.general_names.as_slice() {
        [x509_parser::extensions::GeneralName::URI(uri)] => (*uri).to_owned(),
        names => panic!("{names:?}"),
    }
}

#[tokio::test]
async fn a_waypoint_gets_its_own_identity_alone_and_only_while_its_gateway_is_there() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut client = waypoint(&control, &scratch).await;
    for asked in [None, Some(OWN)] {
        let chain = client.sign(asking(asked)).await.unwrap().cert_chain;
        assert_eq!(uri(&chain[0]), OWN);
    }
    for asked in [
        OTHER,
        CART,
        "spiffe://evil.example/ns/shop/sa/waypoint",
        "",
        "waypoint",
    ] {
        let refused = client.sign(asking(Some(asked))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{asked}");
        assert!(
            refused.message().contains("its own identity alone"),
            "{}",
            refused.message()
        );
    }
    let mut one = two_gateways();
    one.told.remove(&key("waypoint"));
    control.tell(&one);
    let refused = client.sign(asking(None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("is not there"),
        "{}",
        refused.message()
    );
    control
        .hub
        .tokens()
        .unwrap()
        .retain(&[&key("other")].into())
        .unwrap();
    let refused = client.sign(asking(None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_node_gets_a_waypoints_identity_only_for_its_pod_there() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut n1 = control.client(&scratch, "n1").await;
    let mut n2 = control.client(&scratch, "n2").await;
    for client in [&mut n1, &mut n2] {
        let refused = client.sign(asking(Some(OWN))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let mut placements = Placements::default();
    placements.add("n1", "shop", "waypoint-0", "waypoint");
    let snapshot = Arc::clone(&control.hub.mesh.borrow().snapshot);
    let mesh = Mesh {
        snapshot,
        placements,
        ..Mesh::default()
    };
    control.hub.mesh.send_replace(Arc::new(mesh));
    n1.sign(asking(Some(OWN))).await.unwrap();
    assert!(n1.sign(asking(Some(OTHER))).await.is_err());
    assert!(n2.sign(asking(Some(OWN))).await.is_err());
}

#[tokio::test]
async fn a_waypoint_does_not_report() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut client = waypoint(&control, &scratch).await;
    let refused = client.report(vec![pod("cart")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(control.hub.reports.watch().borrow().is_empty());
}

#[tokio::test]
async fn a_waypoint_never_sees_another_gateways_resources_nor_what_nodes_are_told() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut session = waypoint(&control, &scratch).await.discover().await.unwrap();
    session
        .send(Kind::Route, |request| {
            let names = ["*", "other"].map(str::to_owned);
            request.resource_names_subscribe = names.into();
        })
        .await;
    let routes = session.next().await;
    assert_eq!(names(&routes), ["waypoint"]);
    assert_eq!(routes.removed_resources, ["other"]);
    for kind in [Kind::Address, Kind::Authorization] {
        let mut session = waypoint(&control, &scratch).await.discover().await.unwrap();
        session.send(kind, |_| {}).await;
        let refused = session.end().await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().contains("not served to this caller"),
            "{}",
            refused.message()
        );
    }
    for kind in [Kind::Table, Kind::Route, Kind::Policy, Kind::Backend] {
        let mut node = control
            .client(&scratch, "n1")
            .await
            .discover()
            .await
            .unwrap();
        node.send(kind, |_| {}).await;
        assert_eq!(node.end().await.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_stream_of_a_waypoint_ends_with_its_gateway() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut session = waypoint(&control, &scratch).await.discover().await.unwrap();
    session.send(Kind::Route, |_| {}).await;
    session.next().await;
    control.tell(&Compiled::default());
    assert_eq!(session.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn how_far_a_waypoint_has_come_is_known_and_shown() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    control.tell(&two_gateways());
    let mut session = waypoint(&control, &scratch).await.discover().await.unwrap();
    let kinds = Kind::served(&subject("waypoint"));
    for kind in kinds {
        session.send(*kind, |_| {}).await;
    }
    let mut streams = control.hub.streams.watch();
    for kind in kinds {
        let reached = control.hub.streams.reached().waypoints;
        assert_eq!(reached[&key("waypoint")], [None], "before {kind:?}");
        let response = session.next().await;
        let kind = Kind::of(&response.type_url).unwrap();
        session
            .send(kind, |request| request.response_nonce = response.nonce)
            .await;
    }
    let number = control.hub.mesh.borrow().snapshot.number();
    let has = |all: &streams::Subscribers| all.list().any(|it| it.reached == Some(number));
    timeout(PATIENCE, streams.wait_for(has))
        .await
        .unwrap()
        .unwrap();
    assert!(control.hub.streams.reached().nodes.is_empty());

    let mesh = Mesh {
        snapshot: Arc::clone(&control.hub.mesh.borrow().snapshot),
        bindings: [(
            key("cart"),
            Phase::Enforced {
                gateway: key("waypoint"),
            },
        )]
        .into(),
        ..Mesh::default()
    };
    control.hub.mesh.send_replace(Arc::new(mesh));
    let page = control.hub.metrics.text(&control.hub);
    for line in [
        "ambit_control_bindings{phase=\"enforced\"} 1",
        "ambit_control_bindings{phase=\"told\"} 0",
        "ambit_control_resources{type=\"route\"} 2",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let page: serde_json::Value = serde_json::from_str(&admin::subscribers(&control.hub)).unwrap();
    assert_eq!(page["subscribers"][0]["waypoint"], "shop/waypoint");
    assert_eq!(page["subscribers"][0]["types"]["route"]["current"], true);
    assert_eq!(page["bindings"]["shop/cart"]["published"], "shop/waypoint");
}
