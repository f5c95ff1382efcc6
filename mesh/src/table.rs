//! A hash table in chunks that generations share.
//!
//! Cloning copies a pointer per chunk; writing copies the chunks that it touches and leaves all clones as they were.
//! So a reader keeps an unchanging view for the price of an `Arc`, and one changed pod among a hundred thousand costs
//! a copy of a few hundred entries. Not a general map: no iteration order, no entry API.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

/// Entries in a chunk, on average, before the number of chunks doubles.
const CHUNK: usize = 256;

/// A copy-on-write hash table.
pub struct Table<K, V> {
    /// A power of two of them.
    chunks: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
    len: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Table<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            chunks: vec![Arc::default()],
            hasher: RandomState::new(),
            len: 0,
        }
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.chunks[self.chunk(key)].get(key)
    }

    /// Puts a value in, and gives back the one that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= CHUNK * self.chunks.len() {
            self.grow();
        }
        let chunk = self.chunk(&key);
        let old = Arc::make_mut(&mut self.chunks[chunk]).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a value out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunk(key);
        // Looked up first: taking out what is not there must not copy a chunk.
        self.chunks[chunk].get(key)?;
        let old = Arc::make_mut(&mut self.chunks[chunk]).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    fn chunk<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The map inside uses the same bits of its own, differently seeded hash.
        let hash = self.hasher.hash_one(key) & (self.chunks.len() as u64 - 1);
        usize::try_from(hash).expect("below the number of chunks")
    }

    fn grow(&mut self) {
        let chunks = vec![HashMap::new(); self.chunks.len() * 2];
        let chunks = chunks.into_iter().map(Arc::new).collect();
        let old = std::mem::replace(&mut self.chunks, chunks);
        for (key, value) in old.iter().flat_map(|chunk| chunk.iter()) {
            let chunk = self.chunk(key);
            Arc::make_mut(&mut self.chunks[chunk]).insert(key.clone(), value.clone());
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone, V: Clone> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            hasher: self.hasher.clone(),
            len: self.len,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.chunks.iter().flat_map(|chunk| chunk.iter()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let mut table = Table::new();
        for i in 0..10_000 {
            assert_eq!(table.insert(i, i * 2), None);
        }
        assert_eq!(table.len(), 10_000);
        assert!((0..10_000).all(|i| table.get(&i) == Some(&(i * 2))));
        assert_eq!(table.insert(7, 0), Some(14));
        assert_eq!(table.remove(&7), Some(0));
        assert_eq!(table.remove(&7), None);
        assert_eq!(table.len(), 9_999);
        assert_eq!(table.iter().count(), 9_999);
    }

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut table = Table::new();
        for i in 0..1000 {
            table.insert(i, 1);
        }
        let before = table.clone();
        table.insert(3, 2);
        table.remove(&4);
        assert_eq!((before.get(&3), before.get(&4)), (Some(&1), Some(&1)));
        assert_eq!((table.get(&3), table.get(&4)), (Some(&2), None));
    }

    #[test]
    fn one_write_copies_one_chunk() {
        let mut table = Table::new();
        for i in 0..10_000 {
            table.insert(i, 1);
        }
        let before = table.clone();
        table.insert(5, 2);
        let same = |(a, b): &(&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        let copied = table
            .chunks
            .iter()
            .zip(&before.chunks)
            .filter(|pair| !same(pair))
            .count();
        assert_eq!(copied, 1);
    }
}
