//! A web site: reports, metrics or health, by its own address or through the API server.

use anyhow::{Context as _, Result};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use kube::client::Body;
use serde_json::Value;

/// What answers at one port of the controller.
#[derive(Clone)]
pub struct Site {
    /// A kube client is an HTTP client with a base address, credentials included where it needs any.
    client: kube::Client,
    base: String,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Site {
    /// At `url`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// If that is no address.
    pub fn at(url: &str) -> Result<Self> {
        let url = url.parse().with_context(|| format!("{url}: no address"))?;
        let mut config = kube::Config::new(url);
        // What it answers is what is tested.
        config.default_retry = false;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            base: String::new(),
        })
    }

    /// Behind a Service of a cluster, through the API server, so that nothing need be exposed for a test.
    #[must_use]
    pub fn behind(client: kube::Client, namespace: &str, service: &str, port: &str) -> Self {
        Self {
            client,
            base: format!("/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"),
        }
    }

    /// The text at `path`.
    ///
    /// # Errors
    /// If it does not answer, or not with a success.
    pub async fn text(&self, path: &str) -> Result<String> {
        let path = format!("{}{path}", self.base);
        let request = Request::get(&path).body(Vec::new())?;
        let text = self.client.request_text(request).await;
        text.with_context(|| format!("GET {path}"))
    }

    /// The JSON document at `path`.
    ///
    /// # Errors
    /// As [`Site::text`], or if it is no JSON.
    pub async fn json(&self, path: &str) -> Result<Value> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).with_context(|| format!("GET {path}: {text}"))
    }

    /// What a JSON document that is posted to `path` is answered with.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, path: &str, document: &str) -> Result<StatusCode> {
        let path = format!("{}{path}", self.base);
        let request = Request::post(&path)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(document.as_bytes().to_vec()))?;
        let response = self.client.send(request).await;
        Ok(response.with_context(|| format!("POST {path}"))?.status())
    }
}
