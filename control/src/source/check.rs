//! Compiles a directory once and says what came of it, without a server.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf};

use mesh::local;

use super::{Loaded, Problem, load, read_dir};
use crate::compile::{Compiled, Settings, compile, json};

/// The outcome of compiling a directory.
#[derive(Clone, Debug)]
pub struct Check {
    /// The resources and statuses.
    pub compiled: Compiled,
    /// What is wrong; none means that a control plane would start with this.
    pub problems: Vec<Problem>,
    /// What is worth knowing but not wrong: kinds that are not used, conditions that do not simply say yes.
    pub notes: Vec<String>,
}

/// How to print resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Addresses, authorizations and statuses by name.
    Json,
    /// A local workload file.
    Local,
}

/// Compiles the manifests of a directory, or of one file.
pub fn check(path: &Path, settings: &Settings) -> io::Result<Check> {
    Ok(check_files(&read_dir(path)?, settings))
}

/// Compiles manifests by file name.
pub fn check_files(files: &BTreeMap<PathBuf, String>, settings: &Settings) -> Check {
    let Loaded {
        world,
        problems,
        unused,
        ..
    } = load(files, None);
    let compiled = compile(&world, settings);
    let mut notes: Vec<_> = unused
        .iter()
        .map(|kind| format!("{kind}: not used"))
        .collect();
    for (object, status) in &compiled.statuses {
        let telling = status
            .conditions
            .iter()
            .filter(|condition| !condition.message.is_empty());
        let holds = |holds| if holds { "True" } else { "False" };
        notes.extend(telling.map(|it| {
            format!(
                "{object}: {} {} ({}): {}",
                it.kind,
                holds(it.holds),
                it.reason,
                it.message
            )
        }));
    }
    Check {
        compiled,
        problems,
        notes,
    }
}

impl Check {
    /// The resources as text that ends in a newline; with [`Format::Json`] the statuses too.
    pub fn print(&self, format: Format) -> String {
        match format {
            Format::Json => {
                let mut text = format!("{:#}", json::compiled(&self.compiled));
                text.push('\n');
                text
            }
            Format::Local => {
                let Compiled {
                    addresses,
                    authorizations,
                    ..
                } = &self.compiled;
                local::write(addresses, authorizations)
            }
        }
    }
}
