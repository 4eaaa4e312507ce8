"""Chains of up to 1,000,000 operations: seconds and microseconds a node, garbage collector on.

python tests/benchmarks/chain.py
"""

from __future__ import annotations

import time

import numpy as np

import tinygrad_mm as tg


def main():
    print(f"{'operations':>12}{'forward s':>12}{'backward s':>12}{'freeing s':>12}{'µs a node':>12}{'ratio':>8}")
    first = None
    for n in (10_000, 100_000, 1_000_000):
        best = None
        for _ in range(max(1, min(20, 1_000_000 // n))):
            x = tg.Tensor(np.ones(4, np.float32), requires_grad=True)
            start = time.perf_counter()
            y = x
            for _ in range(n):
                y = y + x
            middle = time.perf_counter()
            y.backward(np.ones(4, np.float32), retain_graph=True)
            end = time.perf_counter()
            assert x.grad[0] == n + 1
            del y
            gone = time.perf_counter()
            times = (middle - start, end - middle, gone - end)
            best = times if best is None or sum(times) < sum(best) else best
        cost = sum(best) / n * 1e6
        first = first or cost
        print(f"{n:>12,}" + "".join(f"{t:>12.3f}" for t in best) + f"{cost:>12.2f}{cost / first:>8.2f}")


if __name__ == "__main__":
    main()
