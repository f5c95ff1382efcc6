//! Ways to break a mesh on purpose, for the tests that hold each check to its word.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use clap::ValueEnum;
use sys::route;

use super::manifests::ORDERS;
use crate::{
    Failure,
    lab::Node,
    mesh::{Mesh, PATIENCE, pod::HTTP},
};

/// What is broken. The name says what is no longer true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// A pod's capture rules are taken out, and nobody puts them back.
    Capture,
    /// The pod `cart` is another than it should be.
    Identity,
    /// The service `catalog` has no endpoint.
    Endpoint,
    /// No route leads from n1 to the IPv6 addresses of n2.
    RouteV6,
    /// A relay in the pod `cart` hides the client from the application.
    Relay,
    /// The only client allowed is another one.
    Allow,
    /// A policy that denies is not there.
    Deny,
    /// The bank takes plaintext.
    Strict,
    /// The shop takes no plaintext.
    Permissive,
    /// The pod outside the mesh is in it.
    Outsider,
    /// Certificates live too long to be renewed in time.
    Rotation,
    /// The control plane is gone.
    Control,
    /// The canary's weight is another.
    Weights,
    /// Testers call themselves something else.
    Testers,
    /// Nobody may read orders.
    Methods,
    /// Another path than the administration's is denied.
    Admin,
    /// The prefix is rewritten into another one.
    Rewrite,
    /// The redirect leads elsewhere.
    Redirect,
    /// A slow answer is waited for.
    Timeout,
    /// Another client is let in at layer 4.
    Clients,
    /// The service has no waypoint.
    Unbound,
    /// The service may be reached around its waypoint.
    Around,
    /// Another service has a waypoint too.
    Everywhere,
    /// A component does not start.
    Start,
    /// The demo itself panics.
    Panic,
}

impl Fault {
    /// Variables of the ztunnels.
    pub(crate) fn environment(self) -> Vec<(Node, &'static str, String)> {
        match self {
            Self::Rotation => Node::ALL
                .map(|node| (node, "SECRET_TTL", "24h".to_owned()))
                .into(),
            Self::Start => vec![(Node::Two, "FAKE_CA", "true".to_owned())],
            _ => Vec::new(),
        }
    }

    /// In the manifests, before anything runs.
    pub(crate) fn before(self, manifests: &Path) -> io::Result<()> {
        let edit = |file, from, to| replace(&manifests.join(file), from, to);
        match self {
            Self::Identity => edit(
                "shop.yaml",
                "serviceAccountName: cart",
                "serviceAccountName: catalog",
            ),
            Self::Endpoint => edit(
                "shop.yaml",
                "selector: {app: catalog}",
                "selector: {app: nothing}",
            ),
            Self::Outsider => edit("shop.yaml", "    istio.io/dataplane-mode: none\n", ""),
            Self::Allow => edit(
                "policies.yaml",
                "cluster.local/ns/shop/sa/web",
                "cluster.local/ns/shop/sa/batch",
            ),
            Self::Deny => edit("policies.yaml", "{app: cart}", "{app: nothing}"),
            Self::Weights => edit(ORDERS, "weight: 10", "weight: 90"),
            Self::Testers => edit(ORDERS, "tester/.*", "examiner/.*"),
            Self::Methods => edit(ORDERS, "methods: [GET]", "methods: [HEAD]"),
            Self::Admin => edit(ORDERS, "[/admin, /admin/*,", "[/admin,"),
            Self::Rewrite => edit(ORDERS, "replacePrefixMatch: /}", "replacePrefixMatch: /v1}"),
            Self::Redirect => edit(
                ORDERS,
                "replacePrefixMatch: /new}",
                "replacePrefixMatch: /newer}",
            ),
            Self::Timeout => edit(ORDERS, "request: 500ms", "request: 30s"),
            Self::Clients => edit(
                ORDERS,
                "cluster.local/ns/shop/sa/cart]",
                "cluster.local/ns/shop/sa/batch]",
            ),
            Self::Unbound => {
                edit(ORDERS, "use-waypoint: waypoint", "use-waypoint: none")?;
                let target = "targetRefs:\n  - {group: \"\", kind: Service, name: orders}";
                edit(ORDERS, target, "selector: {matchLabels: {app: nothing}}")
            }
            Self::Around => edit(
                ORDERS,
                "  labels: {istio.io/use-waypoint: waypoint}\n",
                "  labels: {istio.io/use-waypoint: waypoint}\n  annotations: {ambit.dev/waypoint-bypass: allowed}\n",
            ),
            Self::Everywhere => edit(
                "shop.yaml",
                "metadata: {name: cart, namespace: shop}\nspec:\n  clusterIP",
                "metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}\nspec:\n  clusterIP",
            ),
            Self::Strict => edit("policies.yaml", "STRICT", "PERMISSIVE"),
            Self::Permissive => edit("policies.yaml", "{mode: PERMISSIVE}", "{mode: STRICT}"),
            _ => Ok(()),
        }
    }

    /// Once everything runs.
    pub(crate) fn after(self, mesh: &Mesh) -> io::Result<()> {
        let netns = |pod: &str| {
            mesh.netns(pod)
                .map_err(|failure| io::Error::other(failure.to_string()))
        };
        match self {
            Self::Capture => {
                mesh.processes.kill("node-n1")?;
                node::capture::remove(netns("web")?)
            }
            Self::Relay => hide_client(mesh),
            Self::RouteV6 => mesh.lab.node(Node::One).within(|| {
                let there = route::routes()?
                    .into_iter()
                    .find(|route| route.destination.0 == Node::Two.v6(0));
                there.map_or(Ok(()), |route| route::remove_route(&route))
            }),
            Self::Control => mesh.processes.kill("control"),
            Self::Panic => panic!("on purpose"),
            _ => Ok(()),
        }
    }
}

/// Puts a relay in front of the application of `cart`.
fn hide_client(mesh: &Mesh) -> io::Result<()> {
    let failed = |failure: Failure| io::Error::other(failure.to_string());
    let cart = mesh.netns("cart").map_err(failed)?;
    mesh.processes.kill("app-cart")?;
    let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, 18080));
    let mut echo = mesh.component("echo");
    echo.args(["--name", "cart", "--http", &behind.port().to_string()]);
    mesh.run("app-cart", cart, &mut echo).map_err(failed)?;
    let answers = || Ok(cart.within(|| TcpStream::connect(behind)).ok().map(drop));
    mesh.wait("the application of cart answers", PATIENCE, answers)
        .map_err(failed)?;
    let listener = cart.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP)))?;
    let netns = cart.try_clone()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = netns.within(|| TcpStream::connect(behind));
            // A client that cannot be served is let go.
            let _ = server.and_then(|server| relay(client, server));
        }
    });
    Ok(())
}

fn relay(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    let (mut from, mut to) = (server, client);
    thread::spawn(move || io::copy(&mut from, &mut to));
    Ok(())
}

/// # Errors
/// Also if there is nothing to replace: the manifests have changed, and the fault would break nothing.
fn replace(file: &Path, from: &str, to: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let changed = text.replace(from, to);
    if changed == text {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} does not hold {from:?}", file.display()),
        ));
    }
    fs::write(file, changed)
}
