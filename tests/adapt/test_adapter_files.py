"""Files of adapters: there and back to the bit, AdapterHub's names and settings, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from fewer.adapt.adapter_files import adapter_of_state, read_adapter, read_adapters, save_adapters
from fewer.adapt.bottleneck_adapter import Bottlenecks
from fewer.adapt.task_adapter import TaskAdapter
from fewer.core.errors import FewerError


def adapter(task="tense", activation="relu"):
    torch.manual_seed(0)
    names = ("down.weight", "down.bias", "up.weight", "up.bias")
    return TaskAdapter(
        task, tuple(dict(zip(names, Bottlenecks(1, 8, 2).of(0), strict=True)) for _ in range(12)), activation
    )


def same(one, other):
    return one.activation == other.activation and all(
        torch.equal(a[part], b[part]) for a, b in zip(one.layers, other.layers, strict=True) for part in a
    )


STYLES = {
    "bert": "bert.encoder.layer.{}.output.adapters.{}.adapter_",
    "roberta": "roberta.encoder.layer.{}.output.adapters.{}.adapter_",
    "distilbert": "distilbert.transformer.layer.{}.output_adapters.adapters.{}.adapter_",
    "vit": "vit.encoder.layer.{}.output.output_adapters.adapters.{}.adapter_",
}


def state(mine, style="bert", task="sst-2", **more):
    said = {}
    for index, layer in enumerate(mine.layers):
        for part, tensor in layer.items():
            name = STYLES[style].format(index, task) + part.replace("down.", "down.0.")
            said[name] = tensor
    return said | more


def test_there_and_back(tmp_path):
    mine = {"tense": adapter(), "topic of it": adapter("topic of it", "gelu")}
    paths = save_adapters(mine, tmp_path / "new")
    assert [each.name for each in paths] == ["tense.safetensors", "topic of it.safetensors"]
    assert paths[0].stat().st_size < 12 * (2 * 16 + 10) * 4 + 5000
    again = read_adapters(tmp_path / "new")
    assert list(again) == list(mine)
    assert all(same(again[task], mine[task]) for task in mine)
    assert same(read_adapter(paths[1]), mine["topic of it"])
    assert repr(again["tense"]) == repr(mine["tense"]) != repr(mine["topic of it"])


@pytest.mark.parametrize("style", list(STYLES))
def test_adapterhubs_names(style):
    mine = adapter()
    read = adapter_of_state(state(mine, style, **{"classifier.weight": torch.zeros(2, 8)}))
    assert read.task == "sst-2"
    assert same(read, mine)


def test_a_folder_of_adapterhubs(tmp_path):
    mine = adapter()
    folder = tmp_path / "sst"
    folder.mkdir()
    config = {
        "config": {"non_linearity": "swish", "scaling": 2.0, "reduction_factor": 4, "leave_out": []},
        "name": "films",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FewerError, match=r"no weights as safetensors \(a pickled .bin is not opened\)"):
        read_adapter(folder)
    save_file(state(mine), folder / "adapter.safetensors")
    read = read_adapters(tmp_path)["films"]
    assert read.activation == "silu"
    for a, b in zip(read.layers, mine.layers, strict=True):
        assert torch.equal(a["down.weight"], b["down.weight"])
        assert torch.equal(a["up.weight"], 2 * b["up.weight"])
        assert torch.equal(a["up.bias"], 2 * b["up.bias"])
    with pytest.raises(FewerError, match="is a single adapter; give the folder it lies in"):
        read_adapters(folder)
    save_file(state(mine), tmp_path / "loose.safetensors")
    assert read_adapter(tmp_path / "loose.safetensors").task == "loose"


def test_settings_as_adapterhub_writes_them_are_taken():
    pfeiffer = {
        "adapter_residual_before_ln": False, "inv_adapter": None, "is_parallel": False, "leave_out": [], "ln_after": False,
        "ln_before": False, "mh_adapter": False, "non_linearity": "relu", "original_ln_after": True,
        "original_ln_before": True, "output_adapter": True, "phm_layer": False, "reduction_factor": 16,
        "residual_before_ln": True, "scaling": 1.0, "use_gating": False,
    }  # fmt: skip
    assert same(adapter_of_state(state(adapter()), "x", pfeiffer), adapter())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mh_adapter": True}, "its setting mh_adapter is True and False is what is computed here"),
        ({"original_ln_before": False}, "original_ln_before is False"),
        ({"leave_out": [3]}, r"leave_out is \[3\]"),
        ({"scaling": "learned"}, "scaling is 'learned'"),
        ({"non_linearity": "tanh"}, "non-linearity 'tanh'"),
    ],
)
def test_settings_that_are_not_computed_here(settings, message):
    with pytest.raises(FewerError, match=message):
        adapter_of_state(state(adapter()), "x", settings)


def without_layer():
    return {name: each for name, each in state(adapter()).items() if ".layer.3." not in name}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (dict, "no bottleneck adapter in it; give one whose tensors are named"),
        (lambda: {"base_model.model.layer.0.query.lora_A.weight": torch.zeros(2, 8)}, r"it holds base_model.*lora_A"),
        (lambda: {"layer.0.attention.output.adapters.a.adapter_up.weight": torch.zeros(8, 2)}, "stands behind the attention"),
        (lambda: state(adapter()) | state(adapter(), task="qnli"), "it holds the adapters of qnli, sst-2"),
        (without_layer, "it has adapters in layers"),
    ],
)  # fmt: skip
def test_state_dicts_that_are_refused(made, message):
    with pytest.raises(FewerError, match=message):
        adapter_of_state(made())


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FewerError, match="no folder at"):
        read_adapters(tmp_path / "none")
    with pytest.raises(FewerError, match="adapters: none in"):
        read_adapters(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(FewerError, match="is no saved adapter"):
        read_adapters(tmp_path)
    with pytest.raises(FewerError, match="is no name for a file"):
        save_adapters({"../a": adapter()}, tmp_path)
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(FewerError, match="adapter of peft, of type 'LORA'"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(FewerError, match=r"no adapter_config.json that can be read"):
        read_adapter(folder)


def test_two_of_one_task(tmp_path):
    save_adapters({"a": adapter("a")}, tmp_path)
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    with pytest.raises(FewerError, match=r"two in .* are of the task 'a'"):
        read_adapters(tmp_path)
