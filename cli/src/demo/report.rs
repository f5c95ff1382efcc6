//! What the demo prints: what it waits for, each check with what was measured, and what to try by hand.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};

use super::{check::Outcome, manifests, problems::Change, room, waiting::News};
use crate::{Failure, mesh::Mesh, paint::Paint};

/// A line for whoever reads; that nobody does any more is no reason to stop.
macro_rules! say {
    ($($what:tt)*) => {{
        let _ = writeln!(io::stdout(), $($what)*);
    }};
}

/// Collects outcomes and prints them.
#[derive(Debug)]
pub(crate) struct Report {
    /// One object at the end, instead of lines.
    json: bool,
    paint: Paint,
    begin: Instant,
    outcomes: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            paint: Paint::stdout(),
            begin: Instant::now(),
            outcomes: Vec::new(),
        }
    }

    /// The namespaces are there.
    pub(crate) fn laid_out(&self, mesh: &Mesh) {
        self.progress(&format!(
            "2 nodes and {} pods, each a network namespace",
            mesh.pods.len()
        ));
    }

    /// The start goes on, but not before this.
    pub(crate) fn waiting(&self, what: &str) {
        self.progress(&format!("waiting for {what} …"));
    }

    /// The mesh is up.
    pub(crate) fn started(&self) {
        self.progress(&format!(
            "the mesh is up after {:.1} s\n",
            self.begin.elapsed().as_secs_f64()
        ));
    }

    /// A check has run.
    pub(crate) fn checked(&mut self, outcome: Outcome) {
        if !self.json {
            self.print(&outcome);
        }
        self.outcomes.push(outcome);
    }

    fn print(&self, outcome: &Outcome) {
        let Outcome {
            check,
            took,
            evidence,
            error,
        } = outcome;
        let head = format!(
            "{} {}  {}",
            self.paint.mark(error.is_none()),
            self.paint.bold(check.id),
            check.claim
        );
        say!(
            "{head} {}",
            self.paint.dim(&format!("({:.1} s)", took.as_secs_f64()))
        );
        for line in evidence.lines() {
            say!("    {}", self.paint.dim(&line));
        }
        if let Some(error) = error {
            say!("    {error}");
        }
    }

    /// All checks have run.
    pub(crate) fn finished(&self) -> Result<(), Failure> {
        let failed: Vec<_> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.error.is_some())
            .map(|outcome| outcome.check.id)
            .collect();
        if self.json {
            say!("{:#}", self.object());
        } else {
            let held = self.outcomes.len() - failed.len();
            say!(
                "\n{held} of {} checks hold, after {:.1} s.",
                self.outcomes.len(),
                self.begin.elapsed().as_secs_f64()
            );
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Failure::Failed(format!(
                "{} of {} checks failed: {}",
                failed.len(),
                self.outcomes.len(),
                failed.join(", ")
            )))
        }
    }

    fn object(&self) -> Value {
        let checks = self.outcomes.iter().map(|outcome| {
            json!({
                "id": outcome.check.id,
                "claim": outcome.check.claim,
                "ok": outcome.error.is_none(),
                "error": outcome.error,
                "milliseconds": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
                "evidence": outcome.evidence.json(),
            })
        });
        let checks: Vec<_> = checks.collect();
        json!({ "ok": self.outcomes.iter().all(|outcome| outcome.error.is_none()), "checks": checks })
    }

    /// How to go on by hand.
    pub(crate) fn hints(&self, policies: &Path, logs: &Path) {
        if self.json {
            return;
        }
        let (ambit, demo) = (own_name(), demo_name());
        say!("\nThe mesh stays up until Ctrl-C. In another terminal:");
        let zc = format!("n1 -- {ambit} zc workloads");
        let wp = format!("waypoint -- {ambit} wp routes");
        let hints = [
            (
                "web -- curl -si http://10.96.0.10/",
                "a service on the other node, through HBONE",
            ),
            ("web -- curl -s 'http://[fd96::10]/'", "the same over IPv6"),
            (
                "batch -- curl -s http://10.96.0.10/",
                "denied by shop/no-batch",
            ),
            (
                "legacy -- curl -s http://10.71.1.20:8080/",
                "outside the mesh, refused by a STRICT bank",
            ),
            (
                "web -- curl -si -A tester/1 http://10.96.0.30/",
                "behind a waypoint: testers get the canary",
            ),
            (
                "web -- curl -si http://10.96.0.30/admin",
                "denied at layer 7 by shop/orders-no-admin",
            ),
            (&zc, "what the ztunnel of n1 knows"),
            (&wp, "what the waypoint does with requests"),
        ];
        let width = hints
            .iter()
            .map(|(command, _)| command.len())
            .max()
            .unwrap_or(0);
        for (command, what) in hints {
            say!(
                "  {demo} exec {command:width$}  {}",
                self.paint.dim(&format!("# {what}"))
            );
        }
        say!(
            "Edit {} or {} and try again: an edit is in force within a second.",
            policies.display(),
            manifests::ORDERS
        );
        say!("Logs, access logs among them, are in {}.", logs.display());
    }

    /// The manifests were edited, for worse or for better.
    pub(crate) fn edited(&self, change: &Change) {
        for problem in &change.new {
            self.progress(&format!("{} {problem}", self.paint.mark(false)));
        }
        match (change.left, change.new.as_slice()) {
            (0, _) => self.progress(&format!(
                "{} nothing is wrong with the manifests any more: they are in force",
                self.paint.mark(true)
            )),
            (left, []) => self.progress(&format!("  still wrong with the manifests: {left}")),
            _ => self.progress(
                "  What is wrong is not in force: its last good version is, and a policy that never had one denies.",
            ),
        }
    }

    /// Gateways may have come or gone with an edit.
    pub(crate) fn deployed(&self, news: &News) {
        let (good, bad) = (self.paint.mark(true), self.paint.mark(false));
        for pod in &news.ended {
            self.progress(&format!("{good} the waypoint in {pod} is ended"));
        }
        for pod in &news.started {
            self.progress(&format!("{good} a waypoint is started in {pod}"));
        }
        for reason in &news.refused {
            self.progress(&format!("{bad} {reason}"));
        }
    }

    fn progress(&self, text: &str) {
        if self.json {
            eprintln!("{}", text.trim_end());
        } else {
            say!("{text}");
        }
    }
}

/// This executable as one would type it here.
fn own_name() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "ambit".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(&path)
        .display()
        .to_string()
}

/// The command for this demo's directory.
fn demo_name() -> String {
    let ambit = own_name();
    match std::env::var(room::VARIABLE) {
        Ok(directory) if !directory.is_empty() => {
            format!("{}={directory} {ambit} demo", room::VARIABLE)
        }
        _ => format!("{ambit} demo"),
    }
}
