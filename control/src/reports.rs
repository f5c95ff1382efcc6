//! What the nodes last said of their pods, kept over restarts.
//!
//! A pod is published as reachable by HBONE only because its node said so. If a restart forgot that, it would turn mesh
//! traffic into plaintext, so a report is on disk before it counts. Reports are kept as they came: whether a pod runs on
//! the node that speaks of it is asked each time they are used, because pods move.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message as _;
use proto::node::{PodReport, ReportRequest};
use tokio::sync::watch;

use crate::{
    placements::Placements,
    state::{SECRET, StateDir, StateError},
    tokens::is_node_name,
};

const FOLDER: &str = "reports";
/// Pods in one report; Kubernetes runs some hundreds on a node at most.
const MAX_PODS: usize = 4096;
/// Addresses of one pod.
const MAX_ADDRESSES: usize = 16;
/// Bytes of a name or a reason.
const MAX_TEXT: usize = 1024;

/// Each node's last report.
pub type ByNode = BTreeMap<String, Arc<ReportRequest>>;

/// The last report of each node.
#[derive(Debug)]
pub struct Reports {
    /// Where they are kept; nowhere if nodes do not report here.
    state: Option<Arc<StateDir>>,
    by_node: watch::Sender<ByNode>,
    /// Held while a report is written, so that the file and what counts are of the same report.
    writing: Mutex<()>,
}

/// A report that is not taken.
#[derive(Debug)]
pub enum NotTaken {
    /// It breaks the form of a report.
    Malformed(String),
    /// It cannot be kept.
    State(StateError),
    /// Nodes do not report here.
    Unwanted,
}

impl Reports {
    /// Loads the reports that the state directory keeps.
    pub fn open(state: Arc<StateDir>) -> Result<Self, StateError> {
        let mut by_node = ByNode::new();
        for node in state.list(FOLDER)? {
            let name = format!("{FOLDER}/{node}");
            let bytes = state.read(&name)?.unwrap_or_default();
            let report = ReportRequest::decode(bytes.as_slice())
                .ok()
                .filter(|report| is_node_name(&node) && check(report).is_ok());
            let report = report.ok_or_else(|| StateError {
                path: state.path(&name),
                reason: "is not a node's report; remove the file (the node's pods leave the mesh until it reports again)".to_owned(),
            })?;
            by_node.insert(node, Arc::new(report));
        }
        Ok(Self {
            state: Some(state),
            by_node: watch::Sender::new(by_node),
            writing: Mutex::new(()),
        })
    }

    /// None, for a cluster whose nodes write on their pods what is true of them.
    pub fn unrecorded() -> Self {
        Self {
            state: None,
            by_node: watch::Sender::default(),
            writing: Mutex::new(()),
        }
    }

    /// Replaces what a node said before. On disk when this returns; blocks meanwhile.
    pub fn take(&self, node: &str, mut report: ReportRequest) -> Result<(), NotTaken> {
        let state = self.state.as_ref().ok_or(NotTaken::Unwanted)?;
        check(&report).map_err(NotTaken::Malformed)?;
        report
            .pods
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self
            .by_node
            .borrow()
            .get(node)
            .is_some_and(|held| **held == report)
        {
            return Ok(());
        }
        state
            .write(&format!("{FOLDER}/{node}"), &report.encode_to_vec(), SECRET)
            .map_err(NotTaken::State)?;
        self.by_node.send_modify(|by_node| {
            by_node.insert(node.to_owned(), Arc::new(report));
        });
        Ok(())
    }

    /// The reports, and every change of them.
    pub fn watch(&self) -> watch::Receiver<ByNode> {
        self.by_node.subscribe()
    }
}

/// Parts a node's report into the pods that run there and those that do not.
pub fn own<'a>(
    node: &str,
    report: &'a ReportRequest,
    placements: &Placements,
) -> (Vec<&'a PodReport>, Vec<&'a PodReport>) {
    report
        .pods
        .iter()
        .partition(|pod| placements.node_of(&pod.namespace, &pod.name) == Some(node))
}

fn check(report: &ReportRequest) -> Result<(), String> {
    if report.pods.len() > MAX_PODS {
        return Err(format!("{} pods, more than {MAX_PODS}", report.pods.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for pod in &report.pods {
        let name = format!(
            "{:.253}/{:.253}",
            pod.namespace.escape_debug().to_string(),
            pod.name.escape_debug().to_string()
        );
        if [&pod.namespace, &pod.name, &pod.reason]
            .into_iter()
            .any(|text| text.len() > MAX_TEXT)
        {
            return Err(format!("pod {name}: a text of more than {MAX_TEXT} bytes"));
        }
        if pod.namespace.is_empty() || pod.name.is_empty() {
            return Err(format!("pod {name}: a pod has a namespace and a name"));
        }
        if !seen.insert((&pod.namespace, &pod.name)) {
            return Err(format!("pod {name} is named twice"));
        }
        if pod.addresses.len() > MAX_ADDRESSES
            || pod
                .addresses
                .iter()
                .any(|address| ![4, 16].contains(&address.len()))
        {
            return Err(format!(
                "pod {name}: an address has 4 or 16 bytes, a pod at most {MAX_ADDRESSES} of them"
            ));
        }
    }
    Ok(())
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "not a report: {why}"),
            Self::State(error) => write!(f, "the report cannot be kept: {error}"),
            Self::Unwanted => f.write_str("in a cluster nodes write on their pods whether they are captured, and do not report"),
        }
    }
}

impl std::error::Error for NotTaken {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::scratch::Scratch;

    fn pod(name: &str, address: &[u8]) -> PodReport {
        let addresses = vec![address.to_vec()];
        PodReport {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            addresses,
            captured: true,
            ..Default::default()
        }
    }

    fn open(scratch: &Scratch) -> Result<Reports, StateError> {
        Reports::open(Arc::new(StateDir::open(scratch.path())?))
    }

    #[test]
    fn a_restart_keeps_the_last_report_of_each_node() {
        let scratch = Scratch::new();
        let reports = open(&scratch).unwrap();
        reports
            .take(
                "n1",
                ReportRequest {
                    pods: vec![pod("old", &[10, 0, 0, 1])],
                },
            )
            .unwrap();
        reports
            .take(
                "n2",
                ReportRequest {
                    pods: vec![pod("till", &[10, 0, 0, 3])],
                },
            )
            .unwrap();
        reports
            .take(
                "n1",
                ReportRequest {
                    pods: vec![pod("cart", &[10, 0, 0, 2])],
                },
            )
            .unwrap();
        let before = reports.watch().borrow().clone();
        drop(reports);
        assert_eq!(*open(&scratch).unwrap().watch().borrow(), before);
        assert_eq!(before["n1"].pods[0].name, "cart");
    }

    #[test]
    fn the_same_report_again_changes_nothing() {
        let scratch = Scratch::new();
        let reports = open(&scratch).unwrap();
        let (a, b) = (pod("a", &[10, 0, 0, 1]), pod("b", &[10, 0, 0, 2]));
        reports
            .take(
                "n1",
                ReportRequest {
                    pods: vec![a.clone(), b.clone()],
                },
            )
            .unwrap();
        let watch = reports.watch();
        reports
            .take("n1", ReportRequest { pods: vec![b, a] })
            .unwrap();
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn a_malformed_report_is_refused_and_the_last_one_stays() {
        let scratch = Scratch::new();
        let reports = open(&scratch).unwrap();
        reports
            .take(
                "n1",
                ReportRequest {
                    pods: vec![pod("cart", &[10, 0, 0, 2])],
                },
            )
            .unwrap();
        let many = (0..=MAX_PODS)
            .map(|index| pod(&index.to_string(), &[10, 0, 0, 1]))
            .collect();
        for pods in [
            vec![pod("cart", &[10, 0, 0])],
            vec![pod("", &[10, 0, 0, 1])],
            vec![pod("a", &[1, 2, 3, 4]), pod("a", &[1, 2, 3, 5])],
            vec![pod(&"x".repeat(MAX_TEXT + 1), &[1, 2, 3, 4])],
            vec![PodReport {
                addresses: vec![vec![0; 4]; MAX_ADDRESSES + 1],
                ..pod("a", &[])
            }],
            many,
        ] {
            assert!(matches!(
                reports.take("n1", ReportRequest { pods }),
                Err(NotTaken::Malformed(_))
            ));
        }
        assert_eq!(reports.watch().borrow()["n1"].pods[0].name, "cart");
    }

    #[test]
    fn pods_of_other_nodes_are_set_apart() {
        let mut placements = Placements::default();
        placements.add("n1", "shop", "cart", "cart");
        placements.add("n2", "shop", "till", "till");
        let report = ReportRequest {
            pods: vec![
                pod("cart", &[10, 0, 0, 1]),
                pod("till", &[10, 0, 0, 2]),
                pod("ghost", &[10, 0, 0, 3]),
            ],
        };
        let (own, foreign) = own("n1", &report, &placements);
        assert_eq!(
            own.iter().map(|pod| &pod.name).collect::<Vec<_>>(),
            ["cart"]
        );
        assert_eq!(
            foreign.iter().map(|pod| &pod.name).collect::<Vec<_>>(),
            ["till", "ghost"]
        );
    }
}
