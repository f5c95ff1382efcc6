//! Lines of text: identities, authorities, headers, settings.

use std::{
    cell::OnceCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh::{
    admit::{Arrival, Pod, admit},
    delta::{Delta, Resource},
    headers::{baggage, forwarded, forwarded_host, parse_baggage},
    identity::Identity,
    name::Name,
    parse,
    plan::{Outcome, PROXY_PORTS},
    store::{Generation, Store},
};
use prost::Message as _;
use proto::workload::{Address, Locality, Workload, address::Type};

const POD: &str = "Kubernetes//Pod/shop/cart";

/// What could be a SPIFFE id. One that is read prints as it was.
pub fn identity(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    match text.parse::<Identity>() {
        Ok(identity) => {
            assert_eq!(identity.to_string(), text);
            assert_eq!(format!("spiffe://{}", identity.principal()), text);
        }
        Err(error) => assert!(error.to_string().contains("spiffe://")),
    }
}

/// The authority of a CONNECT, after a byte that says at which address of the pod it came. Whoever enters ends at that
/// address, on the port that the text says, which is none of the proxy's.
pub fn authority(data: &[u8]) {
    thread_local!(static MESH: OnceCell<Arc<Generation>> = const { OnceCell::new() });
    let Some((at, Ok(authority))) = data
        .split_first()
        .map(|(at, rest)| (at, str::from_utf8(rest)))
    else {
        return;
    };
    let at: IpAddr = ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"][usize::from(at % 3)]
        .parse()
        .expect("these are addresses");
    let generation = MESH.with(|mesh| Arc::clone(mesh.get_or_init(one_pod)));
    let pod = Pod {
        uid: POD.into(),
        identity: Identity::new("cluster.local", "shop", "default"),
    };
    let arrival = Arrival::Tunnelled {
        peer: Identity::new("cluster.local", "shop", "bank"),
        at,
        authority,
    };
    match admit(&generation, &pod, arrival, IpAddr::from([10, 0, 0, 2])) {
        Outcome::Do(admission) => {
            assert_eq!(admission.to.ip(), at.to_canonical());
            assert!(!PROXY_PORTS.contains(&admission.to.port()) && admission.to.port() != 0);
            let said: SocketAddr = authority.parse().expect("it named a socket");
            assert_eq!(said.ip().to_canonical(), admission.to.ip());
            assert!(authority.ends_with(&format!(":{}", admission.to.port())));
        }
        Outcome::Refuse(refusal) => drop(refusal.to_string()),
        Outcome::Ask(question) => panic!("all is known, and yet {question:?}"),
    }
}

fn one_pod() -> Arc<Generation> {
    let workload = Workload {
        uid: POD.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..Workload::default()
    };
    let resource = Resource {
        name: POD.to_owned(),
        version: String::new(),
        bytes: encoded(workload),
    };
    let mut store = Store::new(Name::new("n1"), Name::new("ambit-system"));
    for (type_url, resources) in [
        (proto::ADDRESS_TYPE, vec![resource]),
        (proto::AUTHORIZATION_TYPE, Vec::new()),
    ] {
        store.apply(&Delta {
            type_url: type_url.to_owned(),
            resources,
            removed: Vec::new(),
        });
    }
    store.current()
}

fn encoded(workload: Workload) -> Vec<u8> {
    let r#type = Some(Type::Workload(workload));
    Address { r#type }.encode_to_vec()
}

/// The `baggage` and `forwarded` headers of a peer; and a workload whose fields are the text's lines. What is written
/// fits a header, and what is written is read.
pub fn headers(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    parse_baggage(text);
    if let Some(host) = forwarded_host(text) {
        assert!(text.contains(host));
    }
    let mut lines = text.split('\n').map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let host = line();
    let (workload_name, version, region) = (line(), line(), line());
    let message = Workload {
        uid: POD.to_owned(),
        namespace: "shop".to_owned(),
        workload_name: workload_name.clone(),
        canonical_revision: version.clone(),
        locality: Some(Locality {
            region: region.clone(),
            ..Locality::default()
        }),
        ..Workload::default()
    };
    let Ok(parse::Address::Workload(workload)) = parse::address(POD, &encoded(message)) else {
        panic!("nothing is wrong with the workload");
    };
    let written = baggage(&workload);
    assert!(
        written.bytes().all(|byte| byte.is_ascii_graphic()),
        "{written:?}"
    );
    if written.len() <= 8192 {
        let read = parse_baggage(&written);
        assert_eq!(read.workload.unwrap_or_default(), workload_name);
        assert_eq!(read.version.unwrap_or_default(), version);
        assert_eq!(read.region.unwrap_or_default(), region);
    }
    if host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
    {
        let client = SocketAddr::from(([10, 0, 0, 1], 80));
        assert_eq!(
            forwarded_host(&forwarded(client, Some(&host))),
            Some(&*host)
        );
    }
}

/// Settings as operators write them. A length of time that is whole seconds reads the same written as such.
pub fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Some(length) = net::config::duration(text)
        && length.subsec_nanos() == 0
    {
        let seconds = format!("{}s", length.as_secs());
        assert_eq!(net::config::duration(&seconds), Some(length));
    }
    if let Some(size) = net::config::size(text) {
        assert_eq!(net::config::size(&size.to_string()), Some(size));
    }
}
