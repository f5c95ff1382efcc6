//! What people see of tables, routes, backends and policies.

use mesh::{
    delta::{Delta, Resource},
    waypoint::Store,
};
use prost::Message;
use proto::{
    waypoint::{
        Action, Authorization, AuthorizationOperation, AuthorizationRule, Backend, Destination,
        Field, Match, Policy, Port, Protocol, Reference, Route, Rule, Table, Text, WeightedBackend,
        r#match::Path, policy::Policy as Kind, text, weighted_backend::Target,
    },
    workload::{self, Service},
};
use serde_json::json;

use super::*;

const KEY: &str = "shop/orders.shop.svc.cluster.local";

fn told(store: &mut Store, type_url: &str, name: &str, message: &impl Message) {
    let resource = Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        bytes: message.encode_to_vec(),
    };
    let delta = Delta {
        type_url: type_url.to_owned(),
        resources: vec![resource],
        removed: Vec::new(),
    };
    assert_eq!(store.apply(&delta), []);
}

fn reference(name: &str) -> Reference {
    Reference {
        name: name.to_owned(),
        version: "1".to_owned(),
    }
}

fn route() -> Route {
    let header = Field {
        name: "user-agent".to_owned(),
        value: Some(Text {
            text: Some(text::Text::Regex("test.*".to_owned())),
        }),
    };
    let rule = Rule {
        matches: vec![Match {
            path: Some(Path::Prefix("/a/".to_owned())),
            headers: vec![header],
            ..Match::default()
        }],
        backends: vec![WeightedBackend {
            weight: 90,
            target: Some(Target::Destination(Destination {
                backend: KEY.to_owned(),
                port: 80,
            })),
            ..WeightedBackend::default()
        }],
        request_timeout: 1500,
        ..Rule::default()
    };
    Route {
        kind: "HTTPRoute".to_owned(),
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
        created: 7,
        hostnames: vec!["*.example.com".to_owned()],
        rules: vec![rule],
        ..Route::default()
    }
}

fn policy() -> Policy {
    let operation = AuthorizationOperation {
        methods: vec!["GET".to_owned()],
        paths: vec!["/admin/*".to_owned(), "/a/{*}".to_owned()],
        ..AuthorizationOperation::default()
    };
    let policy = Authorization {
        namespace: "shop".to_owned(),
        name: "no-admin".to_owned(),
        action: Action::Deny.into(),
        rules: vec![AuthorizationRule {
            to: vec![operation],
            ..AuthorizationRule::default()
        }],
        ..Authorization::default()
    };
    Policy {
        policy: Some(Kind::Http(policy)),
        ..Policy::default()
    }
}

#[test]
fn what_is_in_force_is_shown_in_the_words_of_its_objects() {
    let mut store = Store::new("ambit-system".into());
    let service = Service {
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        hostname: "orders.shop.svc.cluster.local".to_owned(),
        ports: vec![workload::Port {
            service_port: 80,
            target_port: 8080,
            app_protocol: 0,
        }],
        ..Service::default()
    };
    let backend = Backend {
        service: Some(service),
        ..Backend::default()
    };
    let table = Table {
        backend: KEY.to_owned(),
        backends: vec![KEY.to_owned()],
        ports: vec![Port {
            number: 80,
            protocol: Protocol::Http.into(),
            routes: vec![reference("r")],
            name: "web".to_owned(),
        }],
        policies: vec![reference("http/shop/no-admin")],
        ..Table::default()
    };
    told(
        &mut store,
        proto::POLICY_TYPE,
        "http/shop/no-admin",
        &policy(),
    );
    told(&mut store, proto::BACKEND_TYPE, KEY, &backend);
    told(&mut store, proto::ROUTE_TYPE, "r", &route());
    told(&mut store, proto::TABLE_TYPE, KEY, &table);
    let generation = store.current();

    let tables: Vec<Value> = generation.tables().map(route::table).collect();
    let want = json!([{
        "namespace": "shop", "hostname": "orders.shop.svc.cluster.local",
        "ports": [{ "number": 80, "name": "web", "protocol": "HTTP", "routes": ["HTTPRoute/shop/orders"] }],
        "policies": ["shop/no-admin"],
    }]);
    assert_eq!(json!(tables), want);

    let want = json!([{
        "kind": "HTTPRoute", "namespace": "shop", "name": "orders", "created": 7,
        "parents": [format!("{KEY}:80")], "hostnames": ["*.example.com"],
        "rules": [{
            "matches": [{
                "path": { "prefix": "/a" },
                "headers": [{ "name": "user-agent", "value": { "regex": "test.*" } }],
            }],
            "backends": [{ "service": KEY, "port": 80, "weight": 90 }],
            "requestTimeout": "1500ms",
        }],
    }]);
    assert_eq!(json!(route::routes(generation)), want);

    let want = json!([{
        "namespace": "shop", "name": "no-admin", "action": "Deny", "dryRun": false,
        "rules": [{ "to": [{ "methods": ["GET"], "paths": ["/admin/*", "/a/{*}"] }] }],
    }]);
    assert_eq!(json!(policy::policies(generation)), want);

    let shown: Vec<Value> = generation
        .backends()
        .map(|b| route::backend(generation, b))
        .collect();
    assert_eq!(shown[0]["hostname"], "orders.shop.svc.cluster.local");
    assert_eq!(shown[0]["endpoints"], json!([]));
}
