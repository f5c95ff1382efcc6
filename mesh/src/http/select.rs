//! Which rule a request is for.
//!
//! Precedence is that of the Gateway API, by match and not by rule: the most specific host, then the path (exact, the
//! longest prefix, a regular expression, `/`), a method, the number of headers, of parameters; then the oldest
//! route, then its namespace and name, then the order in it. Of gRPC matches: host, service, method, headers.
//! Consumers' routes take the place of the producer's for clients of their namespace; the two are not mixed.
//!
//! Among routes that host, exact path or prefix tell apart, what selecting costs does not grow with their number.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use crate::{
    hash,
    http::{
        head::Head,
        route::{HostMatch, Match, PathMatch, Route, Rule, Text},
    },
    name::Name,
};

/// Longest DNS name: nothing above is below a wildcard.
const LONGEST_NAME: usize = 253;

/// All routes of one port of one service.
#[derive(Debug, Default)]
pub struct Table {
    routes: Box<[Arc<Route>]>,
    producer: Hosts,
    consumers: HashMap<Name, Hosts>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'t> {
    /// The route; shared, so that it can be told of after its table is gone.
    pub route: &'t Arc<Route>,
    /// Which of its rules, from 0.
    pub at: usize,
    /// The rule.
    pub rule: &'t Rule,
    /// Which of the rule's matches decided; none if the rule has none.
    pub matched: Option<&'t Match>,
}

impl<'t> Selected<'t> {
    /// The prefix that matched, without trailing slash; none if it was not by a prefix.
    pub fn prefix(&self) -> Option<&'t str> {
        match self.matched.map(|matched| &matched.path) {
            None => Some(""),
            Some(PathMatch::Prefix(prefix)) => Some(prefix.as_str()),
            Some(PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Grpc { .. }) => None,
        }
    }
}

/// The rule for a request; none: the answer is 404, to gRPC 12. `client` is the namespace of who asks.
pub fn select<'t>(table: &'t Table, head: &Head<'_>, client: Option<Name>) -> Option<Selected<'t>> {
    let consumer = client.and_then(|client| table.consumers.get(&client));
    let hosts = consumer.unwrap_or(&table.producer);
    hosts.select(head, &|candidate| table.selected(candidate, head))
}

impl Table {
    /// Sorts and indexes routes.
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let routes: Box<[_]> = routes.into_iter().collect();
        let mut candidates = all_candidates(&routes);
        candidates.sort_by_cached_key(|candidate| rank(*candidate, &routes));
        let (mut producer, mut consumers) = (Hosts::default(), HashMap::<_, Hosts>::new());
        // A consumer's route without rules takes the place of the producer's all the same.
        for client in routes.iter().filter_map(|route| route.client) {
            consumers.entry(client).or_default();
        }
        for candidate in candidates {
            let (route, _, matched) = candidate.look_up(&routes);
            let hosts = match route.client {
                Some(client) => consumers.entry(client).or_default(),
                None => &mut producer,
            };
            let path = matched.map(|matched| &matched.path);
            hosts.insert(&route.hosts, path, candidate);
        }
        Self {
            routes,
            producer,
            consumers,
        }
    }

    /// The routes, as they were given.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    fn selected(&self, candidate: Candidate, head: &Head<'_>) -> Option<Selected<'_>> {
        let (route, rule, matched) = candidate.look_up(&self.routes);
        matched
            .is_none_or(|matched| matched.holds(head))
            .then_some(Selected {
                route,
                at: candidate.rule,
                rule,
                matched,
            })
    }
}

fn all_candidates(routes: &[Arc<Route>]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (route, object) in routes.iter().enumerate() {
        for (rule, has) in object.rules.iter().enumerate() {
            let matches = (0..has.matches.len()).map(Some);
            let none = has.matches.is_empty().then_some(None);
            candidates.extend(matches.chain(none).map(|matched| Candidate {
                route,
                rule,
                matched,
            }));
        }
    }
    candidates
}

/// Smaller is better. Hosts are not in it: the index asks the most specific first.
fn rank(candidate: Candidate, routes: &[Arc<Route>]) -> impl Ord + use<> {
    let (route, _, matched) = candidate.look_up(routes);
    let specific = matched.map_or(EVERYTHING, |matched| {
        let method = usize::from(matched.method.is_some());
        let headers = matched.effective_headers().count();
        let parameters = matched.effective_query().count();
        (path_rank(&matched.path), method, headers, parameters)
    });
    let name = (route.namespace.as_str(), route.name.clone());
    (Reverse(specific), route.created, name, candidate)
}

/// Larger is more specific; the first number is where the index keeps it.
type PathRank = [usize; 5];
const EVERYTHING: (PathRank, usize, usize, usize) = ([1, 0, 0, 0, 0], 0, 0, 0);

fn path_rank(path: &PathMatch) -> PathRank {
    let text = |text: &Option<Text>| match text {
        Some(Text::Exact(text)) => [2, text.len()],
        Some(Text::Regex(pattern)) => [1, pattern.as_str().len()],
        None => [0, 0],
    };
    match path {
        PathMatch::Exact(exact) => [4, exact.as_str().len(), 0, 0, 0],
        PathMatch::Prefix(prefix) if prefix.as_str().is_empty() => EVERYTHING.0,
        PathMatch::Prefix(prefix) => [3, prefix.as_str().len(), 0, 0, 0],
        PathMatch::Regex(pattern) => [2, pattern.as_str().len(), 0, 0, 0],
        PathMatch::Grpc { service, method } => {
            let ([s, service], [m, method]) = (text(service), text(method));
            match (s, m) {
                (2, 2) => [4, service, method, 0, 0],
                (2, _) => [3, service, m, method, 0],
                (0, 0) => EVERYTHING.0,
                _ => [2, s, service, m, method],
            }
        }
    }
}

/// One match of one rule of one route, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    route: usize,
    rule: usize,
    matched: Option<usize>,
}

impl Candidate {
    fn look_up(self, routes: &[Arc<Route>]) -> (&Arc<Route>, &Rule, Option<&Match>) {
        let route = &routes[self.route];
        let rule = &route.rules[self.rule];
        (route, rule, self.matched.map(|at| &rule.matches[at]))
    }
}

/// Candidates by host. Each list in here has the better ones first.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Box<str>, Paths>,
    below: HashMap<Box<str>, Paths>,
    any: Paths,
}

impl Hosts {
    fn insert(&mut self, hosts: &[HostMatch], path: Option<&PathMatch>, candidate: Candidate) {
        for host in hosts {
            let paths = match host {
                HostMatch::Exact(name) => self.exact.entry(name.clone()).or_default(),
                HostMatch::Below(name) => self.below.entry(name.clone()).or_default(),
            };
            paths.insert(path, candidate);
        }
        if hosts.is_empty() {
            self.any.insert(path, candidate);
        }
    }

    fn select<T>(&self, head: &Head<'_>, holds: &impl Fn(Candidate) -> Option<T>) -> Option<T> {
        let (host, path) = (&*head.host.name, &*head.path.normal);
        let exact = self
            .exact
            .get(host)
            .and_then(|paths| paths.select(path, holds));
        exact
            .or_else(|| self.select_below(host, path, holds))
            .or_else(|| self.any.select(path, holds))
    }

    fn select_below<T>(
        &self,
        host: &str,
        path: &str,
        holds: &impl Fn(Candidate) -> Option<T>,
    ) -> Option<T> {
        if self.below.is_empty() || host.len() > LONGEST_NAME {
            return None;
        }
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        dots.filter_map(|(at, _)| self.below.get(&host[at..]))
            .find_map(|paths| paths.select(path, holds))
    }
}

/// Candidates by path.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Candidate>>,
    below: Tree,
    /// What only trying tells.
    tried: Vec<Candidate>,
    every: Vec<Candidate>,
}

impl Paths {
    fn insert(&mut self, path: Option<&PathMatch>, candidate: Candidate) {
        let list = match path {
            None => &mut self.every,
            Some(PathMatch::Exact(exact)) => self.exact.entry(exact.as_str().into()).or_default(),
            Some(PathMatch::Prefix(prefix)) if prefix.as_str().is_empty() => &mut self.every,
            Some(PathMatch::Prefix(prefix)) => self.below.at(prefix.as_str()),
            Some(PathMatch::Regex(_)) => &mut self.tried,
            Some(PathMatch::Grpc { service, method }) => match (service, method) {
                (Some(Text::Exact(service)), Some(Text::Exact(method))) => {
                    let path = format!("/{service}/{method}");
                    self.exact.entry(path.into()).or_default()
                }
                (Some(Text::Exact(service)), _) => self.below.at(&format!("/{service}")),
                (None, None) => &mut self.every,
                _ => &mut self.tried,
            },
        };
        list.push(candidate);
    }

    fn select<T>(&self, path: &str, holds: &impl Fn(Candidate) -> Option<T>) -> Option<T> {
        let first = |list: &Vec<Candidate>| list.iter().find_map(|candidate| holds(*candidate));
        let exact = self.exact.get(path).and_then(first);
        exact
            .or_else(|| self.below.select(path.strip_prefix('/'), holds))
            .or_else(|| first(&self.tried))
            .or_else(|| first(&self.every))
    }
}

/// Prefixes, by segment.
#[derive(Debug, Default)]
struct Tree {
    children: hash::Map<Box<str>, Self>,
    here: Vec<Candidate>,
}

impl Tree {
    /// The list of a prefix, which begins with a slash.
    fn at(&mut self, prefix: &str) -> &mut Vec<Candidate> {
        let segments = prefix.split('/').skip(1);
        let node = segments.fold(self, |node, segment| {
            node.children.entry(segment.into()).or_default()
        });
        &mut node.here
    }

    /// The deepest first. As deep as the longest prefix, however long the path is.
    fn select<T>(&self, rest: Option<&str>, holds: &impl Fn(Candidate) -> Option<T>) -> Option<T> {
        let deeper = rest.and_then(|rest| {
            let (segment, rest) = match rest.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (rest, None),
            };
            self.children.get(segment)?.select(rest, holds)
        });
        deeper.or_else(|| self.here.iter().find_map(|candidate| holds(*candidate)))
    }
}

#[cfg(test)]
mod tests;
