//! PeerAuthentication (`security.istio.io/v1`): whether plaintext is let in.

use std::collections::BTreeMap;

use super::{
    Meta, Selector,
    read::{At, Faults},
    selector::selector,
};

/// A PeerAuthentication without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Metadata.
    pub meta: Meta,
    /// Which workloads. `None`, or one without labels: all of the namespace, or of the mesh in the root namespace.
    pub selector: Option<Selector>,
    /// For all ports that are not named.
    pub mode: Mode,
    /// By the workload's own port.
    pub ports: BTreeMap<u16, Mode>,
}

/// What a peer has to bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ask the next wider policy.
    #[default]
    Unset,
    /// Plaintext is let in. A node proxy serves both at once, so for the mesh it means the same as `Permissive`.
    Disable,
    /// Plaintext is let in.
    Permissive,
    /// Only peers with an identity.
    Strict,
}

impl Mode {
    /// Whether it says, itself, that plaintext is let in.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Disable | Self::Permissive)
    }
}

pub(super) fn peer_authentication(
    meta: Meta,
    root: &At<'_>,
    faults: &mut Faults,
) -> PeerAuthentication {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut policy = PeerAuthentication {
        meta,
        selector: None,
        mode: Mode::Unset,
        ports: BTreeMap::new(),
    };
    let Some(spec) = root.mapping("spec", faults) else {
        return policy;
    };
    spec.only(&["selector", "mtls", "portLevelMtls"], faults);
    policy.selector = selector(&spec, faults);
    if let Some(mtls) = spec.mapping("mtls", faults) {
        policy.mode = mode(&mtls, faults);
    }
    for (key, at) in spec.entries("portLevelMtls", faults) {
        match key.parse::<u16>() {
            Ok(port) if port != 0 && !at.is_mapping() => {
                faults.add(&at, "", "expected a field mode")
            }
            Ok(port) if port != 0 => {
                policy.ports.insert(port, mode(&at, faults));
            }
            _ => faults.add(
                &at,
                "",
                format!("{key:?} is not a port number from 1 to 65535"),
            ),
        }
    }
    let selects = policy
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.labels.is_empty());
    if !policy.ports.is_empty() && !selects {
        faults.add(&spec, "portLevelMtls", "only together with a selector");
    }
    policy
}

fn mode(at: &At<'_>, faults: &mut Faults) -> Mode {
    at.only(&["mode"], faults);
    match at.text("mode", faults) {
        None | Some("UNSET") => Mode::Unset,
        Some("DISABLE") => Mode::Disable,
        Some("PERMISSIVE") => Mode::Permissive,
        Some("STRICT") => Mode::Strict,
        Some(other) => {
            faults.add(
                at,
                "mode",
                format!("{other:?} is none of UNSET, DISABLE, PERMISSIVE, STRICT"),
            );
            Mode::Unset
        }
    }
}
