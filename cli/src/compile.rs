//! `ambit compile`: the control plane's compiler on a directory, without a server.

use std::path::PathBuf;

use clap::ValueEnum;
use control::{
    config::Names,
    source::check::{Check, Format, check},
};

use crate::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A directory of manifests, or one file.
    #[arg(short, long, value_name = "PATH")]
    file: PathBuf,

    #[command(flatten)]
    names: Names,

    /// How to print the resources.
    #[arg(short, long, value_enum, default_value_t = Output::Json)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// Resources and statuses by name.
    Json,
    /// A local workload file (LOCAL_XDS_PATH).
    Local,
}

/// The resources go to the standard output, all that is worth saying of the objects to the standard error.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let compiled = check(&arguments.file, &arguments.names.settings());
    let compiled = compiled.map_err(|error| {
        Failure::Failed(format!("cannot read {}: {error}", arguments.file.display()))
    })?;
    let format = match arguments.output {
        Output::Json => Format::Json,
        Output::Local => Format::Local,
    };
    crate::print(&compiled.print(format))?;
    let Check {
        problems,
        refusal,
        notes,
        ..
    } = compiled;
    for note in notes {
        eprintln!("note: {note}");
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    let count = match problems.len() {
        0 => return Ok(()),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    Err(Failure::Failed(match refusal {
        Some(refusal) => format!("{count}; {refusal}"),
        None => format!("{count}; a control plane starts, without what is faulty, and logs this"),
    }))
}
