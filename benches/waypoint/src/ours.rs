//! Our pipeline as a process: the waypoint's own `serve` on accepted sockets, one worker, endpoints outside the mesh.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::{Command, ExitCode},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mesh::{
    delta::{Delta, Resource},
    identity::Identity,
    model::Locality,
    name::Name,
    plan::Source,
    waypoint::{Client, Generation, Store},
};
use net::{log::Format, metrics::Metrics};
use prost::Message;
use proto::{
    waypoint::{
        Action, Authorization, AuthorizationCondition, AuthorizationOperation, AuthorizationRule,
        Backend, Destination, Match, Policy, Port, Protocol, Reference, Route, Rule, Table,
        WeightedBackend, r#match, policy, weighted_backend::Target,
    },
    workload::{self, PortList, Service, Workload},
};
use tokio::{net::TcpListener, task::LocalSet};
use waypoint::{
    http::{Connection, Front, Limits, Own, Version, serve as serve_connection},
    telemetry,
};

use crate::{load::Http, proxy::Setting};

const KEY: &str = "shop/bench.shop.svc.cluster.local";

/// What the process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    routes: usize,
    #[arg(long)]
    http2: bool,
    #[arg(long)]
    log: bool,
    #[arg(long)]
    upstream: Vec<SocketAddr>,
}

/// The command that starts it.
pub(crate) fn command(setting: &Setting) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .args(["--listen", &setting.listens.to_string()])
        .args(["--routes", &setting.routes.to_string()]);
    for upstream in setting.upstreams {
        command.args(["--upstream", &upstream.to_string()]);
    }
    if setting.http == Http::Two {
        command.arg("--http2");
    }
    if setting.log {
        command.arg("--log");
    }
    Ok(command)
}

/// Serves until it is killed.
pub(crate) fn serve(arguments: &Arguments) -> ExitCode {
    let log = net::log::start("info", Format::Text);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, accept(arguments)),
        Err(error) => Err(error),
    };
    drop(log);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn accept(arguments: &Arguments) -> io::Result<()> {
    let source = Source {
        identity: "spiffe://cluster.local/ns/shop/sa/waypoint"
            .parse::<Identity>()
            .map_err(|_| io::Error::other("not an identity"))?,
        network: Name::new(""),
        node: Name::new("n1"),
        cluster: Name::new("Kubernetes"),
        locality: Locality {
            region: Name::new(""),
            zone: Name::new(""),
            subzone: Name::new(""),
        },
    };
    let mut metrics = Metrics::new("waypoint", env!("CARGO_PKG_VERSION"), 1);
    let record = telemetry::recorder(&mut metrics, arguments.log.then_some(Format::Text));
    let front = Front::new(Own::default(), source, Limits::default(), record, 7);
    front.adopt(generation(
        arguments.routes,
        &arguments.upstream,
        arguments.http2,
    )?);
    let front = Rc::new(front);
    let version = if arguments.http2 {
        Version::H2
    } else {
        Version::H1
    };
    let listener = TcpListener::bind(arguments.listen).await?;
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        let connection = Connection {
            client: Client {
                peer: None,
                address,
                destination: None,
            },
            table: Name::new(KEY),
            port: 80,
            security: false,
            via: Vec::new(),
        };
        tokio::task::spawn_local(serve_connection(
            Rc::clone(&front),
            connection,
            stream,
            version,
            std::future::pending(),
        ));
    }
}

/// The same routes and policies as Envoy's.
pub(crate) fn generation(
    routes: usize,
    upstreams: &[SocketAddr],
    http2: bool,
) -> io::Result<Arc<Generation>> {
    let protocol = if http2 {
        Protocol::Http2
    } else {
        Protocol::Http
    };
    let backend = Backend {
        service: Some(Service {
            name: "bench".to_owned(),
            namespace: "shop".to_owned(),
            hostname: "bench.shop.svc.cluster.local".to_owned(),
            ports: vec![workload::Port {
                service_port: 80,
                target_port: 8080,
                ..Default::default()
            }],
            ..Default::default()
        }),
        workloads: upstreams.iter().enumerate().map(pod).collect(),
        ..Default::default()
    };
    let routes: Vec<(String, Route)> = (0..routes).map(route).collect();
    let policies = policies();
    let refers = |name: &String| Reference {
        name: name.clone(),
        version: "1".to_owned(),
    };
    let table = Table {
        backend: KEY.to_owned(),
        ports: vec![Port {
            number: 80,
            protocol: protocol.into(),
            routes: routes.iter().map(|(name, _)| refers(name)).collect(),
            ..Default::default()
        }],
        policies: policies.iter().map(|(name, _)| refers(name)).collect(),
        backends: vec![KEY.to_owned()],
        ..Default::default()
    };
    let mut store = Store::new("ambit-system".into());
    for delta in [
        delta(proto::ROUTE_TYPE, &routes),
        delta(proto::POLICY_TYPE, &policies),
        delta(proto::BACKEND_TYPE, &[(KEY.to_owned(), backend)]),
        delta(proto::TABLE_TYPE, &[(KEY.to_owned(), table)]),
    ] {
        if let Some(rejected) = store.apply(&delta).first() {
            return Err(io::Error::other(rejected.to_string()));
        }
    }
    Ok(Arc::clone(store.current()))
}

fn route(number: usize) -> (String, Route) {
    let name = format!("route-{number}");
    let to = Destination {
        backend: KEY.to_owned(),
        port: 80,
    };
    let rule = Rule {
        matches: vec![Match {
            path: Some(r#match::Path::Prefix(format!("/{name}"))),
            ..Default::default()
        }],
        backends: vec![WeightedBackend {
            weight: 1,
            target: Some(Target::Destination(to)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let route = Route {
        kind: "HTTPRoute".to_owned(),
        namespace: "shop".to_owned(),
        name: name.clone(),
        rules: vec![rule],
        ..Default::default()
    };
    (name, route)
}

fn policies() -> Vec<(String, Policy)> {
    let deny = AuthorizationRule {
        when: vec![AuthorizationCondition {
            key: "request.headers[x-deny]".to_owned(),
            values: vec!["1".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let allow = AuthorizationRule {
        to: vec![AuthorizationOperation {
            methods: vec!["GET".to_owned(), "POST".to_owned()],
            paths: vec!["/route-*".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let policy = |name: &str, action: Action, rule| {
        let policy = Authorization {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            action: action.into(),
            rules: vec![rule],
            ..Default::default()
        };
        let policy = Policy {
            policy: Some(policy::Policy::Http(policy)),
            ..Default::default()
        };
        (format!("http/shop/{name}"), policy)
    };
    vec![
        policy("deny", Action::Deny, deny),
        policy("allow", Action::Allow, allow),
    ]
}

fn pod((number, address): (usize, &SocketAddr)) -> Workload {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let port = workload::Port {
        service_port: 80,
        target_port: address.port().into(),
        ..Default::default()
    };
    Workload {
        uid: format!("Kubernetes//Pod/shop/p{number}"),
        name: format!("p{number}"),
        namespace: "shop".to_owned(),
        service_account: "bench".to_owned(),
        addresses: vec![octets],
        services: [(KEY.to_owned(), PortList { ports: vec![port] })].into(),
        ..Default::default()
    }
}

fn delta<M: Message>(type_url: &str, all: &[(String, M)]) -> Delta {
    let resource = |(name, message): &(String, M)| Resource {
        name: name.clone(),
        version: "1".to_owned(),
        bytes: message.encode_to_vec(),
    };
    Delta {
        type_url: type_url.to_owned(),
        resources: all.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}
