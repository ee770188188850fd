//! Hard links: which file of the host an inode with several names became.
//!
//! The first thread that meets an inode makes the file; names that others meet meanwhile wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::hostdir::HostDir;
use super::walk::Node;
use crate::units::Ino;

/// A name that waits for the file to be there.
pub(super) struct Waiting<D> {
    pub node: Arc<Node<D>>,
    pub name: Vec<u8>,
}

enum State<D> {
    Making(Vec<Waiting<D>>),
    Made(Arc<HostDir>, Vec<u8>),
    Failed,
}

/// What to do with a name.
pub(super) enum Claim {
    /// Make the file, then call [`Links::made`] or [`Links::failed`].
    Make,
    /// Link to this one.
    Link(Arc<HostDir>, Vec<u8>),
    /// Somebody is making it and will link this name too.
    Wait,
    /// It could not be made.
    Failed,
}

/// All inodes with several names that were met.
pub(super) struct Links<D> {
    states: Mutex<HashMap<Ino, State<D>>>,
}

impl<D> Links<D> {
    pub(super) fn new() -> Self {
        Self { states: Mutex::default() }
    }

    /// A name of an inode is to be made. `node`, its directory, is held where the answer is [`Claim::Wait`]; without one there
    /// is nobody to wait for.
    pub(super) fn claim(&self, ino: Ino, node: Option<(&Arc<Node<D>>, &[u8])>) -> Claim {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        match states.entry(ino) {
            std::collections::hash_map::Entry::Vacant(e) => {
                e.insert(State::Making(Vec::new()));
                Claim::Make
            }
            std::collections::hash_map::Entry::Occupied(mut e) => match e.get_mut() {
                State::Making(waiting) => match node {
                    Some((node, name)) => {
                        node.hold();
                        waiting.push(Waiting { node: Arc::clone(node), name: name.to_vec() });
                        Claim::Wait
                    }
                    None => Claim::Failed,
                },
                State::Made(dir, name) => Claim::Link(Arc::clone(dir), name.clone()),
                State::Failed => Claim::Failed,
            },
        }
    }

    /// The file is there; returns who waited.
    pub(super) fn made(&self, ino: Ino, dir: Arc<HostDir>, name: Vec<u8>) -> Vec<Waiting<D>> {
        self.settle(ino, State::Made(dir, name))
    }

    /// The file could not be made; returns who waited.
    pub(super) fn failed(&self, ino: Ino) -> Vec<Waiting<D>> {
        self.settle(ino, State::Failed)
    }

    fn settle(&self, ino: Ino, state: State<D>) -> Vec<Waiting<D>> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        match states.insert(ino, state) {
            Some(State::Making(waiting)) => waiting,
            _ => Vec::new(),
        }
    }
}
