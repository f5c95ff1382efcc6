//! Settings that both proxies have: the same names, defaults and limits.
//!
//! Each reads its own from the environment beside these; what a text means is [`crate::config`]'s.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    str::FromStr,
    time::Duration,
};

use mesh::name::Name;

use crate::{
    channel::{Caller, ChannelError, Roots, Server, Token},
    config::{BadSetting, Environment, duration},
    hbone,
};

/// A server that the proxy asks.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `https://host:port`.
    pub address: String,
    /// Who vouches for it.
    pub roots: Roots,
    /// Its name, where that is not the address's host.
    pub name: Option<String>,
    /// Who we say we are.
    pub caller: Caller,
}

/// TCP keepalive.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// After so much silence.
    pub idle: Duration,
    /// And again every.
    pub interval: Duration,
    /// So many times.
    pub retries: u32,
    /// `USER_TIMEOUT_ENABLED` (false): data that stays unacknowledged as long as all that ends the connection too.
    pub user_timeout: bool,
}

impl Upstream {
    /// The server as a channel can be made to.
    pub fn server(&self) -> Result<Server, ChannelError> {
        Server::new(&self.address, self.roots.clone(), self.name.as_deref())
    }
}

impl Keepalive {
    /// Sets it on a socket. One that takes no such option is as good as one that was never asked.
    pub fn apply(&self, socket: &impl AsFd) {
        let Self {
            idle,
            interval,
            retries,
            user_timeout,
        } = *self;
        sys::socket::keepalive(socket, idle, interval, retries).ok();
        if user_timeout {
            sys::socket::user_timeout(socket, idle + interval * retries).ok();
        }
    }
}

/// `SECRET_TTL` (24h): life of certificates.
pub fn ttl(env: &Environment) -> Result<Duration, BadSetting> {
    let want = "a length of time from 2s, such as 24h";
    env.read("SECRET_TTL", DAY, want, |text| {
        duration(text).filter(|ttl| *ttl >= SHORTEST_TTL)
    })
}

const DAY: Duration = Duration::from_secs(86_400);
/// Renewal at half of it has to leave time to ask.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

/// A number that is not 0.
pub fn positive<T: FromStr + PartialEq + From<u8>>(
    env: &Environment,
    name: &str,
    default: T,
) -> Result<T, BadSetting> {
    env.read(name, default, "a number above 0", |text| {
        text.parse().ok().filter(|number| *number != T::from(0))
    })
}

/// All addresses of this machine.
pub fn any(ipv6: bool, port: u16) -> SocketAddr {
    if ipv6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    }
}

/// An address and a port.
pub fn address(
    env: &Environment,
    name: &str,
    default: SocketAddr,
) -> Result<SocketAddr, BadSetting> {
    env.read(name, default, "an address and a port", |text| {
        text.parse().ok()
    })
}

/// Names, separated by commas.
pub fn list(text: &str) -> Vec<Name> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(Name::new)
        .collect()
}

/// A server by the variables that begin with `prefix`. Set and empty means none.
pub fn upstream(env: &Environment, prefix: &str, cluster: Name) -> Option<Upstream> {
    let address = env.text(&format!("{prefix}_ADDRESS"));
    let address = address.unwrap_or("https://ambit-control.ambit-system.svc:15012");
    let roots = format!("{prefix}_ROOT_CA");
    let roots = env.text_or(&roots, "./var/run/secrets/istio/root-cert.pem");
    let token = env.text_or("AUTH_TOKEN", "./var/run/secrets/tokens/istio-token");
    let headers = format!("{prefix}_HEADER_");
    let headers = env
        .prefixed(&headers)
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
    (!address.is_empty()).then(|| Upstream {
        address: address.to_owned(),
        roots: Roots::from_setting(roots),
        name: env
            .text(&format!("ALT_{prefix}_HOSTNAME"))
            .map(str::to_owned),
        caller: Caller {
            token: Some(Token::from_setting(token)),
            cluster: cluster.to_string(),
            headers: headers.collect(),
        },
    })
}

/// `HTTP2_STREAM_WINDOW_SIZE` (512Ki), `HTTP2_CONNECTION_WINDOW_SIZE` (50Mi), `HTTP2_FRAME_SIZE` (256Ki); `MAX_MEMORY`
/// (seven eighths of what the process may use), which is one for the whole process: to be read once.
pub fn tunnel(env: &Environment) -> Result<hbone::Settings, BadSetting> {
    let default = hbone::Settings::default();
    let size = |name, default| {
        env.read(
            name,
            default,
            "a size from 16Ki to 2Gi, such as 4Mi",
            |text| {
                let bytes = u32::try_from(crate::config::size(text)?).ok()?;
                (16 << 10..1 << 31).contains(&bytes).then_some(bytes)
            },
        )
    };
    Ok(hbone::Settings {
        stream_window: size("HTTP2_STREAM_WINDOW_SIZE", default.stream_window)?,
        connection_window: size("HTTP2_CONNECTION_WINDOW_SIZE", default.connection_window)?,
        // A frame's length has 24 bits (RFC 9113 §4.2).
        frame_size: size("HTTP2_FRAME_SIZE", default.frame_size)?.min((1 << 24) - 1),
        budget: Box::leak(Box::new(hbone::Budget::new(memory(env)?))),
        ..default
    })
}

fn memory(env: &Environment) -> Result<usize, BadSetting> {
    let most = crate::memory::limit().map_or(u64::MAX, |bytes| bytes / 8 * 7);
    let bytes = env.size("MAX_MEMORY", most)?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// A number of worker threads: a number, a percentage of the cores, or 0 for all of them.
pub fn threads(env: &Environment, name: &str, default: usize) -> Result<usize, BadSetting> {
    let want = "a number of threads, or a percentage of the cores such as 50%";
    env.read(name, default.min(MAX_THREADS), want, |text| {
        let count = match text.strip_suffix('%') {
            Some(percent) => cores()
                .checked_mul(percent.parse().ok()?)?
                .div_ceil(100)
                .max(1),
            None => text.parse().ok()?,
        };
        match count {
            0 => Some(cores()),
            count => (count <= MAX_THREADS).then_some(count),
        }
    })
}

/// Processors that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// More threads than any machine has processors are a slip.
const MAX_THREADS: usize = 1024;

/// `KEEPALIVE_ENABLED` (true), `KEEPALIVE_TIME` (180s), `KEEPALIVE_INTERVAL` (180s), `KEEPALIVE_RETRIES` (9),
/// `USER_TIMEOUT_ENABLED` (false).
pub fn keepalive(env: &Environment) -> Result<Option<Keepalive>, BadSetting> {
    let keepalive = Keepalive {
        idle: env.duration("KEEPALIVE_TIME", Duration::from_secs(180))?,
        interval: env.duration("KEEPALIVE_INTERVAL", Duration::from_secs(180))?,
        retries: env.number("KEEPALIVE_RETRIES", 9)?,
        user_timeout: env.boolean("USER_TIMEOUT_ENABLED", false)?,
    };
    Ok(env.boolean("KEEPALIVE_ENABLED", true)?.then_some(keepalive))
}

/// `CONNECTION_TERMINATION_DEADLINE` (5s, or derived from `TERMINATION_GRACE_PERIOD_SECONDS`).
pub fn drain(env: &Environment) -> Result<Duration, BadSetting> {
    // Some time has to be left to end in good order before the end comes by force.
    let derived = match env.number("TERMINATION_GRACE_PERIOD_SECONDS", 0_u64)? {
        0 => 5,
        grace @ 1..=10 => grace - 1,
        grace => grace - 5,
    };
    env.duration(
        "CONNECTION_TERMINATION_DEADLINE",
        Duration::from_secs(derived),
    )
}
