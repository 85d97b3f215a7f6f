//! `batch-job-controller mock`: what a job's author sees of it.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

#[path = "support/lines.rs"]
mod lines;
#[path = "support/mock.rs"]
mod mock;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use tempfile::TempDir;

use self::mock::{Mock, shown};

/// Posts, and gives the status and the body of the answer.
fn post(url: &str, body: &str) -> (u16, String) {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A line without the time of day at its beginning.
fn untimed(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 9 && time.ends_with('Z'), "{line}");
    rest
}

#[test]
fn what_arrives_is_stored_and_printed() {
    let directory = TempDir::new().unwrap();
    let reports = directory.path().join("reports");
    let config = directory.path().join("config.yaml");
    let text = "
name: audit
cronExpression: 42 3 * * *
metrics: {gauges: {disk: {help: a test, labels: [mount]}}}
";
    std::fs::write(&config, text).unwrap();
    let mock = Mock::start(&[
        "--port",
        "0",
        "--config",
        shown(&config),
        "--report-directory",
        shown(&reports),
    ]);
    assert_eq!(mock.directory(), reports);
    assert!(
        mock.introduction
            .contains(&"Gauges: disk{mount}".to_owned())
    );
    let execution = mock.variable("EXECUTION_ID");
    let result = mock.variable("CALLBACK_SERVICE_RESULT_URL");

    let body = r#"{"disk": [{"value": 0.5, "labels": {"mount": "/"}}], "other": [{"value": 1}]}"#;
    assert_eq!(post(&result, body).0, 200);
    assert_eq!(mock.stored("node-1.json"), body.as_bytes());
    let path = reports.join(&execution).join("node-1.json");
    let of_node = format!("of node node-1, execution {execution}");
    assert_eq!(
        untimed(&mock.lines.next().unwrap()),
        format!(
            "result  {of_node}: 2 samples, {} bytes in {}",
            body.len(),
            path.display()
        )
    );
    let series = format!(r#"audit_disk{{executionID="{execution}",mount="/",node="node-1"}} 0.5"#);
    assert_eq!(mock.lines.next().unwrap().trim(), series);
    assert_eq!(
        mock.lines.next().unwrap().trim(),
        "note: other is not exported: it is not among metrics.gauges"
    );

    let file = mock.variable("CALLBACK_SERVICE_FILE_URL");
    assert_eq!(post(&format!("{file}?name=a.txt"), "content").0, 200);
    assert_eq!(mock.stored("node-1-a.txt"), b"content");
    let path = reports.join(&execution).join("node-1-a.txt");
    assert_eq!(
        untimed(&mock.lines.next().unwrap()),
        format!("file    {of_node}: 7 bytes in {}", path.display())
    );

    let event = mock.variable("CALLBACK_SERVICE_EVENT_URL");
    let body = r#"{"warning": true, "reason": "Full", "message": "disk %s", "args": ["sda"]}"#;
    assert_eq!(post(&event, body).0, 200);
    assert_eq!(
        untimed(&mock.lines.next().unwrap()),
        format!("event   {of_node}: Warning Full: disk sda")
    );

    let (status, rest) = mock.interrupt();
    assert_eq!((status, rest.len()), (Some(0), 1));
    assert!(rest[0].contains(shown(&reports)), "{rest:?}");
}

#[test]
fn a_refusal_is_printed_with_what_its_sender_gets() {
    let directory = TempDir::new().unwrap();
    let mock = Mock::start(&["--port", "0", "--report-directory", shown(directory.path())]);
    let result = mock.variable("CALLBACK_SERVICE_RESULT_URL");
    for (url, body, status) in [
        (result.clone(), "{}", 400),
        (result.replace("node-1", "No_Node"), "{}", 406),
        (result.replace("/result", "/results"), "{}", 404),
    ] {
        let (answered, reason) = post(&url, body);
        assert_eq!(answered, status);
        let path = url.splitn(4, '/').nth(3).unwrap();
        assert_eq!(
            untimed(&mock.lines.next().unwrap()),
            format!("refused {status} POST /{path}: {}", reason.trim_end())
        );
    }
}

#[test]
fn the_printed_requests_work_as_they_are_typed() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: there is no curl to type the printed requests with");
        return;
    }
    let directory = TempDir::new().unwrap();
    let mock = Mock::start(&["--port", "0", "--report-directory", shown(directory.path())]);
    let requests: Vec<&str> = (mock.introduction.iter())
        .map(|line| line.trim())
        .filter(|line| line.starts_with("curl "))
        .collect();
    assert_eq!(requests.len(), 3);
    for (request, kind) in requests.into_iter().zip(["result ", "file ", "event "]) {
        let request = request.replacen("curl", "curl --silent --fail", 1);
        let status = Command::new("sh").args(["-c", &request]).status();
        assert!(status.unwrap().success(), "{request}");
        mock.lines.until(kind);
    }
}

#[test]
fn reports_go_to_a_directory_of_their_own_that_stays() {
    let mock = Mock::start(&["--port", "0"]);
    let directory = mock.directory();
    assert_eq!(
        post(&mock.variable("CALLBACK_SERVICE_FILE_URL"), "content").0,
        200
    );
    assert_eq!(mock.interrupt().0, Some(0));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_wrong_configuration_and_a_taken_port_are_said() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_batch-job-controller"))
            .env_clear()
            .arg("mock")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("config.yaml");
    std::fs::write(&config, "cronExpression: '@daily'").unwrap();
    assert!(run(&["--config", shown(&config)]).starts_with("error: name: "));

    let taken = Mock::start(&["--port", "0", "--report-directory", shown(directory.path())]);
    let port = taken.variable("CALLBACK_SERVICE_PORT");
    let error = run(&[
        "--port",
        &port,
        "--report-directory",
        shown(directory.path()),
    ]);
    assert!(
        error.starts_with(&format!("error: --port: port {port} cannot be listened on")),
        "{error}"
    );
}
