//! Children of this process that end with it, each in a namespace and with a log file of its own.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use sys::{netns::Netns, process};

/// How long a child may take to end when it is asked to.
const GRACE: Duration = Duration::from_millis(1500);

/// The children. They are killed by the kernel when the thread that started them ends, and by `end_all`.
#[derive(Debug)]
pub struct Processes {
    logs: PathBuf,
    children: Mutex<Children>,
}

#[derive(Debug, Default)]
struct Children {
    /// Nothing starts any more.
    closed: bool,
    running: Vec<(String, Child)>,
}

/// What a child has written to its two outputs.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

impl Processes {
    /// None yet; their logs go into this directory, which must be there.
    pub fn new(logs: &Path) -> Self {
        Self {
            logs: logs.to_owned(),
            children: Mutex::default(),
        }
    }

    /// Starts a child in a namespace, under a name that no running child has. Returns its process id.
    pub fn start(&self, name: &str, netns: &Netns, command: &mut Command) -> io::Result<u32> {
        let mut children = self.lock();
        if children.closed {
            return Err(io::Error::other("everything is being ended"));
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(name).0)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = netns.within(|| process::die_with_parent(command).spawn());
        let child = child.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {name}: {error}"))
        })?;
        let pid = child.id();
        children.running.push((name.to_owned(), child));
        Ok(pid)
    }

    /// The log of a child, which may have ended.
    pub fn log(&self, name: &str) -> Log {
        Log(self.logs.join(format!("{name}.log")))
    }

    /// The process id of a running child.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.lock()
            .running
            .iter()
            .find(|(running, _)| running == name)
            .map(|(_, child)| child.id())
    }

    /// The first child found to have ended by itself.
    pub fn ended(&self) -> io::Result<Option<(String, ExitStatus)>> {
        for (name, child) in &mut self.lock().running {
            if let Some(status) = child.try_wait()? {
                return Ok(Some((name.clone(), status)));
            }
        }
        Ok(None)
    }

    /// Asks a child to end, and kills it if it does not.
    pub fn end(&self, name: &str) -> io::Result<()> {
        let mut ending = self.take(|running| running == name);
        end(&mut ending)
    }

    /// Kills a child at once.
    pub fn kill(&self, name: &str) -> io::Result<()> {
        for (_, mut child) in self.take(|running| running == name) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends all children, and lets none start any more.
    pub fn end_all(&self) -> io::Result<()> {
        let mut children = self.lock();
        children.closed = true;
        end(&mut children.running)?;
        children.running.clear();
        Ok(())
    }

    fn take(&self, which: impl Fn(&str) -> bool) -> Vec<(String, Child)> {
        let mut children = self.lock();
        let (taken, left) = children
            .running
            .drain(..)
            .partition(|(name, _)| which(name));
        children.running = left;
        taken
    }

    /// A panic elsewhere must not keep children from being ended.
    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Whoever wants to know whether it works calls `end_all`.
        let _ = self.end_all();
    }
}

fn end(ending: &mut [(String, Child)]) -> io::Result<()> {
    for (_, child) in ending.iter_mut() {
        if child.try_wait()?.is_none() {
            process::terminate(child.id())?;
        }
    }
    let deadline = Instant::now() + GRACE;
    for (_, child) in ending {
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
            } else {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}

impl Log {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |found| found.len())
    }

    /// What was written after the first `offset` bytes, up to the last whole line.
    pub fn since(&self, offset: u64) -> io::Result<String> {
        let mut file = File::open(&self.0)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
    }

    /// The last lines, for an error message.
    pub fn tail(&self, lines: usize) -> String {
        let text = self
            .since(self.length().saturating_sub(16 * 1024))
            .unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::netns::privileged;

    fn processes(name: &str) -> (Processes, Netns, PathBuf) {
        let logs =
            std::env::temp_dir().join(format!("ambit-process-{}-{name}", std::process::id()));
        fs::create_dir_all(&logs).unwrap();
        (Processes::new(&logs), Netns::current().unwrap(), logs)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_child_that_does_not_listen_is_killed() {
        if !privileged("a_child_that_does_not_listen_is_killed") {
            return;
        }
        let (processes, here, logs) = processes("deaf");
        processes
            .start(
                "deaf",
                &here,
                &mut shell("trap '' TERM; echo ready; while :; do sleep 0.1; done"),
            )
            .unwrap();
        let log = processes.log("deaf");
        while !log.since(0).is_ok_and(|text| text.contains("ready")) {
            thread::sleep(Duration::from_millis(5));
        }
        let pid = processes.id("deaf").unwrap();
        processes.end("deaf").unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn what_ends_by_itself_is_told_and_leaves_its_last_words() {
        if !privileged("what_ends_by_itself_is_told_and_leaves_its_last_words") {
            return;
        }
        let (processes, here, logs) = processes("brief");
        processes
            .start("brief", &here, &mut shell("echo one; echo two >&2; exit 3"))
            .unwrap();
        let (name, status) = loop {
            if let Some(ended) = processes.ended().unwrap() {
                break ended;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!((name.as_str(), status.code()), ("brief", Some(3)));
        assert_eq!(processes.log("brief").tail(1), "two");
        assert_eq!(processes.log("brief").since(4).unwrap(), "two\n");
        processes.end_all().unwrap();
        assert!(processes.start("late", &here, &mut shell(":")).is_err());
        fs::remove_dir_all(logs).unwrap();
    }
}
