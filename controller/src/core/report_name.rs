//! The names under which reports are stored: `<node>.json` for a result, `<node>-<name>` for a file.
//!
//! A job pod chooses `<name>`, so it is checked here, once, before anything is written: an accepted stored name is one
//! plain file name, and belongs to its node alone. Where the name comes from follows the original: the query, else
//! `Content-Disposition`, else a generated one.

use percent_encoding::percent_decode_str;

use super::media_type::{MediaTypeError, extension_of, parse_media_type};

/// Longest stored name, in bytes: what common file systems take.
const STORED_NAME_MAX_BYTES: usize = 255;

/// The extension of an upload whose type says nothing.
const UNKNOWN_EXTENSION: &str = ".file";

/// Why a file name is refused; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportNameError {
    /// There is nothing in it.
    #[error("file name: must not be empty")]
    Empty,
    /// It could leave the directory.
    #[error("file name: must be a plain name, without / and \\, not . or ..")]
    NotPlain,
    /// It could show as another name than it is.
    #[error("file name: must not contain control characters")]
    ControlCharacter,
    /// The file system would not take it.
    #[error("file name: must be at most {} bytes long, is {length}", STORED_NAME_MAX_BYTES - prefix)]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// What the node takes of the stored name, in bytes.
        prefix: usize,
    },
}

/// The stored name of a node's result.
#[must_use]
pub fn result_name(node: &str) -> String {
    format!("{node}.json")
}

/// The stored name of the log of a container of a node's job pod.
#[must_use]
pub fn log_name(node: &str, container: &str) -> String {
    format!("{node}-container-{container}.log")
}

/// The stored name of a node's file.
///
/// # Errors
/// Where `name` is no plain file name.
pub fn stored_file_name(node: &str, name: &str) -> Result<String, ReportNameError> {
    if name.trim().is_empty() {
        return Err(ReportNameError::Empty);
    }
    if name.contains(['/', '\\']) || matches!(name.trim(), "." | "..") {
        return Err(ReportNameError::NotPlain);
    }
    if name.chars().any(is_treacherous) {
        return Err(ReportNameError::ControlCharacter);
    }
    let stored = format!("{node}-{name}");
    if stored.len() > STORED_NAME_MAX_BYTES {
        return Err(ReportNameError::TooLong {
            length: name.len(),
            prefix: node.len() + 1,
        });
    }
    Ok(stored)
}

/// Control characters, line separators, and those that reorder the text around them (Unicode's `Bidi_Control`).
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whose a stored name of `node` would really be: another node's where it equals `<other>.json`, or begins `<other>-`
/// for a longer node name. `is_node` answers for the frozen node list of the execution; it is asked once for each
/// hyphen. `None`: the name is the node's own.
#[must_use]
pub fn other_owner<'a>(
    stored: &'a str,
    node: &str,
    is_node: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let as_result = stored.strip_suffix(".json").filter(|other| *other != node);
    let longer = stored
        .match_indices('-')
        .map(|(at, _)| &stored[..at])
        .filter(|other| other.len() > node.len());
    as_result
        .into_iter()
        .chain(longer)
        .find(|other| is_node(other))
}

/// Whose a stored name is: the node of the result, else the longest node name that it begins with.
#[must_use]
pub fn owner(stored: &str, is_node: impl Fn(&str) -> bool) -> Option<&str> {
    let as_result = stored.strip_suffix(".json");
    let as_file = stored.match_indices('-').map(|(at, _)| &stored[..at]).rev();
    as_result
        .into_iter()
        .chain(as_file)
        .find(|node| is_node(node))
}

/// The name of an uploaded body, not checked yet: that of the query, else that of `Content-Disposition`, else `uuid`
/// with an extension by `Content-Type`.
#[must_use]
pub fn body_file_name(
    query: Option<&str>,
    content_disposition: Option<&str>,
    content_type: Option<&str>,
    uuid: &str,
) -> String {
    query
        .and_then(name_in_query)
        .or_else(|| content_disposition.and_then(file_name_in_disposition))
        .unwrap_or_else(|| format!("{uuid}{}", extension_for(content_type)))
}

/// The file name of a part of a multipart body, not checked yet; `None` where the part is not a file (a form value, or
/// a part without a field name), which is left out.
#[must_use]
pub fn part_file_name(content_disposition: Option<&str>) -> Option<String> {
    let mut disposition = parse_media_type(content_disposition?).ok()?;
    let is_field = disposition.essence == "form-data"
        && disposition
            .parameters
            .get("name")
            .is_some_and(|name| !name.is_empty());
    if !is_field {
        return None;
    }
    disposition
        .parameters
        .remove("filename")
        .filter(|name| !name.is_empty())
}

/// The first `name` of a query, unless empty. Pairs that Go cannot read are passed over.
fn name_in_query(query: &str) -> Option<String> {
    let decode = |text: &str| {
        let is_escaped = text.split('%').skip(1).all(|after| {
            let digits = after.as_bytes();
            digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
        });
        is_escaped.then(|| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        })
    };
    query
        .split('&')
        .filter(|pair| !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        })
        .find(|(key, _)| key == "name")
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

fn file_name_in_disposition(header: &str) -> Option<String> {
    let mut disposition = parse_media_type(header).ok()?;
    disposition
        .parameters
        .remove("filename")
        .filter(|name| !name.is_empty())
}

fn extension_for(content_type: Option<&str>) -> &'static str {
    let extension = match parse_media_type(content_type.unwrap_or_default()) {
        Ok(media_type) => extension_of(&media_type.essence),
        // The original asks for plain text before it cares about parameters.
        Err(MediaTypeError::Parameters(essence)) if essence == "text/plain" => {
            extension_of(&essence)
        }
        Err(_) => None,
    };
    extension.unwrap_or(UNKNOWN_EXTENSION)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::{Component, Path};

    #[test]
    fn a_stored_name_belongs_to_the_result_s_node_else_to_the_longest() {
        let is_node = |name: &str| ["a", "a-b", "c"].contains(&name);
        for (stored, node) in [
            ("a.json", Some("a")),
            ("a-b.json", Some("a-b")),
            ("a-b-x.txt", Some("a-b")),
            ("a-x-y", Some("a")),
            ("c-a-b.json", Some("c")),
            ("d.json", None),
            ("_execution.json", None),
        ] {
            assert_eq!(owner(stored, is_node), node, "{stored}");
        }
    }

    #[test]
    fn the_query_wins_over_the_header_and_that_over_a_generated_name() {
        let header = Some("attachment;filename=\"b.txt\"");
        let name =
            |query, header, content_type| body_file_name(query, header, content_type, "uuid");
        assert_eq!(name(Some("name=a.txt"), header, None), "a.txt");
        assert_eq!(
            name(Some("x=1&name=my%20r%C3%A9port+1.txt&name=b"), header, None),
            "my réport 1.txt"
        );
        assert_eq!(name(Some("name="), header, None), "b.txt");
        assert_eq!(name(Some("name=%zz"), header, None), "b.txt");
        assert_eq!(
            name(
                Some("a;name=x"),
                None,
                Some("application/json; charset=utf-8")
            ),
            "uuid.json"
        );
        assert_eq!(
            name(
                None,
                Some("attachment; filename=\"\""),
                Some("text/plain; charset")
            ),
            "uuid.txt"
        );
        assert_eq!(
            name(
                None,
                Some("attachment; filename"),
                Some("application/x-nope")
            ),
            "uuid.file"
        );
        assert_eq!(name(None, None, None), "uuid.file");
    }

    #[test]
    fn only_form_fields_with_a_file_name_are_files() {
        assert_eq!(
            part_file_name(Some("form-data; name=\"file\"; filename=\"a\"")).as_deref(),
            Some("a")
        );
        assert_eq!(
            part_file_name(Some("form-data; name=\"f\"; filename=\"../../evil.txt\"")).as_deref(),
            Some("../../evil.txt")
        );
        for header in [
            None,
            Some("form-data; name=\"note\""),
            Some("form-data; name=\"file\"; filename=\"\""),
            Some("form-data; filename=\"a\""),
            Some("attachment; name=\"x\"; filename=\"a\""),
        ] {
            assert_eq!(part_file_name(header), None, "{header:?}");
        }
    }

    #[test]
    fn only_plain_names_are_stored() {
        assert_eq!(
            stored_file_name("node-a", "my réport.txt").as_deref(),
            Ok("node-a-my réport.txt")
        );
        assert_eq!(
            stored_file_name("node-a", "...").as_deref(),
            Ok("node-a-...")
        );
        for name in [
            "",
            " ",
            ".",
            "..",
            " .. ",
            "../../evil.txt",
            "sub/a.txt",
            "/etc/evil",
            "a\\b",
            "C:\\x",
            "a\0b",
            "a\nb",
            "a\u{202e}txt.exe",
            "a\u{2066}b",
            "a\u{7f}",
            "a\u{85}b",
        ] {
            assert!(stored_file_name("node-a", name).is_err(), "{name:?}");
        }
        assert!(stored_file_name("node-a", &"x".repeat(248)).is_ok());
        let error = stored_file_name("node-a", &"x".repeat(249))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "file name: must be at most 248 bytes long, is 249");
    }

    #[test]
    fn a_name_that_reads_as_another_nodes_is_that_nodes() {
        let nodes = ["a", "a-b", "a-b-c", "x"];
        let owner = |stored, node| other_owner(stored, node, |name| nodes.contains(&name));
        assert_eq!(owner("a-b.json", "a"), Some("a-b"));
        assert_eq!(owner("a-b-log.txt", "a"), Some("a-b"));
        assert_eq!(owner("a-b-c.json", "a-b"), Some("a-b-c"));
        assert_eq!(owner("a-z.json", "a"), None);
        assert_eq!(owner("a-b.json", "a-b"), None);
        assert_eq!(owner("a-b-x.txt", "a-b"), None);
        assert_eq!(owner("a-b.txt", "a"), None);
        assert_eq!(owner("a-x-1", "a"), None);
    }

    proptest::proptest! {
        #[test]
        fn an_accepted_name_never_leaves_the_directory(name in "(\\.|/|\\\\|[a-z]|\\PC|\\pC| ){0,12}") {
            if let Ok(stored) = stored_file_name("node-a", &name) {
                let components: Vec<Component<'_>> = Path::new(&stored).components().collect();
                proptest::prop_assert_eq!(components, vec![Component::Normal(stored.as_ref())]);
                proptest::prop_assert!(!stored.starts_with('_') && stored.len() <= STORED_NAME_MAX_BYTES);
            }
        }

        /// Two nodes of one list never write the same name: whoever is not refused owns it.
        #[test]
        fn no_two_nodes_own_one_name(
            nodes in proptest::collection::btree_set("[ab](-[ab]){0,2}(\\.json)?", 2..6),
            names in proptest::collection::vec("[ab](-[ab]){0,2}(\\.json)?(-[ab])?(\\.json|\\.txt)?", 1..8),
        ) {
            let mut owners = std::collections::BTreeMap::new();
            for node in &nodes {
                let files = names.iter().map(|name| stored_file_name(node, name).unwrap());
                for stored in files.chain([result_name(node)]) {
                    if other_owner(&stored, node, |other| nodes.contains(other)).is_none() {
                        let known = owners.insert(stored.clone(), node);
                        proptest::prop_assert!(known.is_none_or(|known| known == node), "{} of {}", stored, node);
                    }
                }
            }
        }
    }
}
