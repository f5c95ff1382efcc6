//! `istio.security.Authorization` to [`Policy`]. There is always a policy: what cannot be understood denies.

use prost::Message;
use proto::security as wire;

use crate::{
    model::{
        Action, Effect, Group, IpRange, Match, Policy, Rule, Scope, StringMatch, WorkloadAccount,
    },
    name::Name,
    parse::{port, range, tags},
};

/// Reads an `Authorization` resource. `name` is the resource's name, `<namespace>/<name>`.
///
/// Where it cannot be understood the policy denies everything in its scope: the scope that it says,
/// if that and its namespace can be read; else the namespace that its name says, or the mesh if that
/// is the root namespace; a name without a namespace only denies for the workloads that list it.
/// [`Effect::DenyAll`] then holds the reason.
pub fn authorization(name: &str, bytes: &[u8], root_namespace: Name) -> Policy {
    let decoded = wire::Authorization::decode(bytes);
    let decoded = decoded.map_err(|e| format!("not an Authorization: {e}"));
    let said = match &decoded {
        Ok(message) => said_scope(message.scope, &message.namespace),
        Err(_) => tags::scope(bytes).and_then(|(scope, namespace)| said_scope(scope, namespace)),
    };
    let effect = decoded.and_then(|message| {
        tags::all_known(bytes)?;
        named(name, &message)?;
        said.ok_or("it is for a namespace and names none")?;
        rules(&message)
    });
    Policy {
        name: Name::new(name),
        scope: said.unwrap_or_else(|| implied_scope(name, root_namespace)),
        effect: effect.unwrap_or_else(Effect::DenyAll),
    }
}

/// The scope that a message says, if it is one.
fn said_scope(scope: i32, namespace: &str) -> Option<Scope> {
    match wire::Scope::try_from(scope).ok()? {
        wire::Scope::Global => Some(Scope::Mesh),
        wire::Scope::Namespace if namespace.is_empty() => None,
        wire::Scope::Namespace => Some(Scope::Namespace(Name::new(namespace))),
        wire::Scope::WorkloadSelector => Some(Scope::Selected),
    }
}

/// The scope to assume from the resource's name alone.
fn implied_scope(name: &str, root_namespace: Name) -> Scope {
    match name.split_once('/') {
        Some((namespace, _)) if namespace == root_namespace.as_str() => Scope::Mesh,
        Some((namespace, _)) if !namespace.is_empty() => Scope::Namespace(Name::new(namespace)),
        _ => Scope::Selected,
    }
}

fn named(name: &str, message: &wire::Authorization) -> Result<(), String> {
    let held = format!("{}/{}", message.namespace, message.name);
    if held == name {
        Ok(())
    } else {
        Err(format!("holds the policy {held:?}"))
    }
}

fn rules(message: &wire::Authorization) -> Result<Effect, String> {
    let action = match wire::Action::try_from(message.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Err(_) => return Err(format!("unknown action {}", message.action)),
    };
    let groups = message.groups.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Effect::Rules {
        action,
        dry_run: message.dry_run,
        groups,
    })
}

fn group(message: &wire::Group) -> Result<Group, String> {
    let rule = |rules: &wire::Rules| {
        rules
            .matches
            .iter()
            .map(one_match)
            .collect::<Result<_, _>>()
            .map(Rule)
    };
    message
        .rules
        .iter()
        .map(rule)
        .collect::<Result<_, _>>()
        .map(Group)
}

fn one_match(m: &wire::Match) -> Result<Match, String> {
    Ok(Match {
        namespaces: strings(&m.namespaces)?,
        not_namespaces: strings(&m.not_namespaces)?,
        principals: strings(&m.principals)?,
        not_principals: strings(&m.not_principals)?,
        source_ips: ranges(&m.source_ips)?,
        not_source_ips: ranges(&m.not_source_ips)?,
        destination_ips: ranges(&m.destination_ips)?,
        not_destination_ips: ranges(&m.not_destination_ips)?,
        destination_ports: ports(&m.destination_ports)?,
        not_destination_ports: ports(&m.not_destination_ports)?,
        service_accounts: accounts(&m.service_accounts)?,
        not_service_accounts: accounts(&m.not_service_accounts)?,
    })
}

fn strings(list: &[wire::StringMatch]) -> Result<Box<[StringMatch]>, String> {
    use wire::string_match::MatchType;
    let one = |m: &wire::StringMatch| match &m.match_type {
        Some(MatchType::Exact(value)) => Ok(StringMatch::Exact(value.as_str().into())),
        Some(MatchType::Prefix(value)) => Ok(StringMatch::Prefix(value.as_str().into())),
        Some(MatchType::Suffix(value)) => Ok(StringMatch::Suffix(value.as_str().into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        None => Err("a string match says nothing".to_owned()),
    };
    list.iter().map(one).collect()
}

fn ranges(list: &[wire::Address]) -> Result<Box<[IpRange]>, String> {
    let one = |a: &wire::Address| {
        range(&a.address, a.length).map(|(address, length)| IpRange { address, length })
    };
    list.iter().map(one).collect()
}

fn ports(list: &[u32]) -> Result<Box<[u16]>, String> {
    list.iter().map(|number| port(*number, "port")).collect()
}

fn accounts(list: &[wire::ServiceAccountMatch]) -> Result<Box<[WorkloadAccount]>, String> {
    // Nobody has an empty name: a DENY of it would deny nobody.
    let one = |m: &wire::ServiceAccountMatch| match (&*m.namespace, &*m.service_account) {
        ("", _) | (_, "") => Err("a service account lacks its namespace or name".to_owned()),
        (namespace, service_account) => Ok(WorkloadAccount {
            namespace: namespace.into(),
            service_account: service_account.into(),
        }),
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
