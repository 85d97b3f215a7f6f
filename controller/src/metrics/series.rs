//! The per-node series: compact state, and its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Bound;
use std::time::Duration;

use crate::config::Config;
use crate::core::ids::ExecutionId;
use crate::core::report::{GAUGE_SERIES_MAX, Results, Sample, SampleError, check_labels};
use crate::core::series_forecast::SeriesForecast;

/// What is written of a scrape at a time, about: a lock is held meanwhile.
const PART_BYTES: usize = 32 << 10;

/// The label value that stands for each node's newest execution.
const LATEST: &str = "latest";

/// What the configuration says about exporting.
#[derive(Debug)]
pub(super) struct Exposition {
    prefix: String,
    gauges: Vec<GaugeLayout>,
    /// Executions that are exported.
    history: usize,
    /// Executions that are kept.
    kept: usize,
    latest: bool,
}

#[derive(Debug)]
struct GaugeLayout {
    name: String,
    family: String,
    help: String,
    /// Declared labels without `node` and `executionID`, in the order of the configuration.
    labels: Vec<String>,
    /// All labels, sorted by name, as Prometheus' own client writes them.
    line: Vec<(String, LabelSource)>,
}

#[derive(Debug, Clone, Copy)]
enum LabelSource {
    Declared(usize),
    Node,
    Execution,
}

/// A gauge's place in the configuration, and the values of its labels.
type SeriesKey = (usize, Box<[Box<str>]>);

/// The samples of a node.
type Samples = BTreeMap<SeriesKey, f64>;

#[derive(Debug, Default)]
struct NodeSeries {
    processing: Option<bool>,
    duration: Option<Duration>,
    samples: Samples,
}

type ExecutionSeries = BTreeMap<Box<str>, NodeSeries>;

/// How far a scrape has come: what one series store wrote it goes on with.
#[derive(Debug)]
pub(super) struct Scrape {
    /// [`SeriesStore::configured`] at its beginning.
    configured: u64,
    /// What of each family is written, in this order.
    sources: Vec<Source>,
    family: usize,
    source: usize,
    /// The last that was written of them.
    node: Option<Box<str>>,
}

/// Whose series are written.
#[derive(Debug)]
enum Source {
    Of(ExecutionId),
    /// By node; see [`SeriesStore::latest`].
    Latest(BTreeMap<Box<str>, Option<ExecutionId>>),
}

/// A family of per-node series.
#[derive(Debug)]
enum Family<'f> {
    /// With its place in the configuration.
    Gauge(usize, &'f GaugeLayout),
    Processing(String),
    Duration(String),
}

#[derive(Debug)]
pub(super) struct SeriesStore {
    exposition: Exposition,
    /// How often it was configured.
    configured: u64,
    executions: BTreeMap<ExecutionId, ExecutionSeries>,
    current: Option<(ExecutionId, usize)>,
    /// Series in all of this, so that asking for it costs nothing.
    count: usize,
    /// What is still `latest` of nodes whose last series left the history: kept while some execution has them in its
    /// list.
    outlived: ExecutionSeries,
}

impl Exposition {
    pub(super) fn new(config: &Config) -> Self {
        let prefix = config.metrics.prefix.clone();
        let gauges = config.metrics.gauges.iter().map(|(name, gauge)| {
            let mut labels = gauge.labels.clone();
            labels.retain(|label| label != "node" && label != "executionID");
            let mut line: Vec<_> = (labels.iter().enumerate())
                .map(|(index, label)| (label.clone(), LabelSource::Declared(index)))
                .chain([
                    ("node".to_owned(), LabelSource::Node),
                    ("executionID".to_owned(), LabelSource::Execution),
                ])
                .collect();
            line.sort_by(|a, b| a.0.cmp(&b.0));
            GaugeLayout {
                name: name.clone(),
                family: format!("{prefix}_{name}"),
                help: gauge.help.clone(),
                labels,
                line,
            }
        });
        Self {
            gauges: gauges.collect(),
            history: config.metrics.history as usize,
            kept: config.report_history.get() as usize,
            latest: config.latest_metrics_label,
            prefix,
        }
    }
}

impl NodeSeries {
    fn is_empty(&self) -> bool {
        self.count() == 0
    }

    fn count(&self) -> usize {
        usize::from(self.processing.is_some())
            + usize::from(self.duration.is_some())
            + self.samples.len()
    }

    /// What it has of one gauge.
    fn of_gauge(&self, gauge: usize) -> impl Iterator<Item = (&[Box<str>], f64)> {
        let samples = self.samples.range((gauge, Box::default())..);
        let of_it = samples.take_while(move |((at, _), _)| *at == gauge);
        of_it.map(|((_, values), value)| (&**values, *value))
    }

    /// Takes in samples as far as there is room for their series: results that nobody checked are read from the volume,
    /// and two of one node may be checked at the same time.
    fn extend(&mut self, samples: Vec<(SeriesKey, f64)>) {
        let has_room = self.samples.len() + samples.len() <= GAUGE_SERIES_MAX;
        for (key, value) in samples {
            if has_room
                || self.samples.contains_key(&key)
                || self.of_gauge(key.0).count() < GAUGE_SERIES_MAX
            {
                self.samples.insert(key, value);
            }
        }
    }
}

impl SeriesStore {
    pub(super) fn new(exposition: Exposition) -> Self {
        Self {
            exposition,
            configured: 0,
            executions: BTreeMap::new(),
            current: None,
            count: 0,
            outlived: ExecutionSeries::new(),
        }
    }

    /// Exports otherwise from now on. Samples stay with the gauge whose name and labels they were made for.
    pub(super) fn configure(&mut self, exposition: Exposition) {
        let old = std::mem::replace(&mut self.exposition, exposition);
        self.configured += 1;
        let place = |old: &GaugeLayout| {
            let mut gauges = self.exposition.gauges.iter();
            gauges.position(|new| (&new.name, &new.labels) == (&old.name, &old.labels))
        };
        let places: Vec<Option<usize>> = old.gauges.iter().map(place).collect();
        if !self.exposition.latest {
            self.outlived.clear();
        }
        let kept = self.executions.values_mut().chain([&mut self.outlived]);
        for series in kept.flat_map(BTreeMap::values_mut) {
            for ((gauge, values), value) in std::mem::take(&mut series.samples) {
                if let Some(place) = places[gauge] {
                    series.samples.insert((place, values), value);
                }
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        let kept = self.executions.values().chain([&self.outlived]);
        self.count = kept.flat_map(BTreeMap::values).map(NodeSeries::count).sum();
    }

    pub(super) fn clear(&mut self) {
        self.executions.clear();
        self.current = None;
        self.count = 0;
        self.outlived.clear();
    }

    pub(super) fn execution_started<'a>(
        &mut self,
        id: &ExecutionId,
        nodes: impl IntoIterator<Item = &'a str>,
    ) {
        let list = nodes.into_iter().map(Box::from);
        let list: ExecutionSeries = list.map(|node| (node, NodeSeries::default())).collect();
        self.current = Some((id.clone(), list.len()));
        self.executions.entry(id.clone()).or_insert(list);
        self.limit(id);
    }

    /// The newest execution was found on the volume after a start; whether it is, and none has begun since.
    pub(super) fn newest_found(&mut self, id: &ExecutionId, nodes: usize) -> bool {
        let is_newest = self.current.is_none();
        if is_newest {
            self.current = Some((id.clone(), nodes));
        }
        is_newest
    }

    fn change(&mut self, id: &ExecutionId, node: &str, change: impl FnOnce(&mut NodeSeries)) {
        if !self.executions.contains_key(id) {
            self.executions.insert(id.clone(), ExecutionSeries::new());
            self.limit(id);
        }
        let execution = self.executions.entry(id.clone()).or_default();
        let series = execution.entry(node.into()).or_default();
        let before = series.count();
        change(series);
        self.count = self.count + series.count() - before;
    }

    /// Series stay bounded by the history, also where any execution may call back (`DEV_MODE`). The newest addition
    /// stays.
    fn limit(&mut self, added: &ExecutionId) {
        while self.executions.len() > self.exposition.kept {
            let current = self.current.as_ref().map(|(id, _)| id);
            let is_spared = |id: &&ExecutionId| *id == added || Some(*id) == current;
            let mut others = self.executions.keys().filter(|id| !is_spared(id));
            let Some(oldest) = others.next().cloned() else {
                return;
            };
            self.prune(&oldest);
        }
    }

    /// Whether every sample of a result can be exported.
    pub(super) fn check(
        &self,
        id: &ExecutionId,
        node: &str,
        results: &Results,
    ) -> Result<(), SampleError> {
        let known = self.executions.get(id).and_then(|nodes| nodes.get(node));
        for (gauge, layout) in self.exposition.gauges.iter().enumerate() {
            let Some(samples) = results.get(&layout.name) else {
                continue;
            };
            check_labels(&layout.name, samples, &layout.labels)?;
            let before = known.map_or(0, |series| series.of_gauge(gauge).count());
            if before + samples.len() <= GAUGE_SERIES_MAX {
                continue;
            }
            let new: BTreeSet<_> = (samples.iter())
                .map(|sample| (gauge, layout.values_of(sample)))
                .filter(|key| known.is_none_or(|series| !series.samples.contains_key(key)))
                .collect();
            let count = before + new.len();
            if count > GAUGE_SERIES_MAX {
                return Err(SampleError::ManySeries {
                    gauge: layout.name.clone(),
                    count,
                });
            }
        }
        Ok(())
    }

    pub(super) fn result(&mut self, id: &ExecutionId, node: &str, results: &Results) {
        let mut samples = Vec::new();
        for (gauge, layout) in self.exposition.gauges.iter().enumerate() {
            for sample in results.get(&layout.name).into_iter().flatten() {
                samples.push(((gauge, layout.values_of(sample)), sample.value));
            }
        }
        self.change(id, node, |series| {
            // A late result does not undo an end that went wrong: `processing` says how the node ended.
            series.processing.get_or_insert(false);
            series.extend(samples);
        });
    }

    pub(super) fn result_restored(&mut self, id: &ExecutionId, node: &str, results: &Results) {
        let known = self.executions.get(id).and_then(|nodes| nodes.get(node));
        if known.is_some_and(|known| !known.samples.is_empty()) {
            return;
        }
        let ended = known.and_then(|known| known.processing);
        self.result(id, node, results);
        if let Some(error) = ended {
            self.processing(id, node, error);
        }
    }

    pub(super) fn processing(&mut self, id: &ExecutionId, node: &str, error: bool) {
        self.change(id, node, |series| series.processing = Some(error));
    }

    pub(super) fn duration(&mut self, id: &ExecutionId, node: &str, duration: Duration) {
        self.change(id, node, |series| series.duration = Some(duration));
    }

    pub(super) fn prune(&mut self, id: &ExecutionId) {
        let Some(pruned) = self.executions.remove(id) else {
            return;
        };
        if self.exposition.latest {
            self.outlive(pruned);
        }
        self.recount();
    }

    fn outlive(&mut self, pruned: ExecutionSeries) {
        let with_series = pruned.into_iter().filter(|(_, series)| !series.is_empty());
        self.outlived.extend(with_series);
        let executions = &self.executions;
        self.outlived.retain(|node, _| {
            let mut kept = executions.values().filter_map(|nodes| nodes.get(node));
            kept.clone().next().is_some() && kept.all(NodeSeries::is_empty)
        });
    }

    pub(super) fn forecast(&self, nodes: usize) -> SeriesForecast {
        let seen = self.executions.values().flat_map(BTreeMap::values);
        // `processing` and `duration` beside the gauges.
        let configured = self.exposition.gauges.len() + 2;
        let samples = seen.map(NodeSeries::count).fold(configured, usize::max);
        let executions = self.exposition.history + usize::from(self.exposition.latest);
        SeriesForecast {
            nodes: nodes as u64,
            samples: samples as u64,
            executions: executions as u64,
        }
    }

    pub(super) fn series_count(&self) -> usize {
        self.count
    }

    /// What is to be written now, to be read on with [`Self::write_part`].
    pub(super) fn begin_scrape(&self, text: &mut String) -> Scrape {
        self.render_current(text);
        let exported = (self.executions.iter().rev())
            .filter(|(_, nodes)| nodes.values().any(|series| !series.is_empty()))
            .take(self.exposition.history);
        let mut sources: Vec<_> = exported.map(|(id, _)| Source::Of(id.clone())).collect();
        sources.reverse();
        sources.extend(
            self.exposition
                .latest
                .then(|| Source::Latest(self.latest())),
        );
        Scrape {
            configured: self.configured,
            sources,
            family: 0,
            source: 0,
            node: None,
        }
    }

    /// Writes on, about as much as [`PART_BYTES`]; whether there is more. What changes meanwhile is there as it was or
    /// as it is.
    pub(super) fn write_part(&self, scrape: &mut Scrape, text: &mut String) -> bool {
        // Of what was configured otherwise there is no rest.
        let gauges = &self.exposition.gauges;
        if scrape.configured != self.configured {
            return false;
        }
        while scrape.family < gauges.len() + 2 {
            let family = match scrape.family.checked_sub(gauges.len()) {
                None => Family::Gauge(scrape.family, &gauges[scrape.family]),
                Some(0) => Family::Processing(format!("{}_processing", self.exposition.prefix)),
                Some(_) => Family::Duration(format!("{}_duration", self.exposition.prefix)),
            };
            if scrape.source == 0 && scrape.node.is_none() {
                family.write_header(text);
            }
            while let Some(source) = scrape.sources.get(scrape.source) {
                if self.write_source(&family, source, &mut scrape.node, text) {
                    return true;
                }
                scrape.source += 1;
            }
            scrape.source = 0;
            scrape.family += 1;
        }
        false
    }

    /// Writes what is of one family and source after a node; whether it ends before the last.
    fn write_source(
        &self,
        family: &Family<'_>,
        source: &Source,
        node: &mut Option<Box<str>>,
        text: &mut String,
    ) -> bool {
        let from = node.take().map_or(Bound::Unbounded, Bound::Excluded);
        let nodes: &mut dyn Iterator<Item = (&Box<str>, &str, &NodeSeries)> = match source {
            Source::Of(id) => {
                let series = self.executions.get(id).into_iter();
                let after = series.flat_map(|nodes| nodes.range((from.clone(), Bound::Unbounded)));
                &mut after.map(|(node, series)| (node, id.as_str(), series))
            }
            Source::Latest(nodes) => {
                let after = nodes.range((from, Bound::Unbounded));
                &mut after.filter_map(|(node, id)| {
                    let of = id
                        .as_ref()
                        .map_or(Some(&self.outlived), |id| self.executions.get(id));
                    Some((node, LATEST, of?.get(node)?))
                })
            }
        };
        for (name, id, series) in nodes {
            family.write_lines(text, id, name, series);
            if text.len() >= PART_BYTES {
                *node = Some(name.clone());
                return true;
            }
        }
        false
    }

    fn render_current(&self, text: &mut String) {
        let Some((id, pods)) = &self.current else {
            return;
        };
        let prefix = &self.exposition.prefix;
        #[allow(
            clippy::cast_precision_loss,
            reason = "a cluster has fewer than 2^53 nodes"
        )]
        let families = [
            (
                "current_execution_id",
                "The current execution ID",
                id.as_f64(),
            ),
            (
                "pods",
                "The number of pods started for the last execution",
                *pods as f64,
            ),
        ];
        for (suffix, help, value) in families {
            let family = format!("{prefix}_{suffix}");
            write_family_header(text, &family, help);
            let _ = write!(text, "{family} ");
            write_value(text, value);
            text.push('\n');
        }
    }

    /// In which execution each node has its newest series; none: in one that left the history.
    fn latest(&self) -> BTreeMap<Box<str>, Option<ExecutionId>> {
        let mut latest = BTreeMap::new();
        let kept = self.executions.iter().map(|(id, nodes)| (Some(id), nodes));
        for (id, nodes) in [(None, &self.outlived)].into_iter().chain(kept) {
            let with_series = nodes.iter().filter(|(_, series)| !series.is_empty());
            latest.extend(with_series.map(|(node, _)| (node.clone(), id.cloned())));
        }
        latest
    }
}

impl Family<'_> {
    fn write_header(&self, text: &mut String) {
        match self {
            Self::Gauge(_, layout) => write_family_header(text, &layout.family, &layout.help),
            Self::Processing(family) => {
                let help = "Node with processing error, 1: has error / 0: no error";
                write_family_header(text, family, help);
            }
            Self::Duration(family) => {
                write_family_header(text, family, "Execution Duration in milliseconds");
            }
        }
    }

    fn write_lines(&self, text: &mut String, id: &str, node: &str, series: &NodeSeries) {
        match self {
            Self::Gauge(gauge, layout) => layout.write_lines(text, *gauge, id, node, series),
            Self::Processing(family) => {
                if let Some(error) = series.processing {
                    write_node_line(text, family, id, node, f64::from(u8::from(error)));
                }
            }
            Self::Duration(family) => {
                if let Some(value) = series.duration {
                    let milliseconds = (value.as_secs_f64() * 1000.0).round();
                    write_node_line(text, family, id, node, milliseconds);
                }
            }
        }
    }
}

impl GaugeLayout {
    /// A sample's values of the declared labels; one that it lacks is empty.
    fn values_of(&self, sample: &Sample) -> Box<[Box<str>]> {
        let value = |label| sample.labels.get(label).map_or("", String::as_str).into();
        self.labels.iter().map(value).collect()
    }

    fn write_lines(
        &self,
        text: &mut String,
        gauge: usize,
        id: &str,
        node: &str,
        series: &NodeSeries,
    ) {
        for (values, value) in series.of_gauge(gauge) {
            text.push_str(&self.family);
            for (index, (label, source)) in self.line.iter().enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                text.push_str(label);
                text.push_str("=\"");
                match source {
                    LabelSource::Declared(index) => write_escaped(text, &values[*index]),
                    LabelSource::Node => text.push_str(node),
                    LabelSource::Execution => text.push_str(id),
                }
                text.push('"');
            }
            text.push_str("} ");
            write_value(text, value);
            text.push('\n');
        }
    }
}

fn write_node_line(text: &mut String, family: &str, id: &str, node: &str, value: f64) {
    let _ = write!(text, "{family}{{executionID=\"{id}\",node=\"{node}\"}} ");
    write_value(text, value);
    text.push('\n');
}

pub(super) fn write_family_header(text: &mut String, family: &str, help: &str) {
    let _ = write!(text, "# HELP {family} ");
    for character in help.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    let _ = writeln!(text, "\n# TYPE {family} gauge");
}

/// A label value, escaped as the text format wants it.
pub(super) fn write_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

/// A value as Go's `strconv.FormatFloat(v, 'g', -1, 64)` writes it, so that text comparisons with the original hold:
/// shortest digits, an exponent below 1e-4 and from 1e6 on.
pub(super) fn write_value(text: &mut String, value: f64) {
    if value.is_nan() {
        return text.push_str("NaN");
    }
    if value.is_infinite() {
        return text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let _ = write!(text, "{value}");
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(text, "{digits}e{sign}{:02}", exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(value: f64) -> String {
        let mut text = String::new();
        write_value(&mut text, value);
        text
    }

    #[test]
    fn values_are_written_as_go_writes_them() {
        for (number, want) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (1500.0, "1500"),
            (2.554, "2.554"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (999_999.5, "999999.5"),
            (1e6, "1e+06"),
            (202_611_232_359.0, "2.02611232359e+11"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(value(number), want);
        }
    }

    #[test]
    fn a_node_has_so_many_series_of_a_gauge_and_no_more_over_all_its_results() {
        let id = ExecutionId::parse("202601010000").unwrap();
        let gauge = |name: &str| GaugeLayout {
            name: name.to_owned(),
            family: name.to_owned(),
            help: String::new(),
            labels: vec!["a".to_owned()],
            line: Vec::new(),
        };
        let mut store = SeriesStore::new(Exposition {
            prefix: "audit".to_owned(),
            gauges: vec![gauge("g"), gauge("h")],
            history: 1,
            kept: 1,
            latest: false,
        });
        let results = |name: &str, range: std::ops::Range<usize>| {
            let sample = |number: usize| Sample {
                value: 1.0,
                labels: BTreeMap::from([("a".to_owned(), number.to_string())]),
            };
            Results::from([(name.to_owned(), range.map(sample).collect())])
        };
        assert_eq!(store.check(&id, "n", &results("g", 0..1000)), Ok(()));
        let refused = store.check(&id, "n", &results("g", 0..1001)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "result: g: would have 1001 series of this node, at most 1000 are taken"
        );
        store.result(&id, "n", &results("g", 0..600));
        for (range, is_taken) in [(0..600, true), (500..1000, true), (600..1001, false)] {
            let checked = store.check(&id, "n", &results("g", range.clone()));
            assert_eq!(checked.is_ok(), is_taken, "{range:?}");
        }
        assert_eq!(store.check(&id, "m", &results("g", 600..1001)), Ok(()));
        assert_eq!(store.check(&id, "n", &results("h", 600..1001)), Ok(()));
        // What nobody checked.
        store.result(&id, "n", &results("g", 500..1500));
        store.result(&id, "n", &results("h", 0..10));
        assert_eq!(store.series_count(), 1 + 1000 + 10);
    }

    #[test]
    fn series_are_counted_as_they_come_and_go() {
        let id = |text| ExecutionId::parse(text).unwrap();
        let (old, new) = (id("202601010000"), id("202601020000"));
        let mut store = SeriesStore::new(Exposition {
            prefix: "audit".to_owned(),
            gauges: Vec::new(),
            history: 2,
            kept: 2,
            latest: true,
        });
        for (execution, node) in [(&old, "a"), (&old, "b"), (&new, "a"), (&new, "a")] {
            store.processing(execution, node, false);
            store.duration(execution, node, Duration::from_secs(1));
        }
        assert_eq!(store.series_count(), 6);
        store.prune(&old);
        assert_eq!(store.series_count(), 2);
        store.prune(&old);
        assert_eq!(store.series_count(), 2);
    }
}
