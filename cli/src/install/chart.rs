//! The chart, inside this executable.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
    time::SystemTime,
};

use crate::Failure;

/// The chart's files: where in it, and what they are. `UPDATE=1 cargo test -p cli --lib` writes the list.
pub(crate) const FILES: &[(&str, &str)] = include!("files.rs");

/// The chart as files, until it is dropped.
#[derive(Debug)]
pub(crate) struct Chart {
    directory: PathBuf,
}

impl Chart {
    /// Writes it where nobody else has written.
    pub(crate) fn unpack() -> Result<Self, Failure> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("ambit-chart-{}-{}", process::id(), now.as_nanos());
        let directory = env::temp_dir().join(name);
        let failed = |error: io::Error| {
            Failure::Failed(format!(
                "the chart cannot be written to {}: {error}",
                directory.display()
            ))
        };
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(failed)?;
        let chart = Self {
            directory: directory.clone(),
        };
        for (name, content) in FILES {
            chart.write(name, content).map_err(failed)?;
        }
        Ok(chart)
    }

    fn write(&self, name: &str, content: &str) -> io::Result<()> {
        let file = self.directory.join(name);
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(file, content)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Chart {
    fn drop(&mut self) {
        // Left-overs in a directory for temporary files hurt nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The oldest Kubernetes that the chart is for, as (major, minor).
pub(crate) fn oldest_kubernetes() -> Option<(u32, u32)> {
    let (_, chart) = FILES.iter().find(|(name, _)| *name == "Chart.yaml")?;
    let wanted = chart
        .lines()
        .find_map(|line| line.strip_prefix("kubeVersion:"))?;
    let mut numbers = wanted
        .trim()
        .trim_matches('"')
        .strip_prefix(">=")?
        .split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/ambit");
    const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/install/files.rs");

    fn names(directory: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names(&path, into);
            } else {
                let name = path.strip_prefix(SOURCE).unwrap();
                into.push(name.display().to_string());
            }
        }
    }

    #[test]
    fn the_executable_carries_the_whole_chart() {
        let mut there = Vec::new();
        names(Path::new(SOURCE), &mut there);
        there.sort();
        let line = |name: &String| {
            let file = format!("../../../deploy/helm/ambit/{name}");
            format!("    (\n        \"{name}\",\n        include_str!(\"{file}\"),\n    ),\n")
        };
        let lines: String = there.iter().map(line).collect();
        let list = format!("&[\n{lines}]\n");
        if env::var_os("UPDATE").is_some() {
            fs::write(LIST, &list).unwrap();
        }
        let says = fs::read_to_string(LIST).unwrap();
        assert_eq!(says, list, "UPDATE=1 cargo test -p cli --lib");
        for (name, content) in FILES {
            assert_eq!(
                *content,
                fs::read_to_string(Path::new(SOURCE).join(name)).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn it_is_unpacked_whole_and_gone_afterwards() {
        let chart = Chart::unpack().unwrap();
        let directory = chart.path().to_owned();
        for (name, content) in FILES {
            assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), *content);
        }
        drop(chart);
        assert!(!directory.exists());
    }

    #[test]
    fn the_chart_says_which_kubernetes_it_is_for() {
        assert!(oldest_kubernetes().is_some_and(|(major, minor)| major == 1 && minor >= 29));
    }

    /// The paths of all values, as far as a schema lists them.
    fn paths(schema: &Value, path: &str, into: &mut Vec<String>) {
        let fields = schema["properties"].as_object();
        let is_listed = schema["additionalProperties"] == false;
        match fields.filter(|_| is_listed) {
            None => into.push(path.to_owned()),
            Some(fields) => {
                for (key, below) in fields {
                    paths(below, &format!("{path}/{key}"), into);
                }
            }
        }
    }

    #[test]
    fn every_value_of_the_schema_has_a_default() {
        let file = |wanted: &str| FILES.iter().find(|(name, _)| *name == wanted).unwrap().1;
        let schema: Value = serde_json::from_str(file("values.schema.json")).unwrap();
        let values: Value = serde_saphyr::from_str(file("values.yaml")).unwrap();
        let mut all = Vec::new();
        paths(&schema, "", &mut all);
        assert!(all.len() > 20, "{all:?}");
        for path in all {
            // What is empty may have them all.
            let free = [
                "/global",
                "/mesh/",
                "/control/resources",
                "/ztunnel/resources",
                "/node/resources",
            ];
            if !free.iter().any(|it| path.starts_with(it)) {
                assert!(values.pointer(&path).is_some(), "{path}");
            }
        }
    }
}
