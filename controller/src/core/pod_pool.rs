//! The pool: how many job pods may not have ended at any time, creates in flight included.
//!
//! A slot belongs to a holder (a node of the list, or a pod left from an earlier execution) and is released once,
//! however often its end is reported.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// Who holds a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotHolder {
    /// The node at this index of the list: its pod is being created or has not ended.
    Node(usize),
    /// A pod of an earlier execution that has not ended, by uid.
    PreviousPod(String),
}

/// A fixed number of slots and their holders.
#[derive(Debug, Clone)]
pub struct PodPool {
    size: NonZeroU32,
    holders: BTreeSet<SlotHolder>,
}

impl PodPool {
    /// An empty pool of `size` slots.
    #[must_use]
    pub fn new(size: NonZeroU32) -> Self {
        Self {
            size,
            holders: BTreeSet::new(),
        }
    }

    /// Slots in all.
    #[must_use]
    pub fn size(&self) -> NonZeroU32 {
        self.size
    }

    /// Slots taken; above `size` only by pods that an earlier execution left.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.holders.len()
    }

    /// Whether a node may take a slot.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.holders.len() < self.size.get() as usize
    }

    /// Takes a slot for the node; false, and nothing changes, where none is free or it holds one.
    pub fn take(&mut self, node: usize) -> bool {
        self.has_room() && self.holders.insert(SlotHolder::Node(node))
    }

    /// Counts a node whose pod may run already; it needs no free slot.
    pub fn resume(&mut self, node: usize) {
        self.holders.insert(SlotHolder::Node(node));
    }

    /// Counts a pod that an earlier execution left; it needs no free slot, because it runs already.
    pub fn adopt(&mut self, pod_uid: &str) {
        self.holders
            .insert(SlotHolder::PreviousPod(pod_uid.to_owned()));
    }

    /// Releases the holder's slot; false where it held none.
    pub fn release(&mut self, holder: &SlotHolder) -> bool {
        self.holders.remove(holder)
    }

    /// The nodes that hold a slot, in the order of the list.
    pub fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        self.holders.iter().filter_map(|holder| match holder {
            SlotHolder::Node(index) => Some(*index),
            SlotHolder::PreviousPod(_) => None,
        })
    }

    /// Whether it holds a slot.
    #[must_use]
    pub fn holds(&self, holder: &SlotHolder) -> bool {
        self.holders.contains(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_released_once() {
        let mut pool = PodPool::new(NonZeroU32::MIN);
        assert!(pool.take(7));
        assert!(!pool.take(8), "the pool is full");
        assert!(pool.release(&SlotHolder::Node(7)));
        assert!(
            !pool.release(&SlotHolder::Node(7)),
            "a second report of the end changes nothing"
        );
        assert!(pool.take(8));
        assert_eq!(pool.taken(), 1);
    }

    #[test]
    fn pods_of_an_earlier_execution_count_even_beyond_the_size() {
        let mut pool = PodPool::new(NonZeroU32::MIN);
        pool.adopt("uid-1");
        pool.adopt("uid-2");
        assert!(!pool.take(0));
        assert!(pool.release(&SlotHolder::PreviousPod("uid-1".to_owned())));
        assert!(!pool.take(0), "one of them still runs");
        assert!(pool.release(&SlotHolder::PreviousPod("uid-2".to_owned())));
        assert!(pool.take(0));
    }
}
