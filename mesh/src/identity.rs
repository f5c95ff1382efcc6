//! Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::{fmt, str::FromStr};

use crate::name::Name;

/// The trust domain of workloads that name none.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A SPIFFE id of exactly the shape that the mesh issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Who vouches for it.
    pub trust_domain: Name,
    /// Kubernetes namespace.
    pub namespace: Name,
    /// Kubernetes service account.
    pub service_account: Name,
}

/// Text that is not a SPIFFE id of the mesh's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnIdentity(pub String);

impl Identity {
    /// An identity of three names.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: Name::new(trust_domain),
            namespace: Name::new(namespace),
            service_account: Name::new(service_account),
        }
    }

    /// The id without its scheme, which is what policies call a principal.
    pub fn principal(&self) -> String {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        format!("{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl FromStr for Identity {
    type Err = NotAnIdentity;

    /// Compares bytes: no case folding, no percent-decoding, no query, no trailing slash (SPIFFE-ID §2).
    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        let parts = text
            .strip_prefix("spiffe://")
            .map(|rest| rest.split('/').collect::<Vec<_>>());
        match parts.as_deref() {
            Some([trust_domain, "ns", namespace, "sa", service_account])
                if [trust_domain, namespace, service_account]
                    .into_iter()
                    .all(|part| is_segment(part)) =>
            {
                Ok(Self::new(trust_domain, namespace, service_account))
            }
            _ => Err(NotAnIdentity(text.to_owned())),
        }
    }
}

/// The characters that SPIFFE allows in a path segment; `.` and `..` are not names.
fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= 255
        && text != "."
        && text != ".."
        && text.bytes().all(allowed)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        write!(
            f,
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        )
    }
}

impl fmt::Display for NotAnIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
            self.0
        )
    }
}

impl std::error::Error for NotAnIdentity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let id: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id, Identity::new("cluster.local", "shop", "cart"));
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "SPIFFE://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart/",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/cart",
            "spiffe:///ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart?x=1",
            "spiffe://cluster.local/ns/shop/sa/cart#x",
            "spiffe://user@cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local:443/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/c%61rt",
            "spiffe://cluster.local/ns/shop/sa/cart\0",
            "spiffe://cluster.local/ns/../sa/cart",
            "spiffe://cluster.local/sa/cart/ns/shop",
            "https://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cärt",
        ] {
            assert_eq!(
                text.parse::<Identity>(),
                Err(NotAnIdentity(text.to_owned())),
                "{text:?}"
            );
        }
    }
}
