//! One cluster, from its start to its end.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use sys::netns::Netns;

use crate::program::{Failed, run, wait};

/// How long a rollout may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names a program that takes the place of the fixture's own.
const BINARY: &str = "AMBIT_KUBE";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cluster with at least two nodes.
#[derive(Debug)]
pub struct Cluster {
    state: PathBuf,
    binary: PathBuf,
}

impl Cluster {
    /// Starts one. `None`, and a line that says so, where that is not possible.
    ///
    /// # Panics
    /// If it does not start; and where it is not possible, if the environment has `AMBIT_NO_SKIP=1`.
    pub fn start(what: &str, nodes: usize) -> Option<Self> {
        let binary = binary();
        if !binary.exists() {
            let reason = format!(
                "no cluster: run `tests/kube/cluster/cluster.py build`, which makes {}",
                binary.display()
            );
            let no_skip = env::var_os("AMBIT_NO_SKIP").is_some_and(|value| value == "1");
            assert!(!no_skip, "{what}: {reason}");
            println!("skipped: {what}: {reason}");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let state = env::temp_dir().join(format!("ambit-kube-{}-{number}", id()));
        let cluster = Self { state, binary };
        let up = cluster.fixture(&["--nodes", &nodes.to_string(), "up"]);
        up.unwrap_or_else(|failed| panic!("{failed}"));
        Some(cluster)
    }

    /// The credentials of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// The fixture's program, which is `kubectl` too.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A program that talks to this cluster.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// `kubectl`.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Failed> {
        self.kubectl_with(arguments, "")
    }

    /// `kubectl` with an input.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, Failed> {
        let mut command = self.command(&self.binary);
        run(command.arg("kubectl").args(arguments), input)
    }

    /// `kubectl`, whose success nobody doubts.
    ///
    /// # Panics
    /// If it fails.
    pub fn does(&self, arguments: &[&str]) -> String {
        let done = self.kubectl(arguments);
        done.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Applies manifests.
    ///
    /// # Panics
    /// If the API server refuses them.
    pub fn apply(&self, manifests: &str) {
        let applied = self.kubectl_with(&["apply", "-f", "-"], manifests);
        applied.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// An object, or a list of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.does(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Waits until what is rolled out has come up: `daemonset/ztunnel`.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn rolled_out(&self, namespace: &str, object: &str) {
        wait(object, PATIENCE, || {
            let arguments = ["-n", namespace, "rollout", "status", object, "--timeout=5s"];
            self.kubectl(&arguments).map_err(|failed| {
                let pods = self.kubectl(&["-n", namespace, "get", "pods", "-o", "wide"]);
                format!("{failed}\n{}", pods.unwrap_or_default())
            })
        });
    }

    /// Runs a command in a pod.
    ///
    /// # Errors
    /// If it fails.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, Failed> {
        self.kubectl(&[&["-n", namespace, "exec", pod, "--"], command].concat())
    }

    /// Runs a command on a node (`kn1`, `kn2`), or where nodes and pods are reached from (`cp`).
    ///
    /// # Errors
    /// If it fails.
    pub fn node(&self, node: &str, command: &[&str]) -> Result<String, Failed> {
        self.fixture(&[&["node", node], command].concat())
    }

    /// The network namespace of a node.
    ///
    /// # Panics
    /// If it does not run here.
    pub fn netns(&self, node: &str) -> Netns {
        let netns = Netns::open(self.process(node).join("ns/net"));
        netns.unwrap_or_else(|error| panic!("{node}: {error}"))
    }

    /// Where a file of a node is seen from here.
    pub fn file(&self, node: &str, path: &str) -> PathBuf {
        let inside = path.trim_start_matches('/');
        self.process(node).join("root").join(inside)
    }

    /// The network namespace of the pod of a node that has this address, as a file.
    ///
    /// # Panics
    /// If there is none.
    pub fn pod_netns(&self, node: &str, address: IpAddr) -> PathBuf {
        let look = format!(
            "for it in /run/netns/*; do nsenter --net=$it ip -o addr | grep -q ' {address}/' && echo $it; done; true"
        );
        let found = self.node(node, &["sh", "-c", &look]);
        let found = found.unwrap_or_else(|failed| panic!("{failed}"));
        assert!(!found.trim().is_empty(), "no pod of {node} has {address}");
        self.file(node, found.trim())
    }

    /// What the kernel tells of a node's first process.
    fn process(&self, node: &str) -> PathBuf {
        let file = self.state.join(node).join("pid");
        let pid = fs::read_to_string(&file).unwrap_or_default();
        let pid = pid.split_whitespace().next().unwrap_or("none");
        Path::new("/proc").join(pid)
    }

    /// Gives every node an image of a directory.
    ///
    /// # Panics
    /// If they do not take it.
    pub fn image(&self, name: &str, directory: &Path, entrypoint: &str) {
        let directory = directory.display().to_string();
        let made = self.fixture(&["--entrypoint", entrypoint, "image", name, &directory]);
        made.unwrap_or_else(|failed| panic!("{failed}"));
    }

    fn fixture(&self, arguments: &[&str]) -> Result<String, Failed> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.py");
        let mut command = Command::new(script);
        command.arg("--state").arg(&self.state);
        command.arg("--kube").arg(&self.binary).args(arguments);
        run(&mut command, "")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if env::var_os("AMBIT_KUBE_KEEP").is_some() {
            println!(
                "the cluster stays: KUBECONFIG={}",
                self.kubeconfig().display()
            );
        } else if let Err(failed) = self.fixture(&["down"]) {
            eprintln!("{failed}");
        }
    }
}

fn binary() -> PathBuf {
    let cache = || {
        let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
        env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from)
    };
    env::var_os(BINARY).map_or_else(|| cache().join("ambit-kube/kube"), PathBuf::from)
}
