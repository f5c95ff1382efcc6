//! What becomes of one pod, look by look.

use mesh::enrol::Enrolment;

use super::*;
use crate::manifests::{Manifests, document};

/// Nobody can read the file.
const UNREADABLE: &str = "unreadable";

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---";
const UNLABELLED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---";
const KEPT_OUT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: none}}
---";
const FAULTY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: 5}}
---";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: n1}
---";
const POD_KEPT_OUT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {istio.io/dataplane-mode: none}}
spec: {nodeName: n1}
---";
const POD_LABELLED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}
spec: {nodeName: n1}
---";
const POD_FAULTY_LABEL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {istio.io/dataplane-mode: 5}}
spec: {nodeName: n1}
---";
const BARE: &str = "
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: none}}
---";
const OTHER: &str = "
apiVersion: tenants.example/v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---";
const POD_FAULTY_HOST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: n1, hostNetwork: \"yes\"}
---";
const POD_FAULTY_NODE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: 1}
---";
const POD_HOST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: n1, hostNetwork: true}
---";
const LIST: &str = "
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
- {apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop}, spec: {nodeName: n1}}
---";
const LOWER_CASE: &str = "
apiVersion: v1
kind: pod
metadata: {name: cart, namespace: shop}
---";
const SEVERAL: &str = "
apiVersion: v1
kind: Pods
metadata: {name: cart, namespace: shop}
---";
const TORN: &str = "
kind: [
---";
const WORKLOAD: &str = "
apiVersion: apps/v1
kind: Deployment
";

const ALIEN: &str = "
values: 1
---";

/// A file's name and the texts in it.
type File<'a> = (&'a str, &'a [&'a str]);

/// When, in milliseconds; the files then; what becomes of the pod.
type Look<'a> = (u64, &'a [File<'a>], Pod);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pod {
    In,
    Out,
    /// Nobody can say.
    Unclear,
    Gone,
}

use Pod::{Gone, In, Out, Unclear};

fn look(was: &Settled, files: &[File<'_>], now: SystemTime) -> (Settled, Pod) {
    let read = |texts: &[&str]| document::read(&texts.concat()).0;
    let contents: Vec<_> = files
        .iter()
        .map(|(name, texts)| (Path::new(name), read(texts), texts.contains(&UNREADABLE)))
        .collect();
    let files = contents
        .iter()
        .map(|(name, contents, unreadable)| {
            let gap = if *unreadable { Gap::Any } else { contents.gap };
            (*name, (contents.objects.as_slice(), gap))
        })
        .collect();
    let manifests = Manifests {
        settled: settle(was, &files, now),
        ..Manifests::default()
    };
    let pods = manifests.pods("n1");
    let pod = match pods.values().next().map(|pod| pod.enrolment) {
        None => Gone,
        Some(None) => Unclear,
        Some(Some(Enrolment::In)) => In,
        Some(Some(Enrolment::Out(_))) => Out,
    };
    (manifests.settled, pod)
}

fn check(cases: &[(&str, &[Look<'_>])]) {
    let start = SystemTime::now();
    for (case, looks) in cases {
        let mut settled = Settled::default();
        for (at, files, expected) in *looks {
            let (now, pod) = look(&settled, files, start + Duration::from_millis(*at));
            assert_eq!(pod, *expected, "{case}, at {at} ms");
            settled = now;
        }
    }
}

#[test]
fn what_is_faulty_or_double_takes_no_pod_out() {
    let good: Look<'_> = (0, &[("a", &[NAMESPACE]), ("b", &[POD])], In);
    check(&[
        (
            "a label that is no text",
            &[
                good,
                (1, &[("a", &[FAULTY]), ("b", &[POD])], In),
                (9000, &[("a", &[FAULTY]), ("b", &[POD])], In),
                (9001, &[("a", &[UNLABELLED]), ("b", &[POD])], Out),
            ],
        ),
        (
            "a second namespace without labels",
            &[
                good,
                (
                    1,
                    &[("a", &[NAMESPACE]), ("b", &[POD]), ("c", &[UNLABELLED])],
                    In,
                ),
                (
                    2,
                    &[("a", &[NAMESPACE]), ("b", &[POD]), ("c", &[KEPT_OUT])],
                    In,
                ),
                (3, &[("b", &[POD]), ("c", &[KEPT_OUT])], Out),
            ],
        ),
        (
            "a second pod that is kept out",
            &[
                good,
                (
                    1,
                    &[("a", &[NAMESPACE]), ("b", &[POD]), ("c", &[POD_KEPT_OUT])],
                    In,
                ),
                (2, &[("a", &[NAMESPACE]), ("b", &[POD, POD_KEPT_OUT])], In),
                (3, &[("a", &[NAMESPACE]), ("b", &[POD_KEPT_OUT])], Out),
            ],
        ),
        (
            "a flag that is text",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("b", &[POD_FAULTY_HOST])], In),
                (2, &[("a", &[NAMESPACE]), ("b", &[POD_HOST])], Out),
            ],
        ),
    ]);
}

#[test]
fn what_is_written_otherwise_takes_no_pod_out() {
    let good: Look<'_> = (0, &[("a", &[NAMESPACE]), ("b", &[POD])], In);
    check(&[
        (
            "a node that is no text",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("b", &[POD_FAULTY_NODE])], In),
            ],
        ),
        (
            "a kind in lower case",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("b", &[LOWER_CASE])], In),
                (9000, &[("a", &[NAMESPACE]), ("b", &[LOWER_CASE])], In),
            ],
        ),
        (
            "a kind of several",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("b", &[SEVERAL])], In),
                (9000, &[("a", &[NAMESPACE]), ("b", &[SEVERAL])], In),
            ],
        ),
        (
            "a list",
            &[
                (0, &[("a", &[LIST])], In),
                (1, &[("a", &[LIST, KEPT_OUT])], In),
                (2, &[("a", &[KEPT_OUT, POD])], Out),
            ],
        ),
    ]);
}

#[test]
fn what_was_never_read_well_is_in_if_any_of_it_says_so() {
    check(&[
        (
            "two namespaces",
            &[
                (
                    0,
                    &[("a", &[NAMESPACE]), ("b", &[POD]), ("c", &[KEPT_OUT])],
                    In,
                ),
                (
                    1,
                    &[("a", &[UNREADABLE]), ("b", &[POD]), ("c", &[KEPT_OUT])],
                    In,
                ),
                (2, &[("b", &[POD]), ("c", &[KEPT_OUT])], Out),
            ],
        ),
        (
            "two pods",
            &[(0, &[("a", &[POD_LABELLED]), ("b", &[POD_KEPT_OUT])], In)],
        ),
        (
            "two pods that are both out",
            &[(0, &[("a", &[POD]), ("b", &[POD_KEPT_OUT])], Out)],
        ),
        (
            "a faulty pod in a namespace that is in",
            &[(0, &[("a", &[NAMESPACE]), ("b", &[POD_FAULTY_HOST])], In)],
        ),
        (
            "a pod that is in, in a faulty namespace",
            &[(0, &[("a", &[FAULTY]), ("b", &[POD_LABELLED])], In)],
        ),
    ]);
}

#[test]
fn of_what_was_never_read_well_and_may_be_in_nobody_can_say() {
    check(&[
        (
            "a faulty namespace",
            &[
                (0, &[("a", &[FAULTY]), ("b", &[POD])], Unclear),
                (1, &[("a", &[NAMESPACE]), ("b", &[POD])], In),
                (2, &[("a", &[FAULTY]), ("b", &[POD])], In),
            ],
        ),
        (
            "a pod that says so itself",
            &[(0, &[("a", &[FAULTY]), ("b", &[POD_KEPT_OUT])], Out)],
        ),
        (
            "a faulty pod",
            &[
                (
                    0,
                    &[("a", &[UNLABELLED]), ("b", &[POD_FAULTY_LABEL])],
                    Unclear,
                ),
                (1, &[("a", &[UNLABELLED]), ("b", &[POD])], Out),
                (2, &[("a", &[UNLABELLED]), ("b", &[POD_FAULTY_LABEL])], Out),
            ],
        ),
        (
            "a namespace that may be anywhere",
            &[
                (0, &[("b", &[POD]), ("c", &[TORN])], Unclear),
                (1, &[("b", &[POD]), ("c", &[UNREADABLE])], Unclear),
                (2, &[("b", &[POD])], Out),
                (3, &[("b", &[POD]), ("c", &[TORN])], Out),
            ],
        ),
        (
            "a new pod whose namespace may be anywhere",
            &[
                (0, &[], Gone),
                (1, &[("b", &[POD]), ("c", &[TORN])], Unclear),
                (2, &[("b", &[POD]), ("c", &[NAMESPACE])], In),
            ],
        ),
        (
            "a namespace without a version",
            &[
                (0, &[("a", &[BARE]), ("b", &[POD])], Unclear),
                (1, &[("a", &[NAMESPACE]), ("b", &[POD])], In),
                (2, &[("a", &[BARE]), ("b", &[POD])], In),
            ],
        ),
        (
            "what another group calls a namespace",
            &[(0, &[("a", &[OTHER]), ("b", &[POD])], Out)],
        ),
    ]);
}

#[test]
fn only_what_is_in_none_of_the_files_goes() {
    let good: Look<'_> = (0, &[("a", &[NAMESPACE]), ("b", &[POD])], In);
    check(&[
        (
            "removed",
            &[
                good,
                (1, &[("a", &[NAMESPACE])], In),
                (1000, &[("a", &[NAMESPACE])], In),
                (1001, &[("a", &[NAMESPACE])], Gone),
            ],
        ),
        (
            "its namespace removed",
            &[
                good,
                (1, &[("b", &[POD])], In),
                (1001, &[("b", &[POD])], Out),
            ],
        ),
        (
            "moved, first here then there",
            &[
                good,
                (1, &[], In),
                (900, &[("c", &[POD, NAMESPACE])], In),
                (1800, &[], In),
                (2799, &[("d", &[POD, NAMESPACE])], In),
            ],
        ),
        (
            "moved, into a file that cannot be read yet",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("c", &[UNREADABLE])], In),
                (9000, &[("a", &[NAMESPACE]), ("c", &[TORN])], In),
                (9001, &[("a", &[NAMESPACE]), ("c", &[])], In),
                (10_001, &[("a", &[NAMESPACE]), ("c", &[])], Gone),
            ],
        ),
        (
            "a file that cannot be read",
            &[
                good,
                (1, &[("a", &[UNREADABLE]), ("b", &[UNREADABLE])], In),
                (9000, &[("a", &[TORN]), ("b", &[TORN])], In),
                (
                    9001,
                    &[("a", &[TORN]), ("b", &[TORN]), ("c", &[KEPT_OUT])],
                    In,
                ),
                (9002, &[("c", &[KEPT_OUT, POD])], Out),
            ],
        ),
        (
            "a document without a kind",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("b", &[ALIEN])], In),
                (9000, &[("a", &[NAMESPACE]), ("b", &[ALIEN])], In),
            ],
        ),
        (
            "a file of another kind altogether",
            &[
                good,
                (1, &[("a", &[NAMESPACE]), ("c", &[WORKLOAD])], In),
                (1001, &[("a", &[NAMESPACE]), ("c", &[WORKLOAD])], Gone),
            ],
        ),
    ]);
}
