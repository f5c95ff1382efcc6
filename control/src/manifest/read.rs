//! Reads values out of a tree and says where each fault is.
//!
//! Absent and `null` are the same, as they are for a Kubernetes API server. Nothing is converted: a number where text
//! is expected is a fault, because the API server would refuse it too.

use std::net::IpAddr;

use mesh::manifest::in_case;
use serde_json::{Map, Value};

use super::{Fault, Labels};

/// A value and the path to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    path: String,
    value: &'a Value,
}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// A fault of a field of `at`; an empty `key` means `at` itself.
    pub(super) fn add(&mut self, at: &At<'_>, key: &str, reason: impl Into<String>) {
        let field = if key.is_empty() {
            at.path.clone()
        } else {
            at.field(key)
        };
        self.0.push(Fault {
            field,
            reason: reason.into(),
        });
    }

    /// Takes in those that were found apart.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Faults> for Vec<Fault> {
    fn from(faults: Faults) -> Self {
        faults.0
    }
}

impl<'a> At<'a> {
    pub(super) fn new(path: &str, value: &'a Value) -> Self {
        Self {
            path: path.to_owned(),
            value,
        }
    }

    /// The value itself.
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// Path of a field of this value.
    pub(super) fn field(&self, key: &str) -> String {
        match (
            self.path.is_empty(),
            key.contains(['.', '/', '[']) || key.is_empty(),
        ) {
            (true, _) => key.to_owned(),
            (false, false) => format!("{}.{key}", self.path),
            (false, true) => format!("{}[{key}]", self.path),
        }
    }

    /// Text of a field, if it is there and is text. Says nothing if not.
    pub(super) fn peek(&self, key: &str) -> Option<&'a str> {
        self.value.get(key)?.as_str()
    }

    /// A field that is neither absent nor null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Self {
            path: self.field(key),
            value,
        })
    }

    /// A field that is a mapping.
    pub(super) fn mapping(&self, key: &str, faults: &mut Faults) -> Option<Self> {
        let at = self.get(key)?;
        if !at.value.is_object() {
            faults.add(&at, "", "expected fields");
            return None;
        }
        Some(at)
    }

    /// Refuses every field that is not among `known`.
    pub(super) fn only(&self, known: &[&str], faults: &mut Faults) {
        let Some(map) = self.value.as_object() else {
            return faults.add(self, "", "expected fields");
        };
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            faults.add(
                self,
                key,
                format!("no such field; known here: {}", known.join(", ")),
            );
        }
    }

    /// Refuses a field that is one of `read` but for the case of its name.
    pub(super) fn in_case(&self, read: &[&str], faults: &mut Faults) {
        let keys = self.value.as_object().into_iter().flat_map(Map::keys);
        for key in keys {
            if let Some(meant) = in_case(key, read) {
                faults.add(self, key, format!("no such field: it is written {meant}"));
            }
        }
    }

    /// The items of a field that is a list; none if it is absent.
    pub(super) fn items(&self, key: &str, faults: &mut Faults) -> Vec<Self> {
        let Some(at) = self.get(key) else {
            return Vec::new();
        };
        let Some(items) = at.value.as_array() else {
            faults.add(&at, "", "expected a list");
            return Vec::new();
        };
        let item = |(i, value)| Self {
            path: format!("{}[{i}]", at.path),
            value,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The fields of a field that is a mapping, by key.
    pub(super) fn entries(&self, key: &str, faults: &mut Faults) -> Vec<(&'a str, Self)> {
        let Some(at) = self.mapping(key, faults) else {
            return Vec::new();
        };
        let Some(map) = at.value.as_object() else {
            return Vec::new();
        };
        map.iter()
            .map(|(key, value)| {
                (
                    key.as_str(),
                    Self {
                        path: at.field(key),
                        value,
                    },
                )
            })
            .collect()
    }

    /// This value as text.
    pub(super) fn as_text(&self, faults: &mut Faults) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            let hint = if self.value.is_number() || self.value.is_boolean() {
                ": put it in quotes"
            } else {
                ""
            };
            faults.add(self, "", format!("expected text{hint}"));
        }
        text
    }

    /// A field that is text.
    pub(super) fn text(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        self.get(key)?.as_text(faults)
    }

    /// A field that has to be there and is text; empty if it is not.
    pub(super) fn required(&self, key: &str, faults: &mut Faults) -> &'a str {
        match self.get(key) {
            Some(at) if at.is_empty_text() => faults.add(&at, "", "empty"),
            Some(at) => return at.as_text(faults).unwrap_or_default(),
            None => faults.add(self, key, "required"),
        }
        ""
    }

    /// The items of a field that is a list of at most so many; none if it is absent.
    pub(super) fn at_most(&self, key: &str, most: usize, faults: &mut Faults) -> Vec<Self> {
        let items = self.items(key, faults);
        if items.len() > most {
            faults.add(self, key, format!("more than {most}"));
        }
        items
    }

    /// A list of texts, with the place of each.
    pub(super) fn texts(&self, key: &str, faults: &mut Faults) -> Vec<(Self, &'a str)> {
        let items = self.items(key, faults);
        items
            .into_iter()
            .filter_map(|at| at.as_text(faults).map(|text| (at, text)))
            .collect()
    }

    /// A mapping from text to text, such as labels.
    pub(super) fn labels(&self, key: &str, faults: &mut Faults) -> Labels {
        let entries = self.entries(key, faults);
        entries
            .into_iter()
            .filter_map(|(key, at)| {
                at.as_text(faults)
                    .map(|text| (key.to_owned(), text.to_owned()))
            })
            .collect()
    }

    /// A field that is true or false; false if absent.
    pub(super) fn flag(&self, key: &str, faults: &mut Faults) -> bool {
        let Some(at) = self.get(key) else {
            return false;
        };
        at.value.as_bool().unwrap_or_else(|| {
            faults.add(&at, "", "expected true or false");
            false
        })
    }

    /// A field that is a whole number.
    pub(super) fn whole(&self, key: &str, faults: &mut Faults) -> Option<i64> {
        let at = self.get(key)?;
        let number = at.value.as_i64();
        if number.is_none() {
            faults.add(&at, "", "expected a whole number");
        }
        number
    }

    /// This value as a port number, 1 to 65535.
    pub(super) fn as_port(&self, faults: &mut Faults) -> Option<u16> {
        let port = self
            .value
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|&n| n != 0);
        if port.is_none() {
            faults.add(self, "", "expected a port number from 1 to 65535");
        }
        port
    }

    /// A field that is a port number.
    pub(super) fn port(&self, key: &str, faults: &mut Faults) -> Option<u16> {
        self.get(key)?.as_port(faults)
    }

    /// Whether this value is a number.
    pub(super) fn is_number(&self) -> bool {
        self.value.is_number()
    }

    /// Whether this value is a mapping.
    pub(super) fn is_mapping(&self) -> bool {
        self.value.is_object()
    }

    /// Whether this value is text without characters.
    pub(super) fn is_empty_text(&self) -> bool {
        self.value.as_str() == Some("")
    }

    /// This value as an IP address.
    pub(super) fn as_address(&self, faults: &mut Faults) -> Option<IpAddr> {
        let text = self.as_text(faults)?;
        let address = text.parse().ok();
        if address.is_none() {
            faults.add(self, "", format!("{text:?} is not an IP address"));
        }
        address
    }
}
