//! Unix SOCK_SEQPACKET sockets that carry at most one descriptor a packet.
//!
//! Non-blocking and without a runtime: wrap them in what waits for readiness. What the packets mean is not known here.
#![allow(unsafe_code)]

use std::{
    fs, io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    ptr,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
        listen, socket, sockopt,
    },
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The most descriptors that one packet can carry (SCM_MAX_FD), so that none is ever cut off.
const MOST_FDS: usize = 253;

/// What accepts connections at a path.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One end of a connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// One packet's arrival.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the buffer. Zero means that the peer is gone.
    pub bytes: usize,
    /// The first descriptor that came along.
    pub fd: Option<OwnedFd>,
    /// How many more came along. They are closed.
    pub extra_fds: usize,
    /// The packet was longer than the buffer; its rest is lost.
    pub truncated: bool,
}

/// Who is at the other end, as of its connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
}

impl Listener {
    /// Listens at `path` with file permissions `mode` (such as `0o600`), in place of a socket that may be there.
    ///
    /// The file appears with its permissions already set, so nobody connects in between.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let made = new()?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = Path::new(&temporary);
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(made.as_raw_fd(), &UnixAddr::new(temporary)?)?;
        let placed = fs::set_permissions(temporary, fs::Permissions::from_mode(mode))
            .and_then(|()| Ok(listen(&made, Backlog::new(BACKLOG)?)?))
            .and_then(|()| fs::rename(temporary, path));
        if let Err(error) = placed {
            // The first error is the one to tell.
            let _ = fs::remove_file(temporary);
            return Err(error);
        }
        Ok(Self(made))
    }

    /// The next connection.
    ///
    /// # Errors
    /// `WouldBlock` if none waits.
    pub fn accept(&self) -> io::Result<Connection> {
        let fd = accept4(
            self.0.as_raw_fd(),
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        // SAFETY: accept4 has just made this descriptor and nobody else knows it.
        Ok(Connection(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Connection {
    /// Connects to the listener at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let made = new()?;
        connect(made.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(made))
    }

    /// Two ends of one connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, two) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(two)))
    }

    /// Sends one packet, and a descriptor with it if given.
    ///
    /// # Errors
    /// `InvalidInput` if the packet is empty: its receiver would take it for the end. `WouldBlock` if the receiver is slow.
    pub fn send(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if packet.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an empty packet means the end",
            ));
        }
        let fds = fd.map(|fd| [fd.as_raw_fd()]);
        let with: Vec<_> = fds
            .iter()
            .map(|fds| nix::sys::socket::ControlMessage::ScmRights(fds))
            .collect();
        let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        let parts = [io::IoSlice::new(packet)];
        nix::sys::socket::sendmsg::<UnixAddr>(self.0.as_raw_fd(), &parts, &with, flags, None)?;
        Ok(())
    }

    /// Receives one packet.
    ///
    /// # Errors
    /// `WouldBlock` if none is there.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // u64 keeps the alignment that control messages need.
        let mut control = [0_u64; (MOST_FDS * size_of::<RawFd>() + 64) / 8];
        // SAFETY: msghdr is plain data for which all zeros is a valid value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: header points to one iovec over `buffer` and to `control`, which both outlive the call.
        let got =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has just filled header, and `control` is alive.
        let mut fds = unsafe { owned(&header) }.into_iter();
        let fd = fds.next();
        Ok(Received {
            bytes,
            fd,
            extra_fds: fds.count(),
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        let found = getsockopt(&self.0, sockopt::PeerCredentials)?;
        Ok(Peer {
            pid: found.pid(),
            uid: found.uid(),
        })
    }
}

fn new() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags,
        None,
    )?)
}

/// Takes every descriptor that came with a message.
///
/// # Safety
/// `header` must be as recvmsg left it, its control buffer alive, and this must be the first call for it: each descriptor
/// is owned once.
unsafe fn owned(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: by the caller's promise; the CMSG_* walk stays within msg_controllen.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, so within the control buffer.
        let head = unsafe { ptr::read_unaligned(message) };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic on constants.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (head.cmsg_len as usize).saturating_sub(before) / size_of::<RawFd>();
            // SAFETY: the data of the message starts here and holds `count` descriptors.
            let data = unsafe { libc::CMSG_DATA(message) }.cast::<RawFd>();
            for at in 0..count {
                // SAFETY: at < count; the kernel has made the descriptor for this process, which owns it here first.
                fds.push(unsafe { OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(at))) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    fds
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    fn same(one: &OwnedFd, two: &File) -> bool {
        let one = File::from(one.try_clone().unwrap()).metadata().unwrap();
        let two = two.metadata().unwrap();
        (one.dev(), one.ino()) == (two.dev(), two.ino())
    }

    #[test]
    fn packets_keep_their_boundaries_and_their_descriptor() {
        let (one, two) = Connection::pair().unwrap();
        let file = File::open("/proc/self/status").unwrap();
        one.send(b"first", Some(file.as_fd())).unwrap();
        one.send(b"second", None).unwrap();
        let mut buffer = [0; 64];
        let first = two.receive(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..first.bytes], first.extra_fds, first.truncated),
            (&b"first"[..], 0, false)
        );
        assert!(same(&first.fd.unwrap(), &file));
        let second = two.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..second.bytes], b"second");
        assert!(second.fd.is_none());
        assert_eq!(
            two.receive(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(one);
        assert_eq!(two.receive(&mut buffer).unwrap().bytes, 0);
    }

    #[test]
    fn more_descriptors_than_one_are_closed_and_told() {
        let (one, two) = Connection::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let fds = [writer.as_raw_fd(), writer.as_raw_fd(), writer.as_raw_fd()];
        let with = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
        let flags = nix::sys::socket::MsgFlags::empty();
        nix::sys::socket::sendmsg::<UnixAddr>(
            one.as_raw_fd(),
            &[io::IoSlice::new(b"x")],
            &with,
            flags,
            None,
        )
        .unwrap();
        let received = two.receive(&mut [0; 8]).unwrap();
        assert_eq!((received.bytes, received.extra_fds), (1, 2));
        drop((received, writer));
        // Only when every copy of the writing end is closed does the reading end see the end.
        assert_eq!(io::read_to_string(reader).unwrap(), "");
    }

    #[test]
    fn a_long_packet_is_told_to_be_cut() {
        let (one, two) = Connection::pair().unwrap();
        one.send(b"0123456789", None).unwrap();
        let received = two.receive(&mut [0; 4]).unwrap();
        assert_eq!((received.bytes, received.truncated), (4, true));
        assert_eq!(
            one.send(b"", None).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_listener_takes_the_place_of_a_stale_file() {
        let directory = std::env::temp_dir().join(format!("seqpacket-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        drop(Listener::bind(&path, 0o600).unwrap());
        let listener = Listener::bind(&path, 0o600).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.peer().unwrap().pid, std::process::id().cast_signed());
        client.send(b"hello", None).unwrap();
        assert_eq!(server.receive(&mut [0; 8]).unwrap().bytes, 5);
        fs::remove_dir_all(directory).unwrap();
    }
}
