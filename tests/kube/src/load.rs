//! Load that a pod sends, and what it counts.

use std::{thread, time::Duration};

use serde_json::Value;

use crate::{Cluster, program::Failed};

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    url: String,
    arguments: Vec<String>,
}

/// What has been counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// Requests that were answered well.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// Why the last one failed.
    pub error: Option<String>,
    /// How long the slowest took that was answered.
    pub slowest: Duration,
}

impl Load {
    /// A request on a connection of its own, ten times a second, for a second.
    pub fn fresh(url: &str) -> Self {
        let fresh = Self {
            url: url.to_owned(),
            arguments: vec!["--fresh".to_owned()],
        };
        fresh.rate(10).lasting(Duration::from_secs(1))
    }

    /// Requests on so many connections that stay, a new one in the place of each that is lost.
    pub fn kept(url: &str, connections: usize) -> Self {
        let kept = Self {
            url: url.to_owned(),
            arguments: Vec::new(),
        };
        let kept = kept.rate(10).lasting(Duration::from_secs(1));
        kept.with("--connections", connections.to_string())
    }

    /// Requests a second, of all connections together.
    #[must_use]
    pub fn rate(self, rate: u32) -> Self {
        self.with("--rate", rate.to_string())
    }

    /// How long.
    #[must_use]
    pub fn lasting(self, time: Duration) -> Self {
        self.with("--duration", format!("{}ms", time.as_millis()))
    }

    /// How long a request may take before it has failed.
    #[must_use]
    pub fn patient(self, time: Duration) -> Self {
        self.with("--timeout", format!("{}ms", time.as_millis()))
    }

    /// So many connections at a time, whether they stay or not.
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        self.with("--connections", connections.to_string())
    }

    /// As arguments of `ambit`: what a pod that sends this load runs.
    pub fn arguments(&self) -> Vec<&str> {
        let arguments = self.arguments.iter().map(String::as_str);
        ["load", &self.url].into_iter().chain(arguments).collect()
    }

    /// Sends it from a pod that runs, and waits for the end.
    ///
    /// # Errors
    /// If the pod cannot send; not if nobody answers, which is counted.
    pub fn run(&self, cluster: &Cluster, namespace: &str, pod: &str) -> Result<Counts, Failed> {
        let command = [&["/usr/bin/ambit"], &self.arguments()[..]].concat();
        let said = cluster.exec(namespace, pod, &command)?;
        let unread = || Failed {
            command: command.join(" "),
            code: Some(0),
            said: said.clone(),
        };
        Counts::read(&said).ok_or_else(unread)
    }

    /// Sends it from a pod that runs while something else is done; what was counted, and what that gave.
    ///
    /// # Panics
    /// If the pod cannot send.
    pub fn while_doing<T>(
        &self,
        cluster: &Cluster,
        (namespace, pod): (&str, &str),
        something: impl FnOnce() -> T,
    ) -> (Counts, T) {
        thread::scope(|scope| {
            let load = scope.spawn(|| self.run(cluster, namespace, pod));
            let done = something();
            let counted = load.join().expect("it does not panic");
            (counted.unwrap_or_else(|failed| panic!("{failed}")), done)
        })
    }

    fn with(mut self, flag: &str, value: String) -> Self {
        if let Some(at) = self.arguments.iter().position(|it| it == flag) {
            self.arguments.drain(at..at + 2);
        }
        self.arguments.extend([flag.to_owned(), value]);
        self
    }
}

impl Counts {
    /// Reads what `ambit load` writes: a line of JSON every second, each with the counts so far. None, if there is none.
    pub fn read(said: &str) -> Option<Self> {
        let last: Value = serde_json::from_str(said.lines().last()?).ok()?;
        Some(Self {
            ok: last["ok"].as_u64()?,
            failed: last["failed"].as_u64()?,
            error: last["error"].as_str().map(str::to_owned),
            slowest: Duration::try_from_secs_f64(last["max_ms"].as_f64()? / 1000.0).ok()?,
        })
    }

    /// Whether there were answers, and nothing else.
    pub fn all_answered(&self) -> bool {
        self.ok > 0 && self.failed == 0
    }

    /// Whether nothing was answered although something was sent.
    pub fn none_answered(&self) -> bool {
        self.ok == 0 && self.failed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_all_counts() {
        let said = "{\"done\":false,\"ok\":1,\"failed\":0,\"error\":null,\"max_ms\":1.0}\n{\"done\":true,\"ok\":3,\"failed\":1,\"error\":\"status 503\",\"max_ms\":12.5}\n";
        let expected = Counts {
            ok: 3,
            failed: 1,
            error: Some("status 503".to_owned()),
            slowest: Duration::from_micros(12_500),
        };
        assert_eq!(Counts::read(said), Some(expected));
        assert_eq!(Counts::read(""), None);
        assert_eq!(Counts::read("no such host"), None);
    }

    #[test]
    fn what_is_said_last_of_a_load_holds() {
        let load = Load::fresh("http://10.0.0.1/").rate(50).rate(20);
        let expected = [
            "load",
            "http://10.0.0.1/",
            "--fresh",
            "--duration",
            "1000ms",
            "--rate",
            "20",
        ];
        assert_eq!(load.arguments(), expected);
    }
}
