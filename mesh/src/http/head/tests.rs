//! What is read of a head, and what is refused.

use super::*;

fn raw<'a>(target: &'a str, headers: &'a [Field<'a>]) -> Raw<'a> {
    Raw {
        method: b"GET",
        scheme: Scheme::Http,
        authority: None,
        target: target.as_bytes(),
        headers,
    }
}

#[test]
fn path_and_query_part_at_the_first_mark() {
    for (target, path, query) in [
        ("/a", "/a", None),
        ("/a?", "/a", Some("")),
        ("/./a?b=/../c?%zz", "/a", Some("b=/../c?%zz")),
    ] {
        let head = Head::read(&raw(target, &[(b"host", b"a")])).unwrap();
        assert_eq!(head.path.normal, path);
        assert_eq!(head.query, query.map(str::as_bytes), "{target}");
    }
}

#[test]
fn what_is_forwarded_is_normal_but_for_the_query() {
    let head = Head::read(&raw("/x/../%61?%61=%2e", &[(b"host", b"a")])).unwrap();
    assert_eq!(head.target(), b"/a?%61=%2e");
}

#[test]
fn authority_and_host_name_one_host() {
    let read = |authority: Option<&str>, hosts: &[&str]| {
        let headers: Vec<Field<'_>> = hosts
            .iter()
            .map(|host| (&b"Host"[..], host.as_bytes()))
            .collect();
        let raw = Raw {
            authority: authority.map(str::as_bytes),
            ..raw("/", &headers)
        };
        Head::read(&raw).map(|head| head.host.to_string())
    };
    assert_eq!(read(None, &["Shop:80"]), Ok("shop".to_owned()));
    assert_eq!(read(Some("shop:8080"), &[]), Ok("shop:8080".to_owned()));
    assert_eq!(read(Some("shop"), &["SHOP.:80"]), Ok("shop".to_owned()));
    assert_eq!(read(None, &[]), Err(Malformed::NoHost));
    assert_eq!(read(Some("shop"), &["bank"]), Err(Malformed::OtherHost));
    assert_eq!(read(Some("shop"), &["shop:81"]), Err(Malformed::OtherHost));
    assert_eq!(read(None, &["shop", "shop"]), Err(Malformed::Hosts));
    assert_eq!(
        read(Some("shop"), &[""]),
        Err(Malformed::Host(host::Malformed::Empty))
    );
}

#[test]
fn any_method_is_one_and_a_known_one_in_another_case_is_two() {
    for (method, readings) in [
        ("GET", Some(&["GET"][..])),
        ("get", Some(&["get", "GET"])),
        ("pOST", Some(&["pOST", "POST"])),
        ("purge", Some(&["purge"])),
        ("", None),
        ("Connect", None),
    ] {
        let raw = Raw {
            method: method.as_bytes(),
            ..raw("/", &[(b"host", b"a")])
        };
        let head = Head::read(&raw).ok();
        let text = |method: &[u8]| String::from_utf8_lossy(method).into_owned();
        let read = head.map(|head| head.methods().map(text).collect::<Vec<_>>());
        let expected = readings.map(|it| it.iter().map(ToString::to_string).collect());
        assert_eq!(read, expected, "{method}");
    }
}

#[test]
fn options_may_be_about_the_whole_server() {
    for (method, target, read) in [
        ("OPTIONS", "*", true),
        ("OPTIONS", "*?a", false),
        ("OPTIONS", "*a", false),
        ("GET", "*", false),
        ("options", "*", false),
    ] {
        let raw = Raw {
            method: method.as_bytes(),
            ..raw(target, &[(b"host", b"a")])
        };
        let path = Head::read(&raw).map(|head| head.target());
        let expected = read.then(|| b"*".to_vec());
        assert_eq!(path.ok(), expected, "{method} {target}");
    }
}

#[test]
fn targets_that_cannot_be_decided_are_refused() {
    for (target, expected) in [
        ("", Malformed::Path(path::Malformed::Relative)),
        ("*", Malformed::Path(path::Malformed::Relative)),
        ("/a#b", Malformed::Path(path::Malformed::Byte(b'#'))),
        ("/a?b#c", Malformed::Query(b'#')),
        ("/a?b c", Malformed::Query(b' ')),
        ("/a?b\r", Malformed::Query(b'\r')),
    ] {
        let read = Head::read(&raw(target, &[(b"host", b"a")]));
        assert_eq!(read.map(|_| ()), Err(expected), "{target}");
    }
    let absolute = Raw {
        authority: Some(b"a"),
        ..raw("?b", &[])
    };
    assert_eq!(Head::read(&absolute).unwrap().path.normal, "/");
}

#[test]
fn a_head_keeps_its_limits() {
    let headers: [Field<'_>; 2] = [(b"host", b"a"), (b"x", b"yz")];
    let raw = raw("/abc", &headers);
    let limits = Limits {
        target: 4,
        fields: 2,
        bytes: 72,
    };
    assert_eq!(raw.within(&limits), Ok(()));
    for (limits, exceeded, status) in [
        (
            Limits {
                target: 3,
                ..limits
            },
            TooLarge::Target,
            414,
        ),
        (
            Limits {
                fields: 1,
                ..limits
            },
            TooLarge::Fields,
            431,
        ),
        (
            Limits {
                bytes: 71,
                ..limits
            },
            TooLarge::Bytes,
            431,
        ),
    ] {
        assert_eq!(raw.within(&limits), Err(exceeded));
        assert_eq!(exceeded.status(), status);
    }
}

#[test]
fn repeated_headers_stay_apart() {
    let headers: [Field<'_>; 3] = [(b"host", b"a"), (b"X-a", b"1"), (b"x-A", b"2")];
    let head = Head::read(&raw("/", &headers)).unwrap();
    assert_eq!(head.values(b"x-a").collect::<Vec<_>>(), [b"1", b"2"]);
}
