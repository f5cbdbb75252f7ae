//! How long attention takes, beside the time to read the keys and values that it reads: one line of JSON a case.
//!
//! `attention_speed [threads] [seconds a case] [layers] [decode | prefill | chunk]`. Each round runs all layers and reads the same bytes, a layer of each in
//! turn. Other programs may share the machine, so figures are sums over the layers of each layer's minimum over the rounds.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a program for measuring"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use slackwater_kernels::{
    AttnSpec, BLOCK_SIZE, BatchView, Dtype, Kernels, KvCache, Pool, RopeTable, attend,
    attend_scratch_len,
};

const SPEC: AttnSpec = AttnSpec {
    num_heads: 9,
    num_kv_heads: 3,
    head_dim: 64,
    scale: 0.125,
    window: None,
    softcap: None,
};
const WIDTH: usize = (9 + 6) * 64;

struct Case {
    name: &'static str,
    seqs: usize,
    /// Tokens of a sequence that are computed, and its context with them.
    tokens: usize,
    context: usize,
    dtype: Dtype,
}

fn main() {
    let argument = |n: usize, or: f64| {
        let given = std::env::args().nth(n);
        given.map_or(or, |text| text.parse().unwrap())
    };
    let threads = argument(1, 2.0) as usize;
    let time = Duration::from_secs_f64(argument(2, 2.0));
    let layers = argument(3, 30.0) as usize;
    let only = std::env::args().nth(4);
    for dtype in [Dtype::Bf16, Dtype::F32] {
        for (name, seqs, tokens, context) in [
            ("decode", 1, 1, 256),
            ("decode", 1, 1, 512),
            ("decode", 1, 1, 4_096),
            ("decode", 4, 1, 256),
            ("decode", 4, 1, 512),
            ("decode", 16, 1, 226),
            ("decode", 16, 1, 512),
            ("prefill", 1, 226, 226),
            ("prefill", 1, 512, 512),
            ("chunk", 1, 128, 2_048),
        ] {
            let case = Case {
                name,
                seqs,
                tokens,
                context,
                dtype,
            };
            if only.as_deref().is_none_or(|only| only == name) {
                measure(&case, layers, threads, time);
            }
        }
    }
}

fn measure(case: &Case, layers: usize, threads: usize, time: Duration) {
    let kernels = Kernels::best();
    let pool = Pool::new(threads).unwrap();
    let blocks = case.context.div_ceil(BLOCK_SIZE);
    let count = 1 + case.seqs * blocks;
    let kv = KvCache::new(layers, 3, 64, count, case.dtype).unwrap();
    let inv_freq: Vec<f32> = (0..32).map(|pair| 0.75_f32.powi(pair)).collect();
    let rope = RopeTable::new(&inv_freq, 1.0, case.context).unwrap();
    let rows = case.seqs * case.tokens;
    let first = case.context - case.tokens;
    // Blocks of the sequences lie mixed, as they do after a while.
    let table = |seq: usize| (0..blocks).map(move |block| (1 + block * case.seqs + seq) as i32);
    let tables: Vec<i32> = (0..case.seqs).flat_map(table).collect();
    let mut positions = Vec::new();
    let mut slots = Vec::new();
    for seq in 0..case.seqs {
        for position in first..case.context {
            positions.push(position as i32);
            let block = i64::from(tables[seq * blocks + position / BLOCK_SIZE]);
            slots.push(block * 32 + (position % BLOCK_SIZE) as i64);
        }
    }
    let starts: Vec<i32> = (0..=case.seqs)
        .map(|seq| (seq * case.tokens) as i32)
        .collect();
    let batch = BatchView {
        positions: &positions,
        slot_mapping: &slots,
        seq_starts: &starts,
        seq_lens: &vec![case.context as i32; case.seqs],
        block_tables: &tables,
        table_width: blocks,
    };
    let inputs: Vec<f32> = (0..rows * WIDTH)
        .map(|i| ((i * 7_919) % 2_048) as f32 / 1_024.0 - 1.0)
        .collect();
    let mut qkv = inputs.clone();
    let mut out = vec![0.0; rows * 9 * 64];
    let mut scratch = vec![0.0; attend_scratch_len(&SPEC, rows, case.context, threads)];
    let bytes = kv.bytes() / count * (count - 1);
    let stream = vec![1_u64; bytes / 8];
    let mut least = vec![(Duration::MAX, Duration::MAX); layers];
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < time || rounds < 5 {
        let _step = pool.step();
        for (layer, (least, least_read)) in least.iter_mut().enumerate() {
            qkv.copy_from_slice(&inputs);
            let start = Instant::now();
            attend(
                &mut qkv,
                &kv,
                layer,
                &SPEC,
                Some(&rope),
                None,
                &batch,
                &mut out,
                &mut scratch,
                kernels,
                &pool,
            )
            .unwrap();
            *least = start.elapsed().min(*least);
            let piece = stream.len() / layers;
            let start = Instant::now();
            read(&stream[layer * piece..(layer + 1) * piece], &pool);
            *least_read = start.elapsed().min(*least_read);
        }
        rounds += 1;
    }
    let attended: Duration = least.iter().map(|least| least.0).sum();
    let reading: Duration = least.iter().map(|least| least.1).sum();
    println!(
        "{{\"case\":\"{}\",\"dtype\":\"{}\",\"isa\":\"{}\",\"threads\":{threads},\"layers\":{layers},\"seqs\":{},\"tokens\":{},\
         \"context\":{},\"rounds\":{rounds},\"millis\":{:.3},\"read_millis\":{:.3},\"read_gb_s\":{:.1},\"ratio\":{:.2}}}",
        case.name,
        case.dtype,
        kernels.isa(),
        case.seqs,
        case.tokens,
        case.context,
        attended.as_secs_f64() * 1e3,
        reading.as_secs_f64() * 1e3,
        bytes as f64 / reading.as_secs_f64() / 1e9,
        attended.as_secs_f64() / reading.as_secs_f64(),
    );
}

/// Reads the whole buffer once.
fn read(stream: &[u64], pool: &Pool) {
    const PIECE: usize = 16 * 1024;
    pool.run(stream.len().div_ceil(PIECE), &|unit| {
        let piece = &stream[unit * PIECE..stream.len().min((unit + 1) * PIECE)];
        let mut sums = [0_u64; 32];
        for words in piece.chunks_exact(32) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        black_box(sums);
    });
}
