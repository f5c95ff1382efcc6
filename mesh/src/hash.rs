//! A quick hash for tables that every request asks.
//!
//! Who chooses a table's keys could choose ones that fall on one another, so peers may ask such a table, never fill it:
//! what is in it comes from the control plane or is made here.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map whose keys no peer chooses.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Multiplies and rotates, eight bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quick(u64);

/// The golden ratio's fraction, odd.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words
            .iter()
            .for_each(|word| self.add(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    /// Tables look at the lowest and the highest bits; the best mixed ones are in the middle and above.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::Hash};

    use super::*;

    fn hash(value: impl Hash) -> u64 {
        let mut hasher = Quick::default();
        value.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn likely_keys_differ_in_the_bits_that_tables_look_at() {
        let names = (0..10_000).map(|n| hash(format!("Kubernetes//Pod/shop/orders-{n}")));
        let pointers = (0..10_000_usize).map(|n| hash(0x7f00_0000_0000 + n * 64));
        for all in [names.collect::<Vec<_>>(), pointers.collect()] {
            let distinct = |bits: fn(u64) -> u64| {
                all.iter()
                    .map(|hash| bits(*hash))
                    .collect::<HashSet<_>>()
                    .len()
            };
            assert_eq!(distinct(|hash| hash), 10_000);
            // Of 16,384 places, a random choice would meet some 7,480.
            assert!(distinct(|hash| hash & 0x3fff) > 6_500);
            assert_eq!(distinct(|hash| hash >> 57), 128);
        }
    }

    #[test]
    fn texts_of_which_one_begins_the_other_differ() {
        assert_ne!(hash("a"), hash("a\0"));
        assert_ne!(hash("12345678"), hash("12345678\0"));
        assert_ne!(hash(("ab", "c")), hash(("a", "bc")));
    }
}
