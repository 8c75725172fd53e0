//! How a revision's files are stored: a disk over its parent's, and the files beside the disks.

use crate::{ByteSize, Digest, ImageRef};
use serde::{Deserialize, Serialize};

/// What a disk that is stored as a delta lies on: a disk of its revision's parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Over {
    /// The parent.
    pub image: ImageRef,
    /// The file's name in the parent's directory.
    pub file: String,
    /// What the parent's disk shows a guest. Not the digest of its file: that changes when the parent is rewritten whole.
    pub content_digest: Digest,
}

impl Over {
    /// How the disk's header names the parent's file: relative to any directory of a revision, of a staging or of the
    /// trash, which all lie at one depth.
    #[must_use]
    pub fn reference(&self) -> String {
        let revision = self.image.revision.unwrap_or(0);
        format!("../../{}/{revision}/{}", self.image.name, self.file)
    }
}

/// A file of a revision that is no disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileRecord {
    /// The file's name in the revision's directory.
    pub file: String,
    /// How long it is.
    pub size: ByteSize,
    /// SHA-256 of it.
    pub digest: Digest,
}
