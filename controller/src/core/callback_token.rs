//! The token of a job pod: good for its node, execution and attempt, and for nothing else.
//!
//! It is a signature over the three, so nothing has to be remembered of it, and every replica and every process after
//! this one makes the same. Its text, `<attempt>-<hexadecimal digits>`, stands for itself in a URL's path.

use super::callback_key::{SigningKey, parse_signature, signature_text};

/// Makes and checks tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallbackTokens(SigningKey);

impl CallbackTokens {
    /// Tokens signed with the key of `Purpose::Callback`.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        Self(key)
    }

    /// The token of the pod of that attempt, which counts from 1.
    #[must_use]
    pub fn token(&self, node: &str, execution: &str, attempt: u32) -> String {
        let attempt = attempt.to_string();
        let signature = self.0.sign(&[node, execution, &attempt]);
        format!("{attempt}-{}", signature_text(&signature))
    }

    /// The attempt whose token this is, if it is one of that node and execution. How long it takes tells nothing of a
    /// right token.
    #[must_use]
    pub fn attempt(&self, token: &str, node: &str, execution: &str) -> Option<u32> {
        let (attempt, signature) = token.split_once('-')?;
        let signature = parse_signature(signature)?;
        let parts = [node, execution, attempt];
        (self.0.verifies(&parts, &signature)).then(|| attempt.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::callback_key::{CallbackKey, KEY_BYTES, Purpose};

    fn tokens(byte: u8) -> CallbackTokens {
        let key = CallbackKey::new(vec![byte; KEY_BYTES]).unwrap();
        CallbackTokens::new(key.for_purpose(Purpose::Callback))
    }

    #[test]
    fn a_token_is_good_for_its_node_execution_and_attempt_only() {
        let token = tokens(1).token("node-a", "202611232359", 2);
        let attempt = |token: &str, node, id| tokens(1).attempt(token, node, id);
        assert_eq!(attempt(&token, "node-a", "202611232359"), Some(2));
        assert_eq!(attempt(&token, "node-b", "202611232359"), None);
        assert_eq!(attempt(&token, "node-a", "202611240000"), None);
        let of_another = token.replacen("2-", "3-", 1);
        assert_eq!(attempt(&of_another, "node-a", "202611232359"), None);
        assert_eq!(tokens(2).attempt(&token, "node-a", "202611232359"), None);
        assert_ne!(token, tokens(1).token("node-a", "202611232359", 12));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let token = tokens(1).token("node-a", "202611232359", 1);
        for other in [
            "",
            "-",
            "1-",
            &token[..token.len() - 1],
            &format!("{token}0"),
            &token.to_uppercase(),
            &format!("+{token}"),
            &format!("0{token}"),
            &token[2..],
            &token.replacen('-', "", 1),
            &format!("{}\u{0}", &token[..token.len() - 1]),
            "1-é",
        ] {
            let attempt = tokens(1).attempt(other, "node-a", "202611232359");
            assert_eq!(attempt, None, "{other}");
        }
    }
}
