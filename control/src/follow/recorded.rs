//! What a control plane that runs makes of its files, found again from what it keeps on disk: for tools that ask what it would
//! say. It is not asked and not disturbed.
//!
//! What only its memory has is missing: last good versions of objects that are faulty now. Whoever must be sure compares with
//! the versions that its subscribers hold.

use std::{path::Path, sync::Arc, time::Instant};

use super::Bindings;
use crate::{
    compile::{Compiled, Settings},
    reports::Reports,
    source::{self, Problem},
    state::StateDir,
    world::World,
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The objects, with what nodes report and how far bindings have come.
    pub world: World,
    /// What is wrong with the files.
    pub problems: Vec<Problem>,
    /// What the world becomes.
    pub compiled: Compiled,
}

/// Compiles the manifests in `from` with what the control plane of the state directory `state` has recorded.
///
/// # Errors
/// A sentence.
pub fn recorded(from: &Path, state: &Path, settings: &Settings) -> Result<Recorded, String> {
    let files = source::read_dir(from)
        .map_err(|error| format!("{} cannot be read: {error}", from.display()))?;
    let source::Loaded {
        mut world,
        problems,
        ..
    } = source::load(&files, None);
    let state = Arc::new(StateDir::look(state).map_err(|error| error.to_string())?);
    let reports = Reports::open(Arc::clone(&state)).map_err(|error| error.to_string())?;
    let bindings = Bindings::open(state, Instant::now()).map_err(|error| error.to_string())?;
    let reports = reports.watch().borrow().clone();
    let (compiled, _) = super::compiled(&mut world, &reports, bindings.recorded(), settings);
    Ok(Recorded {
        world,
        problems,
        compiled,
    })
}
