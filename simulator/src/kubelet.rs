//! The life of a job pod on a fake node, as data: stages with a delay, a weight and a next step; and the status that a
//! kubelet would report at each step.
//!
//! Pure: the fleet decides when, draws from the pod's own stream and writes the status. The step names follow what
//! `kubectl get pods` shows.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::rng::Stream;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Bound to the node; the kubelet has not reported anything.
    Accepted,
    /// `Pending`, its containers being created.
    Creating,
    /// `Running`.
    Running,
    /// `Running`, and posting its result, file and event. The next step waits until they are answered.
    Posting,
    /// Every container ended with status 0.
    Succeeded,
    /// The first container ended with status 1.
    Failed,
    /// `Running`, and does not stop when it is told to: a process in uninterruptible sleep.
    Hanging,
    /// `Pending`: the image cannot be pulled.
    ImagePullBackOff,
    /// `Pending`: the image's name is none.
    InvalidImageName,
    /// `Pending`: a Secret or ConfigMap of the container does not exist.
    CreateContainerConfigError,
    /// Refused by the kubelet: the node runs as many pods as it may.
    OutOfPods,
    /// Refused by the kubelet: not enough CPU.
    OutOfCpu,
    /// Refused by the kubelet: a device plugin does not give what the pod asks for.
    UnexpectedAdmissionError,
    /// Evicted by the kubelet for want of memory.
    Evicted,
}

impl Step {
    /// Whether the pod has ended.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed) || self.rejection().is_some()
    }

    /// Why the container waits, in the kubelet's words.
    #[must_use]
    pub fn waiting(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::ImagePullBackOff => (
                "ImagePullBackOff",
                "Back-off pulling image \"registry.example.com/job:1.0.0\"",
            ),
            Self::InvalidImageName => (
                "InvalidImageName",
                "Failed to apply default image tag \"Job:1\": couldn't parse image name: repository name must be lowercase",
            ),
            Self::CreateContainerConfigError => (
                "CreateContainerConfigError",
                "secret \"credentials\" not found",
            ),
            _ => return None,
        })
    }

    /// Why the pod as a whole has failed, in the kubelet's words.
    #[must_use]
    pub fn rejection(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::OutOfPods => (
                "OutOfpods",
                "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110",
            ),
            Self::OutOfCpu => (
                "OutOfcpu",
                "Pod was rejected: Node didn't have enough resource: cpu, requested: 50, used: 3900, capacity: 3920",
            ),
            Self::UnexpectedAdmissionError => (
                "UnexpectedAdmissionError",
                "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy devices, which is unexpected",
            ),
            Self::Evicted => (
                "Evicted",
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.",
            ),
            _ => return None,
        })
    }
}

/// One possible transition. Of those that leave a step one is drawn by weight, then its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    /// The step it leaves.
    pub from: Step,
    /// Earliest, counted from the pod's creation: what came before does not move the end.
    pub delay_ms_min: u64,
    /// Latest, counted likewise.
    pub delay_ms_max: u64,
    /// How often it is drawn, against the others that leave the same step.
    pub weight: u32,
    /// The step it enters.
    pub to: Step,
}

/// The stages of a kind of pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lifecycle(Vec<Stage>);

/// Shares of pods are drawn in parts per million.
const MILLION: f64 = 1_000_000.0;

impl Lifecycle {
    /// A lifecycle of these stages.
    #[must_use]
    pub fn new(stages: Vec<Stage>) -> Self {
        Self(stages)
    }

    /// Every pod lives for exactly `lifetime`, Pending included, and posts in the middle of it; a share of them, from 0
    /// to 1, ends `Failed`.
    #[must_use]
    pub fn steady(lifetime: Duration, failure_share: f64) -> Self {
        Self::spread(lifetime, lifetime, failure_share)
    }

    /// As [`Self::steady`], but each pod lives for any time from `least` to `most`, all equally likely.
    #[must_use]
    pub fn spread(least: Duration, most: Duration, failure_share: f64) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (whole, ends) = (millis(least), (millis(least), millis(most)));
        let (failed, succeeded) = weights(failure_share);
        // A container starts within a second however long it then runs.
        let started = |percent: u64| (whole.saturating_mul(percent) / 100).min(10 * percent);
        let posted = |percent: u64| whole.saturating_mul(percent) / 100;
        Self(vec![
            stage(Step::Accepted, (0, 0), 1, Step::Creating),
            stage(Step::Creating, (started(5), started(20)), 1, Step::Running),
            stage(Step::Running, (posted(30), posted(60)), 1, Step::Posting),
            stage(Step::Posting, ends, succeeded, Step::Succeeded),
            stage(Step::Posting, ends, failed, Step::Failed),
        ])
    }

    /// The same with further stages, each of which is taken by one pod in sixty that comes to where it begins.
    #[must_use]
    pub fn with_rare(mut self, rare: impl IntoIterator<Item = Stage>) -> Self {
        const USUAL: u32 = 60;
        let rare: Vec<Stage> = rare.into_iter().collect();
        for stage in &mut self.0 {
            if rare.iter().any(|rare| rare.from == stage.from) {
                stage.weight = USUAL;
            }
        }
        self.0.extend(rare);
        self
    }

    /// The longest that a pod may live.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let longest = self.0.iter().map(|stage| stage.delay_ms_max).max();
        Duration::from_millis(longest.unwrap_or_default())
    }

    /// Pods of one job that differ: they live for half to twice `lifetime`, one in fifty crashes before it posts, and a
    /// share of the others ends `Failed`.
    #[must_use]
    pub fn uneven(lifetime: Duration, failure_share: f64) -> Self {
        let whole = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX / 2);
        let (failed, succeeded) = weights(failure_share);
        let ends = (whole / 2, whole.saturating_mul(2));
        Self(vec![
            stage(Step::Accepted, (0, whole / 20), 1, Step::Creating),
            stage(Step::Creating, (0, whole / 4), 1, Step::Running),
            stage(Step::Running, (whole / 4, whole / 2), 49, Step::Posting),
            stage(Step::Running, (whole / 4, whole / 2), 1, Step::Failed),
            stage(Step::Posting, ends, succeeded, Step::Succeeded),
            stage(Step::Posting, ends, failed, Step::Failed),
        ])
    }

    /// The step after `step` and when it is due after the pod's creation; none after the last.
    pub fn next(&self, step: Step, stream: &mut Stream) -> Option<(Duration, Step)> {
        let leaving = || self.0.iter().filter(|stage| stage.from == step);
        let total: u64 = leaving().map(|stage| u64::from(stage.weight)).sum();
        let mut left = stream.between(0, total.checked_sub(1)?);
        let drawn = leaving().find(|stage| {
            let weight = u64::from(stage.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })?;
        let delay_ms = stream.between(
            drawn.delay_ms_min,
            drawn.delay_ms_max.max(drawn.delay_ms_min),
        );
        Some((Duration::from_millis(delay_ms), drawn.to))
    }
}

fn stage(from: Step, (delay_ms_min, delay_ms_max): (u64, u64), weight: u32, to: Step) -> Stage {
    Stage {
        from,
        delay_ms_min,
        delay_ms_max,
        weight,
        to,
    }
}

/// The weights of failing and of succeeding.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1,000,000 before"
)]
fn weights(failure_share: f64) -> (u32, u32) {
    let failed = (failure_share.clamp(0.0, 1.0) * MILLION).round() as u32;
    (failed, 1_000_000 - failed)
}

/// How the containers of a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code of every container.
    pub code: u8,
    /// What the container says about it (its termination message); empty where it ended well.
    pub message: String,
}

impl Exit {
    /// It ended well.
    #[must_use]
    pub fn success() -> Self {
        Self {
            code: 0,
            message: String::new(),
        }
    }

    /// It ended with status 1, saying why.
    #[must_use]
    pub fn failure(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    /// It was stopped by SIGTERM.
    #[must_use]
    pub fn terminated() -> Self {
        Self {
            code: 143,
            message: String::new(),
        }
    }
}

/// Fields of a status.
const STATUS_FIELDS: usize = 10;

/// What a status says beyond its step.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Address of the node.
    pub host_ip: String,
    /// Address of the pod.
    pub pod_ip: String,
    /// When the kubelet first saw the pod.
    pub seen: Timestamp,
    /// When its containers started.
    pub started: Timestamp,
    /// When this is reported.
    pub now: Timestamp,
}

/// What a kubelet reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The containers are being created.
    Creating,
    /// They run.
    Running,
    /// They ended.
    Ended(Exit),
    /// They wait because something is wrong: `reason` and `message` of the container.
    Waiting(&'static str, &'static str),
    /// The pod was refused or evicted: its own `reason` and `message`.
    Rejected(&'static str, &'static str),
}

/// The `status` of the pod with this uid and `spec` as its kubelet reports it; `before` is its status until now.
#[must_use]
pub fn status(
    uid: &str,
    spec: &Value,
    before: &Value,
    report: &Report,
    sighting: &Sighting,
) -> Value {
    let phase = match report {
        Report::Creating | Report::Waiting(..) => "Pending",
        Report::Running => "Running",
        Report::Ended(exit) if exit.code == 0 => "Succeeded",
        Report::Ended(_) | Report::Rejected(..) => "Failed",
    };
    if let Report::Rejected(reason, message) = report {
        return json!({
            "phase": phase, "reason": reason, "message": message,
            "startTime": rfc3339(sighting.seen), "qosClass": before["qosClass"].as_str().unwrap_or("BestEffort"),
        });
    }
    let mut status = Map::with_capacity(STATUS_FIELDS);
    status.insert("phase".into(), phase.into());
    status.insert("conditions".into(), conditions(report, sighting));
    status.insert("hostIP".into(), sighting.host_ip.as_str().into());
    status.insert("hostIPs".into(), json!([{"ip": sighting.host_ip}]));
    if phase != "Pending" {
        status.insert("podIP".into(), sighting.pod_ip.as_str().into());
        status.insert("podIPs".into(), json!([{"ip": sighting.pod_ip}]));
    }
    status.insert("startTime".into(), rfc3339(sighting.seen).into());
    let init = containers(spec, "initContainers");
    if !init.is_empty() {
        // Init containers have ended well by the time the others run, however those end.
        let report = match report {
            Report::Creating => &Report::Creating,
            _ => &Report::Ended(Exit::success()),
        };
        let statuses = init
            .iter()
            .map(|c| container_status(uid, c, report, sighting));
        status.insert("initContainerStatuses".into(), statuses.collect());
    }
    let own = containers(spec, "containers");
    let statuses = own
        .iter()
        .map(|c| container_status(uid, c, report, sighting));
    status.insert("containerStatuses".into(), statuses.collect());
    let qos = before["qosClass"].as_str();
    status.insert("qosClass".into(), qos.unwrap_or("BestEffort").into());
    Value::Object(status)
}

fn containers<'a>(spec: &'a Value, list: &str) -> &'a [Value] {
    spec[list].as_array().map_or(&[], Vec::as_slice)
}

fn conditions(report: &Report, sighting: &Sighting) -> Value {
    let seen = rfc3339(sighting.seen);
    let now = rfc3339(sighting.now);
    let condition = |kind: &str, since: &str, reason: Option<&str>, holds: bool| {
        // And the `lastProbeTime`, null, which the API server shows.
        let mut condition = Map::with_capacity(5);
        condition.insert("type".into(), kind.into());
        condition.insert("status".into(), if holds { "True" } else { "False" }.into());
        condition.insert("lastTransitionTime".into(), since.into());
        if let Some(reason) = reason {
            condition.insert("reason".into(), reason.into());
        }
        Value::Object(condition)
    };
    let (ready, not_ready) = match report {
        Report::Creating | Report::Waiting(..) => (false, Some("ContainersNotReady")),
        Report::Running => (true, None),
        Report::Ended(exit) if exit.code == 0 => (false, Some("PodCompleted")),
        Report::Ended(_) | Report::Rejected(..) => (false, Some("PodFailed")),
    };
    let completed = not_ready.filter(|reason| *reason == "PodCompleted");
    let sandbox = *report == Report::Running;
    Value::Array(vec![
        condition("PodReadyToStartContainers", &now, None, sandbox),
        condition("Initialized", &seen, completed, true),
        condition("Ready", &now, not_ready, ready),
        condition("ContainersReady", &now, not_ready, ready),
        condition("PodScheduled", &seen, None, true),
    ])
}

fn container_status(uid: &str, container: &Value, report: &Report, sighting: &Sighting) -> Value {
    let name = container["name"].as_str().unwrap_or_default();
    let image = container["image"].as_str().unwrap_or_default();
    let running = *report == Report::Running;
    let mut status = Map::with_capacity(9);
    status.insert("name".into(), name.into());
    status.insert("image".into(), image.into());
    status.insert("restartCount".into(), 0.into());
    status.insert("ready".into(), running.into());
    status.insert("started".into(), running.into());
    status.insert("lastState".into(), json!({}));
    let waiting = match report {
        Report::Creating => Some(json!({"reason": "ContainerCreating"})),
        Report::Waiting(reason, message) => Some(json!({"reason": reason, "message": message})),
        _ => None,
    };
    if let Some(waiting) = waiting {
        status.insert("imageID".into(), "".into());
        status.insert("state".into(), json!({"waiting": waiting}));
        return Value::Object(status);
    }
    let id = format!("containerd://{uid}-{name}");
    let started = rfc3339(sighting.started);
    status.insert(
        "imageID".into(),
        format!("docker-pullable://{image}").into(),
    );
    let state = match report {
        Report::Running | Report::Waiting(..) | Report::Creating | Report::Rejected(..) => {
            json!({"running": {"startedAt": started}})
        }
        Report::Ended(exit) => {
            let mut state = json!({
                "exitCode": exit.code,
                "reason": if exit.code == 0 { "Completed" } else { "Error" },
                "startedAt": started,
                "finishedAt": rfc3339(sighting.now),
                "containerID": id,
            });
            if !exit.message.is_empty() {
                state["message"] = exit.message.as_str().into();
            }
            json!({ "terminated": state })
        }
    };
    status.insert("state".into(), state);
    status.insert("containerID".into(), id.into());
    Value::Object(status)
}

/// A time as the API writes it, whole seconds.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    /// The due time of every step of one pod, and its last step.
    fn play(lifecycle: &Lifecycle, name: &str) -> (Vec<Duration>, Step) {
        let mut stream = Seed::of_run(1).stream(name);
        let mut step = Step::Accepted;
        let mut due = Vec::new();
        while let Some((at, next)) = lifecycle.next(step, &mut stream) {
            due.push(at);
            step = next;
        }
        (due, step)
    }

    #[test]
    fn steady_pods_live_for_exactly_their_lifetime_in_order() {
        let lifecycle = Lifecycle::steady(Duration::from_millis(2_500), 0.5);
        for pod in 0..100 {
            let (due, last) = play(&lifecycle, &format!("pod-{pod}"));
            assert_eq!(due.len(), 4);
            assert!(due.is_sorted(), "{due:?}");
            assert_eq!(due[3], Duration::from_millis(2_500));
            assert!(last.is_end());
        }
    }

    #[test]
    fn pods_of_a_spread_live_within_it_and_not_all_alike() {
        let (least, most) = (Duration::from_secs(20), Duration::from_mins(1));
        let lifecycle = Lifecycle::spread(least, most, 0.0);
        assert_eq!(lifecycle.longest(), most);
        let lives: std::collections::BTreeSet<Duration> = (0..100)
            .map(|pod| play(&lifecycle, &format!("pod-{pod}")).0[3])
            .collect();
        assert!(lives.len() > 90 && lives.iter().all(|life| (least..=most).contains(life)));
    }

    #[test]
    fn failure_share_is_the_share_of_pods_that_fail() {
        let failed = |share| {
            let lifecycle = Lifecycle::steady(Duration::from_secs(2), share);
            let ends = (0..2_000).map(|pod| play(&lifecycle, &format!("pod-{pod}")).1);
            ends.filter(|end| *end == Step::Failed).count()
        };
        assert_eq!(failed(0.0), 0);
        assert_eq!(failed(1.0), 2_000);
        assert!((120..=280).contains(&failed(0.1)), "{}", failed(0.1));
    }

    #[test]
    fn uneven_pods_end_whichever_way_they_take() {
        let lifecycle = Lifecycle::uneven(Duration::from_secs(2), 0.1);
        for pod in 0..500 {
            assert!(play(&lifecycle, &format!("pod-{pod}")).1.is_end());
        }
    }

    #[test]
    fn stages_are_data() {
        let text =
            r#"[{"from":"accepted","delayMsMin":1,"delayMsMax":2,"weight":1,"to":"succeeded"}]"#;
        let lifecycle: Lifecycle = serde_json::from_str(text).unwrap();
        assert_eq!(play(&lifecycle, "x").1, Step::Succeeded);
        assert_eq!(serde_json::to_string(&lifecycle).unwrap(), text);
    }

    fn sighting() -> Sighting {
        Sighting {
            host_ip: "172.20.0.1".into(),
            pod_ip: "10.128.0.2".into(),
            seen: "2026-01-01T00:00:00Z".parse().unwrap(),
            started: "2026-01-01T00:00:01Z".parse().unwrap(),
            now: "2026-01-01T00:00:02.5Z".parse().unwrap(),
        }
    }

    fn reported(report: &Report) -> Value {
        let spec = json!({
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{"name": "job", "image": "i"}],
        });
        let before = json!({"phase": "Pending", "qosClass": "Burstable"});
        status("u", &spec, &before, report, &sighting())
    }

    #[test]
    fn a_failed_pod_says_why_in_its_container_and_not_in_its_init_container() {
        let status = reported(&Report::Ended(Exit::failure("no luck")));
        assert_eq!(status["phase"], "Failed");
        assert_eq!(status["qosClass"], "Burstable");
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["exitCode"], 1);
        assert_eq!(ended["reason"], "Error");
        assert_eq!(ended["message"], "no luck");
        assert_eq!(ended["startedAt"], "2026-01-01T00:00:01Z");
        assert_eq!(ended["finishedAt"], "2026-01-01T00:00:02Z");
        let init = &status["initContainerStatuses"][0]["state"]["terminated"];
        assert_eq!(init["reason"], "Completed");
    }

    #[test]
    fn every_status_is_one_the_api_types_can_read() {
        let reports = [
            Report::Creating,
            Report::Running,
            Report::Ended(Exit::success()),
            Report::Ended(Exit::terminated()),
            Report::Waiting("ImagePullBackOff", "no such image"),
            Report::Rejected("OutOfcpu", "no CPU left"),
        ];
        let phases = [
            "Pending",
            "Running",
            "Succeeded",
            "Failed",
            "Pending",
            "Failed",
        ];
        for (report, phase) in reports.iter().zip(phases) {
            let typed: k8s_openapi::api::core::v1::PodStatus =
                serde_json::from_value(reported(report)).unwrap();
            assert_eq!(typed.phase.as_deref(), Some(phase));
            let has_run = matches!(report, Report::Running | Report::Ended(_));
            assert_eq!(typed.pod_ip.is_some(), has_run);
        }
    }
}
