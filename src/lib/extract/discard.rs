//! Reading everything and keeping nothing: finds out whether all of an image can be read, and how fast.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::run::{Report, Run};
use super::walk::{Item, Node, Visitor, Walk};
use super::{Extractor, Source, data, entry};
use crate::error::{Error, Result};
use crate::format::inode::FileType;
use crate::units::Ino;

struct Reader<'r> {
    run: &'r Run<'r>,
    /// Files with several names that were read.
    linked: Mutex<HashSet<Ino>>,
}

pub(super) fn discard(extractor: &Extractor<'_>, sources: &[Source]) -> Result<Report> {
    let run = Run::new(extractor);
    let whole = matches!(sources, [one] if one.ino == Ino::ROOT);
    run.begin("reading", whole);
    let reader = Reader { run: &run, linked: Mutex::default() };
    for source in sources {
        let item = Item { name: b"", ino: source.ino, inode: &source.inode };
        let read = match source.inode.file_type() {
            Some(FileType::Directory) if run.options.recursive => {
                Walk::new(&run, &reader).tree(&source.path, source.ino, &source.inode);
                Ok(())
            }
            Some(FileType::Directory) => Err(Error::IsDirectory { path: source.path.clone() }),
            _ => reader.read(&item, || source.path.clone(), &mut Vec::new()),
        };
        if let Err(e) = read {
            run.fail(&source.path, e);
        }
    }
    drop(reader);
    run.finish()
}

impl Reader<'_> {
    fn read(&self, item: &Item<'_>, path: impl FnOnce() -> Vec<u8>, buf: &mut Vec<u8>) -> Result<()> {
        let run = self.run;
        if run.options.preserve.links
            && item.inode.core().links_count.get() > 1
            && !self.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(item.ino)
        {
            run.linked(path);
            return Ok(());
        }
        if run.options.preserve.xattrs {
            run.volume.xattrs(item.owner())?;
        }
        let kind = item.inode.file_type().unwrap_or(FileType::Regular);
        match kind {
            FileType::Regular => {
                let reader = data::open(run, item.owner())?;
                let bytes = data::for_each_piece(run, &reader, buf, |piece| {
                    touch(piece.bytes);
                    Ok::<(), Error>(())
                })?;
                run.count_bytes(bytes);
            }
            FileType::Symlink => {
                entry::symlink_target(run, item)?;
            }
            _ => {}
        }
        run.copied(kind, path);
        Ok(())
    }
}

/// Look at every byte, in a way that the compiler cannot leave out.
fn touch(bytes: &[u8]) {
    let mut sums = [0u64; 8];
    let (chunks, rest) = bytes.as_chunks::<64>();
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum ^= u64::from_le_bytes(*word);
        }
    }
    for b in rest {
        sums[0] ^= u64::from(*b);
    }
    std::hint::black_box(sums);
}

impl Visitor for Reader<'_> {
    type Dir = ();

    fn enter(&self, node: &Node<()>, _parent: Option<&()>) -> Result<()> {
        if self.run.options.preserve.xattrs
            && let Err(e) = self.run.volume.xattrs(node.owner())
        {
            self.run.fail(&node.path(), e);
        }
        Ok(())
    }

    fn entry(&self, _walk: &Walk<'_, Self>, dir: &Arc<Node<()>>, item: &Item<'_>, buf: &mut Vec<u8>) -> Result<()> {
        self.read(item, || dir.path_of(item.name), buf)
    }

    fn leave(&self, _node: &Node<()>, (): &()) -> Result<()> {
        Ok(())
    }
}
