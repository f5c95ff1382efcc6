//! What an Ethernet frame carries, as far as TCP goes: a pure reader for the sniffer.
//!
//! IPv6 extension headers and fragments are not followed: the lab's links carry neither.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET: usize = 14;
const TCP: u8 = 6;

/// From where to where a TCP segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

impl Flow {
    /// Whether one of the two ports is this one.
    pub fn touches(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }

    /// Whether one of the two addresses is this one.
    pub fn involves(&self, address: IpAddr) -> bool {
        self.source.ip() == address || self.destination.ip() == address
    }
}

/// The flow of a frame, if it is TCP.
pub fn flow(frame: &[u8]) -> Option<Flow> {
    let packet = frame.get(ETHERNET..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let address = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(
                    *packet.get(at..)?.first_chunk::<4>()?,
                )))
            };
            // Only a first fragment holds the ports.
            let first = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff == 0;
            (*packet.get(9)? == TCP && first).then_some(())?;
            ports(address(12)?, address(16)?, packet.get(header..)?)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(
                    *packet.get(at..)?.first_chunk::<16>()?,
                )))
            };
            (*packet.get(6)? == TCP).then_some(())?;
            ports(address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => None,
    }
}

fn ports(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Option<Flow> {
    let port = |at: usize| Some(u16::from_be_bytes(*segment.get(at..)?.first_chunk()?));
    Some(Flow {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, options: usize, fragment: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            0x08,
            0x00,
            0x45 + options as u8,
            0,
            0,
            0,
            0,
            0,
            0,
            fragment,
            64,
            protocol,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
        frame.extend(vec![1; options * 4]);
        frame.extend([0x1f, 0x90, 0x3a, 0xa0]);
        frame
    }

    #[test]
    fn a_flow_is_read_behind_headers_of_any_length() {
        let expected = Flow {
            source: "10.0.0.1:8080".parse().unwrap(),
            destination: "10.0.0.2:15008".parse().unwrap(),
        };
        assert_eq!(flow(&v4(TCP, 0, 0)), Some(expected));
        assert_eq!(flow(&v4(TCP, 3, 0)), Some(expected));
        assert!(expected.touches(15008) && expected.touches(8080) && !expected.touches(15006));
        assert!(
            expected.involves([10, 0, 0, 2].into()) && !expected.involves([10, 0, 0, 3].into())
        );
        assert_eq!(flow(&v4(17, 0, 0)), None, "UDP");
        assert_eq!(flow(&v4(TCP, 0, 5)), None, "a later fragment");
    }

    #[test]
    fn a_flow_of_the_other_family() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
        let (from, to): (Ipv6Addr, Ipv6Addr) =
            ("fd71::1".parse().unwrap(), "fd71::2".parse().unwrap());
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend([0, 80, 0, 81]);
        let expected = Flow {
            source: SocketAddr::new(from.into(), 80),
            destination: SocketAddr::new(to.into(), 81),
        };
        assert_eq!(flow(&frame), Some(expected));
    }

    #[test]
    fn a_cut_frame_is_none() {
        let whole = v4(TCP, 2, 0);
        for length in 0..whole.len() {
            assert_eq!(flow(&whole[..length]), None, "{length}");
        }
    }
}
