//! Which endpoint a path names, and for whom.
//!
//! The path is decoded before it is taken apart, as the original's router does it: an encoded slash separates like any
//! other, and `%72eport` is `report`. Names are matched exactly, empty segments count, a slash at the end is accepted.

use http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::http::error::HttpError;

/// What can be posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Result,
    File,
    Event,
}

/// A path that names an endpoint; node and execution are whatever stood there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: String,
    pub(super) execution: String,
    /// What stood where a token does.
    pub(super) token: Option<String>,
    pub(super) endpoint: Endpoint,
}

impl Endpoint {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Result, Self::File, Self::Event];

    fn parse(segment: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.as_str() == segment)
    }

    /// The last segment of its path, and the label value of metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::File => "file",
            Self::Event => "event",
        }
    }
}

impl Target {
    /// # Errors
    /// 400 where an escape is none, 404 where there is no such endpoint.
    pub(super) fn parse(path: &str) -> Result<Self, HttpError> {
        if !is_escaped_well(path) {
            return Err(HttpError::bad_request(
                "path: % must be followed by two hexadecimal digits",
            ));
        }
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let not_found = || HttpError::new(StatusCode::NOT_FOUND, "404 page not found");
        let path = decoded.strip_suffix('/').unwrap_or(&decoded);
        let segments: Vec<&str> = path.split('/').collect();
        let (node, execution, token, endpoint) = match segments[..] {
            ["", "report", node, execution, endpoint] => (node, execution, None, endpoint),
            ["", "report", node, execution, token, endpoint] => {
                (node, execution, Some(token.to_owned()), endpoint)
            }
            _ => return Err(not_found()),
        };
        Ok(Self {
            node: node.to_owned(),
            execution: execution.to_owned(),
            token,
            endpoint: Endpoint::parse(endpoint).ok_or_else(not_found)?,
        })
    }
}

fn is_escaped_well(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        let digits = after.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_is_decoded_before_it_is_taken_apart() {
        for path in [
            "/report/node-a/202611232359/result",
            "/report/node-a/202611232359/result/",
            "/report%2Fnode-a%2f202611232359%2Fresult",
            "/%72eport/node%2Da/20261123235%39/resul%74",
        ] {
            let target = Target::parse(path).unwrap();
            let parts = (target.node.as_str(), target.execution.as_str());
            assert_eq!(parts, ("node-a", "202611232359"), "{path}");
            assert_eq!(target.endpoint, Endpoint::Result);
        }
        assert_eq!(
            Target::parse("/report//202611232359/file").unwrap().node,
            ""
        );
    }

    #[test]
    fn a_token_stands_before_the_endpoint() {
        let target = Target::parse("/report/node-a/202611232359/1%2Dab/file").unwrap();
        assert_eq!(target.token.as_deref(), Some("1-ab"));
        let target = Target::parse("/report/node-a/202611232359/file").unwrap();
        assert_eq!(target.token, None);
    }

    #[test]
    fn anything_else_is_not_found() {
        for path in [
            "/",
            "",
            "*",
            "//report/node-a/202611232359/result",
            "/report/node-a/202611232359",
            "/report/node-a/202611232359/",
            "/report/node-a/202611232359/result//",
            "/report/node-a/202611232359/Result",
            "/report/node-..%2F..%2Fx/202611232359/result",
            "/report/node-a/202611232359/result/more",
            "/report/node-a/202611232359/1-ab/result/more",
            "/report/node-a/202611232359/1-ab/2-cd/result",
        ] {
            assert_eq!(
                Target::parse(path).unwrap_err().status,
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
        let broken = Target::parse("/report/node-a/20261123235%9/result");
        assert_eq!(broken.unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
