//! What the chart must refuse, and what the sentence must name: the key, and the fix.

use anyhow::{Result, ensure};

use super::helm::Helm;

/// Values that must be refused, one row each.
struct Refusal {
    /// As after `--set`.
    values: &'static str,
    /// What the sentence must hold.
    names: &'static [&'static str],
}

const REFUSALS: &[Refusal] = &[
    // Typos, by the schema.
    Refusal {
        values: "persistance.enabled=false",
        names: &["'persistance'"],
    },
    Refusal {
        values: "image.tagg=1",
        names: &["/image", "'tagg'"],
    },
    Refusal {
        values: "config.podPolSize=3",
        names: &["/config", "'podPolSize'"],
    },
    Refusal {
        values: "config.metrics.gauges.a.label={b}",
        names: &["/config/metrics/gauges/a", "'label'"],
    },
    Refusal {
        values: "prometheusRule.alerts.dwon.enabled=false",
        names: &["/prometheusRule/alerts", "'dwon'"],
    },
    Refusal {
        values: "config.callbackServicePort=http",
        names: &["/config/callbackServicePort", "integer"],
    },
    // Values without which nothing would work.
    Refusal {
        values: "config.metrics.port=null",
        names: &["/config/metrics", "'port'"],
    },
    Refusal {
        values: "persistence.size=null",
        names: &["/persistence", "'size'"],
    },
    // Volumes.
    Refusal {
        values: "replicaCount=2",
        names: &[
            "replicaCount is 2",
            "persistence.accessMode is ReadWriteOnce",
            "to ReadWriteMany",
            "replicaCount to 1",
        ],
    },
    Refusal {
        values: "replicaCount=2,persistence.accessMode=ReadWriteOncePod",
        names: &[
            "replicaCount is 2",
            "persistence.accessMode is ReadWriteOncePod",
        ],
    },
    Refusal {
        values: "strategy.type=RollingUpdate",
        names: &[
            "strategy.type is RollingUpdate",
            "persistence.accessMode is ReadWriteOnce",
            "strategy.type to Recreate",
        ],
    },
    Refusal {
        values: "replicaCount=2,persistence.enabled=false",
        names: &[
            "replicaCount is 2",
            "persistence.enabled is false",
            "to ReadWriteMany",
        ],
    },
    // The rest.
    Refusal {
        values: "podMonitor.enabled=true,serviceMonitor.enabled=true",
        names: &["podMonitor.enabled", "serviceMonitor.enabled", "enable one"],
    },
    Refusal {
        values: "extraEnv[0].name=POD_IP,extraEnv[0].value=x",
        names: &["extraEnv", "POD_IP", "remove it"],
    },
    Refusal {
        values: "extraEnv[0].name=A,extraEnv[1].name=A",
        names: &["extraEnv", " A,", "remove it"],
    },
    Refusal {
        values: "config.fileServerPort=9153",
        names: &["config.metrics.port", "config.fileServerPort", "9153"],
    },
    Refusal {
        values: "fullnameOverride=1st",
        names: &["1st", "begin with a letter", "set fullnameOverride"],
    },
];

/// Whether a row sets this value, so that it has an effect even where nothing rendered shows it.
pub(super) fn mentions(path: &str) -> bool {
    REFUSALS.iter().any(|refusal| {
        refusal
            .values
            .split(',')
            .filter_map(|assignment| assignment.split('=').next())
            .any(|key| key == path || super::values::is_below(key, path))
    })
}

/// Each is refused.
///
/// # Errors
/// With the values that are not, or the sentence that does not name what it must.
pub(super) fn check(helm: &Helm) -> Result<()> {
    for Refusal { values, names } in REFUSALS {
        let sentence = helm.refusal(&["--set", values])?;
        for name in *names {
            ensure!(
                sentence.contains(name),
                "{values} is refused without a word of {name}: {sentence}"
            );
        }
    }
    Ok(())
}
