//! `Backend`: a service and its endpoints. One that cannot be understood is there all the same, and answers for itself.

use std::sync::Arc;

use proto::{waypoint as wire, workload::AppProtocol};

use crate::{
    model::{Service, Workload},
    name::Name,
    parse as addresses,
    waypoint::{
        Protocol,
        parse::{self, Reference, table::references},
    },
};

/// The numbers of the message's fields.
const FIELDS: std::ops::RangeInclusive<u64> = 1..=5;

/// A backend as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::waypoint) struct Told {
    /// `<namespace>/<hostname>`.
    pub(in crate::waypoint) key: Name,
    pub(in crate::waypoint) service: Option<Arc<Service>>,
    pub(in crate::waypoint) protocols: Box<[(u16, Protocol)]>,
    /// Those that could be understood.
    pub(in crate::waypoint) workloads: Vec<Arc<Workload>>,
    pub(in crate::waypoint) policies: Vec<Reference>,
    pub(in crate::waypoint) waypoint: Option<Arc<Service>>,
    /// Why it cannot be used.
    pub(in crate::waypoint) refused: Option<String>,
}

/// Reads a backend; the second are the reasons why not all of it is used.
pub(in crate::waypoint) fn backend(name: &str, bytes: &[u8]) -> (Told, Vec<String>) {
    let mut told = Told {
        key: Name::new(name),
        service: None,
        protocols: Box::default(),
        workloads: Vec::new(),
        policies: Vec::new(),
        waypoint: None,
        refused: None,
    };
    let mut reasons = Vec::new();
    let read = parse::decoded(bytes).and_then(|message| fill(&mut told, message, &mut reasons));
    if let Err(why) = read.and_then(|()| knows_fields(bytes)) {
        told.refused = Some(why.clone());
        reasons.push(why);
    }
    (told, reasons)
}

fn fill(told: &mut Told, message: wire::Backend, reasons: &mut Vec<String>) -> Result<(), String> {
    told.policies = references(&message.policies);
    let service = message.service.ok_or("has no service")?;
    told.protocols = service.ports.iter().filter_map(protocol).collect();
    let service = addresses::service(service)?;
    if service.key != told.key {
        return Err(format!("holds the service {:?}", service.key));
    }
    reasons.extend(service.distrust.as_ref().map(|why| why.to_string()));
    let through = service.waypoint.is_some();
    told.service = Some(Arc::new(service));
    for message in message.workloads {
        let uid = message.uid.clone();
        match addresses::workload(message) {
            Ok(workload) => told.workloads.push(Arc::new(workload)),
            Err(why) => reasons.push(format!("workload {uid:?}: {why}")),
        }
    }
    told.waypoint = message
        .waypoint_service
        .map(addresses::service)
        .transpose()?
        .map(Arc::new);
    if told.waypoint.is_some() && !through {
        return Err("holds a waypoint's service, and its own names none".to_owned());
    }
    parse::has_all(&message.requires)
}

/// What a port says that is spoken on it. Nothing else of it is read here: what is wrong with it is told of the service.
fn protocol(port: &proto::workload::Port) -> Option<(u16, Protocol)> {
    let number = u16::try_from(port.service_port).ok()?;
    let protocol = match AppProtocol::try_from(port.app_protocol) {
        Ok(AppProtocol::Http11) => Protocol::Http1,
        Ok(AppProtocol::Http2 | AppProtocol::Grpc) => Protocol::Http2,
        Ok(AppProtocol::Tcp | AppProtocol::Tls) => Protocol::Tcp,
        Ok(AppProtocol::Unknown) | Err(_) => Protocol::Detect,
    };
    Some((number, protocol))
}

/// Whether the message itself has only the fields that are known here. What services and workloads may hold beside is not
/// asked, as it is not where ztunnels read them.
fn knows_fields(mut bytes: &[u8]) -> Result<(), String> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|e| e.to_string())?;
        if !FIELDS.contains(&u64::from(tag)) {
            return Err(format!("has an unknown field {tag}"));
        }
        let skipped = skip_field(wire_type, tag, &mut bytes, DecodeContext::default());
        skipped.map_err(|e| e.to_string())?;
    }
    Ok(())
}
