//! From messages to what is decided by. Whatever is not known here is refused in its own scope, and never passed over.

mod backend;
mod policy;
mod route;
mod table;

use prost::Message;

pub(super) use backend::{Told as ToldBackend, backend};
pub(super) use policy::{Prefix, Told as ToldPolicy, policy, prefixed};
pub(super) use route::route;
pub(super) use table::{Reference, Told as ToldTable, ToldPort, table};

use crate::waypoint::FEATURES;

/// Why a message is not used as it is, beside what it says itself.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|e| format!("cannot be decoded: {e}"))
}

/// Whether decoding lost nothing. What is not known here is dropped in silence, and whoever writes a message writes no more
/// than is needed (proto3): so what is shorter now held something else.
fn lost_nothing(message: &impl Message, bytes: &[u8]) -> Result<(), String> {
    if message.encoded_len() == bytes.len() {
        Ok(())
    } else {
        Err("holds something that is not known here".to_owned())
    }
}

/// Whether all that is required is here.
fn has_all(requires: &[String]) -> Result<(), String> {
    let lacking = requires
        .iter()
        .find(|name| !FEATURES.contains(&name.as_str()));
    match lacking {
        Some(name) => Err(format!("requires {name:?}, which is not here")),
        None => Ok(()),
    }
}

fn port(number: u32) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("{number} is no port"))
}

#[cfg(test)]
mod tests;
