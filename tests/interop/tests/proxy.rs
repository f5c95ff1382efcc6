//! A node proxy that is not ours between our control plane and our node agent, with one of ours on the other node.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, net::SocketAddr};

use bytes::Bytes;
use cli::lab::{CONTROL, Node};
use prost::Message as _;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    security::Authorization,
    workload::{Address, TunnelProtocol, Workload, address::Type, zds::WorkloadRequest},
};
use sys::netns::{Netns, privileged};
use tests::{
    mesh::{PORT, policy},
    pod::Pod,
    world::{ECHO, PATIENCE, World},
};
use tests_interop::{
    grpc::Client,
    mesh::Mesh,
    place,
    proxy::{Stream, certificate, node},
    tunnel::{self, Credential, echoes, through},
    zds::{self, Proxy, SNAPSHOT_SENT},
};

/// Our control plane, our agents, and our proxy on the second node alone.
fn mesh(name: &str, pods: &[Pod]) -> Mesh {
    let mesh = Mesh::new(place!(), name, pods);
    mesh.start_ours(Node::Two);
    mesh
}

/// Our foreign proxy's connection to the control plane.
async fn client_of(mesh: &Mesh) -> Client {
    let to = SocketAddr::from((CONTROL, PORT));
    let one = mesh.lab.node(Node::One);
    let stream = mesh.lab.connect(one, to, PATIENCE).unwrap();
    let read = |path: &str| fs::read_to_string(mesh.path(path)).unwrap();
    let token = read("state/tokens/n1");
    let roots = read("state/root-cert.pem");
    let client = Client::over(stream, &roots, CONTROL.into(), token.trim());
    client.await.unwrap()
}

/// Takes a pod that the agent offers: the name by which the agent knows it.
fn taken(mesh: &Mesh, proxy: &Proxy, pod: &str) -> String {
    let packet = proxy.next();
    let uid = offered(mesh, &packet, pod);
    proxy.done();
    uid
}

/// That a packet offers this pod, in these bytes, with its namespace.
fn offered(mesh: &Mesh, packet: &zds::Packet, pod: &str) -> String {
    use proto::workload::zds::workload_request::Payload;
    let read = WorkloadRequest::decode(packet.bytes.as_slice()).unwrap();
    let Some(Payload::Add(add)) = read.payload else {
        panic!("{packet:?}");
    };
    let (uid, account) = (add.uid, pod);
    assert_eq!(packet.bytes, zds::add(&uid, pod, "shop", account));
    let netns = packet
        .fd
        .as_ref()
        .expect("a namespace")
        .try_clone()
        .unwrap();
    let netns = Netns::from_fd(netns).unwrap();
    assert_eq!(netns.id().unwrap(), mesh.netns(pod).id().unwrap());
    uid
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn uid(pod: &str) -> String {
    format!("Kubernetes//Pod/shop/{pod}")
}

fn workload(bytes: &Bytes) -> Workload {
    let address = Address::decode(bytes.clone()).unwrap();
    let Some(Type::Workload(workload)) = address.r#type else {
        panic!("{address:?}");
    };
    workload
}

fn identity(pod: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{pod}")
}

#[test]
fn our_agent_hands_its_pods_to_a_foreign_proxy() {
    if !privileged("our_agent_hands_its_pods_to_a_foreign_proxy") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("late", Node::One, 11),
    ];
    let mut mesh = mesh("foreign-zds", &pods[..1]);
    let socket = mesh.path("zds/n1");
    let proxy = Proxy::greeting(&socket);
    let web = taken(&mesh, &proxy, "web");
    assert_eq!(proxy.next().bytes, SNAPSHOT_SENT);
    proxy.done();

    // A second generation is told of all; what comes then goes to it alone, and what goes, to both.
    let next = Proxy::greeting(&socket);
    assert_eq!(taken(&mesh, &next, "web"), web);
    assert_eq!(next.next().bytes, SNAPSHOT_SENT);
    next.done();
    mesh.add_pod(pods[1].clone());
    mesh.put("pod-late", &pods[1].manifest());
    let packet = next.next();
    let late = offered(&mesh, &packet, "late");
    next.refuses("not now");
    // It is offered again.
    assert_eq!(taken(&mesh, &next, "late"), late);
    assert!(proxy.is_told_nothing());
    mesh.take("pod-web");
    for each in [&proxy, &next] {
        let packet = each.next();
        assert_eq!(packet.bytes, zds::del(&web));
        assert!(packet.fd.is_none());
        each.done();
    }
}

#[test]
fn our_control_plane_and_our_proxy_serve_a_foreign_one() {
    if !privileged("our_control_plane_and_our_proxy_serve_a_foreign_one") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
    ];
    let mesh = mesh("foreign-proxy", &pods);
    let proxy = Proxy::greeting(&mesh.path("zds/n1"));
    taken(&mesh, &proxy, "web");
    assert_eq!(proxy.next().bytes, SNAPSHOT_SENT);
    proxy.done();
    runtime().block_on(async {
        let client = client_of(&mesh).await;
        let held = is_told_of_the_mesh(&mesh, &client).await;
        is_told_only_what_changed(&client, &held).await;
        let own = gets_certificates_of_its_node_alone(&mesh, &client).await;
        carries(&mesh, &own).await;
    });
}

/// The state, and each change, one type at a time; a refusal changes nothing. Name and version of the workloads.
async fn is_told_of_the_mesh(mesh: &Mesh, client: &Client) -> Vec<(String, String)> {
    let who = node("n1", Node::One.address().into());
    let mut stream = Stream::begin(client, &who, &[]).await;
    let captured = |stream: &Stream, pod: &str| {
        let found = stream.get(ADDRESS_TYPE, &uid(pod));
        found.is_some_and(|it| workload(it).tunnel_protocol == i32::from(TunnelProtocol::Hbone))
    };
    stream
        .until(|it| captured(it, "web") && captured(it, "cart"))
        .await;
    let cart = workload(stream.get(ADDRESS_TYPE, &uid("cart")).unwrap());
    assert_eq!(
        (cart.name.as_str(), cart.namespace.as_str()),
        ("cart", "shop")
    );
    assert_eq!(
        (cart.service_account.as_str(), cart.node.as_str()),
        ("cart", "n2")
    );

    let name = "shop/no-web";
    let deny = policy("no-web", "cart", "DENY", "cluster.local/ns/shop/sa/web");
    mesh.put("deny", &deny);
    stream
        .until(|it| it.get(AUTHORIZATION_TYPE, name).is_some())
        .await;
    let bytes = stream.get(AUTHORIZATION_TYPE, name).unwrap().clone();
    let read = Authorization::decode(bytes).unwrap();
    assert_eq!(
        (read.name.as_str(), read.namespace.as_str()),
        ("no-web", "shop")
    );
    let names = |it: &Stream| {
        let cart = it.get(ADDRESS_TYPE, &uid("cart"));
        cart.is_some_and(|it| workload(it).authorization_policies == [name])
    };
    stream.until(names).await;

    // What is taken out goes a second later. The answer to that is a refusal, after which the stream goes on.
    mesh.take("deny");
    let gone = |it: &Stream| it.get(AUTHORIZATION_TYPE, name).is_none();
    while !gone(&stream) {
        stream
            .next(Some("shop/no-web: not understood"))
            .await
            .unwrap();
    }
    mesh.put("deny", &deny.replace("no-web", "again"));
    stream
        .until(|it| it.get(AUTHORIZATION_TYPE, "shop/again").is_some())
        .await;
    mesh.take("deny");
    stream
        .until(|it| it.get(AUTHORIZATION_TYPE, "shop/again").is_none())
        .await;
    stream
        .until(|it| {
            !workload(it.get(ADDRESS_TYPE, &uid("cart")).unwrap())
                .authorization_policies
                .contains(&"shop/again".to_owned())
        })
        .await;
    let held = stream
        .held
        .iter()
        .filter(|((kind, _), _)| kind == ADDRESS_TYPE);
    held.map(|((_, name), (_, version))| (name.clone(), version.clone()))
        .collect()
}

/// Who comes again is told neither what it holds, nor nothing of what is gone.
async fn is_told_only_what_changed(client: &Client, held: &[(String, String)]) {
    let stale = format!("{}-gone", uid("web"));
    let mut claims: Vec<_> = held
        .iter()
        .map(|(name, it)| (name.as_str(), it.as_str()))
        .collect();
    assert!(claims.iter().all(|(_, version)| !version.is_empty()));
    claims.push((&stale, "1"));
    let who = node("n1", Node::One.address().into());
    let mut stream = Stream::begin(client, &who, &claims).await;
    let answer = loop {
        let answer = stream.next(None).await.unwrap();
        if answer.type_url == ADDRESS_TYPE {
            break answer;
        }
    };
    let names: Vec<_> = answer.resources.iter().map(|it| &it.name).collect();
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(answer.removed_resources, [stale]);
}

async fn gets_certificates_of_its_node_alone(mesh: &Mesh, client: &Client) -> Credential {
    let own = certificate(client, &identity("web")).await.unwrap();
    let (root, chain) = own.chain.split_last().unwrap();
    assert!(!chain.is_empty());
    assert!(tunnel::names(
        &tunnel::certificate(&chain[0]),
        &identity("web")
    ));
    let published = fs::read_to_string(mesh.path("state/root-cert.pem")).unwrap();
    assert_eq!(root.trim(), published.trim());
    let foreign = "spiffe://other.example/ns/shop/sa/web".to_owned();
    for refused in [identity("cart"), identity("nobody"), foreign] {
        let refused = certificate(client, &refused).await.unwrap_err();
        // Permission denied.
        assert_eq!(refused.code, "7", "{refused:?}");
        assert!(!refused.said.is_empty());
    }
    own
}

/// Tunnels between the foreign proxy and ours, in both directions.
async fn carries(mesh: &Mesh, own: &Credential) {
    let world: &World = mesh;
    let (web, cart) = (world.ip("web"), world.ip("cart"));
    let netns = world.netns("web");
    let to = SocketAddr::new(cart, ECHO);
    let answer = through(netns, own, to, &identity("cart"), b"over the tunnel").await;
    assert_eq!(answer, Ok((200, b"over the tunnel".to_vec())));
    let wrong = through(netns, own, to, &identity("web"), b"").await;
    assert!(wrong.unwrap_err().contains("it is not"));

    echoes(netns, own);
    tokio::task::block_in_place(|| {
        world.until("the other way", || world.open("cart", web).is_ok());
        mesh.put(
            "deny",
            &policy("no-web", "cart", "DENY", "cluster.local/ns/shop/sa/web"),
        );
    });
    loop {
        let denied = through(netns, own, to, &identity("cart"), b"").await;
        match denied.unwrap() {
            (401, _) => break,
            (200, _) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            (other, _) => panic!("status {other}"),
        }
    }
}
