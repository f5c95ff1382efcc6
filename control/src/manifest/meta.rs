//! `metadata`: what every object says of itself.

use mesh::manifest::METADATA;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Kind, Labels,
    read::{At, Faults},
};

/// The part of `metadata` that is acted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// A DNS subdomain.
    pub name: String,
    /// A DNS label; `default` if the manifest names none, empty for kinds without namespaces.
    pub namespace: String,
    /// Joins pods to the endpoints that mean them; empty if the manifest has none.
    pub uid: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// When it was created. `None` sorts first: objects without a date are older than those with one.
    pub created: Option<OffsetDateTime>,
    /// Counts the versions of its spec; 0 if the manifest does not say.
    pub generation: i64,
    /// Whether it is on its way out.
    pub deleting: bool,
}

/// Also says whether it may be of any namespace, for all that can be read.
pub(super) fn metadata(root: &At<'_>, kind: Kind, faults: &mut Faults) -> (Meta, bool) {
    let Some(at) = root.mapping("metadata", faults) else {
        faults.add(root, "metadata.name", "a name is required");
        let meta = Meta {
            namespace: fallback(kind),
            ..Meta::default()
        };
        return (meta, kind.namespaced());
    };
    let mut unknown = Faults::default();
    at.only(&METADATA, &mut unknown);
    // One of them may have been meant to be the namespace.
    let mut anywhere = !unknown.is_empty();
    faults.extend(unknown);
    let mut meta = Meta {
        labels: at.labels("labels", faults),
        annotations: at.labels("annotations", faults),
        uid: at.text("uid", faults).unwrap_or_default().to_owned(),
        generation: at.whole("generation", faults).unwrap_or_default(),
        deleting: at.get("deletionTimestamp").is_some(),
        namespace: fallback(kind),
        ..Meta::default()
    };
    match at.text("name", faults) {
        Some(name) if is_subdomain(name) => name.clone_into(&mut meta.name),
        Some(name) => faults.add(
            &at,
            "name",
            format!("{name:?} is not a DNS subdomain (a-z, 0-9, '-', '.')"),
        ),
        None => faults.add(&at, "name", "a name is required"),
    }
    if kind.namespaced() {
        match at.text("namespace", faults) {
            Some(namespace) if is_label(namespace) => {
                namespace.clone_into(&mut meta.namespace);
                anywhere = false;
            }
            Some(namespace) => {
                anywhere = true;
                faults.add(
                    &at,
                    "namespace",
                    format!("{namespace:?} is not a DNS label (a-z, 0-9, '-')"),
                );
            }
            None => anywhere |= at.get("namespace").is_some(),
        }
    }
    if let Some(text) = at.text("creationTimestamp", faults) {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(time) => meta.created = Some(time),
            Err(_) => faults.add(
                &at,
                "creationTimestamp",
                format!("{text:?} is not an RFC 3339 time"),
            ),
        }
    }
    (meta, anywhere && kind.namespaced())
}

fn fallback(kind: Kind) -> String {
    if kind.namespaced() {
        "default".to_owned()
    } else {
        String::new()
    }
}

/// RFC 1123 label: at most 63 of a-z, 0-9 and '-', the ends not '-'.
pub(crate) fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain: labels of any length joined by '.', at most 253 bytes.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty()
            && part.bytes().all(allowed)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}
