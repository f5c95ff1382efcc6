//! How long it takes until an edited manifest is in force.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use control::source::leaving::GONE;

use super::{Evidence, millis, restored::Restored, service, want};
use crate::{
    demo::manifests::POLICIES,
    mesh::{MANIFESTS, Mesh, PATIENCE},
};

const LONGEST: Duration = Duration::from_secs(1);

/// What is taken out of a file stays for as long as it may only be on its way to another.
const TAKEN_OUT: Duration = LONGEST.saturating_add(GONE);

const DENY_WEB: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-web, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules:
  - from:
    - source: {principals: [cluster.local/ns/shop/sa/web]}
";

/// Adds a policy that denies a connection which is open, and takes it back.
pub(super) fn takes_effect(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let port = SocketAddr::new(service::CART.ip(), 9090);
    let mut open = mesh
        .connect("web", port)
        .map_err(|error| format!("web → {port}: {error}"))?;
    echoed(&mut open)
        .map_err(|error| format!("the connection web → {port} is not usable: {error}"))?;

    let file = Restored::new(mesh.path(MANIFESTS).join(POLICIES))?;
    file.write(&format!("{}{DENY_WEB}", file.text))?;
    let saved = Instant::now();
    let cut = closed(&mut open)?;
    let took = cut.duration_since(saved);
    evidence.note(
        "open connection",
        format!("closed {:.0} ms after the policy was saved", millis(took)),
    );
    want(took < LONGEST, || {
        format!(
            "the open connection was closed only after {:.0} ms",
            millis(took)
        )
    })?;
    want(mesh.request("web", service::CART, b"").is_err(), || {
        "a new connection still gets through".to_owned()
    })?;
    evidence.note("new connection", "refused");

    file.write(&file.text)?;
    let saved = Instant::now();
    while mesh.request("web", service::CART, b"").is_err() {
        want(saved.elapsed() < PATIENCE, || {
            format!("taken back {PATIENCE:?} ago, and the policy still denies")
        })?;
        thread::sleep(Duration::from_millis(5));
    }
    let took = saved.elapsed();
    evidence.note(
        "taken back",
        format!("in force after {:.0} ms", millis(took)),
    );
    want(took < TAKEN_OUT, || {
        format!(
            "the policy still denied {:.0} ms after it was taken back",
            millis(took)
        )
    })
}

fn echoed(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"here")?;
    stream.read_exact(&mut back)
}

/// When the connection ended.
fn closed(stream: &mut TcpStream) -> Result<Instant, String> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(Instant::now()),
        Ok(_) => Err("the open connection got bytes that nobody sent".to_owned()),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            Err(format!(
                "the policy was saved {PATIENCE:?} ago, and the connection is still open"
            ))
        }
        Err(_) => Ok(Instant::now()),
    }
}
