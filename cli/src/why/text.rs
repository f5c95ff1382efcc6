//! A trace for people: a paragraph for each step, and a last line for each way that says how it ends.

use std::fmt::Write as _;

use super::trace::{Choice, End, Step, Trace, Way};
use crate::paint::Paint;

/// Room for the keys of facts.
const KEYS: usize = 12;

/// All of it.
pub(super) fn print(trace: &Trace, paint: Paint) -> String {
    let mut out = String::new();
    for line in &trace.facts {
        say(&mut out, &paint.dim(line));
    }
    let head = format!("{} → {}", trace.from, trace.to);
    say(
        &mut out,
        &format!("{}: {}", paint.bold(&head), trace.request),
    );
    let mut number = 0;
    for step in &trace.steps {
        number += 1;
        print_step(&mut out, number, "", step, paint);
    }
    let several = trace.ways.len() > 1;
    for (at, way) in trace.ways.iter().enumerate() {
        let mark = if several { letter(at) } else { String::new() };
        if several {
            say(&mut out, "");
            say(
                &mut out,
                &paint.bold(&format!("{mark}) {}", chosen(&way.choices))),
            );
        }
        for (further, step) in way.steps.iter().enumerate() {
            print_step(&mut out, number + 1 + further, &mark, step, paint);
        }
    }
    say(&mut out, "");
    for way in &trace.ways {
        print_end(&mut out, way, several, paint);
    }
    out
}

fn print_step(out: &mut String, number: usize, mark: &str, step: &Step, paint: Paint) {
    say(out, "");
    let title = format!("{} {}", step.at, step.name);
    let head = format!("{:<3}{}", format!("{number}{mark}"), paint.bold(&title));
    say(out, head.trim_end());
    for fact in &step.facts {
        for (at, line) in fact.lines().iter().enumerate() {
            let key = if at == 0 { fact.key() } else { "" };
            say(out, format!("   {key:KEYS$}{line}").trim_end());
        }
    }
}

fn print_end(out: &mut String, way: &Way, several: bool, paint: Paint) {
    let End {
        outcome,
        status,
        grpc_status,
        flags,
        details,
        text,
        next,
    } = &way.end;
    let mut line = format!("{} ", paint.mark(outcome.arrives()));
    if several {
        let _ = write!(line, "{}: ", chosen(&way.choices));
    }
    match (grpc_status, status) {
        (Some(grpc), _) => {
            let _ = write!(line, "gRPC status {grpc}, {}: {text}", outcome.word());
        }
        (None, Some(status)) => {
            let _ = write!(line, "{status}, {}: {text}", outcome.word());
        }
        (None, None) => {
            let _ = write!(line, "{}: {text}", outcome.word());
        }
    }
    match (flags, details) {
        (Some(flags), Some(details)) => {
            let _ = write!(line, " (flags {flags}, {details})");
        }
        (Some(flags), None) => {
            let _ = write!(line, " (flags {flags})");
        }
        (None, _) => {}
    }
    say(out, &line);
    if let Some(next) = next {
        say(out, &format!("  next: {next}"));
    }
}

/// `90 % shop/orders-v1:80, endpoint shop/orders-v1 (1 of 2)`.
fn chosen(choices: &[Choice]) -> String {
    let one = |choice: &Choice| {
        let (part, sum) = choice.share;
        if !choice.endpoint {
            return format!("{} to {}", percent(part, sum), choice.what);
        }
        format!("{} of its endpoints {}", percent(part, sum), choice.what)
    };
    let all: Vec<_> = choices.iter().map(one).collect();
    all.join(", ")
}

/// A share, with at most one decimal.
pub(super) fn percent(part: u64, sum: u64) -> String {
    let tenths = (part * 1000 + sum.max(1) / 2) / sum.max(1);
    match tenths % 10 {
        0 => format!("{} %", tenths / 10),
        rest => format!("{}.{rest} %", tenths / 10),
    }
}

/// `a`, `b`, … `z`, `aa` ….
fn letter(at: usize) -> String {
    let own = char::from(b'a' + u8::try_from(at % 26).unwrap_or_default());
    match at / 26 {
        0 => own.to_string(),
        more => format!("{}{own}", letter(more - 1)),
    }
}

fn say(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        for (part, sum, text) in [
            (90, 100, "90 %"),
            (1, 3, "33.3 %"),
            (2, 3, "66.7 %"),
            (1, 1, "100 %"),
            (0, 0, "0 %"),
        ] {
            assert_eq!(percent(part, sum), text);
        }
    }

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([letter(0), letter(25), letter(26)], ["a", "z", "aa"]);
    }
}
