//! Tables in namespaces made for each test, and what connections make of them.

use super::*;
use crate::{
    netns::{Netns, privileged},
    route, socket,
};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

/// Every condition, with marks, addresses and names in more than one form.
fn conditions(is: bool) -> Vec<Match> {
    let (four, six) = (
        Ipv4Addr::new(10, 1, 2, 3).into(),
        Ipv6Addr::LOCALHOST.into(),
    );
    let mark = |mark, mask| Match::Mark { mark, mask, is };
    let source = |ip, prefix| Match::Source { ip, prefix, is };
    let destination = |ip, prefix| Match::Destination { ip, prefix, is };
    vec![
        Match::Tcp,
        mark(0x539, 0xfff),
        mark(7, u32::MAX),
        Match::ConnectionMark {
            mark: 0x111,
            mask: 0xfff,
            is,
        },
        Match::Out {
            name: "lo".into(),
            is,
        },
        source(four, 32),
        source(four, 9),
        source(six, 128),
        destination(four, 0),
        destination(six, 64),
        Match::Port { port: 15008, is },
        Match::Opening,
    ]
}

/// For packets of the address's family.
fn mark_of(ip: IpAddr) -> Match {
    Match::Source {
        ip,
        prefix: 0,
        is: true,
    }
}

fn every_kind_of_rule() -> Table {
    let rule = |when, then| Rule { when, then };
    let chain = |name: &str, kind, hook, priority, rules| Chain {
        name: name.into(),
        kind,
        hook,
        priority,
        rules,
    };
    let mangle = [
        Action::MarkConnection {
            mark: 0x111,
            mask: 0xfff,
        },
        Action::RestoreMark,
        Action::Accept,
    ];
    let mangle = mangle.map(|then| rule(vec![], then)).to_vec();
    let apart = vec![rule(vec![], Action::TrackApart(7))];
    let arrival = vec![rule(
        vec![Match::In {
            name: "eth0".into(),
            is: true,
        }],
        Action::Accept,
    )];
    let group = Match::Group(Group { level: 0, id: 1 });
    let marking = Action::Mark {
        mark: 0x539,
        mask: 0xfff,
    };
    let first = vec![rule(vec![Match::Tcp, group], marking)];
    let sources = [
        Ipv4Addr::new(169, 254, 7, 127).into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let sources = sources.map(|ip| rule(vec![mark_of(ip)], Action::SourceAddress(ip)));
    let both = conditions(true).into_iter().chain(conditions(false));
    let mut nat: Vec<_> = both
        .map(|condition| rule(vec![Match::Tcp, condition], Action::Accept))
        .collect();
    nat.push(rule(vec![Match::Tcp], Action::Redirect(15001)));
    Table {
        family: Family::Inet,
        name: "ours".into(),
        chains: vec![
            chain("mangle-output", Kind::Route, Hook::Output, -150, mangle),
            chain(
                "filter-prerouting",
                Kind::Filter,
                Hook::Prerouting,
                -150,
                arrival,
            ),
            chain("nat-output", Kind::Nat, Hook::Output, -100, nat),
            chain("raw-output", Kind::Filter, Hook::Output, -300, apart),
            chain("first", Kind::Nat, Hook::Output, -101, first),
            chain("last", Kind::Nat, Hook::Postrouting, 99, sources.to_vec()),
        ],
    }
}

#[test]
fn what_is_put_in_place_is_listed_back() {
    if !privileged("what_is_put_in_place_is_listed_back") {
        return;
    }
    let table = every_kind_of_rule();
    Netns::create()
        .unwrap()
        .within(|| {
            assert_eq!(list()?, []);
            replace(&table)?;
            assert_eq!(tables()?, [(INET, "ours".to_owned())]);
            let listed = list()?;
            for (chain, found) in table.chains.iter().zip(&listed) {
                for (rule, found) in chain.rules.iter().zip(&found.rules) {
                    assert_eq!(&expression::compile(rule, table.family), found, "{rule:?}");
                }
            }
            assert!(table.stands(&listed), "{listed:#?}");
            replace(&table)?;
            assert!(table.stands(&list()?), "replacing does not add");
            remove(Family::Inet, "ours")?;
            assert_eq!(list()?, []);
            assert_eq!(
                remove(Family::Inet, "ours").unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_table_of_bridges_is_put_in_place_and_listed_alone() {
    if !privileged("a_table_of_bridges_is_put_in_place_and_listed_alone") {
        return;
    }
    let rule = |ip| Rule {
        when: vec![mark_of(ip)],
        then: Action::Drop,
    };
    let table = Table {
        family: Family::Bridge,
        name: "ours".into(),
        chains: vec![Chain {
            name: "prerouting".into(),
            kind: Kind::Filter,
            hook: Hook::Prerouting,
            priority: -300,
            rules: vec![
                rule(Ipv4Addr::LOCALHOST.into()),
                rule(Ipv6Addr::LOCALHOST.into()),
            ],
        }],
    };
    Netns::create()
        .unwrap()
        .within(|| {
            assert_eq!(list_table(Family::Bridge, "ours")?, []);
            replace(&every_kind_of_rule())?;
            replace(&table)?;
            assert!(table.stands(&list_table(Family::Bridge, "ours")?));
            let inet = list_table(Family::Inet, "ours")?;
            assert!(every_kind_of_rule().stands(&inet) && !table.stands(&inet));
            remove(Family::Bridge, "ours")?;
            assert_eq!(list_table(Family::Bridge, "ours")?, []);
            assert!(every_kind_of_rule().stands(&list()?));
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_difference_is_seen() {
    if !privileged("any_difference_is_seen") {
        return;
    }
    let table = every_kind_of_rule();
    let mut others = Vec::new();
    for change in [
        |table: &mut Table| drop(table.chains.pop()),
        |table: &mut Table| drop(table.chains[2].rules.remove(3)),
        |table: &mut Table| table.chains[2].rules.swap(0, 4),
        |table: &mut Table| table.chains[1].priority += 1,
        |table: &mut Table| table.chains[1].hook = Hook::Input,
        |table: &mut Table| table.chains[0].name.push('x'),
        |table: &mut Table| table.chains[2].rules[0].then = Action::Redirect(15006),
        |table: &mut Table| {
            table.chains[2].rules[1].when[1] = Match::Mark {
                mark: 0x538,
                mask: 0xfff,
                is: true,
            }
        },
        |table: &mut Table| table.name.push('x'),
    ] {
        let mut other = table.clone();
        change(&mut other);
        others.push(other);
    }
    for other in others {
        let listed = Netns::create()
            .unwrap()
            .within(|| replace(&other).and_then(|()| list()))
            .unwrap();
        assert!(!table.stands(&listed), "{other:?}");
        assert!(other.stands(&listed));
    }
}

#[test]
fn a_table_that_cannot_be_is_refused_whole() {
    if !privileged("a_table_that_cannot_be_is_refused_whole") {
        return;
    }
    let mut table = every_kind_of_rule();
    // Redirection is for chains of its own kind.
    table.chains[0].rules.push(Rule {
        when: vec![],
        then: Action::Redirect(1),
    });
    Netns::create()
        .unwrap()
        .within(|| {
            let error = replace(&table).unwrap_err();
            assert!(crate::netlink::errno(&error).is_some(), "{error:?}");
            assert_eq!(tables()?, []);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_redirected_connection_knows_where_it_was_going() {
    if !privileged("a_redirected_connection_knows_where_it_was_going") {
        return;
    }
    let (here, there) = (Netns::create().unwrap(), Netns::create().unwrap());
    let table = Table {
        family: Family::Inet,
        name: "ours".into(),
        chains: vec![Chain {
            name: "out".into(),
            kind: Kind::Nat,
            hook: Hook::Output,
            priority: -100,
            rules: vec![Rule {
                when: vec![Match::Tcp],
                then: Action::Redirect(15001),
            }],
        }],
    };
    let listeners = here
        .within(|| {
            route::set_up("lo")?;
            route::veth("a", "b", &there)?;
            route::add_address("a", [192, 0, 2, 1].into(), 24)?;
            route::add_address("a", "2001:db8::1".parse().unwrap(), 64)?;
            route::set_up("a")?;
            there.within(|| route::set_up("b"))?;
            replace(&table)?;
            let any6 = (Ipv6Addr::UNSPECIFIED, 15001).into();
            socket::listen(
                any6,
                socket::Options {
                    transparent: true,
                    ..Default::default()
                },
            )
        })
        .unwrap();
    listeners.set_nonblocking(false).unwrap();
    for wanted in ["192.0.2.9:80", "[2001:db8::9]:443"] {
        let wanted: std::net::SocketAddr = wanted.parse().unwrap();
        let client = here.within(|| TcpStream::connect(wanted)).unwrap();
        let (server, _) = listeners.accept().unwrap();
        assert_eq!(socket::original_destination(&server).unwrap(), wanted);
        drop(client);
    }
    // A socket of IPv4 alone, and a connection that no rule touched.
    let plain = here
        .within(|| {
            remove(Family::Inet, "ours")?;
            TcpListener::bind(("192.0.2.1", 80))
        })
        .unwrap();
    let _client = here.within(|| TcpStream::connect("192.0.2.1:80")).unwrap();
    let (server, _) = plain.accept().unwrap();
    let untouched = socket::original_destination(&server);
    assert!(
        untouched
            .as_ref()
            .is_ok_and(|to| to.to_string() == "192.0.2.1:80")
            || untouched
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
        "{untouched:?}"
    );
}
