//! Facts about bindings from the files to what is published: who waits for whom, and what a restart finds.

use proto::{discovery::DeltaDiscoveryRequest, workload};
use tokio::time::timeout;

use super::*;
use crate::{
    ca::Authority,
    phase::{PATIENCE, SETTLE},
    publish::Stream,
    reports::Reports,
    serve::{metrics::Metrics, streams::Streams},
    tokens::Tokens,
    world::Phase,
};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop, labels: {LABEL}}
spec: {clusterIP: 10.96.0.30, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders, namespace: shop, labels: {app: orders}}
spec: {nodeName: n1, serviceAccountName: orders, containers: [{name: app, image: app}]}
status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: \"True\"}]}
";
const LABEL: &str = "istio.io/use-waypoint: waypoint";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: orders}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

fn files(label: &str) -> Files {
    Files::new(&[
        ("orders.yaml", &SERVICE.replace("LABEL", label)),
        ("gateway.yaml", GATEWAY),
        ("policy.yaml", POLICY),
    ])
}

fn gateway() -> Key {
    ("shop".to_owned(), "waypoint".to_owned())
}

/// A control plane without its services: what it would publish, to whom it is told that it has come where.
struct Run {
    source: Source,
    bindings: Bindings,
    reached: Reached,
    now: Instant,
    mesh: Mesh,
}

impl Run {
    /// A start with nobody connected.
    fn start(files: &Files, state: &Arc<StateDir>) -> Self {
        Self::with_nodes(files, state, Vec::new())
    }

    fn with_nodes(files: &Files, state: &Arc<StateDir>, nodes: Vec<Option<u64>>) -> Self {
        let now = Instant::now();
        let settings = Settings {
            deploys: true,
            ..Settings::default()
        };
        let mut run = Self {
            source: Source::open(files.0.path(), settings).unwrap(),
            bindings: Bindings::open(Arc::clone(state), now).unwrap(),
            reached: Reached {
                nodes,
                ..Reached::default()
            },
            now,
            mesh: Mesh::default(),
        };
        run.publish();
        run
    }

    fn publish(&mut self) {
        let now = (&self.reached, self.now);
        let previous = Arc::clone(&self.mesh.snapshot);
        self.mesh = self
            .source
            .mesh(&ByNode::new(), &mut self.bindings, now, &previous);
    }

    /// All nodes accept what is published, and what follows is published.
    fn nodes_accept(&mut self) {
        let number = self.mesh.snapshot.number();
        self.reached.nodes.fill(Some(number));
        self.publish();
    }

    /// The waypoint accepts what is published, and what follows is published.
    fn waypoint_accepts(&mut self) {
        let number = self.mesh.snapshot.number();
        self.reached.waypoints.insert(gateway(), vec![Some(number)]);
        self.publish();
    }

    /// What the nodes sent out before has arrived, and what follows is published.
    fn settle(&mut self) {
        assert!(!self.bindings.is_due(&self.reached, self.now), "too early");
        let deadline = self.bindings.deadline(self.now).unwrap();
        assert_eq!(deadline, self.now + SETTLE);
        self.now = deadline;
        assert!(self.bindings.is_due(&self.reached, self.now));
        self.publish();
    }

    fn reread(&mut self) {
        reread(&mut self.source);
        self.publish();
    }

    /// Whether the service is published with a waypoint, and whether whoever goes around is denied.
    fn is_bound(&self) -> (bool, bool) {
        bound(&self.mesh.snapshot)
    }

    /// Whether nodes are told of a waypoint that decides the policies of the service's workloads.
    fn is_trusted(&self) -> bool {
        let extensions = service(&self.mesh.snapshot).extensions;
        extensions
            .iter()
            .any(|extension| extension.name == proto::TRUST_EXTENSION)
    }
}

fn service(snapshot: &Snapshot) -> workload::Service {
    let resource = &snapshot.nodes().set(Kind::Address)["shop/orders.shop.svc.cluster.local"];
    let Some(Type::Service(service)) = resource.address().unwrap().r#type else {
        panic!("a service");
    };
    service
}

fn bound(snapshot: &Snapshot) -> (bool, bool) {
    let mut policies = snapshot.nodes().set(Kind::Authorization).keys();
    let denied = policies.any(|name| name.starts_with("shop/ambit_waypoint_8080_"));
    let workload::Service { waypoint, .. } = service(snapshot);
    (waypoint.is_some(), denied)
}

fn state(scratch: &Scratch) -> Arc<StateDir> {
    Arc::new(StateDir::open(scratch.path()).unwrap())
}

#[test]
fn the_denial_follows_what_the_nodes_accept_and_that_what_the_waypoint_accepts() {
    let (files, scratch) = (files(LABEL), Scratch::new());
    fs::remove_file(files.0.path().join("policy.yaml")).unwrap();
    let mut run = Run::start(&files, &state(&scratch));
    run.reached.nodes = vec![None, None];
    run.publish();
    assert_eq!(run.is_bound(), (false, false), "it never was ready");
    run.waypoint_accepts();
    assert_eq!(run.is_bound(), (false, false), "only now it is told");
    run.waypoint_accepts();
    assert_eq!(
        run.is_bound(),
        (false, false),
        "the nodes do not trust it yet"
    );
    assert!(run.is_trusted());
    run.nodes_accept();
    assert_eq!(run.is_bound(), (true, false));
    run.nodes_accept();
    assert_eq!(run.is_bound(), (true, false), "there is no policy");
    files.write("policy.yaml", POLICY);
    run.reread();
    assert_eq!(
        run.is_bound(),
        (true, false),
        "they know the waypoint only now"
    );
    run.settle();
    assert_eq!(run.is_bound(), (true, true));
    fs::remove_file(files.0.path().join("policy.yaml")).unwrap();
    run.reread();
    assert_eq!(run.is_bound(), (true, false));
    files.write("orders.yaml", &SERVICE.replace("LABEL", ""));
    run.reread();
    assert_eq!(
        run.is_bound(),
        (true, false),
        "not all know that they do not deny"
    );
    run.reached.nodes = vec![Some(run.mesh.snapshot.number()), None];
    run.publish();
    assert_eq!(run.is_bound(), (true, false));
    run.nodes_accept();
    assert_eq!(run.is_bound(), (false, false));
    let told = |run: &Run| {
        let waypoint = run.mesh.snapshot.part(&Subject::Waypoint(gateway()));
        waypoint.set(Kind::Table).len()
    };
    assert_eq!(told(&run), 1, "somebody may still come");
    assert!(run.is_trusted());
    run.nodes_accept();
    assert_eq!(told(&run), 1, "somebody may be on the way");
    assert!(run.is_trusted());
    run.settle();
    assert_eq!((told(&run), run.mesh.bindings.len()), (0, 0));
    assert!(!run.is_trusted());
}

#[test]
fn each_step_waits_five_seconds_for_a_node_that_does_not_answer_and_a_denial_one_more() {
    let (files, scratch) = (files(LABEL), Scratch::new());
    let run = Run::start(&files, &state(&scratch));
    assert_eq!(run.is_bound(), (true, true), "nobody to wait for");
    let scratch = Scratch::new();
    let mut run = Run::with_nodes(&files, &state(&scratch), vec![Some(u64::MAX), None]);
    for (now, time, then) in [
        ((false, false), PATIENCE, (true, false)),
        ((true, false), PATIENCE, (true, false)),
        ((true, false), SETTLE, (true, true)),
    ] {
        assert_eq!(run.is_bound(), now);
        assert!(!run.bindings.is_due(&run.reached, run.now));
        let deadline = run.bindings.deadline(run.now).unwrap();
        assert_eq!(deadline, run.now + time);
        run.now = deadline;
        assert_eq!(run.bindings.is_due(&run.reached, run.now), now != then);
        run.publish();
        assert_eq!(run.is_bound(), then);
    }
    assert!(!run.bindings.is_due(&run.reached, run.now));
}

#[test]
fn bound_stays_bound_over_a_restart_while_the_waypoint_is_away() {
    let (files, scratch) = (files(LABEL), Scratch::new());
    fs::remove_file(files.0.path().join("policy.yaml")).unwrap();
    let mut run = Run::start(&files, &state(&scratch));
    run.waypoint_accepts();
    run.waypoint_accepts();
    assert_eq!(run.is_bound(), (true, false));
    run.reached.waypoints.clear();
    run.publish();
    assert_eq!(run.is_bound(), (true, false));
    drop(run);
    let run = Run::start(&files, &state(&scratch));
    assert_eq!(run.is_bound(), (true, false));
    drop(run);
    // Also without its Gateway.
    fs::remove_file(files.0.path().join("gateway.yaml")).unwrap();
    let run = Run::start(&files, &state(&scratch));
    assert_eq!(run.is_bound(), (true, false));
    assert!(run.bindings.recorded().ready.is_empty());
    drop(run);
    fs::remove_file(scratch.path().join(WAYPOINTS)).unwrap();
    let run = Run::start(&files, &state(&scratch));
    assert_eq!(run.is_bound(), (false, false), "nobody remembers");
}

#[test]
fn what_is_published_is_on_disk() {
    let (files, scratch) = (files(LABEL), Scratch::new());
    let state = state(&scratch);
    let mut run = Run::start(&files, &state);
    let recorded = |state: &Arc<StateDir>| {
        let bindings = Bindings::open(Arc::clone(state), Instant::now()).unwrap();
        bindings.recorded().phases.clone()
    };
    assert_eq!(run.mesh.bindings.len(), 1);
    assert_eq!(recorded(&state), run.mesh.bindings);
    // A directory in the way of the file.
    let obstacle = scratch.path().join(format!(".{WAYPOINTS}.new"));
    fs::create_dir(&obstacle).unwrap();
    files.write("orders.yaml", &SERVICE.replace("LABEL", ""));
    run.reread();
    assert_eq!(run.bindings.problems(), 1);
    assert_eq!(recorded(&state), run.mesh.bindings, "nothing went on");
    assert!(
        !run.bindings.is_due(&run.reached, run.now),
        "not at once again"
    );
    run.now = run.bindings.deadline(run.now).unwrap();
    assert!(run.bindings.is_due(&run.reached, run.now));
    fs::remove_dir(&obstacle).unwrap();
    run.publish();
    assert_eq!(recorded(&state), run.mesh.bindings);
    assert_eq!(run.bindings.problems(), 0);
    // The policy is still there.
    let phases: Vec<_> = run.mesh.bindings.values().collect();
    assert_eq!(phases, [&Phase::Closed]);
    fs::remove_file(files.0.path().join("policy.yaml")).unwrap();
    run.reread();
    assert_eq!(
        (recorded(&state).len(), run.is_bound()),
        (0, (false, false))
    );
}

#[test]
fn a_damaged_record_stops_the_start() {
    let scratch = Scratch::new();
    let state = state(&scratch);
    state.write(WAYPOINTS, b"{\"ready\": 7}", PUBLIC).unwrap();
    let error = Bindings::open(state, Instant::now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("waypoints.json: is not a record") && error.contains("restore it"),
        "{error}"
    );
}

/// A subscriber that accepts everything.
struct Peer {
    stream: Stream,
    entry: crate::serve::streams::Entry,
}

impl Peer {
    fn new(hub: &Hub, subject: &Subject) -> Self {
        let mut stream = Stream::new(subject.clone());
        for kind in Kind::served(subject) {
            let request = DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                ..Default::default()
            };
            stream.request(request).unwrap();
        }
        let entry = hub.streams.enter(subject).unwrap();
        Self { stream, entry }
    }

    fn accept(&mut self, snapshot: &Snapshot) {
        for response in self.stream.push(snapshot) {
            let request = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..Default::default()
            };
            self.stream.request(request).unwrap();
        }
        self.entry.progressed(&self.stream);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_subscribers_accept_is_followed() {
    let (files, scratch) = (files(LABEL), Scratch::new());
    let of_gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}";
    let named = "{group: \"\", kind: Service, name: orders}";
    files.write("policy.yaml", &POLICY.replace(named, of_gateway));
    let state = state(&scratch);
    let now = SystemTime::now();
    let hub = Arc::new(Hub {
        authority: Authority::open(&state, "cluster.local", now).unwrap(),
        trust_domain: "cluster.local".to_owned(),
        longest_life: Duration::from_hours(1),
        callers: crate::serve::Callers::Tokens(Tokens::open(Arc::clone(&state)).unwrap()),
        reports: Reports::open(Arc::clone(&state)).unwrap(),
        mesh: tokio::sync::watch::Sender::default(),
        streams: Streams::default(),
        metrics: Metrics::default(),
        closing: tokio::sync::watch::Sender::new(false),
    });
    let mut node = Peer::new(&hub, &Subject::Node("n1".to_owned()));
    let mut waypoint = Peer::new(&hub, &Subject::Waypoint(gateway()));
    let mut bindings = Bindings::open(Arc::clone(&state), Instant::now()).unwrap();
    let source = files.open().unwrap();
    publish(&hub, &state, &source, &mut bindings);
    let token = scratch.path().join("waypoint-tokens/shop.waypoint");
    assert!(token.exists());
    let watch = Watch::new(files.0.path()).unwrap();
    let task = tokio::spawn(follow(
        Arc::clone(&hub),
        Arc::clone(&state),
        source,
        bindings,
        watch,
    ));

    let mut mesh = hub.mesh.subscribe();
    let phases = async {
        let mut seen = Vec::new();
        loop {
            let now = Arc::clone(&mesh.borrow_and_update());
            let phase = now.bindings.values().next().map(Phase::name);
            if seen.last() != Some(&phase) {
                assert_ne!(bound(&now.snapshot), (false, true));
                seen.push(phase);
            }
            match phase {
                Some("enforced") => files.write("orders.yaml", &SERVICE.replace("LABEL", "")),
                None if seen.len() > 1 => return seen,
                _ => {}
            }
            waypoint.accept(&now.snapshot);
            node.accept(&now.snapshot);
            mesh.changed().await.unwrap();
        }
    };
    let seen = timeout(Duration::from_secs(20), phases).await.unwrap();
    let words = ["told", "published", "enforced", "leaving", "told"];
    let expected: Vec<_> = words.into_iter().map(Some).chain([None]).collect();
    assert_eq!(seen, expected);
    fs::remove_file(files.0.path().join("gateway.yaml")).unwrap();
    let gone = |mesh: &Arc<Mesh>| mesh.snapshot.waypoints().is_empty();
    timeout(Duration::from_secs(20), mesh.wait_for(gone))
        .await
        .unwrap()
        .unwrap();
    task.abort();
}

/// Every push, as it goes over the wire, to a waypoint that puts it in force; after each response that state is whole.
#[test]
fn a_waypoint_puts_in_force_what_it_is_told() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
    let files = Files::new(&[]);
    for entry in fs::read_dir(demo).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        files.write(&name, &fs::read_to_string(entry.path()).unwrap());
    }
    let scratch = Scratch::new();
    let mut run = Run::start(&files, &state(&scratch));
    run.waypoint_accepts();
    run.waypoint_accepts();
    let subject = Subject::Waypoint(gateway());
    let mut stream = Stream::new(subject.clone());
    for kind in Kind::served(&subject) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            ..Default::default()
        };
        stream.request(request).unwrap();
    }
    let mut store = mesh::waypoint::Store::new(mesh::name::Name::new("ambit-system"));
    let orders = mesh::name::Name::new("shop/orders.shop.svc.cluster.local");
    let mut push = |run: &Run| {
        let responses = stream.push(&run.mesh.snapshot);
        let mut kinds = Vec::new();
        for response in responses {
            kinds.push(Kind::of(&response.type_url).unwrap());
            let resources = response
                .resources
                .into_iter()
                .map(|it| mesh::delta::Resource {
                    name: it.name,
                    version: it.version,
                    bytes: it.resource.unwrap().value,
                });
            let delta = mesh::delta::Delta {
                type_url: response.type_url,
                resources: resources.collect(),
                removed: response.removed_resources,
            };
            let rejected = store.apply(&delta);
            assert!(rejected.is_empty(), "{rejected:?}");
        }
        (kinds, Arc::clone(store.current()))
    };
    let (_, first) = push(&run);
    assert!(first.is_ready());
    let table = Arc::clone(first.table(orders).unwrap());
    assert!(!table.ports.is_empty());

    let text = fs::read_to_string(files.0.path().join("orders.yaml")).unwrap();
    let (before, after) = ("weight: 90", "weight: 50");
    assert!(text.contains(before));
    files.write("orders.yaml", &text.replace(before, after));
    run.reread();
    let (kinds, second) = push(&run);
    assert_eq!(kinds, [Kind::Route, Kind::Table]);
    assert!(second.is_ready() && second.number > first.number);
    assert!(!Arc::ptr_eq(&table, second.table(orders).unwrap()));
}
