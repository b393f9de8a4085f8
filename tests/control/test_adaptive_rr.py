"""The switch on sequences, in runs against fixed ratios, resumed, and beside other papers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.control.toys import target

from fewer import catalogue, compose
from fewer.control import adaptive_rr
from fewer.control.activity import FAUMonitor
from fewer.control.adaptive_rr import AdaptiveRR
from fewer.control.baselines import rlpd, sac, td3
from fewer.control.critics import Critics
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.policies import Gaussian
from fewer.core.errors import FewerError

SMALL = {"batch": 8, "learning_starts": 5, "episodes": 1}


def looped(ratio, points=4, **settings):
    return OffPolicy(**sac(hidden=(8, 8), lr=1e-2), ratio=ratio, points=points, **SMALL | settings)


def through(loop, budget, task=None, seed=0):
    """The state at the end of a run."""
    box = {}
    points = list(loop._points(task or target(steps=3), budget, seed, None, box))
    return box["state"], points


def test_a_tolerance_that_nothing_meets_is_the_low_ratio():
    adaptive, points = through(looped(AdaptiveRR(0.5, 4, every_episodes=2, tol=1e-300)), 60)
    static, other = through(looped(FixedRatio(0.5)), 60)
    assert [point.score for point in points] == pytest.approx([point.score for point in other], abs=1e-4)
    for one, two in zip(adaptive.critic.parameters(), static.critic.parameters(), strict=True):
        # layers that are watched are computed one by one, which rounds otherwise
        assert torch.allclose(one, two, atol=1e-5)
    assert adaptive.schedule.switched_at is None
    assert points[-1].extras["replay_ratio"] == 0.5
    assert points[-1].extras["switched_at"] == -1


def test_an_infinite_tolerance_switches_at_the_first_look():
    state, points = through(looped(AdaptiveRR(0.5, 4, every_episodes=2, tol=math.inf)), 60)
    assert len(state.schedule.looks) > 2
    assert state.schedule.switched_at == state.schedule.looks[0][0]
    assert [ratio for _, _, ratio in state.schedule.looks] == [4] * len(state.schedule.looks)
    assert points[-1].extras["replay_ratio"] == 4
    # learning starts after step 5; the low ratio holds until the switch, and that step is learned from at the high one
    low = state.schedule.switched_at - 1 - 5
    assert state.updates == math.floor(low * 0.5 + (60 - 5 - low) * 4)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0, 1.7, 3.0])
def test_no_update_is_skipped_or_made_twice(ratio):
    state, _ = through(looped(AdaptiveRR(ratio, ratio, every_episodes=1000)), 40)
    assert state.updates in (math.floor(35 * ratio), math.floor(35 * ratio) + 1)


def test_looks_are_averages_of_the_batches_since_the_last_one():
    """Counted a second time, by hooks of our own on every pass of the critic that learns."""
    loop = looped(AdaptiveRR(1, 1, every_episodes=3, tol=1e-9))
    torch.manual_seed(0)
    state = loop.start(target(steps=3), 60, 0)
    monitor, shares, firsts = FAUMonitor(state.critic), [], []
    watch = state.schedule.watch

    class Both:
        def __enter__(self):
            self.inner = watch()
            self.inner.__enter__()
            monitor.__enter__()

        def __exit__(self, *error):
            monitor.__exit__(*error)
            if not firsts:
                firsts.append(monitor.average())
            return self.inner.__exit__(*error)

    state.schedule.watch = Both
    looks = state.schedule._look

    def look(*given):
        shares.append(monitor.average())
        monitor.reset()
        looks(*given)

    state.schedule._look = look
    loop.advance(state)
    loop.advance(state)
    assert shares
    assert [share for _, share, _ in state.schedule.looks] == shares
    assert state.schedule.first == firsts[0]


def test_episodes_are_counted_from_the_first_update_on():
    state, _ = through(looped(AdaptiveRR(1, 2, every_episodes=4, tol=1e-9), learning_starts=20), 60)
    # episodes of three steps: seven are over at the first update, in step 21, and the fourth after them ends in step 33
    assert state.schedule.looks[0][0] == 33


@pytest.mark.parametrize("tol", [1e-9, math.inf, 0.02])
def test_a_resumed_run_equals_an_uninterrupted_one(tol, tmp_path):
    loop = looped(AdaptiveRR(0.5, 3, every_episodes=3, tol=tol), points=6)

    def numbers(points):
        kept = ("critic_loss", "updates", "replay_ratio", "switched_at", "active_units")
        return [(p.spent, p.score, *(p.extras[name] for name in kept)) for p in points]

    whole = numbers(loop.run(target(steps=3), 61, 2))
    for stop in (1, 3):
        file = tmp_path / f"state{stop}"
        run = loop.run(target(steps=3), 61, 2, checkpoint=file)
        for _ in range(stop):
            next(run)
        run.close()
        assert numbers(loop.run(target(steps=3), 61, 2, checkpoint=file)) == whole


def test_a_window_without_an_update_is_an_error():
    with pytest.raises(
        FewerError, match=r"no update was made in the 1 episodes before step .*raise low or every_episodes"
    ):
        through(looped(AdaptiveRR(0.1, 1, every_episodes=1)), 60, task=target(steps=1))


def test_a_critic_without_rectified_units_is_refused():
    loop = OffPolicy(Gaussian((4,)), Critics(hidden=(4,), activation="tanh"), ratio=AdaptiveRR())
    with pytest.raises(FewerError, match="has no ReLU or ReLU6 module"):
        loop.learn(target(), 10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 3, "high": 2}, "low is 3 and high 2"),
        ({"low": 0}, "give 0 < low <= high"),
        ({"high": math.inf}, "give 0 < low <= high"),
        ({"tol": 0}, "tol is 0"),
        ({"tol": math.nan}, "tol is nan"),
        ({"every_episodes": 0}, "every_episodes is 0"),
    ],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(FewerError, match=message):
        AdaptiveRR(**given)


def test_beside_others_it_takes_the_ratio():
    assert compose.loop("sac + adaptive-rr").ratio == AdaptiveRR(0.5, 2, 50, 1e-3)
    made = compose.loop("rlpd + adaptive-rr(low=1, high=4)")
    assert made.ratio == AdaptiveRR(1, 4)
    assert made.critic == rlpd()["critic"]
    assert made.policy.delay == 1  # the policy learns with the critic where no one says how often that is
    assert compose.loop("rlpd").ratio == FixedRatio(20)
    assert compose.loop("adaptive-rr + rlpd") == compose.loop("rlpd + adaptive-rr")
    with pytest.raises(FewerError, match="both fill the slot ratio"):
        compose.loop("rlpd(ratio=4) + adaptive-rr")
    with pytest.raises(FewerError, match="both fill the slot ratio"):
        compose.loop("fixed-ratio + adaptive-rr")


@pytest.mark.parametrize("other", ["rlpd", "serl"])
def test_it_runs_in_composition(other):
    if other == "serl" and catalogue.show("serl").fills is None:
        pytest.skip("serl is planned")
    made = compose.loop(f"{other}(hidden=[8, 8]) + adaptive-rr(low=0.5, high=2, every_episodes=1, tol=9.0)")
    loop = replace(made, points=1, **SMALL)
    state, points = through(loop, 200, task=compose.task("dock-2d(demonstrations=4)"))
    assert state.schedule.switched_at is not None
    assert points[-1].extras["replay_ratio"] == 2


# --- what the claims are measured with -----------------------------------------------------------


def test_a_switch_out_of_place_is_noticed():
    state, _ = through(looped(AdaptiveRR(0.5, 4, every_episodes=2, tol=math.inf)), 60)
    found = adaptive_rr._of_the_switch(state.schedule)
    assert found["switches"] == 1
    assert found["switches out of place"] == 0
    schedule = state.schedule
    late = [(spent, share, 0.5 if number < 1 else 4.0) for number, (spent, share, _) in enumerate(schedule.looks)]
    schedule.looks = late
    assert adaptive_rr._of_the_switch(schedule)["switches out of place"] == 1


def test_td3_takes_it_too():
    loop = OffPolicy(**td3(hidden=(8, 8)), ratio=AdaptiveRR(1, 2, every_episodes=2, tol=9.0), points=1, **SMALL)
    assert through(loop, 30)[0].schedule.switched_at is not None
