//! Which workloads a policy is about.

use super::{
    Labels,
    read::{At, Faults},
};

/// Labels that a workload must carry, all of them. None: every workload in reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Key and value.
    pub labels: Labels,
}

impl Selector {
    /// Whether a workload with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Reads `selector: {matchLabels: …}` of a policy's spec; `None` if there is none.
pub(super) fn selector(spec: &At<'_>, faults: &mut Faults) -> Option<Selector> {
    let at = spec.mapping("selector", faults)?;
    at.only(&["matchLabels"], faults);
    let mut labels = Labels::new();
    for (key, value) in at.entries("matchLabels", faults) {
        let Some(text) = value.as_text(faults) else {
            continue;
        };
        if key.is_empty() {
            faults.add(&at, "matchLabels", "a label without a key");
        } else if key.contains('*') || text.contains('*') {
            faults.add(&value, "", "selectors have no wildcards");
        } else if key.len() > 253 + 1 + 63 || text.len() > 63 {
            faults.add(&value, "", "longer than a label can be");
        }
        labels.insert(key.to_owned(), text.to_owned());
    }
    Some(Selector { labels })
}

/// The selector of a policy that has faults elsewhere: `None` if it has none, or none that is itself without fault.
pub(super) fn peek(root: &At<'_>) -> Option<Selector> {
    let mut faults = Faults::default();
    let found = selector(&root.mapping("spec", &mut faults)?, &mut faults);
    found.filter(|_| faults.is_empty())
}
