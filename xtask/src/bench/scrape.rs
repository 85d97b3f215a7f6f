//! One scrape of very many series: its time, its size, what it takes in memory, and what callbacks notice of it.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;

use super::callbacks::write_result;
use super::callee::Called;
use super::load::{Answered, Load};
use super::{Row, Target, megabytes, middle};
use crate::cargo::Binaries;
use crate::interrupt::Interrupt;

const NODES: u32 = 5_000;

/// Series of one gauge on each node: together 750,000.
const SERIES: usize = 150;

/// The middle one counts.
const SCRAPES: usize = 5;

/// More posts than can be answered while it is scraped.
const POSTS_MAX: usize = 10_000_000;

/// How long posts are measured where nobody scrapes.
const ALONE: Duration = Duration::from_secs(5);

/// As long as Prometheus waits by itself.
const SCRAPE_WITHIN: Duration = Duration::from_secs(10);

/// That of the Go controller where nobody scrapes.
const P99_TARGET_MILLISECONDS: f64 = 27.0;

/// # Errors
/// If a post or a scrape is not answered well, series are missing, or a process does not get ready.
pub(super) fn measure(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let bar = ProgressBar::new_spinner().with_message("a scrape of 750,000 series");
    bar.enable_steady_tick(Duration::from_millis(100));
    let called = Called::start(binaries, NODES, &[("reportDurability", "none")], interrupt)?;
    let load = |body| Load {
        server: called.address(),
        paths: &called.result_paths,
        body,
    };
    load(&write_many_series).post(0..NODES as usize)?;
    interrupt.check()?;
    let before = called.cost()?.peak_memory_bytes;
    let small = load(&write_result);
    let (alone, ()) = meanwhile(&small, || interrupt.sleep(ALONE))?;
    let (under_scrapes, scrapes) = meanwhile(&small, || {
        let scrapes = (0..SCRAPES).map(|_| {
            interrupt.check()?;
            scrape(called.metrics())
        });
        scrapes.collect::<Result<Vec<Scraped>>>()
    })?;
    let after = called.cost()?.peak_memory_bytes;
    bar.finish_and_clear();
    let wanted = NODES as usize * SERIES;
    for scrape in &scrapes {
        let lines = scrape.lines;
        ensure!(
            lines >= wanted,
            "{lines} lines of {wanted} series are scraped"
        );
    }
    let seconds = middle(
        scrapes
            .iter()
            .map(|scrape| scrape.time.as_secs_f64())
            .collect(),
    );
    let bytes = scrapes[0].bytes;
    let p99 = |answered: &Answered| answered.p99.as_secs_f64() * 1e3;
    let series = "scrape of 750,000 series";
    Ok(vec![
        Row {
            what: format!("{series}, while results are posted"),
            measured: seconds,
            unit: "s",
            beside: format!(
                "{:.0} MB of text; Prometheus waits {} s",
                megabytes(bytes),
                SCRAPE_WITHIN.as_secs()
            ),
            target: Some(Target::AtMost(SCRAPE_WITHIN.as_secs_f64())),
        },
        Row {
            what: format!("growth of the controller's memory, {series}"),
            measured: megabytes(after - before),
            unit: "MB",
            beside: format!("of {:.0} MB with the series", megabytes(before)),
            target: None,
        },
        Row {
            what: format!("99 of 100 results are answered within, {series} after another"),
            measured: p99(&under_scrapes),
            unit: "ms",
            beside: format!(
                "{:.1} ms without, the Go controller 27; {:.0} and {:.0} results per s",
                p99(&alone),
                under_scrapes.rate(),
                alone.rate()
            ),
            target: Some(Target::AtMost(P99_TARGET_MILLISECONDS)),
        },
    ])
}

/// Posts while something else is done.
fn meanwhile<T>(load: &Load<'_>, other: impl FnOnce() -> Result<T>) -> Result<(Answered, T)> {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let posting = scope.spawn(|| load.post_until(0..POSTS_MAX, &end));
        let done = other();
        end.store(true, Ordering::Relaxed);
        let answered = posting
            .join()
            .ok()
            .context("the thread that posts died")??;
        Ok((answered, done?))
    })
}

/// A result of [`SERIES`] series.
fn write_many_series(number: usize, body: &mut Vec<u8>) {
    body.extend_from_slice(br#"{"disk_used_ratio":["#);
    for series in 0..SERIES {
        let comma = if series == 0 { "" } else { "," };
        // Writing to a vector does not fail.
        let _ = write!(
            body,
            r#"{comma}{{"value":0.{number:06},"labels":{{"mount":"/var/lib/volumes/{series:03}"}}}}"#
        );
    }
    body.extend_from_slice(b"]}");
}

struct Scraped {
    time: Duration,
    bytes: u64,
    lines: usize,
}

fn scrape(server: SocketAddr) -> Result<Scraped> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(server)?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let time = begin.elapsed();
    Ok(Scraped {
        time,
        bytes: answer.len() as u64,
        lines: answer.split(|byte| *byte == b'\n').count(),
    })
}
