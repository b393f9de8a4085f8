"""Decoding: what is drawn, how likely it was, and that neither depends on how the rows are worked on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.cached_decoder import CachedBlock
from fewer.models.causal_lm import CausalLM
from fewer.rollouts import decoding
from fewer.rollouts.decoding import Sampled, decode, teacher_forced
from fewer.rollouts.drawing import Drawing, chosen

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5], [8]]
SHAPES = {
    "plain": CausalLM(width=32, layers=2, heads=4),
    "grouped": CausalLM(width=32, layers=2, heads=4, kv_heads=2, biases=True, tied=True),
}


def made(shape: CausalLM = SHAPES["grouped"], vocabulary: int = 23) -> nn.Module:
    torch.manual_seed(3)
    network = shape.build(vocabulary)
    for parameter in network.parameters():  # far from uniform odds
        nn.init.normal_(parameter, std=0.35)
    return network.eval()


def drawn(network=None, seed=0, **options):
    options = {"prompts": PROMPTS, "new": 12, "end": [0, 7], "pad": 0} | options
    draws = None if options.get("greedy") else torch.Generator().manual_seed(seed)
    return decode(network or made(), options.pop("prompts"), draws=draws, **options)


OPTIONS = {
    "model": {},
    "groups": {"group": 3},
    "cold": {"temperature": 0.6, "group": 2},
    "annealed": {"temperature": lambda place: 1.4 - 0.1 * place},
    "nucleus": {"top_p": 0.7, "temperature": 1.2},
    "few": {"top_k": 3, "group": 2},
    "few and nucleus": {"top_k": 5, "top_p": 0.8},
    "greedy": {"greedy": True},
    "caps": {"new": torch.tensor([1, 5, 12, 3])},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_log_probabilities_are_those_of_one_pass_over_whole_rows(shape, options):
    network = made(SHAPES[shape])
    sampled = drawn(network, **OPTIONS[options])
    logps, entropy = teacher_forced(network, sampled, entropy=True)
    assert sampled.mask.any(1).all()
    torch.testing.assert_close(sampled.logps, logps.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(sampled.entropy, entropy.detach(), rtol=0, atol=1e-4)
    for each in (sampled.logps, sampled.behaviour, sampled.entropy):
        assert (each[~sampled.mask] == 0).all()
        assert each.requires_grad is False


@pytest.mark.parametrize("options", OPTIONS)
def test_each_row_is_what_it_is_alone_without_padding_or_cache(options):
    """The whole sequence goes through the network for every token, with the logits changed by other rules than ours."""
    network, given = made(), OPTIONS[options]
    sampled = drawn(network, **given)
    group, temperature = given.get("group", 1), given.get("temperature", 1.0)
    for row, completion in enumerate(sampled.completions()):
        tokens = list(PROMPTS[row // group])
        assert sampled.tokens[row, sampled.padding[row] : sampled.prompt].tolist() == tokens
        for place, token in enumerate(completion):
            with torch.no_grad():
                logits = network(torch.tensor([tokens]))[0, -1]
            model = logits.log_softmax(0)
            assert float(sampled.logps[row, place]) == pytest.approx(float(model[token]), abs=1e-4)
            odds = (logits / (temperature(place) if callable(temperature) else temperature)).softmax(0)
            if "top_k" in given:
                odds[odds < odds.sort().values[-given["top_k"]]] = 0
                odds /= odds.sum()
            if "top_p" in given:
                larger = (odds[:, None] > odds).double().T @ odds.double()[:, None]
                odds[larger[:, 0] >= given["top_p"]] = 0
                odds /= odds.sum()
            if given.get("greedy"):
                assert token == int(logits.argmax())
                odds = torch.eye(len(logits))[token]
            assert float(sampled.behaviour[row, place]) == pytest.approx(float(odds[token].log()), abs=1e-4)
            tokens.append(token)


def test_rows_end_where_they_should_and_are_filled_up_after_it():
    caps = torch.tensor([2, 9, 30, 30, 1, 30, 30, 30])
    sampled = drawn(new=caps, group=2)
    for row, completion in enumerate(sampled.completions()):
        ended = completion[-1] in (0, 7)
        assert not {0, 7} & set(completion[:-1])
        assert len(completion) <= caps[row]
        assert ended or len(completion) == caps[row]
        assert bool(sampled.finished[row]) == ended
        assert (sampled.tokens[row, sampled.prompt + len(completion) :] == 0).all()
    assert sampled.mask.sum(1).max() == sampled.mask.shape[1] == sampled.tokens.shape[1] - sampled.prompt
    assert sampled.finished.any()
    assert not sampled.finished.all()


def test_the_same_draws_give_the_same_rows_whoever_else_is_there():
    one, two, other = drawn(group=3), drawn(group=3), drawn(group=3, seed=1)
    assert torch.equal(one.tokens, two.tokens)
    torch.testing.assert_close(one.logps, two.logps, rtol=0, atol=0)
    assert one.tokens.shape != other.tokens.shape or not torch.equal(one.tokens, other.tokens)
    # the numbers of a row depend on its place alone: with others that end early, it stays as it is
    caps = torch.full((12,), 12)
    caps[1:] = 1
    assert drawn(group=3, new=caps).completions()[0] == one.completions()[0]


def test_rows_leave_only_where_that_is_worthwhile_and_nothing_changes_by_it(monkeypatch):
    kept = []
    real = decoding.CachedDecoder.keep

    def keep(self, rows):
        kept.append(len(rows))
        real(self, rows)

    monkeypatch.setattr(decoding.CachedDecoder, "keep", keep)
    with_leaving = drawn(group=4, new=20)
    assert kept
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 16
    monkeypatch.setattr(decoding.CachedDecoder, "keep", lambda self, rows: pytest.fail("no row should leave"))
    endless = drawn(group=4, new=20, end=[])
    assert endless.mask.all()
    assert not endless.finished.any()
    for mine, whole in zip(with_leaving.completions(), endless.completions(), strict=True):
        assert whole[: len(mine)] == mine


def test_drawn_tokens_have_the_frequencies_of_the_model():
    network, count = made(vocabulary=6), 4000
    sampled = drawn(network, prompts=[[1, 2]], new=1, end=[], group=count, temperature=1.5)
    with torch.no_grad():
        odds = (network(torch.tensor([[1, 2]]))[0, -1] / 1.5).softmax(0)
    seen = torch.bincount(sampled.tokens[:, 2], minlength=6) / count
    assert ((seen - odds).abs() < 4 * (odds * (1 - odds) / count).sqrt() + 1e-9).all()


def test_gradients_are_those_of_a_plain_pass_also_in_small_parts(monkeypatch):
    network = made()
    sampled = drawn(network, group=2)
    weights = torch.randn(sampled.mask.shape, generator=torch.Generator().manual_seed(0))

    def gradients(logps):
        network.zero_grad()
        (logps * weights * sampled.mask).sum().backward()
        return {name: each.grad.clone() for name, each in network.named_parameters()}

    plain = torch.zeros(sampled.mask.shape)
    for row, completion in enumerate(sampled.completions()):
        tokens = sampled.tokens[row, sampled.padding[row] : sampled.prompt + len(completion)]
        logps = network(tokens[None, :-1])[0].div(0.7).log_softmax(1)
        logps = logps.gather(1, tokens[1:, None])[-len(completion) :, 0]
        plain[row, : len(completion)] = logps
    expected = gradients(plain)
    for worked, kept in ((decoding.WORKED, decoding.KEPT), (40, decoding.KEPT), (40, 40), (decoding.WORKED, 40)):
        monkeypatch.setattr(decoding, "WORKED", worked)
        monkeypatch.setattr(decoding, "KEPT", kept)
        found = teacher_forced(network, sampled, temperature=0.7)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
        for name, gradient in gradients(found).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kept", "times"), [(1, 2), (2**26, 1)])
def test_logits_that_fit_are_made_once(kept, times, monkeypatch):
    network, made_of = made(), []
    sampled = drawn(network, group=2)
    monkeypatch.setattr(decoding, "KEPT", kept)
    monkeypatch.setattr(decoding, "WORKED", 1)
    real = nn.functional.linear
    monkeypatch.setattr(
        nn.functional,
        "linear",
        lambda x, weight, *bias: (
            (weight is network.lm_head.weight and made_of.append(len(x))) or real(x, weight, *bias)
        ),
    )
    teacher_forced(network, sampled).sum().backward()
    assert sum(made_of) == times * int(sampled.mask.sum())


def test_rows_without_tokens_are_zero_and_have_no_gradient():
    network = made()
    sampled = drawn(network, group=2)
    sampled.mask[1] = False
    rest = torch.tensor([row for row in range(len(sampled.mask)) if row != 1])
    found = []
    for some in (sampled, sampled.select(rest)):
        logps = teacher_forced(network, some, 0.7)
        found.append((logps, torch.autograd.grad(logps.sum(), list(network.parameters()))))
    assert found[0][0][1].tolist() == [0.0] * sampled.mask.shape[1]
    torch.testing.assert_close(found[0][0][rest], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["forward hook", "backward hook", "other forward", "LoRA"])
def test_logits_that_something_else_may_read_stay_as_they_are(kind):
    network = made()
    sampled = drawn(network, group=2)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(teacher_forced(network, sampled, 0.7).sum(), parameters)
    seen, head = [], network.lm_head
    if kind == "forward hook":
        head.register_forward_hook(lambda module, given, output: seen.append((output, output.detach().clone())))
    elif kind == "backward hook":
        head.register_full_backward_hook(lambda module, wanted, of_output: None)
    elif kind == "other forward":
        own = head.forward

        def forward(x):
            output = own(x)
            seen.append((output, output.detach().clone()))
            return output

        head.forward = forward
    else:
        peft = pytest.importorskip("peft")
        settings = peft.LoraConfig(r=2, target_modules=["lm_head"])  # begins as nothing
        network = peft.get_peft_model(network, settings).eval()
        for each in parameters:
            each.requires_grad_()
    found = torch.autograd.grad(teacher_forced(network, sampled, 0.7).sum(), parameters)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(one, two) for one, two in seen)
    assert bool(seen) == (kind in ("forward hook", "other forward"))


def test_some_of_the_rows_and_no_tokens_at_all():
    network = made()
    sampled = drawn(network, group=2)
    some = torch.tensor([5, 2])
    torch.testing.assert_close(teacher_forced(network, sampled.select(some)), teacher_forced(network, sampled)[some])
    nothing = Sampled(*vars(sampled).values()).select(some)
    nothing.mask.fill_(False)
    assert teacher_forced(network, nothing).abs().sum() == 0


def test_layers_with_something_hung_on_them_are_decoded_as_they_are():
    network = made()
    before = drawn(network, greedy=True)
    for name, layer in network.named_modules():
        if name.endswith(("v_proj", "down_proj", "lm_head")):
            layer.register_forward_hook(lambda module, given, output: output * 0.5)
    sampled = drawn(network)
    torch.testing.assert_close(sampled.logps, teacher_forced(network, sampled).detach(), rtol=0, atol=1e-4)
    after = drawn(network, greedy=True)
    assert before.logps.shape != after.logps.shape or not torch.allclose(before.logps, after.logps, atol=1e-3)


def test_an_adapted_network_of_peft_is_decoded_with_its_adapter():
    peft = pytest.importorskip("peft")
    network = made()
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    network = peft.get_peft_model(network, settings).eval()
    sampled = drawn(network)
    torch.testing.assert_close(sampled.logps, teacher_forced(network, sampled).detach(), rtol=0, atol=1e-4)


def test_half_precision_is_close_to_its_own_pass():
    network = made().bfloat16()
    sampled = drawn(network, group=2)
    assert sampled.logps.dtype == torch.float32
    gap = (sampled.logps - teacher_forced(network, sampled).detach()).abs()
    assert float(gap.max()) < 0.2


@given(
    st.lists(st.lists(st.floats(0, 5, width=32), min_size=4, max_size=4).filter(any), min_size=1, max_size=4),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=60, deadline=None)
def test_choices_have_weight_and_lie_where_the_number_says(weights, number):
    table = torch.tensor(weights)
    places = chosen(table, torch.full((len(table),), number, dtype=torch.float64))
    for row, place in zip(table.tolist(), places.tolist(), strict=True):
        assert row[place] > 0
        assert math.fsum(row[:place]) <= number * math.fsum(row) * (1 + 1e-5) + 1e-6


def test_a_nucleus_wider_than_the_first_look_is_found():
    flat = torch.zeros(2, 2000)
    drawing = Drawing(1.0, 0.9, 0, torch.Generator().manual_seed(0), 2, 1)
    _, _, behaviour, entropy = drawing.draw(flat, torch.arange(2), 0)
    torch.testing.assert_close(behaviour, torch.full((2,), -math.log(1800)), rtol=0, atol=2e-3)
    torch.testing.assert_close(entropy, torch.full((2,), math.log(2000)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": []}, "0 prompts were given"),
        ({"prompts": [[1], []]}, "each must have a token"),
        ({"group": 0}, "group is 0"),
        ({"new": 0}, "0 new tokens"),
        ({"new": torch.tensor([3, -1, 3, 3])}, "-1 new tokens"),
        ({"new": torch.tensor([3, 1])}, "new has 2 numbers for 4 rows"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_k": -1}, "top_k at least 0"),
        ({"temperature": 0.0}, "temperature of token 0 is 0"),
        ({"temperature": lambda place: 1 - place}, "temperature of token 1 is 0"),
    ],
)
def test_impossible_requests_are_refused(options, said):
    with pytest.raises(FewerError, match=said):
        drawn(**options)


def test_networks_without_numbers_or_of_another_kind_are_refused():
    with pytest.raises(FewerError, match="draws is None"):
        decode(made(), PROMPTS, new=1, end=[0], pad=0, draws=None)
    with pytest.raises(FewerError, match="Linear is no language model that can be decoded"):
        drawn(nn.Linear(2, 2))
    broken = made()
    nn.init.constant_(broken.model.norm.weight, math.nan)
    with pytest.raises(FewerError, match="logits are not numbers at token 0"):
        drawn(broken)


@pytest.mark.parametrize(
    "prompts",
    [[[1, 2, 3, 4]], [[1, 2, 3], [4, 5, 6]], [[1, 2, 3, 4, 5, 6, 7, 8], [9, 4, 6], [7] * 8], [[0, 0, 1], [1], [0, 1]]],
)
@pytest.mark.parametrize("rows", [None, [1, 0, 5, 2, 3, 1]])
def test_prompts_are_read_once_and_gradients_are_those_of_each_row(prompts, rows):
    torch.manual_seed(0)
    model = CausalLM(width=32, layers=2, heads=4, kv_heads=2, tied=True).build(50).double()
    draws = torch.Generator().manual_seed(0)
    sampled = decode(model, prompts * 2, new=5, end=[0], pad=0, draws=draws, group=3)
    if rows is not None:  # as a selector leaves them
        sampled = sampled.select(torch.tensor(rows))
    weights = torch.rand(sampled.mask.shape, generator=draws).double() * sampled.mask
    parameters = list(model.parameters())
    logps, entropy = teacher_forced(model, sampled, 0.7, entropy=True)
    found = torch.autograd.grad(((logps + 0.1 * entropy) * weights).sum(), parameters)
    total = torch.zeros(())
    for row, text in enumerate(sampled.completions()):
        first = int(sampled.padding[row])
        tokens = sampled.tokens[row, first : sampled.prompt + len(text)]
        alone = torch.log_softmax(model(tokens[None])[0, sampled.prompt - first - 1 : -1] / 0.7, -1)
        chosen = alone.gather(1, torch.tensor(text)[:, None])[:, 0]
        torch.testing.assert_close(logps[row, : len(text)], chosen.to(logps.dtype), rtol=1e-5, atol=1e-5)
        of_row = chosen - 0.1 * (alone.exp() * alone).sum(1)
        total = total + (of_row * weights[row, : len(text)]).sum()
    for one, two in zip(found, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("prompts", [PROMPTS, [[1, 2, 3], [4, 5, 6]]])
def test_attention_as_one_operation_is_that_of_products(group, prompts, monkeypatch):
    network, found = made(), []
    caps = torch.tensor([3, 12, 5, 12][: len(prompts)]).repeat_interleave(group)
    for at_once in (True, False):
        with monkeypatch.context() as patch:
            if at_once:
                patch.setattr(CachedBlock, "_seen", CachedBlock._seen_at_once)
            found.append(drawn(network, prompts=prompts, group=group, new=caps, end=[], greedy=True))
    assert torch.equal(found[0].tokens, found[1].tokens)
    for name in ("logps", "entropy"):
        torch.testing.assert_close(*(getattr(each, name) for each in found), rtol=0, atol=1e-5)


def test_in_half_precision_log_probabilities_stay_near_those_of_single(monkeypatch):
    network = made()
    exact = drawn(network, group=3, end=[], greedy=True)
    half, called = network.bfloat16(), []
    at_once = CachedBlock._seen_at_once
    monkeypatch.setattr(CachedBlock, "_seen_at_once", lambda *given: called.append(1) or at_once(*given))
    found = drawn(half, group=3, end=[], greedy=True)
    assert called
    # the first token after the prompt, and the second where both wrote the same first
    same = exact.tokens[:, len(max(PROMPTS, key=len))] == found.tokens[:, len(max(PROMPTS, key=len))]
    assert same.all()
    torch.testing.assert_close(exact.entropy[:, 1], found.entropy[:, 1], rtol=0, atol=0.05)
