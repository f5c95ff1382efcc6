//! ReferenceGrant: that objects of another namespace may refer to those of this one.

use super::super::{
    Meta,
    read::{At, Faults},
};

/// A ReferenceGrant: whoever is in `from` may refer to what is in `to`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceGrant {
    /// Metadata; what may be referred to is in its namespace.
    pub meta: Meta,
    /// At least one.
    pub from: Vec<GrantFrom>,
    /// At least one.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// To what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTo {
    /// API group; empty for the core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// `None`: all of the kind.
    pub name: Option<String>,
}

impl ReferenceGrant {
    /// Whether it lets objects of a group, kind and namespace refer to the Service `name` of its own namespace.
    pub fn grants_service(&self, group: &str, kind: &str, namespace: &str, name: &str) -> bool {
        let from =
            |it: &GrantFrom| it.group == group && it.kind == kind && it.namespace == namespace;
        let to = |it: &GrantTo| {
            it.group.is_empty()
                && it.kind == "Service"
                && it.name.as_ref().is_none_or(|it| it == name)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}

/// The API's own limit on both lists.
const MOST: usize = 16;

pub(in super::super) fn reference_grant(
    meta: Meta,
    root: &At<'_>,
    faults: &mut Faults,
) -> ReferenceGrant {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut grant = ReferenceGrant {
        meta,
        from: Vec::new(),
        to: Vec::new(),
    };
    let Some(spec) = root.mapping("spec", faults) else {
        faults.add(root, "spec", "required");
        return grant;
    };
    spec.only(&["from", "to"], faults);
    for key in ["from", "to"] {
        if spec.get(key).is_none() {
            faults.add(&spec, key, "at least one is required");
        }
    }
    for at in spec.at_most("from", MOST, faults) {
        at.only(&["group", "kind", "namespace"], faults);
        grant.from.push(GrantFrom {
            group: at.text("group", faults).unwrap_or_default().to_owned(),
            kind: at.required("kind", faults).to_owned(),
            namespace: at.required("namespace", faults).to_owned(),
        });
    }
    for at in spec.at_most("to", MOST, faults) {
        at.only(&["group", "kind", "name"], faults);
        let name = at.text("name", faults).filter(|name| !name.is_empty());
        grant.to.push(GrantTo {
            group: at.text("group", faults).unwrap_or_default().to_owned(),
            kind: at.required("kind", faults).to_owned(),
            name: name.map(str::to_owned),
        });
    }
    grant
}
