//! What bindings need and is not there because it cannot be understood.
//!
//! Only taking a label away unbinds a service. One whose manifest cannot be read has not said that; after a restart no
//! earlier version is there to say otherwise, so the record of bindings speaks for it. What is refused while the control
//! plane runs has its last good version, and is no matter of this.

use std::fmt;

use crate::{
    compile::{self, Compiled, Settings, Wanted, compile},
    manifest::{Kind, ObjectRef},
    source::{Loaded, Problem},
    world::{Key, Phase, Waypoints, World, host},
};

/// A problem that hides what a binding needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is wrong, where.
    pub problem: Problem,
    /// The object that is needed.
    pub object: ObjectRef,
    /// The service that is bound, or closed.
    pub service: Key,
    /// The Gateway to whose waypoint it is bound. `None`: a policy that needs one had closed it.
    pub gateway: Option<Key>,
}

/// What is missing to those services that are recorded as bound.
pub(super) fn missing(loaded: &Loaded, waypoints: &Waypoints, settings: &Settings) -> Vec<Missing> {
    if loaded.problems.is_empty() || waypoints.phases.is_empty() {
        return Vec::new();
    }
    let mut world = loaded.world.clone();
    world.waypoints = Some(waypoints.clone());
    let Compiled { wanted, closed, .. } = compile(&world, settings);
    let mut all = Vec::new();
    for (service, phase) in &waypoints.phases {
        let gateway = bound(phase).map(|(gateway, _)| gateway);
        if gateway.is_none() && *phase != Phase::Closed {
            continue;
        }
        let stays = wanted.contains_key(service) || closed.contains(service);
        for object in needs(&world, service, phase) {
            let speaks = object.kind != Kind::Namespace && object.kind != Kind::GatewayClass;
            let may_be_hidden = speaks || !stays;
            let hides = |problem: &&Problem| match &problem.object {
                Some(other) => *other == object && world.faults.contains_key(other),
                None => may_be_hidden,
            };
            if world.object(&object).is_some() {
                continue;
            }
            all.extend(loaded.problems.iter().filter(hides).map(|problem| Missing {
                problem: problem.clone(),
                object: object.clone(),
                service: service.clone(),
                gateway: gateway.cloned(),
            }));
        }
    }
    all
}

/// Lets the bindings of services go on as they are recorded while it cannot be understood what those want, or while their
/// namespaces are not looked at: then nothing of them is published either, and nobody reaches their workloads.
pub(super) fn hold(world: &World, settings: &Settings, compiled: &mut Compiled) {
    let phases = world.waypoints.iter().flat_map(|it| &it.phases);
    for (service, phase) in phases {
        let own = [
            host::object(service),
            ObjectRef::new(Kind::Namespace, "", &service.0),
        ];
        let is_there = world.object(&own[0]).is_some();
        let is_unseen = is_there && !compile::sees(world, settings, &service.0);
        let is_hidden = is_unseen || own.iter().any(|it| world.hides(it));
        if is_hidden && *phase == Phase::Closed && !compiled.wanted.contains_key(service) {
            compiled.closed.insert(service.clone());
        }
        if let (true, Some((gateway, deny))) = (is_hidden, bound(phase)) {
            let wanted = || Wanted {
                gateway: gateway.clone(),
                policed: true,
                deny,
            };
            compiled
                .wanted
                .entry(service.clone())
                .or_insert_with(wanted);
        }
    }
}

/// Where a service is to stay bound, and whether with a denial; `None` if it is not bound, or on its way out of that.
fn bound(phase: &Phase) -> Option<(&Key, bool)> {
    match phase {
        Phase::Told { .. } | Phase::Leaving { .. } | Phase::Closed => None,
        Phase::Published { gateway } => Some((gateway, false)),
        Phase::Enforced { gateway } => Some((gateway, true)),
        Phase::Moving { to, enforced, .. } => Some((to, *enforced)),
    }
}

fn needs(world: &World, service: &Key, phase: &Phase) -> Vec<ObjectRef> {
    let mut needs = vec![
        host::object(service),
        ObjectRef::new(Kind::Namespace, "", &service.0),
    ];
    for gateway in phase.told() {
        needs.push(ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1));
        if let Some(found) = world.gateways.get(gateway) {
            needs.push(ObjectRef::new(Kind::GatewayClass, "", &found.class));
        }
    }
    needs
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            problem,
            object,
            service,
            gateway,
        } = self;
        let was = match gateway {
            Some((namespace, name)) => {
                format!("bound to the waypoint of Gateway/{namespace}/{name}")
            }
            None => "closed by a policy".to_owned(),
        };
        let service = host::object(service);
        write!(f, "{problem} ({service} was {was}, which needs {object})")
    }
}
