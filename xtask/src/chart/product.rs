//! The chart's files and the product: `validate` and `render` accept them without a warning, the sample job's script
//! reports what the sample configuration exports, and the schema knows the keys that the controller knows.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::helm::{Rendered, config_map};
use super::{default_set, schema};
use crate::cargo::{self, Binaries};
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::tool::Tool;

/// Where README.md lists the keys of config.yaml.
const CONFIG_TABLE: (&str, &str) = ("### config.yaml\n", "### ");

/// How long the mock may take until it listens.
const MOCK_WITHIN: Duration = Duration::from_secs(10);

const NODE: &str = "node-1.example.com";
const EXECUTION: &str = "202611240342";

/// Checks all of it; returns the job pods of the value sets.
///
/// # Errors
/// With what the product says.
pub(super) fn check(
    binaries: &Binaries,
    rendered: &[Rendered],
    interrupt: &Interrupt,
) -> Result<Vec<Value>> {
    let mut pods = Vec::new();
    for set in rendered {
        let files = Files::of(set)?;
        let pod =
            check_files(binaries, &files).with_context(|| format!("value set {}", set.name))?;
        pods.push(pod);
    }
    super::done("batch-job-controller validate and render accept the files of each value set");
    check_keys(binaries)?;
    super::done("the schema, the controller and README.md know the same keys of config.yaml");
    check_script(binaries, &Files::of(default_set(rendered)?)?, interrupt)?;
    Ok(pods)
}

/// The data of a ConfigMap, as files.
struct Files {
    directory: TempDir,
}

impl Files {
    fn of(set: &Rendered) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data = config_map(&set.documents)?["data"].as_object();
        for (name, text) in data.into_iter().flatten() {
            fs::write(
                directory.path().join(name),
                text.as_str().unwrap_or_default(),
            )?;
        }
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn check_files(binaries: &Binaries, files: &Files) -> Result<Value> {
    let controller = |command: &[&str]| -> Result<String> {
        let output = Command::new(&binaries.controller)
            .args(command)
            .arg("--config")
            .arg(files.path("config.yaml"))
            .arg("--pod-template")
            .arg(files.path("pod-template.yaml"))
            .env_remove("TZ")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && said.is_empty(),
            "batch-job-controller {}: {}",
            command.join(" "),
            said.trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    controller(&["validate"])?;
    let namespace = super::helm::NAMESPACE;
    let pod = controller(&[
        "render",
        "--node",
        NODE,
        "--execution-id",
        EXECUTION,
        "--namespace",
        namespace,
        "--output",
        "json",
    ])?;
    let pod: Value = serde_json::from_str(&pod)?;
    ensure!(
        pod["spec"]["nodeName"] == NODE,
        "the job pod is on no node: {pod}"
    );
    Ok(pod)
}

/// Keys that only one side knows.
fn check_keys(binaries: &Binaries) -> Result<()> {
    let root = cargo::workspace_root();
    let schema: Value = serde_json::from_str(&fs::read_to_string(
        root.join(super::CHART).join(schema::FILE),
    )?)?;
    let config = &schema["properties"]["config"];

    // A key without a value is as good as absent, unless nobody knows it: then it warns.
    let mut keys = nulls(config);
    keys.insert("name".to_owned(), "keys".into());
    keys.insert("cronExpression".to_owned(), "@daily".into());
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, &keys)?;
    let output = Command::new(&binaries.controller)
        .args(["validate", "--config"])
        .arg(file.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let unknown: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("unknown key"))
        .collect();
    ensure!(
        unknown.is_empty(),
        "{} has keys that the controller does not know: {}",
        schema::FILE,
        unknown.join("; ")
    );
    let readme = fs::read_to_string(root.join("README.md"))?;
    let documented = documented_keys(&readme)?;
    for key in &documented {
        let mut node = Some(config);
        for name in key.split('.') {
            node = node.and_then(|node| node["properties"].get(name));
        }
        ensure!(
            node.is_some(),
            "{} does not know config.{key}, which README.md documents",
            schema::FILE
        );
    }
    Ok(())
}

/// The schema's keys, each without a value.
fn nulls(node: &Value) -> Map<String, Value> {
    let properties = node["properties"].as_object().into_iter().flatten();
    let value = |property: &Value| match &property["properties"] {
        Value::Object(_) => Value::Object(nulls(property)),
        _ => Value::Null,
    };
    properties
        .map(|(key, property)| (key.clone(), value(property)))
        .collect()
}

/// The keys in the first column of README's table.
fn documented_keys(readme: &str) -> Result<Vec<String>> {
    let (begin, end) = CONFIG_TABLE;
    let section = readme
        .split_once(begin)
        .context("README.md has no section config.yaml")?
        .1;
    let section = section
        .split_once(end)
        .map_or(section, |(section, _)| section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split('|').next());
    let keys: Vec<String> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    ensure!(keys.len() > 1, "README.md documents no keys of config.yaml");
    Ok(keys)
}

/// The sample job's script reports to the mock whatever the sample configuration exports.
fn check_script(binaries: &Binaries, files: &Files, interrupt: &Interrupt) -> Result<()> {
    let Some((shell, path)) = shell(files)? else {
        println!(
            "skipped: the sample job's script, for there is neither busybox nor wget on the path"
        );
        return Ok(());
    };
    let reports = files.path("reports");
    let mut command = Command::new(&binaries.controller);
    command
        .args(["mock", "--port", "0", "--config"])
        .arg(files.path("config.yaml"));
    command.arg("--report-directory").arg(&reports);
    let mut mock = Process::start_logged("mock", command, files.directory.path())?;
    let url = mock_url(&mut mock, &files.path("mock.out"), interrupt)?;
    let report = format!("{url}/report/{NODE}/{EXECUTION}");
    let output = Command::new(shell)
        .arg(files.path("job.sh"))
        .env("PATH", path)
        .env("TMPDIR", files.directory.path())
        .env("NODE_NAME", NODE)
        .env("EXECUTION_ID", EXECUTION)
        .env("CALLBACK_SERVICE_RESULT_URL", format!("{report}/result"))
        .env("CALLBACK_SERVICE_FILE_URL", format!("{report}/file"))
        .output()?;
    ensure!(
        output.status.success(),
        "the sample job's script: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let read = |name: &str| {
        fs::read_to_string(reports.join(EXECUTION).join(name)).context(name.to_owned())
    };
    let result: Value = serde_json::from_str(&read(&format!("{NODE}.json"))?)?;
    let config: Value = super::helm::read_yaml(&files.path("config.yaml"))?;
    let names = |value: &Value| {
        value
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    ensure!(
        names(&result) == names(&config["metrics"]["gauges"]) && result != json!({}),
        "the sample job reports {result}, configured are {}",
        config["metrics"]["gauges"]
    );
    ensure!(
        !read(&format!("{NODE}-node.txt"))?.is_empty(),
        "the sample job sends an empty file"
    );
    super::done(
        "the sample job's script reports every gauge of the sample configuration, and a file",
    );
    Ok(())
}

/// The shell to run the script with and its search path: busybox as in the sample's image, else the system's with wget.
fn shell(files: &Files) -> Result<Option<(PathBuf, std::ffi::OsString)>> {
    if let Some(busybox) = Tool::new("busybox").path() {
        let folder = files.path("bin");
        fs::create_dir(&folder)?;
        for applet in [
            "sh", "wget", "df", "awk", "cat", "uname", "sleep", "timeout",
        ] {
            symlink(&busybox, folder.join(applet))?;
        }
        return Ok(Some((folder.join("sh"), folder.into())));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(Tool::new("wget").path().map(|_| ("/bin/sh".into(), path)))
}

fn mock_url(mock: &mut Process, output: &Path, interrupt: &Interrupt) -> Result<String> {
    let end = Instant::now() + MOCK_WITHIN;
    while Instant::now() < end {
        mock.check_alive()?;
        let said = fs::read_to_string(output)?;
        let url = said
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        if let Some((url, _)) = url.and_then(|url| url.split_once(',')) {
            return Ok(url.to_owned());
        }
        interrupt.sleep(Duration::from_millis(20))?;
    }
    bail!(
        "the mock does not say where it listens{}",
        mock.last_lines()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_the_first_column() {
        let readme = "## A\n### config.yaml\n\n| key | default |\n|---|---|\n| **Job** | | |\n| `a`, `b` † | `1` |\n\
                      | `m.c` | `2` |\n### other\n| `d` | |\n";
        assert_eq!(documented_keys(readme).unwrap(), ["a", "b", "m.c"]);
        assert!(documented_keys("nothing").is_err());
    }
}
