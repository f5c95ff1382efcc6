//! The pages for people, probes and Prometheus: admin (15000), metrics (15020), readiness (15021).

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use net::{discovery, http as pages, metrics::Metrics};
use tokio::sync::watch;

use crate::{app::State, dump, worker::Shared};

/// What the pages show.
pub(crate) struct Inside {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: State,
    pub(crate) synced: watch::Receiver<discovery::State>,
}

/// Opens the three listeners and serves each in a task of its own.
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
            let answer = page.answer(&inside, &request);
            async move { answer }
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
    fn answer(self, inside: &Inside, request: &Request<Bytes>) -> Response<Bytes> {
        let get = request.method() == Method::GET;
        match (self, request.uri().path()) {
            (Self::Admin, "/config_dump") if get => match dump::all(inside) {
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

/// Ready once every table that the control plane named first is in force, and as long as there is a valid certificate.
fn readiness(inside: &Inside) -> Response<Bytes> {
    let mut missing = Vec::new();
    if !inside.state.current().is_ready() {
        let synced = inside.synced.borrow();
        let why = synced.error.as_ref().map(|error| format!(" ({error})"));
        missing.push(format!(
            "state of the control plane{}",
            why.unwrap_or_default()
        ));
    }
    let identity = inside.shared.config.identity();
    if inside.shared.certificates.current(&identity).is_none() {
        missing.push(format!("certificate of {identity}"));
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
