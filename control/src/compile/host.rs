//! Which services the `host` of a rule is about.
//!
//! A name without a dot is one of the rule's own namespace. What a resolver would take for a service is one too:
//! `<name>.<namespace>` and `<name>.<namespace>.svc`, in any case, with or without the dot at the end. A host of a ServiceEntry is
//! meant as a whole. In doubt it is about more.

use super::Scope;
use crate::{manifest::Service, world::host};

/// Whether a host that is written in an object of `namespace` is a service.
pub(super) fn is_of(scope: Scope<'_>, namespace: &str, host: &str, service: &Service) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let meta = &service.meta;
    let whole = scope.hostname(&meta.namespace, &meta.name);
    if host::parts(&meta.name).is_some() {
        // A name of its own, of which nothing is short.
        let whole = whole.to_ascii_lowercase();
        let below = whole.strip_prefix('*').is_some_and(|it| host.ends_with(it));
        return below || matches(host, &whole);
    }
    if !host.contains(['.', '*']) {
        return host == meta.name && namespace == meta.namespace;
    }
    let short = format!("{}.{}", meta.name, meta.namespace);
    let with_zone = format!("{short}.svc");
    [short, with_zone, whole]
        .iter()
        .any(|name| matches(host, &name.to_ascii_lowercase()))
}

/// A `*` that is not the first character has no meaning that is agreed on, so what stands after it is not looked at.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some(("", suffix)) if !suffix.contains('*') => name.ends_with(suffix),
        Some((prefix, _)) => name.starts_with(prefix),
    }
}
