//! Whether a pod may start. Pure.

use crate::{host::Host, talk::Answer};

/// Never in the mesh, whatever it says.
const SYSTEM: &str = "kube-system";

/// What is known before the agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The pod may start.
    Pass,
    /// The agent is to say.
    Ask,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may start.
    Pass,
    /// It may not, and why, in a sentence.
    Refuse(String),
}

/// Before the agent is asked. What runs the mesh and the cluster never waits for the mesh.
pub fn first(namespace: &str, host: Option<&Host>) -> First {
    let own = host.is_some_and(|host| host.own == namespace || host.excluded.contains(namespace));
    if own || namespace == SYSTEM {
        First::Pass
    } else {
        First::Ask
    }
}

/// The agent has answered.
pub fn answered(answer: Answer) -> Verdict {
    match answer {
        Answer::Ok => Verdict::Pass,
        Answer::Error(sentence) => Verdict::Refuse(sentence),
    }
}

/// The agent has not answered, `why`. Pods that are not held back it captures when it is there again.
pub fn alone(namespace: &str, host: Option<&Host>, why: &str) -> Verdict {
    let Some(host) = host.filter(|_| first(namespace, host) == First::Ask) else {
        return Verdict::Pass;
    };
    if !host.enrolled.contains(namespace) || host.plain.contains(namespace) {
        return Verdict::Pass;
    }
    let own = &host.own;
    Verdict::Refuse(format!(
        "namespace {namespace} is in the mesh and this node's agent, which would take the pod in, does not answer ({why}): see `kubectl -n {own} get pods -l app=ambit-node -o wide`, or let pods start outside the mesh with `kubectl annotate namespace {namespace} ambit.dev/start=plain`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Host {
            own: "ambit-system".to_owned(),
            excluded: set(&["infra"]),
            enrolled: set(&["shop", "bank", "infra", "ambit-system", "kube-system"]),
            plain: set(&["bank"]),
        }
    }

    #[test]
    fn without_an_agent_only_pods_of_enrolled_namespaces_are_held_back() {
        for (namespace, has_host, first_is, passes) in [
            ("shop", true, First::Ask, false),
            ("bank", true, First::Ask, true),
            ("other", true, First::Ask, true),
            ("infra", true, First::Pass, true),
            ("ambit-system", true, First::Pass, true),
            ("kube-system", true, First::Pass, true),
            ("shop", false, First::Ask, true),
            ("ambit-system", false, First::Ask, true),
            ("kube-system", false, First::Pass, true),
        ] {
            let host = has_host.then(host);
            assert_eq!(first(namespace, host.as_ref()), first_is, "{namespace}");
            let verdict = alone(namespace, host.as_ref(), "nobody listens");
            assert_eq!(verdict == Verdict::Pass, passes, "{namespace} {has_host}");
        }
    }

    #[test]
    fn a_refusal_says_what_and_why_and_what_to_do() {
        let Verdict::Refuse(sentence) = alone("shop", Some(&host()), "nobody listens") else {
            panic!("refused");
        };
        for part in [
            "namespace shop",
            "(nobody listens)",
            "-n ambit-system get pods",
            "annotate namespace shop ambit.dev/start=plain",
        ] {
            assert!(sentence.contains(part), "{part}: {sentence}");
        }
        assert!(!sentence.contains('\n'));
    }

    #[test]
    fn the_agents_word_counts() {
        assert_eq!(answered(Answer::Ok), Verdict::Pass);
        let no = Answer::Error("no".to_owned());
        assert_eq!(answered(no), Verdict::Refuse("no".to_owned()));
    }
}
