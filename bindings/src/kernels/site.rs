//! The operations of a layer from buffer to buffer, without the interpreter: a call may be one of them or several.

use slackwater_kernels::{self as kernels, Act, Kernels};

use super::arena::{Chunk, Writing};
use super::batch::BatchView;
use super::buf::{Buf, Rows, Workspace, refusal};
use super::weights::{AttnSpec, KvCache};
use super::{Pool, Refusal, check_shape, chosen};

/// Multiplications of attention in a microsecond on one thread.
const ATTEND_PRODUCTS: u64 = 10_000;

/// Where operations run: the memory that their buffers are cut from, the threads and the instruction set.
pub(crate) struct Site<'a> {
    workspace: &'a Workspace,
    pool: &'a kernels::Pool,
    kernels: Kernels,
}

impl<'a> Site<'a> {
    pub(crate) fn new(workspace: &'a Workspace, pool: &'a Pool) -> Self {
        Self {
            workspace,
            pool: &pool.inner,
            kernels: chosen(),
        }
    }

    pub(crate) fn add_norm(
        &self,
        x: &Buf,
        delta: Option<&Buf>,
        weight: &[f32],
        eps: f32,
    ) -> Result<Buf, Refusal> {
        let shape = [x.rows, x.columns];
        check_shape("x", shape, [x.rows, weight.len()])?;
        if let Some(delta) = delta {
            check_shape("delta", [delta.rows, delta.columns], shape)?;
        }
        let out = self.workspace.buf(x.rows, x.columns)?;
        let mut sums = x.write("x")?;
        let delta = delta.map(|delta| delta.read("delta")).transpose()?;
        let mut to = out.write("out")?;
        kernels::add_norm(
            sums.floats(),
            delta.as_ref().map(Rows::floats),
            weight,
            eps,
            x.rows,
            to.floats(),
            self.kernels,
            self.pool,
        )?;
        drop(to);
        Ok(out)
    }

    pub(crate) fn linear(&self, x: &Buf, weight: &kernels::Linear) -> Result<Buf, Refusal> {
        let shape = [weight.columns(), weight.depth()];
        self.product(x, shape, weight.scratch_len(x.rows), |from, to, words| {
            kernels::linear(from, x.rows, weight, to, words, self.kernels, self.pool)
        })
    }

    pub(crate) fn gate_up_act(
        &self,
        x: &Buf,
        weight: &kernels::GateUp,
        act: Act,
    ) -> Result<Buf, Refusal> {
        let (shape, isa) = ([weight.columns(), weight.depth()], self.kernels);
        self.product(x, shape, weight.scratch_len(x.rows), |from, to, words| {
            kernels::gate_up_act(from, x.rows, weight, act, to, words, isa, self.pool)
        })
    }

    /// What a weight of this shape makes of `x`.
    fn product(
        &self,
        x: &Buf,
        [columns, depth]: [usize; 2],
        scratch_len: usize,
        call: impl FnOnce(&[f32], &mut [f32], &mut [u32]) -> Result<(), kernels::KernelError>,
    ) -> Result<Buf, Refusal> {
        check_shape("x", [x.rows, x.columns], [x.rows, depth])?;
        let out = self.workspace.buf(x.rows, columns)?;
        let scratch = self.workspace.chunk(scratch_len)?;
        let from = x.read("x")?;
        let (mut to, mut words) = (out.write("out")?, held(&scratch)?);
        call(from.floats(), to.floats(), words.words())?;
        drop(to);
        Ok(out)
    }

    pub(crate) fn attend(
        &self,
        qkv: &Buf,
        kv: &KvCache,
        layer: usize,
        spec: &AttnSpec,
        batch: &BatchView,
        qk_norm: Option<kernels::QkNorm<'_>>,
    ) -> Result<Buf, Refusal> {
        let what = &spec.inner;
        let width = (what.num_heads + 2 * what.num_kv_heads).saturating_mul(what.head_dim);
        check_shape("qkv", [qkv.rows, qkv.columns], [batch.tokens(), width])?;
        let out = self
            .workspace
            .buf(qkv.rows, what.num_heads * what.head_dim)?;
        let (tokens, threads) = (batch.tokens(), self.pool.threads());
        let partials = kernels::attend_scratch_len(what, tokens, batch.context, threads);
        let scratch = self.workspace.chunk(partials)?;
        let (mut rows, mut to) = (qkv.write("qkv")?, out.write("out")?);
        let mut partials = held(&scratch)?;
        let rope = spec.rope.as_ref().map(|rope| rope.get().made());
        kernels::attend(
            rows.floats(),
            &kv.inner,
            layer,
            what,
            rope.as_deref(),
            qk_norm,
            &batch.view(),
            to.floats(),
            partials.floats(),
            self.kernels,
            self.pool,
        )?;
        drop(to);
        Ok(out)
    }
}

/// What attention of a batch takes on one thread of an ordinary machine, in microseconds.
pub(crate) fn attend_micros(spec: &AttnSpec, batch: &BatchView) -> u64 {
    let width = 2 * spec.inner.num_heads * spec.inner.head_dim;
    let width = u64::try_from(width).unwrap_or(u64::MAX);
    batch.keys.saturating_mul(width) / ATTEND_PRODUCTS
}

/// An activation by its name.
pub(crate) fn act_of(name: &str) -> Result<Act, Refusal> {
    match name {
        "silu" => Ok(Act::Silu),
        _ => Err(Refusal(format!(
            "unknown activation {name:?}, expected silu"
        ))),
    }
}

pub(crate) fn held(scratch: &Chunk) -> Result<Writing<'_>, Refusal> {
    scratch
        .write()
        .map_err(|refused| refusal("scratch", refused))
}
