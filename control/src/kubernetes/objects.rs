//! The stored objects of a cluster as a [`World`]: what each is now, and nothing of what it was before. Pure.
//!
//! An API server keeps one version of an object, so there is no last good one to go back to as there is with files: a
//! second replica, or the same one after a restart, could not know it. A policy that cannot be understood denies for its
//! scope; of another object counts what could be read of it, and its faults are told in its status.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::status;
use crate::{
    manifest::{
        self, Fault, Kind, Manifest, Object, ObjectRef, Refused, authorization::PolicyTarget,
        unserved::Target,
    },
    world::{Denial, Faulty, World},
};

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An object is there, or is another than before.
    Stored(Box<Stored>),
    /// An object is gone.
    Gone(ObjectRef),
    /// These are all of a kind.
    All(Kind, Vec<Stored>),
}

/// An object as read, without what the mesh does not act on.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    reference: ObjectRef,
    manifest: Manifest,
    written: Option<Written>,
}

/// What is in the status of an object whose owner may have to be told something, and which version of the object
/// that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `apiVersion`.
    pub api_version: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `status`, or null.
    pub status: Value,
}

impl Stored {
    /// The same, as something that is refused for this too.
    #[must_use]
    pub fn refused_for(mut self, fault: &Fault) -> Self {
        self.manifest = faulty(self.manifest, fault);
        self
    }

    /// Reads an object of a kind. `None` if it is not one, or one that the mesh has no use for.
    pub fn read(kind: Kind, tree: &Value) -> Option<Self> {
        let metadata = tree.get("metadata")?;
        let part = |key: &str| metadata.get(key).and_then(Value::as_str);
        let namespace = part("namespace").filter(|_| kind.namespaced());
        let reference = ObjectRef::new(kind, namespace.unwrap_or_default(), part("name")?);
        match manifest::manifest(tree, "") {
            // A stored object has a kind and a namespace.
            Manifest::Unused(_) | Manifest::Vague(_) | Manifest::Alien(_) => None,
            manifest => Some(Self {
                reference,
                manifest,
                written: status::is_told(kind).then(|| Written {
                    api_version: text(tree, "apiVersion"),
                    version: text(metadata, "resourceVersion"),
                    uid: text(metadata, "uid"),
                    status: tree.get("status").cloned().unwrap_or_default(),
                }),
            }),
        }
    }
}

/// An object as one that is faulty: what it is for is known as far as it is written there.
fn faulty(manifest: Manifest, fault: &Fault) -> Manifest {
    match manifest {
        Manifest::Refused(mut refused) => {
            refused.faults.push(fault.clone());
            Manifest::Refused(refused)
        }
        Manifest::Object(object) => {
            let reference = object.reference();
            let (selector, targets) = match scope(&object) {
                PolicyTarget::Everything => (None, Vec::new()),
                PolicyTarget::Workloads(selector) => (Some(selector), Vec::new()),
                PolicyTarget::Objects(targets) => (None, targets),
            };
            Manifest::Refused(Refused {
                kind: reference.kind,
                namespace: reference.namespace,
                name: Some(reference.name),
                generation: object.meta().generation,
                selector,
                targets,
                read: None,
                faults: vec![fault.clone()],
            })
        }
        other => other,
    }
}

fn scope(object: &Object) -> PolicyTarget {
    match object {
        Object::AuthorizationPolicy(policy) => policy.target.clone(),
        Object::PeerAuthentication(policy) => match &policy.selector {
            Some(selector) => PolicyTarget::Workloads(selector.clone()),
            None => PolicyTarget::Everything,
        },
        Object::Unserved(object) => match &object.target {
            Target::Tokens(target) => target.clone(),
            _ => PolicyTarget::Everything,
        },
        _ => PolicyTarget::Everything,
    }
}

fn text(tree: &Value, key: &str) -> String {
    let text = tree.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// All objects of a cluster, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    world: World,
    /// Which objects there are; of some the world has only that they are faulty.
    present: BTreeMap<Kind, BTreeSet<ObjectRef>>,
    written: BTreeMap<ObjectRef, Written>,
}

impl Objects {
    /// The world that they make.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The same, to be told of what no object says.
    pub fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }

    /// Whether all objects of a kind are known.
    pub fn knows(&self, kind: Kind) -> bool {
        self.present.contains_key(&kind)
    }

    /// What is in the status of an object of a kind whose status we write.
    pub fn written(&self, reference: &ObjectRef) -> Option<&Written> {
        self.written.get(reference)
    }

    /// What is in all of them.
    pub fn all_written(&self) -> impl Iterator<Item = (&ObjectRef, &Written)> {
        self.written.iter()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.present.values().map(BTreeSet::len).sum()
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Stored(stored) => {
                // Before the first list of a kind not all of it is known, and that it is not must stay visible.
                if let Some(present) = self.present.get_mut(&stored.reference.kind) {
                    present.insert(stored.reference.clone());
                    self.put(*stored);
                }
            }
            Change::Gone(reference) => {
                if let Some(present) = self.present.get_mut(&reference.kind) {
                    present.remove(&reference);
                }
                self.forget(&reference);
            }
            Change::All(kind, all) => {
                let now = all.iter().map(|it| it.reference.clone()).collect();
                let before = self.present.insert(kind, now).unwrap_or_default();
                for gone in before.difference(&self.present[&kind].clone()) {
                    self.forget(gone);
                }
                all.into_iter().for_each(|stored| self.put(stored));
            }
        }
    }

    fn forget(&mut self, reference: &ObjectRef) {
        self.written.remove(reference);
        self.world.remove(reference);
        self.world.denials.remove(reference);
        self.world.refused.remove(reference);
        self.world.faults.remove(reference);
    }

    fn put(&mut self, stored: Stored) {
        let Stored {
            reference,
            manifest,
            written,
        } = stored;
        self.forget(&reference);
        if let Some(written) = written {
            self.written.insert(reference.clone(), written);
        }
        match manifest {
            Manifest::Object(object) => self.world.insert(*object),
            Manifest::Refused(refused) => self.put_refused(reference, refused),
            // Not read as such.
            Manifest::Unused(_) | Manifest::Vague(_) | Manifest::Alien(_) => {}
        }
    }

    fn put_refused(&mut self, reference: ObjectRef, refused: Refused) {
        let Refused {
            generation,
            selector,
            targets,
            read,
            faults,
            ..
        } = refused;
        if reference.kind.is_policy() {
            let denial = Denial { selector, targets };
            self.world.denials.insert(reference.clone(), denial);
        } else if let Some(read) = read {
            self.world.refused.insert(reference.clone(), *read);
        }
        self.world
            .faults
            .insert(reference, Faulty { generation, faults });
    }
}

#[cfg(test)]
mod tests;
