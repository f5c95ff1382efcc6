//! One rule of an AuthorizationPolicy.

use std::net::IpAddr;

use mesh::http::authorize::{self, PathPattern, Rejected, is_star_within};

use super::{
    super::read::{At, Faults},
    Block, Condition, MOST, Operation, Rule, Source, Values,
};

/// Source fields that only a waypoint can judge, or that are not served yet.
const SOURCE_BEYOND: &[&str] = &[
    "requestPrincipals",
    "notRequestPrincipals",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "trustDomains",
    "notTrustDomains",
];
const SOURCE: &[&str] = &[
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
];
/// What is said of namespaces that are patterns with a star elsewhere than at one end.
const STAR_WITHIN: &str = "namespaces with a * within";
const STAR_WITHIN_NOT: &str = "notNamespaces with a * within";
const OPERATION_BEYOND: &[&str] = &[
    "hosts",
    "notHosts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];
const OPERATION: &[&str] = &["ports", "notPorts"];
/// The API's own limit on service accounts in a source.
const MOST_ACCOUNTS: usize = 16;
/// The API's own limit on the length of one.
const LONGEST_ACCOUNT: usize = 320;

pub(super) fn rule(at: &At<'_>, namespace: &str, faults: &mut Faults) -> Rule {
    at.only(&["from", "to", "when"], faults);
    let from = at.items("from", faults);
    if from.len() > MOST {
        faults.add(at, "from", format!("more than {MOST} sources"));
    }
    let mut rule = Rule::default();
    for at in from {
        rule.from
            .extend(wrapped(&at, "source", faults).map(|at| source(&at, namespace, faults)));
    }
    for at in at.items("to", faults) {
        rule.to
            .extend(wrapped(&at, "operation", faults).map(|at| operation(&at, faults)));
    }
    for at in at.items("when", faults) {
        rule.when.extend(condition(&at, namespace, faults));
    }
    rule
}

fn wrapped<'a>(at: &At<'a>, key: &str, faults: &mut Faults) -> Option<At<'a>> {
    at.only(&[key], faults);
    let inner = at.mapping(key, faults);
    if at.is_mapping() && at.get(key).is_none() {
        faults.add(at, key, "required");
    }
    inner
}

fn source(at: &At<'_>, namespace: &str, faults: &mut Faults) -> Source {
    at.only(&[SOURCE, SOURCE_BEYOND].concat(), faults);
    let mut source = Source {
        principals: words(at, "principals", "notPrincipals", faults),
        namespaces: words(at, "namespaces", "notNamespaces", faults),
        service_accounts: values(
            at,
            "serviceAccounts",
            "notServiceAccounts",
            faults,
            |text| account(text, namespace),
        ),
        blocks: values(at, "ipBlocks", "notIpBlocks", faults, block),
        beyond: beyond(at, SOURCE_BEYOND, faults),
    };
    // Taken for a text it would be no namespace's name, so that a DENY of it would deny nobody.
    let Values { any, none } = &mut source.namespaces;
    for (list, called) in [(any, STAR_WITHIN), (none, STAR_WITHIN_NOT)] {
        if list.iter().any(|value| is_star_within(value)) {
            list.clear();
            source.beyond.push(called);
        }
    }
    let accounts = &source.service_accounts;
    let has = |key: &str| at.get(key).is_some();
    if (has("serviceAccounts") || has("notServiceAccounts"))
        && ["principals", "notPrincipals", "namespaces", "notNamespaces"]
            .into_iter()
            .any(has)
    {
        faults.add(
            at,
            "serviceAccounts",
            "not together with principals or namespaces",
        );
    }
    if accounts.any.len().max(accounts.none.len()) > MOST_ACCOUNTS {
        faults.add(at, "serviceAccounts", format!("more than {MOST_ACCOUNTS}"));
    }
    source
}

fn operation(at: &At<'_>, faults: &mut Faults) -> Operation {
    at.only(&[OPERATION, OPERATION_BEYOND].concat(), faults);
    // The same texts are read above, with their faults.
    let mut quiet = Faults::default();
    Operation {
        ports: values(at, "ports", "notPorts", faults, port),
        hosts: words(at, "hosts", "notHosts", faults),
        methods: words(at, "methods", "notMethods", faults),
        paths: values(at, "paths", "notPaths", faults, path),
        beyond: beyond(at, OPERATION_BEYOND, &mut quiet),
    }
}

fn condition(at: &At<'_>, namespace: &str, faults: &mut Faults) -> Option<Condition> {
    at.only(&["key", "values", "notValues"], faults);
    let Some(key) = at.text("key", faults) else {
        faults.add(at, "key", "required");
        return None;
    };
    if at.items("values", faults).is_empty() && at.items("notValues", faults).is_empty() {
        faults.add(at, "", "at least one of values, notValues");
    }
    Some(match key {
        "source.ip" => Condition::SourceIp(values(at, "values", "notValues", faults, block)),
        "source.namespace" => {
            let values = words(at, "values", "notValues", faults);
            let mut all = values.any.iter().chain(&values.none);
            if all.any(|value| is_star_within(value)) {
                Condition::Beyond(key.to_owned(), values)
            } else {
                Condition::SourceNamespace(values)
            }
        }
        "source.principal" => Condition::SourcePrincipal(words(at, "values", "notValues", faults)),
        "destination.ip" => {
            Condition::DestinationIp(values(at, "values", "notValues", faults, block))
        }
        "destination.port" => {
            Condition::DestinationPort(values(at, "values", "notValues", faults, port))
        }
        key if is_beyond(key) => {
            let values = words(at, "values", "notValues", faults);
            comparable(at, key, &values, namespace, faults);
            Condition::Beyond(key.to_owned(), values)
        }
        key => {
            faults.add(at, "key", format!("{key:?} is not a condition"));
            return None;
        }
    })
}

/// Refuses values that a waypoint could not compare with.
fn comparable(
    at: &At<'_>,
    key: &str,
    values: &Values<String>,
    namespace: &str,
    faults: &mut Faults,
) {
    let [any, none] =
        [&values.any, &values.none].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    if let Err(Rejected::Value(value)) = authorize::Condition::read(key, &any, &none, namespace) {
        faults.add(at, "", format!("{value:?} is not a value of {key}"));
    }
}

/// Keys that the API has and a node proxy cannot judge, or that are not served yet.
fn is_beyond(key: &str) -> bool {
    let bracketed = |name: &str| {
        let inner = key
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'));
        inner.is_some_and(|inner| !inner.is_empty())
    };
    matches!(
        key,
        "remote.ip"
            | "source.serviceAccount"
            | "source.trustDomain"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
            | "connection.sni"
    ) || bracketed("request.headers")
        || bracketed("request.auth.claims")
        || key
            .strip_prefix("experimental.envoy.filters.")
            .is_some_and(|rest| !rest.is_empty())
}

fn beyond(at: &At<'_>, fields: &[&'static str], faults: &mut Faults) -> Vec<&'static str> {
    let mut found = Vec::new();
    for field in fields
        .iter()
        .copied()
        .filter(|field| at.get(field).is_some())
    {
        let texts = texts(at, field, faults, |text| Ok(text.to_owned()));
        if !texts.is_empty() {
            found.push(field);
        }
    }
    found
}

fn words(at: &At<'_>, any: &str, none: &str, faults: &mut Faults) -> Values<String> {
    values(at, any, none, faults, |text| Ok(text.to_owned()))
}

fn values<T>(
    at: &At<'_>,
    any: &str,
    none: &str,
    faults: &mut Faults,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Values<T> {
    Values {
        any: texts(at, any, faults, &parse),
        none: texts(at, none, faults, &parse),
    }
}

fn texts<T>(
    at: &At<'_>,
    key: &str,
    faults: &mut Faults,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for (at, text) in at.texts(key, faults) {
        if text.is_empty() {
            faults.add(&at, "", "empty");
            continue;
        }
        match parse(text) {
            Ok(value) => parsed.push(value),
            Err(reason) => faults.add(&at, "", reason),
        }
    }
    parsed
}

fn path(text: &str) -> Result<String, String> {
    match PathPattern::read(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(malformed) => Err(format!("{text:?} is not a pattern of paths: {malformed}")),
    }
}

fn port(text: &str) -> Result<u16, String> {
    // `parse` alone would take "+80".
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| {
        format!("{text:?} is not a port number from 0 to 65535; names are not known here")
    })
}

fn block(text: &str) -> Result<Block, String> {
    let wrong = || format!("{text:?} is neither an IP address nor a range of them");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return Ok(Block {
            address,
            length: bits,
        });
    };
    let plain = length.bytes().all(|b| b.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    match length.parse() {
        Ok(length) if plain && length <= bits => Ok(Block { address, length }),
        _ => Err(wrong()),
    }
}

fn account(text: &str, namespace: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if text.len() > LONGEST_ACCOUNT {
        return Err(format!("longer than {LONGEST_ACCOUNT} bytes"));
    }
    if namespace.is_empty() || name.is_empty() || name.contains('/') || text.contains('*') {
        return Err(format!(
            "{text:?} is neither a service account's name nor <namespace>/<name>"
        ));
    }
    Ok((namespace.to_owned(), name.to_owned()))
}
