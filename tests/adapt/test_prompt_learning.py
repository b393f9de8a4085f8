"""Prompts: the hand-written one, CoOp by hand, an image-conditioned context written out, folding, files, every error."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.adapt.prompt_models import NAMES, features, save_transformers_clip, small_clip
from torch import nn

from fewer.adapt import ImageConditionedPromptLearner, PromptLearner
from fewer.adapt.prompt_learning import clip_of
from fewer.core.errors import FewerError
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import TextTransformer


def by_hand(clip, x, sentences):
    with torch.no_grad():
        known = nn.functional.normalize(clip.encode_text(sentences), dim=1)
        return clip.logit_scale.exp() * nn.functional.normalize(x, dim=1) @ known.T


@pytest.mark.parametrize("stop", ["", "."])
def test_without_an_encoder_it_begins_as_the_hand_written_prompt(stop):
    clip, x = small_clip(), features()
    found = PromptLearner(clip, NAMES, None, stop=stop)(x)
    torch.testing.assert_close(found, by_hand(clip, x, [f"a photo of a {name}{stop}" for name in NAMES]))


def test_other_names_stand_behind_the_same_context():
    clip, x = small_clip(), features()
    learner = PromptLearner(clip, NAMES, "lstm")
    others = ["old_oak", "red bird"]
    fresh = PromptLearner(clip, others, None, init=None)
    fresh.context.data = learner.encoded().detach()
    torch.testing.assert_close(learner(x, others), fresh(x))
    torch.testing.assert_close(learner(x, NAMES[::-1]), learner(x).flip(1))
    assert learner(x, ["old oak", "red bird"]).equal(learner(x, others))  # underscores are spaces


def test_logits_are_those_of_a_tower_fed_place_by_place():
    clip, x = small_clip(), features()
    learner = PromptLearner(clip, NAMES, "lstm", init=None, n_ctx=3, stop="")
    tower, rows = clip.text_tower, []
    with torch.no_grad():
        for name in NAMES:
            start, *inner, end = [token for token in clip.tokens([name])[0].tolist() if token]
            parts = [tower.token_embedding.weight[start], *learner.encoded()]
            parts += [tower.token_embedding.weight[token] for token in (*inner, end)]
            z = tower.hidden(torch.stack(parts)[None])[0, -1]
            rows.append(clip.text_projection(z))
        cosines = torch.stack([torch.cosine_similarity(x, row[None]) for row in rows], dim=1)
    torch.testing.assert_close(learner(x), clip.logit_scale.exp() * cosines)


def test_gradients_reach_the_context_and_nothing_of_the_model():
    clip = small_clip()
    before = copy.deepcopy(clip.state_dict())
    learner = PromptLearner(clip, NAMES, "lstm")
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(learner(features()), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimiser.step()
    assert all(each.grad is None for each in clip.parameters())
    assert all(torch.equal(each, before[name]) for name, each in clip.state_dict().items())
    assert learner.context.grad.norm() > 0
    assert not set(map(id, learner.parameters())) & set(map(id, clip.parameters()))


def test_gradients_are_right():
    clip = small_clip().double()
    learner = PromptLearner(clip, NAMES[:2], "lstm", stop="")
    x, start = features(2).double(), learner.context.detach().clone().requires_grad_()

    def of(context):
        return torch.func.functional_call(learner, {"context": context}, (x,))

    assert torch.autograd.gradcheck(of, (start,))


def test_an_image_moves_its_own_context_alone():
    clip, x = small_clip(), features()
    learner = ImageConditionedPromptLearner(clip, NAMES, block=2)
    with torch.no_grad():
        rows = []
        for row in nn.functional.normalize(x, dim=1):
            plain = PromptLearner(clip, NAMES, None, init=None)
            plain.context.data = learner.context + learner.meta[2](torch.relu(learner.meta[0](row)))
            rows.append(plain(row[None])[0])
    torch.testing.assert_close(learner(x), torch.stack(rows))
    with torch.no_grad():
        for each in learner.meta.parameters():
            each.zero_()
    torch.testing.assert_close(learner(x), PromptLearner(clip, NAMES, None)(x))  # without its network it is CoOp
    with pytest.raises(FewerError, match="depends on the image cannot be folded"):
        learner.save("nowhere")


@pytest.mark.parametrize("kind", ["lstm", "lstm2", "mlp", "mlp2", "transformer", None])
def test_what_is_folded_says_the_same(kind):
    clip, x = small_clip(), features()
    learner = PromptLearner(clip, NAMES, kind).train()
    folded = learner.folded()
    assert learner.training
    assert folded.encoder is None
    assert [tuple(each.shape) for each in folded.parameters()] == [(4, 8)]
    assert not any(each.requires_grad for each in folded.parameters())
    torch.testing.assert_close(folded(x), learner.eval()(x))
    torch.testing.assert_close(folded(x, ["old oak"]), learner(x, ["old oak"]))


def test_a_file_holds_the_constant_context_and_the_names(tmp_path):
    clip, x = small_clip(), features()
    learner = PromptLearner(clip, NAMES, "lstm", stop="")
    learner.save(tmp_path / "prompt.safetensors")
    assert (tmp_path / "prompt.safetensors").stat().st_size < 1000
    read = PromptLearner.load(tmp_path / "prompt.safetensors", clip)
    assert read.classnames == NAMES
    torch.testing.assert_close(read(x), learner(x))
    assert torch.equal(read(x), learner.folded()(x))
    with pytest.raises(FewerError, match="a context 8 wide and the text tower is 12 wide"):
        PromptLearner.load(tmp_path / "prompt.safetensors", small_clip(12))
    (tmp_path / "other").write_bytes(b"no tensors")
    for path in ("other", "missing"):
        with pytest.raises(FewerError, match="is no saved prompt"):
            PromptLearner.load(tmp_path / path, clip)
    from safetensors.torch import save_file

    save_file({"context": torch.zeros(4, 8)}, tmp_path / "bare")
    with pytest.raises(FewerError, match="is no saved prompt"):
        PromptLearner.load(tmp_path / "bare", clip)


def test_random_vectors_are_small_and_as_many_as_asked():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = PromptLearner(small_clip(200, context=60), NAMES, None, n_ctx=40, init=None)
    assert learner.context.shape == (40, 200)
    assert float(learner.context.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert PromptLearner(small_clip(), NAMES, None, n_ctx=None, init="a photo").context.shape == (2, 8)


def test_a_model_of_transformers_with_its_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    theirs, tokens = save_transformers_clip(tmp_path)
    names, x = ["red cat", "blue dog"], torch.rand(4, 3, 16, 16)
    learner = PromptLearner(tmp_path, names, None)
    with torch.inference_mode():
        ids = tokens([f"a photo of a {name}." for name in names], return_tensors="pt")["input_ids"]
        expected = theirs(input_ids=ids, pixel_values=x * 2 - 1).logits_per_image
        found = learner(learner.clip.encode_image(x * 2 - 1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(FewerError, match="'old oak bird fox cat dog' behind 4 context tokens takes 13"):
        PromptLearner(tmp_path, ["old oak bird fox cat dog", "red"], None)
    with pytest.raises(FewerError, match="the name ' ' has no tokens"):
        PromptLearner(tmp_path, ["red", " "])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classnames": []}, r"classnames are \[\]; give a list"),
        ({"classnames": "cat"}, "classnames are 'cat'; give a list"),
        ({"classnames": ["cat", "dog", "cat"]}, "the class 'cat' is named twice"),
        ({"classnames": ["cat", "___"]}, "the name '___' has no tokens"),
        (
            {"classnames": ["red cat", "red dog red dog red dog red dog"]},
            "'red dog red dog red dog red dog' behind 4 context tokens",
        ),
        ({"classnames": ["red " * 40]}, "takes 42 tokens and the text tower reads 14"),
        ({"n_ctx": 13, "init": None}, "behind 13 context tokens takes 19 and the text tower reads 14"),
        ({"n_ctx": 3}, "init 'a photo of a' takes 4 tokens and n_ctx is 3; give n_ctx=4"),
        ({"n_ctx": 0, "init": None}, "n_ctx is 0 and there is no init"),
        ({"init": " "}, "init ' ' has no tokens"),
        ({"encoder": "gru"}, "the encoder is 'gru'; choose lstm, lstm2"),
        ({"clip_model": small_clip(words=False)}, "made without a tokenizer"),
        ({"clip_model": small_clip(width=9)}, "the text tower is 9 wide, and an encoder of the kind lstm halves it"),
        ({"clip_model": nn.Linear(2, 2)}, "a Linear was given"),
        ({"clip_model": "/no/such"}, "no folder /no/such"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(FewerError, match=message):
        PromptLearner(**({"clip_model": small_clip(), "classnames": NAMES} | settings))


def test_a_tower_that_takes_no_embeddings_is_refused():
    class Bag(nn.EmbeddingBag):
        width = 4

    clip = small_clip()
    other = CLIP(clip.image_tower, Bag(30, 4), 6, clip.tokenizer)
    with pytest.raises(FewerError, match="the text tower is a Bag, which takes no embedded tokens"):
        PromptLearner(other, NAMES)
    assert clip_of(clip) is clip
    assert isinstance(clip.text_tower, TextTransformer)
