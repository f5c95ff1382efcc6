//! Messages whose receivers have stopped, beside others on the same HTTP/2 connection.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, server, server::SendResponse};
use http::{Request, Response};
use proto::waypoint::Protocol;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use super::{
    fixture::{Endpoint, Lab, World, run},
    two::client,
};
use crate::{
    http::{Limits, Version},
    upstream::STREAM_WINDOW,
};

/// A request that the endpoint got, and on which of its connections.
type Asked = (usize, Request<RecvStream>, SendResponse<Bytes>);

/// A waypoint whose only endpoint speaks HTTP/2, takes so much of each request and so much on all together, and does
/// nothing by itself.
async fn lab(stream: u32, connection: u32) -> (Lab, UnboundedReceiver<Asked>) {
    let endpoint = Endpoint::listen().await;
    let world = World {
        protocol: Protocol::Http2,
        ..World::to(&endpoint)
    };
    let (tell, told) = unbounded_channel();
    net::task::spawn(async move {
        for at in 0.. {
            let (io, tell) = (endpoint.accept().await.0, tell.clone());
            net::task::spawn(async move {
                let mut builder = server::Builder::new();
                builder
                    .initial_window_size(stream)
                    .initial_connection_window_size(connection);
                let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tell.send((at, request, respond)).ok();
                }
            });
        }
    });
    (world.lab(), told)
}

/// Sends so much, as its receiver's windows allow.
async fn fill(send: &mut SendStream<Bytes>, mut left: usize) {
    while left > 0 {
        send.reserve_capacity(left);
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        let now = room.min(left);
        send.send_data(Bytes::from(vec![b'x'; now]), false).unwrap();
        left -= now;
    }
}

fn post() -> Request<()> {
    Request::post("http://shop/").body(()).unwrap()
}

async fn upload(send: &SendRequest<Bytes>) -> SendStream<Bytes> {
    let mut send = send.clone().ready().await.unwrap();
    let (answer, body) = send.send_request(post(), false).unwrap();
    net::task::spawn(async { drop(answer.await) });
    body
}

#[test]
fn downloads_that_nobody_reads_do_not_stop_others() {
    run(async {
        let (lab, mut asked) = lab(65_535, 65_535).await;
        let (mut clients, mut downloads) = (Vec::new(), Vec::new());
        for _ in 0..Limits::default().upstream.streams {
            let mut client = lab.h1();
            client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let (at, _, mut respond) = asked.recv().await.unwrap();
            assert_eq!(at, 0, "they share one connection");
            clients.push(client);
            downloads.push(respond.send_response(Response::new(()), false).unwrap());
        }
        let mut last = downloads.pop().unwrap();
        let window = usize::try_from(STREAM_WINDOW).unwrap();
        for download in &mut downloads {
            fill(download, window).await;
        }
        let client = clients.last_mut().unwrap();
        let send = async {
            fill(&mut last, 3 * window).await;
            last.send_data(Bytes::from_static(b"end"), true).unwrap();
        };
        tokio::join!(send, client.until("end"));
    });
}

#[test]
fn uploads_that_nobody_reads_do_not_stop_others() {
    run(async {
        // Enough for all streams together, and little for each.
        let (lab, mut asked) = lab(1 << 10, 1 << 20).await;
        let send = client(lab.client(Version::H2)).await;
        let (mut uploads, mut requests) = (Vec::new(), Vec::new());
        for _ in 0..Limits::default().streams {
            uploads.push(upload(&send).await);
            requests.push(asked.recv().await.unwrap());
        }
        let mut last = uploads.pop().unwrap();
        let window = usize::try_from(STREAM_WINDOW).unwrap();
        for upload in &mut uploads {
            fill(upload, window).await;
        }
        let (_, request, _respond) = requests.pop().unwrap();
        let mut body = request.into_body();
        let read = async {
            let mut read = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                read += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            read
        };
        let send = async {
            fill(&mut last, 3 * window).await;
            last.send_data(Bytes::new(), true).unwrap();
        };
        let (read, ()) = tokio::join!(read, send);
        assert_eq!(read, 3 * window);
    });
}

#[test]
fn a_connection_on_which_an_endpoint_takes_nothing_gets_no_more_requests() {
    for whole in [false, true] {
        run(async {
            let (lab, mut asked) = lab(65_535, 65_535).await;
            let send = client(lab.client(Version::H2)).await;
            let mut stuck = upload(&send).await;
            let first = asked.recv().await.unwrap();
            fill(&mut stuck, 65_535 + 1).await;
            let mut new = upload(&send).await;
            let second = asked.recv().await.unwrap();
            new.send_data(Bytes::from_static(b"new"), whole).unwrap();
            let mut third = upload(&send).await;
            let third_one = asked.recv().await.unwrap();
            assert_eq!((first.0, second.0, third_one.0), (0, 0, 0), "{whole}");
            sleep(Duration::from_secs(1)).await;
            let mut other = upload(&send).await;
            let mut elsewhere = asked.recv().await.unwrap();
            assert_eq!(elsewhere.0, 1, "{whole}");
            other.send_data(Bytes::from_static(b"other"), true).unwrap();
            let body = elsewhere.1.body_mut();
            assert_eq!(body.data().await.unwrap().unwrap(), "other");
            third.send_data(Bytes::new(), true).unwrap();
        });
    }
}

#[test]
fn a_connection_on_which_bodies_come_through_is_used_again() {
    run(async {
        let (lab, mut asked) = lab(65_535, 65_535).await;
        let send = client(lab.client(Version::H2)).await;
        // One that has said something, and then nothing for long.
        let mut slow = upload(&send).await;
        let mut first = asked.recv().await.unwrap();
        slow.send_data(Bytes::from_static(b"slow"), false).unwrap();
        assert_eq!(first.1.body_mut().data().await.unwrap().unwrap(), "slow");
        for _ in 0..3 {
            let mut whole = upload(&send).await;
            whole.send_data(Bytes::from_static(b"whole"), true).unwrap();
            let (at, mut request, _respond) = asked.recv().await.unwrap();
            let data = request.body_mut().data().await;
            assert_eq!((at, &data.unwrap().unwrap()[..]), (0, &b"whole"[..]));
            sleep(Duration::from_secs(2)).await;
        }
    });
}

#[test]
fn a_body_that_outlives_its_request_counts_among_the_streams_of_its_connection() {
    run(async {
        let (lab, mut asked) = lab(1 << 10, 1 << 20).await;
        let send = client(lab.client(Version::H2)).await;
        let most = Limits::default().upstream.streams;
        let mut kept = Vec::new();
        for _ in 0..most {
            let mut ready = send.clone().ready().await.unwrap();
            let (answer, mut body) = ready.send_request(post(), false).unwrap();
            let (at, request, mut respond) = asked.recv().await.unwrap();
            assert_eq!(at, 0);
            // The second piece waits for the first one.
            fill(&mut body, 4 << 10).await;
            fill(&mut body, 4 << 10).await;
            respond.send_response(Response::new(()), true).unwrap();
            // Answered, and not read: its client goes.
            drop(answer.await.unwrap());
            body.send_reset(h2::Reason::CANCEL);
            kept.push((request, respond));
        }
        let _upload = upload(&send).await;
        let next = timeout(Duration::from_secs(1), asked.recv()).await;
        assert_eq!(next.unwrap().unwrap().0, 1);
    });
}
