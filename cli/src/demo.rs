//! `ambit demo`: a whole mesh on one machine, checked against what it claims, and then there to be played with.
//!
//! The mesh is real: the components are those of a cluster, the network is the kernel's, the applications know nothing.
//! Only what a kubelet and a CNI plugin would do is done here: pods' namespaces are made from the manifests, and their
//! programs started.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::{Subcommand, ValueEnum, builder::PossibleValuesParser};
use sys::netns::Netns;

use self::{
    check::Check, ending::Ending, fault::Fault, problems::Problems, report::Report,
    waiting::Waiting,
};
use crate::{
    Failure,
    mesh::{LOG, MANIFESTS, Mesh, STATE, Settings},
};
pub use stage::Stage;

mod check;
mod ending;
mod exec;
mod fault;
mod manifests;
mod problems;
mod report;
pub(crate) mod room;
mod stage;
mod waiting;

/// Life of the pods' certificates: short, so that a renewal can be watched.
const CERTIFICATES: &str = "20s";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// End after the checks: exit code 0 if all hold, 1 if not.
    #[arg(long)]
    once: bool,

    /// Run only this check. May be given several times.
    #[arg(long = "check", value_name = "ID", value_parser = PossibleValuesParser::new(check::ALL.map(|check| check.id)))]
    checks: Vec<String>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// Break something, to see the check fail that should.
    #[arg(long = "break", value_name = "WHAT", hide = true, value_enum)]
    fault: Option<Fault>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in a pod of the demo that runs.
    Exec(exec::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines, as they come.
    Text,
    /// One object at the end.
    Json,
}

/// Runs the demo, or a program in one that runs.
pub(crate) fn main(arguments: Arguments) -> Result<(), Failure> {
    if let Some(Command::Exec(exec)) = &arguments.command {
        return exec::main(exec);
    }
    Netns::create().map_err(|error| {
        Failure::Failed(format!("the demo makes network namespaces, which needs root: {error}\nRun it as root, for example with sudo."))
    })?;
    let stage = Stage::take(&room::path())?;
    let outcome = run(&arguments, &stage);
    stage.leave();
    outcome
}

fn run(arguments: &Arguments, stage: &Stage) -> Result<(), Failure> {
    let ending = &stage.ending;
    let mut report = Report::new(arguments.output == Output::Json);
    let settings = prepared(stage.path(), arguments.fault)?;
    let mut mesh = Mesh::lay_out(settings, stage.processes())?;
    report.laid_out(&mesh);
    mesh.start(&mut |what| report.waiting(what))?;
    report.started();
    if let Some(fault) = arguments.fault {
        fault
            .after(&mesh)
            .map_err(|error| Failure::Failed(format!("cannot break the mesh: {error}")))?;
    }
    let wanted = |check: &&Check| {
        arguments.checks.is_empty() || arguments.checks.iter().any(|id| id == check.id)
    };
    for check in check::ALL.iter().filter(wanted) {
        let outcome = check.run(&mesh);
        if ending.begun() {
            return Ok(());
        }
        report.checked(outcome);
    }
    let outcome = report.finished();
    if arguments.once {
        return outcome;
    }
    if outcome.is_ok() {
        ending.is_proper();
    }
    report.hints(
        &mesh.path(MANIFESTS).join(manifests::POLICIES),
        &mesh.path(LOG),
    );
    stay(&mut mesh, &report, ending)
}

/// Until a signal, or until a child ends by itself.
fn stay(mesh: &mut Mesh, report: &Report, ending: &Ending) -> Result<(), Failure> {
    let statuses = mesh.path(STATE).join(control::follow::STATUSES);
    let mut problems = Problems::default();
    // Edited meanwhile, perhaps: the first look is due in any case.
    let mut seen = BTreeMap::new();
    let mut waiting = Waiting::default();
    loop {
        thread::sleep(Duration::from_millis(200));
        if ending.begun() {
            return Ok(());
        }
        mesh.alive()?;
        // It is replaced whole; if it is not there, a child has ended.
        let text = fs::read_to_string(&statuses).unwrap_or_default();
        if let Some(change) = problems.change(&text) {
            report.edited(&change);
        }
        let now = edited(&mesh.path(MANIFESTS));
        if now != seen || waiting.again {
            seen = now;
            report.deployed(&waiting.news(mesh.deploy(), Instant::now()));
        }
    }
}

/// The files of a directory, and when each was edited.
fn edited(directory: &Path) -> BTreeMap<OsString, (Option<SystemTime>, u64)> {
    let files = fs::read_dir(directory).into_iter().flatten();
    let edits = files.filter_map(|file| {
        let file = file.ok()?;
        let found = file.metadata().ok()?;
        Some((file.file_name(), (found.modified().ok(), found.len())))
    });
    edits.collect()
}

/// Writes the manifests, and says what the mesh is to be made with.
fn prepared(room: &Path, fault: Option<Fault>) -> Result<Settings, Failure> {
    let manifests = room.join(MANIFESTS);
    let failed =
        |error: io::Error| Failure::Failed(format!("cannot prepare {}: {error}", room.display()));
    manifests::write(&manifests).map_err(failed)?;
    if let Some(fault) = fault {
        fault.before(&manifests).map_err(failed)?;
    }
    Ok(Settings {
        executable: std::env::current_exe().map_err(failed)?,
        root: room.to_owned(),
        certificates: CERTIFICATES.to_owned(),
        environment: fault.map(Fault::environment).unwrap_or_default(),
    })
}
