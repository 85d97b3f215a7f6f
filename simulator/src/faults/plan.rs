//! Which faults a run has: drawn from a seed, read from a file, or placed one by one.
//!
//! ```
//! use simulator::faults::{Kind, Plan};
//! let plan = Plan::parse("rates: {silent-watch: 0.01}\nplaced: [{kind: reset-after-commit, nth: 3}]").unwrap();
//! assert_eq!(plan.rate(Kind::SilentWatch), 0.01);
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use crate::rng::Seed;

/// The most frequent a drawn kind is, of the calls or events that it may befall.
const RATE_MAX: f64 = 0.1;

/// The same for a kind that can seldom happen.
const RATE_MAX_OF_SELDOM: f64 = 0.6;

/// How much rarer than that the rarest is, in powers of ten.
const RATE_DECADES: f64 = 1.5;

/// A fault at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// What happens.
    pub kind: Kind,
    /// To which of the calls or events that it may befall, counted from 1.
    pub nth: u64,
}

/// The faults of a run: a rate for each kind, and faults at given places. JSON or YAML in a file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Share of the calls or events it may befall that a kind befalls, from 0 to 1. What is not named is off.
    rates: BTreeMap<Kind, f64>,
    /// Faults at given places.
    placed: Vec<Placed>,
}

impl Plan {
    /// No fault at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Each kind is off in half of the seeds, rare to frequent in the others. A kind's draw depends on nothing but its
    /// name.
    #[must_use]
    pub fn drawn(seed: Seed) -> Self {
        let seed = seed.child("faults/plan");
        let rate = |kind: &Kind| {
            let mut stream = seed.stream(kind.name());
            let is_on = stream.between(0, 1) == 1;
            let rate_max = if kind.is_seldom_possible() {
                RATE_MAX_OF_SELDOM
            } else {
                RATE_MAX
            };
            let rate = rate_max * 10_f64.powf(-RATE_DECADES * stream.unit());
            is_on.then_some((*kind, rate))
        };
        Self {
            rates: Kind::ALL.iter().filter_map(rate).collect(),
            placed: Vec::new(),
        }
    }

    /// Only what the controller's port can show.
    #[must_use]
    pub fn in_process(mut self) -> Self {
        self.retain(Kind::is_in_process);
        self
    }

    /// Without those that do not pass.
    pub fn retain(&mut self, keep: impl Fn(Kind) -> bool) {
        self.rates.retain(|kind, _| keep(*kind));
        self.placed.retain(|placed| keep(placed.kind));
    }

    /// The kinds that may happen, with their rates, for people.
    #[must_use]
    pub fn kinds(&self) -> String {
        let rates = self.rates.iter();
        let kinds: Vec<String> = rates
            .map(|(kind, rate)| format!("{kind}={rate:.3}"))
            .collect();
        kinds.join(" ")
    }

    /// These kinds, at these rates.
    #[must_use]
    pub fn of(rates: impl IntoIterator<Item = (Kind, f64)>) -> Self {
        Self {
            rates: rates.into_iter().collect(),
            placed: Vec::new(),
        }
    }

    /// Faults at given places, and no other.
    #[must_use]
    pub fn placed(placed: Vec<Placed>) -> Self {
        Self {
            rates: BTreeMap::new(),
            placed,
        }
    }

    /// Reads JSON or YAML.
    ///
    /// # Errors
    /// A line that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plan: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if let Some((kind, rate)) = plan
            .rates
            .iter()
            .find(|(_, rate)| !(0.0..=1.0).contains(*rate))
        {
            return Err(format!("rates: {kind}: {rate} is not from 0 to 1"));
        }
        if let Some(placed) = plan.placed.iter().find(|placed| placed.nth == 0) {
            return Err(format!("placed: {}: nth counts from 1", placed.kind));
        }
        Ok(plan)
    }

    /// The rate of a kind; 0 where it is off.
    #[must_use]
    pub fn rate(&self, kind: Kind) -> f64 {
        self.rates.get(&kind).copied().unwrap_or(0.0)
    }

    /// Whether a kind is placed at its `nth` opportunity.
    pub(super) fn is_placed(&self, kind: Kind, nth: u64) -> bool {
        self.placed.contains(&Placed { kind, nth })
    }

    /// Whether a kind may happen at all.
    #[must_use]
    pub fn enables(&self, kind: Kind) -> bool {
        self.rate(kind) > 0.0 || self.placed.iter().any(|placed| placed.kind == kind)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !Kind::ALL.iter().any(|kind| self.enables(*kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_from_yaml_and_from_json() {
        let yaml = Plan::parse("rates:\n  conflict: 0.5\nplaced:\n  - {kind: forbidden, nth: 2}\n");
        let json = Plan::parse(
            r#"{"rates": {"conflict": 0.5}, "placed": [{"kind": "forbidden", "nth": 2}]}"#,
        );
        assert_eq!(yaml, json);
        let plan = yaml.unwrap();
        assert!(plan.enables(Kind::Conflict) && plan.is_placed(Kind::Forbidden, 2));
        assert!(!plan.enables(Kind::Invalid) && !plan.is_none() && Plan::none().is_none());
    }

    #[test]
    fn what_a_plan_cannot_be_is_said() {
        for (text, word) in [
            ("rates: {conflict: 2}", "not from 0 to 1"),
            ("rates: {nope: 0.1}", "no kind of fault"),
            ("placed: [{kind: conflict, nth: 0}]", "from 1"),
            ("rate: {}", "rate"),
        ] {
            let error = Plan::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn drawn_plans_turn_each_kind_off_in_about_half_of_the_seeds() {
        let plans: Vec<Plan> = (0..200).map(|n| Plan::drawn(Seed::of_run(n))).collect();
        for kind in Kind::ALL {
            let on = plans.iter().filter(|plan| plan.enables(*kind)).count();
            assert!((60..=140).contains(&on), "{kind}: {on} of 200");
        }
        assert!(
            plans
                .iter()
                .all(|plan| plan.rate(Kind::Forbidden) <= RATE_MAX)
        );
    }
}
