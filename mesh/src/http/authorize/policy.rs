//! A layer 7 authorization policy, as values that can only say what can be evaluated, or that it cannot be.

use crate::{
    http::{authorize::Template, path},
    model::{Match, StringMatch},
    name::Name,
};

/// One policy that applies to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: Name,
    /// What it does.
    pub effect: Effect,
}

/// What a policy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It could not be understood, or is named and nobody knows it: it denies everything. Says why.
    DenyAll(String),
    /// It does its action to what its rules match.
    Rules {
        /// What happens to what matches.
        action: Action,
        /// Evaluated and told, never enforced.
        dry_run: bool,
        /// Any of them that matches makes the policy match; none: it never matches.
        rules: Box<[Rule]>,
    },
}

/// What a policy does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only what some such policy matches passes.
    Allow,
    /// What it matches does not pass.
    Deny,
    /// What it matches is told.
    Audit,
}

/// Any source, any operation and all conditions; what is empty does not ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who asks.
    pub from: Box<[Source]>,
    /// What for.
    pub to: Box<[Operation]>,
    /// Under which conditions.
    pub when: Box<[Condition]>,
}

impl Rule {
    /// Whether any of it is about a request, and not only about a connection.
    pub fn asks_about_requests(&self) -> bool {
        let operation = |operation: &Operation| {
            let Operation {
                hosts,
                not_hosts,
                ports: _,
                not_ports: _,
                methods,
                not_methods,
                paths,
                not_paths,
            } = operation;
            let texts = [hosts, not_hosts, methods, not_methods];
            texts.iter().any(|list| !list.is_empty()) || !paths.is_empty() || !not_paths.is_empty()
        };
        let condition = |condition: &Condition| match condition {
            Condition::Operation(asked) => operation(asked),
            Condition::Header { .. } => true,
            Condition::Peer(_) | Condition::Unserved(_) => false,
        };
        self.to.iter().any(operation) || self.when.iter().any(condition)
    }
}

/// Who asks. Entirely empty it cannot be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// By identity and address.
    pub peer: Match,
    /// An attribute beside these that is known and not served.
    pub unserved: Option<Box<str>>,
}

/// What is asked for. What is there has to match by any of its values, and by none of what it must not be. Entirely empty
/// it cannot be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Without case; with the port unless it is the scheme's.
    pub hosts: Box<[StringMatch]>,
    /// Must not match.
    pub not_hosts: Box<[StringMatch]>,
    /// Of the service.
    pub ports: Box<[u16]>,
    /// Must not be it.
    pub not_ports: Box<[u16]>,
    /// Case matters.
    pub methods: Box<[StringMatch]>,
    /// Must not match.
    pub not_methods: Box<[StringMatch]>,
    /// In the normal form, without query.
    pub paths: Box<[PathPattern]>,
    /// Must not match.
    pub not_paths: Box<[PathPattern]>,
}

/// What else has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Of the peer or the connection.
    Peer(Match),
    /// Of what is asked for.
    Operation(Operation),
    /// Of a header: in a DENY of any of its values, in an ALLOW of all of them.
    Header {
        /// Without case.
        name: Box<str>,
        /// None: any.
        values: Box<[StringMatch]>,
        /// Must not match: in a DENY one value that does not will do, as will none; in an ALLOW none may.
        not_values: Box<[StringMatch]>,
    },
    /// An attribute that is known and not served, or not known at all.
    Unserved(Box<str>),
}

/// Which paths a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// Compared with the path. Made by [`PathPattern::read`].
    Text(StringMatch),
    /// With operators.
    Template(Template),
}

impl PathPattern {
    /// Reads `/exact`, `/prefix*`, `*suffix`, `*` (any) or a template; each spelled as in a normal path.
    pub fn read(text: &str) -> Result<Self, path::Malformed> {
        if text.contains(['{', '}']) {
            return Template::read(text).map(Self::Template);
        }
        let spelled = |text: &str| path::spelled(text.as_bytes()).map(|text| text.into());
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => StringMatch::Presence,
            (Some(suffix), _) => StringMatch::Suffix(spelled(suffix)?),
            (None, Some(prefix)) => StringMatch::Prefix(spelled(prefix)?),
            (None, None) => StringMatch::Exact(path::normal(text.as_bytes())?.into()),
        };
        Ok(Self::Text(pattern))
    }

    /// Reads a value of a policy in all its spellings, any of which a reading of a path may match: as it is written, and with
    /// what needs no escape bare. So a DENY of `/a%40b` is one of `/a@b` too, and the other way round.
    pub fn spellings(text: &str) -> Result<Vec<Self>, path::Malformed> {
        let written = Self::read(text)?;
        let bare = written.bare();
        Ok(std::iter::once(written).chain(bare).collect())
    }

    fn bare(&self) -> Option<Self> {
        let bare = |text: &str| path::bare(text).map(Into::into);
        match self {
            Self::Text(StringMatch::Exact(text)) => bare(text).map(StringMatch::Exact),
            Self::Text(StringMatch::Prefix(text)) => bare(text).map(StringMatch::Prefix),
            Self::Text(StringMatch::Suffix(text)) => bare(text).map(StringMatch::Suffix),
            Self::Text(StringMatch::Presence) => None,
            Self::Template(template) => return template.bare().map(Self::Template),
        }
        .map(Self::Text)
    }

    /// Whether it matches a path.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(pattern) => pattern.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

/// Reads a value of a policy: `exact`, `prefix*`, `*suffix` or `*` (present and not empty). Any other star is a star.
pub fn text(value: &str) -> StringMatch {
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (None, None) => StringMatch::Exact(value.into()),
    }
}

/// Reads a value of `hosts`; a dot at the end means nothing.
pub fn host(value: &str) -> StringMatch {
    text(value.strip_suffix('.').unwrap_or(value))
}
