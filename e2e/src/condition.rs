//! Waiting until something is so, instead of for as long as it usually takes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

/// How often it is looked at: an execution of the tests takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks until `look` succeeds, and returns what it found.
///
/// # Errors
/// The last error of `look`, where it has not succeeded in time.
pub async fn await_condition<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("not within {within:?}: {what}"));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn what_comes_true_is_returned_and_what_does_not_is_told_with_the_last_reason() {
        let mut looks = 0;
        let found = await_condition("three looks", Duration::from_mins(1), async || {
            looks += 1;
            ensure!(looks == 3, "only {looks}");
            Ok(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
        let never = await_condition("never", Duration::ZERO, async || {
            Err::<(), _>(anyhow::anyhow!("the reason"))
        });
        let message = format!("{:#}", never.await.unwrap_err());
        assert!(
            message.contains("never") && message.ends_with("the reason"),
            "{message}"
        );
    }
}
