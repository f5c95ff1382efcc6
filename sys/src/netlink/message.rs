//! The form of netlink (RFC 3549): messages and nested attributes, written and read.
//!
//! Reading never goes past the end, because a kernel newer than this code may say more than it knows.

use std::{fmt, io};

/// The flag that marks an attribute as holding attributes.
const NESTED: u16 = 0x8000;
/// Both flags that an attribute's kind may carry.
const KIND_FLAGS: u16 = 0xc000;
/// Length of a message header.
pub(super) const HEADER: usize = 16;

/// A message under construction: kind, flags and everything after the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
    too_long: bool,
}

impl Message {
    /// A message of this kind. Requests get NLM_F_REQUEST when sent; `flags` are those beyond.
    pub fn new(kind: u16, flags: i32) -> Self {
        Self {
            kind,
            flags: flags as u16,
            body: Vec::new(),
            too_long: false,
        }
    }

    /// Appends a fixed part, padded to four bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.measured(kind, |mut message| {
            message.body.extend_from_slice(value);
            message
        })
    }

    /// Appends an attribute of one byte.
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attribute(kind, &[value])
    }

    /// Appends an attribute of four bytes in host order.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute of four bytes in network order.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute of text, with the zero byte that ends it.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.measured(kind, |mut message| {
            message.body.extend_from_slice(value.as_bytes());
            message.body.push(0);
            message
        })
    }

    /// Appends an attribute that holds what `fill` appends.
    pub fn nest(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        self.measured(kind | NESTED, fill)
    }

    fn measured(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        self = fill(self);
        match u16::try_from(self.body.len() - start) {
            Ok(length) => self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.body[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    /// Appends this message to `bytes`, with flags `also` and a sequence number.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>, also: u16, sequence: u32) -> io::Result<()> {
        if self.too_long {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a netlink attribute of more than 64 KiB",
            ));
        }
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(self.flags | also).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        Ok(())
    }
}

/// A message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is about.
    pub kind: u16,
    /// NLM_F_* flags.
    pub flags: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// All after the header.
    pub body: Vec<u8>,
}

/// Bytes that are not netlink: a length that is too short or points past the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the messages of one datagram.
pub fn messages(mut bytes: &[u8]) -> Result<Vec<Reply>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER {
            return Err(Malformed);
        }
        let message = bytes.get(..length).ok_or(Malformed)?;
        found.push(Reply {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            body: message[HEADER..].to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The attributes of a message or of an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    /// Reads attributes until the end of `bytes`.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(u16_at(bytes, 0)?);
            if length < 4 {
                return Err(Malformed);
            }
            let value = bytes.get(4..length).ok_or(Malformed)?;
            found.push((u16_at(bytes, 2)? & !KIND_FLAGS, value));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self(found))
    }

    /// Reads the attributes that follow a fixed part of `header` bytes.
    pub fn after(header: usize, body: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(body.get(header.next_multiple_of(4)..).unwrap_or_default())
    }

    /// All of them, in order: kind and value.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + '_ {
        self.0.iter().copied()
    }

    /// The value of the first attribute of a kind.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of a kind; none if there is no such attribute.
    pub fn nested(&self, kind: u16) -> Result<Self, Malformed> {
        self.find(kind)
            .map_or_else(|| Ok(Attributes::default()), Attributes::parse)
    }

    /// One byte.
    pub fn u8(&self, kind: u16) -> Result<Option<u8>, Malformed> {
        self.find(kind)
            .map(|value| value.first().copied().ok_or(Malformed))
            .transpose()
    }

    /// Four bytes in host order.
    pub fn u32(&self, kind: u16) -> Result<Option<u32>, Malformed> {
        self.find(kind).map(|value| u32_at(value, 0)).transpose()
    }

    /// Four bytes in network order.
    pub fn be32(&self, kind: u16) -> Result<Option<u32>, Malformed> {
        Ok(self.u32(kind)?.map(u32::from_be))
    }

    /// Text up to its zero byte; what is not UTF-8 is replaced.
    pub fn text(&self, kind: u16) -> Option<String> {
        self.find(kind).map(text_of)
    }
}

fn text_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Two bytes in host order.
pub fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let found = bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(*found))
}

/// Four bytes in host order.
pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let found = bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(*found))
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a netlink message that is cut short or contradicts itself")
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let message = Message::new(7, 0x400)
            .raw(&[1, 2, 3])
            .text(1, "lo")
            .nest(2, |inner| {
                inner.u32(3, 5).nest(4, |deep| deep.be32(5, 6).u8(6, 9))
            });
        let mut bytes = Vec::new();
        message.encode(&mut bytes, 1, 42).unwrap();
        let found = messages(&bytes).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].kind, found[0].flags, found[0].sequence),
            (7, 0x401, 42)
        );
        let attributes = Attributes::after(3, &found[0].body).unwrap();
        assert_eq!(attributes.text(1).unwrap(), "lo");
        let inner = attributes.nested(2).unwrap();
        assert_eq!(inner.u32(3).unwrap(), Some(5));
        let deep = inner.nested(4).unwrap();
        assert_eq!(
            (deep.be32(5).unwrap(), deep.u8(6).unwrap()),
            (Some(6), Some(9))
        );
        assert_eq!(deep.u32(7).unwrap(), None);
        assert_eq!(deep.u32(6), Err(Malformed));
    }

    #[test]
    fn an_encoded_message_has_the_layout_of_the_rfc() {
        let mut bytes = Vec::new();
        Message::new(0x10, 0)
            .raw(&[0xaa])
            .attribute(3, &[1, 2, 3, 4, 5])
            .encode(&mut bytes, 5, 1)
            .unwrap();
        let expected = [
            &32_u32.to_ne_bytes()[..],
            &0x10_u16.to_ne_bytes(),
            &5_u16.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &[0; 4],
            &[0xaa, 0, 0, 0],
            &9_u16.to_ne_bytes(),
            &3_u16.to_ne_bytes(),
            &[1, 2, 3, 4, 5, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn malformed_input_is_refused_at_every_cut() {
        let mut bytes = Vec::new();
        Message::new(7, 0)
            .raw(&[0; 4])
            .nest(2, |inner| inner.u32(3, 5))
            .encode(&mut bytes, 0, 1)
            .unwrap();
        for end in 1..bytes.len() {
            assert_eq!(messages(&bytes[..end]), Err(Malformed), "cut at {end}");
        }
        let short_length = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(messages(&short_length), Err(Malformed));
        for attributes in [
            &[0, 0, 1, 0][..],
            &[3, 0, 1, 0],
            &[9, 0, 1, 0, 1, 2, 3, 4],
            &[4],
            &[255, 255, 0, 0],
        ] {
            assert_eq!(
                Attributes::parse(attributes),
                Err(Malformed),
                "{attributes:?}"
            );
        }
    }

    #[test]
    fn an_attribute_too_long_for_its_length_is_an_error() {
        let message = Message::new(7, 0).attribute(1, &vec![0; 70_000]);
        assert_eq!(
            message.encode(&mut Vec::new(), 0, 1).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
