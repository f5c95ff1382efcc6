//! What a container runtime asks for, from its environment and its input, and how it is answered (CNI specification 1.1.0,
//! section 2 and "Error").

use std::{io, path::PathBuf};

use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{DIRECTORY, talk::Pod};

/// The versions that a configuration may have. In all of them a chained plugin gets a result and passes it on.
pub const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A container comes.
    Add,
    /// A container goes.
    Del,
    /// Whether a container still has what it was given.
    Check,
    /// Which versions are spoken.
    Version,
    /// Only these containers are left.
    Gc,
    /// Whether containers may come.
    Status,
}

/// A container that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// Its pod, if Kubernetes has one of it.
    pub pod: Option<Pod>,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// What the plugins before this one have done, as they said it.
    pub result: &'a str,
    /// Where the agent is met.
    pub directory: PathBuf,
}

/// Why a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: u32,
    sentence: String,
}

/// A network configuration, as far as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config<'a> {
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "prevResult", borrow)]
    result: Option<&'a RawValue>,
    /// Not [`DIRECTORY`].
    directory: Option<PathBuf>,
}

/// The command of a call.
///
/// # Errors
/// If there is none, or one that is not known.
pub fn command(environment: &impl Fn(&str) -> Option<String>) -> Result<Command, Failure> {
    let name = environment("CNI_COMMAND").unwrap_or_default();
    Ok(match name.as_str() {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "VERSION" => Command::Version,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        _ => {
            return Err(Failure::environment(format!(
                "CNI_COMMAND is {name:?}: this is a CNI plugin, for a container runtime to call"
            )));
        }
    })
}

/// The version that a configuration has; the oldest if it says none.
pub fn version(config: &[u8]) -> String {
    let read: Result<Config<'_>, _> = serde_json::from_slice(config);
    let version = read.map(|config| config.version).unwrap_or_default();
    if version.is_empty() {
        VERSIONS[0].to_owned()
    } else {
        version
    }
}

/// The answer to VERSION.
pub fn versions(version: &str) -> String {
    json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string()
}

impl<'a> Call<'a> {
    /// Reads what ADD says.
    ///
    /// # Errors
    /// If the plugin is not chained behind another, or something is missing.
    pub fn read(
        environment: &impl Fn(&str) -> Option<String>,
        config: &'a [u8],
    ) -> Result<Self, Failure> {
        let read: Config<'a> = serde_json::from_slice(config).map_err(|error| Failure {
            code: 6,
            sentence: format!("the network configuration cannot be read: {error}"),
        })?;
        let result = read.result.ok_or_else(|| Failure {
            code: 7,
            sentence: "there is no prevResult: this plugin gives no network, it is chained behind one that does".to_owned(),
        })?;
        let netns = environment("CNI_NETNS").filter(|path| !path.is_empty());
        Ok(Self {
            pod: pod(&environment("CNI_ARGS").unwrap_or_default()),
            netns: netns
                .ok_or_else(|| Failure::environment("CNI_NETNS is missing".to_owned()))?
                .into(),
            result: result.get(),
            directory: read.directory.unwrap_or_else(|| DIRECTORY.into()),
        })
    }
}

/// The pod of `CNI_ARGS`: `IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=…`. An older runtime gives
/// no uid.
fn pod(arguments: &str) -> Option<Pod> {
    let of = |name: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(key, value)| *key == name && !value.is_empty());
        found.map(|(_, value)| value.to_owned())
    };
    Some(Pod {
        namespace: of("K8S_POD_NAMESPACE")?,
        name: of("K8S_POD_NAME")?,
        uid: of("K8S_POD_UID").unwrap_or_default(),
    })
}

impl Failure {
    /// The pod may not start now; the runtime tries again.
    pub(crate) fn refused(sentence: String) -> Self {
        Self { code: 11, sentence }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        Self {
            code: 5,
            sentence: format!("the network configuration cannot be read: {error}"),
        }
    }

    fn environment(sentence: String) -> Self {
        Self { code: 4, sentence }
    }

    /// As the runtime reads it.
    pub fn to_json(&self, version: &str) -> String {
        json!({"cniVersion": version, "code": self.code, "msg": self.sentence}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let mut pairs = pairs.iter();
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn a_pod_is_named_by_the_runtimes_arguments() {
        let pod_of = |namespace: &str, name: &str, uid: &str| {
            Some(Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
            })
        };
        for (arguments, expected) in [
            (
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_INFRA_CONTAINER_ID=9;K8S_POD_UID=u",
                pod_of("shop", "cart-1", "u"),
            ),
            (
                "K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop",
                pod_of("shop", "cart", ""),
            ),
            ("K8S_POD_NAME=cart;K8S_POD_NAMESPACE=", None),
            ("K8S_POD_NAMESPACE=shop", None),
            ("X_K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop", None),
            ("", None),
            (";;=;a", None),
        ] {
            assert_eq!(pod(arguments), expected, "{arguments}");
        }
    }

    #[test]
    fn what_others_have_done_is_passed_on_byte_for_byte() {
        let result = "{\"ips\":[ {\"address\": \"10.0.0.2/24\"}],\n  \"x\": 1.50}";
        let config =
            format!("{{\"cniVersion\":\"1.0.0\",\"type\":\"ambit-cni\",\"prevResult\":{result}}}");
        let call = Call::read(&with(&[("CNI_NETNS", "/run/netns/a")]), config.as_bytes()).unwrap();
        assert_eq!(call.result, result);
        assert_eq!(call.directory, PathBuf::from(DIRECTORY));
    }

    #[test]
    fn what_is_missing_is_said() {
        let netns = [("CNI_NETNS", "/run/netns/a")];
        for (environment, config, code, part) in [
            (
                &netns[..],
                "{\"cniVersion\":\"1.0.0\"}",
                7,
                "chained behind",
            ),
            (&netns, "{\"prevResult\":null}", 7, "chained behind"),
            (&netns, "no json", 6, "cannot be read"),
            (&[], "{\"prevResult\":{}}", 4, "CNI_NETNS"),
        ] {
            let failure = Call::read(&with(environment), config.as_bytes()).unwrap_err();
            assert_eq!(failure.code, code, "{config}");
            assert!(failure.sentence.contains(part), "{}", failure.sentence);
        }
        assert_eq!(command(&with(&[])).unwrap_err().code, 4);
        let add = [("CNI_COMMAND", "ADD")];
        assert_eq!(command(&with(&add)).unwrap(), Command::Add);
    }

    #[test]
    fn an_error_has_the_version_of_the_configuration() {
        let said =
            Failure::refused("no".to_owned()).to_json(&version(b"{\"cniVersion\":\"0.4.0\"}"));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            said,
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "no"})
        );
        assert_eq!(version(b"{"), "0.1.0");
    }
}
