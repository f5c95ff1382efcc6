//! What a route is attached to, and for which host names.

use super::{
    super::{
        meta::{is_label, is_subdomain},
        read::{At, Faults},
    },
    ParentRef,
};

/// The API's own limits.
const MOST_PARENTS: usize = 32;
const MOST_HOSTNAMES: usize = 16;

pub(super) fn parents(spec: &At<'_>, faults: &mut Faults) -> Vec<ParentRef> {
    let mut parents = Vec::new();
    for at in spec.at_most("parentRefs", MOST_PARENTS, faults) {
        let found = parent(&at, faults);
        if parents.contains(&found) {
            faults.add(&at, "", "is there twice");
        }
        parents.push(found);
    }
    parents
}

fn parent(at: &At<'_>, faults: &mut Faults) -> ParentRef {
    at.only(
        &["group", "kind", "namespace", "name", "sectionName", "port"],
        faults,
    );
    ParentRef {
        group: at.text("group", faults).map(str::to_owned),
        kind: at.text("kind", faults).map(str::to_owned),
        namespace: namespace(at, faults),
        name: at.required("name", faults).to_owned(),
        section: at.text("sectionName", faults).map(str::to_owned),
        port: at.port("port", faults),
    }
}

/// The field `namespace`.
pub(super) fn namespace(at: &At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text("namespace", faults)?;
    if !is_label(text) {
        let reason = format!("{text:?} is not a DNS label (a-z, 0-9, '-')");
        faults.add(at, "namespace", reason);
    }
    Some(text.to_owned())
}

pub(super) fn hostnames(spec: &At<'_>, faults: &mut Faults) -> Vec<String> {
    let hostnames = spec.texts("hostnames", faults);
    if hostnames.len() > MOST_HOSTNAMES {
        faults.add(spec, "hostnames", format!("more than {MOST_HOSTNAMES}"));
    }
    for (at, text) in &hostnames {
        if !is_hostname(text.strip_prefix("*.").unwrap_or(text)) {
            let reason = format!("{text:?} is not a host name, with or without *. before it");
            faults.add(at, "", reason);
        }
    }
    hostnames
        .iter()
        .map(|(_, text)| (*text).to_owned())
        .collect()
}

/// A DNS name, not an IP address.
pub(super) fn is_hostname(text: &str) -> bool {
    is_subdomain(text) && text.parse::<std::net::IpAddr>().is_err()
}
