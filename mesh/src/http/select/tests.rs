//! Tables of what goes where, and a second way to select that random tables must agree with.

mod naive;

use proptest::prelude::*;

use super::*;
use crate::http::{
    head::{Field, Raw},
    host::Scheme,
    pattern::Pattern,
    route::{FieldMatch, Kind},
};
use naive::{Asked, MatchOf, Object, PathOf};

/// A request to `host` for `target`.
fn selects(table: &Table, host: &str, target: &str) -> Option<String> {
    let asked = Asked {
        host,
        target,
        ..Asked::default()
    };
    choice(table, &asked)
}

/// `<route>/<rule>` for a request.
fn choice(table: &Table, asked: &Asked<'_>) -> Option<String> {
    let headers: Vec<Field<'_>> = asked
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    let raw = Raw {
        method: asked.method.as_bytes(),
        scheme: Scheme::Http,
        authority: Some(asked.host.as_bytes()),
        target: asked.target.as_bytes(),
        headers: &headers,
    };
    let head = Head::read(&raw).unwrap();
    let selected = select(table, &head, asked.client.map(Name::new))?;
    Some(format!("{}/{}", selected.route.name, selected.at))
}

fn table(objects: &[Object]) -> Table {
    Table::new(objects.iter().map(|object| Arc::new(route(object))))
}

fn route(object: &Object) -> Route {
    let rules = object.rules.iter().map(|matches| Rule {
        matches: matches.iter().map(match_of).collect(),
        ..Rule::default()
    });
    Route {
        kind: Kind::Http,
        namespace: object.namespace.into(),
        name: object.name.as_str().into(),
        created: object.created,
        client: object.client.map(Name::new),
        hosts: object
            .hosts
            .iter()
            .map(|host| HostMatch::read(host))
            .collect(),
        rules: rules.collect(),
    }
}

fn match_of(m: &MatchOf) -> Match {
    let text = |text: &str| Text::Exact(text.into());
    let fields = |list: &[(&str, &str)]| {
        let field = |(name, value): &(&str, &str)| FieldMatch {
            name: (*name).into(),
            value: text(value),
        };
        list.iter().map(field).collect()
    };
    Match {
        path: match m.path {
            PathOf::Exact(path) => PathMatch::exact(path).unwrap(),
            PathOf::Prefix(path) => PathMatch::prefix(path).unwrap(),
            PathOf::Regex(pattern, _) => PathMatch::Regex(Pattern::new(pattern).unwrap()),
            PathOf::Grpc(service, method) => PathMatch::Grpc {
                service: service.map(text),
                method: method.map(text),
            },
        },
        method: m.method.map(Into::into),
        headers: fields(&m.headers),
        query: fields(&m.query),
    }
}

/// A route with one rule for each match.
fn object(name: &str, matches: &[MatchOf]) -> Object {
    Object {
        name: name.to_owned(),
        rules: matches.iter().map(|m| vec![m.clone()]).collect(),
        ..Object::default()
    }
}

fn path(path: PathOf) -> MatchOf {
    MatchOf {
        path,
        ..MatchOf::default()
    }
}

fn hosts(name: &str, hosts: &[&'static str]) -> Object {
    Object {
        hosts: hosts.to_vec(),
        ..object(name, &[path(PathOf::Prefix("/"))])
    }
}

#[test]
fn a_prefix_matches_by_segments() {
    for (prefix, target, matches) in [
        ("/abc", "/abc", true),
        ("/abc", "/abc/", true),
        ("/abc", "/abc/d", true),
        ("/abc", "/abcd", false),
        ("/abc", "/ab", false),
        ("/abc/", "/abc", true),
        ("/abc/", "/abc/d", true),
        ("/abc/", "/abcd", false),
        ("/abc", "/ABC", false),
        ("/abc", "/x/../%61bc", true),
        ("/%61bc", "/abc", true),
        ("/abc", "//abc", false),
        ("/abc", "/abc?d", true),
        ("/", "/", true),
        ("/", "/anything", true),
    ] {
        let table = table(&[object("r", &[path(PathOf::Prefix(prefix))])]);
        let selected = selects(&table, "a", target);
        assert_eq!(selected.is_some(), matches, "{prefix} {target}");
    }
}

/// Of calls to one service an expression says more than nothing, and less than a method's name.
#[test]
fn a_grpc_method_by_name_goes_before_an_expression_and_that_before_none() {
    let text = |text: &str| Some(Text::Exact(text.into()));
    let regex = |text: &str| Some(Text::Regex(Pattern::new(text).unwrap()));
    let rule = |service: &Option<Text>, method: Option<Text>| Rule {
        matches: [Match {
            path: PathMatch::Grpc {
                service: service.clone(),
                method,
            },
            method: None,
            headers: Box::default(),
            query: Box::default(),
        }]
        .into(),
        ..Rule::default()
    };
    for service in [text("shop.Cart"), regex("shop[.].*"), None] {
        let object = route(&object("r", &[]));
        let rules = [None, regex("G.*"), text("Get"), regex("Ge.*")].map(|it| rule(&service, it));
        let table = Table::new([Arc::new(Route {
            kind: Kind::Grpc,
            rules: rules.into(),
            ..object
        })]);
        for (target, expected) in [
            ("/shop.Cart/Get", "r/2"),
            // Of two expressions the longer one.
            ("/shop.Cart/Gem", "r/3"),
            ("/shop.Cart/Give", "r/1"),
            ("/shop.Cart/Put", "r/0"),
        ] {
            let selected = selects(&table, "a", target);
            assert_eq!(selected.as_deref(), Some(expected), "{service:?} {target}");
        }
    }
}

#[test]
fn the_more_specific_path_wins_whatever_the_order() {
    let any = |path: &str| path.ends_with("any");
    let mut matches = vec![
        path(PathOf::Prefix("/")),
        path(PathOf::Regex(".*any", any)),
        path(PathOf::Prefix("/a")),
        path(PathOf::Prefix("/a/b")),
        path(PathOf::Exact("/a/b")),
    ];
    for _ in 0..matches.len() {
        let table = table(&[object("r", &matches)]);
        for (target, wanted) in [
            ("/a/b", PathOf::Exact("/a/b")),
            ("/a/b/", PathOf::Prefix("/a/b")),
            ("/a/b/any", PathOf::Prefix("/a/b")),
            ("/a/c", PathOf::Prefix("/a")),
            ("/many", PathOf::Regex(".*any", any)),
            ("/other", PathOf::Prefix("/")),
        ] {
            let rule = matches.iter().position(|m| m.path.text() == wanted.text());
            let expected = format!("r/{}", rule.unwrap());
            assert_eq!(selects(&table, "a", target), Some(expected), "{target}");
        }
        matches.rotate_left(1);
    }
}

#[test]
fn precedence_is_of_matches_not_of_rules() {
    // The first rule has the best match of all, and the worst.
    let broad = vec![path(PathOf::Exact("/x")), path(PathOf::Prefix("/"))];
    let narrow = vec![path(PathOf::Prefix("/a"))];
    let table = table(&[Object {
        rules: vec![broad, narrow],
        ..object("r", &[])
    }]);
    assert_eq!(selects(&table, "a", "/a/b"), Some("r/1".to_owned()));
    assert_eq!(selects(&table, "a", "/x"), Some("r/0".to_owned()));
}

#[test]
fn method_then_headers_then_parameters_decide() {
    let header = |n: usize| [("h1", "1"), ("h2", "2"), ("h3", "3")][..n].to_vec();
    let with = |method, headers, query| MatchOf {
        path: PathOf::Prefix("/a"),
        method,
        headers: header(headers),
        query: header(query),
    };
    let asked = Asked {
        host: "a",
        target: "/a?h1=1&h2=2&h3=3",
        headers: header(3),
        ..Asked::default()
    };
    let better = [
        with(Some("GET"), 0, 0),
        with(None, 2, 0),
        with(None, 1, 3),
        with(None, 1, 0),
        with(None, 0, 2),
        with(None, 0, 1),
        with(None, 0, 0),
    ];
    for pair in better.windows(2) {
        let table = table(&[object("r", &[pair[1].clone(), pair[0].clone()])]);
        assert_eq!(choice(&table, &asked), Some("r/1".to_owned()), "{pair:?}");
    }
    // Two entries of one name are one.
    let twice = MatchOf {
        headers: vec![("h1", "1"), ("H1", "other")],
        ..with(None, 0, 0)
    };
    let table = table(&[object("r", &[twice, with(None, 1, 0), with(None, 2, 0)])]);
    assert_eq!(choice(&table, &asked), Some("r/2".to_owned()));
}

#[test]
fn ties_go_to_the_oldest_then_by_name_then_by_order() {
    let route = |namespace, name: &str, created| Object {
        namespace,
        created,
        ..object(
            name,
            &[path(PathOf::Prefix("/")), path(PathOf::Prefix("/"))],
        )
    };
    for (routes, expected) in [
        ([route("z", "z", 1), route("a", "a", 2)], "z/0"),
        ([route("b", "a", 1), route("a", "b", 1)], "b/0"),
        ([route("a", "b", 1), route("a", "a", 1)], "a/0"),
        ([route("z", "z", 0), route("a", "a", 2)], "z/0"),
        // The namespace ends at the slash: `a` stands before `a-b`.
        ([route("a-b", "x", 1), route("a", "y", 1)], "y/0"),
    ] {
        let selected = selects(&table(&routes), "h", "/");
        assert_eq!(selected.as_deref(), Some(expected), "{routes:?}");
    }
}

#[test]
fn the_more_specific_host_wins() {
    let table = table(&[
        hosts("any", &[]),
        hosts("below-com", &["*.com"]),
        hosts("below-example", &["*.Example.com"]),
        hosts("exact", &["www.example.com."]),
    ]);
    for (host, expected) in [
        ("www.example.com", "exact/0"),
        ("WWW.example.com.:80", "exact/0"),
        ("www.example.com:8080", "exact/0"),
        ("a.example.com", "below-example/0"),
        ("b.a.example.com", "below-example/0"),
        ("example.com", "below-com/0"),
        ("com", "any/0"),
        ("badexample.com", "below-com/0"),
        ("shop", "any/0"),
        ("[::1]", "any/0"),
    ] {
        assert_eq!(
            selects(&table, host, "/").as_deref(),
            Some(expected),
            "{host}"
        );
    }
}

#[test]
fn a_host_that_has_no_match_leaves_the_request_to_wider_ones() {
    let narrow = Object {
        hosts: vec!["a.com"],
        ..object("narrow", &[path(PathOf::Exact("/x"))])
    };
    let table = table(&[narrow, hosts("wide", &["*.com"])]);
    assert_eq!(selects(&table, "a.com", "/x"), Some("narrow/0".to_owned()));
    assert_eq!(selects(&table, "a.com", "/y"), Some("wide/0".to_owned()));
    assert_eq!(selects(&table, "a.org", "/y"), None);
}

#[test]
fn a_consumers_routes_are_for_its_own_clients_and_stand_alone() {
    let consumer = Object {
        client: Some("bank"),
        ..object("consumer", &[path(PathOf::Prefix("/a"))])
    };
    let producer = object(
        "producer",
        &[path(PathOf::Exact("/a")), path(PathOf::Prefix("/"))],
    );
    let table = table(&[producer, consumer]);
    for (client, target, expected) in [
        (Some("bank"), "/a", Some("consumer/0")),
        (Some("bank"), "/b", None),
        (Some("shop"), "/a", Some("producer/0")),
        (None, "/a", Some("producer/0")),
    ] {
        let asked = Asked {
            host: "h",
            target,
            client,
            ..Asked::default()
        };
        assert_eq!(
            choice(&table, &asked).as_deref(),
            expected,
            "{client:?} {target}"
        );
    }
}

#[test]
fn a_call_matches_by_service_and_method() {
    let grpc = |service, method| path(PathOf::Grpc(service, method));
    let table = table(&[object(
        "r",
        &[
            grpc(None, None),
            grpc(None, Some("Get")),
            grpc(Some("shop.Cart"), None),
            grpc(Some("shop.Cart"), Some("Get")),
        ],
    )]);
    for (target, expected) in [
        ("/shop.Cart/Get", Some("r/3")),
        ("/shop.Cart/Put", Some("r/2")),
        ("/shop.Order/Get", Some("r/1")),
        ("/shop.Order/Put", Some("r/0")),
        ("/shop.cart/Put", Some("r/0")),
        ("/shop.Cart", None),
        ("/shop.Cart/", None),
        ("/shop.Cart/Get/more", None),
        ("//Get", None),
        ("/", None),
    ] {
        assert_eq!(
            selects(&table, "a", target).as_deref(),
            expected,
            "{target}"
        );
    }
}

#[test]
fn a_header_matches_by_any_of_its_values_as_bytes() {
    let field = |value| FieldMatch {
        name: "X-Group".into(),
        value,
    };
    let matched = |value: Text, headers: &[Field<'_>]| {
        let m = Match {
            headers: [field(value)].into(),
            ..match_of(&path(PathOf::Prefix("/")))
        };
        let raw = Raw {
            method: b"GET",
            scheme: Scheme::Http,
            authority: Some(b"a"),
            target: b"/",
            headers,
        };
        m.holds(&Head::read(&raw).unwrap())
    };
    let exact = |text: &str| Text::Exact(text.into());
    let regex = |text: &str| Text::Regex(Pattern::new(text).unwrap());
    assert!(matched(
        exact("b"),
        &[(b"x-group", b"a"), (b"x-group", b"b")]
    ));
    assert!(!matched(
        exact("a,b"),
        &[(b"x-group", b"a"), (b"x-group", b"b")]
    ));
    assert!(!matched(exact("A"), &[(b"x-group", b"a")]));
    assert!(!matched(exact(""), &[]));
    assert!(matched(exact(""), &[(b"x-group", b"")]));
    assert!(matched(regex("a.b"), &[(b"x-group", b"a\xffb")]));
    assert!(!matched(regex("[a-z]+"), &[(b"x-group", b"a\xffb")]));
}

#[test]
fn a_parameter_matches_by_its_first_value() {
    let m = |name, value| MatchOf {
        query: vec![(name, value)],
        ..path(PathOf::Prefix("/"))
    };
    for (target, name, value, matches) in [
        ("/?a=1", "a", "1", true),
        ("/?a=2&a=1", "a", "1", false),
        ("/?a=1&a=2", "a", "1", true),
        ("/?A=1", "a", "1", false),
        ("/?b=1", "a", "1", false),
        ("/?a", "a", "", true),
        ("/?a=b=c", "a", "b=c", true),
        ("/?a=x%20y+z", "a", "x y z", true),
        ("/?%61=%31", "a", "1", true),
        ("/?a=%zz", "a", "%zz", true),
        ("/", "a", "", false),
    ] {
        let table = table(&[object("r", &[m(name, value)])]);
        assert_eq!(selects(&table, "h", target).is_some(), matches, "{target}");
    }
}

#[test]
fn what_a_prefix_edit_replaces_is_the_prefix_that_matched() {
    let rules = vec![
        vec![path(PathOf::Prefix("/a/b/")), path(PathOf::Exact("/x"))],
        vec![],
    ];
    let table = table(&[Object {
        rules,
        ..object("r", &[])
    }]);
    for (target, prefix) in [("/a/b/c", Some("/a/b")), ("/x", None), ("/other", Some(""))] {
        let raw = Raw {
            method: b"GET",
            scheme: Scheme::Http,
            authority: Some(b"a"),
            target: target.as_bytes(),
            headers: &[],
        };
        let selected = select(&table, &Head::read(&raw).unwrap(), None).unwrap();
        assert_eq!(selected.prefix(), prefix, "{target}");
    }
}

#[test]
fn routes_that_paths_tell_apart_are_not_tried() {
    let objects: Vec<Object> = (0..500)
        .map(|i| Object {
            name: format!("r{i}"),
            ..hosts("", &[])
        })
        .collect();
    let mut routes: Vec<Route> = objects.iter().map(route).collect();
    for (i, route) in routes.iter_mut().enumerate() {
        let path = match i % 2 {
            0 => PathMatch::exact(&format!("/e/{i}")),
            _ => PathMatch::prefix(&format!("/p/{i}/x")),
        };
        route.rules[0].matches[0].path = path.unwrap();
    }
    let table = Table::new(routes.into_iter().map(Arc::new));
    for target in ["/e/400", "/p/401/x/y", "/p/401", "/none"] {
        let raw = Raw {
            method: b"GET",
            scheme: Scheme::Http,
            authority: Some(b"a"),
            target: target.as_bytes(),
            headers: &[],
        };
        let head = Head::read(&raw).unwrap();
        let tried = std::cell::Cell::new(0);
        table.producer.select(&head, &|candidate| {
            tried.set(tried.get() + 1);
            table.selected(candidate, &head).map(|_| ())
        });
        assert!(tried.get() <= 1, "{target}: {}", tried.get());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_index_selects_what_a_search_selects(
        objects in naive::objects(),
        asked in prop::collection::vec(naive::asked(), 1..8),
    ) {
        let table = table(&objects);
        for asked in &asked {
            prop_assert_eq!(choice(&table, asked), naive::select(&objects, asked), "{:?}", asked);
        }
    }
}
