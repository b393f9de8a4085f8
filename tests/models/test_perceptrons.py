"""Perceptrons side by side against automatic differentiation and against networks one at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fewer.models import perceptrons as module
from fewer.models.perceptrons import perceptrons, squared_error


@pytest.fixture(params=["together", "apart"], autouse=True)
def way(request, monkeypatch):
    """Members are computed all at once, or one after another."""
    if request.param == "apart":
        monkeypatch.setattr(module, "APART", 1)
    return request.param


def drawn(members, widths, layer_norm, dtype=torch.float64):
    """Parameters in the order of layers."""
    made = []
    for inputs, outputs in itertools.pairwise(widths):
        made += [torch.randn(members, inputs, outputs, dtype=dtype), torch.randn(members, outputs, dtype=dtype)]
        if layer_norm and outputs > 1:
            made += [torch.randn(members, outputs, dtype=dtype), torch.randn(members, outputs, dtype=dtype)]
    return [each.requires_grad_() for each in made]


def one_at_a_time(x, parameters, layer_norm):
    """The same, a member after another, by automatic differentiation."""
    each, values = 4 if layer_norm else 2, []
    for member in range(len(parameters[0])):
        h = x
        for first in range(0, len(parameters), each):
            weight, bias, *norm = (part[member] for part in parameters[first : first + each])
            h = h @ weight + bias
            if norm:
                h = nn.functional.layer_norm(h, h.shape[-1:], *norm)
            if first + each < len(parameters):
                h = h.relu()
        values.append(h[:, 0])
    return torch.stack(values)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("widths", [(5, 1), (5, 7, 1), (5, 8, 6, 1), (5, 4, 4, 4, 1)])
@pytest.mark.parametrize("members", [1, 3])
def test_values_and_all_gradients_equal_automatic_ones(members, widths, layer_norm):
    torch.manual_seed(0)
    parameters = drawn(members, widths, layer_norm)
    seen, done = (torch.randn(9, width, dtype=torch.float64, requires_grad=True) for width in (3, 2))
    slopes = torch.randn(members, 9, dtype=torch.float64)
    slopes[0, :4] = 0  # as the least of several has them
    values = perceptrons(seen, done, parameters, layer_norm)
    expected = one_at_a_time(torch.cat([seen, done], -1), parameters, layer_norm)
    assert torch.allclose(values, expected, atol=1e-12)
    asked = [seen, done, *parameters]
    straight = torch.autograd.grad(values, asked, slopes)
    for one, two in zip(straight, torch.autograd.grad(expected, asked, slopes), strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one, two, atol=1e-11)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_numerical_gradients(layer_norm):
    torch.manual_seed(1)
    parameters = drawn(2, (3, 4, 4, 1), layer_norm)
    inputs = (torch.randn(5, 2, dtype=torch.float64, requires_grad=True), torch.randn(5, 1, dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda *given: perceptrons(*given[:2], given[2:], layer_norm), (*inputs, *parameters)
    )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_only_what_is_asked_for_has_a_gradient(layer_norm):
    parameters = drawn(2, (5, 4, 4, 1), layer_norm)
    seen, done = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    every = torch.autograd.grad(perceptrons(seen, done, parameters, layer_norm).sum(), [done, *parameters])
    for number, each in enumerate(parameters):
        each.requires_grad_(number % 2 == 0)
    perceptrons(seen, done, parameters, layer_norm).sum().backward()
    assert seen.grad is None
    assert torch.equal(done.grad, every[0])
    for number, (each, expected) in enumerate(zip(parameters, every[1:], strict=True)):
        assert torch.equal(each.grad, expected) if number % 2 == 0 else each.grad is None


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("widths", [(5, 1), (5, 7, 1), (5, 8, 6, 1)])
@pytest.mark.parametrize("members", [2, 5])
def test_the_gradient_of_the_least_goes_through_its_own_member_alone(members, widths, layer_norm):
    torch.manual_seed(2)
    parameters = [each.requires_grad_(False) for each in drawn(members, widths, layer_norm)]
    seen, done = (torch.randn(30, width, dtype=torch.float64, requires_grad=True) for width in (3, 2))
    # no row at all of some members too
    for chosen in (lambda values: values.amin(0), lambda values: values[0]):
        straight = torch.autograd.grad(chosen(perceptrons(seen, done, parameters, layer_norm)).sum(), [seen, done])
        expected = chosen(one_at_a_time(torch.cat([seen, done], -1), parameters, layer_norm))
        for one, two in zip(straight, torch.autograd.grad(expected.sum(), [seen, done]), strict=True):
            assert torch.allclose(one, two, atol=1e-11)
    # the last was the first member
    (alone,) = torch.autograd.grad(perceptrons(seen.detach(), done, parameters, layer_norm)[0].sum(), [done])
    assert torch.equal(alone, straight[1])


def test_a_gradient_leaves_the_forward_pass_as_it_was():
    """What was kept may be used twice."""
    parameters = drawn(2, (3, 4, 1), True)
    values = perceptrons(torch.randn(5, 2).double(), torch.randn(5, 1).double(), parameters, True)
    first = torch.autograd.grad(values.sum(), parameters, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(values.sum(), parameters)))


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    parameters = drawn(2, (3, 4, 1), False)
    with torch.no_grad():
        assert not perceptrons(torch.zeros(5, 2).double(), torch.zeros(5, 1).double(), parameters).requires_grad


def test_nan_goes_through():
    parameters = drawn(2, (3, 4, 4, 1), False, torch.float32)
    seen = torch.zeros(3, 2)
    seen[1, 0] = float("nan")
    values = perceptrons(seen, torch.zeros(3, 1), parameters)
    assert values.isnan().tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("widths", [(5, 1), (5, 7, 1), (5, 8, 6, 1), (5, 4, 4, 4, 1)])
@pytest.mark.parametrize("members", [1, 3])
def test_squared_errors_have_the_automatic_gradient(members, widths, layer_norm):
    torch.manual_seed(3)
    parameters = drawn(members, widths, layer_norm)
    seen, done, target = (torch.randn(size, dtype=torch.float64) for size in ((9, 3), (9, 2), (9,)))
    values, gradients = squared_error(seen, done, target, parameters, layer_norm)
    expected = one_at_a_time(torch.cat([seen, done], -1), parameters, layer_norm)
    assert not values.requires_grad
    assert torch.allclose(values, expected, atol=1e-12)
    automatic = torch.autograd.grad((expected - target).square().mean(1).sum(), parameters)
    for one, two in zip(gradients, automatic, strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one, two, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("layer_norm", [False, True])
def test_compiled_networks_compute_the_same(layer_norm):
    torch.manual_seed(4)
    parameters = drawn(3, (5, 8, 6, 1), layer_norm, torch.float32)
    given = [torch.randn(size) for size in ((9, 3), (9, 2), (9,))]
    with torch.no_grad():
        plain, compiled = (perceptrons(*given[:2], parameters, layer_norm, each) for each in (False, True))
    assert torch.allclose(plain, compiled, atol=1e-6)
    (plain, before), (compiled, after) = (squared_error(*given, parameters, layer_norm, each) for each in (False, True))
    assert torch.allclose(plain, compiled, atol=1e-6)
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(before, after, strict=True))
