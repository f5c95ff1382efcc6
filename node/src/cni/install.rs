//! The plugin's files on the host: put there, kept there, and taken away again. What a network configuration becomes is
//! decided in [`conflist`](super::conflist).

use std::{
    ffi::OsStr,
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{conflist, with};

/// What a single configuration is called while a list stands in its place.
const KEPT: &str = ".ambit";

/// What that list is called, behind the name of the single one: it comes next in order.
const LIST: &str = ".conflist";

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The plugin, to be copied.
    pub plugin: PathBuf,
    /// The host's directory of CNI binaries.
    pub binaries: PathBuf,
    /// The host's directory of network configurations.
    pub configurations: PathBuf,
    /// The directory in which plugin and agent meet.
    pub meeting: PathBuf,
}

/// Makes a directory, unless it is there.
///
/// # Errors
/// If it cannot be made.
pub fn directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).map_err(|error| about(path, &error))
}

/// Puts the plugin where the host looks for it, unless it is there already.
///
/// # Errors
/// If it cannot be read or written.
pub fn binary(places: &Places) -> io::Result<()> {
    let path = places.binaries.join(cni::TYPE);
    let plugin = fs::read(&places.plugin).map_err(|error| about(&places.plugin, &error))?;
    let is_there = fs::metadata(&path).is_ok_and(|found| {
        found.len() == plugin.len() as u64 && found.permissions().mode() & 0o111 == 0o111
    });
    if is_there && fs::read(&path).is_ok_and(|found| found == plugin) {
        return Ok(());
    }
    replace(&path, &plugin, 0o755)
}

/// Writes a file as a whole: who reads it sees all or nothing of the new one.
///
/// # Errors
/// With the file's name.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let write = || {
        // No name that a runtime takes for a configuration, and the same each time: nothing piles up.
        let name = path.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        let temporary = path.with_file_name(with(Path::new(&hidden), ".new"));
        let _ = fs::remove_file(&temporary);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| about(path, &error))
}

/// Has the plugin in the configuration that the runtime takes, the first in order. The file, if it was changed.
///
/// # Errors
/// If there is no configuration, in a sentence.
pub fn chain(directory: &Path) -> Result<Option<PathBuf>, String> {
    let said = |error: io::Error| error.to_string();
    let mut reason = "there is none".to_owned();
    for path in list(directory).map_err(said)? {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                reason = about(&path, &error).to_string();
                continue;
            }
        };
        let is_list = path.extension() == Some(OsStr::new("conflist"));
        let chained = if is_list {
            conflist::chain(&text)
        } else {
            conflist::convert(&text).and_then(|list| conflist::chain(&list))
        };
        return match chained {
            Ok(chained) if chained == text => Ok(None),
            Ok(chained) if is_list => edit(&path, &text, &chained).map_err(said),
            Ok(chained) => take_place(&path, &text, &chained).map_err(said),
            Err(fault) => {
                // As the runtime does.
                reason = format!("{}: {fault}", path.display());
                continue;
            }
        };
    }
    Err(format!(
        "{}: no network configuration: {reason}",
        directory.display()
    ))
}

/// Takes away all that was put on the host: the plugin out of the configurations first, so that none names a binary that
/// is gone.
///
/// # Errors
/// If something cannot be taken away; the rest may be.
pub fn restore(places: &Places) -> io::Result<()> {
    for path in list(&places.configurations)? {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if conflist::is_chained(&text)
            && let Ok(without) = conflist::unchain(&text)
        {
            give_back(&path, &text, &without)?;
        }
    }
    gone(&places.binaries.join(cni::TYPE))?;
    gone(&places.meeting.join(cni::SOCKET))?;
    gone(&places.meeting.join(cni::HOST_FILE))
}

/// The configurations of a directory, in the order in which a runtime takes them.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| about(directory, &error))? {
        let path = entry?.path();
        let kind = path.extension().and_then(OsStr::to_str);
        if matches!(kind, Some("conf" | "conflist" | "json")) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Changes a file, unless it has changed since it was read: then the next look does.
fn edit(path: &Path, read: &str, text: &str) -> io::Result<Option<PathBuf>> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    if fs::read_to_string(path)? != read {
        return Ok(None);
    }
    replace(path, text.as_bytes(), mode)?;
    Ok(Some(path.to_owned()))
}

/// Puts a list in the place of a single configuration, which is kept beside it.
fn take_place(path: &Path, read: &str, text: &str) -> io::Result<Option<PathBuf>> {
    let list = with(path, LIST);
    let mode = fs::metadata(path)?.mode() & 0o7777;
    replace(&list, text.as_bytes(), mode)?;
    if fs::read_to_string(path)? != read {
        return Ok(None);
    }
    fs::rename(path, with(path, KEPT))?;
    Ok(Some(list))
}

/// Undoes [`edit`] and [`take_place`].
fn give_back(path: &Path, read: &str, without: &str) -> io::Result<()> {
    let name = path.to_string_lossy();
    let single = name.strip_suffix(LIST).map(PathBuf::from);
    let kept = single.map(|single| (with(&single, KEPT), single));
    if let Some((kept, single)) = kept.filter(|(kept, _)| kept.is_file()) {
        let text = fs::read_to_string(&kept)?;
        if conflist::convert(&text).is_ok_and(|list| list == without) {
            // Somebody may have written it anew meanwhile.
            if single.exists() {
                gone(&kept)?;
            } else {
                fs::rename(&kept, &single)?;
            }
            return gone(path);
        }
        // Others have changed the list: it stays, without our plugin.
        gone(&kept)?;
    }
    edit(path, read, without).map(drop)
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(about(path, &error)),
        _ => Ok(()),
    }
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
