//! From what a watch tells to what is published: takes in all changes that are there, compiles once, and publishes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{mpsc::Receiver, watch},
    time::{sleep, timeout},
};

use super::{
    events::{Warnings, warnings},
    objects::{Change, Objects},
    phases,
    write::{Writes, writes},
};
use crate::{
    compile::Settings,
    follow::{Bindings, Last, assemble, compiled_after, due},
    manifest::{Kind, ObjectRef, mesh},
    serve::{Hub, statuses::Statuses},
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
    /// What of the configuration of the mesh does not fit this control plane.
    fn misfits(&self, world: &World) -> Option<Faulty> {
        let Settings {
            root_namespace,
            trust_domain,
            ..
        } = &self.settings;
        let key = (root_namespace.clone(), mesh::NAME.to_owned());
        let config = world.mesh_configs.get(&key)?;
        let faults = config.faults(root_namespace, trust_domain);
        let generation = config.meta.generation;
        (!faults.is_empty()).then_some(Faulty { generation, faults })
    }

    /// What configures the mesh.
    fn config(&self) -> ObjectRef {
        ObjectRef::new(Kind::ConfigMap, &self.settings.root_namespace, mesh::NAME)
    }
}

/// What is told of objects beside what is published, and to whom.
#[derive(Debug, Default)]
pub struct Told {
    /// What is to be written into statuses.
    pub statuses: watch::Sender<Arc<Writes>>,
    /// What owners have to be warned of.
    pub warnings: watch::Sender<Arc<Warnings>>,
    /// What is wrong with the configuration of the mesh, as logged last.
    config: watch::Sender<Option<Faulty>>,
}

impl Told {
    /// Logs what is wrong with the configuration of the mesh, once for each change.
    fn log(&self, replica: &Replica, faulty: Option<&Faulty>) {
        let config = replica.config();
        if !change(&self.config, faulty.cloned()) {
            return;
        }
        for fault in faulty.iter().flat_map(|it| &it.faults) {
            tracing::error!(object = %config, %fault, "the mesh is not configured by it");
        }
        if faulty.is_none() {
            tracing::info!(object = %config, "nothing is wrong with it any more");
        }
    }
}

/// Tells of what is another than before. Whether it is.
fn change<T: PartialEq>(sender: &watch::Sender<T>, value: T) -> bool {
    sender.send_if_modified(|last| {
        let changed = *last != value;
        if changed {
            *last = value;
        }
        changed
    })
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

/// Publishes the state of the mesh, if it is another than before; and says what objects are to be told.
///
/// A configuration of the mesh that does not fit this control plane is taken for none: then no namespace is left out, and no
/// waypoint of another namespace is trusted.
pub fn publish(
    hub: &Hub,
    (objects, last): &mut (Objects, Last),
    bindings: &mut Bindings,
    replica: &Replica,
    told: &Told,
) {
    let before = Arc::clone(&hub.mesh.borrow());
    let now = Instant::now();
    let reached = hub.reached();
    bindings.observe(phases::recorded(objects), now);
    let misfits = replica.misfits(objects.world());
    let config = replica.config();
    let unread = objects.world().faults.get(&config);
    told.log(replica, misfits.as_ref().or(unread));
    let compile = |waypoints: &_| {
        let mut unconfigured = misfits.clone().map(|faulty| {
            let mut world = objects.world().clone();
            world.remove(&config);
            world.faults.insert(config.clone(), faulty);
            world
        });
        let world = unconfigured.as_mut().unwrap_or_else(|| objects.world_mut());
        compiled_after(last, world, waypoints, &replica.settings)
    };
    let (mut compiled, mut mesh) = assemble(compile, bindings, (&reached, now), &before.snapshot);
    phases::add(
        bindings.wanted(),
        bindings.recorded(),
        &mut compiled.statuses,
    );
    let statuses = Arc::new(compiled.statuses);
    mesh.statuses = Statuses::Objects {
        faults: objects.world().faults.clone(),
        statuses: Arc::clone(&statuses),
    };
    let same = mesh.snapshot.same(&before.snapshot)
        && mesh.placements == before.placements
        && mesh.bindings == before.bindings
        && mesh.statuses == before.statuses;
    if !same {
        hub.mesh.send_replace(Arc::new(mesh));
    }
    // Who waits for the mesh does not wait for this.
    let wanted = writes(objects, &statuses, OffsetDateTime::now_utc());
    change(&told.statuses, Arc::new(wanted));
    change(&told.warnings, Arc::new(warnings(objects, &statuses)));
    let faults = objects.world().faults.len() + usize::from(misfits.is_some());
    let problems = faults + bindings.problems();
    hub.metrics
        .problems
        .set(i64::try_from(problems).unwrap_or(i64::MAX));
}

/// Publishes every change of the objects and of how far bindings have come, until the task ends.
pub async fn follow(
    hub: Arc<Hub>,
    objects: (Objects, Last),
    bindings: Bindings,
    mut changes: Receiver<Change>,
    replica: Replica,
    told: Told,
) {
    let told = Arc::new(told);
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
        let told = Arc::clone(&told);
        let taken = std::mem::take(&mut batch);
        let done = tokio::task::spawn_blocking(move || {
            let mut both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let (objects, bindings) = &mut *both;
            taken.into_iter().for_each(|change| objects.0.apply(change));
            publish(&hub, objects, bindings, &replica, &told);
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "the objects were not compiled: what was published stays in force");
        }
    }
}
