//! The node proxy: carries the TCP of this node's enrolled pods inside mutually authenticated tunnels.
//!
//! A byte's path: [`worker`] accepts it in the pod's namespace; `outbound` asks `mesh::plan` where it goes, `inbound`
//! and `plain` ask `mesh::admit` whether it may enter; `net::carry` moves it. The main thread ([`app`]) runs what is
//! not data: the node agent's pods ([`pods`]), discovery, certificates, the admin pages.

mod admin;
pub mod app;
pub mod config;
mod dump;
mod flows;
mod inbound;
mod outbound;
mod place;
mod plain;
mod pod;
mod pods;
pub mod roster;
mod socket;
mod telemetry;
mod worker;

use std::process::ExitCode;

use net::{config::Environment, executable};

pub use app::run;
pub use config::Config;

/// What `--help` says.
const HELP: &str = "\
The node proxy of Ambit: carries the TCP of this node's enrolled pods inside mutual TLS tunnels.

Usage: ztunnel

It takes no arguments: settings are environment variables. Those that a node must have:
  NODE_NAME          this node
  INPOD_UDS          socket of the node agent          [/var/run/ztunnel/ztunnel.sock]
  XDS_ADDRESS        discovery, https://host:port; empty for none
  CA_ADDRESS         certificate authority, https://host:port
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
    executable::main("ztunnel", env!("CARGO_PKG_VERSION"), HELP, serve)
}

/// As [`main`], for an executable that has looked at its arguments itself.
pub fn serve() -> ExitCode {
    let config = match Config::read(&Environment::process()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ztunnel: {error}");
            return ExitCode::from(2);
        }
    };
    let (filter, format) = (config.log_filter.clone(), config.log_format);
    executable::run(
        "ztunnel",
        &filter,
        format,
        run(config, executable::asked_to_end()),
    )
}
