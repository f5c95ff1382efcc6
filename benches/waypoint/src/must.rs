//! What the figures have to be, beside what they are.

use std::fmt;

/// A figure and its bound.
#[derive(Clone, Debug)]
pub(crate) struct Must {
    /// What is measured.
    pub(crate) what: String,
    /// What it is.
    pub(crate) is: f64,
    /// What it may be at most.
    pub(crate) at_most: f64,
}

impl Must {
    pub(crate) fn new(what: impl Into<String>, is: f64, at_most: f64) -> Self {
        Self {
            what: what.into(),
            is,
            at_most,
        }
    }
}

impl fmt::Display for Must {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is <= self.at_most {
            "ok"
        } else {
            "missed"
        };
        write!(
            f,
            "{:<60} {:>8.2} at most {:>6.2}  {word}",
            self.what, self.is, self.at_most
        )
    }
}
