//! Go's `fmt.Sprintf` for arguments that are strings: what event messages and pod templates are formatted with.

use std::fmt::Write as _;

/// Widths, precisions and argument numbers above this are refused by Go, and so here.
const LARGEST_NUMBER: usize = 1_000_000;

/// The flags, width and precision of one verb.
#[derive(Debug, Default, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the format language"
)]
struct Directive {
    sharp: bool,
    zero: bool,
    plus: bool,
    minus: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's `fmt.Sprintf` for arguments that are all strings. It never fails: what does not fit becomes a marker such as
/// `%!d(string=x)` in the result. Once the result is longer than `max_bytes` the rest of the format is left out, so
/// that a short format cannot take up the memory of a long result; a single directive is as wide as it asks for, up to
/// Go's own limit of ten million.
#[must_use]
pub fn sprintf(format: &str, args: &[String], max_bytes: usize) -> String {
    let mut out = String::with_capacity(format.len());
    let mut state = Cursor {
        format,
        at: 0,
        argument: 0,
        reordered: false,
        good_index: true,
        arguments: args.len(),
    };
    while let Some(percent) = format[state.at..].find('%') {
        out.push_str(&format[state.at..state.at + percent]);
        state.at += percent + 1;
        if out.len() > max_bytes {
            return out;
        }
        if !write_directive(&mut out, &mut state, args) {
            state.at = format.len();
            break;
        }
    }
    out.push_str(&format[state.at..]);
    if !state.reordered && state.argument < args.len() {
        let extra: Vec<String> = args[state.argument..]
            .iter()
            .map(|arg| format!("string={arg}"))
            .collect();
        out.push_str("%!(EXTRA ");
        out.push_str(&extra.join(", "));
        out.push(')');
    }
    out
}

/// Where the format is read, and which argument is next.
struct Cursor<'a> {
    format: &'a str,
    at: usize,
    argument: usize,
    /// An explicit index was used: left-over arguments are no longer reported.
    reordered: bool,
    good_index: bool,
    arguments: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.format.as_bytes().get(self.at).copied()
    }

    fn flags(&mut self) -> Directive {
        let mut directive = Directive::default();
        while let Some(flag) = self.peek() {
            match flag {
                b'#' => directive.sharp = true,
                b'0' => directive.zero = true,
                b'+' => directive.plus = true,
                b'-' => directive.minus = true,
                b' ' => directive.space = true,
                _ => break,
            }
            self.at += 1;
        }
        directive
    }

    /// A decimal number up to `end`; one that is too large swallows everything up to there.
    fn number(&mut self, end: usize) -> Option<usize> {
        let mut number = None;
        while self.at < end
            && let Some(digit) = self.peek().filter(u8::is_ascii_digit)
        {
            let value = number.unwrap_or(0);
            if value > LARGEST_NUMBER {
                self.at = end;
                return None;
            }
            number = Some(value * 10 + usize::from(digit - b'0'));
            self.at += 1;
        }
        number
    }

    /// An explicit argument index `[n]`; true where there was one, good or (if it was closed) bad.
    fn index(&mut self) -> bool {
        if self.peek() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        let rest = &self.format[self.at..];
        let close = if rest.len() < 3 { None } else { rest.find(']') };
        let Some(close) = close.map(|offset| self.at + offset) else {
            self.good_index = false;
            self.at += 1;
            return false;
        };
        self.at += 1;
        let number = self.number(close);
        let is_whole = self.at == close;
        self.at = close + 1;
        match number {
            Some(number) if is_whole && (1..=self.arguments).contains(&number) => {
                self.argument = number - 1;
                true
            }
            _ => {
                self.good_index = false;
                number.is_some() && is_whole
            }
        }
    }

    /// A `*` takes an argument, which here is never a number.
    fn star(&mut self, out: &mut String, marker: &str) -> bool {
        if self.peek() != Some(b'*') {
            return false;
        }
        self.at += 1;
        self.argument += usize::from(self.argument < self.arguments);
        out.push_str(marker);
        true
    }

    fn verb(&mut self) -> Option<char> {
        let verb = self.format[self.at..].chars().next()?;
        self.at += verb.len_utf8();
        Some(verb)
    }
}

/// Writes one directive, the cursor standing behind its `%`; false where the format ends within it.
fn write_directive(out: &mut String, cursor: &mut Cursor<'_>, args: &[String]) -> bool {
    cursor.good_index = true;
    let mut directive = cursor.flags();
    let mut after_index = cursor.index();
    if cursor.star(out, "%!(BADWIDTH)") {
        after_index = false;
    } else {
        directive.width = cursor.number(cursor.format.len());
        cursor.good_index &= !(after_index && directive.width.is_some());
    }
    if cursor.peek() == Some(b'.') {
        cursor.at += 1;
        cursor.good_index &= !after_index;
        after_index = cursor.index();
        if cursor.star(out, "%!(BADPREC)") {
            after_index = false;
        } else {
            directive.precision = Some(cursor.number(cursor.format.len()).unwrap_or(0));
        }
    }
    if !after_index {
        cursor.index();
    }
    let Some(verb) = cursor.verb() else {
        out.push_str("%!(NOVERB)");
        return false;
    };
    match args.get(cursor.argument) {
        _ if verb == '%' => out.push('%'),
        _ if !cursor.good_index => marker(out, verb, "BADINDEX"),
        None => marker(out, verb, "MISSING"),
        Some(arg) => {
            write_argument(out, &directive, verb, arg);
            cursor.argument += 1;
        }
    }
    true
}

/// What does not fit a verb shows in the result: `%!d(MISSING)`.
fn marker(out: &mut String, verb: char, reason: &str) {
    out.extend(["%!", verb.encode_utf8(&mut [0; 4]), "(", reason, ")"]);
}

fn write_argument(out: &mut String, directive: &Directive, verb: char, arg: &str) {
    match verb {
        'v' if directive.sharp => {
            let plain = Directive {
                sharp: false,
                plus: false,
                ..directive.clone()
            };
            pad(out, &plain, &quoted(&plain, arg));
        }
        's' | 'v' => pad(out, directive, truncated(directive, arg)),
        'q' => pad(
            out,
            directive,
            &quoted(directive, truncated(directive, arg)),
        ),
        'x' => write_hexadecimal(out, directive, arg, false),
        'X' => write_hexadecimal(out, directive, arg, true),
        'T' => pad(out, directive, truncated(directive, "string")),
        _ => {
            out.extend(["%!", verb.encode_utf8(&mut [0; 4]), "(string="]);
            pad(out, directive, truncated(directive, arg));
            out.push(')');
        }
    }
}

/// The text cut to the precision, in characters.
fn truncated<'a>(directive: &Directive, text: &'a str) -> &'a str {
    match directive.precision {
        Some(precision) => text
            .char_indices()
            .nth(precision)
            .map_or(text, |(end, _)| &text[..end]),
        None => text,
    }
}

fn pad(out: &mut String, directive: &Directive, text: &str) {
    let missing = directive
        .width
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    if directive.minus {
        out.push_str(text);
        write_padding(out, directive, missing);
    } else {
        write_padding(out, directive, missing);
        out.push_str(text);
    }
}

/// Zeros only ever stand on the left.
fn write_padding(out: &mut String, directive: &Directive, count: usize) {
    let fill = if directive.zero && !directive.minus {
        '0'
    } else {
        ' '
    };
    out.extend(std::iter::repeat_n(fill, count));
}

/// The bytes in hexadecimal; the precision counts bytes.
fn write_hexadecimal(out: &mut String, directive: &Directive, text: &str, upper: bool) {
    let bytes = text.as_bytes();
    let bytes = &bytes[..directive
        .precision
        .map_or(bytes.len(), |precision| precision.min(bytes.len()))];
    let prefix = match (directive.sharp, upper) {
        (false, _) => "",
        (true, false) => "0x",
        (true, true) => "0X",
    };
    let mut written = String::with_capacity(bytes.len() * 2);
    for (index, byte) in bytes.iter().enumerate() {
        if directive.space && index > 0 {
            written.push(' ');
        }
        if directive.space || index == 0 {
            written.push_str(prefix);
        }
        // Writing to a string cannot fail.
        let _ = if upper {
            write!(written, "{byte:02X}")
        } else {
            write!(written, "{byte:02x}")
        };
    }
    pad(out, directive, &written);
}

/// Go's `%q`: in backquotes with `#` where that can be, else in double quotes, ASCII alone with `+`.
fn quoted(directive: &Directive, text: &str) -> String {
    let can_backquote =
        |c: char| c != '`' && c != '\u{feff}' && c != '\u{7f}' && (c >= ' ' || c == '\t');
    if directive.sharp && text.chars().all(can_backquote) {
        return format!("`{text}`");
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        write_escaped(&mut out, c, directive.plus);
    }
    out.push('"');
    out
}

fn write_escaped(out: &mut String, c: char, ascii_only: bool) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        ' '..='~' => out.push(c),
        c if c < ' ' || c == '\u{7f}' => hexadecimal(out, "\\x", 2, c),
        c if !ascii_only && is_printable(c) => out.push(c),
        c if u32::from(c) > 0xffff => hexadecimal(out, "\\U", 8, c),
        c => hexadecimal(out, "\\u", 4, c),
    }
}

fn hexadecimal(out: &mut String, prefix: &str, digits: usize, c: char) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{prefix}{:0digits$x}", u32::from(c));
}

/// Go's `strconv.IsPrint` as far as the standard library can tell: its own escaping knows the unassigned, private and
/// format characters, and escapes a combining mark only where it comes first.
fn is_printable(c: char) -> bool {
    !c.is_whitespace() && format!("a{c}").escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: &str, args: &[&str], expected: &str) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        assert_eq!(sprintf(format, &args, 1_000), expected, "{format} {args:?}");
    }

    #[test]
    fn verbs_follow_go() {
        check("%s %v %q", &["a", "b", "c\"d"], "a b \"c\\\"d\"");
        check("%d", &["x"], "%!d(string=x)");
        check(
            "%t|%c|%f|%p|%w",
            &["a", "b", "c", "d", "e"],
            "%!t(string=a)|%!c(string=b)|%!f(string=c)|%!p(string=d)|%!w(string=e)",
        );
        check(
            "%x|%X|% x|%#x|%# x",
            &["hi", "hi", "hi", "hi", "hi"],
            "6869|6869|68 69|0x6869|0x68 0x69",
        );
        check("%T", &["a"], "string");
        check("100%% of %s", &["x"], "100% of x");
        check("%é", &["x"], "%!é(string=x)");
        check("%!", &["x"], "%!!(string=x)");
        check(
            "%#v|%+v|%#q|%+q",
            &["a", "b", "c", "é☃😀"],
            "\"a\"|b|`c`|\"\\u00e9\\u2603\\U0001f600\"",
        );
        check("%q", &["\u{0}\t\u{7f}é\u{a0}"], "\"\\x00\\t\\x7fé\\u00a0\"");
    }

    #[test]
    fn flags_width_and_precision_follow_go() {
        check(
            "%5s|%-5s|%05s|%-05s|",
            &["a", "b", "c", "d"],
            "    a|b    |0000c|d    |",
        );
        check(
            "%.2s|%5.1s|%.s|%.0s|",
            &["abc", "xyz", "q", "r"],
            "ab|    x|||",
        );
        check("%.2q|%8q|", &["abc", "d"], "\"ab\"|     \"d\"|");
        check("%5d", &["x"], "%!d(string=    x)");
        check("%.1x|%6x|%-6x|", &["hi", "hi", "hi"], "68|  6869|6869  |");
        check("%5%", &["x"], "%%!(EXTRA string=x)");
        check("%10.3v|", &["zürich"], "       zür|");
        check("%5x|", &[""], "     |");
    }

    #[test]
    fn arguments_that_do_not_match_are_marked() {
        check("a %s b %s", &["1"], "a 1 b %!s(MISSING)");
        check("a %s", &["1", "2"], "a 1%!(EXTRA string=2)");
        check("none", &["1", "2"], "none%!(EXTRA string=1, string=2)");
        check("100%", &["x"], "100%!(NOVERB)%!(EXTRA string=x)");
        check("%5", &["x"], "%!(NOVERB)%!(EXTRA string=x)");
        check("%5.", &["x"], "%!(NOVERB)%!(EXTRA string=x)");
        check("%*s", &["5", "x"], "%!(BADWIDTH)x");
        check("%.*s", &["5", "x"], "%!(BADPREC)x");
        check("%9999999999s", &["x"], "%!(NOVERB)%!(EXTRA string=x)");
    }

    #[test]
    fn explicit_indexes_follow_go() {
        check("%[2]s %[1]s", &["a", "b"], "b a");
        check("%[1]s %s", &["a", "b"], "a b");
        check("%[3]s", &["a", "b"], "%!s(BADINDEX)");
        check("%[0]s", &["a"], "%!s(BADINDEX)");
        check("%[x]s", &["a"], "%!s(BADINDEX)");
        check("%[]s", &["a"], "%!s(BADINDEX)");
        check("%[1]5s", &["a"], "%!s(BADINDEX)");
        check("%[1].2s", &["abc"], "%!s(BADINDEX)");
        check("%5[1]s|", &["a"], "    a|");
        check("%.1[1]s|", &["abc"], "a|");
        check("%[1", &["a"], "%!(NOVERB)");
        check("%[", &["a"], "%!(NOVERB)");
        check("%[]", &["a"], "%!](BADINDEX)");
        check("%[1]", &["a"], "%!(NOVERB)");
        check("%[1]*s", &["a"], "%!(BADWIDTH)%!s(MISSING)");
    }

    #[test]
    fn a_result_stops_growing_after_its_limit() {
        let written = sprintf(&"%1000[1]s".repeat(100), &["a".to_owned()], 5_000);
        assert!((5_000..7_000).contains(&written.len()));
    }

    proptest::proptest! {
        #[test]
        fn any_format_is_answered_and_bounded(format in "[%\\[\\]0-9*.sdqxvT#+ é-]{0,40}", args in proptest::collection::vec(".{0,8}", 0..4)) {
            let written = sprintf(&format, &args, 1_000);
            proptest::prop_assert!(written.len() < 20_000_000);
        }
    }
}
