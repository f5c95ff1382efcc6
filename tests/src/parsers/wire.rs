//! What comes out of sockets.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cli::lab::frame::flow;
use http::{HeaderMap, Method};
use mesh::{headers::parse_baggage, identity::Identity};
use net::{
    hbone::{self, Settings},
    tls::{Credential, Issued},
};
use rustls::pki_types::PrivateKeyDer;
use sys::netlink::{Attributes, messages};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime::{Builder, Runtime},
    time::{Instant, timeout},
};

use super::control::{AUTHORITY, armoured};

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// An Ethernet frame. Only one that is long enough for both headers holds a flow.
pub fn frame(data: &[u8]) {
    if let Some(flow) = flow(data) {
        assert!(data.len() >= 14 + 20 && flow.touches(flow.source.port()));
        assert_eq!(flow.source.is_ipv4(), flow.destination.is_ipv4());
    }
}

/// A datagram from the kernel, and attributes within attributes. Nothing is longer than what it is in.
pub fn netlink(data: &[u8]) {
    if let Ok(messages) = messages(data) {
        let total: usize = messages.iter().map(|message| 16 + message.body.len()).sum();
        assert!(total <= data.len());
        for message in messages {
            for header in [0, 3, 4, 8, 12, 16, 20, usize::from(message.kind)] {
                if let Ok(attributes) = Attributes::after(header, &message.body) {
                    descend(&attributes, 0);
                }
            }
        }
    }
    if let Ok(attributes) = Attributes::parse(data) {
        descend(&attributes, 0);
    }
}

fn descend(attributes: &Attributes<'_>, depth: u32) {
    for (kind, value) in attributes.iter() {
        let first = attributes.find(kind).expect("it is there");
        assert_eq!(attributes.u8(kind).is_ok(), !first.is_empty());
        assert_eq!(attributes.u32(kind).is_ok(), first.len() >= 4);
        assert_eq!(attributes.be32(kind).is_ok(), first.len() >= 4);
        assert!(attributes.text(kind).is_some());
        if depth < 4
            && let Ok(inner) = Attributes::parse(value)
        {
            descend(&inner, depth + 1);
        }
    }
}

/// An answer to the command line's HTTP client. No body is longer than what was sent.
pub fn http(data: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    // More would wait for somebody to read it.
    let data = &data[..data.len().min(64 << 10)];
    theirs.write_all(data).expect("there is room");
    theirs.shutdown(Shutdown::Write).expect("it is connected");
    let stream = TcpStream::from(OwnedFd::from(ours));
    let answer = cli::http::Connection::over(stream, "test").send("GET", "/", b"");
    if let Ok(response) = answer {
        assert!(response.body.len() <= data.len());
    }
    theirs.set_nonblocking(true).expect("it is a socket");
    let mut asked = [0; 64];
    let length = theirs.read(&mut asked).expect("there was a request");
    assert!(asked[..length].starts_with(b"GET / HTTP/1.1\r\n"));
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing")
}

/// Says all of `data`, then nothing, and hears what comes back until the other end is closed.
async fn say(mut io: DuplexStream, data: &[u8]) {
    let (mut read, mut write) = tokio::io::split(&mut io);
    let speak = async {
        // Who has heard enough closes.
        let _ = write.write_all(data).await;
        let _ = write.shutdown().await;
    };
    let mut heard = Vec::new();
    let (_, ended) = tokio::join!(speak, read.read_to_end(&mut heard));
    ended.expect("memory does not fail");
}

/// What a peer sends in a tunnel after the client's preface. The tunnel ends when the peer does.
pub fn hbone(data: &[u8]) {
    let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", data].concat();
    let on_stream = |stream: hbone::Connect| {
        let baggage = stream
            .headers()
            .get("baggage")
            .and_then(|it| it.to_str().ok());
        parse_baggage(baggage.unwrap_or_default());
        if stream.method() == Method::CONNECT && !stream.authority().is_empty() {
            drop(stream.accept(HeaderMap::new()));
        } else {
            stream.refuse(404);
        }
    };
    let (ours, theirs) = duplex(1 << 16);
    let serve = hbone::serve(ours, Settings::default(), std::future::pending(), on_stream);
    let both = async { tokio::join!(serve, say(theirs, &bytes)) };
    let ended = runtime().block_on(async { timeout(PATIENCE, both).await });
    assert!(ended.is_ok(), "it does not end");
}

struct Own {
    identity: Identity,
    leaf: String,
    key: PrivateKeyDer<'static>,
}

/// A certificate of the authority's, with its key.
static OWN: LazyLock<Own> = LazyLock::new(|| {
    let identity = Identity::new("cluster.local", "shop", "cart");
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    let request = request
        .and_then(|request| request.pem())
        .expect("a request");
    let issued = AUTHORITY
        .sign(
            &request,
            identity,
            Duration::from_secs(86_400),
            SystemTime::now(),
        )
        .expect("nothing is wrong with it");
    Own {
        identity,
        leaf: issued.leaf,
        key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
    }
});

fn credential(chain: Vec<String>) -> Result<Credential, net::tls::BadCredential> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_secs().cast_signed());
    let key = OWN.key.clone_key();
    Credential::new(Issued { chain, key }, OWN.identity, &[], now)
}

/// A certificate (DER): as our own leaf, as an intermediate and as a root; then all of it as PEM. None but the one that
/// belongs to the key is taken.
pub fn leaf(data: &[u8]) {
    let (own, roots) = (&OWN.leaf, AUTHORITY.roots());
    let der = armoured("CERTIFICATE", data);
    let text = String::from_utf8_lossy(data);
    for given in [der.as_str(), &text] {
        let strange = credential(vec![given.to_owned(), roots.to_owned()]);
        assert!(strange.is_err(), "not the key's");
        for chain in [vec![own, given, roots], vec![own, given]] {
            let chain = chain.into_iter().map(str::to_owned).collect();
            match credential(chain) {
                Ok(credential) => assert_eq!(credential.identity(), OWN.identity),
                Err(error) => drop(error.to_string()),
            }
        }
    }
}

/// What a peer sends where a TLS handshake is to be. Nobody gets in with words said before he heard ours.
pub fn handshake(data: &[u8]) {
    static SERVER: LazyLock<Credential> = LazyLock::new(|| {
        credential(vec![OWN.leaf.clone(), AUTHORITY.roots().to_owned()]).expect("our own is good")
    });
    let (ours, theirs) = duplex(1 << 16);
    let both = async {
        let accept = net::tls::accept(ours, &SERVER, Instant::now() + PATIENCE);
        tokio::join!(async { accept.await.map(drop) }, say(theirs, data)).0
    };
    let ended = runtime().block_on(async { timeout(PATIENCE, both).await });
    assert!(ended.expect("it ends").is_err());
}
