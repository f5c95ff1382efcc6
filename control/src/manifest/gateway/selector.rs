//! A label selector with expressions (`LabelSelector` of `meta/v1`).

use super::{
    super::read::{At, Faults},
    Labels,
};

/// Labels that an object must carry, and further demands; all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Key and value.
    pub labels: Labels,
    /// `matchExpressions`.
    pub requirements: Vec<Requirement>,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the operator of that name")]
pub enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl LabelSelector {
    /// Whether an object with these labels is selected; one without labels and expressions selects all.
    pub fn matches(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.labels.iter().all(has) && self.requirements.iter().all(|it| it.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

pub(in crate::manifest) fn label_selector(at: &At<'_>, faults: &mut Faults) -> LabelSelector {
    at.only(&["matchLabels", "matchExpressions"], faults);
    let expressions = at.items("matchExpressions", faults);
    LabelSelector {
        labels: at.labels("matchLabels", faults),
        requirements: expressions
            .iter()
            .filter_map(|at| requirement(at, faults))
            .collect(),
    }
}

fn requirement(at: &At<'_>, faults: &mut Faults) -> Option<Requirement> {
    at.only(&["key", "operator", "values"], faults);
    let key = at.required("key", faults).to_owned();
    let texts = at.texts("values", faults);
    let values: Vec<_> = texts.iter().map(|(_, text)| (*text).to_owned()).collect();
    let operator = at.required("operator", faults);
    let lists = matches!(operator, "In" | "NotIn");
    if lists && values.is_empty() {
        faults.add(at, "values", format!("{operator} needs at least one"));
    } else if !lists && !values.is_empty() {
        faults.add(at, "values", "only with In and NotIn");
    }
    match operator {
        "In" => Some(Requirement::In(key, values)),
        "NotIn" => Some(Requirement::NotIn(key, values)),
        "Exists" => Some(Requirement::Exists(key)),
        "DoesNotExist" => Some(Requirement::DoesNotExist(key)),
        "" => None,
        other => {
            let reason = format!("{other:?} is none of In, NotIn, Exists, DoesNotExist");
            faults.add(at, "operator", reason);
            None
        }
    }
}
