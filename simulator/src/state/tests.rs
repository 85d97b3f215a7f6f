//! The verbs, one situation each.
#![allow(clippy::unwrap_used)]

use super::resource::{CONFIG_MAPS, EVENTS, EVENTS_V1, LEASES, NAMESPACES, NODES, PODS, SERVICES};
use super::*;
use serde_json::Value;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn state() -> State {
    State::new(&Options::default())
}

fn config_map(name: &str) -> Target<'_> {
    Target::new(&CONFIG_MAPS, "default", name)
}

fn pod(name: &str) -> Target<'_> {
    Target::new(&PODS, "default", name)
}

fn create(state: &mut State, target: Target<'_>, value: Value) -> Result<Arc<Stored>, Status> {
    state.create(
        NOW,
        Target { name: "", ..target },
        value,
        WriteOptions::default(),
    )
}

fn create_pod(state: &mut State, name: &str, node: &str) -> Arc<Stored> {
    let value = json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    create(state, pod(name), value).unwrap()
}

fn patch(
    state: &mut State,
    target: Target<'_>,
    part: Part,
    value: Value,
) -> Result<Arc<Stored>, Status> {
    state
        .patch(
            NOW,
            target,
            part,
            &Patch::Strategic(value),
            WriteOptions::default(),
        )
        .map(|w| w.object)
}

fn names(list: &List) -> Vec<&str> {
    list.items.iter().map(|o| &*o.metadata.name).collect()
}

#[test]
fn cluster_begins_with_four_namespaces() {
    let state = state();
    let list = state.list(&NAMESPACES, &ListOptions::default()).unwrap();
    assert_eq!(
        names(&list),
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    assert!(
        list.items
            .iter()
            .all(|n| n.text("/status/phase") == "Active")
    );
    assert_eq!(list.resource_version, 4);
}

#[test]
fn create_sets_what_the_server_owns_and_refuses_a_second_one() {
    let mut state = state();
    let value = json!({"metadata": {"name": "a", "uid": "mine", "generation": 7}, "data": {}});
    let a = create(&mut state, config_map("a"), value.clone()).unwrap();
    assert_eq!(
        (
            &*a.metadata.namespace,
            a.metadata.resource_version,
            a.metadata.generation
        ),
        ("default", 5, 0)
    );
    assert_ne!(&*a.metadata.uid, "mine");
    assert_eq!(a.get("data"), None);
    let again = create(&mut state, config_map("a"), value).unwrap_err();
    assert_eq!(
        (again.code, again.message.as_str()),
        (409, "configmaps \"a\" already exists")
    );
}

#[test]
fn create_is_refused_for_reasons_a_real_server_has() {
    let mut state = state();
    for (value, code) in [
        (json!({"kind": "Secret", "metadata": {"name": "a"}}), 400),
        (
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
        ),
        (json!({"metadata": {"name": "a", "labels": {"a": 1}}}), 400),
        (
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            500,
        ),
        (json!({"metadata": {"name": "A"}}), 422),
        (json!({"metadata": {}}), 422),
        (
            json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}),
            422,
        ),
        (
            json!({"metadata": {"name": "a"}, "data": {"a b": "c"}}),
            422,
        ),
    ] {
        assert_eq!(
            create(&mut state, config_map("a"), value.clone())
                .unwrap_err()
                .code,
            code,
            "{value}"
        );
    }
    let nowhere = Target::new(&CONFIG_MAPS, "nowhere", "");
    assert_eq!(
        create(&mut state, nowhere, json!({"metadata": {"name": "a"}}))
            .unwrap_err()
            .message,
        "namespaces \"nowhere\" not found"
    );
    assert_eq!(state.count(&CONFIG_MAPS), 0);
}

#[test]
fn generated_names_differ() {
    let mut state = state();
    let mut one = || {
        create(
            &mut state,
            config_map(""),
            json!({"metadata": {"generateName": "g-"}}),
        )
        .unwrap()
    };
    let (a, b) = (one(), one());
    assert!(a.metadata.name.starts_with("g-") && a.metadata.name.len() == 7);
    assert_ne!(a.metadata.name, b.metadata.name);
}

#[test]
fn dry_run_keeps_nothing() {
    let mut state = state();
    let options = WriteOptions {
        dry_run: true,
        ..WriteOptions::default()
    };
    let dry = state
        .create(
            NOW,
            config_map(""),
            json!({"metadata": {"name": "d"}}),
            options,
        )
        .unwrap();
    assert_eq!(dry.metadata.resource_version, 0);
    assert_eq!((state.version(), state.count(&CONFIG_MAPS)), (4, 0));
}

#[test]
fn update_needs_the_version_it_read_only_where_it_names_one() {
    let mut state = state();
    let first = create(
        &mut state,
        config_map("a"),
        json!({"metadata": {"name": "a"}}),
    )
    .unwrap();
    let mut put = |version: &str, data: &str| {
        let value =
            json!({"metadata": {"name": "a", "resourceVersion": version}, "data": {"k": data}});
        state
            .update(
                NOW,
                config_map("a"),
                Part::Whole,
                value,
                WriteOptions::default(),
            )
            .map(|w| w.object)
    };
    put("", "1").unwrap();
    let outdated = put(&first.metadata.resource_version.to_string(), "2").unwrap_err();
    assert!(
        outdated
            .message
            .ends_with("please apply your changes to the latest version and try again"),
        "{outdated}"
    );
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let target = Target::new(&LEASES, "default", "l");
    let put = state
        .update(
            NOW,
            target,
            Part::Whole,
            lease.clone(),
            WriteOptions::default(),
        )
        .unwrap();
    assert!(put.created);
    assert_eq!(
        state
            .update(NOW, target, Part::Whole, lease, WriteOptions::default())
            .unwrap_err()
            .code,
        422
    );
}

#[test]
fn status_and_spec_are_written_through_their_own_paths() {
    let mut state = state();
    create_pod(&mut state, "p", "n");
    let running = json!({"status": {"phase": "Running"}});
    assert_eq!(
        patch(&mut state, pod("p"), Part::Whole, running.clone())
            .unwrap()
            .text("/status/phase"),
        "Pending"
    );
    let version = state.version();
    let new = patch(&mut state, pod("p"), Part::Status, running.clone()).unwrap();
    assert_eq!(
        (new.text("/status/phase"), new.metadata.generation),
        ("Running", 1)
    );
    patch(&mut state, pod("p"), Part::Status, running).unwrap();
    assert_eq!(
        state.version(),
        version + 1,
        "a write that changes nothing is none"
    );
    let moved = patch(
        &mut state,
        pod("p"),
        Part::Whole,
        json!({"spec": {"nodeName": "m"}}),
    )
    .unwrap_err();
    assert_eq!(
        (moved.code, moved.details.unwrap().causes[0].field.as_str()),
        (422, "spec")
    );
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    assert_eq!(
        patch(&mut state, pod("p"), Part::Whole, image)
            .unwrap()
            .metadata
            .generation,
        2
    );
}

#[test]
fn pod_on_a_node_is_deleted_in_two_steps() {
    let mut state = state();
    create_pod(&mut state, "p", "n");
    let first = state
        .delete(NOW, pod("p"), &DeleteOptions::default())
        .unwrap();
    assert!(!first.is_gone());
    let standing = state.get(pod("p")).unwrap();
    assert_eq!(
        standing.metadata.deletion_timestamp.unwrap().as_second(),
        30
    );
    assert_eq!(
        (
            standing.metadata.deletion_grace_period_seconds,
            standing.metadata.generation
        ),
        (Some(30), 2)
    );
    assert!(
        state
            .delete(NOW, pod("p"), &DeleteOptions::now())
            .unwrap()
            .is_gone()
    );
    assert_eq!(state.get(pod("p")).unwrap_err().code, 404);
}

#[test]
fn pod_without_a_node_or_ended_goes_at_once() {
    let mut state = state();
    create_pod(&mut state, "free", "");
    create_pod(&mut state, "ended", "n");
    state.set_phase(pod("ended"), "Succeeded", |_| ()).unwrap();
    for name in ["free", "ended"] {
        assert!(
            state
                .delete(NOW, pod(name), &DeleteOptions::default())
                .unwrap()
                .is_gone(),
            "{name}"
        );
    }
}

#[test]
fn deletes_obey_preconditions() {
    let mut state = state();
    let a = create(
        &mut state,
        config_map("a"),
        json!({"metadata": {"name": "a"}}),
    )
    .unwrap();
    let other = DeleteOptions {
        uid: Some("other".to_owned()),
        ..DeleteOptions::default()
    };
    assert_eq!(
        state.delete(NOW, config_map("a"), &other).unwrap_err().code,
        409
    );
    let outdated = DeleteOptions {
        resource_version: Some(1),
        ..DeleteOptions::default()
    };
    assert_eq!(
        state
            .delete(NOW, config_map("a"), &outdated)
            .unwrap_err()
            .code,
        409
    );
    let right = DeleteOptions {
        uid: Some(a.metadata.uid.to_string()),
        ..DeleteOptions::default()
    };
    assert!(
        state
            .delete(NOW, config_map("a"), &right)
            .unwrap()
            .is_gone()
    );
}

#[test]
fn finalizer_holds_an_object_until_it_is_removed() {
    let mut state = state();
    create(
        &mut state,
        config_map("f"),
        json!({"metadata": {"name": "f", "finalizers": ["example.com/hold"]}}),
    )
    .unwrap();
    assert!(
        !state
            .delete(NOW, config_map("f"), &DeleteOptions::default())
            .unwrap()
            .is_gone()
    );
    assert_eq!(
        state
            .get(config_map("f"))
            .unwrap()
            .metadata
            .deletion_grace_period_seconds,
        Some(0)
    );
    let more =
        Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}));
    let refused = state.patch(
        NOW,
        config_map("f"),
        Part::Whole,
        &more,
        WriteOptions::default(),
    );
    assert_eq!(refused.unwrap_err().code, 422);
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    state
        .patch(
            NOW,
            config_map("f"),
            Part::Whole,
            &free,
            WriteOptions::default(),
        )
        .unwrap();
    assert_eq!(state.count(&CONFIG_MAPS), 0);
}

#[test]
fn namespace_goes_with_its_content_and_takes_no_more() {
    let mut state = state();
    create(
        &mut state,
        Target::cluster(&NAMESPACES, ""),
        json!({"metadata": {"name": "n"}}),
    )
    .unwrap();
    let here = Target::new(&CONFIG_MAPS, "n", "");
    create(&mut state, here, json!({"metadata": {"name": "a"}})).unwrap();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}]}});
    create(&mut state, Target::new(&PODS, "n", ""), pod).unwrap();
    let namespace = Target::cluster(&NAMESPACES, "n");
    state
        .delete(NOW, namespace, &DeleteOptions::default())
        .unwrap();
    assert_eq!(state.count(&CONFIG_MAPS), 0);
    assert_eq!(
        state.get(namespace).unwrap().text("/status/phase"),
        "Terminating"
    );
    assert_eq!(
        create(&mut state, here, json!({"metadata": {"name": "b"}}))
            .unwrap_err()
            .code,
        403
    );
    state
        .delete(NOW, Target::new(&PODS, "n", "p"), &DeleteOptions::now())
        .unwrap();
    assert_eq!(state.get(namespace).unwrap_err().code, 404);
}

#[test]
fn namespaces_of_the_system_stay() {
    let kept = state()
        .delete(
            NOW,
            Target::cluster(&NAMESPACES, "kube-system"),
            &DeleteOptions::default(),
        )
        .unwrap_err();
    assert_eq!(
        (kept.code, kept.message.as_str()),
        (
            403,
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
        )
    );
}

#[test]
fn later_pages_show_the_version_of_the_first() {
    let mut state = state();
    for name in ["a", "c", "e"] {
        create(
            &mut state,
            config_map(name),
            json!({"metadata": {"name": name}}),
        )
        .unwrap();
    }
    let options = ListOptions {
        limit: Some(1),
        ..ListOptions::default()
    };
    let first = state.list(&CONFIG_MAPS, &options).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a"], Some(2)));
    create(
        &mut state,
        config_map("d"),
        json!({"metadata": {"name": "d"}}),
    )
    .unwrap();
    state
        .delete(NOW, config_map("e"), &DeleteOptions::default())
        .unwrap();
    patch(
        &mut state,
        config_map("c"),
        Part::Whole,
        json!({"data": {"new": "1"}}),
    )
    .unwrap();
    let token = first.continue_token.unwrap();
    let rest = state
        .list(
            &CONFIG_MAPS,
            &ListOptions {
                continue_token: &token,
                ..ListOptions::default()
            },
        )
        .unwrap();
    assert_eq!(
        (names(&rest), rest.resource_version),
        (vec!["c", "e"], first.resource_version)
    );
    assert_eq!(rest.items[0].get("data"), None);
}

#[test]
fn versions_that_are_gone_or_to_come_are_refused() {
    let mut state = State::new(&Options {
        history: 2,
        ..Options::default()
    });
    for name in ["a", "b", "c"] {
        create(
            &mut state,
            config_map(name),
            json!({"metadata": {"name": name}}),
        )
        .unwrap();
    }
    let at = |at| ListOptions {
        at,
        ..ListOptions::default()
    };
    assert_eq!(
        state
            .list(&CONFIG_MAPS, &at(AtVersion::Exact(4)))
            .unwrap_err()
            .code,
        410
    );
    assert_eq!(
        names(&state.list(&CONFIG_MAPS, &at(AtVersion::Exact(5))).unwrap()),
        ["a"]
    );
    assert_eq!(
        state
            .list(&CONFIG_MAPS, &at(AtVersion::NotOlderThan(99)))
            .unwrap_err()
            .code,
        504
    );
    let mut cursor = state.watch(
        &CONFIG_MAPS,
        None,
        Selector::default(),
        WatchFrom::Version(4),
    );
    let events = state.poll(&mut cursor, 10);
    assert!(
        matches!(&events[..], [WatchEvent::Error(status)] if status.message == "too old resource version: 4 (5)"),
        "{events:?}"
    );
    assert!(cursor.is_over() && state.poll(&mut cursor, 10).is_empty());
}

#[test]
fn watch_tells_who_enters_and_leaves_the_selector() {
    let mut state = state();
    let selector = Selector::parse(&PODS, "app=p", "").unwrap();
    let mut cursor = state.watch(&PODS, Some("default"), selector, WatchFrom::Now);
    create_pod(&mut state, "p", "n");
    create_pod(&mut state, "q", "n");
    patch(
        &mut state,
        pod("p"),
        Part::Whole,
        json!({"metadata": {"labels": {"app": "x"}}}),
    )
    .unwrap();
    patch(
        &mut state,
        pod("p"),
        Part::Whole,
        json!({"metadata": {"annotations": {"a": "b"}}}),
    )
    .unwrap();
    patch(
        &mut state,
        pod("p"),
        Part::Whole,
        json!({"metadata": {"labels": {"app": "p"}}}),
    )
    .unwrap();
    state.delete(NOW, pod("p"), &DeleteOptions::now()).unwrap();
    let events = state.poll(&mut cursor, 100);
    let told: Vec<_> = events
        .iter()
        .map(|e| {
            (
                e.name(),
                e.object().unwrap().metadata.labels["app"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("ADDED", "p"),
            ("DELETED", "p"),
            ("ADDED", "p"),
            ("MODIFIED", "p"),
            ("DELETED", "p")
        ]
    );
    assert!(
        events
            .windows(2)
            .all(|w| w[0].object().unwrap().metadata.resource_version
                < w[1].object().unwrap().metadata.resource_version)
    );
    assert_eq!(cursor.version(), state.version());
}

#[test]
fn streaming_list_ends_its_initial_events_with_a_bookmark() {
    let mut state = state();
    create(
        &mut state,
        Target::cluster(&NODES, ""),
        json!({"metadata": {"name": "n"}}),
    )
    .unwrap();
    let mut cursor = state.watch(&NODES, None, Selector::default(), WatchFrom::InitialEvents);
    let events = state.poll(&mut cursor, 1);
    assert_eq!(
        events.iter().map(WatchEvent::name).collect::<Vec<_>>(),
        ["ADDED", "BOOKMARK"]
    );
}

#[test]
fn events_are_the_same_objects_in_both_groups() {
    let mut state = state();
    let value = json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i",
        "action": "a", "reason": "R", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello", "type": "Normal"});
    let event = create(&mut state, Target::new(&EVENTS_V1, "default", ""), value).unwrap();
    let core = event.to_value(&EVENTS);
    assert_eq!(
        (
            &core["message"],
            &core["involvedObject"]["name"],
            &core["source"]
        ),
        (&json!("hello"), &json!("p"), &json!({}))
    );
    let new: Value = serde_json::from_slice(&event.encoded(&EVENTS_V1)).unwrap();
    assert_eq!(
        (&new["note"], &new["apiVersion"], &new["deprecatedSource"]),
        (&json!("hello"), &json!("events.k8s.io/v1"), &json!({}))
    );
    let selector = Selector::parse(&EVENTS, "", "involvedObject.name=p,reason=R").unwrap();
    assert_eq!(
        state
            .list(
                &EVENTS,
                &ListOptions {
                    selector,
                    ..ListOptions::default()
                }
            )
            .unwrap()
            .items
            .len(),
        1
    );
}

#[test]
fn services_get_addresses_unless_headless() {
    let mut state = state();
    let service = |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let target = Target::new(&SERVICES, "default", "");
    let (a, b) = (
        create(&mut state, target, service("a", "")).unwrap(),
        create(&mut state, target, service("b", "")).unwrap(),
    );
    assert_eq!(
        (a.text("/spec/clusterIP"), b.text("/spec/clusterIP")),
        ("10.96.0.2", "10.96.0.3")
    );
    assert_eq!(
        create(&mut state, target, service("h", "None"))
            .unwrap()
            .text("/spec/clusterIP"),
        "None"
    );
}

#[test]
fn apply_removes_what_it_no_longer_names_and_conflicts_with_others() {
    let mut state = state();
    let mut apply = |manager: &str, force: bool, data: Value| {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let patch = Patch::Apply {
            value,
            manager: manager.to_owned(),
            force,
        };
        state.patch(
            NOW,
            config_map("a"),
            Part::Whole,
            &patch,
            WriteOptions::default(),
        )
    };
    assert!(
        apply("me", false, json!({"a": "1", "b": "2"}))
            .unwrap()
            .created
    );
    assert_eq!(
        apply("me", false, json!({"a": "1"}))
            .unwrap()
            .object
            .get("data"),
        Some(&json!({"a": "1"}))
    );
    let conflict = apply("you", false, json!({"a": "9"})).unwrap_err();
    assert_eq!(
        conflict.message,
        "Apply failed with 1 conflict: conflict with \"me\": .data.a"
    );
    assert_eq!(
        apply("you", true, json!({"a": "9"}))
            .unwrap()
            .object
            .text("/data/a"),
        "9"
    );
    assert!(
        apply("you", false, json!({"a": "10"})).is_ok(),
        "the field is no longer of the first manager"
    );
}

#[test]
fn logs_are_kept_per_container_and_go_with_the_pod() {
    let mut state = state();
    create_pod(&mut state, "p", "n");
    assert_eq!(
        state.pod_log("default", "p", None).unwrap_err().code,
        400,
        "it waits to start"
    );
    state.append_pod_log("default", "p", "c", "one\n");
    state.append_pod_log("default", "p", "c", "two\n");
    assert_eq!(
        state.pod_log("default", "p", Some("c")).unwrap().text,
        "one\ntwo\n"
    );
    assert_eq!(
        state
            .pod_log("default", "p", Some("d"))
            .unwrap_err()
            .message,
        "container d is not valid for pod p"
    );
    state.delete(NOW, pod("p"), &DeleteOptions::now()).unwrap();
    create_pod(&mut state, "p", "");
    assert_eq!(state.pod_log("default", "p", None).unwrap().text, "");
}

#[test]
fn binding_gives_a_pod_a_node_once() {
    let mut state = state();
    create_pod(&mut state, "p", "");
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    assert_eq!(state.bind(pod("p"), &binding).unwrap().code, 201);
    assert_eq!(state.get(pod("p")).unwrap().text("/spec/nodeName"), "n");
    assert_eq!(state.bind(pod("p"), &binding).unwrap_err().code, 409);
}

#[test]
fn objects_decode_into_typed_ones() {
    let mut state = state();
    let stored = create_pod(&mut state, "p", "n");
    let pod: k8s_openapi::api::core::v1::Pod = stored.decode().unwrap();
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("n"));
    assert_eq!(pod.metadata.resource_version.as_deref(), Some("5"));
    let options = WriteOptions {
        validation: FieldValidation::Warn,
        ..WriteOptions::default()
    };
    let wrong = json!({"metadata": {"name": "l"}, "spec": {"renewTime": "yesterday"}});
    let refused = state
        .create(NOW, Target::new(&LEASES, "default", ""), wrong, options)
        .unwrap_err();
    assert_eq!(refused.code, 400);
}
