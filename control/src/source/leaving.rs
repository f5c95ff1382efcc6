//! What no file has any more: it stays in force for a little while, because it may be on its way to another file, or its file
//! may be about to come back. What is there and changed counts at once, but for services that a policy names which is
//! leaving: without the label that went with its policy, a service would be closed meanwhile.
//!
//! An object that leaves may open what it closed: a policy, or a pod that leaves the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::Loaded;
use crate::{
    manifest::{
        self, Kind, Object, ObjectRef, TargetRef,
        authorization::{PolicyTarget, TargetKind},
        unserved::Target,
    },
    world::World,
};

/// An object that is in no file for less than this may be on its way to another. Node agents wait as long, so that both
/// take it out at about the same time.
pub const GONE: Duration = Duration::from_secs(1);

/// What is in force although no file has it, and since when that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving(BTreeMap<Left, Instant>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Object(ObjectRef),
    /// Not the object, but how it was.
    Version(ObjectRef),
    /// Stored resources, by name.
    Address(String),
    Authorization(String),
}

impl Leaving {
    /// Puts back what was in force `before`, is not in what was `loaded` now, and has not been gone for [`GONE`].
    #[must_use]
    pub fn keep(&self, before: &Loaded, loaded: &mut Loaded, now: Instant) -> Self {
        let mut next = Self::default();
        let mut stays = |left: Left| {
            let since = self.0.get(&left).copied().unwrap_or(now);
            let stays = now.duration_since(since) < GONE;
            if stays {
                next.0.insert(left, since);
            }
            stays
        };
        let mut named = BTreeSet::new();
        for (reference, file) in &before.origins {
            if loaded.origins.contains_key(reference) || !stays(Left::Object(reference.clone())) {
                continue;
            }
            loaded.world.put_back(reference, &before.world);
            let origins = &mut loaded.origins;
            origins.insert(reference.clone(), file.clone());
            named.extend(services(reference, &before.world));
        }
        for service in named {
            let world = &mut loaded.world;
            let Some((was, now)) = before.world.object(&service).zip(world.object(&service)) else {
                continue;
            };
            if was != now && stays(Left::Version(service)) {
                world.insert(was);
            }
        }
        for (file, was) in &before.stored {
            for (name, address) in &was.addresses {
                let all = &mut loaded.world.stored.addresses;
                if !all.contains_key(name) && stays(Left::Address(name.clone())) {
                    all.insert(name.clone(), address.clone());
                    let here = loaded.stored.entry(file.clone()).or_default();
                    here.addresses.insert(name.clone(), address.clone());
                }
            }
            for (name, policy) in &was.authorizations {
                let all = &mut loaded.world.stored.authorizations;
                if !all.contains_key(name) && stays(Left::Authorization(name.clone())) {
                    all.insert(name.clone(), policy.clone());
                    let here = loaded.stored.entry(file.clone()).or_default();
                    here.authorizations.insert(name.clone(), policy.clone());
                }
            }
        }
        next
    }

    /// Until something is to go for good; `None` if nothing is leaving.
    pub fn look_again(&self, now: Instant) -> Option<Duration> {
        let first = self.0.values().min()?;
        Some((*first + GONE).saturating_duration_since(now))
    }

    /// Whether something is to go for good.
    pub fn is_due(&self, now: Instant) -> bool {
        self.look_again(now).is_some_and(|wait| wait.is_zero())
    }
}

/// The services that a policy names.
fn services(policy: &ObjectRef, world: &World) -> Vec<ObjectRef> {
    let targets = match (world.denials.get(policy), world.object(policy)) {
        (Some(denial), _) => denial.targets.clone(),
        (
            None,
            Some(Object::AuthorizationPolicy(manifest::AuthorizationPolicy {
                target: PolicyTarget::Objects(targets),
                ..
            })),
        ) => targets,
        (
            None,
            Some(Object::Unserved(manifest::Unserved {
                target: Target::Tokens(PolicyTarget::Objects(targets)),
                ..
            })),
        ) => targets,
        _ => Vec::new(),
    };
    let services = targets.iter().filter(|it| it.kind == TargetKind::Service);
    let reference = |it: &TargetRef| ObjectRef::new(Kind::Service, &policy.namespace, &it.name);
    services.map(reference).collect()
}

#[cfg(test)]
mod tests;
