"""GaLore: Adam where nothing is projected, the written-out projection where it is, and how little it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.nets.galore import GaLore, ProjectedAdam, subspace


def written_out(shape, gradients, lr, rank, refresh, scale, decay):
    """GaLore step by step, for one matrix."""
    weight = torch.ones(shape, dtype=torch.float64)
    first = second = 0.0
    left = shape[0] <= shape[1]
    for step, gradient in enumerate(gradients):
        if step % refresh == 0:
            u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
            basis = u[:, :rank] if left else vh[:rank].T
        seen = basis.T @ gradient if left else gradient @ basis
        first = 0.9 * first + 0.1 * seen
        second = 0.999 * second + 0.001 * seen**2
        change = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-8)
        weight = weight * (1 - lr * decay) - lr * scale * (basis @ change if left else change @ basis.T)
    return weight


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_the_written_out_method(shape, decay):
    torch.manual_seed(0)
    gradients = [torch.randn(shape, dtype=torch.float64) for _ in range(8)]
    weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimiser = ProjectedAdam([weight], 0.1, rank=3, refresh=3, scale=0.5, weight_decay=decay)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
    expected = written_out(shape, gradients, 0.1, 3, 3, 0.5, decay)
    torch.testing.assert_close(weight.detach(), expected)


def test_what_is_not_projected_moves_as_adamw_moves_it():
    """Vectors, matrices of small sides, and groups that ask for it."""
    ends = []
    for make in (
        lambda groups: GaLore(0.05, rank=4, weight_decay=0.1).make(groups),
        lambda groups: torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1),
    ):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape)) for shape in ((5,), (4, 30), (8, 9))]
        optimiser = make([{"params": parameters[:2]}, {"params": parameters[2:], "project": False}])
        for _ in range(6):
            optimiser.zero_grad()
            sum((each - 1).square().sum() for each in parameters).backward()
            optimiser.step()
        ends.append(parameters)
    for mine, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_moments_are_of_rank_r_on_the_smaller_side():
    wide, tall = nn.Parameter(torch.zeros(8, 20)), nn.Parameter(torch.zeros(20, 8))
    optimiser = GaLore(rank=3).make([wide, tall])
    for each in (wide, tall):
        each.grad = torch.randn_like(each)
    optimiser.step()
    assert optimiser.state[wide]["exp_avg"].shape == (3, 20)
    assert optimiser.state[tall]["exp_avg_sq"].shape == (20, 3)
    assert optimiser.state[tall]["projection"].shape == (8, 3)
    # with no rank given, a quarter of the smaller side
    default = GaLore().make([wide])
    default.step()
    assert default.state[wide]["exp_avg"].shape == (2, 20)


def test_a_subspace_holds_what_the_gradient_has_and_is_orthonormal():
    torch.manual_seed(0)
    gradient = torch.randn(9, 2) @ torch.randn(2, 12)
    basis = subspace(gradient, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2))
    torch.testing.assert_close(basis @ (basis.T @ gradient), gradient, rtol=1e-4, atol=1e-5)
    assert subspace(gradient.bfloat16(), 2).dtype == torch.bfloat16


def test_its_state_comes_back():
    gradients = [torch.randn(6, 9) for _ in range(7)]

    def run(parameter, optimiser, upto):
        for gradient in upto:
            parameter.grad = gradient.clone()
            optimiser.step()

    whole, part = nn.Parameter(torch.ones(6, 9)), nn.Parameter(torch.ones(6, 9))
    make = GaLore(0.1, rank=2, refresh=4).make
    run(whole, make([whole]), gradients)
    before = make([part])
    run(part, before, gradients[:3])
    after = make([part])
    after.load_state_dict(before.state_dict())
    run(part, after, gradients[3:])
    assert torch.equal(whole, part)


def test_a_closure_is_called_with_gradients_on():
    weight = nn.Parameter(torch.ones(6, 9))
    optimiser = ProjectedAdam([weight], rank=2)

    def closure():
        optimiser.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return float(loss)

    assert optimiser.step(closure) == 54
    assert (weight != 1).any()


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"refresh": 0}, {"scale": 0.0}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(FewerError, match="galore: rank and refresh must be at least 1 and scale above 0"):
        GaLore(**wrong)


def test_a_gradient_that_is_no_number_is_refused():
    weight = nn.Parameter(torch.ones(6, 9))
    weight.grad = torch.full((6, 9), torch.nan)
    with pytest.raises(FewerError, match="a gradient is not finite, so it has no subspace; lower the learning rate"):
        ProjectedAdam([weight], rank=2).step()
