//! Virtual disks on the datastore.

use super::Site;
use super::files::is_missing;
use super::request::Request;
use super::task::{Watcher, busy};
use crate::{ErrorKind, Result};

/// The descriptor of a disk whose bytes lie in one flat file beside it. `size` is what the guest sees, in bytes.
pub(crate) fn descriptor(flat: &str, size: u64) -> String {
    let sectors = size.div_ceil(512);
    // As VMware counts them, and with its own limit.
    let cylinders = (sectors / (255 * 63)).clamp(1, 65535);
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         encoding=\"UTF-8\"\n\
         CID=fffffffe\n\
         parentCID=ffffffff\n\
         createType=\"vmfs\"\n\
         \n\
         # Extent description\n\
         RW {sectors} VMFS \"{flat}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.virtualHWVersion = \"13\"\n"
    )
}

/// The flat file of a disk: `a/disk.vmdk` → `a/disk-flat.vmdk`.
pub(crate) fn flat_of(disk: &str) -> String {
    format!("{}-flat.vmdk", disk.strip_suffix(".vmdk").unwrap_or(disk))
}

impl Site {
    /// Copies a disk, thin where the server can. What an earlier try left under the new name is removed first, so that
    /// a name must be ours. Progress counts `size` bytes.
    pub(crate) async fn copy_disk(&self, from: &str, to: &str, size: u64, watcher: &Watcher) -> Result<()> {
        let _turn = self.turn(watcher).await?;
        self.delete_disk(to, watcher).await?;
        let (place, from, to) = (self.place().await?, self.on_datastore(from), self.on_datastore(to));
        let watcher = watcher.clone().bytes(size);
        let what = format!("copying the disk {from} to {to}");
        let make = |thin: bool| {
            let (place, from, to) = (&place, &from, &to);
            self.client.task(&what, &watcher, move |content| {
                Request::new("CopyVirtualDisk_Task", &content.disks, |x| {
                    x.text("sourceName", from).reference("sourceDatacenter", &place.datacenter);
                    x.text("destName", to).reference("destDatacenter", &place.datacenter);
                    if thin {
                        x.typed("destSpec", "VirtualDiskSpec", |x| {
                            x.text("diskType", "thin").text("adapterType", "lsiLogic");
                        });
                    }
                    x.text("force", false);
                })
            })
        };
        match make(true).await {
            // A vCenter may not know what the copy is to be; its copy is as the source is.
            Err(e) if e.kind == ErrorKind::Unsupported => make(false).await.map(drop),
            copied => copied.map(drop),
        }
        .map_err(busy)
    }

    /// Deletes a disk with its bytes. None is well.
    pub(crate) async fn delete_disk(&self, name: &str, watcher: &Watcher) -> Result<()> {
        let (place, path) = (self.place().await?, self.on_datastore(name));
        let deleted = self
            .client
            .task(&format!("deleting the disk {path}"), watcher, |content| {
                Request::new("DeleteVirtualDisk_Task", &content.disks, |x| {
                    x.text("name", &path).reference("datacenter", &place.datacenter);
                })
            })
            .await;
        match deleted {
            Err(e) if is_missing(&e) => {
                // Bytes without a descriptor, as an interrupted copy leaves them.
                self.delete(&flat_of(name), watcher).await?;
                self.delete(name, watcher).await
            }
            deleted => deleted.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_flat_file_and_counts_sectors() {
        let text = descriptor("disk-flat.vmdk", 1 << 30);
        assert!(text.contains("RW 2097152 VMFS \"disk-flat.vmdk\"\n"), "{text}");
        assert!(text.contains("cylinders = \"130\""), "{text}");
        assert_eq!(flat_of("a/disk.vmdk"), "a/disk-flat.vmdk");
    }
}
