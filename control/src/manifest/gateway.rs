//! Gateway, GatewayClass and ReferenceGrant (`gateway.networking.k8s.io`): who serves, and who may refer to whom.
//!
//! Only what a waypoint is made of is kept of a Gateway: what is for ingress (certificates, host names, other listeners'
//! details) is known to the API and left unread.

use super::{
    Labels, Meta,
    read::{At, Faults},
};

mod grant;
mod selector;

pub(super) use self::{grant::reference_grant, selector::label_selector};
pub use self::{
    grant::{GrantFrom, GrantTo, ReferenceGrant},
    selector::{LabelSelector, Requirement},
};

/// A Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Metadata.
    pub meta: Meta,
    /// `gatewayClassName`.
    pub class: String,
    /// Listeners, at least one.
    pub listeners: Vec<Listener>,
    /// `status.addresses` as written.
    pub addresses: Vec<GatewayAddress>,
}

/// Where a Gateway is listened to.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique in its Gateway.
    pub name: String,
    /// Port.
    pub port: u16,
    /// For example `HBONE`.
    pub protocol: String,
    /// Which namespaces' objects may be attached.
    pub from: From,
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum From {
    /// The Gateway's own.
    #[default]
    Same,
    /// All.
    All,
    /// Those with such labels.
    Selector(LabelSelector),
    /// None.
    None,
}

/// An address of `status.addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAddress {
    /// For example `Hostname`; `IPAddress` if none is written.
    pub kind: String,
    /// The name or address.
    pub value: String,
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayClass {
    /// Metadata.
    pub meta: Meta,
    /// `controllerName`.
    pub controller: String,
}

/// The API's own limit.
const MOST_LISTENERS: usize = 64;
const MOST_ADDRESSES: usize = 16;

pub(super) fn gateway(meta: Meta, root: &At<'_>, faults: &mut Faults) -> Gateway {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut gateway = Gateway {
        meta,
        class: String::new(),
        listeners: Vec::new(),
        addresses: Vec::new(),
    };
    if let Some(status) = root.mapping("status", faults) {
        gateway.addresses = addresses(&status, faults);
    }
    let Some(spec) = root.mapping("spec", faults) else {
        faults.add(root, "spec", "required");
        return gateway;
    };
    spec.only(
        &[
            "gatewayClassName",
            "listeners",
            "addresses",
            "infrastructure",
            "allowedListeners",
            "tls",
            "defaultScope",
        ],
        faults,
    );
    spec.required("gatewayClassName", faults)
        .clone_into(&mut gateway.class);
    let listeners = spec.at_most("listeners", MOST_LISTENERS, faults);
    if listeners.is_empty() {
        faults.add(&spec, "listeners", "at least one is required");
    }
    for at in listeners {
        let found = listener(&at, faults);
        if gateway.listeners.iter().any(|it| it.name == found.name) {
            faults.add(&at, "name", format!("{:?} is there twice", found.name));
        }
        gateway.listeners.push(found);
    }
    gateway
}

fn listener(at: &At<'_>, faults: &mut Faults) -> Listener {
    at.only(
        &[
            "name",
            "hostname",
            "port",
            "protocol",
            "tls",
            "allowedRoutes",
        ],
        faults,
    );
    if at.get("port").is_none() {
        faults.add(at, "port", "a port number is required");
    }
    let routes = at.mapping("allowedRoutes", faults);
    if let Some(routes) = &routes {
        routes.only(&["namespaces", "kinds"], faults);
    }
    let namespaces = routes.and_then(|routes| routes.mapping("namespaces", faults));
    Listener {
        name: at.required("name", faults).to_owned(),
        port: at.port("port", faults).unwrap_or_default(),
        protocol: at.required("protocol", faults).to_owned(),
        from: namespaces.map_or_else(From::default, |at| from(&at, faults)),
    }
}

fn from(at: &At<'_>, faults: &mut Faults) -> From {
    at.only(&["from", "selector"], faults);
    let selector = at.mapping("selector", faults);
    let selector = selector.map(|at| label_selector(&at, faults));
    match at.text("from", faults) {
        None | Some("Same") => From::Same,
        Some("All") => From::All,
        Some("None") => From::None,
        Some("Selector") => match selector {
            Some(selector) => From::Selector(selector),
            None => {
                faults.add(at, "selector", "required with from: Selector");
                From::None
            }
        },
        Some(other) => {
            faults.add(
                at,
                "from",
                format!("{other:?} is none of All, Same, Selector, None"),
            );
            From::None
        }
    }
}

fn addresses(status: &At<'_>, faults: &mut Faults) -> Vec<GatewayAddress> {
    let items = status.at_most("addresses", MOST_ADDRESSES, faults);
    let mut address = |at: &At<'_>| GatewayAddress {
        kind: at.text("type", faults).unwrap_or("IPAddress").to_owned(),
        value: at.required("value", faults).to_owned(),
    };
    items.iter().map(&mut address).collect()
}

impl From {
    /// Whether an object of a namespace with these labels may be attached to a Gateway of the namespace `own`.
    pub fn admits(&self, own: &str, namespace: &str, labels: &Labels) -> bool {
        match self {
            Self::Same => namespace == own,
            Self::All => true,
            Self::Selector(selector) => selector.matches(labels),
            Self::None => false,
        }
    }
}

pub(super) fn gateway_class(meta: Meta, root: &At<'_>, faults: &mut Faults) -> GatewayClass {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut class = GatewayClass {
        meta,
        controller: String::new(),
    };
    let Some(spec) = root.mapping("spec", faults) else {
        faults.add(root, "spec", "required");
        return class;
    };
    spec.only(&["controllerName", "parametersRef", "description"], faults);
    spec.required("controllerName", faults)
        .clone_into(&mut class.controller);
    class
}
