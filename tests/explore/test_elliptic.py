from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.explore.elliptic import EllipticBonus, ReplayBonus


@given(st.integers(0, 1000), st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_updates_of_any_size_are_the_inverse_of_the_sum(seed, dimensions, sizes):
    rng, bonus = np.random.default_rng(seed), EllipticBonus(dimensions, ridge=0.5, batch=(2,))
    gram = 0.5 * np.broadcast_to(np.eye(dimensions), (2, dimensions, dimensions)).copy()
    for size in sizes:
        phi = rng.normal(size=(2, size, dimensions))
        bonus.update(torch.from_numpy(phi))
        gram += phi.transpose(0, 2, 1) @ phi
    np.testing.assert_allclose(bonus.inverse, np.linalg.inv(gram), rtol=1e-8, atol=1e-10)
    asked = rng.normal(size=(2, 3, dimensions))
    expected = np.sqrt(np.einsum("bid,bde,bie->bi", asked, np.linalg.inv(gram), asked))
    np.testing.assert_allclose(bonus.value(torch.from_numpy(asked)), expected)


def test_one_hot_features_are_counts():
    bonus, seen = EllipticBonus(3), torch.eye(3)[[0, 0, 1, 0]]
    for each in seen:
        bonus.update(each[None])
    np.testing.assert_allclose(bonus.value(torch.eye(3)), [1 / 2, 1 / np.sqrt(2), 1], rtol=1e-6)


def test_it_falls_with_every_visit_and_is_saved():
    bonus, phi = EllipticBonus(4), torch.randn(1, 4)
    values = []
    for _ in range(20):
        values.append(bonus.value(phi).item())
        bonus.update(phi)
    assert (np.diff(values) < 0).all()
    other = EllipticBonus(4)
    other.load_state_dict(bonus.state_dict())
    assert other.value(phi) == bonus.value(phi)


def test_n_step_bonuses_are_discounted_sums_of_what_is_alive():
    replay, phi = ReplayBonus(3, factor=0.7, ridge=2.0), torch.randn(5, 4, 3)
    alive = torch.tensor([[True, True, False, False]] * 5)
    each = 0.7 * phi.norm(dim=-1) / 2**0.5
    np.testing.assert_allclose(replay.n_step(phi, 0.9, alive), each[:, 0] + 0.9 * each[:, 1], rtol=1e-5)
    np.testing.assert_allclose(
        replay.n_step(phi, 0.9), each[:, 0] + 0.9 * each[:, 1] + 0.81 * each[:, 2] + 0.729 * each[:, 3], rtol=1e-5
    )


def test_replayed_frames_count_each_time_or_once():
    phi, places = torch.eye(2).repeat(2, 1)[None], torch.tensor([[0, 1, 0, 1]])
    often, once = ReplayBonus(2, ridge=1.0), ReplayBonus(2, ridge=1.0, once=True)
    for _ in range(3):
        often.update(phi, places)
        once.update(phi, places)
    np.testing.assert_allclose(often.elliptic.inverse, np.eye(2) / 7)
    np.testing.assert_allclose(once.elliptic.inverse, np.eye(2) / 2)
    once.forget(torch.tensor([1, 9]))
    once.update(phi, places)
    np.testing.assert_allclose(once.elliptic.inverse, np.diag([1 / 2, 1 / 3]))
    again = ReplayBonus(2, ridge=1.0, once=True)
    again.load_state_dict(once.state_dict())
    again.update(phi, places)  # all are known
    np.testing.assert_allclose(again.elliptic.inverse, once.elliptic.inverse)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EllipticBonus(0), "dimensions must be at least 1"),
        (lambda: EllipticBonus(2, ridge=0), "ridge positive"),
        (
            lambda: EllipticBonus(2).update(torch.zeros(3, 4)),
            r"features must be \(\*batch, number, 2\); they are \(3, 4\)",
        ),
        (lambda: EllipticBonus(2).value(torch.full((1, 2), torch.nan)), "a feature is NaN or infinite"),
        (lambda: ReplayBonus(2, factor=-1), "factor must not be negative"),
        (lambda: ReplayBonus(2, once=True).update(torch.zeros(1, 1, 2)), "give the place of each"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
