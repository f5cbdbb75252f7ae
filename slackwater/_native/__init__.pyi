"""The Rust side: the router's program, the CPU kernels, and the router's own text handling."""

from collections.abc import Sequence

from slackwater._native import kernels, text

__all__ = ["kernels", "main", "text"]

def main(args: Sequence[str]) -> int:
    """Run the program `slackwater` with these arguments, the first of which is its name; gives its exit status.

    Returns when the program ends; signals are handled meanwhile as the program says.
    """
