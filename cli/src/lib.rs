//! `ambit`: the operator's tool, the demo mesh, and every component in one executable.
//!
//! What a mesh decides is not here: this crate starts components, asks them and prints. With the feature `local` (the
//! default, Linux) it carries the components themselves; without it, only what asks a running mesh. With the feature
//! `kubernetes` (a default too) it installs the mesh on a cluster and asks that.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

mod args;
#[cfg(feature = "kubernetes")]
mod check;
#[cfg(feature = "kubernetes")]
mod cluster;
pub mod http;
#[cfg(feature = "kubernetes")]
mod install;
#[cfg(feature = "kubernetes")]
mod status;
mod wp;
pub mod zc;

#[cfg(feature = "local")]
mod compile;
#[cfg(feature = "local")]
mod component;
#[cfg(feature = "local")]
pub mod demo;
#[cfg(feature = "local")]
pub mod echo;
#[cfg(feature = "local")]
pub mod lab;
#[cfg(any(feature = "local", feature = "kubernetes"))]
mod length;
#[cfg(feature = "local")]
pub mod load;
#[cfg(feature = "local")]
pub mod mesh;
#[cfg(any(feature = "local", feature = "kubernetes"))]
mod paint;
#[cfg(feature = "local")]
mod why;

pub use args::main;

/// Why a command ends without having done what was asked.
#[derive(Debug)]
pub enum Failure {
    /// It could not be done, or a check failed: exit code 1.
    Failed(String),
    /// What was asked makes no sense: exit code 2.
    Usage(String),
    /// Nobody answers where the answer should come from: exit code 3.
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) | Self::Usage(why) | Self::Unreachable(why) => f.write_str(why),
        }
    }
}

/// Writes a result to the standard output. A reader that has seen enough and went away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}
