from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.cascading import CascadingVI, ListVI
from fewer.explore.ordered_lists import all_lists
from fewer.explore.recommending import CascadingMDP, Recommendation, cascade


def test_the_optimum_is_the_best_of_all_policies():
    """Against value iteration over every list as an action of its own."""
    world = cascade(states=3, items=4, length=2, horizon=3, seed=1)
    lists = all_lists(4, 2)
    values = np.zeros(3)
    for _ in range(3):
        of_lists = np.empty((3, len(lists)))
        for state in range(3):
            for number, chosen in enumerate(lists):
                unclicked, worth = 1.0, 0.0
                for item in chosen[chosen >= 0]:
                    after = world.pays[state, item] + world.next[state, item] @ values
                    worth += unclicked * world.attracts[state, item] * after
                    unclicked *= 1 - world.attracts[state, item]
                of_lists[state, number] = worth + unclicked * world.next[state, 4] @ values
        values = of_lists.max(axis=1)
    assert world.optimum == pytest.approx(values[0])
    _, best = world.best()
    assert world.value(best[None])[0] == pytest.approx(world.optimum)


def test_sessions_pay_on_average_what_the_policy_is_worth():
    world, rng = cascade(states=3, items=5, length=3, horizon=4, seed=2), np.random.default_rng(0)
    lists = np.stack([rng.permutation(5)[:3] for _ in range(12)]).reshape(1, 4, 3, 3)
    lists[0, 1, :, 2] = -1
    copies = 30_000
    played = world.session(np.repeat(lists, copies, axis=0), rng)
    item = np.take_along_axis(played.lists, np.maximum(played.clicks, 0)[..., None], axis=-1)[..., 0]
    reward = np.where(played.clicks >= 0, world.pays[played.states[:, :-1], item], 0).sum(axis=1)
    assert reward.mean() == pytest.approx(world.value(lists)[0], abs=4 * reward.std() / np.sqrt(copies))
    assert (played.clicks[:, 1] < 2).all(), "a list of two has no third position"
    # the first attracted item is clicked: shares of clicks in the first list
    u = world.attracts[0, lists[0, 0, 0]]
    expected = [u[0], (1 - u[0]) * u[1], (1 - u[0]) * (1 - u[1]) * u[2]]
    shares = [np.mean(played.clicks[:, 0] == position) for position in range(3)]
    assert shares == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("recommender", [CascadingVI(0.05), CascadingVI(0.05, replan=1.3), ListVI(0.05)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, recommender):
    world, loop = cascade(states=2, items=4, length=2), Recommendation(recommender, copies=2, points=4)
    whole = [(point.spent, point.score) for point in loop.run(world, 40, 3)]
    run = loop.run(world, 40, 3, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [(point.spent, point.score) for point in loop.run(world, 40, 3, checkpoint=tmp_path / "state")]
    assert again == whole
    assert [spent for spent, _ in whole] == [10, 20, 30, 40]


def test_regret_is_what_each_list_gives_away():
    world = cascade(states=3, items=4, length=2)
    points = list(Recommendation(CascadingVI(0.05), copies=3, points=5).run(world, 50, 0))
    regret = np.diff([0, *(point.extras["regret"] for point in points)])
    assert regret == pytest.approx([10 * (world.optimum - point.score) for point in points])
    assert (regret >= -1e-9).all()


def test_it_is_named_in_the_catalogue():
    made = compose.loop("list-ucbvi(scale=0.1) + recommendation(copies=3)")
    assert made == Recommendation(ListVI(0.1), copies=3)
    assert compose.loop("cascading(scale=0.1)").recommender == CascadingVI(0.1)
    assert compose.task("cascade(items=5)").items == 5


GOOD = {
    "attracts": np.full((1, 2), 0.5),
    "next": np.ones((1, 3, 1)),
    "pays": np.full((1, 2), 0.5),
    "horizon": 1,
    "length": 2,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next": np.ones((1, 2, 1))}, r"next must be \(1, 3, 1\)"),
        ({"attracts": np.array([[0.5, 1.5]])}, r"attracts\[0, 1\] is 1.5"),
        ({"pays": np.array([[-1.0, 0.5]])}, r"pays\[0, 0\] is -1"),
        ({"pays": np.array([[np.nan, 0.5]])}, r"pays\[0, 0\] is nan"),
        ({"next": np.full((1, 3, 1), 0.9)}, r"next\[0, 0\] is no distribution \(its sum is 0.9\)"),
        ({"horizon": 0}, "horizon and length must be at least 1"),
        ({"start": 3}, "start a state; given 1, 2 and 3"),
    ],
)
def test_what_is_no_world_is_said_with_its_place(changes, message):
    with pytest.raises(FewerError, match=message):
        CascadingMDP(**{"name": "toy", **GOOD, **changes})


def test_sizes_that_do_not_do():
    with pytest.raises(FewerError, match="cascade: sizes must be at least 1"):
        cascade(items=0)
    with pytest.raises(FewerError, match="copies and points must be at least 1"):
        Recommendation(points=0)
