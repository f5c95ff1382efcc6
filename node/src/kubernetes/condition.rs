//! What a pod's status says of its capture: the condition `ambit.dev/Captured`, as values.
//!
//! The annotation beside it is for peers; this is for people, and says why.

use std::time::Duration;

use crate::report::Report;

/// Its type.
pub const TYPE: &str = "ambit.dev/Captured";

/// Why it is true.
pub const CAPTURED: &str = "Captured";
/// Why it is true, although something is wrong.
pub const DAMAGED: &str = "Damaged";
/// Why it is false.
pub const NOT_CAPTURED: &str = "NotCaptured";

/// What is said of a pod whose probes nobody can tell.
const PROBES: &str = "this node cannot tell probes from other plain text: where that is refused, they fail (see the log of its ambit-node)";

/// How long a pod may be on its way before it says that it is not captured.
pub const GRACE: Duration = Duration::from_secs(5);

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The pod is captured.
    pub is_true: bool,
    /// In one word.
    pub reason: String,
    /// In a sentence, or nothing.
    pub message: String,
}

/// What is true of a pod of which this is reported; nothing of one that is not in the mesh.
pub fn of(report: &Report) -> Option<Condition> {
    let said = &report.pod.reason;
    if !report.is_in {
        return None;
    }
    let (is_true, reason) = match (report.pod.captured, said.is_empty()) {
        (true, true) => (true, CAPTURED),
        (true, false) => (true, DAMAGED),
        (false, _) => (false, NOT_CAPTURED),
    };
    let probes = if report.is_probed_as_plain {
        PROBES
    } else {
        ""
    };
    let message = [said.clone(), past(report.past), probes.to_owned()];
    let message: Vec<_> = message.into_iter().filter(|it| !it.is_empty()).collect();
    Some(Condition {
        is_true,
        reason: reason.to_owned(),
        message: message.join("; "),
    })
}

fn past(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "1 connection that was open before is outside of the mesh until it ends".to_owned(),
        _ => format!(
            "{count} connections that were open before are outside of the mesh until they end"
        ),
    }
}

#[cfg(test)]
mod tests {
    use proto::node::PodReport;

    use super::*;

    fn report(captured: bool, reason: &str, past: usize) -> Report {
        let pod = PodReport {
            captured,
            reason: reason.to_owned(),
            ..PodReport::default()
        };
        Report {
            pod,
            is_hidden: false,
            is_in: true,
            is_probed_as_plain: false,
            past,
        }
    }

    #[test]
    fn it_says_whether_why_and_what_is_still_outside() {
        for (report, is_true, reason, message) in [
            (report(true, "", 0), true, CAPTURED, ""),
            (
                report(true, "", 1),
                true,
                CAPTURED,
                "1 connection that was open before is outside of the mesh until it ends",
            ),
            (
                report(true, "rules", 2),
                true,
                DAMAGED,
                "rules; 2 connections that were open before are outside of the mesh until they end",
            ),
            (report(false, "why", 0), false, NOT_CAPTURED, "why"),
        ] {
            let found = of(&report).unwrap();
            assert_eq!(
                (found.is_true, found.reason.as_str(), found.message.as_str()),
                (is_true, reason, message)
            );
        }
    }

    #[test]
    fn probes_that_nobody_can_tell_are_spoken_of() {
        let plain = Report {
            is_probed_as_plain: true,
            ..report(true, "", 0)
        };
        let found = of(&plain).unwrap();
        assert_eq!(
            (found.reason.as_str(), found.message.as_str()),
            (CAPTURED, PROBES)
        );
    }

    #[test]
    fn a_pod_that_is_not_in_the_mesh_says_nothing() {
        let mut out = report(false, "", 0);
        out.is_in = false;
        assert_eq!(of(&out), None);
    }
}
