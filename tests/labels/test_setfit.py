from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fewer.core.errors import FewerError
from fewer.labels.encoders import LinearEncoder, SentenceEncoder, encode
from fewer.labels.hast import HAST
from fewer.labels.learners import Constant
from fewer.labels.loop import PSEUDO, ActiveLearning, Examples, Round
from fewer.labels.queries import Margin
from fewer.labels.setfit import FittedSetFit, SetFit, contrastive_pairs, cosine_regression, passes_within
from fewer.tasks.classification import Classification


def cones(rows=120, classes=3, width=8, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    x = rng.normal(scale=noise, size=(rows, width)) + 1.5 * np.eye(width)[y]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def round_of(x, classes, index=0, seed=0, teacher=None):
    none = np.zeros(0, dtype=np.int64)
    rows = np.arange(len(x))
    return Round(index, classes, x, none, none, rows, np.random.default_rng(0), seed, teacher=teacher)


def fit(learner=None, rows=30, start=None, weight=None, source=0, x=None, y=None, **round):
    x, y = cones() if x is None else (x, y)
    examples = Examples.hard(np.arange(rows), y[:rows], 3, source)
    if weight is not None:
        examples = Examples(examples.rows, examples.target, np.asarray(weight, dtype=np.float32), examples.source)
    return (learner or SetFit()).fit(examples, round_of(x, 3, **round), start)


# --- pairs --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(lambda labels: len(set(labels)) > 1),
    passes=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_each_row_has_a_positive_and_a_negative_partner_in_each_pass(labels, passes, seed):
    labels = np.array(labels)
    first, second, target = contrastive_pairs(labels, passes, np.random.default_rng(seed))
    assert len(first) == len(second) == len(target) == 2 * passes * len(labels)
    np.testing.assert_array_equal(labels[first] == labels[second], target == 1)
    for wanted in (0, 1):
        assert np.bincount(first[target == wanted], minlength=len(labels)).tolist() == [passes] * len(labels)


def test_partners_are_drawn_evenly_and_a_positive_one_may_be_the_row_itself():
    labels = np.array([0, 1, 0, 2, 1, 0])
    first, second, target = contrastive_pairs(labels, 6000, np.random.default_rng(0))
    positive = np.bincount(second[(first == 2) & (target == 1)], minlength=6) / 6000
    np.testing.assert_allclose(positive, [1 / 3, 0, 1 / 3, 0, 0, 1 / 3], atol=0.03)
    negative = np.bincount(second[(first == 4) & (target == 0)], minlength=6) / 6000
    np.testing.assert_allclose(negative, [1 / 4, 0, 1 / 4, 1 / 4, 0, 1 / 4], atol=0.03)


def test_pairs_are_shuffled_and_equal_seeds_are_equal():
    labels = np.arange(20) % 2
    one, again, other = (contrastive_pairs(labels, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for mine, theirs in zip(one, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[2], np.sort(one[2])[::-1])


def test_the_number_of_pairs_stays_about_that_of_the_labels_alone():
    assert passes_within(5, labels=30, pseudo=0) == 5
    assert passes_within(5, labels=30, pseudo=470) == 1
    assert passes_within(5, labels=100, pseudo=100) == 3
    assert passes_within(5, labels=0, pseudo=9) == 1


@settings(deadline=None, max_examples=100)
@given(passes=st.integers(1, 9), labels=st.integers(1, 300), pseudo=st.integers(0, 3000))
def test_passes_are_those_of_the_release(passes, labels, pseudo):
    wanted = labels * passes * 2
    assert passes_within(passes, labels, pseudo) == max(1, math.ceil(wanted / (labels + pseudo) / 2))


# --- the loss -----------------------------------------------------------------------------------


def test_loss_of_known_angles():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    target, weight = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([7.0, 2.0, 3.0, 0.5])
    expected = [0.0, 2.0, 3.0, 0.25]
    torch.testing.assert_close(cosine_regression(first, second, target, weight), torch.tensor(expected))


def test_loss_has_the_gradient_that_differences_give():
    torch.manual_seed(0)
    first, second = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    target, weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]).double(), torch.rand(5).double()
    assert torch.autograd.gradcheck(lambda a, b: cosine_regression(a, b, target, weight), (first, second))


# --- the learner on vectors ---------------------------------------------------------------------


def test_the_matrix_starts_as_the_identity():
    x, _ = cones()
    np.testing.assert_array_equal(encode(LinearEncoder(8, 0.3), x), x)


def test_a_single_class_leaves_the_encoder_alone_and_is_predicted():
    x, _ = cones()
    model = fit(x=x, y=np.ones(len(x), dtype=int))
    np.testing.assert_array_equal(model.embed(x), x)
    np.testing.assert_array_equal(model.predict_proba(x), np.tile([0.0, 1.0, 0.0], (len(x), 1)))


def test_the_head_is_logistic_regression_on_the_embeddings():
    x, y = cones()
    model = fit(SetFit(C=3.0))
    head = LogisticRegression(C=3.0, max_iter=1000).fit(model.embed(x[:30]), y[:30])
    np.testing.assert_allclose(model.predict_proba(x), head.predict_proba(model.embed(x)), atol=1e-5)


def test_training_brings_cosines_nearer_to_one_within_and_to_nothing_between_classes():
    x, y = cones(noise=0.6)

    def error(vectors, rows):
        unit = vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)
        cosine, same = unit @ unit.T, y[rows, None] == y[rows]
        return ((cosine[same] - 1) ** 2).mean() + (cosine[~same] ** 2).mean()

    seen, unseen = np.arange(30), np.arange(30, 120)
    after = fit(SetFit(lr=0.01, passes=20)).embed(x)
    assert error(after, seen) < 0.7 * error(x, seen)
    assert error(after, unseen) < 0.95 * error(x, unseen)


def test_equal_weights_of_any_size_are_no_weights():
    # a power of two, so that nothing is rounded
    plain, scaled = fit(), fit(weight=np.full(30, 0.25))
    np.testing.assert_array_equal(plain.encoder.weight.detach(), scaled.encoder.weight.detach())


def test_weights_reach_the_encoder_and_on_request_the_head():
    weight = np.where(np.arange(30) % 3 == 0, 0.05, 1.0)
    plain, light, both = fit(), fit(weight=weight), fit(SetFit(weighted_head=True), weight=weight)
    assert not torch.equal(plain.encoder.weight, light.encoder.weight)
    assert torch.equal(light.encoder.weight, both.encoder.weight)
    x, y = cones()
    unweighted = LogisticRegression(max_iter=1000).fit(light.embed(x[:30]), y[:30])
    np.testing.assert_allclose(light.predict_proba(x), unweighted.predict_proba(light.embed(x)), atol=1e-5)
    weighted = LogisticRegression(max_iter=1000).fit(both.embed(x[:30]), y[:30], sample_weight=weight)
    np.testing.assert_allclose(both.predict_proba(x), weighted.predict_proba(both.embed(x)), atol=1e-5)
    assert both.predict_proba(x)[:, 0].mean() < light.predict_proba(x)[:, 0].mean() - 0.1


def test_a_class_without_examples_gets_nothing():
    x, _ = cones()
    model = fit(x=x, y=np.arange(len(x)) % 2)
    proba = model.predict_proba(x)
    assert (proba[:, 2] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_equal_seeds_are_equal_and_others_not():
    assert torch.equal(fit().encoder.weight, fit().encoder.weight)
    assert not torch.equal(fit().encoder.weight, fit(seed=1).encoder.weight)
    assert not torch.equal(fit().encoder.weight, fit(index=1).encoder.weight)


def test_going_on_begins_from_a_copy_of_the_encoder():
    first = fit()
    before = first.encoder.weight.detach().clone()
    second = fit(SetFit(lr=1e-9), start=first)
    assert torch.equal(first.encoder.weight, before)
    torch.testing.assert_close(second.encoder.weight.detach(), before, atol=1e-5, rtol=0)
    assert not torch.equal(second.encoder.weight, torch.eye(8))


def test_pseudo_labels_make_the_passes_fewer(monkeypatch):
    asked = []
    real = contrastive_pairs

    def spy(labels, passes, rng):
        asked.append((len(labels), passes))
        return real(labels, passes, rng)

    monkeypatch.setattr("fewer.labels.setfit.contrastive_pairs", spy)
    x, y = cones(300)
    labels = Examples.hard(np.arange(30), y[:30], 3)
    extra = Examples.hard(np.arange(30, 300), y[30:], 3, PSEUDO)
    first = SetFit().fit(labels, round_of(x, 3))
    SetFit().fit(labels.and_(extra), round_of(x, 3), first)
    assert asked == [(30, 5), (300, 1)]


def test_features_are_made_once_for_probabilities_and_neighbours(monkeypatch):
    calls = []
    monkeypatch.setattr("fewer.labels.setfit.encode", lambda *args, **more: calls.append(1) or encode(*args, **more))
    x, _ = cones()
    model = fit()
    before = len(calls)
    model.predict_proba(x)
    np.testing.assert_array_equal(model.embed(x), encode(model.encoder, x))
    assert len(calls) == before + 1
    np.testing.assert_array_equal(model.embed(x[::-1]), encode(model.encoder, x[::-1]))


def test_images_are_flattened():
    x, y = cones(width=9)
    model = fit(x=x.reshape(-1, 1, 3, 3), y=y)
    assert model.embed(x.reshape(-1, 1, 3, 3)).shape == (120, 9)
    np.testing.assert_array_equal(model.predict_proba(x.reshape(-1, 1, 3, 3)), fit(x=x, y=y).predict_proba(x))


def test_passes_with_dropout_differ_and_leave_the_model_as_it_was():
    x, _ = cones()
    model = fit(SetFit(dropout=0.2))
    proba, state = model.predict_proba(x).copy(), torch.get_rng_state()
    drawn = model.sample_proba(x, 6, seed=3)
    assert drawn.shape == (6, 120, 3)
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn, model.sample_proba(x, 6, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(model.predict_proba(x.copy()), proba)
    with pytest.raises(FewerError, match="the learner drops nothing"):
        fit().sample_proba(x, 2, seed=0)


def test_it_goes_round_with_hast_and_resumes_to_the_bit(tmp_path):
    x, y = cones(rows=300, noise=0.5)
    task = Classification("cones", x, y, ("0", "1", "2"), test=100)
    loop = ActiveLearning(query=Margin(), learner=SetFit(C=10.0, weighted_head=True), pseudo=HAST(), balanced=True)
    whole = [(point.spent, point.score, point.extras["pseudo_labels"]) for point in loop.run(task, 40, 0)]
    file = tmp_path / "run.safetensors"
    points = loop.run(task, 40, 0, checkpoint=file)
    next(points), next(points)
    points.close()
    assert [(point.spent, point.score, point.extras["pseudo_labels"]) for point in loop.run(task, 40, 0, file)] == whole
    assert all(count > 0 for _, _, count in whole)


# --- the learner on texts -----------------------------------------------------------------------

WORDS = ("the", "a", "spline", "curve", "knot", "matrix", "inverse", "rank", "filter", "window", "signal", "of")
TOPICS = (("spline", "curve", "knot"), ("matrix", "inverse", "rank"), ("filter", "window", "signal"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with random weights and a word for a token, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    where = tmp_path_factory.mktemp("encoder")
    (where / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)))
    transformers.BertTokenizer(str(where / "vocab.txt")).save_pretrained(where)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=17,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    transformers.BertModel(config).save_pretrained(where)
    return str(where)


def texts(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    made = [" ".join([*rng.choice(TOPICS[label], 2), *rng.choice(WORDS, rng.integers(1, 9))]) for label in y]
    return np.array(made, dtype=object), y


def test_an_embedding_is_the_mean_over_the_texts_own_tokens(folder):
    encoder = SentenceEncoder(folder, 128).eval()
    x = np.array(["the spline", "a filter of a window of the signal", "rank"], dtype=object)
    together = encode(encoder, x)
    for row, text in enumerate(x):
        tokens = encoder.tokenizer(text, return_tensors="pt")
        alone = encoder.transformer(**tokens).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(together[row], alone.detach().numpy(), atol=1e-5)


def test_texts_come_back_in_their_own_order_and_are_cut_at_the_length(folder):
    x, _ = texts(70)
    whole = encode(SentenceEncoder(folder, 128), x)
    np.testing.assert_allclose(encode(SentenceEncoder(folder, 128), x[[5, 60]]), whole[[5, 60]], atol=1e-5)
    short = SentenceEncoder(folder, 4)
    np.testing.assert_allclose(
        encode(short, np.array(["the spline knot rank"], dtype=object)),
        encode(short, np.array(["the spline"], dtype=object)),
        atol=1e-5,
    )


def test_a_copy_of_an_encoder_learns_for_itself(folder):
    encoder = SentenceEncoder(folder, 128)
    twin = copy.deepcopy(encoder)
    assert twin.tokenizer is encoder.tokenizer
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(encoder.parameters()))
    assert torch.equal(next(SentenceEncoder(folder, 128).parameters()), next(encoder.parameters()))


def test_texts_are_learned_and_self_training_goes_on_from_there(folder):
    x, y = texts(90)
    task = Classification("texts", x, y, ("0", "1", "2"), test=30)
    learner = SetFit(path=folder, lr=3e-3, C=10.0)
    loop = ActiveLearning(query=Margin(), learner=learner, pseudo=HAST(), initial=15, per_round=6, balanced=True)
    learned = loop.learn(task, 21)
    assert learned.curve.final > 0.7
    assert learned.curve.points[-1].extras["pseudo_labels"] > 0
    model = learned.result
    assert isinstance(model, FittedSetFit)
    drawn = model.sample_proba(x, 3, seed=0)
    assert not np.array_equal(drawn[0], drawn[1])


def test_a_text_without_words_is_named_by_its_row(folder):
    x, y = texts()
    x[[4, 7]] = "", " \n"
    with pytest.raises(FewerError, match=r"2 texts are empty \(pool rows 4, 7\); fill or drop them"):
        fit(SetFit(path=folder), x=x, y=y)


def test_weights_that_would_have_to_be_unpickled_are_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(FewerError, match="cannot be read as a transformer"):
        fit(SetFit(path=str(tmp_path / "pickled")), x=texts()[0], y=texts()[1])


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit(SetFit(path="nowhere"), x=texts()[0], y=texts()[1]),
            "'nowhere' is not a folder with a transformer",
        ),
        (lambda: fit(SetFit(path="nowhere")), "encodes texts and the rows are numbers; leave path out"),
        (lambda: fit(x=texts()[0], y=texts()[1]), "needs numbers and the rows are texts"),
        (
            lambda: fit(x=np.zeros((40, 5000), dtype=np.float32), y=np.arange(40) % 3),
            "up to 4096 features; these have 5000",
        ),
        (lambda: fit(rows=0), "cannot be fitted to no examples; buy labels first"),
        (lambda: fit(teacher=np.zeros((120, 3))), "setfit cannot learn from a teacher"),
        (lambda: fit(start=Constant(0, 3)), "can only go on from setfit, not from Constant"),
        (lambda: SetFit(passes=0), "passes, batch and length must be at least 1; they are 0, 24, 128"),
        (lambda: SetFit(C=0.0), "C and lr must be positive"),
        (lambda: SetFit(lr=-1.0), "C and lr must be positive"),
        (lambda: SetFit(dropout=1.0), r"dropout in \[0, 1\)"),
    ],
)
def test_errors_say_what_would_do(call, message):
    with pytest.raises(FewerError, match=message):
        call()
