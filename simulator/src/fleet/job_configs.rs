//! Which gauges the job pods of an owner are expected to report: read from the ConfigMaps, again when one changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::job::{CONFIG_KEY, Gauges, JobConfig};
use crate::state::{State, resource};

/// What was read of one ConfigMap, and at which version.
#[derive(Debug)]
struct Read {
    version: u64,
    config: Option<Arc<JobConfig>>,
}

/// The configurations read so far, by namespace and name of their ConfigMap.
#[derive(Debug, Default)]
pub(super) struct JobConfigs(BTreeMap<(Arc<str>, Arc<str>), Read>);

impl JobConfigs {
    /// The gauges of the controller called `owner` in `namespace`; none where no ConfigMap is its configuration.
    pub(super) fn gauges(&mut self, state: &State, namespace: &str, owner: &str) -> Gauges {
        let mut maps = state.iter(&resource::CONFIG_MAPS, Some(namespace));
        let found = maps.find_map(|map| {
            let version = map.metadata.resource_version;
            let key = (
                Arc::clone(&map.metadata.namespace),
                Arc::clone(&map.metadata.name),
            );
            if self.0.get(&key).is_none_or(|read| read.version != version) {
                let text = map.get("data").and_then(|data| data[CONFIG_KEY].as_str());
                let config = text.and_then(JobConfig::parse).map(Arc::new);
                self.0.insert(key.clone(), Read { version, config });
            }
            let config = self.0.get(&key)?.config.clone();
            config.filter(|config| config.name == owner)
        });
        found.map_or_else(Gauges::new, |config| config.gauges.clone())
    }
}
