//! `cargo xtask layers`: checks that no package and no layer knows what it must not know.
//!
//! The rules are tables in `rules.rs`. This file reads the workspace and compares; the first part is only text and runs
//! in the tests too, the second asks cargo.

mod rules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo;
use rules::{
    Forbidden, MANIFEST_RULES, ManifestRule, SOURCE_RULES, SourceRule, TREE_RULES, Tests, TreeRule,
};
use source::Source;

/// Packages that must build on their own, each from its own directory.
const PACKAGES: [&str; 4] = ["controller", "simulator", "e2e", "xtask"];

/// Check that no package and no layer knows what it must not know
///
/// Reads the source files, the manifests and the resolved dependencies, and builds each package on its own. The rules
/// are tables in xtask/src/layers/rules.rs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Runs every check and reports every broken arrow, not only the first.
///
/// # Errors
/// If an arrow is broken, or cargo cannot answer.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    let root = cargo::workspace_root();
    let files = read_sources(&root)?;
    let mut broken = broken_in_sources(SOURCE_RULES, &files);
    println!(
        "{} rules over {} source files",
        SOURCE_RULES.len(),
        files.len()
    );

    let metadata = cargo::output(&root, &["metadata", "--format-version", "1", "--no-deps"])?;
    broken.extend(broken_in_manifests(
        MANIFEST_RULES,
        &serde_json::from_str(&metadata)?,
    ));
    println!("{} rules over the manifests", MANIFEST_RULES.len());

    for rule in TREE_RULES {
        let directory = root.join(rule.package);
        let arguments: Vec<&str> = [
            "tree",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            rule.package,
        ]
        .into_iter()
        .chain(rule.arguments.iter().copied())
        .collect();
        broken.extend(broken_in_tree(
            rule,
            &cargo::output(&directory, &arguments)?,
        ));
        println!(
            "the dependencies of {} ({})",
            rule.package,
            rule.arguments.join(" ")
        );
    }
    if broken.is_empty() {
        check_packages_alone(&root, &mut broken);
    }
    for message in &broken {
        eprintln!("error: {message}");
    }
    match broken.len() {
        0 => Ok(()),
        1 => bail!("one arrow must go"),
        count => bail!("{count} arrows must go"),
    }
}

/// A workspace build unifies features and hides a missing one, so each package is checked where only its own count.
fn check_packages_alone(root: &Path, broken: &mut Vec<String>) {
    let core_alone: &[&str] = &[
        "check",
        "--quiet",
        "--package",
        "controller",
        "--lib",
        "--no-default-features",
    ];
    let mut checks = vec![("controller", core_alone)];
    checks.extend(PACKAGES.map(|package| (package, &["check", "--quiet"] as &[&str])));
    for (package, arguments) in checks {
        let command = format!("cargo {}", arguments.join(" "));
        println!("{package}/: {command}");
        if let Err(error) = cargo::run(&root.join(package), arguments) {
            broken.push(format!(
                "{package} does not build on its own, by `{command}` in {package}/: {error:#}"
            ));
        }
    }
}

/// One source file: where it is from the workspace root, and what it names.
#[derive(Debug)]
struct SourceFile {
    path: String,
    source: Source,
    is_test: bool,
}

fn read_sources(root: &Path) -> Result<Vec<SourceFile>> {
    let mut paths = BTreeSet::new();
    for package in PACKAGES {
        collect_rust_files(&root.join(package), &mut paths)?;
    }
    let mut files = Vec::new();
    for path in &paths {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = path
            .strip_prefix(root)?
            .to_string_lossy()
            .replace('\\', "/");
        files.push(source_file(path, &text));
    }
    mark_test_files(&mut files);
    Ok(files)
}

fn source_file(path: String, text: &str) -> SourceFile {
    let source = source::read(text, &module_of(&path));
    let is_test = path.split('/').nth(1) == Some("tests");
    SourceFile {
        path,
        source,
        is_test,
    }
}

fn collect_rust_files(directory: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect_rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
    Ok(())
}

/// The module that a file is, from its path: `controller/src/core/pod_pool.rs` is `core`, `pod_pool`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split('/').skip(2).collect::<Vec<_>>().join("/");
    let inside = inside.trim_end_matches(".rs");
    inside
        .split('/')
        .filter(|name| !matches!(*name, "mod" | "lib" | "main" | ""))
        .map(str::to_owned)
        .collect()
}

/// A module declared by `#[cfg(test)] mod name;` is test code though its own file does not say so.
fn mark_test_files(files: &mut [SourceFile]) {
    let mut test_modules = BTreeSet::new();
    for file in files.iter() {
        let package = file.path.split('/').next().unwrap_or_default();
        for child in &file.source.test_modules {
            let mut module = module_of(&file.path);
            module.push(child.clone());
            test_modules.insert((package.to_owned(), module));
        }
    }
    for file in files {
        let package = file.path.split('/').next().unwrap_or_default();
        let module = module_of(&file.path);
        file.is_test |= (1..=module.len())
            .any(|length| test_modules.contains(&(package.to_owned(), module[..length].to_vec())));
    }
}

/// One sentence for each place that breaks a rule, and one for each rule that has nothing left to look at.
fn broken_in_sources(rules: &[SourceRule], files: &[SourceFile]) -> Vec<String> {
    let mut broken = Vec::new();
    for rule in rules {
        let in_scope = |file: &&SourceFile| {
            rule.within
                .iter()
                .any(|folder| is_below(&file.path, folder))
                && !rule
                    .except
                    .iter()
                    .any(|folder| is_below(&file.path, folder))
        };
        let mut files = files.iter().filter(in_scope).peekable();
        if files.peek().is_none() {
            broken.push(format!(
                "the rule `{}` looks at nothing: no source file in {}; correct its row in xtask/src/layers/rules.rs",
                rule.arrow,
                rule.within.join(", ")
            ));
        }
        broken.extend(files.flat_map(|file| broken_in_file(rule, file)));
    }
    broken
}

fn broken_in_file(rule: &SourceRule, file: &SourceFile) -> Vec<String> {
    let counts = |in_tests: bool| rule.tests == Tests::Included || !(in_tests || file.is_test);
    let found: Vec<(usize, String)> = match rule.forbids {
        Forbidden::Paths(forbidden) => file
            .source
            .mentions
            .iter()
            .filter(|mention| counts(mention.in_tests))
            .map(|mention| (mention.line, mention.path.join("::")))
            .filter(|(_, path)| forbidden.iter().any(|prefix| is_path_below(path, prefix)))
            .collect(),
        Forbidden::UnbiasedSelect => file
            .source
            .unbiased_selects
            .iter()
            .filter(|(_, in_tests)| counts(*in_tests))
            .map(|(line, _)| (*line, "select! without `biased;`".to_owned()))
            .collect(),
    };
    let sentence = |(line, what)| {
        format!(
            "{}:{line} breaks `{}` by {what}: {}",
            file.path, rule.arrow, rule.why
        )
    };
    let mut sentences: Vec<String> = found.into_iter().map(sentence).collect();
    sentences.dedup();
    sentences
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_path_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn broken_in_manifests(rules: &[ManifestRule], metadata: &serde_json::Value) -> Vec<String> {
    let mut broken = Vec::new();
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for rule in rules {
        let Some(package) = packages
            .iter()
            .find(|package| package["name"] == rule.package)
        else {
            broken.push(format!(
                "there is no package {}; correct its row in xtask/src/layers/rules.rs",
                rule.package
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default();
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            if rule.kinds.contains(&kind) && rule.forbids.contains(&name) {
                broken.push(format!(
                    "{}/Cargo.toml breaks `{} → {name}` by a dependency of kind {kind}: {}",
                    rule.package, rule.package, rule.why
                ));
            }
        }
    }
    broken
}

fn broken_in_tree(rule: &TreeRule, tree: &str) -> Vec<String> {
    let names: BTreeSet<&str> = tree
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if names.is_empty() {
        return vec![format!(
            "cargo tree shows no dependencies of {}: nothing was checked",
            rule.package
        )];
    }
    let forbidden = rule.forbids.iter().filter(|name| names.contains(**name));
    forbidden
        .map(|name| {
            let arguments = rule.arguments.join(" ");
            format!(
                "{}/Cargo.toml breaks `{} → {name}`, see `cargo tree --package {} {arguments} --invert {name}`: {}",
                rule.package, rule.package, rule.package, rule.why
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rule says about a file with this text.
    fn sentences(rule: &SourceRule, path: &str, text: &str) -> Vec<String> {
        broken_in_file(rule, &source_file(path.to_owned(), text))
    }

    fn offences(rule: &SourceRule) -> Vec<String> {
        match rule.forbids {
            Forbidden::Paths(paths) => paths.iter().map(|path| format!("{path}::name()")).collect(),
            Forbidden::UnbiasedSelect => vec!["select! { _ = a => {} }".to_owned()],
        }
    }

    #[test]
    fn every_source_rule_fires_on_each_offence_and_names_the_place() {
        for rule in SOURCE_RULES {
            for offence in offences(rule) {
                let path = format!("{}/file.rs", rule.within[0]);
                let found = sentences(rule, &path, &format!("fn f() {{\n    {offence};\n}}\n"));
                assert_eq!(found.len(), 1, "{}: {offence}: {found:?}", rule.arrow);
                for part in [&format!("{path}:2"), rule.arrow, rule.why] {
                    assert!(found[0].contains(part), "{} lacks {part}", found[0]);
                }
            }
        }
    }

    #[test]
    fn every_source_rule_fires_on_imports_however_they_are_written() {
        for rule in SOURCE_RULES {
            let Forbidden::Paths(paths) = rule.forbids else {
                continue;
            };
            for path in paths {
                let (last, before) = path
                    .split("::")
                    .collect::<Vec<_>>()
                    .split_last()
                    .map(|(l, b)| (*l, b.join("::")))
                    .unwrap();
                let mut imports = vec![
                    format!("use {path};"),
                    format!("use {path} as other;"),
                    format!("pub use {path}::*;"),
                ];
                if !before.is_empty() {
                    imports.push(format!("use {before}::{{x, {last}}};"));
                    imports.push(format!(
                        "use {before};\nfn f() {{ {}::{last}() }}",
                        before.split("::").last().unwrap()
                    ));
                }
                for import in imports {
                    let found = sentences(rule, &format!("{}/file.rs", rule.within[0]), &import);
                    assert!(!found.is_empty(), "{}: {import}", rule.arrow);
                }
            }
        }
    }

    #[test]
    fn no_source_rule_fires_on_comments_strings_or_like_names() {
        for rule in SOURCE_RULES {
            for offence in offences(rule) {
                let path = format!("{}/file.rs", rule.within[0]);
                let text = format!(
                    "// {offence}\n/* {offence} */\nconst TEXT: &str = r#\"{offence}\"#;\nuse super_{offence};"
                );
                let text = text.replace("use super_select! { _ = a => {} };", "");
                assert_eq!(
                    sentences(rule, &path, &text),
                    Vec::<String>::new(),
                    "{}",
                    rule.arrow
                );
            }
        }
    }

    #[test]
    fn a_source_rule_leaves_test_code_out_exactly_where_it_says_so() {
        for rule in SOURCE_RULES {
            for offence in offences(rule) {
                let path = format!("{}/file.rs", rule.within[0]);
                let found = sentences(
                    rule,
                    &path,
                    &format!("#[cfg(test)]\nmod tests {{\n fn f() {{ {offence}; }}\n}}"),
                );
                assert_eq!(
                    found.is_empty(),
                    rule.tests == Tests::Exempt,
                    "{}: {offence}",
                    rule.arrow
                );
            }
        }
    }

    #[test]
    fn a_source_rule_looks_only_where_it_says() {
        for rule in SOURCE_RULES {
            let text = format!("fn f() {{ {}; }}", offences(rule)[0]);
            let inside = source_file(format!("{}/file.rs", rule.within[0]), &text);
            let beside = source_file(format!("{}_beside/file.rs", rule.within[0]), &text);
            let mut files = vec![inside, beside];
            files.extend(
                rule.except
                    .iter()
                    .map(|path| source_file(format!("{path}/file.rs"), &text)),
            );
            let found = broken_in_sources(std::slice::from_ref(rule), &files);
            assert_eq!(found.len(), 1, "{}: {found:?}", rule.arrow);
        }
    }

    #[test]
    fn a_source_rule_without_files_is_reported() {
        let found = broken_in_sources(&SOURCE_RULES[..1], &[]);
        assert!(found[0].contains("looks at nothing"), "{found:?}");
    }

    #[test]
    fn relative_paths_break_an_arrow_too() {
        let rule = SOURCE_RULES
            .iter()
            .find(|rule| rule.arrow == "core → outer layers")
            .unwrap();
        let found = sentences(
            rule,
            "controller/src/core/pod_pool.rs",
            "use super::super::adapter::KubeCluster;",
        );
        assert!(
            found[0].contains("crate::adapter::KubeCluster"),
            "{found:?}"
        );
    }

    #[test]
    fn a_module_in_its_own_file_is_test_code_if_its_parent_says_so() {
        let rule = &SOURCE_RULES[0];
        let mut files = vec![
            source_file(
                "controller/src/core/mod.rs".to_owned(),
                "#[cfg(test)]\nmod fixtures;\nmod real;",
            ),
            source_file("controller/src/core/fixtures.rs".to_owned(), "use std::fs;"),
            source_file("controller/src/core/real.rs".to_owned(), "use std::fs;"),
        ];
        mark_test_files(&mut files);
        let found = broken_in_sources(std::slice::from_ref(rule), &files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("controller/src/core/real.rs:1"),
            "{found:?}"
        );
    }

    #[test]
    fn every_manifest_rule_fires_on_each_kind_and_on_no_other() {
        for rule in MANIFEST_RULES {
            for kind in ["normal", "dev", "build"] {
                for name in rule.forbids {
                    let kind_in_json = (kind != "normal").then_some(kind);
                    let metadata = serde_json::json!({"packages": [
                        {"name": rule.package, "dependencies": [{"name": name, "kind": kind_in_json}, {"name": "serde", "kind": null}]},
                    ]});
                    let found = broken_in_manifests(std::slice::from_ref(rule), &metadata);
                    assert_eq!(
                        found.len(),
                        usize::from(rule.kinds.contains(&kind)),
                        "{name} {kind}: {found:?}"
                    );
                }
            }
        }
        let none = serde_json::json!({"packages": []});
        assert_eq!(
            broken_in_manifests(MANIFEST_RULES, &none).len(),
            MANIFEST_RULES.len()
        );
    }

    #[test]
    fn every_tree_rule_fires_on_each_name_and_on_no_like_one() {
        for rule in TREE_RULES {
            for name in rule.forbids {
                let found = broken_in_tree(
                    rule,
                    &format!("root v0.1.0\nserde v1.0.0\n{name} v1.2.3 (*)\n"),
                );
                assert_eq!(found.len(), 1, "{name}: {found:?}");
                let found = broken_in_tree(rule, &format!("{name} v0.1.0\n{name}-like v1.0.0\n"));
                assert!(found.is_empty(), "{name}: {found:?}");
            }
            assert_eq!(
                broken_in_tree(rule, "").len(),
                1,
                "an empty tree checks nothing"
            );
        }
    }

    #[test]
    fn this_workspace_keeps_the_source_rules() {
        let files = read_sources(&cargo::workspace_root()).unwrap();
        assert_eq!(
            broken_in_sources(SOURCE_RULES, &files),
            Vec::<String>::new()
        );
    }
}
