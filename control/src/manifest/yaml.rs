//! Text into documents, documents into trees.
//!
//! A file is cut into documents before any is parsed, so that one that does not parse costs no other.

use serde_json::Value;

use super::Fault;

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in a file.
    pub file: usize,
    /// Documents in a file.
    pub documents: usize,
    /// Levels of nesting in a document.
    pub depth: usize,
    /// Values in a document.
    pub nodes: usize,
    /// Values in a document that come from aliases of others.
    pub replayed: usize,
}

/// The limits in force.
pub const LIMITS: Limits = Limits {
    file: 64 << 20,
    documents: 20_000,
    depth: 64,
    nodes: 1 << 22,
    replayed: 1 << 16,
};

/// One document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// From 1; empty documents count.
    pub number: usize,
    /// The line of the file, from 1, at which the text begins.
    pub line: usize,
    /// Without the `---` before it.
    pub text: &'a str,
}

/// Cuts a file at its `---` lines. A `---` at the start of a line begins a document wherever it stands, inside a block
/// scalar too (YAML 1.2.2 §9.1.2), so no parsing is needed to find them. Documents without content are left out.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut line, mut number) = (0, 1, 1);
    let mut at = 0;
    for (i, content) in text.split_inclusive('\n').enumerate() {
        if is_marker(content) {
            documents.push(Document {
                number,
                line,
                text: &text[start..at],
            });
            // Content may follow the marker on its line.
            (start, line, number) = (at + 3, i + 1, number + 1);
        }
        at += content.len();
    }
    documents.push(Document {
        number,
        line,
        text: &text[start..],
    });
    // A file mostly begins with a marker or a comment: what is before the first document is not one.
    if documents.len() > 1 && is_blank(documents[0].text) {
        documents.remove(0);
        for document in &mut documents {
            document.number -= 1;
        }
    }
    documents.retain(|document| !is_blank(document.text));
    documents
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    })
}

/// Parses one document. Keys are text; a key that comes twice is refused.
pub fn tree(document: &Document<'_>) -> Result<Value, Fault> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: LIMITS.depth,
            max_nodes: LIMITS.nodes,
            max_events: 2 * LIMITS.nodes,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: LIMITS.replayed },
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options::<Value>(document.text, options)
        .map_err(|error| fault(document, &error))
}

fn fault(document: &Document<'_>, error: &serde_saphyr::Error) -> Fault {
    let text = error.to_string();
    let reason = text.lines().next().unwrap_or_default().to_owned();
    let line = error
        .location()
        .map(|location| location.line() as usize + document.line - 1);
    let field = line.map(|line| format!("line {line}")).unwrap_or_default();
    Fault {
        field,
        reason: format!("not YAML that can be read: {reason}"),
    }
}
