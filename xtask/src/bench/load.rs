//! Posts over connections that stay open, each its own thread that waits for its answer: as cheap as a client can be,
//! since it shares the machine with what it measures.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::Cost;

pub(super) const CONNECTIONS: usize = 32;

/// An answer that takes longer will not come.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longer heads than any server here sends.
const HEAD_BYTES_MAX: usize = 4 << 10;

/// Results for the nodes whose paths these are, in turn.
pub(super) struct Load<'l> {
    pub(super) server: SocketAddr,
    pub(super) paths: &'l [String],
    /// Writes the body of the post of that number.
    pub(super) body: &'l (dyn Fn(usize, &mut Vec<u8>) + Sync),
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) posts: usize,
    pub(super) time: Duration,
    /// The time that 99 of 100 posts were answered within.
    pub(super) p99: Duration,
    /// What the client itself took.
    pub(super) client: Duration,
}

impl Answered {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn rate(&self) -> f64 {
        self.posts as f64 / self.time.as_secs_f64()
    }
}

impl Load<'_> {
    /// Posts all of these numbers.
    ///
    /// # Errors
    /// If one is not answered with 200.
    pub(super) fn post(&self, numbers: Range<usize>) -> Result<Answered> {
        self.post_until(numbers, &AtomicBool::new(false))
    }

    /// Posts these numbers until the end is told.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub(super) fn post_until(&self, numbers: Range<usize>, end: &AtomicBool) -> Result<Answered> {
        let ready = Barrier::new(CONNECTIONS + 1);
        let before = Cost::of_this_process()?.cpu();
        let (times, time) = thread::scope(|scope| {
            let posting: Vec<_> = (0..CONNECTIONS)
                .map(|connection| {
                    let numbers = (numbers.clone()).skip(connection).step_by(CONNECTIONS);
                    let numbers = numbers.take_while(|_| !end.load(Ordering::Relaxed));
                    let ready = &ready;
                    scope.spawn(move || {
                        let stream = self.connect();
                        ready.wait();
                        self.post_each(&mut stream?, numbers)
                    })
                })
                .collect();
            ready.wait();
            let begin = Instant::now();
            let mut times = Vec::new();
            for one in posting {
                times.extend(one.join().ok().context("a connection's thread died")??);
            }
            anyhow::Ok((times, begin.elapsed()))
        })?;
        ensure!(!times.is_empty(), "nothing was posted");
        Ok(Answered {
            posts: times.len(),
            time,
            p99: percentile_99(times),
            client: Cost::of_this_process()?.cpu().saturating_sub(before),
        })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(stream)
    }

    /// How long each took.
    fn post_each(
        &self,
        stream: &mut TcpStream,
        numbers: impl Iterator<Item = usize>,
    ) -> Result<Vec<Duration>> {
        let (mut body, mut request) = (Vec::new(), Vec::new());
        let mut times = Vec::with_capacity(numbers.size_hint().1.unwrap_or_default());
        for number in numbers {
            body.clear();
            (self.body)(number, &mut body);
            request.clear();
            write!(
                request,
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                self.paths[number % self.paths.len()],
                self.server,
                body.len()
            )?;
            request.extend_from_slice(&body);
            let begin = Instant::now();
            stream.write_all(&request)?;
            read_empty_answer(stream).with_context(|| format!("post {number}"))?;
            times.push(begin.elapsed());
        }
        Ok(times)
    }
}

/// Reads an answer that must be 200 without a body.
fn read_empty_answer(stream: &mut impl std::io::Read) -> Result<()> {
    let mut head = [0; HEAD_BYTES_MAX];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut head[length..])?;
        length += read;
        ensure!(
            read > 0 && head.starts_with(b"HTTP/1.1 200 "),
            "answered {}",
            String::from_utf8_lossy(&head[..length])
        );
    }
    Ok(())
}

fn percentile_99(mut times: Vec<Duration>) -> Duration {
    let at = (times.len() * 99).div_ceil(100) - 1;
    *times.select_nth_unstable(at).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_hundred_takes_longer_than_the_99th_percentile() {
        let times: Vec<Duration> = (0..100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_99(times), Duration::from_millis(98));
        assert_eq!(percentile_99(vec![Duration::ZERO]), Duration::ZERO);
    }

    #[test]
    fn an_answer_is_read_to_the_end_of_its_head_and_must_be_200() {
        let check = |answer: &str| read_empty_answer(&mut answer.as_bytes());
        assert!(check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok());
        let broken_off = check("HTTP/1.1 200 OK\r\n").unwrap_err();
        assert!(broken_off.to_string().contains("200 OK"));
        let refused = check("HTTP/1.1 406 Not Acceptable\r\ncontent-length: 2\r\n\r\nno");
        assert!(refused.unwrap_err().to_string().contains("406"));
    }
}
