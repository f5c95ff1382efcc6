//! Both ends of the node agent's protocol (ZDS).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use node::zds::{Do, Zds};
use prost::Message as _;
use proto::workload::zds::{WorkloadInfo, WorkloadRequest};
use ztunnel::roster::{Action, Roster};

use super::piece;

/// What an agent sends to a node proxy: pieces, each a byte that says whether a namespace came with it (or whether the
/// agent connected anew), then a message. Nothing stops that was not started, and what makes no sense changes nothing.
pub fn roster(mut data: &[u8]) {
    let mut roster = Roster::default();
    roster.connected();
    let mut served = BTreeSet::new();
    while let Some((how, message)) = piece(&mut data).and_then(<[u8]>::split_first) {
        let netns = match how % 4 {
            0 => {
                roster.connected();
                continue;
            }
            1 => None,
            number => Some((1, u64::from(number))),
        };
        let Ok(request) = WorkloadRequest::decode(message) else {
            continue;
        };
        let before = format!("{roster:?}");
        match roster.on(request, netns) {
            Ok(Action::Start(named)) => {
                assert!(!named.uid.is_empty() && netns.is_some());
                served.insert(named.uid);
            }
            Ok(Action::Stop(gone)) => {
                for uid in gone {
                    assert!(served.remove(&uid), "{uid:?} was not served");
                }
            }
            Ok(Action::Nothing) => {}
            Err(_) => assert_eq!(format!("{roster:?}"), before),
        }
    }
}

/// What happens to an agent: pieces, each a byte that says what, then from whom, then a proxy's packet or the like.
/// Only who is connected is spoken to, one message at a time; a pod that goes is said to be gone.
pub fn zds(mut data: &[u8]) {
    let mut agent = Watched::default();
    let mut ids = 0;
    while let Some((what, rest)) = piece(&mut data).and_then(<[u8]>::split_first) {
        let (who, rest) = rest.split_first().unwrap_or((&0, rest));
        let (id, uid, now) = (u64::from(who % 8), format!("pod-{}", who % 4), agent.now);
        let list = match what % 6 {
            0 if ids < 8 => {
                agent.zds.connected(ids, now);
                agent.connected.insert(ids);
                ids += 1;
                continue;
            }
            0 | 1 => {
                agent.waiting.remove(&id);
                agent.zds.received(id, rest, now)
            }
            2 => {
                agent.connected.remove(&id);
                agent.waiting.remove(&id);
                agent.zds.closed(id, now)
            }
            3 => {
                let info = WorkloadInfo::decode(rest).unwrap_or_default();
                agent.pods.insert(uid.clone());
                agent
                    .zds
                    .add(&uid, info, who.is_multiple_of(2).then_some(*who), now)
            }
            4 => {
                agent.pods.remove(&uid);
                agent.zds.remove(&uid, now)
            }
            _ => {
                agent.now += Duration::from_millis(u64::from(*who) * 50);
                agent.zds.tick(agent.now)
            }
        };
        agent.carry_out(list);
    }
    agent.ended();
}

struct Watched {
    zds: Zds<u8>,
    now: Instant,
    connected: BTreeSet<u64>,
    /// Those that have not answered.
    waiting: BTreeSet<u64>,
    pods: BTreeSet<String>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            zds: Zds::default(),
            now: Instant::now(),
            connected: BTreeSet::new(),
            waiting: BTreeSet::new(),
            pods: BTreeSet::new(),
        }
    }
}

impl Watched {
    fn carry_out(&mut self, list: Vec<Do<u8>>) {
        for one in list {
            match one {
                Do::Send(id, request, _) => {
                    assert!(self.connected.contains(&id), "{id} is not connected");
                    assert!(request.payload.is_some());
                    assert!(self.waiting.insert(id), "{id} has yet to answer");
                }
                Do::Close(id, _) => {
                    assert!(self.connected.remove(&id), "{id} is not connected");
                    self.waiting.remove(&id);
                }
                Do::Added(uid) | Do::Refused(uid, _) => assert!(self.pods.contains(&uid), "{uid}"),
                Do::Removed(_) => {}
            }
        }
    }

    /// When all proxies have gone, so has everything that was on its way out.
    fn ended(mut self) {
        for uid in self.pods.clone() {
            let list = self.zds.remove(&uid, self.now);
            self.carry_out(list);
        }
        for id in self.connected.clone() {
            self.waiting.remove(&id);
            self.connected.remove(&id);
            let list = self.zds.closed(id, self.now);
            self.carry_out(list);
        }
        assert!(self.zds.tick(self.now + Duration::from_secs(60)).is_empty());
    }
}
