"""Every claim in its tiny form: the machinery runs and all its numbers come out.  The verdict is not looked at."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest

from fewer import catalogue, claim

ROOT = Path(__file__).parents[1]
WORKING = [slug for slug, paper in catalogue.papers().items() if paper.fills]


@pytest.mark.parametrize("slug", WORKING)
def test_the_tiny_form_gives_all_numbers(slug):
    result = claim.measure_paper(slug, tiny=True, workers=0)
    assert result["claims"]
    for each in result["claims"]:
        assert each["tiny"]
        assert each["conditions"]
        assert bool(each["curves"]) != bool(each["measures"])
        for condition in each["conditions"]:
            assert condition["verdict"] in ("holds", "does not hold", "unclear")
            assert math.isfinite(condition["estimate"]), condition["text"]
        for values in each["measures"].values():
            assert len(values) == len(each["seeds"])
        json.dumps(each)


@pytest.mark.parametrize("slug", WORKING)
def test_a_working_paper_has_its_file_its_tests_and_its_result(slug):
    paper = catalogue.papers()[slug]
    module = paper.fills.split(":")[0]
    catalogue.resolve(paper.fills)
    name = module.rsplit(".", 1)[-1]
    assert (ROOT / "tests" / paper.room / f"test_{name}.py").exists()
    assert paper.arxiv in (importlib.import_module(module).__doc__ or ""), "the module's docstring cites the paper"
    result = claim.load_results(ROOT / "results" / "claims")[slug]
    assert len(result["claims"]) == len(claim.of_paper(slug))
    for measured, stated in zip(result["claims"], claim.of_paper(slug), strict=True):
        # what was measured is what is stated: nothing was changed after the result
        assert measured["says"] == stated.says
        assert measured["entries"] == dict(stated.entries)
        assert [each["text"] for each in measured["conditions"]] == [condition.text for condition in stated.holds]
        assert (measured["task"], measured["budget"]) == (stated.task, stated.budget)
        assert len(measured["seeds"]) >= stated.seeds
        assert not measured["tiny"]


def test_no_result_without_a_paper():
    assert set(claim.load_results(ROOT / "results" / "claims")) <= set(WORKING)


def test_a_public_name_leads_to_each_working_paper():
    for slug in WORKING:
        paper = catalogue.papers()[slug]
        name = paper.fills.split(":")[1]
        catalogue.resolve(paper.fills)  # a name that is also its module's is an attribute once that is imported
        assert hasattr(importlib.import_module(f"fewer.{paper.room}"), name), (
            f"{slug}: from fewer.{paper.room} import {name}"
        )
