"""Rounds against a plain list that is shuffled and dealt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fewer.tasks.rounds import Rounds


@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 12))
def test_rows_are_dealt_as_from_a_shuffled_list(rows, count, draws):
    rounds, rng, hand = Rounds(rows, np.random.default_rng(0)), np.random.default_rng(0), []
    for _ in range(draws):
        wanted = min(count, rows)
        if len(hand) < wanted:
            hand = rng.permutation(rows).tolist()
        assert rounds.draw(count).tolist() == hand[:wanted]
        assert len(set(hand[:wanted])) == wanted
        hand = hand[wanted:]


def test_a_saved_round_goes_on_where_it_stood():
    first, second = Rounds(10, np.random.default_rng(1)), Rounds(10, np.random.default_rng(2))
    first.draw(3)
    second.load_state_dict(first.state_dict())
    assert second.draw(4).tolist() == first.draw(4).tolist()
