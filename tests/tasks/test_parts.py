"""The parts list of this folder: every name makes what it says."""

from __future__ import annotations

import inspect

import pytest

from fewer import catalogue
from fewer.compose import task
from fewer.tasks.classification import Classification

PARTS = {name: part for name, part in catalogue.parts("task").items() if part.room == "tasks"}
OF_FILES = {"csv", "parquet", "npz", "images"}


def test_all_tasks_are_listed():
    assert OF_FILES | {"digits", "breast-cancer", "mnist5k", "mnist1d", "scipy-docs", "reviews"} <= set(PARTS)
    assert {"fashion-mnist", "diabetes", "friedman"} <= set(PARTS)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_name_resolves_to_a_documented_function(name):
    made = catalogue.resolve(PARTS[name].make)
    assert "Parameters\n" in (inspect.getdoc(made) or "") or name == "parquet"


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "scipy-docs"])
def test_tasks_without_further_packages_can_be_made_by_name(name):
    made = task(name)
    assert isinstance(made, Classification)
    assert made.name == name
