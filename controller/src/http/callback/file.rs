//! `POST …/file`: a raw body is one file, a multipart form any number; both are streamed to the store.

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::Limited;
use tracing::debug;

use super::{Callbacks, Caller, body_error, check_announced_length, not_taken, refused, too_large};
use crate::core::media_type::parse_media_type;
use crate::core::report_name;
use crate::http::error::HttpError;
use crate::ports::entropy::Entropy;
use crate::ports::report_store::{ReportStore, Upload as _};

/// A file that is on disk under a temporary name.
struct Received<U> {
    name: String,
    upload: U,
    bytes: u64,
}

/// The boundary of a form. Only `multipart/form-data` with a boundary is one, read as the original reads it; any other body
/// is stored as it is, whatever its type says.
fn form_boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = text(headers.get(header::CONTENT_TYPE))?;
    let mut media_type = parse_media_type(content_type).ok()?;
    if media_type.essence != "multipart/form-data" {
        return None;
    }
    media_type.parameters.remove("boundary")
}

/// A header's value, if it is UTF-8: file names often are, beyond ASCII.
fn text(value: Option<&HeaderValue>) -> Option<&str> {
    std::str::from_utf8(value?.as_bytes()).ok()
}

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    pub(super) async fn file(&self, caller: Caller, request: Request) -> Result<(), HttpError> {
        check_announced_length(&request, self.limits.file_bytes)?;
        let received = match form_boundary(request.headers()) {
            Some(boundary) => self.receive_form(&caller, request, &boundary).await?,
            None => vec![self.receive_body(&caller, request).await?],
        };
        // Everything has arrived: only now does any of it get its name.
        for file in received {
            self.store(&caller, file).await?;
        }
        Ok(())
    }

    async fn receive_body(
        &self,
        caller: &Caller,
        request: Request,
    ) -> Result<Received<R::Upload>, HttpError> {
        let name = report_name::body_file_name(
            request.uri().query(),
            text(request.headers().get(header::CONTENT_DISPOSITION)),
            text(request.headers().get(header::CONTENT_TYPE)),
            &self.entropy.uuid().to_string(),
        );
        let mut received = self.begin(caller, &name).await?;
        let limit = self.limits.file_bytes;
        let mut chunks = request.into_body().into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| body_error(&error, limit))?;
            received.bytes += chunk.len() as u64;
            if received.bytes > limit {
                return Err(too_large(limit));
            }
            let written = received.upload.write(chunk).await;
            self.note_written(caller, written)?;
        }
        Ok(received)
    }

    async fn receive_form(
        &self,
        caller: &Caller,
        request: Request,
        boundary: &str,
    ) -> Result<Vec<Received<R::Upload>>, HttpError> {
        let limit = self.limits.file_bytes;
        let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut request = request.map(|body| Body::new(Limited::new(body, bytes)));
        // In the plainest spelling: the form's reader takes fewer than the original does.
        if let Ok(plain) =
            HeaderValue::try_from(format!("multipart/form-data; boundary=\"{boundary}\""))
        {
            request.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        let broken = |error: &MultipartError| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
            _ => refused(
                caller,
                format!("body: not a multipart form: {}", error.body_text()),
            ),
        };
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|error| {
            refused(
                caller,
                format!("body: not a multipart form: {}", error.body_text()),
            )
        })?;
        let mut received: Vec<Received<R::Upload>> = Vec::new();
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            let Some(name) =
                report_name::part_file_name(text(field.headers().get(header::CONTENT_DISPOSITION)))
            else {
                continue;
            };
            let file = self.receive_part(caller, &name, field, &broken).await?;
            // Of two parts of one name the last counts, as in the original.
            received.retain(|earlier| earlier.name != file.name);
            received.push(file);
        }
        Ok(received)
    }

    async fn receive_part(
        &self,
        caller: &Caller,
        name: &str,
        mut field: Field<'_>,
        broken: &impl Fn(&MultipartError) -> HttpError,
    ) -> Result<Received<R::Upload>, HttpError> {
        let mut received = self.begin(caller, name).await?;
        while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
            received.bytes += chunk.len() as u64;
            let written = received.upload.write(chunk).await;
            self.note_written(caller, written)?;
        }
        Ok(received)
    }

    async fn begin(&self, caller: &Caller, name: &str) -> Result<Received<R::Upload>, HttpError> {
        let name = report_name::stored_file_name(&caller.node, name)
            .map_err(|error| refused(caller, error.to_string()))?;
        self.check_owner(caller, &name)?;
        let begun = self.reports.begin(&caller.execution, &name).await;
        let upload = self.note_written(caller, begun)?;
        Ok(Received {
            name,
            upload,
            bytes: 0,
        })
    }

    async fn store(&self, caller: &Caller, file: Received<R::Upload>) -> Result<(), HttpError> {
        let finished = file.upload.finish().await;
        self.note_stored(caller, finished, file.bytes)?;
        debug!(execution_id = %caller.execution, node = caller.node, name = file.name, bytes = file.bytes, "file received");
        let told = self
            .handle
            .file_stored(caller.execution.clone(), caller.node.clone(), file.name)
            .await;
        told.map_err(|error| not_taken(&error))
    }
}
