//! The request that is asked about, as a client of the mesh would send it over HTTP/1.1.

use mesh::{
    http::{
        edit::Edit,
        head::{self, Field, Head, Raw},
        host::Scheme,
    },
    waypoint::{Answer, Forward},
};
use waypoint::http::{Limits, counts};

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(head::is_token)
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// As it is sent.
    pub(super) method: String,
    /// Path and query, as they are sent.
    pub(super) target: String,
    /// Names in lower case; `host` is among them.
    pub(super) headers: Vec<(String, String)>,
}

impl Request {
    /// Reads `NAME: VALUE`, as the options give it.
    pub(super) fn header(text: &str) -> Result<(String, String), String> {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| format!("header {text:?} is not NAME: VALUE"))?;
        // RFC 9110 §5.5: blanks around a value are none of it; other white space is.
        let value = value.trim_matches([' ', '\t']).to_owned();
        let name = name.trim().to_ascii_lowercase();
        if !is_token(&name) {
            return Err(format!("{name:?} cannot be the name of a header"));
        }
        // What becomes of those depends on bytes that are not here; `expect` is about the body.
        if head::FRAMING.contains(&&*name) || name == "expect" {
            return Err(format!(
                "{name} frames a message, or is for one connection, and is the client's own business: leave it out"
            ));
        }
        if value.contains(|c: char| c.is_ascii_control() && c != '\t') {
            return Err(format!("the value of {name} has a control character"));
        }
        Ok((name, value))
    }

    /// Joins the pieces of a cookie, as a waypoint does before it judges.
    pub(super) fn join_cookies(headers: &mut Vec<(String, String)>) {
        let mut whole: Option<String> = None;
        headers.retain(|(name, value)| {
            let is_cookie = name == "cookie";
            if is_cookie {
                let before = whole.take().map(|it| it + "; ").unwrap_or_default();
                whole = Some(before + value);
            }
            !is_cookie
        });
        headers.extend(whole.map(|whole| ("cookie".to_owned(), whole)));
    }

    /// Reads a method, as the option gives it.
    pub(super) fn method(text: &str) -> Result<String, String> {
        if !is_token(text) {
            return Err(format!("{text:?} cannot be a method"));
        }
        if text.eq_ignore_ascii_case("CONNECT") {
            return Err("a request with CONNECT is for a proxy, not for a service".to_owned());
        }
        Ok(text.to_owned())
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{} {}", self.method, self.target);
        for (name, value) in &self.headers {
            words.push_str(&format!(", {name}: {value}"));
        }
        words
    }

    /// Whether it is a call of gRPC, which hears of a refusal in another way.
    pub(super) fn is_grpc(&self) -> bool {
        let mut types = self
            .headers
            .iter()
            .filter(|(name, _)| name == "content-type");
        types.any(|(_, value)| {
            let rest = value.strip_prefix("application/grpc");
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
        })
    }

    /// What a waypoint looks at.
    pub(super) fn fields(&self) -> Vec<Field<'_>> {
        let all = self.headers.iter().filter(|(name, _)| counts(name));
        all.map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect()
    }

    /// Its head, as a waypoint reads it; or the answer to what it cannot read.
    pub(super) fn head<'a>(&'a self, fields: &'a [Field<'a>]) -> Result<Head<'a>, Answer> {
        let raw = Raw {
            method: self.method.as_bytes(),
            scheme: Scheme::Http,
            authority: None,
            target: self.target.as_bytes(),
            headers: fields,
        };
        let limits = Limits::default().head;
        raw.within(&limits).map_err(Answer::TooLarge)?;
        Head::read(&raw).map_err(Answer::Malformed)
    }

    /// As it comes out of a waypoint.
    pub(super) fn forwarded(&self, forward: &Forward<'_>) -> Self {
        let mut next = self.clone();
        if let Some(target) = &forward.target {
            next.target = String::from_utf8_lossy(target).into_owned();
        }
        next.headers.retain(|(name, _)| counts(name));
        for edit in forward.request_edits.iter().flat_map(|it| it.edits()) {
            let all = &mut next.headers;
            let is = |field: &(String, String), name: &str| field.0.eq_ignore_ascii_case(name);
            match edit {
                Edit::Remove(name) => all.retain(|field| !is(field, name)),
                Edit::Set(name, value) => {
                    all.retain(|field| !is(field, name));
                    all.push((name.to_ascii_lowercase(), value.to_owned()));
                }
                Edit::Add(name, value) => {
                    all.push((name.to_ascii_lowercase(), value.to_owned()));
                }
            }
        }
        if let Some(host) = &forward.host {
            next.headers.retain(|(name, _)| name != "host");
            next.headers
                .insert(0, ("host".to_owned(), host.to_string()));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let header = |text| Request::header(text).ok();
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(header("User-Agent: a:b"), pair("user-agent", "a:b"));
        assert_eq!(header("x:y"), pair("x", "y"));
        assert_eq!(header("x-role: \t evil "), pair("x-role", "evil"));
        assert_eq!(header("x-role: evil\u{a0}"), pair("x-role", "evil\u{a0}"));
        for wrong in [
            "x",
            "a b: c",
            ": c",
            "x: a\nb",
            "Content-Length: 5",
            "transfer-encoding: chunked",
            "Connection: close",
            "Expect: 100-continue",
        ] {
            assert_eq!(header(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cookie_is_whole() {
        let headers = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            list.iter().map(owned).collect()
        };
        let mut all = headers(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        Request::join_cookies(&mut all);
        assert_eq!(all, headers(&[("x", "y"), ("cookie", "a=1; b=2")]));
    }

    #[test]
    fn a_method_is_one_word_and_not_connect() {
        for (text, taken) in [
            ("GET", true),
            ("PURGE", true),
            ("G T", false),
            ("", false),
            ("CONNECT", false),
        ] {
            assert_eq!(Request::method(text).is_ok(), taken, "{text}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_type() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let request = Request {
                method: "POST".to_owned(),
                target: "/".to_owned(),
                headers: vec![("content-type".to_owned(), value.to_owned())],
            };
            assert_eq!(request.is_grpc(), grpc, "{value}");
        }
    }
}
