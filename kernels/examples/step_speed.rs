//! Where a decode step of a SmolLM2-135M goes, operation by operation, beside the time to read what the step must read.
//!
//! `step_speed [bfloat16 | float32] [rows,rows] [rounds] [context]` prints a JSON line for each number of rows. A round
//! runs all layers once, whose weights and keys are cold by then, and reads as many bytes with the same threads. `ms` has
//! each kind of operation summed over the layers, from the median over the rounds; `bound` is the time of its bytes at the
//! rate of the reading. `least` is the same from the shortest times.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a program for measuring"
)]

use std::time::Instant;

use slackwater_kernels::{
    Act, AttnSpec, BLOCK_SIZE, BatchView, Dtype, GateUp, Kernels, KvCache, Linear, Pool, ReadProbe,
    RopeTable, add_norm, attend, attend_scratch_len, gate_up_act, linear, logits,
};

const HIDDEN: usize = 576;
const INNER: usize = 1_536;
const QKV: usize = 960;
const VOCABULARY: usize = 49_152;
const LAYERS: usize = 30;
const KINDS: [&str; 7] = ["norm", "qkv", "attend", "o", "gate_up", "down", "head"];
const SPEC: AttnSpec = AttnSpec {
    num_heads: 9,
    num_kv_heads: 3,
    head_dim: 64,
    scale: 0.125,
    window: None,
    softcap: None,
};

/// Numbers in -1..1.
fn values(count: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 7_919) % 2_048) as f32 / 1_024.0 - 1.0;
    (0..count).map(value).collect()
}

struct Layer {
    qkv: Linear,
    o: Linear,
    gate_up: GateUp,
    down: Linear,
}

struct Model {
    layers: Vec<Layer>,
    head: Linear,
    rope: RopeTable,
}

impl Model {
    fn new(dtype: Dtype, context: usize) -> Self {
        let pack = |columns: usize, depth: usize| {
            Linear::pack(&values(columns * depth), columns, depth, None, dtype).unwrap()
        };
        let gate = values(INNER * HIDDEN);
        let layer = |_| Layer {
            qkv: pack(QKV, HIDDEN),
            o: pack(HIDDEN, HIDDEN),
            gate_up: GateUp::pack(&gate, &gate, INNER, HIDDEN, dtype).unwrap(),
            down: pack(HIDDEN, INNER),
        };
        let inv_freq: Vec<f32> = (0..32).map(|pair| 0.75_f32.powi(pair)).collect();
        Self {
            layers: (0..LAYERS).map(layer).collect(),
            head: pack(VOCABULARY, HIDDEN),
            rope: RopeTable::new(&inv_freq, 1.0, context).unwrap(),
        }
    }

    /// Bytes that each kind of operation reads in a step: weights, or keys and values.
    fn bytes(&self, kv: &KvCache, blocks: usize) -> [usize; KINDS.len()] {
        let layer = &self.layers[0];
        [
            0,
            LAYERS * layer.qkv.bytes(),
            kv.bytes() / (blocks + 1) * blocks,
            LAYERS * layer.o.bytes(),
            LAYERS * layer.gate_up.bytes(),
            LAYERS * layer.down.bytes(),
            self.head.bytes(),
        ]
    }
}

/// Decoding sequences, each with a context of its own.
struct Sequences {
    kv: KvCache,
    blocks: usize,
    tables: Vec<i32>,
    positions: Vec<i32>,
    slots: Vec<i64>,
    starts: Vec<i32>,
    lens: Vec<i32>,
}

impl Sequences {
    fn new(rows: usize, context: usize, dtype: Dtype) -> Self {
        let blocks = context.div_ceil(BLOCK_SIZE);
        let kv = KvCache::new(LAYERS, 3, 64, 1 + rows * blocks, dtype).unwrap();
        // Blocks of the sequences lie mixed, as they do after a while.
        let table = |seq: usize| (0..blocks).map(move |block| (1 + block * rows + seq) as i32);
        let tables: Vec<i32> = (0..rows).flat_map(table).collect();
        let last = context - 1;
        let slot = |seq: usize| {
            i64::from(tables[seq * blocks + last / BLOCK_SIZE]) * 32 + (last % 32) as i64
        };
        Self {
            slots: (0..rows).map(slot).collect(),
            kv,
            blocks,
            tables,
            positions: vec![last as i32; rows],
            starts: (0..=rows as i32).collect(),
            lens: vec![context as i32; rows],
        }
    }

    fn batch(&self) -> BatchView<'_> {
        BatchView {
            positions: &self.positions,
            slot_mapping: &self.slots,
            seq_starts: &self.starts,
            seq_lens: &self.lens,
            block_tables: &self.tables,
            table_width: self.blocks,
        }
    }
}

struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    delta: Vec<f32>,
    wide: Vec<f32>,
    logits: Vec<f32>,
    words: Vec<u32>,
    floats: Vec<f32>,
    weight: Vec<f32>,
    picked: Vec<i32>,
}

/// Seconds of each operation of one kind, in order.
type Times = [Vec<f64>; KINDS.len()];

fn step(model: &Model, seqs: &Sequences, io: &mut Buffers, kernels: Kernels, pool: &Pool) -> Times {
    let rows = seqs.lens.len();
    let mut times = Times::default();
    let _step = pool.step();
    let mut last = Instant::now();
    let mut lap = |kind: usize| {
        let now = Instant::now();
        times[kind].push((now - last).as_secs_f64());
        last = now;
    };
    for (index, layer) in model.layers.iter().enumerate() {
        let Buffers {
            x,
            normed,
            qkv,
            mixed,
            delta,
            wide,
            words,
            floats,
            weight,
            ..
        } = &mut *io;
        add_norm(x, Some(delta), weight, 1e-5, rows, normed, kernels, pool).unwrap();
        lap(0);
        linear(normed, rows, &layer.qkv, qkv, words, kernels, pool).unwrap();
        lap(1);
        let (batch, rope) = (seqs.batch(), Some(&model.rope));
        attend(
            qkv, &seqs.kv, index, &SPEC, rope, None, &batch, mixed, floats, kernels, pool,
        )
        .unwrap();
        lap(2);
        linear(mixed, rows, &layer.o, delta, words, kernels, pool).unwrap();
        lap(3);
        add_norm(x, Some(delta), weight, 1e-5, rows, normed, kernels, pool).unwrap();
        lap(0);
        gate_up_act(
            normed,
            rows,
            &layer.gate_up,
            Act::Silu,
            wide,
            words,
            kernels,
            pool,
        )
        .unwrap();
        lap(4);
        linear(wide, rows, &layer.down, delta, words, kernels, pool).unwrap();
        lap(5);
    }
    let Buffers {
        normed,
        logits: scores,
        words,
        picked,
        ..
    } = &mut *io;
    logits(normed, picked, &model.head, scores, words, kernels, pool).unwrap();
    lap(6);
    times
}

fn measure(model: &Model, rows: usize, rounds: usize, context: usize, dtype: Dtype) {
    let (kernels, pool) = (Kernels::best(), Pool::new(2).unwrap());
    let seqs = Sequences::new(rows, context, dtype);
    let mut io = Buffers {
        x: values(rows * HIDDEN),
        normed: vec![0.0; rows * HIDDEN],
        qkv: vec![0.0; rows * QKV],
        mixed: vec![0.0; rows * HIDDEN],
        delta: values(rows * HIDDEN),
        wide: vec![0.0; rows * INNER],
        logits: vec![0.0; rows * VOCABULARY],
        words: vec![0; model.layers[0].down.scratch_len(rows)],
        floats: vec![0.0; attend_scratch_len(&SPEC, rows, context, 2)],
        weight: values(HIDDEN),
        picked: (0..rows as i32).collect(),
    };
    let bytes = model.bytes(&seqs.kv, rows * seqs.blocks);
    let total: usize = bytes.iter().sum();
    let probe = ReadProbe::new(total).unwrap();
    let (mut steps, mut reads, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        all.push(step(model, &seqs, &mut io, kernels, &pool));
        steps.push(begun.elapsed().as_secs_f64());
        let _step = pool.step();
        let begun = Instant::now();
        probe.read(&pool);
        reads.push(begun.elapsed().as_secs_f64());
        io.x = values(rows * HIDDEN);
    }
    let of_kind = |kind: usize, pick: fn(&[f64]) -> f64| -> f64 {
        let ops = all[0][kind].len();
        let of_op = |op: usize| pick(&sorted(all.iter().map(|times| times[kind][op]).collect()));
        (0..ops).map(of_op).sum()
    };
    let list = |kinds: &dyn Fn(usize) -> f64| -> String {
        let items: Vec<String> = (0..KINDS.len())
            .map(|kind| format!("\"{}\":{:.2}", KINDS[kind], kinds(kind) * 1e3))
            .collect();
        items.join(",")
    };
    let (steps, reads) = (sorted(steps), sorted(reads));
    let (step, read) = (median(&steps), median(&reads));
    println!(
        "{{\"dtype\":\"{dtype}\",\"rows\":{rows},\"of_bound\":{:.3},\"best_of_bound\":{:.3},\"step_ms\":{:.2},\"read_ms\":{:.2},\
         \"least_ms\":{:.2},\"least_read_ms\":{:.2},\n \"ms\":   {{{}}},\n \"least\":{{{}}},\n \"bound\":{{{}}}}}",
        read / step,
        reads[0] / steps[0],
        step * 1e3,
        read * 1e3,
        steps[0] * 1e3,
        reads[0] * 1e3,
        list(&|kind| of_kind(kind, median)),
        list(&|kind| of_kind(kind, |times| times[0])),
        list(&|kind| bytes[kind] as f64 / total as f64 * read),
    );
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

fn median(times: &[f64]) -> f64 {
    times[times.len() / 2]
}

fn main() {
    let argument = |n: usize, or: &str| std::env::args().nth(n).unwrap_or_else(|| or.to_owned());
    let dtype: Dtype = argument(1, "bfloat16").parse().unwrap();
    let (rounds, context) = (argument(3, "60"), argument(4, "256"));
    let context = context.parse().unwrap();
    let model = Model::new(dtype, context);
    for rows in argument(2, "1,4,8").split(',') {
        let rows = rows.parse().unwrap();
        measure(&model, rows, rounds.parse().unwrap(), context, dtype);
    }
}
