//! Compiles a directory once and says what came of it, without a server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use mesh::{enrol::DATAPLANE_MODE, local};

use super::{Loaded, Problem, load_for, read_dir};
use crate::{
    compile::{Compiled, Settings, compile, concern, json},
    manifest::{
        self, Kind, Object, ObjectRef, RouteKind, TargetRef,
        authorization::{PolicyTarget, TargetKind},
        unserved::Target,
    },
    status::Condition,
    world::World,
};

/// Of Gateways, and of what names no group.
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The outcome of compiling a directory.
#[derive(Clone, Debug)]
pub struct Check {
    /// The resources and statuses.
    pub compiled: Compiled,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Why a control plane would not start with this. Other problems it logs, and starts without what is faulty.
    pub refusal: Option<Refusal>,
    /// What is worth knowing but not wrong: kinds that are not used, files that are empty, conditions that do not simply say yes.
    pub notes: Vec<String>,
}

/// Why a control plane does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A policy cannot be understood, and no earlier version of it can stand in.
    Policy(ObjectRef),
    /// The configuration of the mesh cannot be taken, and no earlier version of it can stand in.
    Mesh(ObjectRef),
    /// An object that a policy is, or may be, for cannot be understood: nobody could keep anybody to the policy.
    Attached {
        /// The object.
        object: ObjectRef,
        /// The policy.
        policy: ObjectRef,
    },
    /// An object that decides whom policies are for is defined more than once, and not alike: nobody can say which is meant.
    Twice(ObjectRef),
    /// A route wants requests guarded, and cannot be understood so far that it could be told whose.
    Guard(ObjectRef),
    /// A file cannot be read at all: there may be policies in it.
    Unread(PathBuf),
    /// Nobody can say what this document of a file holds: it may be a policy, or what one is for.
    Unknown(PathBuf, usize),
    /// The source is one file, and something is wrong with it.
    File,
}

/// How to print resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Addresses, authorizations and statuses by name, and what waypoints are told.
    Json,
    /// A local workload file.
    Local,
}

/// Compiles the manifests of a directory, or of one file.
pub fn check(path: &Path, settings: &Settings) -> io::Result<Check> {
    Ok(checked(
        load_for(&read_dir(path)?, None, settings),
        path.is_file(),
        settings,
    ))
}

/// Compiles manifests by file name, as those of a directory.
pub fn check_files(files: &BTreeMap<PathBuf, String>, settings: &Settings) -> Check {
    checked(load_for(files, None, settings), false, settings)
}

/// Why a control plane does not start with what it has loaded for the first time: what is denied for want of an earlier
/// version, a configuration of the mesh that there is none of, or anything that is wrong with a source that is one file `alone`.
pub(crate) fn refusal(loaded: &Loaded, alone: bool, settings: &Settings) -> Option<Refusal> {
    let denied = loaded.world.denials.keys().next();
    let denied = denied.cloned().map(Refusal::Policy);
    let mesh = ObjectRef::new(
        Kind::ConfigMap,
        &settings.root_namespace,
        manifest::mesh::NAME,
    );
    let without = loaded.world.faults.contains_key(&mesh) && loaded.world.object(&mesh).is_none();
    denied
        .or_else(|| without.then_some(Refusal::Mesh(mesh)))
        .or_else(|| attached(&loaded.world))
        .or_else(|| concerned(&loaded.world, settings))
        .or_else(|| twice(loaded, settings))
        .or_else(|| guard(&loaded.world))
        .or_else(|| unread(&loaded.problems))
        .or_else(|| unknown(loaded))
        .or_else(|| (alone && !loaded.problems.is_empty()).then_some(Refusal::File))
}

/// An object that policies are for, or are found by, and that is defined more than once. By a pod they are found in its own
/// namespace and in the root namespace.
fn twice(loaded: &Loaded, settings: &Settings) -> Option<Refusal> {
    let mut doubles = loaded.doubles.iter().filter(|object| match object.kind {
        Kind::Service
        | Kind::ServiceEntry
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::Namespace => true,
        Kind::Pod | Kind::WorkloadEntry => {
            let (root, namespace) = (&settings.root_namespace, &object.namespace);
            concern::of_pods(&loaded.world, root, namespace).is_some()
        }
        _ => false,
    });
    doubles.next().cloned().map(Refusal::Twice)
}

/// A route that guards what nobody can tell.
fn guard(world: &World) -> Option<Refusal> {
    let mut guards = world.refused.iter().filter(|(_, object)| match object {
        Object::Route(route) => !route.rules.is_empty() && !route.is_attached(),
        _ => false,
    });
    Some(Refusal::Guard(guards.next()?.0.clone()))
}

/// A file of which nobody can say what it holds.
fn unread(problems: &[Problem]) -> Option<Refusal> {
    let mut whole = problems
        .iter()
        .filter(|it| it.document.is_none() && it.object.is_none());
    Some(Refusal::Unread(whole.next()?.file.clone()))
}

fn unknown(loaded: &Loaded) -> Option<Refusal> {
    let (file, document) = loaded.unknown.first()?;
    Some(Refusal::Unknown(file.clone(), *document))
}

/// What is attached to something and what that is, if the latter cannot be understood.
fn attached(world: &World) -> Option<Refusal> {
    let policies = world.authorization_policies.values().map(|policy| {
        let meta = &policy.meta;
        let reference = ObjectRef::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
        (reference, &policy.target)
    });
    let tokens = world
        .unserved
        .iter()
        .filter_map(|(reference, object)| match &object.target {
            Target::Tokens(target) => Some((reference.clone(), target)),
            _ => None,
        });
    policies.chain(tokens).find_map(|(policy, target)| {
        let PolicyTarget::Objects(targets) = target else {
            return None;
        };
        let namespace = policy.namespace.as_str();
        let mut named = targets.iter().map(|it| object(namespace, it));
        let object = named.find(|it| world.hides(it))?;
        Some(Refusal::Attached { object, policy })
    })
}

/// What a policy may be for and what that is, if the latter cannot be understood.
fn concerned(world: &World, settings: &Settings) -> Option<Refusal> {
    let hidden = world.faults.keys().filter(|it| world.object(it).is_none());
    let mut refusals = hidden.filter_map(|object| {
        let policy = concern::policy(world, &settings.root_namespace, object)?;
        let object = object.clone();
        Some(Refusal::Attached { object, policy })
    });
    refusals.next()
}

/// The object that a policy of a namespace names.
fn object(namespace: &str, target: &TargetRef) -> ObjectRef {
    let (kind, namespace) = match target.kind {
        TargetKind::Service => (Kind::Service, namespace),
        TargetKind::Gateway => (Kind::Gateway, namespace),
        TargetKind::GatewayClass => (Kind::GatewayClass, ""),
        TargetKind::ServiceEntry => (Kind::ServiceEntry, namespace),
    };
    ObjectRef::new(kind, namespace, &target.name)
}

/// What is worth knowing of objects that no document has any more and that stay nevertheless.
pub fn kept(files: &BTreeMap<PathBuf, BTreeSet<ObjectRef>>) -> Vec<String> {
    let told = files.iter().flat_map(|(file, kept)| {
        kept.iter().map(|it| {
            let file = file.display();
            format!("{file}: {it} is not there any more; it stays as long as nobody can say what all of this file holds")
        })
    });
    told.collect()
}

/// What is worth knowing of kinds that are not used: which of them are called like one that is.
pub fn foreign(unused: &BTreeSet<String>) -> Vec<String> {
    let alike = unused.iter().filter_map(|it| {
        let (version, name) = it.rsplit_once('/')?;
        let kind = Kind::all().find(|kind| kind.as_str() == name)?;
        if version == kind.api_version() {
            return None;
        }
        Some(format!(
            "{name} of {version} is not used: that of {} is",
            kind.api_version()
        ))
    });
    alike.collect()
}

/// What is worth knowing of files that are empty and held nothing before.
pub fn empty(files: &BTreeSet<PathBuf>) -> Vec<String> {
    let told = |file: &PathBuf| format!("{}: the file is empty", file.display());
    files.iter().map(told).collect()
}

/// What is worth knowing of objects that are good, and may not be what somebody meant.
pub fn strange(world: &World) -> Vec<String> {
    let namespaces = world.namespaces.iter().map(|(name, it)| {
        let reference = ObjectRef::new(Kind::Namespace, "", name);
        (reference, &it.meta.labels)
    });
    let pods = world.pods.iter().map(|((namespace, name), it)| {
        let reference = ObjectRef::new(Kind::Pod, namespace, name);
        (reference, &it.meta.labels)
    });
    let modes = namespaces.chain(pods).filter_map(|(reference, labels)| {
        let mode = labels.get(DATAPLANE_MODE)?;
        let known = MODES.contains(&mode.as_str());
        (!known).then(|| format!(
            "{reference}: its label {DATAPLANE_MODE} is {mode:?}, which counts as if it were not there: \"ambient\" is in the mesh, \"none\" is not"
        ))
    });
    modes.chain(strange_parents(world)).collect()
}

/// The values of the label that mean something.
const MODES: [&str; 2] = ["ambient", "none"];

/// What is worth knowing of the parents of routes: which are of no kind that a route could be attached to here, as if misspelt.
/// Nobody else says so, because a status is only for parents that are ours.
pub fn strange_parents(world: &World) -> Vec<String> {
    let kinds = [RouteKind::Http, RouteKind::Grpc, RouteKind::Tcp];
    let routes = kinds.into_iter().flat_map(|kind| world.routes(kind));
    let told = routes.flat_map(|((namespace, name), route)| {
        let reference = ObjectRef::new(Kind::Route(route.kind), namespace, name);
        let known = |group: &str, kind: &str| match kind {
            "Service" => group.is_empty() || group == GATEWAY,
            "Gateway" => group == GATEWAY,
            _ => false,
        };
        let strange = route.parents.iter().filter_map(move |parent| {
            let group = parent.group.as_deref().unwrap_or(GATEWAY);
            let kind = parent.kind.as_deref().unwrap_or("Gateway");
            (!known(group, kind)).then_some((parent, group))
        });
        strange.map(move |(parent, group)| {
            format!(
                "{reference} is not in force at its parent {parent} of group {group:?}: routes are attached to Service of group \
                 \"\" and to Gateway of group {GATEWAY:?}"
            )
        })
    });
    told.collect()
}

fn checked(loaded: Loaded, alone: bool, settings: &Settings) -> Check {
    let refusal = refusal(&loaded, alone, settings);
    let Loaded {
        world,
        problems,
        unused,
        empty,
        ..
    } = loaded;
    let compiled = compile(&world, settings);
    let mut notes: Vec<_> = unused
        .iter()
        .map(|kind| format!("{kind}: not used"))
        .collect();
    notes.extend(self::empty(&empty));
    notes.extend(strange(&world));
    for (object, status) in &compiled.statuses {
        notes.extend(told(&object.to_string(), &status.conditions));
        for parent in &status.parents {
            let at = format!("{object} at {}", parent.parent);
            notes.extend(told(&at, &parent.conditions));
        }
        for listener in &status.listeners {
            let at = format!("{object}, listener {}", listener.name);
            notes.extend(told(&at, &listener.conditions));
        }
    }
    Check {
        compiled,
        problems,
        refusal,
        notes,
    }
}

/// The conditions that have something to say.
fn told(what: &str, conditions: &[Condition]) -> Vec<String> {
    let telling = conditions.iter().filter(|it| !it.message.is_empty());
    let note = |it: &Condition| {
        let holds = if it.holds { "True" } else { "False" };
        format!(
            "{what}: {} {holds} ({}): {}",
            it.kind, it.reason, it.message
        )
    };
    telling.map(note).collect()
}

impl Check {
    /// The resources as text that ends in a newline; with [`Format::Json`] the statuses too.
    pub fn print(&self, format: Format) -> String {
        match format {
            Format::Json => {
                let mut all = json::compiled(&self.compiled);
                all["waypoints"] = json::told(&self.compiled.told);
                format!("{all:#}\n")
            }
            Format::Local => {
                let compiled = &self.compiled;
                local::write(&compiled.own_addresses(), &compiled.authorizations)
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => write!(
                f,
                "a control plane does not start with this: {policy} cannot be understood, and denies for its scope"
            ),
            Self::Mesh(config) => write!(
                f,
                "a control plane does not start with this: {config} configures the mesh, and cannot be taken"
            ),
            Self::Attached { object, policy } => write!(
                f,
                "a control plane does not start with this: {object} cannot be understood, and {policy} is, or may be, for it"
            ),
            Self::Twice(object) => write!(
                f,
                "a control plane does not start with this: {object} is defined more than once, and nobody can say which is meant"
            ),
            Self::Guard(route) => write!(
                f,
                "a control plane does not start with this: {route} cannot be understood, and wants requests guarded without saying whose"
            ),
            Self::Unread(file) => write!(
                f,
                "a control plane does not start with this: {} cannot be read, and nobody knows what it holds",
                file.display()
            ),
            Self::Unknown(file, document) => write!(
                f,
                "a control plane does not start with this: nobody can say what document {document} of {} holds",
                file.display()
            ),
            Self::File => f.write_str(
                "a control plane does not start with this: one file as its source has to be all good",
            ),
        }
    }
}
