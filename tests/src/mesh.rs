//! A world with the real thing in it: a control plane that follows a directory of manifests, and on each node an agent
//! and a ztunnel.

use std::{fs, ops};

use cli::lab::{CONTROL, Node};

use crate::{
    pod::Pod,
    world::{Place, World},
};

/// Where the control plane serves.
pub const PORT: u16 = 15012;

/// A world with a mesh.
#[derive(Debug)]
pub struct Mesh {
    world: World,
}

impl Mesh {
    /// Starts a mesh with these pods and further manifests, and waits until all of it stands. `env` are variables of the
    /// ztunnels.
    pub fn new(
        place: Place,
        name: &str,
        pods: &[Pod],
        manifests: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Self {
        let mesh = Self {
            world: World::new(place, name, pods),
        };
        for pod in pods {
            mesh.put(&format!("pod-{}", pod.name), &pod.manifest());
        }
        for (name, text) in manifests {
            mesh.put(name, text);
        }
        mesh.start_control();
        for node in Node::ALL {
            mesh.until("there is a token", || {
                mesh.path(&format!("state/tokens/{}", node.name())).exists()
            });
            mesh.start_agent(node);
            mesh.start_ztunnel(node, PORT, PORT, env);
        }
        mesh.settled();
        mesh
    }

    /// The control plane; also after it was ended.
    pub fn start_control(&self) {
        let mut command = self.command("control");
        command.args(["--from", "manifests", "--state-dir", "state"]);
        command.args(["--listen", &format!("{CONTROL}:{PORT}")]);
        command.args(["--node", "n1", "--node", "n2"]);
        self.start("control", self.lab.control(), command);
    }

    fn start_agent(&self, node: Node) {
        let name = node.name();
        let mut command = self.command("node");
        command.args(["--node", name, "--manifests", "manifests"]);
        command.args(["--netns-dir", "netns"]);
        command.args(["--zds-socket", &format!("zds/{name}")]);
        command.args(["--control", &format!("{CONTROL}:{PORT}")]);
        command.args(["--control-root", "state/root-cert.pem"]);
        command.args(["--control-token", &format!("state/tokens/{name}")]);
        self.start(&format!("node-{name}"), self.lab.node(node), command);
    }

    /// Writes a manifest in one step.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.path("manifests").join(format!("{name}.yaml"));
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .expect("a manifest is written");
    }

    /// Removes a manifest.
    pub fn take(&self, name: &str) {
        let path = self.path("manifests").join(format!("{name}.yaml"));
        fs::remove_file(path).expect("a manifest is removed");
    }

    /// Waits until every pod is captured, has a certificate, and is known to both nodes as it is.
    pub fn settled(&self) {
        self.until("every pod is captured and known", || {
            let known = |node| {
                let Ok(dump) = self.dump(node) else {
                    return false;
                };
                let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
                self.pods().iter().all(|pod| {
                    workloads.iter().any(|it| {
                        it["name"] == pod.name
                            && (it["protocol"] == "HBONE") == pod.enrolled
                            && it["workloadIps"][0] == pod.addresses[0].to_string().as_str()
                    })
                })
            };
            let held = |pod: &Pod| !pod.enrolled || self.serial(pod).is_some();
            Node::ALL.into_iter().all(known) && self.pods().iter().all(held)
        });
    }
}

impl ops::Deref for Mesh {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl ops::DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

/// A policy of the namespace `shop` for the pods with the label `app: TO`, with one rule on principals. `action` is
/// ALLOW or DENY.
pub fn policy(name: &str, to: &str, action: &str, principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {to}}}}}
  action: {action}
  rules:
  - from:
    - source: {{principals: [\"{principal}\"]}}
"
    )
}
