//! What must hold when an execution has ended, each from where it can be seen from outside: the watch of the API
//! server, the report directory, the metrics, and the posts that job pods were told are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::site::{CreatedPod, Site};
use crate::exposition::{Sample, Scrape};
use crate::interrupt::Interrupt;
use crate::sample;

/// Gauges of earlier results come back in the background.
const PATIENCE: Duration = Duration::from_secs(20);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A post that a job pod was told is accepted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Post {
    kind: String,
    url: String,
    file_name: Option<String>,
    body: String,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evidence {
    /// Job pods: one a node.
    pub pods: usize,
    /// Results and files that were accepted: each is on disk.
    pub reports: usize,
    /// Samples of accepted results: each is exported.
    pub samples: usize,
}

/// Checks the one execution of a site, whose record is `record`.
///
/// # Errors
/// At the first thing that does not hold.
pub(super) fn check(
    site: &Site,
    nodes: u32,
    record: &Value,
    interrupt: &Interrupt,
) -> Result<Evidence> {
    let execution = record["id"].as_str().context("the record has no id")?;
    let created = site.created();
    let created: Vec<&CreatedPod> = created.iter().map(|shown| &shown.what).collect();
    check_pods(&created, nodes, execution)?;
    check_pods_now(site, &created)?;
    check_record(record, nodes)?;
    let posts = accepted_posts(site.directory())?;
    let folder = site.directory().join("reports").join(execution);
    let reports = check_reports(&posts, nodes, &folder)?;
    check_events(site, &posts)?;
    let expected = expected_samples(&posts, execution)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let checked = check_samples(&site.scrape_of_leader()?, &expected);
        if checked.is_ok() {
            break;
        }
        if Instant::now() > end {
            checked?;
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
    Ok(Evidence {
        pods: created.len(),
        reports,
        samples: expected.len(),
    })
}

/// All node names of the simulated cluster.
fn node_names(nodes: u32) -> BTreeSet<String> {
    (1..=nodes).map(|node| format!("node-{node}")).collect()
}

/// Every node had one pod, of the one execution.
fn check_pods(created: &[&CreatedPod], nodes: u32, execution: &str) -> Result<()> {
    let mut seen = BTreeMap::new();
    for pod in created {
        ensure!(
            pod.execution == execution,
            "{} is of execution {}, not of {execution}",
            pod.name,
            pod.execution
        );
        if let Some(first) = seen.insert(&pod.node, &pod.name) {
            bail!("{} was run twice: by {first} and by {}", pod.node, pod.name);
        }
    }
    let without: Vec<String> = node_names(nodes)
        .into_iter()
        .filter(|node| !seen.contains_key(node))
        .collect();
    ensure!(
        without.is_empty(),
        "no pod was created on {}",
        without.join(", ")
    );
    Ok(())
}

/// The pods that were created are those that are there, and ended well.
fn check_pods_now(site: &Site, created: &[&CreatedPod]) -> Result<()> {
    let pods = site.api(&format!("/api/v1/namespaces/{}/pods", sample::NAMESPACE))?;
    let pods = pods["items"].as_array().context("no pods are listed")?;
    let phases: BTreeMap<&str, &str> = pods
        .iter()
        .filter_map(|pod| {
            Some((
                pod["metadata"]["uid"].as_str()?,
                pod["status"]["phase"].as_str()?,
            ))
        })
        .collect();
    for pod in created {
        let phase = phases.get(pod.uid.as_str());
        ensure!(phase == Some(&"Succeeded"), "{} is {phase:?}", pod.name);
    }
    Ok(())
}

fn check_record(record: &Value, nodes: u32) -> Result<()> {
    ensure!(
        record["state"] == "succeeded",
        "the execution ended {}: {}",
        record["state"],
        record["counts"]
    );
    let told = record["nodes"]
        .as_array()
        .context("the record has no nodes")?;
    ensure!(
        told.len() == nodes as usize,
        "the record has {} nodes",
        told.len()
    );
    for node in told {
        ensure!(
            node["state"] == "succeeded" && node["attempts"] == 1,
            "the record says of a node: {node}"
        );
    }
    Ok(())
}

fn accepted_posts(directory: &Path) -> Result<Vec<Post>> {
    let text = fs::read_to_string(directory.join("posts.jsonl"))?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

impl Post {
    /// The node of its path, `/report/{node}/…`.
    fn node(&self) -> Result<&str> {
        let path = self.url.split_once("/report/").map(|(_, path)| path);
        path.and_then(|path| path.split('/').next())
            .with_context(|| format!("{} is no callback", self.url))
    }

    /// The name under which a report is stored; none for an event.
    fn stored_name(&self) -> Result<Option<String>> {
        let node = self.node()?;
        Ok(match (self.kind.as_str(), &self.file_name) {
            ("result", _) => Some(format!("{node}.json")),
            ("file", Some(name)) => Some(format!("{node}-{name}")),
            _ => None,
        })
    }
}

/// Each accepted report is on disk as it was posted, and every node has both of its own.
fn check_reports(posts: &[Post], nodes: u32, folder: &Path) -> Result<usize> {
    let mut stored: BTreeMap<String, &str> = BTreeMap::new();
    for post in posts {
        if let Some(name) = post.stored_name()? {
            // Of two posts of one report the later one's counts.
            stored.insert(name, &post.body);
        }
    }
    for (name, posted) in &stored {
        let found = fs::read_to_string(folder.join(name));
        let found = found.with_context(|| format!("{name} was accepted and is not on disk"))?;
        ensure!(
            found == *posted,
            "{name} is not as it was posted and accepted"
        );
    }
    for node in node_names(nodes) {
        for name in [format!("{node}.json"), format!("{node}-check.txt")] {
            ensure!(
                stored.contains_key(&name),
                "nobody was told that {name} is accepted"
            );
        }
    }
    Ok(stored.len())
}

/// Each accepted event is in the API server.
fn check_events(site: &Site, posts: &[Post]) -> Result<()> {
    let events = site.api(&format!("/api/v1/namespaces/{}/events", sample::NAMESPACE))?;
    let events = events["items"].as_array().context("no events are listed")?;
    let messages: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| event["message"].as_str())
        .collect();
    for post in posts.iter().filter(|post| post.kind == "event") {
        let message = format!("checked {}", post.node()?);
        ensure!(
            messages.contains(message.as_str()),
            "the accepted event {message:?} is nowhere"
        );
    }
    Ok(())
}

/// Every sample of the accepted results.
fn expected_samples(posts: &[Post], execution: &str) -> Result<Vec<Sample>> {
    let mut expected = BTreeMap::new();
    for post in posts.iter().filter(|post| post.kind == "result") {
        let result: BTreeMap<String, Vec<Value>> = serde_json::from_str(&post.body)?;
        for (gauge, samples) in result {
            for sample in samples {
                let mut labels: BTreeMap<String, String> =
                    serde_json::from_value(sample["labels"].clone())?;
                labels.insert("node".to_owned(), post.node()?.to_owned());
                labels.insert("executionID".to_owned(), execution.to_owned());
                let name = format!("{}_{gauge}", sample::METRICS_PREFIX);
                let value = sample["value"].as_f64().context("a sample has no value")?;
                expected.insert((name, labels), value);
            }
        }
    }
    let samples = expected.into_iter();
    Ok(samples
        .map(|((name, labels), value)| Sample {
            name,
            labels,
            value,
        })
        .collect())
}

fn check_samples(scrape: &Scrape, expected: &[Sample]) -> Result<()> {
    for sample in expected {
        let is_there = scrape.of(&sample.name).any(|found| found == sample);
        ensure!(is_there, "accepted and not exported: {sample:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "202601010342";

    fn pod(node: &str) -> CreatedPod {
        CreatedPod {
            name: format!("demo-job-{node}-{ID}"),
            uid: node.to_owned(),
            node: node.to_owned(),
            execution: ID.to_owned(),
        }
    }

    fn post(kind: &str, node: &str, body: &str) -> Post {
        Post {
            kind: kind.to_owned(),
            url: format!("http://10.96.0.90:1/report/{node}/{ID}/1-abc/{kind}"),
            file_name: (kind == "file").then(|| "check.txt".to_owned()),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    fn refuses<T>(result: Result<T>, part: &str) {
        let message = format!("{:#}", result.err().expect("it is refused"));
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn a_node_run_twice_or_not_at_all_is_told() {
        let (first, second) = (pod("node-1"), pod("node-2"));
        assert!(check_pods(&[&first, &second], 2, ID).is_ok());
        refuses(
            check_pods(&[&first, &second, &first], 2, ID),
            "node-1 was run twice",
        );
        refuses(
            check_pods(&[&second], 2, ID),
            "no pod was created on node-1",
        );
        refuses(check_pods(&[&first], 1, "202601010343"), "is of execution");
    }

    #[test]
    fn a_record_that_is_not_of_success_all_round_is_told() {
        let node = |attempts| json!({"state": "succeeded", "attempts": attempts});
        let record = |state, nodes: &[Value]| json!({"state": state, "nodes": nodes});
        assert!(check_record(&record("succeeded", &[node(1)]), 1).is_ok());
        refuses(check_record(&record("degraded", &[node(1)]), 1), "degraded");
        refuses(
            check_record(&record("succeeded", &[node(2)]), 1),
            "\"attempts\":2",
        );
        refuses(check_record(&record("succeeded", &[]), 1), "0 nodes");
    }

    #[test]
    fn an_accepted_report_that_is_gone_or_other_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let posts = [
            post("result", "node-1", "{}"),
            post("file", "node-1", "x"),
            post("event", "node-1", ""),
        ];
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("node-1.json", "{}");
        refuses(
            check_reports(&posts, 1, folder.path()),
            "node-1-check.txt was accepted and is not on disk",
        );
        put("node-1-check.txt", "y");
        refuses(
            check_reports(&posts, 1, folder.path()),
            "not as it was posted",
        );
        put("node-1-check.txt", "x");
        assert_eq!(check_reports(&posts, 1, folder.path()).unwrap(), 2);
        refuses(
            check_reports(&posts, 2, folder.path()),
            "node-2.json is accepted",
        );
    }

    #[test]
    fn an_accepted_sample_that_is_not_exported_is_told() {
        let posts = [post(
            "result",
            "node-1",
            r#"{"a":[{"value":1.5,"labels":{"l":"x"}}]}"#,
        )];
        let expected = expected_samples(&posts, ID).unwrap();
        let scrape = |value| {
            Scrape::parse(&format!(
                "demo_a{{executionID=\"{ID}\",l=\"x\",node=\"node-1\"}} {value}\n"
            ))
        };
        assert!(check_samples(&scrape("1.5"), &expected).is_ok());
        refuses(check_samples(&scrape("1.6"), &expected), "not exported");
    }
}
