//! The framing of HTTP/1 requests, or of answers, strictly (RFC 9112 §2.2, §5, §6, §7.1): what begins where, and nothing else
//! of them.

/// Longest line of a chunk's size, with its extensions.
const CHUNK_LINE: usize = 4 << 10;
/// Longest line of a head: one that is longer is refused by whoever reads it.
const HEAD_LINE: usize = 512 << 10;

/// Where the bytes are that come next.
#[derive(Debug)]
pub(crate) struct Scan {
    kind: Kind,
    state: State,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Requests,
    Answers {
        /// To HEAD: what would be behind the head is not there.
        bare: bool,
    },
}

#[derive(Debug)]
enum State {
    /// Before or in a head.
    Head(Head),
    /// In a body, so many bytes before its end.
    Body(u64),
    /// At the line of a chunk's size.
    Size,
    /// In a chunk, so many bytes before its end and the line's end behind it.
    Chunk(u64),
    /// Behind the last chunk.
    Trailers,
    /// Behind a request to speak something else: the connection ends, or is something else, after its answer. Or in an
    /// answer that ends with its connection.
    Other,
}

#[derive(Debug, Default)]
struct Head {
    /// An empty line was there instead of the first one.
    empty: bool,
    /// The first line was there.
    begun: bool,
    /// Of an answer.
    status: u16,
    old: bool,
    connect: bool,
    upgrade: bool,
    chunked: bool,
    length: Option<u64>,
}

/// What is wrong with a line.
pub(crate) type Wrong = &'static str;

impl Default for Scan {
    fn default() -> Self {
        Self {
            kind: Kind::Requests,
            state: State::Head(Head::default()),
            begun: Vec::new(),
        }
    }
}

impl Scan {
    /// Of answers to requests of which one is asked at a time.
    pub(crate) fn answers() -> Self {
        Self {
            kind: Kind::Answers { bare: false },
            ..Self::default()
        }
    }

    /// What is asked: HEAD, or something else.
    pub(crate) fn asked(&mut self, head: bool) {
        self.kind = Kind::Answers { bare: head };
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        match &self.state {
            State::Head(head) => head.begun || head.empty || !self.begun.is_empty(),
            _ => false,
        }
    }

    /// Follows the bytes. Of a wrong line the place of its end in `bytes`, and what is wrong.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Wrong)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                State::Other => return Ok(()),
                State::Body(left) => {
                    at += skip(left, rest.len());
                    if *left == 0 {
                        self.state = State::Head(Head::default());
                    }
                }
                State::Chunk(left) => {
                    at += skip(left, rest.len());
                    if *left == 0 {
                        self.state = State::Size;
                    }
                }
                State::Head(_) | State::Size | State::Trailers => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        let limit = match self.state {
                            State::Head(_) => HEAD_LINE,
                            _ => CHUNK_LINE,
                        };
                        if self.begun.len() + rest.len() > limit {
                            return Err((bytes.len() - 1, "a line without end"));
                        }
                        self.begun.extend_from_slice(rest);
                        return Ok(());
                    };
                    self.ended(&rest[..end])
                        .map_err(|wrong| (at + end, wrong))?;
                    at += end + 1;
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, end: &[u8]) -> Result<(), Wrong> {
        if self.begun.is_empty() {
            return self.line(end);
        }
        let mut line = std::mem::take(&mut self.begun);
        line.extend_from_slice(end);
        let result = self.line(&line);
        line.clear();
        self.begun = line;
        result
    }

    /// A line without its LF.
    fn line(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let line = line
            .strip_suffix(b"\r")
            .ok_or("a line that ends in a bare LF")?;
        match &mut self.state {
            State::Head(head) => {
                if line.is_empty() && head.begun {
                    self.state = match self.kind {
                        Kind::Requests => head.end(),
                        Kind::Answers { bare } => head.end_of_answer(bare)?,
                    };
                } else if !line.is_empty() {
                    head.line(line, self.kind)?;
                } else if std::mem::replace(&mut head.empty, true) {
                    // One is to be taken (RFC 9112 §2.2).
                    return Err("empty lines before a message");
                }
            }
            State::Size => self.state = size(line)?,
            State::Trailers if line.is_empty() => self.state = State::Head(Head::default()),
            State::Trailers if is_folded(line) => return Err("a trailer that is folded"),
            State::Trailers | State::Body(_) | State::Chunk(_) | State::Other => {}
        }
        Ok(())
    }
}

impl Head {
    fn line(&mut self, line: &[u8], kind: Kind) -> Result<(), Wrong> {
        if !self.begun {
            self.begun = true;
            if kind != Kind::Requests {
                // Whoever reads it refuses what is no number.
                let status = line.get(9..12).and_then(|it| str::from_utf8(it).ok());
                self.status = status.and_then(|it| it.parse().ok()).unwrap_or_default();
                self.old = line.starts_with(b"HTTP/1.0");
                return Ok(());
            }
            self.connect = line.starts_with(b"CONNECT ");
            let target = line.split(|byte| *byte == b' ').nth(1);
            // Whoever reads it drops what follows, and a server behind us may not have (RFC 9112 §3.2).
            if target.is_some_and(|target| target.contains(&b'#')) {
                return Err("a target with a fragment");
            }
            return Ok(());
        }
        if is_folded(line) {
            return Err("a header that is folded");
        }
        // Whoever reads it refuses a line without a colon, and blanks in front of it.
        let colon = match line.get(7) {
            Some(b':') => 7,
            _ => match line.get(14) {
                Some(b':') => 14,
                _ => 17,
            },
        };
        let Some((name, value)) = line.split_at_checked(colon) else {
            return Ok(());
        };
        let value = value.strip_prefix(b":").map(<[u8]>::trim_ascii);
        match (name.len(), value) {
            (7, Some(_)) if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            (14, Some(value)) if name.eq_ignore_ascii_case(b"content-length") => {
                self.set_length(value)?;
            }
            (17, Some(value)) if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.set_coding(value)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn set_length(&mut self, value: &[u8]) -> Result<(), Wrong> {
        if self.chunked {
            return Err("a length beside a transfer coding");
        }
        if self.length.is_some() {
            return Err("two lengths");
        }
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let text = str::from_utf8(value).ok().filter(|_| digits);
        let length = text.and_then(|text| text.parse().ok());
        self.length = Some(length.ok_or("a length that is no number")?);
        Ok(())
    }

    fn set_coding(&mut self, value: &[u8]) -> Result<(), Wrong> {
        if self.length.is_some() {
            return Err("a transfer coding beside a length");
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err("a transfer coding other than chunked");
        }
        self.chunked = true;
        Ok(())
    }

    /// RFC 9112 §6.3.
    fn end_of_answer(&self, bare: bool) -> Result<State, Wrong> {
        if self.old && self.chunked {
            return Err("a transfer coding in HTTP/1.0");
        }
        let informational = (100..200).contains(&self.status);
        if (informational || self.status == 204)
            && (self.chunked || self.length.is_some_and(|it| it > 0))
        {
            return Err("a body where none may be");
        }
        Ok(match self.status {
            101 => State::Other,
            204 | 304 => State::Head(Self::default()),
            _ if informational || bare => State::Head(Self::default()),
            _ if self.length.is_none() && !self.chunked => State::Other,
            _ => self.body(),
        })
    }

    fn end(&self) -> State {
        if self.connect || self.upgrade {
            return State::Other;
        }
        self.body()
    }

    fn body(&self) -> State {
        match self.length {
            _ if self.chunked => State::Size,
            None | Some(0) => State::Head(Self::default()),
            Some(length) => State::Body(length),
        }
    }
}

/// RFC 9112 §5.2.
fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// What follows the line of a chunk's size.
fn size(line: &[u8]) -> Result<State, Wrong> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
    let (digits, rest) = line.split_at(end.unwrap_or(line.len()));
    // An extension means nothing to us and is not forwarded. Blanks in front of it are to be taken (RFC 9112 §7.1.1).
    let rest = rest.trim_ascii_start();
    if digits.is_empty() || digits.len() > 15 || !(rest.is_empty() || rest[0] == b';') {
        return Err("a chunk without a size");
    }
    let text = str::from_utf8(digits).map_err(|_| "a chunk without a size")?;
    match u64::from_str_radix(text, 16) {
        Ok(0) => Ok(State::Trailers),
        // The line's end behind the data goes with it; whoever reads it sees whether it is one.
        Ok(size) => Ok(State::Chunk(size + 2)),
        Err(_) => Err("a chunk without a size"),
    }
}

fn skip(left: &mut u64, there: usize) -> usize {
    let now = usize::try_from(*left).map_or(there, |left| left.min(there));
    *left -= now as u64;
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with bytes, however they are cut.
    fn wrong(bytes: &[u8]) -> Option<(usize, Wrong)> {
        let whole = Scan::default().read(bytes).err();
        let mut by_one = Scan::default();
        let cut = bytes.iter().enumerate().find_map(|(at, byte)| {
            let wrong = by_one.read(std::slice::from_ref(byte)).err();
            wrong.map(|(_, wrong)| (at, wrong))
        });
        assert_eq!(whole, cut, "{}", bytes.escape_ascii());
        whole
    }

    #[test]
    fn requests_of_one_reading_pass() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nhost:a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "A#B / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\na\nb\r\nA;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nany\nthing",
            "CONNECT a:1 HTTP/1.1\r\n\r\nany\nthing",
        ] {
            assert_eq!(wrong(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn requests_of_two_readings_end_at_the_line_that_makes_them_so() {
        let length = "POST / HTTP/1.1\r\nContent-Length: 3\r\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
        for (good, bad) in [
            ("", "GET / HTTP/1.1\n"),
            ("\r\n", "\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n", "\r\n"),
            ("", "GET /a#b HTTP/1.1\r\n"),
            ("GET / HTTP/1.1\r\n", "Host: a\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "\n"),
            ("GET / HTTP/1.1\r\nX: a\r\n", " b\r\n"),
            ("GET / HTTP/1.1\r\nX: a\r\n", "\tb\r\n"),
            (length, "content-length: 3\r\n"),
            (length, "Content-Length: 4\r\n"),
            (length, "Transfer-Encoding: chunked\r\n"),
            (chunked, "Content-Length: 3\r\n"),
            (chunked, "Transfer-Encoding: chunked\r\n"),
            (
                "POST / HTTP/1.1\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
            ),
            ("POST / HTTP/1.1\r\n", "Transfer-Encoding: identity\r\n"),
            ("POST / HTTP/1.1\r\n", "Transfer-Encoding: \x0bchunked\r\n"),
            ("POST / HTTP/1.1\r\n", "Content-Length: +3\r\n"),
            ("POST / HTTP/1.1\r\n", "Content-Length: 3, 3\r\n"),
            ("POST / HTTP/1.1\r\n", "Content-Length: \r\n"),
            ("POST / HTTP/1.1\r\n", "Content-Length: 0x3\r\n"),
            (
                "POST / HTTP/1.1\r\n",
                "Content-Length: 99999999999999999999\r\n",
            ),
            (&format!("{chunked}\r\n"), "3\n"),
            (&format!("{chunked}\r\n"), "0x3\r\n"),
            (&format!("{chunked}\r\n"), "-3\r\n"),
            (&format!("{chunked}\r\n"), "3 3\r\n"),
            (&format!("{chunked}\r\n"), "ffffffffffffffffff\r\n"),
            (&format!("{chunked}\r\n"), "3;a=b\n"),
            (&format!("{chunked}\r\n3\r\nabc\r\n"), "\r\n"),
            (&format!("{chunked}\r\n0\r\n"), "x: y\n"),
            (&format!("{chunked}\r\n0\r\nx: y\r\n"), " z\r\n"),
        ] {
            let text = format!("{good}{bad}more");
            let at = wrong(text.as_bytes()).map(|(at, _)| at);
            assert_eq!(at, Some(good.len() + bad.len() - 1), "{text}");
        }
    }

    #[test]
    fn a_head_is_begun_by_its_first_byte_and_ended_by_its_empty_line() {
        let mut scan = Scan::default();
        assert!(!scan.is_in_head());
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for byte in &text[..text.len() - 1] {
            scan.read(std::slice::from_ref(byte)).unwrap();
            assert!(scan.is_in_head());
        }
        scan.read(b"\n").unwrap();
        assert!(!scan.is_in_head());
    }
}
