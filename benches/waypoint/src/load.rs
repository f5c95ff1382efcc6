//! The clients.
//!
//! `closed`: each connection asks again as soon as it has its answer, for CPU per request and saturation. `open`: requests
//! are due at times drawn in advance, and latency counts from then, so that a stall is seen by all that came due in it.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

/// The protocol on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2 by prior knowledge.
    Two,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) http: Http,
    /// Requests under way at once.
    pub(crate) concurrency: usize,
    /// Paths are spread over so many routes.
    pub(crate) routes: usize,
}

/// Path of the request with this number: the routes are visited in an order without neighbours.
pub(crate) fn path(number: usize, routes: usize) -> String {
    let route = number.wrapping_mul(7919) % routes;
    format!("/route-{route}/item?n=1")
}

/// Sends so many requests, each connection one after the other.
pub(crate) async fn closed(load: Load, requests: usize) -> io::Result<Duration> {
    let next = Rc::new(Cell::new(0));
    let begun = Instant::now();
    let local = LocalSet::new();
    let tasks: Vec<_> = match load.http {
        Http::One => (0..load.concurrency)
            .map(|_| local.spawn_local(one(load, requests, Rc::clone(&next))))
            .collect(),
        Http::Two => {
            let connections = load.concurrency.min(4);
            let each = load.concurrency / connections;
            (0..connections)
                .map(|_| local.spawn_local(two(load, each, requests, Rc::clone(&next))))
                .collect()
        }
    };
    local
        .run_until(async {
            for task in tasks {
                task.await.map_err(io::Error::other)??;
            }
            Ok::<_, io::Error>(())
        })
        .await?;
    Ok(begun.elapsed())
}

async fn one(load: Load, requests: usize, next: Rc<Cell<usize>>) -> io::Result<()> {
    let mut client = Client::connect(load.to).await?;
    loop {
        let number = next.get();
        if number >= requests {
            return Ok(());
        }
        next.set(number + 1);
        client.ask(&path(number, load.routes)).await?;
    }
}

async fn two(load: Load, streams: usize, requests: usize, next: Rc<Cell<usize>>) -> io::Result<()> {
    let stream = TcpStream::connect(load.to).await?;
    stream.set_nodelay(true)?;
    let builder = http2::Builder::new(TokioExecutor::new());
    let (send, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::task::spawn_local(connection);
    let tasks: Vec<_> = (0..streams)
        .map(|_| {
            let (mut send, next) = (send.clone(), Rc::clone(&next));
            tokio::task::spawn_local(async move {
                loop {
                    let number = next.get();
                    if number >= requests {
                        return Ok(());
                    }
                    next.set(number + 1);
                    let uri = format!(
                        "http://bench.shop.svc.cluster.local{}",
                        path(number, load.routes)
                    );
                    let request = Request::get(uri)
                        .header("user-agent", "bench/1")
                        .header("accept", "*/*")
                        .body(Empty::<Bytes>::new())
                        .map_err(io::Error::other)?;
                    let answer = send.send_request(request).await.map_err(io::Error::other)?;
                    let status = answer.status();
                    answer
                        .into_body()
                        .collect()
                        .await
                        .map_err(io::Error::other)?;
                    if status != 200 {
                        return Err(io::Error::other(format!("status {status}")));
                    }
                }
            })
        })
        .collect();
    drop(send);
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    driver.abort();
    Ok(())
}

/// Requests at a rate, on HTTP/1.1; the latencies, sorted.
pub(crate) async fn open(load: Load, rate: f64, requests: usize) -> io::Result<Vec<Duration>> {
    // Exponential gaps from a fixed sequence: the same for every proxy.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut at = 0.0;
    let due: Vec<Duration> = (0..requests)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
            at -= (1.0 - uniform).ln() / rate;
            Duration::from_secs_f64(at)
        })
        .collect();
    let due: Rc<[Duration]> = due.into();
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let mut clients = Vec::new();
    for _ in 0..load.concurrency {
        clients.push(Client::connect(load.to).await?);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let (due, next) = (Rc::clone(&due), Rc::clone(&next));
            local.spawn_local(async move {
                let mut took = Vec::new();
                loop {
                    let number = next.get();
                    let Some(due) = due.get(number).map(|due| begun + *due) else {
                        return Ok::<_, io::Error>(took);
                    };
                    next.set(number + 1);
                    // A timer is too coarse; the core is this thread's own.
                    while Instant::now() < due {
                        tokio::task::yield_now().await;
                    }
                    client.ask(&path(number, load.routes)).await?;
                    took.push(due.elapsed());
                }
            })
        })
        .collect();
    let mut all = Vec::with_capacity(requests);
    local
        .run_until(async {
            for task in tasks {
                all.extend(task.await.map_err(io::Error::other)??);
            }
            Ok::<_, io::Error>(())
        })
        .await?;
    all.sort();
    Ok(all)
}

/// How long requests took.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Each by itself, the shortest first.
    pub(crate) each: Vec<Duration>,
    /// From the first to the end of the last.
    pub(crate) whole: Duration,
}

/// Sends so many requests, each client one after the other.
pub(crate) async fn taken(
    clients: Vec<Client>,
    routes: usize,
    requests: usize,
) -> io::Result<Taken> {
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let begun = Instant::now();
    let tasks = clients.into_iter().map(|mut client| {
        let next = Rc::clone(&next);
        local.spawn_local(async move {
            let mut took = Vec::new();
            loop {
                let number = next.get();
                if number >= requests {
                    return Ok::<_, io::Error>(took);
                }
                next.set(number + 1);
                let asked = Instant::now();
                client.ask(&path(number, routes)).await?;
                took.push(asked.elapsed());
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut each = Vec::with_capacity(requests);
    let all = async {
        for task in tasks {
            each.extend(task.await.map_err(io::Error::other)??);
        }
        Ok::<_, io::Error>(begun.elapsed())
    };
    let whole = local.run_until(all).await?;
    each.sort();
    Ok(Taken { each, whole })
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    held: Vec<u8>,
    request: String,
}

impl Client {
    async fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Over a connection that is there.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            held: Vec::with_capacity(4096),
            request: String::new(),
        }
    }

    /// Asks, and waits for all of the answer.
    ///
    /// # Errors
    /// If that is not 200 with a length, or the connection ends.
    pub(crate) async fn ask(&mut self, path: &str) -> io::Result<()> {
        use std::fmt::Write as _;
        self.request.clear();
        write!(
            self.request,
            "GET {path} HTTP/1.1\r\nhost: bench.shop.svc.cluster.local\r\nuser-agent: bench/1\r\naccept: */*\r\n\r\n"
        )
        .map_err(io::Error::other)?;
        self.stream.write_all(self.request.as_bytes()).await?;
        self.held.clear();
        loop {
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.held[..end]).to_ascii_lowercase();
                if !head.starts_with("http/1.1 200") {
                    return Err(io::Error::other(head));
                }
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:"))
                    .and_then(|value| value.trim().parse::<usize>().ok())
                    .ok_or_else(|| io::Error::other("an answer without a length"))?;
                if self.held.len() >= end + 4 + length {
                    return Ok(());
                }
            }
        }
    }
}
