//! What proxies tell each other beside a CONNECT. None of it proves anything: it is for logs and metrics.

use std::{fmt::Write, net::SocketAddr};

use crate::{
    model::{Workload, WorkloadType},
    plan::Source,
};

/// What a peer says that it is, from its `baggage`. Nothing of it is true but by chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.deployment.name` and the like.
    pub workload: Option<String>,
    /// `service.name`.
    pub service: Option<String>,
    /// `service.version`.
    pub version: Option<String>,
    /// `cloud.region`.
    pub region: Option<String>,
    /// `cloud.availability_zone`.
    pub zone: Option<String>,
}

/// Longest `baggage` that is read (W3C Baggage §4.3.2).
const LONGEST: usize = 8192;

/// The `baggage` header for a workload (W3C Baggage §3.2): `key=value` pairs, values percent-encoded, empty ones left out.
pub fn baggage(workload: &Workload) -> String {
    let kind = match workload.workload_type {
        WorkloadType::CronJob => "k8s.cronjob.name",
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::Job => "k8s.job.name",
        WorkloadType::Pod => "k8s.pod.name",
    };
    let name = workload.workload_name.as_str();
    let name = if name.is_empty() {
        &workload.name
    } else {
        name
    };
    pairs(&[
        ("k8s.cluster.name", workload.cluster.as_str()),
        ("k8s.namespace.name", workload.namespace().as_str()),
        (kind, name),
        ("service.name", workload.canonical_name.as_str()),
        ("service.version", workload.canonical_revision.as_str()),
        ("cloud.region", workload.locality.region.as_str()),
        ("cloud.availability_zone", workload.locality.zone.as_str()),
    ])
}

/// The `baggage` header of a waypoint, which no workload speaks through: its Gateway, by what it knows of itself.
pub fn waypoint_baggage(source: &Source, gateway: &str) -> String {
    pairs(&[
        ("k8s.cluster.name", source.cluster.as_str()),
        ("k8s.namespace.name", source.identity.namespace.as_str()),
        ("k8s.deployment.name", gateway),
        ("service.name", gateway),
        ("cloud.region", source.locality.region.as_str()),
        ("cloud.availability_zone", source.locality.zone.as_str()),
    ])
}

fn pairs(all: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in all {
        if !value.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(key);
            text.push('=');
            encode(value, &mut text);
        }
    }
    text
}

/// Reads a `baggage` header. Properties after `;` and keys that we do not know are passed over.
pub fn parse_baggage(text: &str) -> Baggage {
    let mut baggage = Baggage::default();
    if text.len() > LONGEST {
        return baggage;
    }
    for pair in text.split(',') {
        let pair = pair.split(';').next().unwrap_or(pair);
        let Some((key, value)) = pair.split_once('=') else {
            continue;
        };
        let field = match key.trim() {
            "k8s.cluster.name" => &mut baggage.cluster,
            "k8s.namespace.name" => &mut baggage.namespace,
            "k8s.deployment.name" | "k8s.cronjob.name" | "k8s.pod.name" | "k8s.job.name" => {
                &mut baggage.workload
            }
            "service.name" => &mut baggage.service,
            "service.version" => &mut baggage.version,
            "cloud.region" => &mut baggage.region,
            "cloud.availability_zone" => &mut baggage.zone,
            _ => continue,
        };
        let value = decode(value.trim());
        if !value.is_empty() {
            *field = Some(value);
        }
    }
    baggage
}

/// The `forwarded` header (RFC 7239 §4): who connected, and to which service.
pub fn forwarded(client: SocketAddr, service: Option<&str>) -> String {
    match service {
        Some(host) => format!("for=\"{client}\";host={host}"),
        None => format!("for=\"{client}\""),
    }
}

/// The service in a `forwarded` header, if there is one.
pub fn forwarded_host(text: &str) -> Option<&str> {
    let pairs = text
        .split([';', ','])
        .filter_map(|pair| pair.trim().split_once('='));
    let host = pairs
        .into_iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("host"));
    host.map(|(_, value)| value.trim_matches('"'))
}

/// The `traceparent` header (W3C Trace Context §3.2) of a new trace.
pub fn traceparent(trace: u128, span: u64) -> String {
    // All zeros is not valid.
    format!("00-{:032x}-{:016x}-00", trace.max(1), span.max(1))
}

fn encode(value: &str, text: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'"' | b',' | b';' | b'\\' | b'%' | b'=' | 0..=0x20 | 0x7f.. => {
                write!(text, "%{byte:02X}").expect("writing to a String does not fail");
            }
            _ => text.push(char::from(byte)),
        }
    }
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        let escaped = match tail {
            [high, low, ..] if *byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(u8::try_from(high * 16 + low).expect("two hex digits"));
            rest = &tail[2..];
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_whatever_is_in_them() {
        for value in ["a", "a,b=c;d", "50%", "ü", "a b", "\"\\", "%2C"] {
            let mut text = "service.name=".to_owned();
            encode(value, &mut text);
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert_eq!(parse_baggage(&text).service.as_deref(), Some(value));
        }
    }

    #[test]
    fn reads_what_others_write() {
        let baggage = parse_baggage(
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop;x=y, k8s.deployment.name = cart,\
             service.version=,who=knows,nonsense",
        );
        assert_eq!(baggage.cluster.as_deref(), Some("Kubernetes"));
        assert_eq!(baggage.namespace.as_deref(), Some("shop"));
        assert_eq!(baggage.workload.as_deref(), Some("cart"));
        assert_eq!(baggage.version, None);
    }

    #[test]
    fn forwarded_quotes_the_client() {
        let v6 = "[fd00::1]:80".parse().unwrap();
        assert_eq!(forwarded(v6, None), "for=\"[fd00::1]:80\"");
        let v4 = "10.0.0.1:80".parse().unwrap();
        let with_host = forwarded(v4, Some("a.b"));
        assert_eq!(with_host, "for=\"10.0.0.1:80\";host=a.b");
        assert_eq!(forwarded_host(&with_host), Some("a.b"));
        assert_eq!(forwarded_host("for=\"[fd00::1]:80\""), None);
    }

    #[test]
    fn traceparent_has_the_standard_form() {
        assert_eq!(
            traceparent(0xab, 0),
            "00-000000000000000000000000000000ab-0000000000000001-00"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            parse_baggage(&text);
        }
    }
}
