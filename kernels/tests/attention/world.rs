//! Sequences of random tokens, the kernel run over them in any chunks, and the same in float64.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "positions are small, and rounding is what is asked for"
)]

use std::ops::Range;

use slackwater_kernels::{
    AttnSpec, BLOCK_SIZE, BatchView, Dtype, Isa, Kernels, KvCache, Pool, QkNorm, RopeTable, attend,
    attend_scratch_len,
};

/// A layer and some sequences, from one seed.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) spec: AttnSpec,
    pub(crate) dtype: Dtype,
    pub(crate) inv_freq: Option<Vec<f32>>,
    /// Weights of the query and key norms.
    pub(crate) norm: Option<(Vec<f32>, Vec<f32>)>,
    /// Rows `[length, width]` of each sequence.
    pub(crate) seqs: Vec<Vec<f32>>,
}

pub(crate) const EPS: f32 = 1e-5;
const ROPE_SCALE: f32 = 1.25;
/// The layer that is used, and layers of the cache.
const LAYER: usize = 1;
const LAYERS: usize = 2;

/// Tokens of a sequence that a step computes.
pub(crate) type Chunk = (usize, Range<usize>);

/// How a run is carried out; none of it may show in the result.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) steps: Vec<Vec<Chunk>>,
    pub(crate) isa: Isa,
    pub(crate) threads: usize,
    /// Where the block tables begin in the pool, and which way they go.
    pub(crate) first_block: usize,
    pub(crate) backwards: bool,
    /// What lies in the cache before anything is written.
    pub(crate) stale: u8,
}

impl Way {
    /// Each sequence alone, all of it at once.
    pub(crate) fn plain(world: &World) -> Self {
        Self {
            steps: (0..world.seqs.len())
                .map(|seq| vec![(seq, 0..world.length(seq))])
                .collect(),
            isa: Isa::best(),
            threads: 1,
            first_block: 1,
            backwards: false,
            stale: 0,
        }
    }
}

/// Numbers in -1..1 from a counter: splitmix64.
pub(crate) fn values(count: usize, state: &mut u64) -> Vec<f32> {
    (0..count)
        .map(|_| {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = u16::try_from((z >> 40) & 0xffff).unwrap();
            f32::from(bits) / 32_768.0 - 1.0
        })
        .collect()
}

pub(crate) fn spec(group: usize, kv_heads: usize, head_dim: usize) -> AttnSpec {
    let width = u16::try_from(head_dim).unwrap();
    AttnSpec {
        num_heads: group * kv_heads,
        num_kv_heads: kv_heads,
        head_dim,
        scale: 1.0 / f32::from(width).sqrt(),
        window: None,
        softcap: None,
    }
}

impl World {
    pub(crate) fn new(spec: AttnSpec, dtype: Dtype, lengths: &[usize], seed: u64) -> Self {
        let mut state = seed;
        let width = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim;
        Self {
            spec,
            dtype,
            inv_freq: None,
            norm: None,
            seqs: lengths
                .iter()
                .map(|length| values(length * width, &mut state))
                .collect(),
        }
    }

    pub(crate) fn with_rope(mut self) -> Self {
        let pairs = self.spec.head_dim / 2;
        let frequency = |pair: usize| 10_000f64.powf(-(pair as f64) / pairs as f64) as f32;
        self.inv_freq = Some((0..pairs).map(frequency).collect());
        self
    }

    pub(crate) fn with_norm(mut self, seed: u64) -> Self {
        let mut state = seed;
        let size = self.spec.head_dim;
        self.norm = Some((values(size, &mut state), values(size, &mut state)));
        self
    }

    pub(crate) fn width(&self) -> usize {
        (self.spec.num_heads + 2 * self.spec.num_kv_heads) * self.spec.head_dim
    }

    pub(crate) fn length(&self, seq: usize) -> usize {
        self.seqs[seq].len() / self.width()
    }

    fn blocks(&self) -> usize {
        let lengths = (0..self.seqs.len()).map(|seq| self.length(seq));
        lengths.map(|length| length.div_ceil(BLOCK_SIZE)).sum()
    }

    /// The output `[length, Hq D]` of each sequence; NaN where no step computes it.
    pub(crate) fn run(&self, way: &Way) -> Vec<Vec<f32>> {
        let spec = &self.spec;
        let count = way.first_block + self.blocks();
        let kv = KvCache::new(LAYERS, spec.num_kv_heads, spec.head_dim, count, self.dtype).unwrap();
        let stale = vec![way.stale; kv.block_bytes()];
        for block in 0..count {
            kv.import_block(u32::try_from(block).unwrap(), &stale)
                .unwrap();
        }
        let tables = self.tables(way);
        let longest = (0..self.seqs.len())
            .map(|seq| self.length(seq))
            .max()
            .unwrap();
        let rope = self
            .inv_freq
            .as_ref()
            .map(|inv_freq| RopeTable::new(inv_freq, ROPE_SCALE, longest).unwrap());
        let norm = self.norm.as_ref().map(|(q, k)| QkNorm { q, k, eps: EPS });
        let kernels = Kernels::for_isa(way.isa).unwrap();
        let pool = Pool::new(way.threads).unwrap();
        let out_width = spec.num_heads * spec.head_dim;
        let mut outs: Vec<Vec<f32>> = (0..self.seqs.len())
            .map(|seq| vec![f32::NAN; self.length(seq) * out_width])
            .collect();
        for step in &way.steps {
            let batch = StepBatch::new(self, step, &tables);
            let view = batch.view();
            let tokens = view.positions.len();
            let mut qkv = batch.qkv.clone();
            let mut out = vec![f32::NAN; tokens * out_width];
            let mut scratch =
                vec![f32::NAN; attend_scratch_len(spec, tokens, longest, way.threads)];
            attend(
                &mut qkv,
                &kv,
                LAYER,
                spec,
                rope.as_ref(),
                norm,
                &view,
                &mut out,
                &mut scratch,
                kernels,
                &pool,
            )
            .unwrap();
            let mut rows = out.chunks_exact(out_width);
            for (seq, range) in step {
                for position in range.clone() {
                    outs[*seq][position * out_width..][..out_width]
                        .copy_from_slice(rows.next().unwrap());
                }
            }
        }
        outs
    }

    /// Each sequence's blocks.
    fn tables(&self, way: &Way) -> Vec<Vec<i32>> {
        let mut ids: Vec<i32> = (way.first_block..way.first_block + self.blocks())
            .map(|id| i32::try_from(id).unwrap())
            .collect();
        if way.backwards {
            ids.reverse();
        }
        let mut ids = ids.into_iter();
        (0..self.seqs.len())
            .map(|seq| {
                let count = self.length(seq).div_ceil(BLOCK_SIZE);
                ids.by_ref().take(count).collect()
            })
            .collect()
    }

    /// The outputs in float64 and the magnitudes that went into each element.
    pub(crate) fn reference(&self) -> Vec<Vec<(f64, f64)>> {
        self.seqs
            .iter()
            .map(|rows| self.reference_of(rows))
            .collect()
    }

    fn reference_of(&self, rows: &[f32]) -> Vec<(f64, f64)> {
        let spec = &self.spec;
        let (size, heads) = (spec.head_dim, spec.num_heads);
        let group = heads / spec.num_kv_heads;
        let tokens: Vec<Vec<Vec<f64>>> = rows
            .chunks_exact(self.width())
            .enumerate()
            .map(|(position, row)| self.heads(position, row))
            .collect();
        let mut out = Vec::new();
        for (position, token) in tokens.iter().enumerate() {
            let first = spec
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            for (head, query) in token[..heads].iter().enumerate() {
                let key_head = heads + head / group;
                let scores: Vec<f64> = tokens[first..=position]
                    .iter()
                    .map(|other| self.score(query, &other[key_head]))
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..size {
                    let (mut sum, mut magnitude) = (0.0, 0.0);
                    for (weight, other) in weights.iter().zip(&tokens[first..=position]) {
                        let value = other[key_head + spec.num_kv_heads][d];
                        sum += weight / total * value;
                        magnitude += weight / total * value.abs();
                    }
                    out.push((sum, magnitude));
                }
            }
        }
        out
    }

    fn score(&self, query: &[f64], key: &[f64]) -> f64 {
        let score: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
        match self.spec.softcap {
            Some(cap) => f64::from(cap) * (score / f64::from(cap)).tanh(),
            None => score,
        }
    }

    /// The heads of a token's row, normed and rotated, the queries scaled, and rounded where the kernel rounds.
    fn heads(&self, position: usize, row: &[f32]) -> Vec<Vec<f64>> {
        let spec = &self.spec;
        row.chunks_exact(spec.head_dim)
            .enumerate()
            .map(|(head, x)| {
                let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                if head < spec.num_heads + spec.num_kv_heads {
                    if let Some((q, k)) = &self.norm {
                        normalise(&mut x, if head < spec.num_heads { q } else { k });
                    }
                    if let Some(inv_freq) = &self.inv_freq {
                        rotate(&mut x, position, inv_freq);
                    }
                }
                let scale = if head < spec.num_heads {
                    spec.scale
                } else {
                    1.0
                };
                let scaled = x.iter().map(|x| x * f64::from(scale));
                match self.dtype {
                    Dtype::F32 => scaled.collect(),
                    Dtype::Bf16 => scaled.map(to_bf16).collect(),
                }
            })
            .collect()
    }
}

/// To eight bits, halves to even.
fn to_bf16(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f64::from(f32::from_bits(rounded))
}

fn normalise(x: &mut [f64], weight: &[f32]) {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(EPS)).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x *= inverse * f64::from(*weight);
    }
}

fn rotate(x: &mut [f64], position: usize, inv_freq: &[f32]) {
    let half = inv_freq.len();
    for (pair, frequency) in inv_freq.iter().enumerate() {
        let angle = f64::from(position as f32 * frequency);
        let (sin, cos) = angle.sin_cos();
        let (low, high) = (x[pair], x[pair + half]);
        x[pair] = (low * cos - high * sin) * f64::from(ROPE_SCALE);
        x[pair + half] = (high * cos + low * sin) * f64::from(ROPE_SCALE);
    }
}

/// What a call is given.
pub(crate) struct StepBatch {
    pub(crate) qkv: Vec<f32>,
    pub(crate) positions: Vec<i32>,
    pub(crate) slots: Vec<i64>,
    pub(crate) starts: Vec<i32>,
    pub(crate) lens: Vec<i32>,
    pub(crate) tables: Vec<i32>,
    pub(crate) table_width: usize,
}

impl StepBatch {
    pub(crate) fn new(world: &World, step: &[Chunk], tables: &[Vec<i32>]) -> Self {
        let mut batch = Self {
            qkv: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            starts: vec![0],
            lens: Vec::new(),
            tables: Vec::new(),
            table_width: tables.iter().map(Vec::len).max().unwrap(),
        };
        let width = world.width();
        for (seq, range) in step {
            batch
                .qkv
                .extend_from_slice(&world.seqs[*seq][range.start * width..range.end * width]);
            for position in range.clone() {
                batch.positions.push(i32::try_from(position).unwrap());
                let block = i64::from(tables[*seq][position / BLOCK_SIZE]);
                let offset = i64::try_from(position % BLOCK_SIZE).unwrap();
                batch.slots.push(block * 32 + offset);
            }
            batch
                .starts
                .push(i32::try_from(batch.positions.len()).unwrap());
            batch.lens.push(i32::try_from(range.end).unwrap());
            let mut table = tables[*seq].clone();
            table.resize(batch.table_width, 0);
            batch.tables.extend(table);
        }
        batch
    }

    pub(crate) fn view(&self) -> BatchView<'_> {
        BatchView {
            positions: &self.positions,
            slot_mapping: &self.slots,
            seq_starts: &self.starts,
            seq_lens: &self.lens,
            block_tables: &self.tables,
            table_width: self.table_width,
        }
    }
}

pub(crate) fn bits(outs: &[Vec<f32>]) -> Vec<Vec<u32>> {
    outs.iter()
        .map(|out| out.iter().map(|x| x.to_bits()).collect())
        .collect()
}
