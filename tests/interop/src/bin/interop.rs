//! Every component as a command of one executable, so that the tests run them as processes of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
