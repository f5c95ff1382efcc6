//! A node proxy's end of ZDS, written out in bytes: a SOCK_SEQPACKET connection, one message a packet, each answered before
//! the next.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use sys::seqpacket::Connection;
use tests::world::PATIENCE;

/// `ZdsHello{version: V1}`.
const HELLO: [u8; 2] = [0x08, 0x01];
/// `WorkloadResponse{ack{}}`.
const DONE: [u8; 2] = [0x0a, 0x00];
/// `WorkloadRequest{snapshot_sent{}}`.
pub const SNAPSHOT_SENT: [u8; 2] = [0x1a, 0x00];

/// A proxy that is connected to the agent of its node.
#[derive(Debug)]
pub struct Proxy(Connection);

/// A packet of the agent.
#[derive(Debug)]
pub struct Packet {
    /// What it says.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub fd: Option<OwnedFd>,
}

impl Proxy {
    /// Connects and greets.
    pub fn greeting(socket: &Path) -> Self {
        // The path of a socket is short, that of a target directory may not be: by its descriptor it is.
        let directory = File::open(socket.parent().expect("a file")).expect("the world made it");
        let name = socket.file_name().expect("a file").to_string_lossy();
        let short = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let connection = until(|| Connection::connect(Path::new(&short)));
        until(|| connection.send(&HELLO, None));
        Self(connection)
    }

    /// The next packet.
    pub fn next(&self) -> Packet {
        let mut buffer = vec![0; 1024];
        let received = until(|| self.0.receive(&mut buffer));
        assert!(!received.truncated && received.extra_fds == 0);
        assert!(received.bytes > 0, "the agent has closed the connection");
        buffer.truncate(received.bytes);
        Packet {
            bytes: buffer,
            fd: received.fd,
        }
    }

    /// Whether nothing comes although something could.
    pub fn is_told_nothing(&self) -> bool {
        let mut buffer = vec![0; 1024];
        let received = self.0.receive(&mut buffer);
        received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Has done what the last packet said.
    pub fn done(&self) {
        until(|| self.0.send(&DONE, None));
    }

    /// Could not do it.
    pub fn refuses(&self, why: &str) {
        let error = field(1, why.as_bytes());
        until(|| self.0.send(&field(1, &error), None));
    }
}

/// A field of bytes of a message. Shorter than 128 bytes.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short");
    assert!(length < 128, "short");
    [&[number << 3 | 2, length], bytes].concat()
}

/// `WorkloadRequest{add{uid, workload_info{name, namespace, service account}}}`.
pub fn add(uid: &str, name: &str, namespace: &str, account: &str) -> Vec<u8> {
    let parts = [name, namespace, account];
    let info: Vec<u8> = (1..)
        .zip(parts)
        .flat_map(|(at, it)| field(at, it.as_bytes()))
        .collect();
    field(1, &[field(1, uid.as_bytes()), field(2, &info)].concat())
}

/// `WorkloadRequest{del{uid}}`, whose field has the number two.
pub fn del(uid: &str) -> Vec<u8> {
    field(2, &field(2, uid.as_bytes()))
}

fn until<T>(mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("the agent: {error}"),
            // It may not listen yet.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
