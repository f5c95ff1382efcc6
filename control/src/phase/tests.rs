//! Every step in every situation as a table, and whole histories with what must hold at each moment of them.

use proptest::prelude::*;

use super::*;

fn k(name: &str) -> Key {
    ("shop".to_owned(), name.to_owned())
}

fn wanted(gateway: &str, deny: bool) -> Wanted {
    Wanted {
        gateway: k(gateway),
        policed: false,
        deny,
    }
}

/// `told a`, `published a`, `enforced a`, `leaving a`, `a>b`, `a>b!` (denies), `a>>b` (arrived), `a>>b!`; nothing is `-`.
fn phase(text: &str) -> Option<Phase> {
    let moving = text.trim_end_matches('!').split_once('>');
    if let Some((from, to)) = moving {
        return Some(Phase::Moving {
            from: k(from),
            to: k(to.trim_start_matches('>')),
            arrived: to.starts_with('>'),
            enforced: text.ends_with('!'),
        });
    }
    let (word, gateway) = text.split_once(' ')?;
    let gateway = k(gateway);
    Some(match word {
        "told" => Phase::Told { gateway },
        "published" => Phase::Published { gateway },
        "enforced" => Phase::Enforced { gateway },
        "leaving" => Phase::Leaving { gateway },
        _ => panic!("{text}"),
    })
}

/// Each row: where a service is, and the next step if nobody has accepted that yet, or waypoints alone have, if the nodes
/// have, if both have, if the nodes have and their requests have arrived, and if there is nobody to wait for; for each wish:
/// none, waypoint a, a with a denial, b, b with a denial.
const ROWS: [(&str, [[&str; 5]; 5]); 9] = [
    (
        "-",
        [
            ["-"; 5],
            ["told a"; 5],
            ["told a"; 5],
            ["told b"; 5],
            ["told b"; 5],
        ],
    ),
    (
        "told a",
        [
            ["told a", "told a", "told a", "-", "-"],
            ["told a", "told a", "published a", "told a", "published a"],
            ["told a", "told a", "published a", "told a", "published a"],
            ["told a", "told a", "told a", "-", "-"],
            ["told a", "told a", "told a", "-", "-"],
        ],
    ),
    (
        "published a",
        [
            ["leaving a"; 5],
            ["published a"; 5],
            [
                "published a",
                "published a",
                "published a",
                "enforced a",
                "enforced a",
            ],
            ["a>b"; 5],
            ["a>b"; 5],
        ],
    ),
    (
        "enforced a",
        [
            ["leaving a"; 5],
            ["published a"; 5],
            ["enforced a"; 5],
            ["a>b"; 5],
            ["a>b!"; 5],
        ],
    ),
    (
        "leaving a",
        [
            ["leaving a", "told a", "told a", "told a", "told a"],
            ["published a"; 5],
            ["published a"; 5],
            ["a>b"; 5],
            ["a>b"; 5],
        ],
    ),
    (
        "a>b",
        [
            ["leaving a"; 5],
            ["published a"; 5],
            ["published a"; 5],
            ["a>b", "a>b", "a>>b", "a>b", "a>>b"],
            ["a>b", "a>b", "a>>b", "a>b", "a>>b"],
        ],
    ),
    (
        "a>b!",
        [
            ["leaving a"; 5],
            ["a>b"; 5],
            ["enforced a"; 5],
            ["a>b"; 5],
            ["a>b!", "a>b!", "a>>b!", "a>b!", "a>>b!"],
        ],
    ),
    (
        "a>>b",
        [
            ["a>>b", "a>>b", "a>>b", "published b", "published b"],
            ["a>>b", "a>>b", "a>>b", "published b", "published b"],
            ["a>>b", "a>>b", "a>>b", "published b", "published b"],
            ["a>>b", "a>>b", "a>>b", "published b", "published b"],
            ["a>>b", "a>>b", "a>>b", "enforced b", "enforced b"],
        ],
    ),
    (
        "a>>b!",
        [
            ["a>>b!", "a>>b!", "a>>b!", "enforced b", "enforced b"],
            ["a>>b"; 5],
            ["a>>b!", "a>>b!", "a>>b!", "enforced b", "enforced b"],
            ["a>>b"; 5],
            ["a>>b!", "a>>b!", "a>>b!", "enforced b", "enforced b"],
        ],
    ),
];

#[test]
fn each_step_in_each_situation() {
    let wishes = [
        None,
        Some(wanted("a", false)),
        Some(wanted("a", true)),
        Some(wanted("b", false)),
        Some(wanted("b", true)),
    ];
    let settled: [&dyn Fn(Who<'_>) -> bool; 6] = [
        &|_| false,
        &|who| matches!(who, Who::Waypoint(_)),
        &|who| who == Who::Nodes,
        &|who| who != Who::Requests,
        &|who| !matches!(who, Who::Waypoint(_)),
        &|_| true,
    ];
    for (at, by_wish) in ROWS {
        for (wish, [nobody, others @ ..]) in wishes.iter().zip(by_wish) {
            let expected = [nobody, nobody].into_iter().chain(others);
            for (settled, expected) in settled.into_iter().zip(expected) {
                let stepped = step(phase(at).as_ref(), wish.as_ref(), wish.as_ref(), settled);
                assert_eq!(stepped, phase(expected), "{at} {wish:?} {expected}");
            }
        }
    }
}

#[test]
fn who_is_not_ready_and_not_needed_for_a_policy_is_not_bound() {
    let wish = wanted("a", true);
    assert_eq!(step(None, Some(&wish), None, &|_| true), None);
    let told = phase("told a");
    assert_eq!(step(told.as_ref(), Some(&wish), None, &|_| true), None);
    // But once bound it stays so.
    let bound = phase("published a");
    assert_eq!(
        step(bound.as_ref(), Some(&wish), None, &|_| true),
        phase("enforced a")
    );
}

#[test]
fn what_closes_a_service_does_so_at_once_and_a_denial_follows_it_at_once() {
    for (at, _) in ROWS {
        let mut mesh = Mesh::new();
        let recorded = phase(at).map(|phase| (k("s"), phase));
        mesh.recorded.phases = recorded.into_iter().collect();
        mesh.closed = [k("s")].into();
        mesh.reached.nodes.push(None);
        mesh.go_on();
        assert_eq!(mesh.at(), Some(Phase::Closed), "{at}");
    }
    for (policed, deny, expected) in [
        (true, true, "enforced a"),
        (true, false, "published a"),
        (false, false, "told a"),
    ] {
        let mut mesh = Mesh::new();
        mesh.recorded.phases = [(k("s"), Phase::Closed)].into();
        mesh.recorded.ready = [k("a")].into();
        mesh.reached.nodes.push(None);
        let wish = Wanted {
            policed,
            ..wanted("a", deny)
        };
        mesh.wanted = [(k("s"), wish)].into();
        mesh.go_on();
        assert_eq!(mesh.at(), phase(expected));
    }
    let mut mesh = Mesh::new();
    mesh.recorded.phases = [(k("s"), Phase::Closed)].into();
    mesh.go_on();
    assert_eq!(mesh.at(), None);
}

/// A control plane with one service, and everybody who talks with it.
struct Mesh {
    now: Instant,
    recorded: Waypoints,
    wanted: BTreeMap<Key, Wanted>,
    closed: BTreeSet<Key>,
    gateways: BTreeSet<Key>,
    reached: Reached,
    waits: Waits,
    number: u64,
    /// Since when, and in which snapshot, what this says is so.
    since: BTreeMap<String, (Instant, u64)>,
    /// Since when all nodes know that, or had the time to.
    known: BTreeMap<String, Instant>,
    /// Those who were connected before a restart may not be back until then.
    quiet_until: Instant,
}

#[derive(Clone, Debug)]
enum Event {
    Want(Option<(bool, bool, bool)>),
    NodeComes,
    NodeGoes,
    NodeAccepts(usize),
    OtherComes,
    OtherGoes,
    OtherTells(usize, bool),
    WaypointComes(bool),
    WaypointGoes(bool),
    WaypointAccepts(bool),
    GatewayGoes(bool),
    GatewayComes(bool),
    Passes(Duration),
    Restart,
}

impl Mesh {
    fn new() -> Self {
        let recorded = Waypoints::default();
        let long_ago = Instant::now();
        let now = long_ago + 2 * PATIENCE;
        let since = facts(None).into_iter().map(|fact| (fact, (long_ago, 0)));
        Self {
            now,
            since: since.collect(),
            known: BTreeMap::new(),
            quiet_until: now,
            waits: Waits::restored(&recorded, now),
            recorded,
            wanted: BTreeMap::new(),
            closed: BTreeSet::new(),
            gateways: [k("a"), k("b")].into(),
            reached: Reached::default(),
            number: 1,
        }
    }

    fn at(&self) -> Option<Phase> {
        self.recorded.phases.get(&k("s")).cloned()
    }

    fn happen(&mut self, event: &Event) {
        let gateway = |first: bool| if first { k("a") } else { k("b") };
        match *event {
            Event::Want(None) => self.wanted.clear(),
            Event::Want(Some((first, policed, deny))) => {
                let wish = Wanted {
                    gateway: gateway(first),
                    policed,
                    deny,
                };
                self.wanted.insert(k("s"), wish);
            }
            Event::NodeComes => self.reached.nodes.push(None),
            Event::NodeGoes => drop(self.reached.nodes.pop()),
            Event::NodeAccepts(node) => {
                let nodes = self.reached.nodes.len();
                if let Some(node) = self.reached.nodes.get_mut(node % nodes.max(1)) {
                    *node = Some(self.number);
                }
            }
            Event::OtherComes => self.reached.others.push(None),
            Event::OtherGoes => drop(self.reached.others.pop()),
            Event::OtherTells(other, has) => self.other_tells(other, has),
            Event::WaypointComes(first) => self
                .reached
                .waypoints
                .entry(gateway(first))
                .or_default()
                .push(None),
            Event::WaypointGoes(first) => drop(self.reached.waypoints.remove(&gateway(first))),
            Event::WaypointAccepts(first) => {
                for waypoint in self.reached.waypoints.entry(gateway(first)).or_default() {
                    *waypoint = Some(self.number);
                }
            }
            Event::GatewayGoes(first) => {
                self.gateways.remove(&gateway(first));
                self.reached.waypoints.remove(&gateway(first));
            }
            Event::GatewayComes(first) => drop(self.gateways.insert(gateway(first))),
            Event::Passes(time) => self.now += time,
            Event::Restart => {
                self.reached = Reached::default();
                self.waits = Waits::restored(&self.recorded, self.now);
                self.waits.published(self.number);
                if !self.recorded.phases.is_empty() {
                    self.quiet_until = self.now + PATIENCE;
                }
            }
        }
        self.go_on();
        // What all nodes knew once is known: those who come later know nothing older.
        let nodes = self.nodes();
        let known = self.since.keys().filter(|fact| self.is_known(fact, &nodes));
        let known: Vec<_> = known
            .filter(|fact| !fact.starts_with("told"))
            .cloned()
            .collect();
        for fact in known {
            let (since, _) = self.since[&fact];
            // With nobody connected there is nothing to wait for.
            let known = match self.is_alone() {
                true => self.now - SETTLE,
                false => self.now.min(since + PATIENCE),
            };
            self.known.entry(fact.clone()).or_insert(known);
            self.since.insert(fact, (self.now - 2 * PATIENCE, 0));
        }
    }

    fn other_tells(&mut self, other: usize, has: bool) {
        let step = self.at().filter(|_| has).map(|phase| Accepted {
            phase,
            lacking: BTreeSet::new(),
        });
        let others = self.reached.others.len();
        if let Some(other) = self.reached.others.get_mut(other % others.max(1)) {
            *other = Some(Report {
                steps: step.map(|step| (k("s"), step)).into_iter().collect(),
                ..Report::default()
            });
        }
    }

    /// How far the nodes have come. Who has just come knows nothing, and so nothing old.
    fn nodes(&self) -> Vec<Option<u64>> {
        let nodes = self.reached.nodes.iter().copied();
        nodes.filter(Option::is_some).collect()
    }

    fn go_on(&mut self) {
        self.waits.reached(&self.reached, self.now);
        let known = Known {
            wanted: &self.wanted,
            closed: &self.closed,
            gateways: &self.gateways,
            reached: &self.reached,
            waits: &self.waits,
            now: self.now,
        };
        let next = next(&self.recorded, &known);
        if next == self.recorded {
            return;
        }
        let phases = [&self.recorded, &next].map(|it| it.phases.get(&k("s")));
        // What is closed has no way that could be shut too early.
        if !phases.contains(&Some(&Phase::Closed)) {
            self.check(phases[0], phases[1]);
        }
        self.waits.recorded(&self.recorded, &next, self.now);
        let all = |waypoints: &Waypoints| facts(waypoints.phases.get(&k("s")));
        let (before, after) = (all(&self.recorded), all(&next));
        self.recorded = next;
        self.number += 1;
        self.waits.published(self.number);
        self.since.retain(|fact, _| after.contains(fact));
        self.known.retain(|fact, _| after.contains(fact));
        for fact in after.difference(&before) {
            self.since.insert(fact.clone(), (self.now, self.number));
        }
    }

    /// Whether all who are connected know that this is so, or had the time to.
    fn is_known(&self, fact: &str, to: &[Option<u64>]) -> bool {
        let since = self.since.get(fact);
        let in_time = since.is_some_and(|(since, _)| self.now >= *since + PATIENCE);
        let has =
            |reached: &Option<u64>| since.is_some_and(|(_, number)| *reached >= Some(*number));
        let others = self.reached.others.iter().flatten();
        let mut others = others.filter_map(|it| it.steps.get(&k("s")));
        let told = others.all(|step| facts(Some(&step.phase)).contains(fact));
        in_time || self.now >= self.quiet_until && to.iter().all(has) && told
    }

    fn is_alone(&self) -> bool {
        self.reached.nodes.is_empty() && self.reached.others.is_empty()
    }

    /// Whether also what nodes sent out before they knew this had its time to arrive.
    fn is_settled(&self, fact: &str, to: &[Option<u64>]) -> bool {
        let since = self.since.get(fact);
        let late = since.map(|(since, _)| *since + PATIENCE);
        let known = self.known.get(fact).copied().or(late);
        let in_time = known.is_none_or(|known| self.now >= known + SETTLE);
        self.is_known(fact, to) && (in_time || self.skips())
    }

    /// With nobody connected, steps are skipped.
    fn skips(&self) -> bool {
        self.is_alone() && self.now >= self.quiet_until
    }

    fn check(&self, before: Option<&Phase>, after: Option<&Phase>) {
        let nodes = self.nodes();
        let (old, new) = (facts(before), facts(after));
        let shown = || format!("{before:?} then {after:?}");
        let published = |phase: Option<&Phase>| phase.and_then(Phase::published).cloned();
        let (from, to) = (published(before), published(after));
        let denies = |phase: Option<&Phase>| phase.is_some_and(Phase::is_enforced);
        if let Some(to) = to.as_ref().filter(|to| Some(*to) != from.as_ref()) {
            let of_gateway = self
                .reached
                .waypoints
                .get(to)
                .map_or(&[][..], Vec::as_slice);
            assert!(
                self.is_known(&format!("told {}", to.1), of_gateway),
                "sent to who is not told: {}",
                shown()
            );
            assert!(
                self.is_known(&format!("trusted {}", to.1), &nodes),
                "sent to who is not trusted: {}",
                shown()
            );
        }
        if let Some(from) = &from {
            assert!(
                self.wanted.is_empty() || to.is_some(),
                "opened against the wish: {}",
                shown()
            );
            if to.as_ref() != Some(from) && denies(before) && !self.skips() {
                assert!(
                    denies(after) && after.unwrap().told().any(|it| it == from),
                    "{}",
                    shown()
                );
                assert!(self.is_known("denied passes both", &nodes), "{}", shown());
            }
            if to.is_none() {
                assert!(
                    self.is_known("not denied", &nodes),
                    "left while denied: {}",
                    shown()
                );
            }
        }
        if denies(after) && !denies(before) {
            let to = to.expect("a denial with a waypoint");
            assert!(
                self.is_settled(&format!("published {}", to.1), &nodes),
                "denied too early: {}",
                shown()
            );
        }
        // Who is not told any more is not sent to any more.
        for told in old
            .difference(&new)
            .filter_map(|fact| fact.strip_prefix("told "))
        {
            if self.gateways.contains(&k(told)) {
                assert!(
                    self.is_settled(&format!("nobody goes to {told}"), &nodes),
                    "forgot {told}: {}",
                    shown()
                );
            }
        }
    }
}

/// What holds in a phase, in words that [`Mesh::check`] asks for.
fn facts(phase: Option<&Phase>) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let published = phase.and_then(Phase::published);
    for gateway in ["a", "b"] {
        if phase.is_some_and(|phase| phase.told().any(|told| *told == k(gateway))) {
            facts.insert(format!("told {gateway}"));
            facts.insert(format!("trusted {gateway}"));
        }
        facts.insert(match published == Some(&k(gateway)) {
            true => format!("published {gateway}"),
            false => format!("nobody goes to {gateway}"),
        });
    }
    if !phase.is_some_and(Phase::is_enforced) {
        facts.insert("not denied".to_owned());
    }
    if phase.is_none_or(|phase| !phase.is_enforced() || phase.told().count() == 2) {
        facts.insert("denied passes both".to_owned());
    }
    facts
}

fn event() -> impl Strategy<Value = Event> {
    let wish = proptest::option::weighted(0.8, any::<(bool, bool, bool)>());
    prop_oneof![
        4 => wish.prop_map(Event::Want),
        1 => Just(Event::NodeComes),
        1 => Just(Event::NodeGoes),
        6 => (0..3_usize).prop_map(Event::NodeAccepts),
        1 => Just(Event::OtherComes),
        1 => Just(Event::OtherGoes),
        6 => (0..2_usize, any::<bool>()).prop_map(|(other, has)| Event::OtherTells(other, has)),
        1 => any::<bool>().prop_map(Event::WaypointComes),
        1 => any::<bool>().prop_map(Event::WaypointGoes),
        4 => any::<bool>().prop_map(Event::WaypointAccepts),
        1 => any::<bool>().prop_map(Event::GatewayGoes),
        1 => any::<bool>().prop_map(Event::GatewayComes),
        3 => (1..70_u64).prop_map(|tenths| Event::Passes(Duration::from_millis(100 * tenths))),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_history_loses_or_lets_slip_a_request(events in proptest::collection::vec(event(), 1..60)) {
        let mut mesh = Mesh::new();
        for event in &events {
            mesh.happen(event);
        }
        // Left alone, every binding gets where it is wanted, and no denial outlives the wish.
        for _ in 0..2 * STEPS {
            mesh.happen(&Event::Passes(PATIENCE + SETTLE));
        }
        let wish = mesh.wanted.get(&k("s"));
        let end = mesh.recorded.phases.get(&k("s"));
        match wish {
            None => prop_assert_eq!(end, None),
            Some(wish) => {
                let may_begin = wish.policed || mesh.recorded.ready.contains(&wish.gateway);
                let gateway = wish.gateway.clone();
                let goal = if wish.deny { Phase::Enforced { gateway } } else { Phase::Published { gateway } };
                prop_assert!(end == Some(&goal) || end.is_none() && !may_begin, "{:?} {:?}", wish, end);
            }
        }
        prop_assert!(mesh.recorded.ready.is_subset(&mesh.gateways));
        prop_assert!(mesh.waits.deadline(mesh.now).is_none());
    }
}

#[test]
fn a_step_waits_until_other_control_planes_tell_that_everybody_has_it() {
    let mut mesh = Mesh::new();
    let told = |phase: Option<Phase>, lacking: &[&str]| {
        let step = phase.map(|phase| Accepted {
            phase,
            lacking: lacking.iter().map(|name| k(name)).collect(),
        });
        Some(Report {
            ready: [k("a")].into(),
            steps: step.map(|step| (k("s"), step)).into_iter().collect(),
        })
    };
    mesh.happen(&Event::Want(Some((true, false, true))));
    assert_eq!(mesh.at(), None);
    // The waypoint is connected there alone.
    mesh.reached.others = vec![None, told(None, &[])];
    mesh.go_on();
    assert_eq!(mesh.at(), phase("told a"));
    mesh.reached.others = vec![told(phase("told a"), &[]), told(phase("told a"), &["a"])];
    mesh.go_on();
    assert_eq!(mesh.at(), phase("told a"), "a waypoint does not have it");
    mesh.reached.others[1] = told(phase("published a"), &[]);
    mesh.go_on();
    assert_eq!(mesh.at(), phase("told a"), "that is of another time");
    mesh.reached.others[1] = told(phase("told a"), &["b"]);
    mesh.go_on();
    assert_eq!(mesh.at(), phase("published a"));
    mesh.reached.others = vec![told(phase("published a"), &[]), None];
    mesh.happen(&Event::Passes(SETTLE));
    assert_eq!(mesh.at(), phase("published a"));
    mesh.reached.others[1] = told(phase("published a"), &[]);
    mesh.go_on();
    mesh.happen(&Event::Passes(SETTLE));
    assert_eq!(mesh.at(), phase("enforced a"));
}

#[test]
fn one_that_tells_nothing_is_waited_for_as_long_as_a_proxy_that_does_not_answer() {
    let mut mesh = Mesh::new();
    mesh.reached.others = vec![None];
    mesh.happen(&Event::Want(Some((true, true, false))));
    assert_eq!(mesh.at(), phase("told a"));
    mesh.happen(&Event::Passes(PATIENCE - Duration::from_millis(1)));
    assert_eq!(mesh.at(), phase("told a"));
    mesh.happen(&Event::Passes(Duration::from_millis(1)));
    assert_eq!(mesh.at(), phase("published a"));
}

#[test]
fn others_are_told_of_a_step_once_all_nodes_here_have_accepted_it() {
    let mut mesh = Mesh::new();
    mesh.reached.nodes = vec![Some(1), Some(1)];
    mesh.reached.waypoints = [(k("a"), vec![Some(1)]), (k("b"), vec![None])].into();
    let report = |mesh: &Mesh| mesh.waits.report(&mesh.recorded, &mesh.reached, mesh.now);
    assert_eq!(report(&mesh).ready, [k("a")].into());
    mesh.happen(&Event::Want(Some((true, false, false))));
    assert_eq!(mesh.at(), phase("told a"));
    assert_eq!(report(&mesh), Report::default(), "readiness is recorded");
    mesh.happen(&Event::NodeAccepts(0));
    assert_eq!(report(&mesh), Report::default());
    mesh.reached.others = vec![None];
    mesh.happen(&Event::NodeAccepts(1));
    let step = |lacking: &[&str]| Accepted {
        phase: phase("told a").unwrap(),
        lacking: lacking.iter().map(|name| k(name)).collect(),
    };
    assert_eq!(report(&mesh).steps[&k("s")], step(&["a", "b"]));
    mesh.happen(&Event::WaypointAccepts(true));
    assert_eq!(report(&mesh).steps[&k("s")], step(&["b"]));
    mesh.happen(&Event::NodeComes);
    assert_eq!(report(&mesh), Report::default());
    mesh.happen(&Event::NodeGoes);
    assert_eq!(report(&mesh).steps.len(), 1);
    let later = mesh.now + 2 * PATIENCE;
    let told = mesh.waits.report(&mesh.recorded, &mesh.reached, later);
    assert_eq!(told, Report::default(), "nobody waits for it any more");
}

#[test]
fn what_is_not_published_yet_is_told_to_nobody() {
    let mut waits = Waits::default();
    let now = Instant::now();
    let recorded = Waypoints {
        phases: [(k("s"), phase("told a").unwrap())].into(),
        ..Waypoints::default()
    };
    waits.recorded(&Waypoints::default(), &recorded, now);
    let report = |waits: &Waits| waits.report(&recorded, &Reached::default(), now);
    assert_eq!(report(&waits), Report::default());
    waits.published(3);
    assert_eq!(report(&waits).steps.len(), 1);
    let mut waits = Waits::restored(&recorded, now);
    waits.published(3);
    assert_eq!(report(&waits), Report::default(), "they may come back");
}

#[test]
fn with_nobody_connected_a_ready_waypoint_is_bound_at_once() {
    let mut mesh = Mesh::new();
    mesh.happen(&Event::Want(Some((true, false, true))));
    assert_eq!(mesh.recorded.phases, BTreeMap::new());
    mesh.happen(&Event::WaypointComes(true));
    assert_eq!(mesh.recorded.phases, BTreeMap::new());
    mesh.happen(&Event::WaypointAccepts(true));
    assert_eq!(mesh.recorded.phases.get(&k("s")), phase("told a").as_ref());
    mesh.happen(&Event::WaypointAccepts(true));
    assert_eq!(
        mesh.recorded.phases.get(&k("s")),
        phase("enforced a").as_ref()
    );
    mesh.happen(&Event::WaypointGoes(true));
    assert_eq!(
        mesh.recorded.phases.get(&k("s")),
        phase("enforced a").as_ref()
    );
    mesh.happen(&Event::GatewayGoes(true));
    assert_eq!(
        mesh.recorded.phases.get(&k("s")),
        phase("enforced a").as_ref()
    );
    assert_eq!(mesh.recorded.ready, BTreeSet::new());
    mesh.happen(&Event::Want(None));
    assert_eq!(mesh.recorded.phases, BTreeMap::new());
}

/// Just not as long as that.
const INSTANT: Duration = Duration::from_millis(1);

/// A service that is published with a waypoint and not denied yet, of which the first of two nodes knows.
fn published() -> Mesh {
    let mut mesh = Mesh::new();
    for event in [
        Event::NodeComes,
        Event::NodeComes,
        Event::Want(Some((true, true, true))),
        Event::NodeAccepts(0),
        Event::NodeAccepts(1),
        Event::NodeAccepts(0),
    ] {
        mesh.happen(&event);
    }
    assert_eq!(mesh.at(), phase("published a"));
    mesh
}

#[test]
fn a_denial_waits_for_every_node_or_five_seconds_and_then_for_what_is_on_its_way() {
    for late in [false, true] {
        let mut mesh = published();
        assert_eq!(mesh.waits.deadline(mesh.now), Some(mesh.now + PATIENCE));
        mesh.happen(&Event::Passes(PATIENCE - INSTANT));
        mesh.happen(&if late {
            Event::Passes(INSTANT)
        } else {
            Event::NodeAccepts(1)
        });
        assert_eq!(mesh.at(), phase("published a"));
        mesh.happen(&Event::Passes(SETTLE - INSTANT));
        assert_eq!(mesh.at(), phase("published a"));
        assert_eq!(mesh.waits.deadline(mesh.now), Some(mesh.now + INSTANT));
        mesh.happen(&Event::Passes(INSTANT));
        assert_eq!(mesh.at(), phase("enforced a"));
    }
}

#[test]
fn a_node_that_comes_meanwhile_has_its_own_time_but_not_longer_than_five_seconds() {
    for (before, after) in [
        (SETTLE - INSTANT, SETTLE),
        (PATIENCE - SETTLE / 2, SETTLE / 2 + SETTLE),
    ] {
        let mut mesh = published();
        mesh.happen(&Event::Passes(before.saturating_sub(SETTLE - INSTANT)));
        mesh.happen(&Event::NodeAccepts(1));
        mesh.happen(&Event::Passes(before.min(SETTLE - INSTANT)));
        mesh.happen(&Event::NodeComes);
        mesh.happen(&Event::Passes(INSTANT));
        assert_eq!(mesh.at(), phase("published a"));
        if before < SETTLE {
            mesh.happen(&Event::NodeAccepts(2));
        }
        mesh.happen(&Event::Passes(after - 2 * INSTANT));
        assert_eq!(mesh.at(), phase("published a"), "{before:?}");
        mesh.happen(&Event::Passes(2 * INSTANT));
        assert_eq!(mesh.at(), phase("enforced a"));
    }
}

#[test]
fn who_goes_away_may_have_sent_something_out() {
    let mut mesh = published();
    mesh.happen(&Event::NodeAccepts(1));
    mesh.happen(&Event::NodeGoes);
    mesh.happen(&Event::NodeGoes);
    mesh.happen(&Event::Passes(SETTLE - INSTANT));
    assert_eq!(mesh.at(), phase("published a"));
    mesh.happen(&Event::Passes(INSTANT));
    assert_eq!(mesh.at(), phase("enforced a"));
}

#[test]
fn a_waypoint_is_forgotten_when_what_is_on_its_way_has_arrived() {
    let ways = [
        (None, ["leaving a", "told a", "-"]),
        (Some((false, true, true)), ["a>b!", "a>>b!", "enforced b"]),
        (Some((false, true, false)), ["a>b", "a>>b", "published b"]),
    ];
    for (wish, [first, second, last]) in ways {
        let mut mesh = published();
        for event in [
            Event::NodeAccepts(1),
            Event::Passes(SETTLE),
            Event::NodeAccepts(0),
            Event::NodeAccepts(1),
            Event::Want(wish),
        ] {
            mesh.happen(&event);
        }
        assert_eq!(mesh.at(), phase(first));
        let all = |mesh: &mut Mesh| {
            mesh.happen(&Event::NodeAccepts(0));
            mesh.happen(&Event::NodeAccepts(1));
        };
        all(&mut mesh);
        assert_eq!(mesh.at(), phase(second), "what opens does not wait longer");
        all(&mut mesh);
        mesh.happen(&Event::Passes(SETTLE - INSTANT));
        assert_eq!(mesh.at(), phase(second));
        mesh.happen(&Event::Passes(INSTANT));
        assert_eq!(mesh.at(), phase(last));
    }
}

#[test]
fn nobody_is_sent_to_a_waypoint_that_not_every_node_trusts() {
    for late in [false, true] {
        let mut mesh = Mesh::new();
        for event in [
            Event::NodeComes,
            Event::NodeComes,
            Event::WaypointComes(true),
            Event::WaypointAccepts(true),
            Event::Want(Some((true, false, false))),
            Event::WaypointAccepts(true),
            Event::NodeAccepts(0),
        ] {
            mesh.happen(&event);
        }
        assert_eq!(mesh.at(), phase("told a"));
        mesh.happen(&if late {
            Event::Passes(PATIENCE)
        } else {
            Event::NodeAccepts(1)
        });
        assert_eq!(mesh.at(), phase("published a"));
    }
}

#[test]
fn after_a_restart_those_who_were_connected_get_the_time_to_come_back_and_what_they_sent_that_to_arrive()
 {
    let mut mesh = published();
    mesh.happen(&Event::NodeAccepts(1));
    mesh.happen(&Event::Passes(SETTLE - INSTANT));
    mesh.happen(&Event::Restart);
    mesh.happen(&Event::NodeComes);
    mesh.happen(&Event::NodeAccepts(0));
    assert_eq!(mesh.waits.deadline(mesh.now), Some(mesh.now + PATIENCE));
    mesh.happen(&Event::Passes(PATIENCE + SETTLE - INSTANT));
    assert_eq!(mesh.at(), phase("published a"));
    mesh.happen(&Event::Passes(INSTANT));
    assert_eq!(mesh.at(), phase("enforced a"));
}
