//! An image of the executable under test, made without a registry and without Docker: it, and the libraries it names.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::run;

/// Lays out the root of an image with an executable at `/usr/bin/ambit`.
///
/// # Errors
/// If files cannot be copied, or `ldd` fails.
pub fn lay_out(executable: &Path, root: &Path) -> io::Result<()> {
    copy(executable, &root.join("usr/bin/ambit"))?;
    let listed = run(Command::new("ldd").arg(executable), "").map_err(io::Error::other)?;
    for library in libraries(&listed) {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        copy(&library, &root.join(inside))?;
    }
    for directory in ["etc", "tmp", "proc", "sys", "dev", "run", "var/run/ztunnel"] {
        fs::create_dir_all(root.join(directory))?;
    }
    // The name service of libc: hosts and DNS.
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")
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
