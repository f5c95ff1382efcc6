//! What a host of a ServiceEntry is called among services: `ServiceEntry/<name>/<host>`, in the ServiceEntry's namespace.
//!
//! No object's name has a `/`, so a name of a service says by itself which of both it is. What is about all hosts of a
//! ServiceEntry is about `ServiceEntry/<name>`.

use super::Key;
use crate::manifest::{Kind, ObjectRef};

const PREFIX: &str = "ServiceEntry/";

/// A host.
pub fn key(namespace: &str, entry: &str, host: &str) -> Key {
    (namespace.to_owned(), format!("{PREFIX}{entry}/{host}"))
}

/// All hosts.
pub fn all(namespace: &str, entry: &str) -> Key {
    (namespace.to_owned(), format!("{PREFIX}{entry}"))
}

/// The name of the ServiceEntry, and the host if it is about one; `None` for a Service.
pub fn parts(name: &str) -> Option<(&str, Option<&str>)> {
    let rest = name.strip_prefix(PREFIX)?;
    Some(match rest.split_once('/') {
        Some((entry, host)) => (entry, Some(host)),
        None => (rest, None),
    })
}

/// What is about all hosts, for what is about one; a Service is about itself.
pub fn widened((namespace, name): &Key) -> Key {
    match parts(name) {
        Some((entry, _)) => all(namespace, entry),
        None => (namespace.clone(), name.clone()),
    }
}

/// The object that a service is of.
pub fn object((namespace, name): &Key) -> ObjectRef {
    match parts(name) {
        Some((entry, _)) => ObjectRef::new(Kind::ServiceEntry, namespace, entry),
        None => ObjectRef::new(Kind::Service, namespace, name),
    }
}

/// For people.
pub fn words(service: &Key) -> String {
    let object = object(service);
    let (kind, namespace, name) = (object.kind.as_str(), &object.namespace, &object.name);
    match parts(&service.1) {
        Some((_, Some(host))) => format!("{kind} {namespace}/{name} ({host})"),
        _ => format!("{kind} {namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_a_service_by_its_name_alone() {
        let host = key("shop", "ext", "*.a.example");
        assert_eq!(parts(&host.1), Some(("ext", Some("*.a.example"))));
        assert_eq!(widened(&host), all("shop", "ext"));
        assert_eq!(object(&host).to_string(), "ServiceEntry/shop/ext");
        assert_eq!(words(&host), "ServiceEntry shop/ext (*.a.example)");
        let service = ("shop".to_owned(), "ext".to_owned());
        assert_eq!(parts(&service.1), None);
        assert_eq!(widened(&service), service);
        assert_eq!(words(&service), "Service shop/ext");
    }
}
