//! The Secret with the key that replicas share: made once, by whoever needs it first.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)]

mod support;

use controller::core::callback_key::Purpose;
use controller::ports::cluster::SecretData;
use controller::ports::error::ClusterErrorKind;
use controller::runtime::callback_key::obtain;
use support::TestEntropy;
use support::cluster::TestCluster;

const SECRET: &str = "audit-callback";

async fn signature(cluster: &TestCluster, entropy: &TestEntropy) -> [u8; 32] {
    let key = obtain(cluster, entropy, "audit").await.unwrap();
    key.for_purpose(Purpose::Forwarding).sign(&["a"])
}

#[tokio::test]
async fn the_first_makes_the_key_and_every_other_reads_it() {
    let (cluster, entropy) = (TestCluster::new(&[]), TestEntropy::default());
    let first = signature(&cluster, &entropy).await;
    assert_eq!(signature(&cluster, &entropy).await, first);
    let made = cluster.look(|state| state.secrets[SECRET]["key"].len());
    assert_eq!(made, 32);
    let elsewhere = TestCluster::new(&[]);
    assert_ne!(
        signature(&elsewhere, &entropy).await,
        first,
        "another controller's"
    );
}

#[tokio::test]
async fn of_two_that_need_it_at_once_both_have_the_key_of_the_faster() {
    let (cluster, entropy) = (TestCluster::new(&[]), TestEntropy::default());
    let first = signature(&cluster, &entropy).await;
    cluster.change(|state| {
        // The other looked before the first had made it.
        let faults = [ClusterErrorKind::NotFound];
        state.faults.insert("secret", faults.into());
    });
    assert_eq!(signature(&cluster, &entropy).await, first);
}

#[tokio::test]
async fn a_secret_without_a_usable_key_says_what_to_do_and_is_left_alone() {
    for data in [
        SecretData::new(),
        SecretData::from([("key".to_owned(), Vec::new())]),
        SecretData::from([("key".to_owned(), vec![1; 31])]),
        SecretData::from([("other".to_owned(), vec![1; 32])]),
    ] {
        let cluster = TestCluster::new(&[]);
        cluster.change(|state| state.secrets.insert(SECRET.to_owned(), data.clone()));
        let obtained = obtain(&cluster, &TestEntropy::default(), "audit").await;
        let error = obtained.unwrap_err();
        assert_eq!(error.kind, ClusterErrorKind::Refused);
        for part in [SECRET, "delete the Secret", "restart every replica"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!(cluster.look(|state| state.secrets[SECRET].clone()), data);
    }
}

#[tokio::test]
async fn what_the_cluster_refuses_names_the_secret() {
    let cluster = TestCluster::new(&[]);
    cluster.change(|state| {
        let faults = [ClusterErrorKind::Refused];
        state.faults.insert("create_secret", faults.into());
    });
    let error = obtain(&cluster, &TestEntropy::default(), "audit").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind, ClusterErrorKind::Refused);
    assert!(error.message.contains(SECRET), "{}", error.message);
}
