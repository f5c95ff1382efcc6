//! Facts about files that come, change and break, and about reports that make pods reachable.

use std::{fs, io::Write as _, time::SystemTime};

use proto::{
    node::{PodReport, ReportRequest},
    workload::TunnelProtocol,
};
use serde_json::{Value, json};

use super::*;
use crate::{publish::Kind, source::leaving::GONE, state::scratch::Scratch};

mod missing;
mod waypoint;

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: n1, serviceAccountName: cart, containers: [{name: app, image: app}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop}
spec: {nodeName: n1, serviceAccountName: done, containers: [{name: app, image: app}]}
status: {phase: Succeeded}
";
const BROKEN: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: NAMESPACE}
spec: {action: PERHAPS}
";
const GOOD: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: NAMESPACE}
spec: {}
";

struct Files(Scratch);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let all = Self(Scratch::new());
        files.iter().for_each(|(name, text)| all.write(name, text));
        all
    }

    /// Saves a file a minute ago.
    fn write(&self, name: &str, text: &str) {
        let (new, path) = (self.0.path().join("new"), self.0.path().join(name));
        fs::write(&new, text).unwrap();
        age(&fs::File::open(&new).unwrap());
        // What somebody may still have open is left behind.
        fs::rename(new, path).unwrap();
    }

    /// Opens a file to save it in place.
    fn truncate(&self, name: &str) -> fs::File {
        fs::File::create(self.0.path().join(name)).unwrap()
    }

    fn open(&self) -> Result<Source, Refused> {
        Source::open(self.0.path(), Settings::default())
    }
}

fn age(file: &fs::File) {
    let before = SystemTime::now() - Duration::from_secs(60);
    file.set_modified(before).unwrap();
}

/// Reads again until nothing is being written, and what is gone has been so for long enough.
fn reread(source: &mut Source) {
    let now = reread_at_once(source);
    source.reread(now + GONE);
    assert_eq!(source.look_again(now + GONE), None, "{source:?}");
}

/// Reads again until nothing is being written. Returns when the last time was.
fn reread_at_once(source: &mut Source) -> Instant {
    let begun = Instant::now();
    loop {
        let now = Instant::now();
        source.reread(now);
        if source.files.look_again(now).is_none() {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{source:?}");
        thread::yield_now();
    }
}

fn in_namespace(text: &str, namespace: &str) -> String {
    text.replace("NAMESPACE", namespace)
}

fn mesh(source: &Source) -> Mesh {
    mesh_with(source, &ByNode::new())
}

/// The mesh as a control plane without subscribers would publish it first.
fn mesh_with(source: &Source, reports: &ByNode) -> Mesh {
    let scratch = Scratch::new();
    let state = Arc::new(StateDir::open(scratch.path()).unwrap());
    let now = Instant::now();
    let mut bindings = Bindings::open(state, now).unwrap();
    let nobody = Reached::default();
    source.mesh(reports, &mut bindings, (&nobody, now), &Snapshot::default())
}

fn policies(source: &Source) -> Vec<String> {
    mesh(source)
        .snapshot
        .nodes()
        .set(Kind::Authorization)
        .keys()
        .map(ToString::to_string)
        .collect()
}

fn reporting(node: &str, pods: &[&str]) -> ByNode {
    let pods = pods.iter().map(|name| PodReport {
        namespace: "shop".to_owned(),
        name: (*name).to_owned(),
        addresses: vec![vec![10, 0, 0, 7]],
        ready: true,
        captured: true,
        ..Default::default()
    });
    [(
        node.to_owned(),
        Arc::new(ReportRequest {
            pods: pods.collect(),
        }),
    )]
    .into()
}

/// Whether shop/cart is reached by HBONE; `None` if it is not published.
fn by_hbone(mesh: &Mesh) -> Option<bool> {
    let (_, resource) = mesh
        .snapshot
        .nodes()
        .set(Kind::Address)
        .iter()
        .find(|(name, _)| name.ends_with("/cart"))?;
    match resource.address()?.r#type? {
        Type::Workload(workload) => Some(workload.tunnel_protocol == TunnelProtocol::Hbone as i32),
        Type::Service(_) => None,
    }
}

#[test]
fn a_pod_is_reached_by_hbone_once_its_own_node_has_captured_it() {
    let source = Files::new(&[("pods.yaml", PODS)]).open().unwrap();
    let with = |reports: ByNode| by_hbone(&mesh_with(&source, &reports));
    assert_ne!(with(ByNode::new()), Some(true));
    assert_ne!(with(reporting("n2", &["cart"])), Some(true));
    assert_eq!(with(reporting("n1", &["cart"])), Some(true));
}

#[test]
fn the_same_files_and_reports_make_the_same_versions() {
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", &in_namespace(GOOD, "shop"))]);
    let reports = reporting("n1", &["cart"]);
    let [first, second] = [(); 2].map(|()| mesh_with(&files.open().unwrap(), &reports));
    assert!(first.snapshot.same(&second.snapshot));
    assert_eq!(first.placements, second.placements);
    assert!(!first.snapshot.same(&mesh(&files.open().unwrap()).snapshot));
}

#[test]
fn pods_that_have_ended_run_nowhere() {
    let placements = mesh(&Files::new(&[("pods.yaml", PODS)]).open().unwrap()).placements;
    assert_eq!(placements.node_of("shop", "cart"), Some("n1"));
    assert_eq!(placements.node_of("shop", "done"), None);
    assert!(
        placements
            .may_ask(
                "n1",
                Some("spiffe://cluster.local/ns/shop/sa/done"),
                "cluster.local"
            )
            .is_err()
    );
}

#[test]
fn a_start_with_a_policy_that_never_was_good_is_refused() {
    let files = Files::new(&[
        ("pods.yaml", PODS),
        ("bad.yaml", &in_namespace(BROKEN, "shop")),
    ]);
    let refused = files.open().unwrap_err().to_string();
    assert!(
        refused.contains("bad.yaml") && refused.contains("spec.action"),
        "{refused}"
    );
    let nowhere = Source::open(Path::new("/nowhere/at/all"), Settings::default()).unwrap_err();
    assert!(matches!(nowhere, Refused::Unreadable(..)));
}

#[test]
fn a_broken_edit_keeps_the_last_good_version_and_is_shown() {
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", &in_namespace(GOOD, "shop"))]);
    let mut source = files.open().unwrap();
    let before = mesh(&source);
    assert_eq!(
        (policies(&source), source.problems()),
        (vec!["shop/closed".to_owned()], 0)
    );
    files.write("p.yaml", &in_namespace(BROKEN, "shop"));
    reread(&mut source);
    let after = mesh(&source);
    assert!(after.snapshot.same(&before.snapshot));
    assert_eq!(source.problems(), 1);
    assert!(
        after.statuses.page().contains("spec.action") && after.statuses.page().contains("p.yaml"),
        "{}",
        after.statuses.page()
    );
    files.write("p.yaml", &in_namespace(GOOD, "shop"));
    reread(&mut source);
    assert_eq!(source.problems(), 0);
}

#[test]
fn a_new_policy_that_cannot_be_understood_denies_for_its_namespace() {
    let files = Files::new(&[("pods.yaml", PODS)]);
    let mut source = files.open().unwrap();
    files.write("bad.yaml", &in_namespace(BROKEN, "shop"));
    reread(&mut source);
    assert_eq!(policies(&source).len(), 1);
}

#[test]
fn one_that_would_deny_the_whole_mesh_holds_back_the_files_until_it_is_corrected() {
    let files = Files::new(&[("pods.yaml", PODS)]);
    let mut source = files.open().unwrap();
    files.write("bad.yaml", &in_namespace(BROKEN, "ambit-system"));
    files.write("p.yaml", &in_namespace(GOOD, "shop"));
    reread(&mut source);
    assert!(policies(&source).is_empty());
    assert!(
        mesh(&source)
            .statuses
            .page()
            .contains("would deny everything in the mesh")
    );
    // Reports count all the while, and the reason stays while nothing changes.
    reread(&mut source);
    assert_eq!(
        by_hbone(&mesh_with(&source, &reporting("n1", &["cart"]))),
        Some(true)
    );
    assert_eq!(source.problems(), 2);
    fs::remove_file(files.0.path().join("bad.yaml")).unwrap();
    reread(&mut source);
    assert_eq!(
        (policies(&source), source.problems()),
        (vec!["shop/closed".to_owned()], 0)
    );
}

#[test]
fn a_policy_stays_in_force_while_its_file_is_saved_in_place() {
    let (one, other) = (
        in_namespace(GOOD, "shop"),
        in_namespace(GOOD, "shop").replace("closed", "shut"),
    );
    let both = format!("{one}---{other}");
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", &both)]);
    let mut source = files.open().unwrap();
    let names = ["shop/closed", "shop/shut"];
    assert_eq!(policies(&source), names);
    for first in ["", &one] {
        let mut writer = files.truncate("p.yaml");
        writer.write_all(first.as_bytes()).unwrap();
        age(&writer);
        source.reread(Instant::now());
        assert_eq!(policies(&source), names, "{first:?}");
        assert!(source.look_again(Instant::now()).is_some());
        writer.write_all(&both.as_bytes()[first.len()..]).unwrap();
        drop(writer);
        reread(&mut source);
        assert_eq!((policies(&source).len(), source.problems()), (2, 0));
    }
    files.write("p.yaml", "");
    reread(&mut source);
    assert_eq!(
        (policies(&source).len(), source.problems()),
        (2, 1),
        "emptied"
    );
    files.write("p.yaml", &one);
    reread(&mut source);
    assert_eq!(
        (policies(&source), source.problems()),
        (vec!["shop/closed".to_owned()], 0)
    );
}

#[test]
fn what_is_gone_for_a_moment_stays_in_force() {
    let deny = in_namespace(GOOD, "shop");
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", &deny)]);
    let mut source = files.open().unwrap();
    let before = mesh(&source);
    // Its file comes back; it moves to another; it comes back later than the file.
    for back in ["p.yaml", "q.yaml", "pods.yaml"] {
        for name in ["p.yaml", "q.yaml"] {
            let _ = fs::remove_file(files.0.path().join(name));
        }
        files.write("pods.yaml", PODS);
        let now = reread_at_once(&mut source);
        assert_eq!(source.look_again(now), Some(GONE), "{back}");
        source.reread(now + GONE / 2);
        assert_eq!(source.look_again(now + GONE / 2), Some(GONE / 2));
        assert!(mesh(&source).snapshot.same(&before.snapshot), "{back}");
        match back {
            "pods.yaml" => files.write(back, &format!("{PODS}---{deny}")),
            _ => files.write(back, &deny),
        }
        let now = reread_at_once(&mut source);
        assert_eq!(source.look_again(now), None, "{back}");
        assert!(mesh(&source).snapshot.same(&before.snapshot), "{back}");
    }
    // What is there and changed counts at once.
    files.write("pods.yaml", &PODS.replace("name: cart", "name: cast"));
    let now = reread_at_once(&mut source);
    assert_eq!(policies(&source), ["shop/closed"]);
    files.write(
        "p.yaml",
        &deny.replace("spec: {}", "spec: {action: DENY, rules: [{}]}"),
    );
    reread_at_once(&mut source);
    assert!(!mesh(&source).snapshot.same(&before.snapshot));
    source.reread(now + GONE);
    assert_eq!(policies(&source), ["shop/closed"], "it is in p.yaml");
    // Nothing goes while nobody can say what is there.
    fs::remove_file(files.0.path().join("p.yaml")).unwrap();
    let now = reread_at_once(&mut source);
    let away = files.0.path().with_extension("away");
    fs::rename(files.0.path(), &away).unwrap();
    source.reread(now + 2 * GONE);
    assert_eq!(source.look_again(now + 2 * GONE), None);
    assert_eq!(policies(&source), ["shop/closed"]);
    fs::rename(&away, files.0.path()).unwrap();
    source.reread(now + 3 * GONE);
    assert!(policies(&source).is_empty());
}

#[test]
fn a_start_waits_for_a_writer_and_is_refused_while_one_does_not_end() {
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", "")]);
    let mut writer = files.truncate("p.yaml");
    writer
        .write_all(in_namespace(GOOD, "shop").as_bytes())
        .unwrap();
    let Err(refused) = files.open() else {
        panic!("nobody knows yet what p.yaml forbids")
    };
    assert!(matches!(&refused, Refused::Unsettled(problems) if problems.len() == 1));
    assert!(refused.to_string().contains("p.yaml"), "{refused}");
    drop(writer);
    assert_eq!(policies(&files.open().unwrap()).len(), 1);
    files.truncate("p.yaml");
    let path = files.0.path().join("p.yaml");
    fs::write(path, in_namespace(GOOD, "shop")).unwrap();
    assert_eq!(policies(&files.open().unwrap()).len(), 1, "only just saved");
}

#[test]
fn a_source_that_goes_away_leaves_everything_in_force() {
    let scratch = Scratch::new();
    let path = scratch.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("pods.yaml"), PODS).unwrap();
    let mut source = Source::open(&path, Settings::default()).unwrap();
    let before = mesh(&source);
    fs::remove_dir_all(&path).unwrap();
    reread(&mut source);
    assert!(mesh(&source).snapshot.same(&before.snapshot));
    assert_eq!(source.problems(), 1);
}

#[test]
fn a_local_workload_file_is_a_source_with_pods_in_places() {
    let scratch = Scratch::new();
    let file = scratch.path().join("mesh.yaml");
    let text = "
workloads:
- {uid: u1, name: server, namespace: shop, serviceAccount: server, workloadIps: [10.1.2.3], protocol: HBONE, node: n2}
- {uid: u2, name: plain, namespace: shop, workloadIps: [10.1.2.4], protocol: TCP, node: n2}
policies:
- {name: p, namespace: shop, scope: Namespace, action: Allow, rules: []}
";
    fs::write(&file, text).unwrap();
    let mesh = mesh(&Source::open(&file, Settings::default()).unwrap());
    assert_eq!(
        mesh.snapshot
            .nodes()
            .set(Kind::Address)
            .keys()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["u1", "u2"]
    );
    for account in ["server", "default"] {
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        assert!(
            mesh.placements
                .may_ask("n2", Some(&identity), "cluster.local")
                .is_ok(),
            "{account}"
        );
        assert!(
            mesh.placements
                .may_ask("n1", Some(&identity), "cluster.local")
                .is_err(),
            "{account}"
        );
    }
    fs::write(&file, "workloads: [{uid: 7}]").unwrap();
    assert!(Source::open(&file, Settings::default()).is_err());
}

#[test]
fn the_statuses_say_why_a_pod_is_not_captured() {
    let files = Files::new(&[("pods.yaml", PODS)]);
    let source = files.open().unwrap();
    let told = |reports: &ByNode| {
        let page: Value =
            serde_json::from_str(&mesh_with(&source, reports).statuses.page()).unwrap();
        page["objects"]["Pod/shop/cart"].clone()
    };
    assert_eq!(told(&reporting("n1", &["cart"])), Value::Null);
    let uncaptured = |node: &str| {
        let mut report = (*reporting(node, &["cart"])[node]).clone();
        report.pods[0].captured = false;
        report.pods[0].reason = "no \"namespace\"".to_owned();
        ByNode::from([(node.to_owned(), Arc::new(report))])
    };
    let expected = json!({"name": "n1", "captured": false, "reason": "no \"namespace\""});
    assert_eq!(told(&uncaptured("n1"))["node"], expected);
    assert_eq!(told(&uncaptured("n2")), Value::Null, "it runs elsewhere");
}

#[test]
fn a_file_that_cannot_be_looked_at_keeps_all_as_it_was_and_refuses_a_start() {
    let files = Files::new(&[("pods.yaml", PODS), ("p.yaml", &in_namespace(GOOD, "shop"))]);
    let mut source = files.open().unwrap();
    let before = policies(&source);
    assert_eq!(before.len(), 1);
    let path = files.0.path().join("p.yaml");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    reread(&mut source);
    assert_eq!((policies(&source), source.problems()), (before, 1));
    assert!(mesh(&source).statuses.page().contains("p.yaml"));
    let refused = files.open().unwrap_err().to_string();
    assert!(refused.contains("p.yaml"), "{refused}");
}
