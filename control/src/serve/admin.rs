//! The operator's pages: readiness, metrics, statuses, subscribers. Plain HTTP, for this machine alone by default.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Hub, accept::Backoff, metrics};
use crate::{subject::Subject, world::Key};

const CONNECTIONS: usize = 64;

/// Answers until the task ends.
pub async fn serve(listener: TcpListener, hub: Arc<Hub>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = Backoff::default();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                backoff.wait("admin", &error).await;
                continue;
            }
        };
        backoff = Backoff::default();
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&hub, request.method(), request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            let mut connection = http1::Builder::new();
            connection
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .keep_alive(false);
            // What a client of these pages does wrong concerns only itself.
            let _ = connection
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn answer(hub: &Hub, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return page(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET\n".to_owned(),
        );
    }
    match path {
        "/healthz/ready" if *hub.closing.borrow() => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "ending\n".to_owned(),
        ),
        "/healthz/ready" => page(StatusCode::OK, "text/plain", "ready\n".to_owned()),
        "/metrics" => page(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            hub.metrics.text(hub),
        ),
        "/debug/statuses" => page(
            StatusCode::OK,
            "application/json",
            hub.mesh.borrow().statuses.page().into_owned(),
        ),
        "/debug/syncz" => page(StatusCode::OK, "application/json", subscribers(hub)),
        _ => page(
            StatusCode::NOT_FOUND,
            "text/plain",
            "/healthz/ready /metrics /debug/statuses /debug/syncz\n".to_owned(),
        ),
    }
}

pub(super) fn subscribers(hub: &Hub) -> String {
    let mesh = Arc::clone(&hub.mesh.borrow());
    let subscribers = hub.streams.list().into_iter().map(|subscriber| {
        let part = mesh.snapshot.part(&subscriber.subject);
        let progress = subscriber.progress.into_iter().map(|(kind, progress)| {
            let current = part.version(kind);
            let state = json!({
                "sent": progress.sent.map(|version| version.to_string()),
                "accepted": progress.accepted.map(|version| version.to_string()),
                "current": current.is_some() && progress.accepted == current,
                "rejections": progress.rejections,
                "rejected": progress.rejected,
            });
            (metrics::name(kind).to_owned(), state)
        });
        let types = serde_json::Map::from_iter(progress);
        match subscriber.subject {
            Subject::Node(node) => json!({ "node": node, "id": subscriber.id, "types": types }),
            Subject::Waypoint(gateway) => {
                json!({ "waypoint": slashed(&gateway), "id": subscriber.id, "types": types })
            }
        }
    });
    let bindings = mesh.bindings.iter().map(|(service, phase)| {
        let waypoints: Vec<_> = phase.told().map(slashed).collect();
        let state = json!({
            "phase": phase.name(),
            "published": phase.published().map(slashed),
            "waypoints": waypoints,
        });
        (slashed(service), state)
    });
    let page = json!({
        "subscribers": subscribers.collect::<Vec<_>>(),
        "bindings": serde_json::Map::from_iter(bindings),
    });
    format!("{page:#}\n")
}

fn slashed((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
