"""Learned queries: the two forms agree, the backbone is as it was, layers are independent, little is kept, on what is adapted."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests.adapt.vision_models import DEPTH, HEADS, TRANSFORMERS, WIDTH, images, transformers_model, vit
from torch import nn
from torch.nn import functional

from fewer import compose
from fewer.adapt.bottleneck_adapter import Bottleneck
from fewer.adapt.digit_changes import digit_changes
from fewer.adapt.feature_selection import GroupLasso, rare_classes
from fewer.adapt.loop import Adaptation, LinearHead
from fewer.adapt.low_rank_adapter import LoRA
from fewer.adapt.meter import bytes_for_backward
from fewer.adapt.scale_shift import ScaleShift
from fewer.adapt.scalearn import ScaLearn
from fewer.adapt.visual_prompts import VisualPromptTuning
from fewer.adapt.vqt import VQT, QueryReadout, QueryTokens
from fewer.core.errors import FewerError


def concatenated(model, queries, x):
    """Queries and tokens in one sequence, as it is written: all rows ask, only the tokens answer."""
    tokens, _ = model._embed(x)
    tokens = model._joined(tokens, 0)
    found = []
    for block, own in zip(model.blocks, queries, strict=True):
        count = len(own)
        rows = torch.cat([own.expand(len(x), -1, -1), tokens], dim=1)
        query, key, value = block.attn.qkv(block.norm1(rows)).chunk(3, -1)
        said = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            weights = query[..., part] @ key[:, count:, part].mT / (WIDTH / HEADS) ** 0.5
            said.append(weights.softmax(-1) @ value[:, count:, part])
        rows = rows + block.attn.proj(torch.cat(said, -1))
        rows = rows + block.mlp(block.norm2(rows))
        found.append(rows[:, :count].flatten(1))
        tokens = rows[:, count:]
    first = model.norm(tokens)[:, 0]
    return torch.cat([each / each.norm(dim=1, keepdim=True) for each in (first, *found)], dim=1)


def test_the_cheap_form_is_the_concatenated_one_in_outputs_and_gradients():
    model = vit().double()
    readout = QueryReadout(model, tokens=3, dropout=0.0).double()
    x = images().double()
    mine, theirs = readout(x), concatenated(model, readout.queries, x)
    assert torch.allclose(mine, theirs, atol=1e-10)
    weights = torch.randn(mine.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((each * weights).sum(), readout.queries)[0] for each in (mine, theirs)]
    assert torch.allclose(*gradients, atol=1e-10)
    assert gradients[0].abs().max() > 1e-3


def test_gradients_by_differences():
    model = vit(depth=2).double()
    readout = QueryReadout(model, tokens=2, dropout=0.0).double()
    readout(images(1).double())

    def of(queries):
        return torch.func.functional_call(readout, {"queries": queries}, (images(2).double(),))

    assert torch.autograd.gradcheck(of, (readout.queries.detach().requires_grad_(True),))


@pytest.mark.parametrize("kind", ["ours", *TRANSFORMERS])
def test_every_kind_of_backbone_is_read_and_left_as_it_is(kind):
    model = vit() if kind == "ours" else transformers_model(kind)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    plain = copy.deepcopy(model)
    readout = QueryReadout(model, tokens=2)
    features = readout(images())
    assert features.shape == (5, WIDTH * (1 + 2 * DEPTH)) == (5, readout.width)
    for block in features.split([WIDTH] + [2 * WIDTH] * DEPTH, dim=1):
        assert torch.allclose(block.norm(dim=1), torch.ones(5))
        assert block.std(0).mean() > 1e-4  # images differ
    features.square().sum().backward()
    assert all(each.grad is None for each in model.parameters())
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    mine, theirs = model(images()), plain(images())
    for name in ("last_hidden_state", "logits", "image_embeds"):
        if hasattr(mine, name):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_queries_in_another_order_give_summaries_in_that_order():
    readout = QueryReadout(vit(), tokens=3, normalise=False).eval()
    before = readout(images())[:, WIDTH:].unflatten(1, (DEPTH, 3, WIDTH))
    with torch.no_grad():
        readout.queries.copy_(readout.queries[:, [2, 0, 1]])
    after = readout(images())[:, WIDTH:].unflatten(1, (DEPTH, 3, WIDTH))
    assert torch.allclose(after, before[:, :, [2, 0, 1]], atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


def test_layers_are_independent():
    readout = QueryReadout(vit(), tokens=2).eval()
    weights = torch.randn(readout.width, generator=torch.Generator().manual_seed(0))

    def gradient(weights):
        return torch.autograd.grad((readout(images()) * weights).sum(), readout.queries)[0]

    whole, alone = gradient(weights), torch.zeros_like(weights)
    second = slice(WIDTH + 2 * WIDTH, WIDTH + 4 * WIDTH)
    alone[second] = weights[second]
    assert torch.equal(gradient(alone)[1], whole[1])
    assert not gradient(alone)[[0, 2]].any()


def test_without_weights_on_the_summaries_it_is_a_linear_probe():
    model = vit()
    readout = QueryReadout(model, normalise=False).eval()
    head = LinearHead(rare_classes(readout.width, 4))
    with torch.no_grad():
        head.linear.weight[:, WIDTH:] = 0
    probe = functional.linear(model(images()), head.linear.weight[:, :WIDTH], head.linear.bias)
    assert torch.allclose(head.logits(readout(images()))[:, 0], probe, atol=1e-6)


def test_the_mean_of_patches_is_read_where_it_is_asked_for():
    model = vit()
    readout = QueryReadout(model, normalise=False, first="mean").eval()
    assert torch.equal(readout(images())[:, :WIDTH], model.forward_features(images())[:, 1:].mean(1))


def test_dropout_is_of_the_queries_and_drawn_for_each_image():
    readout = QueryReadout(vit(), tokens=2, dropout=0.5)
    same = images(1).expand(4, -1, -1, -1)
    torch.manual_seed(0)
    first = readout.train()(same)
    assert not torch.allclose(first[0], first[1])
    assert torch.allclose(first[:, :WIDTH], first[:1, :WIDTH])  # the backbone drops nothing
    assert torch.allclose(readout.eval()(same), readout(same)[:1])


def test_little_is_kept_for_going_backwards():
    model, x, tokens = vit(embed_dim=64, depth=4, num_heads=4, img_size=32), images(8, seed=2), 2
    x = functional.interpolate(x, size=32)
    parameters = list(model.parameters())
    readout = QueryReadout(model, tokens).train()
    readout(x)
    kept = bytes_for_backward(lambda: readout(x).sum(), [*parameters, readout.queries])
    # keys and values of 65 tokens, and of the queries what a block computes: 20 times their size at most
    keys_values = 4 * 4 * 8 * 65 * 2 * 64
    assert keys_values <= kept <= keys_values + 4 * 4 * 8 * tokens * 20 * 64
    prompted = VisualPromptTuning(tokens).attach(vit(embed_dim=64, depth=4, num_heads=4, img_size=32))
    assert kept < 0.3 * bytes_for_backward(lambda: prompted(x).sum(), prompted.parameters())

    shapes = []

    def keep(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        readout(x)
    assert not [shape for shape in shapes if shape == (8, 65, 64)]  # tokens of the backbone
    assert sum(shape == (8, 4, 65, 16) for shape in shapes) == 2 * 4  # its keys and values


@pytest.mark.parametrize("way", [LoRA(rank=2), ScaleShift(), VisualPromptTuning(2), Bottleneck(reduction=4)])
def test_on_an_adapted_backbone_both_learn(way):
    model = way.attach(vit())
    for name, each in model.named_parameters():
        if each.requires_grad:
            nn.init.normal_(each, std=0.2)
        assert each.requires_grad == any(part in name for part in ("built_in", "visual_prompts")), name
    readout = QueryReadout(model, tokens=2).eval()
    features = readout(images())  # the class token, sent through what was built in, comes out the same
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features * weights).sum().backward()
    assert readout.queries.grad.abs().sum() > 0
    for name, each in model.named_parameters():
        assert (each.grad is not None and bool(each.grad.any())) == each.requires_grad, name
    assert not torch.allclose(features, QueryReadout(vit(), tokens=2).eval()(images()), atol=1e-3)


def test_on_frozen_adapters_of_other_tasks_the_coefficients_learn():
    way = Bottleneck(reduction=4)
    sources = {}
    for task in ("dogs", "cats"):
        model = way.attach(vit())
        for each in model.parameters():
            if each.requires_grad:
                nn.init.normal_(each, std=0.2)
        sources[task] = way.trained(model, task)
    model = ScaLearn("uniform", sources).attach(vit())
    readout = QueryReadout(model, tokens=2).train()  # dropout on the coefficients, too
    readout(images()).square()[:, ::3].sum().backward()
    learned = {name for name, each in readout.named_parameters() if each.grad is not None and each.grad.any()}
    assert learned == {"queries", *(f"model.blocks.{at}.built_in.coefficients.omega" for at in range(DEPTH))}


def test_a_model_of_which_nothing_is_trained_stays_in_evaluation():
    readout = QueryReadout(vit()).train()
    assert readout.dropout.training
    assert not any(each.training for each in readout.model.modules())
    assert QueryReadout(vit().requires_grad_(True)).train().model.blocks[0].training


@pytest.mark.parametrize("adapter", [None, VisualPromptTuning(2), LoRA(2)])
def test_in_the_loop_it_learns_and_saves_what_is_new(adapter, tmp_path):
    task = digit_changes("place", small=True)
    loop = Adaptation(adapter=adapter, **VQT(2, dropout=0.0), steps=3, batch=16, points=1)
    learned = loop.learn(task, 32, 0)
    extras, adapted = learned.curve.points[-1].extras, learned.result
    own = 2 * 2 * 16 + (16 * 5 + 1) * 8
    assert extras["parameters"] == own + sum(
        each.numel() for name, each in adapted.readout.model.named_parameters() if each.requires_grad
    )
    adapted.save(tmp_path / "new.safetensors")
    x = task.labelled(0).test_x[:5]
    other = dataclasses.replace(loop, steps=1).learn(task, 32, 0).result
    assert (other.probabilities(x) != adapted.probabilities(x)).any()
    assert (other.load(tmp_path / "new.safetensors").probabilities(x) == adapted.probabilities(x)).all()


def test_by_name_in_a_race():
    loop = compose.loop("vqt(tokens=4, first='mean') + visual-prompts(tokens=2)")
    assert loop.readout == QueryTokens(4, first="mean")
    assert loop.head == GroupLasso(0.0)
    assert loop.adapter == VisualPromptTuning(2)
    with pytest.raises(FewerError, match="vqt and head2toe both fill the slot readout"):
        compose.loop("vqt + head2toe")


def test_half_precision_is_read_and_features_are_whole():
    readout = QueryReadout(vit().bfloat16(), tokens=2).eval()
    features = readout(images())
    assert features.dtype == torch.float32
    assert torch.allclose(features, _same_queries(readout)(images()), atol=0.1)


def _same_queries(readout):
    whole = QueryReadout(vit(), tokens=2).eval()
    with torch.no_grad():
        whole.queries.copy_(readout.queries)
    return whole


def test_a_copy_has_its_own_queries_and_reads_its_own_model():
    readout = QueryReadout(vit(), tokens=2).eval()
    before = readout(images())
    other = copy.deepcopy(readout)
    with torch.no_grad():
        other.model.blocks[0].attn.qkv.weight.mul_(2)
    assert torch.equal(readout(images()), before)
    assert not torch.allclose(other(images()), before)


@pytest.mark.parametrize(
    "settings", [{"tokens": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"first": "last"}], ids=lambda each: str(each)
)
def test_settings_out_of_range(settings):
    with pytest.raises(FewerError, match="vqt: tokens must be at least 1"):
        QueryTokens(**settings)


def test_where_the_start_lies():
    torch.manual_seed(0)
    readout = QueryReadout(vit(), tokens=50)
    bound = (6 / (3 * 16 + WIDTH)) ** 0.5
    assert 0.95 * bound < readout.queries.abs().max() <= bound
