//! Two nodes and their pods on one machine, as network namespaces without names.
//!
//! ```text
//!   pod ── p0 ┐                              ┌ p0 ── pod
//!             n1 ── peer ═══════════ peer ── n2
//!   pod ── p1 ┘ └── up ── control plane ── up ┘ └ p1 ── pod
//! ```
//! Node N has 10.71.N.0/24 and fd71:0:0:N::/64 for its pods, each routed to a link of its own. The control plane is at
//! 10.71.9.9, over links that no pod's traffic takes. Nothing is mounted or named: with the last descriptor and process
//! all of it is gone, whatever ends them. No mesh is in here; what is built on it starts one.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::{fd::AsFd as _, fd::AsRawFd as _, unix::fs::symlink},
    path::Path,
    time::Duration,
};

use sys::{
    netns::Netns,
    route::{self, Route},
    sysctl,
};

pub mod frame;
pub mod process;
pub mod sniffer;

/// The interface of each node that leads to the other one.
pub const PEER: &str = "peer";

/// Where the control plane is.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 71, 9, 9);

/// The interface of each node that leads to the control plane.
const UP: &str = "up";

/// The IPv6 address of a node's end of every pod's link.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// `n1`.
    One,
    /// `n2`.
    Two,
}

impl Node {
    /// Both.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// `n1` or `n2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "n1",
            Self::Two => "n2",
        }
    }

    /// The node of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|node| node.name() == name)
    }

    /// The address that it uses itself.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 71, self.number(), 1)
    }

    /// An IPv4 address for a pod.
    pub fn v4(self, host: u8) -> IpAddr {
        Ipv4Addr::new(10, 71, self.number(), host).into()
    }

    /// An IPv6 address for a pod.
    pub fn v6(self, host: u16) -> IpAddr {
        Ipv6Addr::new(0xfd71, 0, 0, self.number().into(), 0, 0, 0, host).into()
    }

    /// Whether an address is routed to this node.
    fn owns(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => ip.octets()[..3] == [10, 71, self.number()],
            IpAddr::V6(ip) => ip.segments()[..4] == [0xfd71, 0, 0, self.number().into()],
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }
}

/// The namespaces, and what connects them.
#[derive(Debug)]
pub struct Lab {
    nodes: [Netns; 2],
    control: Netns,
    pods: BTreeMap<String, Pod>,
    /// Links made so far: their names are never used again.
    links: u32,
}

/// A pod's place.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Where it is.
    pub node: Node,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// The node's end of its link.
    link: String,
}

impl Lab {
    /// Two nodes and a control plane's place, connected. Needs root.
    pub fn create() -> io::Result<Self> {
        let lab = Self {
            nodes: [Netns::create()?, Netns::create()?],
            control: Netns::create()?,
            pods: BTreeMap::new(),
            links: 0,
        };
        lab.control.within(|| {
            route::set_up("lo")?;
            route::add_address("lo", CONTROL.into(), 32)
        })?;
        for node in Node::ALL {
            lab.node(node).within(|| {
                addresses_count_at_once()?;
                route::set_up("lo")?;
                route::add_address("lo", node.address().into(), 32)?;
                sysctl::write("net/ipv4/ip_forward", "1")?;
                sysctl::write("net/ipv6/conf/all/forwarding", "1")
            })?;
            lab.connect_to_control(node)?;
        }
        lab.node(Node::One)
            .within(|| route::veth(PEER, PEER, lab.node(Node::Two)))?;
        for node in Node::ALL {
            lab.connect_to_peer(node)?;
        }
        Ok(lab)
    }

    /// A node's namespace.
    pub fn node(&self, node: Node) -> &Netns {
        &self.nodes[usize::from(node.number()) - 1]
    }

    /// The control plane's namespace.
    pub fn control(&self) -> &Netns {
        &self.control
    }

    /// A pod's place.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All pods by name.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &Pod)> {
        self.pods.iter().map(|(name, pod)| (name.as_str(), pod))
    }

    /// Makes a pod's namespace and connects it to its node.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is not routed to the node; `AlreadyExists` for a name that is taken.
    pub fn add_pod(&mut self, name: &str, node: Node, addresses: &[IpAddr]) -> io::Result<()> {
        if self.pods.contains_key(name) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("there is a pod {name} already"),
            ));
        }
        if let Some(foreign) = addresses.iter().find(|address| !node.owns(**address)) {
            let text = format!(
                "{foreign} is not routed to node {}: pod {name} cannot have it",
                node.name()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let netns = Netns::create()?;
        netns.within(addresses_count_at_once)?;
        let link = format!("p{}", self.links);
        self.links += 1;
        self.node(node).within(|| {
            route::veth(&link, "eth0", &netns)?;
            route::set_up(&link)?;
            route::add_address(&link, GATEWAY_V6.into(), 64)
        })?;
        netns.within(|| {
            route::set_up("lo")?;
            for &address in addresses {
                route::add_address("eth0", address, bits(address))?;
            }
            route::set_up("eth0")?;
            let interface = Some(route::index("eth0")?);
            route::add_route(&Route {
                interface,
                ..Route::to(node.address().into(), 32)
            })?;
            route::add_route(&Route {
                interface,
                ..Route::default_via(node.address().into())
            })?;
            route::add_route(&Route {
                interface,
                ..Route::default_via(GATEWAY_V6.into())
            })
        })?;
        self.node(node).within(|| {
            let interface = Some(route::index(&link)?);
            addresses.iter().try_for_each(|&ip| {
                route::add_route(&Route {
                    interface,
                    ..Route::to(ip, bits(ip))
                })
            })
        })?;
        self.pods.insert(
            name.to_owned(),
            Pod {
                netns,
                node,
                addresses: addresses.to_vec(),
                link,
            },
        );
        Ok(())
    }

    /// Takes a pod away from its node; its namespace lives on as long as a process is in it.
    ///
    /// # Errors
    /// `NotFound` if there is no such pod.
    pub fn remove_pod(&mut self, name: &str) -> io::Result<()> {
        let pod = self.pods.remove(name);
        let pod = pod.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no pod {name}"))
        })?;
        self.node(pod.node).within(|| route::remove_link(&pod.link))
    }

    /// A connection as a program in `from` would make it.
    pub fn connect(
        &self,
        from: &Netns,
        to: SocketAddr,
        patience: Duration,
    ) -> io::Result<TcpStream> {
        let stream = from.within(|| TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Links the pods' namespaces into a directory by name, so that other processes can open them, while this one lives.
    pub fn publish(&self, directory: &Path) -> io::Result<()> {
        let pods = self
            .pods
            .iter()
            .map(|(name, pod)| (name.as_str(), &pod.netns));
        for (name, netns) in pods {
            publish(netns, &directory.join(name))?;
        }
        Ok(())
    }

    fn connect_to_control(&self, node: Node) -> io::Result<()> {
        let number = node.number();
        let net = |host| Ipv4Addr::new(10, 71, 8, number * 4 + host).into();
        self.control.within(|| {
            route::veth(node.name(), UP, self.node(node))?;
            route::add_address(node.name(), net(1), 30)?;
            route::set_up(node.name())
        })?;
        self.node(node).within(|| {
            route::add_address(UP, net(2), 30)?;
            route::set_up(UP)?;
            route::add_route(&Route {
                gateway: Some(net(1)),
                ..Route::to(CONTROL.into(), 32)
            })
        })?;
        self.control.within(|| {
            route::add_route(&Route {
                gateway: Some(net(2)),
                ..Route::to(node.v4(0), 24)
            })
        })
    }

    fn connect_to_peer(&self, node: Node) -> io::Result<()> {
        let other = node.other();
        let v4 = |node: Node| Ipv4Addr::new(10, 71, 0, node.number()).into();
        let v6 = |node: Node| Ipv6Addr::new(0xfd71, 0, 0, 0, 0, 0, 0, node.number().into()).into();
        self.node(node).within(|| {
            route::add_address(PEER, v4(node), 24)?;
            route::add_address(PEER, v6(node), 64)?;
            route::set_up(PEER)?;
            self.node(other).within(|| route::set_up(PEER))?;
            route::add_route(&Route {
                gateway: Some(v4(other)),
                ..Route::to(other.v4(0), 24)
            })?;
            route::add_route(&Route {
                gateway: Some(v6(other)),
                ..Route::to(other.v6(0), 64)
            })
        })
    }
}

/// Links one namespace into the file system under a path, replacing what was there.
pub fn publish(netns: &Netns, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            netns.as_fd().as_raw_fd()
        ),
        path,
    )
}

/// Without it an interface's own IPv6 addresses are looked for on the link for a second, and nothing can be resolved
/// meanwhile.
fn addresses_count_at_once() -> io::Result<()> {
    sysctl::write("net/ipv6/conf/default/accept_dad", "0")
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests;
