//! Which cluster the tests may use, and what of the product they test there: both are named by the environment.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::program;

/// How the contexts of the clusters begin that `cargo xtask e2e` creates.
const OWN_CONTEXT: &str = "kind-batch-job-controller-e2e";

/// What is tested.
#[derive(Debug, Clone)]
pub enum Subject {
    /// This image, in the pod that the chart's Deployment makes.
    Image(String),
    /// This binary, as a process beside a cluster that runs no pods.
    Process(PathBuf),
}

/// A cluster to test on.
#[derive(Clone)]
pub struct Cluster {
    /// Its client.
    pub client: Client,
    /// Its context in the kubeconfig.
    pub context: String,
    /// What to install there.
    pub subject: Subject,
    /// Value of the label that everything these tests create carries, so that whoever started them can remove it.
    pub run: String,
    kubectl: String,
    helm: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("context", &self.context)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The one that the environment names; none, after a line that says so, where it names none that may be used.
    ///
    /// # Errors
    /// If the named one cannot be used.
    pub async fn given() -> Result<Option<Self>> {
        let image = env::var("E2E_IMAGE").map(Subject::Image);
        let process = env::var("E2E_CONTROLLER").map(|path| Subject::Process(path.into()));
        let Ok(subject) = image.or(process) else {
            println!("skipped: nothing to test is named; `cargo xtask e2e` does");
            return Ok(None);
        };
        let kubeconfig = Kubeconfig::read().context("no usable kubeconfig")?;
        let named = env::var("E2E_CONTEXT").ok();
        let context = match permitted(named, kubeconfig.current_context.as_deref()) {
            Ok(context) => context,
            Err(refusal) => {
                println!("skipped: {refusal}");
                return Ok(None);
            }
        };
        let options = KubeConfigOptions {
            context: Some(context.clone()),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let program = |name: &str, default: &str| env::var(name).unwrap_or(default.to_owned());
        Ok(Some(Self {
            client: Client::try_from(config)?,
            context,
            subject,
            run: program("E2E_RUN", "by-hand"),
            kubectl: program("KUBECTL", "kubectl"),
            helm: program("HELM", "helm"),
        }))
    }

    /// What kubectl prints; it reads `input`.
    ///
    /// # Errors
    /// If it ends badly: then with what it said.
    pub(crate) async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let arguments = ["--context", &self.context]
            .into_iter()
            .chain(arguments.iter().copied());
        program::output(&self.kubectl, arguments, input).await
    }

    /// What helm prints.
    ///
    /// # Errors
    /// If it ends badly: then with what it said.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> Result<String> {
        let arguments = ["--kube-context", &self.context]
            .into_iter()
            .chain(arguments.iter().copied());
        program::output(&self.helm, arguments, "").await
    }
}

/// The context to use: the one that was named, else the current one where it is one of these tests'.
fn permitted(named: Option<String>, current: Option<&str>) -> Result<String, String> {
    if let Some(named) = named {
        return Ok(named);
    }
    match current {
        Some(current) if current.starts_with(OWN_CONTEXT) => Ok(current.to_owned()),
        current => Err(format!(
            "the current context, {}, is no cluster of these tests; E2E_CONTEXT names one that may be used all the same",
            current.unwrap_or("which is not set")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_somebody_is_refused_unless_it_is_named() {
        let own = format!("{OWN_CONTEXT}-1");
        assert_eq!(permitted(None, Some(&own)), Ok(own.clone()));
        assert_eq!(
            permitted(Some("prod".into()), Some(&own)),
            Ok("prod".into())
        );
        for current in [Some("prod"), Some("kind-kind"), None] {
            let refusal = permitted(None, current).unwrap_err();
            assert!(refusal.contains("E2E_CONTEXT"), "{refusal}");
        }
    }
}
