//! Headers that say what is not for everybody to say: who the client is, how its request was before somebody forwarded it,
//! what proxies of the mesh tell each other. The one list of them, for what clients send, for trailers, and for what rules of
//! routes edit.

use std::borrow::Cow;

/// What a header says that is not for whoever sends it to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Who sends the request.
    Client,
    /// How it was before somebody forwarded it: its host, its scheme.
    Origin,
    /// What proxies of the mesh tell each other.
    Mesh,
}

/// What a header claims by its name, in lower case. Many an application takes an underscore for a dash.
pub fn claim(name: &str) -> Option<Claim> {
    claimed(&dashed(name))
}

/// A name as an application may read it that takes an underscore for a dash.
pub fn dashed(name: &str) -> Cow<'_, str> {
    if name.contains('_') {
        name.replace('_', "-").into()
    } else {
        name.into()
    }
}

fn claimed(name: &str) -> Option<Claim> {
    match name.as_bytes().first()? {
        b'f' if name == "forwarded" => Some(Claim::Client),
        b't' if name == "true-client-ip" => Some(Claim::Client),
        b'a' if name.starts_with("ambit-") => Some(Claim::Mesh),
        b'x' if matches!(
            name,
            "x-forwarded-for" | "x-forwarded-client-cert" | "x-real-ip"
        ) =>
        {
            Some(Claim::Client)
        }
        b'x' if name.starts_with("x-forwarded-") => Some(Claim::Origin),
        b'x' if name.starts_with("x-envoy-") => Some(Claim::Mesh),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_claim_in_both_spellings() {
        for (name, expected) in [
            ("x-forwarded-for", Some(Claim::Client)),
            ("x_forwarded_for", Some(Claim::Client)),
            ("x-real_ip", Some(Claim::Client)),
            ("true_client_ip", Some(Claim::Client)),
            ("forwarded", Some(Claim::Client)),
            ("x-forwarded-client-cert", Some(Claim::Client)),
            ("x-forwarded-proto", Some(Claim::Origin)),
            ("x_forwarded_host", Some(Claim::Origin)),
            ("x-envoy-internal", Some(Claim::Mesh)),
            ("ambit_via", Some(Claim::Mesh)),
            ("x-forwarded", None),
            ("x-role", None),
            ("", None),
        ] {
            assert_eq!(claim(name), expected, "{name}");
        }
    }
}
