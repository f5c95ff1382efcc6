//! A load generator for HTTP: it keeps connections busy, counts, and prints what it counted as lines of JSON.
//!
//! Each connection is a thread that sends one request after the other. With a rate, latency is counted from when a
//! request was due, so that a stall counts for all that waited behind it.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::http::Connection;
pub use histogram::Histogram;

mod histogram;

/// What to send, and how fast.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests go.
    pub target: Target,
    /// Connections at a time.
    pub connections: usize,
    /// Requests a second over all connections; without it, as many as the answers allow.
    pub rate: Option<f64>,
    /// A connection for every request.
    pub fresh: bool,
    /// Bytes of each request's body.
    pub body: usize,
    /// How long.
    pub duration: Duration,
    /// How long a request may take before it counts as failed.
    pub timeout: Duration,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address.
    pub address: SocketAddr,
    /// What the URL calls it.
    pub host: String,
    /// At least `/`.
    pub path: String,
}

/// What has been counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests answered with 2xx.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// Why the last one failed.
    pub error: Option<String>,
    /// How long those took that were answered.
    pub latency: Histogram,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url:?} does not begin with http://"))?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let with_port = if host.parse::<SocketAddr>().is_ok()
            || host
                .rsplit_once(':')
                .is_some_and(|(name, _)| !name.contains(':'))
        {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address = with_port
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        let address = address
            .ok_or_else(|| format!("{host:?} is no address, and no name that can be found"))?;
        Ok(Self {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

impl Counts {
    /// One line of output.
    pub fn json(&self, elapsed: Duration, done: bool) -> Value {
        let millis = |share| self.latency.quantile(share).as_secs_f64() * 1000.0;
        json!({
            "seconds": elapsed.as_secs_f64(), "done": done, "ok": self.ok, "failed": self.failed, "error": self.error,
            "p50_ms": millis(0.5), "p90_ms": millis(0.9), "p99_ms": millis(0.99), "max_ms": millis(1.0),
        })
    }

    fn add(&mut self, outcome: io::Result<Duration>) {
        match outcome {
            Ok(took) => {
                self.ok += 1;
                self.latency.record(took);
            }
            Err(error) => {
                self.failed += 1;
                self.error = Some(error.to_string());
            }
        }
    }
}

/// Sends load until the time is over or `stop` is set, and prints a line every second and at the end.
pub fn run(
    config: &Config,
    stop: &Arc<AtomicBool>,
    out: &mut impl io::Write,
) -> io::Result<Counts> {
    let counts = Arc::new(Mutex::new(Counts::default()));
    let begin = Instant::now();
    let senders: Vec<_> = (0..config.connections.max(1))
        .map(|number| {
            let (config, stop, counts) = (config.clone(), Arc::clone(stop), Arc::clone(&counts));
            thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn(move || send(&config, number, begin, &stop, &counts))
        })
        .collect::<io::Result<_>>()?;
    let so_far = || {
        counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    };
    let mut next_line = begin + Duration::from_secs(1);
    while begin.elapsed() < config.duration && !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        if Instant::now() >= next_line {
            next_line += Duration::from_secs(1);
            print(out, &so_far().json(begin.elapsed(), false))?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let took = begin.elapsed();
    for sender in senders {
        sender
            .join()
            .map_err(|_| io::Error::other("a sender panicked"))?;
    }
    print(out, &so_far().json(took, true))?;
    Ok(so_far())
}

fn print(out: &mut impl io::Write, line: &Value) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

/// What one connection does.
fn send(config: &Config, number: usize, begin: Instant, stop: &AtomicBool, counts: &Mutex<Counts>) {
    let body = vec![b'x'; config.body];
    let gap = config
        .rate
        .filter(|rate| *rate > 0.0)
        .map(|rate| Duration::from_secs_f64(1.0 / rate));
    let mut connection = None;
    for round in 0_u32.. {
        let mut due = Instant::now();
        if let Some(gap) = gap {
            let turn = f64::from(round) * config.connections as f64 + number as f64;
            due = begin + gap.mul_f64(turn);
            pause_until(due, stop);
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = attempt(config, &mut connection, &body).map(|()| due.elapsed());
        let failed = outcome.is_err();
        if failed || config.fresh {
            connection = None;
        }
        counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(outcome);
        if failed && gap.is_none() {
            // A refusal is quick: without a pause it would fill a core with refusals.
            pause_until(Instant::now() + Duration::from_millis(10), stop);
        }
    }
}

fn pause_until(due: Instant, stop: &AtomicBool) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn attempt(config: &Config, connection: &mut Option<Connection>, body: &[u8]) -> io::Result<()> {
    let connection = match connection {
        Some(open) => open,
        None => {
            let stream = TcpStream::connect_timeout(&config.target.address, config.timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(config.timeout))?;
            stream.set_write_timeout(Some(config.timeout))?;
            connection.insert(Connection::over(stream, config.target.host.clone()))
        }
    };
    let method = if body.is_empty() { "GET" } else { "POST" };
    let answer = connection.send(method, &config.target.path, body)?;
    if (200..300).contains(&answer.status) {
        Ok(())
    } else {
        Err(io::Error::other(format!("status {}", answer.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, net::TcpListener};

    fn config(address: SocketAddr) -> Config {
        Config {
            target: format!("http://{address}/x").parse().unwrap(),
            connections: 2,
            rate: Some(50.0),
            fresh: false,
            body: 0,
            duration: Duration::from_millis(300),
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_url_is_an_address_a_port_and_a_path() {
        for (url, address, path) in [
            ("http://127.0.0.1", "127.0.0.1:80", "/"),
            ("http://127.0.0.1:8080/a/b?c", "127.0.0.1:8080", "/a/b?c"),
            ("http://[::1]/", "[::1]:80", "/"),
            ("http://[::1]:8080", "[::1]:8080", "/"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(
                (target.address.to_string().as_str(), target.path.as_str()),
                (address, path)
            );
        }
        for wrong in ["https://127.0.0.1", "127.0.0.1", "http://", "http://:80x/"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_nobody_answers_has_failed() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut out = Vec::new();
        let counts = run(&config(closed), &Arc::default(), &mut out).unwrap();
        assert!(counts.ok == 0 && counts.failed > 0);
        let last: Value =
            serde_json::from_slice(out.split(|byte| *byte == b'\n').rev().nth(1).unwrap()).unwrap();
        assert_eq!(
            (last["done"].as_bool(), last["failed"].as_u64()),
            (Some(true), Some(counts.failed))
        );
        assert!(last["error"].as_str().unwrap().contains("refused"));
    }

    #[test]
    fn answers_are_counted_and_a_refusing_status_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let status = if number == 0 { 200 } else { 503 };
                thread::spawn(move || {
                    let mut request = [0; 1024];
                    while io::Read::read(&mut stream, &mut request).is_ok_and(|read| read > 0) {
                        let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                    }
                });
            }
        });
        let counts = run(&config(address), &Arc::default(), &mut io::sink()).unwrap();
        assert!(counts.ok > 0 && counts.failed > 0, "{counts:?}");
        assert_eq!(counts.error.as_deref(), Some("status 503"));
    }
}
