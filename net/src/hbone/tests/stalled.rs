//! Streams that are not read, beside one that is.

use std::{pin::Pin, task::Poll};

use tokio::io::AsyncWrite;

use super::*;

const ANY: &str = "10.0.0.1:1";

/// Taken, and never read.
fn hold(connect: Connect) {
    tokio::task::spawn_local(async move {
        let _stream = connect.accept(HeaderMap::new()).unwrap();
        std::future::pending::<()>().await;
    });
}

async fn stream(tunnel: &Tunnel) -> Stream {
    let stream = tunnel.connect(ANY, HeaderMap::new(), soon()).await;
    stream.unwrap().0
}

/// Sends until the peer takes no more; how much it took.
async fn fill(stream: &mut Stream) -> usize {
    let (mut sent, piece) = (0, vec![0; 1 << 20]);
    loop {
        // What is on its way is there before the clock moves.
        let wait = Duration::from_millis(1);
        match tokio::time::timeout(wait, stream.write(&piece)).await {
            Ok(now) => sent += now.unwrap(),
            Err(_) => return sent,
        }
    }
}

/// Goes on sending whatever the peer takes.
async fn press(mut stream: Stream) {
    while stream.write(&[0; 1 << 10]).await.is_ok() {}
}

async fn begun(tunnel: &Tunnel) {
    while tunnel.begun() == Begun::NotYet {
        tunnel.changed().await;
    }
}

async fn is_echoed(mut stream: Stream) {
    let sent = vec![7; 3 * Settings::default().stream_window as usize];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut answer = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, received) = tokio::join!(send, read.read_to_end(&mut answer));
    received.unwrap();
    assert_eq!(answer.len(), sent.len());
}

#[tokio::test(start_paused = true)]
async fn all_streams_but_one_may_stand_still_in_the_peers_hands() {
    LocalSet::new()
        .run_until(async {
            let mut taken = 0;
            let last = Settings::default().streams();
            let tunnel = tunnel(move |connect| {
                taken += 1;
                if taken < last {
                    hold(connect);
                } else {
                    echo(connect);
                }
            })
            .await;
            begun(&tunnel).await;
            assert_eq!(tunnel.limit(), last as usize);
            for stalled in 1..tunnel.limit() {
                let mut stream = stream(&tunnel).await;
                assert!(fill(&mut stream).await > 0, "after {stalled}");
                tokio::task::spawn_local(press(stream));
            }
            is_echoed(stream(&tunnel).await).await;
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn all_streams_but_one_may_stand_still_in_our_hands() {
    LocalSet::new()
        .run_until(async {
            let mut taken = 0;
            let last = Settings::default().streams();
            let full = Rc::new(RefCell::new(Vec::new()));
            let count = Rc::clone(&full);
            let tunnel = tunnel(move |connect| {
                taken += 1;
                if taken == last {
                    return echo(connect);
                }
                let full = Rc::clone(&count);
                tokio::task::spawn_local(async move {
                    let mut stream = connect.accept(HeaderMap::new()).unwrap();
                    let sent = fill(&mut stream).await;
                    full.borrow_mut().push(sent);
                    press(stream).await;
                });
            })
            .await;
            begun(&tunnel).await;
            let mut stalled = Vec::new();
            for _ in 1..tunnel.limit() {
                stalled.push(stream(&tunnel).await);
            }
            while full.borrow().len() < stalled.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(full.borrow().iter().all(|sent| *sent > 0), "{full:?}");
            is_echoed(stream(&tunnel).await).await;
        })
        .await;
}

#[test]
fn windows_decide_how_many_streams_there_are() {
    for (stream_window, connection_window, max_streams, streams, window) in [
        (512 << 10, 50 << 20, 100, 100, 50 << 20),
        (512 << 10, 50 << 20, 16, 16, 8 << 20),
        (512 << 10, 50 << 20, 1000, 100, 50 << 20),
        (4 << 20, 16 << 20, 100, 4, 16 << 20),
        (3 << 20, 16 << 20, 100, 5, 15 << 20),
        (16 << 20, 1 << 20, 100, 1, 1 << 20),
        (16 << 10, (1 << 31) - 1, 1 << 20, 131_071, 131_071 << 14),
        (0, 1 << 20, 0, 1, 0),
    ] {
        let settings = Settings {
            stream_window,
            connection_window,
            max_streams,
            ..Settings::default()
        };
        assert_eq!(
            (settings.streams(), settings.window()),
            (streams, window),
            "{settings:?}"
        );
        assert!(streams == 1 || window / streams >= stream_window);
    }
}

/// A tunnel to a peer of another make: it takes so much on all streams together, and never more.
async fn stingy(window: u32) -> Tunnel {
    let (near, far) = duplex(1 << 20);
    tokio::task::spawn_local(async move {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(window)
            .initial_connection_window_size(window);
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let send = respond.send_response(http::Response::new(()), false);
            held.push((request, respond, send.unwrap()));
        }
    });
    open(near, Settings::default(), None).await.unwrap()
}

/// Whether a stream may send at once.
async fn moves(stream: &mut Stream) -> bool {
    let sent = std::future::poll_fn(|cx| {
        Poll::Ready(matches!(
            Pin::new(&mut *stream).poll_write(cx, b"x"),
            Poll::Ready(Ok(1))
        ))
    });
    sent.await
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_at_a_halt_gets_no_more_streams_as_long_as_there_are_not_too_many_of_them() {
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(100, Duration::from_secs(300));
            let key = key();
            let dial = || async { Ok(stingy(65_535).await) };
            let mut kept = Vec::new();
            for tunnels in 1..=HALTED {
                let (tunnel, place) = pool.place(&key, dial).await.unwrap();
                assert_eq!((tunnel.streams(), pool.len()), (1, tunnels));
                begun(&tunnel).await;
                let mut stuck = stream(&tunnel).await;
                assert_eq!(fill(&mut stuck).await, 65_535);
                // By itself it may only be a stream that is not read.
                assert!(!tunnel.is_halted());
                let (same, second) = pool.place(&key, dial).await.unwrap();
                assert_eq!((same.streams(), pool.len()), (2, tunnels));
                let mut new = stream(&same).await;
                assert!(!moves(&mut new).await);
                tokio::time::sleep(Duration::from_secs(1)).await;
                kept.push((tunnel, stuck, place, new, second));
            }
            let (tunnel, _place) = pool.place(&key, dial).await.unwrap();
            assert_eq!((tunnel.streams(), pool.len()), (3, HALTED));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_goes_on_gets_streams_again() {
    LocalSet::new()
        .run_until(async {
            let tunnel = stingy(65_535).await;
            let place = tunnel.place();
            let mut stuck = stream(&tunnel).await;
            fill(&mut stuck).await;
            let mut new = stream(&tunnel).await;
            assert!(!moves(&mut new).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(tunnel.is_halted());
            drop(new);
            assert!(tunnel.is_halted(), "nothing has moved");
            drop(place);
            assert!(!tunnel.is_halted(), "nothing is in the way of others");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_whose_bytes_wait_ends_with_its_peer() {
    LocalSet::new()
        .run_until(async {
            let (tell, told) = oneshot::channel();
            let mut tell = Some(tell);
            let tunnel = tunnel(move |connect| {
                let tell = tell.take().unwrap();
                tokio::task::spawn_local(async move {
                    let stream = connect.accept(HeaderMap::new()).unwrap();
                    let (_app, near) = duplex(64);
                    let (_stop, stop) = oneshot::channel();
                    let counts = Counts::default();
                    let ended = carry(stream, Socket::new(near), &counts, stop).await;
                    tell.send(ended).unwrap();
                });
            })
            .await;
            let mut stream = stream(&tunnel).await;
            fill(&mut stream).await;
            drop(stream);
            let ended = told.await.unwrap();
            assert!(matches!(ended, Err(Broken::TunnelReset(_))), "{ended:?}");
        })
        .await;
}
