//! On directories like a host's.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

static NUMBER: AtomicU32 = AtomicU32::new(0);

struct Host(PathBuf);

impl Host {
    fn new(configurations: &[(&str, &str)]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ambit-host-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for part in ["bin", "conf", "run"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("plugin"), "the plugin").unwrap();
        let host = Self(root);
        for (name, text) in configurations {
            host.write(name, text);
        }
        host
    }

    fn places(&self) -> Places {
        Places {
            plugin: self.0.join("plugin"),
            binaries: self.0.join("bin"),
            configurations: self.0.join("conf"),
            meeting: self.0.join("run"),
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join("conf").join(name), text).unwrap();
    }

    fn chain(&self) -> Result<Option<PathBuf>, String> {
        chain(&self.0.join("conf"))
    }

    /// All files of the directory of configurations.
    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.0.join("conf")).unwrap();
        let named = entries.map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        });
        named.collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const BRIDGE: &str = "{\"name\":\"b\",\"plugins\":[{\"type\":\"bridge\"}]}\n";
const SINGLE: &str = "{\"name\":\"s\",\"type\":\"macvlan\"}\n";

#[test]
fn the_first_configuration_in_order_gets_the_plugin_and_is_given_back_as_it_was() {
    let all = [
        ("20-b.conflist", BRIDGE),
        ("30-s.conf", SINGLE),
        ("00-readme", "{}"),
    ];
    let host = Host::new(&all);
    let before = host.files();
    let changed = host.chain().unwrap().unwrap();
    assert!(changed.ends_with("20-b.conflist"));
    assert_eq!(host.chain(), Ok(None), "it is there already");
    let after = host.files();
    assert!(conflist::is_chained(&after["20-b.conflist"]));
    assert_eq!(after["30-s.conf"], SINGLE);
    restore(&host.places()).unwrap();
    assert_eq!(host.files(), before);
    restore(&host.places()).unwrap();
}

#[test]
fn a_single_configuration_is_kept_beside_the_list_that_takes_its_place() {
    let host = Host::new(&[("10-s.conf", SINGLE), ("10-s.conflist", BRIDGE)]);
    let before = host.files();
    host.chain().unwrap().unwrap();
    assert_eq!(host.chain(), Ok(None));
    let after = host.files();
    let names: Vec<_> = after.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["10-s.conf.ambit", "10-s.conf.conflist", "10-s.conflist"],
        "the list comes before what comes after"
    );
    // Its owner writes it anew.
    host.write("10-s.conf", SINGLE);
    host.chain().unwrap().unwrap();
    assert_eq!(host.files(), after);
    restore(&host.places()).unwrap();
    assert_eq!(host.files(), before);
}

#[test]
fn a_list_that_others_have_changed_stays_without_the_plugin() {
    let host = Host::new(&[("10-s.conf", SINGLE)]);
    host.chain().unwrap();
    let list = host.files()["10-s.conf.conflist"].replace("macvlan", "ipvlan");
    host.write("10-s.conf.conflist", &list);
    restore(&host.places()).unwrap();
    let files = host.files();
    assert_eq!(files.len(), 1, "{files:?}");
    let left = &files["10-s.conf.conflist"];
    assert!(left.contains("ipvlan") && !conflist::is_chained(left));
}

#[test]
fn a_faulty_configuration_is_passed_over_and_none_at_all_is_said() {
    let host = Host::new(&[("05-x.conflist", "{")]);
    let reason = host.chain().unwrap_err();
    assert!(
        reason.contains("05-x.conflist: it is no network"),
        "{reason}"
    );
    host.write("10-b.conflist", BRIDGE);
    assert!(host.chain().unwrap().unwrap().ends_with("10-b.conflist"));
    assert!(
        Host::new(&[])
            .chain()
            .unwrap_err()
            .contains("there is none")
    );
}

#[test]
fn permissions_of_a_configuration_stay() {
    let host = Host::new(&[("10-b.conflist", BRIDGE)]);
    let path = host.0.join("conf/10-b.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    host.chain().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn the_binary_is_copied_replaced_when_it_is_another_and_taken_away_last() {
    let host = Host::new(&[]);
    let (places, path) = (host.places(), host.0.join("bin/ambit-cni"));
    binary(&places).unwrap();
    let first = fs::metadata(&path).unwrap();
    assert_eq!(first.mode() & 0o777, 0o755);
    binary(&places).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().ino(),
        first.ino(),
        "it is there already"
    );
    fs::write(&places.plugin, "the newer plugin").unwrap();
    binary(&places).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "the newer plugin");
    fs::write(places.meeting.join(cni::HOST_FILE), "{}").unwrap();
    restore(&places).unwrap();
    for part in ["bin", "run"] {
        assert_eq!(
            fs::read_dir(host.0.join(part)).unwrap().count(),
            0,
            "{part}"
        );
    }
}
