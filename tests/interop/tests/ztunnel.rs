//! Our node proxies between a control plane and node agents that are not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cli::lab::Node;
use prost::Message as _;
use prost_types::value::Kind;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::DeltaDiscoveryRequest,
    security::{Authorization, Scope},
};
use rcgen::CertificateSigningRequestParams;
use sys::netns::privileged;
use tests::{
    agent::Agent,
    pod::{Pod, address, no_port},
    world::{ECHO, World},
};
use tests_interop::{
    control::{Control, PORT, Session},
    place, proxy,
};

const INSTANCE: [(&str, &str); 2] = [
    ("POD_NAME", "ztunnel-abcde"),
    ("POD_NAMESPACE", "mesh-system"),
];

fn told(control: &Control, pods: &[Pod]) {
    for pod in pods {
        let bytes = address(pod.workload()).encode_to_vec();
        control.tell(ADDRESS_TYPE, &pod.uid(), Some(bytes));
    }
}

#[test]
fn a_foreign_control_plane_and_foreign_agents_drive_our_node_proxies() {
    if !privileged("a_foreign_control_plane_and_foreign_agents_drive_our_node_proxies") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
    ];
    let world = World::new(place!(), "foreign-control", &pods);
    let control = Control::serving(&world);
    told(&control, &pods);
    let mut agents = Node::ALL.map(|node| Agent::new(&world, node));
    for (agent, node) in agents.iter_mut().zip(Node::ALL) {
        world.start_ztunnel(node, PORT, PORT, &INSTANCE);
        agent.greeted();
        agent.tell_all(&world, node);
        world.until("the proxy is ready", || world.ready(node));
    }
    let cart = world.ip("cart");
    let mut open = None;
    world.until(
        "pods talk, by certificates of the foreign authority",
        || {
            open = world.open("web", cart).ok();
            open.is_some()
        },
    );
    let policy = Authorization {
        scope: Scope::Namespace.into(),
        ..no_port("no-echo", ECHO)
    };
    let policy = policy.encode_to_vec();
    control.tell(AUTHORIZATION_TYPE, "shop/no-echo", Some(policy));
    open.unwrap().closed();
    world.refuses("web", cart);
    control.tell(AUTHORIZATION_TYPE, "shop/no-echo", None);
    world.until("the policy is gone", || world.open("web", cart).is_ok());

    begins_as_documented(&control.sessions());
    answers_with_type_and_nonce_alone(&control.sessions());
    asks_for_certificates_as_documented(&control);
    begins_again_with_what_it_holds(&world, &control, &pods);
}

fn requests(session: &Session) -> Vec<DeltaDiscoveryRequest> {
    let messages = session.messages.iter();
    messages
        .map(|it| DeltaDiscoveryRequest::decode(it.clone()).unwrap())
        .collect()
}

/// Of the two streams, one of each node, by the token that came with it.
fn of_node(sessions: &[Session], node: Node) -> &Session {
    let token = format!("Bearer foreign-token-{}", node.name());
    let mut all = sessions.iter().rev();
    all.find(|it| it.headers["authorization"] == token.as_str())
        .unwrap()
}

fn begins_as_documented(sessions: &[Session]) {
    for node in Node::ALL {
        let session = of_node(sessions, node);
        assert_eq!(session.headers["clusterid"], "Kubernetes");
        assert_eq!(session.headers["content-type"], "application/grpc");
        assert_eq!(session.headers["te"], "trailers");
        // Both types at once, and of each nothing but who asks: everything is wanted.
        let who = proxy::node(node.name(), node.address().into());
        for (message, type_url) in session
            .messages
            .iter()
            .zip([ADDRESS_TYPE, AUTHORIZATION_TYPE])
        {
            let request = DeltaDiscoveryRequest::decode(message.clone()).unwrap();
            let said = request.node.as_ref().unwrap();
            assert_eq!(said.id, who.id);
            let fields = &said.metadata.as_ref().unwrap().fields;
            for (name, value) in &who.metadata.as_ref().unwrap().fields {
                assert_eq!(fields.get(name), Some(value), "{name}");
            }
            let expected = DeltaDiscoveryRequest {
                node: request.node.clone(),
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            assert_eq!(request, expected);
        }
    }
}

fn answers_with_type_and_nonce_alone(sessions: &[Session]) {
    for session in sessions {
        let answers = &requests(session)[2..];
        assert!(!answers.is_empty());
        for answer in answers {
            assert!(answer.response_nonce.starts_with("foreign/"), "{answer:?}");
            let expected = DeltaDiscoveryRequest {
                type_url: answer.type_url.clone(),
                response_nonce: answer.response_nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            assert_eq!(*answer, expected);
        }
    }
}

fn asks_for_certificates_as_documented(control: &Control) {
    let asked = control.asked();
    for (node, name) in [("n1", "web"), ("n2", "cart")] {
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        let of_pod = asked.iter().find(|it| {
            let metadata = it.request.metadata.as_ref().unwrap();
            let field = metadata.fields["ImpersonatedIdentity"].kind.clone();
            field == Some(Kind::StringValue(identity.clone()))
        });
        let of_pod = of_pod.unwrap_or_else(|| panic!("nobody asked for {identity}"));
        let token = format!("Bearer foreign-token-{node}");
        assert_eq!(of_pod.headers["authorization"], token.as_str());
        assert_eq!(of_pod.headers["clusterid"], "Kubernetes");
        assert_eq!(of_pod.request.validity_duration, 86_400);
        let csr = CertificateSigningRequestParams::from_pem(&of_pod.request.csr).unwrap();
        assert_eq!(csr.params.distinguished_name.iter().count(), 0);
        let algorithm = csr.public_key.algorithm();
        assert_eq!(algorithm, &rcgen::PKCS_ECDSA_P256_SHA256);
    }
}

fn begins_again_with_what_it_holds(world: &World, control: &Control, pods: &[Pod]) {
    let before = control.sessions().len();
    control.end_streams();
    world.until("both have come again and said what they hold", || {
        let sessions = control.sessions();
        sessions.len() == before + 2 && sessions.iter().all(|it| it.messages.len() >= 2)
    });
    for session in &control.sessions()[before..] {
        let requests = requests(session);
        let held = &requests[0].initial_resource_versions;
        assert_eq!(requests[0].type_url, ADDRESS_TYPE);
        for pod in pods {
            let version = held.get(&pod.uid()).map_or("", String::as_str);
            assert!(version.starts_with('v'), "{held:?}");
        }
        assert!(requests[1].initial_resource_versions.is_empty());
        assert!(
            requests
                .iter()
                .all(|it| it.resource_names_subscribe.is_empty())
        );
    }
    world.open("web", world.ip("cart")).unwrap();
}
