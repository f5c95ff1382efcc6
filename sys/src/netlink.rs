//! Netlink (RFC 3549): messages, nested attributes, and a socket that asks the kernel and collects its answers.
//!
//! Only framing: what links, routes and rules are made of is known to the modules above.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, send,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

/// The attribute of an extended acknowledgement that holds its text (NLMSGERR_ATTR_MSG).
const ATTR_MSG: u16 = 1;
mod message;

use message::HEADER;
pub use message::{Attributes, Malformed, Message, Reply, messages, u16_at, u32_at};

/// More than any one answer of the kernel (it cuts dumps at 32 KiB).
const BUFFER: usize = 1 << 18;
/// How often a dump is asked for again when the kernel says that something changed meanwhile.
const DUMP_ATTEMPTS: u32 = 8;
/// The kernel answers at once; this only keeps a defect from hanging the process.
const PATIENCE: i64 = 5;

/// The kernel's no, with its own words if it has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error number.
    pub errno: Errno,
    /// Which message of the batch it is about, from 0.
    pub at: usize,
    /// The extended acknowledgement's text; may be empty.
    pub text: String,
}

/// The error number behind an error of this crate, if the kernel gave one.
pub fn errno(error: &io::Error) -> Option<Errno> {
    let refused = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Refused>());
    refused
        .map(|refused| refused.errno)
        .or_else(|| error.raw_os_error().map(Errno::from_raw))
}

/// A socket to one subsystem of the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket to a subsystem, such as NETLINK_ROUTE.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        nix::sys::socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        // Acknowledgements of a large batch must fit. Without the privilege the default has to do.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20));
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            // Older kernels lack one or another: then errors have no words and dumps are not filtered.
            let _ = enable(&fd, option);
        }
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, message: &Message) -> io::Result<()> {
        self.batch(std::slice::from_ref(message), &[])
    }

    /// Sends messages in one datagram and waits until each is acknowledged, save those at positions `silent`, which the
    /// kernel does not answer.
    ///
    /// # Errors
    /// The first refusal as [`Refused`].
    pub fn batch(&mut self, batch: &[Message], silent: &[usize]) -> io::Result<()> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        for (at, message) in batch.iter().enumerate() {
            self.sequence += 1;
            let ack = if silent.contains(&at) {
                0
            } else {
                libc::NLM_F_ACK
            };
            message.encode(
                &mut bytes,
                (libc::NLM_F_REQUEST | ack) as u16,
                self.sequence,
            )?;
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut missing = batch.len() - silent.len();
        let mut refused: Option<Refused> = None;
        while missing > 0 {
            // A refused batch may go without the other acknowledgements. All there will be is there already:
            // the kernel works within send.
            let flags = if refused.is_some() {
                MsgFlags::MSG_DONTWAIT
            } else {
                MsgFlags::empty()
            };
            let replies = match self.receive(flags) {
                Err(error) if refused.is_some() && error.kind() == io::ErrorKind::WouldBlock => {
                    break;
                }
                replies => replies?,
            };
            for reply in replies {
                let in_batch = reply
                    .sequence
                    .checked_sub(first)
                    .filter(|at| (*at as usize) < batch.len());
                let Some(at) = in_batch else { continue };
                if i32::from(reply.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                missing = missing.saturating_sub(1);
                refused = refused.or(outcome(&reply, at as usize)?);
            }
        }
        refused.map_or(Ok(()), |refused| Err(refused.into()))
    }

    /// Asks for everything of a kind.
    pub fn dump(&mut self, message: &Message) -> io::Result<Vec<Reply>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = self.dump_once(message)? {
                return Ok(replies);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the kernel's tables change faster than they can be read",
        ))
    }

    /// As [`dump`](Self::dump), but nothing if the answer is torn by a change meanwhile.
    fn dump_once(&mut self, message: &Message) -> io::Result<Option<Vec<Reply>>> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        message.encode(
            &mut bytes,
            (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
            self.sequence,
        )?;
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            for reply in self.receive(MsgFlags::empty())? {
                if reply.sequence != self.sequence {
                    continue;
                }
                torn |= i32::from(reply.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(reply.kind) {
                    libc::NLMSG_NOOP => {}
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match outcome(&reply, 0)? {
                            Some(refused) => Err(refused.into()),
                            None => Ok((!torn).then_some(found)),
                        };
                    }
                    _ => found.push(reply),
                }
            }
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> io::Result<Vec<Reply>> {
        let bytes = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                // A signal: with a time limit the call is not restarted by itself.
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        Ok(messages(&self.buffer[..bytes])?)
    }
}

/// What NLMSG_ERROR or NLMSG_DONE says: nothing, or a refusal.
fn outcome(reply: &Reply, at: usize) -> Result<Option<Refused>, Malformed> {
    let code = match u32_at(&reply.body, 0) {
        Ok(code) => code.cast_signed(),
        // A DONE without a code is one that went well.
        Err(Malformed) if i32::from(reply.kind) == libc::NLMSG_DONE => 0,
        Err(Malformed) => return Err(Malformed),
    };
    if code == 0 {
        return Ok(None);
    }
    let with_words = i32::from(reply.flags) & libc::NLM_F_ACK_TLVS != 0;
    let text = with_words
        .then(|| words(reply))
        .flatten()
        .unwrap_or_default();
    Ok(Some(Refused {
        errno: Errno::from_raw(code.saturating_neg()),
        at,
        text,
    }))
}

/// The text of an extended acknowledgement.
fn words(reply: &Reply) -> Option<String> {
    let before = if i32::from(reply.kind) == libc::NLMSG_DONE {
        4
    } else if i32::from(reply.flags) & libc::NLM_F_CAPPED != 0 {
        4 + HEADER
    } else {
        4 + u32_at(&reply.body, 4).ok()? as usize
    };
    Attributes::after(before, &reply.body).ok()?.text(ATTR_MSG)
}

fn enable(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int and `on` is one, of the length given.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    Errno::result(code)?;
    Ok(())
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { errno, at, text } = self;
        f.write_str(errno.desc())?;
        if !text.is_empty() {
            write!(f, " ({text})")?;
        }
        if *at > 0 {
            write!(f, " at step {at}")
        } else {
            Ok(())
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(Self::from(refused.errno).kind(), refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_and_refuses_in_words() {
        let mut route = Socket::open(SockProtocol::NetlinkRoute).unwrap();
        let links = route
            .dump(&Message::new(libc::RTM_GETLINK, 0).raw(&[0; 16]))
            .unwrap();
        assert!(!links.is_empty());
        let unknown = Message::new(libc::RTM_GETROUTE, 0).raw(&[1; 12]);
        let error = route.request(&unknown).unwrap_err();
        assert!(errno(&error).is_some(), "{error:?}");
        assert!(
            route
                .dump(&Message::new(libc::RTM_GETLINK, 0).raw(&[0; 16]))
                .is_ok(),
            "usable after a refusal"
        );
    }
}
