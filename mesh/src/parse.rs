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
fn range(bytes: &[u8], length: u32) -> Result<(IpAddr, u8), String> {
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
