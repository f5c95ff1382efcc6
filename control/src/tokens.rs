//! Bearer tokens: who calls is decided by the token alone, never by what the request says.
//!
//! One token per node, made on demand, kept as `tokens/<node>` in the state directory; one per Gateway of ours, kept as
//! `waypoint-tokens/<namespace>.<gateway>` as long as that Gateway is there, for whoever starts its waypoint. To revoke
//! one, end the control plane, remove the file and start again: a new token is made. Not for people, and not for other
//! workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    state::{SECRET, StateDir, StateError},
    subject::Subject,
    world::Key,
};

const NODES: &str = "tokens";
const WAYPOINTS: &str = "waypoint-tokens";
/// Random bytes in a token.
const BYTES: usize = 32;
/// Characters of a token: base64url without padding.
const LENGTH: usize = 43;

/// The tokens of all nodes known so far, and of the waypoints.
#[derive(Debug)]
pub struct Tokens {
    state: Arc<StateDir>,
    by_subject: RwLock<BTreeMap<Subject, String>>,
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
    /// Nobody has this token.
    Unknown,
    /// The API server could not be asked, and why.
    Unreviewed(String),
    /// The API server does not take the token, and why.
    Refused(String),
    /// The token is made for others.
    WrongAudience,
    /// The token is of this user, who is no service account.
    NotAServiceAccount(String),
    /// The token is not bound to a pod.
    NotOfAPod,
    /// It is not known on which node this pod of a node proxy runs.
    NoNode(String),
}

impl Tokens {
    /// Loads the tokens that the state directory keeps.
    pub fn open(state: Arc<StateDir>) -> Result<Self, StateError> {
        let mut by_subject = BTreeMap::new();
        load(&state, NODES, node, &mut by_subject)?;
        load(&state, WAYPOINTS, waypoint, &mut by_subject)?;
        Ok(Self {
            state,
            by_subject: RwLock::new(by_subject),
        })
    }

    /// Makes a token for a node or a waypoint that has none yet.
    pub fn ensure(&self, subject: &Subject) -> Result<(), StateError> {
        let has = |tokens: &BTreeMap<_, _>| tokens.contains_key(subject);
        if has(&*self
            .by_subject
            .read()
            .unwrap_or_else(PoisonError::into_inner))
        {
            return Ok(());
        }
        let file = file(subject).ok_or_else(|| StateError {
            path: self.state.path(""),
            reason: format!("{subject}: not a name (lowercase letters, digits, '-' and '.')"),
        })?;
        let mut tokens = self
            .by_subject
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !has(&*tokens) {
            let mut random = [0; BYTES];
            aws_lc_rs::rand::fill(&mut random).map_err(|_| StateError {
                path: self.state.path(&file),
                reason: "the system gives no random bytes".to_owned(),
            })?;
            let token = BASE64_URL_SAFE_NO_PAD.encode(random);
            self.state.write(&file, token.as_bytes(), SECRET)?;
            tokens.insert(subject.clone(), token);
        }
        Ok(())
    }

    /// Takes the tokens back of all waypoints whose Gateway is not among these.
    pub fn retain(&self, gateways: &BTreeSet<&Key>) -> Result<(), StateError> {
        let mut tokens = self
            .by_subject
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let gone = |subject: &Subject| match subject {
            Subject::Node(_) => false,
            Subject::Waypoint(gateway) => !gateways.contains(gateway),
        };
        // Whatever becomes of the files, these tokens are good for nothing from now on.
        let gone: Vec<_> = tokens.extract_if(.., |subject, _| gone(subject)).collect();
        let files = gone.iter().filter_map(|(subject, _)| file(subject));
        files
            .map(|file| self.state.remove(&file))
            .fold(Ok(()), Result::and)
    }

    /// Who sends a request, by its `authorization` headers.
    pub fn caller(&self, headers: &http::HeaderMap) -> Result<Subject, NotAuthenticated> {
        let token = presented(headers)?;
        let tokens = self
            .by_subject
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        // Every token is compared, each in constant time: the answer's timing tells nothing about any of them.
        let mut caller = None;
        for (subject, known) in tokens.iter() {
            if aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), token).is_ok() {
                caller = Some(subject);
            }
        }
        caller.cloned().ok_or(NotAuthenticated::Unknown)
    }
}

/// Where the token of a subject is kept; `None` if its name is none.
fn file(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Node(name) => is_node_name(name).then(|| format!("{NODES}/{name}")),
        Subject::Waypoint((namespace, name)) => (is_node_name(name) && is_label(namespace))
            .then(|| format!("{WAYPOINTS}/{namespace}.{name}")),
    }
}

fn node(file: &str) -> Option<Subject> {
    is_node_name(file).then(|| Subject::Node(file.to_owned()))
}

/// A namespace has no dot in its name, a Gateway may.
fn waypoint(file: &str) -> Option<Subject> {
    let (namespace, name) = file.split_once('.')?;
    let valid = is_label(namespace) && is_node_name(name);
    valid.then(|| Subject::Waypoint((namespace.to_owned(), name.to_owned())))
}

/// Whether a text can name a node: a DNS subdomain (RFC 1123), so that it is a file's name too.
pub fn is_node_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

/// Takes in the tokens of a folder, whose files are named after their subjects.
fn load(
    state: &StateDir,
    folder: &str,
    named: fn(&str) -> Option<Subject>,
    tokens: &mut BTreeMap<Subject, String>,
) -> Result<(), StateError> {
    for name in state.list(folder)? {
        let file = format!("{folder}/{name}");
        let subject = named(&name).ok_or_else(|| StateError {
            path: state.path(&file),
            reason: "is not named after anybody; remove the file".to_owned(),
        })?;
        if let Some(token) = stored(state, &file)? {
            tokens.insert(subject, token);
        }
    }
    Ok(())
}

fn stored(state: &StateDir, name: &str) -> Result<Option<String>, StateError> {
    let Some(bytes) = state.read(name)? else {
        return Ok(None);
    };
    let valid = bytes.len() == LENGTH
        && BASE64_URL_SAFE_NO_PAD
            .decode(&bytes)
            .is_ok_and(|raw| raw.len() == BYTES);
    match String::from_utf8(bytes) {
        Ok(token) if valid => Ok(Some(token)),
        _ => Err(StateError {
            path: state.path(name),
            reason: "is not a token (43 characters of base64url, no newline); remove the file to have a new one made".to_owned(),
        }),
    }
}

/// The token of a request.
pub fn presented(headers: &http::HeaderMap) -> Result<&[u8], NotAuthenticated> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let value = values.next().ok_or(NotAuthenticated::Missing)?;
    match values.next() {
        Some(_) => Err(NotAuthenticated::Several),
        None => bearer(value.as_bytes()),
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

impl NotAuthenticated {
    /// Whether it would be the same if the caller tried again later.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(self, Self::Unreviewed(_) | Self::NoNode(_))
    }
}

impl fmt::Display for NotAuthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreviewed(error) => return write!(f, "the API server cannot review the bearer token: {error}"),
            Self::Refused(why) if why.is_empty() => "the API server does not take the bearer token",
            Self::Refused(why) => return write!(f, "the API server does not take the bearer token: {why}"),
            Self::NotAServiceAccount(user) => {
                return write!(f, "the bearer token is of {user:?}, which is no service account");
            }
            Self::NoNode(pod) => return write!(f, "nobody knows yet on which node pod {pod} runs; try again"),
            Self::WrongAudience => "the bearer token is not for the audience istio-ca: project one with that audience",
            Self::NotOfAPod => "the bearer token is not bound to a pod: use a projected one",
            Self::Missing => "no bearer token: send `authorization: Bearer <token of the node or the waypoint>`",
            Self::Several => "more than one authorization header",
            Self::NotBearer => "the authorization header is not `Bearer <token>`",
            Self::BadCharacter => {
                "the bearer token holds a character that no token has (does its file end in a newline or a space?)"
            }
            Self::Unknown => "nobody has this bearer token",
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

    fn n(name: &str) -> Subject {
        Subject::Node(name.to_owned())
    }

    fn w(namespace: &str, name: &str) -> Subject {
        Subject::Waypoint((namespace.to_owned(), name.to_owned()))
    }

    fn caller(tokens: &Tokens, value: &str) -> Result<Subject, NotAuthenticated> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
        tokens.caller(&headers)
    }

    #[test]
    fn the_token_names_the_node_also_after_a_restart() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        tokens.ensure(&n("n1")).unwrap();
        tokens.ensure(&n("n2")).unwrap();
        tokens.ensure(&n("n1")).unwrap();
        let n1 = std::fs::read_to_string(scratch.path().join("tokens/n1")).unwrap();
        assert_eq!(caller(&tokens, &format!("Bearer {n1}")), Ok(n("n1")));
        drop(tokens);
        let tokens = open(&scratch);
        assert_eq!(caller(&tokens, &format!("bearer {n1}")), Ok(n("n1")));
    }

    #[test]
    fn a_caller_without_a_nodes_token_is_refused_with_the_reason() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        tokens.ensure(&n("n1")).unwrap();
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
    fn a_waypoint_has_a_token_as_long_as_its_gateway_is_there() {
        let scratch = Scratch::new();
        let tokens = open(&scratch);
        // The file of the second would be the file of a gateway `b.c` in `a`, if namespaces had dots.
        let [one, other] = [w("a", "b.c"), w("a", "b")];
        for subject in [&one, &other, &n("a.b")] {
            tokens.ensure(subject).unwrap();
        }
        assert!(tokens.ensure(&w("a.b", "c")).is_err());
        let read = |file: &str| std::fs::read_to_string(scratch.path().join(file));
        let bearer = |file: &str| format!("Bearer {}", read(file).unwrap());
        let (first, second) = (
            bearer("waypoint-tokens/a.b.c"),
            bearer("waypoint-tokens/a.b"),
        );
        let node = bearer("tokens/a.b");
        drop(tokens);
        let tokens = open(&scratch);
        assert_eq!(caller(&tokens, &first), Ok(one.clone()));
        assert_eq!(caller(&tokens, &second), Ok(other.clone()));
        assert_eq!(caller(&tokens, &node), Ok(n("a.b")));
        let kept = ("a".to_owned(), "b".to_owned());
        tokens.retain(&[&kept].into()).unwrap();
        assert_eq!(caller(&tokens, &first), Err(NotAuthenticated::Unknown));
        assert_eq!(caller(&tokens, &second), Ok(other));
        assert_eq!(caller(&tokens, &node), Ok(n("a.b")));
        assert!(read("waypoint-tokens/a.b.c").is_err());
        tokens.ensure(&one).unwrap();
        assert_ne!(
            bearer("waypoint-tokens/a.b.c"),
            first,
            "a new Gateway, a new token"
        );
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
            assert!(tokens.ensure(&n(name)).is_err(), "{name:?}");
        }
        assert!(tokens.ensure(&n("ip-10-0-0-1.eu.example.com")).is_ok());
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
