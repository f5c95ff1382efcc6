//! The proxy's end of ZDS, against an agent in this process. Bytes are those of the protocol, written out.

use std::{
    fs::File,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicUsize},
};

use net::{
    config::Environment,
    metrics::{Metrics, Proxies},
};
use sys::seqpacket::Received;
use tokio::{
    sync::{mpsc, mpsc::UnboundedReceiver},
    task::JoinHandle,
};

use super::*;
use crate::{config::Config, telemetry::Telemetry};

const HELLO: &[u8] = &[0x08, 0x01];
const DONE: &[u8] = &[0x0a, 0x00];
const SNAPSHOT_SENT: &[u8] = &[0x1a, 0x00];

/// A node agent, and what the proxy's one worker is told.
struct Agent {
    socket: AsyncFd<Connection>,
    told: UnboundedReceiver<Command>,
    seen: watch::Receiver<Seen>,
    proxy: JoinHandle<io::Result<()>>,
}

impl Agent {
    /// An agent to which a proxy has said hello.
    async fn start() -> Self {
        let (near, far) = Connection::pair().unwrap();
        let (worker, told) = mpsc::unbounded_channel();
        let (certificates, _) = net::certificates::Certificates::new(net::clock::wall);
        let metrics = Metrics::new("ztunnel", "test", 1);
        let shared = Arc::new(Shared {
            config: Config::read(&Environment::of(&[])).unwrap(),
            certificates,
            telemetry: Telemetry(Arc::clone(&metrics.traffic)),
            loads: vec![AtomicUsize::new(0)],
            ending: AtomicBool::new(false),
            workers: vec![worker],
        });
        let (seen, watching) = watch::channel(Seen::default());
        let (_, synced) = watch::channel(discovery::State::default());
        let mut pods = Pods::new(shared, Proxies::default(), seen, synced);
        let proxy = tokio::spawn(async move { pods.follow(far).await });
        let agent = Self {
            socket: watched(near).unwrap(),
            told,
            seen: watching,
            proxy,
        };
        assert_eq!(agent.answer().await, HELLO);
        agent
    }

    async fn say(&self, packet: &[u8], file: Option<&File>) -> Vec<u8> {
        self.socket
            .get_ref()
            .send(packet, file.map(AsFd::as_fd))
            .unwrap();
        self.answer().await
    }

    async fn answer(&self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let Received { bytes, .. } = receive(&self.socket, &mut buffer).await.unwrap();
        buffer[..bytes].to_vec()
    }

    /// Says something that is refused; the words of the refusal.
    async fn refused(&self, packet: &[u8], file: Option<&File>) -> String {
        let answer = self.say(packet, file).await;
        let payload = WorkloadResponse::decode(&*answer).unwrap().payload.unwrap();
        let workload_response::Payload::Ack(Ack { error }) = payload;
        assert!(!error.is_empty(), "{packet:?} was taken");
        error
    }
}

/// `add` of a pod `u`: name `n`, namespace `s`, account `a`.
const ADD: &[u8] = b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a";

#[tokio::test]
async fn an_empty_snapshot_is_acknowledged_and_makes_complete() {
    let agent = Agent::start().await;
    assert!(!agent.seen.borrow().complete);
    assert_eq!(agent.say(SNAPSHOT_SENT, None).await, DONE);
    assert!(agent.seen.borrow().complete);
}

#[tokio::test]
async fn what_cannot_be_understood_is_answered_with_why_and_disturbs_nothing() {
    let mut agent = Agent::start().await;
    let file = File::open("/dev/null").unwrap();
    for (packet, file, why) in [
        (&[0xff; 8][..], None, "not a ZDS message"),
        (&[0x0a, 0x7f], None, "not a ZDS message"),
        (&[0x32, 0x00], None, "says nothing"),
        (ADD, None, "without a network namespace"),
        (ADD, Some(&file), "no network namespace"),
        (SNAPSHOT_SENT, Some(&file), "no network namespace"),
    ] {
        let error = agent.refused(packet, file).await;
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(agent.say(SNAPSHOT_SENT, None).await, DONE);
    assert!(
        agent.told.try_recv().is_err(),
        "a worker was told of a pod that was refused"
    );
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    let agent = Agent::start().await;
    let error = agent.refused(&vec![0x0a; MAX_MESSAGE + 1], None).await;
    assert!(error.contains("longer than"), "{error}");
    assert_eq!(agent.say(SNAPSHOT_SENT, None).await, DONE);
}

#[tokio::test]
async fn a_pod_is_served_in_its_namespace_until_it_is_deleted() {
    if !sys::netns::privileged("a pod is served in its namespace until it is deleted") {
        return;
    }
    let mut agent = Agent::start().await;
    let netns = Netns::create().unwrap();
    let fd = netns.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(agent.say(ADD, Some(&File::from(fd))).await, DONE);
    let Ok(Command::Add(facts, Some(listeners))) = agent.told.try_recv() else {
        panic!("the home worker was not given the pod")
    };
    assert_eq!(
        facts.workload.identity.to_string(),
        "spiffe://cluster.local/ns/s/sa/a"
    );
    assert_eq!(&*facts.workload.uid, "Kubernetes//Pod/s/n");
    let ports = [&listeners.outbound, &listeners.plain, &listeners.tunnel]
        .map(|listener| listener.local_addr().unwrap().port());
    assert_eq!(ports, [15001, 15006, 15008]);
    // `del` of uid `u`, which is field 2.
    assert_eq!(agent.say(b"\x12\x03\x12\x01u", None).await, DONE);
    assert!(matches!(agent.told.try_recv(), Ok(Command::Remove(uid)) if &*uid == "u"));
}

#[tokio::test]
async fn the_end_of_the_agent_is_not_the_end_of_its_pods() {
    let Agent {
        socket,
        proxy,
        mut told,
        ..
    } = Agent::start().await;
    drop(socket);
    proxy.await.unwrap().unwrap();
    assert!(told.try_recv().is_err());
}
