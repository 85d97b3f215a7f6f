//! The file server: executions, their reports, and `latest/`, as plain pages and files.
//!
//! It shows what the report store lists and nothing else: no foreign file, no temporary one, of our own files
//! `_execution.json` alone. What job pods uploaded is served so that a browser runs none of it. Files answer ranges
//! (RFC 9110, 14; of several ranges the whole file) and conditions (13).

mod conditions;
mod pages;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::core::ids::ExecutionId;
use crate::core::media_type::content_type_of;
use crate::core::summary;
use crate::ports::report_store::{
    ReportMetadata, ReportStore, ReportStoreError, ReportStoreErrorKind,
};

use conditions::{Answer, answer_for, entity_tag, http_date};

/// The name under which the newest execution is found.
const LATEST: &str = "latest";

/// For uploads: no script, no form, no access to anything of this origin.
const FILE_POLICY: HeaderValue = HeaderValue::from_static("sandbox");

/// For our own pages: no script either, but a click may download.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-downloads",
);

/// The router of the file server's port.
pub fn router<R: ReportStore>(reports: R) -> Router {
    Router::new()
        .route("/", get(executions_page::<R>))
        .route("/{execution}", get(redirect_to_execution::<R>))
        .route("/{execution}/", get(execution_page::<R>))
        .route("/{execution}/{name}", get(report::<R>))
        .with_state(reports)
        .layer(axum::middleware::map_response(protect))
}

/// What every answer says, errors too.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(FILE_POLICY);
    // Reports are replaced and removed: a copy is good only as long as we say so.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache"));
    response
}

async fn executions_page<R: ReportStore>(State(reports): State<R>) -> Result<Response, PageError> {
    let executions = reports.list_executions().await?;
    let has_latest = reports.latest().await?.is_some();
    let directories = executions
        .iter()
        .map(ExecutionId::as_str)
        .chain(has_latest.then_some(LATEST));
    Ok(page(pages::executions(directories)))
}

async fn redirect_to_execution<R: ReportStore>(
    State(reports): State<R>,
    Path(execution): Path<String>,
) -> Result<Response, PageError> {
    let known = find_execution(&reports, &execution).await?;
    reports.list(&known).await?;
    let location =
        HeaderValue::try_from(format!("{execution}/")).map_err(|_| PageError::NotFound)?;
    Ok((
        StatusCode::MOVED_PERMANENTLY,
        [(header::LOCATION, location)],
    )
        .into_response())
}

async fn execution_page<R: ReportStore>(
    State(reports): State<R>,
    Path(execution): Path<String>,
) -> Result<Response, PageError> {
    let known = find_execution(&reports, &execution).await?;
    let files = reports.list(&known).await?;
    Ok(page(pages::reports(
        &execution,
        files.iter().filter(|file| is_visible(&file.name)),
    )))
}

async fn report<R: ReportStore>(
    State(reports): State<R>,
    Path((execution, name)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    if !is_visible(&name) {
        return Err(PageError::NotFound);
    }
    let execution = find_execution(&reports, &execution).await?;
    let metadata = reports.metadata(&execution, &name).await?;
    let answer = answer_for(&headers, &metadata);
    let mut response = match answer {
        Answer::Whole | Answer::Range { .. } => {
            let (offset, length) = answer.span(metadata.length);
            // A HEAD request learns the length without a read.
            let body = if method == Method::HEAD {
                Body::empty()
            } else {
                Body::from_stream(reports.read(&execution, &name, offset, length).await?)
            };
            let mut response = body.into_response();
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
            response
        }
        Answer::NotModified | Answer::PreconditionFailed | Answer::Unsatisfiable => {
            Body::empty().into_response()
        }
    };
    *response.status_mut() = answer.status();
    describe(response.headers_mut(), &metadata, answer);
    Ok(response)
}

/// The headers that tell what a file is.
fn describe(headers: &mut HeaderMap, metadata: &ReportMetadata, answer: Answer) {
    let mut set = |name: HeaderName, value: String| {
        // All of these are ASCII; a value that is not would be left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(header::ETAG, entity_tag(metadata));
    set(header::LAST_MODIFIED, http_date(metadata.modified));
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    if let Some(range) = answer.content_range(metadata.length) {
        set(header::CONTENT_RANGE, range);
    }
    if matches!(answer, Answer::Whole | Answer::Range { .. }) {
        let unknown = || "application/octet-stream".to_owned();
        set(
            header::CONTENT_TYPE,
            content_type_of(&metadata.name).unwrap_or_else(unknown),
        );
    }
}

fn is_visible(name: &str) -> bool {
    // The summary is the only file of our own that is served.
    name == summary::FILE_NAME || !name.starts_with(['_', '.'])
}

async fn find_execution<R: ReportStore>(reports: &R, name: &str) -> Result<ExecutionId, PageError> {
    if name == LATEST {
        return reports.latest().await?.ok_or(PageError::NotFound);
    }
    ExecutionId::parse(name).ok_or(PageError::NotFound)
}

fn page(html: String) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ];
    (headers, html).into_response()
}

/// Why there is no page.
enum PageError {
    NotFound,
    Store(ReportStoreError),
}

impl From<ReportStoreError> for PageError {
    fn from(error: ReportStoreError) -> Self {
        match error.kind {
            ReportStoreErrorKind::NotFound => Self::NotFound,
            _ => Self::Store(error),
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not found\n").into_response(),
            Self::Store(error) => {
                tracing::warn!(%error, "report page failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the report directory cannot be read\n",
                )
                    .into_response()
            }
        }
    }
}
