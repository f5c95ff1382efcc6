//! Sockets in a pod's namespace: all of them are made here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mesh::refusal::Refusal;
use net::carry::Broken;
use sys::{netns::Netns, socket::Options};
use tokio::net::{TcpSocket, TcpStream};

use crate::{config::Config, pod::PodFacts};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The proxy's listeners in one pod.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) outbound: std::net::TcpListener,
    pub(crate) plain: std::net::TcpListener,
    pub(crate) tunnel: std::net::TcpListener,
}

/// Opens the proxy's listeners in a pod, for IPv4 and, where the pod has it, IPv6.
pub(crate) fn listen(netns: &Netns, config: &Config) -> io::Result<Listeners> {
    let options = Options {
        mark: Some(config.mark),
        reuse_address: true,
        reuse_port: config.port_reuse,
        transparent: true,
        only_v6: false,
    };
    let one = |port| {
        let v4 = SocketAddr::from(([0; 4], port));
        let v6 = SocketAddr::from(([0u16; 8], port));
        let dual = if config.ipv6 {
            sys::socket::listen(v6, options)
        } else {
            Err(unsupported())
        };
        match dual {
            // A kernel or a pod without IPv6.
            Err(error) if no_ipv6(&error) => sys::socket::listen(v4, options),
            result => result,
        }
    };
    netns.within(|| {
        Ok(Listeners {
            outbound: one(15001)?,
            plain: one(15006)?,
            tunnel: one(15008)?,
        })
    })
}

/// Whether another proxy listens in the pod and shares its ports with us, as a predecessor does that is to be replaced.
pub(crate) fn has_predecessor(netns: &Netns, config: &Config) -> bool {
    let tunnel = SocketAddr::from(([0; 4], 15008));
    let shared = || netns.within(|| sys::succession::is_shared(tunnel));
    // Where that cannot be told, opening the listeners fails too, with a reason.
    config.port_reuse && shared().unwrap_or(false)
}

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::AddrNotAvailable)
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

/// Connects from a pod, seen as coming from `from` if given.
pub(crate) async fn connect(
    netns: &Netns,
    to: SocketAddr,
    from: Option<IpAddr>,
    config: &Config,
) -> Result<TcpStream, Refusal> {
    let unreachable = |error: &io::Error| Refusal::Unreachable {
        to,
        reason: error.to_string(),
    };
    let made = netns.within(|| sys::socket::stream(to, from, Some(config.mark)));
    let socket = TcpSocket::from_std_stream(made.map_err(|error| unreachable(&error))?);
    if let Some(keepalive) = &config.keepalive {
        keepalive.apply(&socket);
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await {
        Ok(connected) => connected.map_err(|error| unreachable(&error)),
        Err(_) => Err(unreachable(&io::Error::from(io::ErrorKind::TimedOut))),
    }
}

/// Sets up a connection that was accepted.
pub(crate) fn accepted(stream: &TcpStream, config: &Config) {
    // A connection that is gone already fails soon enough where it matters.
    sys::socket::nodelay(stream).ok();
    if let Some(keepalive) = &config.keepalive {
        keepalive.apply(stream);
    }
}

/// Where a redirected connection was going. None, and a warning, if that cannot be told.
pub(crate) fn destination(
    stream: &TcpStream,
    pod: &PodFacts,
    from: SocketAddr,
) -> Option<SocketAddr> {
    let to = sys::socket::original_destination(stream);
    to.inspect_err(|error| {
        tracing::warn!(pod = pod.name, %from, %error, "where a connection was going is not known");
    })
    .ok()
}

/// Until the application resets its connection. That it has finished sending is no reason to give up.
pub(crate) async fn reset_by_application(stream: &TcpStream) -> Broken {
    loop {
        match stream.ready(tokio::io::Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => tokio::task::yield_now().await,
            Ok(_) | Err(_) => return Broken::Socket(io::ErrorKind::ConnectionReset),
        }
    }
}
