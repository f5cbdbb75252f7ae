//! The paged cache as memory: sizes, copies, and blocks as bytes.

use slackwater_kernels::{Dtype, KernelError, KvCache};

/// A cache whose block `b` is filled with the byte `b`.
fn filled(dtype: Dtype) -> KvCache {
    let kv = KvCache::new(2, 3, 10, 5, dtype).unwrap();
    for block in 0..5_u8 {
        let bytes = vec![block; kv.block_bytes()];
        kv.import_block(u32::from(block), &bytes).unwrap();
    }
    kv
}

fn content(kv: &KvCache) -> Vec<Vec<u8>> {
    (0..5)
        .map(|block| {
            let mut bytes = vec![0; kv.block_bytes()];
            kv.export_block(block, &mut bytes).unwrap();
            bytes
        })
        .collect()
}

#[test]
fn sizes_and_names() {
    let kv = KvCache::new(30, 3, 64, 4, Dtype::Bf16).unwrap();
    assert_eq!(kv.block_bytes(), 23_040 * 32);
    assert_eq!(kv.bytes(), 4 * kv.block_bytes());
    assert_eq!(kv.layout_name(), "bf16-pairs32");
    let kv = KvCache::new(30, 3, 64, 4, Dtype::F32).unwrap();
    assert_eq!(kv.block_bytes(), 46_080 * 32);
    assert_eq!(kv.layout_name(), "f32-lanes32");
}

#[test]
fn it_begins_as_zeros() {
    let kv = KvCache::new(1, 1, 2, 5, Dtype::F32).unwrap();
    assert_eq!(content(&kv), vec![vec![0; kv.block_bytes()]; 5]);
}

#[test]
fn copies_go_one_after_the_other() {
    for dtype in Dtype::ALL {
        let kv = filled(dtype);
        kv.copy_blocks(&[(1, 2), (2, 4), (3, 3)]).unwrap();
        let expected: Vec<Vec<u8>> = [0, 1, 1, 3, 1]
            .into_iter()
            .map(|byte| vec![byte; kv.block_bytes()])
            .collect();
        assert_eq!(content(&kv), expected);
    }
}

#[test]
fn a_bad_copy_copies_nothing() {
    let kv = filled(Dtype::F32);
    let before = content(&kv);
    assert_eq!(
        kv.copy_blocks(&[(1, 2), (5, 1)]),
        Err(KernelError::Index {
            what: "a block",
            value: 5,
            count: 5
        })
    );
    assert!(kv.copy_blocks(&[(1, 2), (1, 5)]).is_err());
    assert_eq!(content(&kv), before);
}

#[test]
fn bytes_that_do_not_fit_are_refused() {
    let kv = filled(Dtype::Bf16);
    let mut bytes = vec![0; kv.block_bytes() + 1];
    assert!(kv.export_block(0, &mut bytes).is_err());
    assert!(kv.import_block(0, &bytes[2..]).is_err());
    assert!(kv.import_block(5, &bytes[1..]).is_err());
}

#[test]
fn absurd_shapes_are_refused() {
    let refused = |layers, heads, size, blocks| {
        KvCache::new(layers, heads, size, blocks, Dtype::F32)
            .map(drop)
            .unwrap_err()
    };
    let head = |head_dim| KernelError::HeadDim {
        head_dim,
        limit: 256,
    };
    assert_eq!(refused(1, 1, 63, 1), head(63));
    assert_eq!(refused(1, 1, 258, 1), head(258));
    assert_eq!(refused(1, 1, 0, 1), head(0));
    for (layers, heads, blocks) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let error = refused(layers, heads, 64, blocks);
        assert!(matches!(error, KernelError::OutOfRange { .. }), "{error}");
    }
    let huge = (1 << 31) - 1;
    assert!(matches!(
        refused(huge, huge, 256, huge),
        KernelError::OutOfRange { .. } | KernelError::OutOfMemory { .. }
    ));
    assert!(matches!(
        refused(1 << 10, 1 << 10, 256, 1 << 25),
        KernelError::OutOfMemory { .. }
    ));
}
