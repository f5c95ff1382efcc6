//! What stands behind the proxy: answers every request with the same few bytes, as cheaply as it can.

use std::{convert::Infallible, io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::load::Http;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 64\r\n\r\n\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

/// Listens on two ports of loopback and serves them on tasks of this thread.
pub(crate) async fn start(http: Http) -> io::Result<[SocketAddr; 2]> {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await?,
        TcpListener::bind("127.0.0.1:0").await?,
    ];
    let addresses = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    for listener in listeners {
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                match http {
                    Http::One => drop(tokio::task::spawn_local(one(stream))),
                    Http::Two => drop(tokio::task::spawn_local(two(stream))),
                }
            }
        });
    }
    Ok(addresses)
}

/// Requests have no bodies here, so each ends with its head.
async fn one(mut stream: TcpStream) {
    let mut held = Vec::with_capacity(4096);
    loop {
        match stream.read_buf(&mut held).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        while let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            held.drain(..end + 4);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

async fn two(stream: TcpStream) {
    let answer = service_fn(|_: Request<Incoming>| async {
        let body = ANSWER.split_at(ANSWER.len() - 64).1;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(body))))
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(1000);
    // It ends when the proxy goes.
    builder
        .serve_connection(TokioIo::new(stream), answer)
        .await
        .ok();
}
