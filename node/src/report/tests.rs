//! Reports to a control plane that a test plays: TLS and HTTP/2, read by hand.

use super::*;
use prost::{Message, bytes::Bytes};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::path::Path;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What arrived: path, authorization, pods.
type Call = (String, String, Vec<PodReport>);

struct Control {
    listener: TcpListener,
    tls: TlsAcceptor,
    directory: PathBuf,
}

impl Control {
    async fn new(test: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("ambit-report-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("token"), "secret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            tls: acceptor(&directory.join("roots.pem")),
            directory,
        }
    }

    fn target(&self) -> Target {
        Target {
            address: self.listener.local_addr().unwrap().to_string(),
            name: Some("control.test".into()),
            roots: self.directory.join("roots.pem"),
            token: self.directory.join("token"),
        }
    }

    /// Serves one connection, answering each call with a gRPC status, until `calls` have come.
    async fn serve(&self, status: &'static str, calls: usize) -> Vec<Call> {
        let (stream, _) = self.listener.accept().await.unwrap();
        let stream = self.tls.accept(stream).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut found = Vec::new();
        let mut answers = Vec::new();
        while found.len() < calls {
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            // The connection must be polled for the body to come.
            let read = async {
                while let Some(chunk) = body.data().await {
                    bytes.extend_from_slice(&chunk.unwrap());
                }
            };
            tokio::select! {
                () = read => {}
                _ = std::future::poll_fn(|context| connection.poll_closed(context)) => panic!("closed"),
            }
            let report = ReportRequest::decode(&bytes[5..]).unwrap();
            let authorization = head.headers["authorization"].to_str().unwrap().to_owned();
            found.push((head.uri.path().to_owned(), authorization, report.pods));
            answers.push(answer(respond, status));
        }
        // All that was answered reaches the client before the connection ends.
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
        found
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn acceptor(roots: &Path) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(roots, ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["control.test".into()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn answer(
    mut respond: h2::server::SendResponse<Bytes>,
    status: &'static str,
) -> h2::SendStream<Bytes> {
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    if status == "0" {
        // An empty message: not compressed, of length zero.
        stream.send_data(vec![0; 5].into(), false).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    stream
}

fn pod(captured: bool) -> PodReport {
    PodReport {
        namespace: "shop".into(),
        name: "cart".into(),
        captured,
        ready: true,
        ..PodReport::default()
    }
}

const PATH: &str = "/ambit.node.v1.NodeService/Report";

#[tokio::test]
async fn every_change_is_told_with_the_token() {
    let control = Control::new("changes").await;
    let (sender, receiver) = watch::channel(None);
    let reporter = tokio::spawn(run(control.target(), receiver));
    sender.send_replace(Some(vec![pod(false)]));
    let calls = control.serve("0", 1).await;
    assert_eq!(
        calls,
        [(
            PATH.to_owned(),
            "Bearer secret".to_owned(),
            vec![pod(false)]
        )]
    );
    // The connection is closed by now: the next change opens another.
    sender.send_replace(Some(vec![pod(true)]));
    let calls = time::timeout(Duration::from_secs(10), control.serve("0", 1))
        .await
        .unwrap();
    assert_eq!(calls[0].2, [pod(true)]);
    reporter.abort();
}

#[tokio::test]
async fn a_refused_report_is_sent_again() {
    let control = Control::new("refused").await;
    let (sender, receiver) = watch::channel(Some(vec![pod(true)]));
    let reporter = tokio::spawn(run(control.target(), receiver));
    let refused = control.serve("16", 1).await;
    let again = time::timeout(Duration::from_secs(10), control.serve("0", 1))
        .await
        .unwrap();
    assert_eq!(refused, again);
    drop(sender);
    time::timeout(Duration::from_secs(10), reporter)
        .await
        .expect("it ends with the agent")
        .unwrap();
}

#[tokio::test]
async fn a_server_of_another_name_gets_no_token() {
    let control = Control::new("name").await;
    let target = Target {
        name: Some("other.test".into()),
        ..control.target()
    };
    let sent = async {
        let mut client = None;
        send(&target, &mut client, vec![]).await
    };
    let served = async {
        let (stream, _) = control.listener.accept().await.unwrap();
        control.tls.accept(stream).await.map(drop)
    };
    let (sent, served) = tokio::join!(sent, served);
    let Err(Error::Call(reason)) = sent else {
        panic!("{sent:?}")
    };
    assert!(reason.contains("certificate"), "{reason}");
    assert!(served.is_err());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let control = Control::new("files").await;
    let missing = Target {
        token: "/nowhere/token".into(),
        ..control.target()
    };
    let empty = Target {
        roots: control.directory.join("token"),
        ..control.target()
    };
    for (target, file) in [
        (missing, "/nowhere/token"),
        (empty, "token: it holds no certificate"),
    ] {
        let error = send(&target, &mut None, vec![]).await.unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
    }
}
