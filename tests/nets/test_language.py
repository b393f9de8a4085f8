"""Language modelling: it is ordinary training, resumes to the bit, keeps its budget, and scores what it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fewer import catalogue, compose
from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import SGD, AdamW, Constant, Cosine
from fewer.nets.galore import GaLore
from fewer.nets.language import LanguageModelling, groups_of, held_out_loss
from fewer.nets.linears import Dense
from fewer.nets.low_rank import LowRank
from fewer.nets.per_layer_updates import AdamWInBackward
from fewer.nets.relora import ReLoRA, relora
from fewer.nets.sltrain import SLTrain
from fewer.tasks.digits import digits
from fewer.tasks.text import Text

SMALL = CausalLM(width=16, layers=1, heads=2)
WORDS = b"the cat sat on the mat and the dog on the log. "


def words(repeats=60, **options):
    return Text.of("words", [WORDS * repeats], vocabulary=128, **options)


def small(**fillings):
    return LanguageModelling(**{"model": SMALL, "context": 8, "batch": 4, "points": 4, "scored": 160, **fillings})


def weights(network):
    return torch.cat([each.detach().flatten() for each in network.state_dict().values()])


def test_with_dense_layers_it_is_ordinary_training_to_the_bit():
    task, seed, steps = words(), 3, 7
    learned = small(points=1).learn(task, steps * 32, seed)
    with own_randomness(seed, "start"):
        network = SMALL.build(128)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
    draws = torch_generator(seed, "windows")
    for step in range(steps):
        starts = torch.randint(len(task.tokens) - 8, (4, 1), generator=draws)
        windows = torch.from_numpy(task.tokens.astype(np.int64))[starts + torch.arange(9)]
        optimiser.param_groups[0]["lr"] = 3e-3 * Cosine(0.1, 0.1).factor(step / steps)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    torch.testing.assert_close(weights(learned.result), weights(network), rtol=1e-5, atol=1e-7)


def test_the_score_is_bits_per_byte_of_the_held_out_part():
    task = words()
    learned = small().learn(task, 640)
    network, point = learned.result, learned.curve.points[-1]
    stream = torch.from_numpy(task.held_out.astype(np.int64))
    losses = []
    for begin in range(0, len(stream) - 8, 8):
        logits = network(stream[None, begin : begin + 8])[0].log_softmax(-1)
        losses += [-float(logits[at, stream[begin + at + 1]]) for at in range(8)]
    whole = small(scored=10**6).learn(task, 640).curve.points[-1]
    assert whole.score == pytest.approx(-np.mean(losses) / math.log(2), rel=1e-5)
    assert point.extras["perplexity"] == pytest.approx(2**-point.score)
    assert held_out_loss(network, task.scored(8, 160), block=9) == pytest.approx(-point.score * math.log(2), rel=1e-6)


def test_tokens_of_several_bytes_share_their_bits():
    one = words()
    two = Text("two", one.tokens, one.held_out, one.vocabulary, bytes_per_token=4.0)
    a, b = (small().learn(task, 160).curve.points[-1] for task in (one, two))
    assert b.score == pytest.approx(a.score / 4)
    assert b.extras["perplexity"] == a.extras["perplexity"]


def test_it_learns_and_every_way_to_parameterise_does():
    for linears in (Dense(), SLTrain(4, 0.1, 8.0), LowRank(4, 8.0, "random"), ReLoRA(4, 8.0)):
        curve = small(linears=linears, optimiser=AdamW(0.02, 0.0), batch=16).learn(words(), 20_000).curve
        assert curve.final > -1.6, linears
        assert curve.points[0].score < curve.final - 0.3


LOOPS = {
    "dense": small(),
    "sltrain": small(linears=SLTrain(4, 0.1, 8.0)),
    "relora": small(**relora(rank=4, restarts=3)),
    "galore": small(optimiser=GaLore(rank=2, refresh=3)),
    "galore, sltrain": small(linears=SLTrain(4, 0.1, 8.0), optimiser=GaLore(rank=2, refresh=3)),
    "in backward": small(linears=LowRank(4, initial="random"), optimiser=AdamWInBackward(0.01)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_stopped_after_any_point_it_goes_on_to_the_bit(name, tmp_path):
    loop, task = LOOPS[name], words()

    def told(points):
        return [(point.spent, point.score, point.extras["loss"]) for point in points]

    whole = told(loop.run(task, 500, 1))
    assert [spent for spent, *_ in whole] == [128, 256, 384, 496]
    for stop in range(1, 4):
        file = tmp_path / f"{stop}"
        assert told(itertools.islice(loop.run(task, 500, 1, checkpoint=file), stop)) == whole[:stop]
        assert told(loop.run(task, 500, 1, checkpoint=file)) == whole


@pytest.mark.parametrize("budget", [32, 40, 100, 259])
def test_the_budget_is_used_up_to_less_than_a_window(budget):
    learned = small().learn(words(), budget)
    assert budget - 8 < learned.curve.points[-1].spent <= budget
    assert learned.curve.points[-1].spent == learned.ledger["tokens"]


def test_extras_count_what_is_learned():
    task = words()
    dense, sparse = (
        small(linears=each, points=1).learn(task, 64).curve.points[-1].extras for each in (Dense(), SLTrain(4))
    )
    assert dense["linear_parameters"] == 4 * 16 * 16 + 3 * 16 * 48
    assert dense["linear_fixed_bytes"] == 0
    assert sparse["linear_fixed_bytes"] == 4 * (4 * 7 + 3 * 23)
    assert sparse["linear_parameters"] == 4 * (4 * 32 + 7) + 3 * (4 * 64 + 23)
    for each in (dense, sparse):
        assert each["parameters"] - each["linear_parameters"] == 2 * 128 * 16 + 3 * 16


def test_groups_tell_the_linear_layers_from_the_rest():
    network = SMALL.build(128)
    done = ReLoRA(2).replace(network, 0)
    linear, rest = groups_of(network, done.layers)
    assert (linear["project"], rest["project"]) == (True, False)
    assert len(linear["params"]) == 14  # A and B of seven layers; the frozen weights are in neither
    assert {id(each) for each in rest["params"]} >= {id(network.lm_head.weight), id(network.model.norm.weight)}


def test_the_slots_are_called_between_steps_with_shares_that_add_up():
    seen = []

    class Spy(Dense):
        def after_step(self, step):
            seen.append((step.began, step.ended, step.seed))

    small(linears=Spy()).learn(words(), 160, seed=5)
    assert [round(ended * 5) for _, ended, _ in seen] == [1, 2, 3, 4, 5]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(seen))
    assert {each[2] for each in seen} == {5}


def test_any_network_that_reads_tokens_can_be_trained():
    class Bigrams:
        def build(self, vocabulary):
            return nn.Embedding(vocabulary, vocabulary)

    learned = small(model=Bigrams(), optimiser=SGD(lr=5.0), schedule=Constant()).learn(words(), 3200)
    assert learned.curve.final > -2
    with pytest.raises(FewerError, match="no linear layer's name contains any of"):
        small(model=Bigrams(), linears=SLTrain()).learn(words(), 3200)


def test_requests_that_cannot_run_are_one_clear_line():
    for wrong in ({"context": 0}, {"batch": 0}, {"points": 0}, {"scored": 0}, {"clip": 0.0}):
        with pytest.raises(FewerError, match="must be at least 1 and clip above 0"):
            small(**wrong)
    with pytest.raises(FewerError, match="a budget of 31 tokens is below the first round, which takes 32"):
        small().run(words(), 31, 0)
    with pytest.raises(FewerError, match="are too few for a context of 64"):
        LanguageModelling().learn(words(4), 10_000)
    with pytest.raises(FewerError, match="LanguageModelling runs on a Text task; digits is a Classification"):
        small().run(digits(), 100, 0)
    with pytest.raises(FewerError, match=r"layer model\.layers\.0\.self_attn\.q_proj: a rank of 16 does not lie"):
        small(linears=SLTrain(rank=16)).learn(words(), 100)
    with pytest.raises(Diverged, match=r"the training loss became (nan|inf) after \d+ tokens; lower the learning rate"):
        small(optimiser=SGD(lr=1e30), clip=1e30, schedule=Constant()).learn(words(), 640)


def test_names_compose():
    spec = "language-modelling(context=8, clip=0.5) + causal-lm(width=32) + low-rank(rank=4, initial='random') + galore"
    assert compose.loop(spec) == LanguageModelling(
        model=CausalLM(32), linears=LowRank(4, initial="random"), optimiser=GaLore(), context=8, clip=0.5
    )
    with pytest.raises(FewerError, match="relora and low-rank both fill the slot linears"):
        compose.loop("relora + low-rank")
    with pytest.raises(FewerError, match="cosine and relora both fill the slot schedule"):
        compose.loop("cosine + relora")


@pytest.mark.parametrize(
    "name",
    [name for name, part in catalogue.fillings().items() if "fewer.nets.language:LanguageModelling" in part.loops],
)
def test_every_filling_of_the_catalogue_runs(name):
    extra = "" if "model" in catalogue.fillings()[name].slots else "causal-lm(width=16, layers=1, heads=2) + "
    if name == "causal-lm":
        name = "causal-lm(width=16, layers=1, heads=2)"
    loop = compose.loop(f"language-modelling(context=8, batch=4, points=2, scored=80) + {extra}{name}")
    assert len(list(loop.run(words(), 160, 0))) == 2
