//! A world with our control plane and our agents, or with a program that stands in for one of ours.

use std::{
    fs, ops,
    path::{Path, PathBuf},
    process::Command,
};

use cli::lab::{CONTROL, Node};
use tests::{
    mesh::PORT,
    pod::Pod,
    world::{Place, World},
};

/// The world.
#[derive(Debug)]
pub struct Mesh(World);

impl Mesh {
    /// Starts our control plane and an agent on each node, with these pods. No proxies.
    pub fn new(place: Place, name: &str, pods: &[Pod]) -> Self {
        Self::over(place, name, pods, |world| {
            let mut control = world.command("control");
            control.args(["--from", "manifests", "--state-dir", "state"]);
            control.args(["--listen", &format!("{CONTROL}:{PORT}")]);
            control.args(["--node", "n1", "--node", "n2"]);
            control
        })
    }

    /// As [`new`](Self::new), with another program as the control plane. It is told by `LISTEN` where to serve and by
    /// `MANIFESTS` what is wanted, and writes its root and a token for each node into `STATE` (`root-cert.pem`, `tokens/n1`).
    pub fn under(place: Place, name: &str, pods: &[Pod], program: &Path) -> Self {
        Self::over(place, name, pods, |world| {
            let mut control = foreign(world, program);
            control.env("LISTEN", format!("{CONTROL}:{PORT}"));
            control.env("MANIFESTS", world.path("manifests"));
            control.env("STATE", world.path("state"));
            control
        })
    }

    fn over(
        place: Place,
        name: &str,
        pods: &[Pod],
        control: impl FnOnce(&World) -> Command,
    ) -> Self {
        let mesh = Self(World::new(place, name, pods));
        for pod in pods {
            mesh.put(&format!("pod-{}", pod.name), &pod.manifest());
        }
        let world = &mesh.0;
        world.start("control", world.lab.control(), control(world));
        for node in Node::ALL {
            let name = node.name();
            let token = world.path("state/tokens").join(name);
            world.until("there is a token", || token.exists());
            let mut agent = world.command("node");
            agent.args(["--node", name, "--manifests", "manifests"]);
            agent.args(["--netns-dir", "netns"]);
            agent.args(["--zds-socket", &format!("zds/{name}")]);
            agent.args(["--control", &format!("{CONTROL}:{PORT}")]);
            agent.args(["--control-root", "state/root-cert.pem"]);
            agent.args(["--control-token", &format!("state/tokens/{name}")]);
            world.start(&format!("node-{name}"), world.lab.node(node), agent);
        }
        mesh
    }

    /// Starts our proxy on a node.
    pub fn start_ours(&self, node: Node) {
        self.start_ztunnel(node, PORT, PORT, &[]);
    }

    /// Starts another program as the proxy of a node, set by the variables that such proxies are set by.
    pub fn start_foreign(&self, node: Node, program: &Path) {
        let name = node.name();
        let mut command = foreign(self, program);
        let address = format!("https://{CONTROL}:{PORT}");
        // Some send the file as it is.
        let token = fs::read_to_string(self.path("state/tokens").join(name));
        let bare = format!("state/token-{name}");
        let written = token.and_then(|token| fs::write(self.path(&bare), token.trim()));
        written.expect("the control plane wrote one");
        command.envs([("NODE_NAME", name), ("PROXY_MODE", "shared")]);
        command.envs([
            ("CLUSTER_ID", "Kubernetes"),
            ("TRUST_DOMAIN", "cluster.local"),
        ]);
        command.envs([
            ("POD_NAME", "ztunnel-abcde"),
            ("POD_NAMESPACE", "mesh-system"),
        ]);
        command.env("INSTANCE_IP", node.address().to_string());
        command.env("INPOD_UDS", format!("zds/{name}"));
        command.env("AUTH_TOKEN", bare);
        for kind in ["XDS", "CA"] {
            command.env(format!("{kind}_ADDRESS"), &address);
            command.env(format!("{kind}_ROOT_CA"), "state/root-cert.pem");
        }
        self.start(&format!("ztunnel-{name}"), self.lab.node(node), command);
    }

    /// Writes a manifest in one step.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.manifest(name);
        let new = path.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.expect("a manifest is written");
    }

    /// Removes a manifest.
    pub fn take(&self, name: &str) {
        fs::remove_file(self.manifest(name)).expect("a manifest is removed");
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.path("manifests").join(format!("{name}.yaml"))
    }
}

/// A program in the world's directory, with nothing in its environment.
fn foreign(world: &World, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(world.path("."));
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RUST_LOG", "info");
    command
}

impl ops::Deref for Mesh {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl ops::DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}
