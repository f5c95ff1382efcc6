//! Kernel settings under `/proc/sys`; those under `net` are the calling thread's network namespace's.

use std::{fs, io, path::PathBuf};

/// The value of a setting such as `net/ipv4/ip_forward`, without its line end.
pub fn read(key: &str) -> io::Result<String> {
    let mut value = fs::read_to_string(path(key)).map_err(|error| named(key, &error))?;
    value.truncate(value.trim_end().len());
    Ok(value)
}

/// Sets a setting such as `net/ipv4/ip_forward`.
pub fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value).map_err(|error| named(key, &error))
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn named(key: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("kernel setting {key}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, privileged};

    #[test]
    fn a_setting_is_its_namespaces_own() {
        if !privileged("a_setting_is_its_namespaces_own") {
            return;
        }
        const KEY: &str = "net/ipv4/ip_forward";
        let (one, two) = (Netns::create().unwrap(), Netns::create().unwrap());
        one.within(|| write(KEY, "1")).unwrap();
        two.within(|| write(KEY, "0")).unwrap();
        assert_eq!(one.within(|| read(KEY)).unwrap(), "1");
        assert_eq!(two.within(|| read(KEY)).unwrap(), "0");
    }

    #[test]
    fn an_unknown_setting_is_named_in_the_error() {
        let error = read("net/ipv4/no_such_thing").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("net/ipv4/no_such_thing"));
    }
}
