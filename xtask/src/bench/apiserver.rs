//! What the simulated API server gives: writes, lists and watches a second, how small it is and how soon it is there.
//!
//! Beside each figure stands that of a real one, measured on a machine of the same kind: kube-apiserver with etcd that
//! does not sync, 16 connections.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Row, Target, megabytes, middle};
use crate::cargo::Binaries;
use crate::http::{self, Connection};
use crate::interrupt::Interrupt;
use crate::process::Process;

const PODS: usize = 16_000;
const CONNECTIONS: usize = 16;
const WATCHERS: usize = 100;

/// Pods created while the watchers watch.
const WATCHED_PODS: usize = 1_000;

/// Starts and lists are measured so often; the middle one counts.
const REPEATS: usize = 5;

const COLLECTION: &str = "/api/v1/namespaces/default/pods";

/// A server that is not there after this time will not come.
const START_WITHIN: Duration = Duration::from_secs(10);

/// What a real server needs or gives, and what we want of ours.
const REAL_CREATES_PER_SECOND: f64 = 1_600.0;
const CREATES_TARGET: f64 = 8.0 * REAL_CREATES_PER_SECOND;
const REAL_MEMORY_MEGABYTES: f64 = 720.0;
const MEMORY_TARGET: f64 = REAL_MEMORY_MEGABYTES / 10.0;
const REAL_LIST_SECONDS: f64 = 0.66;
const LIST_TARGET_SECONDS: f64 = 0.2;
const START_TARGET_MILLISECONDS: f64 = 50.0;

/// # Errors
/// If a server does not start, or answers otherwise than it should.
pub(super) fn measure(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let bar = ProgressBar::new_spinner().with_message("an API server alone");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut starts = Vec::new();
    for _ in 0..REPEATS {
        interrupt.check()?;
        starts.push(Server::start(binaries)?.started.as_secs_f64());
    }
    let server = Server::start(binaries)?;
    let http_alone = rate(
        PODS,
        ask_at_once(server.address, |connection, _| {
            connection.ask("GET", "/healthz", "").map(drop)
        })?,
    );
    // Made before: what is measured is the server.
    let pods: Vec<String> = (0..PODS + WATCHED_PODS)
        .map(|number| pod(number).to_string())
        .collect();
    let creates = rate(
        PODS,
        ask_at_once(server.address, |connection, number| {
            create(connection, &pods[number])
        })?,
    );
    let memory = megabytes(server.process.cost()?.peak_memory_bytes);
    interrupt.check()?;
    let mut lists = Vec::new();
    let mut bytes = 0;
    for _ in 0..REPEATS {
        let begin = Instant::now();
        let list = Connection::open(server.address)?.ask("GET", COLLECTION, "")?;
        lists.push(begin.elapsed().as_secs_f64());
        ensure!(list.status == 200, "the list is answered {}", list.status);
        bytes = list.body.len() as u64;
    }
    interrupt.check()?;
    let watched = watch(server.address, &pods[PODS..])?;
    bar.finish_and_clear();
    let figures = Figures {
        start_seconds: middle(starts),
        http_alone,
        creates,
        memory,
        list_seconds: middle(lists),
        list_megabytes: megabytes(bytes),
        watched,
    };
    Ok(figures.rows())
}

#[derive(Debug)]
struct Figures {
    start_seconds: f64,
    /// Requests a second that do nothing.
    http_alone: f64,
    creates: f64,
    memory: f64,
    list_seconds: f64,
    list_megabytes: f64,
    /// Events delivered a second.
    watched: f64,
}

impl Figures {
    fn rows(&self) -> Vec<Row> {
        let server = "API server";
        let row = |what: String, measured, unit, beside, target| Row {
            what: format!("{server}, {what}"),
            measured,
            unit,
            beside,
            target,
        };
        vec![
            row(
                "start to first answer".to_owned(),
                self.start_seconds * 1e3,
                "ms",
                "a real one in envtest 5,000 to 15,000 ms".to_owned(),
                Some(Target::AtMost(START_TARGET_MILLISECONDS)),
            ),
            row(
                format!("pods created over {CONNECTIONS} connections"),
                self.creates,
                "per s",
                format!(
                    "a real one {REAL_CREATES_PER_SECOND:.0}; GET /healthz, which is HTTP alone, {:.0}",
                    self.http_alone
                ),
                Some(Target::AtLeast(CREATES_TARGET)),
            ),
            row(
                format!("peak memory after {PODS} pods"),
                self.memory,
                "MB",
                format!(
                    "a real one {REAL_MEMORY_MEGABYTES:.0} MB; their JSON {:.0} MB",
                    self.list_megabytes
                ),
                Some(Target::AtMost(MEMORY_TARGET)),
            ),
            row(
                format!("list of {PODS} pods"),
                self.list_seconds,
                "s",
                format!("a real one {REAL_LIST_SECONDS} s"),
                Some(Target::AtMost(LIST_TARGET_SECONDS)),
            ),
            row(
                format!("events delivered to {WATCHERS} watchers"),
                self.watched,
                "per s",
                "of pods created meanwhile, read on the same machine".to_owned(),
                None,
            ),
        ]
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A simulated API server alone.
struct Server {
    process: Process,
    address: SocketAddr,
    /// From the start of the process to its first answer.
    started: Duration,
    _directory: TempDir,
}

impl Server {
    fn start(binaries: &Binaries) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(&binaries.simulator);
        command
            .args(["serve", "--nodes", "0"])
            .args(["--port", &free.port().to_string()])
            .arg("--kubeconfig")
            .arg(directory.path().join("kubeconfig"));
        let begin = Instant::now();
        let process = Process::start_logged("simulator", command, directory.path())?;
        while http::get(free, "/version").is_err() {
            ensure!(
                begin.elapsed() < START_WITHIN,
                "the simulator does not answer{}",
                process.last_lines()
            );
            thread::sleep(Duration::from_micros(200));
        }
        Ok(Self {
            process,
            address: free,
            started: begin.elapsed(),
            _directory: directory,
        })
    }
}

/// Asks [`PODS`] times over all connections at once; the time of it all.
fn ask_at_once(
    server: SocketAddr,
    ask: impl Fn(&mut Connection, usize) -> Result<()> + Sync,
) -> Result<Duration> {
    let ready = Barrier::new(CONNECTIONS + 1);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                let (ask, ready) = (&ask, &ready);
                scope.spawn(move || -> Result<()> {
                    let mut connection = Connection::open(server)?;
                    ready.wait();
                    (first..PODS)
                        .step_by(CONNECTIONS)
                        .try_for_each(|number| ask(&mut connection, number))
                })
            })
            .collect();
        ready.wait();
        let begin = Instant::now();
        for one in asking {
            one.join().ok().context("a connection's thread died")??;
        }
        Ok(begin.elapsed())
    })
}

fn create(connection: &mut Connection, pod: &str) -> Result<()> {
    let answer = connection.ask("POST", COLLECTION, pod)?;
    ensure!(
        answer.status == 201,
        "a pod is answered {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

/// A job pod as large as those of which the real server's figures are: 2.7 kB as it is listed.
fn pod(number: usize) -> Value {
    let variable = |name: &str, value: String| json!({"name": name, "value": value});
    let report = "http://batch-job-controller.batch.svc:8090/report";
    let node = format!("node-{}", number % 5_000);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("bench-job-{node}-{number}"),
            "labels": {
                "batch-job-controller.bakito.github.com/owner": "bench",
                "batch-job-controller.bakito.github.com/execution": "202601010000",
                "app.kubernetes.io/name": "bench-job",
            },
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "serviceAccountName": "bench-job",
            "containers": [{
                "name": "job",
                "image": "registry.example.com/platform/node-audit:v1.42.0",
                "command": ["/bin/sh", "-c", "exec /audit/run --all --post \"$CALLBACK_SERVICE_RESULT_URL\""],
                "env": [
                    variable("NODE_NAME", format!("node-{}", number % 5_000)),
                    variable("EXECUTION_ID", "202601010000".to_owned()),
                    variable("CALLBACK_SERVICE_NAME", "batch-job-controller".to_owned()),
                    variable("CALLBACK_SERVICE_PORT", "8090".to_owned()),
                    variable("CALLBACK_SERVICE_RESULT_URL", format!("{report}/node-{number}/202601010000/result")),
                    variable("CALLBACK_SERVICE_FILE_URL", format!("{report}/node-{number}/202601010000/file")),
                    variable("CALLBACK_SERVICE_EVENT_URL", format!("{report}/node-{number}/202601010000/event")),
                    variable("AUDIT_CHECKS", "kernel,kubelet,containerd,sysctl,mounts,certificates,clock,images,users".to_owned()),
                    variable("AUDIT_EXCLUDES", "/host/var/lib/containerd,/host/var/lib/kubelet/pods,/host/proc".to_owned()),
                    variable("AUDIT_TIMEOUT_SECONDS", "300".to_owned()),
                    variable("AUDIT_LOG_LEVEL", "info".to_owned()),
                ],
                "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
                "volumeMounts": [{"name": "host", "mountPath": "/host", "readOnly": true}],
            }],
            "volumes": [{"name": "host", "hostPath": {"path": "/var/lib/audit"}}],
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        },
    })
}

/// Events a second that all watchers together are told.
fn watch(server: SocketAddr, pods: &[String]) -> Result<f64> {
    let list = Connection::open(server)?.ask("GET", &format!("{COLLECTION}?limit=1"), "")?;
    let list: Value = serde_json::from_slice(&list.body)?;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a list without a version")?;
    let target = format!("{COLLECTION}?watch=1&resourceVersion={version}");
    thread::scope(|scope| {
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            let mut stream = Connection::open(server)?.stream(&target)?;
            watchers.push(scope.spawn(move || count_events(&mut stream)));
        }
        let begin = Instant::now();
        let mut connection = Connection::open(server)?;
        for pod in pods {
            create(&mut connection, pod)?;
        }
        for watcher in watchers {
            watcher.join().ok().context("a watcher's thread died")??;
        }
        Ok(rate(WATCHERS * WATCHED_PODS, begin.elapsed()))
    })
}

/// Reads until it has seen all events: each ends with a brace and the only newline that can follow one.
fn count_events(stream: &mut impl Read) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut seen, mut last) = (0, 0);
    while seen < WATCHED_PODS {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "a watch broke off after {seen} events");
        for byte in &buffer[..length] {
            seen += usize::from(*byte == b'\n' && last == b'}');
            last = *byte;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_a_brace_and_a_newline_wherever_the_reads_break() {
        let line = b"5\r\n{\"a\":1}\n\r\n".repeat(WATCHED_PODS);
        count_events(&mut line.as_slice()).unwrap();
        let broken = &line[..line.len() - 10];
        assert!(count_events(&mut &broken[..]).is_err());
    }
}
