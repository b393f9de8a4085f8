"""PRE: the limit CoOp, coupling of tokens, networks written out, where it begins, its slots and its race."""

from __future__ import annotations

import pytest
import torch
from tests.adapt.prompt_models import NAMES, features, small_clip
from torch import nn

from fewer import compose
from fewer.adapt import PRE, PromptLearner
from fewer.adapt.context_encoders import ContextEncoder
from fewer.adapt.loop import Adaptation
from fewer.adapt.pre import RATES, claim
from fewer.adapt.prompt_heads import Prompt
from fewer.adapt.redrawn_scenes import RedrawnScenes
from fewer.claim import Evidence
from fewer.core.errors import FewerError

KINDS = ["lstm", "lstm2", "mlp", "mlp2", "transformer"]


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_with_an_encoder_that_says_nothing_it_is_coop(kind):
    x, y = features(), torch.tensor([0, 1, 2, 0, 1])
    pre, coop = (PromptLearner(small_clip(), NAMES, each) for each in (kind, None))
    with torch.no_grad():
        for each in pre.encoder.parameters():
            each.zero_()
    assert torch.equal(pre(x), coop(x))
    for learner in (pre, coop):
        nn.functional.cross_entropy(learner(x), y).backward()
    torch.testing.assert_close(pre.context.grad, coop.context.grad)


def test_it_begins_near_the_hand_written_prompt_but_not_on_it():
    torch.manual_seed(0)
    clip, x = small_clip(512, moved=0.0), features(20)
    with torch.no_grad():
        found, hand = PromptLearner(clip, NAMES, "lstm"), PromptLearner(clip, NAMES, None)
        assert 0 < (found.encoded() - hand.encoded()).abs().max() < 0.1
        other = PromptLearner(clip, NAMES, None, init=None)
        assert 0 < (found(x) - hand(x)).norm() < 0.7 * (other(x) - hand(x)).norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("separate", [False, True])
def test_shapes_skip_and_coupling(kind, separate):
    torch.manual_seed(0)
    context = torch.randn(4, 8)
    encoder = ContextEncoder(kind, 8, 4, separate=separate).eval()
    found = encoder(context)
    assert found.shape == (4, 8)
    assert len(encoder.networks) == (4 if separate else 1)
    encoder.residual = False
    torch.testing.assert_close(found, encoder(context) + context)
    moved = context[[0, 2, 1, 3]]
    others = encoder(moved)[[0, 3]] - encoder(context)[[0, 3]]
    coupled = not separate and kind not in ("mlp", "mlp2")
    assert (others.abs().max() > 1e-4) == coupled
    if kind == "mlp" and not separate:
        assert torch.allclose(encoder(moved), encoder(context)[[0, 2, 1, 3]], atol=1e-6)


def test_networks_of_their_own_are_trained_each_by_its_token():
    encoder = ContextEncoder("lstm", 8, 4, separate=True)
    encoder(torch.randn(4, 8))[2].sum().backward()
    moved = [
        any(each.grad is not None and each.grad.any() for each in network.parameters()) for network in encoder.networks
    ]
    assert moved == [False, False, True, False]


def test_the_lstm_written_out():
    torch.manual_seed(0)
    encoder = ContextEncoder("lstm", 6, 4).double()
    lstm, context = encoder.networks[0].lstm, torch.randn(4, 6, dtype=torch.float64)
    halves = []
    for suffix, order in (("", range(4)), ("_reverse", range(3, -1, -1))):
        w_in, w_out, b_in, b_out = (
            getattr(lstm, f"{part}_l0{suffix}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = cell = torch.zeros(3, dtype=torch.float64)
        said = {}
        for place in order:
            i, f, g, o = (w_in @ context[place] + b_in + w_out @ hidden + b_out).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            said[place] = hidden
        halves.append(torch.stack([said[place] for place in range(4)]))
    torch.testing.assert_close(encoder(context), torch.cat(halves, dim=1) + context)
    assert torch.autograd.gradcheck(encoder, (context.requires_grad_(),))


def test_the_mlps_written_out():
    encoder = ContextEncoder("mlp", 7, 2)  # an odd width is no matter here
    first, _, second = encoder.networks[0]
    context = torch.randn(2, 7)
    torch.testing.assert_close(encoder(context), second(torch.relu(first(context))) + context)
    twice = ContextEncoder("mlp2", 7, 2)
    twice.networks[0].load_state_dict(
        {f"{3 * turn + place}.{part}": value for turn in (0, 1) for place, layer in ((0, first), (2, second))
         for part, value in layer.state_dict().items()}
    )  # fmt: skip
    once = second(torch.relu(first(context)))
    torch.testing.assert_close(twice(context), second(torch.relu(first(once))) + context)
    assert sum(each.numel() for each in twice.parameters()) == sum(each.numel() for each in encoder.parameters())


def test_dropout_acts_while_learning_alone():
    context = torch.randn(4, 8)
    for kind in ("lstm2", "transformer"):
        encoder = ContextEncoder(kind, 8, 4)
        assert not torch.equal(encoder(context), encoder(context)) or kind == "lstm2"
        assert encoder.eval()(context).equal(encoder(context))
    deep = ContextEncoder("lstm2", 64, 4)
    assert not torch.equal(deep(torch.ones(4, 64)), deep(torch.ones(4, 64)))


def test_its_slots():
    slots = PRE(encoder="mlp", n_ctx=3, residual=False, separate=True, lr=0.5)
    assert slots["head"] == Prompt("mlp", 3, None, residual=False, separate=True)
    assert slots["optimiser"].lr == 0.5
    assert PRE()["head"] == Prompt("lstm")


def test_it_learns_the_base_classes_of_the_small_task_and_leaves_the_model():
    task = RedrawnScenes(shots=4, test=40, steps=2)
    loop = Adaptation(**PRE(lr=0.3), steps=12, batch=16, points=1)
    state = loop.start(task, 64, 0)
    adapted, extras = loop.train(state, 64)  # raises where the frozen model moved
    width = 64
    lstm = 2 * (4 * 32 * width + 4 * 32 * 32 + 8 * 32)
    assert extras["parameters"] == 4 * width + lstm
    before, _ = Adaptation(head=Prompt(learned=False), steps=1).train(state, 64)
    x, y = state.labelled.x, state.labelled.y
    losses = [-torch.from_numpy(each.probabilities(x)).log()[range(64), y].mean() for each in (adapted, before)]
    assert losses[0] < losses[1]
    assert set(adapted.new()) == {"head.learner.context"} | {
        f"head.learner.encoder.networks.0.lstm.{name}"
        for name, _ in nn.LSTM(64, 32, bidirectional=True).named_parameters()
    }


def test_methods_are_raced_by_name(tmp_path):
    task = RedrawnScenes(shots=2, test=10, steps=2)
    for spec in ("pre", "coop(lr=0.1)", "cocoop", "hand-prompt", "pre + lora"):
        loop = compose.loop(spec)
        curve = list(type(loop)(**{**vars(loop), "steps": 2, "points": 1}).run(task, 32, 0))
        assert set(curve[-1].extras) >= {"base", "new", "parameters"}
    with pytest.raises(FewerError, match="knows only the classes it has learned"):
        list(Adaptation(steps=1, points=1).run(task, 32, 0))


def test_a_model_that_is_no_clip_is_refused():
    from fewer.adapt.concept_shift import ConceptShift

    with pytest.raises(FewerError, match="the model of concept-shift is no CLIP"):
        list(compose.loop("pre").run(ConceptShift(), 20, 0))


def test_four_of_five_are_mostly():
    judge = claim.holds[1].judge
    for wins, verdict in ((5, "holds"), (4, "holds"), (3, "does not hold")):
        measures = [
            {f"pre at {rate:g}": {"H": float(seed < wins)} for rate in RATES}
            | {f"coop at {rate:g}": {"H": 0.5} for rate in RATES}
            for seed in range(5)
        ]
        assert judge(Evidence(measures=measures)).verdict == verdict
