//! Policies that are attached to objects: what a waypoint is told of them, and for whom they are in force.
//!
//! Nothing is left out because it is not served: an action or a value that a waypoint cannot carry out denies.

use std::{collections::BTreeMap, rc::Rc};

use prost::Message as _;
use proto::waypoint::{self, Authorization, Reference, policy};

use super::{Compiled, Scope, authorization::WAYPOINT_ACCEPTED, feature, gateway};
use crate::{
    manifest::{
        AuthorizationPolicy, Kind, ObjectRef,
        authorization::{Action, PolicyTarget, TargetKind, TargetRef},
        unserved::Target,
    },
    publish::Version,
    status::{Condition, Status},
    world::{Key, host},
};

mod convert;

/// What is said of tokens that nobody checks.
const TOKENS: &str = "tokens are not checked yet";

/// Says of what is attached to objects and not served that it denies.
pub(super) fn statuses(scope: Scope<'_>, compiled: &mut Compiled) {
    let seen = |reference: &&ObjectRef| scope.sees(&reference.namespace);
    let objects = scope.world.unserved.iter();
    for (reference, object) in objects.filter(|(reference, _)| seen(reference)) {
        if let Target::Tokens(PolicyTarget::Objects(_)) = &object.target {
            let message = format!("{TOKENS}: whoever asks what it is attached to is denied");
            let status = Status {
                generation: object.meta.generation,
                conditions: vec![Condition::fails(
                    WAYPOINT_ACCEPTED,
                    "UnsupportedValue",
                    message,
                )],
                ..Status::default()
            };
            compiled.statuses.insert(reference.clone(), status);
        }
    }
}

/// The policies that are attached to objects, by object.
#[derive(Default)]
pub(super) struct Attached {
    services: BTreeMap<Key, Vec<Rc<Policy>>>,
    gateways: BTreeMap<Key, Vec<Rc<Policy>>>,
    classes: BTreeMap<String, Vec<Rc<Policy>>>,
}

/// One of them as a resource.
#[derive(Debug)]
pub(super) struct Policy {
    /// Name and version of the resource.
    pub(super) reference: Reference,
    /// The resource.
    pub(super) message: waypoint::Policy,
    /// Whether it may change who gets in: neither a dry run nor AUDIT.
    enforced: bool,
    /// On which ports of a service it looks at requests.
    requests: Requests,
}

/// Where a policy needs to see requests.
#[derive(Debug, PartialEq, Eq)]
enum Requests {
    Nowhere,
    On(Vec<u16>),
    Everywhere,
}

impl Attached {
    pub(super) fn new(scope: Scope<'_>) -> Self {
        let mut attached = Self::default();
        for written in scope.world.authorization_policies.values() {
            if let PolicyTarget::Objects(targets) = &written.target {
                let meta = &written.meta;
                attached.add(scope, &meta.namespace, targets, || authorization(written));
            }
        }
        for (reference, denial) in &scope.world.denials {
            let why = "it has no version that can be understood";
            attached.add(scope, &reference.namespace, &denial.targets, || {
                denying(reference, why)
            });
        }
        for (reference, object) in &scope.world.unserved {
            if let Target::Tokens(PolicyTarget::Objects(targets)) = &object.target {
                attached.add(scope, &reference.namespace, targets, || {
                    denying(reference, TOKENS)
                });
            }
        }
        attached
    }

    /// A policy is for objects of its own namespace; one of the root namespace may be for a class. Of a namespace that is not
    /// looked at those count that are for Gateways: by their labels others go through these, and not past a policy.
    fn add(
        &mut self,
        scope: Scope<'_>,
        namespace: &str,
        targets: &[TargetRef],
        policy: impl FnOnce() -> Policy,
    ) {
        let seen = scope.sees(namespace);
        let counts = |target: &&TargetRef| seen || target.kind == TargetKind::Gateway;
        let targets: Vec<_> = targets.iter().filter(counts).collect();
        if targets.is_empty() {
            return;
        }
        let policy = Rc::new(policy());
        for TargetRef { kind, name } in targets {
            let key = (namespace.to_owned(), name.clone());
            match kind {
                TargetKind::Service => add(self.services.entry(key).or_default(), &policy),
                TargetKind::Gateway => add(self.gateways.entry(key).or_default(), &policy),
                TargetKind::GatewayClass if scope.is_root(namespace) => {
                    for class in gateway::aliases(scope, name) {
                        add(self.classes.entry(class.to_owned()).or_default(), &policy);
                    }
                }
                TargetKind::ServiceEntry => {
                    let key = host::all(namespace, name);
                    add(self.services.entry(key).or_default(), &policy);
                }
                TargetKind::GatewayClass => {}
            }
        }
    }

    /// Those that name a service, or the ServiceEntry whose host it is.
    pub(super) fn of_service(&self, service: &Key) -> &[Rc<Policy>] {
        if self.services.is_empty() {
            return &[];
        }
        let named = host::widened(service);
        self.services.get(&named).map_or(&[], Vec::as_slice)
    }

    /// Those that are in force for every service behind a gateway, and for its class.
    pub(super) fn of_gateway<'a>(
        &'a self,
        gateway: &Key,
        class: Option<&str>,
    ) -> impl Iterator<Item = &'a Rc<Policy>> {
        let own = self.gateways.get(gateway).into_iter();
        let class = class.and_then(|class| self.classes.get(class)).into_iter();
        own.chain(class).flatten()
    }

    /// The services that an enforced policy names, whether they are there or not; a ServiceEntry as all its hosts.
    pub(super) fn policed_services(&self) -> impl Iterator<Item = &Key> {
        let services = self.services.keys();
        services.filter(|service| self.polices_service(service))
    }

    /// Whether a policy that names the service is enforced.
    pub(super) fn polices_service(&self, service: &Key) -> bool {
        self.of_service(service)
            .iter()
            .any(|policy| policy.enforced)
    }

    /// Whether a policy of a gateway or of its class is enforced, whether its namespace is looked at or not. Of which class a
    /// Gateway is that cannot be understood nobody knows: any may be its.
    pub(super) fn polices_gateway(&self, scope: Scope<'_>, gateway: &Key) -> bool {
        let class = scope.world.gateways.get(gateway);
        let class = class.map(|found| found.class.as_str());
        let reference = ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1);
        let unknown = class.is_none() && scope.world.hides(&reference);
        let classes = self.classes.values().filter(|_| unknown).flatten();
        self.of_gateway(gateway, class)
            .chain(classes)
            .any(|policy| policy.enforced)
    }

    /// Whether any policy of a gateway or of a class is enforced.
    pub(super) fn polices_gateways(&self) -> bool {
        let mut all = self
            .gateways
            .values()
            .chain(self.classes.values())
            .flatten();
        all.any(|policy| policy.enforced)
    }
}

/// Each once.
fn add(list: &mut Vec<Rc<Policy>>, policy: &Rc<Policy>) {
    if !list.iter().any(|it| Rc::ptr_eq(it, policy)) {
        list.push(Rc::clone(policy));
    }
}

impl Policy {
    fn new(reference: &ObjectRef, http: Authorization, requests: Requests) -> Self {
        let enforced = !http.dry_run && http.action != waypoint::Action::Audit as i32;
        let name = match reference.kind {
            Kind::AuthorizationPolicy => reference.name.clone(),
            // Objects of other kinds may have the same name; a `_` is part of no object's name.
            _ => format!(
                "refused_{}_{}",
                reference.kind.as_str().to_ascii_lowercase(),
                reference.name
            ),
        };
        let mut message = waypoint::Policy {
            policy: Some(policy::Policy::Http(http)),
            requires: Vec::new(),
        };
        message.requires = feature::of_policy(&message);
        Self {
            reference: Reference {
                name: format!("http/{}/{name}", reference.namespace),
                version: Version::of(&message.encode_to_vec()).to_string(),
            },
            message,
            enforced,
            requests,
        }
    }

    /// Whether it needs to see the requests on a port of a service, and matters.
    pub(super) fn sees_requests(&self, port: u16) -> bool {
        self.enforced
            && match &self.requests {
                Requests::Nowhere => false,
                Requests::On(ports) => ports.contains(&port),
                Requests::Everywhere => true,
            }
    }
}

fn authorization(written: &AuthorizationPolicy) -> Policy {
    let meta = &written.meta;
    let reference = ObjectRef::new(Kind::AuthorizationPolicy, &meta.namespace, &meta.name);
    let action = match written.action {
        Action::Allow => waypoint::Action::Allow,
        // Whom it would ask cannot be asked yet, so what it matches is denied.
        Action::Deny | Action::Custom => waypoint::Action::Deny,
        Action::Audit => waypoint::Action::Audit,
    };
    let http = Authorization {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        action: action.into(),
        dry_run: super::authorization::is_dry_run(written),
        rules: written.rules.iter().map(convert::rule).collect(),
        deny_all: String::new(),
    };
    Policy::new(&reference, http, convert::requests(&written.rules))
}

/// A policy that denies all, whatever was meant.
fn denying(reference: &ObjectRef, why: &str) -> Policy {
    let http = Authorization {
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        action: waypoint::Action::Deny.into(),
        deny_all: format!("{} {}: {why}", reference.kind.as_str(), reference.name),
        ..Authorization::default()
    };
    Policy::new(reference, http, Requests::Nowhere)
}
