//! A walk over the tags of an encoded `Authorization`, for what a decoder would drop in silence.
//!
//! A field, an enum value or an extension that we do not know may narrow what is allowed; only the
//! sender knows. So a policy that holds one is not understood.

use proto::security as wire;

/// The messages of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Authorization,
    Group,
    Rules,
    Match,
    Address,
    ServiceAccount,
    StringMatch,
    Presence,
}

/// What may follow a tag.
#[derive(Clone, Copy)]
enum Field {
    Enum(fn(i32) -> bool),
    Number,
    /// Possibly packed.
    Numbers,
    Bytes,
    Text,
    Message(Kind),
}

/// Checks that nothing in `bytes` is unknown to us. `Err` says what is.
pub(super) fn all_known(bytes: &[u8]) -> Result<(), String> {
    walk(Kind::Authorization, bytes)
}

/// Scope and namespace of a policy that cannot be decoded, if both stand before the damage.
///
/// A scope of 0 is never written, and bytes that break off do not tell a scope that is not there
/// from one that is lost: so it must be there.
pub(super) fn scope(mut bytes: &[u8]) -> Option<(i32, &str)> {
    let (mut scope, mut namespace) = (None, None);
    while let Ok(tag) = varint(&mut bytes) {
        let read = match (tag >> 3, tag & 7) {
            (2, 2) => delimited(&mut bytes).map(|text| namespace = str::from_utf8(text).ok()),
            (3, 0) => varint(&mut bytes).map(|value| scope = i32::try_from(value).ok()),
            (_, 0) => varint(&mut bytes).map(drop),
            (_, 1) => take(&mut bytes, 8).map(drop),
            (_, 2) => delimited(&mut bytes).map(drop),
            (_, 5) => take(&mut bytes, 4).map(drop),
            _ => break,
        };
        if read.is_err() {
            break;
        }
    }
    Some((scope?, namespace?))
}

fn walk(kind: Kind, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        let field = field(kind, number);
        let field = field.ok_or_else(|| format!("{kind:?} has an unknown field {number}"))?;
        match (field, wire_type) {
            (Field::Enum(known), 0) => {
                let value = varint(&mut bytes)?;
                if !i32::try_from(value).is_ok_and(known) {
                    return Err(format!(
                        "{kind:?} field {number} has an unknown value {value}"
                    ));
                }
            }
            (Field::Number | Field::Numbers, 0) => {
                varint(&mut bytes)?;
            }
            (Field::Numbers | Field::Bytes, 2) => {
                delimited(&mut bytes)?;
            }
            (Field::Text, 2) => {
                std::str::from_utf8(delimited(&mut bytes)?)
                    .map_err(|_| format!("{kind:?} field {number} is not UTF-8"))?;
            }
            (Field::Message(inner), 2) => walk(inner, delimited(&mut bytes)?)?,
            _ => return Err(format!("{kind:?} field {number} has wire type {wire_type}")),
        }
    }
    Ok(())
}

fn field(kind: Kind, number: u64) -> Option<Field> {
    Some(match (kind, number) {
        (Kind::Authorization, 1 | 2) => Field::Text,
        (Kind::Authorization, 3) => Field::Enum(|value| wire::Scope::try_from(value).is_ok()),
        (Kind::Authorization, 4) => Field::Enum(|value| wire::Action::try_from(value).is_ok()),
        (Kind::Authorization, 5) => Field::Message(Kind::Group),
        (Kind::Authorization, 6) => Field::Number,
        (Kind::Group, 1) => Field::Message(Kind::Rules),
        (Kind::Rules, 2) => Field::Message(Kind::Match),
        (Kind::Match, 1..=4) => Field::Message(Kind::StringMatch),
        (Kind::Match, 5..=8) => Field::Message(Kind::Address),
        (Kind::Match, 9 | 10) => Field::Numbers,
        (Kind::Match, 11 | 12) => Field::Message(Kind::ServiceAccount),
        (Kind::Address, 1) => Field::Bytes,
        (Kind::Address, 2) => Field::Number,
        (Kind::ServiceAccount, 1 | 2) => Field::Text,
        (Kind::StringMatch, 1..=3) => Field::Text,
        (Kind::StringMatch, 4) => Field::Message(Kind::Presence),
        // Extensions (Authorization 7, Match 13) are known by number and understood by nobody here.
        _ => return None,
    })
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    prost::encoding::decode_varint(bytes).map_err(|e| e.to_string())
}

fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = usize::try_from(varint(bytes)?).map_err(|_| "a length is too long".to_owned())?;
    take(bytes, length)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (head, rest) = bytes.split_at_checked(length).ok_or("it is cut short")?;
    *bytes = rest;
    Ok(head)
}
