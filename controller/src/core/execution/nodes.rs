//! Nodes during the execution: NotReady for too long, gone, or another one under the name. The list is frozen: nodes
//! that come are not added, and those that are cordoned or relabelled keep their turn.

use std::collections::BTreeMap;
use std::time::Duration;

use super::timers::Alarm;
use super::{Effect, Execution};
use crate::core::node_run::{NodeCondition, Progress};
use crate::core::state::{NodeState, Reason};
use crate::core::time::Now;
use crate::core::views::NodeView;

/// Pods and nodes are watched separately: how far apart what happened together may be told.
const OUT_OF_ORDER: Duration = Duration::from_secs(10);

impl Execution {
    pub(super) fn node_seen(&mut self, now: Now, view: &NodeView, effects: &mut Vec<Effect>) {
        let Some(&index) = self.index_by_node.get(&view.name) else {
            return;
        };
        let node = &mut self.nodes[index];
        // What is told late says how the node was: nothing newer may follow that would put it right.
        if view.version < node.version {
            return;
        }
        node.version = view.version;
        if node.names.uid != view.uid {
            let message = "the node was deleted, and another has its name".to_owned();
            return self.node_vanished(now, index, message, effects);
        }
        match (node.condition, view.ready) {
            (NodeCondition::NotReady { .. }, true) => node.condition = NodeCondition::Ready,
            (NodeCondition::Ready, false) => {
                let since = now.monotonic;
                node.condition = NodeCondition::NotReady { since };
                self.watch_for_loss(index);
                let message = "the node was NotReady when its pod ended".to_owned();
                self.lose_with_pod(now, index, message, effects);
            }
            _ => {}
        }
    }

    pub(super) fn node_gone(&mut self, now: Now, view: &NodeView, effects: &mut Vec<Effect>) {
        if let Some(&index) = self.index_by_node.get(&view.name)
            && self.nodes[index].names.uid == view.uid
        {
            let message = "the node was deleted".to_owned();
            self.node_vanished(now, index, message, effects);
        }
    }

    pub(super) fn nodes_relisted(
        &mut self,
        now: Now,
        views: &[NodeView],
        effects: &mut Vec<Effect>,
    ) {
        let present: BTreeMap<&str, &NodeView> = views
            .iter()
            .map(|view| (view.name.as_str(), view))
            .collect();
        for index in 0..self.nodes.len() {
            if let Some(view) = present.get(self.nodes[index].node()) {
                self.node_seen(now, view, effects);
            } else {
                let message = "the node was deleted".to_owned();
                self.node_vanished(now, index, message, effects);
            }
        }
    }

    /// Reminds of `nodeLostTimeout` where the node is NotReady and has a pod, or is about to.
    pub(super) fn watch_for_loss(&mut self, index: usize) {
        let node = &self.nodes[index];
        if let (NodeCondition::NotReady { since }, NodeState::Running) =
            (node.condition, node.state)
        {
            let due = since.after(self.limits.node_lost_timeout);
            self.set_alarm(due, index, Alarm::NodeLost);
        }
    }

    fn node_vanished(
        &mut self,
        now: Now,
        index: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        if node.condition == NodeCondition::Gone {
            return;
        }
        node.condition = NodeCondition::Gone;
        match node.state {
            NodeState::Waiting => {
                self.give_up_waiting(now, index, (Reason::NodeLost, message), effects);
            }
            NodeState::Running => self.lose(now, index, message, effects),
            _ => self.lose_with_pod(now, index, message, effects),
        }
    }

    /// The end of a pod may be told before that of its node: what follows shortly after is the same loss.
    fn lose_with_pod(
        &mut self,
        now: Now,
        index: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let node = &mut self.nodes[index];
        let is_of_pod = matches!(
            node.reason,
            Some(Reason::PodFailed | Reason::Evicted | Reason::Deleted)
        );
        let is_recent =
            (node.ended).is_some_and(|ended| now.monotonic.since(ended.monotonic) <= OUT_OF_ORDER);
        if node.state == NodeState::Failed && is_of_pod && is_recent && self.ended.is_none() {
            (node.reason, node.message) = (Some(Reason::NodeLost), message);
            self.set_state(index, NodeState::Lost);
            effects.push(Effect::NodeEnded { index });
            self.count_failure(index, effects);
        }
    }

    /// The node of a pod is away: its slot is free at once. The pod is deleted as well as that can be, so that it does
    /// not run beside the others should the node come back.
    pub(super) fn lose(
        &mut self,
        now: Now,
        index: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        match self.nodes[index].progress.clone() {
            // The pod has succeeded; only the look for its result is under way.
            Progress::Looking => return,
            Progress::Exists { uid } => {
                let pod_name = self.nodes[index].pod_name.clone();
                self.delete_pod(pod_name, uid, effects);
            }
            _ => {}
        }
        self.finish_lost(now, index, message, effects);
    }

    /// Whether the node can take a pod now; where it has been away for too long, its turn is over.
    pub(super) fn can_take_a_pod(
        &mut self,
        now: Now,
        index: usize,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let NodeCondition::NotReady { since } = self.nodes[index].condition else {
            return true;
        };
        let away = now.monotonic.since(since);
        if away < self.limits.node_lost_timeout {
            return true;
        }
        let message = format!("the node has been NotReady for {} s", away.as_secs());
        self.give_up_waiting(now, index, (Reason::NodeLost, message), effects);
        false
    }
}
