//! docs/install.md, word for word: every command that it shows, in its order, on a cluster.
//!
//! The cluster has the image that the chart names, made of the executable under test; nothing is fetched.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use tests_kube::{
    Cluster, image, mesh,
    program::{Failed, run, wait},
};

const DOCUMENT: &str = include_str!("../../../docs/install.md");
const SOON: Duration = Duration::from_secs(60);

/// The image that the chart and the document name.
const IMAGE: &str = concat!("ghcr.io/ambit/ambit:", env!("CARGO_PKG_VERSION"));

/// Sections of the document: title and commands.
fn sections(document: &str) -> Vec<(&str, Vec<String>)> {
    let sections = document.split("\n## ").skip(1).map(|section| {
        let title = section.lines().next().unwrap_or_default();
        let blocks = section.split("```sh\n").skip(1);
        let blocks = blocks.map(|block| block.split("\n```").next().unwrap_or_default());
        let lines = blocks.flat_map(|block| {
            let block = block.replace("\\\n", " ");
            block.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        (title, lines.filter(|line| !line.is_empty()).collect())
    });
    sections.collect()
}

/// A shell whose PATH has `ambit`, `kubectl` and `helm`, and which talks to one cluster.
struct Shell<'a> {
    cluster: &'a Cluster,
    programs: PathBuf,
}

impl<'a> Shell<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let programs = env::temp_dir().join(format!("ambit-programs-{}", process::id()));
        fs::create_dir_all(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_ambit"), programs.join("ambit")).unwrap();
        symlink(mesh::helm(), programs.join("helm")).unwrap();
        let kubectl = programs.join("kubectl");
        let script = format!(
            "#!/bin/sh\nexec '{}' kubectl \"$@\"\n",
            cluster.binary().display()
        );
        fs::write(&kubectl, script).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        Self { cluster, programs }
    }

    fn says(&self, line: &str) -> Result<String, Failed> {
        let mut path = OsString::from(&self.programs);
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut shell: Command = self.cluster.command("/bin/sh");
        run(shell.env("PATH", path).args(["-c", line]), "")
    }

    fn does(&self, line: &str) -> String {
        println!("$ {line}");
        let said = self.says(line).unwrap_or_else(|failed| panic!("{failed}"));
        println!("{said}");
        said
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.programs);
    }
}

fn load(cluster: &Cluster) {
    let root = env::temp_dir().join(format!("ambit-install-{}", process::id()));
    image::lay_out(Path::new(env!("CARGO_BIN_EXE_ambit")), &root).unwrap();
    cluster.image(IMAGE, &root, "/usr/bin/ambit");
    let _ = fs::remove_dir_all(root);
}

/// All objects of the cluster but those that come and go by themselves, as kind, namespace and name.
fn objects(cluster: &Cluster) -> Vec<String> {
    let kinds = cluster.does(&["api-resources", "--verbs=list", "-o", "name"]);
    let passing = [
        "events",
        "endpoints",
        "leases.",
        "componentstatuses",
        "pods",
    ];
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !passing.iter().any(|it| kind.starts_with(it)))
        .collect();
    let columns = "-o=custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
    let said = cluster.does(&["get", &kinds.join(","), "-A", "--no-headers", columns]);
    let mut all: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    all.sort();
    all
}

#[test]
fn the_document_installs_in_at_most_five_commands() {
    let sections = sections(DOCUMENT);
    let (title, install) = &sections[0];
    assert_eq!(*title, "Install");
    assert!(!install.is_empty() && install.len() <= 5, "{install:?}");
}

#[test]
fn what_the_document_says_works_and_leaves_nothing() {
    let Some(cluster) = Cluster::start("docs/install.md", 2) else {
        return;
    };
    load(&cluster);
    let shell = Shell::of(&cluster);
    let before = objects(&cluster);
    for (title, commands) in sections(DOCUMENT) {
        println!("== {title}");
        for command in commands {
            let said = shell.does(&command);
            holds_after(&shell, &command, &said);
        }
    }
    assert_eq!(objects(&cluster), before);
    let again = shell.does("ambit uninstall");
    assert!(again.contains("nothing is installed"), "{again}");
}

/// What the document says of a command besides that it succeeds.
fn holds_after(shell: &Shell<'_>, command: &str, said: &str) {
    if command.contains("dataplane-mode=ambient") {
        wait("both pods to be captured", SOON, || {
            let said = shell
                .says("ambit status -o json")
                .map_err(|failed| failed.to_string())?;
            let captured = said.matches("\"captured\": true").count();
            (captured == 2).then_some(()).ok_or(said)
        });
    } else if command == "ambit status" {
        assert!(said.contains("shop") && !said.contains("WHY"), "{said}");
    } else if command == "ambit check" {
        assert!(!said.contains('✗'), "{said}");
    } else if command.contains("ambit load") {
        assert!(said.contains("\"failed\":0"), "{said}");
    } else if command.contains("logs") {
        assert!(
            said.contains("spiffe://cluster.local/ns/shop/sa/default"),
            "{said}"
        );
    } else if command == "ambit uninstall" {
        assert!(said.contains("the namespace ambit-system"), "{said}");
    }
}
