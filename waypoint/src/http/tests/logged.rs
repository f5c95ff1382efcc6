//! What the access log says of what clients send, from their bytes to its line.

use net::{log::Format, metrics::Metrics};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::fixture::{Endpoint, World, run};
use crate::telemetry::recorder;

/// The lines of the log for a request with these bytes as its user agent and its id, and ones with them as host and in the path.
fn lines(bytes: &[u8], format: Format) -> Vec<String> {
    let requests = [
        [
            b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: ",
            bytes,
            b"\r\nX-Request-Id: ",
            bytes,
            b"\r\n\r\n",
        ]
        .concat(),
        [b"GET / HTTP/1.1\r\nHost: ", bytes, b"\r\n\r\n"].concat(),
        [b"GET /", bytes, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
    ];
    let ask = || {
        run(async {
            let endpoint = Endpoint::listen().await;
            let record = recorder(&mut Metrics::new("waypoint", "0", 1), Some(format));
            let lab = World::to(&endpoint).lab_told_to(Some(record));
            for request in &requests {
                let mut client = lab.h1();
                client.0.write_all(request).await.unwrap();
                client.finish().await;
                drop(client.rest().await);
            }
        });
    };
    net::log::capture("info", format, ask).unwrap()
}

#[test]
fn what_is_no_text_is_escaped_in_every_form() {
    // A continuation without a beginning, a character that turns the line around, and a control character of Latin-1.
    let (bytes, escaped) = (b"a\x80\xe2\x80\xae\x9b\xffb", r"a\x80\xe2\x80\xae\x9b\xffb");
    let objects: Vec<Value> = lines(bytes, Format::Json)
        .iter()
        .map(|line| serde_json::from_str(line).expect("a line is an object"))
        .collect();
    assert_eq!(objects[0]["user_agent"], escaped);
    assert_eq!(objects[0]["request_id"], escaped);
    assert_eq!(objects[1]["authority"], escaped);
    let texts = lines(bytes, Format::Text);
    let quoted = format!("\"{escaped}\"");
    assert_eq!(texts[0].matches(&quoted).count(), 2, "{}", texts[0]);
    assert!(texts[1].contains(&quoted), "{}", texts[1]);
    for text in texts {
        assert!(
            text.trim_end()
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~')),
            "{text}"
        );
    }
}

#[test]
fn a_path_is_what_it_looks_like() {
    for (path, escaped) in [
        (
            "\u{202e}\u{2028}\u{2066}é",
            r"/\xe2\x80\xae\xe2\x80\xa8\xe2\x81\xa6\xc3\xa9",
        ),
        (r"\xe9", r"/\\xe9"),
        ("a%e2%80%ae?b=c", "/a%e2%80%ae?b=c"),
    ] {
        let objects = lines(path.as_bytes(), Format::Json);
        let object: Value = serde_json::from_str(&objects[2]).expect("a line is an object");
        assert_eq!(object["path"], escaped);
        let texts = lines(path.as_bytes(), Format::Text);
        assert!(
            texts[2].contains(&format!("\"GET {escaped} HTTP/1.1\"")),
            "{}",
            texts[2]
        );
    }
}

#[test]
fn what_is_long_is_cut_in_every_form() {
    // Escaped it is four times as long.
    let objects = lines(&[0xff; 4 << 10], Format::Json);
    let object: Value = serde_json::from_str(&objects[0]).expect("a line is an object");
    let cut = r"\xff".repeat(1 << 10);
    assert_eq!(object["user_agent"], cut);
    assert_eq!(object["request_id"], cut);
    let texts = lines(&[b'a'; 8 << 10], Format::Text);
    assert_eq!(texts[0].matches('a').count() / (4 << 10), 2);
    assert!(texts[0].len() < 9 << 10, "{}", texts[0].len());
}
