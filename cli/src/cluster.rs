//! A thin client of a Kubernetes API server for the operator's commands: lists as JSON, and the few writes of `install`
//! and `uninstall`.
//!
//! It decides nothing. Credentials are those that `kubectl` would use.

use std::{env, fmt, time::Duration};

use hyper::Request;
use kube::{Client, Config, config::KubeConfigOptions};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::Failure;

/// How long the API server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Objects of one answer.
const PAGE: u32 = 500;

/// Which cluster, and where in it the mesh is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// Namespace of the mesh itself.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "ambit-system",
        env = "AMBIT_NAMESPACE"
    )]
    pub(crate) namespace: String,
}

/// A connection to an API server.
pub(crate) struct Cluster {
    client: Client,
    runtime: Runtime,
    /// Where it is.
    pub(crate) server: String,
}

impl Cluster {
    /// Takes the credentials. Nothing is asked yet.
    pub(crate) fn of(place: &Place) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("runtime: {error}")))?;
        let (client, server) = runtime.block_on(client(place))?;
        Ok(Self {
            client,
            runtime,
            server,
        })
    }

    /// An answer; `None` if there is no such thing.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        self.send(|| Request::get(path), &[])
    }

    /// All objects of a list, page by page, of each what `keep` leaves; none if the kind is not served.
    pub(crate) fn list(&self, path: &str, keep: fn(Value) -> Value) -> Result<Vec<Value>, Failure> {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{mark}limit={PAGE}{token}");
            let Some(mut page) = self.get(&page)? else {
                return Ok(all);
            };
            if let Value::Array(items) = page["items"].take() {
                all.extend(items.into_iter().map(keep));
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => token = format!("&continue={next}"),
                _ => return Ok(all),
            }
        }
    }

    /// Server-side apply, by `ambit`.
    pub(crate) fn apply(&self, path: &str, object: &Value) -> Result<(), Failure> {
        let path = format!("{path}?fieldManager=ambit&force=true");
        let kind = "application/apply-patch+yaml";
        let request = || Request::patch(&path).header("content-type", kind);
        self.send(request, object.to_string().as_bytes()).map(drop)
    }

    /// Deletes an object; whether there was one.
    pub(crate) fn delete(&self, path: &str) -> Result<bool, Failure> {
        let request = || Request::delete(path).header("content-type", "application/json");
        Ok(self.send(request, b"{}")?.is_some())
    }

    fn send(
        &self,
        request: impl Fn() -> hyper::http::request::Builder,
        body: &[u8],
    ) -> Result<Option<Value>, Failure> {
        let request = || {
            let request = request().body(body.to_vec());
            request.map_err(|error| self.failed(&error))
        };
        let first = request()?;
        let what = format!("{} {}", first.method(), first.uri().path());
        let mut answer = self.runtime.block_on(self.client.request::<Value>(first));
        if matches!(
            answer,
            Err(kube::Error::HyperError(_) | kube::Error::Service(_))
        ) {
            // A connection that nobody looked after while helm ran has timed out by now. Every request here may be made twice.
            let again = self.client.request::<Value>(request()?);
            answer = self.runtime.block_on(again);
        }
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Api(status)) => Err(Failure::Failed(format!(
                "{what}: the API server refuses it: {}",
                status.message
            ))),
            Err(error @ kube::Error::SerdeError(_)) => {
                Err(Failure::Failed(format!("{what}: {error}")))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, why: &dyn std::error::Error) -> Failure {
        unreachable(&format!("the API server {}: {}", self.server, whole(why)))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// An object without what is never asked of it.
pub(crate) fn whole_object(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

async fn client(place: &Place) -> Result<(Client, String), Failure> {
    let config = match &place.context {
        None => Config::infer()
            .await
            .map_err(|error| unreachable(&whole(&error))),
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context.clone()),
                ..KubeConfigOptions::default()
            };
            Config::from_kubeconfig(&options)
                .await
                .map_err(|error| unreachable(&whole(&error)))
        }
    };
    let mut config = config?;
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| unreachable(&whole(&error)))?;
    Ok((client, server.trim_end_matches('/').to_owned()))
}

fn unreachable(why: &str) -> Failure {
    let from = match env::var("KUBECONFIG") {
        Ok(file) => format!("KUBECONFIG={file}"),
        Err(_) => "the default kubeconfig, as KUBECONFIG is not set".to_owned(),
    };
    Failure::Unreachable(format!(
        "no cluster answers: {why}\nThe credentials are of {from}. Try: kubectl config get-contexts; kubectl version"
    ))
}

/// An error with its causes: those of clients say nothing without.
fn whole(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}
