//! Lines, filters, and a writer that is too slow.

use tracing::{debug, info, warn};

use super::*;

/// Runs `body` with a log of `room` bytes and returns the log and the lines.
fn logged(
    filter: &str,
    format: Format,
    room: usize,
    body: impl FnOnce(&Log),
) -> (Log, Vec<String>) {
    let queue = Queue::new(room);
    let (log, subscriber) = build(filter, format, Arc::clone(&queue)).unwrap();
    subscriber::with_default(subscriber, || body(&log));
    let lines = queue.lines();
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
    let (_, lines) = logged("info", Format::Text, ROOM, |_| {
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
    let (_, lines) = logged("info", Format::Text, ROOM, |_| {
        info!(target: WHOLE, "[now] \"GET /\" 200\n\x1b[2J");
    });
    assert_eq!(lines, ["[now] \"GET /\" 200\\n\\u{1b}[2J\n"]);
}

#[test]
fn a_json_line_is_one_object() {
    let (_, lines) = logged("info", Format::Json, ROOM, |_| {
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
        ROOM,
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
    let (_, lines) = logged("warn,net=debug", Format::Text, ROOM, |log| {
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
    let (_, lines) = logged(" ", Format::Text, ROOM, |_| {
        debug!("no");
        info!("yes");
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_full_buffer_drops_and_counts() {
    let line = "2026-01-01T00:00:00.000000Z\tinfo\tnet::log::tests\tline\tn=0\n";
    let (log, lines) = logged("info", Format::Text, line.len() * 2 + 1, |_| {
        (0..5).for_each(|n| info!(n, "line"));
    });
    assert_eq!((lines.len(), log.dropped()), (2, 3));
    log.queue.push("kept\n");
    log.queue.close();
    let mut out = Vec::new();
    write(&log.queue, &mut out, Format::Text);
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("kept\n") && out.ends_with("\tcount=3\n"),
        "{out}"
    );
}

#[test]
fn flush_waits_for_what_was_logged() {
    let queue = Queue::new(ROOM);
    let (log, _) = build("info", Format::Text, Arc::clone(&queue)).unwrap();
    queue.push("last words\n");
    let flusher = thread::spawn(move || {
        log.flush(Duration::from_secs(60));
        log.queue.close();
    });
    let mut out = Vec::new();
    write(&queue, &mut out, Format::Text);
    flusher.join().unwrap();
    assert_eq!(out, b"last words\n");
}

/// Hands each write on.
struct Writes(std::sync::mpsc::Sender<Vec<u8>>);

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_goes_out_by_itself_and_those_after_it_in_order() {
    let queue = Queue::new(ROOM);
    let (give, written) = std::sync::mpsc::channel();
    let lines = Arc::clone(&queue);
    let writer = thread::spawn(move || write(&lines, &mut Writes(give), Format::Text));
    queue.push("1\n");
    assert_eq!(written.recv().unwrap(), b"1\n");
    (2..100).for_each(|n| queue.push(&format!("{n}\n")));
    let all: Vec<String> = (2..100).map(|n| format!("{n}\n")).collect();
    let mut out = Vec::new();
    while out.len() < all.concat().len() {
        out.extend(written.recv().unwrap());
    }
    assert_eq!(String::from_utf8(out).unwrap(), all.concat());
    queue.close();
    writer.join().unwrap();
}
