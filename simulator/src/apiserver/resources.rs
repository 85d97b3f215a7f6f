//! The verbs over HTTP: a request read into a call on the state, and its answer written.

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, WARNING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::Value;

use super::accept::{self, Form};
use super::query::Query;
use super::respond::{self, JSON, respond as answer};
use super::route::Place;
use super::table::{self, Include};
use super::{ApiServer, options, pod_log, watch_stream};
use crate::state::{
    Deleted, Draft, List, ListOptions, Part, Patch, Row, Selector, Status, Stored, Subresource,
    Target, Written,
};

/// The largest body, as the limit of a real server.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// One request on its way.
struct Call<'a> {
    server: &'a ApiServer,
    place: &'a Place,
    parts: Parts,
    query: Query,
    form: Form,
}

/// Answers a request for a collection, an object or a subresource.
///
/// # Errors
/// Whatever the state says, and 405, 406, 413 and 415 of HTTP.
pub(super) async fn serve(
    server: &ApiServer,
    place: &Place,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let form = accept::form(&parts.headers)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call {
        server,
        place,
        parts,
        query,
        form,
    };
    let method = call.parts.method.clone();
    if method == Method::GET {
        return call.get();
    }
    let allowed = match (&call.place.name, call.place.subresource) {
        (None, _) => match method {
            Method::POST => call.place.row.namespaced == call.place.namespace.is_some(),
            Method::DELETE => call.place.row.verbs.contains(&"deletecollection"),
            _ => false,
        },
        (Some(_), None) => matches!(method, Method::PUT | Method::PATCH | Method::DELETE),
        (Some(_), Some(Subresource::Status)) => matches!(method, Method::PUT | Method::PATCH),
        (Some(_), Some(Subresource::Binding | Subresource::Eviction)) => method == Method::POST,
        (Some(_), Some(Subresource::Finalize)) => method == Method::PUT,
        (Some(_), Some(Subresource::Log)) => false,
    };
    if !allowed {
        return Err(Status::method_not_allowed());
    }
    let body = to_bytes(body, BODY_LIMIT).await.map_err(|_| too_large())?;
    match method {
        Method::POST => call.post(&body),
        Method::PUT => call.put(&body),
        Method::PATCH => call.patch(&body),
        _ => call.delete(&body),
    }
}

fn too_large() -> Status {
    let mut status =
        Status::bad_request(format!("Request entity too large: limit is {BODY_LIMIT}"));
    status.code = 413;
    status.reason = "RequestEntityTooLarge";
    status
}

impl<'a> Call<'a> {
    fn row(&self) -> &'static Row {
        self.place.row
    }

    fn target(&self) -> Target<'a> {
        let place = self.place;
        Target::new(
            place.row,
            place.namespace.as_deref().unwrap_or_default(),
            place.name.as_deref().unwrap_or_default(),
        )
    }

    fn part(&self) -> Part {
        match self.place.subresource {
            Some(Subresource::Status) => Part::Status,
            Some(Subresource::Finalize) => Part::Finalize,
            _ => Part::Whole,
        }
    }

    fn content_type(&self) -> &str {
        let value = self
            .parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    fn selector(&self) -> Result<Selector, Status> {
        Selector::parse(
            self.row(),
            self.query.get("labelSelector"),
            self.query.get("fieldSelector"),
        )
    }

    fn get(&self) -> Result<Response<Body>, Status> {
        let target = self.target();
        match (&self.place.name, self.place.subresource) {
            (None, _) if self.query.flag("watch") => watch_stream::serve(
                self.server,
                self.row(),
                self.place.namespace.as_deref(),
                self.selector()?,
                &self.query,
                self.form,
            ),
            (None, _) => self.list(),
            (Some(_), None | Some(Subresource::Status)) => {
                let version = options::of_get(&self.query)?;
                let object = self.server.read(|state| match version {
                    version if version > state.version() => {
                        Err(Status::too_large(version, state.version(), Some(1)))
                    }
                    _ => state.get(target),
                })?;
                Ok(self.object(StatusCode::OK, &object))
            }
            (Some(_), Some(Subresource::Log)) => {
                pod_log::serve(self.server, target.namespace, target.name, &self.query)
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn list(&self) -> Result<Response<Body>, Status> {
        let options = self.list_options(self.selector()?)?;
        let list = self.server.read(|state| state.list(self.row(), &options))?;
        Ok(self.list_response(list))
    }

    fn list_options(&self, selector: Selector) -> Result<ListOptions<'_>, Status> {
        let paging = options::of_list(&self.query)?;
        Ok(ListOptions {
            namespace: self.place.namespace.as_deref(),
            selector,
            limit: paging.limit,
            continue_token: paging.continue_token,
            at: paging.at,
        })
    }

    fn post(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = options::of_write(&self.query, "CreateOptions", None)?;
        let value = self.body(body)?;
        let (now, target) = (self.server.now(), self.target());
        let status = match self.place.subresource {
            None => {
                let draft = Draft::new(self.row(), value, options)?;
                let written = self
                    .server
                    .with_state(|state| state.post(now, target, draft, options))?;
                return Ok(self.written(&written));
            }
            Some(sub) if value["metadata"]["name"] != target.name => {
                let kind = if sub == Subresource::Binding {
                    "Binding"
                } else {
                    "Eviction"
                };
                return Err(Status::bad_request(format!(
                    "name in URL does not match name in {kind} object"
                )));
            }
            Some(Subresource::Binding) => {
                self.server.with_state(|state| state.bind(target, &value))?
            }
            Some(_) => {
                let mut delete = options::parse_delete(&value["deleteOptions"])?;
                delete.dry_run |= options.dry_run;
                self.server
                    .with_state(|state| state.evict(now, target, &delete))?
            }
        };
        Ok(respond::status_response(&status))
    }

    fn put(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = options::of_write(&self.query, "UpdateOptions", None)?;
        let value = self.body(body)?;
        let (now, target, part) = (self.server.now(), self.target(), self.part());
        let written = self
            .server
            .with_state(|state| state.update(now, target, part, value, options))?;
        Ok(self.written(&written))
    }

    fn patch(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let kinds = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        let kind = self.content_type();
        if !kinds.contains(&kind) {
            // A real server's router says so, and it adds empty details.
            let mut status = Status::unsupported_media_type(&kinds);
            status.details = Some(Box::default());
            return Err(status);
        }
        let is_apply = kind.ends_with("yaml");
        let options = options::of_write(&self.query, "PatchOptions", Some(is_apply))?;
        let value = if is_apply {
            parse_yaml(body)?
        } else {
            parse_json(body)?
        };
        let patch = match kind {
            "application/json-patch+json" => Patch::Json(value),
            "application/merge-patch+json" => Patch::Merge(value),
            "application/strategic-merge-patch+json" => Patch::Strategic(value),
            _ => Patch::Apply {
                value,
                manager: self.query.get("fieldManager").to_owned(),
                force: self.query.flag("force"),
            },
        };
        let (now, target, part) = (self.server.now(), self.target(), self.part());
        let written = self
            .server
            .with_state(|state| state.patch(now, target, part, &patch, options))?;
        Ok(self.written(&written))
    }

    fn delete(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let value = (!body.is_empty()).then(|| self.body(body)).transpose()?;
        let options = options::of_delete(&self.query, value.as_ref())?;
        let now = self.server.now();
        if self.place.name.is_none() {
            let selected = self.list_options(self.selector()?)?;
            let list = self.server.with_state(|state| {
                state.delete_collection(now, self.row(), &selected, &options)
            })?;
            return Ok(self.list_response(list));
        }
        let deleted = self
            .server
            .with_state(|state| state.delete(now, self.target(), &options))?;
        Ok(match deleted {
            Deleted::Object { object, .. } => self.object(StatusCode::OK, &object),
            Deleted::Done(status) => respond::status_response(&status),
        })
    }

    fn body(&self, body: &Bytes) -> Result<Value, Status> {
        match self.content_type() {
            "" | "application/json" | "*/*" => parse_json(body),
            "application/yaml" => parse_yaml(body),
            _ => Err(Status::unsupported_media_type(&[
                "application/json",
                "application/yaml",
            ])),
        }
    }

    fn written(&self, written: &Written) -> Response<Body> {
        let code = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = self.object(code, &written.object);
        for warning in &written.warnings {
            // 299 is a warning that is not about caches (RFC 7234).
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(WARNING, value);
            }
        }
        response
    }

    fn object(&self, code: StatusCode, object: &Stored) -> Response<Body> {
        let body = match self.form {
            Form::Table => respond::line(&table::of_object(
                self.row(),
                object,
                Include::parse(self.query.get("includeObject")),
                self.server.now(),
            )),
            Form::Metadata => respond::line(&table::partial(object)),
            Form::Plain | Form::Discovery => respond::object(self.row(), object),
        };
        answer(code, JSON, body)
    }

    fn list_response(&self, list: List) -> Response<Body> {
        let body = match self.form {
            Form::Table => Body::from(respond::line(&table::of_list(
                self.row(),
                &list,
                Include::parse(self.query.get("includeObject")),
                self.server.now(),
            ))),
            Form::Metadata => Body::from(respond::line(&table::partial_list(&list))),
            Form::Plain | Form::Discovery => respond::list(self.row(), list),
        };
        answer(StatusCode::OK, JSON, body)
    }
}

fn parse_json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|why| {
        Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {why}"
        ))
    })
}

fn parse_yaml(body: &[u8]) -> Result<Value, Status> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let broken = |why: String| Status::bad_request(format!("error decoding YAML: {why}"));
    let text = std::str::from_utf8(body).map_err(|why| broken(why.to_string()))?;
    serde_saphyr::from_str(text).map_err(|why| broken(why.to_string()))
}
