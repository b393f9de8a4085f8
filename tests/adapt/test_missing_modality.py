"""Missing modalities: the identity at first, closed form, sets that do not disturb one another, files, folding, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer import compose
from fewer.adapt import Adaptation, MissingModalityAdapter
from fewer.adapt.digit_sensors import DigitSensors, SensorNetwork
from fewer.adapt.missing_modality import MissingModality
from fewer.core.errors import Diverged, FewerError


class Two(nn.Module):
    """A user's network of two modalities, with dropout and batch normalisation, that knows nothing of missing ones."""

    def __init__(self):
        super().__init__()
        self.rgb = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16))
        self.depth = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.ReLU())
        self.joined = nn.Sequential(nn.Linear(32, 12), nn.Dropout(0.5), nn.ReLU())
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        return self.out(self.joined(torch.cat([self.rgb(x["rgb"]), self.depth(x["depth"])], 1)))


def rows(count=24):
    rng = torch.Generator().manual_seed(0)
    x = {"rgb": torch.randn(count, 3, 4, 4, generator=rng), "depth": torch.randn(count, 5, generator=rng)}
    return x, torch.arange(count) % 3


def adapter(kind="ssf", **settings):
    torch.manual_seed(0)
    model = Two()
    model(rows()[0])  # so that the statistics are no longer those of the start
    return MissingModalityAdapter(model, {"rgb": "rgb", "depth": "depth"}, kind, **settings)


def pretrained(model, x, missing):
    """The same, written out by hand."""
    parts = [
        torch.zeros(len(x["rgb"]), 16) if name == missing else model.get_submodule(name)(x[name])
        for name in ("rgb", "depth")
    ]
    return model.out(model.joined(torch.cat(parts, 1)))


@pytest.mark.parametrize("kind", ["ssf", "lora", "bitfit"])
@pytest.mark.parametrize(("there", "missing"), [("rgb", "depth"), ("depth", "rgb")])
def test_the_start_is_the_pretrained_network_with_a_zero_feature(kind, there, missing):
    x, y = rows()
    made = adapter(kind).fit([(x, y)], (there,), epochs=1, lr=0.0)
    expected = pretrained(made.model, x, missing)
    torch.testing.assert_close(made({there: x[there]}), expected)
    torch.testing.assert_close(made({there: x[there], missing: None}), expected)


@pytest.mark.parametrize("kind", ["ssf", "lora", "bitfit"])
def test_the_model_stays_as_it_is_and_the_full_set_is_untouched(kind):
    x, y = rows()
    made = adapter(kind)
    before, full = {n: each.clone() for n, each in made.model.state_dict().items()}, made(x)
    made.train().fit([(x, y)], epochs=5)
    assert made.known == (("rgb",), ("depth",))
    assert all(torch.equal(each, before[name]) for name, each in made.model.state_dict().items())
    assert torch.equal(made(x), full)
    assert not any(each._forward_hooks for each in made.model.modules())
    assert not torch.allclose(made({"rgb": x["rgb"]}), pretrained(made.model, x, "depth"))


@pytest.mark.parametrize("kind", ["ssf", "lora", "bitfit"])
def test_it_learns(kind):
    x, y = rows()
    made = adapter(kind).fit([(x, y)], ("rgb",), epochs=1, lr=0.0)
    before = nn.functional.cross_entropy(made({"rgb": x["rgb"]}), y)
    made.fit([(x, y)], ("rgb",), epochs=100, lr=0.05)
    assert nn.functional.cross_entropy(made({"rgb": x["rgb"]}), y) < before - 0.02


def test_parameters_are_twice_the_channels_of_the_layers_that_run():
    made = adapter().fit([rows()], epochs=1)
    assert made.parameters_for(("rgb",)) == 2 * (8 + 8 + 16 + 12)
    assert made.parameters_for(("depth",)) == 2 * (16 + 16 + 12)
    assert adapter(adapt_classifier=True).fit([rows()], ("rgb",), epochs=1).parameters_for(["rgb"]) == 2 * (44 + 3)
    names = [name for name, _ in made.sets["rgb"].named_parameters()]
    assert not any(name.startswith("depth") for name in names)


def test_sets_do_not_disturb_one_another():
    x, y = rows()
    made = adapter().fit([(x, y)], ("rgb",), epochs=3)
    before = made({"rgb": x["rgb"]})
    made.fit([(x, y)], ("depth",), epochs=3)
    assert torch.equal(made({"rgb": x["rgb"]}), before)


@pytest.mark.parametrize("kind", ["ssf", "lora", "bitfit"])
def test_merged_it_is_a_plain_model_that_says_the_same(kind):
    x, y = rows()
    made = adapter(kind).fit([(x, y)], epochs=5)
    for there in ("rgb", "depth"):
        plain = made.merge((there,))
        torch.testing.assert_close(plain({there: x[there]}), made({there: x[there]}), rtol=1e-5, atol=1e-6)
        assert not any(each._forward_hooks for each in plain.modules())


@pytest.mark.parametrize("kind", ["ssf", "lora"])
def test_files(kind, tmp_path):
    x, y = rows()
    made = adapter(kind).fit([(x, y)], epochs=3)
    assert [path.name for path in made.save(tmp_path)] == ["rgb.safetensors", "depth.safetensors"]
    other = adapter(kind).load(tmp_path)
    for there in ("rgb", "depth"):
        assert torch.equal(other({there: x[there]}), made({there: x[there]}))
    with pytest.raises(FewerError, match="saved for other modalities or another kind"):
        adapter("bitfit").load(tmp_path)
    with pytest.raises(FewerError, match="does not fit this model"):
        MissingModalityAdapter(SensorNetwork(), {"rgb": None, "depth": None}, kind).load(tmp_path)
    (tmp_path / "rgb.safetensors").write_bytes(b"no")
    with pytest.raises(FewerError, match="is no saved set of modalities"):
        adapter(kind).load(tmp_path)
    with pytest.raises(FewerError, match="no sets of modalities in"):
        adapter(kind).load(tmp_path / "elsewhere")


def test_the_closed_form_where_one_input_follows_from_the_other():
    """y = w1 x1 + w2 x2 with x2 = c x1: without x2, the scale is 1 + c w2 / w1."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.one.weight.data.fill_(2.0)
            self.two.weight.data.fill_(-1.0)

        def forward(self, x):
            return self.one(x["one"]) + self.two(x["two"])

    one = torch.linspace(-1, 1, 20)[:, None]
    x = {"one": one, "two": 0.6 * one}
    y = 2 * one - 0.6 * one
    made = MissingModalityAdapter(Sum(), {"one": "one", "two": "two"}, adapt_classifier=True)
    made.fit([(x, y)], ("one",), epochs=400, lr=0.05, loss=nn.functional.mse_loss)
    assert float(made.sets["one"]["one"].scale.detach()) == pytest.approx(1 - 0.6 / 2, abs=1e-3)
    torch.testing.assert_close(made({"one": one}), y, atol=1e-3, rtol=0)


def test_a_modality_without_a_branch_is_fed_zeros():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.body(torch.cat([x["a"], x["b"]], 1)))

    x = {"a": torch.randn(6, 2), "b": torch.randn(6, 2)}
    made = MissingModalityAdapter(Early(), {"a": None, "b": None}).fit([(x, torch.arange(6) % 2)], epochs=1, lr=0.0)
    torch.testing.assert_close(made({"a": x["a"]}), made.model({"a": x["a"], "b": torch.zeros(6, 2)}))


def test_the_slots_do_what_the_class_does():
    """The loop's filling begins from the same numbers, and keeps the model's own classifier."""
    loop = compose.loop("adaptation(steps=2, points=1) + missing-modality")
    assert isinstance(loop, Adaptation)
    assert loop.adapter == MissingModality()["adapter"]
    task = DigitSensors("AC", epochs=1)
    point = loop.learn(task, 64, seed=0)
    assert point.curve.points[-1].extras["parameters"] == 2 * (2 * 4 * 64 + 2 * 128 + 64)
    for kind in ("lora", "bitfit"):
        compose.loop(f"adaptation(steps=1, points=1) + missing-modality(kind='{kind}')").learn(task, 64, seed=0)
    untouched = compose.loop("adaptation(points=1) + own-classifier").learn(task, 64, seed=0).curve.points[-1]
    assert untouched.extras["parameters"] == 0


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: adapter("prompt"), "kind is 'prompt'; choose"),
        (lambda: MissingModalityAdapter(Two(), {"rgb": "rgb"}), "name two or more"),
        (
            lambda: MissingModalityAdapter(Two(), {"rgb": "rbg", "depth": "depth"}),
            "no sub-module 'rbg'.*did you mean rgb",
        ),
        (lambda: MissingModalityAdapter(Two(), {"a/b": None, "c": None}), "no name for a file"),
        (lambda: adapter()({}), "no modality is there"),
        (lambda: adapter()({"rgb": rows()[0]["rgb"]}), r"nothing was learned for rgb; fit it \(learned: none yet\)"),
        (lambda: adapter().fit([rows()], ()), "no modality is there"),
        (lambda: adapter().fit([rows()], ("rbg",)), "unknown modality 'rbg'; did you mean rgb"),
        (lambda: adapter().fit([rows()], ("rgb", "depth")), "with all modalities the model is used as it is"),
        (lambda: adapter().fit([rows()], "rgb"), "available is the text 'rgb'"),
        (lambda: adapter().fit([], ("rgb",)), "nothing to learn from"),
        (
            lambda: adapter().fit([({"rgb": rows()[0]["rgb"]}, rows()[1])], ("rgb",)),
            "the shape of depth is not known yet",
        ),
        (lambda: adapter().fit([({"depth": rows()[0]["depth"]}, rows()[1])], ("rgb",)), "batches have no rgb"),
        (lambda: adapter().merge(("rgb",)), "nothing was learned for rgb"),
        (lambda: MissingModality("prompt"), "kind is 'prompt'"),
        (lambda: compose.loop("own-classifier").learn(compose.task("concept-shift()"), 20), "brings no linear layer"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def test_a_loss_that_is_not_finite_stops_it():
    x, y = rows()
    with pytest.raises(Diverged, match="the loss of rgb became nan"):
        adapter().fit([({**x, "rgb": x["rgb"] * torch.nan}, y)], ("rgb",), epochs=1)


# --- the task ---------------------------------------------------------------------------------------------------------


def test_sensors_that_do_not_work_have_no_encoder_and_a_blank_feature():
    network, some = DigitSensors("ABC", start="none").network(0), DigitSensors("AC", start="none").base(0)
    assert set(some.encoders) == {"A", "C"}
    x = DigitSensors("ABC").labelled(0).x
    torch.testing.assert_close(some({"A": x["A"], "C": x["C"]}), network({"A": x["A"], "C": x["C"]}))


def test_dropped_sensors_leave_a_row_something():
    network = SensorNetwork(drop=0.999).train()
    seen = []
    network.fusion.register_forward_pre_hook(lambda _, given: seen.append(given[0].abs().sum(1)))
    network(DigitSensors("ABC").labelled(0).x)
    assert (seen[0] > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"available": ""}, "available is ''"), ({"available": "AA"}, "available is 'AA'"), ({"available": "AD"}, "'AD'"),
     ({"start": "x"}, "start is 'x'"), ({"epochs": 0}, "epochs is 0")],
)  # fmt: skip
def test_errors_of_the_task(settings, message):
    with pytest.raises(FewerError, match=message):
        DigitSensors(**settings)
