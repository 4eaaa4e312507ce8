"""Settings shared by all tests: how hypothesis draws, here and in CI; Ctrl-C."""

from __future__ import annotations

import os
import signal

import pytest
from browsing import driver, page  # noqa: F401  (fixtures)
from hypothesis import HealthCheck, settings

# Drawing an example must never fail a test by being slow: the machines are shared. In CI the same examples are drawn
# every time, so that a red run means a changed program.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Python's own handler of SIGINT: a suite started in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
