//! Starts and ends a control plane: what must be there before the first request, in order.

use std::{
    fmt, io,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    ca::{Authority, NotSigned, ServerName},
    config::Config,
    follow::{self, Bindings, Refused, Source},
    reports::Reports,
    serve::{
        self, Callers, Hub, Mesh,
        accept::{self, Certificate},
        admin,
        metrics::Metrics,
        streams::Streams,
    },
    state::{StateDir, StateError},
    subject::Subject,
    tokens::Tokens,
    watch::Watch,
};

const PORT: u16 = 15012;
/// Of the server's own certificate; renewed at half of it.
const SERVER_LIFE: Duration = Duration::from_hours(24);
/// Until a renewal that failed is tried again.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Calls that are under way at the end may take this long.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a control plane does not start, or ended by itself.
#[derive(Debug)]
pub enum Error {
    /// The state directory.
    State(StateError),
    /// The source.
    Source(Refused),
    /// The server's certificate.
    Certificate(String),
    /// An address that cannot be listened on.
    Listen(String, io::Error),
    /// The source cannot be watched.
    Watch(io::Error),
    /// The server ended.
    Serve(String),
    /// What the API server was to give or to keep.
    #[cfg(feature = "kubernetes")]
    Cluster(String),
    /// Nothing says what to serve.
    #[cfg(not(feature = "kubernetes"))]
    NoSource,
}

/// Serves until `shutdown`, then ends within seconds.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut tasks = JoinSet::new();
    let hub = match &config.from {
        Some(from) => directory(&config, from, &mut tasks)?,
        #[cfg(feature = "kubernetes")]
        None => cluster(&config, &mut tasks).await?,
        #[cfg(not(feature = "kubernetes"))]
        None => return Err(Error::NoSource),
    };
    let listener = listen(config.listen)?;
    let admin = listen(Some(config.admin))?;
    let names = server_names(&config);
    let certificate = Arc::new(Certificate::default());
    let renewal = certify(&hub, &names, &certificate).map_err(Error::Certificate)?;
    let tls = accept::tls(Arc::clone(&certificate))
        .map_err(|error| Error::Certificate(error.to_string()))?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::Listen("the socket".to_owned(), error))?;

    let (connections, accepted) = mpsc::channel(64);
    tasks.spawn(accept::accept(listener, tls, connections));
    tasks.spawn(admin::serve(admin, Arc::clone(&hub)));
    tasks.spawn(renew(Arc::clone(&hub), names, certificate, renewal));
    tracing::info!(%address, "serving");
    if config.announce {
        announce();
    }
    let served = serve::serve(Arc::clone(&hub), ReceiverStream::new(accepted));
    tokio::pin!(served);
    let early = tokio::select! {
        ended = &mut served => Some(ended),
        () = shutdown => None,
    };
    hub.closing.send_replace(true);
    let ended = match early {
        Some(ended) => ended,
        // Those who are not done by then lose their call; they come again.
        None => timeout(DRAIN, served).await.unwrap_or(Ok(())),
    };
    tasks.shutdown().await;
    ended.map_err(|error| Error::Serve(error.to_string()))
}

/// What a directory of manifests says, published, and followed from now on.
fn directory(config: &Config, from: &Path, tasks: &mut JoinSet<()>) -> Result<Arc<Hub>, Error> {
    let state = Arc::new(StateDir::open(&config.state_dir).map_err(Error::State)?);
    let authority = Authority::open(&state, &config.names.trust_domain, SystemTime::now())
        .map_err(Error::State)?;
    let tokens = Tokens::open(Arc::clone(&state)).map_err(Error::State)?;
    for node in &config.nodes {
        tokens
            .ensure(&Subject::Node(node.clone()))
            .map_err(Error::State)?;
    }
    let reports = Reports::open(Arc::clone(&state)).map_err(Error::State)?;
    let hub = Arc::new(hub(config, authority, Callers::Tokens(tokens), reports));
    let source = Source::open(from, config.names.settings()).map_err(Error::Source)?;
    // Before the first look at it would be too late for what changes meanwhile; the first rescan is immediate.
    let watch = Watch::new(from).map_err(Error::Watch)?;
    let mut bindings = Bindings::open(Arc::clone(&state), Instant::now()).map_err(Error::State)?;
    source.keeps(&bindings).map_err(Error::Source)?;
    follow::publish(&hub, &state, &source, &mut bindings);
    tracing::info!(root = %state.path(crate::ca::ROOT_CERT).display(), "clients trust this root");
    tasks.spawn(follow::follow(
        Arc::clone(&hub),
        state,
        source,
        bindings,
        watch,
    ));
    Ok(hub)
}

/// What the objects of a cluster say, published, and followed from now on.
#[cfg(feature = "kubernetes")]
async fn cluster(config: &Config, tasks: &mut JoinSet<()>) -> Result<Arc<Hub>, Error> {
    use crate::follow::Last;
    use crate::kubernetes::{
        client, events,
        follow::{self, Replica, Told},
        leader, phases, replicas,
        reviews::Reviews,
        root, watch as watcher, write,
    };

    let names = &config.names;
    let client = client::client()
        .await
        .map_err(|error| Error::Cluster(error.to_string()))?;
    let now = SystemTime::now();
    let authority = root::open(&client, &names.root_namespace, &names.trust_domain, now)
        .await
        .map_err(|error| Error::Cluster(error.to_string()))?;
    let roots = authority.roots().to_owned();
    let proxies = (names.root_namespace.clone(), config.ztunnel_account.clone());
    let callers = Callers::Reviews(Reviews::new(client.clone(), proxies));
    let hub = Arc::new(hub(config, authority, callers, Reports::unrecorded()));
    // Whoever has no Lease is waited for by nobody: it has one before the first proxy comes, and before what that is told is read.
    let tells = replicas::join(&client, names, &config.replica, &hub.streams, tasks)
        .await
        .map_err(|error| Error::Cluster(error.to_string()))?;
    let (sender, mut changes) = mpsc::channel(1024);
    let keys = mesh::keys::Keys::of(config.istio_names);
    let scope = watcher::Scope::new(&names.root_namespace, keys);
    tasks.spawn(watcher::watch(client.clone(), scope, sender));
    tasks.spawn(root::tell(client.clone(), keys, roots));
    let (leads, is_leader) = watch::channel(false);
    let told = Told::default();
    let (writes, warnings) = (told.statuses.subscribe(), told.warnings.subscribe());
    tasks.spawn(write::run(client.clone(), is_leader.clone(), writes));
    let (namespace, me) = (names.root_namespace.clone(), config.replica.clone());
    tasks.spawn(events::run(client.clone(), me.clone(), is_leader, warnings));
    let running = hub.closing.subscribe();
    tasks.spawn(leader::compete(client, namespace, me, leads, running));
    let objects = follow::first(&mut changes).await;
    tracing::info!(objects = objects.count(), "all objects are known");
    let replica = Replica {
        name: config.replica.clone(),
        settings: crate::compile::Settings {
            deploys: false,
            keys,
            ..names.settings()
        },
    };
    let recorded = phases::recorded(&objects);
    let mut bindings = Bindings::in_objects(recorded, tells, Instant::now());
    let mut objects = (objects, Last::default());
    follow::publish(&hub, &mut objects, &mut bindings, &replica, &told);
    let shared = Arc::clone(&hub);
    let followed = follow::follow(shared, objects, bindings, changes, replica, told);
    tasks.spawn(followed);
    Ok(hub)
}

fn hub(config: &Config, authority: Authority, callers: Callers, reports: Reports) -> Hub {
    Hub {
        authority,
        trust_domain: config.names.trust_domain.clone(),
        longest_life: config.ca_ttl,
        callers,
        reports,
        mesh: watch::Sender::new(Arc::new(Mesh::default())),
        streams: Streams::default(),
        metrics: Metrics::default(),
        closing: watch::Sender::new(false),
    }
}

fn server_names(config: &Config) -> Vec<ServerName> {
    let service = format!("ambit-control.{}.svc", config.names.root_namespace);
    let fixed = [
        "ambit-control",
        "ambit-control.ambit-system.svc",
        service.as_str(),
        "localhost",
        "127.0.0.1",
        "::1",
    ];
    let given = config.server_names.iter().map(String::as_str);
    let mut names: Vec<ServerName> = fixed
        .into_iter()
        .chain(given)
        .map(ServerName::new)
        .collect();
    if let Some(address) = config
        .listen
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified())
    {
        names.push(ServerName::Ip(address));
    }
    names
}

/// Shows a new server certificate; returns when to do so again.
fn certify(hub: &Hub, names: &[ServerName], certificate: &Certificate) -> Result<Duration, String> {
    let now = SystemTime::now();
    let made = hub
        .authority
        .serve_as(names, SERVER_LIFE, now)
        .map_err(|error: NotSigned| error.to_string())?;
    let life = made.expires.duration_since(now).unwrap_or_default();
    certificate
        .replace(made)
        .map_err(|error| error.to_string())?;
    Ok(life / 2)
}

async fn renew(
    hub: Arc<Hub>,
    names: Vec<ServerName>,
    certificate: Arc<Certificate>,
    first: Duration,
) {
    let mut next = first;
    loop {
        sleep(next).await;
        next = certify(&hub, &names, &certificate).unwrap_or_else(|error| {
            tracing::error!(error, "the server's certificate is not renewed");
            RENEWAL_RETRY
        });
    }
}

fn listen(address: Option<SocketAddr>) -> Result<TcpListener, Error> {
    let failed = |address: SocketAddr| move |error| Error::Listen(address.to_string(), error);
    match address {
        Some(address) => bind(address).map_err(failed(address)),
        None => {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
            match bind(any) {
                // No IPv6 on this machine.
                Err(error) if [Some(97), Some(99)].contains(&error.raw_os_error()) => {
                    bind(v4).map_err(failed(v4))
                }
                bound => bound.map_err(failed(any)),
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn announce() {
    let mut out = io::stdout().lock();
    // Whoever waits for the line and is gone does not need it.
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => error.fmt(f),
            Self::Source(refused) => refused.fmt(f),
            Self::Certificate(error) => write!(f, "no certificate for the server itself: {error}"),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Watch(error) => write!(f, "the source cannot be watched: {error}"),
            Self::Serve(error) => write!(f, "the server ended: {error}"),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(error) => write!(f, "the API server: {error}"),
            #[cfg(not(feature = "kubernetes"))]
            Self::NoSource => {
                f.write_str("this control plane is built without Kubernetes: give it --from")
            }
        }
    }
}

impl std::error::Error for Error {}
