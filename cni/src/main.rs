//! The executable that a container runtime calls; all of it is in the library.

use std::{env, io, process::ExitCode};

fn main() -> ExitCode {
    let ended = cni::run(
        |name| env::var(name).ok(),
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
    );
    ExitCode::from(ended)
}
