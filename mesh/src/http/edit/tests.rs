//! What becomes of headers, hosts and paths.

use super::*;
use crate::http::head::Raw;

type Headers = Vec<(String, String)>;

/// What a proxy does with an edit.
fn apply(edit: Edit<'_>, headers: &mut Headers) {
    let (name, value) = match edit {
        Edit::Remove(name) => (name, None),
        Edit::Set(name, value) | Edit::Add(name, value) => (name, Some(value)),
    };
    if !matches!(edit, Edit::Add(..)) {
        headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }
    headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
}

fn pairs(list: &[(&str, &str)]) -> Box<[(Box<str>, Box<str>)]> {
    list.iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn edited_headers(edits: &HeaderEdits, headers: &[(&str, &str)]) -> Headers {
    let mut headers: Headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    for edit in edits.edits() {
        apply(edit, &mut headers);
    }
    headers
}

fn owned(headers: &[(&str, &str)]) -> Headers {
    headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn who_the_client_is_no_rule_says_in_a_request() {
    for (name, requests, answers) in [
        ("x-role", true, true),
        ("X-Forwarded-Prefix", true, true),
        ("X-Forwarded-For", false, true),
        ("x_forwarded_client_cert", false, true),
        ("x-envoy-upstream-service-time", false, true),
        ("Ambit-Via", false, true),
        ("true_client_ip", false, true),
        ("x-forwarded-proto", false, true),
        ("Expect", false, true),
        ("content_length", false, true),
        ("Host", false, false),
        (":authority", false, false),
        ("Connection", false, false),
    ] {
        assert_eq!(is_editable_in_requests(name), requests, "{name}");
        assert_eq!(is_editable(name), answers, "{name}");
        let edits = HeaderEdits {
            set: pairs(&[(name, "a")]),
            add: pairs(&[(name, "b")]),
            remove: [name.into()].into(),
        };
        let left = edits.for_requests().edits().count();
        assert_eq!(left, if requests { 3 } else { 0 }, "{name}");
    }
}

#[test]
fn set_replaces_add_accompanies_remove_removes() {
    let edits = HeaderEdits {
        set: pairs(&[("x-set", "new")]),
        add: pairs(&[("x-add", "more")]),
        remove: ["x-gone".into()].into(),
    };
    let before = [
        ("X-Set", "1"),
        ("x-set", "2"),
        ("X-Add", "a"),
        ("X-GONE", "b"),
        ("x", "y"),
    ];
    let after = [
        ("X-Add", "a"),
        ("x", "y"),
        ("x-set", "new"),
        ("x-add", "more"),
    ];
    assert_eq!(edited_headers(&edits, &before), owned(&after));
}

#[test]
fn what_a_rule_wants_there_is_there() {
    let edits = HeaderEdits {
        set: pairs(&[("a", "1")]),
        add: pairs(&[("a", "2")]),
        remove: ["a".into()].into(),
    };
    let kinds: Vec<_> = edits.edits().collect();
    assert_eq!(
        kinds,
        [Edit::Remove("a"), Edit::Set("a", "1"), Edit::Add("a", "2")]
    );
}

#[test]
fn what_frames_a_message_is_not_edited() {
    let edits = HeaderEdits {
        set: pairs(&[
            ("Content-Length", "0"),
            ("Host", "a"),
            ("a\r\nb", "c"),
            ("ok", "d\r\ne"),
        ]),
        add: pairs(&[("Transfer-Encoding", "chunked"), ("", "a"), (":path", "/")]),
        remove: ["connection".into(), "TE".into()].into(),
    };
    assert_eq!(edits.edits().next(), None);
}

#[test]
fn a_prefix_is_replaced_by_segments() {
    for (path, prefix, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo", "/foo", "", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
        ("/", "", "/xyz", "/xyz/"),
        ("/foo/bar", "", "/", "/foo/bar"),
        ("/foo/foo", "/foo", "/x", "/x/foo"),
        ("/foo/bar", "/foo", "/a/../b", "/b/bar"),
    ] {
        let edit = PathEdit::Prefix(new.into());
        assert_eq!(
            edit.apply(path, Some(prefix)).as_deref(),
            Ok(expected),
            "{path} {prefix} {new}"
        );
    }
    let edit = PathEdit::Prefix("/xyz".into());
    assert_eq!(edit.apply("/foo", None).as_deref(), Ok("/foo"));
}

#[test]
fn a_whole_path_is_replaced() {
    for (new, expected) in [
        ("/x", Ok("/x")),
        ("/x/%2e./y", Ok("/y")),
        ("", Ok("/")),
        ("x", Err(path::Malformed::Relative)),
        ("/x y", Err(path::Malformed::Byte(b' '))),
    ] {
        let edit = PathEdit::Full(new.into());
        assert_eq!(
            edit.apply("/foo", Some("/foo")).as_deref(),
            expected.as_ref().map(|e| *e)
        );
    }
}

fn head(scheme: Scheme, authority: &'static str, target: &'static str) -> Head<'static> {
    Head::read(&Raw {
        method: b"GET",
        scheme,
        authority: Some(authority.as_bytes()),
        target: target.as_bytes(),
        headers: &[],
    })
    .unwrap()
}

#[test]
fn a_rewrite_leaves_the_query() {
    let rewrite = Rewrite {
        host: None,
        path: Some(PathEdit::Prefix("/v2".into())),
    };
    let head = head(Scheme::Http, "a", "/v1/x/../y?q=/v1");
    assert_eq!(rewrite.target(&head, Some("/v1")).unwrap(), b"/v2/y?q=/v1");
    assert_eq!(
        Rewrite::default().target(&head, None).unwrap(),
        b"/v1/y?q=/v1"
    );
}

#[test]
fn a_redirect_says_a_port_only_where_it_must() {
    use Scheme::{Http, Https};
    for (scheme, port, came, asked, expected) in [
        (None, None, Http, 80, "http://a/x?q"),
        (None, None, Http, 8080, "http://a:8080/x?q"),
        (None, None, Https, 443, "https://a/x?q"),
        (None, None, Http, 443, "http://a:443/x?q"),
        (Some(Https), None, Http, 8080, "https://a/x?q"),
        (Some(Http), None, Https, 8443, "http://a/x?q"),
        (Some(Https), Some(443), Http, 80, "https://a/x?q"),
        (Some(Https), Some(8443), Http, 80, "https://a:8443/x?q"),
        (Some(Http), Some(443), Http, 80, "http://a:443/x?q"),
        (None, Some(80), Http, 8080, "http://a/x?q"),
        (None, Some(8080), Http, 80, "http://a:8080/x?q"),
        (None, Some(443), Http, 80, "http://a:443/x?q"),
        (None, Some(80), Https, 443, "https://a:80/x?q"),
    ] {
        let redirect = Redirect {
            scheme,
            host: None,
            port,
            path: None,
            status: 302,
        };
        let location = redirect.location(&head(came, "A:9999", "/x?q"), asked, None);
        assert_eq!(
            location.as_deref(),
            Ok(expected.as_bytes()),
            "{scheme:?} {port:?} {came:?} {asked}"
        );
    }
}

#[test]
fn a_redirect_changes_host_and_path() {
    let redirect = Redirect {
        scheme: None,
        host: Some("example.org".into()),
        port: None,
        path: Some(PathEdit::Prefix("/new".into())),
        status: 301,
    };
    let location = redirect.location(&head(Scheme::Http, "a", "/old/x?q=1"), 80, Some("/old"));
    assert_eq!(
        location.as_deref(),
        Ok(&b"http://example.org/new/x?q=1"[..])
    );
}
