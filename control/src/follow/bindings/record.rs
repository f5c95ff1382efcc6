//! The record of waypoints and bindings as JSON. Strict: what it does not know it does not guess.

use serde_json::{Map, Value, json};

use crate::world::{Key, Phase, Waypoints};

/// The bytes of a record.
pub(super) fn write(waypoints: &Waypoints) -> Vec<u8> {
    let ready: Vec<Value> = waypoints.ready.iter().map(key).collect();
    let bindings = waypoints.phases.iter().map(|(service, phase)| {
        let mut entry = one(phase);
        entry["service"] = key(service);
        entry
    });
    let bindings: Vec<Value> = bindings.collect();
    let page = json!({ "ready": ready, "bindings": bindings });
    format!("{page:#}\n").into_bytes()
}

/// One binding, without its service.
fn one(phase: &Phase) -> Value {
    let mut entry = json!({ "phase": phase.name() });
    match phase {
        Phase::Told { gateway }
        | Phase::Published { gateway }
        | Phase::Enforced { gateway }
        | Phase::Leaving { gateway } => entry["gateway"] = key(gateway),
        Phase::Closed => {}
        Phase::Moving {
            from,
            to,
            arrived,
            enforced,
        } => {
            entry["from"] = key(from);
            entry["to"] = key(to);
            entry["arrived"] = json!(arrived);
            entry["enforced"] = json!(enforced);
        }
    }
    entry
}

/// One binding as a line, for whoever keeps each with its service.
#[cfg(feature = "kubernetes")]
pub(crate) fn line(phase: &Phase) -> String {
    one(phase).to_string()
}

/// What such a line says, or why it says nothing.
#[cfg(feature = "kubernetes")]
pub(crate) fn read_line(text: &str) -> Result<Phase, String> {
    let entry: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    phase(entry.as_object().ok_or("not an object")?)
}

/// What a record says, or why it is none.
pub(super) fn read(bytes: &[u8]) -> Result<Waypoints, String> {
    let page: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let page = page.as_object().ok_or("not an object")?;
    let ready = list(page, "ready")?
        .iter()
        .map(parse_key)
        .collect::<Result<_, _>>()?;
    let phases = list(page, "bindings")?.iter().map(|entry| {
        let entry = entry.as_object().ok_or("a binding is not an object")?;
        Ok((named(entry, "service")?, phase(entry)?))
    });
    let phases = phases.collect::<Result<_, String>>()?;
    Ok(Waypoints { ready, phases })
}

fn phase(entry: &Map<String, Value>) -> Result<Phase, String> {
    let gateway = || named(entry, "gateway");
    let flag = |field: &str| {
        let flag = entry.get(field).and_then(Value::as_bool);
        flag.ok_or_else(|| format!("{field} is neither true nor false"))
    };
    match entry.get("phase").and_then(Value::as_str) {
        Some("told") => Ok(Phase::Told {
            gateway: gateway()?,
        }),
        Some("published") => Ok(Phase::Published {
            gateway: gateway()?,
        }),
        Some("enforced") => Ok(Phase::Enforced {
            gateway: gateway()?,
        }),
        Some("leaving") => Ok(Phase::Leaving {
            gateway: gateway()?,
        }),
        Some("closed") => Ok(Phase::Closed),
        Some("moving") => Ok(Phase::Moving {
            from: named(entry, "from")?,
            to: named(entry, "to")?,
            arrived: flag("arrived")?,
            enforced: flag("enforced")?,
        }),
        _ => Err(format!("phase is none of {}", Phase::NAMES.join(", "))),
    }
}

fn list<'a>(page: &'a Map<String, Value>, field: &str) -> Result<&'a [Value], String> {
    let list = page.get(field).and_then(Value::as_array);
    list.map(Vec::as_slice)
        .ok_or_else(|| format!("{field} is not a list"))
}

fn named(entry: &Map<String, Value>, field: &str) -> Result<Key, String> {
    let value = entry
        .get(field)
        .ok_or_else(|| format!("{field} is missing"))?;
    parse_key(value).map_err(|reason| format!("{field}: {reason}"))
}

fn key((namespace, name): &Key) -> Value {
    json!(format!("{namespace}/{name}"))
}

fn parse_key(value: &Value) -> Result<Key, String> {
    let parts = value.as_str().and_then(|text| text.split_once('/'));
    let (namespace, name) = parts
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .ok_or_else(|| format!("{value} is not <namespace>/<name>"))?;
    Ok((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn k(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    #[test]
    fn what_was_written_is_read() {
        let phases = [
            (k("a"), Phase::Told { gateway: k("w") }),
            (k("b"), Phase::Published { gateway: k("w") }),
            (k("c"), Phase::Enforced { gateway: k("w") }),
            (k("d"), Phase::Leaving { gateway: k("w") }),
            (k("f"), Phase::Closed),
            (
                k("e"),
                Phase::Moving {
                    from: k("v"),
                    to: k("w"),
                    arrived: false,
                    enforced: true,
                },
            ),
        ];
        let recorded = Waypoints {
            ready: [k("w"), k("v")].into(),
            phases: phases.into(),
        };
        assert_eq!(read(&write(&recorded)), Ok(recorded));
        assert_eq!(
            read(&write(&Waypoints::default())),
            Ok(Waypoints::default())
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (text, reason) in [
            ("", "EOF"),
            ("[]", "not an object"),
            ("{}", "ready is not a list"),
            (r#"{"ready": []}"#, "bindings is not a list"),
            (
                r#"{"ready": ["waypoint"], "bindings": []}"#,
                "is not <namespace>/<name>",
            ),
            (
                r#"{"ready": [], "bindings": [{"service": "a/b"}]}"#,
                "phase is none of",
            ),
            (
                r#"{"ready": [], "bindings": [{"service": "a/b", "phase": "enforced"}]}"#,
                "gateway is missing",
            ),
            (
                r#"{"ready": [], "bindings": [{"service": "a/b", "phase": "moving", "from": "a/c", "to": "a/d"}]}"#,
                "arrived is neither",
            ),
        ] {
            let refused = read(text.as_bytes()).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
