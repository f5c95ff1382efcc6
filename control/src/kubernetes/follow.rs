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
    write::{Writes, writes},
};
use crate::{
    compile::{Compiled, Settings, json},
    follow::{Bindings, assemble, compiled_as_is, due},
    manifest::{Kind, ObjectRef},
    serve::Hub,
};

/// Changes that are taken in before one compilation.
const AT_ONCE: usize = 4096;

/// How often a start says what it waits for.
const TELL: Duration = Duration::from_secs(5);

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
    settings: &Settings,
    statuses: &watch::Sender<Arc<Writes>>,
) {
    let before = Arc::clone(&hub.mesh.borrow());
    let reached = hub.streams.reached();
    let compile = |waypoints: &_| {
        let mut world = objects.world().clone();
        compiled_as_is(&mut world, waypoints, settings)
    };
    let now = (&reached, Instant::now());
    let (compiled, mut mesh) = assemble(compile, bindings, now, &before.snapshot);
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
    settings: Settings,
    statuses: watch::Sender<Arc<Writes>>,
) {
    let statuses = Arc::new(statuses);
    let mut streams = hub.streams.watch();
    let settings = Arc::new(settings);
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
        let (hub, both, settings) = (Arc::clone(&hub), Arc::clone(&both), Arc::clone(&settings));
        let statuses = Arc::clone(&statuses);
        let taken = std::mem::take(&mut batch);
        let done = tokio::task::spawn_blocking(move || {
            let mut both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let (objects, bindings) = &mut *both;
            taken.into_iter().for_each(|change| objects.apply(change));
            publish(&hub, objects, bindings, &settings, &statuses);
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "the objects were not compiled: what was published stays in force");
        }
    }
}
