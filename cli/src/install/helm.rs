//! The `helm` of the PATH, and what it is asked for.

use std::{
    io,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use super::chart::{Chart, oldest_kubernetes};
use crate::{Failure, cluster::Place};

/// What the release is called.
pub(super) const RELEASE: &str = "ambit";

/// A helm that is there.
#[derive(Debug)]
pub(super) struct Helm {
    namespace: String,
    context: Option<String>,
}

impl Helm {
    /// Makes sure that there is one.
    pub(super) fn find(place: &Place) -> Result<Self, Failure> {
        let helm = Self {
            namespace: place.namespace.clone(),
            context: place.context.clone(),
        };
        helm.run(&["version", "--short"])?;
        Ok(helm)
    }

    /// The release as `helm list` describes it, in whichever state it is; `None` if there is none.
    pub(super) fn release(&self) -> Result<Option<Value>, Failure> {
        let filter = format!("^{RELEASE}$");
        let said = self.run(&["list", "--all", "--output", "json", "--filter", &filter])?;
        let list: Value = serde_json::from_str(&said).map_err(|error| {
            Failure::Failed(format!("`helm list` does not print JSON: {error}"))
        })?;
        Ok(list.get(0).cloned())
    }

    /// The manifests. No cluster is asked.
    pub(super) fn render(&self, chart: &Chart, flags: &[String]) -> Result<String, Failure> {
        // Without one helm assumes a version, which may be older than what the chart is for.
        let (major, minor) = oldest_kubernetes().unwrap_or_default();
        let kubernetes = format!("v{major}.{minor}.0");
        let what = [
            "template",
            RELEASE,
            "--include-crds",
            "--kube-version",
            &kubernetes,
        ];
        self.with(&what, chart, flags)
    }

    pub(super) fn install(&self, chart: &Chart, flags: &[String]) -> Result<String, Failure> {
        // An installation that has failed before is taken up again.
        self.with(&["upgrade", "--install", RELEASE], chart, flags)
    }

    pub(super) fn upgrade(
        &self,
        chart: &Chart,
        flags: &[String],
        dry_run: bool,
    ) -> Result<String, Failure> {
        let dry: &[&str] = if dry_run { &["--dry-run=server"] } else { &[] };
        self.with(
            &[&["upgrade", RELEASE, "--reset-then-reuse-values"], dry].concat(),
            chart,
            flags,
        )
    }

    /// Removes the release. A Job of its chart lets the agents restore their nodes before, unless these are left.
    pub(super) fn uninstall(&self, timeout: Duration, leave_nodes: bool) -> Result<(), Failure> {
        let timeout = format!("{}s", timeout.as_secs().max(1));
        let mut arguments = vec!["uninstall", RELEASE, "--wait", "--timeout", &timeout];
        if leave_nodes {
            arguments.push("--no-hooks");
        }
        let said = self.run(&arguments);
        said.map(drop).map_err(|failure| {
            Failure::Failed(format!(
                "{failure}\nNodes are restored first; what came of it: kubectl -n {} logs job/ambit-uninstall\n\
                 Without that: ambit uninstall --leave-nodes",
                self.namespace
            ))
        })
    }

    fn with(&self, what: &[&str], chart: &Chart, flags: &[String]) -> Result<String, Failure> {
        let chart = chart.path().display().to_string();
        let flags = flags.iter().map(String::as_str);
        let all: Vec<&str> = what
            .iter()
            .copied()
            .chain([chart.as_str()])
            .chain(flags)
            .collect();
        self.run(&all)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("helm");
        command
            .args(arguments)
            .args(["--namespace", &self.namespace]);
        if let Some(context) = &self.context {
            command.args(["--kube-context", context]);
        }
        said(command.output(), arguments[0])
    }
}

fn said(output: io::Result<Output>, what: &str) -> Result<String, Failure> {
    let output = output.map_err(|error| {
        Failure::Failed(if error.kind() == io::ErrorKind::NotFound {
            "no `helm` on the PATH, and it is what installs: https://helm.sh/docs/intro/install/ (version 3.14 or newer)"
                .to_owned()
        } else {
            format!("`helm` cannot be run: {error}")
        })
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let next = if why.contains("another operation") {
        "\nAn earlier one was cut off. Start anew: ambit uninstall"
    } else {
        ""
    };
    Err(Failure::Failed(format!(
        "`helm {what}`: {}{next}",
        why.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_helm_one_is_told_where_it_is_had() {
        let none = said(Err(io::ErrorKind::NotFound.into()), "version").unwrap_err();
        assert!(none.to_string().contains("https://helm.sh"), "{none}");
    }
}
