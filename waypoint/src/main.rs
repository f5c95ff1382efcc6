//! The `waypoint` executable: settings from the environment, logs to standard output.

use std::process::ExitCode;

fn main() -> ExitCode {
    waypoint::main()
}
