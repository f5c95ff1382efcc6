//! Names that repeat, as numbers.
//!
//! A mesh of a hundred thousand pods has a few hundred namespaces, service accounts and nodes. Each such name is kept
//! once and stands for itself as a `u32`: workloads stay small and comparing is one instruction. Names that are unique
//! (a pod's, a uid) are not interned, because an interned name lives as long as the process.

use std::{
    collections::HashMap,
    fmt,
    sync::{OnceLock, RwLock},
};

/// A name that is kept once. Copying and comparing cost what they cost for a `u32`: 0 for the empty one, else one more
/// than where the text is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u32);

/// Names are stored in blocks that never move, so that reading takes no lock. Block `n` holds `64 << n` names.
const BLOCKS: usize = 26;
const FIRST_BLOCK: usize = 64;

static TEXT: [OnceLock<Box<[OnceLock<&'static str>]>>; BLOCKS] =
    [const { OnceLock::new() }; BLOCKS];
static IDS: OnceLock<RwLock<HashMap<&'static str, u32>>> = OnceLock::new();

impl Name {
    /// The empty name.
    pub const EMPTY: Self = Self(0);

    /// The name for this text; the same text always gives the same name.
    pub fn new(text: &str) -> Self {
        if text.is_empty() {
            return Self::EMPTY;
        }
        let ids = IDS.get_or_init(RwLock::default);
        if let Some(&id) = ids.read().expect("no holder panics").get(text) {
            return Self(id);
        }
        let mut ids = ids.write().expect("no holder panics");
        if let Some(&id) = ids.get(text) {
            return Self(id);
        }
        let at = u32::try_from(ids.len()).expect("fewer than 2^32 distinct names");
        let id = at + 1;
        let text: &'static str = Box::leak(text.into());
        let (block, at) = place(at);
        let slots = TEXT[block]
            .get_or_init(|| (0..FIRST_BLOCK << block).map(|_| OnceLock::new()).collect());
        slots[at].get_or_init(|| text);
        ids.insert(text, id);
        Self(id)
    }

    /// The name for this text if there is one already; none is made.
    pub fn existing(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::EMPTY);
        }
        let ids = IDS.get_or_init(RwLock::default);
        let ids = ids.read().expect("no holder panics");
        ids.get(text).copied().map(Self)
    }

    /// The text that the name stands for.
    pub fn as_str(self) -> &'static str {
        let Some(at) = self.0.checked_sub(1) else {
            return "";
        };
        let (block, at) = place(at);
        let slots = TEXT[block].get().expect("a name is made after its text");
        slots[at].get().expect("a name is made after its text")
    }

    /// Whether this is the empty name.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

/// Block and position of the text at an index: block `n` begins at `64 * (2^n - 1)`.
fn place(index: u32) -> (usize, usize) {
    let at = index as usize / FIRST_BLOCK + 1;
    let block = at.ilog2() as usize;
    (block, index as usize - FIRST_BLOCK * ((1 << block) - 1))
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_text_is_one_name() {
        assert_eq!(Name::new("shop"), Name::new("shop"));
        assert_ne!(Name::new("shop"), Name::new("bank"));
        assert_eq!(Name::new("shop").as_str(), "shop");
        assert!(Name::new("").is_empty() && !Name::new("shop").is_empty());
        assert_eq!(Name::EMPTY.as_str(), "");
        assert_eq!(Name::existing(""), Some(Name::EMPTY));
    }

    #[test]
    fn asking_for_a_name_makes_none() {
        assert_eq!(Name::existing("asked-for"), None);
        assert_eq!(Name::existing("asked-for"), None);
        let name = Name::new("asked-for");
        assert_eq!(Name::existing("asked-for"), Some(name));
    }

    #[test]
    fn names_keep_their_text_across_blocks() {
        let names: Vec<_> = (0..1000)
            .map(|i| Name::new(&format!("across-{i}")))
            .collect();
        for (i, name) in names.iter().enumerate() {
            assert_eq!(name.as_str(), format!("across-{i}"));
        }
    }

    #[test]
    fn blocks_follow_each_other() {
        let mut expected = (0, 0);
        for id in 0..10_000 {
            assert_eq!(place(id), expected);
            expected.1 += 1;
            if expected.1 == FIRST_BLOCK << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
    }

    #[test]
    fn threads_agree() {
        let make = || {
            (0..500)
                .map(|i| Name::new(&format!("agree-{i}")))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let all: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
