//! From the text of files to objects in force, one file after the other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use mesh::local;
use serde_json::Value;

use super::{
    Loaded, Problem,
    guess::{self, Guess, is_list},
    nameless::{Nameless, Torn, Unclear, unread},
};
use crate::{
    manifest::{
        self, Document, Fault, Kind, LIMITS, Manifest, Meta, Object, ObjectRef, Refused,
        service_entry::Members, unserved::Target,
    },
    world::{Denial, Faulty},
};

/// What is made so far.
pub(super) struct Loading<'a> {
    pub(super) previous: &'a Loaded,
    pub(super) loaded: Loaded,
    /// What has a name that was read, and is not merely kept.
    pub(super) read: BTreeSet<ObjectRef>,
    /// What has none, until all files are read.
    pub(super) unclear: Vec<Unclear>,
    /// What is of a group that is not served, by file and document: what it would be in the group that is.
    pub(super) foreign: Vec<(PathBuf, usize, ObjectRef)>,
    /// Files that may have held more than can be seen.
    pub(super) unsure: BTreeSet<PathBuf>,
}

impl Loading<'_> {
    pub(super) fn file(&mut self, file: &Path, text: &str) {
        let mut unclear = Unclear::of(file);
        let documents = match readable(text) {
            Ok(documents) => documents,
            Err(reason) => {
                let field = String::new();
                let fault = Fault { field, reason };
                self.problem(file, None, None, fault.clone());
                let documents = manifest::documents(text);
                let guessed = documents.iter().flat_map(|it| unread(it, &fault));
                unclear.nameless.extend(guessed);
                unclear.kinds.extend(Kind::all());
                return self.unclear.push(unclear);
            }
        };
        for document in &documents {
            if looks_stored(document.text) {
                unclear.torn.extend(self.stored(file, document));
                continue;
            }
            match manifest::tree(document) {
                Ok(tree) if is_stored(&tree) => unclear.torn.extend(self.stored(file, document)),
                Ok(tree) => self.tree((file, document), (&tree, ""), &mut unclear),
                Err(fault) => {
                    unclear.kinds.extend(guess::kinds(document.text));
                    let nameless = self.broken(file, document, fault);
                    unclear.nameless.extend(nameless);
                    self.unknown(file, document.number);
                }
            }
        }
        // A file that is cut ends in a document that may be YAML, and is faulty.
        let last = documents.last().map(|it| it.number);
        let mut problems = self.loaded.problems.iter().rev();
        if problems.any(|it| it.file == file && it.document == last) {
            self.unsure.insert(file.to_owned());
        }
        if !unclear.is_empty() {
            self.unclear.push(unclear);
        }
    }

    /// What stands at this path of a document.
    fn tree(
        &mut self,
        (file, document): (&Path, &Document<'_>),
        (tree, path): (&Value, &str),
        unclear: &mut Unclear,
    ) {
        let kind = tree.get("kind").and_then(Value::as_str);
        if kind.is_some_and(is_list) {
            return self.list((file, document), (tree, path), unclear);
        }
        match manifest::manifest(tree, path) {
            Manifest::Object(object) => self.object(file, document.number, *object),
            Manifest::Unused(kind) => {
                self.loaded.unused.insert(kind);
                let alike = manifest::alike(tree).into_iter();
                let alike = alike.map(|it| (file.to_owned(), document.number, it));
                self.foreign.extend(alike);
            }
            Manifest::Alien(_) | Manifest::Vague(_) if items(tree).is_some() => {
                let reason = format!("it has items, and is no {LIST}");
                let field = path.to_owned();
                self.problem(file, Some(document.number), None, Fault { field, reason });
                self.unknown(file, document.number);
                self.list((file, document), (tree, path), unclear);
            }
            Manifest::Alien(fault) => {
                let nameless = self.broken(file, document, fault);
                unclear.nameless.extend(nameless);
                unclear.kinds.extend(Kind::all());
                self.unknown(file, document.number);
            }
            Manifest::Vague(vague) => {
                if vague.refused.name.is_none() {
                    self.unknown(file, document.number);
                }
                self.vague((file, document.number), vague, unclear);
            }
            Manifest::Refused(refused) => {
                if refused.name.is_none() {
                    unclear.kinds.insert(refused.kind);
                }
                let nameless = self.refused(file, document.number, refused);
                unclear.nameless.extend(nameless);
            }
        }
    }

    fn list(
        &mut self,
        (file, document): (&Path, &Document<'_>),
        (tree, path): (&Value, &str),
        unclear: &mut Unclear,
    ) {
        let begin = if path.is_empty() { "" } else { "." };
        let field = match tree {
            Value::Array(_) => path.to_owned(),
            _ => format!("{path}{begin}items"),
        };
        let Some(items) = items(tree) else {
            let reason = "expected a list".to_owned();
            let nameless = self.broken(file, document, Fault { field, reason });
            unclear.nameless.extend(nameless);
            self.unknown(file, document.number);
            return unclear.kinds.extend(Kind::all());
        };
        for (i, item) in items.iter().enumerate() {
            let path = format!("{field}[{i}]");
            self.tree((file, document), (item, &path), unclear);
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
    pub(super) fn stand_in(
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
                Some(Object::ServiceEntry(both)) => {
                    if let Object::ServiceEntry(read) = read {
                        add(&mut both.hosts, read.hosts);
                        add(&mut both.addresses, read.addresses);
                    }
                    both.members = Members::Unknown;
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
            let guess = Guess {
                kind,
                namespace,
                name: None,
                sure: true,
            };
            return counts.then_some(Nameless {
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

    fn unknown(&mut self, file: &Path, document: usize) {
        self.loaded.unknown.insert((file.to_owned(), document));
    }

    fn broken(&mut self, file: &Path, document: &Document<'_>, fault: Fault) -> Vec<Nameless> {
        self.problem(file, Some(document.number), None, fault.clone());
        unread(document, &fault)
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

    pub(super) fn problem(
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

/// What holds other objects.
const LIST: &str = "List";

/// What a list holds, or what seems to be one.
fn items(tree: &Value) -> Option<&Vec<Value>> {
    tree.get("items").unwrap_or(tree).as_array()
}

/// Adds what is not among them yet.
fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
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

/// What begins the text that stands for a file without one; what follows it says why. A file with text that begins
/// so is not UTF-8, and cannot be read either.
pub(super) const UNREAD: &str = "\u{fffd}cannot be read";

/// Whether a file can be read and has no document: nothing but comments and the like.
pub(super) fn is_empty(text: &str) -> bool {
    readable(text).is_ok_and(|documents| documents.is_empty())
}

/// The documents of a file that is within the limits.
fn readable(text: &str) -> Result<Vec<Document<'_>>, String> {
    if text.starts_with(UNREAD) {
        return Err(text.trim_start_matches('\u{fffd}').to_owned());
    }
    if text.len() > LIMITS.file {
        return Err(format!("larger than {} bytes", LIMITS.file));
    }
    if text.contains('\u{fffd}') {
        return Err("not UTF-8 text".to_owned());
    }
    // To YAML these end lines, to others not: a comment would hide all that follows.
    let mut returns = text.match_indices('\r').map(|(at, _)| &text[at + 1..]);
    if returns.any(|rest| !rest.starts_with('\n')) {
        return Err("lines that end in a lone carriage return".to_owned());
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

const STORED: [&str; 3] = ["workloads", "services", "policies"];

/// A local workload file has none of what makes a manifest.
fn is_stored(tree: &Value) -> bool {
    let has = |key: &str| tree.get(key).is_some();
    !has("kind") && !has("apiVersion") && STORED.into_iter().any(has)
}
