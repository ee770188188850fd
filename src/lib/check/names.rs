//! The names of one directory block, to see those that are there twice.

use crate::format::casefold;

/// Names so far, as hashes in an open table that is emptied by counting up.
#[derive(Default)]
pub(super) struct NameSet {
    /// Generation and index into `names`.
    slots: Vec<(u32, u32)>,
    generation: u32,
    /// Hash, start and end in `bytes`.
    names: Vec<(u32, u32, u32)>,
    bytes: Vec<u8>,
}

fn hash(name: &[u8]) -> u32 {
    let mut h = 0u64;
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        for (d, s) in word.iter_mut().zip(chunk) {
            *d = *s;
        }
        h = (h.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    ((h ^ (name.len() as u64)) >> 32) as u32 ^ h as u32
}

impl NameSet {
    /// Forget all names.
    pub(super) fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.slots.clear();
            self.generation = 1;
        }
        self.names.clear();
        self.bytes.clear();
    }

    /// Add a name; `false` where it is there already. `fold`: letter case does not count.
    pub(super) fn insert(&mut self, name: &[u8], fold: bool) -> bool {
        if fold {
            return self.insert_bytes(&casefold::key(name));
        }
        self.insert_bytes(name)
    }

    fn insert_bytes(&mut self, name: &[u8]) -> bool {
        if (self.names.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let h = hash(name);
        let mask = self.slots.len() - 1;
        let mut at = h as usize & mask;
        while let Some(&(generation, i)) = self.slots.get(at) {
            if generation != self.generation {
                break;
            }
            if let Some(&(other, from, to)) = self.names.get(i as usize)
                && other == h
                && self.bytes.get(from as usize..to as usize) == Some(name)
            {
                return false;
            }
            at = (at + 1) & mask;
        }
        let from = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        let index = self.names.len() as u32;
        self.names.push((h, from, self.bytes.len() as u32));
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = (self.generation, index);
        }
        true
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1024);
        self.slots.clear();
        self.slots.resize(size, (0, 0));
        if self.generation == 0 {
            self.generation = 1;
        }
        for (i, &(h, ..)) in self.names.iter().enumerate() {
            let mut at = h as usize & (size - 1);
            while self.slots.get(at).is_some_and(|s| s.0 == self.generation) {
                at = (at + 1) & (size - 1);
            }
            if let Some(slot) = self.slots.get_mut(at) {
                *slot = (self.generation, i as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_there_twice() {
        let mut set = NameSet::default();
        for round in 0..3 {
            set.clear();
            for i in 0..5000 {
                assert!(set.insert(format!("name{i}").as_bytes(), false), "{round} {i}");
            }
            assert!(!set.insert(b"name4711", false));
            assert!(set.insert(b"NAME4711", false));
        }
        set.clear();
        assert!(set.insert(b"Stra\xc3\x9fe", true));
        assert!(!set.insert(b"STRASSE", true));
    }
}
