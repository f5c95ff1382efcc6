//! What of the files may be one of several objects: of a kind like none that is known, or in a namespace that cannot be read.
//!
//! As with what is [`nameless`](super::nameless), only once all files are read it is known what is missing.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    guess::{self, Guess},
    loading::Loading,
    nameless::{Nameless, Unclear},
};
use crate::{
    manifest::{Kind, Object, ObjectRef, Refused, Route, Service, Unserved, Vague},
    world::{Denial, Faulty, UNREADABLE},
};

impl Loading<'_> {
    /// To be decided once all files are read: only then is it known which of the objects that it may be are missing.
    pub(super) fn vague(
        &mut self,
        (file, document): (&Path, usize),
        vague: Vague,
        unclear: &mut Unclear,
    ) {
        let refused = &vague.refused;
        let known = !vague.anywhere && vague.likely.len() == 1;
        let named = refused.name.as_ref().filter(|_| known);
        let reference = named.map(|name| ObjectRef::new(refused.kind, &refused.namespace, name));
        for fault in &refused.faults {
            self.problem(file, Some(document), reference.clone(), fault.clone());
        }
        if refused.name.is_none() {
            unclear.kinds.extend(&vague.may_be);
        }
        unclear.vague.push((document, vague));
    }

    /// Lets those that have a name stand in for what they may be, unless this is among what stood in for something already
    /// (`done`).
    pub(super) fn named(&mut self, named: &[(PathBuf, Vague)], done: &mut BTreeSet<ObjectRef>) {
        for (file, vague) in named {
            for reference in self.likeliest(vague) {
                self.count_as(file, vague, reference, done);
            }
        }
        // What stood in for something may be what none of these is: whatever they are it is theirs to say.
        let theirs = done.clone();
        for (file, vague) in named {
            for reference in self.denied(vague) {
                if !theirs.contains(&reference) {
                    self.count_as(file, vague, reference, done);
                }
            }
        }
    }

    /// Whatever it may be that was good and is missing now; if there is nothing, what it is most like. What stands in for
    /// something says nothing of what this is.
    fn likeliest(&self, vague: &Vague) -> BTreeSet<ObjectRef> {
        let good = self.gone(vague);
        let good = good.filter(|it| self.previous.world.object(it).is_some());
        let good: BTreeSet<_> = good.cloned().collect();
        if !good.is_empty() {
            return good;
        }
        let name = vague.refused.name.clone().unwrap_or_default();
        let of = |kind: Kind| {
            let homes = self.homes(kind, vague).into_iter();
            homes.map(move |home| (kind, home))
        };
        let likely = vague.likely.iter().copied().flat_map(of);
        let likely = likely.map(|(kind, home)| ObjectRef::new(kind, &home, &name));
        likely.filter(|it| !self.read.contains(it)).collect()
    }

    /// What it may be that was denied and is missing now.
    fn denied(&self, vague: &Vague) -> Vec<ObjectRef> {
        let denials = &self.previous.world.denials;
        let gone = self.gone(vague);
        gone.filter(|it| denials.contains_key(it))
            .cloned()
            .collect()
    }

    /// What it may be, of all that was there before and no document has the name of now.
    fn gone(&self, vague: &Vague) -> impl Iterator<Item = &ObjectRef> {
        let all = self.previous.origins.keys();
        all.filter(|it| vague.may_be(it) && !self.read.contains(it))
    }

    /// Lets a document stand in for an object: the first as if nothing had been known of it, those that follow beside it.
    fn count_as(
        &mut self,
        file: &Path,
        vague: &Vague,
        reference: ObjectRef,
        done: &mut BTreeSet<ObjectRef>,
    ) {
        let (mut denial, read, faulty) = vague.version(reference.kind, &reference.namespace);
        let origins = &mut self.loaded.origins;
        origins.insert(reference.clone(), file.to_owned());
        if done.insert(reference.clone()) {
            // What was kept is of the version before.
            self.loaded.world.faults.remove(&reference);
            self.loaded.world.refused.remove(&reference);
        } else {
            denial = Denial::default();
        }
        self.stand_in(reference, denial, read, faulty);
    }

    /// One for each namespace that it may be of. What is like no kind that is known counts as none.
    pub(super) fn unnamed(&self, document: usize, vague: Vague) -> Vec<Nameless> {
        let kind = vague.refused.kind;
        let counts = kind.is_policy()
            || guess::TARGETS.contains(&kind)
            || match vague.refused.read.as_deref() {
                Some(Object::Route(route)) => !route.rules.is_empty(),
                Some(Object::Unserved(_)) => true,
                _ => false,
            };
        let homes = match vague.likely.as_slice() {
            [_] if counts => self.homes(kind, &vague),
            _ => BTreeSet::new(),
        };
        let nameless = |home: String| {
            let (denial, read, faulty) = vague.version(kind, &home);
            let guess = Guess {
                kind,
                namespace: home,
                name: None,
                sure: !vague.anywhere,
            };
            Nameless {
                document,
                guess,
                denial,
                read,
                faulty,
            }
        };
        homes.into_iter().map(nameless).collect()
    }

    /// The namespaces that it may be of: all in which something was read well, because nobody knows of others. A policy denies in
    /// one alone.
    fn homes(&self, kind: Kind, vague: &Vague) -> BTreeSet<String> {
        let own = [vague.refused.namespace.clone()];
        if !kind.namespaced() {
            return [String::new()].into();
        }
        if !vague.anywhere || kind.is_policy() {
            return own.into();
        }
        // Not of what stands in for something: that is for this to say.
        let homes = self.read.iter().map(|it| match it.kind {
            Kind::Namespace => &it.name,
            _ => &it.namespace,
        });
        let homes = homes.filter(|it| !it.is_empty() && !it.starts_with(UNREADABLE));
        homes.cloned().chain(own).collect()
    }
}

impl Vague {
    /// Whether it may be this object.
    fn may_be(&self, it: &ObjectRef) -> bool {
        let here = self.anywhere || !it.kind.namespaced() || it.namespace == self.refused.namespace;
        let named = self.refused.name.as_ref() == Some(&it.name);
        here && named && self.may_be.contains(&it.kind)
    }

    /// What is known of it as an object of this kind and namespace.
    fn version(&self, kind: Kind, home: &str) -> (Denial, Option<Object>, Faulty) {
        let Refused {
            selector,
            targets,
            generation,
            read,
            faults,
            ..
        } = self.refused.clone();
        let mut read = read.map(|read| *read);
        read = read.filter(|it| it.reference().kind == kind);
        match &mut read {
            Some(Object::Service(Service { meta, .. }))
            | Some(Object::Route(Route { meta, .. }))
            | Some(Object::Unserved(Unserved { meta, .. })) => home.clone_into(&mut meta.namespace),
            _ => {}
        }
        (
            Denial { selector, targets },
            read,
            Faulty { generation, faults },
        )
    }
}
