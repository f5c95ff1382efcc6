//! Which ports are probed, and what a kernel makes of the rules: connections from a host and from its pods to a pod.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio, id},
};

use serde_json::json;
use sys::{
    group,
    netns::{Netns, privileged},
    nft, route,
};

use super::*;

fn ports_of(spec: serde_json::Value) -> Vec<u16> {
    let spec: v1::PodSpec = serde_json::from_value(spec).unwrap();
    ports(&spec).into_iter().collect()
}

#[test]
fn every_probe_and_every_http_hook_of_every_container_names_its_port() {
    let found = ports_of(json!({
        "initContainers": [{
            "name": "sidecar", "restartPolicy": "Always",
            "startupProbe": {"tcpSocket": {"port": 1}},
        }],
        "containers": [
            {
                "name": "a",
                "ports": [{"name": "web", "containerPort": 2}],
                "livenessProbe": {"httpGet": {"port": "web"}},
                "readinessProbe": {"grpc": {"port": 3}},
                "startupProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {
                    "postStart": {"httpGet": {"port": 4}},
                    "preStop": {"httpGet": {"port": "web"}},
                },
            },
            {"name": "b", "livenessProbe": {"tcpSocket": {"port": "5"}}},
        ],
    }));
    assert_eq!(found, [1, 2, 3, 4, 5]);
}

#[test]
fn what_names_no_port_of_the_pod_lets_nothing_in() {
    let found = ports_of(json!({
        "containers": [
            {"name": "a", "ports": [{"name": "web", "containerPort": 1}]},
            {
                "name": "b",
                // Of another container, of another host, none, and out of range.
                "livenessProbe": {"httpGet": {"port": "web"}},
                "readinessProbe": {"httpGet": {"port": 2, "host": "192.0.2.1"}},
                "startupProbe": {"tcpSocket": {"port": 0}},
                "lifecycle": {"preStop": {"httpGet": {"port": 65536}}},
            },
            {"name": "c", "livenessProbe": {"exec": {"command": ["true"]}}},
        ],
    }));
    assert_eq!(found, [0; 0]);
}

const POD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HOST: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const PROBED: u16 = 8080;
const OTHER: u16 = 8081;

/// A host and a pod with a link between them, and a control group of version 2 for the host's pods.
struct Lab {
    pod: Netns,
    host: Netns,
    group: PathBuf,
}

impl Lab {
    fn new(name: &str) -> Option<Self> {
        if !privileged("probes are told from everything else") {
            return None;
        }
        let Some(root) = group::mounted("/".as_ref()) else {
            println!(
                "skipped: probes are told from everything else: no control groups of version 2"
            );
            return None;
        };
        let group = root.join(format!("ambit-{name}-{}", id()));
        fs::create_dir(&group).unwrap();
        let (pod, host) = (Netns::create().unwrap(), Netns::create().unwrap());
        pod.within(|| route::veth("eth0", "pod", &host)).unwrap();
        for (netns, name, ips) in [(&pod, "eth0", POD), (&host, "pod", HOST)] {
            netns
                .within(|| {
                    // Addresses are used before anybody has looked whether another has them.
                    sys::sysctl::write(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
                    route::set_up("lo")?;
                    route::add_address(name, ips[0].parse().unwrap(), 24)?;
                    route::add_address(name, ips[1].parse().unwrap(), 64)?;
                    route::set_up(name)
                })
                .unwrap();
        }
        for ip in HOST {
            let default = route::Route::default_via(ip.parse().unwrap());
            pod.within(|| route::add_route(&default)).unwrap();
        }
        Some(Self { pod, host, group })
    }

    fn guard(&self) {
        let targets: BTreeSet<Target> = POD.map(|ip| (ip.parse().unwrap(), PROBED)).into();
        let pods = Group {
            level: 1,
            id: group::id(&self.group).unwrap(),
        };
        let table = table(pods, &targets);
        self.host.within(|| nft::replace(&table)).unwrap();
        let listed = self.host.within(|| nft::list_table(Family::Inet, TABLE));
        assert!(table.stands(&listed.unwrap()));
    }

    /// Who the pod takes for the other end of a connection from the host to its port; by a process in the group or not.
    fn seen(&self, to: &str, port: u16, in_group: bool) -> IpAddr {
        let to: SocketAddr = (to.parse::<IpAddr>().unwrap(), port).into();
        let listener = self.pod.within(|| TcpListener::bind(to)).unwrap();
        let enter = if in_group {
            format!("echo $$ > {}/cgroup.procs && ", self.group.display())
        } else {
            String::new()
        };
        let script = format!("{enter}exec 3<>/dev/tcp/{}/{port} && read -r <&3", to.ip());
        let spawn = || {
            let mut bash = Command::new("bash");
            bash.args(["-c", &script]).stdin(Stdio::null()).spawn()
        };
        let client: Child = self.host.within(spawn).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        drop(stream);
        client.wait_with_output().unwrap();
        peer.ip()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.group);
    }
}

#[test]
fn what_the_host_sends_to_a_probed_port_has_the_source_of_probes_and_what_its_pods_send_has_not() {
    let Some(lab) = Lab::new("probes") else {
        return;
    };
    for (ip, own) in POD.iter().zip(HOST) {
        let own: IpAddr = own.parse().unwrap();
        assert_eq!(lab.seen(ip, PROBED, false), own);
    }
    lab.guard();
    for ((ip, own), probe) in POD
        .iter()
        .zip(HOST)
        .zip([PROBE.into(), IpAddr::from(PROBE6)])
    {
        let own: IpAddr = own.parse().unwrap();
        assert_eq!(lab.seen(ip, PROBED, false), probe, "{ip}");
        assert_eq!(lab.seen(ip, PROBED, true), own, "{ip} by a pod");
        assert_eq!(lab.seen(ip, OTHER, false), own, "{ip}, another port");
    }
}

#[test]
fn what_arrives_with_the_source_of_probes_is_dropped() {
    let Some(lab) = Lab::new("forged") else {
        return;
    };
    lab.guard();
    // The pod takes the address; the host, which would answer it, listens.
    let listener = lab
        .host
        .within(|| TcpListener::bind((HOST[0], PROBED)))
        .unwrap();
    lab.pod
        .within(|| route::add_address("eth0", PROBE.into(), 32))
        .unwrap();
    lab.host
        .within(|| {
            let to = route::Route {
                interface: Some(route::index("pod")?),
                ..route::Route::to(PROBE.into(), 32)
            };
            route::add_route(&to)
        })
        .unwrap();
    let from = |ip: &str| {
        let mut python = Command::new("python3");
        let script = format!(
            "import socket as s; c = s.socket(); c.settimeout(1); c.bind(('{ip}', 0)); c.connect(('{}', {PROBED}))",
            HOST[0]
        );
        python.args(["-c", &script]).stderr(Stdio::null());
        let ran = lab.pod.within(|| python.status());
        ran.unwrap().success()
    };
    assert!(from(POD[0]));
    assert!(!from(&PROBE.to_string()));
    lab.host
        .within(|| nft::remove(Family::Inet, TABLE))
        .unwrap();
    assert!(from(&PROBE.to_string()), "so it was the rules");
    let mut peers = Vec::new();
    listener.set_nonblocking(true).unwrap();
    while let Ok((mut stream, peer)) = listener.accept() {
        let _ = stream.read(&mut [0; 1]);
        peers.push(peer.ip());
    }
    assert_eq!(peers, [POD[0].parse::<IpAddr>().unwrap(), PROBE.into()]);
}
