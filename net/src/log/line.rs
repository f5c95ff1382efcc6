//! One event as one line.

use std::{
    cell::Cell,
    fmt::{self, Write},
};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{Format, WHOLE};

thread_local! {
    /// Memory for the next line and its values.
    static ROOM: Cell<(String, String)> = const { Cell::new((String::new(), String::new())) };
}

/// Hands on the line of an event, with its newline.
pub(super) fn with(event: &Event<'_>, format: Format, push: impl FnOnce(&str)) {
    // A thread that ends has no such memory any more. A value that logs while it is formatted gets some of its own.
    let (mut line, mut values) = ROOM.try_with(Cell::take).unwrap_or_default();
    line.clear();
    values.clear();
    match format {
        Format::Text => text(event, &mut line, &mut values),
        Format::Json => object(event, &mut line),
    }
    push(&line);
    ROOM.try_with(|room| room.set((line, values))).ok();
}

fn text(event: &Event<'_>, line: &mut String, values: &mut String) {
    let (level, target) = (word(*event.metadata().level()), event.metadata().target());
    let is_whole = target == WHOLE;
    if !is_whole {
        write!(
            line,
            "{}\t{level}\t{target}\t",
            Now(OffsetDateTime::now_utc())
        )
        .ok();
    }
    let mut text = Text {
        message: line,
        values,
    };
    event.record(&mut text);
    if !is_whole && !values.is_empty() {
        line.push('\t');
        line.push_str(values);
    }
    line.push('\n');
}

fn object(event: &Event<'_>, line: &mut String) {
    let (level, target) = (word(*event.metadata().level()), event.metadata().target());
    let mut object = Object(Map::new());
    event.record(&mut object);
    let mut all = Map::new();
    all.insert("level".into(), json!(level));
    all.insert("time".into(), json!(now()));
    all.insert("scope".into(), json!(target));
    all.extend(object.0);
    add_json(line, &Value::Object(all).to_string());
    line.push('\n');
}

/// Escapes the control characters that JSON itself lets stand: DEL, and U+0080 to U+009F, which end lines and move cursors.
fn add_json(line: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(char::is_control) {
        let (plain, more) = rest.split_at(at);
        line.push_str(plain);
        let mut more = more.chars();
        if let Some(c) = more.next() {
            write!(line, "\\u{:04x}", u32::from(c)).ok();
        }
        rest = more.as_str();
    }
    line.push_str(rest);
}

/// The line that says how many lines there are not.
pub(super) fn dropped(count: u64, format: Format) -> String {
    const MESSAGE: &str = "log lines were dropped because the output is too slow";
    match format {
        Format::Text => format!("{}\twarn\tlog\t{MESSAGE}\tcount={count}\n", now()),
        Format::Json => {
            let line = json!({"level": "warn", "time": now(), "scope": "log", "message": MESSAGE, "count": count});
            format!("{line}\n")
        }
    }
}

fn now() -> String {
    Now(OffsetDateTime::now_utc()).to_string()
}

/// RFC 3339 with microseconds.
struct Now(OffsetDateTime);

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.microsecond()
        )
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// `key=value key=value`: strings in quotes, everything else as it prints.
struct Text<'a> {
    message: &'a mut String,
    values: &'a mut String,
}

impl Text<'_> {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        if field.name() == "message" {
            Plain(self.message).write_fmt(value).ok();
            return;
        }
        if !self.values.is_empty() {
            self.values.push(' ');
        }
        write!(self.values, "{}=", field.name()).ok();
        Plain(self.values).write_fmt(value).ok();
    }
}

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.add(field, format_args!("{value}")),
            _ => self.add(field, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// Escapes what would end a line or move a terminal's cursor.
struct Plain<'a>(&'a mut String);

impl Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // All bytes are looked at, so that many are at once.
        let printed = |all: bool, byte: u8| all & (b' '..=b'~').contains(&byte);
        if text.bytes().fold(true, printed) {
            self.0.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            match c.is_control() {
                true => self.0.extend(c.escape_default()),
                false => self.0.push(c),
            }
        }
        Ok(())
    }
}

struct Object(Map<String, Value>);

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().into(), json!(format!("{value:?}")));
    }
}
