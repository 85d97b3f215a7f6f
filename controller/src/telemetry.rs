//! Logs: JSON lines on stderr in a cluster, readable text on a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged where `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info";

/// Begins to log. `filter` is the value of `RUST_LOG`.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init(filter: Option<&str>) -> anyhow::Result<()> {
    let filter: Targets = filter.unwrap_or(DEFAULT_FILTER).parse().map_err(|error| {
        anyhow::anyhow!(
            "environment variable RUST_LOG: {error}; want for example info,controller=debug"
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        let text = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false);
        registry.with(text).try_init()?;
    } else {
        let json = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(std::io::stderr);
        registry.with(json).try_init()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_with_the_variable_s_name() {
        let refused = init(Some("info,controller=loud")).unwrap_err().to_string();
        assert!(
            refused.starts_with("environment variable RUST_LOG: "),
            "{refused}"
        );
        assert!(refused.contains("want for example info,controller=debug"));
    }
}
