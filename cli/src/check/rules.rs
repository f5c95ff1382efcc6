//! What is wrong, from what an API server has answered. Pure.

use mesh::keys::Keys;
use serde_json::Value;

use super::{policies, strict};
use crate::{
    install::{chart::oldest_kubernetes, kinds, names, rollout},
    status,
};

/// Where the Gateway API is had, if it is missing or too old.
const GATEWAY_API: &str = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.5.1/standard-install.yaml";

/// The oldest Gateway API that has all kinds that are read, in a version that is.
const OLDEST_GATEWAY_API: (u32, u32) = (1, 1);

/// The first kernel with translation of addresses in nftables' `inet` tables, which capture is made of.
const OLDEST_KERNEL: (u32, u32) = (5, 2);

/// The first kernel whose nftables can tell in which control group a socket was opened, which probes are told apart by.
const OLDEST_FOR_PROBES: (u32, u32) = (5, 13);

/// What was answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) server: String,
    /// Of the mesh.
    pub(super) namespace: String,
    pub(super) version: Value,
    /// The annotations of its definition of Gateways, if it has one.
    pub(super) gateway_api: Option<Value>,
    /// Its definitions of kinds that are among ours.
    pub(super) kinds: Vec<Value>,
    pub(super) nodes: Vec<Value>,
    pub(super) namespaces: Vec<Value>,
    /// ConfigMaps `istio-ca-root-cert`.
    pub(super) root_certificates: Vec<Value>,
    /// All there are.
    pub(super) daemon_sets: Vec<Value>,
    /// Control planes of other meshes.
    pub(super) deployments: Vec<Value>,
    /// Mutating ones.
    pub(super) webhooks: Vec<Value>,
    /// Configuration of Cilium, if it is there.
    pub(super) cilium: Option<Value>,
    /// Deployments and DaemonSets of the mesh.
    pub(super) workloads: Vec<Value>,
    /// Pods of the mesh itself.
    pub(super) own_pods: Vec<Value>,
    /// All pods, as far as [`status::kept`] keeps them.
    pub(super) pods: Vec<Value>,
    pub(super) network_policies: Vec<Value>,
    /// Validating webhooks.
    pub(super) validating: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) peer_authentications: Vec<Value>,
}

impl Facts {
    /// The namespace of the mesh, and under which names it goes.
    fn mesh(&self) -> (&str, Keys) {
        (&self.namespace, names::installed(&self.workloads))
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The check's name.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What is so.
    pub(super) what: String,
    /// Where; empty: in the whole cluster.
    pub(super) place: String,
    /// The command that repairs it; empty where nothing is to be repaired.
    pub(super) repair: String,
}

impl Finding {
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            what: what.into(),
            place: String::new(),
            repair: String::new(),
        }
    }

    pub(super) fn warning(
        check: &'static str,
        what: impl Into<String>,
        repair: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            repair: repair.into(),
            ..Self::ok(check, what)
        }
    }

    pub(super) fn error(
        check: &'static str,
        what: impl Into<String>,
        repair: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Error,
            repair: repair.into(),
            ..Self::ok(check, what)
        }
    }

    pub(super) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }
}

/// What keeps the mesh from being installed, or from working once it is.
pub(super) fn before(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![
        Finding::ok("api", "answers").at(facts.server.as_str()),
        kubernetes(facts),
        gateway_api(facts),
    ];
    found.extend(definitions(facts));
    found.extend(kernels(facts));
    found.extend(cilium(facts));
    found.extend(other_meshes(facts));
    found
}

/// All that is wrong with an installed mesh and around it.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut found = before(facts);
    let parts = rollout::parts(&facts.workloads);
    if parts.iter().all(|part| !part.exists) {
        let what = format!("nothing is installed in {}", facts.namespace);
        found.push(Finding::error("mesh", what, "ambit install"));
        return found;
    }
    found.extend(rolled_out(facts, &parts));
    found.push(version(facts));
    found.extend(nodes(facts));
    found.extend(captured(facts));
    found.extend(policies::blocking(
        facts.mesh(),
        &facts.namespaces,
        &facts.pods,
        &facts.network_policies,
    ));
    found.extend(strict::refused(strict::Asked {
        root: &facts.namespace,
        mesh: &status::mesh(facts.mesh(), &facts.namespaces, &facts.pods, &[]),
        policies: &facts.peer_authentications,
        services: &facts.services,
        mutating: &facts.webhooks,
        validating: &facts.validating,
    }));
    found
}

fn kubernetes(facts: &Facts) -> Finding {
    let said = facts.version["gitVersion"]
        .as_str()
        .unwrap_or("of an unknown version");
    match (numbers(said), oldest_kubernetes()) {
        (Some(is), Some(oldest)) if is < oldest => {
            let what = format!("{said} is older than v{}.{}", oldest.0, oldest.1);
            Finding::error("kubernetes", what, "upgrade the cluster")
        }
        _ => Finding::ok("kubernetes", said),
    }
}

fn gateway_api(facts: &Facts) -> Finding {
    let Some(annotations) = &facts.gateway_api else {
        let what = "not there; waypoints and routes need it, the rest of the mesh does not";
        return Finding::warning("gateway-api", what, GATEWAY_API);
    };
    let said = annotations["gateway.networking.k8s.io/bundle-version"]
        .as_str()
        .unwrap_or("of an unknown version");
    match numbers(said) {
        Some(is) if is < OLDEST_GATEWAY_API => Finding::warning(
            "gateway-api",
            format!("{said} lacks kinds that waypoints need"),
            GATEWAY_API,
        ),
        _ => Finding::ok("gateway-api", said),
    }
}

/// Definitions of kinds that take away what is read here.
fn definitions(facts: &Facts) -> Vec<Finding> {
    match kinds::older(&facts.kinds) {
        Ok(older) if older.is_empty() => {
            vec![Finding::ok("kinds", "no definition takes fields away")]
        }
        Ok(older) => older
            .iter()
            .map(|it| Finding::error("kinds", it.what(), it.repair()))
            .collect(),
        Err(failure) => vec![Finding::error("kinds", failure.to_string(), "")],
    }
}

fn kernels(facts: &Facts) -> Vec<Finding> {
    let linux = facts.nodes.iter().filter(|node| is_linux(node));
    let too_old = linux.filter_map(|node| {
        let kernel = node["status"]["nodeInfo"]["kernelVersion"].as_str()?;
        let is = numbers(kernel)?;
        let older =
            |than: (u32, u32)| format!("Linux {kernel} is older than {}.{}", than.0, than.1);
        let repair = "upgrade the node's kernel";
        let found = if is < OLDEST_KERNEL {
            Finding::error("kernel", older(OLDEST_KERNEL), repair)
        } else if is < OLDEST_FOR_PROBES {
            let what = older(OLDEST_FOR_PROBES);
            let what = format!("{what}: probes of pods that refuse plain text fail there");
            Finding::warning("kernel", what, repair)
        } else {
            return None;
        };
        Some(found.at(name(node)))
    });
    let mut found: Vec<_> = too_old.collect();
    if found.is_empty() {
        found.push(Finding::ok(
            "kernel",
            format!("of {} nodes", facts.nodes.len()),
        ));
    }
    found
}

/// Settings with which Cilium takes traffic, or the CNI configuration, away from everybody else.
fn cilium(facts: &Facts) -> Option<Finding> {
    let data = &facts.cilium.as_ref()?["data"];
    let mut wrong = Vec::new();
    for (key, bad, default, flag) in [
        ("cni-exclusive", "true", "true", "cni.exclusive=false"),
        (
            "enable-bpf-masquerade",
            "true",
            "false",
            "bpf.masquerade=false",
        ),
        (
            "bpf-lb-sock-hostns-only",
            "false",
            "false",
            "socketLB.hostNamespaceOnly=true",
        ),
    ] {
        if data[key].as_str().unwrap_or(default) == bad {
            wrong.push(flag);
        }
    }
    Some(if wrong.is_empty() {
        Finding::ok("cni", "Cilium leaves room for others")
    } else {
        let what = "Cilium takes what the mesh needs";
        let flags: String = wrong.iter().map(|flag| format!(" --set {flag}")).collect();
        let repair =
            format!("helm upgrade cilium cilium/cilium -n kube-system --reuse-values{flags}");
        Finding::warning("cni", what, repair).at("ConfigMap kube-system/cilium-config")
    })
}

/// What other meshes have running, and what they have left behind.
fn other_meshes(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for object in &facts.deployments {
        let place = format!("Deployment {}/{}", namespace(object), name(object));
        let (mesh, repair) = match object["metadata"]["labels"]["app"].as_str() {
            Some("istiod") => {
                let repair = "istioctl uninstall --purge";
                found.push(beside(facts, "the control plane of Istio", repair).at(place));
                continue;
            }
            Some("kuma-control-plane") => ("Kuma", "helm list -A; then helm uninstall its release"),
            _ => ("Linkerd", "linkerd uninstall | kubectl delete -f -"),
        };
        let what = format!("the control plane of {mesh} runs here");
        found.push(Finding::error("other-mesh", what, repair).at(place));
    }
    for object in &facts.daemon_sets {
        let (of, name) = (namespace(object), name(object));
        let place = format!("DaemonSet {of}/{name}");
        let repair = format!("kubectl -n {of} delete daemonset {name}");
        match name {
            "istio-cni-node" => {
                found.push(beside(facts, "the CNI plugin of Istio", &repair).at(place));
            }
            "ztunnel" if of != facts.namespace => {
                found.push(beside(facts, "the node proxy of Istio", &repair).at(place));
            }
            "linkerd-cni" => {
                let what = "the CNI plugin of Linkerd runs here";
                found.push(Finding::error("other-mesh", what, repair).at(place));
            }
            _ => {}
        }
    }
    if found.is_empty() && facts.mesh().1 == Keys::Shared {
        found.extend(left_certificates(facts));
    }
    found.extend(left_webhooks(facts));
    if found.is_empty() {
        found.push(Finding::ok("other-mesh", "none, and nothing left of one"));
    }
    found
}

/// A part of a mesh that holds the names of the ecosystem: a fault only of a mesh that goes by the same.
fn beside(facts: &Facts, what: &str, repair: &str) -> Finding {
    if facts.workloads.is_empty() {
        let what = format!(
            "{what} runs here: beside it `ambit install` goes by names of its own (ambit.dev/dataplane-mode)"
        );
        return Finding::warning("other-mesh", what, repair);
    }
    match facts.mesh().1 {
        Keys::Shared => {
            let what = format!("{what} runs here, and goes by the same names");
            Finding::error("other-mesh", what, repair)
        }
        Keys::Own => {
            let what = format!("{what} runs here, by other names than ours");
            Finding::ok("other-mesh", what)
        }
    }
}

fn left_certificates(facts: &Facts) -> Option<Finding> {
    let is_ours = |it: &Value| it["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ambit";
    let foreign: Vec<_> = facts
        .root_certificates
        .iter()
        .filter(|it| !is_ours(it))
        .collect();
    let first = namespace(foreign.first()?);
    let what = format!(
        "{} ConfigMaps istio-ca-root-cert are of another mesh, which does not run; as long as they are there `ambit install` goes by names of its own",
        foreign.len()
    );
    let repair = "kubectl delete configmap -A -l 'app.kubernetes.io/part-of!=ambit' --field-selector metadata.name=istio-ca-root-cert";
    Some(Finding::warning("other-mesh", what, repair).at(format!("namespace {first}")))
}

/// Webhooks whose service is in a namespace that is gone: they stop every pod that they are for.
fn left_webhooks(facts: &Facts) -> impl Iterator<Item = Finding> {
    facts.webhooks.iter().filter_map(|it| {
        let webhooks = it["webhooks"].as_array()?;
        let services = webhooks
            .iter()
            .filter_map(|it| it["clientConfig"]["service"]["namespace"].as_str());
        let gone = services
            .clone()
            .find(|wanted| facts.namespaces.iter().all(|it| name(it) != *wanted))?;
        let what = format!("its service was in the namespace {gone}, which is gone");
        let repair = format!("kubectl delete mutatingwebhookconfiguration {}", name(it));
        Some(
            Finding::warning("other-mesh", what, repair)
                .at(format!("MutatingWebhookConfiguration {}", name(it))),
        )
    })
}

fn rolled_out(facts: &Facts, parts: &[rollout::Part]) -> Vec<Finding> {
    let troubles = rollout::troubles(&facts.own_pods);
    let found = parts.iter().map(|part| {
        if part.is_rolled_out() {
            return Finding::ok("mesh", part.to_string());
        }
        if !part.exists {
            return Finding::error(
                "mesh",
                format!("there is no {}", part.what),
                "ambit upgrade",
            )
            .at(part.object.as_str());
        }
        let pod = part.object.rsplit('/').next().unwrap_or_default();
        let why: Vec<_> = troubles
            .iter()
            .filter(|line| line.starts_with(pod))
            .cloned()
            .collect();
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(": {}", why.join("; "))
        };
        let repair = format!(
            "kubectl -n {} logs {} --all-containers; kubectl -n {0} describe {1}",
            facts.namespace, part.object
        );
        Finding::error("mesh", format!("{part}{why}"), repair).at(part.object.as_str())
    });
    found.collect()
}

fn version(facts: &Facts) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let labels = facts
        .workloads
        .iter()
        .find(|it| name(it) == "ambit-control")
        .map(|it| &it["metadata"]["labels"]);
    match labels.and_then(|labels| labels["app.kubernetes.io/version"].as_str()) {
        Some(installed) if installed != own => {
            let what = format!("{installed} is installed, and this is the ambit of {own}");
            Finding::warning("version", what, "ambit upgrade")
        }
        _ => Finding::ok("version", own),
    }
}

/// Nodes without a ready ztunnel or agent.
fn nodes(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for node in facts
        .nodes
        .iter()
        .filter(|node| is_linux(node) && rollout::is_ready(node))
    {
        for (part, app) in [("ztunnel", "ztunnel"), ("node agent", "ambit-node")] {
            let on_node = |pod: &&Value| {
                pod["metadata"]["labels"]["app"] == app && pod["spec"]["nodeName"] == name(node)
            };
            let there: Vec<_> = facts.own_pods.iter().filter(on_node).collect();
            if there.iter().any(|pod| rollout::is_ready(pod)) {
                continue;
            }
            let (what, repair) = match there.first() {
                Some(pod) => {
                    let why = rollout::why_unready(pod);
                    let logs = format!("kubectl -n {} logs {}", facts.namespace, name(pod));
                    (format!("its {part} is not ready: {why}"), logs)
                }
                None => {
                    let describe =
                        format!("kubectl -n {} describe daemonset/{app}", facts.namespace);
                    (format!("it has no {part}"), describe)
                }
            };
            found.push(Finding::error("nodes", what, repair).at(name(node)));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "nodes",
            "each has a ready ztunnel and a ready agent",
        ));
    }
    found
}

/// Pods that should be captured and are not.
fn captured(facts: &Facts) -> Vec<Finding> {
    let mesh = status::mesh(
        facts.mesh(),
        &facts.namespaces,
        &facts.pods,
        &facts.own_pods,
    );
    let mut found = Vec::new();
    let mut count = 0;
    for namespace in &mesh {
        for pod in &namespace.pods {
            match &pod.state {
                status::State::Captured => count += 1,
                status::State::Waiting(why) => {
                    let place = format!("pod {}/{}", namespace.name, pod.name);
                    let repair = format!("kubectl -n {} describe pod {}", namespace.name, pod.name);
                    let what = format!("not captured: {why}");
                    // Of a pod that does not run yet it is no fault.
                    let found_so = if pod.runs {
                        Finding::error
                    } else {
                        Finding::warning
                    };
                    found.push(found_so("pods", what, repair).at(place));
                }
                status::State::Out(_) | status::State::Leaving => {}
            }
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "pods",
            format!("{count} captured, all that should be"),
        ));
    }
    found
}

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn is_linux(node: &Value) -> bool {
    node["metadata"]["labels"]["kubernetes.io/os"]
        .as_str()
        .unwrap_or("linux")
        == "linux"
}

/// The first two numbers of a version: `v1.34.4` and `6.8.0-31-generic`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
