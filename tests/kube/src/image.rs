//! An image of the executable under test, made without a registry and without Docker: it, the libraries it names, and the
//! CNI plugin, which names none. It has what `deploy/Containerfile` gives the image that is shipped.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::program::run;

/// Where the executable is, which is what the image runs.
pub const EXECUTABLE: &str = "/usr/bin/ambit";

/// Where the CNI plugin is.
pub const PLUGIN: &str = "/usr/bin/ambit-cni";

/// What is there for components to write to.
const WRITTEN: [&str; 3] = ["/tmp", "/var/run/ztunnel", "/var/lib/ambit"];

/// Lays out the root of an image with an executable at [`EXECUTABLE`], and the CNI plugin beside it.
///
/// # Errors
/// If files cannot be copied or the plugin cannot be built, or `ldd` fails.
pub fn lay_out(executable: &Path, root: &Path) -> io::Result<()> {
    copy(executable, &inside(root, EXECUTABLE))?;
    copy(&plugin()?, &inside(root, PLUGIN))?;
    let listed = run(Command::new("ldd").arg(executable), "").map_err(io::Error::other)?;
    for library in libraries(&listed) {
        copy(&library, &inside(root, &library))?;
    }
    for directory in ["/etc", "/proc", "/sys", "/dev", "/run"]
        .iter()
        .chain(&WRITTEN)
    {
        fs::create_dir_all(inside(root, directory))?;
    }
    // The name service of libc: hosts and DNS.
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")
}

fn inside(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Builds the CNI plugin as it is shipped: static, as the libc of hosts is theirs.
fn plugin() -> io::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command.args(["rustc", "--release", "--quiet", "--message-format=json"]);
    command.args(["-p", "cni", "--bin", cni::TYPE]);
    // Whatever else is being built is not waited for.
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    command
        .arg("--target-dir")
        .arg(Path::new(&target).join("cni"));
    command.args([
        "--",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
    ]);
    let built = run(&mut command, "").map_err(io::Error::other)?;
    let mut told = built.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    told.next_back()
        .ok_or_else(|| io::Error::other("cargo does not say where the CNI plugin is"))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).map(drop)
}

/// The files that `ldd` names: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader alone.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let lines = listed.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_an_executable_are_those_that_are_files() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(listed), expected.map(PathBuf::from));
    }

    #[test]
    fn the_image_that_is_shipped_has_the_same_at_the_same_places() {
        let shipped = include_str!("../../../deploy/Containerfile");
        let lines: Vec<_> = shipped.lines().collect();
        let last = lines.iter().rposition(|line| line.starts_with("FROM "));
        let lines = &lines[last.unwrap()..];
        let after = |word: &str| {
            let mut found = lines.iter().filter_map(|line| line.strip_prefix(word));
            let first = found.next().unwrap_or_else(|| panic!("no {word}"));
            assert_eq!(found.next(), None, "{word}");
            first.trim().to_owned()
        };
        assert_eq!(after("ENTRYPOINT"), format!("[{EXECUTABLE:?}]"));
        let copied = lines.iter().filter(|line| line.starts_with("COPY "));
        let copied: Vec<_> = copied
            .map(|line| {
                let mut words = line.split_whitespace().rev();
                let to = words.next().unwrap();
                (to, words.next().unwrap())
            })
            .collect();
        let release = |name: &str| format!("/src/target/release/{name}");
        let (ambit, plugin) = (release("ambit"), release(cni::TYPE));
        assert_eq!(
            copied,
            [
                ("/", "/image/"),
                (EXECUTABLE, ambit.as_str()),
                (PLUGIN, plugin.as_str())
            ]
        );
        for directory in WRITTEN {
            let made = format!("/image{directory} ");
            assert!(shipped.contains(&made), "{directory}");
        }
        // By number: else a cluster that asks for it cannot tell that it is not root.
        let user = after("USER");
        let is_number = |part: &str| part.parse::<u32>().is_ok_and(|id| id > 0);
        assert!(user.split(':').all(is_number), "{user}");
    }
}
