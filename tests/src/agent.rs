//! A node agent that a test drives: it captures pods for real, and tells the ztunnel what it is told to tell.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use cli::lab::Node;
use prost::Message as _;
use proto::workload::zds::{
    DelWorkload, KeepWorkload, SnapshotSent, WorkloadRequest, WorkloadResponse, ZdsHello,
    workload_request::Payload, workload_response,
};
use sys::seqpacket::{Connection, Listener};

use crate::{
    pod::Pod,
    world::{PATIENCE, World},
};

/// The agent's end of a connection.
#[derive(Debug)]
pub struct Agent {
    listener: Listener,
    proxy: Option<Connection>,
}

impl Agent {
    /// Listens for the ztunnel of a node, which need not run yet.
    pub fn new(world: &World, node: Node) -> Self {
        // The path of a socket is short, that of a target directory may not be: by its descriptor it is.
        let directory = File::open(world.path("zds")).expect("the world made it");
        let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), node.name());
        let listener = Listener::bind(Path::new(&short), 0o600).expect("a socket");
        Self {
            listener,
            proxy: None,
        }
    }

    /// Takes the ztunnel's connection and its greeting.
    pub fn greeted(&mut self) {
        let proxy = wait(|| self.listener.accept());
        let greeting = receive(&proxy).expect("a greeting");
        let hello = ZdsHello::decode(greeting.as_slice()).expect("a greeting");
        assert_eq!(hello.version, 1);
        self.proxy = Some(proxy);
    }

    /// Captures a node's pods of the mesh, tells of them, and that these are all.
    pub fn tell_all(&self, world: &World, node: Node) {
        for pod in world
            .pods()
            .iter()
            .filter(|pod| pod.enrolled && pod.node == node)
        {
            node::capture::install(world.netns(pod.name), &node::rules::Probed::new())
                .expect("rules");
            assert_eq!(self.add(world, pod), "", "{}", pod.name);
        }
        assert_eq!(self.say(&snapshot(), None), "");
    }

    /// Tells of a pod; returns the ztunnel's complaint, empty if it has none.
    pub fn add(&self, world: &World, pod: &Pod) -> String {
        let netns = world.netns(pod.name);
        self.say(&pod.added().encode_to_vec(), Some(netns.as_fd()))
    }

    /// Tells that a pod is gone.
    pub fn remove(&self, pod: &str) -> String {
        let payload = Payload::Del(DelWorkload {
            uid: pod.to_owned(),
        });
        let request = WorkloadRequest {
            payload: Some(payload),
        };
        self.say(&request.encode_to_vec(), None)
    }

    /// Tells that a pod which the ztunnel knows from before is still there.
    pub fn keep(&self, pod: &str) -> String {
        let payload = Some(Payload::Keep(KeepWorkload {
            uid: pod.to_owned(),
        }));
        self.say(&WorkloadRequest { payload }.encode_to_vec(), None)
    }

    /// Closes the connection, as an agent does that ends.
    pub fn hang_up(&mut self) {
        self.proxy = None;
    }

    /// Sends a packet as it is; returns the ztunnel's complaint, empty if it has none.
    pub fn say(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> String {
        let proxy = self.proxy.as_ref().expect("greeted");
        wait(|| proxy.send(packet, fd));
        let answer = receive(proxy).expect("an answer");
        let answer = WorkloadResponse::decode(answer.as_slice()).expect("an answer");
        let Some(workload_response::Payload::Ack(ack)) = answer.payload else {
            panic!("an answer that is none");
        };
        ack.error
    }
}

/// The packet that ends a snapshot.
pub fn snapshot() -> Vec<u8> {
    let payload = Some(Payload::SnapshotSent(SnapshotSent {}));
    WorkloadRequest { payload }.encode_to_vec()
}

/// The next packet; `None` if the other end has closed.
fn receive(from: &Connection) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let received = wait(|| from.receive(&mut buffer));
    buffer.truncate(received.bytes);
    (received.bytes > 0).then_some(buffer)
}

fn wait<T>(mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("the connection to the ztunnel: {error}"),
        }
        assert!(Instant::now() < deadline, "the ztunnel is silent");
        thread::sleep(Duration::from_millis(1));
    }
}
