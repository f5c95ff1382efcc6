//! Programs that are run to their end, and what they say.

use std::{
    fmt,
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A program that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The program and its arguments.
    pub command: String,
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// What it said.
    pub said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self
            .code
            .map_or_else(|| "killed".to_owned(), |code| code.to_string());
        write!(f, "`{}` failed ({code}): {}", self.command, self.said)
    }
}

impl std::error::Error for Failed {}

/// Runs a program to its end; what it writes on its standard output.
///
/// # Errors
/// If it cannot be started or does not succeed.
pub fn run(command: &mut Command, input: &str) -> Result<String, Failed> {
    let shown = format!("{command:?}");
    let failed = |code, said: String| Failed {
        command: shown.clone(),
        code,
        said,
    };
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| failed(None, error.to_string()))?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output();
    // A program that does not want its input ends without it.
    let _ = writer.join();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| failed(None, error.to_string()))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&stderr));
    Err(failed(status.code(), said))
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// If there is none in time: with what is waited for, and what was said last.
pub fn wait<T>(what: &str, time: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + time;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if Instant::now() >= end => {
                panic!("waited {time:?} in vain for {what}; last: {last}")
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
