//! The connection to the API server.

use std::time::Duration;

use kube::{Client, Config, Error};

/// How long nothing may come on a connection that is waited on. A watch of which nothing changes tells so every minute; one
/// whose other end is gone without a word would go on for five otherwise, and nothing would be known of what changes.
const SILENCE: Duration = Duration::from_secs(75);

/// A client, by the service account of this pod.
pub async fn client() -> Result<Client, Error> {
    let mut config = Config::infer().await.map_err(Error::InferConfig)?;
    config.read_timeout = Some(SILENCE);
    // A connection that nobody waited on may have been silent.
    config.reset_reader_on_write = true;
    Client::try_from(config)
}
