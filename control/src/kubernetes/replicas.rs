//! What replicas tell each other: each reports in a Lease of its own how far those have come who are connected to it.
//!
//! Whoever leads moves a binding on once the reports of all live replicas say that the last step has come to everybody, or
//! after [`PATIENCE`](crate::phase::PATIENCE). A replica is there as long as its Lease is: nobody is served before that is
//! written, so a pod without one has no proxies that could be waited for, and one that starts again and again holds nobody
//! up. One whose Lease is not renewed any more is gone, or cannot reach the API server: then its proxies learn nothing new
//! however long they are waited for. Where a replica has just ended, its proxies are on their way to another and may still
//! act by what they knew, so it counts as one that says nothing for as long as a step waits.
//!
//! Times are this machine's own, since it saw a change: clocks of two machines are never compared. Who sees its own Lease
//! not renewed sees nobody's, and takes all others for there and silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::ObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::StreamExt;

use crate::{
    config::Names,
    follow::bindings::record,
    phase::{Accepted, PATIENCE, Report},
    serve::streams::Streams,
    world::Key,
};

/// The annotation of a Lease that says how far everybody has come.
pub const REACHED: &str = "ambit.dev/reached";

/// The label of all of these Leases, and its value.
const LABEL: (&str, &str) = ("app", "ambit-control");

/// How long a Lease lasts that is not renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const OFTEN: Duration = Duration::from_secs(5);
/// How long a request may take, and how long until it is tried again.
const ANSWER: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(1);
/// What changes so soon after something else goes with it.
const TOGETHER: Duration = Duration::from_millis(10);

/// The annotation's text.
fn text(report: &Report) -> String {
    let steps = report.steps.iter().map(|(service, step)| {
        let line = serde_json::from_str(&record::line(&step.phase));
        let mut step_told: Value = line.unwrap_or_default();
        if !step.lacking.is_empty() {
            step_told["lacking"] = step.lacking.iter().map(slashed).collect();
        }
        (slashed(service), step_told)
    });
    let ready: Vec<_> = report.ready.iter().map(slashed).collect();
    let page = json!({"ready": ready, "steps": Map::from_iter(steps)});
    page.to_string()
}

/// What such a text says. What cannot be read is not said.
fn read(text: &str) -> Report {
    let page: Value = serde_json::from_str(text).unwrap_or_default();
    let steps = page["steps"].as_object().into_iter().flatten();
    let steps = steps.filter_map(|(service, step)| {
        let phase = record::read_line(&step.to_string()).ok()?;
        let lacking = keys(&step["lacking"])?;
        Some((key(service)?, Accepted { phase, lacking }))
    });
    Report {
        ready: keys(&page["ready"]).unwrap_or_default(),
        steps: steps.collect(),
    }
}

fn slashed((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

fn key(text: &str) -> Option<Key> {
    let (namespace, name) = text.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// A list of keys, none of which may be unreadable; nothing is a list too.
fn keys(list: &Value) -> Option<BTreeSet<Key>> {
    let list = match list {
        Value::Null => &[][..],
        list => list.as_array()?,
    };
    list.iter().map(|it| key(it.as_str()?)).collect()
}

/// The Leases of all replicas, as this one sees them.
#[derive(Clone, Debug)]
struct Leases {
    me: String,
    seen: BTreeMap<String, Seen>,
}

/// A Lease as seen last.
#[derive(Clone, Debug)]
struct Seen {
    renewed: Option<MicroTime>,
    report: Option<Report>,
    /// When it is over if nothing is seen until then.
    until: Instant,
}

impl Leases {
    fn new(me: &str) -> Self {
        Self {
            me: me.to_owned(),
            seen: BTreeMap::new(),
        }
    }

    /// Takes in a Lease.
    fn see(&mut self, lease: &Lease, now: Instant) {
        let Some(name) = lease.metadata.name.clone() else {
            return;
        };
        let renewed = lease.spec.as_ref().and_then(|it| it.renew_time.clone());
        let annotations = lease.metadata.annotations.as_ref();
        let said = annotations.and_then(|it| it.get(REACHED));
        let report = said.map(|said| read(said));
        let before = self.seen.get(&name);
        let until = match before.filter(|it| it.renewed == renewed) {
            Some(before) => before.until,
            None => now + DURATION,
        };
        let seen = Seen {
            renewed,
            report,
            until,
        };
        self.seen.insert(name, seen);
    }

    /// Takes in that a Lease is gone: its replica has ended.
    fn gone(&mut self, name: &str, now: Instant) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.report = None;
            seen.until = seen.until.min(now + PATIENCE);
        }
    }

    /// Takes in that these are all that there are.
    fn only(&mut self, names: &BTreeSet<String>, now: Instant) {
        let gone: Vec<_> = self.seen.keys().cloned().collect();
        for name in gone.iter().filter(|name| !names.contains(*name)) {
            self.gone(name, now);
        }
    }

    /// What each other replica tells that is there; forgets those that are not.
    fn told(&mut self, now: Instant) -> Vec<Option<Report>> {
        let is_live = |seen: &Seen| now < seen.until;
        let is_blind = !self.seen.get(&self.me).is_some_and(is_live);
        let me = self.me.clone();
        if is_blind {
            // Nobody knows how many others there are that are not seen.
            let others = self.seen.keys().filter(|name| **name != me).count();
            return vec![None; others.max(1)];
        }
        self.seen.retain(|_, seen| is_live(seen));
        let others = self.seen.iter().filter(|(name, _)| **name != me);
        others.map(|(_, seen)| seen.report.clone()).collect()
    }

    /// When to ask that again although nothing is seen.
    fn next(&self, now: Instant) -> Option<Instant> {
        let all = self.seen.values().map(|seen| seen.until);
        all.filter(|until| *until > now).min()
    }
}

/// Joins the others, under this name. What is sent from then on is told to them, and `streams` are told what they tell. Returns
/// as soon as others can know of this replica: nobody may be served before.
pub async fn join(
    client: &Client,
    names: &Names,
    name: &str,
    streams: &Streams,
    tasks: &mut JoinSet<()>,
) -> Result<watch::Sender<Report>, kube::Error> {
    let namespace = &names.root_namespace;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = pods.get_opt(name).await?.and_then(|pod| pod.metadata.uid);
    let pod = pod.map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name.to_owned(),
        uid,
        ..OwnerReference::default()
    });
    let own = Own {
        leases: Api::namespaced(client.clone(), namespace),
        name: name.to_owned(),
        pod,
    };
    while !own.write(&Report::default()).await {
        sleep(RETRY).await;
    }
    let (sender, reports) = watch::channel(Report::default());
    streams.hear(vec![None]);
    tasks.spawn(own.clone().tell(reports));
    tasks.spawn(own.hear(streams.clone()));
    Ok(sender)
}

/// The replica that this process is.
#[derive(Clone)]
struct Own {
    leases: Api<Lease>,
    name: String,
    /// With which its Lease goes.
    pod: Option<OwnerReference>,
}

impl Own {
    /// Tells what changes, and renews the Lease, until the task ends.
    async fn tell(self, mut reports: watch::Receiver<Report>) {
        let mut written = true;
        loop {
            let pause = if written { OFTEN } else { RETRY };
            tokio::select! {
                () = sleep(pause) => {}
                changed = reports.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(TOGETHER).await;
                }
            }
            let report = reports.borrow_and_update().clone();
            written = self.write(&report).await;
        }
    }

    /// Tells `streams` what other replicas tell, until the task ends.
    async fn hear(self, streams: Streams) {
        let labels = format!("{}={}", LABEL.0, LABEL.1);
        let config = watcher::Config::default().labels(&labels);
        let events = watcher(self.leases, config).default_backoff();
        tokio::pin!(events);
        let mut leases = Leases::new(&self.name);
        let mut listed = BTreeSet::new();
        loop {
            let now = Instant::now();
            streams.hear(leases.told(now));
            let next = leases.next(now).map(|next| next.duration_since(now));
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep(next.unwrap_or_default()), if next.is_some() => continue,
            };
            let now = Instant::now();
            match event {
                // It never ends.
                None => return,
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(lease))) => {
                    listed.extend(lease.metadata.name.clone());
                    leases.see(&lease, now);
                }
                Some(Ok(Event::InitDone)) => leases.only(&listed, now),
                Some(Ok(Event::Apply(lease))) => leases.see(&lease, now),
                Some(Ok(Event::Delete(lease))) => {
                    leases.gone(lease.metadata.name.as_deref().unwrap_or_default(), now);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "the Leases of other replicas cannot be watched");
                }
            }
        }
    }

    async fn write(&self, report: &Report) -> bool {
        let lease = self.lease(report);
        let params = PatchParams::apply("ambit-control").force();
        let patch = Patch::Apply(&lease);
        match timeout(ANSWER, self.leases.patch(&self.name, &params, &patch)).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "this replica's Lease cannot be written: others go on without it");
            }
            Err(_) => {
                tracing::warn!(
                    "this replica's Lease cannot be written: the API server does not answer"
                );
            }
        }
        false
    }

    fn lease(&self, report: &Report) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(
                    [LABEL]
                        .map(|(key, value)| (key.into(), value.into()))
                        .into(),
                ),
                annotations: Some([(REACHED.to_owned(), text(report))].into()),
                owner_references: self.pod.clone().map(|pod| vec![pod]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Phase;

    fn k(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    fn report() -> Report {
        let moving = Phase::Moving {
            from: k("a"),
            to: k("b"),
            arrived: true,
            enforced: false,
        };
        let step = |phase, lacking: &[&str]| Accepted {
            phase,
            lacking: lacking.iter().map(|name| k(name)).collect(),
        };
        Report {
            ready: [k("a")].into(),
            steps: [
                (k("orders"), step(moving, &["b"])),
                (k("cart"), step(Phase::Told { gateway: k("a") }, &[])),
            ]
            .into(),
        }
    }

    fn lease(name: &str, second: i64, report: Option<&Report>) -> Lease {
        let annotations = report.map(|report| [(REACHED.to_owned(), text(report))].into());
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                renew_time: Timestamp::from_second(second).ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn what_one_tells_another_reads() {
        assert_eq!(read(&text(&report())), report());
        assert_eq!(read(&text(&Report::default())), Report::default());
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        let steps = |steps: &str| read(&format!("{{\"steps\": {{{steps}}}}}"));
        for text in ["", "[]", "7", "{\"ready\": [7], \"steps\": []}"] {
            assert_eq!(read(text), Report::default(), "{text}");
        }
        for step in [
            r#""orders": {"phase": "told", "gateway": "shop/a"}"#,
            r#""shop/orders": {"phase": "gone"}"#,
            r#""shop/orders": {"phase": "told", "gateway": "shop/a", "lacking": [7]}"#,
            r#""shop/orders": {"phase": "told", "gateway": "shop/a", "lacking": "shop/a"}"#,
        ] {
            assert_eq!(steps(step), Report::default(), "{step}");
        }
        assert_eq!(
            steps(r#""shop/orders": {"phase": "closed"}"#).steps.len(),
            1
        );
    }

    /// What `a` sees; itself at every second.
    struct Seer {
        start: Instant,
        leases: Leases,
    }

    impl Seer {
        fn new() -> Self {
            Self {
                start: Instant::now(),
                leases: Leases::new("a"),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn sees(&mut self, seconds: u64, lease: &Lease) {
            self.leases.see(lease, self.at(seconds));
        }

        fn told(&mut self, seconds: u64) -> Vec<Option<Report>> {
            let own = i64::try_from(seconds).unwrap();
            self.sees(seconds, &lease("a", own, None));
            self.leases.told(self.at(seconds))
        }
    }

    #[test]
    fn a_replica_is_there_as_long_as_its_lease_is_renewed() {
        let mut seer = Seer::new();
        assert_eq!(seer.told(0), [], "no other has a Lease");
        seer.sees(0, &lease("b", 100, None));
        assert_eq!(seer.told(1), [None], "it says nothing yet");
        seer.sees(10, &lease("b", 110, Some(&report())));
        assert_eq!(seer.told(24), [Some(report())]);
        // Its clock is another; looking again renews nothing.
        seer.sees(24, &lease("b", 110, Some(&report())));
        assert_eq!(seer.leases.next(seer.at(24)), Some(seer.at(25)));
        assert_eq!(seer.told(25), []);
    }

    #[test]
    fn one_that_has_just_ended_is_waited_for_as_long_as_a_step_waits() {
        let mut seer = Seer::new();
        seer.sees(0, &lease("b", 0, Some(&report())));
        assert_eq!(seer.told(0), [Some(report())]);
        seer.leases.gone("b", seer.at(1));
        assert_eq!(seer.told(5), [None]);
        assert_eq!(seer.told(6), []);
        seer.sees(7, &lease("b", 7, Some(&report())));
        seer.sees(7, &lease("c", 7, None));
        let listed = ["a".to_owned(), "c".to_owned()].into();
        seer.leases.only(&listed, seer.at(8));
        assert_eq!(seer.told(8), [None, None]);
        assert_eq!(seer.told(13), [None], "c is listed");
    }

    #[test]
    fn who_does_not_see_its_own_lease_renewed_knows_of_nobody_what_it_tells() {
        let mut leases = Leases::new("a");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(leases.told(at(0)), [None], "there may be one");
        for (second, name) in [(0, "a"), (10, "b"), (10, "c")] {
            let renewed = i64::try_from(second).unwrap();
            leases.see(&lease(name, renewed, Some(&report())), at(second));
        }
        assert_eq!(leases.told(at(14)).len(), 2);
        assert_eq!(leases.told(at(15)), [None, None]);
        assert_eq!(leases.told(at(60)), [None, None], "they may be there still");
        leases.see(&lease("a", 60, None), at(60));
        assert_eq!(leases.told(at(60)), []);
    }
}
