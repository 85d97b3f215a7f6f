//! A relay in front of the simulated API server that notes every request line. It changes nothing.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// How much is passed on at a time.
const BUFFER_BYTES: usize = 16 << 10;

/// Longer lines are no request lines.
const LINE_BYTES: usize = 8 << 10;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub method: String,
    /// With its query.
    pub target: String,
}

/// A relay that runs until the process ends.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    address: SocketAddr,
    requests: Arc<Mutex<BTreeSet<Request>>>,
}

impl Recorder {
    /// Relays connections to a free port of 127.0.0.1 to `server`.
    ///
    /// # Errors
    /// If there is no free port.
    pub(super) fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let recorder = Self {
            address: listener.local_addr()?,
            requests: Arc::default(),
        };
        let relay = recorder.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let relay = relay.clone();
                thread::spawn(move || relay.connect(client, server));
            }
        });
        Ok(recorder)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The different requests so far.
    pub(super) fn requests(&self) -> BTreeSet<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// An error of either side ends the connection, which tells the other side.
    fn connect(&self, client: TcpStream, server: SocketAddr) {
        let Ok(server) = TcpStream::connect(server) else {
            return;
        };
        let (Ok(answers), Ok(asker)) = (server.try_clone(), client.try_clone()) else {
            return;
        };
        let back = thread::spawn(move || relay(answers, asker, |_| {}));
        let mut lines = Lines::default();
        relay(client, server, |bytes| {
            for request in lines.requests(bytes) {
                self.requests
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(request);
            }
        });
        let _ = back.join();
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        see(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The lines of a connection. A body is one line of JSON, which is none of a request.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn requests(&mut self, bytes: &[u8]) -> Vec<Request> {
        let mut requests = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                requests.extend(parse(&String::from_utf8_lossy(&line)));
            } else if self.line.len() < LINE_BYTES {
                self.line.push(*byte);
            }
        }
        requests
    }
}

/// A request line. A body may stand before it on its line: it ends without a line break.
fn parse(line: &str) -> Option<Request> {
    let line = line.trim_end().strip_suffix(" HTTP/1.1")?;
    let (before, target) = line.rsplit_once(' ')?;
    let method = METHODS.iter().find(|method| before.ends_with(*method))?;
    target.starts_with('/').then(|| Request {
        method: (*method).to_owned(),
        target: target.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_found_wherever_they_are_cut() {
        let sent = b"POST /api/v1/pods HTTP/1.1\r\nHost: a\r\n\r\n{\"a\": \"GET / HTTP/1.0\"}GET /api?watch=true HTTP/1.1\r\n\r\n";
        for cut in 0..sent.len() {
            let mut lines = Lines::default();
            let mut found = lines.requests(&sent[..cut]);
            found.extend(lines.requests(&sent[cut..]));
            let found: Vec<_> = found
                .iter()
                .map(|it| (it.method.as_str(), it.target.as_str()))
                .collect();
            assert_eq!(
                found,
                [("POST", "/api/v1/pods"), ("GET", "/api?watch=true")]
            );
        }
    }
}
