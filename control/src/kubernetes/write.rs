//! Writes statuses: the leader alone, and only what is not there already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{object::Object, objects::Objects, status};
use crate::{manifest::ObjectRef, status::Status};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

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

impl Write {
    /// Whether nothing would come of it after another one: the same, later, over the same version.
    fn repeats(&self, done: &Self) -> bool {
        self.version == done.version && timeless(&self.status) == timeless(&done.status)
    }
}

fn timeless(status: &Value) -> Value {
    match status {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .filter(|(key, _)| *key != "lastTransitionTime");
            let fields = fields.map(|(key, value)| (key.clone(), timeless(value)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

/// By object.
pub type Writes = BTreeMap<ObjectRef, Write>;

/// What is to be written: where a status says something else than it is to.
pub fn writes(
    objects: &Objects,
    statuses: &BTreeMap<ObjectRef, Status>,
    now: OffsetDateTime,
) -> Writes {
    let written = statuses
        .iter()
        .filter(|(it, _)| status::is_written(it.kind));
    let all = written.filter_map(|(reference, wanted)| {
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
    // What was written, or is never to be: the watch tells what came of it. It comes to nothing where the API server keeps
    // less of a status than there is in it.
    let mut done = Writes::new();
    loop {
        let list = Arc::clone(&writes.borrow_and_update());
        let mut failed = false;
        if *leads.borrow_and_update() {
            done.retain(|object, _| list.contains_key(object));
            let is_done = |(object, write): &(&ObjectRef, &Write)| {
                done.get(*object).is_some_and(|done| write.repeats(done))
            };
            let new = list.iter().filter(|it| !is_done(it));
            let new: Vec<_> = new
                .map(|(object, write)| (object.clone(), write.clone()))
                .collect();
            done.extend(carry_out(&client, new, &mut failed).await);
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
) -> Vec<(ObjectRef, Write)> {
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

async fn one(client: Client, object: ObjectRef, write: Write) -> Option<(ObjectRef, Write)> {
    let group = object.kind.group();
    let version = write.api_version.rsplit('/').next().unwrap_or_default();
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: write.api_version.clone(),
        kind: object.kind.as_str().to_owned(),
        plural: object.kind.plural(),
    };
    let api: Api<Object> = match object.kind.namespaced() {
        true => Api::namespaced_with(client, &object.namespace, &resource),
        false => Api::all_with(client, &resource),
    };
    let patch = json!({
        "metadata": {"resourceVersion": write.version},
        "status": write.status,
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let patched = timeout(PATIENCE, api.patch_status(&object.name, &params, &patch)).await;
    match patched {
        // Where it is another version, or none, the watch tells of it.
        Ok(Ok(_)) => Some((object, write)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Some((object, write))
        }
        Ok(Err(error)) => {
            tracing::warn!(%object, %error, "its status cannot be written");
            None
        }
        Err(_) => {
            tracing::warn!(%object, "its status cannot be written: the API server does not answer");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(version: &str, reason: &str, time: &str) -> Write {
        let condition = json!({"type": "Accepted", "reason": reason, "lastTransitionTime": time});
        Write {
            api_version: "v1".to_owned(),
            version: version.to_owned(),
            status: json!({"conditions": [condition]}),
        }
    }

    #[test]
    fn the_same_is_not_written_again_over_the_same_version_because_time_goes_by() {
        let done = write("1", "Accepted", "10:00");
        assert!(write("1", "Accepted", "10:01").repeats(&done));
        assert!(!write("1", "Invalid", "10:01").repeats(&done));
        assert!(!write("2", "Accepted", "10:00").repeats(&done));
    }
}
