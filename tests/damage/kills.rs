//! Repairs that are cut off: after any number of writes a second run brings everything in order, and saves what the first one
//! would have saved.
//!
//! `EXT4KIT_KILLS=N` takes N points in time for every damaged image, of which `EXT4KIT_DAMAGE` says how many there are of
//! each kind; with `EXT4KIT_POWER=1` writes that were not flushed are lost or torn as well, as when the power fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use ext4kit::device::{MemoryDevice, RecordDevice, WriteLog};
use ext4kit::env::{Entropy, SeededEntropy};

use crate::{Bench, Tree, contents, entropy, images, look, mend, number, only, tree, wounds};

/// What a run that was not cut off leaves.
struct Whole {
    damaged: Vec<u8>,
    log: WriteLog,
    after: Tree,
}

impl Whole {
    /// `None` where the repair does not succeed, or writes nothing.
    fn new(damaged: Vec<u8>) -> Option<Self> {
        let device = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(damaged.clone())));
        mend(&device).ok()?;
        let log = device.take_log();
        let after = tree(&device.base().to_bytes())?;
        (!log.is_empty()).then_some(Self { damaged, log, after })
    }

    /// The device when the run was cut off after `end` events.
    fn cut(&self, end: usize, e: &mut SeededEntropy) -> Arc<MemoryDevice> {
        let device = MemoryDevice::from_bytes(self.damaged.clone());
        let power = number("EXT4KIT_POWER").is_some();
        let state = if power { self.log.sample(end, e) } else { self.log.prefix(end) };
        self.log.apply(&state, &device).unwrap();
        Arc::new(device)
    }

    /// What is wrong with a second run on `device`.
    fn again(&self, device: &Arc<MemoryDevice>, bench: &Bench) -> Result<(), String> {
        mend(device)?;
        let bytes = device.to_bytes();
        look(&bytes)?;
        let image = bench.dir.path().join("again");
        std::fs::write(&image, &bytes).unwrap();
        if let Some(answer) = bench.ask("-fn", &image).filter(|a| a.code != 0) {
            return Err(format!("reference {}: {}", answer.code, answer.complaint));
        }
        let again = tree(&bytes).ok_or("no tree")?;
        let mut have: BTreeMap<(u64, u32), usize> = BTreeMap::new();
        for c in contents(&again) {
            *have.entry(c).or_default() += 1;
        }
        let lost = contents(&self.after).into_iter().any(|c| match have.get_mut(&c) {
            Some(n) if *n > 0 => {
                *n -= 1;
                false
            }
            _ => true,
        });
        if lost { Err(format!("files lost: {}", self.names_not_in(&again))) } else { Ok(()) }
    }

    /// Paths of which another tree does not have the content under any name.
    fn names_not_in(&self, other: &Tree) -> String {
        let have = contents(other);
        let gone = self.after.paths.iter().filter(|(_, n)| n.1 > 0 && have.binary_search(&(n.1, n.2)).is_err());
        gone.map(|(p, _)| String::from_utf8_lossy(p)).collect::<Vec<_>>().join(" ")
    }
}

pub(crate) fn run(bench: &Bench) {
    if bench.e2fsck.is_none() {
        return;
    }
    let each = number("EXT4KIT_DAMAGE").unwrap_or(1);
    let points = number("EXT4KIT_KILLS").unwrap_or(1);
    let seed = number("EXT4KIT_DAMAGE_SEED").unwrap_or(7);
    let (name_only, case_only) = only();
    let (mut cuts, mut wrong) = (0u64, Vec::new());
    for (name, bytes) in images::all(&name_only) {
        let clinic = wounds::Clinic::new(&bytes);
        for case in (0..each).filter(|c| case_only.is_none_or(|o| o == *c)) {
            let mut e = entropy(seed, case, name);
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done = clinic.wound(&device, None, &mut e);
            let Some(whole) = Whole::new(device.to_bytes()) else { continue };
            for _ in 0..points {
                let end = e.next_u32() as usize % whole.log.len();
                let device = whole.cut(end, &mut e);
                let cut = device.to_bytes();
                cuts += 1;
                let Err(what) = whole.again(&device, bench) else { continue };
                println!("{name}:{case} cut at {end} of {}: WRONG {what}: {}", whole.log.len(), done.join("; "));
                if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                    std::fs::write(format!("{keep}/{name}-{seed}-{case}.damaged"), &whole.damaged).unwrap();
                    std::fs::write(format!("{keep}/{name}-{seed}-{case}.cut-{end}"), &cut).unwrap();
                }
                wrong.push(format!("{name}:{case}:{end} {what}"));
            }
        }
    }
    println!("{cuts} repairs cut off, {} not as they should be", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
