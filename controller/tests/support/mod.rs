//! The production controller in a world of its own: an in-memory cluster, virtual time, reports in a temporary
//! directory.
//!
//! The loop and the callback router are the real ones; what is here only stands for what is outside of the process.
//! Each test file uses a part of it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod cluster;
pub mod network;
pub mod replicas;
pub mod reports;
pub mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use controller::core::callback_key::{CallbackKey, KEY_BYTES, Purpose};
use controller::core::callback_token::CallbackTokens;
use controller::core::ids::ExecutionId;
use controller::ports::clock::{Clock, Monotonic};
use controller::ports::entropy::Entropy;
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

/// The tokens of job pods here.
pub fn tokens() -> CallbackTokens {
    let key = CallbackKey::new(vec![7; KEY_BYTES]).unwrap();
    CallbackTokens::new(key.for_purpose(Purpose::Callback))
}

/// Long beyond anything that a test waits for, in virtual time.
pub const PATIENCE: Duration = Duration::from_hours(2);

/// The execution id of that text.
pub fn id(text: &str) -> ExecutionId {
    ExecutionId::parse(text).unwrap()
}

/// The instant of that text.
pub fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Both clocks follow tokio's: paused, they stand still but for timers.
#[derive(Debug, Clone, Copy)]
pub struct TestClock {
    origin: Instant,
    origin_wall: Timestamp,
}

impl TestClock {
    /// Clocks that show `wall` now.
    pub fn at(wall: Timestamp) -> Self {
        Self {
            origin: Instant::now(),
            origin_wall: wall,
        }
    }

    /// When it began.
    pub fn origin(&self) -> Instant {
        self.origin
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        self.origin_wall + self.origin.elapsed()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::START.after(self.origin.elapsed())
    }

    async fn sleep_until(&self, deadline: Monotonic) {
        tokio::time::sleep_until(self.origin + deadline.since(Monotonic::START)).await;
    }
}

/// Counts.
#[derive(Debug, Clone, Default)]
pub struct TestEntropy(Arc<AtomicU64>);

impl Entropy for TestEntropy {
    fn uuid(&self) -> Uuid {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        uuid::Builder::from_random_bytes(u128::from(number).to_be_bytes()).into_uuid()
    }

    fn key(&self) -> [u8; 32] {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        [number.to_be_bytes()[7]; 32]
    }
}
