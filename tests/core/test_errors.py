from __future__ import annotations

import pytest

from fewer.core.errors import FewerError, MissingPackage, nearest, need


def test_a_missing_package_says_what_to_install():
    with pytest.raises(MissingPackage, match=r"task x needs the package surely-absent, .*'fewer\[vision\]'"):
        need("surely_absent.part", extra="vision", what="task x", package="surely-absent")


def test_a_package_broken_inside_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("import another_absent_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_absent_package") as caught:
        need("brokenpackage", extra="vision", what="x")
    assert not isinstance(caught.value, FewerError)


def test_nearest_names_the_close_or_the_known():
    assert nearest("margn", ["margin", "random"]) == "did you mean margin?"
    assert nearest("qqq", [f"name{i:02d}" for i in range(20)]).endswith("name11, …")
