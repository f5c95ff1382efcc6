//! `ambit demo exec`: a program inside a pod of a demo that runs, from another terminal.
//!
//! Only the network is the pod's: files, processes and the user stay those of this terminal.

use std::{ffi::OsString, fs, io, os::unix::process::CommandExt as _, process::Command};

use sys::netns::Netns;

use super::room;
use crate::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the pod, or n1 or n2 for a node.
    pod: String,

    /// The program, and what it is told.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

/// Becomes the program; returns only if it cannot.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let room = room::path();
    let failed = |what: &str, error: &io::Error| Failure::Failed(format!("cannot {what}: {error}"));
    match room::holder(&room) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let text = format!(
                "no demo runs in {}\nStart one with `ambit demo`, or say where it is with AMBIT_RUN_DIR.",
                room.display()
            );
            return Err(Failure::Unreachable(text));
        }
        Err(error) => return Err(failed(&format!("look into {}", room.display()), &error)),
    }
    let names = names(&room.join("netns")).map_err(|error| failed("list the pods", &error))?;
    let pod = arguments.pod.rsplit('/').next().unwrap_or_default();
    if !names.iter().any(|name| name == pod) {
        return Err(Failure::Usage(format!(
            "there is no pod {:?}; there are {}",
            arguments.pod,
            names.join(", ")
        )));
    }
    let netns = Netns::open(room.join("netns").join(pod))
        .map_err(|error| failed(&format!("open the namespace of {pod}"), &error))?;
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(Failure::Usage("say what to run".to_owned()));
    };
    let never = netns.within(|| -> io::Result<()> { Err(Command::new(program).args(rest).exec()) });
    match never {
        Ok(()) => Ok(()),
        Err(error) => Err(failed(
            &format!("run {} in {pod}", program.display()),
            &error,
        )),
    }
}

fn names(directory: &std::path::Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
