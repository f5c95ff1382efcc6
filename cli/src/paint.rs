//! Colour and marks: only on a terminal, and never where `NO_COLOR` is set (no-color.org).

use std::io::IsTerminal;

/// How to write to one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// For what is written to standard output.
    pub(crate) fn stdout() -> Self {
        Self::given(
            std::io::stdout().is_terminal(),
            std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        )
    }

    /// As the surroundings ask for it.
    pub(crate) fn given(terminal: bool, unwanted: bool) -> Self {
        Self {
            colour: terminal && !unwanted,
        }
    }

    /// The mark of something that holds, or does not.
    pub(crate) fn mark(self, holds: bool) -> String {
        if holds {
            self.coloured("32", "✓")
        } else {
            self.coloured("31", "✗")
        }
    }

    /// Less important text.
    pub(crate) fn dim(self, text: &str) -> String {
        self.coloured("2", text)
    }

    /// More important text.
    pub(crate) fn bold(self, text: &str) -> String {
        self.coloured("1", text)
    }

    fn coloured(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_that_wants_it() {
        assert_eq!(Paint::given(true, false).mark(true), "\x1b[32m✓\x1b[0m");
        assert_eq!(Paint::given(true, true).mark(true), "✓");
        assert_eq!(Paint::given(false, false).mark(false), "✗");
    }
}
