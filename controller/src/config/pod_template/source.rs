//! Go template syntax that the engine does not take, rewritten to what it does take, or refused as Go refuses it.
//!
//! Rewritten: `{{else with x}}`, which becomes a nested `with`; string and character literals with a backslash, of
//! which the engine knows only some escapes. Refused: a pipeline stage without a command, and `else with` or `else if`
//! of the other kind of block. Text, comments and everything else pass through unchanged, so that lines stay where they
//! are.

/// A template that Go would refuse: its line, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {message}")]
pub(super) struct SourceError {
    line: usize,
    message: &'static str,
}

/// A block that is open.
struct Block<'a> {
    keyword: &'a str,
    /// Blocks that an `else with` has opened inside it: each needs an `end`.
    nested: usize,
}

/// The template as the engine is to read it.
pub(super) fn for_engine(text: &str) -> Result<String, SourceError> {
    let mut out = String::with_capacity(text.len());
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let fail = |message| SourceError {
            line: 1 + line_breaks(&text[..text.len() - rest.len() + start]),
            message,
        };
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        if let Some(comment) = comment_length(inside) {
            out.push_str("{{");
            out.push_str(&inside[..comment]);
            rest = &inside[comment..];
            continue;
        }
        // What is not closed is the engine's to refuse.
        let Some(end) = action_length(inside) else {
            out.push_str("{{");
            out.push_str(inside);
            return Ok(out);
        };
        let action = rewritten_literals(&inside[..end]).map_err(fail)?;
        check_stages(&inside[..end]).map_err(fail)?;
        write_action(&mut out, &inside[..end], &action, &mut blocks).map_err(fail)?;
        rest = &inside[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

fn line_breaks(text: &str) -> usize {
    text.matches('\n').count()
}

/// What stands before the command: a trim marker and its space.
fn left_marker(action: &str) -> &str {
    let is_marked = action.starts_with('-') && action[1..].starts_with([' ', '\t', '\r', '\n']);
    if is_marked { &action[..2] } else { "" }
}

/// What stands behind the command: the same, mirrored.
fn right_marker(action: &str) -> &str {
    let is_marked = action
        .strip_suffix('-')
        .is_some_and(|before| before.ends_with([' ', '\t', '\r', '\n']));
    if is_marked { " -" } else { "" }
}

/// The length of a comment behind `{{`, its closing braces not included.
fn comment_length(inside: &str) -> Option<usize> {
    let start = left_marker(inside).len();
    inside[start..].strip_prefix("/*")?;
    inside[start..].find("*/").map(|end| start + end + 2)
}

/// The length of an action behind `{{`, up to its closing braces; braces in literals do not close.
fn action_length(inside: &str) -> Option<usize> {
    let mut at = 0;
    while at < inside.len() {
        if inside[at..].starts_with("}}") {
            return Some(at);
        }
        at += literal_length(&inside[at..])
            .or_else(|| inside[at..].chars().next().map(char::len_utf8))?;
    }
    None
}

/// The length of the literal that the text begins with, quotes included.
fn literal_length(text: &str) -> Option<usize> {
    let quote = text
        .chars()
        .next()
        .filter(|c| matches!(c, '"' | '`' | '\''))?;
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' if quote != '`' => drop(characters.next()),
            '\n' if quote != '`' => return None,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The action with its literals spelled so that the engine reads them as Go does.
fn rewritten_literals(action: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(action.len());
    let mut at = 0;
    while let Some(c) = action[at..].chars().next() {
        if let Some(length) = literal_length(&action[at..]) {
            write_literal(&mut out, &action[at..at + length])?;
            at += length;
        } else {
            out.push(c);
            at += c.len_utf8();
        }
    }
    Ok(out)
}

fn write_literal(out: &mut String, literal: &str) -> Result<(), &'static str> {
    let content = &literal[1..literal.len() - 1];
    if literal.starts_with('\'') {
        let value = unescaped(content, '\'').ok_or("malformed character constant")?;
        let mut characters = value.chars();
        let (Some(c), None) = (characters.next(), characters.next()) else {
            return Err("malformed character constant");
        };
        // To Go it is an integer too.
        out.push_str(&u32::from(c).to_string());
    } else if !content.contains('\\') {
        out.push_str(literal);
    } else {
        let is_raw = literal.starts_with('`');
        let value = if is_raw {
            Some(content.replace('\r', ""))
        } else {
            unescaped(content, '"')
        };
        out.push('"');
        for c in value.ok_or("invalid escape in a quoted string")?.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    Ok(())
}

/// What Go's `strconv.Unquote` makes of it; none for an unknown escape, and for bytes that are no text.
fn unescaped(content: &str, quote: char) -> Option<String> {
    let mut text = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            text.push(c);
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let simple = match escape {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' => Some('\\'),
            c if c == quote => Some(c),
            _ => None,
        };
        if let Some(c) = simple {
            text.push(c);
            continue;
        }
        let (digits, radix) = match escape {
            'x' => (rest.get(..2)?, 16),
            'u' => (rest.get(..4)?, 16),
            'U' => (rest.get(..8)?, 16),
            '0'..='7' => (
                content.get(content.len() - rest.len() - 1..content.len() - rest.len() + 2)?,
                8,
            ),
            _ => return None,
        };
        let value = digits
            .chars()
            .all(|digit| digit.is_digit(radix))
            .then(|| u32::from_str_radix(digits, radix).ok())??;
        rest = &rest[digits.len() - usize::from(radix == 8)..];
        text.push(char::from_u32(value).filter(|c| matches!(escape, 'u' | 'U') || c.is_ascii())?);
    }
    Some(text)
}

/// Each stage of a pipeline has a command.
fn check_stages(action: &str) -> Result<(), &'static str> {
    let action = action.strip_suffix(right_marker(action)).unwrap_or(action);
    let mut is_awaited = false;
    let mut at = 0;
    while let Some(c) = action[at..].chars().next() {
        match c {
            '|' | ')' if is_awaited => return Err("missing value for command"),
            '|' => is_awaited = true,
            c if c.is_whitespace() => {}
            _ => is_awaited = false,
        }
        at += literal_length(&action[at..]).unwrap_or(c.len_utf8());
    }
    if is_awaited {
        Err("missing value for command")
    } else {
        Ok(())
    }
}

/// Writes an action, `else with` unfolded; `original` tells what it is, `action` is what is written of it.
fn write_action<'a>(
    out: &mut String,
    original: &'a str,
    action: &str,
    blocks: &mut Vec<Block<'a>>,
) -> Result<(), &'static str> {
    let (left, right) = (left_marker(action), right_marker(action));
    let mut words = original[left.len()..]
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    let is_command = original[left.len()..]
        .trim_start()
        .starts_with(|c: char| c.is_alphabetic());
    let keyword = words.next().filter(|_| is_command).unwrap_or_default();
    match (keyword, blocks.last_mut()) {
        ("if" | "with" | "range" | "block" | "define", _) => {
            blocks.push(Block { keyword, nested: 0 });
        }
        ("else", Some(block)) => match words.next() {
            Some("with") if block.keyword == "with" => {
                block.nested += 1;
                let condition = action
                    .split_once("with")
                    .map_or("", |(_, condition)| condition);
                out.extend(["{{", left, " else }}{{ with", condition, "}}"]);
                return Ok(());
            }
            Some("with") => return Err("unexpected <with> in else"),
            Some("if") if block.keyword != "if" => return Err("unexpected <if> in else"),
            _ => {}
        },
        ("end", Some(block)) => {
            let nested = block.nested;
            blocks.pop();
            if nested > 0 {
                out.extend(["{{", left, " end }}"]);
                out.push_str(&"{{ end }}".repeat(nested - 1));
                out.extend(["{{ end", right, "}}"]);
                return Ok(());
            }
        }
        _ => {}
    }
    out.extend(["{{", action, "}}"]);
    Ok(())
}
