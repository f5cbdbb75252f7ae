//! How fast the linear layers of a SmolLM2-135M are, against reading their packed weights once with the same threads.
//!
//! `linear_speed [--dtype D] [--isa I] [--rows R,R] [--threads T] [--rounds N]` prints a JSON line for the machine, and one
//! for each combination.
//! Each round reads the weights and then computes all layers; `of_bound` is the quotient of these two times, as
//! [min, median, max] over the rounds. `best_of_bound` is the same from the shortest time of each kind of layer, over all
//! layers and rounds: what is left when other processes take the cores now and then; `kinds` and `kinds_ms` are the same
//! for all layers of a kind (qkv, o, gate and up, down, head). Every layer's weights are cold when
//! their turn comes, in reading as in computing.

#![allow(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "a program to measure with: the reading loop is compiled for wider vectors, and a wrong index may end it"
)]

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use slackwater_kernels::{
    Act, Dtype, GateUp, Isa, KernelError, Kernels, Linear, Pool, gate_up_act, linear, logits,
};

const HIDDEN: usize = 576;
const INNER: usize = 1_536;
const QKV: usize = 960;
const VOCABULARY: usize = 49_152;
const LAYERS: usize = 30;
/// Bytes that a unit of reading takes.
const READ_BYTES: usize = 64 << 10;
/// Kinds of layers, and how many there are of each.
const KINDS: [usize; 5] = [LAYERS, LAYERS, LAYERS, LAYERS, 1];

struct Layer {
    qkv: Linear,
    o: Linear,
    gate_up: GateUp,
    down: Linear,
}

struct Model {
    layers: Vec<Layer>,
    head: Linear,
}

impl Model {
    fn new(dtype: Dtype) -> Result<Self, KernelError> {
        let mut state = 1;
        let mut pack = |columns: usize, depth: usize| {
            Linear::pack(
                &values(columns * depth, &mut state),
                columns,
                depth,
                None,
                dtype,
            )
        };
        let mut layers = Vec::new();
        for _ in 0..LAYERS {
            let gate = values(INNER * HIDDEN, &mut 2);
            layers.push(Layer {
                qkv: pack(QKV, HIDDEN)?,
                o: pack(HIDDEN, HIDDEN)?,
                gate_up: GateUp::pack(&gate, &gate, INNER, HIDDEN, dtype)?,
                down: pack(HIDDEN, INNER)?,
            });
        }
        Ok(Self {
            layers,
            head: pack(VOCABULARY, HIDDEN)?,
        })
    }

    /// The packed weights in the order of their use, each with its kind.
    fn packed(&self) -> Vec<(usize, &[u8])> {
        let layers = self.layers.iter().flat_map(|layer| {
            [
                (0, layer.qkv.packed()),
                (1, layer.o.packed()),
                (2, layer.gate_up.packed()),
                (3, layer.down.packed()),
            ]
        });
        layers.chain([(4, self.head.packed())]).collect()
    }

    fn run(
        &self,
        rows: usize,
        io: &mut Buffers,
        kernels: Kernels,
        pool: &Pool,
        watch: &mut Watch,
    ) -> Result<(), KernelError> {
        let _step = pool.step();
        let Buffers {
            narrow,
            wide,
            out,
            logits: scores,
            scratch,
        } = io;
        let wide = wide.as_mut_slice();
        for layer in &self.layers {
            let (qkv, act) = (&mut out[..rows * QKV], Act::Silu);
            watch.time(0, || {
                linear(narrow, rows, &layer.qkv, qkv, scratch, kernels, pool)
            })?;
            let out = &mut out[..rows * HIDDEN];
            watch.time(1, || {
                linear(narrow, rows, &layer.o, out, scratch, kernels, pool)
            })?;
            watch.time(2, || {
                gate_up_act(
                    narrow,
                    rows,
                    &layer.gate_up,
                    act,
                    wide,
                    scratch,
                    kernels,
                    pool,
                )
            })?;
            watch.time(3, || {
                linear(wide, rows, &layer.down, out, scratch, kernels, pool)
            })?;
        }
        // A step never asks for more logits than it has sequences.
        let picked: Vec<i32> = (0..).take(rows.min(64)).collect();
        let scores = &mut scores[..picked.len() * VOCABULARY];
        watch.time(4, || {
            logits(narrow, &picked, &self.head, scores, scratch, kernels, pool)
        })
    }
}

/// The shortest times of each kind of layer, in seconds.
struct Watch {
    shortest: [f64; KINDS.len()],
}

impl Watch {
    fn new() -> Self {
        Self {
            shortest: [f64::INFINITY; KINDS.len()],
        }
    }

    fn time<T>(&mut self, kind: usize, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        let taken = begun.elapsed().as_secs_f64();
        if let Some(shortest) = self.shortest.get_mut(kind) {
            *shortest = shortest.min(taken);
        }
        result
    }

    /// Seconds of a whole step, made of the shortest times.
    fn step(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a few layers")]
        let all = |(shortest, count): (&f64, usize)| shortest * count as f64;
        self.shortest.iter().zip(KINDS).map(all).sum()
    }
}

struct Buffers {
    narrow: Vec<f32>,
    wide: Vec<f32>,
    out: Vec<f32>,
    logits: Vec<f32>,
    scratch: Vec<u32>,
}

impl Buffers {
    fn new(rows: usize) -> Self {
        Self {
            narrow: values(rows * HIDDEN, &mut 3),
            wide: vec![0.0; rows * INNER],
            out: vec![0.0; rows * QKV],
            logits: vec![0.0; rows.min(64) * VOCABULARY],
            scratch: vec![0; rows * (INNER + 64)],
        }
    }
}

/// Numbers in -1..1.
fn values(count: usize, state: &mut u32) -> Vec<f32> {
    let mut next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from((*state >> 16) as u16) / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Asks for what lies 2 KiB ahead: without it reading is not the bound that it is meant to be.
fn prefetch(words: *const u64) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..4 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and takes any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(words.wrapping_add(256 + 8 * line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

/// Adds up all words, so that each is read once.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for each instruction set")]
fn sum_words(bytes: &[u8]) -> u64 {
    // SAFETY: any bytes are numbers.
    let (_, words, _) = unsafe { bytes.align_to::<[u64; 32]>() };
    let mut sums = [0_u64; 32];
    for words in words {
        prefetch(words.as_ptr());
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

fn read(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: just looked.
        return unsafe { sum_words_avx2(bytes) };
    }
    sum_words(bytes)
}

/// Reads all packed weights once.
fn read_all(buffers: &[(usize, &[u8])], pool: &Pool, watch: &mut Watch) {
    let _step = pool.step();
    for (kind, buffer) in buffers {
        watch.time(*kind, || {
            pool.run(buffer.len().div_ceil(READ_BYTES), &|unit| {
                let part = buffer.chunks(READ_BYTES).nth(unit).unwrap_or_default();
                std::hint::black_box(read(part));
            });
        });
    }
}

struct Asked {
    dtypes: Vec<Dtype>,
    isas: Vec<Isa>,
    rows: Vec<usize>,
    threads: usize,
    rounds: usize,
}

impl Asked {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let available = |isa: &Isa| *isa != Isa::Portable && Kernels::for_isa(*isa).is_ok();
        let mut asked = Self {
            dtypes: Dtype::ALL.to_vec(),
            isas: Isa::ALL.into_iter().filter(available).collect(),
            rows: vec![1, 4, 8, 16, 32, 96, 192],
            threads: std::thread::available_parallelism()?.get(),
            rounds: 15,
        };
        let mut arguments = arguments;
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or("a flag without a value")?;
            match flag.as_str() {
                "--dtype" => asked.dtypes = vec![value.parse()?],
                "--isa" => asked.isas = vec![value.parse()?],
                "--rows" => {
                    asked.rows = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--threads" => asked.threads = value.parse()?,
                "--rounds" => asked.rounds = value.parse()?,
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        Ok(asked)
    }
}

/// Smallest, middle and largest.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [
        at(0),
        at(values.len() / 2),
        at(values.len().saturating_sub(1)),
    ]
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts are far below 2^52, and figures are rounded anyway"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let asked = Asked::parse(std::env::args().skip(1))?;
    let pool = Pool::new(asked.threads)?;
    let mut out = std::io::stdout().lock();
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let names: Vec<String> = available.map(|isa| format!("\"{isa}\"")).collect();
    let usable = Kernels::bf16_fault().is_none();
    let names = names.join(",");
    writeln!(out, "{{\"available\":[{names}],\"bf16_usable\":{usable}}}")?;
    for dtype in asked.dtypes {
        let model = Model::new(dtype)?;
        let packed = model.packed();
        let bytes: usize = packed.iter().map(|(_, buffer)| buffer.len()).sum();
        for rows in &asked.rows {
            let mut io = Buffers::new(*rows);
            let layers = LAYERS * HIDDEN * (QKV + HIDDEN + 3 * INNER) * rows;
            let macs = layers + HIDDEN * VOCABULARY * (*rows).min(64);
            for isa in &asked.isas {
                let kernels = Kernels::for_isa(*isa)?;
                let (mut reading, mut running) = (Watch::new(), Watch::new());
                let mut ratios = Vec::new();
                for _ in 0..asked.rounds {
                    let begun = Instant::now();
                    read_all(&packed, &pool, &mut reading);
                    let read = begun.elapsed().as_secs_f64();
                    model.run(*rows, &mut io, kernels, &pool, &mut running)?;
                    ratios.push(read / (begun.elapsed().as_secs_f64() - read));
                }
                let kinds = reading.shortest.iter().zip(running.shortest);
                let kinds: Vec<String> = kinds
                    .map(|(read, run)| format!("{:.2}", read / run))
                    .collect();
                let kinds_ms = running.shortest.iter().zip(KINDS);
                let kinds_ms: Vec<String> = kinds_ms
                    .map(|(run, count)| format!("{:.2}", run * count as f64 * 1e3))
                    .collect();
                let (reading, running) = (reading.step(), running.step());
                let [least, middle, most] = spread(&mut ratios);
                writeln!(
                    out,
                    "{{\"dtype\":\"{dtype}\",\"isa\":\"{isa}\",\"rows\":{rows},\"threads\":{},\"rounds\":{},\
                     \"of_bound\":[{least:.3},{middle:.3},{most:.3}],\"best_of_bound\":{:.3},\"kinds\":[{}],\
                     \"kinds_ms\":[{}],\"read_ms\":{:.2},\"run_ms\":{:.2},\"read_gb_s\":{:.1},\"gmac_s_thread\":{:.1}}}",
                    asked.threads,
                    asked.rounds,
                    reading / running,
                    kinds.join(","),
                    kinds_ms.join(","),
                    reading * 1e3,
                    running * 1e3,
                    bytes as f64 / reading / 1e9,
                    macs as f64 / running / asked.threads as f64 / 1e9,
                )?;
            }
        }
    }
    Ok(())
}
