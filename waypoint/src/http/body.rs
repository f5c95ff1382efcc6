//! What is behind the heads, as it moves: a piece is read when the other side has room for it, and kept nowhere.

mod download;
mod upload;

use http::{HeaderMap, header};

pub(super) use self::download::{Broken, Download};
pub(crate) use self::upload::Upload;
pub(super) use self::upload::{Failed, Source};

/// Takes from trailers what frames, routes or authorizes a message: there it would come too late (RFC 9110 §6.5.1).
fn trim(trailers: &mut HeaderMap) {
    const FORBIDDEN: [header::HeaderName; 10] = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::COOKIE,
    ];
    for name in FORBIDDEN {
        trailers.remove(name);
    }
}
