//! What of the files has no name, so that it may be anything that was there before and nobody has now.
//!
//! Only once all files are read it is known what is missing. What a file held stays as long as nobody can say what all
//! of it is, or its end is wrong, where more may have been. So does what another file held, if it may have been moved into what cannot be read.

use std::{
    collections::BTreeSet,
    mem,
    path::{Path, PathBuf},
};

use mesh::local::Local;

use super::{
    guess::{self, Guess},
    loading::Loading,
};
use crate::{
    manifest::{
        Document, Fault, Kind, Meta, Object, ObjectRef, Route, Service, ServiceEntry, Unserved,
        UnservedKind, Vague, route::Rule, unserved::Target,
    },
    world::{Denial, Faulty, UNREADABLE},
};

/// What of a file has no name, so that it may be anything that the file held before and nobody has now.
pub(super) struct Unclear {
    pub(super) file: PathBuf,
    pub(super) nameless: Vec<Nameless>,
    pub(super) torn: Vec<Torn>,
    /// By document: what may be one of several objects.
    pub(super) vague: Vec<(usize, Vague)>,
    /// The kinds of which it may hold what other files held before.
    pub(super) kinds: BTreeSet<Kind>,
}

/// A document of stored resources that cannot be read.
pub(super) struct Torn {
    pub(super) document: usize,
    /// Those that its policies seem to be of.
    pub(super) namespaces: BTreeSet<String>,
    pub(super) fault: Fault,
}

/// A document of which nobody can say which object it holds.
pub(super) struct Nameless {
    pub(super) document: usize,
    /// What it seems to be.
    pub(super) guess: Guess,
    pub(super) denial: Denial,
    pub(super) read: Option<Object>,
    pub(super) faulty: Faulty,
}

impl Unclear {
    /// Nothing yet.
    pub(super) fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            nameless: Vec::new(),
            torn: Vec::new(),
            vague: Vec::new(),
            kinds: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let nothing = self.nameless.is_empty() && self.torn.is_empty();
        nothing && self.vague.is_empty() && self.kinds.is_empty()
    }
}

impl Loading<'_> {
    /// To be done once all files are read, with those that are `empty`: only then is it known what is missing.
    pub(super) fn missing(&mut self, empty: &[&PathBuf]) {
        let all = mem::take(&mut self.unclear);
        self.foreign();
        let mut unsure = mem::take(&mut self.unsure);
        unsure.extend(all.iter().map(|it| it.file.clone()));
        for file in &unsure {
            let mut kept = self.keep(file);
            kept.retain(|it| self.previous.world.object(it).is_some());
            self.loaded.kept.insert(file.clone(), kept);
        }
        empty.iter().for_each(|file| self.empty(file));
        // Only what none of these held itself may have been moved.
        let moved: Vec<_> = all.iter().map(|it| self.moved(it)).collect();
        let mut done = BTreeSet::new();
        let mut named = Vec::new();
        for (unclear, mut kept) in all.into_iter().zip(moved) {
            let own = self.loaded.kept.get(&unclear.file);
            kept.extend(own.into_iter().flatten().cloned());
            let Unclear {
                file,
                mut nameless,
                torn,
                vague,
                ..
            } = unclear;
            for (document, vague) in vague {
                match vague.refused.name {
                    Some(_) => named.push((file.clone(), vague)),
                    None => nameless.extend(self.unnamed(document, vague)),
                }
            }
            for torn in torn {
                if !self.previous.stored.contains_key(&file) {
                    self.deny_stored(&file, torn);
                }
            }
            self.nameless(&file, nameless, &kept, &mut done);
        }
        self.named(&named, &mut done);
        for kept in self.loaded.kept.values_mut() {
            kept.retain(|it| !done.contains(it));
        }
    }

    /// A file without content is most likely one that somebody is about to fill: what it held stays. Who wants that gone
    /// removes the file.
    fn empty(&mut self, file: &Path) {
        if self.keep(file).is_empty() && !self.previous.stored.contains_key(file) {
            self.loaded.empty.insert(file.to_owned());
            return;
        }
        let field = String::new();
        let reason = EMPTY.to_owned();
        self.problem(file, None, None, Fault { field, reason });
    }

    /// What a nameless document held is among the objects of its file that are missing now: all of those stay. It denies
    /// if it seems to be a policy and none is left that it may be: each is one document's, of its own name if there is one.
    fn nameless(
        &mut self,
        file: &Path,
        all: Vec<Nameless>,
        kept: &BTreeSet<ObjectRef>,
        done: &mut BTreeSet<ObjectRef>,
    ) {
        let mut missing = kept.clone();
        for named in all.iter().filter_map(|it| it.guess.reference()) {
            missing.remove(&named);
        }
        for Nameless {
            document,
            guess,
            denial,
            read,
            faulty,
        } in all
        {
            // What has its name is another one.
            let named = guess.reference().filter(|it| !self.read.contains(it));
            done.extend(named.clone());
            let Guess {
                kind,
                namespace,
                sure,
                ..
            } = guess;
            let may_be = |it: &&ObjectRef| match sure || !kind.is_policy() {
                true => it.kind == kind && named.is_none(),
                false => it.kind.is_policy(),
            };
            let stays = match &named {
                Some(named) if self.loaded.origins.contains_key(named) => true,
                _ => missing
                    .iter()
                    .find(may_be)
                    .cloned()
                    .is_some_and(|it| missing.remove(&it)),
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

    /// What is of a group that nobody knows, while an object of its name is missing that was in its file: the group is a slip,
    /// unless it was there beside that.
    fn foreign(&mut self) {
        for (file, document, was) in mem::take(&mut self.foreign) {
            let previous = self.previous;
            let is_gone = previous.origins.get(&was) == Some(&file) && !self.read.contains(&was);
            let place = (file, was);
            let was_beside = previous.foreign.contains(&place);
            if !is_gone || was_beside || previous.world.object(&place.1).is_none() {
                self.loaded.foreign.insert(place);
                continue;
            }
            let (file, was) = place;
            let field = "apiVersion".to_owned();
            let version = was.kind.api_version();
            let reason = format!(
                "not of {version}, as it was; to remove that, remove this too, and save it again later"
            );
            self.problem(&file, Some(document), Some(was), Fault { field, reason });
            self.unsure.insert(file);
        }
    }

    /// Keeps what the file held before and is not there now.
    fn keep(&mut self, file: &Path) -> BTreeSet<ObjectRef> {
        let previous = self.previous;
        let all = previous.origins.iter();
        let own = all.filter(|(_, origin)| *origin == file);
        let own = own.map(|(reference, _)| reference);
        let kept = own.filter(|it| self.stays(it, file)).cloned().collect();
        if let Some(was) = previous.stored.get(file).cloned() {
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

    /// Keeps the last good version of what other files held before and no file has now, if it may have been moved to where
    /// it cannot be read.
    fn moved(&mut self, to: &Unclear) -> BTreeSet<ObjectRef> {
        let previous = self.previous;
        let objects = previous.origins.keys();
        let objects = objects.filter(|it| to.kinds.contains(&it.kind));
        let good = objects.filter(|it| previous.world.object(it).is_some());
        let kept = good
            .filter(|it| self.stays(it, &to.file))
            .cloned()
            .collect();
        if !to.torn.is_empty() {
            self.moved_stored(&to.file);
        }
        kept
    }

    fn moved_stored(&mut self, file: &Path) {
        let all = &mut self.loaded.stored;
        let mut here = all.remove(file).unwrap_or_default();
        for was in self.previous.stored.values() {
            for (name, address) in &was.addresses {
                if !all.values().any(|it| it.addresses.contains_key(name)) {
                    let entry = here.addresses.entry(name.clone());
                    entry.or_insert_with(|| address.clone());
                }
            }
            for (name, policy) in &was.authorizations {
                if !all.values().any(|it| it.authorizations.contains_key(name)) {
                    let entry = here.authorizations.entry(name.clone());
                    entry.or_insert_with(|| policy.clone());
                }
            }
        }
        if here != Local::default() {
            all.insert(file.to_owned(), here);
        }
    }

    /// Keeps an object as one of this file, unless there is one of its name. Says whether it did.
    fn stays(&mut self, reference: &ObjectRef, file: &Path) -> bool {
        if self.loaded.origins.contains_key(reference) {
            return false;
        }
        let was = &self.previous.world;
        let is_known = was.denials.contains_key(reference)
            || was.refused.contains_key(reference)
            || was.object(reference).is_some();
        if !is_known {
            return false;
        }
        self.loaded.world.put_back(reference, was);
        let origins = &mut self.loaded.origins;
        origins.insert(reference.clone(), file.to_owned());
        true
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
}

/// What can be seen of a document that cannot be read, of what must not get lost.
pub(super) fn unread(document: &Document<'_>, fault: &Fault) -> Vec<Nameless> {
    let guesses = guess::objects(document.text).into_iter();
    guesses
        .map(|guess| guessed(document, guess, fault.clone()))
        .collect()
}

fn guessed(document: &Document<'_>, guess: Guess, fault: Fault) -> Nameless {
    let read = match guess.kind {
        Kind::Service => Some(Object::Service(Service::default())),
        Kind::ServiceEntry => Some(Object::ServiceEntry(ServiceEntry::unknown(Meta::default()))),
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
    };
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

const EMPTY: &str = "the file is empty; remove the file to remove its objects";
