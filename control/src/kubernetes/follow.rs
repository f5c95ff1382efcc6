//! From what a watch tells to what is published: takes in all changes that are there, compiles once, and publishes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc::Receiver, watch},
    time::{sleep, timeout},
};

use super::{
    objects::{Change, Objects},
    phases,
    write::{Writes, writes},
};
use crate::{
    compile::{Compiled, Settings, json},
    follow::{Bindings, assemble, compiled_as_is, due},
    manifest::{Kind, ObjectRef, mesh},
    serve::Hub,
    world::{Faulty, World},
};

/// Changes that are taken in before one compilation.
const AT_ONCE: usize = 4096;

/// How often a start says what it waits for.
const TELL: Duration = Duration::from_secs(5);

/// One control plane of a cluster, among others.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Name of its pod.
    pub name: String,
    /// How objects are compiled.
    pub settings: Settings,
}

impl Replica {
    /// Takes a configuration of the mesh that does not fit this control plane for none: then no namespace is left out, and no
    /// waypoint of another namespace is trusted.
    fn check(&self, world: &mut World) {
        let Settings {
            root_namespace,
            trust_domain,
            ..
        } = &self.settings;
        let key = (root_namespace.clone(), mesh::NAME.to_owned());
        let Some(config) = world.mesh_configs.get(&key) else {
            return;
        };
        let faults = config.faults(root_namespace, trust_domain);
        if !faults.is_empty() {
            let generation = config.meta.generation;
            let reference = ObjectRef::new(Kind::ConfigMap, root_namespace, mesh::NAME);
            for fault in &faults {
                tracing::error!(object = %reference, %fault, "the mesh is not configured by it");
            }
            world.remove(&reference);
            world
                .faults
                .insert(reference, Faulty { generation, faults });
        }
    }
}

/// Takes in changes until all objects of all kinds are known. What is compiled of less might open what a policy shuts.
pub async fn first(changes: &mut Receiver<Change>) -> Objects {
    let mut objects = Objects::default();
    loop {
        let unknown: Vec<_> = Kind::all().filter(|kind| !objects.knows(*kind)).collect();
        if unknown.is_empty() {
            return objects;
        }
        match timeout(TELL, changes.recv()).await {
            Ok(Some(change)) => objects.apply(change),
            // The watch ends with its receiver alone.
            Ok(None) => std::future::pending().await,
            Err(_) => {
                let kinds: Vec<_> = unknown.iter().map(|kind| kind.as_str()).collect();
                tracing::warn!(
                    kinds = kinds.join(" "),
                    "waiting for the API server to list them"
                );
            }
        }
    }
}

/// Publishes the state of the mesh, if it is another than before; and says what is to be written into statuses.
pub fn publish(
    hub: &Hub,
    objects: &Objects,
    bindings: &mut Bindings,
    replica: &Replica,
    statuses: &watch::Sender<Arc<Writes>>,
) {
    let before = Arc::clone(&hub.mesh.borrow());
    let now = Instant::now();
    let reached = hub.reached();
    bindings.observe(phases::recorded(objects), now);
    let compile = |waypoints: &_| {
        let mut world = objects.world().clone();
        replica.check(&mut world);
        compiled_as_is(&mut world, waypoints, &replica.settings)
    };
    let (mut compiled, mut mesh) = assemble(compile, bindings, (&reached, now), &before.snapshot);
    phases::add(
        bindings.wanted(),
        bindings.recorded(),
        &mut compiled.statuses,
    );
    mesh.statuses = page(objects, &compiled);
    let wanted = writes(objects, &compiled.statuses, OffsetDateTime::now_utc());
    statuses.send_if_modified(|last| {
        let changed = **last != wanted;
        if changed {
            *last = Arc::new(wanted);
        }
        changed
    });
    let problems = objects.world().faults.len() + bindings.problems();
    hub.metrics
        .problems
        .set(i64::try_from(problems).unwrap_or(i64::MAX));
    let same = mesh.snapshot.same(&before.snapshot)
        && mesh.placements == before.placements
        && mesh.bindings == before.bindings
        && mesh.statuses == before.statuses;
    if !same {
        hub.mesh.send_replace(Arc::new(mesh));
    }
}

fn page(objects: &Objects, compiled: &Compiled) -> String {
    let problems = objects.world().faults.iter().flat_map(|(object, faulty)| {
        faulty.faults.iter().map(move |fault| {
            json!({
                "object": ObjectRef::to_string(object),
                "field": fault.field,
                "reason": fault.reason,
            })
        })
    });
    let all = compiled.statuses.iter();
    let all = all.map(|(object, status)| (object.to_string(), json::status(status)));
    let page = json!({
        "problems": problems.collect::<Vec<Value>>(),
        "objects": serde_json::Map::from_iter(all),
    });
    format!("{page:#}\n")
}

/// Publishes every change of the objects and of how far bindings have come, until the task ends.
pub async fn follow(
    hub: Arc<Hub>,
    objects: Objects,
    bindings: Bindings,
    mut changes: Receiver<Change>,
    replica: Replica,
    statuses: watch::Sender<Arc<Writes>>,
) {
    let statuses = Arc::new(statuses);
    let mut streams = hub.streams.watch();
    let replica = Arc::new(replica);
    let both = Arc::new(Mutex::new((objects, bindings)));
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = changes.recv_many(&mut batch, AT_ONCE) => if taken == 0 {
                // Only as this process ends.
                return sleep(Duration::MAX).await;
            },
            () = due(&hub, &both, &mut streams) => {}
        }
        let (hub, both, replica) = (Arc::clone(&hub), Arc::clone(&both), Arc::clone(&replica));
        let statuses = Arc::clone(&statuses);
        let taken = std::mem::take(&mut batch);
        let done = tokio::task::spawn_blocking(move || {
            let mut both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let (objects, bindings) = &mut *both;
            taken.into_iter().for_each(|change| objects.apply(change));
            publish(&hub, objects, bindings, &replica, &statuses);
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "the objects were not compiled: what was published stays in force");
        }
    }
}
