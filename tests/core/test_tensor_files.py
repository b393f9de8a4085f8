"""Files of tensors: they come back to the bit, foreign ones without a header, and what is no such file says so."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors


def test_what_is_written_is_read_to_the_bit(tmp_path):
    tensors = {
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.tensor([1 / 3], dtype=torch.bfloat16),
        "learned": torch.nn.Parameter(torch.tensor([float("nan"), -0.0])),
        "none": torch.zeros(0, 2, dtype=torch.int64),
    }
    write_tensors(tmp_path / "deep" / "file.safetensors", {"format": "x-1", "names": ["ä"]}, tensors)
    header, found = read_tensors(tmp_path / "deep" / "file.safetensors", "file")
    assert header == {"format": "x-1", "names": ["ä"]}
    assert list(found) == sorted(tensors)
    for name, each in tensors.items():
        assert found[name].dtype == each.dtype
        torch.testing.assert_close(found[name], each.detach(), rtol=0, atol=0, equal_nan=True)
    assert torch.signbit(found["learned"][1])


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"fewer": "[1]"}])
def test_a_file_without_our_header_has_an_empty_one(metadata, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "file", metadata)
    assert read_tensors(tmp_path / "file", "file") == ({}, {"a": torch.ones(1)})


def test_what_is_no_such_file(tmp_path):
    with pytest.raises(FewerError, match=r"is no saved prompt \(.*\); give a file that save\(\) wrote"):
        read_tensors(tmp_path / "nowhere", "saved prompt")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(FewerError, match=r"is no saved prompt .*; remove it"):
        read_tensors(tmp_path / "text", "saved prompt", "remove it")
    save_file({"a": torch.ones(1)}, tmp_path / "cut", {"fewer": "{"})
    with pytest.raises(FewerError, match="is no saved prompt"):
        read_tensors(tmp_path / "cut", "saved prompt")
    with pytest.raises(FewerError, match="is no saved prompt"):
        read_tensors(tmp_path, "saved prompt")
