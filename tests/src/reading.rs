//! HTTP/1.1 as RFC 9112 has it, read by the letter: the second opinion about what goes into a waypoint and what comes out.
//!
//! It shares nothing with the parser that the waypoint uses. Whatever the grammar does not allow is wrong, but for what a
//! target may hold: bytes that some escape and others do not are all taken, and none of them ends it.

use std::fmt;

/// One request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Vec<u8>,
    /// As it stands in the first line.
    pub target: Vec<u8>,
    /// Of `HTTP/1.`: 0 or 1.
    pub minor: u8,
    /// Names in lower case, values without the blanks around them, in order.
    pub fields: Vec<Field>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Behind the last chunk.
    pub trailers: Vec<Field>,
    /// Whether the body came in chunks.
    pub chunked: bool,
}

/// Name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// What bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A request of so many bytes.
    Whole(Box<Request>, usize),
    /// The head of one whose body is not all there; what of the body is there is in it.
    Head(Box<Request>),
    /// The beginning of a head.
    Part,
    /// No request. Says why.
    Wrong(&'static str),
}

/// Reads what `bytes` begin with.
pub fn read(bytes: &[u8]) -> Reading {
    let mut rest = Rest { bytes, at: 0 };
    let mut request = match head(&mut rest) {
        Ok(Some(request)) => request,
        Ok(None) => return Reading::Part,
        Err(wrong) => return Reading::Wrong(wrong),
    };
    let whole = match framing(&request) {
        Ok(Framing::Length(length)) => {
            let there = rest.bytes.len() - rest.at;
            let now = usize::try_from(length).map_or(there, |length| length.min(there));
            request
                .body
                .extend_from_slice(&bytes[rest.at..rest.at + now]);
            rest.at += now;
            Ok(now as u64 == length)
        }
        Ok(Framing::Chunks) => {
            request.chunked = true;
            chunks(&mut rest, &mut request).map(|done| done.is_some())
        }
        Err(wrong) => return Reading::Wrong(wrong),
    };
    match whole {
        Ok(true) => Reading::Whole(Box::new(request), rest.at),
        // What is wrong with the rest of a body does not make its beginning wrong.
        Ok(false) | Err(_) => Reading::Head(Box::new(request)),
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, target) = (self.method.escape_ascii(), self.target.escape_ascii());
        write!(f, "{method} {target} HTTP/1.{}", self.minor)?;
        for (name, value) in self.fields.iter().chain(&self.trailers) {
            write!(f, " | {}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(f, " | {}", self.body.escape_ascii())
    }
}

impl Request {
    /// All values of a field.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &&Field| field.0 == name.as_bytes();
        self.fields.iter().filter(named).map(|field| &*field.1)
    }

    /// Whether a list among the fields has an item, without case and parameters. No list has anything but ASCII in it.
    pub fn lists(&self, name: &str, item: &str) -> bool {
        let mut items = self
            .values(name)
            .filter(|value| value.is_ascii())
            .flat_map(|value| value.split(|byte| *byte == b','));
        items.any(|it| {
            let bare = it.split(|byte| *byte == b';').next().unwrap_or_default();
            blank_free(bare).eq_ignore_ascii_case(item.as_bytes())
        })
    }

    /// Whether nothing follows it on its connection.
    pub fn is_last(&self) -> bool {
        let kept = self.lists("connection", "keep-alive");
        self.lists("connection", "close")
            || self.values("upgrade").next().is_some()
            || (self.minor == 0 && !kept)
    }
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    /// The next line without its end. Neither CR nor LF may stand alone.
    fn line(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = rest[..end].strip_suffix(b"\r").ok_or("a bare LF")?;
        if line.contains(&b'\r') {
            return Err("a bare CR");
        }
        self.at += end + 1;
        Ok(Some(line))
    }
}

/// None: there is more to come.
type Read<T> = Result<Option<T>, &'static str>;

fn head(rest: &mut Rest<'_>) -> Read<Request> {
    let mut first = rest.line()?;
    // Before a request one empty line is passed over (§2.2).
    if first == Some(b"") {
        first = rest.line()?;
    }
    let Some(first) = first else {
        return Ok(None);
    };
    let mut request = first_line(first)?;
    Ok(fields(rest)?.map(|fields| {
        request.fields = fields;
        request
    }))
}

/// §3.
fn first_line(line: &[u8]) -> Result<Request, &'static str> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a first line that is not three words");
    };
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return Err("another version"),
    };
    if !is_token(method) {
        return Err("a method that is no token");
    }
    let is_strange = |byte: &u8| *byte <= b' ' || matches!(byte, 0x7f | b'#');
    if target.is_empty() || target.iter().any(is_strange) {
        return Err("a target that holds what none may");
    }
    Ok(Request {
        method: method.to_vec(),
        target: target.to_vec(),
        minor,
        ..Request::default()
    })
}

/// §5.
fn fields(rest: &mut Rest<'_>) -> Read<Vec<Field>> {
    let mut fields = Vec::new();
    loop {
        let line = match rest.line()? {
            None => return Ok(None),
            Some(b"") => return Ok(Some(fields)),
            Some(line) => line,
        };
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or("a field without a colon")?);
        if !is_token(name) {
            return Err("a field's name that is no token");
        }
        let value = blank_free(&value[1..]);
        let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        if value.iter().any(is_control) {
            return Err("a control character");
        }
        fields.push((name.to_ascii_lowercase(), value.to_vec()));
    }
}

enum Framing {
    Length(u64),
    Chunks,
}

/// §6.3: what has more than one way to be read is wrong.
fn framing(request: &Request) -> Result<Framing, &'static str> {
    let lengths: Vec<_> = request.values("content-length").collect();
    let codings: Vec<_> = request.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [coding]) if request.minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunks)
        }
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let text = str::from_utf8(length).map_err(|_| "a length that is no number")?;
            let length = text.parse().map_err(|_| "a length beyond all measure")?;
            Ok(Framing::Length(length))
        }
        _ => Err("more than one framing, or none"),
    }
}

/// §7.1. An extension may hold whatever a line may.
fn chunks(rest: &mut Rest<'_>, request: &mut Request) -> Read<()> {
    loop {
        let Some(line) = rest.line()? else {
            return Ok(None);
        };
        let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
        let (digits, after) = line.split_at(end.unwrap_or(line.len()));
        let after = blank_free(after);
        if digits.is_empty() || !(after.is_empty() || after.starts_with(b";")) {
            return Err("a chunk without a size");
        }
        let digits = str::from_utf8(digits).map_err(|_| "a chunk without a size")?;
        let size = usize::from_str_radix(digits, 16).map_err(|_| "a chunk beyond all measure")?;
        if size == 0 {
            return Ok(fields(rest)?.map(|trailers| request.trailers = trailers));
        }
        let there = &rest.bytes[rest.at..];
        let now = size.min(there.len());
        request.body.extend_from_slice(&there[..now]);
        rest.at += now;
        match there.get(now..) {
            Some([b'\r', b'\n', ..]) => rest.at += 2,
            Some([] | [b'\r']) => return Ok(None),
            _ => return Err("a chunk without an end"),
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty()
        && text
            .iter()
            .all(|it| it.is_ascii_alphanumeric() || is_mark(*it))
}

/// Without the blanks around it (§5.1): spaces and tabs, nothing else.
fn blank_free(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = text.iter().position(|byte| !is_blank(byte));
    let Some(from) = from else {
        return &[];
    };
    let to = text
        .iter()
        .rposition(|byte| !is_blank(byte))
        .unwrap_or(from);
    &text[from..=to]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_body_and_nothing_behind_it() {
        let text = "\r\nPOST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nX:\t y z \r\n\r\n3;e=\"f\"\r\na\r\n\r\n0\r\nT: u\r\n\r\nGET";
        let Reading::Whole(request, length) = read(text.as_bytes()) else {
            panic!("it is whole");
        };
        assert_eq!(&text[length..], "GET");
        assert_eq!(
            (&*request.method, &*request.target),
            (&b"POST"[..], &b"/a?b"[..])
        );
        assert_eq!(request.values("x").collect::<Vec<_>>(), [b"y z"]);
        assert_eq!(request.body, b"a\r\n");
        assert_eq!(request.trailers, [(b"t".to_vec(), b"u".to_vec())]);
        assert!(matches!(
            read(&text.as_bytes()[..length - 1]),
            Reading::Head(_)
        ));
        assert_eq!(read(&text.as_bytes()[..20]), Reading::Part);
    }

    #[test]
    fn what_the_grammar_lacks_is_wrong() {
        for text in [
            "GET / HTTP/1.1\n\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        ] {
            assert!(matches!(read(text.as_bytes()), Reading::Wrong(_)), "{text}");
        }
    }
}
