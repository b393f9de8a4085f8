from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fewer.core.errors import FewerError
from fewer.demos.chunk_critics import CausalTransformer, PrefixMLP

FEATURES, CHUNK, ACTION, BATCH = 3, 5, 2, 4
SHAPES = [
    CausalTransformer(width=8, layers=2, heads=2, members=3),
    CausalTransformer(width=8, layers=1, heads=4, members=1),
    PrefixMLP((16, 8), members=3),
    PrefixMLP((16,), members=1),
]


def built(shape, dtype=torch.float64):
    torch.manual_seed(0)
    return shape.build(FEATURES, CHUNK, ACTION).to(dtype)


def given(dtype=torch.float64):
    drawn = torch.Generator().manual_seed(1)
    return (
        torch.randn(BATCH, FEATURES, generator=drawn, dtype=dtype),
        torch.randn(BATCH, CHUNK, ACTION, generator=drawn, dtype=dtype),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prefix_does_not_know_what_comes_after_it(shape):
    critic, (states, chunks) = built(shape), given()
    values = critic(states, chunks)
    assert values.shape == (shape.members, BATCH, CHUNK)
    for changed in range(CHUNK):
        other = chunks.clone()
        other[:, changed] += 10
        found = critic(states, other)
        assert torch.equal(found[..., :changed], values[..., :changed])
        assert (found[..., changed:] != values[..., changed:]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_value_depends_on_the_state_and_the_order_of_actions(shape):
    critic, (states, chunks) = built(shape), given()
    values = critic(states, chunks)
    assert (critic(states + 1, chunks) != values).all()
    assert (critic(states, chunks.flip(1))[..., -1] != values[..., -1]).all()
    # the same actions, and a longer prefix
    same = critic(states, torch.zeros_like(chunks))
    assert (same[..., 1:] != same[..., :-1]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_full_value_is_the_last_one(shape):
    critic, (states, chunks) = built(shape), given()
    torch.testing.assert_close(critic.full(states, chunks), critic(states, chunks)[..., -1])


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]])
def test_members_share_nothing(shape):
    critic, (states, chunks) = built(shape), given()
    critic(states, chunks)[1].sum().backward()
    for name, parameter in critic.named_parameters():
        axis = parameter.shape.index(3) if name != "position" else 1
        grads = parameter.grad.movedim(axis, 0)
        assert (grads[[0, 2]] == 0).all(), name
        assert (grads[1] != 0).any() or "key_value.bias" in name, name


@pytest.mark.parametrize("shape", SHAPES[::2])
def test_gradients_are_those_of_finite_differences(shape):
    critic, (states, chunks) = built(shape), given()
    states, chunks = states[:2].requires_grad_(), chunks[:2].requires_grad_()
    assert torch.autograd.gradcheck(critic, (states, chunks), fast_mode=True)
    assert torch.autograd.gradcheck(critic.full, (states, chunks), fast_mode=True)


def test_the_transformer_is_that_of_plain_loops():
    shape = SHAPES[0]
    critic, (states, chunks) = built(shape), given()
    values = critic(states, chunks)
    for member in range(3):

        def linear(layer, x, member=member):
            return x @ layer.weight[member] + layer.bias[member]

        for row in range(BATCH):
            tokens = [linear(critic.state, states[row])]
            tokens += [linear(critic.action, chunks[row, k]) + critic.position[k, member] for k in range(CHUNK)]
            x = torch.stack(tokens)
            for block in critic.blocks:
                normed = functional.layer_norm(x, (8,))
                query, (key, value) = linear(block.query, normed), linear(block.key_value, normed).chunk(2, dim=-1)
                mixed = torch.zeros_like(x)
                for head in range(2):
                    part = slice(4 * head, 4 * head + 4)
                    for i in range(CHUNK + 1):
                        scores = query[i, part] @ key[: i + 1, part].T / math.sqrt(4)
                        mixed[i, part] = scores.softmax(0) @ value[: i + 1, part]
                x = x + linear(block.out, mixed)
                x = x + linear(block.down, functional.gelu(linear(block.up, functional.layer_norm(x, (8,)))))
            found = linear(critic.value, functional.layer_norm(x[1:], (8,)))[:, 0]
            torch.testing.assert_close(values[member, row], found)


def test_the_prefix_network_is_that_of_masked_inputs():
    critic, (states, chunks) = built(SHAPES[2]), given()
    values = critic(states, chunks)
    for member in range(3):
        for i in range(CHUNK):
            masked = chunks.clone()
            masked[:, i + 1 :] = 0
            x = states @ critic.state[member] + masked.flatten(1) @ critic.actions[member]
            x = x + critic.bias[member] + critic.length[member, i]
            for layer in critic.later:
                x = x.relu() @ layer.weight[member] + layer.bias[member]
            torch.testing.assert_close(values[member, :, i], x[:, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CausalTransformer(width=10, heads=4), "width a multiple of the heads"),
        (lambda: CausalTransformer(layers=0), "sizes must be at least 1"),
        (lambda: PrefixMLP(()), "at least one member and one hidden layer are needed"),
        (lambda: PrefixMLP(members=0), "at least one member and one hidden layer are needed"),
    ],
)
def test_sizes_are_checked(make, message):
    with pytest.raises(FewerError, match=message):
        make()
