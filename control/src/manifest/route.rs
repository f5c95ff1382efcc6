//! HTTPRoute, GRPCRoute and TCPRoute (`gateway.networking.k8s.io`): where requests go.
//!
//! The three have one shape here, of which each kind uses its part. Everything that the API has is known: what is not
//! served is kept as the bare name of its field, so that a status can say so; what the API does not have is refused.

use std::{fmt, time::Duration};

use super::{
    Meta,
    read::{At, Faults},
};

mod backend;
mod duration;
mod filter;
mod grpc;
mod guard;
mod http;
mod parent;

/// A route of any of the kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Metadata.
    pub meta: Meta,
    /// Which kind.
    pub kind: RouteKind,
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Host names as written, the first may begin with `*.`; none: all.
    pub hostnames: Vec<String>,
    /// Rules, at least one.
    pub rules: Vec<Rule>,
}

/// The kinds of routes, those that prevail over others first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is the kind of that name")]
pub enum RouteKind {
    Grpc,
    Http,
    Tcp,
}

impl RouteKind {
    /// As written in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// Filters that may stop a request.
const GUARDS: [&str; 2] = ["ExternalAuth", "ExtensionRef"];

impl Rule {
    /// Whether it, or one of its backends, has a filter that may stop a request.
    pub fn guards(&self) -> bool {
        let backends = self.backends.iter().flat_map(|backend| &backend.filters);
        let mut filters = self.filters.iter().chain(backends);
        filters.any(|it| matches!(it, Filter::Unserved(name) if GUARDS.contains(name)))
    }
}

impl Route {
    /// What it wants guarded, and no more.
    pub fn guarded(mut self) -> Self {
        self.rules.retain(Rule::guards);
        for rule in &mut self.rules {
            let matches = match rule.matches.is_empty() {
                true => vec![Match::default()],
                false => std::mem::take(&mut rule.matches),
            };
            *rule = Rule {
                matches,
                ..Rule::default()
            };
        }
        self
    }

    /// Whether it says to what it is attached, so that this can be read.
    pub fn is_attached(&self) -> bool {
        !self.parents.is_empty() && self.parents.iter().all(|parent| !parent.name.is_empty())
    }
}

pub(super) use guard::guarded;

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// As written; `gateway.networking.k8s.io` if it is not.
    pub group: Option<String>,
    /// As written; `Gateway` if it is not.
    pub kind: Option<String>,
    /// As written; the route's own if it is not.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Name of a port of the Service, or of a listener of the Gateway.
    pub section: Option<String>,
    /// Port.
    pub port: Option<u16>,
}

impl fmt::Display for ParentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_deref().unwrap_or("Gateway"))?;
        if let Some(namespace) = &self.namespace {
            write!(f, "/{namespace}")?;
        }
        write!(f, "/{}", self.name)?;
        if let Some(section) = &self.section {
            write!(f, ", {section}")?;
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        Ok(())
    }
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Empty if it has none.
    pub name: String,
    /// Any of them; none: everything.
    pub matches: Vec<Match>,
    /// In order.
    pub filters: Vec<Filter>,
    /// Where to, by weight.
    pub backends: Vec<BackendRef>,
    /// For the whole request. `None`, or zero: no limit.
    pub request_timeout: Option<Duration>,
    /// For one try. `None`, or zero: no limit.
    pub backend_timeout: Option<Duration>,
    /// Fields of the rule that the API has and that are not served.
    pub unserved: Vec<&'static str>,
}

/// What a rule is for: all of its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// `None`: any path.
    pub path: Option<PathMatch>,
    /// `None`: any.
    pub method: Option<String>,
    /// All of them.
    pub headers: Vec<FieldMatch>,
    /// All of them.
    pub query: Vec<FieldMatch>,
}

/// Which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole.
    Exact(String),
    /// Leading segments.
    Prefix(String),
    /// The whole, by regular expression.
    Regex(String),
    /// A gRPC call: service and method.
    Grpc(Option<Text>, Option<Text>),
}

/// A header or a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldMatch {
    /// Name.
    pub name: String,
    /// Value.
    pub value: Text,
}

/// Which text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The whole.
    Exact(String),
    /// The whole, by regular expression.
    Regex(String),
}

/// What is done to a request or its response.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderEdits),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderEdits),
    /// `RequestRedirect`.
    Redirect(Redirect),
    /// `URLRewrite`.
    Rewrite(Rewrite),
    /// One that the API has and that is not served, by its type.
    Unserved(&'static str),
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Name and value, in place of those of this name.
    pub set: Vec<(String, String)>,
    /// Name and value, beside those of this name.
    pub add: Vec<(String, String)>,
    /// Names.
    pub remove: Vec<String>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None`: the request's.
    pub scheme: Option<String>,
    /// `None`: the request's.
    pub hostname: Option<String>,
    /// `None`: the request's.
    pub path: Option<PathEdit>,
    /// `None`: by the scheme, or the port asked for.
    pub port: Option<u16>,
    /// `None`: 302.
    pub status: Option<u16>,
}

/// A request that is sent on as if for another host or path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `None`: as asked.
    pub hostname: Option<String>,
    /// `None`: as asked.
    pub path: Option<PathEdit>,
}

/// A change of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// In place of the whole.
    Full(String),
    /// In place of the prefix that matched.
    Prefix(String),
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendRef {
    /// Empty: the core.
    pub group: String,
    /// For example `Service`.
    pub kind: String,
    /// As written; the route's own if it is not.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port; Services need one.
    pub port: Option<u16>,
    /// Share among its rule's backends.
    pub weight: u32,
    /// Only for requests that go here.
    pub filters: Vec<Filter>,
}

/// The API's own limits; a TCPRoute has one rule.
const MOST_RULES: usize = 16;
const MOST_MATCHES: usize = 128;

pub(super) fn route(kind: RouteKind, meta: Meta, root: &At<'_>, faults: &mut Faults) -> Route {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut route = Route {
        meta,
        kind,
        parents: Vec::new(),
        hostnames: Vec::new(),
        rules: Vec::new(),
    };
    let Some(spec) = root.mapping("spec", faults) else {
        faults.add(root, "spec", "required");
        return route;
    };
    let fields: &[_] = match kind {
        RouteKind::Tcp => &["parentRefs", "useDefaultGateways", "rules"],
        _ => &["parentRefs", "useDefaultGateways", "hostnames", "rules"],
    };
    spec.only(fields, faults);
    route.parents = parent::parents(&spec, faults);
    route.hostnames = parent::hostnames(&spec, faults);
    let most = if kind == RouteKind::Tcp {
        1
    } else {
        MOST_RULES
    };
    let rules = spec.at_most("rules", most, faults);
    route.rules = rules
        .iter()
        .map(|at| match kind {
            RouteKind::Http => http::rule(at, faults),
            RouteKind::Grpc => grpc::rule(at, faults),
            RouteKind::Tcp => backend::rule(at, faults),
        })
        .collect();
    if route.rules.iter().map(|it| it.matches.len()).sum::<usize>() > MOST_MATCHES {
        faults.add(&spec, "rules", format!("more than {MOST_MATCHES} matches"));
    }
    for (i, at) in rules.iter().enumerate() {
        let name = &route.rules[i].name;
        if !name.is_empty() && route.rules[..i].iter().any(|it| it.name == *name) {
            faults.add(at, "name", format!("{name:?} is there twice"));
        }
    }
    // The API server's default: one rule, for everything.
    if route.rules.is_empty() {
        match kind {
            RouteKind::Tcp => faults.add(&spec, "rules", "at least one is required"),
            RouteKind::Grpc => route.rules.push(Rule::default()),
            RouteKind::Http => route.rules.push(Rule {
                matches: vec![http::everything()],
                ..Rule::default()
            }),
        }
    }
    route
}
