//! The TCP connections of a network namespace, as the kernel lists them (sock_diag(7)), and how to cut one.
//!
//! Acts on the calling thread's network namespace. Marks are told only to who may administer it (CAP_NET_ADMIN).

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use nix::{libc, sys::socket::SockProtocol};

use crate::netlink::{Attributes, Malformed, Message, Reply, Socket, u16_at};

// Messages and an attribute (linux/sock_diag.h, linux/inet_diag.h).
const LIST: u16 = 20;
const DESTROY: u16 = 21;
const MARK: u16 = 15;

const TCP: u8 = 6;
/// States in which both ends are known and data may flow: established, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING
/// (net/tcp_states.h).
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const ESTABLISHED: u8 = 1;

/// Lengths of struct inet_diag_sockid and struct inet_diag_msg, and where the first is in the second.
const ID: usize = 48;
const HEADER: usize = 72;
const ID_AT: usize = 4;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// This end. IPv4 addresses are told as such, also of IPv6 sockets.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Neither end has begun to close it.
    pub is_established: bool,
    /// The mark of what it sends.
    pub mark: u32,
    family: u8,
    /// As the kernel knows it. It has a number in it that no later connection has.
    id: [u8; ID],
}

impl Connection {
    /// An established one that no kernel knows, for who decides about connections.
    pub fn of(local: SocketAddr, remote: SocketAddr, mark: u32) -> Self {
        Self {
            local,
            remote,
            is_established: true,
            mark,
            family: 0,
            id: [0; ID],
        }
    }
}

/// All connections whose ends are both known.
pub fn connections() -> io::Result<Vec<Connection>> {
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let ask = request(LIST, family, OPEN, &[0; ID]);
        for reply in socket.dump(&ask)? {
            found.extend(connection(&reply)?);
        }
    }
    Ok(found)
}

/// Cuts a connection: both ends learn that it was.
///
/// # Errors
/// `NotFound` if it is gone; `Unsupported` if the kernel was built without it (CONFIG_INET_DIAG_DESTROY).
pub fn cut(connection: &Connection) -> io::Result<()> {
    let message = request(DESTROY, connection.family, u32::MAX, &connection.id);
    Socket::open(SockProtocol::NetlinkSockDiag)?.request(&message)
}

/// struct inet_diag_req_v2.
fn request(kind: u16, family: u8, states: u32, id: &[u8; ID]) -> Message {
    let message = Message::new(kind, 0).raw(&[family, TCP, 0, 0]);
    message.raw(&states.to_ne_bytes()).raw(id)
}

fn connection(reply: &Reply) -> Result<Option<Connection>, Malformed> {
    let body = &reply.body;
    let (Some(&family), Some(&state)) = (body.first(), body.get(1)) else {
        return Err(Malformed);
    };
    let id: [u8; ID] = body
        .get(ID_AT..ID_AT + ID)
        .and_then(|id| id.try_into().ok())
        .ok_or(Malformed)?;
    let port = |at| u16_at(&id, at).map(u16::from_be);
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        match i32::from(family) {
            libc::AF_INET => Some([a, b, c, d].into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(bytes).to_canonical()),
            _ => None,
        }
    };
    let (Some(local), Some(remote)) = (address(4), address(20)) else {
        return Ok(None);
    };
    let mark = Attributes::after(HEADER, body)?.u32(MARK)?.unwrap_or(0);
    Ok(Some(Connection {
        local: (local, port(0)?).into(),
        remote: (remote, port(2)?).into(),
        is_established: state == ESTABLISHED,
        mark,
        family,
        id,
    }))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        netns::{Netns, privileged},
        route,
    };

    #[test]
    fn a_connection_has_two_ends_and_can_be_cut() {
        if !privileged("a_connection_has_two_ends_and_can_be_cut") {
            return;
        }
        let netns = Netns::create().unwrap();
        netns.within(|| route::set_up("lo")).unwrap();
        for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let (mut client, server) = netns
                .within(|| {
                    let listener = TcpListener::bind(address)?;
                    let client = TcpStream::connect(listener.local_addr()?)?;
                    Ok((client, listener.accept()?.0))
                })
                .unwrap();
            let own = |stream: &TcpStream| {
                let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
                (
                    canonical(stream.local_addr().unwrap()),
                    canonical(stream.peer_addr().unwrap()),
                )
            };
            let found = netns.within(connections).unwrap();
            let ends: Vec<_> = found.iter().map(|it| (it.local, it.remote)).collect();
            assert!(
                ends.contains(&own(&client)) && ends.contains(&own(&server)),
                "{found:?}"
            );
            assert!(found.iter().all(|it| it.is_established && it.mark == 0));
            let at = found
                .iter()
                .find(|it| (it.local, it.remote) == own(&server));
            let at = at.unwrap();
            netns.within(|| cut(at)).unwrap();
            let ended = client.read(&mut [0]).unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset, "{address}");
            let again = netns.within(|| cut(at)).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::NotFound);
            assert_eq!(netns.within(connections).unwrap(), []);
        }
    }
}
