"""The paged KV cache's books: blocks, hashes, who holds what. Imports no torch.

`manager` is what the scheduler talks to; behind it `block_pool` owns the blocks and `block_hash` names their content.
"""
