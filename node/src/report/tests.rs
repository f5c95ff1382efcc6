//! Reports to a control plane that a test plays: TLS and HTTP/2, read by hand.

use super::*;
use prost::{Message, bytes::Bytes};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::path::Path;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

/// What arrived: path, authorization, pods.
type Call = (String, String, Vec<PodReport>);

struct Control {
    address: String,
    directory: PathBuf,
    calls: mpsc::UnboundedReceiver<Call>,
    serving: tokio::task::AbortHandle,
}

impl Control {
    /// A control plane that answers its calls with these gRPC statuses, the last of them for ever.
    async fn new(test: &str, statuses: &'static [&'static str]) -> Self {
        let directory =
            std::env::temp_dir().join(format!("ambit-report-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("token"), "secret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = acceptor(&directory.join("roots.pem"));
        let (sender, calls) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(listener, tls, statuses, sender)).abort_handle();
        Self {
            address,
            directory,
            calls,
            serving,
        }
    }

    fn target(&self) -> Target {
        Target {
            address: self.address.clone(),
            name: Some("control.test".into()),
            roots: self.directory.join("roots.pem"),
            token: self.directory.join("token"),
        }
    }

    async fn call(&mut self) -> Call {
        time::timeout(Duration::from_secs(10), self.calls.recv())
            .await
            .expect("a call")
            .unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Serves one connection after another.
async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    mut statuses: &[&'static str],
    calls: mpsc::UnboundedSender<Call>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = tls.accept(stream).await else {
            continue;
        };
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
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
            answer(respond, statuses[0]);
            if statuses.len() > 1 {
                statuses = &statuses[1..];
            }
            let _ = calls.send((head.uri.path().to_owned(), authorization, report.pods));
        }
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

fn answer(mut respond: h2::server::SendResponse<Bytes>, status: &'static str) {
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
}

fn report(captured: bool) -> Report {
    Report {
        pod: pod(captured),
        is_hidden: false,
        is_in: true,
        is_probed_as_plain: false,
        past: 0,
    }
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

fn told(pods: Vec<PodReport>) -> Call {
    (
        "/ambit.node.v1.NodeService/Report".into(),
        "Bearer secret".into(),
        pods,
    )
}

#[tokio::test]
async fn nothing_is_told_before_the_first_look_and_then_every_change() {
    let mut control = Control::new("changes", &["0"]).await;
    let (sender, receiver) = watch::channel(None);
    let reporter = tokio::spawn(run(control.target(), receiver));
    sender.send_replace(Some(vec![report(false)]));
    assert_eq!(control.call().await, told(vec![pod(false)]));
    sender.send_replace(Some(vec![report(true)]));
    assert_eq!(control.call().await, told(vec![pod(true)]));
    sender.send_replace(Some(vec![]));
    assert_eq!(control.call().await, told(vec![]));
    drop(sender);
    time::timeout(Duration::from_secs(10), reporter)
        .await
        .expect("it ends with the agent")
        .unwrap();
}

#[tokio::test]
async fn a_refused_report_is_sent_again() {
    let mut control = Control::new("refused", &["16", "0"]).await;
    let (_sender, receiver) = watch::channel(Some(vec![report(true)]));
    let reporter = tokio::spawn(run(control.target(), receiver));
    assert_eq!(control.call().await, told(vec![pod(true)]));
    assert_eq!(control.call().await, told(vec![pod(true)]));
    reporter.abort();
}

#[tokio::test]
async fn a_server_of_another_name_gets_no_token() {
    let mut control = Control::new("name", &["0"]).await;
    let target = Target {
        name: Some("other.test".into()),
        ..control.target()
    };
    let error = send(&target, &mut None, vec![]).await.unwrap_err();
    let Error::Call(reason) = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("certificate"), "{reason}");
    assert!(control.calls.try_recv().is_err());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let control = Control::new("files", &["0"]).await;
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
