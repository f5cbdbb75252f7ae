//! A simulated engine: continuous batching with a cost model and oracle tokens. It knows no time but the steps' length.

use std::collections::BTreeMap;
use std::time::Duration;

use slackwater_core::{Logprobs, Output, Placement, Refusal, RequestId, Sampling, WorkerFinish};

use crate::oracle::{Chain, Oracle};

/// What a worker can take and what its steps cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostModel {
    /// Cost of any step.
    pub base: Duration,
    /// Cost of each row in a step.
    pub per_row: Duration,
    /// Prompt and history tokens computed in a second.
    pub prefill_tokens_per_sec: u64,
    /// Prefill tokens in one step at most.
    pub chunk: u32,
    /// Requests at once.
    pub slots: u32,
    /// Tokens that one row gets in a step.
    pub burst: u32,
    /// Longest prompt plus output.
    pub max_model_len: u32,
    /// Where the tokens come from.
    pub oracle: Oracle,
    /// As READY says it.
    pub numerics: String,
}

impl CostModel {
    /// A small, quick worker.
    pub fn for_test() -> Self {
        Self {
            base: Duration::from_millis(6),
            per_row: Duration::from_micros(350),
            prefill_tokens_per_sec: 8_000,
            chunk: 256,
            slots: 8,
            burst: 1,
            max_model_len: 2_048,
            oracle: Oracle::for_test(),
            numerics: "sim".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Row {
    attempt: u32,
    sampling: Sampling,
    chain: Chain,
    emitted: u32,
    credit: u32,
    prefill_left: u32,
    is_cancelled: bool,
    in_step: bool,
}

impl Row {
    fn is_runnable(&self) -> bool {
        self.prefill_left > 0 || self.emitted < self.credit || self.is_cancelled
    }
}

/// Rows and the step that runs.
#[derive(Debug)]
pub struct Engine {
    cost: CostModel,
    rows: BTreeMap<RequestId, Row>,
    has_step: bool,
    /// Safepoints passed.
    pub progress: u64,
}

impl Engine {
    /// An idle engine.
    pub const fn new(cost: CostModel) -> Self {
        Self {
            cost,
            rows: BTreeMap::new(),
            has_step: false,
            progress: 0,
        }
    }

    /// What it can take.
    pub const fn cost(&self) -> &CostModel {
        &self.cost
    }

    /// Forgets all requests, as a worker does when its link ends.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.has_step = false;
    }

    /// Requests that it holds.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether there is work.
    pub fn is_busy(&self) -> bool {
        self.has_step || self.rows.values().any(Row::is_runnable)
    }

    /// Takes a request, or says why not.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn submit(&mut self, placement: &Placement) -> Result<(), Refusal> {
        let request = &placement.request;
        let prompt_tokens = request.prompt().len() as u64;
        let context = prompt_tokens + u64::from(request.sampling().max_tokens.get());
        if context > u64::from(self.cost.max_model_len) {
            return Err(refusal("context_length_exceeded", false));
        }
        if self.rows.len() as u64 >= u64::from(self.cost.slots) {
            return Err(refusal("inbox_full", true));
        }
        let mut chain = self
            .cost
            .oracle
            .chain(request.prompt(), request.sampling().seed);
        for token in &placement.history {
            chain.replay(*token);
        }
        let known = prompt_tokens + placement.history.len() as u64;
        let row = Row {
            attempt: placement.attempt,
            sampling: *request.sampling(),
            chain,
            emitted: u32::try_from(placement.history.len()).unwrap_or(u32::MAX),
            credit: placement.credit_up_to,
            prefill_left: u32::try_from(known).unwrap_or(u32::MAX),
            is_cancelled: false,
            in_step: false,
        };
        self.rows.insert(request.request_id(), row);
        Ok(())
    }

    /// Lets a stream go on.
    pub fn credit(&mut self, request_id: RequestId, attempt: u32, up_to: u32) {
        if let Some(row) = self.row(request_id, attempt) {
            row.credit = row.credit.max(up_to);
        }
    }

    /// Stops a request. Confirmed at once unless a step has it now.
    pub fn cancel(&mut self, request_id: RequestId, attempt: u32) -> Option<Output> {
        let start = match self.row(request_id, attempt) {
            Some(row) if row.in_step => {
                row.is_cancelled = true;
                return None;
            }
            Some(row) => row.emitted,
            None => 0, // Always confirmed, even for one that is unknown.
        };
        self.rows.remove(&request_id);
        Some(cancelled(request_id, attempt, start))
    }

    /// Stops a request at the next step, whenever that is: the engine does not look at its inbox now.
    pub fn cancel_later(&mut self, request_id: RequestId, attempt: u32) {
        if let Some(row) = self.row(request_id, attempt) {
            row.is_cancelled = true;
        }
    }

    fn row(&mut self, request_id: RequestId, attempt: u32) -> Option<&mut Row> {
        self.rows
            .get_mut(&request_id)
            .filter(|row| row.attempt == attempt)
    }

    /// Begins a step if there is work and none runs; gives its length.
    pub fn begin_step(&mut self) -> Option<Duration> {
        if self.has_step || !self.is_busy() {
            return None;
        }
        self.has_step = true;
        let mut rows = 0;
        let mut prefill = 0_u32;
        for row in self.rows.values_mut().filter(|row| row.is_runnable()) {
            row.in_step = true;
            rows += 1;
            prefill = prefill.saturating_add(row.prefill_left.min(self.cost.chunk));
        }
        let prefill_micros =
            u64::from(prefill) * 1_000_000 / self.cost.prefill_tokens_per_sec.max(1);
        Some(self.cost.base + self.cost.per_row * rows + Duration::from_micros(prefill_micros))
    }

    /// Ends the step: each of its rows gets its tokens.
    pub fn end_step(&mut self) -> Vec<Output> {
        self.has_step = false;
        self.progress += 1;
        let mut outputs = Vec::new();
        let cost = &self.cost;
        self.rows.retain(|request_id, row| {
            if !row.in_step {
                return true;
            }
            row.in_step = false;
            let output = run(*request_id, row, cost);
            let goes_on = output.finish.is_none();
            outputs.push(output);
            goes_on
        });
        outputs
    }
}

fn run(request_id: RequestId, row: &mut Row, cost: &CostModel) -> Output {
    let start = row.emitted;
    if row.is_cancelled {
        return cancelled(request_id, row.attempt, start);
    }
    row.prefill_left = row.prefill_left.saturating_sub(cost.chunk);
    let mut tokens = Vec::new();
    let mut finish = None;
    let last = row.sampling.max_tokens.get();
    let up_to = row.credit.min(last).min(start.saturating_add(cost.burst));
    while row.prefill_left == 0 && row.emitted < up_to && finish.is_none() {
        let token = row.chain.next_token();
        if cost.oracle.ends(token, row.emitted, &row.sampling) {
            finish = Some(WorkerFinish::Stop);
        } else if row.emitted + 1 == last {
            finish = Some(WorkerFinish::Length);
        }
        tokens.push(token);
        row.emitted += 1;
    }
    Output {
        request_id,
        attempt: row.attempt,
        start,
        tokens,
        num_cached_tokens: 0,
        logprobs: Logprobs::NONE,
        finish,
    }
}

const fn cancelled(request_id: RequestId, attempt: u32, start: u32) -> Output {
    Output {
        request_id,
        attempt,
        start,
        tokens: Vec::new(),
        num_cached_tokens: 0,
        logprobs: Logprobs::NONE,
        finish: Some(WorkerFinish::Cancelled),
    }
}

fn refusal(code: &str, elsewhere: bool) -> Refusal {
    Refusal {
        code: code.to_owned(),
        message: format!("the simulated worker refuses: {code}"),
        param: None,
        elsewhere,
    }
}
