"""Arithmetic with a fixed order, out of torch operations that round once per element.

Torch's own reductions, `exp` and matrix products may choose another order or another code path for another shape. A
single elementwise multiplication or addition cannot: IEEE arithmetic leaves it one result. So what is built from those
alone gives equal bits for a row in any batch, on any machine.
"""

from __future__ import annotations

import torch

_LOG2_E = 1.44269504088896341
# ln 2 in two parts: the first has so few bits that its product with an exponent is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
# Minimax coefficients of (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], highest power first (Cephes library, expf).
_EXP_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_EXP_MIN, _EXP_MAX = -87.0, 88.0
_BF16_LEAST = 2.0**-50
"""Operands below this are zero in bf16: then no product or sum of theirs is denormal, which some chips would flush."""


def tree_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, kept with size 1: the upper half is added to the lower until one is left.

    The order depends on the length of that dimension alone.
    """
    while (length := x.shape[-1]) > 1:
        half = (length + 1) // 2
        if length % 2 == 0:
            x = x[..., :half] + x[..., half:]
        else:
            low = x[..., :half].clone()
            low[..., : half - 1] += x[..., half:]
            x = low
    return x


def exp(x: torch.Tensor) -> torch.Tensor:
    """e^x in float32, to about 1e-7 relative; arguments are cut to [-87, 88], NaN stays NaN, e^0 is exactly 1."""
    x = x.clamp(_EXP_MIN, _EXP_MAX)
    exponent = torch.round(x * _LOG2_E)
    rest = x.sub_(exponent * _LN2_HIGH).sub_(exponent * _LN2_LOW)
    poly = rest * _EXP_POLYNOMIAL[0]
    poly += _EXP_POLYNOMIAL[1]
    for coefficient in _EXP_POLYNOMIAL[2:]:
        poly *= rest
        poly += coefficient
    poly *= rest
    poly *= rest
    poly += rest
    poly += 1.0
    scale = exponent.to(torch.int32).add_(127).bitwise_left_shift_(23).view(torch.float32)
    return poly.mul_(scale)


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + e^-x), elementwise."""
    return x / exp(-x).add_(1.0)


def tanh(x: torch.Tensor) -> torch.Tensor:
    """(1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x, elementwise; to about 1e-7 absolute."""
    small = exp(x.abs().mul_(-2.0))
    return torch.copysign((1.0 - small).div_(1.0 + small), x)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension `[..., H]`, times `weight` `[H]`."""
    mean = tree_sum(x * x).div_(x.shape[-1])
    inverse = mean.add_(eps).sqrt_().reciprocal_()
    return (x * inverse).mul_(weight)


def round_bf16(x: torch.Tensor) -> torch.Tensor:
    """The nearest bf16 values (halves to even), as float32; below 2^-50 it is zero of the same sign, NaN stays NaN."""
    rounded = x.to(torch.bfloat16).to(torch.float32)
    return torch.where(x.abs() < _BF16_LEAST, torch.copysign(torch.zeros(()), x), rounded)
