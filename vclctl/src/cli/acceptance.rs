//! `acceptance`.

use super::OsWord;
use clap::Args;
use std::path::PathBuf;
use vcl_types::{ComputerName, ImageRef};

/// What is tried on what.
#[derive(Debug, Args)]
pub struct AcceptanceArguments {
    /// The operating system of the image.
    #[arg(value_enum, value_name = "OS")]
    pub os: OsWord,
    /// A computer that holds nothing. It is loaded, captured and given back.
    pub computer: ComputerName,
    /// The image to try it with; without a revision, its newest. It is not changed.
    #[arg(value_name = "IMAGE[@REV]")]
    pub image: ImageRef,
    /// Where the report goes: FILE.txt and FILE.json, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Keep the image that is captured, to look at it.
    #[arg(long)]
    pub keep: bool,
}
