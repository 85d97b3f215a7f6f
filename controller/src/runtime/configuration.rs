//! The ConfigMap that a controller is told by: read again while it runs, and the last good one kept on the volume.
//!
//! What its texts mean is handed in, because defaults of the environment and an extension have a say; that is the
//! business of `app::configuration`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use crate::config::Config;
use crate::config::pod_template::PodTemplate;
use crate::core::job_pod::ExtensionVariables;
use crate::ports::report_store::{ReportStore, ReportStoreErrorKind};

/// The file with the last good data, beside the executions.
pub const FILE_NAME: &str = "_configuration.json";

/// The data of a ConfigMap, or of a file that was kept of one.
pub type Data = BTreeMap<String, String>;

type Read = dyn Fn(&Data) -> Result<Configuration, Vec<String>> + Send + Sync;

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// `config.yaml`.
    pub config: Config,
    /// `pod-template.yaml`.
    pub template: PodTemplate,
    /// What an extension makes of it.
    pub variables: ExtensionVariables,
}

/// The ConfigMap of a controller.
#[derive(Clone)]
pub struct ConfigMapSource {
    name: Arc<str>,
    read: Arc<Read>,
}

impl fmt::Debug for ConfigMapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigMapSource")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ConfigMapSource {
    /// The ConfigMap of that name. `read` makes a configuration of its data, or says in lines what is wrong.
    #[must_use]
    pub fn new(
        name: impl Into<Arc<str>>,
        read: impl Fn(&Data) -> Result<Configuration, Vec<String>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            read: Arc::new(read),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the data means.
    ///
    /// # Errors
    /// Everything that is wrong with it, in one line.
    pub fn read(&self, data: &Data) -> Result<Configuration, String> {
        (self.read)(data).map_err(|lines| lines.join("; "))
    }
}

/// Keeps data that is good.
pub(super) async fn keep<R: ReportStore>(reports: &R, data: &Data) {
    // Texts by name: they always serialise.
    let Ok(document) = serde_json::to_vec(data) else {
        return;
    };
    if let Err(error) = reports.put_own(FILE_NAME, Bytes::from(document)).await {
        warn!(error = %error, "the configuration is not kept on the volume");
    }
}

/// The data that was kept; none where none was, or it cannot be read.
pub async fn kept<R: ReportStore>(reports: &R) -> Option<Data> {
    match reports.get_own(FILE_NAME).await {
        Ok(document) => serde_json::from_slice(&document)
            .inspect_err(|error| warn!(error = %error, "the kept configuration cannot be read"))
            .ok(),
        Err(error) => {
            if error.kind != ReportStoreErrorKind::NotFound {
                warn!(error = %error, "the kept configuration cannot be read");
            }
            None
        }
    }
}
