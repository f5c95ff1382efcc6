//! A shell like a user's: its PATH has `ambit`, `kubectl` and `helm`, and they talk to one cluster.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    Cluster, mesh,
    program::{Failed, run},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A shell.
#[derive(Debug)]
pub struct Shell<'a> {
    cluster: &'a Cluster,
    programs: PathBuf,
}

impl<'a> Shell<'a> {
    /// One for a cluster and an `ambit`.
    ///
    /// # Panics
    /// If its programs cannot be linked.
    pub fn of(cluster: &'a Cluster, ambit: &Path) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let programs = format!("ambit-programs-{}-{number}", process::id());
        let programs = env::temp_dir().join(programs);
        fs::create_dir_all(&programs).expect("a directory for programs");
        symlink(ambit, programs.join("ambit")).expect("a link to ambit");
        symlink(mesh::helm(), programs.join("helm")).expect("a link to helm");
        let kubectl = programs.join("kubectl");
        let script = format!(
            "#!/bin/sh\nexec '{}' kubectl \"$@\"\n",
            cluster.binary().display()
        );
        fs::write(&kubectl, script).expect("a script for kubectl");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&kubectl, executable).expect("a script that can be run");
        Self { cluster, programs }
    }

    /// What a line says.
    ///
    /// # Errors
    /// If it fails.
    pub fn says(&self, line: &str) -> Result<String, Failed> {
        let mut path = OsString::from(&self.programs);
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut shell: Command = self.cluster.command("/bin/sh");
        run(shell.env("PATH", path).args(["-c", line]), "")
    }

    /// What a line says that succeeds.
    ///
    /// # Panics
    /// If it fails.
    pub fn does(&self, line: &str) -> String {
        println!("$ {line}");
        let said = self.says(line).unwrap_or_else(|failed| panic!("{failed}"));
        println!("{said}");
        said
    }

    /// What a line says when it fails, with this exit code.
    ///
    /// # Panics
    /// If it succeeds, or fails otherwise.
    pub fn fails(&self, line: &str, code: i32) -> String {
        println!("$ {line}");
        let failed = self.says(line).expect_err("it has to fail");
        println!("{}", failed.said);
        assert_eq!(failed.code, Some(code), "{failed}");
        failed.said
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.programs);
    }
}
