//! The desk with an agent and an API server that say what a test wants.

use std::{collections::VecDeque, convert::Infallible};

use crate::report::Report;
use cni::talk::Pod;
use kube::client::Body;
use proto::node::PodReport;
use serde_json::json;

use super::*;
use crate::kubernetes::pods::Told;

const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const UNKNOWN: Told = Told::Unknown {
    namespace_is_out: false,
};

/// An API server that has one pod, or fails.
fn api(pod: Option<serde_json::Value>, status: u16) -> Client {
    let answer = pod.unwrap_or_else(
        || json!({"kind": "Status", "status": "Failure", "code": status, "reason": if status == 404 { "NotFound" } else { "" }, "message": ""}),
    );
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let body = Body::from(answer.to_string().into_bytes());
        let response = http::Response::builder().status(status).body(body).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    Client::new(service, "default")
}

fn question() -> Question {
    Question {
        pod: Pod {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            uid: UID.to_owned(),
        },
        netns: "/run/netns/a".into(),
        fd: 5,
    }
}

/// What the plugin is told, where the agent says `script` and then nothing any more; and how often a pod was handed over
/// with a question.
async fn told(script: &[Told], client: Client, host: Host) -> (Answer, usize) {
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    let report = Report {
        pod: PodReport {
            uid: UID.to_owned(),
            reason: "the proxy sleeps".to_owned(),
            ..PodReport::default()
        },
        is_hidden: false,
        is_in: true,
        is_probed_as_plain: false,
        past: 0,
    };
    let (_reporter, reports) = watch::channel(Some(vec![report]));
    let (_host, hosts) = watch::channel(Some(host));
    let desk = Desk {
        asks,
        client,
        reports,
        hosts,
    };
    let mut script: VecDeque<_> = script.iter().copied().collect();
    let agent = tokio::spawn(async move {
        let (mut fetched, mut open) = (0, Vec::new());
        while let Some(ask) = asked.recv().await {
            fetched += usize::from(ask.pod.is_some());
            match script.pop_front() {
                Some(told) => ask.reply.send(told).unwrap(),
                None => open.push(ask.reply),
            }
        }
        fetched
    });
    let netns = Arc::new(Netns::current().unwrap());
    let answer = decide(&question(), &netns, &desk).await;
    drop(desk);
    (answer, agent.await.unwrap())
}

fn pod(uid: &str) -> Option<serde_json::Value> {
    Some(json!({"metadata": {"name": "cart", "namespace": "shop", "uid": uid}}))
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_once_it_is_captured_or_if_it_is_out_of_the_mesh() {
    for end in [Told::Captured, Told::Out] {
        let (answer, _) = told(&[end], api(None, 503), Host::default()).await;
        assert_eq!(answer, Answer::Ok, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_does_not_know_yet_the_api_server_is_asked_for() {
    let script = [UNKNOWN, Told::In, Told::In, Told::Captured];
    let (answer, fetched) = told(&script, api(pod(UID), 200), Host::default()).await;
    assert_eq!((answer, fetched), (Answer::Ok, 3));
    for client in [api(None, 404), api(pod("another"), 200)] {
        let (answer, _) = told(&[UNKNOWN], client, Host::default()).await;
        let Answer::Error(reason) = answer else {
            panic!("it is gone");
        };
        assert!(reason.contains("does not have it"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_silent_the_namespace_decides() {
    let out = Told::Unknown {
        namespace_is_out: true,
    };
    let (answer, _) = told(&[out], api(None, 503), Host::default()).await;
    assert_eq!(answer, Answer::Ok);
    let script = [UNKNOWN, UNKNOWN, Told::Captured];
    let (answer, fetched) = told(&script, api(None, 503), Host::default()).await;
    assert_eq!((answer, fetched), (Answer::Ok, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_captured_in_time_does_not_start_unless_its_namespace_prefers_plain() {
    let host = |plain: &[&str]| Host {
        own: "mesh".to_owned(),
        plain: plain.iter().map(|name| (*name).to_owned()).collect(),
        ..Host::default()
    };
    let (answer, _) = told(&[], api(None, 503), host(&[])).await;
    let Answer::Error(reason) = answer else {
        panic!("nobody captures it");
    };
    for part in ["shop/cart", "20 s: the proxy sleeps", "-n mesh get pods"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (answer, _) = told(&[], api(None, 503), host(&["shop"])).await;
    assert_eq!(answer, Answer::Ok);
}

#[tokio::test]
async fn the_plugin_itself_is_answered_over_the_socket() {
    let directory = std::env::temp_dir().join(format!("ambit-desk-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    let (_reporter, reports) = watch::channel(None);
    let (_host, hosts) = watch::channel(None);
    let desk = Desk {
        asks,
        client: api(None, 503),
        reports,
        hosts,
    };
    let listener = bind(&directory.join(cni::SOCKET)).unwrap();
    let serving = tokio::spawn(serve(listener, desk));
    let plugin = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || {
            let netns = Path::new("/proc/self/ns/net");
            let socket = directory.join(cni::SOCKET);
            cni::ask::ask(&socket, &question().pod, netns, cni::ask::PATIENCE)
        }
    });
    let ask = asked.recv().await.unwrap();
    assert_eq!((ask.key.0.as_str(), ask.uid.as_str()), ("shop", UID));
    let own = Netns::current().unwrap().id().unwrap();
    assert_eq!(
        ask.netns.id().unwrap(),
        own,
        "the namespace that the plugin has open"
    );
    ask.reply.send(Told::Captured).unwrap();
    assert_eq!(plugin.await.unwrap().unwrap(), Answer::Ok);
    serving.abort();
    std::fs::remove_dir_all(directory).unwrap();
}
