//! A second evaluator, as plain as can be: for every part it tells whether it surely matches and whether it might. A DENY
//! matches if it might, an ALLOW if it surely does. It shares no code with what it checks.

use proptest::prelude::*;

use super::super::Action;

/// A policy, by the texts that users write.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub action: Action,
    pub dry_run: bool,
    pub rules: Vec<SaidRule>,
}

type Texts = Vec<&'static str>;

#[derive(Clone, Debug)]
pub(super) struct SaidRule {
    /// Namespaces, not namespaces, and whether there is more that nobody serves.
    pub from: Vec<(Texts, Texts, bool)>,
    pub to: Vec<SaidOperation>,
    /// A header, its values, not values; nobody serves `unserved`.
    pub when: Vec<(&'static str, Texts, Texts)>,
}

#[derive(Clone, Debug)]
pub(super) struct SaidOperation {
    pub hosts: Texts,
    pub not_hosts: Texts,
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    pub methods: Texts,
    pub not_methods: Texts,
    pub paths: Texts,
    pub not_paths: Texts,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub namespace: Option<&'static str>,
    pub port: u16,
    pub method: &'a str,
    pub host: &'a str,
    pub target: &'a str,
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self {
            namespace: Some("bank"),
            port: 80,
            method: "GET",
            host: "shop",
            target: "/",
            headers: Vec::new(),
        }
    }
}

/// Targets, and what servers may take them for.
const TARGETS: [(&str, &[&str]); 9] = [
    ("/a", &["/a"]),
    ("/a/b?c", &["/a/b"]),
    ("/x/../a", &["/a"]),
    ("/b", &["/b"]),
    ("//a", &["//a", "/a"]),
    ("/b/..;/a", &["/b/..;/a", "/a"]),
    ("/a%2fb", &["/a%2Fb", "/a/b"]),
    ("/b;a", &["/b;a", "/b"]),
    ("/b%00", &["/b%00", "/b"]),
];

/// Whether it surely matches, and whether it might.
#[derive(Clone, Copy)]
struct Bounds {
    surely: bool,
    maybe: bool,
}

const NOBODY_KNOWS: Bounds = Bounds {
    surely: false,
    maybe: true,
};

fn certain(matches: bool) -> Bounds {
    Bounds {
        surely: matches,
        maybe: matches,
    }
}

fn not(of: Bounds) -> Bounds {
    Bounds {
        surely: !of.maybe,
        maybe: !of.surely,
    }
}

fn all(of: &[Bounds]) -> Bounds {
    Bounds {
        surely: of.iter().all(|b| b.surely),
        maybe: of.iter().all(|b| b.maybe),
    }
}

/// None of them: nothing is asked.
fn any(of: &[Bounds]) -> Bounds {
    Bounds {
        surely: of.is_empty() || of.iter().any(|b| b.surely),
        maybe: of.is_empty() || of.iter().any(|b| b.maybe),
    }
}

pub(super) fn passes(policies: &[Said], asked: &Asked<'_>) -> bool {
    let (_, readings) = TARGETS
        .iter()
        .find(|(target, _)| *target == asked.target)
        .unwrap();
    let enforced = |action| {
        policies
            .iter()
            .filter(move |p| p.action == action && !p.dry_run)
    };
    readings.iter().all(|path| {
        let of = |policy: &Said| -> Vec<Bounds> {
            policy
                .rules
                .iter()
                .map(|rule| of_rule(rule, asked, path))
                .collect()
        };
        let denied = enforced(Action::Deny).any(|p| of(p).iter().any(|b| b.maybe));
        let none = enforced(Action::Allow).count() == 0;
        let allowed = enforced(Action::Allow).any(|p| of(p).iter().any(|b| b.surely));
        !denied && (none || allowed)
    })
}

fn of_rule(rule: &SaidRule, asked: &Asked<'_>, path: &str) -> Bounds {
    let from: Vec<_> = rule
        .from
        .iter()
        .map(|source| of_source(source, asked))
        .collect();
    let to: Vec<_> = rule
        .to
        .iter()
        .map(|operation| of_operation(operation, asked, path))
        .collect();
    let when: Vec<_> = rule
        .when
        .iter()
        .map(|condition| of_condition(condition, asked))
        .collect();
    all(&[any(&from), any(&to), all(&when)])
}

fn of_source((namespaces, others, unserved): &(Texts, Texts, bool), asked: &Asked<'_>) -> Bounds {
    let named = |list: &Texts| {
        let namespace = asked.namespace.map(str::as_bytes);
        certain(namespace.is_some_and(|namespace| list.iter().any(|p| glob(p, namespace))))
    };
    let mut parts = Vec::new();
    if !namespaces.is_empty() {
        parts.push(named(namespaces));
    }
    if !others.is_empty() {
        parts.push(not(named(others)));
    }
    if *unserved || parts.is_empty() {
        parts.push(NOBODY_KNOWS);
    }
    all(&parts)
}

fn of_operation(said: &SaidOperation, asked: &Asked<'_>, path: &str) -> Bounds {
    let of_text =
        |list: &Texts, value: &str| certain(list.iter().any(|p| glob(p, value.as_bytes())));
    let mut parts = Vec::new();
    let mut add = |wanted: bool, unwanted: bool, of: &dyn Fn(bool) -> Bounds| {
        if wanted {
            parts.push(of(true));
        }
        if unwanted {
            parts.push(not(of(false)));
        }
    };
    add(
        !said.hosts.is_empty(),
        !said.not_hosts.is_empty(),
        &|wanted| of_host(if wanted { &said.hosts } else { &said.not_hosts }, asked),
    );
    add(
        !said.ports.is_empty(),
        !said.not_ports.is_empty(),
        &|wanted| {
            let ports = if wanted { &said.ports } else { &said.not_ports };
            certain(ports.contains(&asked.port))
        },
    );
    add(
        !said.methods.is_empty(),
        !said.not_methods.is_empty(),
        &|wanted| {
            of_text(
                if wanted {
                    &said.methods
                } else {
                    &said.not_methods
                },
                asked.method,
            )
        },
    );
    add(
        !said.paths.is_empty(),
        !said.not_paths.is_empty(),
        &|wanted| of_text(if wanted { &said.paths } else { &said.not_paths }, path),
    );
    if parts.is_empty() {
        NOBODY_KNOWS
    } else {
        all(&parts)
    }
}

fn of_host(list: &Texts, asked: &Asked<'_>) -> Bounds {
    let matches = |host: &str| {
        let host = host.to_lowercase();
        list.iter()
            .any(|pattern| glob(&pattern.to_lowercase(), host.as_bytes()))
    };
    let (name, port) = asked.host.split_once(':').unwrap_or((asked.host, "80"));
    let said = format!("{name}:{port}");
    let surely = matches(&said) || port == "80" && matches(name);
    let connected = format!("{name}:{}", asked.port);
    Bounds {
        surely,
        maybe: surely || matches(name) || matches(&connected),
    }
}

fn of_condition((name, values, others): &(&str, Texts, Texts), asked: &Asked<'_>) -> Bounds {
    if *name == "unserved" {
        return NOBODY_KNOWS;
    }
    let sent: Vec<&[u8]> = asked
        .headers
        .iter()
        .filter(|h| h.0 == *name)
        .map(|h| h.1)
        .collect();
    let of = |list: &Texts| {
        let matching = sent
            .iter()
            .filter(|value| list.iter().any(|p| glob(p, value)))
            .count();
        Bounds {
            surely: matching > 0 && matching == sent.len(),
            maybe: matching > 0,
        }
    };
    let mut parts = Vec::new();
    if !values.is_empty() {
        parts.push(of(values));
    }
    if !others.is_empty() {
        parts.push(not(of(others)));
    }
    if parts.is_empty() {
        NOBODY_KNOWS
    } else {
        all(&parts)
    }
}

fn glob(pattern: &str, value: &[u8]) -> bool {
    if pattern == "*" {
        !value.is_empty()
    } else if let Some(end) = pattern.strip_prefix('*') {
        value.ends_with(end.as_bytes())
    } else if let Some(start) = pattern.strip_suffix('*') {
        value.starts_with(start.as_bytes())
    } else {
        pattern.as_bytes() == value
    }
}

/// Up to two of them; mostly none.
fn some<T: Clone + std::fmt::Debug + 'static>(of: &[T]) -> impl Strategy<Value = Vec<T>> + use<T> {
    let of = of.to_vec();
    prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(prop::sample::select(of), 1..3),
    ]
}

fn operation() -> impl Strategy<Value = SaidOperation> {
    let hosts = || some(&["shop", "SHOP:80", "shop:8080", "*:8080", "bank", "*p"]);
    let ports = || some(&[80_u16, 8080]);
    let methods = || some(&["GET", "P*", "*T", "get"]);
    let paths = || some(&["/a", "/a*", "/a/b", "*b", "/b", "*", "//a"]);
    let lists = (hosts(), hosts(), ports(), ports());
    (lists, (methods(), methods(), paths(), paths())).prop_map(
        |((hosts, not_hosts, ports, not_ports), (methods, not_methods, paths, not_paths))| {
            SaidOperation {
                hosts,
                not_hosts,
                ports,
                not_ports,
                methods,
                not_methods,
                paths,
                not_paths,
            }
        },
    )
}

fn rule() -> impl Strategy<Value = SaidRule> {
    let namespaces = || some(&["bank", "b*", "shop", "*"]);
    let source = (namespaces(), namespaces(), prop::bool::weighted(0.1));
    let values = || some(&["1", "1*", "*", "*2"]);
    let name = prop::sample::select(vec!["x", "x", "y", "y", "unserved"]);
    (
        prop::collection::vec(source, 0..3),
        prop::collection::vec(operation(), 0..3),
        prop::collection::vec((name, values(), values()), 0..3),
    )
        .prop_map(|(from, to, when)| SaidRule { from, to, when })
}

pub(super) fn policy() -> impl Strategy<Value = Said> {
    (
        prop::sample::select(vec![
            Action::Allow,
            Action::Deny,
            Action::Deny,
            Action::Audit,
        ]),
        prop::bool::weighted(0.2),
        prop::collection::vec(rule(), 0..3),
    )
        .prop_map(|(action, dry_run, rules)| Said {
            action,
            dry_run,
            rules,
        })
}

pub(super) fn asked() -> impl Strategy<Value = Asked<'static>> {
    let names = prop::sample::select(vec!["x", "y"]);
    let values = prop::sample::select(vec![&b"1"[..], b"12", b"2", b"", b"\xff"]);
    (
        prop::option::of(prop::sample::select(vec!["bank", "shop"])),
        prop::sample::select(vec![80_u16, 8080]),
        prop::sample::select(vec!["GET", "POST", "PUT"]),
        prop::sample::select(vec!["shop", "shop:8080", "bank"]),
        prop::sample::select(TARGETS.map(|(target, _)| target).to_vec()),
        prop::collection::vec((names, values), 0..4),
    )
        .prop_map(|(namespace, port, method, host, target, headers)| Asked {
            namespace,
            port,
            method,
            host,
            target,
            headers,
        })
}
