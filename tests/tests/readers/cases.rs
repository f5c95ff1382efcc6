//! What clients send: good, bad and broken.

use crate::servers::Seen;

/// What another request could be, of 32 bytes.
pub(crate) const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
const GET: &str = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn seen(method: &str, target: &str, host: &str, body: &str) -> Seen {
    Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        hosts: vec![host.to_owned()],
        body: body.to_owned(),
    }
}

fn got() -> Seen {
    seen("GET", "/b", "a", "")
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

fn chunked(lines: &str, body: &str) -> String {
    post(&format!("Transfer-Encoding: chunked\r\n{lines}"), body) + GET
}

fn posted(body: &str) -> Vec<Seen> {
    vec![seen("POST", "/a", "a", body), got()]
}

/// What clients send, and the requests that they mean.
pub(crate) fn good() -> Vec<(String, Vec<Seen>)> {
    [bodies(), heads()].concat()
}

fn bodies() -> Vec<(String, Vec<Seen>)> {
    let long = "x".repeat(100_000);
    vec![
        (
            "GET /a?b=c&d HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nhost:\ta:8080 \r\n\r\nOPTIONS /c HTTP/1.1\r\nHOST: A\r\n\r\n".to_owned(),
            vec![seen("GET", "/a?b=c&d", "a", ""), seen("HEAD", "/b", "a:8080", ""), seen("OPTIONS", "/c", "A", "")],
        ),
        // A body that another request could be.
        (post("Content-Length: 000032\r\n", SMUGGLED) + GET, posted(SMUGGLED)),
        (chunked("", &format!("20\r\n{SMUGGLED}\r\n0\r\n\r\n")), posted(SMUGGLED)),
        (chunked("", "7\r\n0\r\n\r\nGE\r\n0\r\n\r\n"), posted("0\r\n\r\nGE")),
        // Extensions and trailers, also such as would frame.
        (chunked("", "3;a=\"b;c\";d\r\nabc\r\n00A ; e\r\n0123456789\r\n0;f\r\n\r\n"), posted("abc0123456789")),
        (
            chunked("Trailer: t, content-length, host\r\nTE: trailers\r\nConnection: te\r\n", "1\r\na\r\n0\r\nt: u\r\nContent-Length: 50\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"),
            posted("a"),
        ),
        (post("transfer-encoding:\t Chunked \r\n", "1\r\na\r\n0\r\n\r\n") + GET, posted("a")),
        // More than one connection holds at once.
        (post("Content-Length: 100000\r\n", &long) + GET, posted(&long)),
        (chunked("", &format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len())), posted(&long)),
        (post("Content-Length: 0\r\n", "") + GET, posted("")),
        (chunked("", "0\r\n\r\n"), posted("")),
        (post("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc") + GET, posted("abc")),
        // Bodies where none are usual.
        ("GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned() + GET, vec![seen("GET", "/a", "a", "abc"), got()]),
        (
            "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned() + GET,
            vec![seen("GET", "/a", "a", "abc"), got()],
        ),
        ("DELETE /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned() + GET, vec![seen("DELETE", "/a", "a", "abc"), got()]),
    ]
}

fn heads() -> Vec<(String, Vec<Seen>)> {
    vec![
        // What is for one hop cannot take away what frames or routes.
        (post("Connection: content-length, host, x, keep-alive\r\nX: y\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n", "abc") + GET, posted("abc")),
        (chunked("Connection: transfer-encoding\r\nProxy-Connection: close\r\n", "3\r\nabc\r\n0\r\n\r\n"), posted("abc")),
        // Names that only look like others, and values of all kinds.
        (post("Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX-Content-Length: 7\r\nContent-Length: 3\r\n", "abc") + GET, posted("abc")),
        (post("Empty:\r\nQuoted: \"a, b\\\"c\"\r\n!#$%&'*+-.^_`|~9: a \t b\r\nCookie: a=b\r\nCookie: c=d; e=\"f\"\r\nContent-Length: 1\r\n", "a") + GET, posted("a")),
        // Targets in their normal form.
        (
            format!("GET http://a/x/../b HTTP/1.1\r\nHost: A:80\r\n\r\nGET http://a:81 HTTP/1.1\r\nHost: a:81\r\n\r\nGET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n{GET}"),
            vec![got(), seen("GET", "/", "a:81", ""), seen("GET", "/?q", "a", ""), got()],
        ),
        (
            "GET /x/../%61dmin;y//z%2f.. HTTP/1.1\r\nHost: a\r\n\r\nGET //b/./?../c?%2F HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            vec![seen("GET", "/admin;y//z%2F..", "a", ""), seen("GET", "//b/?../c?%2F", "a", "")],
        ),
        // An empty line in front, and an old version.
        (
            format!("\r\n{GET}\r\nGET /c HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nPOST /a HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
            vec![got(), seen("GET", "/c", "a", ""), seen("POST", "/a", "a", "abc")],
        ),
        // Nothing behind what asks for another protocol.
        (format!("GET /b HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n{SMUGGLED}"), vec![got()]),
        (format!("PURGE /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{SMUGGLED}"), vec![seen("PURGE", "/b", "a", "")]),
    ]
}

/// What has two readings, or none.
pub(crate) const BAD: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 32\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 32\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +32\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x20\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 32\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n 3\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\n",
    "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "GET /\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
];

/// What is one host to somebody and another to somebody else. The connection may go on.
pub(crate) const HOSTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: b@a\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS *? HTTP/1.1\r\nHost: a\r\n\r\n",
    "Connect / HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// What breaks off behind its head.
pub(crate) const BROKEN: &[&str] = &[
    "x\r\n",
    "3\nabc",
    "3;a\nb\r\nabc\r\n0\r\n\r\n",
    "3\r\nabcX\r\n",
    "-1\r\n",
    "3\r\nabc0\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\nX: y\r\n z\r\n\r\n",
    "fffffffffffffff0\r\n",
    "1 1\r\n",
    "+1\r\na\r\n0\r\n\r\n",
    "0x1\r\na\r\n0\r\n\r\n",
];
