"""Classifiers for each domain: who sees what, weights, limits, reductions, updates that come and go, errors."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer import compose
from fewer.adapt import DRMClassifier
from fewer.adapt.adapted import Adapted
from fewer.adapt.concept_shift import ConceptShift
from fewer.adapt.drm import DRM, DomainHeads, DomainSelect, Online, PseudoLabels, entropy
from fewer.core.errors import FewerError


def heads(domains=3, classes=4, width=5, seed=0):
    torch.manual_seed(seed)
    return DomainHeads(width, classes, domains)


def data(rows=90, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    site = np.repeat(["a", "b", "c"], rows // 3)
    y = np.where((x[:, 0] > 0) == (site != "b"), "yes", "no")
    return x, y, site


def classifier(**settings):
    torch.manual_seed(0)
    return DRMClassifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), 2, steps=30, **settings)


# --- training --------------------------------------------------------------------------------------------------------


def test_a_classifier_learns_from_its_own_domain_alone():
    head, z = heads(), torch.randn(6, 5, requires_grad=True)
    head.loss(z, torch.arange(6) % 4, torch.tensor([0, 0, 0, 2, 2, 2])).mean().backward()
    assert (head.weight.grad.flatten(1).norm(dim=1) > 0).tolist() == [True, True, False, True]
    assert (z.grad.norm(dim=1) > 0).all()


def test_the_loss_is_that_of_the_equation_with_unequal_domains():
    head, z, y = heads(2), torch.randn(7, 5), torch.arange(7) % 4
    domains = torch.tensor([0, 0, 1, 1, 1, 1, 1])
    expected = torch.zeros(())
    for k in range(2):
        rows = domains == k
        logits = z[rows] @ head.weight[k + 1].T + head.bias[k + 1]
        shared = z[rows] @ head.weight[0].T + head.bias[0]
        told = head.discriminator(z[rows])
        ce = nn.functional.cross_entropy
        expected = expected + (ce(logits, y[rows]) + ce(shared, y[rows])) / 2 / 2 + ce(told, domains[rows]) / 2
    torch.testing.assert_close(head.loss(z, y, domains).mean(), expected)


def test_the_discriminator_does_not_move_the_encoder():
    head, z = heads(), torch.randn(6, 5, requires_grad=True)
    for parameter in (head.weight, head.bias):
        parameter.data.zero_()
    head.loss(z, torch.arange(6) % 4, torch.arange(6) % 3).mean().backward()
    assert float(z.grad.abs().max()) == 0
    assert head.discriminator[0].weight.grad.abs().max() > 0


def test_means_follow_the_domains():
    head = heads(2).train()
    for _ in range(20):
        head.loss(torch.tensor([[1.0] * 5, [3.0] * 5]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    torch.testing.assert_close(head.means, torch.tensor([[2.0] * 5, [0.0] * 5]))


def test_a_class_that_a_domain_lacks_is_not_said_there():
    head = heads(2, classes=3).train()
    head.loss(torch.randn(4, 5), torch.tensor([0, 1, 0, 2]), torch.tensor([0, 0, 1, 1]))
    said = head.eval().logits(torch.randn(9, 5)).softmax(-1)
    assert (said[:, 1, 2] == 0).all()
    assert (said[:, 2, 1] == 0).all()
    assert (said[:, 0] > 0).all()
    assert torch.isfinite(entropy(said)).all()


# --- choosing --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["discriminator", "distance", "soft", "hard", "uniform", "shared"]),
    st.floats(0, 9),
    st.integers(0, 99),
)
def test_weights_are_shares_and_follow_their_heads(by, gamma, seed):
    head = heads(seed=seed).eval()
    z = torch.randn(7, 5)
    logits, select = head.logits(z), DomainSelect(by, gamma)
    weights = select.weights(logits, z, head)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    if by in ("soft", "hard", "uniform"):
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(select.weights(logits[:, order], z, head), weights[:, order])


def test_limits_of_gamma():
    head, z = heads().double().eval(), torch.randn(20, 5, dtype=torch.float64)
    logits = 3 * head.logits(z)
    torch.testing.assert_close(
        DomainSelect("soft", 0).weights(logits, z, head), torch.full((20, 4), 0.25, dtype=torch.float64)
    )
    hard = DomainSelect("hard").weights(logits, z, head)
    torch.testing.assert_close(DomainSelect("soft", 1e7).weights(logits, z, head), hard)
    unsure = entropy(logits.softmax(-1))
    torch.testing.assert_close(DomainSelect("soft").weights(logits, z, head), (1 / unsure) / (1 / unsure).sum(1, True))


def test_a_sure_classifier_has_no_infinite_weight():
    logits = torch.tensor([[[200.0, 0.0], [0.0, 0.0]]])
    weights = DomainSelect("soft", 5).weights(logits, torch.zeros(1, 5), heads(1, 2))
    assert torch.isfinite(weights).all()
    assert float(weights[0, 0]) > 0.99


def test_identical_classifiers_are_one():
    head, z = heads().eval(), torch.randn(6, 5)
    head.weight.data[:], head.bias.data[:] = head.weight.data[:1].clone(), head.bias.data[:1].clone()
    for by in ("soft", "discriminator", "distance", "uniform"):
        mixed = Adapted(nn.Identity(), head, DomainSelect(by), ("a",) * 4).mixed(z)
        torch.testing.assert_close(mixed, head.logits(z)[:, 0].softmax(-1))


def test_the_entropy_of_a_uniform_choice():
    assert float(entropy(torch.full((8,), 1 / 8))) == pytest.approx(math.log(8))


# --- updates ---------------------------------------------------------------------------------------------------------


def test_no_row_is_sure_enough_above_one_and_nothing_moves():
    x, y, site = data()
    model = classifier(confidence=1.1).fit(x, y, site)
    assert np.array_equal(np.concatenate(list(model.predict_online([x[:40], x[40:]]))), model.predict(x))


def test_updates_move_the_classifiers_alone_and_are_forgotten():
    x, y, site = data()
    model = classifier(confidence=0.5).fit(x, y, site)
    before = model.predict_proba(x)
    fitted = copy.deepcopy(model.adapted_)
    said = list(model.predict_online([x[:40], x[40:]]))
    assert np.array_equal(said[0], model.classes_[before[:40].argmax(1)])  # said before it is learned from
    for mine, was in zip(model.adapted_.readout.parameters(), fitted.readout.parameters(), strict=True):
        assert torch.equal(mine, was)
    assert not torch.equal(model.adapted_.head.weight, fitted.head.weight)
    assert np.array_equal(model.reset().predict_proba(x), before)


def test_confidence_is_that_of_the_mixture():
    """Ten classes and a mixture of 0.95: a softmax of the mixture would never be sure."""
    head = heads(1, classes=10).eval()
    head.weight.data.zero_()
    head.bias.data = torch.zeros(2, 10).index_fill_(1, torch.tensor([3]), 5.2)
    adapted = Adapted(nn.Identity(), head, DomainSelect("uniform"), tuple("0123456789"))
    online = Online(adapted, PseudoLabels(confidence=0.9))
    before = head.bias.clone()
    said = online(torch.randn(4, 5))
    assert 0.9 < float(said[0, 3].detach()) < 0.97
    assert not torch.equal(head.bias, before)


@pytest.mark.parametrize("label", ["drm", "own", "shared", "uniform"])
def test_all_sources_of_labels_and_all_parameters(label):
    x, y, site = data()
    model = classifier().fit(x, y, site)
    before = [each.clone() for each in model.adapted_.readout.parameters()]
    list(model.predict_online([x], PseudoLabels(label, 0.5, steps=2, everything=True)))
    assert any(not torch.equal(a, b) for a, b in zip(model.adapted_.readout.parameters(), before, strict=True))


# --- in the loop, and as a classifier --------------------------------------------------------------------------------


def test_it_races_and_composes():
    task = ConceptShift(rows=20, test=30)
    small = "adaptation(steps=3, points=1)"
    for spec in ("erm", "drm", "drm(select='soft', gamma=0.5, online=True)", "drm + scale-shift", "drm + bias-only"):
        loop = compose.loop(f"{small} + {spec}")
        points = loop.learn(task, 40, seed=0).curve.points
        assert 0 <= points[-1].score <= 1
        assert "source" in points[-1].extras
    assert compose.loop(f"{small} + drm + bias-only").trainable == "bias"
    assert compose.loop(f"{small} + drm").trainable == "all"


def test_an_update_is_forgotten_between_domains():
    task = ConceptShift(rows=20, test=30)
    loop = compose.loop("adaptation(steps=20, points=1) + drm(online=True)")
    state = loop.start(task, 40, 0)
    adapted, _ = loop.train(state, 40)
    before = adapted.head.weight.clone()
    assert loop.score(state, adapted) == loop.score(state, adapted)
    assert torch.equal(adapted.head.weight, before)


def test_what_is_saved_says_the_same(tmp_path):
    task = ConceptShift(rows=20, test=30)
    loop = compose.loop("adaptation(steps=5, points=1) + drm(select='distance')")
    state = loop.start(task, 80, 0)
    adapted, _ = loop.train(state, 80)
    adapted.save(tmp_path / "drm.safetensors")
    other, _ = compose.loop("adaptation(steps=1, points=1) + drm(select='distance')").train(state, 80)
    x = state.labelled.test_x
    other.load(tmp_path / "drm.safetensors")
    np.testing.assert_array_equal(other.probabilities(x), adapted.probabilities(x))


def test_one_domain_is_erm_with_a_warning():
    x, y, _ = data()
    with pytest.warns(UserWarning, match="there is one domain"):
        model = classifier().fit(x, y)
    assert model.predict(x).shape == y.shape


def test_an_absent_class_is_named():
    x, y, site = data()
    y[site == "c"] = "yes"
    with pytest.warns(UserWarning, match="1 classes have no row in a domain \\(no in c\\)"):
        model = classifier().fit(x, y, site)
    assert (model.adapted_.head.eval().logits(torch.zeros(1, 8)).softmax(-1)[0, 3, 0]) == 0


def test_the_encoder_that_was_given_is_left_as_it_was():
    x, y, site = data()
    model = classifier()
    before = copy.deepcopy(model.encoder.state_dict())
    flags = [each.requires_grad for each in model.encoder.parameters()]
    model.fit(x, y, site)
    assert all(torch.equal(each, before[name]) for name, each in model.encoder.state_dict().items())
    assert [each.requires_grad for each in model.encoder.parameters()] == flags


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: DomainSelect("entropy"), "select is 'entropy'; choose one of"),
        (lambda: DomainSelect("soft", -1.0), "gamma is -1.0"),
        (lambda: PseudoLabels("mine"), "label is 'mine'"),
        (lambda: PseudoLabels(confidence=0.0), "confidence and lr must be above 0"),
        (lambda: PseudoLabels(steps=0), "steps and batch 1 or more"),
        (lambda: DomainSelect().weights(torch.zeros(1, 2, 3), torch.zeros(1, 2), nn.Identity()), "needs a classifier for each"),
        (lambda: heads().loss(torch.zeros(1, 5), torch.zeros(1, dtype=torch.long), None), "do not say which domain"),
        (lambda: compose.loop("drm").learn(compose.task("digit-sensors(start='none')"), 9), "has no domains"),
        (lambda: classifier().predict(data()[0]), "nothing is fitted yet"),
        (lambda: classifier().reset(), "nothing is fitted yet"),
        (lambda: classifier().fit(data()[0], data()[1][:5], data()[2]), "90 rows, 5 labels, 90 domains"),
        (lambda: classifier().fit(data()[0] * np.nan, *data()[1:]), "NaN or infinity"),
        (lambda: classifier().fit(data()[0], np.arange(90), data()[2]), "90 classes in the labels and n_classes=2"),
        (lambda: ConceptShift(rows=0), "rows, sources and test must be 1 or more"),
        (lambda: ConceptShift(moved=2.0), "moved in"),
        (lambda: DRM("entropy"), "select is 'entropy'"),
    ],
)  # fmt: skip
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def test_by_distance_the_nearest_domain_is_believed_most():
    head = DomainHeads(width=2, classes=3, domains=2)
    head.means.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    features = torch.tensor([[1.0, 0.0], [3.5, 0.0]])
    weights = DomainSelect("distance").weights(head.logits(features), features, head)
    assert weights[:, 0].tolist() == [0.0, 0.0]  # the shared one is not of a domain
    for row, (near, far) in enumerate(((1.0, 3.0), (0.5, 3.5))):
        assert float(weights[row].max()) == pytest.approx(1 / (1 + math.exp(-2 * (far - near))), abs=1e-6)
    assert weights.argmax(1).tolist() == [1, 2]
