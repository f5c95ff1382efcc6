//! Puts the rules into a pod's namespace, looks whether they still stand, and takes them out without a trace.
//!
//! What the rules are is decided in [`rules`]; who gets them, in [`agent`](crate::agent).

use std::{fmt, io};

use sys::{iptables, netns::Netns, nft, route, sysctl};

use crate::rules::{self, Probed};

/// How much of the rules is in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All, unchanged, and nothing of another tool before them.
    Whole,
    /// Some, or changed.
    Partly,
    /// None.
    Absent,
}

/// Why a pod cannot be captured.
#[derive(Debug)]
pub enum Error {
    /// Another tool's rules are in the way.
    Obstacle {
        /// Which.
        what: String,
        /// How much of our rules is there beside them.
        ours: State,
    },
    /// The kernel refused.
    Os(io::Error),
}

/// Makes the rules stand in a namespace, whatever of them was there before.
///
/// # Errors
/// Before anything is changed, if another tool's rules are in the way.
pub fn install(netns: &Netns, probed: &Probed) -> Result<(), Error> {
    let obstacle = netns.within(|| match obstacle()? {
        Some(what) => Ok(Some((what, state(probed)?))),
        None => put(probed).map(|()| None),
    });
    match obstacle? {
        Some((what, ours)) => Err(Error::Obstacle { what, ours }),
        None => Ok(()),
    }
}

/// Looks how much of the rules stands in a namespace.
///
/// # Errors
/// Also if another tool's rules have come to be in the way.
pub fn verify(netns: &Netns, probed: &Probed) -> Result<State, Error> {
    match netns.within(|| Ok((obstacle()?, state(probed)?)))? {
        (Some(what), ours) => Err(Error::Obstacle { what, ours }),
        (None, state) => Ok(state),
    }
}

/// Takes out of a namespace what [`install`] put there, and nothing else. It may be gone already.
pub fn remove(netns: &Netns) -> io::Result<()> {
    netns.within(|| {
        // The packet rules first: without them nothing is marked, and the routes lie idle.
        missing_is_fine(nft::remove(nft::Family::Inet, rules::TABLE))?;
        for rule in route::rules()?
            .into_iter()
            .filter(|rule| rule.protocol == rules::PROTOCOL)
        {
            missing_is_fine(route::remove_rule(&rule))?;
        }
        for route in route::routes()?
            .into_iter()
            .filter(|route| route.protocol == rules::PROTOCOL)
        {
            missing_is_fine(route::remove_route(&route))?;
        }
        Ok(())
    })
}

fn put(probed: &Probed) -> io::Result<()> {
    let v6 = has_v6();
    for route in rules::routes(v6, route::index("lo")?) {
        present_is_fine(route::add_route(&route))?;
    }
    for rule in rules::routing_rules(v6) {
        present_is_fine(route::add_rule(&rule))?;
    }
    nft::replace(&rules::table(v6, probed))
}

fn state(probed: &Probed) -> io::Result<State> {
    let v6 = has_v6();
    let (listed, found_routes, found_rules) = (nft::list()?, route::routes()?, route::rules()?);
    let table = rules::table(v6, probed);
    let routes = rules::routes(v6, route::index("lo")?);
    let routing_rules = rules::routing_rules(v6);
    let whole = table.stands(&listed)
        && routes.iter().all(|route| found_routes.contains(route))
        && routing_rules.iter().all(|rule| found_rules.contains(rule));
    let none = !listed.iter().any(|chain| table.owns(chain))
        && !found_routes
            .iter()
            .any(|route| route.protocol == rules::PROTOCOL)
        && !found_rules
            .iter()
            .any(|rule| rule.protocol == rules::PROTOCOL);
    Ok(match (whole, none) {
        (true, _) => State::Whole,
        (false, true) => State::Absent,
        (false, false) => State::Partly,
    })
}

fn obstacle() -> io::Result<Option<String>> {
    let found = rules::obstacle(&nft::list()?);
    let found = found.or(rules::routing_obstacle(&route::routes()?, &route::rules()?));
    Ok(match found {
        Some(found) => Some(found),
        None => iptables::tables_with_rules()?
            .into_iter()
            .find(|table| matches!(table.name.as_str(), "nat" | "mangle"))
            .map(|table| {
                format!(
                    "{} table {} has rules of another tool",
                    table.program(),
                    table.name
                )
            }),
    })
}

/// Whether the calling thread's namespace has IPv6, at least on its loopback.
fn has_v6() -> bool {
    sysctl::read("net/ipv6/conf/lo/disable_ipv6").is_ok_and(|value| value == "0")
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn present_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Ok(())
        } else {
            Err(error)
        }
    })
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Obstacle { what, .. } => {
                write!(f, "{what}; remove them to let the pod into the mesh")
            }
            Self::Os(error) => write!(f, "the kernel does not take the capture rules: {error}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
