//! A changed configuration that a running process takes over, and what of it only a restart can change.

use super::Config;

/// Puts the value back that the process began with, and says whether that differs.
type Keep = fn(&mut Config, &Config) -> bool;

/// The keys by which the process is known, listens, stores and takes part in the election: it began with them.
#[rustfmt::skip]
const ONLY_AT_A_START: &[(&str, Keep)] = &[
    ("name", |new, old| keep(&mut new.name, &old.name)),
    ("reportDirectory", |new, old| keep(&mut new.report_directory, &old.report_directory)),
    ("reportDurability", |new, old| keep(&mut new.report_durability, &old.report_durability)),
    ("reportQuota", |new, old| keep(&mut new.report_quota_bytes, &old.report_quota_bytes)),
    ("callbackServicePort", |new, old| keep(&mut new.callback_service_port, &old.callback_service_port)),
    ("callbackBodyLimit", |new, old| keep(&mut new.callback_body_limit, &old.callback_body_limit)),
    ("callbackAuth", |new, old| keep(&mut new.callback_auth, &old.callback_auth)),
    ("callbackHoldTimeout", |new, old| keep(&mut new.callback_hold_timeout, &old.callback_hold_timeout)),
    ("healthProbePort", |new, old| keep(&mut new.health_probe_port, &old.health_probe_port)),
    ("fileServerPort", |new, old| keep(&mut new.file_server_port, &old.file_server_port)),
    ("metrics.port", |new, old| keep(&mut new.metrics.port, &old.metrics.port)),
    ("leaderElection", |new, old| keep(&mut new.leader_election, &old.leader_election)),
];

fn keep<T: Clone + PartialEq>(new: &mut T, old: &T) -> bool {
    let differs = new != old;
    new.clone_from(old);
    differs
}

/// What a process with the configuration `running` makes of a changed one, and the changed keys that wait for its
/// restart.
#[must_use]
pub fn take_over(running: &Config, changed: Config) -> (Config, Vec<&'static str>) {
    let mut taken = changed;
    let waiting = (ONLY_AT_A_START.iter())
        .filter(|(_, keep)| keep(&mut taken, running))
        .map(|(key, _)| *key)
        .collect();
    (taken, waiting)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{EnvironmentDefaults, parse};
    use super::*;

    fn config(lines: &str) -> Config {
        let yaml = format!("cronExpression: '@daily'\n{lines}\n");
        let parsed = parse(&yaml, &EnvironmentDefaults::default());
        parsed.unwrap_or_else(|error| panic!("{error}")).0
    }

    #[test]
    fn what_the_process_began_with_waits_for_a_restart_and_the_rest_is_taken_over() {
        let running = config("name: a");
        let changed = "name: b
podPoolSize: 3
reportHistory: 5
fileServerPort: 9000
metrics: {port: 9001, gauges: {used: {}}}
leaderElection: {leaseDuration: 20s}
callbackBodyLimit: {file: 1Ki}";
        let (taken, waiting) = take_over(&running, config(changed));
        assert_eq!(
            waiting,
            [
                "name",
                "callbackBodyLimit",
                "fileServerPort",
                "metrics.port",
                "leaderElection"
            ]
        );
        let wanted = "name: a
podPoolSize: 3
reportHistory: 5
metrics: {prefix: b, gauges: {used: {}}}";
        assert_eq!(taken, config(wanted));
        assert_eq!(take_over(&running, running.clone()), (running, Vec::new()));
    }
}
