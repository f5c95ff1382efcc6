//! A listener that gives way to another one on its port (SO_REUSEPORT), so that no connection is lost when it closes.
//!
//! The kernel shares connections out among the listeners of a port by their first packet. What waits in the queue of one, or
//! is in the middle of its handshake there, is reset when that one closes: nothing hands it on. So first the queue of the one
//! that goes has to run dry, with its accepting going on: [`prefer_second`], a while, [`refuse_opening`], a moment, close.
//!
use std::{io, net::SocketAddr, os::fd::AsFd};

use nix::{
    libc::{self, sock_filter, sock_fprog},
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// `ret K` of classic BPF.
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// `ldb [K]`: a byte of the packet, which begins with the TCP header here.
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
/// Where TCP has its flags, and two of them.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Whether somebody listens on this port in the calling thread's network namespace who shares it with us, and reuses addresses.
///
/// # Errors
/// If that cannot be told.
pub fn is_shared(address: SocketAddr) -> io::Result<bool> {
    let bind = |reuse_port| {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // So that only who listens is in the way, and no connection that once came in there.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        match socket.bind(&address.into()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error),
        }
    };
    Ok(!bind(false)? && bind(true)?)
}

/// From now on the second of the listeners on this port gets all new connections, in the order in which they began to listen;
/// where there is one alone, that one. Of any of them it is said for all, and it stays said when one closes.
///
/// # Errors
/// If the kernel has no such option, or the listener does not share its port.
pub fn prefer_second(listener: &impl AsFd) -> io::Result<()> {
    let mut second = [sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 1,
    }];
    let program = sock_fprog {
        len: 1,
        filter: second.as_mut_ptr(),
    };
    Ok(setsockopt(
        listener,
        sockopt::AttachReusePortCbpf,
        &program,
    )?)
}

/// From now on this listener does not see the first packets of connections; those in the middle of their handshake go on.
/// Whoever sent one sends it again, after a second most often, and gets to whoever listens then.
///
/// # Errors
/// If the kernel refuses the filter.
pub fn refuse_opening(listener: &impl AsFd) -> io::Result<()> {
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&filter)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{Ipv4Addr, TcpListener, TcpStream},
    };

    use super::*;
    use crate::socket::{Options, listen, stream};

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn shared(address: SocketAddr) -> TcpListener {
        let options = Options {
            reuse_address: true,
            reuse_port: true,
            ..Options::default()
        };
        listen(address, options).unwrap()
    }

    fn waiting(listener: &TcpListener) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn the_second_gets_all_and_the_one_that_is_left_too() {
        let first = shared(ANY);
        let address = first.local_addr().unwrap();
        prefer_second(&first).unwrap();
        let connect = || TcpStream::connect(address).unwrap();
        let _alone: Vec<_> = (0..8).map(|_| connect()).collect();
        assert_eq!(waiting(&first), 8);
        let second = shared(address);
        let _both: Vec<_> = (0..32).map(|_| connect()).collect();
        assert_eq!((waiting(&first), waiting(&second)), (0, 32));
        drop(first);
        let _left: Vec<_> = (0..8).map(|_| connect()).collect();
        assert_eq!(waiting(&second), 8);
        let third = shared(address);
        let _next: Vec<_> = (0..32).map(|_| connect()).collect();
        assert_eq!((waiting(&second), waiting(&third)), (0, 32));
    }

    #[test]
    fn one_that_refuses_openings_loses_nothing_when_it_closes() {
        let first = shared(ANY);
        let address = first.local_addr().unwrap();
        let before = TcpStream::connect(address).unwrap();
        refuse_opening(&first).unwrap();
        let clients: Vec<_> = (0..32)
            .map(|_| {
                let client = Socket::from(stream(address, None, None).unwrap());
                let begun = client.connect(&address.into()).unwrap_err();
                assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
                client
            })
            .collect();
        let second = shared(address);
        // What had come before is there, and nothing else.
        assert_eq!(waiting(&first), 1);
        drop((first, before));
        second.set_nonblocking(false).unwrap();
        for _ in &clients {
            second.accept().unwrap();
        }
        let pending = second.set_nonblocking(true).and_then(|()| second.accept());
        assert_eq!(pending.unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_port_is_shared_while_one_listens_on_it_who_lets_others() {
        let first = shared(ANY);
        let address = first.local_addr().unwrap();
        assert!(is_shared(address).unwrap());
        let client = TcpStream::connect(address).unwrap();
        first.set_nonblocking(false).unwrap();
        let accepted = first.accept().unwrap();
        drop(first);
        assert!(!is_shared(address).unwrap(), "a connection is no listener");
        drop((client, accepted));
        let alone = TcpListener::bind(ANY).unwrap();
        assert!(!is_shared(alone.local_addr().unwrap()).unwrap());
    }

    #[test]
    fn a_listener_that_does_not_share_its_port_has_no_second() {
        let alone = TcpListener::bind(ANY).unwrap();
        assert!(prefer_second(&alone).is_err());
    }
}
