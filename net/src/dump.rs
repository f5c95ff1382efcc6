//! What `/config_dump` of both proxies has in common, in the shape that the ecosystem's tools read.

mod address;
mod policy;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub use address::{service, workload};
pub use policy::{matched, policy};

use crate::{
    certificates::{Certificates, Entry},
    tls::Certificate,
};

/// Values in the order of these fields.
pub fn sorted(mut all: Vec<Value>, keys: &[&str]) -> Vec<Value> {
    all.sort_by_cached_key(|value| {
        keys.iter()
            .map(|key| value[*key].to_string())
            .collect::<Vec<_>>()
    });
    all
}

/// An object without what is absent.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

/// All certificates.
pub fn certificates(held: &Certificates) -> Vec<Value> {
    let entries = held.snapshot().into_iter();
    let one = |entry: Entry| {
        let shown = |certificates: &[Certificate]| certificates.iter().map(certificate).collect();
        let held = entry.credential.as_deref();
        let chain: Vec<Value> = held.map(|held| shown(held.chain())).unwrap_or_default();
        let roots: Vec<Value> = held.map(|held| shown(held.roots())).unwrap_or_default();
        json!({
            "identity": entry.identity.to_string(),
            "state": entry.state,
            "certChain": chain,
            "rootCerts": roots,
        })
    };
    entries.map(one).collect()
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "pem": STANDARD.encode(&certificate.pem),
        "serialNumber": certificate.serial,
        "validFrom": instant(certificate.not_before),
        "expirationTime": instant(certificate.not_after),
    })
}

fn instant(seconds: i64) -> Value {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    json!(time.and_then(|time| time.format(&Rfc3339).ok()))
}

/// Which build this is.
pub fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": "unknown",
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "unknown",
        "istioVersion": "unknown",
    })
}
