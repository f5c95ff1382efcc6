//! The protocol with proxies that are values; handles are numbers.

use super::*;

const HELLO: &[u8] = &[8, 1];
const ACK: &[u8] = &[10, 0];

fn refusal(text: &str) -> Vec<u8> {
    let ack = proto::workload::zds::Ack { error: text.into() };
    WorkloadResponse {
        payload: Some(workload_response::Payload::Ack(ack)),
    }
    .encode_to_vec()
}

fn info(name: &str) -> WorkloadInfo {
    WorkloadInfo {
        name: name.into(),
        namespace: "ns".into(),
        service_account: "sa".into(),
    }
}

fn add(id: Id, uid: &str, handle: u32) -> Do<u32> {
    let add = AddWorkload {
        uid: uid.into(),
        workload_info: Some(info(uid)),
    };
    Do::Send(
        id,
        WorkloadRequest {
            payload: Some(workload_request::Payload::Add(add)),
        },
        Some(handle),
    )
}

fn keep(id: Id, uid: &str) -> Do<u32> {
    let keep = KeepWorkload { uid: uid.into() };
    Do::Send(
        id,
        WorkloadRequest {
            payload: Some(workload_request::Payload::Keep(keep)),
        },
        None,
    )
}

fn del(id: Id, uid: &str) -> Do<u32> {
    let del = DelWorkload { uid: uid.into() };
    Do::Send(
        id,
        WorkloadRequest {
            payload: Some(workload_request::Payload::Del(del)),
        },
        None,
    )
}

fn snapshot_sent(id: Id) -> Do<u32> {
    let sent = workload_request::Payload::SnapshotSent(SnapshotSent {});
    Do::Send(
        id,
        WorkloadRequest {
            payload: Some(sent),
        },
        None,
    )
}

fn added(uid: &str) -> Do<u32> {
    Do::Added(uid.into())
}

fn removed(uid: &str) -> Do<u32> {
    Do::Removed(uid.into())
}

/// No pods, and these are all.
fn all() -> Zds<u32> {
    let mut zds = Zds::default();
    assert_eq!(zds.complete(Instant::now()), []);
    zds
}

/// A connection that has greeted and has acknowledged its empty snapshot.
fn connect(zds: &mut Zds<u32>, id: Id, now: Instant) {
    zds.connected(id, now);
    assert_eq!(zds.received(id, HELLO, now), [snapshot_sent(id)]);
    assert_eq!(zds.received(id, ACK, now), []);
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let Do::Send(_, request, _) = add(1, "u", 7) else {
        unreachable!()
    };
    let expected = [
        &[10, 16, 10, 1, b'u', 18, 11, 10, 1, b'u', 18, 2][..],
        b"ns",
        &[26, 2],
        b"sa",
    ]
    .concat();
    assert_eq!(request.encode_to_vec(), expected);
    let Do::Send(_, request, _) = snapshot_sent(1) else {
        unreachable!()
    };
    assert_eq!(request.encode_to_vec(), [0x1a, 0]);
    let Do::Send(_, request, _) = del(1, "u") else {
        unreachable!()
    };
    assert_eq!(request.encode_to_vec(), [0x12, 3, 0x12, 1, b'u']);
    let Do::Send(_, request, _) = keep(1, "u") else {
        unreachable!()
    };
    assert_eq!(request.encode_to_vec(), [0x2a, 3, 0x0a, 1, b'u']);
}

#[test]
fn a_new_proxy_gets_every_pod_one_by_one_and_then_the_end() {
    let (mut zds, now) = (all(), Instant::now());
    assert_eq!(zds.add("a", info("a"), Some(1), now), []);
    assert_eq!(zds.add("b", info("b"), None, now), []);
    assert_eq!(zds.add("c", info("c"), Some(3), now), []);
    zds.connected(1, now);
    assert_eq!(zds.received(1, HELLO, now), [add(1, "a", 1)]);
    assert_eq!(zds.received(1, ACK, now), [added("a"), keep(1, "b")]);
    assert_eq!(zds.received(1, ACK, now), [add(1, "c", 3)]);
    assert_eq!(zds.received(1, ACK, now), [added("c"), snapshot_sent(1)]);
    assert_eq!(zds.received(1, ACK, now), []);
    // Later its namespace is found.
    assert_eq!(zds.add("b", info("b"), Some(2), now), [add(1, "b", 2)]);
    assert_eq!(zds.received(1, ACK, now), [added("b")]);
}

#[test]
fn no_proxy_is_told_that_these_are_all_before_that_is_known() {
    let (mut zds, now) = (Zds::default(), Instant::now());
    zds.connected(1, now);
    assert_eq!(zds.received(1, HELLO, now), []);
    assert_eq!(zds.add("a", info("a"), Some(1), now), [add(1, "a", 1)]);
    assert_eq!(zds.received(1, ACK, now), [added("a")]);
    assert_eq!(zds.complete(now), [snapshot_sent(1)]);
    assert_eq!(zds.received(1, ACK, now), []);
    assert_eq!(zds.complete(now), [], "told once");
}

#[test]
fn what_comes_goes_to_the_newest_and_what_goes_to_all() {
    let (mut zds, now) = (all(), Instant::now());
    connect(&mut zds, 1, now);
    connect(&mut zds, 2, now);
    assert_eq!(zds.add("a", info("a"), Some(1), now), [add(2, "a", 1)]);
    assert_eq!(zds.received(2, ACK, now), [added("a")]);
    assert_eq!(zds.remove("a", now), [del(1, "a"), del(2, "a")]);
    assert_eq!(zds.received(2, ACK, now), []);
    assert_eq!(zds.received(1, ACK, now), [removed("a")]);
}

#[test]
fn when_the_newest_goes_the_one_before_gets_what_it_lacks() {
    let (mut zds, now) = (all(), Instant::now());
    zds.add("a", info("a"), Some(1), now);
    zds.connected(1, now);
    zds.received(1, HELLO, now);
    assert_eq!(zds.received(1, ACK, now), [added("a"), snapshot_sent(1)]);
    zds.received(1, ACK, now);
    zds.connected(2, now);
    zds.received(2, HELLO, now);
    assert_eq!(
        zds.add("b", info("b"), Some(2), now),
        [],
        "it is in the middle of its snapshot"
    );
    assert_eq!(zds.closed(2, now), [add(1, "b", 2)]);
}

#[test]
fn removal_without_a_proxy_is_done_at_once() {
    let (mut zds, now) = (all(), Instant::now());
    zds.add("a", info("a"), Some(1), now);
    assert_eq!(zds.remove("a", now), [removed("a")]);
    // One that has not greeted knows nothing.
    zds.connected(1, now);
    assert_eq!(zds.remove("b", now), [removed("b")]);
}

#[test]
fn a_proxy_that_goes_owes_no_answer() {
    let (mut zds, now) = (all(), Instant::now());
    connect(&mut zds, 1, now);
    zds.add("a", info("a"), Some(1), now);
    zds.received(1, ACK, now);
    assert_eq!(zds.remove("a", now), [del(1, "a")]);
    assert_eq!(zds.closed(1, now), [removed("a")]);
}

#[test]
fn a_pod_that_goes_before_it_was_offered_is_not_offered() {
    let (mut zds, now) = (all(), Instant::now());
    connect(&mut zds, 1, now);
    assert_eq!(zds.add("a", info("a"), Some(1), now), [add(1, "a", 1)]);
    assert_eq!(zds.add("b", info("b"), Some(2), now), []);
    assert_eq!(zds.remove("b", now), []);
    assert_eq!(zds.received(1, ACK, now), [added("a"), del(1, "b")]);
    assert_eq!(zds.received(1, ACK, now), [removed("b")]);
}

#[test]
fn a_refused_pod_is_offered_again_later() {
    let (mut zds, now) = (all(), Instant::now());
    connect(&mut zds, 1, now);
    zds.add("a", info("a"), Some(1), now);
    let refused = Do::Refused("a".into(), "no port".into());
    assert_eq!(zds.received(1, &refusal("no port"), now), [refused]);
    assert_eq!(zds.tick(now + RETRY / 2), []);
    assert_eq!(zds.tick(now + RETRY), [add(1, "a", 1)]);
    assert_eq!(zds.tick(now + RETRY), []);
    assert_eq!(zds.received(1, ACK, now + RETRY), [added("a")]);
}

#[test]
fn whoever_breaks_the_protocol_is_closed_and_nobody_else() {
    let now = Instant::now();
    for (packets, reason) in [
        (&[&[8, 2][..]][..], "it speaks version 2 and not 1"),
        (&[&[0xff]], "its greeting is malformed"),
        (&[&[8, 0]], "it speaks version 0 and not 1"),
        (&[HELLO, &[0xff]], "its answer is malformed"),
        (&[HELLO, &[]], "its answer is not an acknowledgement"),
        (&[HELLO, ACK, ACK], "it answered without being asked"),
    ] {
        let mut zds = all();
        connect(&mut zds, 1, now);
        zds.connected(2, now);
        let done: Vec<_> = packets
            .iter()
            .flat_map(|packet| zds.received(2, packet, now))
            .collect();
        let Some(Do::Close(2, why)) = done.last() else {
            panic!("{reason}: {done:?}")
        };
        assert!(why.starts_with(reason), "{why}");
        assert_eq!(zds.received(2, ACK, now), [], "it is forgotten");
        assert_eq!(zds.add("a", info("a"), Some(1), now), [add(1, "a", 1)]);
    }
}

#[test]
fn silence_is_closed_after_a_while() {
    let now = Instant::now();
    let late = now + PATIENCE;
    let mut zds = all();
    zds.connected(1, now);
    assert_eq!(zds.tick(late - Duration::from_millis(1)), []);
    assert!(matches!(zds.tick(late)[..], [Do::Close(1, _)]));
    zds.connected(2, now);
    zds.received(2, HELLO, now);
    assert!(matches!(zds.tick(late)[..], [Do::Close(2, _)]));
    connect(&mut zds, 3, now);
    assert_eq!(zds.tick(late), [], "one that owes nothing may be silent");
}
