//! `POST …/file`: a raw body is one file, a multipart form any number up to a limit; both are streamed to the store.
//!
//! A fault does not end the reading where one that is answered before it may still come: the size shows only at the end
//! of a body whose length was not announced, a part of a form with a wrong name may be the last. Nothing is kept
//! meanwhile.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tracing::debug;

use super::faults::Faults;
use super::incoming::Incoming;
use super::{
    Callbacks, Caller, announced_length, check_announced_length, note_refused, to_its_end,
};
use crate::core::media_type::parse_media_type;
use crate::core::report_name;
use crate::http::error::HttpError;
use crate::ports::entropy::Entropy;
use crate::ports::report_store::{ReportStore, Upload};
use crate::runtime::admission::NODE_REPORTS_MAX;

/// The most files in one form: as many parts as Go's reader takes.
const FORM_FILES_MAX: usize = 1000;

/// The most files of a form that wait for its end with a buffer or a descriptor each; the others wait on disk.
const FORM_FILES_OPEN_MAX: usize = 16;

/// A file that is on disk under a temporary name, or on its way there.
struct Received<U> {
    upload: U,
    bytes: u64,
}

/// The files of one request by their stored names: none gets its name before all have arrived.
struct ReceivedFiles<U> {
    by_name: BTreeMap<String, Received<U>>,
    faults: Faults,
}

impl<U: Upload> ReceivedFiles<U> {
    fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    /// None of the files will be stored.
    fn refuse(&mut self, fault: HttpError) {
        self.by_name.clear();
        self.faults.note(fault);
    }

    /// The files, or the fault to be answered: where no length was announced, after the rest of the body has shown its
    /// size.
    async fn settle(
        mut self,
        incoming: &Incoming,
        is_length_known: bool,
    ) -> Result<BTreeMap<String, Received<U>>, HttpError> {
        if self.faults.is_any()
            && !is_length_known
            && let Err(error) = incoming.drain().await
        {
            self.faults.note(error.into());
        }
        match self.faults.into_first() {
            None => Ok(self.by_name),
            Some(fault) => Err(fault),
        }
    }
}

/// The boundary of a form. Only `multipart/form-data` with a boundary is one, read as the original reads it; any other
/// body is stored as it is, whatever its type says.
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

/// A form over what arrives.
async fn form_over(incoming: &Incoming, boundary: &str) -> Result<Multipart, HttpError> {
    let mut request = Request::new(Body::from_stream(incoming.chunks()));
    // In the plainest spelling: the form's reader takes fewer than the original does.
    if let Ok(plain) =
        HeaderValue::try_from(format!("multipart/form-data; boundary=\"{boundary}\""))
    {
        request.headers_mut().insert(header::CONTENT_TYPE, plain);
    }
    let form = Multipart::from_request(request, &()).await;
    form.map_err(|error| not_a_form(&error.body_text()))
}

fn not_a_form(reason: &str) -> HttpError {
    HttpError::bad_request(format!("body: not a multipart form: {reason}"))
}

fn broken(error: &MultipartError) -> HttpError {
    not_a_form(&error.body_text())
}

impl<R: ReportStore, E: Entropy> Callbacks<R, E> {
    pub(super) async fn file(&self, caller: Caller, request: Request) -> Result<(), HttpError> {
        let limit = self.limits.file_bytes;
        check_announced_length(&request, limit)?;
        let is_length_known = announced_length(&request).is_some();
        let (parts, body) = request.into_parts();
        let incoming = Incoming::new(body, limit);
        let mut files = ReceivedFiles::new();
        let received = if let Some(boundary) = form_boundary(&parts.headers) {
            self.receive_form(&caller, &incoming, &boundary, &mut files)
                .await
        } else {
            let name = report_name::body_file_name(
                parts.uri.query(),
                text(parts.headers.get(header::CONTENT_DISPOSITION)),
                text(parts.headers.get(header::CONTENT_TYPE)),
                &self.entropy.uuid().to_string(),
            );
            self.receive_body(&caller, &incoming, &name, &mut files)
                .await
        };
        if let Err(fault) = received {
            files.refuse(fault);
        }
        // A form's reader says of it what it will.
        if let Some(error) = incoming.error() {
            files.refuse(error.into());
        }
        let files = (files.settle(&incoming, is_length_known).await).inspect_err(|fault| {
            if fault.status.is_client_error() {
                note_refused(&caller, &fault.message);
            }
        })?;
        // Everything has arrived: only now does any of it get its name.
        let callbacks = self.clone();
        to_its_end(async move {
            for (name, file) in files {
                callbacks.store(&caller, name, file).await?;
            }
            Ok(())
        })
        .await
    }

    async fn receive_body(
        &self,
        caller: &Caller,
        incoming: &Incoming,
        name: &str,
        files: &mut ReceivedFiles<R::Upload>,
    ) -> Result<(), HttpError> {
        let name = self.stored_name(caller, name)?;
        self.check_room(caller, &name, 1).await?;
        let mut file = self.begin(caller, &name).await?;
        let mut chunks = incoming.chunks();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            file.bytes += chunk.len() as u64;
            let written = file.upload.write(chunk).await;
            self.note_written(caller, written)?;
        }
        files.by_name.insert(name, file);
        Ok(())
    }

    /// Receives the files of a form. An error is one after which no further part can be read; other faults are in
    /// `files`.
    async fn receive_form(
        &self,
        caller: &Caller,
        incoming: &Incoming,
        boundary: &str,
        files: &mut ReceivedFiles<R::Upload>,
    ) -> Result<(), HttpError> {
        let mut form = form_over(incoming, boundary).await?;
        let mut count = 0;
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            let disposition = text(field.headers().get(header::CONTENT_DISPOSITION));
            let Some(name) = report_name::part_file_name(disposition) else {
                continue;
            };
            count += 1;
            if count > FORM_FILES_MAX {
                return Err(HttpError::bad_request(format!(
                    "body: a form of more than {FORM_FILES_MAX} files, the limit; send the rest in another request"
                )));
            }
            self.receive_part(caller, &name, field, files).await?;
        }
        Ok(())
    }

    async fn receive_part(
        &self,
        caller: &Caller,
        name: &str,
        mut field: Field<'_>,
        files: &mut ReceivedFiles<R::Upload>,
    ) -> Result<(), HttpError> {
        let name = match self.stored_name(caller, name) {
            // After a fault only the names of the further parts matter.
            Ok(_) if files.faults.is_any() => return Ok(()),
            Ok(name) => name,
            Err(fault) => {
                files.refuse(fault);
                return Ok(());
            }
        };
        if let Err(fault) = self
            .check_room(caller, &name, files.by_name.len() + 1)
            .await
        {
            files.refuse(fault);
            return Ok(());
        }
        let mut file = match self.begin(caller, &name).await {
            Ok(file) => file,
            Err(fault) => {
                files.refuse(fault);
                return Ok(());
            }
        };
        while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
            file.bytes += chunk.len() as u64;
            let written = file.upload.write(chunk).await;
            if let Err(fault) = self.note_written(caller, written) {
                files.refuse(fault);
                return Ok(());
            }
        }
        if files.by_name.len() >= FORM_FILES_OPEN_MAX {
            let suspended = file.upload.suspend().await;
            if let Err(fault) = self.note_written(caller, suspended) {
                files.refuse(fault);
                return Ok(());
            }
        }
        // Of two parts of one name the last counts, as in the original.
        files.by_name.insert(name, file);
        Ok(())
    }

    /// The name under which a file of the caller is stored, if it may have it.
    fn stored_name(&self, caller: &Caller, name: &str) -> Result<String, HttpError> {
        let name = report_name::stored_file_name(&caller.node, name)
            .map_err(|error| HttpError::bad_request(error.to_string()))?;
        self.check_attempt(caller)?;
        self.check_owner(caller, &name)?;
        Ok(name)
    }

    /// Refuses one report too many of a node; one that replaces another is none.
    async fn check_room(&self, caller: &Caller, name: &str, more: usize) -> Result<(), HttpError> {
        let Caller {
            execution, node, ..
        } = caller;
        if self.handle.has_room(execution, node, more)
            || self.reports.metadata(execution, name).await.is_ok()
        {
            return Ok(());
        }
        let message = format!(
            "name: this node would have more than {NODE_REPORTS_MAX} reports in this execution, the limit"
        );
        note_refused(caller, &message);
        Err(HttpError::new(StatusCode::INSUFFICIENT_STORAGE, message))
    }

    async fn begin(&self, caller: &Caller, name: &str) -> Result<Received<R::Upload>, HttpError> {
        let begun = self.reports.begin(&caller.execution, name).await;
        let upload = self.note_written(caller, begun)?;
        Ok(Received { upload, bytes: 0 })
    }

    async fn store(
        &self,
        caller: &Caller,
        name: String,
        file: Received<R::Upload>,
    ) -> Result<(), HttpError> {
        // It may have been on its way for long.
        self.check_attempt(caller)?;
        self.check_room(caller, &name, 1).await?;
        (self.handle).expect_report(&caller.execution, &caller.node);
        let finished = file.upload.finish().await;
        self.note_stored(caller, finished, file.bytes)?;
        debug!(execution_id = %caller.execution, node = caller.node, name, bytes = file.bytes, "file received");
        // Where this replica stopped leading meanwhile, the file is on the volume all the same: whoever goes on finds
        // it there.
        let _ = self
            .handle
            .file_stored(caller.execution.clone(), caller.node.clone(), name)
            .await;
        Ok(())
    }
}
