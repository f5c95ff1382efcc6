//! The checks: what is claimed of a mesh, how it is tried, and what was measured.
//!
//! A check asks a running [`Mesh`] from outside, as an application or an eavesdropper would, and compares with what the
//! manifests of `deploy/demo` say. It never asks a component whether it thinks that it works, except where the claim is
//! about what that component knows.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::mesh::{Answer, Mesh};

mod canary;
mod certificates;
mod edit;
mod hop;
mod load;
mod membership;
mod policy;
mod requests;
mod restored;
mod traffic;
mod wire;

/// A claim, and how to try it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Stays the same over versions.
    pub(crate) id: &'static str,
    /// The claim in words.
    pub(crate) claim: &'static str,
    /// Tries it. The error says what was found instead.
    attempt: fn(&Mesh, &mut Evidence) -> Result<(), String>,
}

/// What came of a check.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Which.
    pub(crate) check: Check,
    /// How long it took.
    pub(crate) took: Duration,
    /// What was measured, also if it failed.
    pub(crate) evidence: Evidence,
    /// What was found instead of what is claimed.
    pub(crate) error: Option<String>,
}

/// What was measured, in the order in which it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence(Vec<(&'static str, Value)>);

/// All of them, in the order in which they run.
pub(crate) const ALL: [Check; 24] = [
    Check {
        id: "pods-captured",
        claim: "every enrolled pod's traffic is captured, and no other's",
        attempt: membership::captured,
    },
    Check {
        id: "service-across-nodes",
        claim: "a call to a service crosses nodes inside HBONE, both ends proven",
        attempt: traffic::across_nodes,
    },
    Check {
        id: "service-same-node",
        claim: "so does a call that stays on its node",
        attempt: traffic::same_node,
    },
    Check {
        id: "ipv6",
        claim: "and one over IPv6",
        attempt: traffic::v6,
    },
    Check {
        id: "client-address",
        claim: "servers see their client's own address",
        attempt: traffic::client_address,
    },
    Check {
        id: "wire-encrypted",
        claim: "between enrolled pods nothing readable is on the link",
        attempt: wire::encrypted,
    },
    Check {
        id: "policy-allow",
        claim: "who is allowed gets through",
        attempt: policy::allowed,
    },
    Check {
        id: "policy-deny",
        claim: "who is denied does not, and the log names the policy",
        attempt: policy::denied,
    },
    Check {
        id: "strict",
        claim: "where mutual TLS is STRICT, plaintext is refused",
        attempt: policy::strict,
    },
    Check {
        id: "permissive",
        claim: "where it is PERMISSIVE, plaintext is let in",
        attempt: policy::permissive,
    },
    Check {
        id: "edit-takes-effect",
        claim: "an edited manifest is in force within a second, for open connections too, and what is taken out one later",
        attempt: edit::takes_effect,
    },
    Check {
        id: "certificate-rotation",
        claim: "certificates are renewed under traffic, and no request fails",
        attempt: certificates::rotate,
    },
    Check {
        id: "canary",
        claim: "of 1,000 requests a tenth goes to the canary, as its weight says",
        attempt: canary::shares,
    },
    Check {
        id: "header-route",
        claim: "who says that he is a tester gets to the canary",
        attempt: canary::by_header,
    },
    Check {
        id: "weights-under-load",
        claim: "weights are changed under load, and no request fails",
        attempt: canary::reweighted,
    },
    Check {
        id: "l7-allow",
        claim: "at layer 7 who is allowed gets through, and nobody else",
        attempt: requests::allowed,
    },
    Check {
        id: "l7-deny",
        claim: "what is denied is answered with 403, however it is written, and the log names the policy",
        attempt: requests::denied_by_path,
    },
    Check {
        id: "rewrite",
        claim: "the application sees a rewritten path",
        attempt: requests::rewritten,
    },
    Check {
        id: "redirect",
        claim: "a redirect is answered without the application",
        attempt: requests::redirected,
    },
    Check {
        id: "timeout",
        claim: "an answer that takes too long becomes 504",
        attempt: requests::timed_out,
    },
    Check {
        id: "l4-behind-waypoint",
        claim: "behind a waypoint layer 4 policies judge the real client",
        attempt: requests::real_client,
    },
    Check {
        id: "waypoint-killed",
        claim: "without its waypoint a service is not reached at all, and with it again",
        attempt: hop::killed,
    },
    Check {
        id: "around-waypoint",
        claim: "whoever goes around the waypoint is refused by the destination",
        attempt: hop::gone_around,
    },
    Check {
        id: "no-waypoint",
        claim: "a service without a waypoint has no layer 7 hop",
        attempt: hop::none_elsewhere,
    },
];

impl Check {
    /// Tries it.
    pub(crate) fn run(&self, mesh: &Mesh) -> Outcome {
        let (begin, mut evidence) = (Instant::now(), Evidence::default());
        let error = (self.attempt)(mesh, &mut evidence).err();
        Outcome {
            check: *self,
            took: begin.elapsed(),
            evidence,
            error,
        }
    }
}

impl Evidence {
    /// Notes something measured.
    pub(crate) fn note(&mut self, what: &'static str, value: impl Into<Value>) {
        self.0.push((what, value.into()));
    }

    /// For programs, an object for each.
    pub(crate) fn json(&self) -> Value {
        self.0
            .iter()
            .map(|(what, value)| json!({ "what": what, "value": value }))
            .collect()
    }

    /// For people, a line for each.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(what, value)| match value {
            Value::String(text) => format!("{what}: {text}"),
            Value::Number(number) if number.is_f64() => {
                format!("{what}: {:.1}", number.as_f64().unwrap_or_default())
            }
            other => format!("{what}: {other}"),
        })
    }
}

/// The identity of a service account.
fn identity(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// A call that has to be answered by a certain pod.
fn call(mesh: &Mesh, from: &str, to: SocketAddr, by: &str) -> Result<Answer, String> {
    let answer = mesh
        .request(from, to, b"")
        .map_err(|error| format!("{from} → {to}: {error}"))?;
    let status = answer.response.status;
    match answer.response.header("x-pod") {
        Some(pod) if pod == by && status == 200 => Ok(answer),
        pod => Err(format!(
            "{from} → {to}: status {status} from {}, not 200 from {by}",
            pod.unwrap_or("nobody")
        )),
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn want(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Addresses of services, as in the manifests.
mod service {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    const fn v4(host: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, host)), 80)
    }

    pub(super) const CART: SocketAddr = v4(10);
    pub(super) const CART_V6: SocketAddr = SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10)),
        80,
    );
    pub(super) const CATALOG: SocketAddr = v4(11);
    pub(super) const LEDGER: SocketAddr = v4(20);
    pub(super) const AUDIT: SocketAddr = v4(21);
    pub(super) const ORDERS: SocketAddr = v4(30);
    pub(super) const ORDERS_V1: SocketAddr = v4(31);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_and_each_is_used_once() {
        for (at, check) in ALL.iter().enumerate() {
            assert!(
                check
                    .id
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            assert!(
                ALL[..at].iter().all(|other| other.id != check.id),
                "{}",
                check.id
            );
        }
    }

    #[test]
    fn services_are_where_the_manifests_say() {
        let text = super::super::manifests::FILES
            .map(|(_, text)| text)
            .concat();
        for service in [
            service::CART,
            service::CART_V6,
            service::CATALOG,
            service::LEDGER,
            service::AUDIT,
            service::ORDERS,
            service::ORDERS_V1,
        ] {
            assert!(text.contains(&service.ip().to_string()), "{service}");
        }
    }
}
