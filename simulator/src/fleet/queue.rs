//! The one queue of due times of a whole fleet: what is due first comes first, and of what is due together, what was
//! queued first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

/// Names one entry, so that a later one can make it void.
pub(super) type Ticket = u64;

#[derive(Debug)]
struct Entry<T> {
    key: Reverse<(Instant, Ticket)>,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct DueQueue<T> {
    heap: BinaryHeap<Entry<T>>,
    next_ticket: Ticket,
}

impl<T> DueQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            next_ticket: 0,
        }
    }

    /// Queues `item` for `due`.
    pub(super) fn push(&mut self, due: Instant, item: T) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let key = Reverse((due, ticket));
        self.heap.push(Entry { key, item });
        ticket
    }

    /// When the first entry is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.key.0.0)
    }

    /// The first entry, where it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Ticket, T)> {
        if self.next_due()? > now {
            return None;
        }
        let entry = self.heap.pop()?;
        Some((entry.key.0.1, entry.item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn entries_come_in_the_order_of_their_due_times_then_of_queueing() {
        let mut queue = DueQueue::new();
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        for (ms, item) in [(20, "c"), (10, "a"), (10, "b"), (30, "d")] {
            queue.push(at(ms), item);
        }
        assert_eq!(queue.next_due(), Some(at(10)));
        let items: Vec<&str> = std::iter::from_fn(|| queue.pop_due(at(20)))
            .map(|(_, item)| item)
            .collect();
        assert_eq!(items, ["a", "b", "c"]);
        assert_eq!(queue.next_due(), Some(at(30)));
    }
}
