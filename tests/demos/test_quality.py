"""The measures of the paper: closed forms, what they must not depend on, the bound, and what is said of odd data."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos import quality as module
from fewer.demos.behaviour_cloning import BehaviourCloning
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.loop import Lesson
from fewer.demos.point_worlds import Obstacle, TwoGates
from fewer.demos.quality import KeepConsistent, held_out_error, quality_report, remaining
from fewer.demos.rollouts import collect, join


def made(act, episodes=20, length=40, seed=0, name="toy"):
    """Episodes that pass the same places, at random within [-1, 1]^2; ``act(states, episode, rng)`` gives actions."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, size=(episodes * length, 2))
    episode = np.repeat(np.arange(episodes), length)
    return Demonstrations(states, act(states, episode, rng), np.arange(0, len(states) + 1, length), name=name)


def first(given, **options):
    return quality_report(given, **options).sets[0]


LINEAR = np.array([[1.0, 0.3], [-0.2, 0.8]])


def linear(states, episode, rng):
    return states @ LINEAR


# --- action variance -------------------------------------------------------------------------------------------------


def test_a_deterministic_linear_policy_has_no_variance_as_eps_shrinks():
    given = made(linear, episodes=40, length=100)
    found = [first(given, eps=eps, standardise=False).metrics["action variance"] for eps in (0.4, 0.2, 0.1)]
    assert found[0] > found[1] > found[2]
    # by the slope, the variance falls with the square of eps
    assert found[1] / found[2] == pytest.approx(4, rel=0.35)
    assert found[2] < 0.01


def test_independent_noise_has_its_own_variance():
    given = made(lambda states, episode, rng: 0.3 * rng.normal(size=(len(states), 2)), episodes=50, length=60)
    found = first(given, eps=0.5, standardise=False)
    assert found.metrics["action variance"] == pytest.approx(2 * 0.3**2, rel=0.05)
    assert found.metrics["between episodes"] < 0.01


def test_two_ways_at_equal_states_have_variance_one():
    """Sides of +1 and -1, half of the episodes each, at two places."""
    episodes = 200
    states = np.tile([[0.0], [1.0]], (episodes, 1)) + 1e-4 * np.random.default_rng(0).normal(size=(2 * episodes, 1))
    side = np.repeat(np.where(np.arange(episodes) % 2, 1.0, -1.0), 2)[:, None]
    given = Demonstrations(states, side, np.arange(0, 2 * episodes + 1, 2))
    found = first(given, eps=0.1)
    assert found.metrics["action variance"] == pytest.approx(1, rel=0.02)
    assert found.metrics["coverage"] == 1
    assert found.metrics["state similarity"] == pytest.approx(0.5, rel=0.01)


def test_an_episode_agrees_with_itself_and_is_left_out():
    given = made(lambda states, episode, rng: rng.normal(size=20)[episode][:, None])
    apart, together = (first(given, eps=0.5, leave_out=out).metrics["action variance"] for out in (True, False))
    assert apart > 1.02 * together
    assert first(given).metrics["between episodes"] == pytest.approx(1, rel=0.1)


def test_cells_in_place_of_a_radius():
    given = made(lambda states, episode, rng: 0.3 * rng.normal(size=(len(states), 2)), episodes=50, length=60)
    report = quality_report(given, cells=20, standardise=False)
    assert report.eps is None
    assert report.sets[0].metrics["action variance"] == pytest.approx(2 * 0.3**2, rel=0.05)
    assert report.sets[0].metrics["state similarity"] == pytest.approx(1 / 20, rel=0.3)


# --- what must not matter --------------------------------------------------------------------------------------------

SAME = ("action variance", "between episodes", "state similarity", "similarity across episodes", "transition diversity")


def assert_same(one, two, names=SAME, rel=1e-6):
    for name in names:
        assert one.metrics[name] == pytest.approx(two.metrics[name], rel=rel), name


@pytest.fixture(scope="module")
def gates():
    world = TwoGates(0.3)
    return collect(world.play(30), world.expert(), 20, seed=0).demonstrations


def test_the_order_of_episodes_does_not_matter(gates):
    order = np.random.default_rng(0).permutation(len(gates))
    one, two = first(gates), first(gates.keep(order))
    assert_same(one, two)
    for name, values in one.episodes.items():
        np.testing.assert_allclose(values[order], two.episodes[name], rtol=1e-6)


def test_units_do_not_matter_where_everything_is_standardised(gates):
    factor, shift = np.array([100.0, 0.01, 3.0, 1.0]), np.array([5.0, -3.0, 0.0, 1.0])
    other = Demonstrations(
        gates.observations.astype(float) * factor + shift,
        gates.actions.astype(float) * [7.0, 0.1],
        gates.offsets,
        gates.final_observations.astype(float) * factor + shift,
    )
    double = Demonstrations(
        gates.observations.astype(float),
        gates.actions.astype(float),
        gates.offsets,
        gates.final_observations.astype(float),
    )
    one, two = first(double), first(other)
    assert_same(one, two, rel=1e-4)
    np.testing.assert_allclose(two.transition_variance, one.transition_variance * factor**2, rtol=1e-3)


def test_copies_leave_the_variance_and_raise_similarity(gates):
    one, two = first(gates), first(gates.keep([*range(len(gates)), 3, 3]))
    assert_same(one, two, ("action variance", "between episodes", "transition diversity"))
    of_three = [each.episodes["similarity across episodes"][3] for each in (one, two)]
    assert of_three[1] > 1.1 * of_three[0]
    twice = first(gates.keep([*range(len(gates))] * 2))
    assert_same(one, twice, ("action variance", "between episodes", "transition diversity"))
    assert twice.metrics["similarity across episodes"] > one.metrics["similarity across episodes"]
    assert two.metrics["episodes"] == 22
    assert two.episodes["action variance"][20] == two.episodes["action variance"][3]
    assert any("2 of the episodes are copies of others" in note for note in two.notes)


def test_similarity_with_copies_is_that_of_the_states_written_out(gates):
    given = gates.keep([0, 1, 2, 2])
    report = quality_report(given)
    states = (given.observations - (base := gates.keep([0, 1, 2]).observations.astype(float)).mean(axis=0)) / base.std(
        axis=0
    )
    near = ((states[:, None] - states[None]) ** 2).sum(axis=-1) <= report.eps**2
    episode, count = given.episode_of_step(), given.steps
    share = (near.sum(axis=1) - 1) / (count - 1)
    foreign = episode[:, None] != episode
    across = (near & foreign).sum(axis=1) / foreign.sum(axis=1)
    found = report.sets[0]
    assert found.metrics["state similarity"] == pytest.approx(share.mean(), rel=1e-6)
    assert found.metrics["similarity across episodes"] == pytest.approx(across.mean(), rel=1e-6)


def test_a_part_of_the_states_tells_what_all_do():
    world = Obstacle(0.3, below=0.5)
    given = collect(world.play(100), world.expert(), 100, seed=0).demonstrations
    eps = quality_report(given).eps
    whole, part = first(given, eps=eps), first(given, eps=eps, limit=2500)
    assert part.metrics["steps"] == whole.metrics["steps"]
    assert_same(whole, part, [name for name in SAME if name != "between episodes"], rel=0.2)
    # that one is of fewer episodes, not of fewer states of each
    assert part.metrics["between episodes"] == pytest.approx(whole.metrics["between episodes"], rel=0.5)


def test_a_part_of_the_states_tells_who_is_noisy():
    world = Obstacle(0.3)
    calm, noisy = (
        collect(world.play(50), world.expert(), 50, seed=0, policy_noise=noise).demonstrations for noise in (0.0, 0.5)
    )
    found = first(join([calm, noisy], "both"), limit=2500)
    assert found.ranking()[:45].min() >= 50


# --- transition diversity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.2, 0.4])
@pytest.mark.parametrize("final", [True, False])
def test_the_simulators_noise_is_recovered(sigma, final):
    world = TwoGates(sigma)
    given = collect(world.play(50), world.expert(), 50, seed=0).demonstrations
    if not final:
        given = Demonstrations(given.observations, given.actions, given.offsets)
    found = first(given)
    # of the velocities; positions move by 0.05 of them
    np.testing.assert_allclose(found.transition_variance[2:], (0.1 * sigma) ** 2, rtol=0.15)
    np.testing.assert_allclose(found.transition_variance[:2], (0.005 * sigma) ** 2, rtol=0.15)
    share = found.transition_variance / given.observations.var(axis=0)
    assert found.metrics["transition diversity"] == pytest.approx(share.mean(), rel=1e-3)


# --- two sets --------------------------------------------------------------------------------------------------------


def test_two_sets_are_seen_through_one_radius_and_in_one_unit():
    above, both = (
        collect(Obstacle(below=below).play(30), Obstacle(below=below).expert(), 30, seed=0).demonstrations
        for below in (0.0, 0.5)
    )
    report = quality_report(above, both)
    assert report.sets[0].metrics["between episodes"] < 0.05 < report.sets[1].metrics["between episodes"]
    assert report.sets[1].metrics["state similarity"] < report.sets[0].metrics["state similarity"]
    twice = quality_report(above, above)
    assert_same(*twice.sets)
    assert report.eps > 0
    turned = quality_report(both, above)
    assert turned.eps == pytest.approx(report.eps)
    assert_same(turned.sets[1], report.sets[0], ("action variance", "state similarity"), rel=1e-6)
    with pytest.raises(FewerError, match="have observations of different shapes"):
        quality_report(above, made(linear))


# --- action divergence and the bound ---------------------------------------------------------------------------------


class Constant:
    """Clones the mean action of what it is shown."""

    def imitate(self, lesson):
        self.shown = lesson.demonstrations
        mean = lesson.demonstrations.actions.mean(axis=0)

        class Mean:
            def begin(self, copies, rng):
                self.copies = copies

            def act(self, observations):
                return np.broadcast_to(mean, (self.copies, *mean.shape))

        return Mean()


def test_a_clone_is_measured_where_it_was_not_shown():
    given = made(lambda states, episode, rng: episode[:, None].astype(float), episodes=4, length=3)
    imitator = Constant()
    error = held_out_error(given, imitator, folds=4)
    for episode in range(4):
        rest = np.mean([e for e in range(4) if e != episode])
        np.testing.assert_allclose(error[given.episode_of_step() == episode], rest - episode)
    assert len(imitator.shown) == 3
    with pytest.raises(FewerError, match="4 episodes cannot be dealt into 5 parts"):
        held_out_error(given, imitator, folds=5)


def test_divergence_weighs_what_is_early_and_is_in_standardised_units():
    given = made(lambda states, episode, rng: 10.0 * rng.normal(size=(len(states), 1)), episodes=10)
    found = first(given, imitator=Constant())
    assert found.metrics["action divergence"] == pytest.approx(1, rel=0.05)
    expected = (remaining(given.lengths) / 40).reshape(10, 40).sum(axis=1).mean()
    assert found.metrics["action divergence over time"] == pytest.approx(expected, rel=0.1)
    clone = first(made(linear), imitator=BehaviourCloning(steps=600))
    assert clone.metrics["action divergence"] < 0.05
    assert clone.episodes["action divergence"].shape == (20,)
    assert np.isnan(first(made(linear, episodes=1), imitator=Constant()).metrics["action divergence"])


def test_an_imitator_that_needs_the_world_is_refused():
    class Acts:
        def imitate(self, lesson):
            return lesson.play(3)

    with pytest.raises(FewerError, match="measured without an environment"):
        held_out_error(made(linear), Acts())


def test_the_weights_make_a_bound_of_the_divergence_of_visited_states():
    """On random chains of three states and two actions: KL(rho_A, rho_E) <= 1/T sum (T - t) E KL(pi_A, pi_E)."""
    rng, T = np.random.default_rng(0), 6
    weights = remaining(np.array([T]))
    slack = []
    for _ in range(200):
        P = rng.dirichlet(np.ones(3), size=(3, 2))
        start = rng.dirichlet(np.ones(3))
        policies = rng.dirichlet(np.ones(2) * 0.5, size=(2, 3)) * 0.98 + 0.01
        visited = []
        for policy in policies:
            at, path = start, []
            for _ in range(T):
                path.append(at)
                at = np.einsum("s,sa,sap->p", at, policy, P)
            visited.append(np.array(path))
        rho_a, rho_e = (each.mean(axis=0) for each in visited)
        left = (rho_a * np.log(rho_a / rho_e)).sum()
        divergence = (policies[0] * np.log(policies[0] / policies[1])).sum(axis=1)
        right = (weights * (visited[0] @ divergence)).sum() / T
        slack.append(right - left)
    assert min(slack) >= -1e-12
    assert weights.tolist() == [5, 4, 3, 2, 1, 0]


# --- odd data --------------------------------------------------------------------------------------------------------


def test_one_episode_compares_with_nobody_and_the_report_says_so():
    found = first(made(linear, episodes=1))
    for name in ("action variance", "between episodes", "state similarity", "similarity across episodes"):
        assert np.isnan(found.metrics[name])
    assert found.metrics["horizon"] == 40
    assert "there is one episode: what compares episodes is unknown" in found.notes
    assert np.isfinite(found.metrics["transition diversity"])
    given = first(made(linear, episodes=1), eps=0.5)
    assert np.isnan(given.metrics["action variance"])
    assert given.metrics["state similarity"] > 0


def test_what_never_changes_is_left_out_and_named():
    given = made(linear)
    still = Demonstrations(
        np.concatenate([given.observations, np.full((given.steps, 1), 7.0)], axis=1),
        np.concatenate([np.zeros((given.steps, 1)), given.actions], axis=1),
        given.offsets,
    )
    one, two = first(given), first(still)
    assert_same(one, two)
    assert "observation dimension 2 never changes and is left out" in two.notes
    assert "action dimension 0 never changes and is left out" in two.notes
    assert len(two.transition_variance) == 2


def test_where_no_observation_changes_all_states_are_neighbours():
    rng = np.random.default_rng(0)
    found = first(Demonstrations(np.zeros((400, 2)), rng.normal(size=(400, 1)), np.arange(0, 401, 20)))
    assert found.metrics["action variance"] == pytest.approx(1, rel=0.1)
    assert found.metrics["state similarity"] == 1
    assert np.isnan(found.metrics["transition diversity"])
    nothing = first(Demonstrations(np.zeros((40, 2)), np.zeros((40, 1)), [0, 20, 40]))
    assert np.isnan(nothing.metrics["action variance"])  # one episode and its copy
    assert "there is one episode: what compares episodes is unknown" in nothing.notes


def test_episodes_of_one_step_and_few_transitions():
    found = first(Demonstrations(np.arange(5.0)[:, None], np.ones((5, 1)), np.arange(6)))
    assert "there are too few transitions to know their diversity" in found.notes
    assert np.isnan(found.metrics["transition diversity"])
    assert np.isnan(found.metrics["between episodes"])


def test_states_far_from_all_others_are_told():
    given = made(linear, episodes=3)
    far = Demonstrations(given.observations + 10 * given.episode_of_step()[:, None], given.actions, given.offsets)
    assert any("of the states have no neighbour in another episode" in note for note in first(far, eps=0.1).notes)


def test_numbered_actions_are_compared_as_equal_or_not():
    steps = made(linear)
    given = Demonstrations(steps.observations, np.random.default_rng(0).integers(2, size=steps.steps), steps.offsets)
    found = first(given, standardise=False, eps=0.5)
    assert found.metrics["action variance"] == pytest.approx(0.5, rel=0.1)
    ones = Demonstrations(steps.observations, np.ones(steps.steps, int), steps.offsets)
    assert quality_report(given, ones).sets[1].metrics["action variance"] == pytest.approx(0, abs=1e-12)


def test_success_and_failure_have_lengths_of_their_own():
    given = Demonstrations(np.arange(6.0)[:, None], np.ones((6, 1)), [0, 1, 3, 6], successes=[True, False, True])
    found = first(given)
    assert found.metrics["success rate"] == pytest.approx(2 / 3)
    assert (found.metrics["horizon"], found.metrics["horizon of successes"]) == (2, 2)
    assert np.isnan(first(given.keep([1])).metrics["horizon of successes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "and eps above 0; given 50000, 20, None and 0"),
        ({"eps": float("nan")}, "eps above 0"),
        ({"neighbours": 0}, "given 50000, 0, None and None"),
        ({"cells": 0}, "given 50000, 20, 0 and None"),
        ({"limit": 1}, "limit must be at least 2"),
        ({"cells": 10_000}, "10000 cells were asked for and there are 800 states"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options, message):
    with pytest.raises(FewerError, match=message):
        quality_report(made(linear), **options)


# --- choosing --------------------------------------------------------------------------------------------------------


def lesson(given):
    return Lesson(given, -np.ones(2), np.ones(2), None, 0, np.random.default_rng(0))


def test_the_few_that_do_otherwise_are_dropped():
    others = {3, 8, 11}
    given = made(
        lambda states, episode, rng: (
            np.where(np.isin(episode, list(others)), -1.0, 1.0)[:, None] * np.ones((1, 2))
            + 0.1 * rng.normal(size=(len(states), 2))
        )
    )
    made_lesson = lesson(given)
    kept = KeepConsistent(0.8).choose(made_lesson)
    assert len(kept) == 16
    assert not others & set(kept.tolist())
    assert made_lesson.report["between episodes"] > 0.5
    assert set(first(given).stand_out().tolist()) == others


def test_other_measures_choose_otherwise(gates):
    shortest = KeepConsistent(0.25, by="horizon").choose(lesson(gates))
    assert gates.lengths[shortest].max() <= np.sort(gates.lengths)[4]
    assert len(KeepConsistent(0.25, by="transition_diversity").choose(lesson(gates))) == 5


def test_a_choice_that_cannot_be_is_one_clear_line():
    with pytest.raises(FewerError, match="demo-quality: frac is 0"):
        KeepConsistent(0)
    with pytest.raises(FewerError, match="unknown measure 'variance'; did you mean action variance"):
        KeepConsistent(by="variance")


def test_the_report_of_many_states_looks_at_no_more_than_the_limit(monkeypatch):
    seen = []
    real = module.within

    def watched(radius, states, *rest):
        seen.append(len(states))
        return real(radius, states, *rest)

    monkeypatch.setattr(module, "within", watched)
    quality_report(made(linear, episodes=50, length=100), limit=1000)
    assert seen[0] <= 1000
