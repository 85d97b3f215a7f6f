//! The invariants of an execution, as functions that tests, the simulator and production can call after every event.

use super::execution::{Execution, NodeRun};
use super::pod_pool::SlotHolder;
use super::state::NodeState;

/// Checks every invariant.
///
/// # Errors
/// The first that does not hold, as a sentence with the figures.
pub fn check(execution: &Execution) -> Result<(), String> {
    slots_belong_to_running_nodes(execution)?;
    ended_nodes_are_counted_once(execution)?;
    attempts_stay_within_the_retries(execution)?;
    what_went_wrong_says_why(execution)?;
    a_stopped_execution_starts_nothing(execution)?;
    an_ended_execution_has_no_open_node(execution)
}

fn slots_belong_to_running_nodes(execution: &Execution) -> Result<(), String> {
    let mut held = 0;
    for (index, node) in execution.nodes().iter().enumerate() {
        let holds = execution.pool().holds(&SlotHolder::Node(index));
        held += usize::from(holds);
        if holds != (node.state() == NodeState::Running) {
            return Err(format!(
                "node {} is {} and holds a slot: {holds}",
                node.node(),
                node.state().as_str()
            ));
        }
    }
    let size = execution.pool().size().get() as usize;
    // Pods of an earlier execution may be more than the pool has slots; nothing is created beside them then.
    if held > 0 && execution.pool().taken() > size {
        let taken = execution.pool().taken();
        return Err(format!(
            "{taken} slots of a pool of {size} are taken, {held} of them by nodes"
        ));
    }
    if held > size {
        return Err(format!("{held} nodes hold slots of a pool of {size}"));
    }
    Ok(())
}

fn ended_nodes_are_counted_once(execution: &Execution) -> Result<(), String> {
    let ended = execution
        .nodes()
        .iter()
        .filter(|node| node.state().is_final())
        .count();
    if ended != execution.ended_nodes() {
        return Err(format!(
            "{ended} nodes have ended, {} were counted",
            execution.ended_nodes()
        ));
    }
    for state in NodeState::ALL
        .into_iter()
        .filter(|state| *state != NodeState::Excluded)
    {
        let there = execution
            .nodes()
            .iter()
            .filter(|node| node.state() == state)
            .count();
        let counted = execution
            .counts()
            .get(&state)
            .map_or(0, |count| *count as usize);
        if there != counted {
            return Err(format!(
                "{there} nodes are {}, {counted} were counted",
                state.as_str()
            ));
        }
    }
    Ok(())
}

fn attempts_stay_within_the_retries(execution: &Execution) -> Result<(), String> {
    let most = execution.limits().retries.saturating_add(1);
    for node in execution.nodes() {
        let attempts = node.attempts();
        let state = node.state();
        let fits = match state {
            NodeState::NotStarted => attempts == 0,
            NodeState::Running | NodeState::Succeeded => (1..=most).contains(&attempts),
            // One that waits for its next attempt must have one left.
            NodeState::Waiting => attempts < most,
            NodeState::Failed | NodeState::Lost | NodeState::Excluded => attempts <= most,
        };
        if !fits {
            return Err(format!(
                "node {} is {} after {attempts} attempts of at most {most}",
                node.node(),
                state.as_str()
            ));
        }
    }
    Ok(())
}

fn what_went_wrong_says_why(execution: &Execution) -> Result<(), String> {
    for node in execution.nodes() {
        let must_say = match node.state() {
            NodeState::Failed | NodeState::Lost | NodeState::NotStarted => true,
            NodeState::Succeeded => false,
            _ => continue,
        };
        if must_say != node.reason().is_some() {
            return Err(format!(
                "node {} is {} for the reason {:?}",
                node.node(),
                node.state().as_str(),
                node.reason()
            ));
        }
    }
    Ok(())
}

fn a_stopped_execution_starts_nothing(execution: &Execution) -> Result<(), String> {
    let waits = |node: &&NodeRun| node.state() == NodeState::Waiting;
    match execution.nodes().iter().find(waits) {
        Some(node) if execution.is_stopped() => Err(format!(
            "the execution is stopped, and node {} waits for its turn",
            node.node()
        )),
        _ => Ok(()),
    }
}

fn an_ended_execution_has_no_open_node(execution: &Execution) -> Result<(), String> {
    let open = execution.nodes().len() - execution.ended_nodes();
    if execution.makespan().is_some() && open > 0 {
        return Err(format!("the execution has ended with {open} nodes open"));
    }
    Ok(())
}
