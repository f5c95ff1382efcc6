//! Facts about pods that refuse everybody, because a policy is for them that nobody can carry out.

use std::collections::BTreeMap;

use super::{
    bound::{GET, WEB, attached, web},
    *,
};
use crate::source::{Loaded, load};

/// What is loaded of a mesh that runs, after `text` has come to what was there.
fn later(text: &str) -> Loaded {
    let pods = pod("web", "shop", "labels: {app: web}", "")
        + &pod("other", "shop", "labels: {app: other}", "")
        + &pod("far", "bank", "labels: {app: web}", "");
    let mut files = BTreeMap::from([(PathBuf::from("a.yaml"), pods)]);
    let first = load(&files, None);
    assert_eq!(first.problems, []);
    files.insert(PathBuf::from("b.yaml"), text.to_owned());
    load(&files, Some(&first))
}

/// Whether shop/web, shop/other and bank/far are among the workloads that a policy denies everything, on all ports.
fn closed(compiled: &Compiled) -> [bool; 3] {
    ["shop/web", "shop/other", "bank/far"].map(|pod| {
        let Some(Type::Workload(workload)) =
            &compiled.addresses[&format!("Kubernetes//Pod/{pod}")].r#type
        else {
            panic!("{pod}")
        };
        let mut named = workload.authorization_policies.iter();
        named.any(|name| {
            let policy = &compiled.authorizations[name];
            assert!(mesh::model::is_generated(name.as_str().into()), "{name}");
            policy.action == proto::security::Action::Deny as i32
                && policy.groups == [proto::security::Group::default()]
        })
    })
}

/// Nobody would be kept to the policy: the service has no endpoints that anybody knows.
#[test]
fn the_pods_of_a_new_service_that_cannot_be_understood_and_has_a_policy_refuse_everybody() {
    let broken = |more: &str| {
        let ports = "clusterIP: 10.0.1.1, ports: [{port: x}]";
        service("web", "", &format!("{ports}{more}"))
    };
    let torn = "---\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {[";
    let selecting = broken(", selector: {app: web}");
    let policed = attached("p", WEB, GET);
    let dry = policed.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let bad = attached("p", WEB, "action: NO");
    let tokens = attached("p", WEB, "jwtRules: [{issuer: i}]")
        .replace("AuthorizationPolicy", "RequestAuthentication");
    for (text, expected) in [
        (selecting.clone() + &policed, [true, false, false]),
        (selecting.clone() + &bad, [true, false, false]),
        (selecting.clone() + &tokens, [true, false, false]),
        (broken("") + &policed, [true, true, false]),
        (
            broken(", selector: {app: 7}") + &policed,
            [true, true, false],
        ),
        (
            selecting.replace("name: web,", "name: WEB,") + &policed,
            [true, true, false],
        ),
        (
            selecting.clone() + &selecting.replace("app: web", "app: other") + &policed,
            [true, true, false],
        ),
        (policed.clone() + torn, [true, true, false]),
        (
            policed.clone() + &torn.replace("name: web", "nam"),
            [true, true, false],
        ),
        (selecting.clone(), [false; 3]),
        (selecting.clone() + &dry, [false; 3]),
        (
            selecting.replace("namespace: shop", "namespace: bank") + &policed,
            [false; 3],
        ),
    ] {
        let loaded = later(&text);
        assert_ne!(loaded.problems, [], "{text}");
        let compiled = compile(&loaded.world, &settings());
        assert_eq!(closed(&compiled), expected, "{text}");
    }
}

#[test]
fn a_service_that_is_not_understood_says_what_that_does_and_is_no_matter_once_it_is() {
    let text = service("web", "", "selector: {app: web}, ports: [{port: x}]");
    let loaded = later(&(text + &attached("p", WEB, GET)));
    let compiled = compile(&loaded.world, &settings());
    let said = |kind, name: &str| {
        let status = &compiled.statuses[&ObjectRef::new(kind, "shop", name)];
        status.conditions[0].message.clone()
    };
    assert!(said(Kind::Service, "web").contains("refuse every peer"));
    assert!(said(Kind::AuthorizationPolicy, "p").contains("refuse every peer"));
    let mended =
        later(&(web("").split("---\n").nth(1).unwrap().to_owned() + &attached("p", WEB, GET)));
    assert_eq!(mended.problems, []);
    assert_eq!(closed(&compile(&mended.world, &settings())), [false; 3]);
}
