//! What Gateways wait for while the demo stays up, told once. What is to be done about them is the mesh's.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{Failure, mesh::Deployed};

/// How long a credential takes without anybody wondering.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was told last, and whether to look again although nothing was edited.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Something is on its way.
    pub(crate) again: bool,
    since: Option<Instant>,
    refused: BTreeSet<String>,
}

/// What to tell of a look at the manifests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Pods in which a waypoint was started.
    pub started: Vec<String>,
    /// Pods whose waypoint was ended.
    pub ended: Vec<String>,
    /// Why there is no waypoint: only what was not told before.
    pub refused: Vec<String>,
}

impl Waiting {
    /// What is new in the outcome of a look.
    pub(crate) fn news(&mut self, outcome: Result<Deployed, Failure>, now: Instant) -> News {
        let mut told = outcome.unwrap_or_else(|failure| Deployed {
            refused: vec![failure.to_string()],
            settled: true,
            ..Deployed::default()
        });
        self.again = !told.settled || !told.waiting.is_empty();
        if told.waiting.is_empty() {
            self.since = None;
        } else if now.duration_since(*self.since.get_or_insert(now)) >= PATIENCE {
            let pods = told.waiting.join(", ");
            told.refused.push(format!(
                "the control plane has no credential for {pods} yet: is its Gateway in force?"
            ));
        }
        let refused: BTreeSet<_> = told.refused.into_iter().collect();
        let before = std::mem::replace(&mut self.refused, refused);
        News {
            started: told.started,
            ended: told.ended,
            refused: self.refused.difference(&before).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_a_credential_only_when_it_is_late() {
        let (mut waiting, begin) = (Waiting::default(), Instant::now());
        let look = || Deployed {
            refused: vec!["x".to_owned()],
            waiting: vec!["w".to_owned()],
            settled: true,
            ..Deployed::default()
        };
        assert_eq!(waiting.news(Ok(look()), begin).refused, ["x"]);
        assert!(waiting.again);
        assert_eq!(waiting.news(Ok(look()), begin), News::default());
        let late = waiting.news(Ok(look()), begin + PATIENCE).refused;
        assert!(
            late.len() == 1 && late[0].contains("no credential for w"),
            "{late:?}"
        );
        let settled = Deployed {
            settled: true,
            ..Deployed::default()
        };
        assert_eq!(waiting.news(Ok(settled), begin), News::default());
        assert!(!waiting.again);
        assert_eq!(waiting.news(Ok(look()), begin + PATIENCE).refused, ["x"]);
    }
}
