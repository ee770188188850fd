//! The entries of a directory, as far as they can be read: a damaged block is told, and costs only what is in it.

use std::ops::ControlFlow;

use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::dirent;
use crate::format::inode::InodeFlags;
use crate::units::{Ino, Lblk};
use crate::volume::{Owner, Volume};

/// Name and inode.
pub(super) type Entry = (Vec<u8>, Ino);

/// What a directory holds.
#[derive(Default)]
pub(super) struct Listing {
    /// All but `.` and `..`, in disk order.
    pub entries: Vec<Entry>,
    /// Where `..` leads.
    pub parent: Option<Ino>,
    /// What could not be read.
    pub errors: Vec<Error>,
    dots: u32,
}

impl Listing {
    pub(super) fn read(volume: &Volume, owner: Owner<'_>) -> Self {
        let mut listing = Self::default();
        let read = volume.for_each_entry(owner, &mut |e| {
            listing.add(e.entry.name, e.entry.ino);
            Ok(ControlFlow::Continue(()))
        });
        if let Err(e) = read {
            if owner.inode.flags().contains(InodeFlags::INLINE_DATA) {
                listing.errors.push(e);
            } else {
                listing = Self::salvage(volume, owner, e);
            }
        }
        if listing.dots > 2 {
            let flaw = Flaw::Inconsistent { of: Structure::DirBlock, detail: "'.' or '..' is there twice" };
            listing.errors.push(Error::corrupt(flaw, Place::inode(owner.ino)));
        }
        listing
    }

    /// Block by block, entry by entry. An entry that leads nowhere is kept: it has a name to complain about.
    fn salvage(volume: &Volume, owner: Owner<'_>, first: Error) -> Self {
        let mut listing = Self::default();
        let blocks = owner.inode.size().div_ceil(volume.geometry().block_size.into());
        let Ok(extents) = volume.extents(owner) else {
            listing.errors.push(first);
            return listing;
        };
        for e in extents.iter().filter(|e| !e.unwritten) {
            for n in 0..e.len {
                let lblk = e.lblk.saturating_add(n);
                if u64::from(lblk.0) >= blocks {
                    break;
                }
                if let Err(e) = listing.block(volume, owner, lblk, e.pblk.saturating_add(n.into())) {
                    listing.errors.push(e);
                }
            }
        }
        listing
    }

    fn block(&mut self, volume: &Volume, owner: Owner<'_>, lblk: Lblk, block: crate::units::Fsblk) -> Result<()> {
        let (bytes, format) = volume.dir_block(owner, lblk, block)?;
        for entry in dirent::entries(&bytes, format) {
            let entry = entry.map_err(|e| e.at(Place::inode(owner.ino).in_lblk(lblk).in_block(block)))?;
            if entry.is_used() {
                self.add(entry.name, entry.ino);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8], ino: Ino) {
        if !dirent::is_dot_or_dotdot(name) {
            self.entries.push((name.to_vec(), ino));
            return;
        }
        self.dots = self.dots.saturating_add(1);
        if name == b".." && self.parent.is_none() {
            self.parent = Some(ino);
        }
    }
}
