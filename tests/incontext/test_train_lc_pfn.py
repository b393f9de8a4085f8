from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.incontext import train_lc_pfn
from fewer.incontext.extrapolation import LearningCurveExtrapolator
from fewer.incontext.prior_fitted_network import PriorFitted

SIZES = {
    "curves": 48,
    "width": 8,
    "layers": 1,
    "heads": 2,
    "bars": 30,
    "batch": 8,
    "lr": 1e-3,
    "points": 3,
    "seed": 0,
    "waves": 6,
}


def test_what_is_written_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "weights.safetensors"
    train_lc_pfn.train(out, **SIZES)
    assert capsys.readouterr().out.count("log-likelihood") >= 3
    assert [file.name for file in tmp_path.iterdir()] == [out.name]  # the checkpoint is gone
    made = LearningCurveExtrapolator.load(out)
    assert made.distribution.bars == 30
    assert made.length == 100
    said = made.predict([0.1, 0.2, 0.3], at=[50])
    assert 0 <= said.quantile(0.5)[0] <= 1


def test_an_interrupted_training_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train_lc_pfn.train(tmp_path / "whole", **SIZES)
    said = []

    def echo(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_lc_pfn.typer, "echo", echo)
    with pytest.raises(KeyboardInterrupt):
        train_lc_pfn.train(tmp_path / "broken", **SIZES)
    assert (tmp_path / "broken.checkpoint").exists()
    train_lc_pfn.train(tmp_path / "broken", **SIZES)
    whole, again = load_file(tmp_path / "whole"), load_file(tmp_path / "broken")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_training_goes_on_from_weights(tmp_path: Path):
    train_lc_pfn.train(tmp_path / "first", **SIZES)
    first = LearningCurveExtrapolator.load(tmp_path / "first").network
    begun = train_lc_pfn.GoingOn(PriorFitted(8, 1, 2, 6), tmp_path / "first").build(2, 30, 100)
    assert all(map(torch.equal, first.state_dict().values(), begun.state_dict().values()))
    train_lc_pfn.train(tmp_path / "second", **SIZES | {"curves": 32}, begin=tmp_path / "first")
    assert train_lc_pfn.trained_on(tmp_path / "second") == 48 + 32
    again, plain = (load_file(tmp_path / name)["read_out.2.weight"] for name in ("second", "first"))
    assert 0 < (again - plain).abs().max() < 0.1
    with pytest.raises(FewerError, match="holds a network of another size; give the sizes"):
        train_lc_pfn.train(tmp_path / "third", **SIZES | {"width": 16}, begin=tmp_path / "first")


def test_the_weights_that_ship_are_small_and_whole():
    from importlib.resources import files

    shipped = files("fewer.incontext") / "lc_pfn.safetensors"
    assert len(shipped.read_bytes()) <= 16 * 2**20
    made = LearningCurveExtrapolator.load()
    assert made.distribution.bars >= 256
    assert all(bool(torch.isfinite(parameter).all()) for parameter in made.network.parameters())


def test_weights_that_are_none(tmp_path: Path):
    with pytest.raises(FewerError, match="there are no weights at"):
        LearningCurveExtrapolator.load(tmp_path / "none")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(FewerError, match="is damaged"):
        LearningCurveExtrapolator.load(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(FewerError, match=r"holds no weights of this kind \(fewer-lc-pfn-1\)"):
        LearningCurveExtrapolator.load(tmp_path / "other")
    train_lc_pfn.train(tmp_path / "good", **SIZES)
    tensors = load_file(tmp_path / "good")
    del tensors["borders"]
    described = train_lc_pfn.json.dumps({"format": "fewer-lc-pfn-1", "architecture": {}, "prior": {"length": 100}})
    save_file(tensors, tmp_path / "part", metadata={"fewer": described})
    with pytest.raises(FewerError, match="'borders'"):
        LearningCurveExtrapolator.load(tmp_path / "part")


def test_a_short_training_is_worse_than_the_weights_that_ship(tmp_path: Path):
    train_lc_pfn.train(tmp_path / "short", **SIZES)
    curve = Curve.of((epoch, 0.9 - 0.5 / epoch) for epoch in range(1, 31))
    short, ships = LearningCurveExtrapolator.load(tmp_path / "short"), LearningCurveExtrapolator.load()
    width = [
        np.ptp([each.predict(curve, [100]).quantile(chance)[0] for chance in (0.1, 0.9)]) for each in (short, ships)
    ]
    assert width[1] < width[0] / 3
