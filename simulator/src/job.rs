//! The script of a fake job pod: what it reads from its environment and what it posts.
//!
//! Pure. Like the example job script of the controller it posts one result, one file and one event. A fake pod cannot
//! know which gauges its result should carry, so the simulator reads them from the controller's ConfigMap.

use std::collections::BTreeMap;

use bytes::Bytes;
use controller::core::ids::ExecutionId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::rng::Stream;

/// The label that names the controller a job pod belongs to.
pub const OWNER_LABEL: &str = "batch-job-controller.bakito.github.com/owner";

/// The label that names the execution a job pod belongs to.
pub const EXECUTION_LABEL: &str = "batch-job-controller.bakito.github.com/execution-id";

/// The key of the controller's ConfigMap that holds its configuration.
pub const CONFIG_KEY: &str = "config.yaml";

/// The gauges of a controller and the labels of each.
pub type Gauges = BTreeMap<String, Vec<String>>;

/// The part of the controller's configuration that a fake pod needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobConfig {
    /// The controller's name, which is the value of its owner label.
    pub name: String,
    /// What a result is expected to carry.
    pub gauges: Gauges,
}

impl JobConfig {
    /// Reads a `config.yaml`; none where it is not the configuration of a controller.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Config {
            name: String,
            metrics: Option<Metrics>,
        }
        #[derive(Deserialize)]
        struct Metrics {
            gauges: Option<BTreeMap<String, Option<Gauge>>>,
        }
        #[derive(Deserialize)]
        struct Gauge {
            labels: Option<Vec<String>>,
        }
        let config: Config = serde_saphyr::from_str(text).ok()?;
        let gauges = config.metrics.and_then(|metrics| metrics.gauges);
        let labels =
            |gauge: Option<Gauge>| gauge.and_then(|gauge| gauge.labels).unwrap_or_default();
        Some(Self {
            name: config.name,
            gauges: gauges
                .unwrap_or_default()
                .into_iter()
                .map(|(name, gauge)| (name, labels(gauge)))
                .collect(),
        })
    }
}

/// The kinds of a post, in the order in which a pod makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostKind {
    /// The result document.
    Result,
    /// A file beside it.
    File,
    /// A Kubernetes event.
    Event,
}

impl PostKind {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Result, Self::File, Self::Event];

    /// How logs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::File => "file",
            Self::Event => "event",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Result => "CALLBACK_SERVICE_RESULT_URL",
            Self::File => "CALLBACK_SERVICE_FILE_URL",
            Self::Event => "CALLBACK_SERVICE_EVENT_URL",
        }
    }
}

/// One request that a pod makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// What it is.
    pub kind: PostKind,
    /// Where it goes, as the environment says.
    pub url: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Content-Disposition`, which names a file.
    pub file_name: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Post {
    /// The execution that it is of, and the name under which it is stored; none for an event.
    pub(crate) fn stored_name(&self) -> Option<(ExecutionId, String)> {
        let (_, path) = self.url.split_once("/report/")?;
        let mut segments = path.split('/');
        let (node, id) = (segments.next()?, ExecutionId::parse(segments.next()?)?);
        let name = match self.kind {
            PostKind::Result => format!("{node}.json"),
            PostKind::File => format!("{node}-{FILE_NAME}"),
            PostKind::Event => return None,
        };
        Some((id, name))
    }
}

/// The name under which a fake pod uploads its file.
pub const FILE_NAME: &str = "check.txt";

/// The posts of the pod with this `spec`: none where its environment has no callback URLs, so where it is not a job
/// pod.
#[must_use]
pub fn posts(spec: &Value, gauges: &Gauges, stream: &mut Stream) -> Vec<Post> {
    let url = |kind: PostKind| variable(spec, kind.variable());
    let node = spec["nodeName"].as_str().unwrap_or_default();
    let post = |kind: PostKind| {
        let url = url(kind)?.to_owned();
        Some(match kind {
            PostKind::Result => Post {
                kind,
                url,
                content_type: "application/json",
                file_name: None,
                body: Bytes::from(result(gauges, stream).to_string()),
            },
            PostKind::File => Post {
                kind,
                url,
                content_type: "text/plain",
                file_name: Some(FILE_NAME),
                body: Bytes::from(format!("checked {node}\nall is well\n")),
            },
            PostKind::Event => Post {
                kind,
                url,
                content_type: "application/json",
                file_name: None,
                body: Bytes::from(
                    json!({
                        "warning": false,
                        "reason": "JobChecked",
                        "message": "checked %s",
                        "args": [node],
                    })
                    .to_string(),
                ),
            },
        })
    };
    PostKind::ALL.into_iter().filter_map(post).collect()
}

/// A result document: one sample of every gauge.
fn result(gauges: &Gauges, stream: &mut Stream) -> Value {
    let sample = |labels: &Vec<String>, stream: &mut Stream| {
        let labels: Map<String, Value> = labels
            .iter()
            .map(|label| (label.clone(), format!("{label}-1").into()))
            .collect();
        // Two decimals: a value that reads well in a table.
        let hundredths = u32::try_from(stream.between(0, 10_000)).unwrap_or(0);
        json!([{"value": f64::from(hundredths) / 100.0, "labels": labels}])
    };
    gauges
        .iter()
        .map(|(name, labels)| (name.clone(), sample(labels, stream)))
        .collect::<Map<_, _>>()
        .into()
}

/// The value of an environment variable of the first container.
fn variable<'a>(spec: &'a Value, name: &str) -> Option<&'a str> {
    let env = spec["containers"][0]["env"].as_array()?;
    let variable = env.iter().find(|variable| variable["name"] == name)?;
    variable["value"].as_str().filter(|value| !value.is_empty())
}

/// The name of the first container, whose log the pod writes.
#[must_use]
pub fn first_container(spec: &Value) -> &str {
    spec["containers"][0]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    #[test]
    fn gauges_come_from_the_configuration() {
        let text = "name: my\nreportHistory: 3\nmetrics:\n  prefix: p\n  gauges:\n    test:\n      help: h\n      labels: [a, b]\n    plain:\n      help: h\n";
        let config = JobConfig::parse(text).unwrap();
        assert_eq!(config.name, "my");
        assert_eq!(config.gauges["test"], ["a", "b"]);
        assert!(config.gauges["plain"].is_empty());
        assert_eq!(JobConfig::parse("other: 1"), None);
        assert_eq!(
            JobConfig::parse("name: x\nmetrics: null\n").unwrap().gauges,
            Gauges::new()
        );
    }

    #[test]
    fn a_job_pod_posts_a_sample_of_every_gauge_a_file_and_an_event() {
        let gauges = Gauges::from([("a".into(), vec!["l".into()]), ("b".into(), vec![])]);
        let env: Vec<Value> = ["RESULT", "FILE", "EVENT"]
            .iter()
            .map(|kind| json!({"name": format!("CALLBACK_SERVICE_{kind}_URL"), "value": format!("http://h:1/{kind}")}))
            .collect();
        let spec = json!({"nodeName": "node-1", "containers": [{"name": "job", "env": env}]});
        let posts = posts(&spec, &gauges, &mut Seed::of_run(1).stream("x"));
        let kinds: Vec<PostKind> = posts.iter().map(|post| post.kind).collect();
        assert_eq!(kinds, PostKind::ALL);
        let result: Value = serde_json::from_slice(&posts[0].body).unwrap();
        assert_eq!(result["a"][0]["labels"], json!({"l": "l-1"}));
        assert_eq!(result["b"][0]["labels"], json!({}));
        assert!(result["b"][0]["value"].is_f64());
        assert_eq!(posts[1].url, "http://h:1/FILE");
    }

    #[test]
    fn a_pod_without_callback_urls_posts_nothing() {
        let spec = json!({"containers": [{"name": "c"}]});
        assert!(posts(&spec, &Gauges::new(), &mut Seed::of_run(1).stream("x")).is_empty());
    }
}
