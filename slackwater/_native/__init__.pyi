"""The Rust side: the router's program, the CPU kernels, the sampler, and the router's own text handling."""

from collections.abc import Sequence

from slackwater._native import kernels, sampling, text

__all__ = ["kernels", "main", "sampling", "text"]

def main(args: Sequence[str]) -> int:
    """Run the program `slackwater` with these arguments, the first of which is its name; gives its exit status.

    Returns when the program ends; signals are handled meanwhile as the program says.
    """
