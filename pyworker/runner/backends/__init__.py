"""The fused operations of a layer, each backend in one file."""
