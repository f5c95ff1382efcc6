//! What nodes and waypoints send to the control plane.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use control::{
    ca::Authority,
    compile::{Settings, compile},
    publish::{Kind, Snapshot, Stream},
    state::{SECRET, StateDir},
    subject::Subject,
    tokens::Tokens,
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use mesh::{
    delta::{self, Delta},
    identity::Identity,
    name::Name,
    waypoint::Store,
};
use prost::Message as _;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::scratch;

/// The token of node `n1`, of no value anywhere else.
const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let state = StateDir::open(&scratch("tokens")).expect("a new state directory");
    state
        .write("tokens/n1", TOKEN.as_bytes(), SECRET)
        .expect("it can be written");
    Tokens::open(Arc::new(state)).expect("a token as they are")
});

/// An authority of this process.
pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let state = StateDir::open(&scratch("authority")).expect("a new state directory");
    Authority::open(&state, "cluster.local", SystemTime::now()).expect("a new root")
});

/// `authorization` headers, one a line. Nobody is let in without the token, and the whole of it.
pub fn token(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(AUTHORIZATION, value);
        }
    }
    match TOKENS.caller(&headers) {
        Ok(caller) => {
            assert_eq!((caller, headers.len()), (Subject::Node("n1".to_owned()), 1));
            assert_eq!(&headers[AUTHORIZATION].as_bytes()[7..], TOKEN.as_bytes());
        }
        Err(why) => drop(why.to_string()),
    }
}

/// A certificate signing request: as PEM, and as what PEM holds. What is signed is for who it is to be for, and no
/// request says for how long.
pub fn request(data: &[u8]) {
    let who = Identity::new("cluster.local", "shop", "cart");
    let pem = String::from_utf8_lossy(data).into_owned();
    for text in [pem, armoured("CERTIFICATE REQUEST", data)] {
        let now = SystemTime::now();
        match AUTHORITY.sign(&text, who, Duration::from_secs(60), now) {
            Ok(issued) => {
                assert!(issued.leaf.starts_with("-----BEGIN CERTIFICATE-----"));
                assert_eq!(issued.expires, now + Duration::from_secs(60));
            }
            Err(error) => assert!(error.is_callers_fault(), "{error}"),
        }
    }
}

/// DER as PEM.
pub(super) fn armoured(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// Length-delimited `DeltaDiscoveryRequest`s of a proxy: a node's, and the same of a waypoint. After each it is brought to
/// one of two states in turn, and then there is nothing left to tell.
pub fn publish(data: &[u8]) {
    let waypoint = Subject::Waypoint(("shop".to_owned(), "waypoint".to_owned()));
    for subject in [Subject::Node("n1".to_owned()), waypoint] {
        subscribe(&subject, data);
    }
}

fn subscribe(subject: &Subject, mut data: &[u8]) {
    static STATES: LazyLock<[Arc<Snapshot>; 2]> = LazyLock::new(states);
    let mut stream = Stream::new(subject.clone());
    let mut store = Store::new(Name::new("ambit-system"));
    for state in STATES.iter().cycle() {
        let Ok(request) = DeltaDiscoveryRequest::decode_length_delimited(&mut data) else {
            return;
        };
        if let Err(malformed) = stream.request(request) {
            return drop(malformed.to_string());
        }
        for response in stream.push(state) {
            assert!(!response.nonce.is_empty() && response.encoded_len() < 4 << 20);
            let kind = Kind::of(&response.type_url).expect("a kind of ours");
            assert!(
                Kind::served(subject).contains(&kind),
                "{kind:?} is not for {subject}"
            );
            if matches!(subject, Subject::Waypoint(_)) {
                assert_eq!(store.apply(&delta(response)), []);
            }
        }
        assert_eq!(stream.push(state), [], "told once");
    }
}

fn delta(response: DeltaDiscoveryResponse) -> Delta {
    let resource = |it: Resource| delta::Resource {
        name: it.name,
        version: it.version,
        bytes: it.resource.unwrap_or_default().value,
    };
    Delta {
        type_url: response.type_url,
        resources: response.resources.into_iter().map(resource).collect(),
        removed: response.removed_resources,
    }
}

/// A pod, and a service that is bound to a waypoint, with a route and a policy; and the same a little later.
fn states() -> [Arc<Snapshot>; 2] {
    const FILES: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, labels: {app: cart}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1, phase: Running}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}, spec: {clusterIP: 10.1.0.1, selector: {app: cart}, ports: [{name: http, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}, status: {addresses: [{type: Hostname, value: waypoint.shop.svc.cluster.local}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: cart, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80, weight: 1}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: readers, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: cart}], rules: [{to: [{operation: {methods: [GET]}}]}]}}
";
    const POLICY: &str = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {selector: {matchLabels: {}}, rules: [{}]}}\n";
    let state = |text: String, previous: &Snapshot| {
        let files = BTreeMap::from([("a.yaml".into(), text)]);
        let loaded = control::source::load(&files, None);
        assert_eq!(loaded.problems, []);
        let settings = Settings {
            deploys: true,
            ..Settings::default()
        };
        let compiled = compile(&loaded.world, &settings);
        Arc::new(Snapshot::new(&compiled, previous))
    };
    let first = state(format!("{FILES}{POLICY}"), &Snapshot::default());
    let later = FILES.replace("Pod, metadata: {name: cart", "Pod, metadata: {name: bank");
    let second = state(later.replace("weight: 1", "weight: 2"), &first);
    [first, second]
}
