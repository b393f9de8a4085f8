"""Which prompts come, and in which order."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.rollouts.curations import Chosen, Curation, Uniform


def test_every_round_has_each_prompt_once_in_another_order():
    stream = Uniform().build(7, seed=0)
    rounds = [stream.draw(7).tolist() for _ in range(3)]
    assert [sorted(each) for each in rounds] == [list(range(7))] * 3
    assert rounds[0] != rounds[1]
    assert stream.record(np.arange(7), np.ones(7)) is False  # the model never begins anew
    assert Uniform().least(7) == 1


def test_only_those_that_are_chosen_come_and_a_saved_stream_goes_on():
    curation = Chosen((5, 2, 3))
    stream, again = curation.build(6, seed=1), curation.build(6, seed=1)
    drawn = [sorted(stream.draw(3).tolist()) for _ in range(2)]
    assert drawn == [[2, 3, 5]] * 2
    assert curation.least(6) == 1
    again.load_state_dict(copy.deepcopy(stream.state_dict()))
    assert again.draw(2).tolist() == stream.draw(2).tolist()


@pytest.mark.parametrize("places", [(), (6,), (-1, 2)])
def test_prompts_that_are_not_there(places):
    with pytest.raises(FewerError, match="places lie in 0 to 5"):
        Chosen(places).build(6, seed=0)


def test_a_curation_of_ones_own_must_build_something():
    class Empty(Curation):
        pass

    with pytest.raises(TypeError, match="build"):
        Empty()  # pyright: ignore[reportAbstractUsage]
