//! Access-log lines of a ztunnel, as fields.

use std::collections::BTreeMap;

/// One connection, as the ztunnel that carried it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, String>);

impl Record {
    /// A field's value; empty if there is no such field.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map(String::as_str).unwrap_or_default()
    }
}

/// Reads a line: `TIME\tLEVEL\taccess\tMESSAGE\tKEY=VALUE KEY="VALUE" …`. `None` for lines of other kinds.
pub fn parse(line: &str) -> Option<Record> {
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
