//! docs/install.md, word for word: every command that it shows, in its order, on a cluster.
//!
//! The cluster has the image that the chart names, made of the executable under test; nothing is fetched.

use std::{
    env, fs,
    path::Path,
    process::{self, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests_kube::{
    Cluster, image, left, mesh,
    program::{run, wait},
    shell::Shell,
};

const DOCUMENT: &str = include_str!("../../../docs/install.md");
const SOON: Duration = Duration::from_secs(60);

/// The image that the chart and the document name.
const IMAGE: &str = concat!("ghcr.io/ambit/ambit:", env!("CARGO_PKG_VERSION"));

/// Two clusters at a time are more than small machines have.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sections of the document: title and commands.
fn sections(document: &str) -> Vec<(&str, Vec<String>)> {
    let sections = document.split("\n## ").skip(1).map(|section| {
        let title = section.lines().next().unwrap_or_default();
        let blocks = section.split("```sh\n").skip(1);
        let blocks = blocks.map(|block| block.split("\n```").next().unwrap_or_default());
        (title, blocks.flat_map(commands).collect())
    });
    sections.collect()
}

/// The commands of a block: lines, and with some the document that follows up to `EOF`.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut within = false;
    for line in block.lines().filter(|line| !line.is_empty()) {
        match commands.last_mut() {
            Some(command) if within => {
                command.push('\n');
                command.push_str(line);
                within = line != "EOF";
            }
            _ => {
                within = line.contains("<<'EOF'");
                commands.push(line.to_owned());
            }
        }
    }
    commands
}

fn load(cluster: &Cluster) {
    let root = env::temp_dir().join(format!("ambit-install-{}", process::id()));
    image::lay_out(Path::new(env!("CARGO_BIN_EXE_ambit")), &root).expect("an image");
    cluster.image(IMAGE, &root, "/usr/bin/ambit");
    let _ = fs::remove_dir_all(root);
}

/// All objects of the cluster but definitions of kinds and what comes and goes by itself, as kind, namespace and name.
fn objects(cluster: &Cluster) -> Vec<String> {
    let kinds = cluster.does(&["api-resources", "--verbs=list", "-o", "name"]);
    let passing = [
        "apiservices",
        "customresourcedefinitions",
        "events",
        "endpoints",
        "leases.",
        "componentstatuses",
        "pods",
    ];
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !passing.iter().any(|it| kind.starts_with(it)))
        .collect();
    let columns = "-o=custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
    let said = cluster.does(&["get", &kinds.join(","), "-A", "--no-headers", columns]);
    let mut all: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    all.sort();
    all
}

/// Objects that are not as before, and what is not so on nodes.
struct Before {
    objects: Vec<String>,
    nodes: Vec<(&'static str, Vec<String>)>,
}

impl Before {
    fn of(cluster: &Cluster, nodes: &[&'static str]) -> Self {
        Self {
            objects: objects(cluster),
            nodes: nodes
                .iter()
                .map(|it| (*it, left::on(cluster, it)))
                .collect(),
        }
    }

    fn changes(&self, cluster: &Cluster) -> Vec<String> {
        let nodes = self.nodes.iter().flat_map(|(node, before)| {
            let changes = left::changes(before, &left::on(cluster, node));
            changes.into_iter().map(move |it| format!("{node}: {it}"))
        });
        let mut all: Vec<_> = nodes.collect();
        all.extend(left::changes(&self.objects, &objects(cluster)));
        // On objects that stay, among them the nodes themselves.
        let written = cluster.does(&["get", "nodes,namespaces,pods", "-A", "-o", "json"]);
        let ours = |line: &&str| line.contains("ambit.dev/") || line.contains("ambient.istio.io/");
        all.extend(
            written
                .lines()
                .filter(ours)
                .map(|it| format!("+ {}", it.trim())),
        );
        all
    }
}

#[test]
fn the_document_installs_in_at_most_five_commands() {
    let sections = sections(DOCUMENT);
    let (title, install) = &sections[0];
    assert_eq!(*title, "Install");
    assert!(!install.is_empty() && install.len() <= 5, "{install:?}");
}

#[test]
fn the_first_screen_of_the_readme_shows_commands_of_the_document() {
    let readme = include_str!("../../../README.md");
    let screen = readme.split("\n## ").next().unwrap_or_default();
    let blocks = |text: &'static str| -> Vec<&str> {
        let blocks = text.split("```sh\n").skip(1);
        blocks.filter_map(|it| it.split("```").next()).collect()
    };
    let (demo, cluster): (Vec<_>, Vec<_>) = blocks(screen)
        .into_iter()
        .partition(|it| it.contains("demo"));
    assert_eq!(demo, ["cargo run --release -- demo\n"]);
    assert!(cluster.len() > 1, "{cluster:?}");
    for block in cluster {
        assert!(blocks(DOCUMENT).contains(&block), "{block}");
    }
}

#[test]
fn values_that_the_chart_does_not_have_are_refused_with_their_path() {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/ambit");
    let render = |value: &str| {
        let mut helm = Command::new(mesh::helm());
        helm.args(["template", "ambit", chart, "--kube-version", "v1.30.0"]);
        run(helm.args(["--set", value]), "")
    };
    if let Err(failed) = render("control.replicas=3") {
        // Without helm nothing is installed.
        assert!(failed.code.is_none() && !no_skip(), "{failed}");
        println!("skipped: values of the chart: {failed}");
        return;
    }
    for (value, path) in [
        ("contorl.replicas=3", "'contorl'"),
        ("control.replicas=0", "/control/replicas"),
        ("control.resources.request.cpu=1", "/control/resources"),
        ("mesh.trustDomian=x", "/mesh"),
        ("compat.istioNames=maybe", "/compat/istioNames"),
        ("node.cniConfDir=etc", "/node/cniConfDir"),
    ] {
        let refused = render(value).expect_err(value);
        assert!(refused.said.contains(path), "{value}: {refused}");
    }
}

fn no_skip() -> bool {
    env::var_os("AMBIT_NO_SKIP").is_some_and(|value| value == "1")
}

#[test]
fn what_the_document_says_works_and_leaves_nothing() {
    let _alone = alone();
    let Some(cluster) = Cluster::start("docs/install.md", 2) else {
        return;
    };
    load(&cluster);
    let shell = Shell::of(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    let before = Before::of(&cluster, &["kn1", "kn2"]);
    for (title, commands) in sections(DOCUMENT) {
        println!("== {title}");
        for command in commands {
            let said = shell.does(&command);
            holds_after(&shell, title, &command, &said);
        }
    }
    assert_eq!(before.changes(&cluster), [""; 0]);
    let again = shell.does("ambit uninstall");
    assert!(again.contains("nothing is installed"), "{again}");
}

/// What the document says of a command besides that it succeeds.
fn holds_after(shell: &Shell<'_>, title: &str, command: &str, said: &str) {
    let has = |word: &str| assert!(said.contains(word), "{word}");
    let has_not = |word: &str| assert!(!said.contains(word), "{word}");
    let is_refused = ["stranger", "plain"]
        .iter()
        .any(|it| command.contains(&format!("exec deployment/{it}")));
    if command.contains("dataplane-mode=ambient") {
        wait("the pods to be captured", SOON, || {
            let said = shell.says("ambit status -o json");
            let said = said.map_err(|failed| failed.to_string())?;
            let captured = said.matches("\"captured\": true").count();
            (captured == 3).then_some(()).ok_or(said)
        });
    } else if command.contains("-n shop rollout status") {
        // What is rolled out is not yet known to every node's proxy of services, with a mesh or without.
        wait("the server's service to be known", SOON, || {
            let asks = "ambit load http://server/ --fresh --duration=200ms";
            let said = shell.says(&format!("kubectl -n shop exec deployment/client -- {asks}"));
            let said = said.map_err(|failed| failed.to_string())?;
            said.contains("\"failed\":0,").then_some(()).ok_or(said)
        });
    } else if command == "ambit status" {
        has("shop");
        has_not("WHY");
    } else if command == "ambit check" {
        has_not("✗");
    } else if is_refused {
        has("\"ok\":0,");
        has_not("\"failed\":0,");
    } else if command.contains("ambit load") {
        has("\"failed\":0,");
        has_not("\"ok\":0,");
    } else if command.contains("logs") && title == "Say who may do what" {
        has("policy=\"shop/server\"");
    } else if command.contains("logs") {
        has("spiffe://cluster.local/ns/shop/sa/client");
    } else if command == "ambit install" {
        has("compat.istioNames=true");
        let classes = "kubectl -n ambit-system get pods -o jsonpath='{range .items[*]}{.metadata.labels.app}={.spec.priorityClassName} {end}'";
        let classes = shell.does(classes);
        for class in classes.split_whitespace() {
            let wanted = ["control=system-cluster-critical", "=system-node-critical"];
            assert!(wanted.iter().any(|it| class.ends_with(it)), "{classes}");
        }
        let labels =
            shell.does("kubectl get namespace ambit-system -o jsonpath={.metadata.labels}");
        assert!(
            labels.contains("\"pod-security.kubernetes.io/enforce\":\"privileged\""),
            "{labels}"
        );
        has("kubectl label namespace default istio.io/dataplane-mode=ambient");
    } else if command == "ambit uninstall" {
        has("the namespace ambit-system");
    }
}

#[test]
fn what_goes_wrong_is_said_with_what_to_do_and_users_objects_are_never_removed() {
    let _alone = alone();
    let Some(cluster) = Cluster::start("ambit install and check", 1) else {
        return;
    };
    load(&cluster);
    let shell = Shell::of(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    let before = Before::of(&cluster, &["kn1"]);

    nothing_is_there(&shell);
    an_older_definition_is_refused_until_it_is_updated(&cluster, &shell);
    assert_eq!(before.changes(&cluster), [""; 0]);
    an_image_that_is_not_there_is_repaired(&shell);
    users_objects_stay(&cluster, &shell);
    assert_eq!(before.changes(&cluster), [""; 0]);
    a_namespace_of_somebody_else_stays_as_it_was(&cluster, &shell);
}

fn nothing_is_there(shell: &Shell<'_>) {
    let said = shell.fails("KUBECONFIG=/nonexistent ambit check", 3);
    assert!(said.contains("KUBECONFIG=/nonexistent"), "{said}");
    let said = shell.fails(
        &format!("PATH=/nonexistent {} install", env!("CARGO_BIN_EXE_ambit")),
        1,
    );
    assert!(said.contains("no `helm` on the PATH"), "{said}");
    let said = shell.does("ambit install --dry-run --set control.replicas=7");
    assert!(
        said.contains("replicas: 7") && said.contains("pod-security"),
        "{said}"
    );
    let said = shell.fails("ambit check", 1);
    assert!(
        said.contains("nothing is installed in ambit-system") && said.contains("→ ambit install"),
        "{said}"
    );
    assert!(shell.does("ambit status").contains("ambit install"));
    assert!(
        shell
            .does("ambit uninstall")
            .contains("nothing is installed")
    );
}

/// What its API server would take away.
const OLDER: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: peerauthentications.security.istio.io}
spec:
  group: security.istio.io
  scope: Namespaced
  names: {kind: PeerAuthentication, plural: peerauthentications}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {mtls: {type: object, properties: {mode: {type: string}}}}
";

fn an_older_definition_is_refused_until_it_is_updated(cluster: &Cluster, shell: &Shell<'_>) {
    cluster.apply(OLDER);
    // Another's, and not to be touched: it lacks nothing.
    shell.does("ambit crds authorizationpolicies | kubectl apply -f -");
    let theirs = "authorizationpolicies.security.istio.io";
    shell.does(&format!(
        "kubectl label crd {theirs} whose=theirs app.kubernetes.io/part-of-"
    ));
    let lacks = "peerauthentications.security.istio.io does not know spec.portLevelMtls";
    let repair =
        "ambit crds peerauthentications | kubectl apply --server-side --force-conflicts -f -";
    for command in ["ambit install", "ambit check --pre"] {
        let said = shell.fails(command, 1);
        assert!(said.contains(lacks) && said.contains(repair), "{said}");
    }
    let none = shell.fails("kubectl get namespace ambit-system", 1);
    assert!(none.contains("NotFound"), "nothing was begun: {none}");
    shell.does(repair);
    shell.does("ambit check --pre");
    shell.does(&format!(
        "ambit install --image {IMAGE} --set control.replicas=1"
    ));
    let labels = |name: &str| cluster.get(&["crd", name])["metadata"]["labels"].clone();
    assert_eq!(labels(theirs)["whose"], "theirs");
    assert!(labels(theirs)["app.kubernetes.io/part-of"].is_null());
    what_can_be_told_to_be_wrong_is_refused(cluster);
    // One that comes with an upgrade: helm alone leaves it out.
    let late = "serviceentries.networking.istio.io";
    shell.does(&format!("kubectl delete crd {late}"));
    shell.does("ambit upgrade");
    assert_eq!(labels(late)["app.kubernetes.io/part-of"], "ambit");
    shell.does("ambit uninstall");
    for stays in [theirs, late, "peerauthentications.security.istio.io"] {
        shell.does(&format!("kubectl get crd {stays}"));
    }
}

fn what_can_be_told_to_be_wrong_is_refused(cluster: &Cluster) {
    let object = |kind: &str, spec: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: x}}, spec: {spec}}}"
        )
    };
    for (kind, spec, field) in [
        ("ServiceEntry", "{hosts: []}", "spec.hosts"),
        ("ServiceEntry", "{hosts: ['a b']}", "spec.hosts[0]"),
        (
            "ServiceEntry",
            "{hosts: [a.b], resolution: SOMEHOW}",
            "spec.resolution",
        ),
        (
            "ServiceEntry",
            "{hosts: [a.b], ports: [{name: x, number: 0}]}",
            "spec.ports[0].number",
        ),
        (
            "ServiceEntry",
            "{hosts: [a.b], endpoints: [{address: 10.0.0.1}]}",
            "resolution",
        ),
        (
            "ServiceEntry",
            "{hosts: [a.b], resolution: STATIC, endpoints: [{weight: 1}]}",
            "unless there is a network",
        ),
        ("WorkloadEntry", "{weight: 1}", "unless there is a network"),
        (
            "WorkloadEntry",
            "{address: 10.0.0.1, serviceAccount: a/b}",
            "spec.serviceAccount",
        ),
        (
            "WorkloadEntry",
            "{address: 'unix:///x', ports: {a: 1}}",
            "a socket has no ports",
        ),
    ] {
        let refused = cluster.kubectl_with(
            &["apply", "--dry-run=server", "-f", "-"],
            &object(kind, spec),
        );
        let refused = refused.expect_err(spec);
        assert!(refused.said.contains(field), "{refused}");
    }
    cluster.apply(&object(
        "ServiceEntry",
        "{hosts: ['*.a.b'], addresses: [10.1.0.0/16], ports: [{name: x, number: 80, protocol: HTTP}], resolution: STATIC, \
         endpoints: [{address: '10.0.0.1', ports: {x: 8080}, labels: {a: b}, locality: r/z}], location: MESH_EXTERNAL}",
    ));
    cluster.apply(&object(
        "WorkloadEntry",
        "{address: '2001:db8::1', serviceAccount: a.b, weight: 3}",
    ));
    cluster.does(&["delete", "serviceentry,workloadentry", "x"]);
}

fn an_image_that_is_not_there_is_repaired(shell: &Shell<'_>) {
    let said = shell.fails(
        "ambit install --image localhost:1/ambit:none --timeout 10s",
        1,
    );
    assert!(
        said.contains("ztunnel 0/1") && said.contains("Pull"),
        "{said}"
    );
    let said = shell.fails("ambit check", 1);
    assert!(
        said.contains("its ztunnel is not ready") && said.contains("kubectl -n ambit-system"),
        "{said}"
    );
    let said = shell.fails("ambit install", 1);
    assert!(said.contains("ambit upgrade"), "{said}");
    let said = shell.does(&format!(
        "AMBIT_IMAGE={IMAGE} ambit upgrade --set control.replicas=1"
    ));
    assert!(said.contains("control plane 1/1"), "{said}");
    shell.does("ambit check");
    let said = shell.does("ambit upgrade --set logLevel=debug");
    assert!(
        said.contains("control plane 1/1"),
        "what was set stays set: {said}"
    );
}

fn what_leads_from_outside_to_strict_pods_is_found(shell: &Shell<'_>) {
    shell.does(
        "echo '{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: stays}, spec: {mtls: {mode: STRICT}}}' | kubectl apply -f -",
    );
    let service = "kubectl -n stays create service";
    shell.does(&format!("{service} clusterip hook --tcp=443:8443"));
    shell.does(&format!("{service} nodeport app --tcp=80:8080"));
    shell.does(
        "kubectl -n stays patch service hook -p '{\"spec\":{\"selector\":{\"app\":\"app\"}}}'",
    );
    // It is called for nothing.
    shell.does(
        "echo '{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook}, webhooks: [{name: a.b.c, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {service: {namespace: stays, name: hook}}}]}' | kubectl apply -f -",
    );
    let said = shell.fails("ambit check", 1);
    for word in [
        "strict: the API server, which has no identity, calls a.b.c of port 8443 of 1 pods",
        "(ValidatingWebhookConfiguration hook)",
        "strict: a NodePort, whose clients have no identity, leads to port 8080 of 1 pods",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let mut repairs = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("→ echo"));
    // One for both: of two policies for a pod the older one decides.
    shell.does(&format!("echo{}", repairs.next().unwrap_or_default()));
    let said = shell.does("ambit check");
    assert!(
        said.contains("nothing from outside leads to pods"),
        "{said}"
    );
    shell.does("kubectl -n stays delete peerauthentication --all");
    shell.does("kubectl delete validatingwebhookconfiguration hook");
}

/// What is in the network namespaces of pods.
fn pods(cluster: &Cluster) -> Vec<String> {
    let mut lines = left::on(cluster, "kn1");
    lines.retain(|line| line.starts_with("/run/netns/"));
    lines
}

fn users_objects_stay(cluster: &Cluster, shell: &Shell<'_>) {
    shell.does("kubectl create namespace stays");
    shell.does(&format!(
        "kubectl -n stays create deployment app --image={IMAGE} -- ambit echo"
    ));
    shell.does("kubectl -n stays rollout status deployment --timeout=60s");
    let before = pods(cluster);
    shell.does("kubectl label namespace stays istio.io/dataplane-mode=ambient");
    wait("the pod to be captured", SOON, || {
        let said = shell.says("ambit status -o json");
        let said = said.map_err(|failed| failed.to_string())?;
        said.contains("\"captured\": true")
            .then_some(())
            .ok_or(said)
    });
    what_leads_from_outside_to_strict_pods_is_found(shell);
    let more = |line: &String| line.starts_with('+');
    assert!(left::changes(&before, &pods(cluster)).iter().any(more));
    shell.does("kubectl -n ambit-system create configmap mine");
    let said = shell.does("ambit uninstall");
    assert!(
        said.contains("the namespace ambit-system stays, it has: ConfigMap/mine"),
        "{said}"
    );
    let written = shell.does("kubectl -n stays get pods -o yaml");
    assert!(
        !written.contains("ambit.dev/") && !written.contains("ambient.istio.io/"),
        "{written}"
    );
    let after = left::changes(&before, &pods(cluster));
    assert!(!after.iter().any(more), "{after:?}");
    shell.does("kubectl delete namespace stays");
    shell.does("kubectl -n ambit-system get configmap mine");
    shell.does("kubectl -n ambit-system delete configmap mine");
    let said = shell.does("ambit uninstall");
    assert!(
        said.contains("removed: the namespace ambit-system"),
        "{said}"
    );
}

fn a_namespace_of_somebody_else_stays_as_it_was(cluster: &Cluster, shell: &Shell<'_>) {
    shell.does("kubectl create namespace ambit-system");
    let labels = || cluster.get(&["namespace", "ambit-system"])["metadata"]["labels"].clone();
    let own = labels();
    shell.does("ambit install");
    assert_ne!(labels(), own);
    shell.does("ambit uninstall");
    assert_eq!(
        labels(),
        own,
        "a namespace of somebody else stays as it was"
    );
}
