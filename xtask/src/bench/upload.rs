//! A report of 1 GiB: what it adds to the controller's memory, and how fast it goes to disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Row, Target, megabytes};
use crate::cargo::Binaries;
use crate::http;
use crate::interrupt::Interrupt;
use crate::stack::{PortOptions, Ports, Setup, Stack, localhost};

const UPLOAD_BYTES: u64 = 1 << 30;

/// One write; what goes over the socket and to disk is cut otherwise anyway.
const BLOCK_BYTES: usize = 1 << 20;

/// More than this would mean that bodies are kept somewhere; it is a few buffers, whatever the size of the report.
const ALLOWED_GROWTH_MEGABYTES: f64 = 16.777_216;

/// # Errors
/// If the upload is not accepted, or not whole on disk.
pub(super) fn measure(binaries: &Binaries, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let setup = Setup {
        nodes: 1,
        pool: 1,
        pod_seconds: 1.0,
        failure_share: 0.0,
        seed: 1,
        run_on_startup: false,
        dev_mode: true,
        config: Vec::new(),
    };
    let ports = Ports::choose(&PortOptions::default())?;
    let mut stack = Stack::start(binaries, &setup, ports, interrupt)?;
    let ceiling_seconds = write_plainly(&stack.reports().join("ceiling"), interrupt)?;

    let before = stack.controller_cost()?.peak_memory_bytes;
    let start = Instant::now();
    let path = "/report/node-1/202601010000/file?name=upload.bin";
    let response = http::upload(localhost(ports.callback), path, UPLOAD_BYTES, |stream| {
        write_blocks(stream, "uploading", interrupt)
    });
    interrupt.check()?;
    stack.check_alive()?;
    let response = response?;
    let upload_seconds = start.elapsed().as_secs_f64();
    ensure!(
        response.status == 200,
        "the upload is answered {}: {}",
        response.status,
        response.text().trim()
    );
    let stored = stack.reports().join("202601010000/node-1-upload.bin");
    let length = fs::metadata(&stored)
        .with_context(|| format!("no {}", stored.display()))?
        .len();
    ensure!(
        length == UPLOAD_BYTES,
        "{length} of {UPLOAD_BYTES} bytes are on disk"
    );
    let after = stack.controller_cost()?.peak_memory_bytes;

    let speed = |seconds: f64| megabytes(UPLOAD_BYTES) / seconds;
    Ok(vec![
        Row {
            what: "growth of the controller's memory, 1 GiB report".to_owned(),
            measured: megabytes(after - before),
            unit: "MB",
            beside: "the Go controller 2700 MB".to_owned(),
            target: Some(Target::AtMost(ALLOWED_GROWTH_MEGABYTES)),
        },
        Row {
            what: "speed of the upload, 1 GiB report".to_owned(),
            measured: speed(upload_seconds),
            unit: "MB/s",
            beside: format!(
                "{:.0} MB/s, the same bytes written and synced there by this process",
                speed(ceiling_seconds)
            ),
            target: None,
        },
    ])
}

/// The ceiling: the same bytes to the same file system, synced, with nobody in between. Returns the seconds.
fn write_plainly(path: &Path, interrupt: &Interrupt) -> Result<f64> {
    let start = Instant::now();
    let mut file = File::create(path)?;
    let written = write_blocks(&mut file, "writing plainly", interrupt);
    interrupt.check()?;
    written.context("cannot write the same bytes plainly")?;
    file.sync_all()?;
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(seconds)
}

fn write_blocks(
    target: &mut impl Write,
    what: &'static str,
    interrupt: &Interrupt,
) -> io::Result<()> {
    let bar = ProgressBar::new(UPLOAD_BYTES).with_message(what);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}  {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    // Some pattern, so that nothing on the way may leave out what is all zero.
    let block: Vec<u8> = (0..=250_u8).cycle().take(BLOCK_BYTES).collect();
    let mut left = UPLOAD_BYTES;
    while left > 0 {
        if interrupt.is_set() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        target.write_all(&block[..length])?;
        left -= length as u64;
        bar.inc(length as u64);
    }
    bar.finish_and_clear();
    Ok(())
}
