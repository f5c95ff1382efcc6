//! From messages to the model: what cannot be right is refused here, by name and reason.

mod authorization;
mod tags;
mod workload;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub use authorization::authorization;
pub use workload::{Address, address};
pub(crate) use workload::{service, workload};

/// A resource that is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The resource's name.
    pub name: String,
    /// Why, in words for an operator.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// An address of 4 or 16 bytes. IPv4 written as IPv6 becomes IPv4.
fn ip(bytes: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
    let v6 = || <[u8; 16]>::try_from(bytes).map(|b| IpAddr::V6(Ipv6Addr::from(b)).to_canonical());
    v4.or_else(|_| v6())
        .map_err(|_| format!("an address has {} bytes, not 4 or 16", bytes.len()))
}

/// A range given as bytes and prefix length. IPv4 written as IPv6 becomes IPv4 where it fits.
pub(crate) fn range(bytes: &[u8], length: u32) -> Result<(IpAddr, u8), String> {
    let canonical = ip(bytes)?;
    let width = if bytes.len() == 4 { 32 } else { 128 };
    let length = u8::try_from(length).ok().filter(|length| *length <= width);
    let length =
        length.ok_or_else(|| format!("{canonical} has a prefix of more than {width} bits"))?;
    match (width, canonical) {
        (128, IpAddr::V4(v4)) if length >= 96 => Ok((IpAddr::V4(v4), length - 96)),
        (128, IpAddr::V4(v4)) => Ok((IpAddr::V6(v4.to_ipv6_mapped()), length)),
        _ => Ok((canonical, length)),
    }
}

/// A port; 0 is none.
fn port(number: u32, what: &str) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{what} {number} is more than 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Vec<u8> {
        text.parse::<Ipv6Addr>().unwrap().octets().to_vec()
    }

    #[test]
    fn addresses_have_4_or_16_bytes_and_one_form() {
        for (bytes, expected) in [
            (vec![10, 0, 0, 1], "10.0.0.1"),
            (v6("fd00::1"), "fd00::1"),
            (v6("::ffff:10.0.0.1"), "10.0.0.1"),
            // Not mapped, merely similar.
            (v6("::10.0.0.1"), "::a00:1"),
            (v6("64:ff9b::10.0.0.1"), "64:ff9b::a00:1"),
        ] {
            assert_eq!(ip(&bytes), Ok(expected.parse().unwrap()));
        }
        for length in [0, 1, 3, 5, 15, 17, 32] {
            let reason = format!("an address has {length} bytes, not 4 or 16");
            assert_eq!(ip(&vec![0; length]), Err(reason));
        }
    }

    #[test]
    fn ranges_fit_their_family() {
        let mapped = "::ffff:10.0.0.1";
        for (bytes, length, expected) in [
            (vec![10, 0, 0, 1], 0, Ok(("10.0.0.1", 0))),
            (vec![10, 0, 0, 1], 32, Ok(("10.0.0.1", 32))),
            (
                vec![10, 0, 0, 1],
                33,
                Err("10.0.0.1 has a prefix of more than 32 bits"),
            ),
            (v6("fd00::"), 128, Ok(("fd00::", 128))),
            (
                v6("fd00::"),
                129,
                Err("fd00:: has a prefix of more than 128 bits"),
            ),
            (
                v6("fd00::"),
                384,
                Err("fd00:: has a prefix of more than 128 bits"),
            ),
            (v6(mapped), 128, Ok(("10.0.0.1", 32))),
            (v6(mapped), 96, Ok(("10.0.0.1", 0))),
            (v6(mapped), 95, Ok((mapped, 95))),
            (vec![10], 8, Err("an address has 1 bytes, not 4 or 16")),
        ] {
            let expected = expected.map(|(ip, length)| (ip.parse().unwrap(), length));
            assert_eq!(range(&bytes, length), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn ports_have_16_bits() {
        assert_eq!(port(0, "port"), Ok(0));
        assert_eq!(port(65_535, "port"), Ok(65_535));
        assert_eq!(
            port(65_536, "target port"),
            Err("target port 65536 is more than 65535".into())
        );
    }
}
