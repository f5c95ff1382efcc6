//! Links, addresses, routes and routing rules of the calling thread's network namespace (rtnetlink).
//!
//! Only what pods and the links between nodes need. Wrap calls in [`Netns::within`] to act elsewhere. Lists carry what
//! this module can also write; use a [`Socket`] to see everything.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    libc::{self, NLM_F_CREATE, NLM_F_EXCL},
    sys::socket::SockProtocol,
};

use crate::{
    netlink::{Attributes, Malformed, Message, Reply, Socket, errno, u32_at},
    netns::Netns,
};

/// The table of ordinary routes.
pub const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

/// VETH_INFO_PEER: the other end's description.
const VETH_INFO_PEER: u16 = 1;
// Attributes of a rule (linux/fib_rules.h).
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
/// FR_ACT_TO_TBL: a rule that looks into a table.
const TO_TABLE: u8 = 1;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Switched on.
    pub up: bool,
    /// It is `lo`.
    pub loopback: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub interface: u32,
    /// The address.
    pub ip: IpAddr,
    /// Leading bits that its network shares.
    pub prefix: u8,
    /// It is meant for everybody, not only for this host or link.
    pub global: bool,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends it on.
    Unicast,
    /// Takes it for this host.
    Local,
    /// Another of the kernel's route types, by number.
    Other(u8),
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the packets go that it is for, and how many leading bits must agree. Its family is the route's.
    pub destination: (IpAddr, u8),
    /// The next router, if not directly reachable.
    pub gateway: Option<IpAddr>,
    /// The number of the interface to leave by.
    pub interface: Option<u32>,
    /// What happens to the packets.
    pub kind: Kind,
    /// The table that it is in.
    pub table: u32,
    /// Who made it (rtm_protocol): 4 is an administrator.
    pub protocol: u8,
}

/// A rule that sends packets with a mark to a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For IPv6; otherwise for IPv4.
    pub v6: bool,
    /// Lower is asked first.
    pub priority: u32,
    /// The mark after masking.
    pub mark: u32,
    /// The bits of the packet's mark that count. Zero: it is for every packet.
    pub mask: u32,
    /// The table to look into; zero if the rule does something else.
    pub table: u32,
    /// Who made it.
    pub protocol: u8,
}

impl Route {
    /// A route to a network, to be refined with the struct update syntax.
    pub fn to(destination: IpAddr, prefix: u8) -> Self {
        Self {
            destination: (destination, prefix),
            gateway: None,
            interface: None,
            kind: Kind::Unicast,
            table: MAIN,
            protocol: libc::RTPROT_STATIC,
        }
    }

    /// The route for everything of a family through `gateway`.
    pub fn default_via(gateway: IpAddr) -> Self {
        let any = if gateway.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        Self {
            gateway: Some(gateway),
            ..Self::to(any, 0)
        }
    }
}

/// Makes a pair of interfaces: `name` here, `peer` in another namespace. Both are down.
pub fn veth(name: &str, peer: &str, there: &Netns) -> io::Result<()> {
    let peer_end = |message: Message| {
        let fd = there.as_fd().as_raw_fd().cast_unsigned();
        message
            .raw(&link_header(0, 0, 0))
            .text(libc::IFLA_IFNAME, peer)
            .u32(libc::IFLA_NET_NS_FD, fd)
    };
    let message = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&link_header(0, 0, 0))
        .text(libc::IFLA_IFNAME, name)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth")
                .nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, peer_end)
                })
        });
    request(&message)
}

/// Removes an interface, and with a pair its other end.
pub fn remove_link(name: &str) -> io::Result<()> {
    request(&Message::new(libc::RTM_DELLINK, 0).raw(&link_header(index(name)?, 0, 0)))
}

/// Switches an interface on.
pub fn set_up(name: &str) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    request(&Message::new(libc::RTM_NEWLINK, 0).raw(&link_header(index(name)?, up, up)))
}

/// Switches an interface off.
pub fn set_down(name: &str) -> io::Result<()> {
    request(&Message::new(libc::RTM_NEWLINK, 0).raw(&link_header(
        index(name)?,
        0,
        libc::IFF_UP as u32,
    )))
}

/// Sets the largest packet of an interface, in bytes.
pub fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    request(
        &Message::new(libc::RTM_NEWLINK, 0)
            .raw(&link_header(index(name)?, 0, 0))
            .u32(libc::IFLA_MTU, mtu),
    )
}

/// The number of an interface.
///
/// # Errors
/// `NotFound`, with the name, if there is none.
pub fn index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(|error| {
        let kind = if error == Errno::ENODEV {
            io::ErrorKind::NotFound
        } else {
            io::Error::from(error).kind()
        };
        io::Error::new(kind, format!("interface {name}: {}", error.desc()))
    })
}

/// All interfaces.
pub fn links() -> io::Result<Vec<Link>> {
    let replies = dump(&Message::new(libc::RTM_GETLINK, 0).raw(&link_header(0, 0, 0)))?;
    Ok(replies.iter().map(link).collect::<Result<_, _>>()?)
}

/// Gives an interface an address. An IPv6 address is usable at once: no duplicate is looked for.
pub fn add_address(name: &str, ip: IpAddr, prefix: u8) -> io::Result<()> {
    let mut header = vec![family(ip), prefix, 0, libc::RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&index(name)?.to_ne_bytes());
    let message = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&header)
        .attribute(libc::IFA_LOCAL, &octets(ip))
        .attribute(libc::IFA_ADDRESS, &octets(ip));
    request(&if ip.is_ipv6() {
        message.u32(libc::IFA_FLAGS, libc::IFA_F_NODAD)
    } else {
        message
    })
}

/// All addresses.
pub fn addresses() -> io::Result<Vec<Address>> {
    let replies = dump(&Message::new(libc::RTM_GETADDR, 0).raw(&[0; 8]))?;
    let found = replies.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// Adds a route.
///
/// # Errors
/// `AlreadyExists` if it is there.
pub fn add_route(route: &Route) -> io::Result<()> {
    request(&route_message(
        libc::RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
        route,
    ))
}

/// Removes a route.
///
/// # Errors
/// `NotFound` if it is not there.
pub fn remove_route(route: &Route) -> io::Result<()> {
    request(&route_message(libc::RTM_DELROUTE, 0, route)).map_err(absent)
}

/// All routes of both families.
pub fn routes() -> io::Result<Vec<Route>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        for reply in dump_family(&Message::new(libc::RTM_GETROUTE, 0).raw(&header))? {
            found.extend(route(&reply)?);
        }
    }
    Ok(found)
}

/// Adds a rule.
///
/// # Errors
/// `AlreadyExists` if it is there.
pub fn add_rule(rule: &Rule) -> io::Result<()> {
    request(&rule_message(
        libc::RTM_NEWRULE,
        NLM_F_CREATE | NLM_F_EXCL,
        rule,
    ))
}

/// Removes a rule.
///
/// # Errors
/// `NotFound` if it is not there.
pub fn remove_rule(rule: &Rule) -> io::Result<()> {
    request(&rule_message(libc::RTM_DELRULE, 0, rule)).map_err(absent)
}

/// All rules of both families. Selectors other than the mark are not told.
pub fn rules() -> io::Result<Vec<Rule>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        for reply in dump_family(&Message::new(libc::RTM_GETRULE, 0).raw(&header))? {
            found.push(rule(&reply)?);
        }
    }
    Ok(found)
}

fn request(message: &Message) -> io::Result<()> {
    Socket::open(SockProtocol::NetlinkRoute)?.request(message)
}

fn dump(message: &Message) -> io::Result<Vec<Reply>> {
    Socket::open(SockProtocol::NetlinkRoute)?.dump(message)
}

/// As [`dump`], but nothing for a family that the kernel does not have.
fn dump_family(message: &Message) -> io::Result<Vec<Reply>> {
    dump(message).or_else(|error| match errno(&error) {
        Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        _ => Err(error),
    })
}

/// The kernel says ESRCH for a route, and ENOENT for a rule, that is not there.
fn absent(error: io::Error) -> io::Error {
    match errno(&error) {
        Some(Errno::ESRCH | Errno::ENOENT) => io::Error::new(io::ErrorKind::NotFound, error),
        _ => error,
    }
}

/// struct ifinfomsg.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [
        &[0; 4][..],
        &index.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &change.to_ne_bytes(),
    ]
    .concat()
}

fn link(reply: &Reply) -> Result<Link, Malformed> {
    let attributes = Attributes::after(16, &reply.body)?;
    let flags = u32_at(&reply.body, 8)?.cast_signed();
    Ok(Link {
        index: u32_at(&reply.body, 4)?,
        name: attributes.text(libc::IFLA_IFNAME).unwrap_or_default(),
        up: flags & libc::IFF_UP != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        mtu: attributes.u32(libc::IFLA_MTU)?.unwrap_or(0),
    })
}

/// struct ifaddrmsg and what follows. An address of another family is none.
fn address(reply: &Reply) -> Result<Option<Address>, Malformed> {
    let header: [u8; 8] = *reply.body.first_chunk().ok_or(Malformed)?;
    let attributes = Attributes::after(8, &reply.body)?;
    // On a point-to-point link ADDRESS is the other side's; LOCAL is always this side's, but IPv6 may leave it out.
    let bytes = attributes
        .find(libc::IFA_LOCAL)
        .or_else(|| attributes.find(libc::IFA_ADDRESS));
    Ok(bytes.and_then(ip).map(|ip| Address {
        interface: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        ip,
        prefix: header[1],
        global: header[3] == libc::RT_SCOPE_UNIVERSE,
    }))
}

/// struct rtmsg and what follows.
fn route_message(kind: u16, flags: i32, route: &Route) -> Message {
    let (ip, prefix) = route.destination;
    let scope = match (route.kind, route.gateway) {
        (Kind::Local, _) => libc::RT_SCOPE_HOST,
        (Kind::Unicast, None) if ip.is_ipv4() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let kind_byte = match route.kind {
        Kind::Unicast => libc::RTN_UNICAST,
        Kind::Local => libc::RTN_LOCAL,
        Kind::Other(kind) => kind,
    };
    let short_table = u8::try_from(route.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    let header = [
        family(ip),
        prefix,
        0,
        0,
        short_table,
        route.protocol,
        scope,
        kind_byte,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(kind, flags)
        .raw(&header)
        .u32(libc::RTA_TABLE, route.table);
    if prefix > 0 {
        message = message.attribute(libc::RTA_DST, &octets(ip));
    }
    if let Some(gateway) = route.gateway {
        message = message.attribute(libc::RTA_GATEWAY, &octets(gateway));
    }
    if let Some(interface) = route.interface {
        message = message.u32(libc::RTA_OIF, interface);
    }
    message
}

/// Cached copies of routes are not routes.
fn route(reply: &Reply) -> Result<Option<Route>, Malformed> {
    let header: [u8; 12] = *reply.body.first_chunk().ok_or(Malformed)?;
    let attributes = Attributes::after(12, &reply.body)?;
    let any = match i32::from(header[0]) {
        libc::AF_INET => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return Ok(None),
    };
    if u32_at(&header, 8)? & libc::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let kind = match header[7] {
        libc::RTN_UNICAST => Kind::Unicast,
        libc::RTN_LOCAL => Kind::Local,
        other => Kind::Other(other),
    };
    Ok(Some(Route {
        destination: (
            attributes.find(libc::RTA_DST).and_then(ip).unwrap_or(any),
            header[1],
        ),
        gateway: attributes.find(libc::RTA_GATEWAY).and_then(ip),
        interface: attributes.u32(libc::RTA_OIF)?,
        kind,
        table: attributes
            .u32(libc::RTA_TABLE)?
            .unwrap_or_else(|| u32::from(header[4])),
        protocol: header[5],
    }))
}

/// struct fib_rule_hdr and what follows.
fn rule_message(kind: u16, flags: i32, rule: &Rule) -> Message {
    let family = if rule.v6 {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let short_table = u8::try_from(rule.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    let header = [
        family as u8,
        0,
        0,
        0,
        short_table,
        0,
        0,
        TO_TABLE,
        0,
        0,
        0,
        0,
    ];
    Message::new(kind, flags)
        .raw(&header)
        .u32(FRA_PRIORITY, rule.priority)
        .u32(FRA_FWMARK, rule.mark)
        .u32(FRA_FWMASK, rule.mask)
        .u32(FRA_TABLE, rule.table)
        .u8(FRA_PROTOCOL, rule.protocol)
}

fn rule(reply: &Reply) -> Result<Rule, Malformed> {
    let header: [u8; 12] = *reply.body.first_chunk().ok_or(Malformed)?;
    let attributes = Attributes::after(12, &reply.body)?;
    let table = attributes
        .u32(FRA_TABLE)?
        .unwrap_or_else(|| u32::from(header[4]));
    Ok(Rule {
        v6: i32::from(header[0]) == libc::AF_INET6,
        priority: attributes.u32(FRA_PRIORITY)?.unwrap_or(0),
        mark: attributes.u32(FRA_FWMARK)?.unwrap_or(0),
        mask: attributes.u32(FRA_FWMASK)?.unwrap_or(0),
        table: if header[7] == TO_TABLE { table } else { 0 },
        protocol: attributes.u8(FRA_PROTOCOL)?.unwrap_or(0),
    })
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests;
