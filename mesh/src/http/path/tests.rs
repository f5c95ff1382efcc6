//! Spellings that have got around rules elsewhere, and what must hold of any spelling.

use proptest::prelude::*;

use super::*;

#[test]
fn a_path_is_forwarded_in_its_normal_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a/b.c", "/a/b.c"),
        ("/.hidden", "/.hidden"),
        ("/a/...", "/a/..."),
        ("/a.", "/a."),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/.", "/"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("/a/../b", "/b"),
        ("/a/b/../../c", "/c"),
        ("/../../admin", "/admin"),
        ("/./admin", "/admin"),
        ("/public/../admin", "/admin"),
        ("/public/../../admin/", "/admin/"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/.%2E/admin", "/admin"),
        ("/public/%2e./admin", "/admin"),
        ("/%2e/admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/%61%64%6D%69%6e", "/admin"),
        ("/ADMIN", "/ADMIN"),
        ("/%41dmin", "/Admin"),
        ("/a%2db%5Fc%7ed", "/a-b_c~d"),
        ("/a%3ab%40c", "/a%3Ab%40c"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a\"b", "/a%22b"),
        ("/a%22b", "/a%22b"),
        ("/{a}|^`<>[]", "/%7Ba%7D%7C%5E%60%3C%3E%5B%5D"),
        ("/a%25", "/a%25"),
        ("/a%25zz", "/a%25zz"),
        ("/%25%32%66", "/%252f"),
        ("/a%09b", "/a%09b"),
        ("/a%23b", "/a%23b"),
        ("/a%3Fb", "/a%3Fb"),
        ("//a", "//a"),
        ("/a//../b", "/a/b"),
        ("//..", "/"),
        ("/a\\b", "/a%5Cb"),
    ] {
        assert_eq!(normal(raw.as_bytes()).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn what_is_no_path_is_refused() {
    for (raw, expected) in [
        (&b""[..], Malformed::Relative),
        (b"*", Malformed::Relative),
        (b"admin", Malformed::Relative),
        (b"%2fadmin", Malformed::Relative),
        (b"http://a/b", Malformed::Relative),
        (b"/a b", Malformed::Byte(b' ')),
        (b"/a\tb", Malformed::Byte(b'\t')),
        (b"/a\rb", Malformed::Byte(b'\r')),
        (b"/a\nb", Malformed::Byte(b'\n')),
        (b"/a\0b", Malformed::Byte(0)),
        (b"/a\x7f", Malformed::Byte(0x7f)),
        (b"/a#b", Malformed::Byte(b'#')),
        (b"/a?b", Malformed::Byte(b'?')),
        (b"/a%", Malformed::Escape),
        (b"/a%2", Malformed::Escape),
        (b"/a%zz", Malformed::Escape),
        (b"/a%2%66", Malformed::Escape),
        (b"/%u002e%u002e/admin", Malformed::Escape),
        (b"/a%+1", Malformed::Escape),
    ] {
        assert_eq!(normal(raw), Err(expected), "{}", raw.escape_ascii());
    }
}

#[test]
fn an_ambiguous_path_is_judged_in_each_reading() {
    for (raw, forwarded, others) in [
        ("/a", "/a", &[][..]),
        ("/a%20b", "/a%20b", &[]),
        ("/a@b", "/a@b", &[]),
        // Reserved where something else is meant by it; to most servers the same.
        ("/a%40b%20c", "/a%40b%20c", &["/a@b%20c"]),
        ("/a%3d%2A", "/a%3D%2A", &["/a=*"]),
        ("/a%2540b", "/a%2540b", &["/a@b"]),
        ("/x%2Fa%40b", "/x%2Fa%40b", &["/x/a@b"]),
        ("/a%25", "/a%25", &[]),
        ("/a%2520b", "/a%2520b", &[]),
        ("//admin", "//admin", &["/admin"]),
        ("///admin//x/", "///admin//x/", &["/admin/x/"]),
        ("/public//../admin", "/public/admin", &[]),
        ("/admin;", "/admin;", &["/admin"]),
        ("/admin;x=y", "/admin;x=y", &["/admin"]),
        ("/admin;x/y", "/admin;x/y", &["/admin/y"]),
        ("/;/admin", "/;/admin", &["/admin"]),
        ("/public/..;/admin", "/public/..;/admin", &["/admin"]),
        ("/public/..;a=b/admin", "/public/..;a=b/admin", &["/admin"]),
        ("/public/.;/../admin", "/public/admin", &[]),
        ("/admin%3bx", "/admin%3Bx", &["/admin"]),
        ("/public/..%3b/admin", "/public/..%3B/admin", &["/admin"]),
        ("/public%2fadmin", "/public%2Fadmin", &["/public/admin"]),
        ("/%2fadmin", "/%2Fadmin", &["/admin"]),
        ("/public/..%2fadmin", "/public/..%2Fadmin", &["/admin"]),
        ("/public/..%2Fadmin", "/public/..%2Fadmin", &["/admin"]),
        ("/public/%2e%2e%2fadmin", "/public/..%2Fadmin", &["/admin"]),
        ("/public%2f..%2fadmin", "/public%2F..%2Fadmin", &["/admin"]),
        ("/public/..\\admin", "/public/..%5Cadmin", &["/admin"]),
        ("/public\\..\\admin", "/public%5C..%5Cadmin", &["/admin"]),
        ("/public/..%5cadmin", "/public/..%5Cadmin", &["/admin"]),
        ("/\\admin", "/%5Cadmin", &["/admin"]),
        ("/admin%5c", "/admin%5C", &["/admin/"]),
        ("/admin%00", "/admin%00", &["/admin"]),
        (
            "/admin%00.html",
            "/admin%00.html",
            &["/admin.html", "/admin"],
        ),
        ("/%00admin", "/%00admin", &["/admin", "/"]),
        (
            "/public/%252e%252e%252fadmin",
            "/public/%252e%252e%252fadmin",
            &["/admin"],
        ),
        ("/public%252fadmin", "/public%252fadmin", &["/public/admin"]),
        (
            "/public%25252fadmin",
            "/public%25252fadmin",
            &["/public/admin"],
        ),
        ("/%2561dmin", "/%2561dmin", &["/admin"]),
        ("/%25%36%31dmin", "/%2561dmin", &["/admin"]),
        (
            "/public/%252e%252e/admin",
            "/public/%252e%252e/admin",
            &["/admin"],
        ),
        // Parameters first: all behind the `;` is one. Last: the slash ends it.
        ("/a;%2f..%2fadmin", "/a;%2F..%2Fadmin", &["/admin", "/a"]),
        // Slashes first: the dots take `a`. Last: they take the empty segment.
        (
            "/a/%2f..%2fadmin",
            "/a/%2F..%2Fadmin",
            &["/a/admin", "/admin"],
        ),
    ] {
        let judged = judge(raw.as_bytes()).unwrap();
        assert_eq!(judged.normal, forwarded, "{raw}");
        assert_eq!(judged.others, others, "{raw}");
        assert_eq!(judged.readings().count(), 1 + others.len());
    }
}

#[test]
fn escapes_of_escapes_are_read_in_one_pass() {
    let deep = format!("/public/..%{}2fadmin", "25".repeat(100_000));
    assert_eq!(judge(deep.as_bytes()).unwrap().others, ["/admin"]);
}

#[test]
fn a_bare_piece_keeps_only_escapes_that_have_to_be() {
    for (spelled, expected) in [
        ("/a%40b%3D%2A", Some("/a@b=*")),
        ("/a%2Fb%3B%5C%00%20", None),
        ("/%2F%40", Some("/%2F@")),
        ("/a%2540", None),
        ("/a%4", None),
        ("", None),
    ] {
        assert_eq!(bare(spelled).as_deref(), expected, "{spelled}");
    }
}

/// What paths that get around rules are made of.
fn spelling() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", "%3b", "%00", "%25",
        "%3d", "%252f", "2f", "2", "5c", "a", "%61", "B", "%40", "%", "=", "é",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_normal_path_is_normal_already(raw in spelling()) {
        if let Ok(judged) = judge(raw.as_bytes()) {
            prop_assert_eq!(judge(judged.normal.as_bytes()), Ok(judged.clone()));
            prop_assert!(judged.normal.bytes().all(|b| is_plain(b) || b == b'%'));
            prop_assert!(judged.normal.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }

    #[test]
    fn no_other_reading_is_ambiguous(raw in spelling()) {
        if let Ok(judged) = judge(raw.as_bytes()) {
            for other in &judged.others {
                let upper = other.to_uppercase();
                for ambiguous in ["//", "\\", ";", "\0", "%2F", "%5C", "%00", "%3B", "/./", "/../"] {
                    prop_assert!(!upper.contains(ambiguous), "{} {}", ambiguous, other);
                }
                prop_assert!(other.starts_with('/'));
            }
        }
    }

    #[test]
    fn nothing_panics(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = judge(&raw);
    }
}
