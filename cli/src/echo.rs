//! An application for trying things: it says who is calling, as far as its socket tells, and sends back what it gets.
//!
//! It knows nothing of a mesh. HTTP answers carry `x-pod` (its own name), `x-client` (the caller's address) and `x-request`
//! (method and target as they came in); the body is the request's, or a line of text if that has none. `/headers` is
//! answered with method, target and headers as JSON, `/delay/500ms` only after that time. The other port sends every byte
//! back.

use std::{
    convert::Infallible,
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body as _, Bytes, Incoming},
    header::HeaderValue,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::length;

/// What to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it calls itself.
    pub name: String,
    /// Port of the HTTP server, on all addresses.
    pub http: u16,
    /// Port that echoes bytes, on all addresses.
    pub tcp: u16,
}

/// How long an answer may be delayed, whatever was asked for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves until the task ends.
///
/// # Errors
/// If a port cannot be listened on.
pub async fn run(config: Config) -> io::Result<()> {
    let http = listen(config.http)?;
    let tcp = listen(config.tcp)?;
    tokio::select! {
        () = accept(&http, |stream, from| serve_http(stream, from, config.name.clone())) => {}
        () = accept(&tcp, |stream, _| serve_bytes(stream)) => {}
    }
    Ok(())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let options = sys::socket::Options {
        reuse_address: true,
        ..Default::default()
    };
    let listener = sys::socket::listen(any, options)
        .map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))?;
    TcpListener::from_std(listener)
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: &TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // Without it answers wait, that is all.
                let _ = stream.set_nodelay(true);
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                tokio::spawn(serve(stream, from));
            }
            // Out of descriptors, most likely: some come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve_http(stream: TcpStream, from: SocketAddr, name: String) {
    let service = service_fn(move |request: Request<Incoming>| {
        let delay = delay(request.uri().path());
        let response = answer(request, from, &name);
        async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    // A client that breaks HTTP or goes away ends its own connection only.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What `/delay/TIME` asks for.
fn delay(path: &str) -> Option<Duration> {
    let wanted = length::parse(path.strip_prefix("/delay/")?).ok()?;
    Some(wanted.min(LONGEST_DELAY))
}

fn answer(request: Request<Incoming>, from: SocketAddr, name: &str) -> Response<Body> {
    let line = format!("{} {}", request.method(), request.uri());
    let received = (request.uri().path() == "/headers").then(|| received(&request));
    let body = request.into_body();
    let body = match received {
        Some(text) => whole(text),
        None if body.is_end_stream() => whole(format!("{name}: you are {from}\n")),
        None => body.boxed(),
    };
    let mut response = Response::new(body);
    for (key, value) in [
        ("x-pod", name),
        ("x-client", &from.to_string()),
        ("x-request", &line),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(key, value);
        }
    }
    response
}

/// `{"method", "target", "headers": [[name, value]]}`, the headers in the order in which they came, as far as the
/// server below keeps it.
fn received(request: &Request<Incoming>) -> String {
    let headers = request.headers().iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let (method, target) = (request.method().as_str(), request.uri().to_string());
    format!(
        "{:#}\n",
        json!({ "method": method, "target": target, "headers": headers })
    )
}

fn whole(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed()
}

async fn serve_bytes(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Connection;
    use std::io::{Read as _, Write as _};

    /// The two servers on ports of the kernel's choice, on a thread that ends with the test.
    fn served() -> (SocketAddr, SocketAddr) {
        let (told, tell) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (http, tcp) = (listen(0).unwrap(), listen(0).unwrap());
                let local = |listener: &TcpListener| {
                    SocketAddr::new(
                        Ipv6Addr::LOCALHOST.into(),
                        listener.local_addr().unwrap().port(),
                    )
                };
                told.send((local(&http), local(&tcp))).unwrap();
                tokio::join!(
                    accept(&http, |stream, from| serve_http(
                        stream,
                        from,
                        "here".into()
                    )),
                    accept(&tcp, |stream, _| serve_bytes(stream))
                );
            });
        });
        tell.recv().unwrap()
    }

    #[test]
    fn http_says_who_is_there_and_who_calls() {
        let (http, _) = served();
        let mut connection = Connection::over(std::net::TcpStream::connect(http).unwrap(), "here");
        let me = connection.stream().local_addr().unwrap().to_string();
        let hello = connection.send("GET", "/", b"").unwrap();
        assert_eq!(hello.body, format!("here: you are {me}\n").into_bytes());
        let echo = connection.send("POST", "/any", b"a body").unwrap();
        assert_eq!(echo.body, b"a body", "the second request of one connection");
        assert_eq!(
            (echo.header("x-pod"), echo.header("x-client")),
            (Some("here"), Some(me.as_str()))
        );
    }

    #[test]
    fn an_answer_shows_what_was_received() {
        let (http, _) = served();
        let mut connection = Connection::over(std::net::TcpStream::connect(http).unwrap(), "here");
        let put = connection.send("PUT", "/a/b?c=d", b"x").unwrap();
        assert_eq!(put.header("x-request"), Some("PUT /a/b?c=d"));
        let request = crate::http::Request {
            headers: &[("X-Two", "1"), ("x-two", "2")],
            ..crate::http::Request::get("/headers")
        };
        let answer = connection.ask(&request).unwrap();
        let received: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(received["target"], "/headers");
        let headers = received["headers"].as_array().unwrap();
        for expected in [
            json!(["host", "here"]),
            json!(["x-two", "1"]),
            json!(["x-two", "2"]),
        ] {
            assert!(headers.contains(&expected), "{received}");
        }
    }

    #[test]
    fn a_delay_is_a_time_with_a_unit_and_no_longer_than_a_minute() {
        assert_eq!(delay("/delay/250ms"), Some(Duration::from_millis(250)));
        assert_eq!(delay("/delay/2h"), Some(LONGEST_DELAY));
        for none in ["/", "/delay/", "/delay/5", "/delay", "/x/delay/5s"] {
            assert_eq!(delay(none), None, "{none}");
        }
    }

    #[test]
    fn bytes_come_back_until_the_client_has_said_all() {
        let (_, tcp) = served();
        let mut stream = std::net::TcpStream::connect(tcp).unwrap();
        stream.write_all(b"some bytes").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"some bytes");
    }
}
