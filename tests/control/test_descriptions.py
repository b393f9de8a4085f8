from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fewer.control.baselines import sac
from fewer.control.descriptions import describe, rebuild
from fewer.control.dsrl import dsrl_na
from fewer.control.ofql import one_step_flow
from fewer.control.policies import Deterministic, Gaussian
from fewer.core.errors import FewerError


@pytest.mark.parametrize("filling", [sac, one_step_flow, dsrl_na])
def test_descriptions_come_back_equal_through_json(filling):
    for part in filling().values():
        assert rebuild(json.loads(json.dumps(describe(part)))) == part


def test_values_come_back_with_their_types():
    given = [None, True, 1, 0.1, math.inf, "text", (1, (2.5, "a")), [()]]
    again = rebuild(json.loads(json.dumps(describe(given))))
    assert again == given
    assert list(map(type, again)) == list(map(type, given))


def test_functions_are_not_written():
    with pytest.raises(FewerError, match="a function cannot be written down"):
        describe((1, lambda: None))


@pytest.mark.parametrize(
    "place",
    ["os:system", "fewer.core.files:write_atomically", "fewer.control.loop:Pending", "fewer.no:Such", "fewer.cli:no",
     "fewer..os:system", "subprocess:Popen", 3],
)  # fmt: skip
def test_a_file_makes_nothing_but_descriptions_of_this_library(place):
    with pytest.raises(FewerError, match="is no description of this version"):
        rebuild({"made by": place, "with": {}})


def test_other_fields_and_other_forms():
    with pytest.raises(FewerError, match="has other fields in this version"):
        rebuild(describe(Gaussian()) | {"with": {"widths": 3}})
    for wrong in ({"made by": "x"}, {"tuple": 3}, {}):
        with pytest.raises(FewerError, match="is no description; give a file"):
            rebuild(wrong)


def test_numbers_of_numpy_are_numbers():
    assert describe(Deterministic(hidden=(np.int64(8),), lr=np.float64(0.5))) == describe(
        Deterministic(hidden=(8,), lr=0.5)
    )
