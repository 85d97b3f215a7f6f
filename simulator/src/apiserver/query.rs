//! Query strings: pairs of names and values, percent-decoded, in the order of the client.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::state::Status;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string. Empty pairs are passed over: kube-rs begins its queries with `&`.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |s: &str| {
            percent_decode_str(&s.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self {
            pairs: pairs.collect(),
        }
    }

    /// The first value of a parameter; empty where there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.pairs
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.pairs.iter().filter(move |(n, _)| n == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there and does not say no: a real server takes any other word for yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let first = self.pairs.iter().find(|(n, _)| n == name);
        first.is_some_and(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// Whether a parameter is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(n, _)| n == name)
    }

    /// A whole number, if the parameter is there.
    ///
    /// # Errors
    /// 400 when it is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))),
            },
        }
    }

    /// `timeoutSeconds`, if it is given and not 0.
    ///
    /// # Errors
    /// 400 when it is no number.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Status> {
        let seconds = self
            .number("timeoutSeconds")?
            .and_then(|s| u64::try_from(s).ok())
            .filter(|s| *s > 0);
        Ok(seconds.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_are_decoded_and_empty_pairs_passed_over() {
        let query = Query::parse("&labelSelector=a%3Db,c+in+(d)&watch&limit=5&x=y&");
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch") && !query.flag("follow") && query.has("x"));
        let no = Query::parse("a=0&b=False&c=yes");
        assert_eq!(
            ["a", "b", "c"].map(|name| no.flag(name)),
            [false, false, true]
        );
        assert_eq!(
            (
                query.number("limit").unwrap(),
                query.number("none").unwrap()
            ),
            (Some(5), None)
        );
        assert!(query.number("x").is_err());
    }
}
