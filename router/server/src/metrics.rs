//! `/metrics`: what the core counted and what the workers last said, in the text format of Prometheus.
//!
//! Most of it is figures of other processes, cumulative already, so they are written as they came. Labels come from
//! closed enums and from worker ids, never from a client.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use serde_json::{Map, json};
use slackwater_core::{
    Class, Counters, LostReason, Scheduler, SuspectReason, Tally, ViolationReason, WorkerId,
    WorkerState, WorkerView,
};
use slackwater_wire::messages::{Metric, MetricName, WorkerStats};

/// What was known at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The model's name, for vLLM's labels.
    pub model_name: String,
    /// What the core counted.
    pub counters: Counters,
    /// Waiting requests by class.
    pub queue_depths: Vec<(Class, usize)>,
    /// Requests that have not ended.
    pub live_requests: usize,
    /// The workers.
    pub workers: Vec<WorkerView>,
    /// What each worker last said of itself.
    pub stats: BTreeMap<WorkerId, WorkerStats>,
}

impl Snapshot {
    /// The core's part of it; `stats` are the workers'.
    pub fn of(core: &Scheduler, model_name: &str, stats: &BTreeMap<WorkerId, WorkerStats>) -> Self {
        Self {
            model_name: model_name.to_owned(),
            counters: core.counters().clone(),
            queue_depths: Class::ALL
                .map(|class| (class, core.queue_depth(class)))
                .into(),
            live_requests: core.live_requests(),
            workers: core.workers().collect(),
            stats: stats.clone(),
        }
    }

    /// The text.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.render_router(&mut page);
        self.render_workers(&mut page);
        self.render_worker_stats(&mut page);
        page.text
    }

    /// `/load`: vLLM's figure, and ours by class and worker.
    pub fn load(&self) -> String {
        let classes = self
            .queue_depths
            .iter()
            .map(|(class, depth)| (class.name().to_owned(), json!(depth)));
        let workers = self.workers.iter().map(|view| {
            let load = json!({"state": view.state.name(), "in_flight": view.in_flight, "slots": view.slots});
            (view.worker.to_string(), load)
        });
        json!({
            "server_load": self.live_requests,
            "waiting": classes.collect::<Map<_, _>>(),
            "workers": workers.collect::<Map<_, _>>(),
        })
        .to_string()
    }

    fn render_router(&self, page: &mut Page) {
        page.family("slackwater_build_info", "gauge", "Version of the router");
        page.sample(
            "slackwater_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1,
        );
        page.family(
            "slackwater_queue_depth",
            "gauge",
            "Requests that wait for a worker",
        );
        for (class, depth) in &self.queue_depths {
            page.sample("slackwater_queue_depth", &[("class", class.name())], depth);
        }
        page.family(
            "slackwater_live_requests",
            "gauge",
            "Requests that have not ended",
        );
        page.sample("slackwater_live_requests", NO_LABELS, self.live_requests);
        for (name, help, read) in COUNTERS {
            page.family(name, "counter", help);
            page.sample(name, NO_LABELS, read(&self.counters));
        }
        self.render_reasons(page);
    }

    /// Each reason is there from the start, at 0, so that a rate over its first time is not lost.
    fn render_reasons(&self, page: &mut Page) {
        let counters = &self.counters;
        let lost = |tally: &Tally<LostReason>| {
            LostReason::ALL
                .iter()
                .map(|r| (r.name(), tally.get(*r)))
                .collect()
        };
        let suspect = SuspectReason::ALL
            .iter()
            .map(|r| (r.name(), counters.workers_suspect.get(*r)))
            .collect();
        let violations = ViolationReason::ALL
            .iter()
            .map(|r| (r.name(), counters.protocol_violations.get(*r)))
            .collect();
        let families: [(&str, &str, Reasons); 4] = [
            (
                "slackwater_resume_total",
                "Requests resumed elsewhere",
                lost(&counters.resumes),
            ),
            (
                "slackwater_worker_lost_total",
                "Links that ended",
                lost(&counters.workers_lost),
            ),
            (
                "slackwater_worker_suspect_total",
                "Workers that got no new work for a while",
                suspect,
            ),
            (
                "slackwater_protocol_violations_total",
                "Links closed for breaking a rule",
                violations,
            ),
        ];
        for (name, help, counts) in families {
            page.family(name, "counter", help);
            for (reason, count) in counts {
                page.sample(name, &[("reason", reason)], count);
            }
        }
    }

    fn render_workers(&self, page: &mut Page) {
        page.family(
            "slackwater_worker_state",
            "gauge",
            "1 for the state that the worker is in",
        );
        for view in &self.workers {
            for state in WorkerState::ALL {
                let labels = [
                    ("worker", view.worker.to_string()),
                    ("state", state.name().to_owned()),
                ];
                page.sample(
                    "slackwater_worker_state",
                    &labels,
                    u8::from(state == view.state),
                );
            }
        }
        page.family(
            "slackwater_worker_in_flight",
            "gauge",
            "Requests that hold a slot",
        );
        for view in &self.workers {
            page.sample(
                "slackwater_worker_in_flight",
                &[("worker", view.worker.to_string())],
                view.in_flight,
            );
        }
        page.family(
            "slackwater_worker_slots",
            "gauge",
            "Slots that the worker has",
        );
        for view in &self.workers {
            page.sample(
                "slackwater_worker_slots",
                &[("worker", view.worker.to_string())],
                view.slots,
            );
        }
    }

    fn render_worker_stats(&self, page: &mut Page) {
        for (name, help, read) in STATE {
            page.family(name, "gauge", help);
            for (worker, stats) in &self.stats {
                page.sample(name, &self.vllm_labels(*worker), read(stats));
            }
        }
        for family in FAMILIES {
            page.family(family.name, family.kind, family.help);
            for (worker, stats) in &self.stats {
                for metric in &stats.metrics {
                    self.render_metric(page, family, *worker, metric);
                }
            }
        }
    }

    fn render_metric(&self, page: &mut Page, family: &Family, worker: WorkerId, metric: &Metric) {
        let Some((_, suffix)) = family.parts.iter().find(|(part, _)| *part == metric.name) else {
            return;
        };
        let name = format!("{}{suffix}", family.name);
        let mut labels = if family.name.starts_with("vllm:") {
            self.vllm_labels(worker).to_vec()
        } else {
            vec![("worker", worker.to_string())]
        };
        if let (Some(label), Some(value)) = (family.label, &metric.label) {
            labels.push((label, value.clone()));
        }
        page.sample(&name, &labels, metric.value);
    }

    fn vllm_labels(&self, worker: WorkerId) -> [(&'static str, String); 2] {
        [
            ("model_name", self.model_name.clone()),
            ("engine", worker.0.to_string()),
        ]
    }
}

const NO_LABELS: &[(&str, &str)] = &[];

type Reasons = Vec<(&'static str, u64)>;
type Count = fn(&Counters) -> u64;

const COUNTERS: &[(&str, &str, Count)] = &[
    ("slackwater_requests_total", "Requests that came", |c| {
        c.arrivals
    }),
    ("slackwater_tokens_total", "Tokens handed to clients", |c| {
        c.tokens_delivered
    }),
    (
        "slackwater_recomputed_tokens_total",
        "Tokens that resumes computed again",
        |c| c.tokens_recomputed,
    ),
    (
        "slackwater_resume_inexact_total",
        "Resumes on other numerics",
        |c| c.resumes_inexact,
    ),
    (
        "slackwater_stale_messages_total",
        "Messages of closed links and old attempts",
        |c| c.stale_messages,
    ),
    (
        "slackwater_tokens_past_stop_total",
        "Tokens past a stream's end",
        |c| c.tokens_past_end,
    ),
    (
        "slackwater_refused_elsewhere_total",
        "Refusals that sent a request elsewhere",
        |c| c.refused_elsewhere,
    ),
    (
        "slackwater_worker_restarts_total",
        "Own workers started again",
        |c| c.workers_restarted,
    ),
    (
        "slackwater_link_full_total",
        "Links whose queue passed its mark",
        |c| c.link_full,
    ),
];

type Read = fn(&WorkerStats) -> f64;

/// vLLM's names, so that dashboards made for it work.
const STATE: &[(&str, &str, Read)] = &[
    (
        "vllm:num_requests_running",
        "Requests in the running batch",
        |stats| f64::from(stats.num_running),
    ),
    (
        "vllm:num_requests_waiting",
        "Requests that wait in the worker",
        |stats| f64::from(stats.num_waiting),
    ),
    (
        "vllm:kv_cache_usage_perc",
        "Share of KV blocks in use, 0 to 1",
        |stats| f64::from(stats.kv_blocks_used) / f64::from(stats.kv_blocks_total.max(1)),
    ),
];

/// A family of a worker's cumulative metrics and the names on the wire that belong to it.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    parts: &'static [(MetricName, &'static str)],
    label: Option<&'static str>,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "slackwater_worker_step_rows",
        kind: "histogram",
        help: "Rows of an engine step",
        parts: &[
            (MetricName::StepRowsBucket, "_bucket"),
            (MetricName::StepRowsSum, "_sum"),
            (MetricName::StepRowsCount, "_count"),
        ],
        label: Some("le"),
    },
    Family::counter(
        "slackwater_worker_prompt_tokens_total",
        "Prompt tokens computed",
        &[(MetricName::PromptTokens, "")],
    ),
    Family::counter(
        "slackwater_worker_generation_tokens_total",
        "Tokens generated",
        &[(MetricName::GenerationTokens, "")],
    ),
    Family::counter(
        "vllm:prefix_cache_queries_total",
        "Tokens looked up in the prefix cache",
        &[(MetricName::PrefixCacheQueries, "")],
    ),
    Family::counter(
        "vllm:prefix_cache_hits_total",
        "Tokens found in the prefix cache",
        &[(MetricName::PrefixCacheHits, "")],
    ),
    Family::counter(
        "vllm:num_preemptions_total",
        "Requests preempted",
        &[(MetricName::Preemptions, "")],
    ),
    Family::counter(
        "slackwater_worker_parked_slices_total",
        "Slices of offline rows that left a step in the middle",
        &[(MetricName::ParkedSlices, "")],
    ),
    Family::counter(
        "slackwater_worker_parked_tokens_wasted_total",
        "Tokens computed in part and dropped",
        &[(MetricName::ParkedTokensWasted, "")],
    ),
    Family::counter(
        "slackwater_worker_draft_tokens_total",
        "Tokens guessed",
        &[(MetricName::DraftTokens, "")],
    ),
    Family::counter(
        "slackwater_worker_accepted_draft_tokens_total",
        "Guesses that turned out right",
        &[(MetricName::AcceptedDraftTokens, "")],
    ),
    Family {
        name: "slackwater_worker_memory_bytes",
        kind: "gauge",
        help: "Bytes of the worker's memory plan",
        parts: &[(MetricName::MemoryBytes, "")],
        label: Some("part"),
    },
];

impl Family {
    const fn counter(
        name: &'static str,
        help: &'static str,
        parts: &'static [(MetricName, &'static str)],
    ) -> Self {
        Self {
            name,
            kind: "counter",
            help,
            parts,
            label: None,
        }
    }
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample<V: AsRef<str>>(&mut self, name: &str, labels: &[(&str, V)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escaped(text.as_ref()));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// A worker's label values are its own words: nothing in them may end the label.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '\\' => vec!['\\', '\\'],
            '"' => vec!['\\', '"'],
            '\n' => vec!['\\', 'n'],
            other => vec![other],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_the_workers_words_with_their_labels_escaped() {
        let metric = |name, label: Option<&str>, value| Metric {
            name,
            label: label.map(str::to_owned),
            value,
        };
        let stats = WorkerStats {
            seq: 9,
            num_running: 3,
            num_waiting: 1,
            kv_blocks_used: 5,
            kv_blocks_total: 10,
            metrics: vec![
                metric(MetricName::StepRowsBucket, Some("16"), 7.0),
                metric(MetricName::StepRowsCount, None, 9.0),
                metric(MetricName::MemoryBytes, Some("a\"b\n"), 64.0),
            ],
        };
        let snapshot = Snapshot {
            model_name: "m".to_owned(),
            stats: BTreeMap::from([(WorkerId(2), stats)]),
            ..Snapshot::default()
        };
        let text = snapshot.render();
        for line in [
            "slackwater_worker_step_rows_bucket{worker=\"w2\",le=\"16\"} 7",
            "slackwater_worker_step_rows_count{worker=\"w2\"} 9",
            "slackwater_worker_memory_bytes{worker=\"w2\",part=\"a\\\"b\\n\"} 64",
            "vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"2\"} 0.5",
            "slackwater_live_requests 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in:\n{text}"
            );
        }
    }
}
