//! Every invariant broken on purpose: the check must say so, and say which.

use std::ops::Range;
use std::sync::Arc;

use super::delalloc::{Allocation, Ledger};
use super::extent_status::{EsEntry, EsStatus};
use super::{Mount, MountOptions};
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::Timestamp;
use crate::error::Result;
use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size};
use crate::namei::{Attributes, Context, Namei, What};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::Wanted;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A mount with one file in memory: blocks 0 to 3 written, 8 to 11 delayed, 16 to 19 unwritten.
fn rig(cluster: Option<u32>, options: &str) -> (Mount, Ino) {
    let mut o = Options::new(Size::Units(16384), [1; 16], [2; 16], NOW);
    o.block_size = Some(1024);
    if let Some(c) = cluster {
        o.cluster_size = Some(c);
        o.features.extend(FeatureEdit::parse_list("bigalloc").unwrap());
    }
    let device = MemoryDevice::new(16 << 20);
    Draft::new(Layout::new(&o).unwrap()).unwrap().write(&device, true).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(device);
    let mut m = Mount::new(device, MountOptions::parse(options).unwrap(), NOW).unwrap();
    let mut names = Context::new(m.volume(), NOW);
    let ino = m.with_edit(&mut names, |e, c| {
        Ok(Namei::new(e, c).make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))?.ino)
    });
    let ino = ino.unwrap();
    m.write(ino, 0, &[1; 4096]).unwrap();
    m.fsync(ino, false).unwrap();
    m.write(ino, 8192, &[2; 4096]).unwrap();
    m.fallocate(ino, 16384, 4096, false).unwrap();
    m.look_up_all(ino).unwrap();
    assert_eq!((m.check_state().unwrap(), m.check_cache().unwrap()), (None, None));
    (m, ino)
}

/// A block map that says the same of every block.
struct Says(bool);

impl Allocation for Says {
    fn any_mapped(&self, _: Range<u32>) -> Result<bool> {
        Ok(self.0)
    }
}

/// Counts that nobody else sees.
struct Nobody;

impl Ledger for Nobody {
    fn reserve(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
    fn release(&mut self, _: u32) {}
    fn consume(&mut self, _: u32) {}
}

fn entry(lblk: u32, len: u32, status: EsStatus, pblk: u64) -> EsEntry {
    EsEntry { lblk: Lblk(lblk), len, status, pblk: Fsblk(pblk) }
}

/// Break something in a fresh rig; the check says `expected`.
fn broken(cluster: Option<u32>, options: &str, expected: &str, damage: impl FnOnce(&mut Mount, Ino)) {
    let (mut m, ino) = rig(cluster, options);
    damage(&mut m, ino);
    let said = m.check_state().unwrap().unwrap_or_default();
    assert!(said.contains(expected), "expected '{expected}', the check says '{said}'");
}

const BOTH: [&str; 2] = ["rw", "rw,buffered_iomap"];

#[test]
fn one_what_is_reserved_is_what_is_needed() {
    for options in BOTH {
        // Reserved twice for the same blocks: a leak.
        broken(None, options, "a reservation leaks: 8 clusters reserved, 4 delayed", |m, ino| {
            let i = m.inodes.get_mut(&ino).unwrap();
            i.dd.insert_delayed(Lblk(8), 4, &Says(false), &mut m.space).unwrap();
        });
        // A cluster that is allocated needs no reservation.
        broken(Some(4096), options, "clusters reserved", |m, ino| {
            m.fallocate(ino, 40960, 1024, false).unwrap();
            m.write(ino, 41984, &[1; 1024]).unwrap();
            let i = m.inodes.get_mut(&ino).unwrap();
            i.dd.remove(41..42, &mut m.space);
            i.dd.insert_delayed(Lblk(41), 1, &Says(false), &mut m.space).unwrap();
        });
        // The file's and the filesystem's.
        broken(None, options, "files hold 4 reserved clusters, the filesystem counts 5", |m, _| m.space.dirty.add(1));
        broken(None, options, "files hold 4 reserved clusters, the filesystem counts 3", |m, _| m.space.dirty.add(-1));
    }
}

#[test]
fn two_what_is_delayed_is_dirty_and_what_is_dirty_has_a_place() {
    for options in BOTH {
        broken(None, options, "block 8 is delayed, and nothing dirty is over it", |m, ino| {
            m.inodes.get_mut(&ino).unwrap().cache.find_mut(2).unwrap().buffers[0].dirty = false;
        });
        broken(None, options, "block 8 is delayed, and nothing dirty is over it", |m, ino| {
            m.inodes.get_mut(&ino).unwrap().cache.find_mut(2).unwrap().dirty = false;
        });
        broken(None, options, "block 8 is delayed, and nothing dirty is over it", |m, ino| {
            m.inodes.get_mut(&ino).unwrap().cache.truncate(8192, 12288, 20480);
        });
        broken(None, options, "block 10 is dirty, and has neither a place nor a reservation", |m, ino| {
            m.inodes.get_mut(&ino).unwrap().dd.remove(10..11, &mut m.space);
        });
    }
}

#[test]
fn three_the_status_tree_says_what_the_map_says() {
    for options in BOTH {
        let place = |m: &Mount, ino: Ino, lblk: u32| {
            m.inode(ino).unwrap().dd.es().lookup(Lblk(lblk)).unwrap().clip(&(lblk..lblk + 1)).pblk.0
        };
        let lies = [
            (0, EsStatus::Written, 1, "the status tree says Written"),
            (0, EsStatus::Unwritten, 0, "the status tree says Unwritten"),
            (16, EsStatus::Written, 0, "the status tree says Written"),
            (4, EsStatus::Written, 0, "the status tree says Written"),
            (0, EsStatus::Hole, 0, "the status tree says Hole"),
        ];
        for (lblk, status, off, expected) in lies {
            broken(None, options, expected, |m, ino| {
                let pblk = place(m, ino, lblk) + off;
                m.inodes.get_mut(&ino).unwrap().dd.cache(entry(lblk, 1, status, pblk));
            });
        }
        // Delayed over what is allocated.
        broken(None, options, "2 delayed and not allocated", |m, ino| {
            let i = m.inodes.get_mut(&ino).unwrap();
            i.dd.insert_delayed(Lblk(0), 1, &Says(false), &mut m.space).unwrap();
            i.dd.insert_delayed(Lblk(30), 1, &Says(false), &mut m.space).unwrap();
            i.dd.remove(9..12, &mut m.space);
        });
    }
}

#[test]
fn four_a_pending_cluster_is_allocated_and_delayed() {
    for options in BOTH {
        // Delayed, and not allocated.
        broken(Some(4096), options, "0 clusters reserved", |m, ino| {
            let i = m.inodes.get_mut(&ino).unwrap();
            i.dd.remove(8..12, &mut m.space);
            i.dd.insert_delayed(Lblk(8), 4, &Says(true), &mut m.space).unwrap();
        });
        // The number is right, the clusters are not: one that is allocated holds the reservation of one that is not.
        broken(Some(4096), options, "pending {2}, delayed and allocated {10}", |m, ino| {
            m.fallocate(ino, 40960, 1024, false).unwrap();
            m.write(ino, 41984, &[1; 1024]).unwrap();
            let i = m.inodes.get_mut(&ino).unwrap();
            assert_eq!(i.dd.pending().collect::<Vec<_>>(), [10]);
            i.dd.remove(41..42, &mut Nobody);
            i.dd.insert_delayed(Lblk(41), 1, &Says(false), &mut Nobody).unwrap();
            i.dd.remove(8..12, &mut Nobody);
            i.dd.insert_delayed(Lblk(8), 4, &Says(true), &mut Nobody).unwrap();
        });
    }
}

#[test]
fn five_the_size_on_disk_covers_what_is_there() {
    for options in BOTH {
        broken(None, options, "the size on disk is 20481, the size 20480", |m, ino| {
            m.inodes.get_mut(&ino).unwrap().disksize += 1;
        });
    }
    // Data that no commit waits for.
    broken(None, "rw,nodelalloc,dioread_lock", "block 8 is written below the size on disk, and its data", |m, ino| {
        m.inodes.get_mut(&ino).unwrap().ordered = None;
    });
}

#[test]
fn six_what_is_reserved_can_be_allocated() {
    for options in BOTH {
        // Somebody takes all that is free, without asking what was promised.
        broken(None, options, "4 clusters are reserved, 3 are free", |m, ino| {
            let mut at = 100_000;
            while let left @ 4.. = m.space.free.exact() {
                let len = (left - 3).min(4096) as u32;
                let got = m.edit(|e| {
                    let mut o = e.open(ino)?;
                    let got = e.allocate_range(&mut o, Wanted { lblk: Lblk(at), len, unwritten: true, ahead: 0 })?;
                    e.put(&mut o)?;
                    Ok((got, o))
                });
                let (got, o) = got.unwrap();
                m.inodes.get_mut(&ino).unwrap().o = o;
                m.clear_es(ino).unwrap();
                at += got.len;
            }
        });
        broken(None, options, "clusters are free", |m, _| m.space.free.add(-7));
    }
}

#[test]
fn seven_what_is_clean_is_what_the_device_holds() {
    for options in BOTH {
        let (mut m, ino) = rig(None, options);
        m.inodes.get_mut(&ino).unwrap().cache.find_mut(0).unwrap().data[1500] ^= 1;
        assert_eq!(
            m.check_cache().unwrap().unwrap(),
            format!("inode {ino}: block 1: clean, and not what the device holds")
        );
        let (mut m, ino) = rig(None, options);
        m.sync().unwrap();
        let at = m.inode(ino).unwrap().dd.es().lookup(Lblk(9)).unwrap().clip(&(9..10)).pblk;
        m.write_block(false, at, &[9; 1024]).unwrap();
        assert_eq!(
            m.check_cache().unwrap().unwrap(),
            format!("inode {ino}: block 9: clean, and not what the device holds")
        );
    }
}

#[test]
fn behind_a_sync_nothing_is_left() {
    for options in BOTH {
        let (mut m, ino) = rig(None, options);
        assert_eq!(m.check_synced().unwrap(), "4 clusters are reserved behind a sync");
        m.sync().unwrap();
        assert_eq!(m.check_synced(), None);
        m.inodes.get_mut(&ino).unwrap().disksize -= 1;
        assert!(m.check_synced().unwrap().contains("the size on disk is 20479, the size 20480 behind a sync"));
        m.sync().unwrap();
        m.inodes.get_mut(&ino).unwrap().disksize += 1;
        m.inodes.get_mut(&ino).unwrap().cache.find_mut(2).unwrap().dirty = true;
        assert!(m.check_synced().unwrap().contains("page 2 is dirty behind a sync"));
    }
}

/// Memory is short: what is allocated and written is written back; what is delayed or unwritten stays dirty, and nothing is
/// allocated.
#[test]
fn writing_without_mapping_allocates_nothing() {
    for options in BOTH {
        let (mut m, ino) = rig(None, options);
        m.write(ino, 1024, &[5; 1024]).unwrap();
        m.write(ino, 17408, &[6; 1024]).unwrap();
        let (free, es) = (m.space.free.exact(), m.inode(ino).unwrap().dd.es().iter().collect::<Vec<_>>());
        m.write_without_mapping(ino, 0..u64::MAX).unwrap();
        assert_eq!(m.space.free.exact(), free, "{options}");
        assert_eq!(m.inode(ino).unwrap().dd.es().iter().collect::<Vec<_>>(), es, "{options}");
        let dirty = |lblk: usize| m.inode(ino).unwrap().cache.find(lblk as u64 / 4).unwrap().buffers[lblk % 4].dirty;
        assert_eq!([1, 8, 11, 17].map(dirty), [false, true, true, true], "{options}");
        assert_eq!((m.check_state().unwrap(), m.check_cache().unwrap()), (None, None), "{options}");
        m.sync().unwrap();
        assert_eq!((m.check_synced(), m.read(ino, 1024, 1).unwrap()), (None, vec![5]), "{options}");
    }
}
