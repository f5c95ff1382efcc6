//! What the plugin and the agent say to each other: one line of JSON each way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest line, in bytes.
pub const LARGEST_LINE: usize = 16 << 10;

/// A pod, by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Empty if the runtime does not tell.
    pub uid: String,
}

/// The plugin: this pod is about to run. May it?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which pod.
    pub pod: Pod,
    /// The file of its network namespace, where the plugin sees it.
    pub netns: PathBuf,
    /// The plugin has it open under this number. The agent opens `/proc/PID/fd/NUMBER`, where PID is who asks by
    /// the kernel's word: the agent's own file system does not have the file.
    pub fd: i32,
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The pod may run: it is captured, or is not in the mesh.
    Ok,
    /// It may not, and why, in a sentence.
    Error(String),
}

/// A line of what is said.
pub fn line(said: &impl Serialize) -> String {
    // Neither has what JSON cannot say but a path that is not UTF-8: the runtime makes none.
    let text = serde_json::to_string(said).unwrap_or_default();
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_reads_what_the_other_writes() {
        let question = Question {
            pod: Pod {
                namespace: "shop".to_owned(),
                name: "cart".to_owned(),
                uid: "u".to_owned(),
            },
            netns: "/run/netns/a".into(),
            fd: 5,
        };
        let said = line(&question);
        assert_eq!(
            said,
            "{\"pod\":{\"namespace\":\"shop\",\"name\":\"cart\",\"uid\":\"u\"},\"netns\":\"/run/netns/a\",\"fd\":5}\n"
        );
        assert_eq!(serde_json::from_str::<Question>(&said).unwrap(), question);
        for (answer, text) in [
            (Answer::Ok, "\"ok\"\n"),
            (Answer::Error("a\nb".to_owned()), "{\"error\":\"a\\nb\"}\n"),
        ] {
            assert_eq!(line(&answer), text);
            assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), answer);
        }
    }
}
