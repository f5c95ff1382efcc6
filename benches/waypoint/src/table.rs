//! What is measured, in which order, and the table of it.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::task::LocalSet;

use crate::{
    Arguments, envoy,
    load::{self, Http, Load},
    ours,
    proxy::{CORE, Proxy, Setting},
    upstream,
};

/// One line of the table: what both are set to.
#[derive(Clone, Copy, Debug)]
struct Case {
    http: Http,
    routes: usize,
    log: bool,
    concurrency: usize,
}

/// What was seen of one proxy in one case; the best of the rounds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// CPU time per request.
    cpu: Duration,
    /// Requests per second.
    rate: f64,
    /// KiB afterwards.
    memory: u64,
}

impl Case {
    fn name(self) -> String {
        format!(
            "{} c{} {} routes log {}",
            if self.http == Http::One {
                "http/1.1"
            } else {
                "http/2"
            },
            self.concurrency,
            self.routes,
            if self.log { "on" } else { "off" },
        )
    }
}

/// Measures, and prints as it goes.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let room = std::env::temp_dir().join(format!("ambit-bench-{}", std::process::id()));
    fs::create_dir_all(&room).map_err(failed)?;
    let envoy = envoy::executable(arguments.envoy.as_deref());
    if let Err(reason) = &envoy {
        println!(
            "Envoy cannot be had, so ours is measured alone: {}",
            reason.trim()
        );
    }
    pin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(4)
        .build()
        .map_err(failed)?;
    let bench = Bench {
        arguments,
        room: &room,
        envoy: envoy.ok(),
    };
    println!(
        "CPU time of the proxy per request, best of {} rounds of {} requests",
        arguments.rounds, arguments.requests
    );
    println!(
        "{:<40} {:>10} {:>10} {:>7} {:>10} {:>10} {:>9} {:>9}",
        "", "envoy us", "ours us", "ratio", "envoy r/s", "ours r/s", "envoy MB", "ours MB"
    );
    let outcome = LocalSet::new().block_on(&runtime, bench.all());
    fs::remove_dir_all(&room).ok();
    outcome.map_err(failed)
}

struct Bench<'a> {
    arguments: &'a Arguments,
    room: &'a Path,
    envoy: Option<PathBuf>,
}

impl Bench<'_> {
    async fn all(&self) -> io::Result<()> {
        for http in [Http::One, Http::Two] {
            for (routes, log, concurrency) in [
                (2, false, 1),
                (2, false, 32),
                (2, true, 32),
                (500, false, 32),
                (5000, false, 32),
            ] {
                let case = Case {
                    http,
                    routes,
                    log,
                    concurrency,
                };
                let wanted = self
                    .arguments
                    .only
                    .as_ref()
                    .is_none_or(|only| case.name().contains(only));
                if wanted {
                    self.case(case).await?;
                }
            }
        }
        if self
            .arguments
            .only
            .as_ref()
            .is_none_or(|only| "latency".contains(only.as_str()))
        {
            self.latency().await?;
        }
        Ok(())
    }

    async fn case(&self, case: Case) -> io::Result<()> {
        let [theirs, own] = self.both(case).await?;
        let mut seen = [None, None];
        for round in 0..=self.arguments.rounds {
            for (at, proxy) in [&theirs, &own].into_iter().enumerate() {
                let Some(proxy) = proxy else { continue };
                let load = Load {
                    to: proxy.listens,
                    http: case.http,
                    concurrency: case.concurrency,
                    routes: case.routes,
                };
                let before = proxy.cpu()?;
                let took = load::closed(load, self.arguments.requests).await?;
                let cpu = (proxy.cpu()? - before)
                    / u32::try_from(self.arguments.requests).unwrap_or(u32::MAX);
                let rate = self.arguments.requests as f64 / took.as_secs_f64();
                // The first round warms up.
                if round > 0 {
                    let best: &mut Option<Seen> = &mut seen[at];
                    let held = best.unwrap_or(Seen {
                        cpu,
                        rate,
                        memory: 0,
                    });
                    *best = Some(Seen {
                        cpu: held.cpu.min(cpu),
                        rate: held.rate.max(rate),
                        memory: proxy.memory()?,
                    });
                }
            }
        }
        let show = |seen: Option<Seen>, what: fn(Seen) -> f64| {
            seen.map_or_else(|| "-".to_owned(), |seen| format!("{:.1}", what(seen)))
        };
        let micros = |seen: Seen| seen.cpu.as_secs_f64() * 1e6;
        let megabytes = |seen: Seen| seen.memory as f64 / 1024.0;
        let ratio = match seen {
            [Some(theirs), Some(own)] => format!("{:.2}", micros(own) / micros(theirs)),
            _ => "-".to_owned(),
        };
        println!(
            "{:<40} {:>10} {:>10} {ratio:>7} {:>10} {:>10} {:>9} {:>9}",
            case.name(),
            show(seen[0], micros),
            show(seen[1], micros),
            show(seen[0], |seen| seen.rate),
            show(seen[1], |seen| seen.rate),
            show(seen[0], megabytes),
            show(seen[1], megabytes),
        );
        Ok(())
    }

    /// Latency of both at 60 % of what the slower one carries.
    async fn latency(&self) -> io::Result<()> {
        let case = Case {
            http: Http::One,
            routes: 2,
            log: false,
            concurrency: 64,
        };
        let proxies = self.both(case).await?;
        let load = |proxy: &Proxy| Load {
            to: proxy.listens,
            http: case.http,
            concurrency: case.concurrency,
            routes: case.routes,
        };
        let mut slower = f64::MAX;
        for proxy in proxies.iter().flatten() {
            load::closed(load(proxy), self.arguments.requests / 4).await?;
            let took = load::closed(load(proxy), self.arguments.requests).await?;
            slower = slower.min(self.arguments.requests as f64 / took.as_secs_f64());
        }
        let rate = slower * 0.6;
        println!("latency at {rate:.0} requests a second, open loop, 64 connections");
        for _ in 0..self.arguments.rounds {
            for (name, proxy) in ["envoy", "ours"].into_iter().zip(&proxies) {
                let Some(proxy) = proxy else { continue };
                let took = load::open(load(proxy), rate, self.arguments.requests).await?;
                let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
                println!(
                    "  {name:<6} p50 {:>7.0?} p90 {:>7.0?} p99 {:>7.0?} p99.9 {:>7.0?}",
                    at(0.5),
                    at(0.9),
                    at(0.99),
                    at(0.999)
                );
            }
        }
        Ok(())
    }

    async fn both(&self, case: Case) -> io::Result<[Option<Proxy>; 2]> {
        let upstreams = upstream::start(case.http).await?;
        let setting = |listens| Setting {
            http: case.http,
            routes: case.routes,
            log: case.log,
            upstreams,
            listens,
        };
        let theirs = match &self.envoy {
            Some(envoy) => {
                let setting = setting(free()?);
                let command = envoy::command(envoy, &setting, self.room)?;
                Some(Proxy::start(
                    &command,
                    &setting,
                    &self.room.join("envoy.log"),
                )?)
            }
            None => None,
        };
        let setting = setting(free()?);
        let own: Command = ours::command(&setting)?;
        let own = Proxy::start(&own, &setting, &self.room.join("ours.log"))?;
        Ok([theirs, Some(own)])
    }
}

/// A port that nobody listens on now.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Moves this process to the core that is not the proxy's.
fn pin() {
    let other = (CORE + 1).to_string();
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-pc", &other, &own]).output();
    if !moved.is_ok_and(|output| output.status.success()) {
        println!("not pinned to cores: taskset is missing, or there is one core only");
    }
}
