//! Every frame on an interface, as seen from its namespace (AF_PACKET): a sniffer.
//!
//! It interprets nothing. Frames begin with their Ethernet header; with segmentation offload one can hold far more than
//! the interface's MTU.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt},
};

/// Large enough for any frame, segmentation offload included.
pub const LARGEST_FRAME: usize = 1 << 17;

/// Bytes that may wait to be read before frames are lost.
const QUEUE: usize = 32 << 20;

/// Watches one interface, without blocking.
#[derive(Debug)]
pub struct Capture(OwnedFd);

impl Capture {
    /// Begins to collect what `interface` sends and receives. Needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol it receives nothing until it is bound: nothing from other interfaces slips in.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)?;
        // SAFETY: sockaddr_ll is plain data for which all zeros is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = crate::route::index(interface)?.cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of the length given, and outlives the call.
        Errno::result(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self(fd))
    }

    /// The next frame's length; the frame is in `buffer`, of [`LARGEST_FRAME`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if none waits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())?)
    }

    /// How many frames were lost since this was last asked, because nobody read them in time.
    pub fn lost(&self) -> io::Result<u32> {
        let mut found = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the option's value is a tpacket_stats, `length` is its length, and both outlive the call.
        let code = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut found).cast(),
                &raw mut length,
            )
        };
        Errno::result(code)?;
        Ok(found.tp_drops)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netns::{Netns, privileged},
        route,
    };
    use std::net::UdpSocket;

    #[test]
    fn a_canary_on_the_link_is_seen_and_elsewhere_not() {
        if !privileged("a_canary_on_the_link_is_seen_and_elsewhere_not") {
            return;
        }
        let (here, there) = (Netns::create().unwrap(), Netns::create().unwrap());
        let capture = here
            .within(|| {
                route::set_up("lo")?;
                route::veth("a", "b", &there)?;
                route::add_address("a", [192, 0, 2, 1].into(), 24)?;
                route::set_up("a")?;
                there.within(|| {
                    route::add_address("b", [192, 0, 2, 2].into(), 24)?;
                    route::set_up("b")
                })?;
                let capture = Capture::open("a")?;
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(b"on the loopback", "127.0.0.1:9")?;
                socket.send_to(b"canary on the link", "192.0.2.2:9")?;
                Ok(capture)
            })
            .unwrap();
        let mut buffer = vec![0; LARGEST_FRAME];
        let holds = |frame: &[u8], text: &[u8]| frame.windows(text.len()).any(|part| part == text);
        loop {
            let mut ready = [nix::poll::PollFd::new(
                capture.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            assert_eq!(
                nix::poll::poll(&mut ready, 5_000_u16).unwrap(),
                1,
                "the canary never came"
            );
            let length = capture.receive(&mut buffer).unwrap();
            assert!(!holds(&buffer[..length], b"on the loopback"));
            if holds(&buffer[..length], b"canary on the link") {
                break;
            }
        }
        assert_eq!(capture.lost().unwrap(), 0);
    }
}
