//! Answers the CNI plugin: may this pod run?
//!
//! What the pod is, the watch knows, mostly. Where its event comes later than the pod, the API server is asked once; where
//! that does not answer, the pod's namespace alone decides, as the plugin would.

use std::{
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cni::{
    host::Host,
    talk::{Answer, LARGEST_LINE, Question, line},
};
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use sys::netns::Netns;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::with;
use crate::{
    kubernetes::pods::{Ask, Told},
    report::Reports,
};

/// How long a pod may take to be captured. Less than the plugin waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the plugin may take to say what it wants, and to take the answer.
const MANNERS: Duration = Duration::from_secs(5);

/// How long the API server may take.
const API: Duration = Duration::from_secs(5);

/// Until it is looked again whether the watch knows a pod.
const AGAIN: Duration = Duration::from_millis(100);

/// Pods that may be taken in at a time. More wait to be accepted.
const AT_ONCE: usize = 256;

/// Whom an answer is taken from.
#[derive(Clone)]
pub struct Desk {
    /// The agent.
    pub asks: mpsc::Sender<Ask>,
    /// The API server.
    pub client: Client,
    /// Why pods are not captured.
    pub reports: watch::Receiver<Reports>,
    /// What the plugin goes by alone.
    pub hosts: watch::Receiver<Option<Host>>,
}

/// Listens at a path, in place of a socket that may be there. Needs a tokio runtime.
///
/// # Errors
/// If it cannot.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let temporary = with(path, ".new");
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Answers until the agent ends.
pub async fn serve(listener: UnixListener, desk: Desk) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    if let Err(error) = one(stream, &desk).await {
                        warn!(%error, "a CNI plugin is not answered");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a CNI plugin");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let pid = peer(&stream)?;
    let (reader, mut writer) = stream.split();
    let mut text = String::new();
    let mut reader = BufReader::new(reader.take(LARGEST_LINE as u64));
    timeout(MANNERS, reader.read_line(&mut text)).await??;
    let question: Question = serde_json::from_str(&text)?;
    let Question { pod, netns, fd } = &question;
    let opened = Netns::open(format!("/proc/{pid}/fd/{fd}"))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", netns.display())));
    let answer = match opened {
        Ok(netns) => decide(&question, &Arc::new(netns), desk).await,
        Err(error) => Answer::Error(format!(
            "pod {}/{}: the node agent cannot open its network namespace, which takes hostPID and SYS_PTRACE: {error}",
            pod.namespace, pod.name
        )),
    };
    match &answer {
        Answer::Ok => debug!(namespace = pod.namespace, pod = pod.name, "may start"),
        Answer::Error(reason) => warn!(reason, "a pod may not start"),
    }
    timeout(MANNERS, writer.write_all(line(&answer).as_bytes())).await?
}

/// The process at the other end.
fn peer(stream: &UnixStream) -> io::Result<i32> {
    let peer = stream.peer_cred()?;
    // The kernel keeps /proc/self as the owner that this process acts as.
    let own = std::fs::metadata("/proc/self")?.uid();
    let pid = peer.pid().filter(|_| peer.uid() == 0 || peer.uid() == own);
    pid.ok_or_else(|| {
        let reason = format!("user {} may not ask", peer.uid());
        io::Error::new(io::ErrorKind::PermissionDenied, reason)
    })
}

async fn decide(question: &Question, netns: &Arc<Netns>, desk: &Desk) -> Answer {
    let pod = &question.pod;
    let refused = match timeout(PATIENCE, taken_in(question, netns, desk)).await {
        Ok(Ok(())) => return Answer::Ok,
        Ok(Err(reason)) => reason,
        Err(_) => format!(
            "it is not captured after {} s: {}",
            PATIENCE.as_secs(),
            reason(question, desk)
        ),
    };
    let host = desk.hosts.borrow();
    if host
        .as_ref()
        .is_some_and(|host| host.plain.contains(&pod.namespace))
    {
        let (namespace, pod) = (&pod.namespace, &pod.name);
        info!(namespace, pod, refused, "starts outside the mesh");
        return Answer::Ok;
    }
    let own = host.as_ref().map_or("ambit-system", |host| &host.own);
    Answer::Error(format!(
        "pod {}/{} is to start in the mesh, and cannot: {refused}; see `kubectl -n {own} get pods -o wide` for this node's ztunnel and ambit-node",
        pod.namespace, pod.name
    ))
}

/// Why a pod is not captured, as far as that is known.
fn reason(question: &Question, desk: &Desk) -> String {
    let unknown = "the API server has not told the agent what it is".to_owned();
    let reports = desk.reports.borrow();
    let mut own = reports.iter().flatten().map(|report| &report.pod);
    let found = own.find(|report| {
        report.uid == question.pod.uid
            || (report.namespace == question.pod.namespace && report.name == question.pod.name)
    });
    found.map_or(unknown, |report| report.reason.clone())
}

async fn taken_in(question: &Question, netns: &Arc<Netns>, desk: &Desk) -> Result<(), String> {
    let ends = |_| "the agent ends".to_owned();
    let mut fetched = None;
    loop {
        let (reply, told) = oneshot::channel();
        let pod = &question.pod;
        let ask = Ask {
            key: (pod.namespace.clone(), pod.name.clone()),
            uid: pod.uid.clone(),
            netns: Arc::clone(netns),
            pod: fetched.clone(),
            reply,
        };
        let sent = desk.asks.send(ask).await;
        sent.map_err(|_| "the agent ends".to_owned())?;
        match told.await.map_err(ends)? {
            Told::Captured | Told::Out => return Ok(()),
            // The watch will tell what is known of it already.
            Told::In => {}
            Told::Unknown { namespace_is_out } => match fetch(question, desk).await {
                Ok(pod) => fetched = Some(Box::new(pod)),
                Err(Missing::Gone) => return Err("the API server does not have it".to_owned()),
                // Should the pod itself say otherwise, it is captured as it runs.
                Err(Missing::Silent(_)) if namespace_is_out => return Ok(()),
                Err(Missing::Silent(error)) => {
                    let (namespace, pod) = (&pod.namespace, &pod.name);
                    debug!(
                        error,
                        namespace, pod, "the API server does not say what a pod is"
                    );
                }
            },
        }
        sleep(AGAIN).await;
    }
}

enum Missing {
    /// It is no more, or another of its name is there.
    Gone,
    /// The API server does not answer.
    Silent(String),
}

async fn fetch(question: &Question, desk: &Desk) -> Result<v1::Pod, Missing> {
    let pod = &question.pod;
    let api: Api<v1::Pod> = Api::namespaced(desk.client.clone(), &pod.namespace);
    let fetched = timeout(API, api.get_opt(&pod.name)).await;
    let fetched = fetched
        .map_err(|_| Missing::Silent("no answer".to_owned()))?
        .map_err(|error| Missing::Silent(error.to_string()))?;
    let same =
        |found: &v1::Pod| pod.uid.is_empty() || found.metadata.uid.as_ref() == Some(&pod.uid);
    fetched.filter(same).ok_or(Missing::Gone)
}

#[cfg(test)]
mod tests;
