//! The kernel's own form of a rule: expressions that load, compare and store, one after another.
//!
//! A [`Rule`] is compiled into them, and what the kernel lists is decoded into them, so that the two can be compared.

use std::net::IpAddr;

use super::{Action, Family, Group, Match, Rule};
use crate::netlink::{Attributes, Malformed, Message};

/// A register of the kernel's rule machine.
pub type Register = u32;

/// The register of verdicts, and the one that rules of this crate calculate in.
const VERDICT: Register = 0;
const ONE: Register = 1;

// Keys of meta and ct, bases of payload, verdicts (linux/netfilter/nf_tables.h).
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const SOCKET_GROUP: u32 = 3;
const SOURCE: u32 = 0;
const DROP: u32 = 0;
/// Flags of TCP (RFC 9293 §3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const ACCEPT: u32 = 1;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
/// NF_NAT_RANGE_PROTO_SPECIFIED, which the kernel adds by itself when there is a port.
const PORT_GIVEN: u32 = 2;
/// NF_NAT_RANGE_MAP_IPS, likewise for an address.
const ADDRESS_GIVEN: u32 = 1;

/// Length of an interface's name, filled up with zeros.
const NAME_LENGTH: usize = 16;

// The direction of a connection's first packet, as an attribute of ct.
const CT_DIRECTION: u16 = 3;
const ORIGINAL: u8 = 0;

// Attributes.
const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads a fact about the packet or its connection.
    Load(Field, Register),
    /// Sets a fact about the packet or its connection.
    Store(Field, Register),
    /// Sets the zone in which the original direction of the packet's connection is tracked.
    StoreZone(Register),
    /// Loads bytes of the packet.
    Payload {
        /// The header that the offset counts from: 1 network, 2 transport.
        base: u32,
        /// In bytes.
        offset: u32,
        /// In bytes.
        length: u32,
        /// Where to.
        register: Register,
    },
    /// Keeps the bits of `mask`, then flips those of `flip`.
    Mask {
        /// What is changed.
        register: Register,
        /// Kept bits.
        mask: Vec<u8>,
        /// Flipped bits.
        flip: Vec<u8>,
    },
    /// Ends the rule unless the register is equal, or unequal, to a value.
    Compare {
        /// What is compared.
        register: Register,
        /// Equal, or unequal.
        equal: bool,
        /// With what.
        value: Vec<u8>,
    },
    /// Loads a constant.
    Value(Vec<u8>, Register),
    /// Decides. The number is the kernel's verdict.
    Verdict(u32),
    /// Redirects the connection to the port in a register.
    Redirect(Register),
    /// Loads the control group of the packet's socket that is so far below the root.
    SocketGroup {
        /// How far.
        level: u32,
        /// Where to.
        register: Register,
    },
    /// Gives the connection the source address in a register.
    Source {
        /// NFPROTO_* number of the address.
        family: u32,
        /// Where it is.
        register: Register,
    },
    /// Counts packets and bytes.
    Counter,
    /// Something that this crate does not use, by the kernel's name.
    Other(String),
}

/// A fact that can be loaded, and sometimes set; the number is the kernel's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// About the packet.
    Meta(u32),
    /// About its connection.
    Connection(u32),
}

/// The expressions of a rule.
pub(super) fn compile(rule: &Rule, family: Family) -> Vec<Expression> {
    let mut list = Vec::new();
    for condition in &rule.when {
        compile_match(condition, family, &mut list);
    }
    list.push(Expression::Counter);
    match rule.then {
        Action::Accept => list.push(Expression::Verdict(ACCEPT)),
        Action::Drop => list.push(Expression::Verdict(DROP)),
        Action::Redirect(port) => {
            list.extend([
                Expression::Value(port.to_be_bytes().to_vec(), ONE),
                Expression::Redirect(ONE),
            ]);
        }
        Action::MarkConnection { mark, mask } => {
            compile_marking(Field::Connection(CT_MARK), mark, mask, &mut list);
        }
        Action::Mark { mark, mask } => {
            compile_marking(Field::Meta(META_MARK), mark, mask, &mut list)
        }
        Action::SourceAddress(ip) => {
            let (family, bytes) = family_and_bytes(ip);
            list.extend([
                Expression::Value(bytes, ONE),
                Expression::Source {
                    family: family.into(),
                    register: ONE,
                },
            ]);
        }
        Action::RestoreMark => {
            list.extend([
                Expression::Load(Field::Connection(CT_MARK), ONE),
                Expression::Store(Field::Meta(META_MARK), ONE),
            ]);
        }
        Action::TrackApart(zone) => {
            list.extend([
                Expression::Value(zone.to_ne_bytes().to_vec(), ONE),
                Expression::StoreZone(ONE),
            ]);
        }
    }
    list
}

fn compile_marking(field: Field, mark: u32, mask: u32, list: &mut Vec<Expression>) {
    list.extend([
        Expression::Load(field, ONE),
        Expression::Mask {
            register: ONE,
            mask: (!mask).to_ne_bytes().to_vec(),
            flip: (mark & mask).to_ne_bytes().to_vec(),
        },
        Expression::Store(field, ONE),
    ]);
}

fn compile_match(condition: &Match, family: Family, list: &mut Vec<Expression>) {
    match condition {
        Match::Tcp => {
            list.push(Expression::Load(Field::Meta(META_L4PROTO), ONE));
            list.push(compare(vec![6], true));
        }
        Match::Mark { mark, mask, is } => {
            compile_mark(Field::Meta(META_MARK), *mark, *mask, *is, list)
        }
        Match::ConnectionMark { mark, mask, is } => {
            compile_mark(Field::Connection(CT_MARK), *mark, *mask, *is, list)
        }
        Match::In { name, is } => compile_name(META_IIFNAME, name, *is, list),
        Match::Out { name, is } => compile_name(META_OIFNAME, name, *is, list),
        // Offsets of the addresses in the IPv4 header (RFC 791 §3.1) and the IPv6 header (RFC 8200 §3).
        Match::Source { ip, prefix, is } => {
            list.extend(of_family(*ip, family));
            compile_ip(*ip, *prefix, *is, if ip.is_ipv4() { 12 } else { 8 }, list)
        }
        Match::Destination { ip, prefix, is } => {
            list.extend(of_family(*ip, family));
            compile_ip(*ip, *prefix, *is, if ip.is_ipv4() { 16 } else { 24 }, list)
        }
        Match::Opening => {
            list.push(Expression::Payload {
                base: TRANSPORT,
                offset: 13,
                length: 1,
                register: ONE,
            });
            list.push(Expression::Mask {
                register: ONE,
                mask: vec![SYN | ACK],
                flip: vec![0],
            });
            list.push(compare(vec![SYN], true));
        }
        Match::Group(Group { level, id }) => {
            list.push(Expression::SocketGroup {
                level: *level,
                register: ONE,
            });
            list.push(compare(id.to_ne_bytes().to_vec(), true));
        }
        Match::Port { port, is } => {
            list.push(Expression::Payload {
                base: TRANSPORT,
                offset: 2,
                length: 2,
                register: ONE,
            });
            list.push(compare(port.to_be_bytes().to_vec(), *is));
        }
    }
}

fn compare(value: Vec<u8>, equal: bool) -> Expression {
    Expression::Compare {
        register: ONE,
        equal,
        value,
    }
}

fn compile_mark(field: Field, mark: u32, mask: u32, is: bool, list: &mut Vec<Expression>) {
    list.push(Expression::Load(field, ONE));
    if mask != u32::MAX {
        list.push(Expression::Mask {
            register: ONE,
            mask: mask.to_ne_bytes().to_vec(),
            flip: vec![0; 4],
        });
    }
    list.push(compare(mark.to_ne_bytes().to_vec(), is));
}

fn compile_name(key: u32, name: &str, is: bool, list: &mut Vec<Expression>) {
    let mut value = name.as_bytes().to_vec();
    value.resize(NAME_LENGTH, 0);
    list.push(Expression::Load(Field::Meta(key), ONE));
    list.push(compare(value, is));
}

/// The number of an address's family (NFPROTO_*), and its bytes.
fn family_and_bytes(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (2, ip.octets().to_vec()),
        IpAddr::V6(ip) => (10, ip.octets().to_vec()),
    }
}

/// Holds for packets of an address's family. On a bridge it is in the frame's type.
fn of_family(ip: IpAddr, family: Family) -> [Expression; 2] {
    let (field, value) = match family {
        Family::Inet => (META_NFPROTO, vec![family_and_bytes(ip).0]),
        Family::Bridge if ip.is_ipv4() => (META_PROTOCOL, vec![0x08, 0x00]),
        Family::Bridge => (META_PROTOCOL, vec![0x86, 0xdd]),
    };
    [
        Expression::Load(Field::Meta(field), ONE),
        compare(value, true),
    ]
}

fn compile_ip(ip: IpAddr, prefix: u8, is: bool, offset: u32, list: &mut Vec<Expression>) {
    let (_, bytes) = family_and_bytes(ip);
    list.push(Expression::Payload {
        base: NETWORK,
        offset,
        length: bytes.len() as u32,
        register: ONE,
    });
    let mask: Vec<u8> = (0..bytes.len())
        .map(|at| leading(usize::from(prefix).saturating_sub(at * 8)))
        .collect();
    let value = bytes
        .iter()
        .zip(&mask)
        .map(|(byte, mask)| byte & mask)
        .collect();
    if mask.iter().any(|byte| *byte != 0xff) {
        list.push(Expression::Mask {
            register: ONE,
            mask,
            flip: vec![0; bytes.len()],
        });
    }
    list.push(compare(value, is));
}

/// A byte of which the first `bits` are set.
fn leading(bits: usize) -> u8 {
    !0xff_u8.checked_shr(bits as u32).unwrap_or(0)
}

/// Appends expressions as list elements.
pub(super) fn encode(list: &[Expression], mut message: Message) -> Message {
    for expression in list {
        message = message.nest(ELEMENT, |element| {
            element
                .text(NAME, name(expression))
                .nest(DATA, |data| encode_data(expression, data))
        });
    }
    message
}

fn name(expression: &Expression) -> &str {
    match expression {
        Expression::Load(Field::Meta(_), _) | Expression::Store(Field::Meta(_), _) => "meta",
        Expression::Load(Field::Connection(_), _)
        | Expression::Store(Field::Connection(_), _)
        | Expression::StoreZone(_) => "ct",
        Expression::Payload { .. } => "payload",
        Expression::Mask { .. } => "bitwise",
        Expression::Compare { .. } => "cmp",
        Expression::Value(..) | Expression::Verdict(_) => "immediate",
        Expression::Redirect(_) => "redir",
        Expression::SocketGroup { .. } => "socket",
        Expression::Source { .. } => "nat",
        Expression::Counter => "counter",
        Expression::Other(name) => name,
    }
}

fn encode_data(expression: &Expression, data: Message) -> Message {
    let value = |data: Message, kind: u16, bytes: &[u8]| {
        data.nest(kind, |inner| inner.attribute(VALUE, bytes))
    };
    match expression {
        Expression::Load(Field::Meta(key), register) => data.be32(1, *register).be32(2, *key),
        Expression::Store(Field::Meta(key), register) => data.be32(3, *register).be32(2, *key),
        Expression::Load(Field::Connection(key), register) => data.be32(1, *register).be32(2, *key),
        Expression::Store(Field::Connection(key), register) => {
            data.be32(4, *register).be32(2, *key)
        }
        Expression::StoreZone(register) => data
            .be32(4, *register)
            .be32(2, CT_ZONE)
            .attribute(CT_DIRECTION, &[ORIGINAL]),
        Expression::Payload {
            base,
            offset,
            length,
            register,
        } => data
            .be32(1, *register)
            .be32(2, *base)
            .be32(3, *offset)
            .be32(4, *length),
        Expression::Mask {
            register,
            mask,
            flip,
        } => {
            let data = data
                .be32(1, *register)
                .be32(2, *register)
                .be32(3, mask.len() as u32);
            value(value(data, 4, mask), 5, flip)
        }
        Expression::Compare {
            register,
            equal,
            value: expected,
        } => value(
            data.be32(1, *register)
                .be32(2, if *equal { EQUAL } else { UNEQUAL }),
            3,
            expected,
        ),
        Expression::Value(bytes, register) => value(data.be32(1, *register), 2, bytes),
        Expression::Verdict(code) => data
            .be32(1, VERDICT)
            .nest(2, |inner| inner.nest(2, |verdict| verdict.be32(1, *code))),
        Expression::Redirect(register) => data.be32(1, *register),
        Expression::SocketGroup { level, register } => data
            .be32(1, SOCKET_GROUP)
            .be32(2, *register)
            .be32(3, *level),
        Expression::Source { family, register } => data
            .be32(1, SOURCE)
            .be32(2, *family)
            .be32(3, *register)
            .be32(4, *register),
        Expression::Counter | Expression::Other(_) => data,
    }
}

/// Reads the expressions of a listed rule.
pub(super) fn decode(list: &Attributes<'_>) -> Result<Vec<Expression>, Malformed> {
    list.iter()
        .map(|(_, element)| decode_one(&Attributes::parse(element)?))
        .collect()
}

fn decode_one(element: &Attributes<'_>) -> Result<Expression, Malformed> {
    let name = element.text(NAME).ok_or(Malformed)?;
    let data = element.nested(DATA)?;
    let known = match name.as_str() {
        "meta" => decode_field(&data, Field::Meta, 3)?,
        "ct" => decode_field(&data, Field::Connection, 4)?,
        "payload" => decode_payload(&data)?,
        "bitwise" => decode_mask(&data)?,
        "cmp" => decode_compare(&data)?,
        "immediate" => decode_immediate(&data)?,
        "redir" => decode_redirect(&data)?,
        "socket" => decode_socket(&data)?,
        "nat" => decode_nat(&data)?,
        "counter" => Some(Expression::Counter),
        _ => None,
    };
    Ok(known.unwrap_or(Expression::Other(name)))
}

fn decode_field(
    data: &Attributes<'_>,
    field: fn(u32) -> Field,
    source: u16,
) -> Result<Option<Expression>, Malformed> {
    let field = field(data.be32(2)?.ok_or(Malformed)?);
    Ok(match (data.be32(1)?, data.be32(source)?) {
        (None, Some(register)) if field == Field::Connection(CT_ZONE) => {
            let original = data.find(CT_DIRECTION) == Some(&[ORIGINAL]);
            original.then_some(Expression::StoreZone(register))
        }
        (Some(register), None) => Some(Expression::Load(field, register)),
        (None, Some(register)) => Some(Expression::Store(field, register)),
        _ => None,
    })
}

fn decode_payload(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    // Without a destination register it writes into the packet.
    let Some(register) = data.be32(1)? else {
        return Ok(None);
    };
    let (base, offset, length) = (data.be32(2)?, data.be32(3)?, data.be32(4)?);
    let (Some(base), Some(offset), Some(length)) = (base, offset, length) else {
        return Err(Malformed);
    };
    Ok(Some(Expression::Payload {
        base,
        offset,
        length,
        register,
    }))
}

fn decode_mask(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    // Zero, and absent on older kernels, is the mask-and-flip operation.
    let plain = data.be32(6)?.unwrap_or(0) == 0;
    let (from, to) = (
        data.be32(1)?.ok_or(Malformed)?,
        data.be32(2)?.ok_or(Malformed)?,
    );
    let (mask, flip) = (data.nested(4)?, data.nested(5)?);
    Ok(match (mask.find(VALUE), flip.find(VALUE)) {
        (Some(mask), Some(flip)) if plain && from == to => Some(Expression::Mask {
            register: to,
            mask: mask.to_vec(),
            flip: flip.to_vec(),
        }),
        _ => None,
    })
}

fn decode_compare(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    let register = data.be32(1)?.ok_or(Malformed)?;
    let expected = data.nested(3)?;
    let Some(value) = expected.find(VALUE).map(<[u8]>::to_vec) else {
        return Ok(None);
    };
    Ok(match data.be32(2)? {
        Some(EQUAL) => Some(Expression::Compare {
            register,
            equal: true,
            value,
        }),
        Some(UNEQUAL) => Some(Expression::Compare {
            register,
            equal: false,
            value,
        }),
        _ => None,
    })
}

fn decode_immediate(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    let register = data.be32(1)?.ok_or(Malformed)?;
    let content = data.nested(2)?;
    if let Some(value) = content.find(VALUE) {
        return Ok(Some(Expression::Value(value.to_vec(), register)));
    }
    let verdict = content.nested(2)?;
    // A verdict with a chain is a jump.
    Ok(verdict
        .be32(1)?
        .filter(|_| verdict.find(2).is_none())
        .map(Expression::Verdict))
}

fn decode_redirect(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    let (from, to, flags) = (data.be32(1)?, data.be32(2)?, data.be32(3)?.unwrap_or(0));
    let plain = flags & !PORT_GIVEN == 0 && to.is_none_or(|to| Some(to) == from);
    Ok(from.filter(|_| plain).map(Expression::Redirect))
}

fn decode_socket(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    let (key, register, level) = (data.be32(1)?, data.be32(2)?, data.be32(3)?);
    let loads = register.zip(level).filter(|_| key == Some(SOCKET_GROUP));
    Ok(loads.map(|(register, level)| Expression::SocketGroup { level, register }))
}

fn decode_nat(data: &Attributes<'_>) -> Result<Option<Expression>, Malformed> {
    let (kind, family) = (data.be32(1)?, data.be32(2)?);
    let (from, to) = (data.be32(3)?, data.be32(4)?);
    // Neither a range of addresses nor ports; the kernel adds the flag that there is an address.
    let plain = to.is_none_or(|to| Some(to) == from)
        && data.be32(5)?.is_none()
        && data.be32(6)?.is_none()
        && data.be32(7)?.unwrap_or(0) & !ADDRESS_GIVEN == 0;
    let known = family.zip(from).filter(|_| plain && kind == Some(SOURCE));
    Ok(known.map(|(family, register)| Expression::Source { family, register }))
}
