//! What a waypoint can be told, by environment variables that have the ecosystem's names where it has them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh::{identity::Identity, model::Locality, name::Name};
use net::{
    config::{BadSetting, Environment},
    discovery::Instance,
    hbone,
    log::Format,
    settings::{
        self, Keepalive, Upstream, address, any, cores, drain, keepalive, list, positive, threads,
        tunnel, upstream,
    },
};

/// All settings of a waypoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// `GATEWAY`: name of the Gateway that this is a waypoint of.
    pub gateway: String,
    /// `POD_NAME` (the gateway's name), `POD_NAMESPACE` (the Gateway's namespace), `POD_IP`: this proxy itself.
    pub instance: Instance,
    /// `SERVICE_ACCOUNT` (the gateway's name): with namespace and trust domain, this proxy's identity.
    pub service_account: String,
    /// `NODE_NAME`: where this proxy runs.
    pub node: Name,
    /// `LOCALITY` (`region/zone/subzone`, or the first of these; default: not known): where that node is.
    pub locality: Locality,
    /// `CLUSTER_ID` or `ISTIO_META_CLUSTER_ID` (`Kubernetes`).
    pub cluster: Name,
    /// `NETWORK` (empty: the default network).
    pub network: Name,
    /// `TRUST_DOMAIN` (`cluster.local`).
    pub trust_domain: Name,
    /// `TRUST_DOMAIN_ALIASES` (none): others whose peers are let in, comma-separated.
    pub aliases: Vec<Name>,
    /// `ROOT_NAMESPACE` (`ambit-system`): a policy of it that cannot be read at all denies for the whole mesh.
    pub root_namespace: Name,
    /// `CLUSTER_DOMAIN` (`cluster.local`): part of our name on the discovery stream.
    pub domain: String,
    /// `XDS_ADDRESS`, `XDS_ROOT_CA`, `ALT_XDS_HOSTNAME`, `XDS_HEADER_*`.
    pub discovery: Upstream,
    /// `CA_ADDRESS`, `CA_ROOT_CA`, `ALT_CA_HOSTNAME`, `CA_HEADER_*`.
    pub authority: Upstream,
    /// `SECRET_TTL` (24h): life of the certificate.
    pub ttl: Duration,
    /// `AMBIT_WORKERS` (a number, `N%` of the cores, or 0 for all; default 2, or 1 on a machine with one core).
    pub workers: usize,
    /// `TUNNEL_ADDRESS` (`[::]:15008`, or `0.0.0.0:15008` without IPv6): where clients' tunnels come in.
    pub listen: SocketAddr,
    /// `HTTP2_STREAM_WINDOW_SIZE` (512Ki), `HTTP2_CONNECTION_WINDOW_SIZE` (50Mi), `HTTP2_FRAME_SIZE` (256Ki): of tunnels; and
    /// `TUNNEL_MAX_STREAMS` (16), which a client may have open in one; `MAX_MEMORY` (seven eighths of what the process may use).
    pub tunnel: hbone::Settings,
    /// `POOL_MAX_STREAMS_PER_CONNECTION` (100): streams in one tunnel of ours.
    pub max_streams: usize,
    /// `POOL_UNUSED_RELEASE_TIMEOUT` (5m).
    pub tunnel_idle: Duration,
    /// `MAX_TUNNELS` (20000): of clients, all together.
    pub max_tunnels: usize,
    /// `MAX_TUNNELS_PER_CLIENT` (1000): of one address.
    pub max_own_tunnels: usize,
    /// `KEEPALIVE_*`, as the node proxy's.
    pub keepalive: Option<Keepalive>,
    /// `CONNECTION_TERMINATION_DEADLINE` (5s, or derived from `TERMINATION_GRACE_PERIOD_SECONDS`).
    pub drain: Duration,
    /// `ADMIN_ADDRESS` (`127.0.0.1:15000`).
    pub admin: SocketAddr,
    /// `METRICS_ADDRESS` (`[::]:15020`, or `0.0.0.0:15020` without IPv6).
    pub metrics: SocketAddr,
    /// `READINESS_ADDRESS` (`[::]:15021`, or `0.0.0.0:15021` without IPv6).
    pub readiness: SocketAddr,
    /// `ACCESS_LOG` (true): a line for each request and connection.
    pub access_log: bool,
    /// `RUST_LOG` (`info`).
    pub log_filter: String,
    /// `LOG_FORMAT` (`plain`, or `json`).
    pub log_format: Format,
}

/// Why a waypoint does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadConfig {
    /// A value that is none.
    Setting(BadSetting),
    /// A variable that must be set is not.
    Missing {
        /// The variable.
        name: &'static str,
        /// What it says.
        what: &'static str,
    },
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(bad) => bad.fmt(f),
            Self::Missing { name, what } => write!(f, "{name} is not set: {what}"),
        }
    }
}

impl std::error::Error for BadConfig {}

impl From<BadSetting> for BadConfig {
    fn from(bad: BadSetting) -> Self {
        Self::Setting(bad)
    }
}

/// Streams in one tunnel of a client. A tunnel stays on the worker that took it, so a client that wants many streams has to
/// open several tunnels, and they go to different workers.
const MAX_STREAMS: u32 = 16;

impl Config {
    /// Reads the settings.
    pub fn read(env: &Environment) -> Result<Self, BadConfig> {
        let needed = |name, what| {
            let text = env.text_or(name, "");
            (!text.is_empty())
                .then(|| text.to_owned())
                .ok_or(BadConfig::Missing { name, what })
        };
        let ipv6 = env.boolean("IPV6_ENABLED", true)?;
        let name = |variable, default| Name::new(env.text_or(variable, default));
        let gateway = needed("GATEWAY", "name the Gateway that this is a waypoint of")?;
        let cluster = name(
            "CLUSTER_ID",
            env.text_or("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        );
        let server = |prefix, name| {
            let what =
                "a waypoint does nothing without a control plane; leave it out for the usual one";
            upstream(env, prefix, cluster).ok_or(BadConfig::Missing { name, what })
        };
        Ok(Self {
            instance: Instance {
                name: env.text_or("POD_NAME", &gateway).to_owned(),
                namespace: needed("POD_NAMESPACE", "name the namespace of the Gateway")?,
                ip: env.read(
                    "POD_IP",
                    Ipv4Addr::UNSPECIFIED.into(),
                    "an address",
                    |text| text.parse::<IpAddr>().ok(),
                )?,
            },
            service_account: env.text_or("SERVICE_ACCOUNT", &gateway).to_owned(),
            gateway,
            node: name("NODE_NAME", ""),
            locality: locality(env.text_or("LOCALITY", "")),
            cluster,
            network: name("NETWORK", ""),
            trust_domain: name("TRUST_DOMAIN", mesh::identity::DEFAULT_TRUST_DOMAIN),
            aliases: list(env.text_or("TRUST_DOMAIN_ALIASES", "")),
            root_namespace: name("ROOT_NAMESPACE", "ambit-system"),
            domain: env.text_or("CLUSTER_DOMAIN", "cluster.local").to_owned(),
            discovery: server("XDS", "XDS_ADDRESS")?,
            authority: server("CA", "CA_ADDRESS")?,
            ttl: settings::ttl(env)?,
            workers: threads(env, "AMBIT_WORKERS", cores().min(2))?,
            listen: address(env, "TUNNEL_ADDRESS", any(ipv6, mesh::plan::HBONE_PORT))?,
            tunnel: hbone::Settings {
                max_streams: positive(env, "TUNNEL_MAX_STREAMS", MAX_STREAMS)?,
                ..tunnel(env)?
            },
            max_streams: positive(env, "POOL_MAX_STREAMS_PER_CONNECTION", 100)?,
            tunnel_idle: env.duration("POOL_UNUSED_RELEASE_TIMEOUT", Duration::from_secs(300))?,
            max_tunnels: positive(env, "MAX_TUNNELS", 20_000)?,
            max_own_tunnels: positive(env, "MAX_TUNNELS_PER_CLIENT", 1_000)?,
            keepalive: keepalive(env)?,
            drain: drain(env)?,
            admin: address(
                env,
                "ADMIN_ADDRESS",
                SocketAddr::from(([127, 0, 0, 1], 15000)),
            )?,
            metrics: address(env, "METRICS_ADDRESS", any(ipv6, 15020))?,
            readiness: address(env, "READINESS_ADDRESS", any(ipv6, 15021))?,
            access_log: env.boolean("ACCESS_LOG", true)?,
            log_filter: env.text_or("RUST_LOG", "info").to_owned(),
            log_format: env.read(
                "LOG_FORMAT",
                Format::Text,
                "`json` or `plain`",
                Format::named,
            )?,
        })
    }

    /// Who this proxy is.
    pub fn identity(&self) -> Identity {
        Identity {
            trust_domain: self.trust_domain,
            namespace: Name::new(&self.instance.namespace),
            service_account: Name::new(&self.service_account),
        }
    }

    /// How it calls itself to other waypoints: `<namespace>/<gateway>`.
    pub fn own_name(&self) -> String {
        format!("{}/{}", self.instance.namespace, self.gateway)
    }
}

fn locality(text: &str) -> Locality {
    let mut names = text.split('/').map(Name::new);
    let mut next = || names.next().unwrap_or(Name::EMPTY);
    Locality {
        region: next(),
        zone: next(),
        subzone: next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [(&str, &str); 2] = [("GATEWAY", "waypoint"), ("POD_NAMESPACE", "shop")];

    fn read(more: &[(&str, &str)]) -> Result<Config, BadConfig> {
        let all: Vec<_> = OWN.iter().chain(more).copied().collect();
        Config::read(&Environment::of(&all))
    }

    #[test]
    fn every_setting_is_in_the_readme() {
        let capital = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let readme = include_str!("../../README.md");
        let quoted = include_str!("config.rs").split('"').skip(1).step_by(2);
        let variable = |text: &&str| text.len() > 3 && text.bytes().all(capital);
        let variables: Vec<_> = quoted.filter(variable).collect();
        assert!(
            variables.len() > 20,
            "the search finds too little: {variables:?}"
        );
        for variable in variables {
            assert!(
                readme.contains(&format!("`{variable}`")),
                "{variable} is not in README.md"
            );
        }
    }

    #[test]
    fn gateway_and_namespace_are_enough() {
        let config = read(&[]).unwrap();
        assert_eq!(
            config.identity().to_string(),
            "spiffe://cluster.local/ns/shop/sa/waypoint"
        );
        assert_eq!(config.own_name(), "shop/waypoint");
        assert_eq!(config.listen.port(), 15008);
        assert_eq!(config.tunnel.max_streams, 16);
        let control = "https://ambit-control.ambit-system.svc:15012";
        assert_eq!(config.discovery.address, control);
    }

    #[test]
    fn what_is_missing_or_no_value_stops_the_start_by_its_name() {
        let error = Config::read(&Environment::of(&[("POD_NAMESPACE", "shop")])).unwrap_err();
        assert!(error.to_string().starts_with("GATEWAY is not set"));
        for (name, value) in [
            ("XDS_ADDRESS", ""),
            ("CA_ADDRESS", ""),
            ("AMBIT_WORKERS", "many"),
            ("POD_IP", "here"),
            ("TUNNEL_MAX_STREAMS", "0"),
            ("ACCESS_LOG", "perhaps"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
}
