//! What the executables of both proxies do around their work: arguments, the log, signals, the exit code.

use std::{fmt, future::Future, io, process::ExitCode, thread, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::log::Format;

/// Carries out what the arguments of a component say that takes none but `--help` and `--version`. Exit code 2: an argument
/// makes no sense.
pub fn main(name: &str, version: &str, help: &str, serve: impl FnOnce() -> ExitCode) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => serve(),
        Some("-h" | "--help") => {
            print!("{help}");
            ExitCode::SUCCESS
        }
        Some("-V" | "--version") => {
            println!("{name} {version}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!(
                "{name}: {other:?} is not an argument; settings are environment variables, see --help"
            );
            ExitCode::from(2)
        }
    }
}

/// Starts the thread of a worker of the data path.
pub fn worker(id: usize, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let worker = move || {
        if let Err(error) = run() {
            tracing::error!(%error, "a worker could not start");
        }
    };
    thread::Builder::new()
        .name(format!("worker-{id}"))
        .spawn(worker)
        .map(drop)
}

/// Runs a component on this thread with its log. Exit code 1: it could not begin or go on; 2: the log's filter is none.
pub fn run<E: fmt::Display>(
    name: &str,
    log_filter: &str,
    log_format: Format,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let log = match crate::log::start(log_filter, log_format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{name}: RUST_LOG: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work).map_err(|error| error.to_string()),
        Err(error) => Err(format!("runtime: {error}")),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    log.flush(Duration::from_secs(1));
    code
}

/// Until the process is told to end, by SIGTERM or SIGINT.
pub async fn asked_to_end() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without signals there is only the hard way.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
