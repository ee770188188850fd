//! Images and hand-made logs for this room's tests.

use std::sync::Arc;

use super::Log;
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::Timestamp;
use crate::format::features::Incompat;
use crate::format::jbd2::{
    Commit, DescriptorBuilder, JournalCompat, JournalFormat, JournalIncompat, Revoke, V1Checksum, escape,
};
use crate::format::superblock::{self, Superblock};
use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size};
use crate::units::{Fsblk, Tid};
use crate::volume::{DirtyJournal, OpenOptions, Volume};

/// An empty filesystem of 16 MiB with 1 KiB blocks and these feature edits, and a journal of 1024 blocks.
pub(crate) fn image(features: &str) -> Arc<MemoryDevice> {
    let mut o = Options::new(Size::Device(16 << 20), [0x5a; 16], [0x33; 16], Timestamp::from_secs(1_700_000_000));
    o.block_size = Some(1024);
    o.features.extend(FeatureEdit::parse_list(features).unwrap());
    let device = Arc::new(MemoryDevice::new(16 << 20));
    Draft::new(Layout::new(&o).unwrap()).unwrap().write(&*device, true).unwrap();
    device
}

pub(crate) fn open(device: &Arc<MemoryDevice>) -> Volume {
    let options = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
    Volume::open(Arc::clone(device) as Arc<dyn BlockDevice>, &options).unwrap()
}

pub(crate) fn superblock(device: &dyn BlockDevice) -> Superblock {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes).unwrap();
    Superblock::decode(&bytes).unwrap()
}

/// A block full of `fill`; 0xc0 makes one that must be escaped.
pub(crate) fn data(fill: u8) -> Vec<u8> {
    let mut block = vec![fill; 1024];
    if fill == 0xc0 {
        block[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    }
    block
}

pub(crate) fn read(device: &dyn BlockDevice, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    device.read_at(block * 1024, &mut bytes).unwrap();
    bytes
}

/// Writes transactions into the journal of an image, block by block.
pub(crate) struct RawLog {
    pub(crate) log: Log,
    pub(crate) at: u32,
    pub(crate) tid: Tid,
    pub(crate) time: i64,
}

impl RawLog {
    /// A journal with these features, whose log starts at `start` with transaction `tid`; the filesystem asks for recovery.
    pub(crate) fn new(
        device: &Arc<MemoryDevice>,
        compat: JournalCompat,
        incompat: JournalIncompat,
        start: u32,
        tid: Tid,
    ) -> Self {
        let mut log = Log::open(&open(device), None).unwrap();
        log.update(|sb| {
            sb.set_features(compat, incompat | JournalIncompat::REVOKE);
            sb.set_log(Some(start), tid);
        })
        .unwrap();
        let mut sb = superblock(&**device);
        let mut f = sb.features();
        f.incompat |= Incompat::RECOVER;
        sb.set_features(f);
        device.write_at(superblock::OFFSET, &sb.encode()).unwrap();
        Self { log, at: start, tid, time: 1_700_000_100 }
    }

    pub(crate) fn format(&self) -> JournalFormat {
        self.log.format()
    }

    /// Append a block as it is.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u32 {
        let at = self.at;
        self.log.area().write(at, bytes).unwrap();
        self.at = self.log.forward(at, 1);
        at
    }

    /// Descriptors and data of the current transaction; its checksum so far.
    pub(crate) fn blocks(&mut self, writes: &[(u64, Vec<u8>)]) -> V1Checksum {
        let mut sum = V1Checksum::default();
        let uuid = self.log.superblock().uuid;
        for chunk in writes.chunks(self.format().tags_per_block()) {
            let mut d = DescriptorBuilder::new(self.format(), uuid, self.tid);
            let mut stored = Vec::new();
            for (home, data) in chunk {
                let mut data = data.clone();
                let escaped = escape(&mut data);
                assert!(d.push(Fsblk(*home), &data, escaped));
                stored.push(data);
            }
            for block in std::iter::once(d.finish()).chain(stored) {
                sum.update(&block);
                self.put(&block);
            }
        }
        sum
    }

    pub(crate) fn commit(&mut self, sum: V1Checksum) -> u32 {
        let v1 = (self.format().csum == crate::format::jbd2::JournalCsum::V1).then_some(sum);
        let block = Commit::new(self.tid, Timestamp::from_secs(self.time), v1).encode(self.format());
        let at = self.put(&block);
        self.tid = self.tid.next();
        self.time += 1;
        at
    }

    /// A whole transaction.
    pub(crate) fn transaction(&mut self, writes: &[(u64, Vec<u8>)], revokes: &[u64]) {
        if !revokes.is_empty() {
            let blocks = revokes.iter().map(|b| Fsblk(*b)).collect();
            let block = Revoke { sequence: self.tid, blocks }.encode(self.format());
            self.put(&block);
        }
        let sum = self.blocks(writes);
        self.commit(sum);
    }
}
