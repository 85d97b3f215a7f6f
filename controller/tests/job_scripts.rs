//! The example jobs, `examples/jobs`: what a stranger copies, run in the environment of a job pod.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

#[path = "support/jobs.rs"]
mod jobs;
#[path = "support/lines.rs"]
mod lines;
#[path = "support/mock.rs"]
mod mock;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use self::jobs::jobs;
use self::mock::{Mock, shown};

/// What a server does with a request.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Status(u16),
    /// It closes the connection without an answer.
    Nothing,
}

/// A callback API that does as it is told, and remembers what was posted: `result`, `file` or `event`.
struct Server {
    variables: Vec<(String, String)>,
    posted: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `reply` gets the kind of a request and how many of that kind came before.
    fn start(reply: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let posted: Arc<Mutex<Vec<String>>> = Arc::default();
        let variables = ["RESULT", "FILE", "EVENT"].map(|kind| {
            let url = format!(
                "http://{address}/report/node-1/202611232359/{}",
                kind.to_lowercase()
            );
            (format!("CALLBACK_SERVICE_{kind}_URL"), url)
        });
        let record = Arc::clone(&posted);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let kind = read_request(&mut stream);
                let earlier = {
                    let mut posted = record.lock().unwrap();
                    posted.push(kind.clone());
                    posted.iter().filter(|known| **known == kind).count() - 1
                };
                if let Reply::Status(status) = reply(&kind, earlier) {
                    let answer = format!(
                        "HTTP/1.1 {status} Told\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: 11\r\n\r\nthe reason\n"
                    );
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self {
            variables: variables.to_vec(),
            posted,
        }
    }

    fn posted(&self) -> Vec<String> {
        self.posted.lock().unwrap().clone()
    }
}

/// Reads a request to its end; its kind.
fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let (_, length) = headers
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    let kind = target.rsplit('/').next().unwrap();
    kind.split('?').next().unwrap().to_owned()
}

#[test]
fn each_delivers_a_file_an_event_and_a_result() {
    let (jobs, _busybox) = jobs();
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("config.yaml");
    let text = "
name: audit
cronExpression: 42 3 * * *
metrics: {gauges: {disk_used_ratio: {labels: [mount]}}}
";
    std::fs::write(&config, text).unwrap();
    for job in jobs {
        let reports = directory.path().join(job.title);
        let mock = Mock::start(&[
            "--port",
            "0",
            "--config",
            shown(&config),
            "--report-directory",
            shown(&reports),
        ]);
        let (ok, messages) = job.run(&mock.variables());
        assert!(ok && messages.is_empty(), "{}: {messages:?}", job.title);
        let lines = mock.lines.until("audit_disk_used_ratio{");
        let kinds: Vec<&str> = (lines.iter())
            .map(|line| line.split_whitespace().nth(1).unwrap())
            .collect();
        assert_eq!(kinds[..3], ["file", "event", "result"], "{lines:#?}");
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(
            lines[1].contains("Normal DiskChecked: used to 0."),
            "{}",
            lines[1]
        );
        assert!(lines[3].contains("mount=\"/\""), "{}", lines[3]);
        assert!(!mock.stored("node-1-df.txt").is_empty());
        assert!(
            mock.stored("node-1.json")
                .starts_with(b"{\"disk_used_ratio\"")
        );
    }
}

#[test]
fn each_waits_for_a_controller_that_is_not_there_yet() {
    let (jobs, _busybox) = jobs();
    for job in jobs {
        let directory = TempDir::new().unwrap();
        let arguments = ["--report-directory", shown(directory.path()), "--port"];
        let earlier = Mock::start(&[&arguments[..], &["0"]].concat());
        let variables = earlier.variables();
        let port = earlier.variable("CALLBACK_SERVICE_PORT");
        drop(earlier);
        let (mut child, messages) = job.start(&variables);
        messages.until("again in 1 s");
        let mock = Mock::start(&[&arguments[..], &[&port]].concat());
        assert!(child.wait().unwrap().success(), "{}", job.title);
        mock.lines.until("result");
    }
}

#[test]
fn each_comes_again_when_it_is_told_to() {
    let (jobs, _busybox) = jobs();
    for job in jobs {
        let server = Server::start(|kind, earlier| match (kind, earlier) {
            ("event", 0) => Reply::Status(429),
            (_, 0) => Reply::Status(503),
            _ => Reply::Status(200),
        });
        let (ok, messages) = job.run(&server.variables);
        assert!(ok, "{}: {messages:?}", job.title);
        let each = ["file", "event", "result"].map(|kind| [kind; 2]);
        assert_eq!(server.posted(), each.concat(), "{}", job.title);
        let pause = if job.sees_retry_after {
            "again in 0 s"
        } else {
            "again in 1 s"
        };
        let told = messages.iter().filter(|line| line.contains(pause));
        assert_eq!(told.count(), 3, "{}: {messages:?}", job.title);
    }
}

#[test]
fn none_comes_again_when_it_is_refused() {
    let (jobs, _busybox) = jobs();
    for job in jobs {
        let server = Server::start(|_, _| Reply::Status(400));
        let (ok, messages) = job.run(&server.variables);
        assert!(!ok, "{}", job.title);
        assert_eq!(
            server.posted(),
            ["file", "event", "result"],
            "{}",
            job.title
        );
        assert_eq!(messages.len(), 3, "{}: {messages:?}", job.title);
        for message in messages {
            let is_whole = message.contains("the reason") == job.sees_reasons;
            assert!(
                is_whole && message.contains("400"),
                "{}: {message}",
                job.title
            );
        }
    }
}

#[test]
fn an_event_alone_is_not_repeated_where_it_may_have_arrived() {
    let (jobs, _busybox) = jobs();
    for job in jobs {
        let server = Server::start(|_, earlier| match earlier {
            0 => Reply::Nothing,
            _ => Reply::Status(200),
        });
        let (ok, messages) = job.run(&server.variables);
        assert!(ok, "{}: {messages:?}", job.title);
        assert_eq!(
            server.posted(),
            ["file", "file", "event", "result", "result"],
            "{}",
            job.title
        );
        let noted = messages.iter().any(|line| line.contains("not sent again"));
        assert!(noted, "{}: {messages:?}", job.title);
    }
}
