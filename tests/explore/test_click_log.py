from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.click_log import CascadeRecommender, clicks, read_click_log, wilson
from fewer.explore.recommending import Recommendation, cascade


def as_log(world, played):
    """Sessions as rows of a log."""
    rows = []
    for session in range(len(played.states)):
        for step in range(world.horizon):
            for position, item in enumerate(played.lists[session, step]):
                if item >= 0:
                    click = int(played.clicks[session, step] == position)
                    rows.append(
                        (
                            session,
                            f"s{played.states[session, step]}",
                            position + 1,
                            f"i{item}",
                            click,
                            world.pays[played.states[session, step], item],
                        )
                    )
    return pd.DataFrame(rows, columns=["session", "state", "position", "item", "clicked", "reward"])


@pytest.fixture(scope="module")
def world():
    return cascade(states=3, items=4, length=3, horizon=3, seed=5)


@pytest.fixture(scope="module")
def log(world):
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(4)[:3] for _ in range(3000 * 9)]).reshape(3000, 3, 3, 3)
    return as_log(world, world.session(lists, rng))


def test_a_long_log_gives_back_the_world_it_came_from(world, log):
    read = read_click_log(log)
    assert read.states.tolist() == ["s0", "s1", "s2"]
    assert read.items.tolist() == ["i0", "i1", "i2", "i3"]
    assert (read.lists, read.length) == (3, 3)
    np.testing.assert_allclose(read.pays, world.pays)
    often = read.examined > 300
    assert often.any()
    np.testing.assert_allclose(read.attraction()[often], world.attracts[often], atol=0.08)
    steps = read.next.sum(axis=2)
    np.testing.assert_allclose(read.following()[steps > 300], world.next[steps > 300], atol=0.08)
    assert read.first.tolist() == [3000, 0, 0]


def test_a_log_is_a_world_to_learn_in(world, log, tmp_path):
    log.to_csv(tmp_path / "log.csv", index=False)
    log.to_parquet(tmp_path / "log.parquet")
    made = compose.task(f"clicks('{tmp_path / 'log.csv'}')")
    assert (made.states, made.items, made.horizon, made.length) == (3, 4, 3, 3)
    assert made.optimum == pytest.approx(world.optimum, rel=0.1)
    assert clicks(str(tmp_path / "log.parquet")).optimum == pytest.approx(made.optimum)
    assert clicks(str(tmp_path / "log.csv"), length=1, horizon=2).best()[1].shape == (2, 3, 1)
    assert Recommendation(copies=2, points=1).learn(made, 20).curve.points[-1].spent == 20


def test_a_recommender_finds_the_best_lists_of_the_world(world, log):
    fitted = CascadeRecommender().fit(log)
    number = {name: at for at, name in enumerate(fitted.items_)}
    policy = np.full((1, 3, 3, 3), -1)
    for step in range(3):
        for state in range(3):
            shown = fitted.recommend(f"s{state}", left=3 - step)
            policy[0, step, state, : len(shown)] = [number[item] for item in shown]
    assert world.value(policy)[0] > 0.97 * world.optimum
    inside = (fitted.low_.to_numpy() <= world.attracts) & (world.attracts <= fitted.high_.to_numpy())
    assert inside.mean() >= 0.75
    assert fitted.attraction_.loc["s0", "i1"] == pytest.approx(world.attracts[0, 1], abs=0.1)


def test_what_follows_a_click_was_not_looked_at():
    frame = pd.DataFrame(
        [(1, "s", 1, "a", 1), (1, "s", 2, "b", 0), (1, "t", 1, "b", 0), (2, "s", 1, "b", 0), (2, "s", 2, "a", 0)],
        columns=["session", "state", "position", "item", "clicked"],
    )
    read = read_click_log(frame)
    assert read.examined.tolist() == [[2, 1], [0, 1]]
    assert read.attracted.tolist() == [[1, 0], [0, 0]]
    assert read.next[0, 0].tolist() == [0, 1], "a click on a in s led to t"
    assert read.next.sum() == 1, "what follows the last list of a session is not known"
    assert read.first.tolist() == [2, 0]


BASE = pd.DataFrame({"session": [1, 1], "state": ["s", "s"], "position": [1, 2], "item": ["a", "b"], "clicked": [0, 1]})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (BASE.drop(columns="clicked"), "no column 'clicked'"),
        (BASE.iloc[:0], "there is no row"),
        (
            BASE.assign(clicked=[1, 1]),
            r"begins in data row 1 \(session 1\) has 2 clicks; whoever clicks looks no further",
        ),
        (BASE.assign(clicked=[0, 2]), "clicked is .*2.* in data row 2; write 0 or 1"),
        (BASE.assign(item=["a", "a"]), "data row 2 shows 'a' again in the same list"),
        (BASE.assign(position=["first", "2"]), "position is 'first' in data row 1"),
        (BASE.assign(item=["a", None]), "data row 2 has a gap"),
        (BASE.assign(reward=[0.5, 3.0]), r"reward is .*3\.0.* in data row 2; give numbers in \[0, 1\]"),
    ],
)
def test_a_log_that_cannot_be_is_refused_with_its_place(frame, message):
    with pytest.raises(FewerError, match=message):
        read_click_log(frame)


def test_other_errors(tmp_path, log):
    with pytest.raises(FewerError, match="cannot be read"):
        read_click_log(tmp_path / "none.csv")
    with pytest.raises(FewerError, match="fit it to a click log first"):
        CascadeRecommender().recommend("s")
    with pytest.raises(FewerError, match="must be at least 1"):
        CascadeRecommender(length=0).fit(log)
    fitted = CascadeRecommender().fit(log)
    with pytest.raises(FewerError, match="no state 's9' in the log; did you mean s"):
        fitted.recommend("s9")
    with pytest.raises(FewerError, match="left is 4; give 1 to 3"):
        fitted.recommend("s0", left=4)


def test_intervals_of_shares_cover_as_they_say():
    rng = np.random.default_rng(0)
    share = rng.random(4000)
    low, high = wilson(rng.binomial(30, share), np.full(4000, 30))
    assert np.mean((low <= share) & (share <= high)) == pytest.approx(0.95, abs=0.015)
    low, high = wilson(np.array([0]), np.array([0]))
    assert (low.item(), high.item()) == (0, 1)
