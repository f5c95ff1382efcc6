//! Files that operators and tenants write.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use control::{
    compile::{self, Compiled, Settings, compile},
    manifest,
    publish::Version,
    source::{Loaded, load},
};
use mesh::{
    delta::{Delta, Resource},
    local,
    model::Effect,
    name::Name,
    parse,
    waypoint::Store,
};
use prost::Message;

/// A local workload file. What is read can be written, and what is written is read as the same.
pub fn local(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let read = match local::parse(text) {
        Ok(read) => read,
        Err(error) => return drop(error.to_string()),
    };
    let written = local::write(&read.addresses, &read.authorizations);
    let again = local::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
    assert!(
        read.addresses.keys().eq(again.addresses.keys()),
        "{written}"
    );
    assert_eq!(read.authorizations, again.authorizations, "{written}");
    assert_eq!(
        local::write(&again.addresses, &again.authorizations),
        written
    );
}

/// A file of manifests, for the control plane. Loaded again it is the same; in another order it is the same if nothing
/// was wrong with it; what comes out no proxy refuses, and what waypoints are told of it they put in force as a whole.
pub fn source(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let first = loaded(&text, None);
    let compiled = compile(&first.world, &Settings::default());
    compile::json::compiled(&compiled);
    understood(&compiled);
    let deploying = Settings {
        deploys: true,
        ..Settings::default()
    };
    understood(&compile(&first.world, &deploying));
    for problem in &first.problems {
        assert!(!problem.to_string().is_empty());
    }
    let second = loaded(&text, Some(&first));
    assert_eq!(
        compile(&second.world, &Settings::default()),
        compiled,
        "loaded again"
    );
    if first.problems.is_empty() && first.world.stored == local::Local::default() {
        let documents = manifest::documents(&text);
        let backwards: Vec<_> = documents.iter().rev().map(|it| it.text).collect();
        let backwards = loaded(&backwards.join("\n---\n"), None);
        assert_eq!(backwards.problems, []);
        assert_eq!(
            compile(&backwards.world, &Settings::default()),
            compiled,
            "backwards"
        );
        taken(&compiled);
    }
}

fn loaded(text: &str, previous: Option<&Loaded>) -> Loaded {
    load(
        &BTreeMap::from([(PathBuf::from("a.yaml"), text.to_owned())]),
        previous,
    )
}

fn understood(compiled: &Compiled) {
    for (gateway, told) in &compiled.told {
        let mut store = Store::new(Name::new("ambit-system"));
        let rejected = [
            store.apply(&delta(proto::TABLE_TYPE, &told.tables)),
            store.apply(&delta(proto::ROUTE_TYPE, &told.routes)),
            store.apply(&delta(proto::POLICY_TYPE, &told.policies)),
            store.apply(&delta(proto::BACKEND_TYPE, &told.backends)),
        ];
        assert_eq!(rejected.concat(), [], "{gateway:?}");
        let generation = store.current();
        assert!(generation.is_ready(), "{gateway:?}");
        assert_eq!(generation.tables().count(), told.tables.len());
    }
}

fn delta<M: Message>(type_url: &str, all: &BTreeMap<String, M>) -> Delta {
    let resource = |(name, message): (&String, &M)| {
        let bytes = message.encode_to_vec();
        Resource {
            name: name.clone(),
            version: Version::of(&bytes).to_string(),
            bytes,
        }
    };
    Delta {
        type_url: type_url.to_owned(),
        resources: all.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}

fn taken(compiled: &Compiled) {
    for (name, address) in &compiled.addresses {
        if let Err(reason) = parse::address(name, &address.encode_to_vec()) {
            panic!("{name}: {reason}");
        }
    }
    for (name, policy) in &compiled.authorizations {
        let policy = parse::authorization(name, &policy.encode_to_vec(), Name::new("ambit-system"));
        if let Effect::DenyAll(reason) = &policy.effect {
            panic!("{name}: {reason}");
        }
    }
}

/// A file of manifests, for the node agent.
pub fn manifests(data: &[u8]) {
    thread_local!(static FOLDER: OnceCell<PathBuf> = const { OnceCell::new() });
    let folder = FOLDER.with(|folder| folder.get_or_init(|| super::scratch("manifests")).clone());
    fs::write(folder.join("a.yaml"), data).expect("the scratch directory can be written");
    let mut manifests = node::manifests::Manifests::default();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let looked = manifests
        .look(&folder, later)
        .expect("the directory is there");
    assert!(!looked.unsettled);
    let pods = manifests.pods("n1");
    let again = manifests
        .look(&folder, later)
        .expect("the directory is there");
    assert_eq!(again.faults, [], "told once");
    assert_eq!(manifests.pods("n1"), pods);
}
