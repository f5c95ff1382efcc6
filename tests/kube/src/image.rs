//! An image of the executable under test, made without a registry and without Docker: it, the libraries it names, and the
//! CNI plugin, which names none.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::program::run;

/// Lays out the root of an image with an executable at `/usr/bin/ambit`, and the CNI plugin beside it.
///
/// # Errors
/// If files cannot be copied or the plugin cannot be built, or `ldd` fails.
pub fn lay_out(executable: &Path, root: &Path) -> io::Result<()> {
    copy(executable, &root.join("usr/bin/ambit"))?;
    copy(&plugin()?, &root.join("usr/bin/ambit-cni"))?;
    let listed = run(Command::new("ldd").arg(executable), "").map_err(io::Error::other)?;
    for library in libraries(&listed) {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        copy(&library, &root.join(inside))?;
    }
    for directory in [
        "etc",
        "tmp",
        "proc",
        "sys",
        "dev",
        "run",
        "var/run/ztunnel",
        "var/lib/ambit",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    // The name service of libc: hosts and DNS.
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")
}

/// Builds the CNI plugin as it is shipped: static, as the libc of hosts is theirs.
fn plugin() -> io::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command.args(["rustc", "--release", "--quiet", "--message-format=json"]);
    command.args(["-p", "cni", "--bin", cni::TYPE]);
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
}
