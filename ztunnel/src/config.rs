//! What the node proxy can be told, by environment variables that have the ecosystem's names.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mesh::name::Name;
use net::{
    config::{BadSetting, Environment},
    discovery::Instance,
    hbone,
    log::Format,
    settings::{
        self, Keepalive, Upstream, address, any, cores, drain, keepalive, list, positive, tunnel,
        upstream,
    },
};

/// All settings of a node proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// `NODE_NAME`: this node.
    pub node: Name,
    /// `CLUSTER_ID` or `ISTIO_META_CLUSTER_ID` (`Kubernetes`).
    pub cluster: Name,
    /// `NETWORK` (empty: the default network).
    pub network: Name,
    /// `TRUST_DOMAIN` (`cluster.local`): that of this node's pods.
    pub trust_domain: Name,
    /// `TRUST_DOMAIN_ALIASES` (none): others whose peers are let in, comma-separated.
    pub aliases: Vec<Name>,
    /// `ROOT_NAMESPACE` (`ambit-system`): a policy of it that cannot be read at all denies for the whole mesh.
    pub root_namespace: Name,
    /// `POD_NAME`, `POD_NAMESPACE`, `INSTANCE_IP`: this proxy itself, for the control plane's eyes.
    pub instance: Instance,
    /// `INPOD_UDS` (`/var/run/ztunnel/ztunnel.sock`): where the node agent listens.
    pub zds: PathBuf,
    /// `INPOD_PORT_REUSE` (true): lets a second generation of the proxy listen beside this one.
    pub port_reuse: bool,
    /// `PACKET_MARK` (1337): exempts the proxy's own packets from capture.
    pub mark: u32,
    /// `IPV6_ENABLED` (true).
    pub ipv6: bool,
    /// `XDS_ADDRESS`, `XDS_ROOT_CA`, `ALT_XDS_HOSTNAME`, `XDS_HEADER_*`; an empty address: none.
    pub discovery: Option<Upstream>,
    /// `CA_ADDRESS`, `CA_ROOT_CA`, `ALT_CA_HOSTNAME`, `CA_HEADER_*`.
    pub authority: Upstream,
    /// `LOCAL_XDS_PATH` or `LOCAL_XDS`: state from a file, or from the variable itself.
    pub local: Option<Local>,
    /// `CLUSTER_DOMAIN` (`cluster.local`): part of our name on the discovery stream.
    pub domain: String,
    /// `ENABLE_RESPONSE_BAGGAGE` (true): tells peers what they have reached.
    pub response_baggage: bool,
    /// `SECRET_TTL` (24h): life of certificates.
    pub ttl: Duration,
    /// `ZTUNNEL_WORKER_THREADS` (a number, `N%` of the cores, or 0 for all; default the larger of 2 and 25 %).
    pub workers: usize,
    /// `HTTP2_STREAM_WINDOW_SIZE` (512Ki), `HTTP2_CONNECTION_WINDOW_SIZE` (50Mi), `HTTP2_FRAME_SIZE` (256Ki).
    pub tunnel: hbone::Settings,
    /// `POOL_MAX_STREAMS_PER_CONNECTION` (100).
    pub max_streams: usize,
    /// `POOL_UNUSED_RELEASE_TIMEOUT` (5m).
    pub tunnel_idle: Duration,
    /// `KEEPALIVE_ENABLED` (true), `KEEPALIVE_TIME` (180s), `KEEPALIVE_INTERVAL` (180s), `KEEPALIVE_RETRIES` (9).
    pub keepalive: Option<Keepalive>,
    /// `CONNECTION_TERMINATION_DEADLINE` (5s, or derived from `TERMINATION_GRACE_PERIOD_SECONDS`).
    pub drain: Duration,
    /// `MAX_CONNECTIONS_PER_WORKLOAD` (20000): flows of one pod at once.
    pub max_flows: usize,
    /// `ADMIN_ADDRESS` (`127.0.0.1:15000`).
    pub admin: SocketAddr,
    /// `METRICS_ADDRESS` (`[::]:15020`, or `0.0.0.0:15020` without IPv6).
    pub metrics: SocketAddr,
    /// `READINESS_ADDRESS` (`[::]:15021`, or `0.0.0.0:15021` without IPv6).
    pub readiness: SocketAddr,
    /// `RUST_LOG` (`info`).
    pub log_filter: String,
    /// `LOG_FORMAT` (`plain`, or `json`).
    pub log_format: Format,
}

/// Where state comes from without a control plane.
#[derive(Clone, Debug)]
pub enum Local {
    /// A file.
    Path(PathBuf),
    /// The text itself.
    Text(String),
}

/// Why the proxy does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadConfig {
    /// A value that is none.
    Setting(BadSetting),
    /// A value that asks for what is not served.
    NotServed {
        /// The variable.
        name: &'static str,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(bad) => bad.fmt(f),
            Self::NotServed { name, reason } => write!(f, "{name}: {reason}"),
        }
    }
}

impl std::error::Error for BadConfig {}

impl From<BadSetting> for BadConfig {
    fn from(bad: BadSetting) -> Self {
        Self::Setting(bad)
    }
}

/// Switches that can only stand one way, and why.
const FIXED: [(&str, bool, &str); 7] = [
    (
        "FAKE_CA",
        false,
        "there is no fake certificate authority here; give CA_ADDRESS a real one",
    ),
    (
        "ENABLE_PROXY",
        true,
        "a proxy that does not proxy is not served",
    ),
    ("TLS12_ENABLED", false, "only TLS 1.3 is spoken"),
    (
        "XDS_ON_DEMAND",
        false,
        "the whole state is fetched; on demand is not served",
    ),
    ("UNSTABLE_ENABLE_SOCKS5", false, "SOCKS5 is not served"),
    (
        "ENABLE_ORIG_SRC",
        true,
        "applications always see their client's own address",
    ),
    (
        "ISTIO_META_DNS_CAPTURE",
        false,
        "DNS capture is not served; leave it to the pods' own resolver",
    ),
];

/// Settings that ask for what is not served, whatever they are set to.
const NOT_SERVED: [(&str, &str); 4] = [
    (
        "COMPLIANCE_POLICY",
        "key exchange is X25519, P-256 or P-384; unset it",
    ),
    ("CRL_PATH", "revocation lists are not served yet; unset it"),
    (
        "PREFERED_SERVICE_NAMESPACE",
        "of several services that claim an address, the client's namespace and then the platform's own win; unset it",
    ),
    (
        "PROXY_CONFIG",
        "is not read; use the variables of their own, such as ZTUNNEL_WORKER_THREADS",
    ),
];

impl Config {
    /// Reads the settings.
    pub fn read(env: &Environment) -> Result<Self, BadConfig> {
        served(env)?;
        let ipv6 = env.boolean("IPV6_ENABLED", true)?;
        let name = |variable, default| Name::new(env.text_or(variable, default));
        let cluster = name(
            "CLUSTER_ID",
            env.text_or("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        );
        let authority = upstream(env, "CA", cluster);
        Ok(Self {
            node: name("NODE_NAME", ""),
            cluster,
            network: name("NETWORK", ""),
            trust_domain: name("TRUST_DOMAIN", mesh::identity::DEFAULT_TRUST_DOMAIN),
            aliases: list(env.text_or("TRUST_DOMAIN_ALIASES", "")),
            root_namespace: name("ROOT_NAMESPACE", "ambit-system"),
            instance: Instance {
                name: env.text_or("POD_NAME", "ztunnel").to_owned(),
                namespace: env.text_or("POD_NAMESPACE", "ambit-system").to_owned(),
                ip: env.read("INSTANCE_IP", UNKNOWN_IP, "an address", |text| {
                    text.parse().ok()
                })?,
            },
            zds: env
                .text_or("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock")
                .into(),
            port_reuse: env.boolean("INPOD_PORT_REUSE", true)?,
            mark: positive(env, "PACKET_MARK", 1337)?,
            ipv6,
            discovery: upstream(env, "XDS", cluster),
            authority: authority.ok_or(BadConfig::NotServed {
                name: "CA_ADDRESS",
                reason: "is empty, and without a certificate authority nothing can be encrypted",
            })?,
            local: local(env),
            domain: env.text_or("CLUSTER_DOMAIN", "cluster.local").to_owned(),
            response_baggage: env.boolean("ENABLE_RESPONSE_BAGGAGE", true)?,
            ttl: settings::ttl(env)?,
            workers: workers(env)?,
            tunnel: tunnel(env)?,
            max_streams: positive(env, "POOL_MAX_STREAMS_PER_CONNECTION", 100)?,
            tunnel_idle: env.duration("POOL_UNUSED_RELEASE_TIMEOUT", Duration::from_secs(300))?,
            keepalive: keepalive(env)?,
            drain: drain(env)?,
            max_flows: positive(env, "MAX_CONNECTIONS_PER_WORKLOAD", 20_000)?,
            admin: address(
                env,
                "ADMIN_ADDRESS",
                SocketAddr::from(([127, 0, 0, 1], 15000)),
            )?,
            metrics: address(env, "METRICS_ADDRESS", any(ipv6, 15020))?,
            readiness: address(env, "READINESS_ADDRESS", any(ipv6, 15021))?,
            log_filter: env.text_or("RUST_LOG", "info").to_owned(),
            log_format: env.read(
                "LOG_FORMAT",
                Format::Text,
                "`json` or `plain`",
                Format::named,
            )?,
        })
    }
}

/// That nothing is asked for that is not served.
fn served(env: &Environment) -> Result<(), BadConfig> {
    for (name, only, reason) in FIXED {
        if env.boolean(name, only)? != only {
            return Err(BadConfig::NotServed { name, reason });
        }
    }
    for (name, reason) in NOT_SERVED {
        if env.text(name).is_some_and(|value| !value.is_empty()) {
            return Err(BadConfig::NotServed { name, reason });
        }
    }
    if env.text_or("PROXY_MODE", "shared") != "shared" {
        let reason = "only `shared` is served: one proxy for the pods of a node";
        return Err(BadConfig::NotServed {
            name: "PROXY_MODE",
            reason,
        });
    }
    Ok(())
}

/// What is said of this proxy's own address when nothing is known of it.
const UNKNOWN_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

fn local(env: &Environment) -> Option<Local> {
    let set = |name| Some(env.text_or(name, "")).filter(|text| !text.is_empty());
    let path = set("LOCAL_XDS_PATH").map(|path| Local::Path(path.into()));
    path.or_else(|| set("LOCAL_XDS").map(|text| Local::Text(text.to_owned())))
}

/// As told; else the processor limit; else the larger of 2, a quarter of the cores and the processor request.
fn workers(env: &Environment) -> Result<usize, BadSetting> {
    let limit = env.number("ZTUNNEL_CPU_LIMIT", 0)?;
    let limit = env.number("ZTUNNEL_RESOURCE_CPU_LIMIT", limit)?;
    let request = env.number("ZTUNNEL_RESOURCE_CPU_REQUEST", 0)?;
    let default = if limit > 0 {
        limit
    } else {
        (cores() / 4).max(request).max(2)
    };
    settings::threads(env, "ZTUNNEL_WORKER_THREADS", default)
}

#[cfg(test)]
mod tests;
