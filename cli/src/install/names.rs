//! Whether the names that several meshes may hold on a cluster are ours there: `compat.istioNames` of the chart.
//!
//! `auto` is decided here, once, when the mesh is installed, and the chart is given the plain answer: what pods are captured
//! by may not change by itself because another mesh comes later. The chart takes `auto` for `true`, and refuses that where
//! it sees another holder: who installs it by helm alone decides himself.

use mesh::keys::Keys;
use serde_json::Value;

use crate::{
    Failure,
    cluster::{Cluster, whole_object},
};

/// The chart's value.
pub(super) const VALUE: &str = "compat.istioNames";

/// What tells the components, and from which one reads what an installed mesh goes by.
const VARIABLE: &str = "AMBIT_ISTIO_NAMES";

/// The annotation of the chart's ConfigMap that says what the value is.
const SAID: &str = "ambit.dev/istio-names:";

/// What of a cluster may hold the names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders {
    /// Deployments of the app `istiod`, and maybe others.
    pub(crate) deployments: Vec<Value>,
    /// All DaemonSets.
    pub(crate) daemon_sets: Vec<Value>,
    /// Mutating webhooks.
    pub(crate) webhooks: Vec<Value>,
    /// ConfigMaps `istio-ca-root-cert`.
    pub(crate) root_certificates: Vec<Value>,
}

impl Holders {
    /// Those of a cluster.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self, Failure> {
        let list = |path: &str| cluster.list(path, whole_object);
        let certificates = format!(
            "/api/v1/configmaps?fieldSelector=metadata.name%3D{}",
            Keys::Shared.root_certificate()
        );
        Ok(Self {
            deployments: list("/apis/apps/v1/deployments?labelSelector=app%3Distiod")?,
            daemon_sets: list("/apis/apps/v1/daemonsets")?,
            webhooks: list("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")?,
            root_certificates: list(&certificates)?,
        })
    }

    /// Who but the mesh of this namespace holds the names, as kind, namespace and name.
    pub(crate) fn others(&self, namespace: &str) -> Vec<String> {
        let named = |kind: &str, it: &Value| {
            let metadata = &it["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default();
            match metadata["namespace"].as_str() {
                Some(of) => format!("{kind} {of}/{name}"),
                None => format!("{kind} {name}"),
            }
        };
        let label = |it: &Value, key: &str, value: &str| it["metadata"]["labels"][key] == value;
        let is_node_proxy = |it: &&Value| {
            let metadata = &it["metadata"];
            metadata["name"] == "istio-cni-node"
                || metadata["name"] == "ztunnel" && metadata["namespace"] != namespace
        };
        let deployments = self.deployments.iter();
        let deployments = deployments.filter(|it| label(it, "app", "istiod"));
        let daemon_sets = self.daemon_sets.iter().filter(is_node_proxy);
        let webhooks = self.webhooks.iter();
        let webhooks = webhooks.filter(|it| label(it, "app", "sidecar-injector"));
        let certificates = self.root_certificates.iter();
        let certificates =
            certificates.filter(|it| !label(it, "app.kubernetes.io/part-of", "ambit"));
        let of = |kind| move |it| named(kind, it);
        deployments
            .map(of("Deployment"))
            .chain(daemon_sets.map(of("DaemonSet")))
            .chain(webhooks.map(of("MutatingWebhookConfiguration")))
            .chain(certificates.map(of("ConfigMap")))
            .collect()
    }
}

/// Under which names an installed mesh goes, from its Deployments and DaemonSets; without it, those of the ecosystem.
pub(crate) fn installed(workloads: &[Value]) -> Keys {
    let agent = workloads
        .iter()
        .find(|it| it["metadata"]["name"] == "ambit-node");
    let containers = agent.and_then(|it| it["spec"]["template"]["spec"]["containers"].as_array());
    let mut variables = containers
        .into_iter()
        .flatten()
        .flat_map(|it| it["env"].as_array().into_iter().flatten());
    let own = variables.any(|it| it["name"] == VARIABLE && it["value"] == "false");
    Keys::of(!own)
}

/// What the chart's manifests say that the value is: `auto`, `true` or `false`.
pub(super) fn wanted(manifests: &str) -> &str {
    let said = manifests
        .lines()
        .find_map(|line| line.trim().strip_prefix(SAID));
    said.map_or("auto", |said| said.trim().trim_matches('"'))
}

/// Under which names the mesh is installed, for this value and with these other holders. `Err`: why it is not.
pub(super) fn decide(wanted: &str, others: &[String]) -> Result<Keys, String> {
    match (wanted, others) {
        ("false", _) => Ok(Keys::Own),
        (_, []) => Ok(Keys::Shared),
        ("auto", _) => Ok(Keys::Own),
        (_, others) => Err(format!(
            "{VALUE}=true, and another mesh holds these names: {}. Either remove it (ambit check --pre says how), or: ambit install --set {VALUE}=false",
            some(others)
        )),
    }
}

/// What is said of it where it was not asked for.
pub(super) fn announce(wanted: &str, keys: Keys, others: &[String]) -> Option<String> {
    if wanted != "auto" {
        return None;
    }
    Some(match keys {
        Keys::Shared => {
            format!("{VALUE}=true: nobody else here holds the names of istio.io")
        }
        Keys::Own => format!(
            "{VALUE}=false: {} holds the names of istio.io, so ours are those of ambit.dev",
            some(others)
        ),
    })
}

/// The first few: of ConfigMaps there may be one in each namespace.
fn some(others: &[String]) -> String {
    let (first, rest) = others.split_at(others.len().min(3));
    let more = if rest.is_empty() {
        String::new()
    } else {
        format!(" and {} more", rest.len())
    };
    format!("{}{more}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, labels: &Value) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name, "labels": labels}})
    }

    #[test]
    fn whoever_holds_the_names_is_named() {
        let istiod = object("istio-system", "istiod-1", &json!({"app": "istiod"}));
        let kuma = object("kuma", "control", &json!({"app": "kuma-control-plane"}));
        let cni = object("kube-system", "istio-cni-node", &json!({}));
        let ztunnel = |namespace: &str| object(namespace, "ztunnel", &json!({}));
        let injector =
            json!({"metadata": {"name": "inject", "labels": {"app": "sidecar-injector"}}});
        let certificate = |labels: &Value| object("a", "istio-ca-root-cert", labels);
        let holders = Holders {
            deployments: vec![istiod, kuma],
            daemon_sets: vec![cni, ztunnel("istio-system"), ztunnel("ambit-system")],
            webhooks: vec![injector],
            root_certificates: vec![
                certificate(&json!({"istio.io/config": "true"})),
                certificate(&json!({"app.kubernetes.io/part-of": "ambit"})),
            ],
        };
        assert_eq!(
            holders.others("ambit-system"),
            [
                "Deployment istio-system/istiod-1",
                "DaemonSet kube-system/istio-cni-node",
                "DaemonSet istio-system/ztunnel",
                "MutatingWebhookConfiguration inject",
                "ConfigMap a/istio-ca-root-cert",
            ]
        );
        let none = Holders::default();
        assert!(none.others("ambit-system").is_empty());
    }

    #[test]
    fn auto_gives_way_and_true_does_not() {
        let others = ["Deployment istio-system/istiod".to_owned()];
        for (wanted, others, expected) in [
            ("auto", &[][..], Some(Keys::Shared)),
            ("true", &[], Some(Keys::Shared)),
            ("false", &[], Some(Keys::Own)),
            ("auto", &others, Some(Keys::Own)),
            ("false", &others, Some(Keys::Own)),
            ("true", &others, None),
        ] {
            let decided = decide(wanted, others);
            assert_eq!(decided.clone().ok(), expected, "{wanted} {others:?}");
            let names_it = |why: String| why.contains("istio-system/istiod");
            assert!(decided.err().is_none_or(names_it));
        }
    }

    #[test]
    fn what_the_chart_was_given_and_what_runs_are_read_back() {
        assert_eq!(
            wanted("  annotations:\n    ambit.dev/istio-names: \"false\"\n"),
            "false"
        );
        assert_eq!(wanted("kind: ConfigMap\n"), "auto");
        let agent = |value: &str| {
            let env = json!([{"name": "NODE_NAME"}, {"name": VARIABLE, "value": value}]);
            json!({"metadata": {"name": "ambit-node"}, "spec": {"template": {"spec": {"containers": [{"env": env}]}}}})
        };
        assert_eq!(installed(&[agent("false")]), Keys::Own);
        assert_eq!(installed(&[agent("true")]), Keys::Shared);
        assert_eq!(installed(&[]), Keys::Shared);
    }
}
