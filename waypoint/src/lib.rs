//! The layer 7 proxy of the services that want one.
//!
//! A byte's path: `tunnel` takes the streams of a peer's tunnel and finds which service each is for; `http` reads requests,
//! asks `mesh::waypoint` what becomes of each, and forwards it by `upstream`; `tcp` carries what is not HTTP.

mod admin;
pub mod app;
pub mod config;
mod detect;
mod dump;
#[cfg(test)]
mod fixture;
pub mod http;
mod recheck;
mod tcp;
pub mod telemetry;
mod tunnel;
pub mod upstream;
mod worker;

use std::process::ExitCode;

use net::{config::Environment, executable};

pub use app::run;
pub use config::Config;
pub use tunnel::circle;

/// What `--help` says.
const HELP: &str = "\
The waypoint of Ambit: routes, authorizes and measures the requests of the services of one Gateway.

Usage: waypoint

It takes no arguments: settings are environment variables. Those that a waypoint must have:
  GATEWAY            the Gateway that it is a waypoint of
  POD_NAMESPACE      the Gateway's namespace
And those that it mostly has:
  POD_NAME, POD_IP   this proxy itself
  NODE_NAME          where it runs
  SERVICE_ACCOUNT    its service account               [GATEWAY]
  XDS_ADDRESS        discovery, https://host:port      [https://ambit-control.ambit-system.svc:15012]
  CA_ADDRESS         certificate authority             [https://ambit-control.ambit-system.svc:15012]
  XDS_ROOT_CA        who vouches for discovery         [./var/run/secrets/istio/root-cert.pem]
  CA_ROOT_CA         who vouches for the authority     [./var/run/secrets/istio/root-cert.pem]
  AUTH_TOKEN         bearer token for both             [./var/run/secrets/tokens/istio-token]
All of them are in README.md.

Options:
  -h, --help     this
  -V, --version  the version
";

/// The executable: settings from the environment, until SIGTERM or SIGINT. 1: it could not begin or go on; 2: a setting
/// or an argument makes no sense.
pub fn main() -> ExitCode {
    executable::main("waypoint", env!("CARGO_PKG_VERSION"), HELP, serve)
}

/// As [`main`], for an executable that has looked at its arguments itself.
pub fn serve() -> ExitCode {
    let config = match Config::read(&Environment::process()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("waypoint: {error}");
            return ExitCode::from(2);
        }
    };
    let (filter, format) = (config.log_filter.clone(), config.log_format);
    executable::run(
        "waypoint",
        &filter,
        format,
        run(config, executable::asked_to_end()),
    )
}
