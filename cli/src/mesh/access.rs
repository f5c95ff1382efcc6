//! Access-log lines of both proxies, in whichever form (`LOG_FORMAT`): a ztunnel's as fields, a waypoint's as text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One connection, as the ztunnel that carried it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, String>);

impl Record {
    /// A field's value; empty if there is no such field.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map(String::as_str).unwrap_or_default()
    }
}

/// Reads a line: `TIME\tLEVEL\taccess\tMESSAGE\tKEY=VALUE KEY="VALUE" …`, or an object. `None` for lines of other kinds.
pub fn parse(line: &str) -> Option<Record> {
    if let Some(object) = object(line, "access") {
        let fields = object.iter().map(|(key, value)| (key.clone(), text(value)));
        return Some(Record(fields.collect()));
    }
    let mut columns = line.splitn(5, '\t').skip(2);
    (columns.next()? == "access").then_some(())?;
    let mut rest = columns.nth(1)?;
    let mut record = Record::default();
    while let Some((key, after)) = rest.trim_start().split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => {
                let (value, left) = after.split_once(' ').unwrap_or((after, ""));
                (value.to_owned(), left)
            }
        };
        record.0.insert(key.to_owned(), value);
        rest = left;
    }
    Some(record)
}

/// Of a waypoint's line the text; of an object as much of that as it begins with. `None` for lines of other kinds.
pub fn request(line: &str) -> Option<String> {
    // Other lines begin with the time alone.
    if line.starts_with('[') {
        return Some(line.to_owned());
    }
    let object = object(line, "request")?;
    let field = |name| object.get(name).map_or_else(|| "-".to_owned(), text);
    Some(format!(
        "[{}] \"{} {} {}\" {} {} {}",
        field("start_time"),
        field("method"),
        field("path"),
        field("protocol"),
        field("response_code"),
        field("response_flags"),
        field("response_code_details"),
    ))
}

/// A line that is an object of this scope.
fn object(line: &str, scope: &str) -> Option<Map<String, Value>> {
    let line = line.starts_with('{').then_some(line)?;
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    (object.get("scope")? == scope).then_some(object)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// The text up to the closing quote, and what comes after that.
fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return (value, &text[at + 1..]),
            '\\' if !escaped => escaped = true,
            _ => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_line() {
        let line = "2026-11-21T02:25:58.893842Z\tinfo\taccess\tconnection complete\tsrc.addr=10.71.1.10:40302 \
                    src.workload=\"client\" direction=\"inbound\" bytes_sent=504 error=\"it said \\\"no\\\" twice\" duration=\"502ms\"";
        let record = parse(line).unwrap();
        for (key, value) in [
            ("src.addr", "10.71.1.10:40302"),
            ("src.workload", "client"),
            ("bytes_sent", "504"),
            ("error", "it said \"no\" twice"),
            ("duration", "502ms"),
            ("policy", ""),
        ] {
            assert_eq!(record.get(key), value);
        }
    }

    #[test]
    fn an_object_says_the_same() {
        let line = r#"{"level":"info","time":"2026","scope":"access","message":"connection complete","src.workload":"client","bytes_sent":504,"error":"it said \"no\""}"#;
        let record = parse(line).unwrap();
        for (key, value) in [
            ("src.workload", "client"),
            ("bytes_sent", "504"),
            ("error", "it said \"no\""),
            ("policy", ""),
        ] {
            assert_eq!(record.get(key), value);
        }
        assert_eq!(request(line), None);
    }

    #[test]
    fn a_request_is_the_same_text_in_both_forms() {
        let text = "[2026-01-01T00:00:00.123Z] \"GET /a HTTP/1.1\" 403 - rbac_access_denied";
        let object = r#"{"level":"info","scope":"request","start_time":"2026-01-01T00:00:00.123Z","method":"GET","path":"/a","protocol":"HTTP/1.1","response_code":403,"response_flags":"-","response_code_details":"rbac_access_denied"}"#;
        for line in [text, object] {
            assert_eq!(request(line).as_deref(), Some(text));
            assert_eq!(parse(line), None);
        }
        for other in [
            "",
            "2026\tinfo\txds\tconnected",
            "{}",
            "{\"scope\":\"xds\"}",
        ] {
            assert_eq!(request(other), None);
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "2026\tinfo\txds\tconnected\ta=1",
            "2026\tinfo\taccess",
            "access\taccess\taccess",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
