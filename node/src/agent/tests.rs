//! Pods from manifest to capture, in namespaces made for each test, with a proxy that a test plays.

use super::*;
use crate::{
    capture::{self, State},
    manifests::GONE,
    readiness, rules,
    rules::Probed,
};
use prost::Message;
use proto::{
    node::PodReport,
    workload::zds::{WorkloadResponse, workload_request::Payload},
};
use std::{fs, os::fd::AsRawFd, path::Path};
use sys::{netns::privileged, nft, route, seqpacket::Connection};
use tokio::{io::unix::AsyncFd, sync::watch, time};

#[cfg(feature = "kubernetes")]
mod arrivals;

/// One node: its manifests, its namespaces, its agent.
struct Node {
    root: PathBuf,
    agent: Agent,
    reports: watch::Receiver<Reports>,
    /// Where the other ends of the pods' links are: a link goes with either of its ends.
    hosts: Vec<Netns>,
}

/// A proxy that does as the test says.
struct Proxy(AsyncFd<Connection>);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: shop
  annotations: {ambit.dev/netns: cart}
spec: {nodeName: n1, serviceAccountName: keeper}
";

fn agent_in(root: &Path) -> (Agent, watch::Receiver<Reports>) {
    let server = Server::bind(&root.join("zds.sock")).unwrap();
    let (sender, reports) = watch::channel(None);
    let directory = Directory::new("n1".into(), root.join("manifests"), root.join("netns"));
    let agent = Agent::new(Source::Directory(directory), server, sender);
    (agent, reports)
}

impl Node {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ambit-agent-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("manifests")).unwrap();
        fs::create_dir_all(root.join("netns")).unwrap();
        let (agent, reports) = agent_in(&root);
        let node = Self {
            root,
            agent,
            reports,
            hosts: Vec::new(),
        };
        node.label("ambient");
        node.write("pod.yaml", POD);
        node
    }

    fn restart(&mut self) {
        (self.agent, self.reports) = agent_in(&self.root);
        self.agent.look(Instant::now());
    }

    /// Writes a manifest that looks old enough to be read.
    fn write(&self, name: &str, text: &str) {
        let path = self.root.join("manifests").join(name);
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
    }

    fn label(&self, mode: &str) {
        let labels = format!("labels: {{istio.io/dataplane-mode: {mode}}}");
        self.write(
            "namespace.yaml",
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {labels}}}\n"),
        );
    }

    /// Gives the pod a namespace with an address, in place of one that it may have.
    fn namespace(&mut self) -> Netns {
        let (pod, host) = (Netns::create().unwrap(), Netns::create().unwrap());
        pod.within(|| {
            route::set_up("lo")?;
            route::veth("eth0", "host", &host)?;
            route::add_address("eth0", [192, 0, 2, 1].into(), 24)?;
            route::set_up("eth0")
        })
        .unwrap();
        self.hosts.push(host);
        let link = self.root.join("netns/cart");
        let _ = fs::remove_file(&link);
        let target = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            pod.as_fd().as_raw_fd()
        );
        std::os::unix::fs::symlink(target, link).unwrap();
        pod
    }

    fn proxy(&self) -> Proxy {
        let connection =
            readiness::of(Connection::connect(&self.root.join("zds.sock")).unwrap()).unwrap();
        connection.get_ref().send(&[8, 1], None).unwrap();
        Proxy(connection)
    }

    /// Lets the agent work until the proxy is told something.
    async fn told(&mut self, proxy: &Proxy) -> (Payload, Option<Netns>) {
        let told = async {
            loop {
                tokio::select! {
                    told = proxy.told() => return told,
                    event = self.agent.next() => self.agent.on(event.unwrap(), Instant::now()),
                }
            }
        };
        time::timeout(Duration::from_secs(10), told)
            .await
            .expect("the proxy is told")
    }

    /// Lets the agent take in one event.
    async fn work(&mut self) {
        let event = time::timeout(Duration::from_secs(10), self.agent.next())
            .await
            .expect("an event");
        self.agent.on(event.unwrap(), Instant::now());
    }

    fn reported(&self) -> Vec<PodReport> {
        let reports = self.reports.borrow().clone().unwrap().into_iter();
        let told = reports.filter(|report| !report.is_hidden);
        told.map(|report| report.pod).collect()
    }

    fn report(&self) -> PodReport {
        let reports = self.reported();
        assert_eq!(reports.len(), 1);
        reports[0].clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Proxy {
    async fn told(&self) -> (Payload, Option<Netns>) {
        let mut buffer = [0; 1024];
        loop {
            let mut ready = self.0.readable().await.unwrap();
            let Ok(received) = ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) else {
                continue;
            };
            let received = received.unwrap();
            let request = WorkloadRequest::decode(&buffer[..received.bytes]).unwrap();
            return (
                request.payload.unwrap(),
                received.fd.map(|fd| Netns::from_fd(fd).unwrap()),
            );
        }
    }

    fn answer(&self, error: &str) {
        let ack = proto::workload::zds::Ack {
            error: error.into(),
        };
        let payload = Some(proto::workload::zds::workload_response::Payload::Ack(ack));
        self.0
            .get_ref()
            .send(&WorkloadResponse { payload }.encode_to_vec(), None)
            .unwrap();
    }
}

fn is_add_of(told: &(Payload, Option<Netns>), netns: &Netns) -> bool {
    let (Payload::Add(add), Some(fd)) = told else {
        return false;
    };
    let info = add.workload_info.clone().unwrap_or_default();
    assert_eq!(
        (
            info.namespace.as_str(),
            info.name.as_str(),
            info.service_account.as_str()
        ),
        ("shop", "cart", "keeper")
    );
    fd.id().unwrap() == netns.id().unwrap()
}

/// A node whose pod is captured, with its namespace and its proxy.
async fn captured(test: &str) -> (Node, Netns, Proxy) {
    let mut node = Node::new(test);
    let netns = node.namespace();
    node.agent.look(Instant::now());
    let proxy = node.proxy();
    let told = node.told(&proxy).await;
    assert!(is_add_of(&told, &netns), "{told:?}");
    // The rules come before the proxy, and the report after it.
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    assert!(!node.report().captured);
    assert!(
        node.report().reason.contains("not acknowledged"),
        "{}",
        node.report().reason
    );
    proxy.answer("");
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    proxy.answer("");
    node.work().await;
    assert!(node.report().captured);
    (node, netns, proxy)
}

#[tokio::test]
async fn a_pod_is_captured_and_let_go_in_order() {
    if !privileged("a_pod_is_captured_and_let_go_in_order") {
        return;
    }
    let (mut node, netns, proxy) = captured("order").await;
    let report = node.report();
    assert_eq!(
        (report.addresses, report.ready, report.reason),
        (vec![vec![192, 0, 2, 1]], true, String::new())
    );
    node.label("none");
    node.agent.look(Instant::now());
    let (Payload::Del(del), None) = node.told(&proxy).await else {
        panic!("not told to let go")
    };
    assert_eq!(del.uid, "shop/cart/keeper");
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole,
        "until the proxy has answered"
    );
    assert!(node.report().captured);
    proxy.answer("");
    node.work().await;
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Absent
    );
    let report = node.report();
    assert_eq!((report.captured, report.reason), (false, String::new()));
    // And in again.
    node.label("ambient");
    node.agent.look(Instant::now());
    assert!(is_add_of(&node.told(&proxy).await, &netns));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_let_go_and_forgotten() {
    if !privileged("a_pod_that_is_gone_is_let_go_and_forgotten") {
        return;
    }
    let (mut node, netns, proxy) = captured("gone").await;
    fs::remove_file(node.root.join("manifests/pod.yaml")).unwrap();
    let now = Instant::now();
    assert!(node.agent.look(now), "to be looked at again");
    assert!(node.report().captured, "it may be on its way elsewhere");
    node.agent.look(now + 2 * GONE);
    assert!(matches!(node.told(&proxy).await.0, Payload::Del(_)));
    proxy.answer("");
    node.work().await;
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Absent
    );
    assert_eq!(node.reported(), []);
}

#[tokio::test]
async fn a_pod_that_is_out_or_gone_leaves_the_rules_to_another_with_its_namespace() {
    let test = "a_pod_that_is_out_or_gone_leaves_the_rules_to_another_with_its_namespace";
    if !privileged(test) {
        return;
    }
    let (mut node, netns, proxy) = captured("shared").await;
    let other = POD.replace("name: cart", "name: other");
    node.write("other.yaml", &format!("{other}status: {{phase: Failed}}\n"));
    node.agent.look(Instant::now());
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    node.write("other.yaml", &other);
    fs::remove_file(node.root.join("manifests/pod.yaml")).unwrap();
    let now = Instant::now();
    node.agent.look(now);
    node.agent.look(now + 2 * GONE);
    while !matches!(node.told(&proxy).await.0, Payload::Del(_)) {
        proxy.answer("");
    }
    proxy.answer("");
    node.work().await;
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    assert!(node.report().captured && node.report().name == "other");
}

#[tokio::test]
async fn a_pod_that_is_out_takes_no_rules_from_one_that_cannot_be_read_at_a_start() {
    let test = "a_pod_that_is_out_takes_no_rules_from_one_that_cannot_be_read_at_a_start";
    if !privileged(test) {
        return;
    }
    let (mut node, netns, _) = captured("shared-hidden").await;
    let other = POD.replace("name: cart", "name: other");
    node.write("other.yaml", &format!("{other}status: {{phase: Failed}}\n"));
    node.write("pod.yaml", &POD.replace("spec:", "\tspec:"));
    node.restart();
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    node.write("pod.yaml", "");
    node.agent.look(Instant::now());
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    fs::remove_file(node.root.join("manifests/pod.yaml")).unwrap();
    node.agent.look(Instant::now());
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Absent
    );
}

#[tokio::test]
async fn rules_that_were_taken_away_are_put_back_and_the_report_says_so() {
    if !privileged("rules_that_were_taken_away_are_put_back_and_the_report_says_so") {
        return;
    }
    let (mut node, netns, _proxy) = captured("stolen").await;
    netns
        .within(|| nft::remove(nft::Family::Inet, rules::TABLE))
        .unwrap();
    let now = Instant::now() + VERIFY;
    node.agent.tick(now);
    let report = node.report();
    assert!(report.captured, "peers must not fall back to plaintext");
    assert!(report.reason.contains("put back"), "{}", report.reason);
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    node.agent.tick(now + VERIFY);
    let report = node.report();
    assert_eq!((report.captured, report.reason), (true, String::new()));
}

#[tokio::test]
async fn another_tools_rules_in_a_captured_pod_do_not_make_peers_send_plaintext() {
    if !privileged("another_tools_rules_in_a_captured_pod_do_not_make_peers_send_plaintext") {
        return;
    }
    let (mut node, netns, _proxy) = captured("intruder").await;
    netns.within(|| nft::replace(&theirs())).unwrap();
    node.agent.tick(Instant::now() + VERIFY);
    let report = node.report();
    assert!(
        report.captured && report.reason.contains("theirs"),
        "{}",
        report.reason
    );
    // An agent that starts now knows by our rules beside theirs.
    node.restart();
    let report = node.report();
    assert!(
        report.captured && report.reason.contains("theirs"),
        "{}",
        report.reason
    );
    netns
        .within(|| nft::remove(nft::Family::Inet, "theirs"))
        .unwrap();
    node.agent.tick(Instant::now() + 2 * VERIFY);
    let report = node.report();
    assert_eq!((report.captured, report.reason), (true, String::new()));
}

#[tokio::test]
async fn an_agent_that_starts_while_a_manifest_is_being_written_lets_no_pod_go() {
    if !privileged("an_agent_that_starts_while_a_manifest_is_being_written_lets_no_pod_go") {
        return;
    }
    let (mut node, netns, _) = captured("halfway").await;
    let writer = fs::File::create(node.root.join("manifests/namespace.yaml")).unwrap();
    (node.agent, node.reports) = agent_in(&node.root);
    assert!(node.agent.look(Instant::now()), "to be looked at again");
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    drop(writer);
    node.label("ambient");
    node.agent.look(Instant::now());
    assert!(node.report().captured);
}

const FAULTY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: 5}}
";

#[tokio::test]
async fn a_faulty_namespace_takes_no_captured_pod_out_at_a_start() {
    let test = "a_faulty_namespace_takes_no_captured_pod_out_at_a_start";
    if !privileged(test) {
        return;
    }
    let (mut node, netns, _) = captured("faulty-namespace").await;
    node.write("namespace.yaml", FAULTY);
    node.restart();
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    let report = node.report();
    assert!(report.captured && report.ready, "{report:?}");
    let proxy = node.proxy();
    assert!(is_add_of(&node.told(&proxy).await, &netns));
    // As long as it is not clear, its rules are put back like any captured pod's.
    netns
        .within(|| nft::remove(nft::Family::Inet, rules::TABLE))
        .unwrap();
    node.agent.tick(Instant::now() + VERIFY);
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    node.label("none");
    node.agent.look(Instant::now());
    proxy.answer("");
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    proxy.answer("");
    assert!(matches!(node.told(&proxy).await.0, Payload::Del(_)));
}

#[tokio::test]
async fn a_faulty_pod_is_not_taken_out_at_a_start() {
    if !privileged("a_faulty_pod_is_not_taken_out_at_a_start") {
        return;
    }
    let (mut node, netns, _) = captured("faulty-pod").await;
    node.label("none");
    let labels = "namespace: shop\n  labels: {istio.io/dataplane-mode: 5}\n";
    node.write("pod.yaml", &POD.replace("namespace: shop\n", labels));
    node.restart();
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    assert!(node.report().captured);
}

#[tokio::test]
async fn a_pod_that_may_be_in_the_mesh_is_neither_captured_nor_ready() {
    if !privileged("a_pod_that_may_be_in_the_mesh_is_neither_captured_nor_ready") {
        return;
    }
    let mut node = Node::new("unclear");
    let netns = node.namespace();
    node.write("namespace.yaml", FAULTY);
    node.agent.look(Instant::now());
    let report = node.report();
    assert_eq!((report.captured, report.ready), (false, false));
    assert!(report.reason.contains("never could"), "{report:?}");
    assert_eq!(report.addresses, [[192, 0, 2, 1]]);
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Absent
    );
    node.label("ambient");
    node.agent.look(Instant::now());
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    assert!(node.report().ready);
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_at_a_start_stays_with_its_proxy_and_as_it_was_reported() {
    let test = "a_pod_that_cannot_be_read_at_a_start_stays_with_its_proxy_and_as_it_was_reported";
    if !privileged(test) {
        return;
    }
    for faulty in [("spec:", "\tspec:"), ("keeper", "7"), ("n1", "1")] {
        let (mut node, netns, _) = captured("hidden").await;
        node.write("pod.yaml", &POD.replace(faulty.0, faulty.1));
        node.restart();
        let proxy = node.proxy();
        node.work().await;
        node.work().await;
        assert_eq!(
            capture::verify(&netns, &Probed::new()).unwrap(),
            State::Whole
        );
        assert_eq!(*node.reports.borrow(), None, "{faulty:?}");
        node.write("pod.yaml", POD);
        node.agent.look(Instant::now());
        // Nothing was told before: no end of all pods, among which it would not have been.
        assert!(is_add_of(&node.told(&proxy).await, &netns));
        assert!(node.report().captured);
    }
}

/// A table of another tool, in the way of ours.
fn theirs() -> nft::Table {
    let redirect = nft::Rule {
        when: vec![nft::Match::Tcp],
        then: nft::Action::Redirect(9),
    };
    let (kind, hook) = (nft::Kind::Nat, nft::Hook::Output);
    let chain = nft::Chain {
        name: "out".into(),
        kind,
        hook,
        priority: -100,
        rules: vec![redirect],
    };
    nft::Table {
        family: nft::Family::Inet,
        name: "theirs".into(),
        chains: vec![chain],
    }
}

#[tokio::test]
async fn another_tools_rules_keep_a_pod_out_and_are_named() {
    if !privileged("another_tools_rules_keep_a_pod_out_and_are_named") {
        return;
    }
    let mut node = Node::new("obstacle");
    let netns = node.namespace();
    netns.within(|| nft::replace(&theirs())).unwrap();
    node.agent.look(Instant::now());
    let report = node.report();
    assert!(
        !report.captured && report.reason.contains("theirs"),
        "{}",
        report.reason
    );
    let proxy = node.proxy();
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    proxy.answer("");
    node.work().await;
    netns
        .within(|| nft::remove(nft::Family::Inet, "theirs"))
        .unwrap();
    node.agent.tick(Instant::now());
    assert!(is_add_of(&node.told(&proxy).await, &netns));
}

#[tokio::test]
async fn a_pod_without_its_namespace_is_kept_and_tried_again() {
    if !privileged("a_pod_without_its_namespace_is_kept_and_tried_again") {
        return;
    }
    let mut node = Node::new("missing");
    node.agent.look(Instant::now());
    let report = node.report();
    assert!(
        !report.ready && report.reason.contains("netns/cart"),
        "{}",
        report.reason
    );
    let proxy = node.proxy();
    let (Payload::Keep(keep), None) = node.told(&proxy).await else {
        panic!("not asked to keep")
    };
    assert_eq!(keep.uid, "shop/cart/keeper");
    proxy.answer("");
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    proxy.answer("");
    node.work().await;
    let netns = node.namespace();
    node.agent.tick(Instant::now());
    assert!(is_add_of(&node.told(&proxy).await, &netns));
}

#[tokio::test]
async fn another_namespace_of_the_same_name_is_another_pod() {
    if !privileged("another_namespace_of_the_same_name_is_another_pod") {
        return;
    }
    let (mut node, old, proxy) = captured("replaced").await;
    let new = node.namespace();
    node.agent.tick(Instant::now());
    assert!(matches!(node.told(&proxy).await.0, Payload::Del(_)));
    proxy.answer("");
    node.work().await;
    assert_eq!(
        capture::verify(&old, &Probed::new()).unwrap(),
        State::Absent
    );
    node.agent.tick(Instant::now());
    assert!(is_add_of(&node.told(&proxy).await, &new));
    proxy.answer("");
    node.work().await;
    assert!(node.report().captured);
}

#[tokio::test]
async fn a_new_agent_takes_over_what_stands_and_clears_what_should_not() {
    if !privileged("a_new_agent_takes_over_what_stands_and_clears_what_should_not") {
        return;
    }
    let (mut node, netns, proxy) = captured("restart").await;
    drop(proxy);
    node.restart();
    assert!(
        node.report().captured,
        "peers must not fall back to plaintext"
    );
    let proxy = node.proxy();
    assert!(is_add_of(&node.told(&proxy).await, &netns));
    node.label("none");
    node.restart();
    assert!(!node.report().captured);
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Absent
    );
}

#[tokio::test]
async fn a_proxy_that_goes_leaves_its_pods_captured_and_the_next_gets_them() {
    if !privileged("a_proxy_that_goes_leaves_its_pods_captured_and_the_next_gets_them") {
        return;
    }
    let (mut node, netns, proxy) = captured("successor").await;
    drop(proxy);
    node.work().await;
    assert!(node.report().captured);
    let proxy = node.proxy();
    assert!(is_add_of(&node.told(&proxy).await, &netns));
    proxy.answer("no port");
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    assert!(node.report().captured);
}

#[tokio::test]
async fn a_pod_that_the_agent_cannot_see_and_need_not_capture_is_not_reported() {
    let mut node = Node::new("unseen");
    node.write(
        "pod.yaml",
        &POD.replace("spec: {", "spec: {hostNetwork: true, "),
    );
    node.agent.look(Instant::now());
    assert_eq!(node.reported(), []);
}

#[tokio::test]
async fn without_its_manifests_the_agent_lets_nothing_go_and_says_nothing() {
    if !privileged("without_its_manifests_the_agent_lets_nothing_go_and_says_nothing") {
        return;
    }
    let (mut node, netns, _proxy) = captured("unreadable").await;
    fs::rename(node.root.join("manifests"), node.root.join("away")).unwrap();
    node.agent.tick(Instant::now() + VERIFY);
    assert!(node.report().captured);
    node.restart();
    assert_eq!(*node.reports.borrow(), None);
    assert_eq!(
        capture::verify(&netns, &Probed::new()).unwrap(),
        State::Whole
    );
    fs::rename(node.root.join("away"), node.root.join("manifests")).unwrap();
    node.agent.tick(Instant::now() + VERIFY);
    assert!(node.report().captured);
}

/// Runs a whole agent until its pod is captured, and says whether the rules still stand when it has ended.
async fn after_exit(test: &str, remove_on_exit: bool) -> State {
    let mut node = Node::new(test);
    let netns = node.namespace();
    let path = node.root.join("run.sock");
    let manifests = node.root.join("manifests");
    let given = ["ambit-node", "--node=n1", "--manifests"].map(std::ffi::OsString::from);
    let given = given.into_iter().chain([manifests.into()]);
    let config = crate::Config {
        excluded: Vec::new(),
        netns_dir: node.root.join("netns"),
        zds_socket: path.clone(),
        remove_on_exit,
        ..<crate::Config as clap::Parser>::parse_from(given)
    };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let agent = crate::run(config, async { drop(ended.await) });
    let proxy = async {
        // The socket is there from the agent's first turn on.
        tokio::task::yield_now().await;
        let connection = readiness::of(Connection::connect(&path).unwrap()).unwrap();
        connection.get_ref().send(&[8, 1], None).unwrap();
        let proxy = Proxy(connection);
        assert!(is_add_of(&proxy.told().await, &netns));
        proxy.answer("");
        assert!(matches!(proxy.told().await.0, Payload::SnapshotSent(_)));
        proxy.answer("");
        end.send(()).unwrap();
        if remove_on_exit {
            assert!(matches!(proxy.told().await.0, Payload::Del(_)));
            proxy.answer("");
        }
    };
    let both = async { tokio::join!(agent, proxy) };
    time::timeout(Duration::from_secs(20), both)
        .await
        .expect("the agent ends")
        .0
        .unwrap();
    capture::verify(&netns, &Probed::new()).unwrap()
}

#[tokio::test]
async fn rules_outlive_the_agent_unless_told_otherwise() {
    if !privileged("rules_outlive_the_agent_unless_told_otherwise") {
        return;
    }
    assert_eq!(after_exit("stay", false).await, State::Whole);
    assert_eq!(after_exit("remove", true).await, State::Absent);
}
