//! What an application of a pod does: one connection to an echo server, and what becomes of it.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

/// An open connection to a port that sends every byte back.
#[derive(Debug)]
pub struct Talk(TcpStream);

impl Talk {
    /// Over a connection that is made.
    pub fn over(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Sends some bytes and waits for them to come back.
    pub fn say(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.write_all(text)?;
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back)?;
        if back == text {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "other bytes came back",
            ))
        }
    }

    /// Waits until the other end has closed or reset the connection.
    ///
    /// # Panics
    /// If it is still open when nobody would wait any longer, or brings bytes.
    pub fn closed(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => panic!("the connection brought bytes that nobody sent"),
            Err(error) => assert!(!waited(&error), "the connection is still open"),
        }
    }

    /// Waits until the other end has closed or reset the connection, whatever it says before.
    ///
    /// # Panics
    /// If it is still open when nobody would wait any longer.
    pub fn ended(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut said) {
            assert!(!waited(&error), "the connection is still open");
        }
        said
    }

    /// Says that nothing more is to come, and waits for the other end to say so too.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)?;
        let left = self.0.read_to_end(&mut Vec::new())?;
        if left == 0 {
            Ok(())
        } else {
            Err(io::Error::other("bytes came after the last answer"))
        }
    }

    /// The client's own address.
    pub fn from(&self) -> SocketAddr {
        self.0.local_addr().expect("a connected socket has one")
    }
}

/// Whether an error says that time is up.
fn waited(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
