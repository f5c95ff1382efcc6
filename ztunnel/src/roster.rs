//! Which pods this node proxy serves: what each message of the node agent changes.
//!
//! Pure: the agent's side of a namespace is a key, opening listeners is an action that somebody else carries out.

use std::collections::{BTreeMap, BTreeSet};

use proto::workload::zds::{WorkloadRequest, workload_request::Payload};

/// A pod as the agent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The agent's uid.
    pub uid: String,
    /// Pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

/// The network namespace of a pod: device and inode.
pub type NetnsId = (u64, u64);

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Serve this pod, instead of what had its uid.
    Start(Named),
    /// Serve these no more.
    Stop(Vec<String>),
}

/// The pods that are served.
#[derive(Debug, Default)]
pub struct Roster {
    pods: BTreeMap<String, (Named, NetnsId)>,
    /// Those that the agent has named since it connected; `None` once its snapshot is complete.
    named: Option<BTreeSet<String>>,
    snapshots: u64,
}

impl Roster {
    /// The agent has connected: what it does not name in its snapshot is gone.
    pub fn connected(&mut self) {
        self.named = Some(BTreeSet::new());
    }

    /// Whether a first snapshot is complete.
    pub fn is_complete(&self) -> bool {
        self.snapshots > 0
    }

    /// Decides what a message changes. `netns` is the namespace that came with it. `Err`: the message makes no sense,
    /// for this reason; nothing changes.
    pub fn on(
        &mut self,
        request: WorkloadRequest,
        netns: Option<NetnsId>,
    ) -> Result<Action, String> {
        match (
            request
                .payload
                .ok_or("a message says nothing that is known")?,
            netns,
        ) {
            (Payload::Add(add), Some(netns)) => {
                let info = add
                    .workload_info
                    .ok_or("a pod is added without name, namespace and account")?;
                let named = Named {
                    uid: add.uid,
                    name: info.name,
                    namespace: info.namespace,
                    service_account: info.service_account,
                };
                self.add(named, netns)
            }
            (Payload::Add(add), None) => Err(format!(
                "pod {:?} is added without a network namespace",
                add.uid
            )),
            (_, Some(_)) => Err("a file descriptor came with a message that has none".to_owned()),
            (Payload::Keep(keep), None) => {
                self.name(keep.uid);
                Ok(Action::Nothing)
            }
            (Payload::Del(del), None) => match self.pods.remove(&del.uid) {
                Some(_) => Ok(Action::Stop(vec![del.uid])),
                None => Ok(Action::Nothing),
            },
            (Payload::SnapshotSent(_), None) => self.snapshot(),
        }
    }

    fn add(&mut self, named: Named, netns: NetnsId) -> Result<Action, String> {
        for (what, text) in [
            ("uid", &named.uid),
            ("name", &named.name),
            ("namespace", &named.namespace),
            ("service account", &named.service_account),
        ] {
            if text.is_empty() {
                return Err(format!("pod {:?} has no {what}", named.uid));
            }
        }
        self.name(named.uid.clone());
        let new = (named.clone(), netns);
        if self.pods.get(&named.uid) == Some(&new) {
            return Ok(Action::Nothing);
        }
        self.pods.insert(named.uid.clone(), new);
        Ok(Action::Start(named))
    }

    fn name(&mut self, uid: String) {
        if let Some(named) = &mut self.named {
            named.insert(uid);
        }
    }

    fn snapshot(&mut self) -> Result<Action, String> {
        let named = self
            .named
            .take()
            .ok_or("a second snapshot ended on one connection")?;
        self.snapshots += 1;
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !named.contains(*uid))
            .cloned()
            .collect();
        for uid in &gone {
            self.pods.remove(uid);
        }
        Ok(if gone.is_empty() {
            Action::Nothing
        } else {
            Action::Stop(gone)
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::workload::zds::{
        AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo,
    };

    use super::*;

    fn named(uid: &str) -> Named {
        Named {
            uid: uid.to_owned(),
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
        }
    }

    fn request(payload: Payload) -> WorkloadRequest {
        WorkloadRequest {
            payload: Some(payload),
        }
    }

    fn add(uid: &str) -> WorkloadRequest {
        let Named {
            uid,
            name,
            namespace,
            service_account,
        } = named(uid);
        let workload_info = Some(WorkloadInfo {
            name,
            namespace,
            service_account,
        });
        request(Payload::Add(AddWorkload { uid, workload_info }))
    }

    fn snapshot() -> WorkloadRequest {
        request(Payload::SnapshotSent(SnapshotSent {}))
    }

    fn keep(uid: &str) -> WorkloadRequest {
        request(Payload::Keep(KeepWorkload {
            uid: uid.to_owned(),
        }))
    }

    fn del(uid: &str) -> WorkloadRequest {
        request(Payload::Del(DelWorkload {
            uid: uid.to_owned(),
        }))
    }

    #[test]
    fn a_pod_is_started_once_and_again_in_another_namespace() {
        let mut roster = Roster::default();
        roster.connected();
        assert_eq!(
            roster.on(add("a"), Some((1, 1))),
            Ok(Action::Start(named("a")))
        );
        assert_eq!(roster.on(add("a"), Some((1, 1))), Ok(Action::Nothing));
        assert_eq!(
            roster.on(add("a"), Some((1, 2))),
            Ok(Action::Start(named("a")))
        );
    }

    #[test]
    fn after_the_snapshot_only_what_was_named_is_left() {
        let mut roster = Roster::default();
        roster.connected();
        for uid in ["a", "b", "c"] {
            roster.on(add(uid), Some((1, 1))).unwrap();
        }
        assert!(!roster.is_complete());
        assert_eq!(roster.on(snapshot(), None), Ok(Action::Nothing));
        assert!(roster.is_complete());
        roster.connected();
        roster.on(add("a"), Some((1, 1))).unwrap();
        roster.on(keep("b"), None).unwrap();
        assert_eq!(
            roster.on(snapshot(), None),
            Ok(Action::Stop(vec!["c".to_owned()]))
        );
        assert_eq!(
            roster.on(del("b"), None),
            Ok(Action::Stop(vec!["b".to_owned()]))
        );
        assert_eq!(roster.on(del("b"), None), Ok(Action::Nothing));
    }

    #[test]
    fn what_makes_no_sense_changes_nothing_and_says_why() {
        let mut roster = Roster::default();
        roster.connected();
        roster.on(add("a"), Some((1, 1))).unwrap();
        let mut nameless = add("b");
        if let Some(Payload::Add(add)) = &mut nameless.payload {
            add.workload_info = None;
        }
        for (message, netns, why) in [
            (WorkloadRequest { payload: None }, None, "says nothing"),
            (nameless, Some((1, 1)), "without name"),
            (add("b"), None, "without a network namespace"),
            (add(""), Some((1, 1)), "no uid"),
            (del("a"), Some((1, 1)), "file descriptor"),
        ] {
            let error = roster.on(message, netns).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        roster.on(snapshot(), None).unwrap();
        assert!(
            roster
                .on(snapshot(), None)
                .unwrap_err()
                .contains("second snapshot")
        );
        assert_eq!(
            roster.on(del("a"), None),
            Ok(Action::Stop(vec!["a".to_owned()]))
        );
    }
}
