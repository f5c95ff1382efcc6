//! A tunnel over memory, from both ends.

use std::{cell::RefCell, future::Future, rc::Rc};

use bytes::Bytes;
use http::HeaderMap;
use mesh::refusal::Refusal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::oneshot,
    task::LocalSet,
    time::Instant,
};

use super::*;
use crate::carry::{Broken, Counts, Socket, carry};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A tunnel whose peer answers each stream by `on_stream`.
async fn tunnel(on_stream: impl FnMut(Connect) + 'static) -> Tunnel {
    let (near, far) = duplex(1 << 20);
    let never = std::future::pending();
    tokio::task::spawn_local(async move {
        serve(far, Settings::default(), never, on_stream).await.ok();
    });
    open(near, Settings::default(), None).await.unwrap()
}

/// The same, with a peer that grants this many streams, and says so a moment after the tunnel is open.
async fn granting(max_streams: u32, on_stream: impl FnMut(Connect) + 'static) -> Tunnel {
    let (near, far) = duplex(1 << 20);
    let never = std::future::pending();
    let settings = Settings {
        max_streams,
        ..Settings::default()
    };
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        serve(far, settings, never, on_stream).await.ok();
    });
    open(near, Settings::default(), None).await.unwrap()
}

/// Echoes each stream's bytes.
fn echo(connect: Connect) {
    tokio::task::spawn_local(async move {
        let (mut read, mut write) = tokio::io::split(connect.accept(HeaderMap::new()).unwrap());
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.shutdown().await.ok();
    });
}

#[tokio::test]
async fn a_stream_says_what_it_asks_for_and_carries_bytes() {
    LocalSet::new()
        .run_until(async {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let log = Rc::clone(&seen);
            let tunnel = tunnel(move |connect| {
                log.borrow_mut()
                    .push(format!("{} {}", connect.method(), connect.authority()));
                echo(connect);
            })
            .await;
            let (mut stream, _) = tunnel
                .connect("[fd00::1]:8080", HeaderMap::new(), soon())
                .await
                .unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"hello");
            assert_eq!(*seen.borrow(), ["CONNECT [fd00::1]:8080"]);
        })
        .await;
}

#[tokio::test]
async fn a_refused_stream_tells_its_status_and_the_tunnel_lives_on() {
    LocalSet::new()
        .run_until(async {
            let tunnel = tunnel(|connect| match connect.authority() {
                "10.0.0.1:1" => connect.refuse(401),
                _ => echo(connect),
            })
            .await;
            let refused = tunnel.connect("10.0.0.1:1", HeaderMap::new(), soon()).await;
            assert_eq!(refused.err(), Some(ConnectError::Status(401)));
            tunnel
                .connect("10.0.0.1:2", HeaderMap::new(), soon())
                .await
                .unwrap();
            assert!(!tunnel.is_closed());
        })
        .await;
}

/// Settings of a process whose tunnels may keep that much.
fn within(limit: usize) -> Settings {
    Settings {
        budget: Box::leak(Box::new(Budget::new(limit))),
        ..Settings::default()
    }
}

#[tokio::test]
async fn either_end_that_holds_too_much_refuses_streams_until_it_does_not() {
    LocalSet::new()
        .run_until(async {
            let (full, empty) = (|| within(1), || within(usize::MAX));
            for (ours, theirs, refused) in [
                (full(), empty(), ConnectError::Memory),
                (empty(), full(), ConnectError::Status(503)),
            ] {
                let (near, far) = duplex(1 << 20);
                tokio::task::spawn_local(async move {
                    let on_stream = |connect: Connect| match connect.fits() {
                        true => echo(connect),
                        false => connect.refuse(503),
                    };
                    serve(far, theirs, std::future::pending(), on_stream)
                        .await
                        .ok();
                });
                let tunnel = open(near, ours, None).await.unwrap();
                let connect = || tunnel.connect("10.0.0.1:1", HeaderMap::new(), soon());
                let (first, _) = connect().await.unwrap();
                let hold = |bytes| [ours, theirs].map(|it| it.budget.hold(bytes));
                hold(2);
                assert_eq!(connect().await.err(), Some(refused));
                hold(1);
                connect().await.unwrap();
                drop(first);
                while ours.budget.granted() + theirs.budget.granted() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_keeps_little_and_one_that_is_gets_more() {
    LocalSet::new()
        .run_until(async {
            let theirs = within(usize::MAX);
            let (near, far) = duplex(1 << 20);
            tokio::task::spawn_local(async move {
                serve(far, theirs, std::future::pending(), echo).await.ok();
            });
            let tunnel = open(near, Settings::default(), None).await.unwrap();
            let connected = tunnel.connect("10.0.0.1:1", HeaderMap::new(), soon());
            let (stream, _) = connected.await.unwrap();
            let least = budget::LEAST as usize + theirs.send_buffer;
            assert_eq!(theirs.budget.granted(), least);
            let (mut read, mut write) = tokio::io::split(stream);
            let send = async {
                write.write_all(&vec![0; 8 << 20]).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut all = Vec::new();
            let (_, read) = tokio::join!(send, async {
                let mut piece = vec![0; 1 << 16];
                let mut most = 0;
                loop {
                    match read.read(&mut piece).await.unwrap() {
                        0 => return most,
                        n => all.extend_from_slice(&piece[..n]),
                    }
                    most = most.max(theirs.budget.granted());
                }
            });
            assert_eq!(all.len(), 8 << 20);
            assert_eq!(read, theirs.stream_window as usize + theirs.send_buffer);
        })
        .await;
}

#[tokio::test]
async fn a_dropped_stream_is_a_reset_not_an_end() {
    LocalSet::new()
        .run_until(async {
            let (tell, told) = oneshot::channel();
            let mut tell = Some(tell);
            let tunnel = tunnel(move |connect| {
                let tell = tell.take().unwrap();
                tokio::task::spawn_local(async move {
                    let mut stream = connect.accept(HeaderMap::new()).unwrap();
                    let mut all = Vec::new();
                    tell.send(stream.read_to_end(&mut all).await.is_err())
                        .unwrap();
                });
            })
            .await;
            let (mut stream, _) = tunnel
                .connect("10.0.0.1:1", HeaderMap::new(), soon())
                .await
                .unwrap();
            stream.write_all(b"half of a mess").await.unwrap();
            drop(stream);
            assert!(
                told.await.unwrap(),
                "the peer took half a message for a whole one"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    LocalSet::new()
        .run_until(async {
            let (near, _far) = duplex(1 << 20);
            // It can begin: the client's side of HTTP/2 waits for nobody.
            let tunnel = open(near, Settings::default(), None).await.unwrap();
            let mut waited = false;
            while !tunnel.is_closed() {
                tunnel.changed().await;
                waited = true;
            }
            assert!(waited);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut() {
    let (_near, far) = duplex(1 << 20);
    let never = std::future::pending();
    let result = serve(far, Settings::default(), never, |_| ()).await;
    assert!(result.unwrap_err().contains("in time"));
}

#[tokio::test]
async fn one_reader_that_stops_does_not_stop_its_neighbours() {
    LocalSet::new()
        .run_until(async {
            let tunnel = tunnel(|connect| match connect.authority() {
                "10.0.0.1:1" => {
                    // Taken and never read.
                    tokio::task::spawn_local(async move {
                        let _stream = connect.accept(HeaderMap::new()).unwrap();
                        std::future::pending::<()>().await;
                    });
                }
                _ => echo(connect),
            })
            .await;
            let (mut stuck, _) = tunnel
                .connect("10.0.0.1:1", HeaderMap::new(), soon())
                .await
                .unwrap();
            let flood = async {
                loop {
                    stuck.write_all(&[0; 65_536]).await.unwrap();
                }
            };
            let neighbour = async {
                for _ in 0..20 {
                    let (mut stream, _) = tunnel
                        .connect("10.0.0.1:2", HeaderMap::new(), soon())
                        .await
                        .unwrap();
                    stream.write_all(&[7; 100_000]).await.unwrap();
                    stream.shutdown().await.unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).await.unwrap();
                    assert_eq!(answer.len(), 100_000);
                }
            };
            tokio::select! {
                () = flood => unreachable!(),
                () = neighbour => {}
            }
        })
        .await;
}

#[tokio::test]
async fn a_flow_is_carried_between_a_socket_and_a_stream() {
    LocalSet::new()
        .run_until(async {
            let tunnel = tunnel(echo).await;
            let (stream, _) = tunnel
                .connect("10.0.0.1:1", HeaderMap::new(), soon())
                .await
                .unwrap();
            let (client, near) = duplex(1 << 16);
            let (_stop, stop) = oneshot::channel::<Broken>();
            let counts = Counts::default();
            let talk = async {
                let data = Bytes::from(vec![3; 3_000_000]);
                let (mut read, mut write) = tokio::io::split(client);
                let send = async {
                    write.write_all(&data).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut answer = Vec::new();
                let (_, received) = tokio::join!(send, read.read_to_end(&mut answer));
                received.unwrap();
                answer.len()
            };
            let flow = carry(Socket::new(near), stream, &counts, stop);
            let (result, received) = tokio::join!(flow, talk);
            assert_eq!((result, received), (Ok(()), 3_000_000));
            assert_eq!(
                (counts.forth.get(), counts.back.get()),
                (3_000_000, 3_000_000)
            );
        })
        .await;
}

fn key() -> Key {
    Key {
        address: "10.0.0.1:15008".parse().unwrap(),
        identities: vec![],
        workload: "w".into(),
        serial: "1".into(),
    }
}

#[tokio::test]
async fn many_flows_share_one_dial_and_one_tunnel() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let dials = Rc::new(RefCell::new(0));
            let dial = || {
                *dials.borrow_mut() += 1;
                async { Ok(tunnel(echo).await) }
            };
            let key = key();
            let places = futures_join(50, |_| pool.place(&key, dial)).await;
            assert_eq!(places.iter().filter(|place| place.is_ok()).count(), 50);
            assert_eq!((*dials.borrow(), pool.len()), (1, 1));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_grants_few_streams_gets_as_many_tunnels_as_it_takes() {
    for (grants, tunnels) in [(1, 12), (4, 3), (5, 3), (100, 1)] {
        LocalSet::new()
            .run_until(async {
                let pool = Pool::new(100, Duration::from_secs(300));
                let key = key();
                let dial = || async move { Ok(granting(grants, echo).await) };
                let opened = futures_join(12, |_| async {
                    let (tunnel, place) = pool.place(&key, dial).await.unwrap();
                    let stream = tunnel.connect("10.0.0.1:1", HeaderMap::new(), soon()).await;
                    (stream.unwrap(), place)
                })
                .await;
                // All at once: no stream has waited for another one's end.
                assert_eq!((opened.len(), pool.len()), (12, tunnels), "{grants}");
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_peer_that_never_begins_is_told() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let key = key();
            let silent = Rc::new(RefCell::new(Vec::new()));
            let dial = || {
                let (near, far) = duplex(1 << 20);
                silent.borrow_mut().push(far);
                async { Ok(open(near, Settings::default(), None).await.unwrap()) }
            };
            let begun = Instant::now();
            let mut opened = futures_join(5, |_| pool.place(&key, dial)).await;
            // The first one does not wait for the peer's word.
            opened.retain(Result::is_err);
            assert_eq!(opened.len(), 4);
            assert!(opened.iter().all(|it| matches!(
                it,
                Err(Refusal::Tunnel {
                    stage: mesh::refusal::Stage::Http2,
                    ..
                })
            )));
            assert_eq!(begun.elapsed(), Settings::default().handshake);
            assert_eq!(silent.borrow().len(), 1);
        })
        .await;
}

#[tokio::test]
async fn a_full_tunnel_is_used_again_when_streams_have_ended() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(2, Duration::from_secs(300));
            let key = key();
            let dial = || async { Ok(tunnel(echo).await) };
            let mut places = Vec::new();
            for _ in 0..4 {
                places.push(pool.place(&key, dial).await.unwrap());
            }
            assert_eq!(pool.len(), 2);
            places.clear();
            for _ in 0..4 {
                places.push(pool.place(&key, dial).await.unwrap());
            }
            assert_eq!(pool.len(), 2);
        })
        .await;
}

#[tokio::test]
async fn whoever_waits_for_a_dial_learns_that_it_failed() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let refusal = Refusal::TooMany;
            let dial = || {
                let refusal = refusal.clone();
                async move {
                    tokio::task::yield_now().await;
                    Err(refusal)
                }
            };
            let key = key();
            let places = futures_join(20, |_| pool.place(&key, dial)).await;
            assert!(
                places
                    .into_iter()
                    .all(|place| place.err() == Some(Refusal::TooMany))
            );
            assert!(pool.is_empty());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_unused_tunnel_is_closed() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let place = pool
                .place(&key(), || async { Ok(tunnel(echo).await) })
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert_eq!(pool.len(), 1, "a tunnel in use stays");
            drop(place);
            tokio::time::sleep(Duration::from_secs(301)).await;
            assert!(pool.is_empty());
        })
        .await;
}

#[tokio::test]
async fn a_forgotten_workload_gets_a_new_tunnel() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let dial = || async { Ok(tunnel(echo).await) };
            let (old, _place) = pool.place(&key(), dial).await.unwrap();
            pool.forget("w");
            assert!(old.is_closed() && pool.is_empty());
            let (new, _place) = pool.place(&key(), dial).await.unwrap();
            assert!(!new.is_closed());
        })
        .await;
}

/// All of `count` futures, run together.
async fn futures_join<F: Future>(count: usize, make: impl Fn(usize) -> F) -> Vec<F::Output> {
    let mut futures: Vec<_> = (0..count).map(|i| Box::pin(make(i))).collect();
    let mut outputs: Vec<Option<F::Output>> = (0..count).map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut all = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn tunnels_of_a_pod_that_is_gone_are_closed() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let (tunnel, place) = pool
                .place(&key(), || async { Ok(tunnel(echo).await) })
                .await
                .unwrap();
            drop(place);
            pool.end();
            assert!(tunnel.is_closed() && pool.is_empty());
        })
        .await;
}

/// A client that speaks frames, to do what no library would.
struct Raw(tokio::io::DuplexStream);

impl Raw {
    async fn begin(io: tokio::io::DuplexStream) -> Self {
        let mut raw = Self(io);
        raw.0
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        raw.frame(4, 0, 0, &[]).await;
        raw
    }

    /// One frame: type, flags, stream, payload (RFC 9113 §4.1). Whether the server still takes it.
    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.is_ok()
    }
}

/// HEADERS of `CONNECT a:1`: `:method` and `:authority` as literals without indexing (RFC 7541 §6.2.2).
const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x03a:1";

/// Serves a raw client; how it ended, and how many streams were asked for.
async fn attacked<F: Future + 'static>(attack: impl FnOnce(Raw) -> F + 'static) -> (String, usize) {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1 << 16);
            let asked = Rc::new(RefCell::new(0));
            let count = Rc::clone(&asked);
            let never = std::future::pending();
            let serving = serve(
                far,
                Settings::default(),
                never,
                move |mut connect: Connect| {
                    *count.borrow_mut() += 1;
                    // As slow as an application that does not answer.
                    tokio::task::spawn_local(async move { connect.given_up().await });
                },
            );
            let attack = tokio::task::spawn_local(async move {
                let raw = Raw::begin(near).await;
                attack(raw).await;
                std::future::pending::<()>().await;
            });
            let ended = serving.await;
            attack.abort();
            let asked = *asked.borrow();
            (ended.expect_err("the attack went on and on"), asked)
        })
        .await
}

#[tokio::test]
async fn streams_opened_and_reset_at_once_end_the_tunnel() {
    let (why, asked) = attacked(|mut raw| async move {
        let mut stream = 1;
        while raw.frame(1, 0x4, stream, CONNECT).await
            && raw.frame(3, 0, stream, &8_u32.to_be_bytes()).await
        {
            stream += 2;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(
        asked < 10_000,
        "{asked} streams were served before it ended: {why}"
    );
}

#[tokio::test]
async fn a_header_block_without_end_ends_the_tunnel() {
    let (why, asked) = attacked(|mut raw| async move {
        raw.frame(1, 0, 1, CONNECT).await;
        while raw.frame(9, 0, 1, &[0; 1000]).await {}
    })
    .await;
    assert_eq!(asked, 0, "{why}");
}

#[tokio::test]
async fn empty_data_without_end_ends_the_tunnel() {
    let (why, asked) = attacked(|mut raw| async move {
        raw.frame(1, 0x4, 1, CONNECT).await;
        while raw.frame(0, 0, 1, &[]).await {}
    })
    .await;
    assert!(asked <= 1, "{asked} streams: {why}");
}

#[tokio::test]
async fn what_is_not_http2_ends_the_tunnel() {
    LocalSet::new()
        .run_until(async {
            let (mut near, far) = duplex(1 << 16);
            near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let never = std::future::pending();
            assert!(
                serve(far, Settings::default(), never, |_| ())
                    .await
                    .is_err()
            );
        })
        .await;
}

mod stalled;
