//! The mark of a request that one replica passes on to another: who did, signed.
//!
//! A marked request is passed on no further: one hop. The signature covers the request line and both replicas, so a
//! mark is good for one request to one replica. It holds neither a time, since no decision here compares two clocks,
//! nor a number to remember, since a repeated mark gives nobody anything: the request in it has the rights that it has
//! without, of whoever could post it anyhow.

use super::callback_key::{SigningKey, parse_signature, signature_text};

/// The header that carries it.
pub const HEADER: &str = "batch-job-controller-forwarded";

/// A request on its way from one replica to another.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub target: &'a str,
    /// The holder identity of the replica that it is meant for.
    pub to: &'a str,
}

impl Passage<'_> {
    /// The mark by the replica `from`.
    #[must_use]
    pub fn mark(&self, from: &str, key: &SigningKey) -> String {
        let signature = key.sign(&self.parts(from));
        format!("{} {from}", signature_text(&signature))
    }

    /// Whether a replica made that mark for this request.
    #[must_use]
    pub fn bears(&self, mark: &str, key: &SigningKey) -> bool {
        let Some((digits, from)) = mark.split_once(' ') else {
            return false;
        };
        parse_signature(digits).is_some_and(|signature| key.verifies(&self.parts(from), &signature))
    }

    fn parts<'b>(&'b self, from: &'b str) -> [&'b str; 4] {
        [self.method, self.target, from, self.to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::callback_key::{CallbackKey, KEY_BYTES, Purpose};

    const PASSAGE: Passage<'_> = Passage {
        method: "POST",
        target: "/report/node-a/202611232359/result?a=b",
        to: "audit-1",
    };

    fn key(byte: u8) -> SigningKey {
        let key = CallbackKey::new(vec![byte; KEY_BYTES]).unwrap();
        key.for_purpose(Purpose::Forwarding)
    }

    #[test]
    fn a_mark_is_good_for_its_request_and_its_replica_only() {
        let mark = PASSAGE.mark("audit-0", &key(1));
        assert!(PASSAGE.bears(&mark, &key(1)));
        assert!(!PASSAGE.bears(&mark, &key(2)));
        for other in [
            Passage {
                method: "PUT",
                ..PASSAGE
            },
            Passage {
                target: "/report/node-b/202611232359/result",
                ..PASSAGE
            },
            Passage {
                to: "audit-2",
                ..PASSAGE
            },
        ] {
            assert!(!other.bears(&mark, &key(1)), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_mark_is_not_taken_for_one() {
        let mark = PASSAGE.mark("audit-0", &key(1));
        for other in [
            "",
            "audit-0",
            &mark[1..],
            &mark.replacen("audit-0", "audit-3", 1),
            &mark.replacen(' ', "0 ", 1),
            &format!("+{}", &mark[1..]),
            &format!("é{}", &mark[2..]),
        ] {
            assert!(!PASSAGE.bears(other, &key(1)), "{other}");
        }
    }
}
