//! One object as an API server sends it, whatever somebody has put into it.
//!
//! One that cannot be read in the midst of a list, or of a watch, would make all of its kind unreadable. So reading it
//! fails at nothing that an API server stores: what is nested deeper than anything that means something is left out, and
//! told. Who manages its fields is left out too; that is mostly the larger part, and nobody here reads it.

use std::{borrow::Cow, fmt};

use kube::core::{ApiResource, DynamicObject, ObjectMeta, Resource};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::manifest::{Fault, LIMITS};

const MANAGED: &str = "managedFields";

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    /// As much of its metadata as a watch needs.
    metadata: ObjectMeta,
    /// All of it.
    tree: Value,
    /// Where it is nested too deep, first.
    deep: Option<String>,
}

impl Object {
    /// Its namespace, empty if it has none, and its name.
    pub fn name(&self) -> Option<(&str, &str)> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Some((namespace, self.metadata.name.as_deref()?))
    }

    /// All of it, and what it is to be refused for, if it is.
    pub fn into_parts(self) -> (Value, Option<Fault>) {
        let fault = self.deep.map(|field| Fault {
            field,
            reason: format!("is nested deeper than {} levels", LIMITS.depth),
        });
        (self.tree, fault)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut deep = None;
        let whole = Part {
            depth: 0,
            path: String::new(),
            deep: &mut deep,
        };
        let tree = whole.deserialize(deserializer)?;
        let part = |key: &str| {
            let part = tree.get("metadata")?.get(key)?;
            part.as_str().map(str::to_owned)
        };
        let metadata = ObjectMeta {
            name: part("name"),
            namespace: part("namespace"),
            resource_version: part("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self {
            metadata,
            tree,
            deep,
        })
    }
}

/// One value of it.
struct Part<'a> {
    depth: usize,
    path: String,
    deep: &'a mut Option<String>,
}

impl Part<'_> {
    fn below(&mut self, step: &str) -> Part<'_> {
        Part {
            depth: self.depth + 1,
            path: format!("{}{step}", self.path),
            deep: self.deep,
        }
    }

    /// Whether what it holds is left out.
    fn is_deep(&mut self) -> bool {
        let deep = self.depth >= LIMITS.depth;
        if deep {
            self.deep.get_or_insert_with(|| self.path.clone());
        }
        deep
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        // Only what is not looked at costs no stack.
        if self.is_deep() {
            return deserializer
                .deserialize_ignored_any(IgnoredAny)
                .map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(&format!("[{}]", all.len())))? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key == MANAGED && self.path == "metadata" {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let step = if self.path.is_empty() {
                key.clone()
            } else {
                format!(".{key}")
            };
            let value = fields.next_value_seed(self.below(&step))?;
            all.insert(key, value);
        }
        Ok(all.into())
    }
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = <DynamicObject as Resource>::Scope;

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(kind)
    }

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(kind)
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(kind)
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        DynamicObject::api_version(kind)
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}7{}", "{\"a\":[".repeat(depth), "]}".repeat(depth))
    }

    fn object(spec: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "a", "namespace": "b", "resourceVersion": "3", "managedFields": [{}]}}, "spec": {spec}}}"#,
            nested(5000)
        )
    }

    #[test]
    fn an_object_is_read_as_it_is_but_for_who_manages_it() {
        let spec = r#"{"a": [null, true, -1, 18446744073709551615, 1.5, "ü\u0000"], "": {"managedFields": 1}}"#;
        let read: Object = serde_json::from_str(&object(spec)).unwrap();
        assert_eq!(read.name(), Some(("b", "a")));
        assert_eq!(read.meta().resource_version.as_deref(), Some("3"));
        let (tree, fault) = read.into_parts();
        assert_eq!(fault, None);
        assert_eq!(tree["spec"], serde_json::from_str::<Value>(spec).unwrap());
        let metadata = serde_json::json!({"name": "a", "namespace": "b", "resourceVersion": "3"});
        assert_eq!(tree["metadata"], metadata);
    }

    #[test]
    fn one_that_is_nested_without_end_is_told_and_spoils_no_other() {
        let (deep, good) = (object(&nested(5000)), object("{}"));
        let list = format!(r#"{{"kind": "List", "metadata": {{}}, "items": [{deep}, {good}]}}"#);
        let by_others = serde_json::from_str::<ObjectList<DynamicObject>>(&list);
        assert!(by_others.is_err(), "it would be all or nothing");
        let list: ObjectList<Object> = serde_json::from_str(&list).unwrap();
        let faults: Vec<_> = list.items.into_iter().map(|it| it.into_parts().1).collect();
        let [Some(fault), None] = &faults[..] else {
            panic!("{faults:?}");
        };
        assert!(fault.field.starts_with("spec.a[0].a[0]"), "{fault}");
        assert!(fault.reason.contains("64 levels"), "{fault}");
        let event = format!(r#"{{"type": "ADDED", "object": {deep}}}"#);
        let event: WatchEvent<Object> = serde_json::from_str(&event).unwrap();
        assert!(matches!(event, WatchEvent::Added(it) if it.deep.is_some()));
    }

    #[test]
    fn what_is_just_not_too_deep_is_kept() {
        let depth = (LIMITS.depth - 2) / 2;
        let read: Object = serde_json::from_str(&object(&nested(depth))).unwrap();
        let (tree, fault) = read.into_parts();
        assert_eq!(fault, None);
        assert_eq!(tree["spec"].to_string(), nested(depth));
    }

    #[test]
    fn nothing_that_is_no_object_ends_a_list() {
        let list = r#"{"items": [7, null, {"metadata": 7}, {"metadata": {"name": 7}}]}"#;
        let list: ObjectList<Object> = serde_json::from_str(list).unwrap();
        assert!(list.items.iter().all(|it| it.name().is_none()));
    }
}
