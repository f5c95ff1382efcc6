//! A connection that comes to a pod of this node as it is, from a client that is not captured.

use std::{net::SocketAddr, rc::Rc};

use mesh::refusal::Refusal;
use net::{
    access::Direction,
    carry::{Socket, carry},
};
use tokio::net::TcpStream;

use crate::{
    flows::{Entrance, Entry, Shown, opening},
    pod::Pod,
    socket,
    telemetry::Report,
    worker::Worker,
};

/// Carries one connection into a pod, if it may enter without an identity.
pub(crate) async fn run(worker: Rc<Worker>, pod: Rc<Pod>, client: TcpStream, from: SocketAddr) {
    let Some(to) = socket::destination(&client, &pod.facts, from) else {
        return;
    };
    let mut report = Report::new(Direction::Inbound, worker.id, from, to);
    report.destination_is(&pod.facts, &worker.generation());
    report.plain_source(worker.shared.config.network, &worker.generation());
    let shown = Shown {
        src: from,
        original_dst: to,
        actual_dst: to,
        protocol: "TCP",
        peer: None,
        inbound: true,
    };
    let (entry, mut stop) = pod.flows.enter(shown);
    let open = enter(&worker, &pod, from, to, &entry);
    let opened = opening(&mut stop, open, socket::reset_by_application(&client)).await;
    let result = match opened {
        Err(broken) => {
            sys::socket::reset(&client).ok();
            Err(broken)
        }
        Ok(app) => {
            report.opened(&worker.shared.telemetry, &entry);
            carry(Socket::tcp(client), Socket::tcp(app), &entry.counts, stop).await
        }
    };
    report.closed(&worker.shared.telemetry, &entry.counts, result);
}

async fn enter(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    from: SocketAddr,
    to: SocketAddr,
    entry: &Entry,
) -> Result<TcpStream, Refusal> {
    pod.room(worker)?;
    let entrance = Entrance::Plain {
        to,
        source: from.ip(),
    };
    let decided = worker.decide(|generation| entrance.admit(generation, &pod.facts.workload));
    let admission = decided.await?;
    entry.entered_by(entrance);
    socket::connect(
        &pod.facts.netns,
        admission.to,
        admission.from,
        &worker.shared.config,
    )
    .await
}
