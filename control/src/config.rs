//! Flags and environment of the control plane, read once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{compile::Settings, tokens::is_node_name};

/// Serves a mesh: what its nodes are told, and their pods' certificates.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "ambit-control", version)]
pub struct Config {
    /// A directory of manifests, watched for changes; or a local workload file.
    #[arg(
        long,
        env = "AMBIT_FROM",
        value_name = "PATH",
        required_unless_present = "kubernetes"
    )]
    pub from: Option<PathBuf>,

    /// Serve the Kubernetes cluster that this runs in. Nothing is kept but in its API server.
    #[arg(long, conflicts_with = "from")]
    pub kubernetes: bool,

    /// Whether the ecosystem's names are ours on this cluster (istio.io/use-waypoint, istio-ca-root-cert), or only their
    /// twins under ambit.dev/ and ambit-ca-root-cert, as another mesh holds them.
    #[arg(
        long,
        env = "AMBIT_ISTIO_NAMES",
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        default_value_t = true
    )]
    pub istio_names: bool,

    /// Name of this replica among those of the cluster.
    #[arg(
        long,
        env = "POD_NAME",
        value_name = "NAME",
        default_value = "ambit-control"
    )]
    pub replica: String,

    /// Service account of the cluster's node proxies, in the root namespace.
    #[arg(
        long,
        env = "AMBIT_ZTUNNEL_ACCOUNT",
        value_name = "NAME",
        default_value = "ztunnel"
    )]
    pub ztunnel_account: String,

    /// Where the root, the nodes' tokens and their reports are kept. `root-cert.pem` and `tokens/NODE` in it are what a
    /// node needs; `waypoint-tokens/NAMESPACE.GATEWAY` in place of the latter what a waypoint needs.
    #[arg(
        long,
        env = "AMBIT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/ambit-control"
    )]
    pub state_dir: PathBuf,

    /// Address to serve on [default: port 15012, on all addresses].
    #[arg(long, env = "AMBIT_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// Address of the operator's pages: /healthz/ready, /metrics, /debug/statuses, /debug/syncz. Plain HTTP.
    #[arg(
        long,
        env = "AMBIT_ADMIN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:15014"
    )]
    pub admin: SocketAddr,

    /// What the mesh is called.
    #[command(flatten)]
    pub names: Names,

    /// A node to make a token for before a manifest names it. May be given several times.
    #[arg(long = "node", value_name = "NAME", value_parser = name)]
    pub nodes: Vec<String>,

    /// Longest life of a workload's certificate, and the one given if none is asked for: 30s, 90m, 24h, 7d.
    #[arg(long, env = "CA_TTL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub ca_ttl: Duration,

    /// A further name or address that nodes reach this control plane by. May be given several times. Always there:
    /// ambit-control, ambit-control.ambit-system.svc, localhost, 127.0.0.1, ::1, and the address of --listen.
    #[arg(long = "server-name", value_name = "NAME", value_parser = server_name)]
    pub server_names: Vec<String>,

    /// Print `ready` as a line on the standard output once serving.
    #[arg(long)]
    pub announce: bool,
}

/// What the mesh is called: of names and identities that it gives, and of where it is configured. They last as long as it runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Names {
    /// Trust domain of all identities.
    #[arg(long, env = "TRUST_DOMAIN", value_name = "NAME", default_value = mesh::identity::DEFAULT_TRUST_DOMAIN, value_parser = trust_domain)]
    pub trust_domain: String,

    /// Namespace whose policies are about the whole mesh, and whose ConfigMap `ambit` configures it.
    #[arg(
        long,
        env = "ROOT_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "ambit-system"
    )]
    pub root_namespace: String,

    /// Name of the cluster in workload names.
    #[arg(
        long,
        env = "CLUSTER_ID",
        value_name = "NAME",
        default_value = "Kubernetes"
    )]
    pub cluster_id: String,
}

impl Names {
    /// How a directory of manifests is compiled: it says what is deployed.
    pub fn settings(&self) -> Settings {
        Settings {
            root_namespace: self.root_namespace.clone(),
            trust_domain: self.trust_domain.clone(),
            cluster_id: self.cluster_id.clone(),
            deploys: true,
            ..Settings::default()
        }
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    // SPIFFE-ID §2.1.
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let valid = !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed);
    if valid {
        Ok(text.to_owned())
    } else {
        Err("a trust domain is of a-z, 0-9, '.', '-' and '_'".to_owned())
    }
}

fn name(text: &str) -> Result<String, String> {
    if is_node_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name is of a-z, 0-9, '-' and '.'".to_owned())
    }
}

fn server_name(text: &str) -> Result<String, String> {
    let dns = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'*');
    let valid = text.parse::<std::net::IpAddr>().is_ok()
        || !text.is_empty() && text.len() <= 253 && text.bytes().all(dns);
    if valid {
        Ok(text.to_owned())
    } else {
        Err("neither a DNS name nor an address".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "a duration is a number and s, m, h or d, such as 90s, and more than nothing".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    let number: u32 = number.parse().map_err(|_| wrong())?;
    if number == 0 {
        Err(wrong())
    } else {
        Ok(Duration::from_secs(u64::from(number) * seconds))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(["ambit-control"].iter().chain(arguments))
    }

    #[test]
    fn flags_are_well_formed() {
        <Config as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations_carry_a_unit() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "24",
            "0h",
            "-1h",
            "1.5h",
            "1w",
            "99999999999s",
            "1é",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        assert!(parse(&["--from", "x"]).is_ok());
        for arguments in [
            &[][..],
            &["--from", "x", "--trust-domain", "Cluster.Local"],
            &["--from", "x", "--node", "../n1"],
            &["--from", "x", "--server-name", "a b"],
            &["--from", "x", "--listen", "15012"],
            &["--from", "x", "--ca-ttl", "0s"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
