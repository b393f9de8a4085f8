"""Random numbers of tests: the same in every run, unless ``FEWER_TEST_SEED`` asks for others.

A check that holds but for one draw in thousands would otherwise fail a run that changed nothing; others are looked for on
purpose, with ``FEWER_TEST_SEED=7 make test``, which also lets Hypothesis look for new examples.
"""

from __future__ import annotations

import os
import random

import hypothesis
import numpy as np
import pytest
import torch

SEED = int(os.environ.get("FEWER_TEST_SEED", "0"))

hypothesis.settings.register_profile("the same", derandomize=True)
if "FEWER_TEST_SEED" not in os.environ:
    hypothesis.settings.load_profile("the same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before fixtures too, whichever test comes first on a worker."""
    random.seed(SEED)
    np.random.seed(SEED % 2**32)  # noqa: NPY002 - what others draw from, not we
    torch.manual_seed(SEED)
