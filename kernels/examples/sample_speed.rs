//! Times the sampler on one row, and prints one JSON line a case: `sample_speed [vocab_size]`.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a figure for a reader"
)]

use std::time::Instant;

use slackwater_kernels::sample::{RequestSampler, RowRequest, SamplingParams, sample};
use slackwater_kernels::{Isa, KernelError, Kernels, Pool};

const ROUNDS: u32 = 400;

fn main() -> Result<(), KernelError> {
    let vocab_size = std::env::args()
        .nth(1)
        .and_then(|size| size.parse().ok())
        .unwrap_or(49_152);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (name, params) in cases() {
            for (shape, width) in [("model", 3.0), ("flat", 0.01)] {
                let micros = median_micros(isa, vocab_size, &params, width)?;
                println!(
                    "{{\"isa\": \"{isa}\", \"case\": \"{name}\", \"logits\": \"{shape}\", \"vocab_size\": {vocab_size}, \
                     \"micros_per_row\": {micros:.1}}}"
                );
            }
        }
    }
    Ok(())
}

fn cases() -> Vec<(&'static str, SamplingParams)> {
    let plain = SamplingParams::default();
    vec![
        (
            "greedy",
            SamplingParams {
                temperature: 0.0,
                ..plain.clone()
            },
        ),
        ("plain", plain.clone()),
        (
            "top_k 50",
            SamplingParams {
                top_k: 50,
                ..plain.clone()
            },
        ),
        (
            "top_p 0.9",
            SamplingParams {
                top_p: 0.9,
                ..plain.clone()
            },
        ),
        (
            "min_p 0.05",
            SamplingParams {
                min_p: 0.05,
                ..plain.clone()
            },
        ),
        (
            "top_k 50, top_p 0.9, temperature 0.7",
            SamplingParams {
                top_k: 50,
                top_p: 0.9,
                temperature: 0.7,
                ..plain.clone()
            },
        ),
        (
            "logprobs 5",
            SamplingParams {
                logprobs: Some(5),
                ..plain
            },
        ),
    ]
}

/// Sums of twelve uniform numbers, which are nearly normal, times `width`.
fn logits(vocab_size: usize, width: f32) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..vocab_size)
        .map(|_| (0..12).map(|_| next()).sum::<f32>() * width)
        .collect()
}

fn median_micros(
    isa: Isa,
    vocab_size: usize,
    params: &SamplingParams,
    width: f32,
) -> Result<f64, KernelError> {
    let (kernels, pool) = (Kernels::for_isa(isa)?, Pool::new(1)?);
    let sampler = RequestSampler::new(vocab_size, params.clone(), &[], &[])?;
    let fresh = logits(vocab_size, width);
    let mut row = fresh.clone();
    let mut micros = Vec::new();
    let rounds = if isa == Isa::Portable {
        ROUNDS / 20
    } else {
        ROUNDS
    };
    for position in 0..rounds {
        row.copy_from_slice(&fresh);
        let request = RowRequest {
            sampler: &sampler,
            position,
            drafts: &[],
            mask: None,
        };
        let begin = Instant::now();
        std::hint::black_box(sample(
            &mut row,
            vocab_size,
            &[request],
            &[],
            kernels,
            &pool,
        )?);
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    Ok(micros.get(micros.len() / 2).copied().unwrap_or_default())
}
