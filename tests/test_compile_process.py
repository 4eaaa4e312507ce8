"""Compiled functions and the process they run in: forks, signals, the interpreter's end, memory."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from compiled_calls import normal

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

# ---------------------------------------------------------------------------------------------------------------------
# Nothing waits for ever
# ---------------------------------------------------------------------------------------------------------------------


def run_script(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_a_trace():
    """In the child, the thread that is tracing is gone."""
    code = """
import os, threading, warnings
import numpy as np
import tinygrad_mm as tg
warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
tracing, forked = threading.Event(), threading.Event()
def slow(x):
    tracing.set()
    forked.wait()
    return x * 2
thread = threading.Thread(target=tg.compile(slow), args=(np.ones(3),))
thread.start()
tracing.wait()
child = os.fork()
if not child:
    f = tg.compile(lambda x: np.tanh(x) * 3)
    for _ in range(3):
        f(np.ones(3))
    os._exit(len(f.plans))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
f = tg.compile(lambda x: x * 3)
print(f(np.ones(3)), len(f.plans))  # here somebody is about it: nobody waits
forked.set()
thread.join()
print(f(np.ones(3)), len(f.plans))
"""
    assert run_script(code) == "1\n[3. 3. 3.] 0\n[3. 3. 3.] 1\n"


THREADED = """
import os, random, signal, sys
import numpy as np
import tinygrad_mm as tg
from tinygrad_mm.compiler.threads import pool
from tinygrad_mm.compiler.threads import shares
pool.threads = (0, 0).__len__  # two, by a function that holds nothing of this module
shares.ELEMENTS = shares.IN_A_CALL = shares.FOR_A_PARAMETER = 0
class Training:
    def __init__(self):
        self.model = tg.nn.Linear(4, 3, rng=0)
        self.step = tg.compile_step(self.model, tg.cross_entropy, tg.optim.SGD(self.model.parameters(), 0.1))
        self.batch = np.ones((12, 4), np.float32), np.zeros(12, int)
        for _ in range(3):
            self.run()
        assert self.step.plans[0].shares.parts == 2
    def run(self):
        return self.step(*self.batch)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_signal_in_the_middle_of_a_step_whose_handler_makes_one():
    code = """
one, other, made = Training(), Training(), []
before = [library.num_threads for library in pool._blas()]
signal.signal(signal.SIGALRM, lambda *args: made.append(other.run()))
steps = 0
while len(made) < 300:
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
    one.run()
    steps += 1
signal.setitimer(signal.ITIMER_REAL, 0)
alone = Training()
for _ in range(steps):
    alone.run()
same = np.array_equal(one.model.weight.data, alone.model.weight.data)
print(same, [library.num_threads for library in pool._blas()] == before)
"""
    assert run_script(THREADED + code) == "True True\n"


def test_a_step_when_the_interpreter_ends():
    code = """
class Last(Training):
    def __del__(self):
        os.write(1, f"{self.run() > 0} {sys.is_finalizing()}\\n".encode())
last = Last()
"""
    assert run_script(THREADED + code) == "True True\n"


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_grows():
    """2,000 steps, some with a graph that is never used; buffers go back when a graph dies."""
    model = nn.Sequential(nn.Linear(10, 10, rng=0), nn.Dropout(0.1, rng=1), nn.BatchNorm1d(10), nn.Linear(10, 1, rng=2))
    optimizer = optim.SGD(model.parameters(), 1e-3)
    compiled = tg.compile(lambda x: np.mean(model(x) ** 2))
    x = normal(8, 10)

    def steps(n):
        for i in range(n):
            y = compiled(x)
            if i % 3:
                y.backward(retain_graph=i % 5 == 0)
                optimizer.step()
                optimizer.zero_grad()
        del y
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = steps(200)
        assert steps(2000) - before < 20_000
    finally:
        tracemalloc.stop()
    assert len(compiled.plan.idle) == 2
    graphs = [compiled(x) for _ in range(12)]
    del graphs
    assert len(compiled.plan.idle) == 8


def test_a_program_keeps_no_arrays_of_its_trace():
    x = normal(256, 256)
    compiled = tg.compile(lambda x: np.sum(np.tanh(np.exp(np.sin(x) * 2) + 1) ** 2))
    tracemalloc.start()
    try:
        t = tg.Tensor(x, requires_grad=True)
        compiled(t).backward()
        del t
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # The buffers, and as much again for the plan of their layout, which is never written to. The trace made 15 arrays.
    assert kept < 2 * compiled.plan.emitted.nbytes + x.nbytes
