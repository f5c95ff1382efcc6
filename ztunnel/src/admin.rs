//! The pages for people, probes and Prometheus: admin (15000), metrics (15020), readiness (15021).

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use net::{discovery, http as pages, metrics::Metrics};
use tokio::sync::watch;

use crate::{app::State, dump, pods::Seen, worker::Shared};

/// How long may be waited before the log says for what.
const LONG: Duration = Duration::from_secs(5);

/// What the pages show.
pub(crate) struct Inside {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: State,
    pub(crate) pods: watch::Receiver<Seen>,
    pub(crate) synced: watch::Receiver<discovery::State>,
}

/// Opens all three and serves them in the background.
pub(crate) async fn serve(inside: &Arc<Inside>) -> io::Result<()> {
    let config = &inside.shared.config;
    for (address, page) in [
        (config.admin, Page::Admin),
        (config.metrics, Page::Metrics),
        (config.readiness, Page::Readiness),
    ] {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let inside = Arc::clone(inside);
        tokio::spawn(pages::serve(listener, move |request| {
            let inside = Arc::clone(&inside);
            async move { page.answer(&inside, request).await }
        }));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Page {
    Admin,
    Metrics,
    Readiness,
}

impl Page {
    async fn answer(self, inside: &Inside, request: Request<Bytes>) -> Response<Bytes> {
        let get = request.method() == Method::GET;
        match (self, request.uri().path()) {
            (Self::Admin, "/config_dump") if get => match dump::all(inside).await {
                Ok(json) => pages::typed(StatusCode::OK, "application/json", json),
                Err(error) => pages::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            (Self::Admin, "/") if get => pages::text(StatusCode::OK, "/config_dump\n"),
            (Self::Metrics, "/metrics" | "/stats/prometheus") if get => match inside
                .metrics
                .encode()
            {
                Ok(text) => pages::typed(StatusCode::OK, net::metrics::CONTENT_TYPE, text),
                Err(error) => pages::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            (Self::Readiness, "/healthz/ready") if get => readiness(inside),
            _ => pages::text(StatusCode::NOT_FOUND, "there is no such page\n"),
        }
    }
}

/// Ready once the first state and the agent's first snapshot are there; from then on until the end begins.
fn readiness(inside: &Inside) -> Response<Bytes> {
    let (status, text) = match inside.lacks() {
        Some(why) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("not ready, {why}\n"),
        ),
        None => (StatusCode::OK, "ready\n".to_owned()),
    };
    pages::text(status, text)
}

impl Inside {
    /// Why it is not ready.
    fn lacks(&self) -> Option<String> {
        if self.shared.ending.load(Ordering::Relaxed) {
            return Some("ending".to_owned());
        }
        let lacks = [
            (self.synced.borrow().synced, "state of the control plane"),
            (self.pods.borrow().complete, "pods of the node agent"),
        ];
        let lacks: Vec<_> = lacks
            .iter()
            .filter(|(there, _)| !there)
            .map(|(_, what)| *what)
            .collect();
        (!lacks.is_empty()).then(|| format!("waiting for: {}", lacks.join(", ")))
    }
}

/// Says in the log what is waited for when that takes long, and when nothing is any more.
pub(crate) async fn tell(inside: Arc<Inside>) {
    let (mut synced, mut pods) = (inside.synced.clone(), inside.pods.clone());
    let ready = async {
        let ready = async {
            synced.wait_for(|state| state.synced).await.ok()?;
            pods.wait_for(|seen| seen.complete).await.ok().map(drop)
        };
        if ready.await.is_none() {
            // Nobody will ever tell.
            std::future::pending::<()>().await;
        }
    };
    let mut ready = std::pin::pin!(ready);
    let mut told = None;
    while tokio::time::timeout(LONG, &mut ready).await.is_err() {
        let lacks = inside.lacks();
        if let Some(why) = lacks.as_ref().filter(|_| lacks != told) {
            tracing::warn!("not ready, {why}");
        }
        told = lacks;
    }
    tracing::info!("ready");
}
