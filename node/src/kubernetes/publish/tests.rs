//! What is written on pods, and when.

use proto::node::PodReport;

use super::*;
use crate::kubernetes::condition::{CAPTURED, NOT_CAPTURED};

fn key() -> Key {
    ("shop".to_owned(), "a".to_owned())
}

fn report(uid: &str, captured: bool) -> Report {
    let pod = PodReport {
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
        uid: uid.to_owned(),
        captured,
        addresses: vec![vec![10, 0, 0, 1]],
        ..PodReport::default()
    };
    Report {
        pod,
        is_hidden: false,
        is_in: true,
        is_probed_as_plain: false,
        past: 0,
    }
}

/// A pod that has left the mesh.
fn out(uid: &str) -> Report {
    Report {
        is_in: false,
        ..report(uid, false)
    }
}

fn says(uid: &str, captured: bool, condition: Option<Condition>) -> Published {
    let says = Says {
        uid: uid.to_owned(),
        captured,
        condition,
    };
    [(key(), says)].into()
}

fn is(is_true: bool, message: &str) -> Option<Condition> {
    let reason = if is_true { CAPTURED } else { NOT_CAPTURED };
    Some(Condition {
        is_true,
        reason: reason.to_owned(),
        message: message.to_owned(),
    })
}

fn what(published: &Published, reports: &[Report], times: &mut Times, now: Instant) -> Vec<What> {
    let list = writes(published, reports, times, now);
    list.into_iter().map(|write| write.what).collect()
}

fn once(published: &Published, report: Report) -> Vec<What> {
    what(published, &[report], &mut Times::default(), Instant::now())
}

#[test]
fn what_is_true_and_not_yet_said_is_written_and_nothing_else() {
    let captured = once(&says("1", false, None), report("1", true));
    let condition = What::Condition {
        new: is(true, ""),
        turned: true,
    };
    assert_eq!(captured, [What::Annotation(true), condition]);
    let left = once(&says("1", true, is(true, "")), out("1"));
    let none = What::Condition {
        new: None,
        turned: true,
    };
    assert_eq!(left, [What::Annotation(false), none]);
    assert_eq!(once(&says("1", true, is(true, "")), report("1", true)), []);
    assert_eq!(once(&says("1", false, None), out("1")), []);
}

#[test]
fn on_a_pod_that_the_agent_has_not_seen_stays_what_is_written() {
    let published = says("1", true, is(true, ""));
    assert_eq!(
        what(&published, &[], &mut Times::default(), Instant::now()),
        []
    );
    let mut unseen = report("1", false);
    unseen.pod.addresses.clear();
    let (mut times, now) = (Times::default(), Instant::now());
    for now in [now, now + GRACE] {
        assert_eq!(
            what(&published, std::slice::from_ref(&unseen), &mut times, now),
            []
        );
    }
}

#[test]
fn a_pod_that_has_left_unseen_says_nothing_any_more() {
    let mut hidden = out("1");
    hidden.is_hidden = true;
    let list = once(&says("1", false, is(false, "x")), hidden);
    let none = What::Condition {
        new: None,
        turned: true,
    };
    assert_eq!(list, [none]);
}

#[test]
fn a_pod_that_leaves_says_that_it_is_captured_until_it_is_not() {
    let leaving = Report {
        is_in: false,
        ..report("1", true)
    };
    assert_eq!(once(&says("1", true, is(true, "")), leaving), []);
}

#[test]
fn a_pod_on_its_way_says_nothing_for_a_while() {
    let mut report = report("1", false);
    report.pod.reason = "why".to_owned();
    report.pod.addresses.clear();
    let (mut times, now) = (Times::default(), Instant::now());
    let reports = [report];
    let published = says("1", false, None);
    assert_eq!(what(&published, &reports, &mut times, now), []);
    assert!(times.any_waits());
    let soon = now + GRACE / 2;
    assert_eq!(what(&published, &reports, &mut times, soon), []);
    let written = What::Condition {
        new: is(false, "why"),
        turned: true,
    };
    assert_eq!(
        what(&published, &reports, &mut times, now + GRACE),
        [written]
    );
    assert!(!times.any_waits());
}

#[test]
fn a_message_alone_is_written_now_and_then() {
    let with = |past| Report {
        past,
        ..report("1", true)
    };
    let published = says("1", true, is(true, ""));
    let (mut times, now) = (Times::default(), Instant::now());
    let first = what(&published, &[with(9)], &mut times, now);
    assert!(matches!(
        &first[..],
        [What::Condition { turned: false, .. }]
    ));
    // It is said by now; and another count follows.
    let message = condition::of(&with(9)).unwrap().message;
    let published = says("1", true, is(true, &message));
    assert_eq!(
        what(&published, &[with(8)], &mut times, now + MESSAGES / 2),
        []
    );
    assert!(times.any_waits());
    let later = what(&published, &[with(7)], &mut times, now + MESSAGES);
    assert_eq!(later.len(), 1);
}

#[test]
fn an_earlier_pod_of_the_same_name_says_nothing_of_this_one() {
    assert_eq!(once(&says("1", false, None), report("0", true)), []);
    assert_eq!(once(&says("1", true, is(true, "")), report("0", true)), []);
}

#[test]
fn a_condition_is_put_beside_those_of_others_and_its_time_is_that_of_its_turn() {
    let set = status("1", is(true, "").as_ref(), true);
    let condition = &set["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&TYPE.into(), &"True".into())
    );
    assert!(condition["lastTransitionTime"].is_string());
    let again = status("1", is(true, "x").as_ref(), false);
    assert!(again["status"]["conditions"][0]["lastTransitionTime"].is_null());
    let gone = status("1", None, true);
    assert_eq!(gone["status"]["conditions"][0]["$patch"], "delete");
}
