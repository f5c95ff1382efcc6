//! One unchanging view of what a waypoint was told.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    http::{authorize, host::Host, host::Scheme, route::Route, select},
    identity::Identity,
    model::{Service, Vip},
    name::Name,
    store,
    waypoint::Answer,
};

/// All that a waypoint knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Counts up with every response.
    pub number: u64,
    /// Services, endpoints and layer 4 policies of all backends.
    pub mesh: store::Generation,
    pub(super) ready: bool,
    pub(super) tables: Arc<BTreeMap<&'static str, Arc<Table>>>,
    pub(super) backends: Arc<HashMap<Name, Arc<Backend>>>,
    pub(super) index: Arc<Index>,
}

/// A service of this waypoint, with all that was told of it in one version.
#[derive(Clone, Debug)]
pub struct Table {
    /// `<namespace>/<hostname>`.
    pub key: Name,
    /// The service, if its backend could be understood.
    pub service: Arc<Service>,
    /// By number.
    pub ports: Box<[Port]>,
    /// What is decided for each request and connection, on all ports.
    pub policies: Box<[Arc<authorize::Policy>]>,
    /// Applications are told who their client is.
    pub tells_identity: bool,
    /// Peers that may say whom they forward for. Nothing is decided by what they say.
    pub gateways: Box<[Identity]>,
    /// Other waypoints that requests come through: they may say of their client what gateways may, but nothing that counts.
    pub waypoints: Box<[Identity]>,
    /// Why nothing of it can be served: what is allowed is answered with 500.
    pub refused: Option<Box<str>>,
}

/// One port of a service.
#[derive(Clone, Debug)]
pub struct Port {
    /// The service's.
    pub number: u16,
    /// As the user called it, or empty.
    pub name: Box<str>,
    /// What clients speak.
    pub protocol: Protocol,
    /// Where requests or connections go.
    pub routes: Routes,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nobody says: the first bytes of each connection tell.
    Detect,
    /// HTTP, as the client speaks it.
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

/// Where requests or connections of a port go.
#[derive(Clone, Debug)]
pub enum Routes {
    /// To the service's own endpoints.
    None,
    /// By the rule that a request is for; without one the answer is 404.
    Http(Arc<select::Table>),
    /// By the first rule of the first that is for the client; the best one first. Never empty.
    Tcp(Box<[Arc<Route>]>),
    /// Something of it is not known here. What is allowed is answered with 500. Says why.
    Refused(Box<str>),
}

/// A service that requests are sent to.
#[derive(Clone, Debug)]
pub struct Backend {
    /// `<namespace>/<hostname>`.
    pub key: Name,
    /// The service; none if it could not be understood: see `refused`.
    pub service: Option<Arc<Service>>,
    /// What its ports say that is spoken on them, by number.
    pub protocols: Box<[(u16, Protocol)]>,
    /// Decided for whoever comes here by another service's route.
    pub policies: Box<[Arc<authorize::Policy>]>,
    /// The service of the other waypoint that requests have to go through.
    pub waypoint: Option<Arc<Service>>,
    /// Why it cannot be used: what is allowed is answered with 500.
    pub refused: Option<Box<str>>,
}

impl Backend {
    /// What is spoken on a port, as far as the service says.
    pub fn protocol(&self, port: u16) -> Protocol {
        let said = self.protocols.iter().find(|(number, _)| *number == port);
        said.map_or(Protocol::Detect, |(_, protocol)| *protocol)
    }
}

impl Table {
    /// A port by its number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// Tables by what an authority may name.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    addresses: HashMap<(Name, IpAddr), Arc<Table>>,
    ranges: Vec<(Vip, Arc<Table>)>,
    hostnames: HashMap<Name, Arc<Table>>,
}

impl Index {
    /// Where several tables claim an address or a host name, the platform's own, then the name decides.
    pub(super) fn new<'t>(tables: impl Iterator<Item = &'t Arc<Table>>) -> Self {
        let mut tables: Vec<_> = tables.collect();
        tables.sort_by_key(|table| (!table.service.canonical, table.key.as_str()));
        let mut index = Self::default();
        for table in tables {
            let hostname = index.hostnames.entry(table.service.hostname);
            hostname.or_insert_with(|| Arc::clone(table));
            for vip in &table.service.vips {
                if vip.is_single() {
                    let address = index.addresses.entry((vip.network, vip.address));
                    address.or_insert_with(|| Arc::clone(table));
                } else {
                    index.ranges.push((*vip, Arc::clone(table)));
                }
            }
        }
        // Stable: among equal ones the order from above stays.
        index.ranges.sort_by_key(|(vip, _)| Reverse(vip.length));
        index
    }

    fn at(&self, network: Name, address: IpAddr) -> Option<&Arc<Table>> {
        let exact = self.addresses.get(&(network, address));
        let holds = |(vip, _): &&(Vip, Arc<Table>)| vip.contains(network, address);
        exact.or_else(|| self.ranges.iter().find(holds).map(|(_, table)| table))
    }
}

impl Generation {
    /// Whether all four types were answered, and every table named then has been in force.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The tables in force, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }

    /// A table in force, by `<namespace>/<hostname>`.
    pub fn table(&self, key: Name) -> Option<&Arc<Table>> {
        self.tables.get(key.as_str())
    }

    /// All backends, in no order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values()
    }

    /// A backend by `<namespace>/<hostname>`.
    pub fn backend(&self, key: Name) -> Option<&Arc<Backend>> {
        self.backends.get(&key)
    }

    /// Which table and port an authority (`ip:port`, `[v6]:port`, `hostname:port`) is for. An address is meant in `network`.
    pub fn served(&self, network: Name, authority: &str) -> Result<(&Arc<Table>, &Port), Answer> {
        let not_served = || Answer::NotServed(authority.to_owned());
        let (name, port) = authority.rsplit_once(':').ok_or_else(not_served)?;
        // A port counts as it is written: no sign, no zero in front.
        let plain = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|_| plain).ok_or_else(not_served)?;
        let address = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            Some(inner) => Some(IpAddr::V6(inner.parse().map_err(|_| not_served())?)),
            None => name.parse().ok().filter(IpAddr::is_ipv4),
        };
        let table = match address {
            Some(address) => self.index.at(network, address.to_canonical()),
            None => {
                let host = Host::read(name.as_bytes(), Scheme::Http).map_err(|_| not_served())?;
                // Peers choose what they ask for: nothing of it is kept.
                Name::existing(&host.name).and_then(|name| self.index.hostnames.get(&name))
            }
        };
        let table = match table {
            Some(table) => table,
            None if self.ready => return Err(not_served()),
            None => return Err(Answer::NotReady),
        };
        match (table.port(port), &table.refused) {
            (Some(port), _) => Ok((table, port)),
            (None, Some(why)) => Err(Answer::Unserved(why.to_string())),
            (None, None) => Err(not_served()),
        }
    }
}
