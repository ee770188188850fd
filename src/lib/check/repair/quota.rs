//! Pass 6: quota files and the orphan file, written anew.

use super::super::pass1::Found;
use super::super::problem::Problem as P;
use super::super::quota::Used;
use super::super::report::Finding;
use super::work::{Work, raw};
use crate::error::Result;
use crate::format::features::{Compat, RoCompat};
use crate::format::orphan_file;
use crate::format::quota::{Quota, QuotaKind};
use crate::units::{Ino, Lblk};
use crate::volume::edit::modify_block;
use crate::volume::{Edit, OpenInode, Wanted};

/// Largest quota file that is rewritten, bytes.
const MAX_FILE: usize = 256 << 20;

pub(super) fn mends(p: P) -> bool {
    matches!(p, P::UpdateQuotas | P::OrphanBlockDirty | P::OrphanFileWithoutJournal | P::OrphanFileCorrupted)
}

pub(super) fn mend(work: &mut Work<'_, '_>, found: &Found, f: &Finding) -> Result<()> {
    let Some(ino) = f.place.ino else { return super::journal::superblock(work, forget_orphans) };
    match f.problem {
        P::UpdateQuotas => {
            let sb = work.vol().superblock();
            let kinds = [
                (QuotaKind::User, sb.usr_quota_inum.get()),
                (QuotaKind::Group, sb.grp_quota_inum.get()),
                (QuotaKind::Project, sb.prj_quota_inum.get()),
            ];
            for ((kind, n), used) in kinds.into_iter().zip(&found.usage.0) {
                if n == ino.0 {
                    work.step(|edit| rewrite(edit, ino, kind, used))?;
                }
            }
            Ok(())
        }
        P::OrphanBlockDirty => {
            let Some(block) = f.place.block else { return Ok(()) };
            work.step(|edit| {
                let o = raw(edit.vol, ino)?;
                let seed = edit.seed(&o);
                modify_block(edit.store, block, |b| {
                    orphan_file::init_empty(b);
                    if let Some(seed) = seed {
                        orphan_file::stamp(b, seed, block);
                    }
                })
            })?;
            Ok(())
        }
        P::OrphanFileCorrupted => {
            // Without the file the filesystem keeps a list.
            super::journal::superblock(work, forget_orphans)?;
            super::inode::clear(work, ino)
        }
        _ => Ok(()),
    }
}

fn forget_orphans(sb: &mut crate::format::superblock::Superblock) {
    let mut f = sb.features();
    f.compat -= Compat::ORPHAN_FILE;
    f.ro_compat -= RoCompat::ORPHAN_PRESENT;
    sb.set_features(f);
    sb.orphan_file_inum.set(0);
}

/// A quota file with what is used; limits stay as far as they can be read.
fn rewrite(edit: &mut Edit<'_>, ino: Ino, kind: QuotaKind, used: &std::collections::BTreeMap<u32, Used>) -> Result<()> {
    let mut o: OpenInode = raw(edit.vol, ino)?;
    let old = edit.vol.reader(o.owner()).and_then(|r| r.read_all(MAX_FILE)).ok().flatten();
    let mut quota = old.as_deref().and_then(|b| Quota::decode(b, kind).ok()).unwrap_or_default();
    for e in quota.entries.values_mut() {
        (e.space, e.inodes) = (0, 0);
    }
    for (id, u) in used {
        let e = quota.entries.entry(*id).or_default();
        (e.space, e.inodes) = (u.bytes, u.inodes);
    }
    let size = edit.block_size();
    let mut bytes = quota.encode(kind);
    let len = bytes.len().max(old.map_or(0, |b| b.len()));
    bytes.resize(len.next_multiple_of(size), 0);
    for (n, block) in bytes.chunks(size).enumerate() {
        let wanted = Wanted { lblk: Lblk(n as u32), len: 1, unwritten: false, ahead: 0 };
        let at = edit.allocate_range(&mut o, wanted)?.pblk;
        edit.store.create(at, block.into())?;
    }
    o.inode.set_size(len as u64);
    edit.put(&mut o)
}
