//! Instructions of `select` alone, which neither the machine's load nor its clock changes.
//!
//! Counted by valgrind's callgrind, once for few and once for many selections: what differs is theirs.

use std::{
    io,
    process::{Command, ExitCode, Stdio},
};

use mesh::{
    http::{
        head::{Head, Raw},
        host::Scheme,
        select::select,
    },
    waypoint::Routes,
};

use crate::{load, ours};

/// What is selected from, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    routes: usize,
    #[arg(long)]
    times: usize,
}

/// Selects; the bench starts itself so, under callgrind.
pub(crate) fn repeat(arguments: &Arguments) -> ExitCode {
    let generation = match ours::generation(arguments.routes, &[], false) {
        Ok(generation) => generation,
        Err(error) => {
            eprintln!("select: {error}");
            return ExitCode::FAILURE;
        }
    };
    let port = generation.tables().next().map(|table| &table.ports[0]);
    let Some(Routes::Http(routes)) = port.map(|port| &port.routes) else {
        return ExitCode::FAILURE;
    };
    // All heads are read before, as often for few selections as for many.
    let paths: Vec<String> = (0..arguments.routes)
        .map(|number| load::path(number, arguments.routes))
        .collect();
    let raw = |path: &'static str| Raw {
        method: b"GET",
        scheme: Scheme::Http,
        authority: None,
        target: path.as_bytes(),
        headers: &[(b"host", b"bench.shop.svc.cluster.local")],
    };
    let heads: Result<Vec<Head<'_>>, _> = paths
        .into_iter()
        .map(|path| Head::read(&raw(path.leak())))
        .collect();
    let Ok(heads) = heads else {
        return ExitCode::FAILURE;
    };
    let all = heads.iter().cycle().take(arguments.times);
    let found = all.filter(|head| select(routes, head, None).is_some());
    if found.count() == arguments.times {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Instructions of one selection among so many routes. The error says why they cannot be counted.
pub(crate) fn instructions(routes: usize) -> Result<u64, String> {
    const FEW: usize = 10_000;
    const MANY: usize = 30_000;
    let (few, many) = (total(routes, FEW)?, total(routes, MANY)?);
    Ok(many.saturating_sub(few) / (MANY - FEW) as u64)
}

fn total(routes: usize, times: usize) -> Result<u64, String> {
    let failed = |error: io::Error| format!("valgrind: {error}");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().map_err(failed)?)
        .args(["select", "--routes", &routes.to_string()])
        .args(["--times", &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    collected
        .filter(|_| output.status.success())
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| format!("valgrind: {}", said.lines().last().unwrap_or("no count")))
}
