//! Which application protocol a service port speaks.

use proto::workload::AppProtocol;

use crate::manifest::core::ServicePort;

/// Ports whose clients wait for the server to speak first, so that guessing at the first bytes would hang: SMTP, DNS,
/// MySQL, MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

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
        "mongo" | "mysql" | "redis" | "udp" => AppProtocol::Unknown,
        _ if SERVER_FIRST.contains(&port.port) => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}
