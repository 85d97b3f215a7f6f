//! The pages of the file server: lists of links in plain HTML, everything that came from outside escaped.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::ports::report_store::ReportMetadata;

/// Bytes of a path segment that stand for themselves (RFC 3986: unreserved).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The list of executions.
pub(super) fn executions<'a>(directories: impl Iterator<Item = &'a str>) -> String {
    let mut rows = String::new();
    for directory in directories {
        row(&mut rows, &format!("{directory}/"), "", "");
    }
    document("Reports", &rows)
}

/// The list of an execution's reports.
pub(super) fn reports<'a>(
    execution: &str,
    files: impl Iterator<Item = &'a ReportMetadata>,
) -> String {
    let mut rows = String::new();
    row(&mut rows, "../", "", "");
    for file in files {
        let modified = file.modified.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        row(&mut rows, &file.name, &modified, &file.length.to_string());
    }
    document(&format!("Reports of {execution}"), &rows)
}

fn row(rows: &mut String, name: &str, modified: &str, length: &str) {
    let href = match name.strip_suffix('/') {
        Some(directory) => format!("{}/", utf8_percent_encode(directory, PATH_SEGMENT)),
        None => utf8_percent_encode(name, PATH_SEGMENT).to_string(),
    };
    // `./` keeps a name with a colon from being read as a scheme. Writing to a string cannot fail.
    let _ = writeln!(
        rows,
        "<tr><td><a href=\"./{href}\">{}</a></td><td>{modified}</td><td>{length}</td></tr>",
        escaped(name)
    );
}

fn document(title: &str, rows: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>body{{font-family:sans-serif}}td{{padding:0 2em 0 0;white-space:pre}}td:last-child{{text-align:right}}</style>\n\
         <h1>{title}</h1>\n<table>\n{rows}</table>\n</html>\n"
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
