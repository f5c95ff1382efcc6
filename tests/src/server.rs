//! An application that a test writes itself: what it does with each connection is a function.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use sys::netns::Netns;

/// Serves a port in a namespace until the process ends, each connection in a thread of its own. What ends with an error ends
/// its connection.
pub fn serve(
    netns: &Netns,
    port: u16,
    connection: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) {
    let listener = netns
        .within(|| TcpListener::bind(("0.0.0.0", port)))
        .expect("the port is free");
    let connection = Arc::new(connection);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = Arc::clone(&connection);
            thread::spawn(move || stream.set_nodelay(true).and_then(|()| connection(stream)));
        }
    });
}

/// Reads the head of an HTTP/1 message: its lines, in lowercase. Empty if the connection has ended.
pub fn head(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_ascii_lowercase());
    }
}
