//! Servers that say what they read. They run until the process of the tests ends.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use http_muncher::{Parser, ParserHandler};

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(10);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// What asks for this gets its answer before its body is read, and the body is not told.
pub(crate) const EARLY: &str = "/early";
/// What is asked for when all before it is to be known.
const FENCE: &str = "/fence";

/// A request that came whole, as a server read it. One that is wrong has the method `error`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// All there are.
    pub(crate) hosts: Vec<String>,
    pub(crate) body: String,
}

/// A server at an address.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Else a body with trailers is none to it.
    pub(crate) takes_trailers: bool,
    seen: Receiver<Seen>,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Server {
    /// All that there are here.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::here("http_parser", |listener, log| each(&listener, log, in_c)),
            Self::here("tiny_http", tiny),
            Self::here("khttp", |listener, log| each(&listener, log, khttp)),
        ];
        match node() {
            Some(node) => all.push(node),
            None => eprintln!("no node here: three servers read"),
        }
        all
    }

    fn here(name: &'static str, run: fn(TcpListener, Sender<Seen>)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let (log, seen) = channel();
        thread::spawn(move || run(listener, log));
        Self {
            name,
            address,
            takes_trailers: name != "tiny_http",
            seen,
            child: None,
        }
    }

    /// What it read since the last time.
    pub(crate) fn read(&self) -> Vec<Seen> {
        self.say(
            format!("GET {FENCE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        let next = || {
            self.seen
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{} reads no more", self.name))
        };
        std::iter::from_fn(|| Some(next()).filter(|it| it.target != FENCE)).collect()
    }

    /// Sends it bytes as they are, and waits until it closes or says nothing more.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let mut socket = TcpStream::connect(self.address).expect("it listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("it is a socket");
        // It may have closed, if it did not like the beginning.
        socket.write_all(bytes).ok();
        socket.shutdown(Shutdown::Write).ok();
        socket.read_to_end(&mut Vec::new()).ok();
    }
}

fn each(listener: &TcpListener, log: Sender<Seen>, serve: fn(TcpStream, &Sender<Seen>)) {
    for socket in listener.incoming() {
        let log = log.clone();
        thread::spawn(move || serve(socket.expect("it listens"), &log));
    }
}

/// What `http_parser` says of one request.
#[derive(Default)]
struct Heard {
    seen: Seen,
    field: Vec<u8>,
    value: Vec<u8>,
    in_value: bool,
    headed: bool,
    waits: bool,
    whole: bool,
}

impl Heard {
    fn field_ended(&mut self) {
        let value = String::from_utf8_lossy(&self.value).trim().to_owned();
        if self.field.eq_ignore_ascii_case(b"expect") {
            self.waits = true;
        } else if self.field.eq_ignore_ascii_case(b"host") {
            self.seen.hosts.push(value);
        }
        self.field.clear();
        self.value.clear();
        self.in_value = false;
    }
}

impl ParserHandler for Heard {
    fn on_url(&mut self, _: &mut Parser, piece: &[u8]) -> bool {
        self.seen.target += &String::from_utf8_lossy(piece);
        true
    }

    fn on_header_field(&mut self, _: &mut Parser, piece: &[u8]) -> bool {
        if self.in_value {
            self.field_ended();
        }
        self.field.extend_from_slice(piece);
        true
    }

    fn on_header_value(&mut self, _: &mut Parser, piece: &[u8]) -> bool {
        self.in_value = true;
        self.value.extend_from_slice(piece);
        true
    }

    fn on_headers_complete(&mut self, _: &mut Parser) -> bool {
        self.field_ended();
        self.headed = true;
        true
    }

    fn on_body(&mut self, _: &mut Parser, piece: &[u8]) -> bool {
        self.seen.body += &String::from_utf8_lossy(piece);
        true
    }

    fn on_message_complete(&mut self, _: &mut Parser) -> bool {
        self.whole = true;
        true
    }
}

fn in_c(mut socket: TcpStream, log: &Sender<Seen>) {
    let (mut parser, mut heard) = (Parser::request(), Heard::default());
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = socket.read(&mut bytes) {
        // What kind of request it is it says after each piece.
        for byte in &bytes[..length] {
            parser.parse(&mut heard, std::slice::from_ref(byte));
            if parser.has_error() {
                let method = "error".to_owned();
                let target = parser.error().to_owned();
                log.send(Seen {
                    method,
                    target,
                    ..Seen::default()
                })
                .ok();
                return;
            }
            let early = heard.seen.target == EARLY;
            if std::mem::take(&mut heard.headed) {
                if early {
                    socket.write_all(OK).ok();
                } else if heard.waits {
                    socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
                }
            }
            if heard.whole {
                let mut seen = std::mem::take(&mut heard).seen;
                seen.method = parser.http_method().to_owned();
                if early {
                    seen.body.clear();
                }
                log.send(seen).ok();
                if !early {
                    socket.write_all(OK).ok();
                }
            }
        }
    }
}

fn tiny(listener: TcpListener, log: Sender<Seen>) {
    let server = tiny_http::Server::from_listener(listener, None).expect("a server");
    for mut request in server.incoming_requests() {
        let hosts = request.headers().iter().filter(|it| it.field.equiv("host"));
        let mut seen = Seen {
            method: request.method().to_string(),
            target: request.url().to_owned(),
            hosts: hosts.map(|it| it.value.to_string()).collect(),
            body: String::new(),
        };
        let upgrade = request.headers().iter().any(|it| it.field.equiv("upgrade"));
        if upgrade {
            // Its body would be all that follows, until the end.
        } else if seen.target == EARLY {
            // What is left of the body it passes over itself.
            let read = request.as_reader().read_exact(&mut [0; 3]);
            read.expect("more than that is there");
        } else if request.as_reader().read_to_string(&mut seen.body).is_err() {
            continue;
        }
        log.send(seen).ok();
        request.respond(tiny_http::Response::empty(200)).ok();
    }
}

fn khttp(socket: TcpStream, log: &Sender<Seen>) {
    let log = log.clone();
    let mut builder = khttp::Server::builder("127.0.0.1:0").expect("it is an address");
    builder.fallback_route(move |mut request, answer| {
        let hosts = request.headers.get_all("host");
        let mut seen = Seen {
            method: request.method.as_str().to_owned(),
            target: request.uri.as_str().to_owned(),
            hosts: hosts
                .map(|(_, it)| String::from_utf8_lossy(it).into_owned())
                .collect(),
            body: String::new(),
        };
        if seen.target == EARLY {
            // Whether the rest of its body still comes is for who sends it to say.
            log.send(seen).ok();
            answer.ok0(khttp::Headers::empty())?;
            return request.body().string().map(drop);
        }
        if request.headers.is_100_continue() {
            answer.send_100_continue()?;
        }
        seen.body = request.body().string()?;
        log.send(seen).ok();
        answer.ok0(khttp::Headers::empty())
    });
    builder.build().handle(&socket).ok();
}

const SCRIPT: &str = r"
const tell = it => console.log(JSON.stringify([it.method, it.target, it.hosts, it.body]));
const server = require('http').createServer((request, answer) => {
    const hosts = request.rawHeaders.filter((_, at, all) => at % 2 && all[at - 1].toLowerCase() == 'host');
    const early = request.url == '/early', body = [];
    const seen = text => tell({ method: request.method, target: request.url, hosts, body: text });
    request.on('data', piece => body.push(piece));
    // Whether the rest of its body still comes is for who sends it to say.
    if (early) { seen(''); answer.end(); }
    else request.on('end', () => { seen(Buffer.concat(body).toString()); answer.end(); });
});
server.on('clientError', (error, socket) => {
    if (/^HPE_(?!INVALID_EOF)/.test(error.code)) tell({ method: 'error', target: error.code, hosts: [], body: '' });
    socket.destroy();
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

fn node() -> Option<Server> {
    let child = Command::new("node")
        .args(["-e", SCRIPT])
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let port = lines.next()?.ok()?.parse().expect("it says its port first");
    let (log, seen) = channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (method, target, hosts, body) =
                serde_json::from_str(&line).expect("the script's own");
            let seen = Seen {
                method,
                target,
                hosts,
                body,
            };
            log.send(seen).ok();
        }
    });
    Some(Server {
        name: "node",
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        takes_trailers: true,
        seen,
        child: Some(child),
    })
}
