//! Which replica writes: one at a time, by a Lease. Every replica serves.
//!
//! A Lease that nobody has renewed for as long as it lasts, by the watcher's own clock, is anybody's: clocks of two machines
//! are never compared. Who cannot renew in two thirds of that time stops writing before another begins.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// The Lease of the one who writes.
pub const LEASE: &str = "ambit-control-leader";

/// How long a Lease lasts that is not renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on that cannot renew.
const GRACE: Duration = Duration::from_secs(10);
/// How often it renews, or the others look.
const OFTEN: Duration = Duration::from_secs(2);

/// A Lease as seen last, and since when it has been so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    holder: String,
    renewed: String,
    since: Instant,
}

/// What there is to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// It is another's.
    Wait,
}

/// Takes in a look at the Lease.
fn see(before: Option<Seen>, holder: &str, renewed: &str, now: Instant) -> Seen {
    let same = before.filter(|it| it.holder == holder && it.renewed == renewed);
    same.unwrap_or_else(|| Seen {
        holder: holder.to_owned(),
        renewed: renewed.to_owned(),
        since: now,
    })
}

fn act(seen: &Seen, me: &str, now: Instant) -> Act {
    let is_over = now.duration_since(seen.since) >= DURATION;
    match seen.holder.as_str() {
        holder if holder == me => Act::Renew,
        "" => Act::Take,
        _ if is_over => Act::Take,
        _ => Act::Wait,
    }
}

/// Competes until `leads` is closed, which is true as long as this replica is the one. Gives the Lease back at the end of
/// `running`.
pub async fn compete(
    client: Client,
    namespace: String,
    me: String,
    leads: watch::Sender<bool>,
    mut running: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let (mut seen, mut renewed) = (None, None);
    loop {
        let now = Instant::now();
        match timeout(OFTEN, turn(&api, &me, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(now),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => tracing::debug!(%error, "the leader's Lease cannot be had"),
            Err(_) => tracing::debug!("the API server does not answer for the leader's Lease"),
        }
        let is_leader = renewed.is_some_and(|at| at.elapsed() < GRACE);
        let changed = leads.send_if_modified(|leads| {
            let changed = *leads != is_leader;
            *leads = is_leader;
            changed
        });
        if changed {
            tracing::info!(replica = me, leads = is_leader, "who writes has changed");
        }
        tokio::select! {
            () = sleep(OFTEN) => {}
            _ = running.wait_for(|closing| *closing) => break,
        }
    }
    if *leads.borrow() {
        leads.send_replace(false);
        // Another one need not wait then; if this fails it does.
        let _ = timeout(OFTEN, give_back(&api, &me)).await;
    }
}

/// One look, and what follows of it. Whether this replica holds the Lease now.
async fn turn(api: &Api<Lease>, me: &str, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
    let now = Instant::now();
    let Some(lease) = api.get_opt(LEASE).await? else {
        let made = api.create(&PostParams::default(), &held(None, me)).await;
        return won(made);
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let renewed = spec.renew_time.map(|at| at.0.to_string());
    let found = see(seen.take(), &holder, &renewed.unwrap_or_default(), now);
    let act = act(&found, me, now);
    *seen = Some(found);
    match act {
        Act::Wait => Ok(false),
        Act::Renew | Act::Take => won(api
            .replace(LEASE, &PostParams::default(), &held(Some(&lease), me))
            .await),
    }
}

/// Somebody else was faster, or nobody.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn held(before: Option<&Lease>, me: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let before_spec = before.and_then(|it| it.spec.clone()).unwrap_or_default();
    let is_ours = before_spec.holder_identity.as_deref() == Some(me);
    let times = before_spec.lease_transitions.unwrap_or_default();
    let metadata = before.map_or_else(
        || ObjectMeta {
            name: Some(LEASE.to_owned()),
            ..ObjectMeta::default()
        },
        |it| it.metadata.clone(),
    );
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(15),
            acquire_time: if is_ours {
                before_spec.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if is_ours { times } else { times + 1 }),
            ..LeaseSpec::default()
        }),
    }
}

async fn give_back(api: &Api<Lease>, me: &str) -> Result<(), kube::Error> {
    let Some(mut lease) = api.get_opt(LEASE).await? else {
        return Ok(());
    };
    let Some(spec) = lease
        .spec
        .as_mut()
        .filter(|it| it.holder_identity.as_deref() == Some(me))
    else {
        return Ok(());
    };
    spec.holder_identity = Some(String::new());
    api.replace(LEASE, &PostParams::default(), &lease)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_anybodys_once_nobody_has_renewed_it_for_as_long_as_it_lasts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seen = see(None, "a", "t0", at(0));
        assert_eq!(act(&seen, "a", at(0)), Act::Renew);
        assert_eq!(act(&seen, "b", at(14)), Act::Wait);
        let renewed = see(Some(seen), "a", "t1", at(14));
        assert_eq!(act(&renewed, "b", at(28)), Act::Wait);
        let same = see(Some(renewed), "a", "t1", at(28));
        assert_eq!(same.since, at(14), "looking at it does not renew it");
        assert_eq!(act(&same, "b", at(29)), Act::Take);
    }

    #[test]
    fn what_is_given_back_is_taken_at_once() {
        let now = Instant::now();
        assert_eq!(act(&see(None, "", "t0", now), "b", now), Act::Take);
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_begins() {
        assert!(GRACE + OFTEN < DURATION);
    }

    #[test]
    fn the_times_a_lease_went_over_are_counted() {
        let first = held(None, "a");
        let spec = |lease: &Lease| lease.spec.clone().unwrap();
        assert_eq!(spec(&first).lease_transitions, Some(1));
        let renewed = held(Some(&first), "a");
        assert_eq!(spec(&renewed).lease_transitions, Some(1));
        assert_eq!(spec(&renewed).acquire_time, spec(&first).acquire_time);
        assert_eq!(spec(&held(Some(&renewed), "b")).lease_transitions, Some(2));
    }
}
