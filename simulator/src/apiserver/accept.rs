//! What a client accepts, and what that makes of an answer.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::state::Status;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The object or list itself.
    Plain,
    /// `as=Table`: rows and cells for people.
    Table,
    /// `as=PartialObjectMetadata` or `…List`: metadata only.
    Metadata,
    /// `as=APIGroupDiscoveryList`: all of discovery in one document.
    Discovery,
}

const SPOKEN: &[&str] = &["application/json"];

/// The first form in the client's order that we speak; JSON where the client does not say.
///
/// # Errors
/// 406 when we speak none of them.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let mut wishes = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .peekable();
    if wishes.peek().is_none() {
        return Ok(Form::Plain);
    }
    let mut is_json = false;
    let found = wishes.find_map(|wish| {
        is_json |= is_spoken(wish.split(';').next().unwrap_or_default().trim());
        one(wish)
    });
    found.ok_or_else(|| {
        let mut status = Status::not_acceptable(SPOKEN);
        if !is_json {
            // A real server's router says so, and it adds empty details.
            status.details = Some(Box::default());
        }
        status
    })
}

fn is_spoken(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/*" | "*/*")
}

fn one(wish: &str) -> Option<Form> {
    let mut parts = wish.split(';').map(str::trim);
    if !is_spoken(parts.next()?) {
        return None;
    }
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    match (kind, group, version) {
        ("", ..) => Some(Form::Plain),
        ("Table", "meta.k8s.io", "v1") => Some(Form::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
            Some(Form::Metadata)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Form::Discovery),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn first_form_that_is_spoken_wins() {
        for (text, wanted) in [
            ("", Some(Form::Plain)),
            ("*/*", Some(Form::Plain)),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Form::Plain),
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Form::Table),
            ),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io, application/json",
                Some(Form::Plain),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Some(Form::Discovery),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            let mut headers = HeaderMap::new();
            if !text.is_empty() {
                headers.insert(ACCEPT, text.parse().unwrap());
            }
            assert_eq!(form(&headers).ok(), wanted, "{text}");
        }
    }
}
