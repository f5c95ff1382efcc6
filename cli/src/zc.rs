//! What one ztunnel believes, as tables: `ambit zc`.
//!
//! It reads `/config_dump`, from the admin port or from a file, and decides nothing. Missing fields of an entry print as
//! `-`; a part that is missing, or is no list, is a failure.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs as _},
    path::Path,
    time::Duration,
};

use serde_json::Value;
use time::OffsetDateTime;

use crate::{Failure, http::Connection};

mod table;

pub use table::{certificates, services, workloads};
pub(crate) use table::{field, list, or_dash, table, text};

const PATIENCE: Duration = Duration::from_secs(5);

/// Rows below a header; all have as many cells as the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<&'static str>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

/// Asks an admin port for its dump.
pub fn ask(address: &str) -> Result<Value, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::Unreachable(format!(
            "cannot read the configuration of a proxy at {address}: {why}\n\
             Give the address of its admin port with --address, or a saved dump with -f."
        ))
    };
    let mut all = address.to_socket_addrs().map_err(|error| failed(&error))?;
    let first = all.next().ok_or_else(|| failed(&"no such host"))?;
    let stream = TcpStream::connect_timeout(&first, PATIENCE).map_err(|error| failed(&error))?;
    dump(stream, address).map_err(|error| failed(&error))
}

/// Asks for the dump over a connected stream.
pub fn dump(stream: TcpStream, host: &str) -> io::Result<Value> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = Connection::over(stream, host).send("GET", "/config_dump", b"")?;
    if answer.status != 200 {
        return Err(io::Error::other(format!(
            "it answers with status {}",
            answer.status
        )));
    }
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Reads a dump that was saved.
pub fn read(path: &Path) -> Result<Value, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!("cannot read the dump {}: {why}", path.display()))
    };
    let text = std::fs::read(path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(self.header[column].len())
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let header = self.header.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let cells: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// One of the tables of a dump.
pub(crate) fn print(dump: &Value, what: crate::args::Part, json: bool) -> Result<String, Failure> {
    use crate::args::Part;
    let (key, table): (_, fn(&Value, OffsetDateTime) -> Table) = match what {
        Part::Workloads => ("workloads", |dump, _| workloads(dump)),
        Part::Services => ("services", |dump, _| services(dump)),
        Part::Certificates => ("certificates", certificates),
    };
    let part = part(dump, key)
        .map_err(|what| Failure::Failed(format!("this is no dump of a ztunnel: {what}")))?;
    Ok(if json {
        format!("{part:#}\n")
    } else {
        table(dump, OffsetDateTime::now_utc()).to_string()
    })
}

/// A list of objects, which is what every part of a dump is.
pub(crate) fn part<'a>(dump: &'a Value, key: &str) -> Result<&'a Value, String> {
    let fields = dump.as_object().ok_or("it is not an object")?;
    let part = fields.get(key).ok_or_else(|| format!("{key} is missing"))?;
    let list = part
        .as_array()
        .ok_or_else(|| format!("{key} is not a list"))?;
    match list.iter().position(|it| !it.is_object()) {
        Some(at) => Err(format!("{key}[{at}] is not an object")),
        None => Ok(part),
    }
}
