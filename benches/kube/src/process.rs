//! The control plane as a process of this machine, and what it uses.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tests_kube::Cluster;

/// A control plane of a cluster, which ends with this value.
pub(crate) struct Control {
    child: Child,
    /// Where it serves.
    pub(crate) address: SocketAddr,
}

impl Control {
    pub(crate) fn start(cluster: &Cluster, program: &Path) -> Self {
        let [address, admin] = [free(), free()];
        let mut command: Command = cluster.command(program);
        let listen = [
            "--listen",
            &address.to_string(),
            "--admin",
            &admin.to_string(),
        ]
        .map(str::to_owned);
        command.arg("--kubernetes").args(listen);
        let log = fs::File::create("/tmp/bench-kube-control.log").expect("a file");
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the control plane starts");
        Self { child, address }
    }

    /// Resident memory, now and at most.
    pub(crate) fn memory(&self) -> String {
        let status = self.read("status");
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or_default() / 1024
        };
        format!("{} MB (at most {} MB)", kib("VmRSS:"), kib("VmHWM:"))
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // After the name, which may hold anything: user and system time are the 12th and 13th, in hundredths.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|it| it.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine that nobody has.
fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    socket.expect("a port")
}
