//! From the text of files to objects in force, one file after the other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use mesh::local;
use serde_json::Value;

use super::{Loaded, Problem, guess, guess::Guess};
use crate::{
    manifest::{
        self, Document, Fault, Kind, LIMITS, Manifest, Meta, Object, ObjectRef, Refused, Route,
        Service, Unserved, UnservedKind, route::Rule, unserved::Target,
    },
    world::{Denial, Faulty, UNREADABLE},
};

/// What is made so far.
pub(super) struct Loading<'a> {
    pub(super) previous: &'a Loaded,
    pub(super) loaded: Loaded,
    /// What has a name that was read, and is not merely kept.
    pub(super) read: BTreeSet<ObjectRef>,
    /// What has none, until all files are read.
    pub(super) unclear: Vec<Unclear>,
}

/// What of a file has no name, so that it may be anything that the file held before and nobody has now.
pub(super) struct Unclear {
    file: PathBuf,
    nameless: Vec<Nameless>,
    torn: Vec<Torn>,
}

/// A document of stored resources that cannot be read.
struct Torn {
    document: usize,
    /// Those that its policies seem to be of.
    namespaces: BTreeSet<String>,
    fault: Fault,
}

/// A document of which nobody can say which object it holds.
struct Nameless {
    document: usize,
    /// What it seems to be, if that must not get lost.
    guess: Option<Guess>,
    denial: Denial,
    read: Option<Object>,
    faulty: Faulty,
}

impl Loading<'_> {
    pub(super) fn file(&mut self, file: &Path, text: &str) {
        let documents = match readable(text) {
            Ok(documents) => documents,
            Err(reason) => {
                let field = String::new();
                let fault = Fault { field, reason };
                self.problem(file, None, None, fault.clone());
                let documents = manifest::documents(text);
                let guessed = documents.iter().flat_map(|it| unread(it, &fault));
                self.unclear.push(Unclear {
                    file: file.to_owned(),
                    nameless: guessed.collect(),
                    torn: Vec::new(),
                });
                return;
            }
        };
        let (mut nameless, mut torn) = (Vec::new(), Vec::new());
        for document in &documents {
            if looks_stored(document.text) {
                torn.extend(self.stored(file, document));
                continue;
            }
            match manifest::tree(document) {
                Ok(tree) if is_stored(&tree) => torn.extend(self.stored(file, document)),
                Ok(tree) => self.tree(file, document, &tree, &mut nameless),
                Err(fault) => nameless.extend(self.broken(file, document, fault)),
            }
        }
        if !nameless.is_empty() || !torn.is_empty() {
            self.unclear.push(Unclear {
                file: file.to_owned(),
                nameless,
                torn,
            });
        }
    }

    /// To be done once all files are read: only then is it known what is missing.
    pub(super) fn unclear(&mut self) {
        for Unclear {
            file,
            nameless,
            torn,
        } in std::mem::take(&mut self.unclear)
        {
            let kept = self.keep(&file);
            for torn in torn {
                if !self.previous.stored.contains_key(&file) {
                    self.deny_stored(&file, torn);
                }
            }
            self.nameless(&file, nameless, &kept);
        }
    }

    /// A file without content is most likely one that somebody is about to fill: what it held stays. Who wants that gone
    /// removes the file.
    pub(super) fn empty(&mut self, file: &Path) {
        if self.keep(file).is_empty() && !self.previous.stored.contains_key(file) {
            return;
        }
        let field = String::new();
        let reason = EMPTY.to_owned();
        self.problem(file, None, None, Fault { field, reason });
    }

    fn tree(
        &mut self,
        file: &Path,
        document: &Document<'_>,
        tree: &Value,
        nameless: &mut Vec<Nameless>,
    ) {
        let is_list = tree
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.eq_ignore_ascii_case("List"));
        let items = tree.get("items");
        if is_list && items.is_none_or(|items| !items.is_array()) {
            let (field, reason) = ("items".to_owned(), "expected a list".to_owned());
            nameless.extend(self.broken(file, document, Fault { field, reason }));
            return;
        }
        let manifests: Vec<_> = match items.and_then(Value::as_array).filter(|_| is_list) {
            Some(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| manifest::manifest(item, &format!("items[{i}]")))
                .collect(),
            None => vec![manifest::manifest(tree, "")],
        };
        for manifest in manifests {
            match manifest {
                Manifest::Object(object) => self.object(file, document.number, *object),
                Manifest::Unused(kind) => drop(self.loaded.unused.insert(kind)),
                Manifest::Alien(fault) => nameless.extend(self.broken(file, document, fault)),
                Manifest::Refused(refused) => {
                    nameless.extend(self.refused(file, document.number, refused))
                }
            }
        }
    }

    fn object(&mut self, file: &Path, document: usize, object: Object) {
        let reference = object.reference();
        self.read.insert(reference.clone());
        let Some(first) = self.loaded.origins.get(&reference) else {
            self.loaded.origins.insert(reference, file.to_owned());
            return self.loaded.world.insert(object);
        };
        let reason = format!("defined twice, first in {}", first.display());
        let fault = Fault {
            field: String::new(),
            reason,
        };
        let same = self.loaded.world.object(&reference).as_ref() == Some(&object);
        self.problem(file, Some(document), Some(reference.clone()), fault.clone());
        if !same {
            // Which of the two is meant nobody can say; what the other wants counts too.
            self.loaded.doubles.insert(reference.clone());
            let faulty = Faulty {
                generation: object.meta().generation,
                faults: vec![fault],
            };
            let other = match object {
                Object::Route(route) => Some(Object::Route(route.guarded())).filter(guards),
                other => Some(other).filter(is_wish),
            };
            self.stand_in(reference, Denial::default(), other, faulty);
        }
    }

    /// Puts the last good version of an object in force or, for one that never had one, a denial if it is a policy, and
    /// what was `read` of it.
    fn stand_in(
        &mut self,
        reference: ObjectRef,
        denial: Denial,
        read: Option<Object>,
        faulty: Faulty,
    ) {
        let world = &mut self.loaded.world;
        let was = &self.previous.world;
        let mut read = read;
        if let Some(object) = was.object(&reference) {
            world.insert(object);
            // Two of one name: what the other wants counts as long as it is there.
            let other = was.refused.get(&reference);
            read = other.and_then(|other| read.or_else(|| Some(other.clone())));
        } else if reference.kind.is_policy() {
            world.remove(&reference);
            world.denials.insert(reference.clone(), denial);
            read = None;
        }
        if let Some(read) = read {
            let is_route = matches!(reference.kind, Kind::Route(_));
            let in_force = world.object(&reference).is_some();
            match world.refused.get_mut(&reference) {
                // The same once more.
                Some(both) if *both == read => {}
                // One object cannot be two: it is the widest of them.
                Some(Object::Unserved(both)) => both.target = Target::All,
                // Nor has it one set of labels.
                Some(Object::Service(both)) => {
                    both.selector.clear();
                    both.meta = Meta::default();
                }
                Some(Object::Route(both)) => {
                    if let Object::Route(read) = read {
                        add(&mut both.rules, read.rules);
                        add(&mut both.parents, read.parents);
                    }
                }
                // The other one of its name is in force.
                None if is_route && in_force && !guards(&read) => {}
                _ => drop(world.refused.insert(reference.clone(), read)),
            }
        }
        let all = world.faults.entry(reference).or_default();
        all.add(faulty.generation, faulty.faults);
    }

    fn refused(&mut self, file: &Path, document: usize, refused: Refused) -> Option<Nameless> {
        let Refused {
            kind,
            namespace,
            name,
            generation,
            selector,
            targets,
            read,
            faults,
        } = refused;
        let read = read.map(|read| *read);
        let denial = Denial { selector, targets };
        let reference = name.map(|name| ObjectRef {
            kind,
            namespace: namespace.clone(),
            name,
        });
        for fault in &faults {
            self.problem(file, Some(document), reference.clone(), fault.clone());
        }
        self.read.extend(reference.clone());
        let faulty = Faulty { generation, faults };
        let Some(reference) = reference else {
            let counts = kind.is_policy()
                || guess::TARGETS.contains(&kind)
                || read.as_ref().is_some_and(|it| is_wish(it) || guards(it));
            let guess = counts.then_some(Guess {
                kind,
                namespace,
                name: None,
            });
            return Some(Nameless {
                document,
                guess,
                denial,
                read,
                faulty,
            });
        };
        if self
            .loaded
            .origins
            .insert(reference.clone(), file.to_owned())
            .is_some()
        {
            if self.loaded.world.object(&reference).is_some() {
                self.loaded.doubles.insert(reference.clone());
            }
            let reason = "defined twice".to_owned();
            self.problem(
                file,
                Some(document),
                Some(reference.clone()),
                Fault {
                    field: String::new(),
                    reason,
                },
            );
            self.stand_in(reference, Denial::default(), read, faulty);
        } else {
            self.stand_in(reference, denial, read, faulty);
        }
        None
    }

    fn broken(&mut self, file: &Path, document: &Document<'_>, fault: Fault) -> Vec<Nameless> {
        self.problem(file, Some(document.number), None, fault.clone());
        unread(document, &fault)
    }

    /// What a nameless document held is among the objects of its file that are missing now: all of those stay. It denies
    /// if it seems to be a policy and no policy of that kind was missing: a denial that stays is some other document's.
    fn nameless(&mut self, file: &Path, all: Vec<Nameless>, kept: &[ObjectRef]) {
        for Nameless {
            document,
            guess,
            denial,
            read,
            faulty,
        } in all
        {
            let Some(Guess {
                kind,
                namespace,
                name,
            }) = guess
            else {
                continue;
            };
            let named = name.map(|name| ObjectRef {
                kind,
                namespace: namespace.clone(),
                name,
            });
            // What has its name is another one.
            let named = named.filter(|reference| !self.read.contains(reference));
            let stays = match &named {
                Some(reference) => self.loaded.origins.contains_key(reference),
                None => kept.iter().any(|reference| {
                    reference.kind == kind && self.previous.world.object(reference).is_some()
                }),
            };
            if !stays {
                // It has to be called something; no object can be called what is made up here.
                let reference = named.unwrap_or_else(|| ObjectRef {
                    kind,
                    namespace,
                    name: unreadable(file, document),
                });
                self.loaded
                    .origins
                    .insert(reference.clone(), file.to_owned());
                self.loaded.world.faults.remove(&reference);
                self.loaded.world.refused.remove(&reference);
                self.stand_in(reference, denial, read, faulty);
            }
        }
    }

    /// Keeps what the file held before and is not there now.
    fn keep(&mut self, file: &Path) -> Vec<ObjectRef> {
        let mut kept = Vec::new();
        for (reference, _) in self
            .previous
            .origins
            .iter()
            .filter(|(_, origin)| *origin == file)
        {
            if self.loaded.origins.contains_key(reference) {
                continue;
            }
            let (was, now) = (&self.previous.world, &mut self.loaded.world);
            match (was.denials.get(reference), was.object(reference)) {
                (Some(denial), _) => drop(now.denials.insert(reference.clone(), denial.clone())),
                (None, Some(object)) => now.insert(object),
                (None, None) if !was.refused.contains_key(reference) => continue,
                (None, None) => {}
            }
            if let Some(read) = was.refused.get(reference) {
                now.refused.insert(reference.clone(), read.clone());
            }
            if let Some(faults) = was.faults.get(reference) {
                now.faults.insert(reference.clone(), faults.clone());
            }
            self.loaded
                .origins
                .insert(reference.clone(), file.to_owned());
            kept.push(reference.clone());
        }
        if let Some(was) = self.previous.stored.get(file).cloned() {
            let now = self.loaded.stored.entry(file.to_owned()).or_default();
            for (name, address) in was.addresses {
                now.addresses.entry(name).or_insert(address);
            }
            for (name, policy) in was.authorizations {
                now.authorizations.entry(name).or_insert(policy);
            }
        }
        kept
    }

    /// What the document seems to be about, if it cannot be read.
    fn stored(&mut self, file: &Path, document: &Document<'_>) -> Option<Torn> {
        match local::parse(document.text) {
            Ok(stored) => {
                let all = self.loaded.stored.entry(file.to_owned()).or_default();
                all.addresses.extend(stored.addresses);
                all.authorizations.extend(stored.authorizations);
                None
            }
            Err(error) => {
                let fault = Fault {
                    field: error.field,
                    reason: error.reason,
                };
                self.problem(file, Some(document.number), None, fault.clone());
                let namespaces = guess::policy_namespaces(document.text);
                Some(Torn {
                    document: document.number,
                    namespaces: namespaces.into_iter().map(str::to_owned).collect(),
                    fault,
                })
            }
        }
    }

    /// Denies in every namespace that the policies of an unreadable stored file seem to be of.
    fn deny_stored(&mut self, file: &Path, torn: Torn) {
        for namespace in torn.namespaces {
            let name = unreadable(file, torn.document);
            let reference = ObjectRef::new(Kind::AuthorizationPolicy, &namespace, &name);
            self.loaded
                .origins
                .insert(reference.clone(), file.to_owned());
            // Of the faults that were kept this is the newest wording, and not one more.
            self.loaded.world.faults.remove(&reference);
            self.stand_in(
                reference,
                Denial::default(),
                None,
                unversioned(torn.fault.clone()),
            );
        }
    }

    fn problem(
        &mut self,
        file: &Path,
        document: Option<usize>,
        object: Option<ObjectRef>,
        fault: Fault,
    ) {
        let Fault { field, reason } = fault;
        self.loaded.problems.push(Problem {
            file: file.to_owned(),
            document,
            object,
            field,
            reason,
        });
    }
}

/// Adds what is not among them yet.
fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// What can be seen of a document that cannot be read: at least one, even if nothing tells what that is.
fn unread(document: &Document<'_>, fault: &Fault) -> Vec<Nameless> {
    let mut guesses: Vec<_> = guess::objects(document.text)
        .into_iter()
        .map(Some)
        .collect();
    if guesses.is_empty() {
        guesses.push(None);
    }
    let all = guesses.into_iter();
    all.map(|guess| guessed(document, guess, fault.clone()))
        .collect()
}

fn guessed(document: &Document<'_>, guess: Option<Guess>, fault: Fault) -> Nameless {
    let read = guess.as_ref().and_then(|guess| match guess.kind {
        Kind::Service => Some(Object::Service(Service::default())),
        Kind::Route(kind) => Some(Object::Route(Route {
            meta: Meta::default(),
            kind,
            parents: Vec::new(),
            hostnames: Vec::new(),
            rules: vec![Rule::default()],
        })),
        Kind::Unserved(kind @ (UnservedKind::BackendTlsPolicy | UnservedKind::DestinationRule)) => {
            Some(Object::Unserved(Unserved {
                meta: Meta::default(),
                kind,
                target: Target::All,
            }))
        }
        _ => None,
    });
    Nameless {
        document: document.number,
        guess,
        denial: Denial::default(),
        read,
        faulty: unversioned(fault),
    }
}

/// A version of which nobody knows the generation.
fn unversioned(fault: Fault) -> Faulty {
    Faulty {
        generation: 0,
        faults: vec![fault],
    }
}

/// Whether this wants TLS for somebody.
fn is_wish(object: &Object) -> bool {
    match object {
        Object::Unserved(object) => matches!(
            object.target,
            Target::All | Target::Services(_) | Target::Host(_)
        ),
        _ => false,
    }
}

/// Whether this, of which not all can be read, wants requests guarded.
fn guards(read: &Object) -> bool {
    matches!(read, Object::Route(route) if !route.rules.is_empty())
}

/// The documents of a file that is within the limits.
fn readable(text: &str) -> Result<Vec<Document<'_>>, String> {
    if text.len() > LIMITS.file {
        return Err(format!("larger than {} bytes", LIMITS.file));
    }
    if text.contains('\u{fffd}') {
        return Err("not UTF-8 text".to_owned());
    }
    let documents = manifest::documents(text);
    if documents.len() > LIMITS.documents {
        return Err(format!("more than {} documents", LIMITS.documents));
    }
    Ok(documents)
}

/// Whether this is, by the looks of it, a local workload file: such are large, and are parsed only once.
fn looks_stored(text: &str) -> bool {
    let mut keys = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    keys.next().is_some_and(|line| {
        STORED
            .iter()
            .any(|key| line.strip_prefix(key).is_some_and(|it| it.starts_with(':')))
    })
}

const EMPTY: &str = "the file is empty; remove the file to remove its objects";

const STORED: [&str; 3] = ["workloads", "services", "policies"];

/// A local workload file has none of what makes a manifest.
fn is_stored(tree: &Value) -> bool {
    let has = |key: &str| tree.get(key).is_some();
    !has("kind") && !has("apiVersion") && STORED.into_iter().any(has)
}

fn unreadable(file: &Path, document: usize) -> String {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    let stem: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("{UNREADABLE}{stem}_{document}")
}
