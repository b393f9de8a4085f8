from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from fewer.core.errors import Diverged, FewerError
from fewer.explore.contrastive_features import ContrastiveFeatures, contrastive_loss


def test_the_loss_is_that_of_the_ratio_and_the_same_with_roles_exchanged():
    log_ratio, true = torch.randn(50, dtype=torch.float64), torch.rand(50) < 0.5
    ratio = log_ratio.exp()
    expected = torch.where(true, torch.log1p(1 / ratio), torch.log1p(ratio))
    np.testing.assert_allclose(contrastive_loss(log_ratio, true), expected)
    np.testing.assert_allclose(contrastive_loss(-log_ratio, ~true), expected)
    log_ratio.requires_grad_()
    assert torch.autograd.gradcheck(lambda each: contrastive_loss(each, true), (log_ratio,))


def test_the_best_ratio_of_the_whole_population_is_the_true_one():
    """Three states, one action each: the loss over all pairs, minimised, is P over P-, though it has only two dimensions."""
    torch.manual_seed(0)
    causes = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    leads = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    P = causes @ leads
    phi, psi = (torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.LBFGS([phi, psi], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14)

    def ratio():
        return softplus(phi) @ softplus(psi).T

    def closure():
        optimiser.zero_grad()
        log = ratio().log()
        true, false = torch.ones(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
        loss = (P * contrastive_loss(log, true) + contrastive_loss(log, false) / 3).sum() / 6
        loss.backward()
        return loss

    optimiser.step(closure)
    np.testing.assert_allclose(ratio().detach() / 3, P, atol=1e-3)


def test_it_learns_transitions_that_it_has_seen():
    rng, n = np.random.default_rng(0), 4000
    P = np.array([[0.8, 0.2, 0.0], [0.0, 0.1, 0.9], [0.3, 0.4, 0.3]])
    at = rng.integers(3, size=n)
    after = (P.cumsum(axis=1)[at] <= rng.random((n, 1))).sum(axis=1)
    eye, generator = torch.eye(3), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    features = ContrastiveFeatures(3, 1, dimensions=3)
    done = torch.zeros(n, dtype=torch.int64)
    features.fit(eye[at], done, eye[after], eye, steps=600, generator=generator)
    grid = torch.arange(9)
    with torch.inference_mode():
        ratio = features.log_ratio(eye[grid // 3], torch.zeros(9, dtype=torch.int64), eye[grid % 3]).exp().reshape(3, 3)
    learned = (ratio / ratio.sum(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(learned, P, atol=0.08)


def test_members_share_nothing():
    torch.manual_seed(0)
    both = ContrastiveFeatures(3, 2, members=2)
    x, a = torch.randn(40, 2, 3), torch.randint(2, (40, 2))
    y = torch.randn(40, 2, 3)
    changed = y.clone()
    changed[:, 1] += 3
    start, ends = {key: value.clone() for key, value in both.state_dict().items()}, []
    for following in (y, changed):
        both.load_state_dict(start)
        both.fit(x, a, following, steps=5, generator=torch.Generator().manual_seed(1))
        ends.append(both.phi(x, a).detach())
    torch.testing.assert_close(ends[0][:, 0], ends[1][:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ends[0][:, 1], ends[1][:, 1], atol=1e-3)


def test_phi_is_a_mixture_and_psi_positive_and_shapes_are_the_users():
    features, x = ContrastiveFeatures(3, 2), torch.randn(6, 3)
    every = features.every_phi(x[:, None])
    assert every.shape == (6, 1, 2, 4)
    torch.testing.assert_close(every.sum(dim=-1), torch.ones(6, 1, 2))
    assert (features.every_psi(x[:, None]) > 0).all()
    done = torch.tensor([0, 1, 0, 1, 1, 0])
    torch.testing.assert_close(features.phi(x, done), every[torch.arange(6), 0, done])


def test_only_the_first_rows_of_a_pool_are_drawn_where_a_member_has_no_more():
    torch.manual_seed(0)
    pool = torch.randn(5, 2, 3)
    pool[2:, 0] = torch.nan  # never to be looked at
    features = ContrastiveFeatures(3, 1, members=2)
    x, a = torch.randn(30, 2, 3), torch.zeros(30, 2, dtype=torch.int64)
    following = pool[torch.stack([torch.randint(2, (30,)), torch.randint(5, (30,))], dim=1), torch.arange(2)]
    features.fit(x, a, following, pool, sizes=torch.tensor([2, 5]), steps=20)
    assert torch.isfinite(features.phi(x, a)).all()


def test_every_next_state_must_be_among_those_it_may_be_exchanged_for():
    x, a, y = torch.randn(6, 2, 3), torch.zeros(6, 2, dtype=torch.int64), torch.randn(6, 2, 3)
    features = ContrastiveFeatures(3, 1, members=2)
    features.fit(x, a, y, y.flip(0), steps=1)
    features.fit(x, a, 0 * y, -0.0 * y[:1], steps=1)  # both are zero
    with pytest.raises(
        FewerError, match="the next state of row 5 of member 1 is not among those it may be exchanged for"
    ):
        features.fit(x, a, y, y, sizes=torch.tensor([6, 5]), steps=1)
    with pytest.raises(FewerError, match="the next state of row 0 of member 1 is not among"):
        features.fit(x, a, y, y[:, :1], steps=1)  # one pool for all, with the first member's states
    one = ContrastiveFeatures(3, 1)
    with pytest.raises(FewerError, match="the next state of row 2 is not among"):
        one.fit(x[:, 0], a[:, 0], y[:, 0], y[:2, 0], steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveFeatures(0, 1), "sizes must be at least 1"),
        (
            lambda: ContrastiveFeatures(2, 1).fit(
                torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)
            ),
            "must be rows that belong together",
        ),
        (
            lambda: ContrastiveFeatures(2, 1).fit(
                torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(4, 2)
            ),
            "must be rows that belong together",
        ),
        (
            lambda: ContrastiveFeatures(2, 1, members=3).phi(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)),
            r"3 members need rows of their own",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_a_loss_that_is_no_number_stops_it():
    features = ContrastiveFeatures(2, 1)
    with pytest.raises(Diverged, match="lower the learning rate"):
        features.fit(
            torch.full((4, 2), torch.nan),
            torch.zeros(4, dtype=torch.int64),
            torch.zeros(4, 2),
            torch.zeros(4, 2),
            steps=2,
        )
