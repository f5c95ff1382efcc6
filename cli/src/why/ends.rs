//! Who asks, and what for: the words of the command line as workloads, addresses and ports.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh::{
    model::{Service, Workload},
    store::Known,
};

use super::facts::Facts;
use crate::Failure;

/// Who asks, and what for.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// Who asks.
    pub(super) client: Arc<Workload>,
    /// By which of its addresses.
    pub(super) source: IpAddr,
    /// What it connects to.
    pub(super) to: SocketAddr,
    /// The same as it is called.
    pub(super) name: String,
    /// What it calls the host.
    pub(super) host: String,
}

/// What the words mean.
pub(super) fn resolve(facts: &Facts, from: &str, to: &str) -> Result<Ends, Failure> {
    let Some(client) = workload(facts, from).map_err(Failure::Usage)? else {
        return Err(unknown(facts, from));
    };
    let (name, port) = split(to);
    let namespace = client.identity.namespace.as_str().to_owned();
    let found = destination(facts, name, &namespace, &client)?;
    let port = found.port(facts, port).map_err(Failure::Usage)?;
    let to = SocketAddr::new(found.address, port);
    let source = client
        .addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv4() == to.is_ipv4());
    let source = source.ok_or_else(|| {
        let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
        Failure::Usage(format!("{from} has no {family} address to reach {to} from"))
    })?;
    let host = if port == 80 {
        found.host
    } else {
        format!("{}:{port}", found.host)
    };
    Ok(Ends {
        client,
        source,
        to,
        name: format!("{} port {port}", found.name),
        host,
    })
}

/// What a name stands for.
struct Found {
    name: String,
    host: String,
    address: IpAddr,
    service: Option<Arc<Service>>,
    workload: Option<Arc<Workload>>,
}

/// The name and the port, if there is one.
fn split(text: &str) -> (&str, Option<&str>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    }
}

fn destination(
    facts: &Facts,
    name: &str,
    namespace: &str,
    client: &Workload,
) -> Result<Found, Failure> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(of_address(facts, address, client));
    }
    if let Some(service) = service(facts, name, namespace) {
        return of_service(facts, service, client);
    }
    match workload(facts, name).map_err(Failure::Usage)? {
        Some(workload) => of_workload(&workload, client),
        None => Err(unknown(facts, name)),
    }
}

fn of_address(facts: &Facts, address: IpAddr, client: &Workload) -> Found {
    let known = facts
        .mesh
        .lookup(client.network, address, client.identity.namespace);
    let (name, service, workload) = match known {
        Known::Service(it) => (short(it), Some(Arc::clone(it)), None),
        Known::Workload(it) => (called(it), None, Some(Arc::clone(it))),
        Known::Nothing | Known::Unusable(_) => (address.to_string(), None, None),
    };
    let host = match address {
        IpAddr::V4(_) => address.to_string(),
        IpAddr::V6(_) => format!("[{address}]"),
    };
    Found {
        name,
        host,
        address,
        service,
        workload,
    }
}

fn of_service(facts: &Facts, service: &Arc<Service>, client: &Workload) -> Result<Found, Failure> {
    let name = short(service);
    let prefers_v4 = client.addresses.first().is_none_or(IpAddr::is_ipv4);
    let vips = || service.vips.iter().map(|vip| vip.address);
    let own = vips().find(|address| address.is_ipv4() == prefers_v4);
    // Of a service without an address of its own the name is that of its endpoints.
    let endpoints = facts.mesh.endpoints(service.key).iter();
    let mut endpoints = endpoints.flat_map(|it| it.workload.addresses.iter().copied());
    let address = own.or_else(|| vips().next());
    let address = address.or_else(|| endpoints.find(|it| it.is_ipv4() == prefers_v4));
    let address = address.ok_or_else(|| {
        Failure::Usage(format!(
            "service {name} has neither an address nor endpoints"
        ))
    })?;
    Ok(Found {
        host: format!("{}.{}", service.name, service.namespace),
        name,
        address,
        service: Some(Arc::clone(service)),
        workload: None,
    })
}

fn of_workload(workload: &Arc<Workload>, client: &Workload) -> Result<Found, Failure> {
    let prefers_v4 = client.addresses.first().is_none_or(IpAddr::is_ipv4);
    let all = || workload.addresses.iter().copied();
    let address = all().find(|it| it.is_ipv4() == prefers_v4);
    let address = address
        .or_else(|| all().next())
        .ok_or_else(|| Failure::Usage(format!("pod {} has no address", called(workload))))?;
    let found = Found {
        name: called(workload),
        host: match address {
            IpAddr::V4(_) => address.to_string(),
            IpAddr::V6(_) => format!("[{address}]"),
        },
        address,
        service: None,
        workload: Some(Arc::clone(workload)),
    };
    Ok(found)
}

impl Found {
    /// By its number or its name; the only one if none is given.
    fn port(&self, facts: &Facts, port: Option<&str>) -> Result<u16, String> {
        if let Some(number) = port.and_then(|port| port.parse().ok()) {
            return Ok(number);
        }
        let all = self.ports(facts);
        let listed = || {
            let each = all.iter().map(|(name, number)| {
                if name.is_empty() {
                    number.to_string()
                } else {
                    format!("{number} ({name})")
                }
            });
            let each: Vec<_> = each.collect();
            match each.as_slice() {
                [] => "give it as a number".to_owned(),
                each => format!("there are {}", each.join(", ")),
            }
        };
        match (port, all.as_slice()) {
            (Some(wanted), _) => all
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, number)| *number)
                .ok_or_else(|| format!("{} has no port {wanted:?}: {}", self.name, listed())),
            (None, [(_, only)]) => Ok(*only),
            (None, _) => Err(format!("which port of {}? {}", self.name, listed())),
        }
    }

    /// Names and numbers, without what is the same number again.
    fn ports(&self, facts: &Facts) -> Vec<(String, u16)> {
        let mut all: Vec<(String, u16)> = Vec::new();
        if let Some(service) = &self.service {
            let key = (service.namespace.to_string(), service.name.to_string());
            let written = facts.world.services.get(&key).map(|it| it.ports.as_slice());
            let name = |number| {
                let mut written = written.unwrap_or_default().iter();
                let port = written.find(|port| port.port == number);
                port.map(|port| port.name.clone()).unwrap_or_default()
            };
            let ports = service.ports.iter();
            all.extend(ports.map(|port| (name(port.service), port.service)));
        }
        if let Some(workload) = &self.workload {
            for port in workload.services.iter().flat_map(|it| &it.ports) {
                if port.target != 0 && !all.iter().any(|(_, number)| *number == port.target) {
                    all.push((String::new(), port.target));
                }
            }
        }
        all
    }
}

/// `namespace/name`, `name.namespace`, `name` in the client's own namespace, or the whole host name.
fn service<'f>(facts: &'f Facts, text: &str, namespace: &str) -> Option<&'f Arc<Service>> {
    let text = text.trim_end_matches('.');
    let is = |service: &Service| {
        let (own, of) = (service.name.as_str(), service.namespace.as_str());
        let short = format!("{own}.{of}");
        text == service.hostname.as_str()
            || text == short
            || text == format!("{short}.svc")
            || text.split_once('/') == Some((of, own))
            || text == own && of == namespace
    };
    let mut all: Vec<_> = facts
        .mesh
        .services()
        .filter(|service| is(service))
        .collect();
    all.sort_by_key(|service| service.key.as_str());
    all.first().copied()
}

/// By `namespace/name`, by a name that only one has, or by address.
fn workload(facts: &Facts, text: &str) -> Result<Option<Arc<Workload>>, String> {
    let address: Option<IpAddr> = text.parse().ok();
    let is = |workload: &Workload| match (text.split_once('/'), address) {
        (_, Some(address)) => workload.addresses.contains(&address),
        (Some((namespace, name)), None) => {
            workload.identity.namespace.as_str() == namespace && &*workload.name == name
        }
        (None, None) => &*workload.name == text,
    };
    let mut all: Vec<_> = facts.mesh.workloads().filter(|it| is(it)).collect();
    all.sort_by_key(|workload| &workload.uid);
    match all.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(Arc::clone(one))),
        several => {
            let names: Vec<_> = several.iter().map(|it| called(it)).collect();
            Err(format!("{text} may be any of {}", names.join(", ")))
        }
    }
}

fn unknown(facts: &Facts, text: &str) -> Failure {
    let mut names: Vec<_> = facts.mesh.workloads().map(|it| called(it)).collect();
    names.sort();
    let services = facts.mesh.services().map(short);
    let mut services: Vec<_> = services.collect();
    services.sort();
    if names.is_empty() && services.is_empty() {
        return Failure::Usage(format!(
            "nobody knows {text:?}: there is neither a pod nor a service; directories below the one given are not read"
        ));
    }
    Failure::Usage(format!(
        "nobody knows {text:?}\nPods: {}\nServices: {}\nOf what is outside the mesh give the address.",
        some(&names),
        some(&services)
    ))
}

/// Not so many that nobody reads them.
fn some(names: &[String]) -> String {
    const MOST: usize = 20;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `namespace/name` of a workload.
pub(super) fn called(workload: &Workload) -> String {
    format!("{}/{}", workload.identity.namespace, workload.name)
}

/// `namespace/name` of a service.
pub(super) fn short(service: &Arc<Service>) -> String {
    format!("{}/{}", service.namespace, service.name)
}
