//! Facts about single documents: what is a slip, and what may be hidden by it.

use super::*;

fn pod(metadata: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}, {spec}}}")
}

fn look(text: &str) -> (Vec<bool>, Gap, usize) {
    let (contents, faults) = read(text);
    let faulty = contents.objects.iter().map(|it| it.faulty).collect();
    (faulty, contents.gap, faults.len())
}

#[test]
fn what_is_no_kind_may_be_any_object_if_it_is_like_one_that_counts_or_like_none() {
    let of = |version: &str, kind: &str| {
        look(&format!(
            "{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}"
        ))
    };
    for (version, kind) in [
        ("v1", "Pdo"),
        ("v1", "PodList"),
        ("v1", "Namespce"),
        ("v1", "Lst"),
        ("v1", "Thing"),
        ("apps/v1", "Pod"),
        ("core/v1", "Namespace"),
        ("lib.k8s.io/v1", "Pods"),
    ] {
        assert_eq!(of(version, kind), (vec![], Gap::Any, 1), "{version} {kind}");
    }
    for (version, kind) in [
        ("v1", "Servce"),
        ("v1", "Secret"),
        ("apps/v1", "Deployment"),
        ("example.com/v1", "Pod"),
        ("security.istio.io/v1", "Thing"),
        ("metrics.k8s.io/v1", "PodMetrics"),
    ] {
        assert_eq!(
            of(version, kind),
            (vec![], Gap::None, 0),
            "{version} {kind}"
        );
    }
    assert_eq!(look("kind: Pdo\nmetadata: {").1, Gap::Any);
    assert_eq!(look("kind: Deployment\nmetadata: {").1, Gap::Own);
}

#[test]
fn metadata_have_no_other_fields() {
    let labels = pod("name: a, namespace: shop, labls: {b: c}", "spec: {}");
    assert_eq!(look(&labels), (vec![true], Gap::None, 1));
    let namespace = pod("name: a, namespce: shop", "spec: {}");
    assert_eq!(look(&namespace), (vec![], Gap::Any, 1), "it may be of any");
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: a, labls: {b: c}}}";
    assert_eq!(look(text), (vec![true], Gap::None, 1));
    let all = METADATA.map(|field| match field {
        "labels" | "annotations" => format!("{field}: {{}}"),
        _ => format!("{field}: a"),
    });
    let all = pod(&all.join(", "), "spec: {}");
    assert_eq!(look(&all), (vec![false], Gap::None, 0));
}

#[test]
fn what_is_read_has_its_own_case() {
    for (text, vague) in [
        ("spec: {nodename: n}", true),
        ("spec: {serviceaccountname: n}", true),
        ("spec: {hostnetwork: true}", true),
        ("Spec: {nodeName: n}", true),
        ("spec: {hostname: n}", false),
    ] {
        let (contents, faults) = read(&pod("name: a", text));
        let Object::Pod(manifest) = &contents.objects[0].object else {
            panic!("{text}")
        };
        assert_eq!(
            (manifest.vague, faults.len()),
            (vague, usize::from(vague)),
            "{text}"
        );
    }
}
