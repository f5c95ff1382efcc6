//! Whether tables of the older packet filter (`iptables-legacy`) hold rules. nftables does not see them.
//!
//! Only that: their rules are not read, and this crate writes none.
#![allow(unsafe_code)]

use std::{
    fs, io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

/// IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const GET_INFO: libc::c_int = 64;

/// A table of the older packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// For IPv6; otherwise for IPv4.
    pub v6: bool,
    /// Such as `nat`.
    pub name: String,
}

impl Table {
    /// The program whose tables these are.
    pub fn program(&self) -> &'static str {
        if self.v6 {
            "ip6tables-legacy"
        } else {
            "iptables-legacy"
        }
    }
}

/// struct ipt_getinfo.
#[repr(C)]
struct Information {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// The tables of the calling thread's network namespace that hold more than their empty chains.
pub fn tables_with_rules() -> io::Result<Vec<Table>> {
    let mut found = Vec::new();
    for (v6, file) in [(false, "ip_tables_names"), (true, "ip6_tables_names")] {
        // The kernel makes a table when it is first asked about, so only those that it lists are.
        let names = match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names?,
        };
        for name in names.lines() {
            let table = Table {
                v6,
                name: name.to_owned(),
            };
            if has_rules(&table)? {
                found.push(table);
            }
        }
    }
    Ok(found)
}

fn has_rules(table: &Table) -> io::Result<bool> {
    let (family, level) = if table.v6 {
        (AddressFamily::Inet6, libc::IPPROTO_IPV6)
    } else {
        (AddressFamily::Inet, libc::IPPROTO_IP)
    };
    let fd: OwnedFd = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    // SAFETY: Information is integers alone, for which all zeros is a valid value.
    let mut information: Information = unsafe { mem::zeroed() };
    let name = table.name.as_bytes();
    let length = name.len().min(information.name.len() - 1);
    information.name[..length].copy_from_slice(&name[..length]);
    let mut size = size_of::<Information>() as libc::socklen_t;
    // SAFETY: the option reads and writes an Information of `size` bytes; both outlive the call.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            GET_INFO,
            (&raw mut information).cast(),
            &raw mut size,
        )
    };
    Errno::result(code)?;
    // An empty table has one entry for each built-in chain and one at the end.
    Ok(information.entries > information.valid_hooks.count_ones() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, privileged};

    #[test]
    fn a_new_namespace_and_an_empty_table_have_no_rules() {
        if !privileged("a_new_namespace_and_an_empty_table_have_no_rules") {
            return;
        }
        Netns::create()
            .unwrap()
            .within(|| {
                assert_eq!(tables_with_rules()?, []);
                for v6 in [false, true] {
                    // Asking makes it, where the kernel has the older packet filter at all.
                    match has_rules(&Table {
                        v6,
                        name: "nat".into(),
                    }) {
                        Err(error) => println!("no older packet filter here: {error}"),
                        Ok(found) => assert!(!found),
                    }
                }
                assert_eq!(tables_with_rules()?, []);
                Ok(())
            })
            .unwrap();
    }
}
