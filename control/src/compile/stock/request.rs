//! Whether a policy of requests may let a waypoint in, as far as that depends on who it is.

use proto::waypoint::{Action, Authorization, AuthorizationSource};

use super::Peer;

/// Whether it is one that has to let a client in.
pub(super) fn is_allow(policy: &Authorization) -> bool {
    policy.action == Action::Allow as i32 && !policy.dry_run
}

pub(super) fn lets_in(policy: &Authorization, peer: &Peer) -> bool {
    let mut rules = policy.rules.iter();
    rules.any(|rule| rule.from.is_empty() || rule.from.iter().any(|it| is_in(it, peer)))
}

fn is_in(source: &AuthorizationSource, peer: &Peer) -> bool {
    let account = format!("{}/{}", peer.namespace, peer.account);
    let lists = [
        (&source.principals, &source.not_principals, &peer.principal),
        (&source.namespaces, &source.not_namespaces, &peer.namespace),
        (
            &source.service_accounts,
            &source.not_service_accounts,
            &account,
        ),
    ];
    let any = |list: &[String], text: &str| list.iter().any(|it| matches(it, text));
    source.unserved.is_empty()
        && lists
            .into_iter()
            .all(|(yes, no, text)| (yes.is_empty() || any(yes, text)) && !any(no, text))
}

/// A `*` is a wildcard at one end, or alone.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => text.ends_with(suffix),
        (None, Some(prefix)) => text.starts_with(prefix),
        (None, None) => text == pattern,
    }
}
