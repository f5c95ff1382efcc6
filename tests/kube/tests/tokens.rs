//! Who may ask the control plane what, on a real cluster: with tokens of its API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, time::Duration};

use mesh::identity::Identity;
use net::{
    ca::{Authority, NotIssued},
    channel::{Caller, Roots, Server, Token},
    clock,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sys::netns::Netns;
use tests_kube::{
    Cluster, Pod, gateway,
    mesh::{NAMESPACE, install, load},
    pod,
    program::wait,
    token,
};
use tonic::{Code, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

const SOON: Duration = Duration::from_secs(60);
const DISCOVERY: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const AUDIENCE: Option<&str> = Some("istio-ca");

/// The control plane, as it is reached from a node.
struct Control {
    netns: Netns,
    server: Server,
}

impl Control {
    fn of(cluster: &Cluster) -> Self {
        let service = cluster.get(&["-n", NAMESPACE, "service", "ambit-control"]);
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        let roots = cluster.get(&["-n", NAMESPACE, "configmap", "istio-ca-root-cert"]);
        let roots = roots["data"]["root-cert.pem"].as_str().unwrap();
        let name = format!("ambit-control.{NAMESPACE}.svc");
        let address = format!("https://{address}:15012");
        let server = Server::new(&address, Roots::Pem(roots.to_owned()), Some(&name));
        Self {
            netns: cluster.netns("kn1"),
            server: server.unwrap(),
        }
    }

    /// Does something with a channel that leaves from the node.
    fn with<T, F: Future<Output = T>>(&self, f: impl FnOnce(Channel) -> F) -> T {
        let asked = self.netns.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(async { f(self.server.lazy()).await }))
        });
        asked.unwrap()
    }

    /// A certificate for this identity, or why not.
    fn certificate(&self, token: &str, identity: &str) -> Result<(), (Code, String)> {
        let identity: Identity = identity.parse().unwrap();
        let issued = self.with(|channel| async move {
            let authority = Authority {
                channel,
                caller: caller(Some(token)),
                life: Duration::from_secs(3600),
                aliases: Vec::new(),
                now: clock::wall,
            };
            authority.issue(identity).await
        });
        match issued {
            Ok(_) => Ok(()),
            Err(NotIssued::Refused(code, why)) => Err((code, why)),
            Err(other) => panic!("{other}"),
        }
    }

    /// What is sent first to who subscribes to all of a type, or why nothing is.
    fn discovery(
        &self,
        token: Option<&str>,
        type_url: &str,
    ) -> Result<DeltaDiscoveryResponse, (Code, String)> {
        let answer = self.with(|channel| async move {
            let first = DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            let requests = tokio_stream::once(first);
            let requests = tokio_stream::StreamExt::chain(requests, tokio_stream::pending());
            let request = caller(token).request(requests).unwrap();
            let mut client = Grpc::new(channel);
            let ready = client.ready().await;
            ready.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
            let path = PathAndQuery::from_static(DISCOVERY);
            let mut answers = client.streaming(request, path, codec).await?.into_inner();
            let first = answers.message().await?;
            first.ok_or_else(|| Status::unknown("nothing was sent"))
        });
        answer.map_err(|status: Status| (status.code(), status.message().to_owned()))
    }
}

fn caller(token: Option<&str>) -> Caller {
    Caller {
        token: token.map(|token| Token::Literal(token.to_owned())),
        cluster: "Kubernetes".to_owned(),
        headers: Vec::new(),
    }
}

fn refused<T>(answer: Result<T, (Code, String)>, code: Code, why: &str) {
    let Err((found, said)) = answer else {
        panic!("not refused: {why}");
    };
    assert_eq!(found, code, "{said}");
    assert!(said.contains(why), "{said:?} does not say {why:?}");
}

fn shop() -> String {
    let pod = |name: &str, account: &str, node: &str| {
        Pod::echo("shop", name)
            .on(node)
            .account(account)
            .to_string()
    };
    [
        pod("client", "client", "kn1"),
        pod("server", "server", "kn2"),
        pod("leaving", "client", "kn1"),
        // As the node proxies are called, and elsewhere.
        pod("proxy", "ztunnel", "kn1"),
        pod("wp", "wp", "kn2"),
    ]
    .concat()
}

fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

#[test]
fn everybody_is_told_what_its_token_is_good_for_and_nothing_else() {
    let Some(cluster) = Cluster::start("tokens on a cluster", 2) else {
        return;
    };
    load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    install(&cluster, &["control.replicas=1"]);
    cluster.apply(&gateway::api());
    cluster.does(&["create", "namespace", "shop"]);
    cluster.apply(&shop());
    pod::ready(&cluster, "shop");
    let control = Control::of(&cluster);

    no_good_token(&cluster, &control);
    a_node_proxy(&cluster, &control);
    a_plain_account(&cluster, &control);
    a_waypoint(&cluster, &control);
    a_pod_that_is_gone(&cluster, &control);
}

/// Neither service tells who shows none of its own anything.
fn no_good_token(cluster: &Cluster, control: &Control) {
    let ztunnel = (NAMESPACE, "ztunnel");
    let pod = token::pod_on(cluster, NAMESPACE, "ztunnel", "kn1");
    let client = spiffe("shop", "client");
    let refused_twice = |token: &str, why: &str| {
        let discovery = control.discovery(Some(token), proto::ADDRESS_TYPE);
        refused(discovery, Code::Unauthenticated, why);
        refused(
            control.certificate(token, &client),
            Code::Unauthenticated,
            why,
        );
    };
    let none = control.discovery(None, proto::ADDRESS_TYPE);
    refused(none, Code::Unauthenticated, "no bearer token");
    refused_twice("forged", "the API server does not take the bearer token");
    for audience in [None, Some("another")] {
        let wrong = token::of(cluster, ztunnel, Some(&pod), audience);
        refused_twice(&wrong, "audience");
    }
    let unbound = token::of(cluster, ztunnel, None, AUDIENCE);
    refused_twice(&unbound, "the bearer token is not bound to a pod");
}

fn a_node_proxy(cluster: &Cluster, control: &Control) {
    let pod = token::pod_on(cluster, NAMESPACE, "ztunnel", "kn1");
    let token = token::of(cluster, (NAMESPACE, "ztunnel"), Some(&pod), AUDIENCE);
    for kind in [proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE] {
        let told = control.discovery(Some(&token), kind);
        told.unwrap_or_else(|refused| panic!("{kind}: {refused:?}"));
    }
    let told = control.discovery(Some(&token), proto::TABLE_TYPE);
    refused(told, Code::InvalidArgument, proto::TABLE_TYPE);

    let own = control.certificate(&token, &spiffe("shop", "client"));
    own.unwrap_or_else(|refused| panic!("{refused:?}"));
    let not_here = "no pod on the caller's node runs as this identity";
    for account in ["server", "nobody"] {
        let asked = control.certificate(&token, &spiffe("shop", account));
        refused(asked, Code::PermissionDenied, not_here);
    }
    let foreign = "spiffe://other.example/ns/shop/sa/client";
    let not_ours = "the trust domain other.example is not ours";
    refused(
        control.certificate(&token, foreign),
        Code::PermissionDenied,
        not_ours,
    );
}

/// Whoever runs as another account gets a certificate of its own, and is told nothing of the mesh.
fn a_plain_account(cluster: &Cluster, control: &Control) {
    for (pod, account) in [("client", "client"), ("proxy", "ztunnel")] {
        let token = token::of(cluster, ("shop", account), Some(pod), AUDIENCE);
        let own = control.certificate(&token, &spiffe("shop", account));
        own.unwrap_or_else(|refused| panic!("{refused:?}"));
        let server = control.certificate(&token, &spiffe("shop", "server"));
        refused(server, Code::PermissionDenied, "its own identity alone");
        for kind in [
            proto::ADDRESS_TYPE,
            proto::AUTHORIZATION_TYPE,
            proto::TABLE_TYPE,
        ] {
            let why = format!(
                "service account shop/{account} is neither a node proxy nor the waypoint of a Gateway"
            );
            let told = control.discovery(Some(&token), kind);
            refused(told, Code::PermissionDenied, &why);
        }
    }
}

/// An account becomes a waypoint's by a Gateway of its name.
fn a_waypoint(cluster: &Cluster, control: &Control) {
    let token = token::of(cluster, ("shop", "wp"), Some("wp"), AUDIENCE);
    let before = control.discovery(Some(&token), proto::TABLE_TYPE);
    refused(
        before,
        Code::PermissionDenied,
        "neither a node proxy nor the waypoint",
    );
    wait("the waypoint to be served", SOON, || {
        // The kind may not be served yet.
        let applied = cluster.kubectl_with(&["apply", "-f", "-"], gateway::WAYPOINT);
        applied.map_err(|failed| failed.to_string())?;
        let told = control.discovery(Some(&token), proto::TABLE_TYPE);
        told.map_err(|refused| format!("{refused:?}"))
    });
    for kind in [proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE] {
        let told = control.discovery(Some(&token), kind);
        refused(told, Code::InvalidArgument, kind);
    }
    let own = control.certificate(&token, &spiffe("shop", "wp"));
    own.unwrap_or_else(|refused| panic!("{refused:?}"));
    let server = control.certificate(&token, &spiffe("shop", "server"));
    refused(server, Code::PermissionDenied, "its own identity alone");
}

fn a_pod_that_is_gone(cluster: &Cluster, control: &Control) {
    let own = spiffe("shop", "client");
    let token = token::of(cluster, ("shop", "client"), Some("leaving"), AUDIENCE);
    let there = control.certificate(&token, &own);
    there.unwrap_or_else(|refused| panic!("{refused:?}"));
    cluster.does(&["-n", "shop", "delete", "pod", "leaving", "--wait"]);
    // The API server itself remembers for ten seconds that the token was good.
    wait("the token to be refused", SOON, || {
        match control.certificate(&token, &own) {
            Ok(()) => Err("it is good still".to_owned()),
            answer => {
                let why = "the API server does not take the bearer token";
                refused(answer, Code::Unauthenticated, why);
                Ok(())
            }
        }
    });
}
