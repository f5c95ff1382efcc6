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
    must::Must,
    ours,
    proxy::{CORE, Proxy, Setting},
    select, upstream,
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
        let mut all = Vec::new();
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
                if self.wants(&case.name()) {
                    all.push((case, self.case(case).await?));
                }
            }
        }
        let mut musts = of_cases(&all);
        if self.wants("latency") {
            musts.extend(self.latency().await?);
        }
        if self.wants("select") {
            musts.extend(instructions());
        }
        musts.iter().for_each(|must| println!("{must}"));
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        let only = self.arguments.only.as_ref();
        only.is_none_or(|only| name.contains(only.as_str()))
    }

    async fn case(&self, case: Case) -> io::Result<[Option<Seen>; 2]> {
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
        Ok(seen)
    }

    /// Latency of both at 60 % of what the slower one carries.
    async fn latency(&self) -> io::Result<Option<Must>> {
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
        let mut best = [f64::MAX; 2];
        for _ in 0..self.arguments.rounds {
            for ((name, proxy), best) in ["envoy", "ours"].into_iter().zip(&proxies).zip(&mut best)
            {
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
                *best = best.min(at(0.99).as_secs_f64());
            }
        }
        let both = proxies.iter().all(Option::is_some);
        let must = || Must::new("p99 of Envoy's, best of the rounds", best[1] / best[0], 1.0);
        Ok(both.then(must))
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

/// What each case has to be beside Envoy, and thousands of routes beside two.
fn of_cases(all: &[(Case, [Option<Seen>; 2])]) -> Vec<Must> {
    let mut musts = Vec::new();
    for (case, seen) in all {
        let [theirs, Some(own)] = seen else { continue };
        if let Some(theirs) = theirs.filter(|_| case.concurrency == 32) {
            let ratio = own.cpu.as_secs_f64() / theirs.cpu.as_secs_f64();
            musts.push(Must::new(
                format!("{}: CPU of Envoy's", case.name()),
                ratio,
                0.55,
            ));
        }
        if case.routes != 5000 {
            continue;
        }
        let two = Case { routes: 2, ..*case };
        let two = all.iter().find(|(other, _)| other.name() == two.name());
        if let Some((_, [_, Some(two)])) = two {
            let ratio = own.cpu.as_secs_f64() / two.cpu.as_secs_f64();
            musts.push(Must::new(
                format!("{}: CPU of 2 routes'", case.name()),
                ratio,
                1.15,
            ));
        }
        let megabytes = own.memory as f64 / 1024.0;
        musts.push(Must::new(format!("{}: MB", case.name()), megabytes, 40.0));
    }
    musts
}

/// Instructions of `select`, as far as somebody counts them here.
fn instructions() -> Vec<Must> {
    let counted: Result<Vec<u64>, String> = [2, 500, 5000]
        .into_iter()
        .map(select::instructions)
        .collect();
    match counted {
        Err(reason) => {
            println!("instructions of select: not counted: {reason}");
            Vec::new()
        }
        Ok(counted) => {
            println!(
                "instructions of select at 2, 500, 5000 routes: {} {} {}",
                counted[0], counted[1], counted[2]
            );
            let ratio = counted[2] as f64 / counted[0].max(1) as f64;
            vec![Must::new(
                "instructions of select at 5000 routes, of 2 routes'",
                ratio,
                2.0,
            )]
        }
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
