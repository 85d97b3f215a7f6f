//! Go's types leave out a false or a 0 where they cannot tell it from "not set", and always write the divisor of a
//! resource reference: this brings a pod into that form, so that it reads the same whoever decoded it.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, Pod, PodSpec, Probe, ResourceFieldSelector, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub(super) fn drop_zero_values(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else {
        return;
    };
    drop_host_flags(spec);
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        drop_in_container(container);
    }
    spec.volumes.iter_mut().flatten().for_each(drop_in_volume);
}

fn drop_false(flag: &mut Option<bool>) {
    *flag = flag.filter(|set| *set);
}

fn drop_zero(number: &mut Option<i32>) {
    *number = number.filter(|set| *set != 0);
}

fn drop_host_flags(spec: &mut PodSpec) {
    drop_false(&mut spec.host_network);
    drop_false(&mut spec.host_pid);
    drop_false(&mut spec.host_ipc);
}

fn drop_in_container(container: &mut Container) {
    drop_false(&mut container.stdin);
    drop_false(&mut container.stdin_once);
    drop_false(&mut container.tty);
    container
        .ports
        .iter_mut()
        .flatten()
        .for_each(|port| drop_zero(&mut port.host_port));
    container
        .volume_mounts
        .iter_mut()
        .flatten()
        .for_each(|mount| drop_false(&mut mount.read_only));
    container
        .env
        .iter_mut()
        .flatten()
        .for_each(set_divisor_of_variable);
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(drop_in_probe);
}

fn drop_in_probe(probe: &mut Probe) {
    drop_zero(&mut probe.initial_delay_seconds);
    drop_zero(&mut probe.timeout_seconds);
    drop_zero(&mut probe.period_seconds);
    drop_zero(&mut probe.success_threshold);
    drop_zero(&mut probe.failure_threshold);
}

fn drop_in_volume(volume: &mut Volume) {
    if let Some(claim) = volume.persistent_volume_claim.as_mut() {
        drop_false(&mut claim.read_only);
    }
    if let Some(nfs) = volume.nfs.as_mut() {
        drop_false(&mut nfs.read_only);
    }
    if let Some(iscsi) = volume.iscsi.as_mut() {
        drop_false(&mut iscsi.read_only);
        drop_false(&mut iscsi.chap_auth_discovery);
        drop_false(&mut iscsi.chap_auth_session);
    }
    let downward = volume
        .downward_api
        .iter_mut()
        .filter_map(|source| source.items.as_mut());
    let projected = volume
        .projected
        .iter_mut()
        .filter_map(|source| source.sources.as_mut())
        .flatten();
    let projected = projected
        .filter_map(|source| source.downward_api.as_mut())
        .filter_map(|api| api.items.as_mut());
    for item in downward.chain(projected).flatten() {
        item.resource_field_ref.iter_mut().for_each(set_divisor);
    }
}

fn set_divisor_of_variable(variable: &mut EnvVar) {
    let source = variable
        .value_from
        .as_mut()
        .and_then(|source| source.resource_field_ref.as_mut());
    source.into_iter().for_each(set_divisor);
}

fn set_divisor(reference: &mut ResourceFieldSelector) {
    reference
        .divisor
        .get_or_insert_with(|| Quantity("0".into()));
}
