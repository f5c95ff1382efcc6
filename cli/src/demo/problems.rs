//! What is wrong with the manifests while the demo stays up, told where the edit was suggested.
//!
//! Nothing is judged here: the control plane writes its judgement into a file, and this tells what is new in it.

use std::collections::BTreeSet;

use serde_json::Value;

/// The problems that were told last; none at first.
#[derive(Debug, Default)]
pub(crate) struct Problems(BTreeSet<String>);

/// A difference worth telling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Problems that were not there before.
    pub new: Vec<String>,
    /// How many there are now, the new ones among them.
    pub left: usize,
}

impl Problems {
    /// What has changed by this state of the control plane's statuses ([`control::follow::STATUSES`]); a text that is
    /// not such a state changes nothing.
    pub(crate) fn change(&mut self, statuses: &str) -> Option<Change> {
        let now = problems(statuses)?;
        if now == self.0 {
            return None;
        }
        let before = std::mem::replace(&mut self.0, now);
        Some(Change {
            new: self.0.difference(&before).cloned().collect(),
            left: self.0.len(),
        })
    }
}

fn problems(statuses: &str) -> Option<BTreeSet<String>> {
    let page: Value = serde_json::from_str(statuses).ok()?;
    let single = page["problems"].as_array()?.iter().map(sentence);
    let whole = ["heldBack", "unreadable"]
        .into_iter()
        .filter_map(|key| page[key].as_str().map(str::to_owned));
    Some(single.chain(whole).collect())
}

/// As [`control::source::Problem`] is written, of which this is the JSON.
fn sentence(problem: &Value) -> String {
    let text = |key: &str| problem[key].as_str().filter(|text| !text.is_empty());
    let document = problem["document"]
        .as_u64()
        .map(|number| format!("document {number}"));
    let place = [
        text("file").map(str::to_owned),
        document,
        text("object").map(str::to_owned),
        text("field").map(str::to_owned),
    ];
    let place: Vec<_> = place.into_iter().flatten().collect();
    format!(
        "{}: {}",
        place.join(", "),
        text("reason").unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(problems: &[&Value], held_back: Option<&str>) -> String {
        json!({ "heldBack": held_back, "unreadable": null, "problems": problems }).to_string()
    }

    #[test]
    fn each_change_is_told_once() {
        let mut known = Problems::default();
        let field = json!({
            "file": "m/p.yaml", "document": 3, "object": "AuthorizationPolicy/shop/x", "field": "spec.rulez",
            "reason": "unknown field",
        });
        let whole = json!({ "file": "m/q.yaml", "document": null, "object": null, "field": "", "reason": "not UTF-8 text" });
        let first = "m/p.yaml, document 3, AuthorizationPolicy/shop/x, spec.rulez: unknown field";
        let second = "m/q.yaml: not UTF-8 text";
        let told = |new: &[&str], left| {
            let new = new.iter().map(|&text| text.to_owned()).collect();
            Some(Change { new, left })
        };

        assert_eq!(known.change(&page(&[], None)), None);
        assert_eq!(known.change(&page(&[&field], None)), told(&[first], 1));
        assert_eq!(known.change(&page(&[&field], None)), None);
        assert_eq!(known.change("half a fi"), None);
        assert_eq!(
            known.change(&page(&[&field, &whole], Some("x denies"))),
            told(&[second, "x denies"], 3)
        );
        assert_eq!(known.change(&page(&[&whole], None)), told(&[], 1));
        assert_eq!(known.change(&page(&[], None)), told(&[], 0));
    }

    #[test]
    fn a_problem_reads_as_the_control_plane_writes_it() {
        use control::{manifest, source::Problem};
        let problem = Problem {
            file: "m/p.yaml".into(),
            document: Some(2),
            object: Some(manifest::ObjectRef::new(
                manifest::Kind::Service,
                "shop",
                "cart",
            )),
            field: "spec.ports".to_owned(),
            reason: "not a list".to_owned(),
        };
        let object = problem.object.as_ref().map(ToString::to_string);
        let json = json!({
            "file": "m/p.yaml", "document": 2, "object": object, "field": problem.field, "reason": problem.reason,
        });
        assert_eq!(sentence(&json), problem.to_string());
    }
}
