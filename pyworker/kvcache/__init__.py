"""The paged KV cache's books: blocks, hashes, who holds what. Imports no torch."""
