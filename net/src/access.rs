//! The access log: one record a connection, one line a record, under the target `access`.

use std::{net::SocketAddr, time::Duration};

use mesh::identity::Identity;
use tracing::{debug, error, info, warn};

/// Everything that is logged about one connection. What is unknown is left out.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Where it comes from.
    pub src_addr: SocketAddr,
    /// Who that is.
    pub source: Party<'a>,
    /// The other end of our socket: a proxy's port if the connection rides a tunnel.
    pub dst_addr: SocketAddr,
    /// The address asked for inside the tunnel.
    pub hbone_addr: Option<&'a str>,
    /// The service that was addressed: its host name.
    pub service: Option<&'a str>,
    /// Who that is.
    pub destination: Party<'a>,
    /// Which side we are.
    pub direction: Direction,
    /// Bytes from us towards `direction`'s far end: to the peer if outbound, to the app's client if inbound.
    pub bytes_sent: u64,
    /// Bytes the other way.
    pub bytes_recv: u64,
    /// From its first moment to its last.
    pub duration: Duration,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Party<'a> {
    /// Name of the workload.
    pub workload: Option<&'a str>,
    /// Its namespace.
    pub namespace: Option<&'a str>,
    /// Who it proved to be.
    pub identity: Option<Identity>,
    /// Its cluster, where it is not ours.
    pub cluster: Option<&'a str>,
}

/// Which side of a connection logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The source's.
    Outbound,
    /// The destination's.
    Inbound,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// Both sides were done.
    Complete,
    /// It broke, or never came to be.
    Failed {
        /// Why.
        error: &'a str,
    },
    /// It was not allowed.
    Denied {
        /// Why.
        error: &'a str,
        /// `namespace/name` of the deciding policy, if one decided.
        policy: Option<&'a str>,
    },
}

/// An event of a level, with all the record's fields in their order. Levels are constants to `tracing`.
macro_rules! line {
    ($level:ident, $record:expr, $error:expr, $policy:expr, $message:literal) => {{
        let Record { source, destination, .. } = $record;
        let duration = format!("{}ms", $record.duration.as_millis());
        let (source_id, destination_id) = (
            source.identity.map(|id| id.to_string()),
            destination.identity.map(|id| id.to_string()),
        );
        let (error, policy): (Option<&str>, Option<&str>) = ($error, $policy);
        $level!(
            target: "access",
            {
            src.addr = %$record.src_addr,
            src.workload = source.workload,
            src.namespace = source.namespace,
            src.identity = source_id.as_deref(),
            src.cluster = source.cluster,
            dst.addr = %$record.dst_addr,
            dst.hbone_addr = $record.hbone_addr.map(tracing::field::display),
            dst.service = $record.service,
            dst.workload = destination.workload,
            dst.namespace = destination.namespace,
            dst.identity = destination_id.as_deref(),
            dst.cluster = destination.cluster,
            direction = $record.direction.word(),
            bytes_sent = $record.bytes_sent,
            bytes_recv = $record.bytes_recv,
            duration = duration.as_str(),
            error,
            policy
            },
            $message
        );
    }};
}

impl Record<'_> {
    /// Says that the connection is there (level debug).
    pub fn opened(&self) {
        line!(debug, self, None, None, "connection opened");
    }

    /// Says how it ended: info if it was well, a warning if it was denied, else an error.
    pub fn closed(&self, end: End<'_>) {
        match end {
            End::Complete => line!(info, self, None, None, "connection complete"),
            End::Failed { error } => line!(error, self, Some(error), None, "connection complete"),
            End::Denied { error, policy } => {
                line!(warn, self, Some(error), policy, "connection failed")
            }
        }
    }
}

impl Direction {
    /// As it is logged.
    pub fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Format, capture};

    fn record() -> Record<'static> {
        let party = |name| Party {
            workload: Some(name),
            namespace: Some("default"),
            identity: Some(Identity::new("cluster.local", "default", name)),
            cluster: None,
        };
        Record {
            src_addr: "10.71.1.10:40302".parse().unwrap(),
            source: party("client"),
            dst_addr: "10.71.2.11:15008".parse().unwrap(),
            hbone_addr: Some("10.71.2.11:8080"),
            service: None,
            destination: party("server"),
            direction: Direction::Inbound,
            bytes_sent: 504,
            bytes_recv: 27,
            duration: Duration::from_micros(502_900),
        }
    }

    fn lines(body: impl FnOnce()) -> Vec<String> {
        let cut = |line: String| {
            line.split_once('\t')
                .map(|(_, rest)| rest.trim_end().to_owned())
        };
        capture("debug", Format::Text, body)
            .unwrap()
            .into_iter()
            .filter_map(cut)
            .collect()
    }

    const PARTIES: &str = "src.addr=10.71.1.10:40302 src.workload=\"client\" src.namespace=\"default\" \
        src.identity=\"spiffe://cluster.local/ns/default/sa/client\" dst.addr=10.71.2.11:15008 \
        dst.hbone_addr=10.71.2.11:8080 dst.workload=\"server\" dst.namespace=\"default\" \
        dst.identity=\"spiffe://cluster.local/ns/default/sa/server\" direction=\"inbound\" bytes_sent=504 \
        bytes_recv=27 duration=\"502ms\"";

    #[test]
    fn a_record_is_one_line_with_its_fields_in_order() {
        let record = record();
        let lines = lines(|| {
            record.closed(End::Complete);
            record.closed(End::Failed {
                error: "the peer has gone",
            });
            record.closed(End::Denied {
                error: "denied by policy",
                policy: Some("default/deny-all"),
            });
            record.opened();
        });
        let want = [
            format!("info\taccess\tconnection complete\t{PARTIES}"),
            format!("error\taccess\tconnection complete\t{PARTIES} error=\"the peer has gone\""),
            format!(
                "warn\taccess\tconnection failed\t{PARTIES} error=\"denied by policy\" policy=\"default/deny-all\""
            ),
            format!("debug\taccess\tconnection opened\t{PARTIES}"),
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let unknown = Party::default();
        let record = Record {
            source: unknown,
            destination: unknown,
            hbone_addr: None,
            ..record()
        };
        let lines = lines(|| record.closed(End::Complete));
        let want = "info\taccess\tconnection complete\tsrc.addr=10.71.1.10:40302 dst.addr=10.71.2.11:15008 \
            direction=\"inbound\" bytes_sent=504 bytes_recv=27 duration=\"502ms\"";
        assert_eq!(lines, [want]);
    }
}
