//! TCP sockets with the options that a transparent proxy needs, made in the calling thread's network namespace.
//!
//! Nothing here connects or accepts: the caller's runtime does, once the socket is set up.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted. A burst above it meets a refusal, so it is large.
const BACKLOG: i32 = 4096;

/// How a listener is made. The default is a plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Packet mark of the listener and of what it accepts.
    pub mark: Option<u32>,
    /// Takes over an address whose old connections still linger.
    pub reuse_address: bool,
    /// Shares the address with other listeners that set this, as two generations of a proxy do.
    pub reuse_port: bool,
    /// Accepts connections to addresses that are not this host's. Needs CAP_NET_ADMIN or CAP_NET_RAW.
    pub transparent: bool,
    /// An IPv6 wildcard takes IPv6 alone; without it, IPv4 too.
    pub only_v6: bool,
}

/// A non-blocking listener.
pub fn listen(address: SocketAddr, options: Options) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if options.transparent {
        transparent(&socket, address.ip())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking socket, not connected yet, fit for a connection to `to`.
///
/// With `from` its packets have that source address, whoever owns it, and a port chosen at connect; needs CAP_NET_ADMIN
/// or CAP_NET_RAW.
///
/// # Errors
/// `InvalidInput` if `to` and `from` are of different families.
pub fn stream(
    to: SocketAddr,
    from: Option<IpAddr>,
    mark: Option<u32>,
) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    if let Some(from) = from {
        if from.is_ipv4() != to.is_ipv4() {
            let text = format!("{from} and {to} are of different families");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        transparent(&socket, from)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket.into())
}

/// Binds to, and accepts for, addresses that are not this host's.
fn transparent(socket: &Socket, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => {
            socket.set_ip_transparent_v6(true)?;
            // What a dual-stack socket does for IPv4 is set at the other level.
            if socket.only_v6()? {
                Ok(())
            } else {
                Ok(setsockopt(socket, sockopt::IpTransparent, &true)?)
            }
        }
    }
}

/// Probes a silent connection after `idle`, then every `interval`; gives it up after `retries` probes without an answer.
pub fn keepalive(
    stream: &impl AsFd,
    idle: Duration,
    interval: Duration,
    retries: u32,
) -> io::Result<()> {
    let wanted = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(interval)
        .with_retries(retries);
    SockRef::from(stream).set_tcp_keepalive(&wanted)
}

/// Gives a connection up when sent data stays unacknowledged for `timeout` (RFC 5482).
pub fn user_timeout(stream: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(timeout))
}

/// Sends small writes at once.
pub fn nodelay(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_tcp_nodelay(true)
}

/// Makes the close of this connection a reset, so that the peer learns that it failed.
pub fn reset(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Where a redirected connection was going, never as an IPv4-mapped address.
///
/// # Errors
/// `NotFound` if connection tracking does not know the connection. One that was not redirected yields the address that
/// it was made to.
pub fn original_destination(stream: &impl AsFd) -> io::Result<SocketAddr> {
    let local = SockRef::from(stream).local_addr()?.as_socket();
    let v4 = match local.map(|address| address.ip().to_canonical()) {
        Some(IpAddr::V4(_)) => true,
        Some(IpAddr::V6(_)) => false,
        None => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not an IP socket",
            ));
        }
    };
    if v4 {
        let found = getsockopt(&stream.as_fd(), sockopt::OriginalDst)?;
        // The kernel's fields are in network order, whatever the host's order is.
        let ip = Ipv4Addr::from(found.sin_addr.s_addr.to_ne_bytes());
        Ok(SocketAddr::new(ip.into(), u16::from_be(found.sin_port)))
    } else {
        let found = getsockopt(&stream.as_fd(), sockopt::Ip6tOriginalDst)?;
        let ip = Ipv6Addr::from(found.sin6_addr.s6_addr);
        Ok(SocketAddr::new(
            ip.to_canonical(),
            u16::from_be(found.sin6_port),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    const ANY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

    #[test]
    fn a_dual_stack_listener_takes_both_families() {
        let listener = listen(
            ANY6,
            Options {
                reuse_address: true,
                ..Options::default()
            },
        )
        .unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        listener.accept().unwrap();
        listener.accept().unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn a_v6_only_listener_refuses_v4() {
        let listener = listen(
            ANY6,
            Options {
                only_v6: true,
                ..Options::default()
            },
        )
        .unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn two_listeners_share_a_port_when_both_agree() {
        let shared = Options {
            reuse_port: true,
            ..Options::default()
        };
        let first = listen(ANY6, shared).unwrap();
        let address = first.local_addr().unwrap();
        listen(address, shared).unwrap();
        assert_eq!(
            listen(address, Options::default()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn a_source_of_another_family_is_refused() {
        let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1);
        let refused = stream(to, Some(Ipv4Addr::LOCALHOST.into()), None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_reset_reaches_the_peer() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        reset(&server).unwrap();
        drop(server);
        assert_eq!(
            client.read(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }

    #[test]
    fn what_is_set_can_be_read_back() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        keepalive(
            &client,
            Duration::from_secs(180),
            Duration::from_secs(60),
            9,
        )
        .unwrap();
        user_timeout(&client, Duration::from_secs(30)).unwrap();
        nodelay(&client).unwrap();
        let socket = SockRef::from(&client);
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(180)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(30))
        );
        assert!(socket.tcp_nodelay().unwrap());
    }

    #[test]
    fn a_foreign_source_address_needs_no_owner() {
        if !crate::netns::privileged("a_foreign_source_address_needs_no_owner") {
            return;
        }
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1);
        let from = Ipv4Addr::new(192, 0, 2, 7);
        let bound = stream(to, Some(from.into()), Some(0x539)).unwrap();
        assert_eq!(bound.local_addr().unwrap(), SocketAddr::new(from.into(), 0));
        assert_eq!(SockRef::from(&bound).mark().unwrap(), 0x539);
        let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1);
        let from: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let bound = stream(to, Some(from.into()), None).unwrap();
        assert_eq!(bound.local_addr().unwrap(), SocketAddr::new(from.into(), 0));
    }
}
