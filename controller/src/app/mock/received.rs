//! What was accepted, as lines for a person: one for the request, and below it what a result becomes.

use std::fmt::Write as _;
use std::path::Path;

use super::samples::Exporter;
use crate::core::report;
use crate::runtime::mock::{Content, Received};

/// The lines of one request, or of one file of a form. The size is read from `directory`: it is what is stored.
pub(super) fn lines(
    time: &str,
    received: &Received,
    directory: &Path,
    exporter: &Exporter,
) -> Vec<String> {
    let Received {
        node,
        execution,
        content,
    } = received;
    let stored = |name: &str| {
        let path = directory.join(execution.as_str()).join(name);
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => format!("{} bytes", metadata.len()),
            Err(error) => format!("{error}"),
        };
        format!("{size} in {}", path.display())
    };
    let mut details = Vec::new();
    let (kind, what) = match content {
        Content::Result {
            stored_name,
            results,
        } => {
            details = exporter.details(execution, node, results);
            let samples = report::sample_count(results);
            let plural = if samples == 1 { "" } else { "s" };
            let what = format!("{samples} sample{plural}, {}", stored(stored_name));
            ("result", what)
        }
        Content::File { stored_name } => ("file", stored(stored_name)),
        Content::Event(event) => {
            let (event_type, reason) = (event.event_type(), &event.reason);
            ("event", format!("{event_type} {reason}: {}", event.note))
        }
    };
    let first = format!("{time} {kind:<7} of node {node}, execution {execution}: {what}");
    let indented = details.into_iter().map(|line| format!("          {line}"));
    ([first].into_iter().chain(indented))
        .map(|line| printable(&line))
        .collect()
}

/// One line that no sender can make into another, or into commands of the terminal.
pub(super) fn printable(line: &str) -> String {
    let mut printable = String::with_capacity(line.len());
    for character in line.chars() {
        if character.is_control() {
            let _ = write!(printable, "{}", character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event_message::parse_event;
    use crate::core::ids::ExecutionId;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = parse_event(br#"{"reason": "Odd", "message": "a\nb\u001b[2Jc \u00e9"}"#);
        let received = Received {
            node: "node-1".to_owned(),
            execution: ExecutionId::parse("202611232359").unwrap(),
            content: Content::Event(event.unwrap()),
        };
        let lines = lines(
            "23:59:01Z",
            &received,
            Path::new("/nowhere"),
            &Exporter::inferring(),
        );
        assert_eq!(
            lines,
            [
                "23:59:01Z event   of node node-1, execution 202611232359: Normal Odd: a\\nb\\u{1b}[2Jc é"
            ]
        );
    }
}
