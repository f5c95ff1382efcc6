//! A demo's directory and its processes, as tests see them from outside. Shared by the tests of the demo.
#![allow(dead_code, reason = "each of the tests needs a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use sys::netns::privileged;

pub(crate) const AMBIT: &str = env!("CARGO_BIN_EXE_ambit");
pub(crate) const RUN_DIR: &str = "AMBIT_RUN_DIR";

/// A demo's directory, and what is known of it from outside.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    /// `None`, and it has been said why, if demos cannot run here.
    pub(crate) fn new(test: &str) -> Option<Self> {
        privileged(test).then(|| {
            Self(std::env::temp_dir().join(format!("ambit-test-{}-{test}", std::process::id())))
        })
    }

    pub(crate) fn ambit(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(AMBIT);
        command
            .args(arguments)
            .env(RUN_DIR, &self.0)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn demo(&self, arguments: &[&str]) -> Output {
        self.ambit(&[&["demo"], arguments].concat())
            .output()
            .unwrap()
    }

    /// A demo that stays up, once it says so.
    pub(crate) fn stays_up(&self) -> Demo {
        let mut command = self.ambit(&["demo", "--check", "service-across-nodes"]);
        let mut demo = Demo::start(command.stdout(Stdio::piped()));
        let lines = BufReader::new(demo.stdout.as_mut().unwrap()).lines();
        let up = lines
            .map(Result::unwrap)
            .any(|line| line.starts_with("The mesh stays up"));
        assert!(up, "the demo ended by itself");
        demo
    }

    /// Processes that were started in this directory's name, the demo itself among them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let marker = format!("{RUN_DIR}={}", self.0.display()).into_bytes();
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == marker)
        };
        all.filter(ours).collect()
    }

    /// The namespaces have no names: they are gone when no process is left.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.processes(), [] as [u32; 0]);
        assert!(!self.0.exists());
    }
}

/// A demo that runs beside its test and ends with it, also if that fails.
pub(crate) struct Demo(Child);

impl Demo {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Deref for Demo {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Demo {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let has_ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if has_ended(&mut self.0) {
            return;
        }
        // Asked to, it removes what it made; killed, it would leave its directory.
        let _ = sys::process::terminate(self.0.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !has_ended(&mut self.0) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
