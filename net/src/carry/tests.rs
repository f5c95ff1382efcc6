//! Both directions, half-close, abort, stop: over memory.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A flow between two far ends, and what the test holds of them.
fn flow() -> (DuplexStream, DuplexStream, DuplexStream, DuplexStream) {
    let (client, near) = duplex(64);
    let (far, server) = duplex(64);
    (client, near, far, server)
}

#[tokio::test]
async fn carries_both_ways_and_ends_when_both_have_finished() {
    let (mut client, near, far, mut server) = flow();
    let counts = Counts::default();
    let (_stop, stop) = oneshot::channel();
    let talk = async {
        client.write_all(&[1; 1000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let serve = async {
        let mut request = Vec::new();
        server.read_to_end(&mut request).await.unwrap();
        // The client has finished long before: the other direction stays open.
        server.write_all(&[2; 500]).await.unwrap();
        server.shutdown().await.unwrap();
        request
    };
    let flow = carry(Socket::new(near), Socket::new(far), &counts, stop);
    let (result, answer, request) = tokio::join!(flow, talk, serve);
    assert_eq!(result, Ok(()));
    assert_eq!((request, answer), (vec![1; 1000], vec![2; 500]));
    assert_eq!((counts.forth.get(), counts.back.get()), (1000, 500));
}

#[tokio::test]
async fn an_answer_comes_although_the_rest_of_the_question_is_not_taken() {
    let (mut client, near, far, mut server) = flow();
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let serve = async {
        server.read_exact(&mut [0; 100]).await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
    };
    let talk = async {
        let mut answer = Vec::new();
        // More than is taken and than fits on the way.
        assert!(client.write_all(&[1; 1000]).await.is_err());
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let flow = carry(Socket::new(near), Socket::new(far), &counts, stop);
    let (result, answer, ()) = tokio::join!(flow, talk, serve);
    assert_eq!(answer, b"413");
    assert_eq!(result, Err(Broken::Socket(io::ErrorKind::BrokenPipe)));
}

#[tokio::test]
async fn stops_when_told_and_says_why() {
    let (_client, near, far, _server) = flow();
    let (tell, stop) = oneshot::channel();
    tell.send(Broken::Ended).unwrap();
    let counts = Counts::default();
    let result = carry(Socket::new(near), Socket::new(far), &counts, stop).await;
    assert_eq!(result, Err(Broken::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_flow_does_not_wait_for_ever() {
    let (mut client, near, far, server) = flow();
    client.shutdown().await.unwrap();
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let result = carry(Socket::new(near), Socket::new(far), &counts, stop).await;
    assert_eq!(result, Err(Broken::HalfClosed));
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn an_idle_open_flow_is_left_alone() {
    let (client, near, far, server) = flow();
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let flow = carry(Socket::new(near), Socket::new(far), &counts, stop);
    let day = Duration::from_secs(86_400);
    assert!(tokio::time::timeout(day, flow).await.is_err());
    drop((client, server));
}

#[tokio::test]
async fn a_reader_that_stops_holds_back_the_writer() {
    let (mut client, near, far, server) = flow();
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let flow = carry(Socket::new(near), Socket::new(far), &counts, stop);
    let flood = async {
        let mut written = 0;
        // Far more than all buffers between: it has to block.
        while let Ok(Ok(n)) =
            tokio::time::timeout(Duration::from_millis(50), client.write(&[0; 4096])).await
        {
            written += n;
        }
        written
    };
    tokio::select! {
        result = flow => panic!("ended: {result:?}"),
        written = flood => assert!(written < 1 << 20, "{written} bytes went nowhere"),
    }
    drop(server);
}

#[tokio::test]
async fn a_client_that_resets_behind_bytes_that_nobody_takes_ends_its_flow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (mut client, accepted) = (client.await.unwrap(), listener.accept().await.unwrap());
    let (far, _server) = duplex(64);
    client.write_all(&[1; 100_000]).await.unwrap();
    sys::socket::reset(&client).unwrap();
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let flow = carry(Socket::tcp(accepted.0), Socket::new(far), &counts, stop);
    let (ended, ()) = tokio::join!(flow, async {
        let client = client;
        while counts.forth.get() == 0 {
            tokio::task::yield_now().await;
        }
        drop(client);
    });
    let reset = Broken::Socket(io::ErrorKind::ConnectionReset);
    assert_eq!(ended, Err(reset));
}

#[tokio::test]
async fn who_is_reset_while_it_is_given_something_has_not_finished() {
    let [front, back] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    let (front, back) = (front.await.unwrap(), back.await.unwrap());
    let client = TcpStream::connect(front.local_addr().unwrap());
    let (mut client, near) = (client.await.unwrap(), front.accept().await.unwrap().0);
    let far = TcpStream::connect(back.local_addr().unwrap());
    let (far, mut server) = (far.await.unwrap(), back.accept().await.unwrap().0);
    let (_stop, stop) = oneshot::channel();
    let counts = Counts::default();
    let flow = carry(Socket::tcp(near), Socket::tcp(far), &counts, stop);
    let talk = async {
        client.write_all(&[1; 1000]).await.unwrap();
        server.write_all(b"part").await.unwrap();
        let mut said = [0; 4];
        client.read_exact(&mut said).await.unwrap();
        server.readable().await.unwrap();
        // It has not read what is there: its system resets. What is written next is told so, and nobody else.
        drop(server);
        client.write_all(&[2; 1000]).await.unwrap();
        (said, client.read(&mut [0; 1]).await)
    };
    let (flow, (said, ended)) = tokio::join!(flow, talk);
    let reset = io::ErrorKind::ConnectionReset;
    assert_eq!((flow, &said), (Err(Broken::Socket(reset)), b"part"));
    assert_eq!(
        ended.map_err(|error| error.kind()),
        Err(reset),
        "a part is no whole"
    );
}
