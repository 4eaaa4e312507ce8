"""Training steps by several threads: whether a batch can be shared, who takes which share, and calls made at once.

`batch_independence` tells whether the examples of a batch know nothing of each other, `shares` gives each thread a
program for its share, and `pool` makes calls at the same time while BLAS is held to one thread.
"""
