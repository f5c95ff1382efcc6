//! `Table`, which names what belongs to it.

use proto::waypoint as wire;

use crate::{
    identity::Identity,
    name::Name,
    waypoint::{Protocol, parse},
};

/// A table as it was told: what it needs before it can be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::waypoint) struct Told {
    /// `<namespace>/<hostname>`; its own backend's name, too.
    pub(in crate::waypoint) key: Name,
    /// In their order.
    pub(in crate::waypoint) ports: Vec<ToldPort>,
    /// In their order.
    pub(in crate::waypoint) policies: Vec<Reference>,
    /// Names of all backends that have to be there, its own among them.
    pub(in crate::waypoint) backends: Vec<Name>,
    /// Applications are told who their client is.
    pub(in crate::waypoint) tells_identity: bool,
    /// Peers that may say whom they forward for.
    pub(in crate::waypoint) gateways: Vec<Identity>,
    /// Other waypoints that requests come through.
    pub(in crate::waypoint) waypoints: Vec<Identity>,
    /// Why nothing of it can be served.
    pub(in crate::waypoint) refused: Option<String>,
}

/// A port as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::waypoint) struct ToldPort {
    pub(in crate::waypoint) number: u16,
    pub(in crate::waypoint) name: Box<str>,
    pub(in crate::waypoint) protocol: Protocol,
    pub(in crate::waypoint) routes: Vec<Reference>,
    /// Why nothing of it can be served.
    pub(in crate::waypoint) refused: Option<String>,
}

/// A resource in the version that is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::waypoint) struct Reference {
    pub(in crate::waypoint) name: String,
    pub(in crate::waypoint) version: String,
}

/// Reads a table. There is always one: what cannot be understood serves nothing, and says so.
pub(in crate::waypoint) fn table(name: &str, bytes: &[u8]) -> Told {
    let key = Name::new(name);
    let mut told = Told {
        key,
        ports: Vec::new(),
        policies: Vec::new(),
        backends: vec![key],
        tells_identity: false,
        gateways: Vec::new(),
        waypoints: Vec::new(),
        refused: None,
    };
    let message: wire::Table = match parse::decoded(bytes) {
        Ok(message) => message,
        Err(why) => {
            told.refused = Some(why);
            return told;
        }
    };
    told.refused = whole(name, &message, bytes).err();
    told.policies = references(&message.policies);
    for backend in message.backends.iter().map(|name| Name::new(name)) {
        if !told.backends.contains(&backend) {
            told.backends.push(backend);
        }
    }
    told.tells_identity = message.tells_identity;
    for (texts, identities) in [
        (&message.gateways, &mut told.gateways),
        (&message.waypoints, &mut told.waypoints),
    ] {
        for text in texts {
            match text.parse() {
                Ok(identity) => identities.push(identity),
                Err(_) => {
                    told.refused
                        .get_or_insert_with(|| format!("{text:?} is no identity"));
                }
            }
        }
    }
    for port in &message.ports {
        match port_of(port) {
            Ok(port) => told.ports.push(port),
            Err(why) => told.refused = told.refused.or(Some(why)),
        }
    }
    told
}

fn whole(name: &str, message: &wire::Table, bytes: &[u8]) -> Result<(), String> {
    parse::has_all(&message.requires)?;
    parse::lost_nothing(message, bytes)?;
    if message.backend != name {
        return Err(format!("its own backend is {:?}", message.backend));
    }
    let mut numbers: Vec<u32> = message.ports.iter().map(|port| port.number).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("has the port {} twice", pair[0])),
        None => Ok(()),
    }
}

fn port_of(message: &wire::Port) -> Result<ToldPort, String> {
    let (protocol, refused) = match wire::Protocol::try_from(message.protocol) {
        Ok(wire::Protocol::Detect) => (Protocol::Detect, None),
        Ok(wire::Protocol::Http) => (Protocol::Http, None),
        Ok(wire::Protocol::Http1) => (Protocol::Http1, None),
        Ok(wire::Protocol::Http2) => (Protocol::Http2, None),
        Ok(wire::Protocol::Tcp) => (Protocol::Tcp, None),
        Err(_) => {
            let why = format!("unknown protocol {}", message.protocol);
            (Protocol::Detect, Some(why))
        }
    };
    Ok(ToldPort {
        number: parse::port(message.number)?,
        name: message.name.as_str().into(),
        protocol,
        routes: references(&message.routes),
        refused,
    })
}

/// References as they are.
pub(super) fn references(list: &[wire::Reference]) -> Vec<Reference> {
    let one = |reference: &wire::Reference| Reference {
        name: reference.name.clone(),
        version: reference.version.clone(),
    };
    list.iter().map(one).collect()
}
