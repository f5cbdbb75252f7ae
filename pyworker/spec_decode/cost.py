"""What a step of so many tokens takes, learnt from the steps that were run."""

from __future__ import annotations

_MOST_TOKENS = 256
"""Larger steps are prompts, and no step with guesses is like them."""
_WEIGHT = 0.1
_LEAST_SEEN = 3


class StepCost:
    """Mean step time by number of tokens, older steps fading; between sizes that were seen, a straight line."""

    def __init__(self) -> None:
        self._micros: dict[int, float] = {}
        self._seen: dict[int, int] = {}

    def observe(self, num_tokens: int, micros: int) -> None:
        """Learn from one step."""
        if not 0 < num_tokens <= _MOST_TOKENS:
            return
        known = self._micros.get(num_tokens)
        self._seen[num_tokens] = self._seen.get(num_tokens, 0) + 1
        weight = max(_WEIGHT, 1.0 / self._seen[num_tokens])
        self._micros[num_tokens] = micros if known is None else known + weight * (micros - known)

    def curve(self, first: int, last: int) -> list[float] | None:
        """Microseconds for `first` to `last` tokens, never falling; `None` where it is not known well enough.

        Sizes beyond the largest that was seen go on as steeply as between the two largest.
        """
        points = sorted(size for size, seen in self._seen.items() if seen >= _LEAST_SEEN)
        if len(points) < 2 or points[0] > first or points[-1] <= first:
            return None
        curve = [self._at(size, points) for size in range(first, last + 1)]
        for index in range(1, len(curve)):
            curve[index] = max(curve[index], curve[index - 1])
        return curve

    def _at(self, size: int, points: list[int]) -> float:
        if size in self._micros and size in points:
            return self._micros[size]
        above = next((index for index, point in enumerate(points) if point > size), len(points) - 1)
        low, high = points[max(0, above - 1)], points[max(1, above)]
        slope = (self._micros[high] - self._micros[low]) / (high - low)
        return self._micros[low] + max(0.0, slope) * (size - low)
