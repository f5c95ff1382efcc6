//! A proxy under measurement: a process with one worker, on a core of its own.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A running proxy; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) listens: SocketAddr,
}

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) http: crate::load::Http,
    pub(crate) routes: usize,
    /// Lines are written to a file.
    pub(crate) log: bool,
    pub(crate) upstreams: [SocketAddr; 2],
    pub(crate) listens: SocketAddr,
}

/// The core of the proxy; all else runs on the other.
pub(crate) const CORE: usize = 0;

impl Proxy {
    /// Starts a command and waits until it listens.
    pub(crate) fn start(command: &Command, setting: &Setting, log: &Path) -> io::Result<Self> {
        let out = fs::File::create(log)?;
        let mut pinned = Command::new("taskset");
        pinned
            .args(["-c", &CORE.to_string()])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = pinned.spawn()?;
        let mut proxy = Self {
            child,
            listens: setting.listens,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(setting.listens).is_err() {
            if Instant::now() > deadline || proxy.child.try_wait()?.is_some() {
                return Err(io::Error::other(format!(
                    "it does not listen: see {}",
                    log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// CPU time of all threads of a process so far.
pub(crate) fn cpu_of(process: u32) -> io::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}
