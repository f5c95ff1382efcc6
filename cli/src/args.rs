//! The command line: what can be asked, and with what exit code it ends.
//!
//! Exit codes: 0 done, 1 failed (or a check failed), 2 asked wrongly, 3 nobody there to answer.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;

use crate::{Failure, wp, zc};

/// Ambit: an ambient service mesh.
#[derive(Debug, Parser)]
#[command(name = "ambit", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nobody answers.")]
enum Command {
    /// Run a whole mesh on this machine and check it; needs root.
    ///
    /// Two nodes and their pods, each in a network namespace of its own, with a control plane, and on each node an agent
    /// and a ztunnel. What it measures is printed check by check; then it stays up until Ctrl-C. Nothing outlives it.
    #[cfg(feature = "local")]
    #[command(args_conflicts_with_subcommands = true)]
    Demo(crate::demo::Arguments),

    /// Compile manifests without a server: the resources, and what is wrong.
    #[cfg(feature = "local")]
    Compile(crate::compile::Arguments),

    /// Say where a connection or request goes, and which policy, route and rule decides it at each step.
    ///
    /// Nothing is sent. The proxies' own rules are asked, of the demo that runs or of a directory of manifests.
    #[cfg(feature = "local")]
    Why(crate::why::Arguments),

    /// Install the mesh on a Kubernetes cluster, and wait until it runs.
    #[cfg(feature = "kubernetes")]
    Install(Box<crate::install::Arguments>),

    /// Bring an installed mesh to this version, or to other values; what was set before stays set.
    #[cfg(feature = "kubernetes")]
    Upgrade(Box<crate::install::Arguments>),

    /// Remove the mesh from a cluster; definitions of kinds and users' objects stay.
    #[cfg(feature = "kubernetes")]
    Uninstall(crate::install::Removal),

    /// Print definitions of kinds (CRDs), to apply where a cluster has older ones.
    #[cfg(feature = "kubernetes")]
    Crds(crate::install::kinds::Arguments),

    /// Say what is wrong on a cluster, where, and which command repairs it.
    #[cfg(feature = "kubernetes")]
    Check(crate::check::Arguments),

    /// Say which namespaces and pods are in the mesh, and which pods are not captured and why.
    #[cfg(feature = "kubernetes")]
    Status(crate::status::Arguments),

    /// Show what one ztunnel believes.
    #[command(visible_alias = "ztunnel-config")]
    Zc(ZcArguments),

    /// Show what one waypoint believes.
    Wp(WpArguments),

    /// An application that answers with what it gets and who sent it.
    #[cfg(feature = "local")]
    Echo(crate::component::EchoArguments),

    /// Send HTTP requests and count the answers, as lines of JSON.
    #[cfg(feature = "local")]
    Load(crate::component::LoadArguments),

    #[cfg(feature = "local")]
    #[command(flatten)]
    Component(crate::component::Component),
}

#[derive(Debug, clap::Args)]
struct ZcArguments {
    /// What to show.
    part: Part,

    #[command(flatten)]
    dump: Dump,
}

#[derive(Debug, clap::Args)]
struct WpArguments {
    /// What to show.
    part: wp::Part,

    #[command(flatten)]
    dump: Dump,
}

/// Which dump, and how to print a part of it.
#[derive(Debug, clap::Args)]
struct Dump {
    /// Address of the proxy's admin port.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15000",
        conflicts_with = "file"
    )]
    address: String,

    /// A saved answer of the admin port's /config_dump, instead of asking.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Dump {
    fn read(&self) -> Result<Value, Failure> {
        match &self.file {
            Some(file) => zc::read(file),
            None => zc::ask(&self.address),
        }
    }

    fn as_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// A part of a ztunnel's configuration.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Part {
    /// Every pod it knows, and how it reaches it.
    #[value(alias = "workload", alias = "w")]
    Workloads,
    /// Every service, and how many endpoints of it are healthy.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// The certificates that it holds for its pods.
    #[value(alias = "certificate", alias = "cert")]
    Certificates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns.
    Table,
    /// JSON: of a dump its part as it is.
    Json,
}

/// What the executable does.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        #[cfg(feature = "local")]
        Command::Demo(arguments) => crate::demo::main(arguments),
        #[cfg(feature = "local")]
        Command::Compile(arguments) => crate::compile::main(&arguments),
        #[cfg(feature = "local")]
        Command::Why(arguments) => crate::why::main(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Install(arguments) => crate::install::install(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Upgrade(arguments) => crate::install::upgrade(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Uninstall(arguments) => crate::install::uninstall(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Crds(arguments) => crate::install::kinds::main(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Check(arguments) => crate::check::main(&arguments),
        #[cfg(feature = "kubernetes")]
        Command::Status(arguments) => crate::status::main(&arguments),
        Command::Zc(ZcArguments { part, dump }) => dump
            .read()
            .and_then(|it| crate::print(&zc::print(&it, part, dump.as_json())?)),
        Command::Wp(WpArguments { part, dump }) => dump
            .read()
            .and_then(|it| crate::print(&wp::print(&it, part, dump.as_json())?)),
        #[cfg(feature = "local")]
        Command::Echo(arguments) => crate::component::echo(arguments),
        #[cfg(feature = "local")]
        Command::Load(arguments) => crate::component::load(arguments),
        #[cfg(feature = "local")]
        Command::Component(component) => match crate::component::main(component) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ambit: {failure}");
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_two() {
        for wrong in [
            &["ambit", "zc"][..],
            &["ambit", "wp", "workloads"],
            &["ambit", "zc", "workloads", "-o", "xml"],
            &["ambit", "nothing"],
        ] {
            assert_eq!(
                Arguments::try_parse_from(wrong).unwrap_err().exit_code(),
                2,
                "{wrong:?}"
            );
        }
    }

    /// The lines of the shell blocks of a text that run `ambit`, without their comments.
    #[cfg(feature = "local")]
    fn commands(text: &str) -> Vec<String> {
        let mut commands = Vec::new();
        let mut blocks = text.split("```sh\n").skip(1);
        for block in &mut blocks {
            let block = block.split("```").next().unwrap().replace("\\\n", " ");
            let lines = block
                .lines()
                .map(|line| line.split(" #").next().unwrap().trim());
            commands.extend(lines.filter_map(|line| {
                let arguments = line
                    .strip_prefix("cargo run --release -- ")
                    .or_else(|| line.strip_prefix("ambit "))?;
                Some(format!("ambit {arguments}"))
            }));
        }
        commands
    }

    #[test]
    #[cfg(feature = "local")]
    fn every_command_in_the_documents_is_one() {
        let readme = commands(include_str!("../../README.md"));
        let contributing = commands(include_str!("../../CONTRIBUTING.md"));
        let install = commands(include_str!("../../docs/install.md"));
        assert!(readme.iter().any(|command| command == "ambit demo"));
        #[cfg(feature = "kubernetes")]
        assert!(install.iter().any(|command| command == "ambit install"));
        let install = install.iter().filter(|_| cfg!(feature = "kubernetes"));
        for command in readme.iter().chain(&contributing).chain(install) {
            if let Err(error) = understood(command) {
                panic!("{command}: {error}");
            }
        }
        let wrong =
            "```sh\nambit zc nothing  # no part\nambit demo exec n1 -- bin/ambit zc nothing\n```\n";
        let wrong = commands(wrong);
        assert_eq!(wrong.len(), 2);
        assert!(wrong.iter().all(|command| understood(command).is_err()));
    }

    /// Placeholders are words like others; what runs in a pod may be `ambit` too.
    #[cfg(feature = "local")]
    fn understood(command: &str) -> Result<(), clap::Error> {
        let words = command
            .split_whitespace()
            .map(|word| word.trim_matches('\''));
        let words: Vec<_> = words.collect();
        let inner = words.iter().position(|word| word.ends_with("/ambit"));
        [Some(0), inner]
            .into_iter()
            .flatten()
            .try_for_each(|at| Arguments::try_parse_from(&words[at..]).map(drop))
    }
}
