//! wip
use crate::Failure;
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}
pub(crate) fn main(_: Arguments) -> Result<(), Failure> {
    Ok(())
}
