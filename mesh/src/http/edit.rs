//! What a rule makes of a request and its answer: headers, host and path, or a redirect instead of all that.

use crate::http::{
    claim::{Claim, claim, dashed},
    head::{self, Head},
    host::Scheme,
    path,
};

/// What a rule does beside choosing a backend. Applied in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Edits the request's headers.
    RequestHeaders(HeaderEdits),
    /// Edits the answer's headers.
    ResponseHeaders(HeaderEdits),
    /// Answers at once. Excludes a rewrite.
    Redirect(Redirect),
    /// Changes where the request seems to go.
    Rewrite(Rewrite),
}

/// Edits of headers. What is removed goes first, so that what a rule wants there is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// In place of all values.
    pub set: Box<[(Box<str>, Box<str>)]>,
    /// Beside other values.
    pub add: Box<[(Box<str>, Box<str>)]>,
    /// All values.
    pub remove: Box<[Box<str>]>,
}

/// One edit. Names are compared without case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// All values of the name go.
    Remove(&'a str),
    /// The value takes the place of all others.
    Set(&'a str, &'a str),
    /// The value stands beside others.
    Add(&'a str, &'a str),
}

impl HeaderEdits {
    /// Without the edits of headers that are not a rule's to edit in requests: those have no effect.
    #[must_use]
    pub fn for_requests(self) -> Self {
        let of_pairs = |list: Box<[(Box<str>, Box<str>)]>| {
            let mut list = list.into_vec();
            list.retain(|(name, _)| is_editable_in_requests(name));
            list.into_boxed_slice()
        };
        let mut remove = self.remove.into_vec();
        remove.retain(|name| is_editable_in_requests(name));
        Self {
            set: of_pairs(self.set),
            add: of_pairs(self.add),
            remove: remove.into_boxed_slice(),
        }
    }

    /// The edits in the order in which they happen, without those of headers that are not a rule's to edit.
    pub fn edits(&self) -> impl Iterator<Item = Edit<'_>> {
        let remove = self.remove.iter().map(|name| Edit::Remove(name));
        let set = self.set.iter().map(|(name, value)| Edit::Set(name, value));
        let add = self.add.iter().map(|(name, value)| Edit::Add(name, value));
        let all = remove.chain(set).chain(add);
        all.filter(|edit| match edit {
            Edit::Remove(name) => is_editable(name),
            Edit::Set(name, value) | Edit::Add(name, value) => is_editable(name) && is_value(value),
        })
    }
}

/// Whether a rule may edit a header of requests: of all that it may edit, not those that say who the client is, what proxies
/// of the mesh tell each other, or what a waypoint says itself. They would be believed, or overwritten. Nor what an
/// application may take for a header that frames the message.
pub fn is_editable_in_requests(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = dashed(&name);
    let is_own = || matches!(&*name, "x-forwarded-proto" | "expect");
    let claims = || matches!(claim(&name), Some(Claim::Client | Claim::Mesh));
    is_editable(&name) && !is_own() && !claims()
}

/// Whether a rule may edit a header: not those that frame the message or name its host (RFC 9110 §7.2, §7.6.1).
pub fn is_editable(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(head::is_token)
        && !head::FRAMING
            .iter()
            .chain(&["host"])
            .any(|other| name.eq_ignore_ascii_case(other))
}

/// RFC 9110 §5.5.
fn is_value(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// In place of all of it.
    Full(Box<str>),
    /// In place of the prefix that matched, by segments.
    Prefix(Box<str>),
}

impl PathEdit {
    /// The path that results, in its normal form. `prefix` is what matched of a prefix, without trailing slash; a rule that
    /// did not match by one keeps its path.
    pub fn apply(&self, path: &str, prefix: Option<&str>) -> Result<String, path::Malformed> {
        let edited = match (self, prefix.and_then(|prefix| path.strip_prefix(prefix))) {
            (Self::Full(full), _) => full.to_string(),
            (Self::Prefix(_), None) => return Ok(path.to_owned()),
            (Self::Prefix(new), Some(rest)) => format!("{}{rest}", new.trim_end_matches('/')),
        };
        let edited = if edited.is_empty() { "/" } else { &edited };
        path::normal(edited.as_bytes()).map(|normal| normal.into_owned())
    }
}

/// Changes what the backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// In place of the host.
    pub host: Option<Box<str>>,
    /// In place of the path or its prefix.
    pub path: Option<PathEdit>,
}

impl Rewrite {
    /// Path and query for the backend. `prefix` is what matched.
    pub fn target(
        &self,
        head: &Head<'_>,
        prefix: Option<&str>,
    ) -> Result<Vec<u8>, path::Malformed> {
        let path = edited(self.path.as_ref(), head, prefix)?;
        Ok(head::with_query(&path, head.query))
    }
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Else that of the request.
    pub scheme: Option<Scheme>,
    /// Else that of the request.
    pub host: Option<Box<str>>,
    /// Else that of the scheme if one is set, else the one that was asked.
    pub port: Option<u16>,
    /// Else that of the request.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// The `location`. `port` is the one that was asked, `prefix` what matched. Port 80 of http and 443 of https go
    /// without saying (Gateway API, HTTPRequestRedirectFilter). The query stays.
    pub fn location(
        &self,
        head: &Head<'_>,
        port: u16,
        prefix: Option<&str>,
    ) -> Result<Vec<u8>, path::Malformed> {
        let scheme = self.scheme.unwrap_or(head.scheme);
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => scheme.port(),
            (None, None) => port,
        };
        let host = self.host.as_deref().unwrap_or(&head.host.name);
        let mut location = format!("{}://{host}", scheme.as_str());
        if port != scheme.port() {
            location.push_str(&format!(":{port}"));
        }
        // The whole server has no path (RFC 9112 §3.2.4).
        let path = edited(self.path.as_ref(), head, prefix)?;
        location.push_str(path.trim_start_matches('*'));
        Ok(head::with_query(&location, head.query))
    }
}

fn edited(
    edit: Option<&PathEdit>,
    head: &Head<'_>,
    prefix: Option<&str>,
) -> Result<String, path::Malformed> {
    match edit {
        Some(edit) => edit.apply(&head.path.normal, prefix),
        None => Ok(head.path.normal.clone().into_owned()),
    }
}

#[cfg(test)]
mod tests;
