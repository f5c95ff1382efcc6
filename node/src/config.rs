//! The agent's settings, from flags and the environment.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::report::Target;

/// How far what was installed is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Extent {
    /// From this node: the CNI plugin, and what was put into pods and written on them. Then waits to be ended, if it is to
    /// say when it is ready.
    Node,
    /// From all nodes: has the agent of each do the same, and waits for them.
    Everywhere,
}

/// Captures the TCP of this node's pods and hands the pods to the node proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "ambit-node", version)]
pub struct Config {
    /// Name of this node: pods whose spec.nodeName is this are its own.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,

    /// Directory of Kubernetes manifests with the node's pods and their namespaces.
    #[arg(long, env = "AMBIT_MANIFESTS", required_unless_present = "kubernetes")]
    pub manifests: Option<PathBuf>,

    /// Learn of the node's pods from the API server of the cluster that this runs in.
    #[arg(long, conflicts_with_all = ["manifests", "control"])]
    pub kubernetes: bool,

    /// A namespace whose pods are never in the mesh. May be given several times.
    #[arg(
        long = "exclude",
        env = "AMBIT_EXCLUDE",
        value_delimiter = ',',
        value_name = "NAMESPACE",
        default_value = "kube-system"
    )]
    pub excluded: Vec<String>,

    /// Whether the ecosystem's names are ours on this cluster (istio.io/dataplane-mode, ambient.istio.io/redirection), or
    /// only their twins under ambit.dev/, as another mesh holds them. Of an API server's objects.
    #[arg(
        long,
        env = "AMBIT_ISTIO_NAMES",
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        default_value_t = true
    )]
    pub istio_names: bool,

    /// Directory of network namespaces, which pods name by the annotation ambit.dev/netns.
    #[arg(long, env = "AMBIT_NETNS_DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,

    /// Namespace of the mesh itself, whose pods are never in it.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ambit-system")]
    pub own_namespace: String,

    /// The host's directory of network configurations (/etc/cni/net.d), to chain the CNI plugin into. Without it pods are
    /// captured only after they have started.
    #[arg(long, env = "AMBIT_CNI_CONF_DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,

    /// The host's directory of CNI binaries (/opt/cni/bin), to copy the CNI plugin to.
    #[arg(long, env = "AMBIT_CNI_BIN_DIR")]
    pub cni_bin_dir: Option<PathBuf>,

    /// The CNI plugin that is copied.
    #[arg(long, env = "AMBIT_CNI_PLUGIN", default_value = "/usr/bin/ambit-cni")]
    pub cni_plugin: PathBuf,

    /// Directory in which the CNI plugin finds the agent; the plugin knows it by this name on the host.
    #[arg(long, env = "AMBIT_RUN_DIR", default_value = "/var/lib/ambit")]
    pub run_dir: PathBuf,

    /// Address to accept connections at once the agent is ready.
    #[arg(long, env = "AMBIT_READY", value_name = "ADDRESS:PORT")]
    pub ready: Option<std::net::SocketAddr>,

    /// Take away what was installed, and capture nothing.
    #[arg(
        long,
        value_enum,
        value_name = "EXTENT",
        num_args = 0..=1,
        default_missing_value = "node",
        requires = "kubernetes"
    )]
    pub uninstall: Option<Extent>,

    /// Cut connections so many seconds after their pod was captured that were open before, and go past the proxy; 0 for
    /// never. Where any policy is for the pod they are cut at once.
    #[arg(
        long,
        env = "AMBIT_CUT_AFTER",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub cut_after: u64,

    /// Unix socket that node proxies connect to.
    #[arg(
        long,
        env = "INPOD_UDS",
        default_value = "/var/run/ztunnel/ztunnel.sock"
    )]
    pub zds_socket: PathBuf,

    /// Control plane to report to, as host:port. Without it nothing is reported, and no pod is published as captured.
    #[arg(long, env = "AMBIT_CONTROL", requires_all = ["control_root", "control_token"])]
    pub control: Option<String>,

    /// Name that the control plane's certificate must have, if not the host of its address.
    #[arg(long, env = "AMBIT_CONTROL_NAME")]
    pub control_name: Option<String>,

    /// File of PEM root certificates to verify the control plane with.
    #[arg(long, env = "AMBIT_CONTROL_ROOT")]
    pub control_root: Option<PathBuf>,

    /// File with the bearer token that proves which node this is.
    #[arg(long, env = "AMBIT_CONTROL_TOKEN")]
    pub control_token: Option<PathBuf>,

    /// Take the capture rules out of all pods on exit. Otherwise they stay, so that an upgrade opens no gap.
    #[arg(long, env = "AMBIT_REMOVE_ON_EXIT")]
    pub remove_on_exit: bool,
}

impl Config {
    /// Under which names objects are read and written.
    pub fn keys(&self) -> mesh::keys::Keys {
        mesh::keys::Keys::of(self.istio_names)
    }

    /// Where to report, if anywhere.
    pub fn target(&self) -> Option<Target> {
        let (address, roots, token) = (
            self.control.clone()?,
            self.control_root.clone()?,
            self.control_token.clone()?,
        );
        Some(Target {
            address,
            name: self.control_name.clone(),
            roots,
            token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_needs_roots_and_a_token() {
        let bare = ["ambit-node", "--node", "n1", "--manifests", "m"];
        let config = Config::try_parse_from(bare).unwrap();
        assert!(config.target().is_none());
        let half = [&bare[..], &["--control", "c:15012"]].concat();
        assert!(Config::try_parse_from(half).is_err());
        let full = [
            &bare[..],
            &[
                "--control",
                "c:15012",
                "--control-root",
                "r",
                "--control-token",
                "t",
            ],
        ]
        .concat();
        assert_eq!(
            Config::try_parse_from(full)
                .unwrap()
                .target()
                .unwrap()
                .address,
            "c:15012"
        );
    }

    #[test]
    fn the_help_is_complete() {
        use clap::CommandFactory;
        Config::command().debug_assert();
        assert!(
            Config::command()
                .get_arguments()
                .all(|argument| argument.get_help().is_some())
        );
    }
}
