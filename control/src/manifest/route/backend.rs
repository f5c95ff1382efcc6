//! Where requests go, and the rules of a TCPRoute, which say nothing else.

use super::{
    super::read::{At, Faults},
    BackendRef, RouteKind, Rule, filter,
    parent::namespace,
};

/// The API's own limits.
const MOST_BACKENDS: usize = 16;
const LARGEST_WEIGHT: i64 = 1_000_000;
/// Of the name of a rule, a DNS subdomain.
const NAME: &str = "name";

pub(super) fn rule(at: &At<'_>, faults: &mut Faults) -> Rule {
    at.only(&[NAME, "backendRefs"], faults);
    let rule = Rule {
        name: name(at, faults),
        backends: backends(at, RouteKind::Tcp, faults),
        ..Rule::default()
    };
    if rule.backends.is_empty() {
        faults.add(at, "backendRefs", "at least one is required");
    }
    rule
}

/// The name of a rule.
pub(super) fn name(at: &At<'_>, faults: &mut Faults) -> String {
    let name = at.text(NAME, faults).unwrap_or_default();
    if at.get(NAME).is_some() && !super::super::meta::is_subdomain(name) {
        let reason = format!("{name:?} is not a DNS subdomain (a-z, 0-9, '-', '.')");
        faults.add(at, NAME, reason);
    }
    name.to_owned()
}

pub(super) fn backends(rule: &At<'_>, kind: RouteKind, faults: &mut Faults) -> Vec<BackendRef> {
    let backends = rule.at_most("backendRefs", MOST_BACKENDS, faults);
    backends
        .iter()
        .map(|at| backend(at, kind, faults))
        .collect()
}

fn backend(at: &At<'_>, kind: RouteKind, faults: &mut Faults) -> BackendRef {
    let fields = [
        "group",
        "kind",
        "namespace",
        "name",
        "port",
        "weight",
        "filters",
    ];
    let last = match kind {
        RouteKind::Tcp => fields.len() - 1,
        _ => fields.len(),
    };
    at.only(&fields[..last], faults);
    let backend = BackendRef {
        group: at.text("group", faults).unwrap_or_default().to_owned(),
        kind: at.text("kind", faults).unwrap_or("Service").to_owned(),
        namespace: namespace(at, faults),
        name: at.required("name", faults).to_owned(),
        port: at.port("port", faults),
        weight: weight(at, faults),
        filters: match kind {
            RouteKind::Tcp => Vec::new(),
            _ => filter::filters(at, kind, faults),
        },
    };
    if backend.is_service() && at.get("port").is_none() {
        faults.add(at, "port", "a Service needs one");
    }
    backend
}

fn weight(at: &At<'_>, faults: &mut Faults) -> u32 {
    let weight = at.whole("weight", faults).unwrap_or(1);
    if !(0..=LARGEST_WEIGHT).contains(&weight) {
        let reason = format!("expected a number from 0 to {LARGEST_WEIGHT}");
        faults.add(at, "weight", reason);
    }
    u32::try_from(weight).unwrap_or_default()
}

impl BackendRef {
    /// Whether it is a Service of the core.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }
}
