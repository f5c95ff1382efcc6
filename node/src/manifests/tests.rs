//! Directories of manifests and the pods that come of them.

use super::*;
use mesh::enrol::Reason;
use std::{io::Write as _, os::unix::net::UnixListener, process::Command, thread, time::Instant};
use sys::file::SETTLED;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ambit-manifests-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Puts a file there that nobody has open: not even a child that another test starts, which has all files of this
    /// process until it is its own.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
        self.closed(name);
    }

    /// Opens a file to save it in place.
    fn truncate(&self, name: &str) -> fs::File {
        fs::File::create(self.0.join(name)).unwrap()
    }

    fn closed(&self, name: &str) {
        let latest = Instant::now() + Duration::from_secs(10);
        while file::being_written(&fs::File::open(self.0.join(name)).unwrap()).unwrap() {
            assert!(Instant::now() < latest, "{name} is still being written");
            thread::yield_now();
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Late enough for every file to have settled.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: shop
  annotations: {ambit.dev/netns: demo-cart}
spec:
  nodeName: n1
  serviceAccountName: cart
  containers: [{name: app, image: none}]
";

fn key(name: &str) -> Key {
    ("shop".into(), name.into())
}

#[test]
fn pods_of_this_node_are_found_with_what_their_namespace_asks() {
    let directory = Directory::new("found");
    let service = "kind: Service\nmetadata: 7\n";
    let elsewhere = POD.replace("name: cart", "name: other").replace("n1", "n2");
    directory.write(
        "all.yaml",
        &format!("# first\n---{NAMESPACE}---\n{POD}\n---\n{service}---\n{elsewhere}---\n"),
    );
    directory.write("readme.md", "kind: Pod");
    directory.write(".hidden.yaml", "kind: [");
    let mut manifests = Manifests::default();
    assert_eq!(
        manifests.look(&directory.0, later()).unwrap(),
        Looked::default()
    );
    let pods = manifests.pods("n1");
    let expected = Pod {
        namespace: "shop".into(),
        name: "cart".into(),
        uid: "shop/cart/cart".into(),
        service_account: "cart".into(),
        enrolment: Some(Enrolment::In),
        netns: Some(Place::File("demo-cart".into())),
        ready: true,
        probed: Probed::new(),
        is_probed_as_plain: false,
        is_judged: false,
    };
    assert_eq!(pods, BTreeMap::from([(key("cart"), expected)]));
    assert!(manifests.pods("n3").is_empty());
}

#[test]
fn what_a_pod_says_of_itself_counts() {
    let directory = Directory::new("facts");
    let mut manifests = Manifests::default();
    let mut look = |change: (&str, &str)| {
        directory.write("namespace.yaml", NAMESPACE);
        directory.write("pod.yaml", &POD.replace(change.0, change.1));
        manifests.look(&directory.0, later()).unwrap();
        let pods = manifests.pods("n1");
        pods.into_values().next().unwrap()
    };
    assert_eq!(
        look(("spec:", "status: {phase: Failed}\nspec:")).enrolment,
        Some(Enrolment::Out(Reason::Ended))
    );
    let host = look(("spec:", "spec:\n  hostNetwork: true"));
    assert_eq!(
        (host.enrolment, host.netns),
        (Some(Enrolment::Out(Reason::HostNetwork)), None)
    );
    assert_eq!(
        look(("  serviceAccountName: cart\n", "")).service_account,
        "default"
    );
    assert_eq!(
        look(("  name: cart\n", "  name: cart\n  uid: 1-2-3\n")).uid,
        "1-2-3"
    );
    let unready = "status: {conditions: [{type: Ready, status: 'False'}]}\nspec:";
    assert!(!look(("spec:", unready)).ready);
    assert!(look(("spec:", &unready.replace("False", "True"))).ready);
    let elsewhere = look(("  namespace: shop\n", ""));
    assert_eq!(
        (elsewhere.namespace.as_str(), elsewhere.enrolment),
        (
            "default",
            Some(Enrolment::Out(Reason::NotAsked(Keys::Shared)))
        )
    );
}

#[test]
fn a_broken_document_is_told_once_and_its_last_version_stays() {
    let directory = Directory::new("broken");
    directory.write("all.yaml", &format!("{NAMESPACE}---\n{POD}"));
    let mut manifests = Manifests::default();
    manifests.look(&directory.0, later()).unwrap();
    let before = manifests.pods("n1");
    directory.write(
        "all.yaml",
        &format!(
            "{}---\n{}",
            NAMESPACE.replace("ambient", "none"),
            POD.replace("nodeName: n1", "nodeName: [")
        ),
    );
    let looked = manifests.look(&directory.0, later()).unwrap();
    assert_eq!(looked.faults.len(), 1, "{looked:?}");
    assert_eq!(
        (
            looked.faults[0].document,
            looked.faults[0].file.ends_with("all.yaml")
        ),
        (Some(2), true)
    );
    let pods = manifests.pods("n1");
    assert_eq!(
        pods.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    assert_eq!(
        pods[&key("cart")].enrolment,
        Some(Enrolment::Out(Reason::NotAsked(Keys::Shared))),
        "the good document counts"
    );
    assert_eq!(
        manifests.look(&directory.0, later()).unwrap(),
        Looked::default(),
        "told once"
    );
    directory.write("all.yaml", "just: text");
    let looked = manifests.look(&directory.0, later()).unwrap();
    assert_eq!(looked.faults[0].reason, "it has no kind");
}

#[test]
fn a_file_that_goes_takes_its_pods_along() {
    let directory = Directory::new("gone");
    directory.write("pod.yaml", POD);
    let mut manifests = Manifests::default();
    manifests.look(&directory.0, later()).unwrap();
    assert_eq!(manifests.pods("n1").len(), 1);
    fs::remove_file(directory.0.join("pod.yaml")).unwrap();
    let now = later();
    let looked = manifests.look(&directory.0, now).unwrap();
    assert!(looked.unsettled, "to be looked at again");
    assert_eq!(manifests.pods("n1").len(), 1);
    let looked = manifests.look(&directory.0, now + GONE).unwrap();
    assert!(!looked.unsettled);
    assert!(manifests.pods("n1").is_empty());
    assert!(
        manifests
            .look(&directory.0.join("nowhere"), later())
            .is_err()
    );
}

#[test]
fn a_file_that_was_just_written_is_left_until_it_settles() {
    let directory = Directory::new("young");
    directory.write("pod.yaml", POD);
    let mut manifests = Manifests::default();
    let written = fs::metadata(directory.0.join("pod.yaml"))
        .unwrap()
        .modified()
        .unwrap();
    let unsettled = Looked {
        unsettled: true,
        ..Looked::default()
    };
    assert_eq!(manifests.look(&directory.0, written).unwrap(), unsettled);
    assert!(manifests.pods("n1").is_empty() && manifests.hides("n1"));
    assert_eq!(
        manifests.look(&directory.0, written + SETTLED).unwrap(),
        Looked::default()
    );
    assert_eq!(manifests.pods("n1").len(), 1);
    // As in a loop of open, write and close.
    drop(directory.truncate("pod.yaml"));
    assert!(manifests.look(&directory.0, written).unwrap().unsettled);
    assert_eq!(manifests.pods("n1").len(), 1, "what was read stays");
}

#[test]
fn no_pod_leaves_while_a_file_is_saved_in_place() {
    let directory = Directory::new("open");
    let all = format!("{NAMESPACE}---{POD}");
    directory.write("all.yaml", &all);
    let mut manifests = Manifests::default();
    manifests.look(&directory.0, later()).unwrap();
    let before = manifests.pods("n1");
    assert_eq!(before[&key("cart")].enrolment, Some(Enrolment::In));
    let being_written = Looked {
        unsettled: true,
        ..Looked::default()
    };
    // Nothing yet; a part of the namespace.
    for first in [0, NAMESPACE.len() - 30] {
        let mut writer = directory.truncate("all.yaml");
        writer.write_all(&all.as_bytes()[..first]).unwrap();
        let looked = manifests.look(&directory.0, later()).unwrap();
        assert_eq!(
            (looked, manifests.pods("n1")),
            (being_written.clone(), before.clone())
        );
        writer.write_all(&all.as_bytes()[first..]).unwrap();
        drop(writer);
        directory.closed("all.yaml");
        let looked = manifests.look(&directory.0, later()).unwrap();
        assert_eq!(
            (looked, manifests.pods("n1")),
            (Looked::default(), before.clone())
        );
    }
}

#[test]
fn a_file_that_is_written_for_too_long_is_told_once_and_waited_for_no_more() {
    let directory = Directory::new("long");
    let mut writer = directory.truncate("pod.yaml");
    let (mut manifests, now) = (Manifests::default(), later());
    for (at, faults) in [(now, 0), (now + PATIENCE, 1), (now + 2 * PATIENCE, 0)] {
        let looked = manifests.look(&directory.0, at).unwrap();
        assert_eq!(
            (looked.unsettled, looked.faults.len(), manifests.hides("n1")),
            (true, faults, true)
        );
    }
    writer.write_all(POD.as_bytes()).unwrap();
    drop(writer);
    directory.closed("pod.yaml");
    assert_eq!(
        manifests.look(&directory.0, now).unwrap(),
        Looked::default()
    );
    assert_eq!(manifests.pods("n1").len(), 1);
}

#[test]
fn an_emptied_file_keeps_its_pods_until_it_is_removed() {
    let directory = Directory::new("empty");
    directory.write("pod.yaml", POD);
    directory.write("nothing.yaml", "");
    let mut manifests = Manifests::default();
    manifests.look(&directory.0, later()).unwrap();
    let comments = format!("%YAML 1.2\n--- # first\n{}...", POD.replace('\n', "\n# "));
    for (text, faults) in [("", 1), (" \n", 0), ("---\r\n---\r\n", 0), (&comments, 0)] {
        directory.write("pod.yaml", text);
        let now = later();
        let looked = manifests.look(&directory.0, now).unwrap();
        assert_eq!(looked.faults.len(), faults, "told once: {looked:?}");
        manifests.look(&directory.0, now + GONE).unwrap();
        assert_eq!(manifests.pods("n1").len(), 1, "{text}");
    }
    fs::remove_file(directory.0.join("pod.yaml")).unwrap();
    let now = later();
    manifests.look(&directory.0, now).unwrap();
    assert_eq!(
        manifests.look(&directory.0, now + GONE).unwrap(),
        Looked::default()
    );
    assert!(manifests.pods("n1").is_empty());
}

#[test]
fn doubles_are_told_once() {
    let directory = Directory::new("doubles");
    directory.write("a.yaml", POD);
    directory.write("b.yaml", POD);
    let mut manifests = Manifests::default();
    let mut look = || manifests.look(&directory.0, later()).unwrap().faults;
    assert_eq!(look(), [], "they are the same");
    directory.write("b.yaml", &POD.replace("nodeName: n1", "nodeName: n2"));
    let faults = look();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].file.ends_with("b.yaml"));
    assert!(
        faults[0]
            .reason
            .contains("pod shop/cart has other content in")
            && faults[0].reason.ends_with("a.yaml"),
        "{}",
        faults[0].reason
    );
    assert_eq!(look(), []);
}

#[test]
fn what_is_emptied_while_it_cannot_be_read_keeps_its_pods() {
    let directory = Directory::new("torn");
    directory.write("pod.yaml", POD);
    let mut manifests = Manifests::default();
    manifests.look(&directory.0, later()).unwrap();
    let now = later();
    for text in ["kind: Pod\n[", ""] {
        directory.write("pod.yaml", text);
        assert_eq!(manifests.look(&directory.0, now).unwrap().faults.len(), 1);
        manifests.look(&directory.0, now + 2 * GONE).unwrap();
        assert_eq!(manifests.pods("n1").len(), 1, "{text:?}");
    }
}

#[test]
fn what_takes_the_place_of_a_file_takes_no_pod_along() {
    let directory = Directory::new("places");
    let at = |name: &str| directory.0.join(name);
    let link = |to: &Path| std::os::unix::fs::symlink(to, at("new")).unwrap();
    let makes: [(&dyn Fn(), bool); 6] = [
        (&|| link(Path::new("nowhere")), true),
        (&|| link(&at("pod.yaml")), true),
        (&|| link(&directory.0), true),
        (&|| mkfifo(&at("new")), true),
        (&|| drop(UnixListener::bind(at("new")).unwrap()), true),
        (&|| fs::create_dir(at("new")).unwrap(), false),
    ];
    for (at_index, (make, hides)) in makes.into_iter().enumerate() {
        directory.write("pod.yaml", POD);
        let mut manifests = Manifests::default();
        manifests.look(&directory.0, later()).unwrap();
        let before = manifests.pods("n1");
        make();
        // No directory takes the place of a file at once.
        if !hides {
            fs::remove_file(at("pod.yaml")).unwrap();
        }
        fs::rename(at("new"), at("pod.yaml")).unwrap();
        let now = later();
        for (now, faults) in [(now, 1), (now + GONE, 0), (now + 2 * GONE, 0)] {
            let looked = manifests.look(&directory.0, now).unwrap();
            assert_eq!(looked.faults.len(), faults, "{at_index}: {looked:?}");
            assert_eq!(manifests.pods("n1"), before, "{at_index}");
        }
        // Where nothing is known yet, nothing is sure.
        let mut first = Manifests::default();
        let looked = first.look(&directory.0, later()).unwrap();
        assert_eq!(
            (looked.faults.len(), first.hides("n1")),
            (usize::from(hides), hides),
            "{at_index}"
        );
        fs::rename(at("pod.yaml"), at("old")).unwrap();
        let _ = fs::remove_file(at("old")).or_else(|_| fs::remove_dir(at("old")));
        let now = later();
        manifests.look(&directory.0, now).unwrap();
        manifests.look(&directory.0, now + GONE).unwrap();
        assert!(manifests.pods("n1").is_empty(), "{at_index}");
    }
}

fn mkfifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn lone_carriage_returns_hide_nothing() {
    let directory = Directory::new("returns");
    let text = format!("# all of it\n{NAMESPACE}---{POD}");
    directory.write("all.YAML", &text.replace('\n', "\r\n"));
    let mut manifests = Manifests::default();
    assert_eq!(
        manifests.look(&directory.0, later()).unwrap(),
        Looked::default()
    );
    let before = manifests.pods("n1");
    assert_eq!(before.len(), 1);
    let now = later();
    for (text, faults) in [
        (text.replace('\n', "\r"), 1),
        (text.clone() + "# more\r", 0),
        (text, 0),
    ] {
        directory.write("all.YAML", &text);
        let looked = manifests.look(&directory.0, now).unwrap();
        assert_eq!(looked.faults.len(), faults, "told once: {looked:?}");
        manifests.look(&directory.0, now + GONE).unwrap();
        assert_eq!(manifests.pods("n1"), before);
    }
}

#[test]
fn pods_may_be_hidden_until_all_is_read_once() {
    let faulty = |change: (&str, &str)| POD.replace(change.0, change.1);
    for (text, hides) in [
        (POD.to_owned(), false),
        (String::new(), false),
        ("values: 1\n".to_owned(), true),
        ("%YAML 1.2\n---\nvalues: 1\n".to_owned(), true),
        ("apiVersion: apps/v1\nkind: Deployment\n".to_owned(), false),
        ("apiVersion: v1\nkind: Service\nspec: [\n".to_owned(), false),
        (faulty(("v1", "operators.example/v1")), false),
        (faulty(("apiVersion: v1", "apiVersion: 1")), false),
        (faulty(("metadata:", "metadata:\n  labels: {a: 1}")), false),
        (faulty(("nodeName: n1", "nodeName: 1")), true),
        (faulty(("nodeName: n1", "nodeName: N1")), true),
        (
            faulty(("serviceAccountName: cart", "serviceAccountName: 7")),
            true,
        ),
        (faulty(("demo-cart", "5")), true),
        (faulty(("demo-cart", "5")).replace("n1", "n2"), false),
        (faulty(("name: cart", "name: Cart")), true),
        (faulty(("namespace: shop", "namespace: \"\"")), true),
        (faulty(("kind: Pod", "")), true),
        (faulty(("spec:", "\tspec:")), true),
        (
            "apiVersion: v1\nkind: Service\nspec: [\nkind: Po".to_owned(),
            true,
        ),
        ("{\"kind\": \"Service\", ".to_owned(), true),
    ] {
        let directory = Directory::new("hidden");
        directory.write("a.yaml", &text);
        let mut manifests = Manifests::default();
        manifests.look(&directory.0, later()).unwrap();
        assert_eq!(manifests.hides("n1"), hides, "{text}");
        directory.write("a.yaml", POD);
        manifests.look(&directory.0, later()).unwrap();
        assert!(!manifests.hides("n1"));
        directory.write("a.yaml", &text);
        manifests.look(&directory.0, later()).unwrap();
        assert!(!manifests.hides("n1"), "its last good version is known");
    }
}

/// As a tool writes what it was asked for.
#[test]
fn what_is_wrapped_otherwise_is_read_or_kept() {
    let item: String = POD.replace("---\n", "");
    let indented = item.trim().replace('\n', "\n  ");
    for text in [
        format!("- {indented}\n"),
        format!("items:\n- {indented}\n"),
        format!("apiVersion: v1\nkind: Bundle\nitems:\n- {indented}\n"),
        format!("resources:\n- {indented}\n"),
    ] {
        let directory = Directory::new("wrapped");
        directory.write("a.yaml", POD);
        let mut manifests = Manifests::default();
        manifests.look(&directory.0, later()).unwrap();
        let before = manifests.pods("n1");
        assert_eq!(before.len(), 1);
        fs::remove_file(directory.0.join("a.yaml")).unwrap();
        directory.write("b.json", &text);
        for seconds in [0, 9] {
            let now = later() + Duration::from_secs(seconds);
            manifests.look(&directory.0, now).unwrap();
        }
        assert_eq!(manifests.pods("n1"), before, "{text}");
    }
}
