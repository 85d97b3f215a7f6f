//! Media types: the headers that carry them, read as Go's `mime.ParseMediaType` reads them (RFC 2045, RFC 2231), and
//! which file extension goes with which.

use std::collections::BTreeMap;

/// Extensions and what they stand for: the table of Go 1.26, which decided the names of the original's nameless
/// uploads.
const EXTENSIONS: [(&str, &str); 66] = [
    (".ai", "application/postscript"),
    (".apk", "application/vnd.android.package-archive"),
    (".apng", "image/apng"),
    (".avif", "image/avif"),
    (".bin", "application/octet-stream"),
    (".bmp", "image/bmp"),
    (".com", "application/octet-stream"),
    (".css", "text/css"),
    (".csv", "text/csv"),
    (".doc", "application/msword"),
    (
        ".docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    (".ehtml", "text/html"),
    (".eml", "message/rfc822"),
    (".eps", "application/postscript"),
    (".exe", "application/octet-stream"),
    (".flac", "audio/flac"),
    (".gif", "image/gif"),
    (".gz", "application/gzip"),
    (".htm", "text/html"),
    (".html", "text/html"),
    (".ico", "image/vnd.microsoft.icon"),
    (".ics", "text/calendar"),
    (".jfif", "image/jpeg"),
    (".jpeg", "image/jpeg"),
    (".jpg", "image/jpeg"),
    (".js", "text/javascript"),
    (".json", "application/json"),
    (".m4a", "audio/mp4"),
    (".mjs", "text/javascript"),
    (".mp3", "audio/mpeg"),
    (".mp4", "video/mp4"),
    (".oga", "audio/ogg"),
    (".ogg", "audio/ogg"),
    (".ogv", "video/ogg"),
    (".opus", "audio/ogg"),
    (".pdf", "application/pdf"),
    (".pjp", "image/jpeg"),
    (".pjpeg", "image/jpeg"),
    (".png", "image/png"),
    (".ppt", "application/vnd.ms-powerpoint"),
    (
        ".pptx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ),
    (".ps", "application/postscript"),
    (".rdf", "application/rdf+xml"),
    (".rtf", "application/rtf"),
    (".shtml", "text/html"),
    (".svg", "image/svg+xml"),
    (".text", "text/plain"),
    (".tif", "image/tiff"),
    (".tiff", "image/tiff"),
    (".txt", "text/plain"),
    (".vtt", "text/vtt"),
    (".wasm", "application/wasm"),
    (".wav", "audio/wav"),
    (".webm", "audio/webm"),
    (".webp", "image/webp"),
    (".xbl", "text/xml"),
    (".xbm", "image/x-xbitmap"),
    (".xht", "application/xhtml+xml"),
    (".xhtml", "application/xhtml+xml"),
    (".xls", "application/vnd.ms-excel"),
    (
        ".xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    (".xml", "text/xml"),
    (".xsl", "text/xml"),
    (".zip", "application/zip"),
    // Not Go's, but what reports often are.
    (".tar", "application/x-tar"),
    (".yaml", "application/yaml"),
];

/// Extensions of text that a browser may show; no media type of their own leads to them.
const PLAIN_TEXT_EXTENSIONS: [&str; 7] = [".log", ".md", ".conf", ".cfg", ".ini", ".jsonl", ".yml"];

/// The extension, with its dot, of a file of this type: the alphabetically first of several, but `.txt` for plain text.
#[must_use]
pub fn extension_of(media_type: &str) -> Option<&'static str> {
    if media_type == "text/plain" {
        return Some(".txt");
    }
    let fitting = EXTENSIONS.iter().filter(|(_, known)| *known == media_type);
    fitting.map(|(extension, _)| *extension).min()
}

/// The type to serve a file as, by its name; none where its extension says nothing. Text is UTF-8.
#[must_use]
pub fn content_type_of(file_name: &str) -> Option<String> {
    let extension = file_name
        .rfind('.')
        .map(|dot| file_name[dot..].to_ascii_lowercase())?;
    if PLAIN_TEXT_EXTENSIONS.contains(&extension.as_str()) {
        return Some("text/plain; charset=utf-8".to_owned());
    }
    let (_, media_type) = EXTENSIONS.iter().find(|(known, _)| *known == extension)?;
    let charset = if media_type.starts_with("text/") {
        "; charset=utf-8"
    } else {
        ""
    };
    Some(format!("{media_type}{charset}"))
}

/// A media type or disposition with its parameters, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// In lower case.
    pub essence: String,
    /// Values decoded; continuations joined.
    pub parameters: BTreeMap<String, String>,
}

/// Why a header is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaTypeError {
    /// There is no type.
    NoType,
    /// The parameters cannot be read; the type can.
    Parameters(String),
    /// A parameter is there twice with different values.
    Repeated,
}

/// Reads a `Content-Type` or `Content-Disposition`.
///
/// # Errors
/// Where Go has one.
pub fn parse_media_type(header: &str) -> Result<MediaType, MediaTypeError> {
    let base = header.split(';').next().unwrap_or_default();
    let essence = base.trim().to_lowercase();
    if !is_type_or_disposition(&essence) {
        return Err(MediaTypeError::NoType);
    }
    let mut rest = header[base.len()..].trim_start();
    let mut plain: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut starred: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while !rest.is_empty() {
        let Some((name, value, after)) = take_parameter(rest) else {
            if rest.trim() == ";" {
                break;
            }
            return Err(MediaTypeError::Parameters(essence));
        };
        let known = if name.contains('*') {
            &mut starred
        } else {
            &mut plain
        };
        if known.get(&name).is_some_and(|known| *known != value) {
            return Err(MediaTypeError::Repeated);
        }
        known.insert(name, value);
        rest = after.trim_start();
    }
    join_continuations(&starred, &mut plain);
    let parameters = plain
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    Ok(MediaType {
        essence,
        parameters: parameters.collect(),
    })
}

fn is_type_or_disposition(essence: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    match essence.split_once('/') {
        Some((kind, subtype)) => is_token(kind) && is_token(subtype),
        None => is_token(essence),
    }
}

/// RFC 2045: printable ASCII but space and the specials.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !is_special(byte)
}

fn is_special(byte: u8) -> bool {
    br#"()<>@,;:\"/[]?="#.contains(&byte)
}

/// `; name = value` and what follows.
fn take_parameter(text: &str) -> Option<(String, Vec<u8>, &str)> {
    let rest = text.strip_prefix(';')?.trim_start();
    let end = rest
        .bytes()
        .position(|byte| !is_token_byte(byte))
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, after) = take_value(rest)?;
    Some((name.to_lowercase(), value, after))
}

/// A token or a quoted string. A backslash escapes specials only: `"C:\dir\a.txt"` is meant as it stands.
fn take_value(text: &str) -> Option<(Vec<u8>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .bytes()
            .position(|byte| !is_token_byte(byte))
            .unwrap_or(text.len());
        return (end > 0).then(|| (text.as_bytes()[..end].to_vec(), &text[end..]));
    };
    let bytes = quoted.as_bytes();
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, bytes.get(at + 1)) {
            (b'"', _) => return Some((value, &quoted[at + 1..])),
            (b'\r' | b'\n', _) => return None,
            (b'\\', Some(escaped)) if is_special(*escaped) => {
                value.push(*escaped);
                at += 1;
            }
            _ => value.push(*byte),
        }
        at += 1;
    }
    None
}

/// RFC 2231: `name*` is encoded, `name*0`, `name*1*`, … are pieces.
fn join_continuations(starred: &BTreeMap<String, Vec<u8>>, plain: &mut BTreeMap<String, Vec<u8>>) {
    let bases: std::collections::BTreeSet<&str> = starred
        .keys()
        .filter_map(|name| name.split_once('*'))
        .map(|(base, _)| base)
        .collect();
    for base in bases {
        if let Some(value) = starred.get(&format!("{base}*")) {
            if let Some(decoded) = decode_extended(value) {
                plain.insert(base.to_owned(), decoded);
            }
            continue;
        }
        let mut joined: Option<Vec<u8>> = None;
        for index in 0_usize.. {
            let piece = if let Some(value) = starred.get(&format!("{base}*{index}")) {
                value.clone()
            } else if let Some(value) = starred.get(&format!("{base}*{index}*")) {
                let decoded = if index == 0 {
                    decode_extended(value)
                } else {
                    percent_decoded(value)
                };
                decoded.unwrap_or_default()
            } else {
                break;
            };
            joined.get_or_insert_default().extend(piece);
        }
        if let Some(value) = joined {
            plain.insert(base.to_owned(), value);
        }
    }
}

/// `charset'language'percent-encoded`
fn decode_extended(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = value.splitn(3, |byte| *byte == b'\'');
    let charset = parts.next()?.to_ascii_lowercase();
    let (_, encoded) = (parts.next()?, parts.next()?);
    matches!(charset.as_slice(), b"utf-8" | b"us-ascii").then(|| percent_decoded(encoded))?
}

/// None where a `%` is not followed by two hexadecimal digits.
fn percent_decoded(encoded: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: Option<&u8>| {
        byte.and_then(|byte| char::from(*byte).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut at = 0;
    while let Some(byte) = encoded.get(at) {
        if *byte == b'%' {
            decoded.push(digit(encoded.get(at + 1))? * 16 + digit(encoded.get(at + 2))?);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file_name(header: &str) -> Option<String> {
        parse_media_type(header).ok()?.parameters.remove("filename")
    }

    #[test]
    fn parameters_follow_go() {
        for (header, expected) in [
            ("attachment;filename=\"b.txt\"", Some("b.txt")),
            ("attachment; filename=b.txt", Some("b.txt")),
            ("ATTACHMENT; FileName = \"b c.txt\" ; x=y;", Some("b c.txt")),
            (
                "attachment; filename*=UTF-8''z%C3%BCrich.txt",
                Some("zürich.txt"),
            ),
            (
                "attachment; filename=\"a.txt\"; filename*=utf-8'en'b%20c.txt",
                Some("b c.txt"),
            ),
            ("attachment; filename*=latin1''a.txt", None),
            ("attachment; filename*=UTF-8''%zz", None),
            (
                "attachment; filename*0=\"a\"; filename*1=\"b.txt\"",
                Some("ab.txt"),
            ),
            (
                "attachment; filename*0*=UTF-8''%C3%BC; filename*1*=%20x; filename*2=.txt",
                Some("ü x.txt"),
            ),
            ("attachment; filename*1=b", None),
            (
                "attachment; filename=\"a\\\"b\\\\c\\d.txt\"",
                Some("a\"b\\c\\d.txt"),
            ),
            ("attachment; filename=\"unclosed", None),
            ("attachment; filename=a.txt; filename=b.txt", None),
            ("attachment; filename=a.txt; filename=a.txt", Some("a.txt")),
            ("attachment; filename=a b.txt", None),
            ("attachment; filename", None),
            ("attachment; filename=", None),
            ("attachment filename=a", None),
            ("; filename=a", None),
            ("", None),
            ("attachment; filename=\"zürich.txt\"", Some("zürich.txt")),
        ] {
            assert_eq!(file_name(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn a_type_is_known_even_where_its_parameters_are_not() {
        assert_eq!(
            parse_media_type("Text/Plain; charset"),
            Err(MediaTypeError::Parameters("text/plain".into()))
        );
        assert_eq!(
            parse_media_type("text/plain").unwrap().essence,
            "text/plain"
        );
        assert_eq!(parse_media_type("text/"), Err(MediaTypeError::NoType));
    }

    #[test]
    fn extensions_are_the_first_of_several() {
        for (media_type, extension) in [
            ("text/plain", Some(".txt")),
            ("application/json", Some(".json")),
            ("text/html", Some(".ehtml")),
            ("application/octet-stream", Some(".bin")),
            ("application/x-nope", None),
            ("application/x-www-form-urlencoded", None),
        ] {
            assert_eq!(extension_of(media_type), extension);
        }
        assert_eq!(
            content_type_of("node-a.LOG").as_deref(),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(
            content_type_of("node-a.json").as_deref(),
            Some("application/json")
        );
        assert_eq!(content_type_of("node"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_answered(header in "[a-z/;=\"\\\\*'%0-9üA-F ]{0,60}") {
            let _ = parse_media_type(&header);
        }
    }
}
