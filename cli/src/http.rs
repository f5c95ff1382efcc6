//! A blocking HTTP/1.1 client for one connection: enough to ask admin pages and to try a mesh from inside a pod.
//!
//! Not for the open internet: no TLS, no redirects, no proxies. The caller connects, so that it decides in which network
//! namespace.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// Bytes of a head, which is all lines before the body.
const LARGEST_HEAD: u64 = 64 * 1024;
/// Bytes of a body.
const LARGEST_BODY: u64 = 256 * 1024 * 1024;

/// One connection, used for one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// For example `GET`.
    pub method: &'a str,
    /// As it goes into the request line; what stands there already is sent as it is.
    pub path: &'a str,
    /// Beside `host` and `content-length`; `host` takes the place of the connection's.
    pub headers: &'a [(&'a str, &'a str)],
    /// May be empty.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request without headers of its own and without a body.
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            headers: &[],
            body: b"",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// For example 200.
    pub status: u16,
    /// Names in lowercase.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of a name, which is given in lowercase.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Connection {
    /// Speaks over a stream that is connected. `host` goes into the header of that name.
    pub fn over(stream: TcpStream, host: impl Into<String>) -> Self {
        Self {
            stream: BufReader::new(stream),
            host: host.into(),
        }
    }

    /// The stream below, for its addresses and time limits.
    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends a request without further headers, and waits for all of the answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.ask(&Request {
            method,
            path,
            headers: &[],
            body,
        })
    }

    /// Sends a request and waits for all of the answer.
    ///
    /// # Errors
    /// `InvalidData` if the answer is not HTTP/1.1 or too large; what the stream fails with.
    pub fn ask(&mut self, request: &Request<'_>) -> io::Result<Response> {
        let Request {
            method,
            path,
            headers,
            body,
        } = *request;
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            text += &format!("host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("content-length: {}\r\n\r\n", body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        let mut response = self.head()?;
        while response.status / 100 == 1 {
            response = self.head()?;
        }
        if method != "HEAD" && !matches!(response.status, 204 | 304) {
            self.body(&mut response)?;
        }
        Ok(response)
    }

    /// All of an answer but its body.
    fn head(&mut self) -> io::Result<Response> {
        let mut head = self.stream.by_ref().take(LARGEST_HEAD);
        let status_line = line(&mut head)?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok());
        let status =
            status.ok_or_else(|| malformed(format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let text = line(&mut head)?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| malformed(format!("not a header: {text:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Response {
            status,
            headers,
            body: Vec::new(),
        })
    }

    fn body(&mut self, response: &mut Response) -> io::Result<()> {
        if response
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return self.chunks(&mut response.body);
        }
        match response.header("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) if length <= LARGEST_BODY => self.exactly(length, &mut response.body),
            Some(_) => Err(malformed(
                "a content-length that is no number or too large".to_owned(),
            )),
            None => {
                self.stream
                    .by_ref()
                    .take(LARGEST_BODY)
                    .read_to_end(&mut response.body)?;
                Ok(())
            }
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let size = line(&mut self.stream.by_ref().take(LARGEST_HEAD))?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| malformed(format!("not a chunk's size: {size:?}")))?;
            if size > LARGEST_BODY - body.len() as u64 {
                return Err(malformed("a body that is too large".to_owned()));
            }
            self.exactly(size, body)?;
            if size == 0 {
                // Trailers tell nothing that is asked for here.
                while !line(&mut self.stream.by_ref().take(LARGEST_HEAD))?.is_empty() {}
                return Ok(());
            }
            line(&mut self.stream.by_ref().take(2))?;
        }
    }

    fn exactly(&mut self, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
        let read = self.stream.by_ref().take(length).read_to_end(body)?;
        if (read as u64) < length {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }
}

/// One line without its end.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended within an answer",
        ));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| malformed("a head that is not text".to_owned()))
}

fn malformed(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// What a client gets from a server that says exactly this and closes.
    fn answered(answer: &'static str) -> io::Result<Response> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap());
            while !line(&mut request).unwrap().is_empty() {}
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let answer =
            Connection::over(TcpStream::connect(address).unwrap(), "test").send("GET", "/", b"");
        server.join().unwrap();
        answer
    }

    #[test]
    fn a_body_ends_by_length_by_chunks_or_by_close() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\na: b\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        ] {
            let response = answered(answer).unwrap();
            assert_eq!(
                (response.status, response.body.as_slice()),
                (200, &b"hello"[..]),
                "{answer}"
            );
        }
    }

    #[test]
    fn an_answer_that_has_no_body_is_not_waited_for() {
        let response = answered("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n").unwrap();
        assert_eq!((response.status, response.body.len()), (304, 0));
    }

    #[test]
    fn headers_are_sent_and_a_host_replaces_the_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        let request = Request {
            headers: &[("Host", "orders"), ("a", "b")],
            ..Request::get("/x?y")
        };
        Connection::over(stream, "own").ask(&request).unwrap();
        let mut sent = String::new();
        server.read_to_string(&mut sent).unwrap();
        assert_eq!(
            sent,
            "GET /x?y HTTP/1.1\r\nHost: orders\r\na: b\r\ncontent-length: 0\r\n\r\n"
        );
    }

    #[test]
    fn what_is_cut_or_no_http_is_an_error() {
        for answer in [
            "",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello",
        ] {
            assert!(answered(answer).is_err(), "{answer:?}");
        }
    }
}
