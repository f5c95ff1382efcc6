//! Kinds that are known and not served: kept so that a status can say so, and so that what it is unsafe to ignore denies.
//!
//! Of each only that is read: whom it is about, and whether it wants encryption.

use super::{
    Meta,
    authorization::{PolicyTarget, target},
    read::{At, Faults},
};

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is the kind of that name")]
pub enum UnservedKind {
    RequestAuthentication,
    VirtualService,
    DestinationRule,
    EnvoyFilter,
    Sidecar,
    Telemetry,
    WasmPlugin,
    BackendTlsPolicy,
    ListenerSet,
    TlsRoute,
    UdpRoute,
    XBackendTrafficPolicy,
}

/// An object of such a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Unserved {
    /// Metadata.
    pub meta: Meta,
    /// Which kind.
    pub kind: UnservedKind,
    /// What it is for.
    pub target: Target,
}

/// What an object is for, as far as it matters.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Whatever it is: ignoring it changes neither who may talk nor what is encrypted.
    Harmless,
    /// RequestAuthentication: tokens are checked of who asks these.
    Tokens(PolicyTarget),
    /// BackendTLSPolicy: Services of its namespace, with the name of a port if only that is meant, are spoken to by TLS.
    Services(Vec<(String, Option<String>)>),
    /// What wants TLS and does not say for whom, as far as it can be read: all Services of its namespace.
    All,
    /// DestinationRule with TLS of its own: a host, as written, is spoken to by TLS.
    Host(String),
}

impl UnservedKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::RequestAuthentication,
        Self::VirtualService,
        Self::DestinationRule,
        Self::EnvoyFilter,
        Self::Sidecar,
        Self::Telemetry,
        Self::WasmPlugin,
        Self::BackendTlsPolicy,
        Self::ListenerSet,
        Self::TlsRoute,
        Self::UdpRoute,
        Self::XBackendTrafficPolicy,
    ];

    /// As written in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestAuthentication => "RequestAuthentication",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::Sidecar => "Sidecar",
            Self::Telemetry => "Telemetry",
            Self::WasmPlugin => "WasmPlugin",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ListenerSet => "ListenerSet",
            Self::TlsRoute => "TLSRoute",
            Self::UdpRoute => "UDPRoute",
            Self::XBackendTrafficPolicy => "XBackendTrafficPolicy",
        }
    }

    pub(super) fn group(self) -> &'static str {
        match self {
            Self::RequestAuthentication => "security.istio.io",
            Self::VirtualService | Self::DestinationRule | Self::EnvoyFilter | Self::Sidecar => {
                super::NETWORKING
            }
            Self::Telemetry => "telemetry.istio.io",
            Self::WasmPlugin => "extensions.istio.io",
            Self::BackendTlsPolicy | Self::ListenerSet | Self::TlsRoute | Self::UdpRoute => {
                super::GATEWAY
            }
            Self::XBackendTrafficPolicy => "gateway.networking.x-k8s.io",
        }
    }

    pub(super) fn versions(self) -> &'static [&'static str] {
        match self {
            Self::RequestAuthentication => &["v1", "v1beta1"],
            Self::VirtualService | Self::DestinationRule | Self::Sidecar => {
                &["v1", "v1beta1", "v1alpha3"]
            }
            Self::EnvoyFilter => &["v1alpha3"],
            Self::Telemetry => &["v1", "v1alpha1"],
            Self::WasmPlugin | Self::XBackendTrafficPolicy => &["v1alpha1"],
            Self::BackendTlsPolicy => &["v1", "v1alpha3"],
            Self::ListenerSet => &["v1"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::UdpRoute => &["v1", "v1alpha2"],
        }
    }
}

/// What the API's other values of `trafficPolicy.tls.mode` are: no TLS, or the mesh's own.
const PLAIN: [&str; 2] = ["DISABLE", "ISTIO_MUTUAL"];

/// The fields of a RequestAuthentication (API `security.istio.io/v1`).
const TOKENS: [&str; 4] = ["selector", "targetRef", "targetRefs", "jwtRules"];

pub(super) fn unserved(
    kind: UnservedKind,
    meta: Meta,
    root: &At<'_>,
    faults: &mut Faults,
) -> Unserved {
    let mut object = Unserved {
        meta,
        kind,
        target: Target::Harmless,
    };
    let Some(spec) = root.mapping("spec", faults) else {
        if kind == UnservedKind::RequestAuthentication {
            object.target = Target::Tokens(PolicyTarget::Everything);
        }
        return object;
    };
    object.target = match kind {
        UnservedKind::RequestAuthentication => {
            // A slip in a field's name must not make it one that is for nobody.
            spec.only(&TOKENS, faults);
            spec.items("jwtRules", faults);
            Target::Tokens(target(&spec, faults))
        }
        UnservedKind::BackendTlsPolicy => Target::Services(services(&spec, faults)),
        UnservedKind::DestinationRule if wants_tls(&spec) => {
            Target::Host(spec.required("host", faults).to_owned())
        }
        _ => Target::Harmless,
    };
    object
}

/// For whom a faulty object wants TLS, if it is of a kind that can: in doubt for more rather than for fewer.
pub(super) fn wish(object: Unserved, root: &At<'_>) -> Option<Unserved> {
    let spec = root.mapping("spec", &mut Faults::default());
    let target = match (object.kind, spec) {
        (UnservedKind::BackendTlsPolicy, Some(spec)) => {
            readable_services(&spec).map_or(Target::All, Target::Services)
        }
        (UnservedKind::DestinationRule, Some(spec)) if !wants_tls(&spec) => return None,
        (UnservedKind::DestinationRule, Some(spec)) => {
            let host = spec.peek("host").filter(|host| !host.is_empty());
            host.map_or(Target::All, |host| Target::Host(host.to_owned()))
        }
        (UnservedKind::BackendTlsPolicy | UnservedKind::DestinationRule, None) => Target::All,
        _ => return None,
    };
    Some(Unserved { target, ..object })
}

/// `None` if there may be others.
fn readable_services(spec: &At<'_>) -> Option<Vec<(String, Option<String>)>> {
    let all = spec.items("targetRefs", &mut Faults::default());
    let mut found = Vec::new();
    for at in &all {
        let name = at.peek("name").filter(|name| !name.is_empty())?;
        let kind = at.peek("kind").is_none_or(|kind| kind == "Service");
        if kind && at.peek("group").unwrap_or_default().is_empty() {
            let port = at.peek("sectionName").map(str::to_owned);
            found.push((name.to_owned(), port));
        }
    }
    (!all.is_empty()).then_some(found)
}

fn services(spec: &At<'_>, faults: &mut Faults) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for at in spec.items("targetRefs", faults) {
        let name = at.required("name", faults).to_owned();
        if at.peek("kind") == Some("Service") && at.peek("group").unwrap_or_default().is_empty() {
            found.push((name, at.text("sectionName", faults).map(str::to_owned)));
        }
    }
    found
}

/// Whether it wants TLS anywhere: for the host, for one of its ports, or for a subset.
fn wants_tls(spec: &At<'_>) -> bool {
    let mut quiet = Faults::default();
    let policies = spec.mapping("trafficPolicy", &mut quiet).into_iter();
    let subsets = spec.items("subsets", &mut quiet);
    let subsets = subsets
        .iter()
        .filter_map(|at| at.get("trafficPolicy").filter(At::is_mapping));
    policies.chain(subsets).any(|policy| {
        let mut quiet = Faults::default();
        let ports = policy.items("portLevelSettings", &mut quiet);
        let tls = policy.get("tls").into_iter();
        let tls = tls.chain(ports.iter().filter_map(|at| at.get("tls")));
        tls.into_iter()
            .any(|tls| tls.peek("mode").is_none_or(|mode| !PLAIN.contains(&mode)))
    })
}
