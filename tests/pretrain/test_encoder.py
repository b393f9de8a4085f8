"""A pre-trained encoder: what it writes can be read, and starts other networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.classifier import ConvNet
from fewer.models.pretrained import Pretrained
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.loop import Contrastive
from fewer.tasks.digits import digits

X = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def learned():
    return Contrastive(points=1, batch=32).learn(digits(), budget=64).result


def test_embeddings_are_written_as_npz_and_parquet(learned, tmp_path):
    for ending in ("npz", "parquet"):
        learned.write(tmp_path / f"features.{ending}", X)
    expected = learned.embed(X)
    assert expected.shape == (5, 64)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as found:
        assert np.array_equal(found["x"], expected)
    table = pd.read_parquet(tmp_path / "features.parquet")
    assert list(table.columns[:2]) == ["f0", "f1"]
    assert np.array_equal(table.to_numpy(), expected)


def test_its_weights_start_a_classifier(learned, tmp_path):
    learned.save(tmp_path / "encoder.safetensors")
    architecture = ConvNet((16, 32, 64), norm=True, hidden=0, pool=True)
    network = Pretrained(architecture, tmp_path / "encoder.safetensors").build((1, 8, 8), 10).eval()
    with torch.inference_mode():
        assert np.array_equal(network.features(torch.from_numpy(X)).numpy(), learned.embed(X))


def test_errors(learned, tmp_path):
    for name, ending in (("features.csv", ".csv"), ("features", "nothing")):
        with pytest.raises(FewerError, match=rf"written to \.npz or \.parquet; .* ends in {ending}"):
            learned.write(tmp_path / name, X)
    with pytest.raises(FewerError, match="there are no rows"):
        PretrainedEncoder(torch.nn.Flatten()).embed(X[:0])
