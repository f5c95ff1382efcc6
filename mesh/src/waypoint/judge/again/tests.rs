//! What is cut when the rules change, and what is not.

use proto::{
    security::{Action as Action4, Authorization as Authorization4, Scope},
    waypoint::{Action, PathEdit, Rewrite, Route, Rule, filter::Filter, path_edit},
};

use super::*;
use crate::{
    fixture::{key, policy as connection_policy, to_port},
    http::{balance::Load, head::Raw, host::Scheme},
    identity::Identity,
    model::Workload,
    waypoint::{
        Asked,
        fixture::{Told, rule, shop, with},
        judge,
        judge::tests::{authorization, consumers, namespaces, paths, source},
        judge_connection,
    },
};

/// Something open: a client of this namespace asked `orders` for this, or opened a connection.
#[derive(Clone, Copy, Debug)]
struct Open {
    namespace: &'static str,
    target: Option<&'static str>,
}

impl Open {
    const REQUEST: Self = Self {
        namespace: "shop",
        target: Some("/open/x"),
    };
    const CONNECTION: Self = Self {
        target: None,
        ..Self::REQUEST
    };

    fn client(self) -> Client {
        Client {
            peer: Some(Identity::new("cluster.local", self.namespace, "web")),
            address: "10.0.0.9:4000".parse().unwrap(),
            destination: None,
        }
    }

    fn head<T>(self, ask: impl FnOnce(Option<&Head<'_>>) -> T) -> T {
        let Some(target) = self.target else {
            return ask(None);
        };
        let head = Head::read(&Raw {
            method: b"GET",
            scheme: Scheme::Http,
            authority: Some(b"orders"),
            target: target.as_bytes(),
            headers: &[],
        });
        ask(Some(&head.unwrap()))
    }

    /// Where it leads.
    fn place(self, told: &Told) -> Place {
        let generation = told.generation();
        let table = generation.table(key("orders").as_str().into()).unwrap();
        let asked = Asked {
            table,
            port: table.port(80).unwrap(),
            client: &self.client(),
            from: &source(),
            seed: 0,
            tried: &[],
            load: &|_: &Workload| Load::default(),
        };
        let judgement = self.head(|head| match head {
            Some(head) => judge(&generation, &asked, head),
            None => judge_connection(&generation, &asked),
        });
        judgement.outcome.unwrap().place(table.key).unwrap()
    }

    /// Which policy cuts it.
    fn cut(self, told: &Told, place: &Place) -> Option<String> {
        let generation = told.generation();
        let table = generation.table(key("orders").as_str().into()).unwrap();
        let client = self.client();
        let answer =
            self.head(|head| judge_again(&generation, (table, 80), &client, head, Some(place)));
        answer.map(|answer| match answer {
            Answer::Denied(denial) => denial.policy().to_string(),
            other => panic!("only policies cut: {other:?}"),
        })
    }
}

/// A DENY of clients in `shop`.
fn deny(name: &str) -> proto::waypoint::Authorization {
    authorization(name, Action::Deny, namespaces(&["shop"]))
}

/// A DENY at layer 4 of a port of all pods in `shop`.
fn deny_port(port: u32) -> Authorization4 {
    connection_policy("l4", Scope::Namespace, Action4::Deny, &[to_port(port)])
}

/// `orders` with a route to one of its versions.
fn routed(kind: &str, to: &str) -> Told {
    let mut told = shop();
    let route = Route {
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: "canary".to_owned(),
        rules: vec![rule("/", &[(to, 1)])],
        ..Route::default()
    };
    told.put_route("canary", route);
    told
}

/// Pod `v1` is there, but is no endpoint of any service.
fn left(mut told: Told) -> Told {
    for backend in told.backends.values_mut() {
        let pods = backend.workloads.iter_mut();
        pods.filter(|pod| pod.name == "v1")
            .for_each(|pod| pod.services.clear());
    }
    told
}

/// Nobody tells of pod `v1` any more.
fn unknown(mut told: Told) -> Told {
    for backend in told.backends.values_mut() {
        backend.workloads.retain(|pod| pod.name != "v1");
    }
    told
}

/// Nobody tells of backend `orders-v1` any more.
fn without_backend(mut told: Told) -> Told {
    told.backends.remove(&key("orders-v1"));
    let table = told.tables.get_mut(&key("orders")).unwrap();
    table.backends.retain(|name| *name != key("orders-v1"));
    told
}

/// What is told after a change, and which policy cuts by it what is open at `orders-v1`.
type Case = (&'static str, Told, Option<&'static str>);

/// For a request and a connection alike. The cases are made of a service that is routed to one of its versions.
fn check(cases: impl Fn(&dyn Fn(&str) -> Told) -> Vec<Case>) {
    for (kind, open) in [("HTTPRoute", Open::REQUEST), ("TCPRoute", Open::CONNECTION)] {
        let to = |version: &str| routed(kind, version);
        let place = open.place(&to("orders-v1"));
        assert_eq!(place.backend, Name::new(&key("orders-v1")));
        for (what, told, cut) in cases(&to) {
            let cut = cut.map(|name| format!("shop/{name}"));
            assert_eq!(open.cut(&told, &place), cut, "{kind}: {what}");
        }
    }
}

#[test]
fn the_backend_where_it_is_denies_and_not_one_where_it_would_go() {
    check(|to| {
        let (stays, moved) = (|| to("orders-v1"), || to("orders-v2"));
        let abroad = authorization("abroad", Action::Deny, namespaces(&["abroad"]));
        let (there, nowhere) = (deny("there"), vec![rule("/other", &[])]);
        let by_backend = |told: Told| told.policy_of("orders-v1", there.clone());
        let elsewhere = moved().policy_of("orders-v2", deny("elsewhere"));
        vec![
            ("nothing", stays(), None),
            ("moved", moved(), None),
            ("denied there", by_backend(stays()), Some("there")),
            ("moved, denied there", by_backend(moved()), Some("there")),
            ("no route, denied there", by_backend(shop()), Some("there")),
            ("no rule", shop().route("canary", nowhere), None),
            ("moved to where it is denied", elsewhere, None),
            ("moved, denied", moved().policy(deny("own")), Some("own")),
            ("others are denied", moved().policy(abroad), None),
            ("its backend is unknown", without_backend(moved()), None),
        ]
    });
}

#[test]
fn the_pod_where_it_is_denies_whether_or_not_it_is_an_endpoint() {
    check(|to| {
        let (stays, moved) = (|| to("orders-v1"), || to("orders-v2"));
        let denies = |told: Told| told.connection(deny_port(8080));
        let backendless = denies(without_backend(moved()));
        vec![
            ("denied", denies(stays()), Some("l4")),
            ("moved, denied", denies(moved()), Some("l4")),
            ("left", left(stays()), None),
            ("left, denied", denies(left(stays())), Some("l4")),
            ("left and moved, denied", denies(left(moved())), Some("l4")),
            ("backend unknown, denied", backendless, Some("l4")),
            ("another port", moved().connection(deny_port(9)), None),
        ]
    });
}

#[test]
fn a_pod_that_nobody_tells_of_is_denied_by_what_is_told_and_for_want_of_nothing() {
    check(|to| {
        let gone = || unknown(to("orders-v1"));
        let allow = |scope, port| connection_policy("l4", scope, Action4::Allow, &[to_port(port)]);
        let selected = connection_policy(
            "l4",
            Scope::WorkloadSelector,
            Action4::Deny,
            &[to_port(8080)],
        );
        vec![
            ("drains", gone(), None),
            ("denied", gone().connection(deny_port(8080)), Some("l4")),
            ("another port", gone().connection(deny_port(9)), None),
            (
                "not allowed",
                gone().connection(allow(Scope::Namespace, 9)),
                None,
            ),
            ("others are denied", gone().connection(selected), None),
        ]
    });
}

#[test]
fn a_pod_that_drains_is_not_cut_for_want_of_policies_that_went_with_it() {
    let open = Open::CONNECTION;
    let mut told = routed("TCPRoute", "orders-v1");
    for pod in told.backends.values_mut().flat_map(|it| &mut it.workloads) {
        pod.authorization_policies = vec!["shop/own".to_owned()];
    }
    let own = connection_policy(
        "own",
        Scope::WorkloadSelector,
        Action4::Allow,
        &[to_port(8080)],
    );
    let place = open.place(&told.clone().connection(own));
    assert_eq!(open.cut(&unknown(told), &place), None);
}

/// From `/open` to `/admin` at `orders-v1`.
fn rewriting() -> Rule {
    let path = PathEdit {
        edit: Some(path_edit::Edit::Prefix("/admin".to_owned())),
    };
    let rewrite = Rewrite {
        path: Some(path),
        ..Rewrite::default()
    };
    let rule = rule("/open", &[("orders-v1", 1)]);
    with(rule, vec![Filter::Rewrite(rewrite)])
}

#[test]
fn policies_are_asked_about_what_was_forwarded_whatever_the_route_says_now() {
    let open = Open::REQUEST;
    let place = open.place(&shop().route("in", vec![rewriting()]));
    let deny = |path| authorization("deny", Action::Deny, paths(&[path]));
    for (path, own, there) in [("/admin/*", false, true), ("/open/*", true, false)] {
        for told in [shop(), shop().route("in", vec![rewriting()])] {
            let cut = |told| open.cut(&told, &place).is_some();
            assert_eq!(cut(told.clone().policy(deny(path))), own, "{path}");
            let other = told.policy_of("orders-v1", deny(path));
            assert_eq!(cut(other), there, "{path}");
        }
    }
}

#[test]
fn the_service_is_asked_about_what_a_consumers_rule_forwarded_too() {
    let open = Open {
        namespace: "abroad",
        ..Open::REQUEST
    };
    let place = open.place(&consumers(shop(), rewriting()));
    for path in ["/admin/*", "/open/*"] {
        let told = shop().policy(authorization("deny", Action::Deny, paths(&[path])));
        let cut = open.cut(&told, &place);
        assert_eq!(cut.as_deref(), Some("shop/deny"), "{path}");
    }
    let told = shop().policy(authorization("deny", Action::Deny, paths(&["/else"])));
    assert_eq!(open.cut(&told, &place), None);
}
