//! A line of the access log as text. It is written for each request, so without what a formatter costs.

use std::{
    cell::{Cell, RefCell},
    fmt::Write,
    net::SocketAddr,
    time::Duration,
};

use time::OffsetDateTime;

use super::{Line, cut, escape, milliseconds};

thread_local! {
    /// Memory for the next line.
    static ROOM: Cell<String> = const { Cell::new(String::new()) };
    /// The second of the last line, since 1970, and how it is written.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Hands on the text of a line, without its newline.
pub(super) fn with<T>(line: &Line<'_>, hand: impl FnOnce(&str) -> T) -> T {
    let mut text = ROOM.take();
    text.clear();
    add(&mut text, line);
    let handed = hand(&text);
    ROOM.set(text);
    handed
}

/// When something began, as a line has it.
pub(super) fn time(since: Duration) -> String {
    let mut text = String::new();
    add_time(&mut text, since);
    text
}

fn add(out: &mut String, line: &Line<'_>) {
    out.push('[');
    add_time(out, line.began);
    out.push_str("] \"");
    if line.method.is_empty() {
        out.push_str("- - ");
        out.push_str(or_dash(line.protocol));
    } else {
        out.push_str(line.method);
        out.push(' ');
        add_quoted(out, line.path);
        out.push(' ');
        out.push_str(line.protocol);
    }
    out.push_str("\" ");
    add_number(out, line.status.into());
    out.push(' ');
    out.push_str(or_dash(line.flags));
    out.push(' ');
    add_spaceless(out, line.details);
    out.push_str(" - \"-\"");
    for number in [line.received, line.sent, milliseconds(line.duration)] {
        out.push(' ');
        add_number(out, number);
    }
    out.push(' ');
    match line.upstream_time {
        Some(time) => add_number(out, milliseconds(time)),
        None => out.push('-'),
    }
    for text in [
        line.forwarded_for,
        line.user_agent,
        line.request_id,
        line.authority,
    ] {
        out.push_str(" \"");
        add_quoted(out, text);
        out.push('"');
    }
    out.push_str(" \"");
    add_known(out, line.upstream);
    out.push_str("\" ");
    add_spaceless(out, line.cluster);
    out.push_str(" - ");
    add_known(out, line.local);
    out.push(' ');
    add_address(out, line.client);
    out.push_str(" - ");
    add_spaceless(out, line.route);
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// What a client sent, within quotes: it does not end them.
fn add_quoted(out: &mut String, text: &[u8]) {
    escape::add_quoted(out, if text.is_empty() { b"-" } else { text });
}

/// One word.
fn add_spaceless(out: &mut String, text: &str) {
    let mut rest = or_dash(cut(text));
    while let Some((word, more)) = rest.split_once(' ') {
        out.push_str(word);
        out.push('_');
        rest = more;
    }
    out.push_str(rest);
}

fn add_known(out: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(address) => add_address(out, address),
        None => out.push('-'),
    }
}

fn add_address(out: &mut String, address: SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        // Writing to a string does not fail.
        write!(out, "{address}").ok();
        return;
    };
    let [first, rest @ ..] = v4.ip().octets();
    add_number(out, first.into());
    for octet in rest {
        out.push('.');
        add_number(out, octet.into());
    }
    out.push(':');
    add_number(out, v4.port().into());
}

fn add_number(out: &mut String, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // Less than ten.
        #[allow(clippy::cast_possible_truncation)]
        let digit = (number % 10) as u8;
        digits[at] = b'0' + digit;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push_str(str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// RFC 3339 with milliseconds. A second is written once.
fn add_time(out: &mut String, since: Duration) {
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            text.clear();
            let seconds = i64::try_from(*second).unwrap_or_default();
            let at = OffsetDateTime::from_unix_timestamp(seconds);
            let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            write!(
                text,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
            )
            .ok();
        }
        out.push_str(text);
    });
    let millis = since.subsec_millis();
    out.push('.');
    for digit in [millis / 100, millis / 10 % 10, millis % 10] {
        out.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
    out.push('Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line<'_>) -> String {
        with(line, str::to_owned)
    }

    fn line() -> Line<'static> {
        Line {
            began: Duration::from_millis(1_767_225_600_123),
            method: "GET",
            path: b"/cart?id=1",
            protocol: "HTTP/1.1",
            status: 200,
            grpc_status: None,
            flags: "-",
            details: "via_upstream",
            received: 0,
            sent: 17,
            duration: Duration::from_micros(5_900),
            upstream_time: Some(Duration::from_millis(4)),
            forwarded_for: b"10.0.0.1",
            user_agent: b"curl/8",
            request_id: b"7b",
            authority: b"orders",
            upstream: Some("10.0.1.2:8080".parse().unwrap()),
            cluster: "inbound-vip|80|http|orders.shop.svc.cluster.local",
            local: Some("10.96.0.9:80".parse().unwrap()),
            client: "10.0.0.1:40302".parse().unwrap(),
            route: "shop/orders/0",
            principal: "spiffe://cluster.local/ns/shop/sa/cart",
            error: "",
            policy: "",
            rule: None,
        }
    }

    #[test]
    fn a_request_is_one_line_in_the_known_order() {
        let want = "[2026-01-01T00:00:00.123Z] \"GET /cart?id=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 17 5 4 \"10.0.0.1\" \
            \"curl/8\" \"7b\" \"orders\" \"10.0.1.2:8080\" inbound-vip|80|http|orders.shop.svc.cluster.local - \
            10.96.0.9:80 10.0.0.1:40302 - shop/orders/0";
        assert_eq!(text(&line()), want);
    }

    #[test]
    fn what_is_unknown_is_a_dash_and_a_client_cannot_end_its_quotes() {
        let line = Line {
            method: "",
            protocol: "",
            user_agent: b"a\" 200 \\\"b",
            forwarded_for: &[],
            upstream: None,
            upstream_time: None,
            local: None,
            cluster: "",
            route: "",
            details: "two words",
            ..line()
        };
        let want = "[2026-01-01T00:00:00.123Z] \"- - -\" 200 - two_words - \"-\" 0 17 5 - \"-\" \"a\\\" 200 \\\\\\\"b\" \"7b\" \
            \"orders\" \"-\" - - - 10.0.0.1:40302 - -";
        assert_eq!(text(&line), want);
    }

    #[test]
    fn the_next_second_has_a_time_of_its_own_and_so_has_the_one_before() {
        for (at, want) in [
            (0, "[1970-01-01T00:00:00.000Z]"),
            (1_999, "[1970-01-01T00:00:01.999Z]"),
            (1_767_225_599_007, "[2025-12-31T23:59:59.007Z]"),
            (1_767_225_600_050, "[2026-01-01T00:00:00.050Z]"),
            (1_767_225_600_999, "[2026-01-01T00:00:00.999Z]"),
            (1_767_225_599_999, "[2025-12-31T23:59:59.999Z]"),
        ] {
            let line = Line {
                began: Duration::from_millis(at),
                ..line()
            };
            assert_eq!(text(&line).split(' ').next(), Some(want));
        }
    }

    #[test]
    fn numbers_and_addresses_are_as_they_print() {
        let mut out = String::new();
        for number in [0, 7, 10, 99, 12_345, u64::MAX] {
            out.clear();
            add_number(&mut out, number);
            assert_eq!(out, number.to_string());
        }
        for address in ["0.0.0.0:0", "10.255.9.1:65535", "[::1]:80", "[fd00::7:1]:1"] {
            out.clear();
            add_address(&mut out, address.parse().unwrap());
            assert_eq!(out, address);
        }
    }
}
