from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from fewer import catalogue, claim
from fewer.claim import Claim, Condition, Evidence, Judgement, Tiny, higher, identical, lower, no_worse, ratio
from fewer.core.curve import Curve, Point
from fewer.core.errors import Diverged, FewerError


def curves(*finals, start=0.0):
    return [Curve.of([(10, start), (20, final)]) for final in finals]


def evidence(**entries):
    return Evidence(curves={label: curves(*finals) for label, finals in entries.items()})


HIGH, LOW = (0.9, 0.91, 0.92, 0.9, 0.91), (0.5, 0.52, 0.51, 0.5, 0.53)
MIXED = (0.9, 0.2, 0.9, 0.2, 0.55)


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        (higher("final", "a", than="b"), "holds"),
        (higher("final", "b", than="a"), "does not hold"),
        (higher("final", "a", than="b", by=0.3), "holds"),
        (higher("final", "a", than="b", by=0.5), "does not hold"),
        (higher("final", "c", than="b"), "unclear"),
        (higher("final", "a", than=0.8), "holds"),
        (lower("final", "b", than="a"), "holds"),
        (lower("final", "a", than="b"), "does not hold"),
        (lower("final", "b", than="a", by=0.3), "holds"),
        (lower("final", "b", than=0.6), "holds"),
        (no_worse("final", "b", than="a", within=0.5), "holds"),
        (no_worse("final", "b", than="a", within=0.1), "does not hold"),
        (no_worse("final", "c", than="b", within=0.01), "unclear"),
        (ratio("final", "b", to="a", at_most=0.7), "holds"),
        (ratio("final", "b", to="a", at_most=0.4), "does not hold"),
        (ratio("final", "a", to="b", at_least=1.5), "holds"),
        (ratio("final", "a", to="b", at_least=2.5), "does not hold"),
        (identical("final", "a", to="a"), "holds"),
        (identical("final", "a", to="b"), "does not hold"),
    ],
)
def test_a_condition_looks_at_the_interval(condition, verdict):
    (answer,) = claim.judge(_claim(condition), evidence(a=HIGH, b=LOW, c=MIXED))
    assert answer.verdict == verdict
    assert answer.text == condition.text
    assert answer.low <= answer.estimate <= answer.high


def _claim(*conditions, **changes):
    return Claim(
        **{"says": "x", "holds": conditions, "entries": {"a": "random"}, "task": "digits", "budget": 20, **changes}
    )


def test_seeds_are_paired():
    # each seed differs more from the next than the entries do; only pairing shows the difference
    base = np.array([0.1, 0.9, 0.4, 0.7, 0.2])
    (answer,) = claim.judge(_claim(higher("final", "a", than="b")), evidence(a=base + 0.01, b=base))
    assert answer.verdict == "holds"
    assert answer.estimate == pytest.approx(0.01)


def test_one_seed_says_nothing():
    (answer,) = claim.judge(_claim(higher("final", "a", than="b")), evidence(a=(0.9,), b=(0.1,)))
    assert answer.verdict == "unclear"


def test_the_best_of_several_is_chosen_by_the_other_seeds():
    found = evidence(a=(1.0, 0.0, 0.0), b=(0.4, 0.4, 0.4))
    # seed 0 alone favours a; by the other seeds b is better for it, and for the rest it is a's lucky seed that counts
    assert found.values("final", ["a", "b"]).tolist() == [0.4, 0.0, 0.0]
    assert found.values("final", "a").max() == 1.0


def test_metrics_of_a_curve():
    curve = Curve((Point(10, 0.2, {"precision": 0.9}), Point(30, 0.6), Point(50, 0.6, {"precision": 0.7})))
    found = Evidence(curves={"a": [curve]})
    expected = {"area": 0.5, "final": 0.6, "spent": 50, "score@20": 0.4, "samples-to@0.4": 20, "samples-to@0.9": 50}
    for metric, value in {**expected, "precision": 0.8}.items():
        assert found.values(metric, "a")[0] == pytest.approx(value), metric
    with pytest.raises(FewerError, match="no point has the extra 'precison'; did you mean precision"):
        Evidence(curves={"a": [Curve((Point(1, 0.0, {"precision": 1.0}),))]}).values("precison", "a")
    with pytest.raises(FewerError, match="'bb', which is not an entry; known: a"):
        found.values("area", "bb")


def test_measures():
    found = Evidence(measures=[{"ours": {"bytes": 1.0}}, {"ours": {"bytes": 3.0}}])
    assert found.values("bytes", "ours").tolist() == [1.0, 3.0]
    with pytest.raises(FewerError, match="'seconds' of 'ours', which was not measured"):
        found.values("seconds", "ours")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "unclear"], "unclear"),
        (["unclear", "does not hold", "holds"], "does not hold"),
    ],
)
def test_a_claim_is_as_good_as_its_weakest_condition(verdicts, expected):
    assert claim.overall(verdicts) == expected


def test_a_claim_is_a_race_or_a_measure():
    for changes in ({"entries": {}}, {"measure": lambda seed, tiny: {}}):
        with pytest.raises(FewerError, match="either a race"):
            _claim(**changes)
    with pytest.raises(ValueError, match="exactly one"):
        ratio("final", "a", to="b")


RACE = _claim(
    higher("area", "margin", than="random"),
    task="digits",
    budget=30,
    seeds=3,
    entries={"margin": "margin", "random": "random"},
    tiny=Tiny(budget=20),
)


def test_workers_do_not_change_the_result():
    here, there = claim.evaluate(RACE, workers=0), claim.evaluate(RACE, workers=2)
    for key in ("verdict", "conditions", "curves", "seeds", "entries", "metric", "unit"):
        assert here[key] == there[key], key
    assert here["seeds"] == [0, 1, 2]
    assert {len(each) for each in here["curves"].values()} == {3}
    assert (here["metric"], here["unit"]) == ("accuracy", "labels")


def test_other_seeds_and_the_tiny_form():
    other = claim.evaluate(RACE, [7, 9], workers=0)
    assert other["seeds"] == [7, 9]
    assert other["curves"] != claim.evaluate(RACE, [0, 1], workers=0)["curves"]
    tiny = claim.evaluate(RACE, tiny=True, workers=0)
    assert (tiny["budget"], tiny["seeds"], tiny["tiny"]) == (20, [0, 1], True)
    assert RACE.small().entries == RACE.entries


MEASURE = """
def measure(seed, tiny):
    return {"ours": {"bytes": seed + 1.0}, "theirs": {"bytes": 10.0 + seed, "tiny": float(tiny)}}
"""


def test_a_measure_runs_here_and_in_processes(tmp_path, monkeypatch):
    (tmp_path / "a_measure_of_this_test.py").write_text(MEASURE)
    monkeypatch.syspath_prepend(str(tmp_path))  # the processes look there as well
    measure = importlib.import_module("a_measure_of_this_test").measure
    made = _claim(lower("bytes", "ours", than="theirs"), entries={}, task="", budget=0, seeds=4, measure=measure)
    here, there = claim.evaluate(made, workers=0), claim.evaluate(made, tiny=False, workers=2)
    assert here["measures"] == there["measures"]
    assert here["measures"]["bytes of ours"] == [1.0, 2.0, 3.0, 4.0]
    assert here["verdict"] == "holds"
    assert here["curves"] == {}


def test_a_failed_run_gives_no_verdict():
    spoilt = _claim(higher("area", "a", than="b"), entries={"a": "random", "b": "mlp(lr=1e30)"}, budget=20, seeds=1)
    with pytest.raises(Diverged):
        claim.evaluate(spoilt, workers=0)
    with pytest.raises(FewerError, match=r"run of b with seed 0 failed, so there is no verdict: the score became nan"):
        claim.evaluate(spoilt, workers=1)


# --- results -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return {"paper": "pcoreset", "verdict": "unclear", "claims": [claim.evaluate(RACE, workers=0)]}


def test_a_result_is_read_back_as_it_was(result, tmp_path):
    path = claim.save(result, tmp_path)
    assert path.name == "pcoreset.json"
    assert claim.load_results(tmp_path)["pcoreset"] == json.loads(json.dumps(result))


def test_infinite_intervals_are_saved_as_nothing(result, tmp_path):
    odd = {**result, "claims": [{**result["claims"][0], "conditions": [{"low": -np.inf, "high": np.nan}]}]}
    claim.save(odd, tmp_path)
    back = claim.load_results(tmp_path)["pcoreset"]
    assert back["claims"][0]["conditions"] == [{"low": None, "high": None}]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"verdict": "unclear"', '"verdict": "holds"', 1),
        lambda text: text.replace('"digest"', '"dugest"'),
        lambda text: text[:-30],
        lambda text: "[]",
        lambda text: "",
    ],
)
def test_a_file_that_save_did_not_write_is_not_read(result, tmp_path, change):
    path = claim.save(result, tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(FewerError, match=r"was changed since|was not written by 'fewer claim --save'"):
        claim.load_results(tmp_path)


def test_a_tiny_result_is_not_saved(tmp_path):
    tiny = {"paper": "x", "verdict": "holds", "claims": [claim.evaluate(RACE, tiny=True, workers=0)]}
    with pytest.raises(FewerError, match="without --tiny"):
        claim.save(tiny, tmp_path)


def test_an_unwritable_folder_is_one_line(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FewerError, match="cannot write"):
        claim.save(result, tmp_path / "file" / "folder")


# --- papers ------------------------------------------------------------------------------------


def test_a_planned_paper_has_no_claim():
    planned = next(slug for slug, paper in catalogue.papers().items() if paper.fills is None)
    with pytest.raises(FewerError, match=f"{planned} is planned and has no claim yet"):
        claim.of_paper(planned)


def test_measuring_a_paper_joins_its_claims(monkeypatch):
    always = Condition("always", lambda evidence: Judgement("", "holds", 1.0, 1.0, 1.0))
    monkeypatch.setattr(
        claim, "of_paper", lambda slug: (RACE, _claim(always, entries={"a": "random"}, budget=10, seeds=5))
    )
    joined = claim.measure_paper("x", 2, 3, workers=0)
    assert [each["seeds"] for each in joined["claims"]] == [[3, 4], [3, 4]]
    assert joined["verdict"] == claim.overall([each["verdict"] for each in joined["claims"]])
    assert claim.measure_paper("x", tiny=True, workers=0)["claims"][1]["seeds"] == [0, 1]
