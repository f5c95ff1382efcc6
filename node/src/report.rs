//! Tells the control plane about the node's pods (`ambit.node.v1.NodeService/Report`): all of them, on every change and
//! now and then, so that a control plane that has just started learns them too.
//!
//! The call goes over TLS to a server whose certificate must have the expected name, with the node's bearer token. A
//! failure is told in the log and tried again with growing pauses; nothing else waits for it.

use std::{fmt, fs, io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use proto::node::{PodReport, ReportRequest};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request,
    transport::{Channel, Endpoint, Uri},
};
use tracing::{info, warn};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
mod stub {
    include!("gen/ambit.node.v1.rs");
}

use stub::node_service_client::NodeServiceClient;

/// How often all is told although nothing has changed.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a call may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What there is to tell; none before the first look at the node's pods.
pub type Reports = Option<Vec<Report>>;

/// What there is to tell of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the control plane is told.
    pub pod: PodReport,
    /// The control plane is told nothing: the agent has no eyes on the pod.
    pub is_hidden: bool,
    /// It is in the mesh, or may be.
    pub is_in: bool,
    /// Its node cannot tell its probes from other plain text.
    pub is_probed_as_plain: bool,
    /// Its connections that were open before it was captured, and still are.
    pub past: usize,
}

/// Where to report, and how to prove who reports.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// The name that the server's certificate must have; the address's host if none is given.
    pub name: Option<String>,
    /// A file of PEM certificates to verify the server's with.
    pub roots: PathBuf,
    /// A file that holds the bearer token. Read for each call, for tokens are renewed.
    pub token: PathBuf,
}

/// Why a report did not arrive.
#[derive(Debug)]
pub enum Error {
    /// A file of [`Target`] cannot be used. Names it and says why.
    File(PathBuf, String),
    /// The address or the name cannot be one. Says which and why.
    Address(String),
    /// The server refused, or cannot be reached. Says why.
    Call(String),
    /// No answer in time.
    Late,
}

/// Reports until the agent ends.
pub async fn run(target: Target, mut reports: watch::Receiver<Reports>) {
    let mut client = None;
    let mut pause = PAUSES.0;
    let mut failing = false;
    if reports.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let pods = reports.borrow_and_update().clone().unwrap_or_default();
        let told = pods.into_iter().filter(|report| !report.is_hidden);
        let pods = told.map(|report| report.pod).collect();
        let wait = match send(&target, &mut client, pods).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!(
                        control = target.address,
                        "the control plane takes reports again"
                    );
                }
                pause = PAUSES.0;
                INTERVAL
            }
            Err(error) => {
                // Once per outage: the pauses are short.
                if !std::mem::replace(&mut failing, true) {
                    warn!(control = target.address, %error, "cannot report to the control plane; trying again");
                }
                client = None;
                let now = pause;
                pause = (pause * 2).min(PAUSES.1);
                time::sleep(now).await;
                continue;
            }
        };
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = time::sleep(wait) => {}
        }
    }
}

/// Makes one call, over the connection at hand if there is one.
async fn send(
    target: &Target,
    client: &mut Option<NodeServiceClient<Channel>>,
    pods: Vec<PodReport>,
) -> Result<(), Error> {
    let token = fs::read_to_string(&target.token)
        .map_err(|error| Error::File(target.token.clone(), error.to_string()))?;
    let bearer = format!("Bearer {}", token.trim());
    let bearer = bearer
        .parse()
        .map_err(|_| Error::File(target.token.clone(), "it is not a token".into()))?;
    let mut request = Request::new(ReportRequest { pods });
    request.metadata_mut().insert("authorization", bearer);
    let call = async {
        let connected = match client.take() {
            Some(connected) => connected,
            None => connect(target).await?,
        };
        let answer = client.insert(connected).report(request).await;
        answer.map_err(|status| {
            Error::Call(format!(
                "{}: {}",
                status.code().description(),
                status.message()
            ))
        })
    };
    time::timeout(PATIENCE, call)
        .await
        .map_err(|_| Error::Late)??;
    Ok(())
}

async fn connect(target: &Target) -> Result<NodeServiceClient<Channel>, Error> {
    let uri: Uri = format!("https://{}", target.address)
        .parse()
        .map_err(|_| Error::Address(format!("{:?}", target.address)))?;
    let host = uri
        .host()
        .map(|host| host.trim_matches(['[', ']']).to_owned());
    let name = target
        .name
        .clone()
        .or(host)
        .ok_or_else(|| Error::Address(format!("{:?}", target.address)))?;
    let name =
        ServerName::try_from(name.clone()).map_err(|_| Error::Address(format!("{name:?}")))?;
    let tls = TlsConnector::from(Arc::new(tls(target)?));
    let address = target.address.clone();
    let connector =
        tower::service_fn(move |_: Uri| dial(address.clone(), name.clone(), tls.clone()));
    let channel = Endpoint::from(uri).connect_with_connector(connector).await;
    channel
        .map(NodeServiceClient::new)
        .map_err(|error| Error::Call(cause(&error)))
}

async fn dial(
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(tls.connect(name, stream).await?))
}

fn tls(target: &Target) -> Result<ClientConfig, Error> {
    let refused = |reason: String| Error::File(target.roots.clone(), reason);
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(&target.roots).map_err(|error| refused(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("it holds no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Call(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// What the innermost cause says: the errors around it are the libraries', which put debug text into theirs.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, reason) => write!(f, "{}: {reason}", path.display()),
            Self::Address(what) => {
                write!(f, "{what} is not the address or name of a control plane")
            }
            Self::Call(reason) => f.write_str(reason),
            Self::Late => write!(f, "no answer within {PATIENCE:?}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
