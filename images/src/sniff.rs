//! What a foreign file is, by its own bytes, decided once and before qemu sees it.
//!
//! A disk may be crafted. A qcow2 or a vmdk can name other files of this machine that would be read into the image, and
//! a raw disk can begin with the bytes of a qcow2. So the first bytes are read here, without qemu; what names another
//! file is refused; and the format found is said to qemu ever after, which never guesses.

mod qcow2;
mod vmdk;

use crate::qemu_img::Format;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How much of the beginning is looked at: enough for a vmdk's descriptor and the mark of an ISO image.
const HEAD: usize = 64 * 1024;
/// The largest disk that is taken in, in bytes: 64 TiB.
pub(crate) const LARGEST: u64 = 64 << 40;
const SECTOR: u64 = 512;

/// A foreign file that may be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// Its format.
    pub format: Format,
    /// What a guest would see, in bytes.
    pub virtual_size: u64,
}

/// Formats that are known and not taken: their mark, where it is, what they are, and the way out.
const REFUSED: &[(usize, &[u8], &str, &str)] = &[
    (0, b"vhdxfile", "a vhdx disk", CONVERT),
    (0, b"conectix", "a vhd disk", CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a vdi disk", CONVERT),
    (0, b"QED\0", "a qed disk", CONVERT),
    (0, b"COWD", "a vmdk of ESX 2", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels disk", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels disk", CONVERT),
    (0, b"LUKS\xba\xbe", "an encrypted disk", "copy it decrypted"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it with `gunzip`"),
    (0, b"\xfd7zXZ\0", "compressed by xz", "unpack it with `unxz`"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it with `unzstd`"),
    (0, b"BZh", "compressed by bzip2", "unpack it with `bunzip2`"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it and import the disk that is in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and import the disk that is in it"),
    (257, b"ustar", "an archive (tar or ova)", "unpack it with `tar -xf` and import the disk that is in it"),
    (0x8001, b"CD001", "an ISO image", "install a machine from it and capture that"),
];
const CONVERT: &str = "convert it with `qemu-img convert -O qcow2` where you trust it";

/// Reads what a foreign file is. What has no mark of any known format is taken for a raw disk.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) for a format that is not taken in, an encrypted disk, one that names other
/// files (the name is in the message) or is larger than 64 TiB; [`Corrupt`](crate::ErrorKind::Corrupt) for a header that
/// cannot be; [`NotFound`](crate::ErrorKind::NotFound).
pub fn sniff(path: &Path) -> Result<Sniffed> {
    let name = path.display();
    let failed = |e| Error::io(format!("reading {name}"), e);
    // Not to wait for the other end of a pipe.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Error::refused(format!("{name} is not a regular file; copy the disk into one")));
    }
    let image = Image { file, length: meta.len() };
    let sniffed = image.sniff().map_err(|fault| match fault {
        Fault::Io(e) => failed(e),
        Fault::Refused(why) => Error::refused(format!("{name} is not taken in: {why}")),
        Fault::Corrupt(why) => Error::corrupt(format!("{name} is damaged: {why}")),
    })?;
    match sniffed.virtual_size {
        0 => Err(Error::refused(format!("{name} is not taken in: it is an empty disk"))),
        size if size > LARGEST => Err(Error::refused(format!(
            "{name} is not taken in: its guest would see {size} bytes, at most {LARGEST}"
        ))),
        _ => Ok(sniffed),
    }
}

/// The name of the backing file in the header of a qcow2, as it stands there. Read without qemu.
pub(crate) fn backing(path: &Path) -> Result<Option<String>> {
    let name = path.display();
    let failed = |e| Error::io(format!("reading {name}"), e);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let image = Image { file, length };
    let head = image.bytes(0, 64).map_err(failed)?;
    let number = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    if !head.starts_with(b"QFI\xfb") {
        return Err(Error::corrupt(format!("{name} is no qcow2")));
    }
    match (number(8), head.get(16..20).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)) {
        (Some(0), _) => Ok(None),
        (Some(at), Some(length @ 1..=1023)) => {
            let bytes = image.bytes(at, length as usize).map_err(failed)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => Err(Error::corrupt(format!("the header of {name} cannot be"))),
    }
}

/// Why a file is not taken.
enum Fault {
    Io(io::Error),
    Refused(String),
    Corrupt(String),
}
impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
type Judged<T> = Result<T, Fault>;

struct Image {
    file: File,
    length: u64,
}

impl Image {
    fn sniff(&self) -> Judged<Sniffed> {
        let head = self.bytes(0, HEAD)?;
        if head.starts_with(b"QFI\xfb") {
            return qcow2::judge(self, &head);
        }
        if head.starts_with(b"KDMV") {
            return vmdk::judge(&head);
        }
        if head.starts_with(b"# Disk DescriptorFile") {
            return Err(vmdk::descriptor(&head));
        }
        for (at, mark, what, way_out) in REFUSED {
            if head.get(*at..at + mark.len()) == Some(mark) {
                return Err(Fault::Refused(format!("it is {what}; {way_out}")));
            }
        }
        let tail = self.bytes(self.length.saturating_sub(SECTOR), SECTOR as usize)?;
        for (mark, what) in [(b"conectix", "a vhd disk"), (b"koly\0\0\0\x04", "an Apple disk image")] {
            if tail.starts_with(mark) {
                return Err(Fault::Refused(format!("it is {what}; {CONVERT}")));
            }
        }
        if !self.length.is_multiple_of(SECTOR) {
            return Err(Fault::Refused(format!(
                "it has {} bytes, which is no whole number of sectors, and no mark of a known format; if it is a raw \
                 disk, pad it with `truncate -s %512`",
                self.length
            )));
        }
        Ok(Sniffed { format: Format::Raw, virtual_size: self.length })
    }
    /// So many bytes from there, or as many as there are.
    fn bytes(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// What a file says, made fit for a message.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}
