//! Packet rules by nftables, without the `nft` program: tables, chains and rules as values, put in place atomically.
//!
//! Acts on the calling thread's network namespace. [`Table`] can say only what capture needs; [`list`] reads what anybody
//! has put there, so that an agent sees whether its own table still stands and whether another tool's is in the way.

use std::{io, net::IpAddr};

use nix::{
    libc::{self, NLM_F_APPEND, NLM_F_CREATE},
    sys::socket::SockProtocol,
};

use crate::netlink::{Attributes, Malformed, Message, Reply, Socket};

mod expression;

pub use expression::{Expression, Field, Register};

/// NFPROTO_INET: a table for both families.
const INET: u8 = 1;
/// NFPROTO_BRIDGE.
const BRIDGE: u8 = 7;

// Attributes of tables, chains, hooks and rules (linux/netfilter/nf_tables.h).
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// Rules of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose packets pass them.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// Which packets a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// What this host sends, gets and routes, by IPv4 and IPv6.
    Inet,
    /// What its bridges pass on. Its chains can be of kind filter only.
    Bridge,
}

/// Rules that packets pass at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique in the table.
    pub name: String,
    /// What its rules may do.
    pub kind: Kind,
    /// Where packets pass it.
    pub hook: Hook,
    /// Lower comes first. Connection tracking sits at -200, address translation at -100.
    pub priority: i32,
    /// Tried in order until one decides.
    pub rules: Vec<Rule>,
}

/// What a chain's rules may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Judge packets.
    Filter,
    /// Redirect connections: only a connection's first packet passes.
    Nat,
    /// Change what a packet is routed by; it is routed again.
    Route,
}

/// Where packets pass a chain; values as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On arrival.
    Prerouting = 0,
    /// On delivery to this host.
    Input = 1,
    /// On the way through.
    Forward = 2,
    /// When made by this host.
    Output = 3,
    /// On leaving.
    Postrouting = 4,
}

/// What is done with the packets that match. Every rule also counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub when: Vec<Match>,
    /// What then happens.
    pub then: Action,
}

/// A condition on a packet. Those with `is` hold in the other case if it is false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet is TCP.
    Tcp,
    /// The packet's mark under a mask.
    Mark {
        /// Expected value.
        mark: u32,
        /// The bits that count.
        mask: u32,
        /// Equal or not.
        is: bool,
    },
    /// The connection's mark under a mask.
    ConnectionMark {
        /// Expected value.
        mark: u32,
        /// The bits that count.
        mask: u32,
        /// Equal or not.
        is: bool,
    },
    /// The interface of arrival.
    In {
        /// Its name.
        name: String,
        /// This one or any other.
        is: bool,
    },
    /// The interface of departure.
    Out {
        /// Its name.
        name: String,
        /// This one or any other.
        is: bool,
    },
    /// The source address. Holds only for packets of the address's family, negated or not.
    Source {
        /// The network's address.
        ip: IpAddr,
        /// How many leading bits count.
        prefix: u8,
        /// Inside or outside.
        is: bool,
    },
    /// The destination address, as `Source`.
    Destination {
        /// The network's address.
        ip: IpAddr,
        /// How many leading bits count.
        prefix: u8,
        /// Inside or outside.
        is: bool,
    },
    /// The destination port of a transport that has ports.
    Port {
        /// The port.
        port: u16,
        /// This one or any other.
        is: bool,
    },
    /// The packet asks for a new TCP connection: SYN without ACK.
    Opening,
    /// Whoever opened the socket that the packet is of was then in this control group of version 2, or below it. Never
    /// holds for a packet of no socket of this host. Works on arrival, delivery and output only.
    Group(Group),
}

/// A control group (version 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// How far below the root of the calling thread's namespace of control groups: 0 is the root.
    pub level: u32,
    /// The inode of its directory.
    pub id: u64,
}

/// What happens to a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// No later rule of this chain is tried.
    Accept,
    /// The connection ends at this port of this host instead.
    Redirect(u16),
    /// The connection's mark gets this value in the bits of the mask.
    MarkConnection {
        /// The value.
        mark: u32,
        /// The bits that change.
        mask: u32,
    },
    /// The packet gets its connection's mark.
    RestoreMark,
    /// The packet's mark gets this value in the bits of the mask.
    Mark {
        /// The value.
        mark: u32,
        /// The bits that change.
        mask: u32,
    },
    /// The connection has this source instead; the other end sees no other. Works after routing, in chains of kind nat.
    SourceAddress(IpAddr),
    /// The packet is gone.
    Drop,
    /// What goes the way of the connection's first packet is tracked apart, in this zone: the same addresses and ports
    /// may be another connection's there. What comes back is tracked with all the rest. Works before connection
    /// tracking only, which has priority -200.
    TrackApart(u16),
}

/// A chain as the kernel tells it, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// NFPROTO_* number: 1 both IP families, 2 IPv4, 10 IPv6.
    pub family: u8,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// Where packets enter it; none if only other chains lead there.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Vec<Expression>>,
}

/// How packets come to a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// As [`Hook`] numbers them, in the IP families.
    pub hook: u32,
    /// Lower comes first.
    pub priority: i32,
}

/// Puts a table in place of the one of its name, if any, in one step: no packet meets half of it.
pub fn replace(table: &Table) -> io::Result<()> {
    let family = table.family.number();
    let named = |kind, flags| message(kind, flags, family).text(TABLE_NAME, &table.name);
    // Making it first lets the removal succeed whether or not it was there.
    let mut batch = vec![begin()];
    batch.push(named(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE));
    batch.push(named(libc::NFT_MSG_DELTABLE, 0));
    batch.push(named(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE));
    for chain in &table.chains {
        batch.push(chain_message(table, chain));
    }
    for chain in &table.chains {
        batch.extend(
            chain
                .rules
                .iter()
                .map(|rule| rule_message(table, &chain.name, rule)),
        );
    }
    commit(batch)
}

/// Removes a table with all that is in it.
///
/// # Errors
/// `NotFound` if there is none of that name.
pub fn remove(family: Family, name: &str) -> io::Result<()> {
    commit(vec![
        begin(),
        message(libc::NFT_MSG_DELTABLE, 0, family.number()).text(TABLE_NAME, name),
    ])
}

/// The names of all tables, with their families.
pub fn tables() -> io::Result<Vec<(u8, String)>> {
    let replies = dump(&message(libc::NFT_MSG_GETTABLE, 0, 0))?;
    let name = |reply: &Reply| {
        let name = Attributes::after(4, &reply.body)?.text(TABLE_NAME);
        Ok::<_, Malformed>((family(reply)?, name.unwrap_or_default()))
    };
    Ok(replies.iter().map(name).collect::<Result<_, _>>()?)
}

/// All chains of all tables, with their rules.
pub fn list() -> io::Result<Vec<Listed>> {
    let rules = dump(&message(libc::NFT_MSG_GETRULE, 0, 0))?;
    with_rules(dump(&message(libc::NFT_MSG_GETCHAIN, 0, 0))?, rules)
}

/// The chains of a table, with their rules, however many others there are; nothing if there is no such table.
pub fn list_table(family: Family, name: &str) -> io::Result<Vec<Listed>> {
    let ask = |kind, attribute| message(kind, 0, family.number()).text(attribute, name);
    let rules = dump(&ask(libc::NFT_MSG_GETRULE, RULE_TABLE))?;
    // The kernel does not choose among chains.
    let mut chains = with_rules(dump(&ask(libc::NFT_MSG_GETCHAIN, CHAIN_TABLE))?, rules)?;
    chains.retain(|found| (found.family, found.table.as_str()) == (family.number(), name));
    Ok(chains)
}

fn with_rules(chains: Vec<Reply>, rules: Vec<Reply>) -> io::Result<Vec<Listed>> {
    let mut chains = chains.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
    for reply in rules {
        let attributes = Attributes::after(4, &reply.body)?;
        let of = (
            family(&reply)?,
            attributes.text(RULE_TABLE),
            attributes.text(RULE_CHAIN),
        );
        let rule = expression::decode(&attributes.nested(RULE_EXPRESSIONS)?)?;
        let same = |chain: &&mut Listed| {
            (chain.family, Some(&chain.table), Some(&chain.chain))
                == (of.0, of.1.as_ref(), of.2.as_ref())
        };
        if let Some(chain) = chains.iter_mut().find(same) {
            chain.rules.push(rule);
        }
    }
    Ok(chains)
}

impl Table {
    /// Whether this table, and nothing else under its name, is in a list.
    pub fn stands(&self, list: &[Listed]) -> bool {
        let found: Vec<_> = list.iter().filter(|found| self.owns(found)).collect();
        found.len() == self.chains.len()
            && self.chains.iter().all(|chain| {
                found
                    .iter()
                    .any(|found| found.chain == chain.name && chain.is(found, self.family))
            })
    }

    /// Whether a chain is in the table of this name.
    pub fn owns(&self, found: &Listed) -> bool {
        found.family == self.family.number() && found.table == self.name
    }
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => INET,
            Self::Bridge => BRIDGE,
        }
    }
}

impl Chain {
    fn is(&self, found: &Listed, family: Family) -> bool {
        let base = Base {
            kind: self.kind.name().into(),
            hook: self.hook as u32,
            priority: self.priority,
        };
        let rules = self.rules.iter();
        let rules: Vec<_> = rules
            .map(|rule| expression::compile(rule, family))
            .collect();
        found.base.as_ref() == Some(&base) && found.rules == rules
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

fn chain_message(table: &Table, chain: &Chain) -> Message {
    message(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, table.family.number())
        .text(CHAIN_TABLE, &table.name)
        .text(CHAIN_NAME, &chain.name)
        .nest(CHAIN_HOOK, |hook| {
            hook.be32(HOOK_NUMBER, chain.hook as u32)
                .be32(HOOK_PRIORITY, chain.priority.cast_unsigned())
        })
        .text(CHAIN_TYPE, chain.kind.name())
}

fn rule_message(table: &Table, chain: &str, rule: &Rule) -> Message {
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    message(libc::NFT_MSG_NEWRULE, flags, table.family.number())
        .text(RULE_TABLE, &table.name)
        .text(RULE_CHAIN, chain)
        .nest(RULE_EXPRESSIONS, |list| {
            expression::encode(&expression::compile(rule, table.family), list)
        })
}

fn listed(reply: &Reply) -> Result<Listed, Malformed> {
    let attributes = Attributes::after(4, &reply.body)?;
    let base = match attributes
        .find(CHAIN_HOOK)
        .map(Attributes::parse)
        .transpose()?
    {
        Some(hook) => Some(Base {
            kind: attributes.text(CHAIN_TYPE).unwrap_or_default(),
            hook: hook.be32(HOOK_NUMBER)?.ok_or(Malformed)?,
            priority: hook.be32(HOOK_PRIORITY)?.ok_or(Malformed)?.cast_signed(),
        }),
        None => None,
    };
    Ok(Listed {
        family: family(reply)?,
        table: attributes.text(CHAIN_TABLE).unwrap_or_default(),
        chain: attributes.text(CHAIN_NAME).unwrap_or_default(),
        base,
        rules: Vec::new(),
    })
}

fn family(reply: &Reply) -> Result<u8, Malformed> {
    reply.body.first().copied().ok_or(Malformed)
}

/// struct nfgenmsg below a message of the nftables subsystem.
fn message(kind: libc::c_int, flags: i32, family: u8) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8) | kind;
    Message::new(kind as u16, flags).raw(&[family, libc::NFNETLINK_V0 as u8, 0, 0])
}

/// A bracket around a batch; its resource id is the subsystem's, in network order.
fn bracket(kind: libc::c_int) -> Message {
    Message::new(kind as u16, 0).raw(&[
        0,
        libc::NFNETLINK_V0 as u8,
        0,
        libc::NFNL_SUBSYS_NFTABLES as u8,
    ])
}

fn begin() -> Message {
    bracket(libc::NFNL_MSG_BATCH_BEGIN)
}

/// Sends a batch that has begun; all of it happens, or nothing.
fn commit(mut batch: Vec<Message>) -> io::Result<()> {
    batch.push(bracket(libc::NFNL_MSG_BATCH_END));
    let last = batch.len() - 1;
    Socket::open(SockProtocol::NetlinkNetFilter)?.batch(&batch, &[0, last])
}

fn dump(message: &Message) -> io::Result<Vec<Reply>> {
    Socket::open(SockProtocol::NetlinkNetFilter)?.dump(message)
}

#[cfg(test)]
mod tests;
