"""From records to figures: pure functions, so that every figure can be computed again from the files of a run."""
