//! Every component as a command of this executable, so that the demo starts them as its own children.
//!
//! Flags and environment are the components' own. Each runs until SIGTERM or SIGINT.

use std::{
    io,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, echo as echo_server, length, load as load_generator};

/// Components that are executables of their own elsewhere.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Component {
    /// The control plane.
    #[command(hide = true)]
    Control(Box<control::config::Config>),
    /// The node agent.
    #[command(hide = true)]
    Node(Box<node::Config>),
    /// The node proxy; its settings are environment variables.
    #[command(hide = true)]
    Ztunnel,
    /// The layer 7 proxy of one Gateway; its settings are environment variables.
    #[command(hide = true)]
    Waypoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EchoArguments {
    /// How it calls itself.
    #[arg(long, default_value = "echo")]
    name: String,

    /// Port of the HTTP server.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http: u16,

    /// Port that sends every byte back.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    tcp: u16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArguments {
    /// Where to: http://ADDRESS[:PORT][/PATH].
    url: load_generator::Target,

    /// Connections at a time.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1)]
    connections: usize,

    /// Requests a second over all connections [default: as many as are answered].
    #[arg(short, long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,

    /// Open a connection for every request.
    #[arg(long)]
    fresh: bool,

    /// Bytes of each request's body.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    body: usize,

    /// How long.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = length::parse)]
    duration: Duration,

    /// How long a request may take before it has failed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = length::parse)]
    timeout: Duration,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))?;
    if rate > 0.0 && rate <= 1e6 {
        Ok(rate)
    } else {
        Err("a rate is more than 0 and at most 1000000".to_owned())
    }
}

/// Runs a component until it is told to end.
pub(crate) fn main(component: Component) -> Result<ExitCode, Failure> {
    let log = match component {
        Component::Ztunnel => return Ok(ztunnel::serve()),
        Component::Waypoint => return Ok(waypoint::serve()),
        Component::Control(_) | Component::Node(_) => log()?,
    };
    let outcome = match component {
        Component::Ztunnel | Component::Waypoint => Ok(()),
        Component::Control(config) => multi_threaded(async move {
            let outcome = control::run(*config, ended()?).await;
            outcome.map_err(|error| failed("control", &error))
        }),
        Component::Node(config) => single_threaded()?.block_on(async move {
            let outcome = node::run(*config, ended()?).await;
            outcome.map_err(|error| failed("node", &error))
        }),
    };
    log.flush(Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

fn log() -> Result<net::log::Log, Failure> {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let named = std::env::var("LOG_FORMAT").unwrap_or_default();
    let format = match net::log::Format::named(&named) {
        Some(format) => format,
        None if named.is_empty() => net::log::Format::default(),
        None => {
            let why = format!("LOG_FORMAT: {named:?} is not plain or json");
            return Err(Failure::Usage(why));
        }
    };
    net::log::start(&filter, format).map_err(|error| Failure::Usage(format!("RUST_LOG: {error}")))
}

/// Serves the echo application.
pub(crate) fn echo(arguments: EchoArguments) -> Result<(), Failure> {
    let config = echo_server::Config {
        name: arguments.name,
        http: arguments.http,
        tcp: arguments.tcp,
    };
    single_threaded()?.block_on(async {
        let ended = ended()?;
        tokio::select! {
            outcome = echo_server::run(config) => outcome.map_err(|error| failed("echo", &error)),
            () = ended => Ok(()),
        }
    })
}

/// Sends load. Exit code 0 although requests failed: their number is the result.
pub(crate) fn load(arguments: LoadArguments) -> Result<(), Failure> {
    let config = load_generator::Config {
        target: arguments.url,
        connections: arguments.connections,
        rate: arguments.rate,
        fresh: arguments.fresh,
        body: arguments.body,
        duration: arguments.duration,
        timeout: arguments.timeout,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let runtime = single_threaded()?;
    let ended = runtime.block_on(async { ended() })?;
    std::thread::spawn(move || {
        runtime.block_on(ended);
        stopped.store(true, Ordering::Relaxed);
    });
    load_generator::run(&config, &stop, &mut io::stdout())
        .map_err(|error| failed("load", &error))?;
    Ok(())
}

/// Completes at SIGTERM or SIGINT, whose effect it takes over at once.
fn ended() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| failed("signals", &error));
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn single_threaded() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("runtime", &error))
}

fn multi_threaded(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .map_err(|error| failed("runtime", &error))?
        .block_on(work)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}
