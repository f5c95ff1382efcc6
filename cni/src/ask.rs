//! Asks the agent, and waits for its answer.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use crate::talk::{Answer, LARGEST_LINE, Pod, Question, line};

/// How long the agent may take. It says itself what it waits for in vain, and earlier.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// The pod's network namespace cannot be opened.
    Netns(io::Error),
    /// Nobody is there, or it failed in the middle.
    Io(io::Error),
    /// It took too long.
    Late(Duration),
    /// What it said is no answer.
    Odd,
}

/// Asks whether `pod` may start.
///
/// # Errors
/// If there is no answer within `patience`.
pub fn ask(socket: &Path, pod: &Pod, netns: &Path, patience: Duration) -> Result<Answer, Silence> {
    let end = Instant::now() + patience;
    let opened = File::open(netns).map_err(Silence::Netns)?;
    let question = Question {
        pod: pod.clone(),
        netns: netns.to_owned(),
        fd: opened.as_raw_fd(),
    };
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Silence::Late(patience),
        _ => Silence::Io(error),
    };
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_write_timeout(Some(patience)).map_err(io)?;
    stream.write_all(line(&question).as_bytes()).map_err(io)?;
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while !said.contains(&b'\n') {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Silence::Late(patience));
        }
        stream.set_read_timeout(Some(left)).map_err(io)?;
        let length = stream.read(&mut buffer).map_err(io)?;
        if length == 0 || said.len() + length > LARGEST_LINE {
            return Err(Silence::Odd);
        }
        said.extend_from_slice(&buffer[..length]);
    }
    serde_json::from_slice(&said).map_err(|_| Silence::Odd)
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(error) => write!(f, "the pod's network namespace: {error}"),
            Self::Io(error) => error.fmt(f),
            Self::Late(patience) => write!(f, "no answer in {} s", patience.as_secs()),
            Self::Odd => f.write_str("it ended without an answer"),
        }
    }
}

impl std::error::Error for Silence {}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::net::UnixListener,
        path::PathBuf,
        thread,
    };

    use super::*;

    fn pod() -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            uid: "u".to_owned(),
        }
    }

    fn asked(name: &str, reply: Option<&'static str>) -> Result<Answer, Silence> {
        let path: PathBuf =
            std::env::temp_dir().join(format!("ambit-ask-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let agent = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut question)
                .unwrap();
            let question: Question = serde_json::from_str(&question).unwrap();
            assert_eq!(question.pod, pod());
            let held = std::fs::read_link(format!("/proc/self/fd/{}", question.fd)).unwrap();
            assert_eq!(held, PathBuf::from("/dev/null"));
            match reply {
                Some(text) => stream.write_all(text.as_bytes()).unwrap(),
                // Held open until the other end goes.
                None => drop(stream.read(&mut [0])),
            }
        });
        let patience = match reply {
            Some(_) => Duration::from_secs(60),
            None => Duration::from_millis(50),
        };
        let answer = ask(&path, &pod(), Path::new("/dev/null"), patience);
        agent.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        answer
    }

    #[test]
    fn the_agents_line_is_the_answer() {
        assert_eq!(asked("ok", Some("\"ok\"\n")).unwrap(), Answer::Ok);
        let no = asked("no", Some("{\"error\":\"no\"}\n")).unwrap();
        assert_eq!(no, Answer::Error("no".to_owned()));
    }

    #[test]
    fn whatever_else_happens_is_no_answer() {
        assert!(matches!(asked("half", Some("\"ok")), Err(Silence::Odd)));
        assert!(matches!(
            asked("odd", Some("\"maybe\"\n")),
            Err(Silence::Odd)
        ));
        assert!(matches!(asked("late", None), Err(Silence::Late(_))));
        let nobody = ask(
            Path::new("/nowhere"),
            &pod(),
            Path::new("/dev/null"),
            PATIENCE,
        );
        assert!(matches!(nobody, Err(Silence::Io(_))));
    }
}
