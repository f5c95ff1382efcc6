//! What one process may ask for itself and for its children: to die together, and to open enough files.
//!
//! Children are started by the standard library; inside [`Netns::within`](crate::netns::Netns::within) they start in
//! that namespace.
#![allow(unsafe_code)]

use std::{io, os::unix::process::CommandExt, process::Command};

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{self, Signal},
    },
    unistd::{Pid, getpid, getppid},
};

/// Has the child that `command` starts killed when the thread that starts it ends.
///
/// The thread, not the process: start children from one that lives long enough, such as the main thread.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    // SAFETY: prctl, getppid and the errors made here neither allocate nor take a lock.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before the request took effect.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        })
    }
}

/// Lets this process open as many files as it is allowed to, and says how many that is.
pub fn raise_file_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Asks a process to end (SIGTERM).
///
/// # Errors
/// `InvalidInput` for what is not one process's id: 0 and negative numbers mean groups.
pub fn terminate(pid: u32) -> io::Result<()> {
    send(pid, Signal::SIGTERM)
}

/// Ends a process (SIGKILL).
///
/// # Errors
/// As [`terminate`].
pub fn kill(pid: u32) -> io::Result<()> {
    send(pid, Signal::SIGKILL)
}

fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))?;
    Ok(signal::kill(Pid::from_raw(pid), signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let started = std::thread::spawn(|| {
            die_with_parent(Command::new("sleep").arg("600"))
                .spawn()
                .unwrap()
        });
        let mut child = started.join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    #[test]
    fn a_process_ends_when_asked() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        terminate(child.id()).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(kill(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            kill(u32::MAX).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn the_file_limit_becomes_the_hard_one() {
        let raised = raise_file_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, hard), (raised, raised));
    }
}
