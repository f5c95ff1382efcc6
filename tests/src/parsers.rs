//! What reads bytes that somebody else wrote, each as a function of bytes: the bodies of the fuzz targets in `tests/fuzz`.
//!
//! A function returns whatever it is given, quickly; what a parser promises it asserts. `tests/corpus.rs` runs each with
//! what was worth keeping of earlier runs, so that a fault found once stays found without a fuzzer.

use std::{fs, path::PathBuf};

mod agent;
mod control;
mod files;
mod resources;
mod text;
mod waypoint;
mod wire;

pub use self::{
    agent::{roster, zds},
    control::{publish, request, token},
    files::{local, manifests, source},
    resources::{address, authorization, session},
    text::{authority, headers, identity, settings},
    waypoint::{message, path, waypoint},
    wire::{frame, handshake, hbone, http, leaf, netlink},
};

/// What a target does with an input: nothing, or it panics.
pub type Target = fn(&[u8]);

/// Every target by name: the name of its binary and of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("address", address),
    ("authority", authority),
    ("authorization", authorization),
    ("frame", frame),
    ("handshake", handshake),
    ("hbone", hbone),
    ("headers", headers),
    ("http", http),
    ("identity", identity),
    ("leaf", leaf),
    ("local", local),
    ("manifests", manifests),
    ("message", message),
    ("netlink", netlink),
    ("path", path),
    ("publish", publish),
    ("request", request),
    ("roster", roster),
    ("session", session),
    ("settings", settings),
    ("source", source),
    ("token", token),
    ("waypoint", waypoint),
    ("zds", zds),
];

/// The next length-delimited piece of `data`: one byte of length, then so much, or what is left.
fn piece<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, rest) = data.split_first()?;
    let (head, tail) = rest.split_at(usize::from(length).min(rest.len()));
    *data = tail;
    Some(head)
}

/// A new directory for a target of this process; the system clears it away with its other temporary files.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ambit-fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("temporary files can be made");
    folder
}
