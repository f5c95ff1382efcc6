//! Endpoints and clients for a proxy that somebody else starts: under a profiler, say.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::task::LocalSet;

use crate::{
    load::{self, Http, Load},
    upstream,
};

/// What is asked of the proxy.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the proxy is going to listen.
    to: SocketAddr,
    #[arg(long)]
    http2: bool,
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    #[arg(long, default_value_t = 2)]
    routes: usize,
    #[arg(long, default_value_t = 1000)]
    requests: usize,
}

/// Prints what the proxy has to be told of endpoints, waits for it, and asks.
pub(crate) fn drive(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, ask(arguments)),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drive: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(arguments: &Arguments) -> io::Result<()> {
    let http = if arguments.http2 {
        Http::Two
    } else {
        Http::One
    };
    let [one, other] = upstream::start(http).await?;
    println!("--upstream {one} --upstream {other}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = TcpStream::connect(arguments.to) {
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let load = Load {
        to: arguments.to,
        http,
        concurrency: arguments.concurrency,
        routes: arguments.routes,
    };
    load::closed(load, arguments.requests).await.map(drop)
}
