//! The nodes' bearer tokens: who calls is decided by the token alone, never by what the request says.
//!
//! One token per node, made on demand, kept as `tokens/<node>` in the state directory. To revoke one, end the control
//! plane, remove the file and start again: a new token is made. Not for people, and not for workloads.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::state::{SECRET, StateDir, StateError};

const FOLDER: &str = "tokens";
/// Random bytes in a token.
const BYTES: usize = 32;
/// Characters of a token: base64url without padding.
const LENGTH: usize = 43;

/// The tokens of all nodes known so far.
#[derive(Debug)]
pub struct Tokens {
    state: Arc<StateDir>,
    by_node: RwLock<BTreeMap<String, String>>,
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAuthenticated {
    /// No `authorization` header.
    Missing,
    /// Two or more `authorization` headers.
    Several,
    /// The header is not `Bearer <token>`.
    NotBearer,
    /// The token holds a character that no token has, such as the newline at the end of a file.
    BadCharacter,
    /// No node has this token.
    Unknown,
}

impl Tokens {
    /// Loads the tokens that the state directory keeps.
    pub fn open(state: Arc<StateDir>) -> Result<Self, StateError> {
        let mut by_node = BTreeMap::new();
        for node in state.list(FOLDER)? {
            if let Some(token) = stored(&state, &node)? {
                by_node.insert(node, token);
            }
        }
        Ok(Self {
            state,
            by_node: RwLock::new(by_node),
        })
    }

    /// Makes a token for a node that has none yet.
    pub fn ensure(&self, node: &str) -> Result<(), StateError> {
        if self
            .by_node
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(node)
        {
            return Ok(());
        }
        if !is_node_name(node) {
            let reason =
                format!("{node:?} is not a node name (lowercase letters, digits, '-' and '.')");
            return Err(StateError {
                path: self.state.path(FOLDER),
                reason,
            });
        }
        let mut by_node = self.by_node.write().unwrap_or_else(PoisonError::into_inner);
        if !by_node.contains_key(node) {
            let mut random = [0; BYTES];
            aws_lc_rs::rand::fill(&mut random).map_err(|_| StateError {
                path: self.state.path(FOLDER),
                reason: "the system gives no random bytes".to_owned(),
            })?;
            let token = BASE64_URL_SAFE_NO_PAD.encode(random);
            self.state
                .write(&format!("{FOLDER}/{node}"), token.as_bytes(), SECRET)?;
            by_node.insert(node.to_owned(), token);
        }
        Ok(())
    }

    /// The node that a request comes from, by its `authorization` headers.
    pub fn caller(&self, headers: &http::HeaderMap) -> Result<String, NotAuthenticated> {
        let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
        let value = values.next().ok_or(NotAuthenticated::Missing)?;
        if values.next().is_some() {
            return Err(NotAuthenticated::Several);
        }
        let token = bearer(value.as_bytes())?;
        let by_node = self.by_node.read().unwrap_or_else(PoisonError::into_inner);
        // Every token is compared, each in constant time: the answer's timing tells nothing about any of them.
        let mut caller = None;
        for (node, known) in by_node.iter() {
            if aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), token).is_ok() {
                caller = Some(node);
            }
        }
        caller.cloned().ok_or(NotAuthenticated::Unknown)
    }

    /// The nodes that have a token.
    pub fn nodes(&self) -> Vec<String> {
        self.by_node
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }
}

/// Whether a text can name a node: a DNS subdomain (RFC 1123), so that it is a file's name too.
pub fn is_node_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(inner)
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn stored(state: &StateDir, node: &str) -> Result<Option<String>, StateError> {
    let name = format!("{FOLDER}/{node}");
    let refused = |reason: &str| {
        Err(StateError {
            path: state.path(&name),
            reason: reason.to_owned(),
        })
    };
    if !is_node_name(node) {
        return refused("is not the name of a node; remove the file");
    }
    let Some(bytes) = state.read(&name)? else {
        return Ok(None);
    };
    let valid = bytes.len() == LENGTH
        && BASE64_URL_SAFE_NO_PAD
            .decode(&bytes)
            .is_ok_and(|raw| raw.len() == BYTES);
    match String::from_utf8(bytes) {
        Ok(token) if valid => Ok(Some(token)),
        _ => refused(
            "is not a token (43 characters of base64url, no newline); remove the file to have a new one made",
        ),
    }
}

/// The token in an `authorization` header's value (RFC 6750 §2.1).
fn bearer(value: &[u8]) -> Result<&[u8], NotAuthenticated> {
    let (scheme, token) = value
        .split_at_checked(7)
        .ok_or(NotAuthenticated::NotBearer)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(NotAuthenticated::NotBearer);
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    if token.is_empty() || !token.iter().all(allowed) {
        Err(NotAuthenticated::BadCharacter)
    } else {
        Ok(token)
    }
}

impl fmt::Display for NotAuthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no bearer token: send `authorization: Bearer <token of the node>`",
            Self::Several => "more than one authorization header",
            Self::NotBearer => "the authorization header is not `Bearer <token>`",
            Self::BadCharacter => {
                "the bearer token holds a character that no token has (does its file end in a newline or a space?)"
            }
            Self::Unknown => "no node has this bearer token",
        })
    }
}

impl std::error::Error for NotAuthenticated {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::scratch::Scratch;

    fn open(scratch: &Scratch) -> Tokens {
        Tokens::open(Arc::new(StateDir::open(scratch.path()).unwrap())).unwrap()
    }

    fn caller(tokens: &Tokens, value: &str) -> Result<String, NotAuthenticated> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
        tokens.caller(&headers)
    }

    #[test]
    fn the_token_names_the_node_also_after_a_restart() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        tokens.ensure("n1").unwrap();
        tokens.ensure("n2").unwrap();
        tokens.ensure("n1").unwrap();
        let n1 = std::fs::read_to_string(scratch.path().join("tokens/n1")).unwrap();
        assert_eq!(
            caller(&tokens, &format!("Bearer {n1}")),
            Ok("n1".to_owned())
        );
        drop(tokens);
        let tokens = open(&scratch);
        assert_eq!(tokens.nodes(), ["n1", "n2"]);
        assert_eq!(
            caller(&tokens, &format!("bearer {n1}")),
            Ok("n1".to_owned())
        );
    }

    #[test]
    fn a_caller_without_a_nodes_token_is_refused_with_the_reason() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        tokens.ensure("n1").unwrap();
        let n1 = std::fs::read_to_string(scratch.path().join("tokens/n1")).unwrap();
        assert_eq!(
            tokens.caller(&http::HeaderMap::new()),
            Err(NotAuthenticated::Missing)
        );
        for (value, reason) in [
            ("", NotAuthenticated::NotBearer),
            ("Bearer", NotAuthenticated::NotBearer),
            ("Basic bjE6", NotAuthenticated::NotBearer),
            ("Bearer ", NotAuthenticated::BadCharacter),
            (&format!("Bearer {n1} "), NotAuthenticated::BadCharacter),
            (&format!("Bearer {n1}\t"), NotAuthenticated::BadCharacter),
            (&format!("Bearer  {n1}"), NotAuthenticated::BadCharacter),
            (&format!("Bearer {}", &n1[1..]), NotAuthenticated::Unknown),
            (&format!("Bearer {n1}A"), NotAuthenticated::Unknown),
            ("Bearer n1", NotAuthenticated::Unknown),
        ] {
            assert_eq!(caller(&tokens, value), Err(reason), "{value:?}");
        }
        assert_eq!(bearer(b"Bearer abc\n"), Err(NotAuthenticated::BadCharacter));
        let mut twice = http::HeaderMap::new();
        twice.append(
            http::header::AUTHORIZATION,
            format!("Bearer {n1}").parse().unwrap(),
        );
        twice.append(http::header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert_eq!(tokens.caller(&twice), Err(NotAuthenticated::Several));
    }

    #[test]
    fn a_name_that_is_no_node_gets_no_file() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        for name in [
            "",
            "..",
            ".",
            "a/b",
            "../x",
            "N1",
            "n_1",
            "-n",
            "n1.",
            &"n".repeat(254),
        ] {
            assert!(tokens.ensure(name).is_err(), "{name:?}");
        }
        assert!(tokens.ensure("ip-10-0-0-1.eu.example.com").is_ok());
    }

    #[test]
    fn a_damaged_token_file_stops_the_start() {
        let scratch = Scratch::new();
        drop(open(&scratch));
        std::fs::create_dir_all(scratch.path().join("tokens")).unwrap();
        std::fs::write(scratch.path().join("tokens/n1"), "short\n").unwrap();
        let error = Tokens::open(Arc::new(StateDir::open(scratch.path()).unwrap()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tokens/n1") && error.contains("43 characters"),
            "{error}"
        );
    }
}
