//! The little HTTP/1.1 that these commands need, to servers on this machine: one request a connection, or many where it
//! is the connection that is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A server that does not answer within this time is not well; nothing asked here takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An upload waits for its answer until everything is on disk.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text, with replacements where it is none.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks for `path`.
///
/// # Errors
/// If the server cannot be reached or does not speak HTTP.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<Response> {
    let mut stream = connect(server, TIMEOUT)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )?;
    read_response(&mut BufReader::new(stream)).with_context(|| format!("GET http://{server}{path}"))
}

/// Asks for `path`, which must be there.
///
/// # Errors
/// As [`get`], or if the status is not 200.
pub(crate) fn get_text(server: SocketAddr, path: &str) -> Result<String> {
    let response = get(server, path)?;
    if response.status != 200 {
        bail!(
            "GET http://{server}{path} answers {}: {}",
            response.status,
            response.text().trim()
        );
    }
    Ok(response.text())
}

/// Asks for `path` and hands over each line of the answer as it comes, until the server ends it.
///
/// # Errors
/// As [`get_text`], or where it breaks off.
pub(crate) fn get_lines(
    server: SocketAddr,
    path: &str,
    mut take: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut stream = connect(server, TIMEOUT)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )?;
    let mut stream = BufReader::new(stream);
    let head = read_head(&mut stream)?;
    if head.status != 200 || !head.is_chunked {
        bail!("GET http://{server}{path} answers {}", head.status);
    }
    // Nothing may happen for a while.
    stream.get_ref().set_read_timeout(None)?;
    let mut text = Vec::new();
    while read_chunk(&mut stream, &mut text)? {
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            take(String::from_utf8_lossy(&line).trim_end())?;
        }
    }
    Ok(())
}

/// Posts a JSON document; returns the one that answers.
///
/// # Errors
/// As [`get`], or if the status is not a success.
pub(crate) fn post_json(server: SocketAddr, path: &str, document: &Value) -> Result<Value> {
    send_json(server, "POST", path, "application/json", document)
}

/// Merges a JSON document into what is at `path` (RFC 7396); returns the result.
///
/// # Errors
/// As [`get`], or if the status is not a success.
pub(crate) fn merge_json(server: SocketAddr, path: &str, document: &Value) -> Result<Value> {
    send_json(
        server,
        "PATCH",
        path,
        "application/merge-patch+json",
        document,
    )
}

fn send_json(
    server: SocketAddr,
    method: &str,
    path: &str,
    content_type: &str,
    document: &Value,
) -> Result<Value> {
    let body = document.to_string();
    let head = Head {
        method,
        path,
        content_type,
        length: body.len() as u64,
    };
    let response = send(server, &head, TIMEOUT, |stream| {
        stream.write_all(body.as_bytes())
    })?;
    if !(200..300).contains(&response.status) {
        bail!(
            "{method} http://{server}{path} answers {}: {}",
            response.status,
            response.text().trim()
        );
    }
    Ok(serde_json::from_slice(&response.body)?)
}

/// Posts `length` bytes that `write_body` writes.
///
/// # Errors
/// As [`get`], or if the body cannot be written.
pub(crate) fn upload(
    server: SocketAddr,
    path: &str,
    length: u64,
    write_body: impl FnOnce(&mut TcpStream) -> std::io::Result<()>,
) -> Result<Response> {
    let head = Head {
        method: "POST",
        path,
        content_type: "application/octet-stream",
        length,
    };
    send(server, &head, UPLOAD_TIMEOUT, write_body)
}

/// The beginning of a request with a body.
#[derive(Debug)]
struct Head<'h> {
    method: &'h str,
    path: &'h str,
    content_type: &'h str,
    length: u64,
}

/// A connection that stays open for many requests.
#[derive(Debug)]
pub(crate) struct Connection {
    server: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub(crate) fn open(server: SocketAddr) -> Result<Self> {
        let stream = connect(server, TIMEOUT)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            server,
            stream: BufReader::new(stream),
        })
    }

    /// Asks, with a JSON body unless it is empty, and reads the answer.
    ///
    /// # Errors
    /// As [`get`].
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Response> {
        self.send(method, path, body)?;
        read_response(&mut self.stream).with_context(|| format!("{method} {path}"))
    }

    /// Asks for what goes on as long as it is read, head and chunks and all.
    ///
    /// # Errors
    /// As [`get`].
    pub(crate) fn stream(mut self, path: &str) -> Result<impl Read> {
        self.send("GET", path, "")?;
        Ok(self.stream)
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        let (server, length) = (self.server, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        Ok(self.stream.get_mut().write_all(request.as_bytes())?)
    }
}

fn send(
    server: SocketAddr,
    head: &Head<'_>,
    timeout: Duration,
    write_body: impl FnOnce(&mut TcpStream) -> std::io::Result<()>,
) -> Result<Response> {
    let Head {
        method,
        path,
        content_type,
        length,
    } = head;
    let mut stream = connect(server, timeout)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    // A server that refuses answers before it has read everything: then its answer counts, not the broken pipe.
    let written = write_body(&mut stream);
    if let Err(error) = &written
        && error.kind() == std::io::ErrorKind::Interrupted
    {
        bail!("interrupted while posting to {path}");
    }
    let response = read_response(&mut BufReader::new(stream));
    match (written, response) {
        (_, Ok(response)) => Ok(response),
        (Err(error), Err(_)) => {
            Err(error).with_context(|| format!("{method} http://{server}{path}"))
        }
        (Ok(()), Err(error)) => Err(error.context(format!("{method} http://{server}{path}"))),
    }
}

fn connect(server: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, TIMEOUT)
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// What is known of an answer before its body.
struct AnswerHead {
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
}

fn read_head(stream: &mut impl BufRead) -> Result<AnswerHead> {
    let status_line = read_line(stream)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no HTTP answer: {status_line:?}"))?;
    let mut head = AnswerHead {
        status,
        length: None,
        is_chunked: false,
    };
    loop {
        let line = read_line(stream)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(head);
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                head.length = Some(value.parse().context("content-length is no number")?);
            }
            "transfer-encoding" => head.is_chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
}

fn read_response(stream: &mut impl BufRead) -> Result<Response> {
    let AnswerHead {
        status,
        length,
        is_chunked,
    } = read_head(stream)?;
    let mut body = Vec::new();
    if is_chunked {
        while read_chunk(stream, &mut body)? {}
    } else if let Some(length) = length {
        let read = stream.take(length).read_to_end(&mut body)?;
        if read as u64 != length {
            bail!("the answer broke off after {read} of {length} bytes");
        }
    } else {
        stream.read_to_end(&mut body)?;
    }
    Ok(Response { status, body })
}

/// Appends the next chunk; false at the end.
fn read_chunk(stream: &mut impl BufRead, body: &mut Vec<u8>) -> Result<bool> {
    let line = read_line(stream)?;
    let size = line.split(';').next().unwrap_or_default();
    let size =
        u64::from_str_radix(size.trim(), 16).with_context(|| format!("no chunk size: {line:?}"))?;
    let read = stream.take(size).read_to_end(body)?;
    if read as u64 != size {
        bail!("the answer broke off within a chunk");
    }
    read_line(stream)?;
    Ok(size > 0)
}

fn read_line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("the answer broke off");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Result<(u16, &str), &str>) {
        let found = read_response(&mut answer.as_bytes());
        match (found, expected) {
            (Ok(found), Ok((status, body))) => {
                assert_eq!((found.status, found.text().as_str()), (status, body));
            }
            (Err(found), Err(part)) => assert!(format!("{found:#}").contains(part), "{found:#}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_body_is_as_long_as_the_answer_says() {
        check(
            "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nokay",
            Ok((201, "ok")),
        );
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
            Err("broke off after 2 of 9"),
        );
        check(
            "HTTP/1.0 404 Not Found\r\n\r\nuntil the end",
            Ok((404, "until the end")),
        );
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{head}3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"),
            Ok((200, "abc0123456789")),
        );
        check(&format!("{head}3\r\nab"), Err("within a chunk"));
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        check("SSH-2.0-x\r\n", Err("no HTTP answer"));
        check("", Err("broke off"));
    }
}
