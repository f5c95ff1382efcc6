//! Which application protocol a service port speaks.

use proto::workload::AppProtocol;

use crate::manifest::core::ServicePort;

/// Ports whose clients wait for the server to speak first, so that guessing at the first bytes would hang: SMTP, DNS,
/// MySQL, MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// Protocols whose ports say so by name, and that the wire has no word for.
const OTHERS: [&str; 3] = ["mongo", "mysql", "redis"];

/// What a port says of itself; `None` if nothing. For a waypoint, to which everything but HTTP is bytes.
pub(super) fn declared(port: &ServicePort) -> Option<AppProtocol> {
    match app_protocol(port) {
        AppProtocol::Unknown => {
            let word = port.app_protocol.as_deref().unwrap_or(&port.name);
            let word = word.to_ascii_lowercase();
            if word.starts_with("grpc-web") {
                return Some(AppProtocol::Http11);
            }
            let word = word.split('-').next().unwrap_or_default();
            OTHERS.contains(&word).then_some(AppProtocol::Tcp)
        }
        found => Some(found),
    }
}

/// From `appProtocol`, else from the port's name up to the first '-', else from well-known port numbers.
pub(super) fn app_protocol(port: &ServicePort) -> AppProtocol {
    if port.udp {
        return AppProtocol::Unknown;
    }
    let word = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => return AppProtocol::Http2,
        Some("kubernetes.io/ws") => return AppProtocol::Http11,
        Some("kubernetes.io/wss") => return AppProtocol::Tls,
        Some(word) => word,
        None => &port.name,
    }
    .to_ascii_lowercase();
    if word.starts_with("grpc-web") {
        return AppProtocol::Unknown;
    }
    match word.split('-').next().unwrap_or_default() {
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        // Named, and not one that the wire has a word for.
        "udp" => AppProtocol::Unknown,
        word if OTHERS.contains(&word) => AppProtocol::Unknown,
        _ if SERVER_FIRST.contains(&port.port) => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}
