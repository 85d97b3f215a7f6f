//! Which paths a Rust source file names, and where: enough of the language for rules about who may know whom.
//!
//! Comments, strings and character literals name nothing. `use` trees are unfolded, imported names are followed to what
//! they stand for, `crate`, `self` and `super` are resolved by the file's place in its package. Macros are not expanded
//! and glob imports are not followed: a name that arrives only that way is not seen here, and then `cargo check` of the
//! package alone is what catches it.

use std::collections::BTreeMap;

/// A path as written somewhere in a file, resolved: `tokio::sync::mpsc`, `crate::adapter::kube_cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// The segments, from a crate name or `crate`.
    pub path: Vec<String>,
    /// Counted from 1.
    pub line: usize,
    /// Whether it stands in code that exists only under `cfg(test)`.
    pub in_tests: bool,
}

/// What the rules need to know about one file.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Every path of two segments or more, and every import.
    pub mentions: Vec<Mention>,
    /// Lines of `select!` that do not begin with `biased;`, and whether they are test code.
    pub unbiased_selects: Vec<(usize, bool)>,
    /// Child modules that exist only under `cfg(test)`: `#[cfg(test)] mod name;`.
    pub test_modules: Vec<String>,
}

/// Reads a file that is the module `module` of its crate (empty for the root).
pub(crate) fn read(text: &str, module: &[String]) -> Source {
    let mut tokens = tokens(text);
    let test_modules = mark_tests(&mut tokens);
    let mut reader = Reader {
        tokens: &tokens,
        module: module.to_vec(),
        imports: BTreeMap::new(),
        source: Source {
            test_modules,
            ..Source::default()
        },
    };
    reader.read_imports();
    reader.read_paths();
    reader.source.mentions.sort_by_key(|mention| mention.line);
    reader.source
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Word(String),
    PathSeparator,
    Sign(char),
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    line: usize,
    in_tests: bool,
}

impl Token {
    fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Words, `::` and other signs, without comments and literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let rest = &chars[at..];
        if let Some(length) = length_of_nothing(rest) {
            at += length;
        } else if is_word_start(rest[0]) {
            at += rest.iter().take_while(|c| is_word_part(**c)).count();
            let word: String = chars[start..at].iter().collect();
            found.push(Token {
                kind: Kind::Word(word),
                line,
                in_tests: false,
            });
        } else if rest.starts_with(&[':', ':']) {
            at += 2;
            found.push(Token {
                kind: Kind::PathSeparator,
                line,
                in_tests: false,
            });
        } else {
            at += 1;
            if !rest[0].is_whitespace() {
                found.push(Token {
                    kind: Kind::Sign(rest[0]),
                    line,
                    in_tests: false,
                });
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_word_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the comment, literal or lifetime at the start, where there is one.
fn length_of_nothing(rest: &[char]) -> Option<usize> {
    match rest {
        ['/', '/', ..] => Some(rest.iter().take_while(|c| **c != '\n').count()),
        ['/', '*', ..] => Some(length_of_block_comment(rest)),
        ['r', '#', c, ..] if is_word_start(*c) => Some(2), // a raw identifier: its name follows
        ['0'..='9', ..] => Some(rest.iter().take_while(|c| is_word_part(**c)).count()),
        ['"', ..] => Some(length_of_string(rest, 0)),
        ['b' | 'c', '"', ..] => Some(length_of_string(rest, 1)),
        ['r', '"' | '#', ..] => length_of_raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] => length_of_raw_string(rest, 2),
        ['b', '\'', ..] => Some(1 + length_of_character(&rest[1..])),
        ['\'', ..] => Some(length_of_character(rest)),
        _ => None,
    }
}

fn length_of_block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn length_of_string(rest: &[char], prefix: usize) -> usize {
    let mut at = prefix + 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn length_of_raw_string(rest: &[char], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + hashes;
    (rest.get(open) == Some(&'"')).then(|| {
        let close = (open + 1..rest.len()).find(|at| {
            rest[*at] == '"'
                && rest[at + 1..]
                    .iter()
                    .take(hashes)
                    .filter(|c| **c == '#')
                    .count()
                    == hashes
        });
        close.map_or(rest.len(), |close| close + 1 + hashes)
    })
}

/// A character literal, or a lifetime: both name nothing.
fn length_of_character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => 3 + tail.iter().take_while(|c| **c != '\'').count() + 1,
        ['\'', _, '\'', ..] => 3,
        _ => 1 + rest[1..].iter().take_while(|c| is_word_part(**c)).count(),
    }
}

/// Marks the tokens of items under `#[cfg(test)]`; returns the names of such modules that live in files of their own.
fn mark_tests(tokens: &mut [Token]) -> Vec<String> {
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some((attribute_end, inner)) = attribute(tokens, at) else {
            at += 1;
            continue;
        };
        if !is_test_attribute(&tokens[at..attribute_end]) {
            at = attribute_end;
            continue;
        }
        let end = if inner {
            tokens.len()
        } else {
            item_end(tokens, attribute_end)
        };
        if let [first, name, semicolon] = &tokens[attribute_end..end.max(attribute_end)]
            && first.word() == Some("mod")
            && semicolon.is(';')
        {
            modules.extend(name.word().map(str::to_owned));
        }
        for token in &mut tokens[at..end] {
            token.in_tests = true;
        }
        at = end;
    }
    modules
}

/// The end of the attribute that begins at `at`, and whether it is an inner one (`#![…]`).
fn attribute(tokens: &[Token], at: usize) -> Option<(usize, bool)> {
    let inner = tokens.get(at + 1)?.is('!');
    let open = at + 1 + usize::from(inner);
    (tokens[at].is('#') && tokens.get(open)?.is('[')).then(|| (after_matching(tokens, open), inner))
}

/// `cfg(test)` and what requires it; not `cfg(any(test, …))`, which also exists without.
fn is_test_attribute(attribute: &[Token]) -> bool {
    let has = |word| attribute.iter().any(|token| token.word() == Some(word));
    has("cfg") && has("test") && !has("any") && !has("not")
}

/// The end of the item at `at`: after its block, or its semicolon.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while let Some((end, _)) = tokens.get(at).and_then(|_| attribute(tokens, at)) {
        at = end;
    }
    let mut is_import = false;
    while at < tokens.len() {
        let token = &tokens[at];
        is_import |=
            token.word() == Some("use") && !tokens.get(at + 1).is_some_and(|next| next.is('<'));
        if token.is(';') {
            return at + 1;
        } else if token.is('{') && !is_import {
            return after_matching(tokens, at);
        } else if token.is('{') || token.is('(') || token.is('[') {
            at = after_matching(tokens, at);
        } else {
            at += 1;
        }
    }
    at
}

/// The place after the bracket that closes the one at `open`.
fn after_matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Sign('(' | '[' | '{') => depth += 1,
            Kind::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

struct Reader<'t> {
    tokens: &'t [Token],
    /// The module at the place being read: the file's, then the inline ones around it.
    module: Vec<String>,
    /// Imported names and what they stand for, in this file.
    imports: BTreeMap<String, Vec<String>>,
    source: Source,
}

impl Reader<'_> {
    fn read_imports(&mut self) {
        self.walk(|reader, at| {
            let word = |at: usize| reader.tokens.get(at).and_then(Token::word);
            match (word(at), word(at + 1)) {
                (Some("use"), _) => reader.read_use_tree(at + 1, &[]),
                (Some("extern"), Some("crate")) => reader.read_use_tree(at + 2, &[]),
                _ => at + 1,
            }
        });
    }

    fn read_paths(&mut self) {
        self.walk(|reader, at| match reader.tokens[at].word() {
            Some("use") if !reader.tokens.get(at + 1).is_some_and(|next| next.is('<')) => {
                item_end(reader.tokens, at)
            }
            Some(_) => reader.read_path(at),
            None => at + 1,
        });
    }

    /// Visits each place, with `module` following inline modules; `visit` returns the next place.
    fn walk(&mut self, visit: impl Fn(&mut Self, usize) -> usize) {
        let outer = self.module.clone();
        let mut inline_ends: Vec<usize> = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            while inline_ends.last().is_some_and(|end| at >= *end) {
                inline_ends.pop();
                self.module.pop();
            }
            if let [first, name, open, ..] = &self.tokens[at..]
                && first.word() == Some("mod")
                && open.is('{')
                && let Some(name) = name.word()
            {
                self.module.push(name.to_owned());
                inline_ends.push(after_matching(self.tokens, at + 2));
                at += 3;
            } else {
                at = visit(self, at);
            }
        }
        self.module = outer;
    }

    /// One branch of a `use` tree, below `prefix`; returns the place after it.
    fn read_use_tree(&mut self, mut at: usize, prefix: &[String]) -> usize {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        loop {
            let Some(token) = self.tokens.get(at) else {
                return at;
            };
            match &token.kind {
                Kind::Word(word) => path.push(word.clone()),
                Kind::PathSeparator | Kind::Sign('*') => {}
                Kind::Sign('{') => return self.read_use_group(at, &path),
                Kind::Sign(_) => break,
            }
            at += 1;
            if self.tokens.get(at).and_then(Token::word) == Some("as") {
                let alias = self
                    .tokens
                    .get(at + 1)
                    .and_then(Token::word)
                    .map(str::to_owned);
                self.import(path, alias, line, at);
                return at + 2;
            }
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let name = path.last().cloned();
        self.import(path, name, line, at);
        at
    }

    fn read_use_group(&mut self, open: usize, prefix: &[String]) -> usize {
        let end = after_matching(self.tokens, open);
        let mut at = open + 1;
        while at + 1 < end {
            at = self.read_use_tree(at, prefix);
            if self.tokens.get(at).is_some_and(|token| token.is(',')) {
                at += 1;
            }
        }
        end
    }

    fn import(&mut self, path: Vec<String>, name: Option<String>, line: usize, at: usize) {
        let path = self.absolute(path);
        if path.is_empty() {
            return;
        }
        if let Some(name) = name {
            self.imports.insert(name, path.clone());
        }
        let in_tests = self.tokens[at.min(self.tokens.len()) - 1].in_tests;
        self.source.mentions.push(Mention {
            path,
            line,
            in_tests,
        });
    }

    /// A path in code; returns the place after it.
    fn read_path(&mut self, start: usize) -> usize {
        let after_dot = start > 0 && self.tokens[start - 1].is('.');
        let mut path = Vec::new();
        let mut at = start;
        while let Some(word) = self.tokens.get(at).and_then(Token::word) {
            path.push(word.to_owned());
            at += 1;
            let goes_on = self
                .tokens
                .get(at)
                .is_some_and(|token| token.kind == Kind::PathSeparator)
                && self
                    .tokens
                    .get(at + 1)
                    .is_some_and(|token| token.word().is_some());
            if !goes_on {
                break;
            }
            at += 1;
        }
        let Token { line, in_tests, .. } = self.tokens[start];
        let is_call = self.tokens.get(at).is_some_and(|token| token.is('!'));
        if is_call
            && path.last().is_some_and(|name| name == "select")
            && !self.begins_biased(at + 1)
        {
            self.source.unbiased_selects.push((line, in_tests));
        }
        if path.len() > 1 && !after_dot {
            if let Some(import) = self.imports.get(&path[0]) {
                path.splice(..1, import.iter().cloned());
            }
            let path = self.absolute(path);
            self.source.mentions.push(Mention {
                path,
                line,
                in_tests,
            });
        }
        at
    }

    fn begins_biased(&self, open: usize) -> bool {
        self.tokens.get(open + 1).and_then(Token::word) == Some("biased")
    }

    /// The path from `crate` or a crate's name.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut module = self.module.clone();
        let mut rest = path.as_slice();
        match rest.first().map(String::as_str) {
            Some("self" | "super") => {
                while let Some((first @ ("self" | "super"), tail)) = rest
                    .split_first()
                    .map(|(first, tail)| (first.as_str(), tail))
                {
                    if first == "super" {
                        module.pop();
                    }
                    rest = tail;
                }
                let root = std::iter::once("crate".to_owned());
                root.chain(module).chain(rest.iter().cloned()).collect()
            }
            _ => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, module: &[&str], expected: &[(&str, usize)]) {
        let module: Vec<String> = module.iter().map(|&name| name.to_owned()).collect();
        let found: Vec<(String, usize)> = read(text, &module)
            .mentions
            .into_iter()
            .map(|mention| (mention.path.join("::"), mention.line))
            .collect();
        let expected: Vec<(String, usize)> = expected
            .iter()
            .map(|&(path, line)| (path.to_owned(), line))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn comments_strings_and_lifetimes_name_nothing() {
        check(
            r##"// tokio::spawn
/* tokio::spawn /* nested */ tokio::spawn */
fn f<'tokio>(c: char) -> &'tokio str { g("tokio::spawn \" tokio::x", r#"tokio::"y"# , b'"', '\'', '"', b"a::b") }
fn after() { real::path() }"##,
            &[],
            &[("real::path", 4)],
        );
    }

    #[test]
    fn use_trees_are_unfolded() {
        check(
            "use std::{fs, io::{self, Read as R}, env::*};\npub(crate) use tokio;\nextern crate kube as k;",
            &[],
            &[
                ("std::fs", 1),
                ("std::io", 1),
                ("std::io::Read", 1),
                ("std::env", 1),
                ("tokio", 2),
                ("kube", 3),
            ],
        );
    }

    #[test]
    fn imported_names_are_followed_in_any_order() {
        check(
            "fn f() { Instant::now(); file::read() }\nuse std::{fs as file, time::Instant};",
            &[],
            &[
                ("std::time::Instant::now", 1),
                ("std::fs::read", 1),
                ("std::fs", 2),
                ("std::time::Instant", 2),
            ],
        );
    }

    #[test]
    fn relative_paths_are_resolved_by_the_place_of_the_file_and_inline_modules() {
        check(
            "use super::super::adapter::x;\nmod inner { use super::y::Z; fn f() { self::w::g() } }\nuse self::v;",
            &["core", "pool"],
            &[
                ("crate::adapter::x", 1),
                ("crate::core::pool::y::Z", 2),
                ("crate::core::pool::inner::w::g", 2),
                ("crate::core::pool::v", 3),
            ],
        );
    }

    #[test]
    fn code_under_cfg_test_is_told_from_the_rest() {
        let text = "#[cfg(test)]\nmod tests {\n use a::b;\n}\n#[cfg(any(test, feature = \"x\"))]\nuse c::d;\n\
                    #[cfg(test)]\n#[allow(dead_code)]\nuse e::{f, g};\n#[cfg(not(test))]\nfn h() { i::j() }\n\
                    #[cfg(test)]\nmod elsewhere;\nfn k() { l::m() }";
        let source = read(text, &[]);
        let tests: Vec<(String, bool)> = source
            .mentions
            .iter()
            .map(|mention| (mention.path.join("::"), mention.in_tests))
            .collect();
        let expected = [
            ("a::b", true),
            ("c::d", false),
            ("e::f", true),
            ("e::g", true),
            ("i::j", false),
            ("l::m", false),
        ];
        assert_eq!(
            tests,
            expected.map(|(path, in_tests)| (path.to_owned(), in_tests))
        );
        assert_eq!(source.test_modules, ["elsewhere"]);
    }

    #[test]
    fn a_select_must_begin_with_biased() {
        let text = "async fn f() {\n tokio::select! { biased; _ = a => {} }\n select! { _ = b => {} }\n select.x()\n}";
        assert_eq!(read(text, &[]).unbiased_selects, [(3, false)]);
    }

    #[test]
    fn a_capturing_clause_is_no_import() {
        check("fn f() -> impl X + use<'a> { a::b() }", &[], &[("a::b", 1)]);
    }

    #[test]
    fn fields_and_single_names_are_no_paths() {
        check("fn f(http: u8) { self.kube.x(); http + 1 }", &[], &[]);
    }
}
