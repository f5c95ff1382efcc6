//! `ambit demo` from outside: it holds its claims, and nothing outlives it. What it notices is in `demo_broken`.
//!
//! Each test runs the executable with a directory of its own, so that they run side by side. All need root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use place::{AMBIT, Demo, Place, RUN_DIR, text};

#[path = "demo/place.rs"]
mod place;

/// Waits for what does not take long.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_check_holds_and_says_what_it_measured() {
    let Some(place) = Place::new("every_check_holds_and_says_what_it_measured") else {
        return;
    };
    let output = place.demo(&["--once", "-o", "json"]);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let checks = result["checks"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", text(&output.stderr)));
    assert_eq!(checks.len(), 24);
    for check in checks {
        assert!(
            check["ok"] == true && !check["evidence"].as_array().unwrap().is_empty(),
            "{check:#}"
        );
    }
    assert_eq!(
        (output.status.code(), &result["ok"]),
        (Some(0), &Value::Bool(true))
    );
    place.nothing_is_left();
}

#[test]
fn a_failed_start_says_why_and_leaves_nothing() {
    let Some(place) = Place::new("a_failed_start_says_why_and_leaves_nothing") else {
        return;
    };
    let output = place.demo(&["--once", "--break", "start"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("ztunnel-n2 ended by itself") && error.contains("FAKE_CA"),
        "{error}"
    );
    place.nothing_is_left();
}

#[test]
fn a_panic_leaves_nothing() {
    let Some(place) = Place::new("a_panic_leaves_nothing") else {
        return;
    };
    let output = place.demo(&["--once", "--break", "panic"]);
    assert_eq!(output.status.code(), Some(101));
    place.nothing_is_left();
}

#[test]
fn ctrl_c_and_sigterm_leave_nothing() {
    let Some(place) = Place::new("ctrl_c_and_sigterm_leave_nothing") else {
        return;
    };
    for signal in ["INT", "TERM"] {
        let mut demo = place.stays_up();
        assert!(
            place.processes().len() >= 16,
            "the components and the applications run"
        );
        kill(signal, demo.id());
        assert_eq!(
            demo.wait().unwrap().code(),
            Some(0),
            "it was up, so this is its proper end"
        );
        place.nothing_is_left();
    }
}

#[test]
fn a_signal_during_the_start_leaves_nothing() {
    let Some(place) = Place::new("a_signal_during_the_start_leaves_nothing") else {
        return;
    };
    let mut command = place.ambit(&["demo", "--once"]);
    let mut demo = Demo::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("a component starts", || place.processes().len() >= 3);
    kill("TERM", demo.id());
    assert_eq!(demo.wait().unwrap().code(), Some(128 + 15));
    place.nothing_is_left();
}

#[test]
fn a_killed_demo_leaves_no_process_and_the_next_one_clears_its_files() {
    let Some(place) =
        Place::new("a_killed_demo_leaves_no_process_and_the_next_one_clears_its_files")
    else {
        return;
    };
    let mut demo = place.stays_up();
    demo.kill().unwrap();
    demo.wait().unwrap();
    eventually("its children die with it", || place.processes().is_empty());
    assert!(place.0.exists());
    let next = place.demo(&["--once", "--check", "service-same-node"]);
    assert_eq!(next.status.code(), Some(0), "{}", text(&next.stderr));
    place.nothing_is_left();
}

#[test]
fn programs_run_in_pods_and_a_second_demo_is_refused() {
    let Some(place) = Place::new("programs_run_in_pods_and_a_second_demo_is_refused") else {
        return;
    };
    let none = place.demo(&["exec", "web", "--", "true"]);
    assert_eq!(none.status.code(), Some(3), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("no demo runs"));

    let mut demo = place.stays_up();
    let second = place.demo(&["--once"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains(&format!("process {}", demo.id())),
        "{}",
        text(&second.stderr)
    );

    let load = place.demo(&[
        "exec",
        "web",
        "--",
        AMBIT,
        "load",
        "http://10.96.0.10/",
        "--duration",
        "200ms",
    ]);
    let last = text(&load.stdout)
        .lines()
        .last()
        .map(str::to_owned)
        .unwrap_or_default();
    let counts: Value = serde_json::from_str(&last).unwrap();
    assert!(
        counts["ok"].as_u64().unwrap() > 0 && counts["failed"] == 0,
        "{counts}"
    );

    let workloads = place.demo(&["exec", "n1", "--", AMBIT, "zc", "workloads"]);
    let table = text(&workloads.stdout);
    let cart = table
        .lines()
        .find(|line| line.contains("cart"))
        .unwrap_or_else(|| panic!("{table}"));
    assert!(
        cart.contains("10.71.2.10") && cart.ends_with("HBONE"),
        "{cart}"
    );

    let code = place.demo(&["exec", "shop/web", "--", "sh", "-c", "exit 7"]);
    assert_eq!(code.status.code(), Some(7), "the program's own exit code");
    let nobody = place.demo(&["exec", "nobody", "--", "true"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        text(&nobody.stderr).contains("web"),
        "it says which pods there are"
    );

    kill("TERM", demo.id());
    demo.wait().unwrap();
    place.nothing_is_left();
}

#[test]
fn an_edit_that_is_wrong_is_told_and_so_is_its_correction() {
    let Some(place) = Place::new("an_edit_that_is_wrong_is_told_and_so_is_its_correction") else {
        return;
    };
    let mut demo = place.stays_up();
    let (told, reader) = listen(&mut demo);
    let policies = place.0.join("manifests/policies.yaml");
    let good = fs::read_to_string(&policies).unwrap();
    fs::write(&policies, good.replace("action: DENY", "actoin: DENY")).unwrap();
    told("AuthorizationPolicy/shop/no-batch, spec.actoin");
    told("is not in force");
    fs::write(&policies, good).unwrap();
    told("nothing is wrong");
    kill("TERM", demo.id());
    demo.wait().unwrap();
    reader.join().unwrap();
    place.nothing_is_left();
}

#[test]
fn a_waypoint_comes_and_goes_with_its_gateway_whatever_else_is_wrong() {
    let Some(place) = Place::new("a_waypoint_comes_and_goes_with_its_gateway") else {
        return;
    };
    let mut demo = place.stays_up();
    let (told, reader) = listen(&mut demo);
    let gateway = |name: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: shop}}, spec: \
             {{gatewayClassName: ambit-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}\n"
        )
    };
    let manifests = place.0.join("manifests");
    let generated = |name: &str| manifests.join(format!("waypoint-shop.{name}.yaml"));
    let (broken, late) = (manifests.join("broken.yaml"), manifests.join("late.yaml"));
    fs::write(&broken, "{apiVersion: v1, kind: Service, metadata: {}}\n").unwrap();
    fs::write(&late, gateway("late")).unwrap();
    told("a waypoint is started in late");
    fs::remove_file(generated("late")).unwrap();
    fs::write(&late, gateway("late") + "---\n" + &gateway("cart")).unwrap();
    told("Gateway shop/cart gets no waypoint");
    eventually("the file comes again", || generated("late").exists());
    fs::write(&late, gateway("later")).unwrap();
    told("the waypoint in late is ended");
    told("a waypoint is started in later");
    assert!(!generated("late").exists());
    fs::remove_file(&late).unwrap();
    told("the waypoint in later is ended");
    assert!(!generated("later").exists());
    kill("TERM", demo.id());
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    reader.join().unwrap();
    place.nothing_is_left();
}

#[test]
fn a_component_that_ends_is_told_and_ends_the_demo() {
    let Some(place) = Place::new("a_component_that_ends_is_told_and_ends_the_demo") else {
        return;
    };
    let mut command = place.ambit(&["demo", "--check", "service-across-nodes"]);
    let mut demo = Demo::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let up = BufReader::new(demo.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .any(|line| line.starts_with("Logs"));
    assert!(up);
    let is_control = |pid: &u32| {
        text(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).contains("\0control\0")
    };
    let control = place.processes().into_iter().find(is_control).unwrap();
    kill("KILL", control);
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    let mut error = String::new();
    let mut stderr = demo.stderr.take().unwrap();
    stderr.read_to_string(&mut error).unwrap();
    assert!(error.contains("control ended by itself"), "{error}");
    place.nothing_is_left();
}

#[test]
fn without_root_it_says_that_it_needs_root() {
    let Some(place) = Place::new("without_root_it_says_that_it_needs_root") else {
        return;
    };
    // Where the nobody of this test may run it.
    let copy = std::env::temp_dir().join(format!("ambit-{}", std::process::id()));
    fs::copy(AMBIT, &copy).unwrap();
    let output = Command::new(&copy)
        .arg("demo")
        .env(RUN_DIR, &place.0)
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    fs::remove_file(copy).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("needs root"),
        "{}",
        text(&output.stderr)
    );
    place.nothing_is_left();
}

/// Reads what a demo prints: what is returned first waits for a line with a text in it.
fn listen(demo: &mut Demo) -> (impl Fn(&str) + use<>, JoinHandle<()>) {
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(demo.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let told = move |what: &str| loop {
        let line = lines.recv_timeout(Duration::from_secs(15));
        if line
            .unwrap_or_else(|_| panic!("not told: {what}"))
            .contains(what)
        {
            return;
        }
    };
    (told, reader)
}

/// Sends a signal by name.
#[track_caller]
fn kill(signal: &str, pid: u32) {
    let shell = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {pid}")])
        .status()
        .unwrap();
    assert!(shell.success());
}
