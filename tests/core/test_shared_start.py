from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core import shared_start as module
from fewer.core.files import cache_folder
from fewer.core.shared_start import shared_start


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def maker():
    made = []

    def make():
        made.append(1)
        return {"weights": torch.arange(3.0), "log": np.ones(2), "steps": 5}

    return make, made


def test_it_is_made_once_and_found_to_the_bit():
    make, made = maker()
    for _ in range(3):
        found = shared_start("base", ("task", "0"), make)
        assert torch.equal(found["weights"], torch.arange(3.0))
        assert found["log"].tolist() == [1, 1]
        assert found["steps"] == 5
    assert len(made) == 1


def test_other_settings_another_name_or_another_version_make_it_anew(monkeypatch):
    make, made = maker()
    shared_start("base", ("task", "0"), make)
    shared_start("base", ("task", "1"), make)
    shared_start("other", ("task", "0"), make)
    monkeypatch.setattr(module.fewer, "__version__", "99")
    shared_start("base", ("task", "0"), make)
    assert len(made) == 4


def test_a_damaged_file_is_made_again():
    make, made = maker()
    shared_start("base", ("task",), make)
    (file,) = (cache_folder() / "starts" / "base").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    shared_start("base", ("task",), make)
    shared_start("base", ("task",), make)
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make, made = maker()
    assert shared_start("base", ("task",), make)["steps"] == 5
    assert shared_start("base", ("task",), make)["steps"] == 5
    assert len(made) == 2
