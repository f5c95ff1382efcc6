//! Whole calls, without an agent.

use std::fs;

use serde_json::{Value, json};

use super::*;

/// The plugin's exit code and what it says, with `host` as the agent's last words.
fn call(command: &str, namespace: &str, host: Option<&Host>) -> (u8, String) {
    let name = format!(
        "ambit-call-{}-{command}-{namespace}-{}",
        std::process::id(),
        host.is_some()
    );
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).unwrap();
    if let Some(host) = host {
        fs::write(directory.join(HOST_FILE), host.to_json()).unwrap();
    }
    let config = json!({
        "cniVersion": "0.4.0", "name": "n", "type": TYPE, "directory": directory,
        "prevResult": {"cniVersion": "0.4.0", "dns": {}},
    });
    let environment = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_NETNS" => Some("/proc/self/ns/net".to_owned()),
        "CNI_ARGS" => Some(format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a")),
        _ => None,
    };
    let mut output = Vec::new();
    let code = run(environment, &mut config.to_string().as_bytes(), &mut output);
    fs::remove_dir_all(&directory).unwrap();
    (code, String::from_utf8(output).unwrap())
}

fn shop() -> Host {
    Host {
        own: "ambit-system".to_owned(),
        enrolled: ["shop".to_owned()].into(),
        ..Host::default()
    }
}

#[test]
fn a_pod_that_may_start_gets_the_result_of_those_before() {
    for (namespace, host) in [
        ("other", Some(&shop())),
        ("shop", None),
        ("kube-system", Some(&shop())),
    ] {
        let (code, said) = call("ADD", namespace, host);
        assert_eq!(
            (code, said.as_str()),
            (0, "{\"cniVersion\":\"0.4.0\",\"dns\":{}}"),
            "{namespace}"
        );
    }
}

#[test]
fn a_pod_that_may_not_start_is_told_why() {
    let (code, said) = call("ADD", "shop", Some(&shop()));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &said["code"], &said["cniVersion"]),
        (1, &json!(11), &json!("0.4.0"))
    );
    let sentence = said["msg"].as_str().unwrap();
    assert!(sentence.contains("No such file or directory"), "{sentence}");
}

#[test]
fn all_else_succeeds_and_needs_nobody() {
    for command in ["DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(
            call(command, "shop", Some(&shop())),
            (0, String::new()),
            "{command}"
        );
    }
    let (code, said) = call("VERSION", "shop", None);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["cniVersion"]), (0, &json!("0.4.0")));
    let versions = said["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("0.3.1")) && versions.contains(&json!("1.1.0")));
}

#[test]
fn who_calls_it_by_hand_is_told_what_it_is() {
    let mut output = Vec::new();
    let code = run(|_| None, &mut &b""[..], &mut output);
    let said: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((code, &said["code"]), (1, &json!(4)));
}

#[test]
fn deleting_never_fails() {
    for config in ["", "no json", "{\"cniVersion\":7}"] {
        let mut output = Vec::new();
        let environment = |name: &str| (name == "CNI_COMMAND").then(|| "DEL".to_owned());
        assert_eq!(
            run(environment, &mut config.as_bytes(), &mut output),
            0,
            "{config}"
        );
        assert!(output.is_empty());
    }
}
