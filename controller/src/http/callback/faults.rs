//! Of several faults of one request, which is answered.

use http::StatusCode;

use crate::http::error::HttpError;

/// The fault that is to be answered, as far as the request has been read.
#[derive(Debug, Default)]
pub(super) struct Faults(Option<HttpError>);

impl Faults {
    /// Notes one more: of two that rank alike the earlier one is answered.
    pub(super) fn note(&mut self, fault: HttpError) {
        let is_first = (self.0.as_ref()).is_none_or(|first| rank(&fault) < rank(first));
        if is_first {
            self.0 = Some(fault);
        }
    }

    /// Whether there is one.
    pub(super) fn is_any(&self) -> bool {
        self.0.is_some()
    }

    /// The fault to be answered, if there is one.
    pub(super) fn into_first(self) -> Option<HttpError> {
        self.0
    }
}

/// The order of faults that the callback API documents, from the pair on: what comes before it is known without a body.
fn rank(fault: &HttpError) -> u8 {
    match fault.status {
        StatusCode::NOT_ACCEPTABLE => 0,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => 1,
        StatusCode::BAD_REQUEST => 2,
        StatusCode::CONFLICT => 3,
        StatusCode::INSUFFICIENT_STORAGE => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_rank_is_answered_and_of_two_alike_the_earlier() {
        let noted = [
            (500, "disk"),
            (507, "full"),
            (409, "taken"),
            (400, "one"),
            (400, "other"),
            (413, "large"),
            (409, "again"),
            (406, "gone"),
            (413, "larger"),
        ];
        let want = [
            "disk", "full", "taken", "one", "one", "large", "large", "gone", "gone",
        ];
        for (count, want) in (1..).zip(want) {
            let mut faults = Faults::default();
            assert!(!faults.is_any());
            for (status, message) in &noted[..count] {
                let status = StatusCode::from_u16(*status).unwrap();
                faults.note(HttpError::new(status, *message));
            }
            assert!(faults.is_any());
            assert_eq!(faults.into_first().unwrap().message, want, "{count}");
        }
    }
}
