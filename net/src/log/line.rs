//! One event as one line.

use std::fmt::{self, Write};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{Format, WHOLE};

/// The line of an event, with its newline.
pub(super) fn format(event: &Event<'_>, format: Format) -> String {
    let (level, target) = (word(*event.metadata().level()), event.metadata().target());
    match format {
        Format::Text => {
            let mut text = Text::default();
            event.record(&mut text);
            let Text { message, values } = text;
            if target == WHOLE {
                return format!("{message}\n");
            }
            let tab = if values.is_empty() { "" } else { "\t" };
            format!("{}\t{level}\t{target}\t{message}{tab}{values}\n", now())
        }
        Format::Json => {
            let mut object = Object(Map::new());
            event.record(&mut object);
            let mut line = Map::new();
            line.insert("level".into(), json!(level));
            line.insert("time".into(), json!(now()));
            line.insert("scope".into(), json!(target));
            line.extend(object.0);
            format!("{}\n", Value::Object(line))
        }
    }
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

/// RFC 3339 with microseconds.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!(
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
#[derive(Default)]
struct Text {
    message: String,
    values: String,
}

impl Text {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        if field.name() == "message" {
            write!(Plain(&mut self.message), "{value}").ok();
            return;
        }
        if !self.values.is_empty() {
            self.values.push(' ');
        }
        write!(self.values, "{}=", field.name()).ok();
        write!(Plain(&mut self.values), "{value}").ok();
    }
}

impl Visit for Text {
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
        if !text.chars().any(char::is_control) {
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
