//! The tables, each from the part of a dump that it shows.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Table;

/// NAMESPACE, POD NAME, ADDRESS, NODE, WAYPOINT, PROTOCOL.
pub fn workloads(dump: &Value) -> Table {
    let row = |it: &Value| {
        let addresses: Vec<_> = list(it, "workloadIps").iter().map(text).collect();
        vec![
            field(it, "namespace"),
            field(it, "name"),
            or_dash(addresses.join(",")),
            field(it, "node"),
            waypoint(it),
            field(it, "protocol"),
        ]
    };
    table(
        vec![
            "NAMESPACE",
            "POD NAME",
            "ADDRESS",
            "NODE",
            "WAYPOINT",
            "PROTOCOL",
        ],
        list(dump, "workloads").iter().map(row),
    )
}

/// NAMESPACE, SERVICE NAME, SERVICE VIP, WAYPOINT, ENDPOINTS (healthy/all).
pub fn services(dump: &Value) -> Table {
    let row = |it: &Value| {
        // A virtual address is network/address.
        let vips: Vec<_> = list(it, "vips")
            .iter()
            .map(|vip| text(vip).rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        let endpoints: Vec<_> = it["endpoints"]
            .as_object()
            .map(|all| all.values().collect())
            .unwrap_or_default();
        let healthy = endpoints
            .iter()
            .filter(|endpoint| endpoint["status"] == "Healthy")
            .count();
        let counts = format!("{healthy}/{}", endpoints.len());
        vec![
            field(it, "namespace"),
            field(it, "name"),
            or_dash(vips.join(",")),
            waypoint(it),
            counts,
        ]
    };
    table(
        vec![
            "NAMESPACE",
            "SERVICE NAME",
            "SERVICE VIP",
            "WAYPOINT",
            "ENDPOINTS",
        ],
        list(dump, "services").iter().map(row),
    )
}

/// CERTIFICATE NAME, TYPE, STATUS, VALID CERT, SERIAL NUMBER, NOT AFTER, NOT BEFORE; a row for each certificate of a
/// chain, or one if there is none yet.
pub fn certificates(dump: &Value, now: OffsetDateTime) -> Table {
    let mut rows = Vec::new();
    for it in list(dump, "certificates") {
        let chain = list(it, "certChain").iter().enumerate();
        let chain = chain.map(|(place, it)| (if place == 0 { "Leaf" } else { "Intermediate" }, it));
        let roots = list(it, "rootCerts").iter().map(|it| ("Root", it));
        let before = rows.len();
        for (kind, certificate) in chain.chain(roots) {
            let valid = valid(certificate, now);
            rows.push(vec![
                field(it, "identity"),
                kind.to_owned(),
                field(it, "state"),
                valid.to_string(),
                field(certificate, "serialNumber"),
                field(certificate, "expirationTime"),
                field(certificate, "validFrom"),
            ]);
        }
        if rows.len() == before {
            let nothing = || "-".to_owned();
            rows.push(vec![
                field(it, "identity"),
                nothing(),
                field(it, "state"),
                "false".to_owned(),
                nothing(),
                nothing(),
                nothing(),
            ]);
        }
    }
    table(
        vec![
            "CERTIFICATE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
        ],
        rows,
    )
}

fn valid(certificate: &Value, now: OffsetDateTime) -> bool {
    let at = |key: &str| OffsetDateTime::parse(certificate[key].as_str()?, &Rfc3339).ok();
    at("validFrom").is_some_and(|from| from <= now)
        && at("expirationTime").is_some_and(|until| now < until)
}

/// Rows in their own order.
pub(crate) fn table(
    header: Vec<&'static str>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Table {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort();
    Table { header, rows }
}

/// A list in an object; empty if there is none.
pub(crate) fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A value of an object as a cell.
pub(crate) fn field(of: &Value, key: &str) -> String {
    or_dash(text(&of[key]))
}

/// A destination is `network/address` or `namespace/hostname`; both read well as they are.
fn waypoint(of: &Value) -> String {
    or_dash(text(&of["waypoint"]["destination"]))
}

/// A text without its quotes, anything else as JSON; nothing for null.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A cell is never empty.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    #[test]
    fn the_tables_of_a_dump() {
        let dump = json!({
            "workloads": [
                { "namespace": "shop", "name": "web", "workloadIps": ["10.0.0.1", "fd00::1"], "node": "n1", "protocol": "HBONE" },
                { "namespace": "bank", "name": "a", "workloadIps": [], "protocol": "TCP", "waypoint": { "destination": "bank/w" } },
            ],
            "services": [{
                "namespace": "shop", "name": "cart", "vips": ["/10.96.0.10", "/fd96::10"],
                "endpoints": { "a": { "status": "Healthy" }, "b": { "status": "Unhealthy" } },
            }],
            "certificates": [
                { "identity": "spiffe://x", "state": "Available",
                  "certChain": [{ "serialNumber": "7", "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-02T00:00:00Z" }],
                  "rootCerts": [{ "serialNumber": "1", "validFrom": "2025-01-01T00:00:00Z", "expirationTime": "2035-01-01T00:00:00Z" }] },
                { "identity": "spiffe://y", "state": "Initializing" },
            ],
        });
        assert_eq!(
            workloads(&dump).to_string(),
            "NAMESPACE  POD NAME  ADDRESS           NODE  WAYPOINT  PROTOCOL\n\
             bank       a         -                 -     bank/w    TCP\n\
             shop       web       10.0.0.1,fd00::1  n1    -         HBONE\n"
        );
        assert_eq!(
            services(&dump).rows,
            [["shop", "cart", "10.96.0.10,fd96::10", "-", "1/2"]]
        );
        let rows = certificates(&dump, datetime!(2026-01-03 0:00 UTC)).rows;
        assert_eq!(
            rows[0][..5],
            ["spiffe://x", "Leaf", "Available", "false", "7"]
        );
        assert_eq!(
            rows[1][..5],
            ["spiffe://x", "Root", "Available", "true", "1"]
        );
        assert_eq!(
            rows[2],
            ["spiffe://y", "-", "Initializing", "false", "-", "-", "-"]
        );
    }

    #[test]
    fn another_json_is_an_empty_table() {
        assert_eq!(workloads(&json!([1])).rows.len(), 0);
        assert_eq!(services(&json!({ "services": 3 })).rows.len(), 0);
    }
}
