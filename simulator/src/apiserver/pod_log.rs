//! `pods/{name}/log`: what a container has written, at once or as it comes.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::Response;

use super::ApiServer;
use super::query::Query;
use super::respond::text;
use crate::state::Status;
use crate::state::resource::PODS;

/// Which log, and how far it has been sent.
struct Follow {
    server: ApiServer,
    /// The pods: the one may end.
    changed: super::Changes,
    logged: super::Changes,
    namespace: String,
    pod: String,
    container: String,
    sent: usize,
}

/// Answers with the log; with `follow` until the pod has ended or is gone.
///
/// # Errors
/// 404 without the pod; 400 for a container that is unknown, must be named, or waits to start.
pub(super) fn serve(
    server: &ApiServer,
    namespace: &str,
    pod: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let container = query.get("container");
    let tail = query
        .number("tailLines")?
        .and_then(|n| usize::try_from(n).ok());
    let limit = query
        .number("limitBytes")?
        .and_then(|n| usize::try_from(n).ok());
    if query.flag("previous") {
        server.read(|state| state.pod_log(namespace, pod, Some(container)).map(|_| ()))?;
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {pod:?} not found"
        )));
    }
    let changed = server.subscribe_to(&PODS);
    let logged = server.subscribe_to_logs();
    let (start, shown, ended) = server.read(|state| {
        let log = state.pod_log(namespace, pod, Some(container))?;
        let start = tail.map_or(0, |lines| tail_start(log.text, lines));
        Ok::<_, Status>((start, log.text[start..].to_owned(), log.ended))
    })?;
    let sent = start + shown.len();
    if !query.flag("follow") || ended {
        let shown = match limit {
            Some(limit) => shown.into_bytes().into_iter().take(limit).collect(),
            None => shown.into_bytes(),
        };
        return Ok(text(shown));
    }
    let follow = Follow {
        server: server.clone(),
        changed,
        logged,
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
        sent,
    };
    let rest = stream::unfold((follow, Some(shown)), |(mut follow, first)| async move {
        let chunk = match first {
            Some(first) => Bytes::from(first),
            None => follow.next().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), (follow, None)))
    });
    Ok(text(Body::from_stream(rest)))
}

/// Where the last lines begin.
fn tail_start(text: &str, lines: usize) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.rmatch_indices('\n')
        .nth(lines - 1)
        .map_or(0, |(i, _)| i + 1)
}

impl Follow {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (more, ended) = self.server.read(|state| {
                let log = state
                    .pod_log(&self.namespace, &self.pod, Some(&self.container))
                    .ok()?;
                Some((
                    log.text.get(self.sent..).unwrap_or_default().to_owned(),
                    log.ended,
                ))
            })?;
            if !more.is_empty() {
                self.sent += more.len();
                return Some(Bytes::from(more));
            }
            if ended {
                return None;
            }
            tokio::select! {
                biased;
                changed = self.changed.changed() => changed.ok()?,
                logged = self.logged.changed() => logged.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_begins_at_the_last_lines() {
        for (lines, rest) in [(0, ""), (1, "c\n"), (2, "b\nc\n"), (9, "a\nb\nc\n")] {
            assert_eq!(&"a\nb\nc\n"[tail_start("a\nb\nc\n", lines)..], rest);
        }
        assert_eq!(tail_start("a\nb", 1), 2);
    }
}
