//! The paged cache of keys and values: blocks of 32 tokens, each one contiguous range of bytes.
//!
//! A block is `[layers][2][kv_heads]` tiles of 32 tokens. Keys lie in token lanes, so that a dot product with 32 of them
//! needs no sum across lanes: float32 `[D][32]`, bf16 `[D / 2][32][2]`, where the 16 even tokens come before the odd ones.
//! Values lie in rows: float32 `[32][D]`, bf16 in pairs of tokens `[16][D][2]`.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pages::{LARGE_PAGE, advise_large_pages};
use crate::shared::{check_length, in_range, product};
use crate::{Dtype, KernelError};

/// Tokens of a block: the width of a tile.
pub const BLOCK_SIZE: usize = 32;
/// The largest head: what the attention kernels have room for.
pub const MAX_HEAD_DIM: usize = 256;

/// A tile's last row may be read this far beyond its end.
const SLACK: usize = 256;

/// Keys and values of all layers, `num_blocks` blocks of [`BLOCK_SIZE`] tokens, zero at first.
#[derive(Debug)]
pub struct KvCache {
    base: NonNull<u8>,
    allocated: Layout,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    num_blocks: usize,
    dtype: Dtype,
    /// Held by whoever looks into the memory.
    turn: Mutex<()>,
}

// SAFETY: the memory is the cache's own, and is reached only through a `KvAccess`, of which there is one at a time.
unsafe impl Send for KvCache {}
// SAFETY: as above.
unsafe impl Sync for KvCache {}

impl KvCache {
    /// Takes the memory, in huge pages where the system gives them, and touches it.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for an empty or absurd dimension, [`KernelError::HeadDim`] for a head that is odd or
    /// larger than [`MAX_HEAD_DIM`], [`KernelError::OutOfMemory`].
    pub fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        num_blocks: usize,
        dtype: Dtype,
    ) -> Result<Self, KernelError> {
        in_range("the number of layers", layers)?;
        in_range("the number of kv heads", kv_heads)?;
        in_range("the number of blocks", num_blocks)?;
        check_head_dim(head_dim)?;
        let tile = BLOCK_SIZE * head_dim * dtype.bytes();
        let block = product(product(layers, 2)?, product(kv_heads, tile)?)?;
        let bytes = product(num_blocks, block)?;
        let out_of_memory = || KernelError::OutOfMemory { bytes };
        let padded = bytes.checked_add(SLACK).ok_or_else(out_of_memory)?;
        let allocated = Layout::from_size_align(padded, LARGE_PAGE).map_err(|_| out_of_memory())?;
        // SAFETY: the size is not zero: every dimension is positive.
        let base = NonNull::new(unsafe { alloc(allocated) }).ok_or_else(out_of_memory)?;
        advise_large_pages(base.as_ptr(), padded);
        // SAFETY: this many bytes have just been allocated. All zeros are an element of either format.
        unsafe { base.write_bytes(0, padded) };
        Ok(Self {
            base,
            allocated,
            layers,
            kv_heads,
            head_dim,
            num_blocks,
            dtype,
            turn: Mutex::new(()),
        })
    }

    /// Layers.
    pub const fn layers(&self) -> usize {
        self.layers
    }

    /// Key-value heads of a layer.
    pub const fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Blocks, the null block included.
    pub const fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Format of the elements.
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes of a block.
    pub const fn block_bytes(&self) -> usize {
        self.layers * 2 * self.kv_heads * self.tile_bytes()
    }

    /// Bytes of all blocks.
    pub const fn bytes(&self) -> usize {
        self.num_blocks * self.block_bytes()
    }

    /// Name of the order of bytes in a block: blocks may be moved between caches of equal names and dimensions.
    pub const fn layout_name(&self) -> &'static str {
        match self.dtype {
            Dtype::F32 => "f32-lanes32",
            Dtype::Bf16 => "bf16-pairs32",
        }
    }

    /// Copies whole blocks `(from, to)` one after the other, in all layers.
    ///
    /// # Errors
    /// [`KernelError::Index`] for a block that there is not; nothing is copied then.
    pub fn copy_blocks(&self, copies: &[(u32, u32)]) -> Result<(), KernelError> {
        for (from, to) in copies {
            self.check_block(*from)?;
            self.check_block(*to)?;
        }
        let access = self.access();
        for (from, to) in copies {
            // SAFETY: both blocks exist; this thread has the only access; `copy` takes a block onto itself too.
            unsafe {
                let from = access.block(*from as usize);
                from.copy_to(access.block(*to as usize), self.block_bytes());
            }
        }
        Ok(())
    }

    /// The bytes of a block, [`Self::block_bytes`] of them, in the machine's byte order.
    ///
    /// # Errors
    /// [`KernelError::Index`] for a block that there is not, [`KernelError::Length`] where `to` does not fit.
    pub fn export_block(&self, block: u32, to: &mut [u8]) -> Result<(), KernelError> {
        self.check_block(block)?;
        check_length("to", self.block_bytes(), to.len())?;
        let access = self.access();
        // SAFETY: the block exists and is as long as `to`; this thread has the only access.
        unsafe {
            let from = access.block(block as usize);
            from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len());
        }
        Ok(())
    }

    /// Overwrites a block with what [`Self::export_block`] gave.
    ///
    /// # Errors
    /// [`KernelError::Index`] for a block that there is not, [`KernelError::Length`] where `from` does not fit.
    pub fn import_block(&self, block: u32, from: &[u8]) -> Result<(), KernelError> {
        self.check_block(block)?;
        check_length("from", self.block_bytes(), from.len())?;
        let access = self.access();
        // SAFETY: the block exists and is as long as `from`; this thread has the only access; any bytes are elements.
        unsafe {
            let to = access.block(block as usize);
            to.copy_from_nonoverlapping(from.as_ptr(), from.len());
        }
        Ok(())
    }

    const fn tile_bytes(&self) -> usize {
        BLOCK_SIZE * self.head_dim * self.dtype.bytes()
    }

    fn check_block(&self, block: u32) -> Result<(), KernelError> {
        check_index("a block", i64::from(block), self.num_blocks)
    }

    /// The memory, for one caller at a time: the others wait.
    pub(crate) fn access(&self) -> KvAccess<'_> {
        KvAccess {
            cache: self,
            _turn: self.turn.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.allocated) };
    }
}

/// The right to look into the memory of a cache. Its holder may share it with the units of its pool: they write by
/// atomic stores only, and read in another run of the pool than the one that writes.
#[derive(Debug)]
pub(crate) struct KvAccess<'a> {
    cache: &'a KvCache,
    _turn: MutexGuard<'a, ()>,
}

impl KvAccess<'_> {
    /// Where a block begins.
    ///
    /// # Safety
    /// The block exists.
    unsafe fn block(&self, block: usize) -> *mut u8 {
        // SAFETY: it lies within the allocation.
        unsafe {
            self.cache
                .base
                .as_ptr()
                .add(block * self.cache.block_bytes())
        }
    }

    /// The tiles of a layer.
    pub(crate) fn layer(&self, layer: usize) -> LayerTiles {
        let tile = self.cache.tile_bytes();
        LayerTiles {
            // A layer that there is not gives a pointer that nobody may use.
            base: self
                .cache
                .base
                .as_ptr()
                .wrapping_add(layer * 2 * self.cache.kv_heads * tile),
            block: self.cache.block_bytes(),
            tile,
            values: self.cache.kv_heads * tile,
        }
    }
}

/// Where the tiles of one layer lie.
#[derive(Clone, Copy)]
pub(crate) struct LayerTiles {
    base: *mut u8,
    block: usize,
    tile: usize,
    values: usize,
}

// SAFETY: only pointers; what they are used for is the business of the units, see `KvAccess`.
unsafe impl Send for LayerTiles {}
// SAFETY: as above.
unsafe impl Sync for LayerTiles {}

impl LayerTiles {
    /// Keys of a head: good for reading and writing `32 * D` elements if the layer, block and head exist.
    #[allow(
        clippy::cast_ptr_alignment,
        reason = "tiles are multiples of 128 bytes, on large pages"
    )]
    pub(crate) fn keys(self, block: usize, head: usize) -> *mut u32 {
        self.base
            .wrapping_add(block * self.block + head * self.tile)
            .cast()
    }

    /// Values of a head: as the keys, and good for reading [`SLACK`] bytes more.
    pub(crate) fn values(self, block: usize, head: usize) -> *mut u32 {
        self.keys(block, head).wrapping_byte_add(self.values)
    }
}

pub(crate) fn check_head_dim(head_dim: usize) -> Result<(), KernelError> {
    if (2..=MAX_HEAD_DIM).contains(&head_dim) && head_dim.is_multiple_of(2) {
        Ok(())
    } else {
        Err(KernelError::HeadDim {
            head_dim,
            limit: MAX_HEAD_DIM,
        })
    }
}

pub(crate) fn check_index(what: &'static str, value: i64, count: usize) -> Result<(), KernelError> {
    if usize::try_from(value).is_ok_and(|value| value < count) {
        Ok(())
    } else {
        Err(KernelError::Index { what, value, count })
    }
}
