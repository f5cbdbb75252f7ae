//! Properties of the codec over arbitrary input.

use proptest::collection::vec;
use proptest::prelude::*;
use slackwater_wire::messages::{HexId, RequestClass, RequestOutput, SamplingParams, Submit};
use slackwater_wire::{Frames, Message, decode, encode};

use crate::fixtures;

fn submits() -> impl Strategy<Value = Message> {
    let head = (any::<u64>(), any::<u128>(), any::<u32>(), any::<u32>());
    let body = (
        prop_oneof![
            Just(RequestClass::Interactive),
            Just(RequestClass::Standard),
            Just(RequestClass::Offline)
        ],
        any::<u64>(),
        any::<u32>(),
        proptest::option::of(any::<u64>()),
    );
    let params = (
        1..=u32::MAX,
        any::<u32>(),
        0.0_f32..=f32::MAX,
        f32::MIN_POSITIVE..=1.0,
        any::<u64>(),
        any::<bool>(),
    );
    let ids = (vec(any::<u32>(), 1..50), any::<u32>());
    (head, body, params, ids, lists()).prop_map(
        |(head, body, params, (mut ids, history), (lists, listed, biases))| {
            let submit = Submit {
                seq: head.0,
                request_id: HexId(head.1),
                attempt: head.2,
                group: (head.3 % 2 == 0).then_some(HexId(head.1)),
                choice_index: head.3,
                class: body.0,
                salt: body.1,
                num_output_tokens: history % u32::try_from(ids.len()).unwrap(),
                credit_up_to: body.2,
                remaining_micros: body.3,
                params: SamplingParams {
                    max_tokens: params.0,
                    min_tokens: params.1 % params.0,
                    temperature: params.2,
                    top_p: params.3,
                    seed: params.4,
                    ignore_eos: params.5,
                    ..lists
                },
            };
            ids.extend(listed);
            Message::Submit(submit, ids, biases)
        },
    )
}

/// Parameters with lists, their ids, and the biases.
fn lists() -> impl Strategy<Value = (SamplingParams, Vec<u32>, Vec<f32>)> {
    let stop = vec(any::<u32>(), 0..5);
    let allowed = proptest::option::of(vec(any::<u32>(), 1..5));
    let words = vec(vec(any::<u32>(), 1..4), 0..4);
    let bias = vec((any::<u32>(), -100.0_f32..=100.0), 0..5);
    let len = |list: &[u32]| u32::try_from(list.len()).unwrap();
    (stop, allowed, words, bias).prop_map(move |(stop, allowed, words, bias)| {
        let params = SamplingParams {
            num_stop_token_ids: len(&stop),
            num_allowed_token_ids: allowed.as_deref().map(len),
            bad_word_lengths: words.iter().map(|word| len(word)).collect(),
            num_logit_bias: u32::try_from(bias.len()).unwrap(),
            ..fixtures::params()
        };
        let (tokens, biases): (Vec<u32>, Vec<f32>) = bias.into_iter().unzip();
        let allowed = allowed.unwrap_or_default();
        (
            params,
            [stop, allowed, words.concat(), tokens].concat(),
            biases,
        )
    })
}

fn steps() -> impl Strategy<Value = Message> {
    let row = (
        any::<u128>(),
        any::<u32>(),
        any::<u32>(),
        vec(any::<u32>(), 0..6),
        proptest::option::of(0..4_u32),
        (0..3_u32, 0..3_u32),
    );
    (any::<u64>(), vec(row, 0..8)).prop_map(|(seq, rows)| {
        let mut ids: Vec<u32> = rows.iter().flat_map(|row| row.3.iter().copied()).collect();
        let mut floats = Vec::new();
        for (_, _, _, tokens, top, (prompt, top_prompt)) in &rows {
            let tokens = u32::try_from(tokens.len()).unwrap();
            let listed = tokens * top.unwrap_or(0) + prompt * top_prompt;
            let chosen = top.map_or(0, |_| tokens) + prompt;
            ids.extend(0..listed);
            floats.extend((0..listed + chosen).map(|at| -f32::from(u16::try_from(at).unwrap())));
        }
        let outputs = rows
            .iter()
            .map(|row| RequestOutput {
                request_id: HexId(row.0),
                attempt: row.1,
                start: row.2,
                num_tokens: u32::try_from(row.3.len()).unwrap(),
                num_top_logprobs: row.4,
                num_prompt_logprobs: row.5.0,
                num_top_prompt_logprobs: if row.5.0 == 0 { 0 } else { row.5.1 },
                ..fixtures::output()
            })
            .collect();
        let step = slackwater_wire::messages::StepOutputs {
            seq,
            step_micros: seq,
            outputs,
        };
        Message::StepOutputs(step, ids, floats)
    })
}

/// A fixture's parts, with one of them damaged.
fn damaged() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let at = (
        any::<prop::sample::Index>(),
        0..4_usize,
        any::<prop::sample::Index>(),
    );
    (at, any::<u8>(), 0..3_u8).prop_map(|((which, part, place), byte, how)| {
        let all = fixtures::all();
        let (_, message) = &all[which.index(all.len())];
        let mut parts = encode(message).unwrap().into_parts().to_vec();
        let bytes = &mut parts[part];
        match how {
            0 if !bytes.is_empty() => {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
            1 if !bytes.is_empty() => bytes.truncate(place.index(bytes.len())),
            _ => bytes.push(byte),
        }
        parts
    })
}

/// An error, or a message that says the same when it is written and read again.
fn stands(parts: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let Ok(message) = Frames::from_parts(parts).and_then(|frames| decode(&frames)) else {
        return Ok(());
    };
    let again = encode(&message).unwrap();
    prop_assert_eq!(decode(&again).unwrap(), message);
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_parts_never_panic(parts in vec(vec(any::<u8>(), 0..64), 0..6)) {
        stands(&parts)?;
    }

    #[test]
    fn arbitrary_bodies_of_known_kinds_never_panic(
        kind in 0..=19_u8, body in vec(any::<u8>(), 0..200), ids in vec(any::<u8>(), 0..16)
    ) {
        stands(&[vec![kind], body, ids, Vec::new()])?;
    }

    #[test]
    fn damaged_messages_never_panic(parts in damaged()) {
        stands(&parts)?;
    }

    #[test]
    fn submits_survive_the_wire(message in submits()) {
        prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn steps_survive_the_wire(message in steps()) {
        prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
    }
}
