//! The key that the replicas of a controller share, in the Secret `<name>-callback`: made by whoever needs it first,
//! the same ever after.

use crate::core::callback_key::{CallbackKey, KEY_BYTES, SECRET_KEY};
use crate::core::names;
use crate::ports::cluster::{Cluster, SecretData};
use crate::ports::entropy::Entropy;
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// Reads the key of the controller of that name; where there is no Secret yet, makes it.
///
/// # Errors
/// `Refused` where the Secret has no usable key: it says what to do. Else the cluster's error; transient ones may be
/// tried again.
pub async fn obtain(
    cluster: &impl Cluster,
    entropy: &impl Entropy,
    controller: &str,
) -> Result<CallbackKey, ClusterError> {
    let name = names::callback_secret(controller);
    let data = match cluster.secret(&name).await {
        Err(error) if error.kind == ClusterErrorKind::NotFound => {
            make(cluster, entropy, &name).await
        }
        found => found,
    };
    let data = data.map_err(|error| {
        let message = format!(
            "the Secret {name}, which the replicas share: {}",
            error.message
        );
        ClusterError::new(error.kind, message)
    })?;
    let key = data.get(SECRET_KEY).cloned().and_then(CallbackKey::new);
    key.ok_or_else(|| {
        let message = format!(
            "the Secret {name} has no {SECRET_KEY:?} of at least {KEY_BYTES} bytes; delete the Secret, then restart every replica: the first makes a new one"
        );
        ClusterError::new(ClusterErrorKind::Refused, message)
    })
}

/// Where another replica was faster, or an earlier try was carried out unanswered, that one's counts.
async fn make(
    cluster: &impl Cluster,
    entropy: &impl Entropy,
    name: &str,
) -> Result<SecretData, ClusterError> {
    let data = SecretData::from([(SECRET_KEY.to_owned(), entropy.key().to_vec())]);
    match cluster.create_secret(name, data.clone()).await {
        Ok(()) => Ok(data),
        Err(error) if error.kind == ClusterErrorKind::AlreadyExists => cluster.secret(name).await,
        Err(error) => Err(error),
    }
}
