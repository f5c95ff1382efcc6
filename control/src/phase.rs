//! How the binding of a service to a waypoint comes and goes without losing a new request, and without a moment in which
//! its workloads deny what is sent to them as they were told.
//!
//! Pure: what is known is an argument, and so is the time. One step at a time, each of them published, and each waited
//! for until everybody who is concerned and connected has accepted it, though not for longer than [`PATIENCE`]. What shuts
//! a way comes [`SETTLE`] later still: a proxy that has just accepted a step has requests on that way which are only opening.
//!
//!
//! 1. the waypoint is told of the service, and the node proxies that it may be trusted with it ([`Phase::Told`]): one
//!    that does not know that yet would decide the policies of its workloads with the waypoint as the client;
//! 2. the service is published with its waypoint ([`Phase::Published`]);
//! 3. its workloads deny whoever goes around, if that is wanted ([`Phase::Enforced`]).
//!
//! The third shuts the way around. Unbinding is the same in reverse ([`Phase::Leaving`], [`Phase::Told`]): the waypoint is
//! told, and trusted, until nobody is sent to it; to take that away shuts the way through it. Between two waypoints
//! ([`Phase::Moving`]) both are told, and a denial lets both through, first while the service is published with the old one
//! and then with the new one; to forget the old one shuts the way through that. A service that a policy closes because it can
//! have no waypoint, or because something of it cannot be understood ([`Phase::Closed`]), is closed at once, and goes from
//! there to a denial without being open in between. Nothing but the wish itself ends a binding: neither does a waypoint that is away, nor a Gateway that is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    compile::Wanted,
    world::{Key, Phase, UNREADABLE, Waypoints},
};

#[cfg(test)]
mod tests;

/// How long a step waits for those who are connected and do not answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long those who have accepted a step have for what they sent out before, until what they sent it on is shut.
pub const SETTLE: Duration = Duration::from_secs(1);

/// More than the steps of any way: a Moving to be ended, and all of a binding.
const STEPS: usize = 8;

/// How far those have come who are connected: for each, the number of the last snapshot of which it accepted all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Each node proxy.
    pub nodes: Vec<Option<u64>>,
    /// Each waypoint, by gateway.
    pub waypoints: BTreeMap<Key, Vec<Option<u64>>>,
    /// Each control plane beside this one: what it tells of those who are connected to it; `None` if it tells nothing.
    pub others: Vec<Option<Report>>,
}

/// What one control plane tells others of those who are connected to it. The numbers of its snapshots are its own; a step is
/// known by what it leads to.
///
/// A service may come to the same step twice, and what is told of the first time may be taken for the second for as long as
/// that is on its way: both times everybody is told the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Gateways whose waypoint has accepted something, of which nobody has recorded that.
    pub ready: BTreeSet<Key>,
    /// By service, the last step that all node proxies have accepted, if it was not long ago.
    pub steps: BTreeMap<Key, Accepted>,
}

/// A step that all node proxies of a control plane have accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it leads to.
    pub phase: Phase,
    /// The Gateways of which a waypoint is connected that has not accepted it.
    pub lacking: BTreeSet<Key>,
}

impl Report {
    /// Steps that are told of at most, and Gateways: there is no room for more where control planes tell each other. What is not
    /// told is waited for as if nobody told anything.
    pub const MOST: usize = 512;

    fn has(&self, service: &Key, phase: &Phase, who: Who<'_>) -> bool {
        let step = self.steps.get(service).filter(|it| it.phase == *phase);
        step.is_some_and(|step| match who {
            Who::Nodes | Who::Requests => true,
            Who::Waypoint(gateway) => !step.lacking.contains(gateway),
        })
    }
}

impl Reached {
    /// Whether every other control plane tells that a step has come to everybody whom it concerns.
    fn others_have(&self, service: &Key, phase: Option<&Phase>, who: Who<'_>) -> bool {
        let has = |report: &Report| phase.is_some_and(|phase| report.has(service, phase, who));
        self.others
            .iter()
            .all(|other| other.as_ref().is_some_and(has))
    }
}

/// Who has to be done with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// All node proxies: each has accepted it.
    Nodes,
    /// Also the requests that node proxies sent out before that: they had [`SETTLE`] to arrive.
    Requests,
    /// All waypoints of a gateway: each has accepted it.
    Waypoint(&'a Key),
}

/// What is known when the next steps are decided.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// By service.
    pub wanted: &'a BTreeMap<Key, Wanted>,
    /// The services that refuse everybody whatever their binding was.
    pub closed: &'a BTreeSet<Key>,
    /// The Gateways that are there.
    pub gateways: &'a BTreeSet<Key>,
    /// How far everybody has come.
    pub reached: &'a Reached,
    /// Since when each step is waited for.
    pub waits: &'a Waits,
    /// Now.
    pub now: Instant,
}

/// What is to be recorded next; the same as is recorded if there is nothing to do.
pub fn next(recorded: &Waypoints, known: &Known<'_>) -> Waypoints {
    let accepted = |(gateway, all): (&Key, &Vec<Option<u64>>)| {
        all.iter().any(Option::is_some).then(|| gateway.clone())
    };
    let became_ready = known.reached.waypoints.iter().filter_map(accepted);
    let others = known.reached.others.iter().flatten();
    let became_ready = became_ready.chain(others.flat_map(|it| it.ready.iter().cloned()));
    let ready: BTreeSet<Key> = recorded.ready.iter().cloned().chain(became_ready).collect();
    let ready: BTreeSet<Key> = ready.intersection(known.gateways).cloned().collect();
    let services = recorded.phases.keys().chain(known.wanted.keys());
    let services: BTreeSet<&Key> = services.chain(known.closed).collect();
    let phases = services.into_iter().filter_map(|service| {
        if known.closed.contains(service) {
            return Some((service.clone(), Phase::Closed));
        }
        let wanted = known.wanted.get(service);
        let begins = wanted.filter(|it| it.policed || ready.contains(&it.gateway));
        let own = recorded.phases.get(service);
        let recorded = own.or_else(|| unknown(recorded, service));
        let mut phase = recorded.cloned();
        for _ in 0..STEPS {
            let is_published = phase.as_ref() == recorded;
            let settled = |who: Who<'_>| known.waits.is_over(service, is_published, who, known);
            let stepped = step(phase.as_ref(), wanted, begins, &settled);
            if stepped == phase {
                break;
            }
            phase = stepped;
        }
        Some((service.clone(), phase?))
    });
    let phases = phases.collect();
    Waypoints { ready, phases }
}

/// The phase of all that nobody knew of a service's namespace: it may have been among that.
fn unknown<'a>(recorded: &'a Waypoints, service: &Key) -> Option<&'a Phase> {
    let any = (service.0.clone(), UNREADABLE.to_owned());
    recorded.phases.get(&any)
}

/// One step of one service. `begins` is `wanted`, if that is enough to bind a service that is not bound. `settled` says
/// whether `phase` has reached everybody whom it concerns.
fn step(
    phase: Option<&Phase>,
    wanted: Option<&Wanted>,
    begins: Option<&Wanted>,
    settled: &dyn Fn(Who<'_>) -> bool,
) -> Option<Phase> {
    let stays = phase.cloned();
    match phase {
        None => begins.map(|wanted| Phase::Told {
            gateway: wanted.gateway.clone(),
        }),
        Some(Phase::Told { gateway: told }) => {
            if begins.is_some_and(|wanted| wanted.gateway == *told) {
                let gateway = told.clone();
                let is_known = settled(Who::Nodes) && settled(Who::Waypoint(told));
                is_known.then_some(Phase::Published { gateway }).or(stays)
            } else {
                // Nodes may have sent there until now.
                stays.filter(|_| !settled(Who::Requests))
            }
        }
        // Nobody has a way that could be shut, so a denial need not wait for anybody.
        Some(Phase::Closed) => {
            let wanted = wanted.filter(|wanted| wanted.policed)?;
            let gateway = wanted.gateway.clone();
            Some(match wanted.deny {
                true => Phase::Enforced { gateway },
                false => Phase::Published { gateway },
            })
        }
        Some(Phase::Moving {
            from,
            to,
            arrived,
            enforced,
        }) => moving((from, to), *arrived, *enforced, wanted, settled).or(stays),
        Some(Phase::Published { gateway }) => {
            bound(gateway, Bound::Published, wanted, settled).or(stays)
        }
        Some(Phase::Enforced { gateway }) => {
            bound(gateway, Bound::Enforced, wanted, settled).or(stays)
        }
        Some(Phase::Leaving { gateway }) => {
            bound(gateway, Bound::Leaving, wanted, settled).or(stays)
        }
    }
}

/// How a service is bound that stays where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Published,
    Enforced,
    Leaving,
}

/// One step of a service that is published with the waypoint of `now`; `None` to stay.
fn bound(
    now: &Key,
    how: Bound,
    wanted: Option<&Wanted>,
    settled: &dyn Fn(Who<'_>) -> bool,
) -> Option<Phase> {
    let gateway = now.clone();
    let Some(wanted) = wanted else {
        return match how {
            Bound::Leaving => settled(Who::Nodes).then_some(Phase::Told { gateway }),
            Bound::Published | Bound::Enforced => Some(Phase::Leaving { gateway }),
        };
    };
    if wanted.gateway != *now {
        return Some(Phase::Moving {
            from: gateway,
            to: wanted.gateway.clone(),
            arrived: false,
            enforced: how == Bound::Enforced && wanted.deny,
        });
    }
    match how {
        Bound::Published => {
            let denies = wanted.deny && settled(Who::Requests);
            denies.then_some(Phase::Enforced { gateway })
        }
        Bound::Enforced => (!wanted.deny).then_some(Phase::Published { gateway }),
        Bound::Leaving => Some(Phase::Published { gateway }),
    }
}

/// One step of a service on its way from one waypoint to another; `None` to stay.
fn moving(
    (from, to): (&Key, &Key),
    arrived: bool,
    enforced: bool,
    wanted: Option<&Wanted>,
    settled: &dyn Fn(Who<'_>) -> bool,
) -> Option<Phase> {
    let (from, to) = (from.clone(), to.clone());
    let moving = |from, to, arrived| Phase::Moving {
        from,
        to,
        arrived,
        enforced: enforced && wanted.is_some_and(|wanted| wanted.deny),
    };
    let at_rest = |gateway, denies| match denies {
        true => Phase::Enforced { gateway },
        false => Phase::Published { gateway },
    };
    match (arrived, wanted) {
        (_, Some(wanted)) if enforced && !wanted.deny => Some(moving(from, to, arrived)),
        (false, None) => Some(Phase::Leaving { gateway: from }),
        (false, Some(wanted)) if wanted.gateway == to => {
            let is_known = settled(Who::Nodes) && settled(Who::Waypoint(&to));
            is_known.then(|| moving(from, to, true))
        }
        // Nobody was sent to the new one yet.
        (false, Some(wanted)) if wanted.gateway == from => Some(at_rest(from, enforced)),
        (false, Some(wanted)) => Some(moving(from, wanted.gateway.clone(), false)),
        // Somebody may still be sent to the old one, which is told and let through until then.
        (true, wanted) => {
            let denies = wanted.is_some_and(|wanted| wanted.deny && wanted.gateway == to);
            settled(Who::Requests).then(|| at_rest(to, enforced || denies))
        }
    }
}

/// Since when the steps of services are waited for.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// By service.
    begun: BTreeMap<Key, Wait>,
    /// After a restart: those who were connected before may not be back until then.
    quiet_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Wait {
    phase: Phase,
    until: Instant,
    /// The snapshot that has the step; `None` if it is not published yet.
    snapshot: Option<u64>,
    /// Since when all node proxies that are connected have accepted it.
    accepted: Option<Instant>,
}

impl Wait {
    const fn new(phase: Phase, until: Instant) -> Self {
        Self {
            phase,
            until,
            snapshot: None,
            accepted: None,
        }
    }

    /// When the way on which requests were sent until this step may be shut, if nobody comes who has not accepted it.
    fn settled(&self) -> Instant {
        let accepted = self.accepted.unwrap_or(self.until);
        accepted.min(self.until) + SETTLE
    }
}

impl Waits {
    /// After a restart with what was recorded.
    pub fn restored(recorded: &Waypoints, now: Instant) -> Self {
        let mut waits = Self::default();
        waits.recorded(&Waypoints::default(), recorded, now);
        waits.quiet_until = (!recorded.phases.is_empty()).then(|| now + PATIENCE);
        waits
    }

    /// Begins to wait for the steps that were recorded.
    pub fn recorded(&mut self, before: &Waypoints, after: &Waypoints, now: Instant) {
        self.begun
            .retain(|service, _| after.phases.contains_key(service));
        for (service, phase) in &after.phases {
            if before.phases.get(service) != Some(phase) {
                let wait = Wait::new(phase.clone(), now + PATIENCE);
                self.begun.insert(service.clone(), wait);
            }
        }
    }

    /// What was recorded is published, in the snapshot of this number.
    pub fn published(&mut self, number: u64) {
        for wait in self.begun.values_mut() {
            wait.snapshot.get_or_insert(number);
        }
    }

    /// Everybody has come this far. To be told at once: [`SETTLE`] is counted from here.
    pub fn reached(&mut self, reached: &Reached, now: Instant) {
        let is_quiet = self.is_quiet(now);
        for (service, wait) in &mut self.begun {
            let have = have(&reached.nodes, wait.snapshot)
                && reached.others_have(service, Some(&wait.phase), Who::Nodes);
            // Who has come since, and has not accepted it, may have sent out requests by what it knew before.
            wait.accepted = match !is_quiet && have {
                true => wait.accepted.or(Some(now)),
                false => None,
            };
        }
    }

    /// When to look again although nobody has come any further: at the next time that a wait ends.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.begun.values();
        waits
            .flat_map(|wait| [wait.until, wait.settled()])
            .chain(self.quiet_until)
            .filter(|until| *until > now)
            .min()
    }

    /// Whether a step has reached everybody whom it concerns. One that is only about to be recorded has reached nobody.
    fn is_over(&self, service: &Key, is_recorded: bool, who: Who<'_>, known: &Known<'_>) -> bool {
        let wait = self.begun.get(service).filter(|_| is_recorded);
        if let (Who::Requests, Some(wait)) = (who, wait) {
            return wait.settled() <= known.now;
        }
        if wait.is_some_and(|wait| wait.until <= known.now) {
            return true;
        }
        let connected = match who {
            Who::Nodes | Who::Requests => known.reached.nodes.as_slice(),
            Who::Waypoint(gateway) => known
                .reached
                .waypoints
                .get(gateway)
                .map_or(&[][..], Vec::as_slice),
        };
        let phase = wait.map(|wait| &wait.phase);
        !self.is_quiet(known.now)
            && have(connected, wait.and_then(|wait| wait.snapshot))
            && known.reached.others_have(service, phase, who)
    }

    /// What others are to be told of those who are connected here: of steps that somebody may wait for still.
    pub fn report(&self, recorded: &Waypoints, reached: &Reached, now: Instant) -> Report {
        let accepted = |all: &[Option<u64>]| all.iter().any(Option::is_some);
        let ready = reached.waypoints.iter();
        let ready = ready.filter(|(key, all)| accepted(all) && !recorded.ready.contains(key));
        // Others may have begun to wait a little later.
        let under_way = self
            .begun
            .iter()
            .filter(|(_, wait)| now < wait.until + PATIENCE);
        let of_all = under_way
            .filter(|(_, wait)| !self.is_quiet(now) && have(&reached.nodes, wait.snapshot))
            // Nobody has what is not published, also if nobody is there.
            .filter(|(_, wait)| wait.snapshot.is_some());
        let steps = of_all.map(|(service, wait)| {
            let waypoints = reached.waypoints.iter();
            let lacking = waypoints.filter(|(_, all)| !have(all, wait.snapshot));
            let step = Accepted {
                phase: wait.phase.clone(),
                lacking: lacking.map(|(gateway, _)| gateway.clone()).collect(),
            };
            (service.clone(), step)
        });
        Report {
            ready: ready
                .map(|(gateway, _)| gateway.clone())
                .take(Report::MOST)
                .collect(),
            steps: steps.take(Report::MOST).collect(),
        }
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }
}

/// Whether all who are connected have accepted a snapshot, `None` for one that is not published yet.
fn have(connected: &[Option<u64>], snapshot: Option<u64>) -> bool {
    // A number is greater than `None`: who has accepted nothing has not reached it.
    let has = |reached: &Option<u64>| snapshot.is_some() && *reached >= snapshot;
    connected.iter().all(has)
}
