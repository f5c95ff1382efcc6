//! What a document that is not YAML was meant to be.
//!
//! A policy with a stray tab must not simply vanish, nor must what wants TLS, nor what policies are attached to. Kind,
//! namespace and name are mostly still there to be seen, each on a line of its own or in braces; that is enough to deny
//! where it would have spoken.

use std::collections::BTreeSet;

use crate::manifest::{self, Kind, ObjectRef, RouteKind, UnservedKind};

/// An object, as far as it can be seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) kind: Kind,
    /// `default` if none is to be seen; empty for kinds without namespaces.
    pub(super) namespace: String,
    pub(super) name: Option<String>,
    /// Its kind and namespace are those of one object, and not put together from what several say, or from nothing.
    pub(super) sure: bool,
}

impl Guess {
    /// Which object it is, if it has a name.
    pub(super) fn reference(&self) -> Option<ObjectRef> {
        let name = self.name.as_ref()?;
        Some(ObjectRef::new(self.kind, &self.namespace, name))
    }
}

/// Kinds that are told from any place in a text: nothing else names them.
const TELLING: [Kind; 5] = [
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::Unserved(UnservedKind::RequestAuthentication),
    Kind::Unserved(UnservedKind::BackendTlsPolicy),
    Kind::Unserved(UnservedKind::DestinationRule),
];

/// What policies are attached to, or are for by its label. Other objects name these too, below their own kind.
pub(super) const TARGETS: [Kind; 7] = [
    Kind::Service,
    Kind::ServiceEntry,
    Kind::Gateway,
    Kind::GatewayClass,
    Kind::Namespace,
    Kind::Pod,
    Kind::WorkloadEntry,
];

/// What the text looks like, of what it is unsafe to lose. That is more than one object if the line between two documents
/// was forgotten.
pub(super) fn objects(text: &str) -> Vec<Guess> {
    parts(text).into_iter().filter_map(object).collect()
}

/// The kinds of which a text that cannot be read may hold an object: all, unless it says what it is.
pub(super) fn kinds(text: &str) -> Vec<Kind> {
    let text = text.trim_end();
    let mut heads = text.lines().filter(|line| is_of(line, "kind")).peekable();
    let told = heads.peek().is_some() && heads.all(|it| words(it, "kind").next().is_some());
    let last = text.lines().next_back().unwrap_or_default();
    let called: BTreeSet<_> = words(text, "kind").collect();
    let lists = called.iter().any(|it| is_list(it));
    // The last word may be cut.
    if !told || lists || last.contains("kind") {
        return Kind::all().collect();
    }
    let policies = words(text, "apiVersion").any(|group| Kind::policy(group, "").is_some());
    let counts = |kind: &Kind| {
        policies && kind.is_policy() || called.iter().any(|name| is_meant(*kind, name))
    };
    Kind::all().filter(counts).collect()
}

/// Whether this is what a kind is called, with slips.
fn is_meant(kind: Kind, name: &str) -> bool {
    kind.is_called(name) || manifest::near(name).contains(&kind.as_str())
}

/// Whether this is the kind of what holds other objects.
pub(super) fn is_list(kind: &str) -> bool {
    ["list", "lists"].contains(&kind.to_ascii_lowercase().as_str())
}

/// The text, cut where what begins an object comes once more.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut seen) = (Vec::new(), Vec::new());
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if let Some(key) = HEAD.into_iter().find(|key| is_of(line, key)) {
            let complete = seen.contains(&"kind") && seen.contains(&"metadata");
            if complete && seen.contains(&key) {
                parts.push(&text[begin..at]);
                begin = at;
                seen.clear();
            }
            seen.push(key);
        }
        at += line.len();
    }
    parts.push(&text[begin..]);
    parts
}

/// What every object begins with, each at the left margin.
const HEAD: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn is_of(line: &str, key: &str) -> bool {
    let quotes = ['"', '\''];
    let rest = line.trim_start_matches(quotes).strip_prefix(key);
    rest.is_some_and(|rest| {
        rest.trim_start_matches(quotes)
            .trim_start()
            .starts_with(':')
    })
}

/// `None` if the text does not look like an object that it is unsafe to lose.
fn object(text: &str) -> Option<Guess> {
    let first = words(text, "kind").find(|word| !is_list(word));
    let called = first.unwrap_or_default();
    let mut groups = words(text, "apiVersion");
    let telling = |word| TELLING.into_iter().find(|kind| is_meant(*kind, word));
    let mut told = words(text, "kind").filter_map(telling);
    let (told, others) = (told.next(), told.count());
    let kind = told
        // What else has a kind is below a policy, if the policy's own is not to be seen.
        .or_else(|| groups.find_map(|group| Kind::policy(group, called)))
        .or_else(|| {
            TARGETS
                .into_iter()
                .find(|kind| first.is_some_and(|word| is_meant(*kind, word)))
        })
        .or_else(|| guarded(text))?;
    let namespace = words(text, "namespace").find(is_label);
    let fallback = if kind.namespaced() { "default" } else { "" };
    Some(Guess {
        kind,
        namespace: namespace
            .filter(|_| kind.namespaced())
            .unwrap_or(fallback)
            .to_owned(),
        name: words(text, "name").next().map(str::to_owned),
        sure: told.is_some() && others == 0 && namespace.is_some(),
    })
}

/// Which kind of route this is, if it seems to have a filter that is not known to let pass whatever comes.
fn guarded(text: &str) -> Option<Kind> {
    let mut routes = [RouteKind::Http, RouteKind::Grpc]
        .map(Kind::Route)
        .into_iter();
    let kind = routes.find(|kind| words(text, "kind").any(|word| kind.is_called(word)))?;
    let lower = text.to_ascii_lowercase();
    let named = GUARDS.iter().any(|word| lower.contains(word));
    let guards = named || words(text, "type").any(|word| !TYPES.contains(&word));
    guards.then_some(kind)
}

/// In the names of what guards requests, in lower case.
const GUARDS: [&str; 3] = ["extensionref", "externalauth", "jwt"];
/// What else has a type in a route: matches, filters that only change requests, paths, and conditions.
const TYPES: [&str; 14] = [
    "Exact",
    "PathPrefix",
    "RegularExpression",
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ReplaceFullPath",
    "ReplacePrefixMatch",
    "Accepted",
    "ResolvedRefs",
    "PartiallyInvalid",
];

/// The namespaces that are named below `policies:` in what was meant to be a local workload file.
pub(super) fn policy_namespaces(text: &str) -> BTreeSet<&str> {
    let policies = text.find("policies:").map_or("", |at| &text[at..]);
    words(policies, "namespace").filter(is_label).collect()
}

fn is_label(word: &&str) -> bool {
    word.len() <= 63 && !word.contains('.')
}

/// The words that follow `key:`, as a plain, quoted or flow value.
fn words<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(key).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '.')) {
            return None;
        }
        let rest = text[at + key.len()..].trim_start_matches(['"', '\'']);
        let value = rest
            .strip_prefix(':')?
            .trim_start_matches([' ', '\t', '"', '\'']);
        let end = value
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')))
            .unwrap_or(value.len());
        Some(&value[..end]).filter(|word| !word.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, namespace and name.
    type Seen = (Kind, String, Option<String>);

    fn guess(kind: Kind, namespace: &str, name: Option<&str>) -> Option<Seen> {
        Some((kind, namespace.to_owned(), name.map(str::to_owned)))
    }

    fn seen(text: &str) -> Option<Seen> {
        object(text).map(all)
    }

    fn several(text: &str) -> Vec<Seen> {
        objects(text).into_iter().map(all).collect()
    }

    fn all(guess: Guess) -> Seen {
        (guess.kind, guess.namespace, guess.name)
    }

    #[test]
    fn a_broken_policy_is_recognised() {
        let block =
            "kind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec:\n\t- [";
        assert_eq!(
            seen(block),
            guess(Kind::AuthorizationPolicy, "shop", Some("p"))
        );
        let flow = "{kind: PeerAuthentication, metadata: {name: 'x', namespace: \"bank\"}, spec: {";
        assert_eq!(
            seen(flow),
            guess(Kind::PeerAuthentication, "bank", Some("x"))
        );
        let json =
            r#"{"kind": "AuthorizationPolicy", "metadata": {"name": "j", "namespace": "shop""#;
        assert_eq!(
            seen(json),
            guess(Kind::AuthorizationPolicy, "shop", Some("j"))
        );
        let tokens = "kind: RequestAuthentication\nmetadata: {name: t}\nspec: [";
        assert_eq!(
            seen(tokens),
            guess(
                Kind::Unserved(UnservedKind::RequestAuthentication),
                "default",
                Some("t")
            )
        );
        let bare = "kind: AuthorizationPolicy\n: :";
        assert_eq!(
            seen(bare),
            guess(Kind::AuthorizationPolicy, "default", None)
        );
    }

    #[test]
    fn a_broken_policy_whose_kind_is_misspelt_is_one_too() {
        for kind in ["kind: authorizationpolicies", "kinds: A", "kind: Other", ""] {
            let text =
                format!("apiVersion: security.istio.io/v1\n{kind}\nmetadata: {{name: p}}\n[");
            assert_eq!(
                seen(&text),
                guess(Kind::AuthorizationPolicy, "default", Some("p")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_wants_tls_or_has_policies_is_recognised_too() {
        for (text, kind, namespace) in [
            (
                "kind: Service\nmetadata: {name: x, namespace: shop",
                Kind::Service,
                "shop",
            ),
            (
                "kind: List\nitems:\n- kind: Gateway\n  metadata: {name: x",
                Kind::Gateway,
                "default",
            ),
            (
                "kind: GatewayClass\nmetadata: {name: x, namespace: no",
                Kind::GatewayClass,
                "",
            ),
            (
                "kind: Namespace\nmetadata: {name: x, labels: {",
                Kind::Namespace,
                "",
            ),
            (
                "kind: Pod\nmetadata: {name: x, namespace: shop\nspec: {[{type: ExtensionRef",
                Kind::Pod,
                "shop",
            ),
            (
                "kind: BackendTLSPolicy\nmetadata: {name: x}\nspec: {targetRefs: [{kind: Service",
                Kind::Unserved(UnservedKind::BackendTlsPolicy),
                "default",
            ),
            (
                "kind: DestinationRule\nmetadata: {namespace: bank, name: x",
                Kind::Unserved(UnservedKind::DestinationRule),
                "bank",
            ),
        ] {
            assert_eq!(seen(text), guess(kind, namespace, Some("x")), "{text}");
        }
    }

    #[test]
    fn a_broken_route_that_guards_is_recognised() {
        for filter in ["type: ExtensionRef", "externalAuth: {", "type: Login"] {
            for (kind, route) in [
                ("HTTPRoute", RouteKind::Http),
                ("GRPCRoute", RouteKind::Grpc),
            ] {
                let text = format!(
                    "kind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{{kind: Service}}], rules: [{{filters: [{{{filter}"
                );
                assert_eq!(
                    seen(&text),
                    guess(Kind::Route(route), "shop", Some("r")),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn each_of_several_objects_that_run_together_is_recognised() {
        let policy = |name: &str| {
            format!(
                "kind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: shop\nspec: {{}}\n"
            )
        };
        let both = |name| guess(Kind::AuthorizationPolicy, "shop", Some(name)).unwrap();
        for version in [
            "",
            "apiVersion: security.istio.io/v1\n",
            "\"apiVersion\" : v1\n",
        ] {
            let text = [version, &policy("p"), version, &policy("q")].concat();
            assert_eq!(several(&text), [both("p"), both("q")], "{text}");
        }
        let twice = format!("kind: AuthorizationPolicy\n{}spec: [\n", policy("p"));
        assert_eq!(several(&twice), [both("p")]);
        assert_eq!(several(""), []);
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "",
            "kind: Node\n[",
            "# about AuthorizationPolicy\n[",
            "mykind: AuthorizationPolicy",
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\n[",
            "kind: HTTPRoute\nspec: {parentRefs: [{kind: Service",
            "kind: HTTPRoute\nspec: {rules: [{matches: [{path: {type: Exact, value: /auth}}], filters: [{type: CORS",
            "kind: Node\nspec: {[{type: ExtensionRef",
            "kind:",
        ] {
            assert_eq!(seen(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_policy_whose_own_kind_is_not_to_be_seen_is_none_of_what_it_is_for() {
        for kind in [
            "knd: AuthorizationPolicy\n",
            "Kind: AuthorizationPolicy\n",
            "",
        ] {
            let text = format!(
                "apiVersion: security.istio.io/v1\n{kind}metadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: cart}}]}}"
            );
            let found = object(&text).unwrap();
            assert_eq!(
                all(found),
                (
                    Kind::AuthorizationPolicy,
                    "shop".to_owned(),
                    Some("p".to_owned())
                )
            );
        }
    }
}
