"""The template that every filling of the slot ``pseudo`` must pass, and what each strategy does of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer import catalogue
from fewer.core.errors import FewerError
from fewer.labels.hast import HAST
from fewer.labels.learners import Logistic, mlp
from fewer.labels.loop import PSEUDO, ActiveLearning, Examples, Round
from fewer.labels.queries import Margin
from fewer.labels.self_training import (
    NEST,
    UST,
    VERIPS,
    AcTune,
    Threshold,
    dropout_passes,
    mutual_information,
    neighbour_divergence,
)
from fewer.tasks.classification import Classification


def _fillings():
    """All that fill ``pseudo`` and nothing else, by name."""
    ours = {
        "hast": HAST(),
        "threshold": Threshold(),
        "ust": UST(),
        "verips": VERIPS(),
        "nest": NEST(),
        "actune": AcTune(),
    }
    named = {
        name: catalogue.resolve(part.make)()
        for name, part in catalogue.fillings().items()
        if part.slots == ("pseudo",) and part.make is not None
    }
    return named | ours


FILLINGS = _fillings()
LEARNER = mlp(hidden=(32,), dropout=0.2, steps=60)


def blobs(rows=260, classes=3, seed=0, test=80):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    x = rng.normal(size=(rows, 6)) + 5 * np.eye(6)[y]
    return Classification("blobs", x.astype(np.float32), y, tuple(map(str, range(classes))), test=test)


def fitted_round(learner=LEARNER, labelled=None, seed=0, index=1):
    """A round of a real run, with the model fitted to 20 rows of the pool."""
    split = blobs().split(0)
    labelled = np.arange(20) * 3 if labelled is None else labelled
    round = Round(
        index=index,
        classes=3,
        x=split.x,
        labelled=labelled,
        labels=split.y[labelled],
        unlabelled=np.setdiff1d(np.arange(len(split.x)), labelled),
        rng=np.random.default_rng(7),
        seed=seed,
    )
    round.refit = lambda examples, start: learner.fit(examples, round, start)
    if len(labelled):
        import torch

        torch.manual_seed(0)
        round.model = learner.fit(round.examples, round)
    return round


# --- the template -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILLINGS)
class TestEveryFilling:
    def test_gives_examples_for_rows_that_nobody_labelled(self, name):
        round = fitted_round()
        extra = FILLINGS[name].label(round)
        assert isinstance(extra, Examples)
        assert len(extra) > 0
        assert np.isin(extra.rows, round.unlabelled).all()
        assert len(np.unique(extra.rows)) == len(extra)
        assert (extra.source == PSEUDO).all()
        assert extra.target.shape == (len(extra), 3)
        np.testing.assert_allclose(extra.target.sum(axis=1), 1, atol=1e-5)
        assert (extra.target >= 0).all()
        assert extra.weight.shape == (len(extra),)
        assert np.isfinite(extra.weight).all()
        assert (extra.weight >= 0).all()
        assert extra.weight.dtype == np.float32

    def test_is_mostly_right_where_the_classes_are_far_apart(self, name):
        round = fitted_round()
        extra = FILLINGS[name].label(round)
        assert np.mean(extra.labels == blobs().split(0).y[extra.rows]) > 0.9

    def test_gives_the_same_under_the_same_seed(self, name):
        one, other = (FILLINGS[name].label(fitted_round()) for _ in range(2))
        for mine, theirs in zip(one._arrays, other._arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_leaves_the_queries_and_everybody_elses_draws_as_they_were(self, name):
        import torch

        round = fitted_round()
        before = round.rng.bit_generator.state, torch.get_rng_state(), np.random.get_state()[1].copy()
        proba = round.model.predict_proba(round.x)
        if name not in ("verips", "nest"):  # these fit a network, whose initial weights are drawn
            FILLINGS[name].label(round)
            assert torch.equal(torch.get_rng_state(), before[1])
        else:
            FILLINGS[name].label(round)
        assert round.rng.bit_generator.state == before[0]
        np.testing.assert_array_equal(np.random.get_state()[1], before[2])
        np.testing.assert_array_equal(round.model.predict_proba(round.x), proba)

    def test_gives_none_where_nothing_can_be_accepted(self, name):
        one_class = np.flatnonzero(blobs().split(0).y == 1)[:5]
        assert FILLINGS[name].label(fitted_round(labelled=one_class)) is None
        everything = np.arange(len(blobs().split(0).x))
        assert FILLINGS[name].label(fitted_round(labelled=everything)) is None

    def test_goes_on_to_the_bit_after_a_resume(self, name, tmp_path):
        loop = ActiveLearning(query=Margin(), learner=LEARNER, pseudo=FILLINGS[name])
        whole = [(point.spent, point.score, point.extras["pseudo_labels"]) for point in loop.run(blobs(), 40, 3)]
        file = tmp_path / "run.safetensors"
        points = loop.run(blobs(), 40, 3, checkpoint=file)
        for _ in range(2):
            next(points)
        points.close()
        resumed = [
            (point.spent, point.score, point.extras["pseudo_labels"]) for point in loop.run(blobs(), 40, 3, file)
        ]
        assert resumed == whole
        assert any(count > 0 for _, _, count in whole)


# --- rounds with a view made by hand ------------------------------------------------------------


@dataclass
class Given:
    """A model whose answers are tables over the rows' first feature, a row number."""

    probabilities: np.ndarray
    features: np.ndarray
    drawn: np.ndarray | None = None
    seeds: list = field(default_factory=list)

    def predict_proba(self, x):
        return self.probabilities[x[:, 0].astype(int)]

    def embed(self, x):
        return self.features[x[:, 0].astype(int)]

    def sample_proba(self, x, passes, seed):
        self.seeds.append(seed)
        return self.drawn[:passes, x[:, 0].astype(int)]


def given_round(probabilities, labelled, labels, features=None, drawn=None, refit=None, seed=0):
    probabilities = np.asarray(probabilities, dtype=np.float32)
    rows = np.arange(len(probabilities))
    features = np.ones((len(rows), 2)) if features is None else np.asarray(features, dtype=np.float32)
    labelled = np.asarray(labelled)
    return Round(
        index=0,
        classes=probabilities.shape[1],
        x=rows[:, None].astype(np.float32),
        labelled=labelled,
        labels=np.asarray(labels),
        unlabelled=np.setdiff1d(rows, labelled),
        rng=np.random.default_rng(0),
        seed=seed,
        model=Given(probabilities, features, drawn),
        refit=refit,
    )


SURE = [[0.95, 0.05], [0.05, 0.95], [0.92, 0.08], [0.9, 0.1], [0.3, 0.7], [0.05, 0.95]]


def test_threshold_must_be_exceeded():
    extra = Threshold().label(given_round(SURE, [0, 1], [0, 1]))
    assert extra.rows.tolist() == [2, 5]
    assert extra.labels.tolist() == [0, 1]
    assert extra.weight.tolist() == [1.0, 1.0]
    assert Threshold(0.0).label(given_round(SURE, [0, 1], [0, 1])).rows.tolist() == [2, 3, 4, 5]
    assert Threshold(0.99).label(given_round(SURE, [0, 1], [0, 1])) is None


# --- UST ----------------------------------------------------------------------------------------


def test_passes_that_agree_carry_no_information_and_passes_at_odds_all():
    agree = np.broadcast_to([[0.7, 0.3], [0.5, 0.5]], (4, 2, 2))
    np.testing.assert_allclose(mutual_information(agree), 0, atol=1e-7)
    odds = np.eye(3)[np.arange(3)][:, None]  # three passes, each sure of another class
    np.testing.assert_allclose(mutual_information(odds), math.log(3), atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), passes=st.integers(2, 6), classes=st.integers(2, 5))
def test_mutual_information_lies_between_nothing_and_the_entropy(seed, passes, classes):
    drawn = np.random.default_rng(seed).dirichlet(np.ones(classes), size=(passes, 7))
    information = mutual_information(drawn)
    mean = drawn.mean(axis=0)
    assert (information >= -1e-9).all()
    assert (information <= -(mean * np.log(mean)).sum(axis=1) + 1e-9).all()


def dropping(rows, classes, seed=0, passes=10, spread=0.02):
    """Predictions with dropout around a confident one; the class of row i is i modulo classes."""
    rng = np.random.default_rng(seed)
    logits = 4 * np.eye(classes)[np.arange(rows) % classes] + rng.normal(scale=spread, size=(passes, rows, classes))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def test_ust_takes_so_many_of_each_predicted_class():
    drawn = dropping(100, 4)
    round = given_round(drawn.mean(axis=0), np.arange(8), np.arange(8) % 4, drawn=drawn)
    extra = UST(per_class=6).label(round)
    assert np.bincount(extra.labels).tolist() == [6, 6, 6, 6]
    assert np.array_equal(extra.labels, extra.rows % 4)
    everything = UST(per_class=30).label(round)
    assert len(everything) == 92
    assert len(set(round.model.seeds)) == 2  # rows and labels are not dropped alike


def test_ust_prefers_rows_on_which_the_passes_agree():
    drawn = dropping(200, 2)
    hard = np.arange(100, 200)
    drawn[:, hard] = np.eye(2)[np.arange(10) % 2][:, None]  # every pass sure, and half of them of the other class
    drawn[0, hard] = np.eye(2)[hard % 2]
    extra = UST(per_class=20).label(given_round(drawn.mean(axis=0), [0, 1], [0, 1], drawn=drawn))
    assert (extra.rows < 100).mean() > 0.9


def test_ust_weighs_by_the_variance_relative_to_the_labels():
    drawn = dropping(60, 3, spread=0.5)
    labelled = np.arange(12)
    extra = UST(per_class=5).label(given_round(drawn.mean(axis=0), labelled, labelled % 3, drawn=drawn))

    def sureness(row):
        label = drawn[:, row].mean(axis=0).argmax()
        values = [float(one[row, label]) for one in drawn]
        mean = sum(values) / len(values)
        return max(math.log(1 / (sum((value - mean) ** 2 for value in values) / len(values) + 1e-8)), 4)

    usual = np.mean([sureness(row) for row in labelled])
    np.testing.assert_allclose(extra.weight, [sureness(row) / usual for row in extra.rows], rtol=1e-5)


def test_ust_gives_none_where_all_passes_are_at_odds():
    drawn = np.broadcast_to(np.eye(2)[np.arange(10) % 2][:, None], (10, 20, 2))
    assert UST().label(given_round(drawn.mean(axis=0), [0, 1], [0, 1], drawn=drawn)) is None


def test_ust_names_a_learner_that_has_dropout():
    with pytest.raises(
        FewerError, match=r"FittedEstimator does not have; use a learner that has, such as mlp\(dropout"
    ):
        UST().label(fitted_round(Logistic()))
    with pytest.raises(FewerError, match=r"the learner drops nothing; try mlp\(dropout=0.2\)"):
        UST().label(fitted_round(mlp(steps=5)))


def test_dropout_passes_differ_and_equal_seeds_are_equal():
    round = fitted_round()
    drawn = dropout_passes(round, round.unlabelled, 4)
    assert drawn.shape == (4, len(round.unlabelled), 3)
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn, dropout_passes(round, round.unlabelled, 4))
    assert not np.array_equal(drawn, dropout_passes(fitted_round(seed=1), round.unlabelled, 4))


# --- VERIPS -------------------------------------------------------------------------------------


def test_verips_keeps_low_entropy_whose_class_is_confirmed():
    # 1 - H / log 2 is 0.9 at p = 0.987
    probabilities = [[0.5, 0.5], [0.5, 0.5], [0.99, 0.01], [0.985, 0.015], [0.01, 0.99], [0.995, 0.005]]
    asked = []

    def refit(examples, start):
        asked.append((examples.rows.tolist(), start))
        changed = np.array(probabilities)
        changed[5] = [0.2, 0.8]
        return Given(changed, np.ones((6, 2)))

    round = given_round(probabilities, [0, 1], [0, 1], refit=refit)
    extra = VERIPS().label(round)
    assert extra.rows.tolist() == [2, 4]
    assert extra.labels.tolist() == [0, 1]
    assert extra.weight.tolist() == [1.0, 1.0]
    assert asked == [([0, 1], round.model)]
    assert VERIPS(certainty=1.0).label(round) is None
    assert len(asked) == 1  # nothing certain, nothing to verify


def test_verips_gives_none_where_nothing_is_confirmed():
    probabilities = np.array([[0.999, 0.001]] * 6)

    def refit(examples, start):
        return Given(probabilities[:, ::-1], np.ones((6, 2)))

    assert VERIPS().label(given_round(probabilities, [0, 1], [0, 1], refit=refit)) is None


# --- NEST ---------------------------------------------------------------------------------------


def test_divergence_of_equal_predictions_is_nothing():
    mine = np.random.default_rng(0).dirichlet(np.ones(4), size=5)
    around = np.repeat(mine[:, None], 3, axis=1)
    np.testing.assert_allclose(neighbour_divergence(mine, around, spread=0.1), 0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), neighbours=st.integers(1, 5), spread=st.floats(0, 2))
def test_divergence_is_that_of_plain_sums(seed, neighbours, spread):
    rng = np.random.default_rng(seed)
    mine, theirs = rng.dirichlet(np.ones(3), size=4), rng.dirichlet(np.ones(3), size=(4, neighbours))

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0)

    found = neighbour_divergence(mine, theirs, spread)
    for row in range(4):
        own = sum(kl(mine[row], other) for other in theirs[row]) / neighbours
        pairs = [kl(theirs[row, i], theirs[row, j]) for i in range(neighbours) for j in range(i + 1, neighbours)]
        expected = own + (spread * sum(pairs) / len(pairs) if pairs else 0)
        assert found[row] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_nest_accepts_sure_rows_that_are_like_the_labelled_ones_around_them():
    # two directions; labelled rows 0-3 and 4-7; rows 8-11 lie in the first, and two of them say otherwise
    features = [[1, 0.01 * i] for i in range(4)] + [[0.01 * i, 1] for i in range(4)] + [[1, 0.02]] * 4
    first, second = [0.95, 0.05], [0.05, 0.95]
    probabilities = [first] * 4 + [second] * 4 + [first, second, [0.6, 0.4], second]
    round = given_round(probabilities, np.arange(8), [0] * 4 + [1] * 4, features=features)
    extra = NEST(k=3, per_label=1, iterations=1).label(round)
    assert extra.rows.tolist() == [8, 9, 11]  # eight are looked at: all four, and row 10 is not sure
    narrow = given_round(probabilities, [0, 4], [0, 1], features=features)
    assert NEST(k=1, per_label=1, iterations=1).label(narrow).rows.tolist()[:2] == [1, 2]
    assert 9 not in NEST(k=1, per_label=4, iterations=1).label(narrow).rows


def test_nest_takes_more_in_each_iteration_from_a_model_that_learned_the_last():
    rows = 40
    probabilities = np.tile([[0.95, 0.05], [0.05, 0.95]], (rows // 2, 1))
    features = np.tile([[1.0, 0.0], [0.0, 1.0]], (rows // 2, 1))
    fitted = []

    def refit(examples, start):
        fitted.append((len(examples), examples.of(PSEUDO).rows.tolist(), start))
        return Given(probabilities.astype(np.float32), features)

    round = given_round(probabilities, [0, 1], [0, 1], features=features, refit=refit)
    extra = NEST(k=1, per_label=5, iterations=3).label(round)
    assert len(extra) == 30
    assert len(np.unique(extra.rows)) == 30
    assert [count for count, _, _ in fitted] == [12, 22]
    assert fitted[0][2] is round.model
    assert isinstance(fitted[1][2], Given)
    assert fitted[1][2] is not round.model
    assert len(NEST(k=1, per_label=5, iterations=1).label(round)) == 10
    assert len(NEST(k=1, per_label=100, iterations=3).label(round)) == 38


def test_nest_stops_where_nothing_is_sure():
    probabilities = np.tile([[0.8, 0.2], [0.2, 0.8]], (10, 1))
    assert NEST().label(given_round(probabilities, [0, 1], [0, 1], features=np.eye(20))) is None


# --- AcTune -------------------------------------------------------------------------------------


def ten_regions(sizes, doubts, classes=2):
    """Rows in ten directions, all sure to a degree that the region decides, and two labelled rows."""
    features, probabilities, region = [np.ones(10), -np.ones(10)], [[0.9, 0.1], [0.1, 0.9]], [-1, -1]
    for name, (size, doubt) in enumerate(zip(sizes, doubts, strict=True)):
        for place in range(size):
            features.append(np.eye(10)[name] + 0.001 * place)
            confidence = 1 - doubt - 0.001 * place
            probabilities.append([confidence, 1 - confidence] if name % 2 else [1 - confidence, confidence])
            region.append(name)
    return given_round(probabilities, [0, 1], [0, 1], features=features), np.array(region)


def test_actune_takes_the_least_uncertain_rows_of_the_most_certain_regions():
    doubts = [0.05, 0.3, 0.06, 0.3, 0.07, 0.3, 0.3, 0.08, 0.3, 0.09]
    round, region = ten_regions([8] * 10, doubts)
    extra = AcTune().label(round)
    assert np.bincount(region[extra.rows], minlength=10).tolist() == [5, 0, 5, 0, 5, 0, 0, 5, 0, 5]
    firsts = [np.flatnonzero(region == name)[:5] for name in (0, 2, 4, 7, 9)]
    np.testing.assert_array_equal(np.sort(extra.rows), np.sort(np.concatenate(firsts)))
    np.testing.assert_array_equal(extra.labels, np.where(region[extra.rows] % 2, 0, 1))
    np.testing.assert_allclose(extra.weight, 2 / 25)  # two labels and 25 pseudo-labels weigh the same


def test_actune_takes_from_the_others_what_a_small_region_lacks():
    round, region = ten_regions([2, 12, 12, 12, 12, 12, 12, 12, 12, 12], [0.05] * 5 + [0.3] * 5)
    counts = np.bincount(region[AcTune().label(round).rows], minlength=10)
    assert counts.sum() == 25
    assert counts[0] == 2
    assert set(counts[1:5].tolist()) == {5, 6}


def test_a_region_of_several_predicted_classes_is_uncertain():
    take = AcTune(certain=1, per_region=3)._take
    region, uncertainty = np.repeat([0, 1], 6), np.repeat([0.10, 0.15], 6)
    mixed = np.array([0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1])
    assert set(take(region, mixed, uncertainty).tolist()) <= set(range(6, 12))
    pure = np.repeat([0, 1], 6)
    assert set(take(region, pure, uncertainty).tolist()) <= set(range(6))


def test_actune_confidence_must_be_exceeded_and_few_rows_are_all_taken():
    probabilities = [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.61, 0.39], [0.2, 0.8]]
    extra = AcTune().label(given_round(probabilities, [0, 1], [0, 1], features=np.eye(5)))
    assert extra.rows.tolist() == [3, 4]
    assert extra.weight.tolist() == [1.0, 1.0]


def test_actune_leaves_a_single_predicted_class_alone():
    probabilities = [[0.9, 0.1], [0.1, 0.9]] + [[0.9, 0.1]] * 30
    assert AcTune().label(given_round(probabilities, [0, 1], [0, 1], features=np.eye(32))) is None


def test_actune_copes_with_fewer_different_rows_than_regions():
    probabilities = np.tile([[0.9, 0.1], [0.1, 0.9]], (20, 1))
    extra = AcTune().label(given_round(probabilities, [0, 1], [0, 1], features=probabilities))
    assert len(extra) == 25


# --- what all share -----------------------------------------------------------------------------


@pytest.mark.parametrize("filling", [UST, VERIPS, NEST])
def test_of_a_large_pool_a_sample_is_looked_at(filling):
    rows = 300
    drawn = dropping(rows, 2, spread=0.01)
    probabilities = np.where(drawn.mean(axis=0) > 0.5, 0.999, 0.001)
    features = np.eye(2)[np.arange(rows) % 2]

    def refit(examples, start):
        return Given(probabilities, features)

    def look(seed):
        round = given_round(probabilities, [0, 1], [0, 1], features, drawn, refit, seed)
        return filling(subsample=60).label(round).rows

    assert 0 < len(look(0)) <= 60
    np.testing.assert_array_equal(look(0), look(0))
    assert set(look(0).tolist()) != set(look(1).tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threshold(1.2), r"threshold: confidence must lie in \[0, 1\]; it is 1.2"),
        (lambda: UST(passes=1), "ust: passes must be at least 2; it is 1"),
        (lambda: UST(per_class=0), "ust: per_class must be at least 1; it is 0"),
        (lambda: VERIPS(certainty=-0.1), r"verips: certainty must lie in \[0, 1\]"),
        (lambda: VERIPS(subsample=0), "verips: subsample must be at least 1"),
        (lambda: NEST(k=0), "nest: k must be at least 1"),
        (lambda: NEST(momentum=2.0), r"nest: momentum must lie in \[0, 1\]"),
        (lambda: AcTune(regions=0), "actune: regions must be at least 1"),
        (lambda: AcTune(confidence=2.0), r"actune: confidence must lie in \[0, 1\]"),
    ],
)
def test_errors_say_what_would_do(make, message):
    with pytest.raises(FewerError, match=message):
        make()
