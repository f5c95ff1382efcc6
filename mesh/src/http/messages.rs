//! How many gRPC messages there are in a body, counted as its bytes pass.
//!
//! Nothing of a message is kept, and nothing is looked at but the five bytes in front of each: a byte that says whether it is
//! compressed, and its length.

/// Bytes in front of a message: a flag, and the length in four bytes, the largest first.
const PREFIX: u8 = 5;

/// Counts the messages of one body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    count: u64,
    /// Bytes of a message that are to come before the next prefix.
    skip: u64,
    /// Bytes of that prefix that were read.
    read: u8,
    /// The length, as far as it was read.
    length: u32,
}

impl Messages {
    /// Takes the next bytes of the body. They may begin and end anywhere.
    pub fn take(&mut self, mut bytes: &[u8]) {
        loop {
            // Longer than memory is: all of it.
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |it| it.min(bytes.len()));
            self.skip -= skipped as u64;
            let Some((byte, rest)) = bytes[skipped..].split_first() else {
                return;
            };
            bytes = rest;
            self.read += 1;
            if self.read > 1 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            if self.read == PREFIX {
                self.count += 1;
                self.skip = std::mem::take(&mut self.length).into();
                self.read = 0;
            }
        }
    }

    /// Messages so far; one counts as soon as its length is known.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(pieces: &[&[u8]]) -> u64 {
        let mut messages = Messages::default();
        for piece in pieces {
            messages.take(piece);
        }
        messages.count()
    }

    /// The same with all of it at hand.
    fn naive(mut body: &[u8]) -> u64 {
        let mut count = 0;
        while let Some((prefix, rest)) = body.split_at_checked(5) {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            body = rest.get(length as usize..).unwrap_or_default();
            count += 1;
        }
        count
    }

    #[test]
    fn a_message_counts_once_its_length_is_known() {
        let two = b"\0\0\0\0\x02hi\x01\0\0\0\0";
        for (pieces, count) in [
            (&[][..], 0),
            (&[&b""[..]], 0),
            (&[&two[..4]], 0),
            (&[&two[..5]], 1),
            (&[&two[..11]], 1),
            (&[two], 2),
            (&[&two[..3], &two[3..6], b"", &two[6..]], 2),
            (&[b"\0\xff\xff\xff\xff", b"\0\0\0\0\0\0\0\0\0\0"], 1),
        ] {
            assert_eq!(counted(pieces), count, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn where_a_body_is_cut_changes_nothing(
            lengths in prop::collection::vec(0_u32..600, 0..12),
            tail in prop::collection::vec(any::<u8>(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut body = Vec::new();
            for length in &lengths {
                body.push(0);
                body.extend_from_slice(&length.to_be_bytes());
                body.resize(body.len() + *length as usize, 7);
            }
            body.extend_from_slice(&tail);
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let pieces: Vec<_> = at.windows(2).map(|it| &body[it[0]..it[1]]).collect();
            prop_assert_eq!(counted(&pieces), naive(&body));
        }
    }
}
