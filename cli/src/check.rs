//! `ambit check`: what is wrong with the mesh of a cluster, or with the cluster before there is one; where; and the command
//! that repairs it.
//!
//! Here is what is asked and printed. What is wrong is decided by `check/rules.rs` from what was answered.

use serde_json::{Value, json};

use crate::{
    Failure,
    cluster::{Cluster, Place, whole_object},
    install,
    paint::Paint,
    status,
};
use rules::{Facts, Finding, Level};

mod policies;
mod rules;
mod strict;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,

    /// Whether the mesh could be installed here, instead of whether it works.
    #[arg(long)]
    pre: bool,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = crate::args::Output::Table)]
    output: crate::args::Output,
}

/// Checks; a failure if anything is wrong.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let cluster = Cluster::of(&arguments.place)?;
    let facts = gather(&cluster, &arguments.place, arguments.pre)?;
    let findings = if arguments.pre {
        rules::before(&facts)
    } else {
        rules::all(&facts)
    };
    let wrong = findings
        .iter()
        .filter(|it| it.level == Level::Error)
        .count();
    crate::print(&match arguments.output {
        crate::args::Output::Json => as_json(&findings),
        crate::args::Output::Table => as_text(&findings, Paint::stdout()),
    })?;
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 check failed".to_owned())),
        wrong => Err(Failure::Failed(format!("{wrong} checks failed"))),
    }
}

fn gather(cluster: &Cluster, place: &Place, pre: bool) -> Result<Facts, Failure> {
    let list = |path: &str| cluster.list(path, whole_object);
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let crd = cluster.get(&format!("{crds}/gateways.gateway.networking.k8s.io"))?;
    let mut facts = Facts {
        server: cluster.server.clone(),
        namespace: place.namespace.clone(),
        version: cluster.get("/version")?.unwrap_or_default(),
        gateway_api: crd.map(|crd| crd["metadata"]["annotations"].clone()),
        kinds: install::kinds::served(cluster)?,
        nodes: list("/api/v1/nodes")?,
        namespaces: list("/api/v1/namespaces")?,
        root_certificates: list(
            "/api/v1/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert",
        )?,
        daemon_sets: list("/apis/apps/v1/daemonsets")?,
        deployments: list(
            "/apis/apps/v1/deployments?labelSelector=app%20in%20(istiod,kuma-control-plane)",
        )?,
        webhooks: list("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")?,
        cilium: cluster.get("/api/v1/namespaces/kube-system/configmaps/cilium-config")?,
        ..Facts::default()
    };
    let linkerd = "/apis/apps/v1/deployments?labelSelector=linkerd.io/control-plane-component";
    facts.deployments.extend(list(linkerd)?);
    if !pre {
        facts.workloads = install::workloads(cluster, &place.namespace)?;
        facts.own_pods = list(&install::pods_path(&place.namespace))?;
        facts.pods = cluster.list("/api/v1/pods", status::kept)?;
        let hooks = "validatingwebhookconfigurations";
        facts.validating = list(&format!("/apis/admissionregistration.k8s.io/v1/{hooks}"))?;
        facts.services = list("/api/v1/services")?;
        facts.peer_authentications = list("/apis/security.istio.io/v1/peerauthentications")?;
        facts.network_policies = list("/apis/networking.k8s.io/v1/networkpolicies")?;
    }
    Ok(facts)
}

fn as_json(findings: &[Finding]) -> String {
    let checks: Vec<_> = findings
        .iter()
        .map(|it| {
            json!({
                "check": it.check, "level": it.level.as_str(), "what": it.what,
                "where": it.place, "repair": it.repair,
            })
        })
        .collect();
    let ok = findings.iter().all(|it| it.level != Level::Error);
    format!(
        "{:#}\n",
        json!({ "ok": ok, "checks": Value::Array(checks) })
    )
}

fn as_text(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for it in findings {
        let mark = match it.level {
            Level::Ok => paint.mark(true),
            Level::Warning => paint.bold("!"),
            Level::Error => paint.mark(false),
        };
        let place = if it.place.is_empty() {
            String::new()
        } else {
            format!(" ({})", it.place)
        };
        text += &format!("{mark} {}: {}{place}\n", it.check, it.what);
        if !it.repair.is_empty() {
            text += &format!("    {} {}\n", paint.dim("→"), it.repair);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, repair: &str) -> Finding {
        Finding {
            check: "nodes",
            level,
            what: "no ztunnel".to_owned(),
            place: "kn1".to_owned(),
            repair: repair.to_owned(),
        }
    }

    #[test]
    fn a_finding_is_printed_with_its_place_and_its_repair() {
        let plain = Paint::given(false, false);
        let text = as_text(
            &[
                finding(Level::Error, "kubectl x"),
                finding(Level::Warning, ""),
            ],
            plain,
        );
        assert_eq!(
            text,
            "✗ nodes: no ztunnel (kn1)\n    → kubectl x\n! nodes: no ztunnel (kn1)\n"
        );
    }

    #[test]
    fn as_json_only_errors_are_not_ok() {
        for (level, ok) in [
            (Level::Ok, true),
            (Level::Warning, true),
            (Level::Error, false),
        ] {
            let json: Value = serde_json::from_str(&as_json(&[finding(level, "x")])).unwrap();
            assert_eq!(json["ok"], ok, "{level:?}");
            let check = json!({"check": "nodes", "level": level.as_str(), "what": "no ztunnel", "where": "kn1", "repair": "x"});
            assert_eq!(json["checks"][0], check);
        }
    }
}
