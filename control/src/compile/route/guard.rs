//! Routes that cannot be understood and want requests guarded: what they want guarded is refused, as far as it can be read.

use proto::waypoint as wire;
use time::{Duration, OffsetDateTime};

use super::rule::{Converted, of_match};
use crate::{
    compile::{Scope, feature},
    manifest::{
        Object, Route,
        route::{ParentRef, Rule},
    },
};

/// The routes with no rules but those that are refused. One that does not say whose requests it means may mean all Services
/// of its namespace.
pub(super) fn routes(scope: Scope<'_>) -> Vec<Route> {
    let refused = scope.world.refused.iter();
    let routes = refused.filter_map(|(reference, object)| match object {
        Object::Route(route) if !route.rules.is_empty() && scope.sees(&reference.namespace) => {
            let mut route = route.clone();
            route.meta.namespace.clone_from(&reference.namespace);
            route.meta.name.clone_from(&reference.name);
            if scope.world.object(reference).is_some() {
                // Of two of one name: it goes before the other, and no object has its name.
                route.meta.name = format!("refused_{}", reference.name);
                route.meta.created = Some(OffsetDateTime::UNIX_EPOCH - Duration::SECOND);
            }
            if !route.is_attached() {
                let all = scope.world.services.keys();
                let near = all.filter(|(namespace, _)| *namespace == reference.namespace);
                route.parents.extend(near.map(|(_, name)| service(name)));
            }
            Some(route)
        }
        _ => None,
    });
    routes.collect()
}

fn service(name: &str) -> ParentRef {
    ParentRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        namespace: None,
        name: name.to_owned(),
        section: None,
        port: None,
    }
}

/// As a waypoint is told it.
pub(super) fn convert(route: &Route) -> Converted {
    let rules = route.rules.iter().map(rule);
    Converted {
        rules: rules.collect(),
        unserved: vec![REFUSED.to_owned(); route.rules.len()],
        guards: true,
        shuts: route.rules.iter().any(|rule| rule.matches.is_empty()),
        ..Converted::default()
    }
}

const REFUSED: &str = "its route cannot be understood, and wants it guarded";

fn rule(rule: &Rule) -> wire::Rule {
    let mut told = wire::Rule {
        matches: rule.matches.iter().map(of_match).collect(),
        invalid: REFUSED.to_owned(),
        ..wire::Rule::default()
    };
    told.requires = feature::of_rule(&told);
    told
}
