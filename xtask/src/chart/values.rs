//! values.yaml as the source of what is said about values: the comment above a key is its description, in the table of
//! README.md and in values.schema.json.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::helm::read_yaml;
use super::schema;

/// Between these lines README.md has the table.
const TABLE_BEGIN: &str =
    "<!-- values: written by `cargo xtask chart --write` from values.yaml -->\n";
const TABLE_END: &str = "<!-- end of values -->\n";

/// Longer defaults are not repeated in the table.
const SHOWN_CHARS: usize = 60;

/// A key with a comment above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Documented {
    /// As in `image.tag`.
    pub path: String,
    pub description: String,
}

/// Keys and comments of a values.yaml.
#[derive(Debug, Default)]
pub(super) struct Comments {
    pub documented: Vec<Documented>,
    /// Every key in the order of the file.
    keys: Vec<String>,
}

impl Comments {
    /// Reads block mappings; what is inside lists, flow collections and block scalars is a value.
    pub(super) fn parse(text: &str) -> Self {
        let mut comments = Self::default();
        // The keys around the current line with their indentation.
        let mut around: Vec<(usize, String)> = Vec::new();
        let mut pending: Vec<&str> = Vec::new();
        let mut scalar_indent = None;
        for line in text.lines() {
            let content = line.trim_start();
            let indent = line.len() - content.len();
            if scalar_indent.is_some_and(|scalar| content.is_empty() || indent > scalar) {
                continue;
            }
            scalar_indent = None;
            if let Some(comment) = content.strip_prefix('#') {
                pending.push(comment.trim());
                continue;
            }
            let description = std::mem::take(&mut pending).join(" ");
            let Some((key, value)) = key_of(content) else {
                continue;
            };
            around.retain(|(outer, _)| *outer < indent);
            around.push((indent, key.to_owned()));
            if value.trim_start().starts_with(['|', '>']) {
                scalar_indent = Some(indent);
            }
            let path: Vec<&str> = around.iter().map(|(_, key)| key.as_str()).collect();
            let path = path.join(".");
            if !description.is_empty() {
                comments.documented.push(Documented {
                    path: path.clone(),
                    description,
                });
            }
            comments.keys.push(path);
        }
        comments
    }

    /// The rows of the table: documented keys below which none is documented.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Documented> {
        self.documented.iter().filter(|key| {
            !self
                .documented
                .iter()
                .any(|other| is_below(&other.path, &key.path))
        })
    }

    /// Keys with values that no row describes.
    fn undocumented(&self) -> Vec<&str> {
        let is_leaf = |key: &str| !self.keys.iter().any(|other| is_below(other, key));
        let is_described = |key: &str| {
            self.rows()
                .any(|row| row.path == key || is_below(key, &row.path))
        };
        (self.keys.iter().map(String::as_str))
            .filter(|key| is_leaf(key) && !is_described(key))
            .collect()
    }
}

/// Whether `path` is inside the mapping at `outer`.
pub(super) fn is_below(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn key_of(content: &str) -> Option<(&str, &str)> {
    let (key, value) = content.split_once(':')?;
    let is_key = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
        && !key.starts_with('-');
    (is_key && (value.is_empty() || value.starts_with(' '))).then_some((key, value))
}

/// The value at a path as in `image.tag`.
pub(super) fn at<'v>(values: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.')
        .try_fold(values, |value, key| value.get(key))
}

/// Every value is described, and README.md and the schema say what values.yaml says.
///
/// # Errors
/// With the keys without a description, or what is out of date.
pub(super) fn check(chart: &Path) -> Result<()> {
    let (comments, values) = read(chart)?;
    let undocumented = comments.undocumented();
    ensure!(
        undocumented.is_empty(),
        "values.yaml: no comment above {}",
        undocumented.join(", ")
    );
    for key in &comments.keys {
        ensure!(
            at(&values, key).is_some(),
            "values.yaml: {key} is read as a key and is none"
        );
    }
    let old = fs::read_to_string(chart.join("README.md"))?;
    ensure!(
        with_table(&old, &comments, &values)? == old,
        "the table of values in README.md is out of date; run cargo xtask chart --write"
    );
    let old = fs::read_to_string(chart.join(schema::FILE))?;
    ensure!(
        schema::with_descriptions(&old, &comments)? == old,
        "the descriptions in {} are out of date; run cargo xtask chart --write",
        schema::FILE
    );
    Ok(())
}

/// Writes the table of README.md and the descriptions of the schema.
///
/// # Errors
/// If a file cannot be read or written, or lacks the place for it.
pub(super) fn write(chart: &Path) -> Result<()> {
    let (comments, values) = read(chart)?;
    let readme = chart.join("README.md");
    let text = with_table(&fs::read_to_string(&readme)?, &comments, &values)?;
    fs::write(readme, text)?;
    let file = chart.join(schema::FILE);
    let text = schema::with_descriptions(&fs::read_to_string(&file)?, &comments)?;
    fs::write(file, text)?;
    Ok(())
}

fn read(chart: &Path) -> Result<(Comments, Value)> {
    let file = chart.join("values.yaml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok((Comments::parse(&text), read_yaml(&file)?))
}

fn with_table(readme: &str, comments: &Comments, values: &Value) -> Result<String> {
    let parts = readme
        .split_once(TABLE_BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(TABLE_END)?.1)));
    let Some((before, after)) = parts else {
        bail!("README.md has no place for the table of values");
    };
    let mut table = String::from("| value | default | description |\n|---|---|---|\n");
    for row in comments.rows() {
        let default = at(values, &row.path).map_or_else(String::new, shown);
        let description = row.description.replace('|', "\\|");
        let _ = writeln!(table, "| `{}` | {default} | {description} |", row.path);
    }
    Ok(format!("{before}{TABLE_BEGIN}{table}{TABLE_END}{after}"))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > SHOWN_CHARS {
        "see values.yaml".to_owned()
    } else {
        format!("`{}`", text.replace('|', "\\|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: &str = "# About it all.\n\n# One.\nimage:\n  # Its tag,\n  # in two lines.\n  tag: \"\"\n  script: |\n    # no comment\n    key: no key\n  list:\n    - name: no key either\nplain: {a: 1}\n";

    #[test]
    fn a_comment_belongs_to_the_key_below_it() {
        let comments = Comments::parse(VALUES);
        let keys = ["image", "image.tag", "image.script", "image.list", "plain"];
        assert_eq!(comments.keys, keys);
        let rows: Vec<_> = comments.rows().collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].description, "Its tag, in two lines.");
        let undocumented = ["image.script", "image.list", "plain"];
        assert_eq!(comments.undocumented(), undocumented);
    }

    #[test]
    fn the_table_replaces_the_one_that_is_there() {
        let comments = Comments::parse("# A | b.\na: 1\n");
        let values = serde_json::json!({"a": 1});
        let readme = format!("before\n{TABLE_BEGIN}old\n{TABLE_END}after\n");
        let new = with_table(&readme, &comments, &values).unwrap();
        assert!(new.contains("| `a` | `1` | A \\| b. |\n") && !new.contains("old"));
        assert_eq!(with_table(&new, &comments, &values).unwrap(), new);
        assert!(with_table("nothing", &comments, &values).is_err());
    }
}
