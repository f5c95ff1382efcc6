//! `Policy`. There is always one: what cannot be understood denies everything in its scope.

use prost::Message;
use proto::waypoint as wire;

use crate::{
    http::authorize::{
        Action, Condition, Effect, Operation, PathPattern, Policy, Rejected, Rule, Source, account,
        host, is_star_within, port, range, text,
    },
    model::{self, Match, StringMatch},
    name::Name,
    parse as layer4,
    waypoint::parse,
};

/// A policy as it was told.
#[derive(Clone, Debug)]
pub(in crate::waypoint) enum Told {
    /// Layer 4.
    Connection(model::Policy),
    /// Layer 7.
    Request(Policy),
}

/// What a resource's name says that it holds, and what that is called: `<namespace>/<name>`.
pub(in crate::waypoint) fn prefixed(name: &str) -> Option<(Prefix, &str)> {
    let (prefix, rest) = name.split_once('/')?;
    match prefix {
        "connection" => Some((Prefix::Connection, rest)),
        "http" => Some((Prefix::Http, rest)),
        _ => None,
    }
}

/// What stands in front of a policy's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::waypoint) enum Prefix {
    /// Layer 4.
    Connection,
    /// Layer 7.
    Http,
}

/// Reads a policy. The second is why it denies everything, unless the sender says so itself.
pub(in crate::waypoint) fn policy(
    name: &str,
    bytes: &[u8],
    root_namespace: Name,
) -> (Told, Option<String>) {
    let message = parse::decoded(bytes).and_then(|message: wire::Policy| {
        parse::has_all(&message.requires)?;
        parse::lost_nothing(&message, bytes)?;
        Ok(message.policy)
    });
    match prefixed(name) {
        Some((Prefix::Connection, name)) => connection(name, message, bytes, root_namespace),
        Some((Prefix::Http, name)) => request(name, message),
        None => {
            let why = "is not called http/… or connection/…".to_owned();
            request(name, Err(why))
        }
    }
}

fn connection(
    name: &str,
    message: Result<Option<wire::policy::Policy>, String>,
    bytes: &[u8],
    root_namespace: Name,
) -> (Told, Option<String>) {
    use wire::policy::Policy as Wire;
    // Whatever is wrong around it, the scope that it says is the scope in which it denies.
    let held = wire::Policy::decode(bytes)
        .ok()
        .and_then(|held| held.policy);
    let bytes = match &held {
        Some(Wire::Connection(held)) => held.encode_to_vec(),
        // Not one byte of a policy; the name says for whom it is.
        Some(Wire::Http(_)) | None => vec![0xff],
    };
    let mut policy = layer4::authorization(name, &bytes, root_namespace);
    let why = match message {
        Ok(Some(Wire::Connection(_))) => None,
        Ok(_) => Some("holds no layer 4 policy".to_owned()),
        Err(why) => Some(why),
    };
    if let Some(why) = why {
        policy.effect = model::Effect::DenyAll(why);
    }
    let reason = match &policy.effect {
        model::Effect::DenyAll(why) => Some(why.clone()),
        model::Effect::Rules { .. } => None,
    };
    (Told::Connection(policy), reason)
}

fn request(
    name: &str,
    message: Result<Option<wire::policy::Policy>, String>,
) -> (Told, Option<String>) {
    let effect = message.and_then(|message| match message {
        Some(wire::policy::Policy::Http(message)) => effect(name, &message),
        _ => Err("holds no layer 7 policy".to_owned()),
    });
    let reason = effect.as_ref().err().cloned();
    let policy = Policy {
        name: Name::new(name),
        effect: effect.unwrap_or_else(Effect::DenyAll),
    };
    (Told::Request(policy), reason)
}

fn effect(name: &str, message: &wire::Authorization) -> Result<Effect, String> {
    let held = format!("{}/{}", message.namespace, message.name);
    if held != name {
        return Err(format!("holds the policy {held:?}"));
    }
    if !message.deny_all.is_empty() {
        return Ok(Effect::DenyAll(message.deny_all.clone()));
    }
    let action = match wire::Action::try_from(message.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Ok(wire::Action::Audit) => Action::Audit,
        Err(_) => return Err(format!("unknown action {}", message.action)),
    };
    let mut rules = Vec::with_capacity(message.rules.len());
    for (at, rule) in message.rules.iter().enumerate() {
        let rule = self::rule(rule, &message.namespace);
        rules.push(rule.map_err(|why| format!("rule {at}: {why}"))?);
    }
    Ok(Effect::Rules {
        action,
        dry_run: message.dry_run,
        rules: rules.into(),
    })
}

fn rule(message: &wire::AuthorizationRule, namespace: &str) -> Result<Rule, String> {
    let from = message.from.iter().map(|it| source(it, namespace));
    let when = message.when.iter().map(|it| condition(it, namespace));
    Ok(Rule {
        from: from.collect::<Result<_, _>>()?,
        to: message.to.iter().map(operation).collect::<Result<_, _>>()?,
        when: when.collect::<Result<_, _>>()?,
    })
}

fn source(message: &wire::AuthorizationSource, namespace: &str) -> Result<Source, String> {
    let texts = |list: &[String]| -> Box<[StringMatch]> { list.iter().map(|v| text(v)).collect() };
    let accounts =
        |list: &[String]| each(list, "service account", |value| account(value, namespace));
    let ranges = |list: &[String]| each(list, "address", range);
    // In doubt whatever else is said of a namespace would still rule peers out, so the list as a whole is in doubt.
    let served = |list: &[String]| match list.iter().any(|value| is_star_within(value)) {
        true => Box::default(),
        false => texts(list),
    };
    let namespaces = message.namespaces.iter().chain(&message.not_namespaces);
    let stars = namespaces.filter(|value| is_star_within(value));
    let unserved: Vec<&str> = message
        .unserved
        .iter()
        .chain(stars)
        .map(String::as_str)
        .collect();
    Ok(Source {
        peer: Match {
            principals: texts(&message.principals),
            not_principals: texts(&message.not_principals),
            namespaces: served(&message.namespaces),
            not_namespaces: served(&message.not_namespaces),
            service_accounts: accounts(&message.service_accounts)?,
            not_service_accounts: accounts(&message.not_service_accounts)?,
            source_ips: ranges(&message.ip_blocks)?,
            not_source_ips: ranges(&message.not_ip_blocks)?,
            ..Match::default()
        },
        unserved: (!unserved.is_empty()).then(|| unserved.join(", ").into()),
    })
}

fn operation(message: &wire::AuthorizationOperation) -> Result<Operation, String> {
    let texts = |list: &[String]| -> Box<[StringMatch]> { list.iter().map(|v| text(v)).collect() };
    let hosts = |list: &[String]| -> Box<[StringMatch]> { list.iter().map(|v| host(v)).collect() };
    let ports = |list: &[String]| each(list, "port", port);
    let paths = |list: &[String]| -> Result<Box<[PathPattern]>, String> {
        let mut all = Vec::with_capacity(list.len());
        for value in list {
            let read = PathPattern::spellings(value);
            all.extend(read.map_err(|e| format!("path {value:?}: {e}"))?);
        }
        Ok(all.into())
    };
    Ok(Operation {
        hosts: hosts(&message.hosts),
        not_hosts: hosts(&message.not_hosts),
        ports: ports(&message.ports)?,
        not_ports: ports(&message.not_ports)?,
        methods: texts(&message.methods),
        not_methods: texts(&message.not_methods),
        paths: paths(&message.paths)?,
        not_paths: paths(&message.not_paths)?,
    })
}

fn condition(message: &wire::AuthorizationCondition, namespace: &str) -> Result<Condition, String> {
    let texts = |list: &'_ [String]| -> Vec<String> { list.to_vec() };
    let (values, not_values) = (texts(&message.values), texts(&message.not_values));
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let not_values: Vec<&str> = not_values.iter().map(String::as_str).collect();
    let read = Condition::read(&message.key, &values, &not_values, namespace);
    read.map_err(|e| match e {
        Rejected::Empty => format!("{} has no values", message.key),
        Rejected::Value(value) => format!("{} cannot be {value:?}", message.key),
    })
}

fn each<T>(
    list: &[String],
    what: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Box<[T]>, String> {
    let one = |value: &String| read(value).ok_or_else(|| format!("{value:?} is no {what}"));
    list.iter().map(one).collect()
}
