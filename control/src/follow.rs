//! From the source to the mesh: reads the files, compiles them with what the nodes report, and publishes the outcome.
//!
//! What is wrong with the files is shown and logged once per change; it never takes back what is in force. The rules of
//! that are in [`source`]; here is what goes beyond a single object: when a start is refused, and when a whole new state
//! of the files is.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use proto::workload::address::Type;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    compile::{Compiled, Compiler, Settings},
    manifest::ObjectRef,
    phase::Reached,
    placements::{Placements, default_account},
    publish::Snapshot,
    reports::{self, ByNode},
    serve::{Hub, Mesh, statuses::Statuses, streams::Subscribers},
    source::{
        self, Loaded, Problem,
        check::Refusal,
        files::{Files, PATIENCE},
        leaving::Leaving,
    },
    state::{PUBLIC, StateDir},
    subject::Subject,
    watch::Watch,
    world::{self, Key, Waypoints},
};

pub(crate) mod bindings;
mod missing;
pub mod recorded;
mod statuses;
#[cfg(test)]
mod tests;

pub use bindings::{Bindings, WAYPOINTS};
pub use missing::Missing;
use statuses::unwell;

/// The statuses of all objects in the state directory.
pub const STATUSES: &str = "statuses.json";

/// The source is read this often although nothing told of a change: symbolic links and remote file systems do not.
const RESCAN: Duration = Duration::from_secs(10);

/// How often a start looks at files that are being written.
const START: Duration = Duration::from_millis(10);

/// The source as last read, and what became of it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    settings: Settings,
    /// As read last; empty until then.
    files: Files,
    /// Files that are being written for too long.
    late: Vec<Problem>,
    /// What is in force.
    loaded: Loaded,
    /// What is in force of it although no file has it any more.
    leaving: Leaving,
    /// Of the files as read last, even if another state of them is in force.
    problems: Vec<Problem>,
    /// What is worth knowing of what is in force.
    strange: Vec<String>,
    /// Why the files as read last are not in force.
    held_back: Option<String>,
    /// Why the files cannot be read now.
    unreadable: Option<String>,
}

/// Why there is nothing to start with.
#[derive(Debug)]
pub enum Refused {
    /// The source cannot be read.
    Unreadable(PathBuf, io::Error),
    /// What is invalid may let somebody in, and there is no earlier version of it that could stand in.
    Invalid(Box<Refusal>, Vec<Problem>),
    /// Files are still being written, and nobody knows what they held: there may be policies in them.
    Unsettled(Vec<Problem>),
    /// What the bindings that are recorded need cannot be understood, and they would end.
    Unbound(Vec<Missing>),
}

impl Source {
    /// Reads the source for the first time; waits a little while for files that are being written. Those that do not settle
    /// refuse the start, and so does what is denied for want of an earlier version.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, Refused> {
        let files = settled(path).map_err(|error| Refused::Unreadable(path.to_owned(), error))?;
        let unsettled = files.problems(Instant::now());
        if !unsettled.is_empty() {
            return Err(Refused::Unsettled(unsettled));
        }
        let loaded = source::load_for(files.texts(), None, &settings);
        if let Some(refusal) = source::check::refusal(&loaded, path.is_file(), &settings) {
            return Err(Refused::Invalid(Box::new(refusal), loaded.problems));
        }
        let problems = loaded.problems.clone();
        let mut source = Self {
            path: path.to_owned(),
            settings,
            files,
            late: Vec::new(),
            loaded,
            leaving: Leaving::default(),
            problems,
            strange: Vec::new(),
            held_back: None,
            unreadable: None,
        };
        source.log(&[]);
        source.tell_strange();
        Ok(source)
    }

    /// Whether a control plane may start with this and these bindings: they do not end because of what is not understood.
    pub fn keeps(&self, bindings: &Bindings) -> Result<(), Refused> {
        let missing = missing::missing(&self.loaded, bindings.recorded(), &self.settings);
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Refused::Unbound(missing)),
        }
    }

    /// Reads the source again.
    pub fn reread(&mut self, now: Instant) {
        let unreadable = match self.files.look(&self.path, now) {
            Ok(files) => {
                let same = files.texts() == self.files.texts();
                self.files = files;
                if !same || self.leaving.is_due(now) {
                    self.take(now);
                }
                self.tell_late(now);
                None
            }
            Err(error) => Some(format!("{} cannot be read: {error}", self.path.display())),
        };
        if let Some(reason) = unreadable
            .as_ref()
            .filter(|_| unreadable != self.unreadable)
        {
            tracing::error!(reason, "the last good manifests stay in force");
        }
        self.unreadable = unreadable;
    }

    /// When to read again although nothing tells of a change, if so.
    pub fn look_again(&self, now: Instant) -> Option<Duration> {
        let leaving = self.leaving.look_again(now);
        // Nothing leaves while nobody can say what is there.
        let leaving = leaving.filter(|_| self.unreadable.is_none());
        self.files.look_again(now).into_iter().chain(leaving).min()
    }

    fn tell_late(&mut self, now: Instant) {
        let late = self.files.problems(now);
        for problem in late.iter().filter(|problem| !self.late.contains(problem)) {
            tracing::error!("{problem}");
        }
        self.late = late;
    }

    fn take(&mut self, now: Instant) {
        let mut loaded = source::load_for(self.files.texts(), Some(&self.loaded), &self.settings);
        self.leaving = self.leaving.keep(&self.loaded, &mut loaded, now);
        let before = std::mem::replace(&mut self.problems, loaded.problems.clone());
        self.log(&before);
        let policy = denies_the_mesh(&loaded, &self.settings.root_namespace);
        self.held_back = policy.map(|policy| {
            format!("{policy} would deny everything in the mesh until it is corrected")
        });
        match &self.held_back {
            Some(reason) => tracing::error!(reason, "the last good manifests stay in force"),
            None => {
                self.loaded = loaded;
                self.tell_strange();
            }
        }
    }

    fn tell_strange(&mut self) {
        let mut strange = source::check::empty(&self.loaded.empty);
        strange.extend(source::check::kept(&self.loaded.kept));
        strange.extend(source::check::foreign(&self.loaded.unused));
        strange.extend(source::check::strange(&self.loaded.world));
        for what in strange.iter().filter(|what| !self.strange.contains(what)) {
            tracing::warn!("{what}");
        }
        self.strange = strange;
    }

    fn log(&self, before: &[Problem]) {
        for problem in self
            .problems
            .iter()
            .filter(|problem| !before.contains(problem))
        {
            tracing::error!("{problem}");
        }
        for kind in &self.loaded.unused {
            tracing::debug!(kind, "not used");
        }
    }

    /// The nodes that objects name.
    fn nodes(&self) -> BTreeSet<String> {
        self.loaded.world.nodes.keys().cloned().collect()
    }

    /// Problems now, as far as they are counted.
    pub fn problems(&self) -> usize {
        self.problems.len()
            + self.late.len()
            + usize::from(self.held_back.is_some())
            + usize::from(self.unreadable.is_some())
    }

    /// The files, compiled with what the nodes report and with how far bindings have come; and which pods run where.
    fn compiled(&self, reports: &ByNode, waypoints: &Waypoints) -> (Compiled, Placements) {
        let mut world = self.loaded.world.clone();
        compiled(&mut world, reports, waypoints, &self.settings)
    }

    /// The state of the mesh. What `bindings` recorded meanwhile is on disk when this returns.
    fn mesh(
        &self,
        reports: &ByNode,
        bindings: &mut Bindings,
        reached: (&Reached, Instant),
        previous: &Snapshot,
    ) -> Mesh {
        let compile = |waypoints: &Waypoints| self.compiled(reports, waypoints);
        let (compiled, mut mesh) = assemble(compile, bindings, reached, previous);
        let page = self.statuses(&compiled, unwell(reports, &mesh.placements));
        mesh.statuses = Statuses::Page(page);
        mesh
    }
}

/// The state of the mesh, without its statuses, and what it was compiled to. What `bindings` recorded meanwhile is kept when
/// this returns.
pub(crate) fn assemble(
    mut compile: impl FnMut(&Waypoints) -> (Compiled, Placements),
    bindings: &mut Bindings,
    (reached, now): (&Reached, Instant),
    previous: &Snapshot,
) -> (Compiled, Mesh) {
    let (mut compiled, mut placements) = compile(bindings.recorded());
    if bindings.advance(&compiled, reached, now) {
        (compiled, placements) = compile(bindings.recorded());
    }
    let snapshot = Snapshot::new(&compiled, previous);
    bindings.published(snapshot.number());
    let mesh = Mesh {
        snapshot: Arc::new(snapshot),
        placements,
        bindings: bindings.recorded().phases.clone(),
        statuses: Statuses::default(),
    };
    (compiled, mesh)
}

/// Compiles manifests with what the nodes report and with how far bindings have come, which becomes part of the world; and
/// which pods run where.
fn compiled(
    world: &mut world::World,
    reports: &ByNode,
    waypoints: &Waypoints,
    settings: &Settings,
) -> (Compiled, Placements) {
    let placements = placements(world, &Placements::default());
    world.reports = Some(reported(reports, &placements));
    compiled_after(&mut Last::default(), world, waypoints, settings)
}

/// What a world became, of which the next one takes what is the same.
#[derive(Debug, Default)]
pub struct Last {
    compiler: Compiler,
    placements: Placements,
}

/// As [`compiled`], of one world after another, and where the manifests themselves say what is true of pods.
pub(crate) fn compiled_after(
    last: &mut Last,
    world: &mut world::World,
    waypoints: &Waypoints,
    settings: &Settings,
) -> (Compiled, Placements) {
    let mut placements = placements(world, &last.placements);
    last.placements = placements.clone();
    world.waypoints = Some(waypoints.clone());
    let mut compiled = last.compiler.compile(world, settings);
    missing::hold(world, settings, &mut compiled);
    place_stored(world, &compiled, &mut placements);
    (compiled, placements)
}

/// The files of a source, as soon as nobody writes them, or with the problem of those that somebody still writes.
fn settled(path: &Path) -> io::Result<Files> {
    let begun = Instant::now();
    let (mut files, mut now) = (Files::default(), begun);
    loop {
        files = files.look(path, now)?;
        if files.look_again(now).is_none() || now.duration_since(begun) >= PATIENCE {
            return Ok(files);
        }
        thread::sleep(START);
        now = Instant::now();
    }
}

/// A policy that cannot be understood and whose scope is the whole mesh.
fn denies_the_mesh<'a>(loaded: &'a Loaded, root_namespace: &str) -> Option<&'a ObjectRef> {
    let mut denials = loaded.world.denials.iter();
    denials
        .find(|(policy, denial)| {
            let wide = denial.selector.is_none() && denial.targets.is_empty();
            policy.namespace == root_namespace && wide
        })
        .map(|(policy, _)| policy)
}

fn placements(world: &world::World, previous: &Placements) -> Placements {
    Placements::of(world.pods.iter().map(|(key, pod)| (key, &**pod)), previous)
}

/// Workloads that were stored ready-made have no pod of their own here.
fn place_stored(world: &world::World, compiled: &Compiled, placements: &mut Placements) {
    let stored = world.stored.addresses.keys();
    for address in stored.filter_map(|name| compiled.addresses.get(name)) {
        if let Some(Type::Workload(workload)) = &address.r#type
            && placements
                .node_of(&workload.namespace, &workload.name)
                .is_none()
        {
            placements.add(
                &workload.node,
                &workload.namespace,
                &workload.name,
                default_account(&workload.service_account),
            );
        }
    }
}

/// What the nodes say of the pods that run on them.
fn reported(reports: &ByNode, placements: &Placements) -> world::Reports {
    let own = reports.iter().flat_map(|(node, report)| {
        reports::own(node, report, placements)
            .0
            .into_iter()
            .map(move |pod| (node, pod))
    });
    let pods = own.map(|(node, pod)| {
        let report = world::PodReport {
            node: node.clone(),
            addresses: pod
                .addresses
                .iter()
                .filter_map(|bytes| address(bytes))
                .collect(),
            ready: pod.ready,
            captured: pod.captured,
        };
        ((pod.namespace.clone(), pod.name.clone()), report)
    });
    pods.collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

/// Publishes the state of the mesh, if it is another than before.
pub fn publish(hub: &Hub, state: &StateDir, source: &Source, bindings: &mut Bindings) {
    let reports = hub.reports.watch().borrow().clone();
    let before = Arc::clone(&hub.mesh.borrow());
    let reached = hub.reached();
    let now = (&reached, Instant::now());
    let mesh = source.mesh(&reports, bindings, now, &before.snapshot);
    let problems = source.problems() + bindings.problems();
    hub.metrics
        .problems
        .set(i64::try_from(problems).unwrap_or(i64::MAX));
    if mesh.statuses != before.statuses
        && let Err(error) = state.write(STATUSES, mesh.statuses.page().as_bytes(), PUBLIC)
    {
        tracing::error!(%error, "the statuses are not written");
    }
    let snapshot = Arc::clone(&mesh.snapshot);
    let nodes = mesh.placements.nodes().into_iter().map(str::to_owned);
    let nodes: BTreeSet<String> = nodes.chain(source.nodes()).collect();
    let same = snapshot.same(&before.snapshot)
        && mesh.placements == before.placements
        && mesh.bindings == before.bindings
        && mesh.statuses == before.statuses;
    if !same {
        hub.mesh.send_replace(Arc::new(mesh));
    }
    let Some(tokens) = hub.tokens() else { return };
    let gateways: BTreeSet<&Key> = snapshot.waypoints().keys().collect();
    if let Err(error) = tokens.retain(&gateways) {
        tracing::error!(%error, "the token of a Gateway that is gone is not removed");
    }
    // After the mesh: who has a token finds what it is to be told.
    let waypoints = gateways.into_iter().cloned().map(Subject::Waypoint);
    for subject in nodes.into_iter().map(Subject::Node).chain(waypoints) {
        if let Err(error) = tokens.ensure(&subject) {
            tracing::error!(%subject, %error, "no token");
        }
    }
}

/// Publishes every change of the source, of the nodes' reports and of how far bindings have come, until the task ends.
pub async fn follow(
    hub: Arc<Hub>,
    state: Arc<StateDir>,
    source: Source,
    bindings: Bindings,
    watch: Watch,
) {
    let mut look_again = source.look_again(Instant::now());
    let mut reports = hub.reports.watch();
    let mut streams = hub.streams.watch();
    let mut rescan = interval(RESCAN);
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let both = Arc::new(Mutex::new((source, bindings)));
    loop {
        tokio::select! {
            changed = watch.changed() => if let Err(error) = changed {
                tracing::error!(%error, "the source is not watched: changes are seen every ten seconds");
                rescan.tick().await;
            },
            changed = reports.changed() => if changed.is_err() {
                return;
            },
            _ = rescan.tick() => {}
            () = sleep(look_again.unwrap_or_default()), if look_again.is_some() => {}
            () = due(&hub, &both, &mut streams) => {}
        }
        // Whatever woke this may have cut short the wait for a change.
        watch.renew();
        reports.mark_unchanged();
        let (hub, state, both) = (Arc::clone(&hub), Arc::clone(&state), Arc::clone(&both));
        let done = tokio::task::spawn_blocking(move || {
            let mut both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let (source, bindings) = &mut *both;
            source.reread(Instant::now());
            publish(&hub, &state, source, bindings);
            source.look_again(Instant::now())
        });
        look_again = done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the source was not compiled: what was published stays in force");
            None
        });
    }
}

/// Waits until a binding has come so far that something else is to be published.
pub(crate) async fn due<T>(
    hub: &Hub,
    both: &Mutex<(T, Bindings)>,
    streams: &mut tokio::sync::watch::Receiver<Subscribers>,
) {
    loop {
        streams.mark_unchanged();
        let now = Instant::now();
        let deadline = {
            let bindings = &mut both.lock().unwrap_or_else(PoisonError::into_inner).1;
            if bindings.is_due(&hub.reached(), now) {
                return;
            }
            bindings.deadline(now)
        };
        let later = deadline.map(|deadline| deadline.duration_since(now));
        tokio::select! {
            // The sender lives in the hub.
            _ = streams.changed() => {}
            () = sleep(later.unwrap_or_default()), if later.is_some() => {}
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => {
                write!(f, "{} cannot be read: {error}", path.display())
            }
            Self::Unsettled(problems) => {
                f.write_str("nobody knows yet what these files will hold; let them be finished before the start:")?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
            Self::Invalid(refusal, problems) => {
                write!(f, "{refusal}; correct it before the start:")?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
            Self::Unbound(missing) => {
                f.write_str("only taking a label away, or setting it to none, unbinds a service, and nobody can say whether somebody did; correct \
                     it before the start:")?;
                missing
                    .iter()
                    .try_for_each(|missing| write!(f, "\n  {missing}"))
            }
        }
    }
}

impl std::error::Error for Refused {}
