//! Lines, filters, and a writer that is too slow.

use tracing::{debug, info, warn};

use super::*;

/// Runs `body` with a log of `room` lines and returns the log and the lines.
fn logged(
    filter: &str,
    format: Format,
    room: usize,
    body: impl FnOnce(&Log),
) -> (Log, Vec<String>) {
    let (queue, lines) = sync_channel(room);
    let (log, subscriber) = build(filter, format, queue, Arc::default()).unwrap();
    subscriber::with_default(subscriber, || body(&log));
    let lines = lines.try_iter().filter_map(|line| match line {
        Line::Text(text) => Some(text),
        Line::Flush(_) => None,
    });
    let lines = lines.collect();
    (log, lines)
}

/// A line without its time, which is checked for its shape.
fn rest(line: &str) -> &str {
    let (time, rest) = line.split_once('\t').unwrap();
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
    rest
}

#[test]
fn a_text_line_has_its_values_last() {
    let (_, lines) = logged("info", Format::Text, 10, |_| {
        let nothing: Option<&str> = None;
        info!(target: "access", { src.addr = %"10.0.0.1:4", src.workload = "cart", bytes = 7, open = true, nothing }, "done");
        warn!("alone");
    });
    assert_eq!(
        rest(&lines[0]),
        "info\taccess\tdone\tsrc.addr=10.0.0.1:4 src.workload=\"cart\" bytes=7 open=true\n"
    );
    assert_eq!(rest(&lines[1]), "warn\tnet::log::tests\talone\n");
}

#[test]
fn a_whole_line_stays_as_it_is_but_for_what_would_end_it() {
    let (_, lines) = logged("info", Format::Text, 10, |_| {
        info!(target: WHOLE, "[now] \"GET /\" 200\n\x1b[2J");
    });
    assert_eq!(lines, ["[now] \"GET /\" 200\\n\\u{1b}[2J\n"]);
}

#[test]
fn a_json_line_is_one_object() {
    let (_, lines) = logged("info", Format::Json, 10, |_| {
        info!(target: "access", { src.addr = %"10.0.0.1:4", name = "a\nb\"", bytes = 7 }, "done");
    });
    let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let time = value["time"].clone();
    let want = serde_json::json!({
        "level": "info", "time": time, "scope": "access", "message": "done",
        "src.addr": "10.0.0.1:4", "name": "a\nb\"", "bytes": 7,
    });
    assert_eq!((value, lines[0].matches('\n').count()), (want, 1));
}

#[test]
fn a_peer_cannot_write_lines_of_its_own() {
    let evil = "x\n2026\tinfo\u{1b}[31m\r\u{85}";
    let (_, lines) = logged(
        "info",
        Format::Text,
        10,
        |_| info!(a = evil, b = %evil, "{evil}"),
    );
    let line = rest(&lines[0]);
    assert_eq!(lines.len(), 1);
    assert_eq!(
        line.chars().filter(|c| c.is_control()).collect::<String>(),
        "\t\t\t\n"
    );
    assert!(line.contains(r"x\n2026\tinfo\u{1b}[31m\r\u{85}"), "{line}");
}

#[test]
fn filters_apply_by_target_and_change_while_running() {
    let (_, lines) = logged("warn,net=debug", Format::Text, 10, |log| {
        let all = |n: u32| {
            debug!(n, "own");
            info!(target: "other", n, "other");
        };
        all(1);
        log.set("error,other=info").unwrap();
        assert!(log.filter().contains("other=info"), "{}", log.filter());
        all(2);
        log.reset();
        all(3);
        assert_eq!(log.set("loud"), Err(LogError::BadFilter("loud".into())));
        all(4);
    });
    let said: Vec<_> = lines
        .iter()
        .map(|line| rest(line).split('\t').skip(2).collect::<String>())
        .collect();
    assert_eq!(said, ["ownn=1\n", "othern=2\n", "ownn=3\n", "ownn=4\n"]);
}

#[test]
fn no_filter_means_info() {
    let (_, lines) = logged(" ", Format::Text, 10, |_| {
        debug!("no");
        info!("yes");
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (log, lines) = logged("info", Format::Text, 2, |_| {
        (0..5).for_each(|n| info!(n, "line"))
    });
    assert_eq!((lines.len(), log.dropped()), (2, 3));
    let (queue, receiver) = sync_channel(10);
    queue.send(Line::Text("kept\n".into())).unwrap();
    drop(queue);
    let mut out = Vec::new();
    write(&receiver, &mut out, &log.dropped, Format::Text);
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("kept\n") && out.ends_with("\tcount=3\n"),
        "{out}"
    );
}

#[test]
fn flush_waits_for_what_was_logged() {
    let (queue, receiver) = sync_channel(10);
    let (log, _) = build("info", Format::Text, queue.clone(), Arc::default()).unwrap();
    queue.send(Line::Text("last words\n".into())).unwrap();
    drop(queue);
    let flusher = thread::spawn(move || log.flush(Duration::from_secs(60)));
    let mut out = Vec::new();
    write(&receiver, &mut out, &AtomicU64::new(0), Format::Text);
    flusher.join().unwrap();
    assert_eq!(out, b"last words\n");
}
