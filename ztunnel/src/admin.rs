//! The pages for people, probes and Prometheus: admin (15000), metrics (15020), readiness (15021).

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use net::{discovery, http as pages, metrics::Metrics};
use tokio::sync::watch;

use crate::{app::State, dump, pods::Seen, worker::Shared};

/// What the pages show.
pub(crate) struct Inside {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: State,
    pub(crate) pods: watch::Receiver<Seen>,
    pub(crate) synced: watch::Receiver<discovery::State>,
}

/// Opens all three and serves them in the background.
pub(crate) async fn serve(inside: Arc<Inside>) -> io::Result<()> {
    let config = &inside.shared.config;
    for (address, page) in [
        (config.admin, Page::Admin),
        (config.metrics, Page::Metrics),
        (config.readiness, Page::Readiness),
    ] {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let inside = Arc::clone(&inside);
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

/// Ready once the first state and the agent's first snapshot are there; from then on always.
fn readiness(inside: &Inside) -> Response<Bytes> {
    let mut missing = Vec::new();
    if !inside.synced.borrow().synced {
        missing.push("state of the control plane");
    }
    if !inside.pods.borrow().complete {
        missing.push("pods of the node agent");
    }
    if missing.is_empty() {
        pages::text(StatusCode::OK, "ready\n")
    } else {
        pages::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("not ready, waiting for: {}\n", missing.join(", ")),
        )
    }
}
