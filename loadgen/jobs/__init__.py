"""Offline jobs: through the Files and Batches API, or as lanes of requests; and whether what came back is whole."""
