//! The Lease by which replicas agree on a leader, as they read and write it; fields and meanings are client-go's.
//!
//! Data only: who may write it and when is decided in `leadership`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Annotation of the Lease: where the other replicas reach the holder.
pub const ANNOTATION_ADDRESS: &str = "batch-job-controller.bakito.github.com/address";

/// What a holder that gives its lease up leaves as its duration, in seconds, as client-go does: the API refuses 0.
const RELEASED_SECONDS: i32 = 1;

/// The name of a controller's Lease.
#[must_use]
pub fn lease_name(controller: &str) -> String {
    format!("{controller}-leader-election")
}

/// Where a replica is reached by the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaAddress {
    /// Its IP address.
    pub host: String,
    /// The port of its callback API.
    pub callback_port: u16,
    /// The port of its file server.
    pub file_server_port: u16,
}

/// What a Lease says. Malformed fields read as absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseRecord {
    /// `spec.holderIdentity`; empty where nobody holds it.
    pub holder: String,
    /// `spec.leaseDurationSeconds`: whole seconds; zero where absent.
    pub lease_duration: Duration,
    /// `spec.acquireTime`, on the holder's clock.
    pub acquire_time: Option<Timestamp>,
    /// `spec.renewTime`, on the holder's clock: compared with nothing but itself.
    pub renew_time: Option<Timestamp>,
    /// `spec.leaseTransitions`: how often the holder changed.
    pub transitions: u32,
    /// [`ANNOTATION_ADDRESS`].
    pub address: Option<ReplicaAddress>,
}

/// A Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseView {
    /// `metadata.resourceVersion`, opaque: what an update must name.
    pub version: String,
    /// What it says.
    pub record: LeaseRecord,
}

impl LeaseRecord {
    /// What the holder leaves behind that gives it up: others may take it at once.
    #[must_use]
    pub fn released(&self, now: Timestamp) -> Self {
        Self {
            holder: String::new(),
            lease_duration: Duration::from_secs(RELEASED_SECONDS.unsigned_abs().into()),
            acquire_time: Some(now),
            renew_time: Some(now),
            transitions: self.transitions,
            address: None,
        }
    }

    /// Whether its last holder gave it up. Somebody who only empties the holder leaves the duration as it was.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.holder.is_empty()
            && self.lease_duration.as_secs() == u64::from(RELEASED_SECONDS.unsigned_abs())
    }

    /// Whether anybody holds it, or has held it.
    #[must_use]
    pub fn has_been_held(&self) -> bool {
        !self.holder.is_empty() || self.acquire_time.is_some()
    }

    fn spec(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(whole(self.lease_duration.as_secs())),
            acquire_time: self.acquire_time.map(MicroTime),
            renew_time: self.renew_time.map(MicroTime),
            lease_transitions: Some(whole(self.transitions.into())),
            ..LeaseSpec::default()
        }
    }

    fn address_text(&self) -> Option<String> {
        let address = self.address.as_ref()?;
        // Plain data always serialises.
        serde_json::to_string(address).ok()
    }

    /// The Lease to create.
    #[must_use]
    pub fn to_lease(&self, name: &str, namespace: &str) -> Lease {
        let annotation = |address| BTreeMap::from([(ANNOTATION_ADDRESS.to_owned(), address)]);
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                annotations: self.address_text().map(annotation),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
        }
    }

    /// The JSON merge patch (RFC 7386) that makes a Lease say this if it still is of that version; labels and
    /// annotations of others stay.
    #[must_use]
    pub fn to_merge_patch(&self, version: &str) -> Value {
        json!({
            "metadata": {
                "resourceVersion": version,
                "annotations": {ANNOTATION_ADDRESS: self.address_text()},
            },
            "spec": self.spec(),
        })
    }
}

fn whole(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl From<Lease> for LeaseView {
    fn from(lease: Lease) -> Self {
        let spec = lease.spec.unwrap_or_default();
        let address = lease.metadata.annotations.unwrap_or_default();
        let address = address.get(ANNOTATION_ADDRESS);
        let positive =
            |number: Option<i32>| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Self {
            version: lease.metadata.resource_version.unwrap_or_default(),
            record: LeaseRecord {
                holder: spec.holder_identity.unwrap_or_default(),
                lease_duration: Duration::from_secs(positive(spec.lease_duration_seconds).into()),
                acquire_time: spec.acquire_time.map(|time| time.0),
                renew_time: spec.renew_time.map(|time| time.0),
                transitions: positive(spec.lease_transitions),
                address: address.and_then(|text| serde_json::from_str(text).ok()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record() -> LeaseRecord {
        LeaseRecord {
            holder: "audit-0".to_owned(),
            lease_duration: Duration::from_secs(15),
            acquire_time: Some("2026-01-01T00:00:00.000001Z".parse().unwrap()),
            renew_time: Some("2026-01-01T00:01:00.5Z".parse().unwrap()),
            transitions: 3,
            address: Some(ReplicaAddress {
                host: "10.1.2.3".to_owned(),
                callback_port: 8090,
                file_server_port: 8080,
            }),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for record in [
            record(),
            record().released(Timestamp::UNIX_EPOCH),
            LeaseRecord::default(),
        ] {
            let lease = record.to_lease("audit-leader-election", "batch");
            let read = serde_json::from_value::<Lease>(serde_json::to_value(&lease).unwrap());
            assert_eq!(LeaseView::from(read.unwrap()).record, record);
        }
    }

    #[test]
    fn a_released_lease_is_told_from_one_that_somebody_emptied() {
        assert!(record().released(Timestamp::UNIX_EPOCH).is_released());
        let emptied = LeaseRecord {
            holder: String::new(),
            ..record()
        };
        assert!(!emptied.is_released() && !LeaseRecord::default().is_released());
    }

    #[test]
    fn a_malformed_lease_reads_as_one_that_says_nothing() {
        let lease = json!({
            "metadata": {"name": "l", "resourceVersion": "7", "annotations": {ANNOTATION_ADDRESS: "here"}},
            "spec": {"leaseDurationSeconds": -3, "leaseTransitions": -1},
        });
        let view = LeaseView::from(serde_json::from_value::<Lease>(lease).unwrap());
        assert_eq!(
            (view.version.as_str(), view.record),
            ("7", LeaseRecord::default())
        );
    }
}
