//! The host file: what the plugin goes by while no agent answers.

use std::{collections::BTreeSet, fs, path::Path};

use serde::{Deserialize, Serialize};

/// What the agent leaves on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The namespace of the mesh itself.
    pub own: String,
    /// Namespaces whose pods are never in the mesh.
    pub excluded: BTreeSet<String>,
    /// Namespaces whose pods are in the mesh unless they say otherwise.
    pub enrolled: BTreeSet<String>,
    /// Namespaces whose pods start plain rather than not at all.
    pub plain: BTreeSet<String>,
}

impl Host {
    /// Reads the file. `None` if there is none, or none that can be read: it is replaced as a whole, so that this is one
    /// that no agent wrote.
    pub fn read(path: &Path) -> Option<Self> {
        let text = fs::read(path).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What is written to the file.
    pub fn to_json(&self) -> String {
        crate::talk::line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let host = Host {
            own: "ambit-system".to_owned(),
            excluded: ["kube-system".to_owned()].into(),
            enrolled: ["a".to_owned(), "b".to_owned()].into(),
            plain: ["b".to_owned()].into(),
        };
        let path = std::env::temp_dir().join(format!("ambit-host-{}", std::process::id()));
        fs::write(&path, host.to_json()).unwrap();
        assert_eq!(Host::read(&path), Some(host));
        fs::write(&path, "{").unwrap();
        assert_eq!(Host::read(&path), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(Host::read(&path), None);
    }
}
