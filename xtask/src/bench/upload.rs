//! Reports of 1 GiB: what they add to the controller's memory, and how fast they go to disk.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::callee::{Called, Ceiling};
use super::{Row, Target, megabytes, middle};
use crate::cargo::Binaries;
use crate::http;
use crate::interrupt::Interrupt;

const UPLOAD_BYTES: u64 = 1 << 30;

/// One write; what goes over the socket and to disk is cut otherwise anyway.
const BLOCK_BYTES: usize = 1 << 20;

/// More than this would mean that bodies are kept somewhere; it is a few buffers, whatever the size of the report.
const ALLOWED_GROWTH_MEGABYTES: f64 = 8.388_608;

/// Of the ceiling's speed, what is allowed.
const SPEED_SHARE: f64 = 0.8;

/// How often each of the two has its turn; the middle one counts.
const ROUNDS: usize = 3;

/// # Errors
/// If an upload is not accepted, or not whole on disk.
pub(super) fn measure(
    binaries: &Binaries,
    ceiling: &Path,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let called = Called::start(binaries, 1, &[("reportDurability", "fsync")], interrupt)?;
    let folder = called.reports()?;
    let ceiling = Ceiling::start(ceiling, &folder, true, interrupt)?;
    let path = format!("{}?name=upload.bin", called.file_paths[0]);
    let stored = folder.join("node-1-upload.bin");
    let before = called.cost()?.peak_memory_bytes;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(upload(
            called.address(),
            &path,
            &stored,
            "uploading",
            interrupt,
        )?);
        let stored = folder.join("ceiling-node-1.bin");
        theirs.push(upload(
            ceiling.address(),
            &path,
            &stored,
            "to a bare handler",
            interrupt,
        )?);
    }
    let after = called.cost()?.peak_memory_bytes;
    let (ours, theirs) = (middle(ours), middle(theirs));
    Ok(vec![
        Row {
            what: "growth of the controller's memory, reports of 1 GiB".to_owned(),
            measured: megabytes(after - before),
            unit: "MB",
            beside: "the Go controller 2700 MB".to_owned(),
            target: Some(Target::AtMost(ALLOWED_GROWTH_MEGABYTES)),
        },
        Row {
            what: "speed of the upload, reports of 1 GiB, synced".to_owned(),
            measured: ours,
            unit: "MB/s",
            beside: format!("a bare handler that streams to a file {theirs:.0} MB/s"),
            target: Some(Target::AtLeast(theirs * SPEED_SHARE)),
        },
    ])
}

/// Uploads, and removes the report again; returns the MB/s.
fn upload(
    server: SocketAddr,
    path: &str,
    stored: &Path,
    what: &'static str,
    interrupt: &Interrupt,
) -> Result<f64> {
    let start = Instant::now();
    let response = http::upload(server, path, UPLOAD_BYTES, |stream| {
        write_blocks(stream, what, interrupt)
    });
    interrupt.check()?;
    let response = response?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        response.status == 200,
        "the upload is answered {}: {}",
        response.status,
        response.text().trim()
    );
    let metadata = fs::metadata(stored).with_context(|| format!("no {}", stored.display()))?;
    let length = metadata.len();
    ensure!(
        length == UPLOAD_BYTES,
        "{length} of {UPLOAD_BYTES} bytes are on disk"
    );
    // None finds the blocks or the pages of another.
    fs::remove_file(stored)?;
    Ok(megabytes(UPLOAD_BYTES) / seconds)
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
