//! The simulated cluster behind the contract suite, and what other people do to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use controller::ports::cluster_contract::{Control, NAMESPACE};
use serde_json::{Value, json};
use simulator::apiserver::ApiServer;
use simulator::clock::SimClock;
use simulator::state::resource::ROWS;
use simulator::state::{DeleteOptions, Options, Part, Row, State, Target, WriteOptions, resource};

/// A fresh cluster with the suite's namespace and no kubelet.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let clock = SimClock::starting_at("2026-01-01T03:42:00Z".parse().unwrap());
        let api = ApiServer::new(State::new(&Options::default()), clock.of_api_server());
        let mut others = Others { api: api.clone() };
        others
            .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        Self { api }
    }

    pub(crate) fn others(&self) -> Others {
        Others {
            api: self.api.clone(),
        }
    }
}

/// Everybody but the implementation under test.
pub(crate) struct Others {
    api: ApiServer,
}

impl Others {
    fn put(&mut self, manifest: Value) {
        let row = row_of(&manifest);
        let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = if row.namespaced { NAMESPACE } else { "" };
        let status = manifest.get("status").cloned();
        let now = self.api.now();
        self.api.with_state(|state| {
            let target = Target::new(row, namespace, "");
            state
                .create(now, target, manifest, WriteOptions::default())
                .unwrap();
            if let Some(status) = status {
                let target = Target::new(row, namespace, &name);
                let written =
                    state.modify(target, Part::Status, |object| object.set("status", status));
                written.unwrap();
            }
        });
    }
}

fn row_of(manifest: &Value) -> &'static Row {
    let is = |row: &&&'static Row| {
        manifest["kind"] == row.kind && manifest["apiVersion"] == row.api_version()
    };
    ROWS.iter()
        .find(is)
        .unwrap_or_else(|| panic!("no such kind: {manifest}"))
}

impl Control for Others {
    async fn create(&mut self, manifest: Value) {
        self.put(manifest);
    }

    async fn set_pod_status(&mut self, pod: &str, status: Value) {
        let target = Target::new(&resource::PODS, NAMESPACE, pod);
        let write = |object: &mut simulator::state::Object| object.set("status", status);
        self.api
            .with_state(|state| state.modify(target, Part::Status, write))
            .unwrap();
    }

    async fn delete_pod(&mut self, pod: &str) {
        let now = self.api.now();
        let target = Target::new(&resource::PODS, NAMESPACE, pod);
        self.api
            .with_state(|state| state.delete(now, target, &DeleteOptions::now()))
            .unwrap();
    }

    async fn delete_lease(&mut self, lease: &str) {
        let now = self.api.now();
        let target = Target::new(&resource::LEASES, NAMESPACE, lease);
        self.api
            .with_state(|state| state.delete(now, target, &DeleteOptions::now()))
            .unwrap();
    }

    async fn set_node_status(&mut self, node: &str, status: Value) {
        let target = Target::cluster(&resource::NODES, node);
        let write = |object: &mut simulator::state::Object| object.set("status", status);
        self.api
            .with_state(|state| state.modify(target, Part::Status, write))
            .unwrap();
    }

    async fn delete_node(&mut self, node: &str) {
        let now = self.api.now();
        let target = Target::cluster(&resource::NODES, node);
        self.api
            .with_state(|state| state.delete(now, target, &DeleteOptions::now()))
            .unwrap();
    }

    async fn get_lease(&mut self, lease: &str) -> Value {
        let target = Target::new(&resource::LEASES, NAMESPACE, lease);
        let lease = self.api.read(|state| state.get(target)).unwrap();
        lease.to_value(&resource::LEASES)
    }

    async fn print(&mut self, pod: &str, container: &str, text: &str) {
        self.api
            .with_state(|state| state.append_pod_log(NAMESPACE, pod, container, text));
    }

    async fn events(&mut self) -> Vec<Value> {
        self.api.with_state(|state| {
            let events = state.iter(&resource::EVENTS, Some(NAMESPACE));
            events
                .map(|event| event.to_value(&resource::EVENTS))
                .collect()
        })
    }
}

/// One test for each behaviour of the suite, over what `$implementation` makes of a [`Cluster`].
#[macro_export]
macro_rules! contract {
    ($implementation:expr; alone: $($alone:ident)*; with_others: $($with_others:ident)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $alone() {
                let cluster = common::Cluster::start();
                cluster_contract::$alone($implementation(&cluster)).await;
            }
        )*
        $(
            #[tokio::test(start_paused = true)]
            async fn $with_others() {
                let cluster = common::Cluster::start();
                cluster_contract::$with_others($implementation(&cluster), cluster.others()).await;
            }
        )*
    };
    ($implementation:expr) => {
        $crate::contract! { $implementation;
            alone:
                a_created_pod_is_answered_as_it_stands
                an_invalid_pod_is_refused
                what_does_not_exist_is_not_found
                a_label_that_is_no_execution_id_is_none
                a_watch_of_nothing_begins_too
                a_watched_config_map_is_told_as_it_is_then_with_every_change
                a_lease_is_created_once_and_updated_at_the_version_read
                a_lease_that_is_not_there_is_not_found;
            with_others:
                nodes_are_listed_by_name_over_all_pages
                nodes_are_watched_from_what_is_there
                nodes_are_watched_from_a_list
                a_taken_name_is_already_exists
                only_pods_of_this_owner_are_listed
                a_watch_begins_with_what_is_there_and_tells_every_change
                a_deleted_pod_is_told
                a_watch_that_begins_again_leaves_out_what_is_gone
                a_failed_pod_says_why
                a_pod_that_does_not_start_says_why
                only_pods_of_one_execution_are_deleted
                one_pod_is_deleted_if_it_is_that_one
                a_running_pod_is_deleted_with_grace
                a_log_is_streamed_whole
                a_created_event_can_be_seen
                a_config_map_is_read_as_it_stands
                a_secret_is_created_once_and_read_as_it_was_made
                the_state_record_changes_only_from_the_version_read
                a_service_is_reached_by_address_or_by_name
                the_top_owner_is_found_through_the_replica_set
                a_watched_lease_is_shown_as_it_is_then_every_change_then_its_deletion
                what_others_put_on_a_lease_stays
        }
    };
}
