//! Random operations against plain models, over images that the reference mke2fs made; the reference `e2fsck -fn`
//! judges the result. Changes go straight to a memory device: what is tested is the structures, not the journal.

mod blocks;
mod names;
mod placement;
mod rig;
