//! Writes statuses: the leader alone, and only what is not there already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{objects::Objects, status};
use crate::{manifest::ObjectRef, status::Status};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A status to be written over that of one version of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// `apiVersion`.
    pub api_version: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `status`.
    pub status: Value,
}

/// By object.
pub type Writes = BTreeMap<ObjectRef, Write>;

/// What is to be written: where a status says something else than it is to.
pub fn writes(
    objects: &Objects,
    statuses: &BTreeMap<ObjectRef, Status>,
    now: OffsetDateTime,
) -> Writes {
    let all = statuses.iter().filter_map(|(reference, wanted)| {
        let has = objects.written(reference)?;
        let status = status::changed(reference.kind, &has.status, wanted, now)?;
        let write = Write {
            api_version: has.api_version.clone(),
            version: has.version.clone(),
            status,
        };
        Some((reference.clone(), write))
    });
    all.collect()
}

/// Writes what there is to write as long as this replica `leads`, until the task ends.
pub async fn run(
    client: Client,
    mut leads: watch::Receiver<bool>,
    mut writes: watch::Receiver<Arc<Writes>>,
) {
    // Over which version of an object something was written: what is told of it next is another.
    let mut done: BTreeMap<ObjectRef, String> = BTreeMap::new();
    loop {
        let list = Arc::clone(&writes.borrow_and_update());
        let mut failed = false;
        if *leads.borrow_and_update() {
            done.retain(|object, _| list.contains_key(object));
            let new = list
                .iter()
                .filter(|(object, write)| done.get(*object) != Some(&write.version));
            let new: Vec<_> = new
                .map(|(object, write)| (object.clone(), write.clone()))
                .collect();
            for (object, version) in carry_out(&client, new, &mut failed).await {
                done.insert(object, version);
            }
        }
        tokio::select! {
            changed = leads.changed() => if changed.is_err() { return },
            changed = writes.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
    }
}

/// What needs not be tried again.
async fn carry_out(
    client: &Client,
    list: Vec<(ObjectRef, Write)>,
    failed: &mut bool,
) -> Vec<(ObjectRef, String)> {
    let mut tasks = JoinSet::new();
    let mut done = Vec::new();
    let mut list = list.into_iter();
    loop {
        while tasks.len() < AT_ONCE
            && let Some((object, write)) = list.next()
        {
            tasks.spawn(one(client.clone(), object, write));
        }
        match tasks.join_next().await {
            None => return done,
            Some(Ok(Some(written))) => done.push(written),
            Some(_) => *failed = true,
        }
    }
}

async fn one(client: Client, object: ObjectRef, write: Write) -> Option<(ObjectRef, String)> {
    let group = object.kind.group();
    let version = write.api_version.rsplit('/').next().unwrap_or_default();
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: write.api_version.clone(),
        kind: object.kind.as_str().to_owned(),
        plural: object.kind.plural(),
    };
    let api: Api<DynamicObject> = match object.kind.namespaced() {
        true => Api::namespaced_with(client, &object.namespace, &resource),
        false => Api::all_with(client, &resource),
    };
    let patch = json!({
        "metadata": {"resourceVersion": write.version},
        "status": write.status,
    });
    let patched = api
        .patch_status(&object.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        // Where it is another version, or none, the watch tells of it.
        Ok(_) => Some((object, write.version)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Some((object, write.version))
        }
        Err(error) => {
            tracing::warn!(%object, %error, "its status cannot be written");
            None
        }
    }
}
