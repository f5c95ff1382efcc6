//! A pod as a value: what its manifest, its workload and its message of the node agent say.

use std::{fmt::Write as _, net::IpAddr};

use ::mesh::identity::Identity;
use cli::lab::Node;
use proto::security::{
    Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType,
};
use proto::workload::{
    Address, TunnelProtocol, Workload,
    address::Type,
    zds::{AddWorkload, WorkloadInfo, WorkloadRequest, workload_request::Payload},
};

/// A pod, whose service account, label `app` and network namespace have its name.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Unique in a world.
    pub name: &'static str,
    /// Its Kubernetes namespace.
    pub namespace: &'static str,
    /// Where it runs.
    pub node: Node,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// Whether it is in the mesh.
    pub enrolled: bool,
}

impl Pod {
    /// A pod of the mesh with one IPv4 address, in the namespace `shop`.
    pub fn new(name: &'static str, node: Node, host: u8) -> Self {
        Self {
            name,
            namespace: "shop",
            node,
            addresses: vec![node.v4(host)],
            enrolled: true,
        }
    }

    /// With an IPv6 address of the same number.
    pub fn dual_stack(mut self) -> Self {
        if let IpAddr::V4(ip) = self.addresses[0] {
            self.addresses.push(self.node.v6(ip.octets()[3].into()));
        }
        self
    }

    /// In another namespace.
    pub fn of(mut self, namespace: &'static str) -> Self {
        self.namespace = namespace;
        self
    }

    /// Not in the mesh.
    pub fn outside(mut self) -> Self {
        self.enrolled = false;
        self
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        Identity::new("cluster.local", self.namespace, self.name)
    }

    /// By what name the control plane knows it.
    pub fn uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        let Self {
            name, namespace, ..
        } = self;
        let mode = if self.enrolled { "ambient" } else { "none" };
        let mut text = format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {name}, istio.io/dataplane-mode: {mode}}}
  annotations: {{ambit.dev/netns: {name}}}
spec:
  nodeName: {}
  serviceAccountName: {name}
  containers: [{{name: echo, image: ambit}}]
status:
  podIPs:
",
            self.node.name()
        );
        for address in &self.addresses {
            writeln!(text, "  - {{ip: \"{address}\"}}").expect("a string takes all");
        }
        text
    }

    /// What the control plane says of it, if it is in the mesh and captured.
    pub fn workload(&self) -> Workload {
        let addresses = self.addresses.iter().map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        Workload {
            uid: self.uid(),
            name: self.name.to_owned(),
            namespace: self.namespace.to_owned(),
            addresses: addresses.collect(),
            tunnel_protocol: if self.enrolled {
                TunnelProtocol::Hbone.into()
            } else {
                TunnelProtocol::None.into()
            },
            service_account: self.name.to_owned(),
            node: self.node.name().to_owned(),
            canonical_name: self.name.to_owned(),
            workload_name: self.name.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            ..Workload::default()
        }
    }

    /// What the node agent says of it.
    pub fn added(&self) -> WorkloadRequest {
        let workload_info = Some(WorkloadInfo {
            name: self.name.to_owned(),
            namespace: self.namespace.to_owned(),
            service_account: self.name.to_owned(),
        });
        WorkloadRequest {
            payload: Some(Payload::Add(AddWorkload {
                uid: self.name.to_owned(),
                workload_info,
            })),
        }
    }
}

/// The pod's workload, with these policies.
pub fn guarded(pod: &Pod, policies: &[&str]) -> Address {
    address(Workload {
        authorization_policies: policies.iter().map(|name| (*name).to_owned()).collect(),
        ..pod.workload()
    })
}

/// A workload as an Address resource.
pub fn address(workload: Workload) -> Address {
    Address {
        r#type: Some(Type::Workload(workload)),
    }
}

/// A policy of the namespace `shop` that denies connections to a port, for the workloads that name it.
pub fn no_port(name: &str, port: u16) -> Authorization {
    denying(
        name,
        Match {
            destination_ports: vec![port.into()],
            ..Match::default()
        },
    )
}

/// A policy of the namespace `shop` that denies a peer, for the workloads that name it.
pub fn no_peer(name: &str, identity: Identity) -> Authorization {
    let principal = StringMatch {
        match_type: Some(MatchType::Exact(identity.principal())),
    };
    denying(
        name,
        Match {
            principals: vec![principal],
            ..Match::default()
        },
    )
}

fn denying(name: &str, found: Match) -> Authorization {
    let rules = vec![Rules {
        matches: vec![found],
    }];
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups: vec![Group { rules }],
        ..Authorization::default()
    }
}
