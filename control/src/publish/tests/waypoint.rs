//! Facts about what waypoints are sent, and about how far subscribers have come.

use proto::waypoint;

use super::*;

fn gateway() -> Key {
    ("shop".to_owned(), "waypoint".to_owned())
}

fn waypoint_stream(gateway: &Key) -> Stream {
    Stream::new(Subject::Waypoint(gateway.clone()))
}

fn telling(told: &[(&Key, Told)], previous: &Snapshot) -> Snapshot {
    let told = told
        .iter()
        .map(|(gateway, told)| ((*gateway).clone(), told.clone()));
    let compiled = Compiled {
        told: told.collect(),
        ..Compiled::default()
    };
    Snapshot::new(&compiled, previous)
}

/// A table that lists its routes in their versions.
fn told(routes: &[(&str, u64)], policies: &[(&str, waypoint::Policy)]) -> Told {
    let routes: BTreeMap<_, _> = routes
        .iter()
        .map(|(name, created)| {
            let route = waypoint::Route {
                created: i64::try_from(*created).unwrap(),
                ..Default::default()
            };
            ((*name).to_owned(), route)
        })
        .collect();
    let references = routes.iter().map(|(name, route)| waypoint::Reference {
        name: name.clone(),
        version: Version::of(&route.encode_to_vec()).to_string(),
    });
    let port = waypoint::Port {
        routes: references.collect(),
        ..Default::default()
    };
    let table = waypoint::Table {
        ports: vec![port],
        ..Default::default()
    };
    let policies = policies.iter();
    Told {
        tables: [("table".to_owned(), table)].into(),
        routes,
        policies: policies
            .map(|(name, policy)| ((*name).to_owned(), policy.clone()))
            .collect(),
        backends: [("backend".to_owned(), waypoint::Backend::default())].into(),
    }
}

fn connection(scope: security::Scope, dry_run: bool) -> waypoint::Policy {
    let policy = security::Authorization {
        scope: scope as i32,
        dry_run,
        ..Default::default()
    };
    waypoint::Policy {
        policy: Some(waypoint::policy::Policy::Connection(policy)),
        ..Default::default()
    }
}

/// `Table+name`, `Route-name`; responses are parted by `|`.
fn brief(responses: &[DeltaDiscoveryResponse]) -> String {
    let one = |response: &DeltaDiscoveryResponse| {
        let kind = response.type_url.rsplit('.').next().unwrap_or_default();
        let sent = response
            .resources
            .iter()
            .map(|it| format!("{kind}+{}", it.name));
        let gone = response
            .removed_resources
            .iter()
            .map(|name| format!("{kind}-{name}"));
        sent.chain(gone).collect::<Vec<_>>().join(" ")
    };
    responses.iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn subscribed_waypoint(snapshot: &Snapshot) -> Stream {
    let mut stream = waypoint_stream(&gateway());
    for kind in Kind::served(stream.subject()) {
        stream.request(request(*kind)).unwrap();
    }
    stream.push(snapshot);
    stream
}

#[test]
fn what_a_table_names_comes_before_it_and_goes_after_it() {
    let plain = waypoint::Policy::default();
    let full = told(&[("r1", 1), ("r2", 1)], &[("http/shop/p", plain)]);
    let one = telling(&[(&gateway(), full)], &Snapshot::default());
    let mut stream = waypoint_stream(&gateway());
    for kind in Kind::served(stream.subject()) {
        stream.request(request(*kind)).unwrap();
    }
    assert_eq!(
        brief(&stream.push(&one)),
        "Policy+http/shop/p | Backend+backend | Route+r1 Route+r2 | Table+table"
    );
    let none = telling(&[(&gateway(), Told::default())], &one);
    assert_eq!(
        brief(&stream.push(&none)),
        "Table-table | Route-r1 Route-r2 | Backend-backend | Policy-http/shop/p"
    );
    assert_eq!(brief(&stream.push(&none)), "");
}

#[test]
fn a_changed_route_sends_that_route_and_the_table_that_lists_its_version() {
    let before = telling(
        &[(&gateway(), told(&[("r1", 1), ("r2", 1)], &[]))],
        &Snapshot::default(),
    );
    let mut stream = subscribed_waypoint(&before);
    let after = telling(&[(&gateway(), told(&[("r1", 1), ("r2", 2)], &[]))], &before);
    let sent = stream.push(&after);
    assert_eq!(brief(&sent), "Route+r2 | Table+table");
    let any = sent[1].resources[0].resource.as_ref().unwrap();
    let table = waypoint::Table::decode(any.value.as_slice()).unwrap();
    assert_eq!(
        table.ports[0].routes[1].version,
        sent[0].resources[0].version
    );
    let unchanged = |kind| {
        let part = |snapshot: &Snapshot| snapshot.part(stream.subject()).set(kind).clone();
        (part(&before), part(&after))
    };
    let (before_, after_) = unchanged(Kind::Route);
    assert!(Arc::ptr_eq(&before_["r1"], &after_["r1"]));
    let replaced = telling(&[(&gateway(), told(&[("r1", 1)], &[]))], &after);
    assert_eq!(brief(&stream.push(&replaced)), "Table+table | Route-r2");
}

#[test]
fn a_connection_policy_with_new_rules_waits_for_the_backends_that_stop_naming_it() {
    use security::Scope::{Namespace, WorkloadSelector};
    let rows = [
        (
            Some((WorkloadSelector, false)),
            (WorkloadSelector, true),
            "Backend+backend | Policy+p",
        ),
        (
            Some((Namespace, false)),
            (WorkloadSelector, false),
            "Backend+backend | Policy+p",
        ),
        (
            Some((WorkloadSelector, false)),
            (Namespace, false),
            "Policy+p | Backend+backend",
        ),
        (
            None,
            (WorkloadSelector, false),
            "Policy+p | Backend+backend",
        ),
    ];
    for (before, (scope, dry_run), expected) in rows {
        let policies: Vec<_> = before
            .map(|(scope, dry)| ("p", connection(scope, dry)))
            .into_iter()
            .collect();
        let before = telling(&[(&gateway(), told(&[], &policies))], &Snapshot::default());
        let mut stream = subscribed_waypoint(&before);
        let mut after = told(&[], &[("p", connection(scope, dry_run))]);
        after
            .backends
            .values_mut()
            .for_each(|it| it.requires.push("new".to_owned()));
        let after = telling(&[(&gateway(), after)], &before);
        assert_eq!(brief(&stream.push(&after)), expected);
    }
}

#[test]
fn each_subject_is_served_its_own_types_and_its_own_resources() {
    let other = ("shop".to_owned(), "other".to_owned());
    let one = told(&[("r1", 1)], &[]);
    let two = told(&[("r2", 1)], &[]);
    let state = telling(&[(&gateway(), one), (&other, two)], &Snapshot::default());
    let mut stream = subscribed_waypoint(&Snapshot::default());
    assert_eq!(
        brief(&stream.push(&state)),
        "Backend+backend | Route+r1 | Table+table"
    );
    // Nor by name.
    let ask = DeltaDiscoveryRequest {
        resource_names_subscribe: strings(&["r2"]),
        ..request(Kind::Route)
    };
    stream.request(ask).unwrap();
    assert_eq!(brief(&stream.push(&state)), "Route-r2");
    let subjects = [Subject::Node("n1".to_owned()), Subject::Waypoint(other)];
    for subject in subjects {
        for kind in Kind::ALL {
            let served = Kind::served(&subject).contains(&kind);
            let asked = Stream::new(subject.clone()).request(request(kind));
            assert_eq!(asked.is_ok(), served, "{subject} {kind:?}");
        }
    }
    let mut node = subscribed(&Arc::new(Snapshot::default()));
    assert_eq!(short(&node.push(&state)), "");
}

#[test]
fn a_subscriber_has_reached_a_state_once_it_accepted_all_of_it() {
    let first = snapshot(&[workload("a", &[])], &[wide("p")]);
    let mut stream = stream();
    let ack = |stream: &mut Stream, response: &DeltaDiscoveryResponse, error: bool| {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.then(rpc::Status::default),
            ..Default::default()
        };
        stream.request(request).unwrap();
    };
    stream.request(request(Kind::Address)).unwrap();
    let sent = stream.push(&first);
    ack(&mut stream, &sent[0], false);
    assert_eq!(stream.reached(), None, "it has not asked for policies");
    stream.request(request(Kind::Authorization)).unwrap();
    let sent = stream.push(&first);
    assert_eq!(stream.reached(), None);
    ack(&mut stream, &sent[0], false);
    assert_eq!(stream.reached(), Some(first.number()));

    // Changes that are none for it are reached with the push.
    let with = |addresses: &[(String, Address)], told, previous: &Snapshot| {
        let addresses = addresses.iter().cloned().collect();
        let mut compiled = compiled(addresses, [wide("p")].into());
        compiled.told = [(gateway(), told)].into();
        Snapshot::new(&compiled, previous)
    };
    let second = with(&[workload("a", &[])], Told::default(), &first);
    assert_eq!(
        (second.number(), stream.push(&second).len()),
        (first.number() + 1, 0)
    );
    assert_eq!(stream.reached(), Some(second.number()));

    // While an answer is awaited, a state that is the same counts with that answer; what was before does not.
    let third = with(&[workload("b", &[])], Told::default(), &second);
    let sent = stream.push(&third);
    let fourth = with(&[workload("b", &[])], told(&[], &[]), &third);
    assert_eq!(stream.push(&fourth), []);
    assert_eq!(stream.reached(), Some(second.number()));
    ack(&mut stream, &sent[0], false);
    assert_eq!(stream.reached(), Some(fourth.number()));

    // There and back: what it accepted once is not what it holds.
    let fifth = with(&[workload("c", &[])], told(&[], &[]), &fourth);
    let there = stream.push(&fifth);
    let sixth = with(&[workload("b", &[])], told(&[], &[]), &fifth);
    let back = stream.push(&sixth);
    assert_eq!(stream.reached(), Some(fourth.number()));
    ack(&mut stream, &there[0], false);
    assert_eq!(stream.reached(), Some(fifth.number()));
    ack(&mut stream, &back[0], true);
    assert_eq!(stream.reached(), Some(fifth.number()));
    let seventh = with(&[workload("b", &[])], Told::default(), &sixth);
    assert_eq!(stream.push(&seventh), []);
    assert_eq!(
        stream.reached(),
        Some(fifth.number()),
        "what was refused is not reached by waiting"
    );
}
