//! What a control plane sends to node proxies.

use std::{collections::BTreeSet, net::IpAddr};

use mesh::{
    decide::{Decision, Request, Which, decide},
    delta::{Delta, Resource},
    model::{Effect, Scope},
    name::Name,
    parse,
    session::Session,
    store::{Known, Store},
};
use prost::Message as _;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    core::Node,
    discovery::DeltaDiscoveryResponse,
    security::Authorization,
    workload::{Address, Workload, address::Type},
};

const ROOT: &str = "ambit-system";
const POD: &str = "Kubernetes//Pod/shop/cart";

fn store() -> Store {
    Store::new(Name::new("n1"), Name::new(ROOT))
}

fn delta(type_url: &str, name: &str, bytes: &[u8]) -> Delta {
    Delta {
        type_url: type_url.to_owned(),
        resources: vec![Resource {
            name: name.to_owned(),
            version: "1".to_owned(),
            bytes: bytes.to_vec(),
        }],
        removed: Vec::new(),
    }
}

/// An encoded `Authorization`. What cannot be decoded, holds what is unknown or is another's denies; and a denial
/// denies for its scope.
pub fn authorization(data: &[u8]) {
    let message = Authorization::decode(data);
    let name = message.as_ref().map_or_else(
        |_| "shop/p".to_owned(),
        |m| format!("{}/{}", m.namespace, m.name),
    );
    let read = |name: &str, bytes: &[u8]| parse::authorization(name, bytes, Name::new(ROOT));
    let policy = read(&name, data);
    let denies = |effect: &Effect| matches!(effect, Effect::DenyAll(_));
    if let Ok(message) = &message {
        let unknown = [data, &[0xf8, 1, 1]].concat();
        assert!(denies(&read(&name, &unknown).effect), "an unknown field");
        assert!(denies(&read("shop/another", data).effect) || name == "shop/another");
        if !denies(&policy.effect) {
            let again = read(&name, &message.encode_to_vec());
            assert_eq!(again.effect, policy.effect, "encoded anew");
        }
    } else {
        assert!(denies(&policy.effect), "{policy:?}");
    }
    let verdict = decided(&name, data);
    let here = match policy.scope {
        Scope::Namespace(namespace) => namespace.as_str() == "shop",
        // The workload lists it.
        Scope::Mesh | Scope::Selected => true,
    };
    if here && denies(&policy.effect) {
        assert!(matches!(verdict, Decision::Deny(_)), "{policy:?}");
    }
}

/// What a mesh of one workload, which lists the policy, makes of it.
fn decided(name: &str, bytes: &[u8]) -> Decision {
    let workload = Workload {
        uid: POD.to_owned(),
        namespace: "shop".to_owned(),
        authorization_policies: vec![name.to_owned()],
        ..Workload::default()
    };
    let address = Address {
        r#type: Some(Type::Workload(workload)),
    };
    let mut store = store();
    let (rejected, _) = store.apply(&delta(ADDRESS_TYPE, POD, &address.encode_to_vec()));
    assert_eq!(rejected, []);
    store.apply(&delta(AUTHORIZATION_TYPE, name, bytes));
    let generation = store.current();
    let workload = generation.workload(POD).expect("it was just put there");
    let request = Request {
        peer: "spiffe://cluster.local/ns/shop/sa/bank".parse().ok(),
        source: IpAddr::from([10, 0, 0, 2]),
        destination: IpAddr::from([10, 0, 0, 1]),
        port: 80,
    };
    decide(&generation, workload, &request, Which::All).decision
}

/// An encoded `Address`. One that is taken reads the same encoded anew, is found where it says that it can be reached,
/// and leaves nothing behind when it goes.
pub fn address(data: &[u8]) {
    let message = Address::decode(data);
    let name = match message.as_ref().map(|address| &address.r#type) {
        Ok(Some(Type::Workload(workload))) => workload.uid.clone(),
        Ok(Some(Type::Service(it))) => format!("{}/{}", it.namespace, it.hostname),
        Ok(None) | Err(_) => POD.to_owned(),
    };
    let parsed = parse::address(&name, data);
    let reach = parse::Address::reach(data);
    if let (Ok(message), Ok(parsed)) = (&message, &parsed) {
        let again = parse::address(&name, &message.encode_to_vec());
        assert_eq!(again.as_ref(), Ok(parsed), "encoded anew");
        assert!(parse::address("another", data).is_err() || name == "another");
    }
    let mut store = store();
    let (rejected, _) = store.apply(&delta(ADDRESS_TYPE, &name, data));
    let distrust = |parsed: &parse::Address| match parsed {
        parse::Address::Service(service) => {
            assert!(service.distrust.is_none() || service.trusted.is_empty());
            service.distrust.is_some()
        }
        parse::Address::Workload(_) => false,
    };
    let told = parsed.as_ref().map_or(true, distrust);
    assert_eq!(rejected.is_empty(), !told);
    let now = store.current();
    assert_eq!(
        now.workloads().count() + now.services().count(),
        usize::from(parsed.is_ok())
    );
    let known = |vip: &mesh::model::Vip| {
        !matches!(
            store
                .current()
                .lookup(vip.network, vip.address, Name::new("shop")),
            Known::Nothing
        )
    };
    assert!(reach.iter().all(known), "{parsed:?}");
    store.apply(&Delta {
        type_url: ADDRESS_TYPE.to_owned(),
        resources: Vec::new(),
        removed: vec![name],
    });
    let after = store.current();
    assert_eq!(after.workloads().count() + after.services().count(), 0);
    for vip in &reach {
        let found = after.lookup(vip.network, vip.address, Name::new("shop"));
        assert!(matches!(found, Known::Nothing), "{found:?}");
    }
}

/// Length-delimited `DeltaDiscoveryResponse`s, one after the other on one session. Each is answered once, by its nonce;
/// what it names is held, and what it removes is not.
pub fn session(mut data: &[u8]) {
    const TYPES: [&str; 2] = [ADDRESS_TYPE, AUTHORIZATION_TYPE];
    let (mut session, mut store) = (Session::new(&TYPES), store());
    while !data.is_empty() {
        let Ok(response) = DeltaDiscoveryResponse::decode_length_delimited(&mut data) else {
            return;
        };
        let names: BTreeSet<_> = response.resources.iter().map(|r| r.name.clone()).collect();
        let removed: BTreeSet<_> = response.removed_resources.iter().cloned().collect();
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        let Ok(answer) = session.on_response(response, |delta| store.apply(&delta).0) else {
            continue;
        };
        assert_eq!(
            (&answer.type_url, answer.response_nonce),
            (&type_url, nonce)
        );
        assert!(
            answer
                .error_detail
                .is_none_or(|status| status.message.len() < 16 << 10)
        );
        let requests = session.start(&Node::default());
        let request = requests.iter().find(|request| request.type_url == type_url);
        let held = &request.expect("it was answered").initial_resource_versions;
        assert_eq!(held.len(), session.held(&type_url));
        assert!(
            names
                .iter()
                .all(|name| name.is_empty() || held.contains_key(name))
        );
        let gone = |name: &String| names.contains(name) || !held.contains_key(name);
        assert!(removed.iter().all(gone));
    }
}
