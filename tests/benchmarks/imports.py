"""What `import tinygrad_mm` costs over `import numpy`: whole processes, in turn.

python tests/benchmarks/imports.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # bytecode, as installed
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - start


def main():
    codes = ["import numpy", "import tinygrad_mm"]
    times = {code: [] for code in codes}
    for _ in range(21):
        for code in codes:
            times[code].append(seconds(code))
    for code in codes:
        print(
            f"{code:22} best {min(times[code]) * 1e3:6.1f} ms   median {statistics.median(times[code]) * 1e3:6.1f} ms"
        )
    a, b = (times[c] for c in codes)
    print(
        f"difference             best {(min(b) - min(a)) * 1e3:6.1f} ms   median {(statistics.median(b) - statistics.median(a)) * 1e3:6.1f} ms"
    )


if __name__ == "__main__":
    main()
