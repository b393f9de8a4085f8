"""CLIP's towers: what they may see, how they start, what they refuse."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.optimisers import parameter_groups
from fewer.pretrain.clip_towers import Attention, ImageTransformer, QuickGELU, TextTransformer


def text_tower(**changes):
    torch.manual_seed(0)
    return TextTransformer(
        **{"vocabulary": 12, "width": 16, "depth": 2, "heads": 2, "context": 8, "end": 2, **changes}
    ).eval()


def test_what_comes_after_the_end_does_not_matter_and_what_comes_before_does():
    tower = text_tower()
    first = tower(torch.tensor([[1, 5, 2, 0, 0], [1, 5, 2, 9, 2], [1, 6, 2, 0, 0]]))
    assert torch.allclose(first[0], first[1], atol=1e-6)
    assert not torch.allclose(first[0], first[2], atol=1e-3)
    assert torch.allclose(tower(torch.tensor([[1, 5, 2]]))[0], first[0], atol=1e-6)


def test_each_place_knows_only_what_is_up_to_it():
    tower = text_tower()
    embeddings = torch.randn(1, 6, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(tower.hidden(embeddings)[0, 2, 0], embeddings)
    assert (gradient[0, :3] != 0).any(1).all()
    assert (gradient[0, 3:] == 0).all()


def test_prompts_may_come_as_embeddings():
    tower, tokens = text_tower(), torch.tensor([[1, 5, 6, 2]])
    entered = tower.from_embeddings(tower.token_embedding(tokens), torch.tensor([3]))
    assert torch.equal(entered, tower(tokens))


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours = Attention(16, 4, causal=True)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict({name.replace("in_proj.", "in_proj_"): value for name, value in ours.state_dict().items()})
    x = torch.randn(3, 5, 16)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    assert torch.allclose(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], atol=1e-6)


def test_quick_gelu():
    x = torch.linspace(-3, 3, 7)
    assert torch.allclose(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))


def test_it_starts_with_the_deviations_of_the_paper():
    torch.manual_seed(0)
    tower = TextTransformer(2000, width=256, depth=4, heads=4, context=50, end=2)
    block = tower.blocks[0]
    for weight, deviation in (
        (tower.token_embedding.weight, 0.02),
        (tower.positional_embedding, 0.01),
        (block.attn.in_proj.weight, 256**-0.5),
        (block.attn.out_proj.weight, 256**-0.5 * 8**-0.5),
        (block.mlp["c_proj"].weight, 256**-0.5 * 8**-0.5),
        (block.mlp["c_fc"].weight, 512**-0.5),
    ):
        assert weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert (block.attn.in_proj.bias == 0).all()
    assert (block.ln_1.weight == 1).all()


def test_gains_biases_and_positions_do_not_decay():
    tower = ImageTransformer(16, 8, width=16, depth=1, heads=2)
    groups = parameter_groups(tower)
    spared = {id(each) for group in groups if group.get("weight_decay") == 0 for each in group["params"]}
    for name, value in tower.named_parameters():
        assert (id(value) in spared) == (value.ndim < 2 or name == "positional_embedding"), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageTransformer(20, 8), "20 pixels a side cannot be cut into patches of 8"),
        (lambda: ImageTransformer(16, 8, width=10, heads=3), "cannot be shared by 3 heads"),
        (lambda: ImageTransformer(16, 8, depth=0, width=16, heads=2), "a tower of 0 blocks"),
        (
            lambda: ImageTransformer(16, 8, 16, 1, 2)(torch.zeros(2, 1, 16, 16)),
            r"3 channels and 16 pixels a side; these",
        ),
        (lambda: text_tower(end=12), "the end token 12 must be one of 12"),
        (lambda: text_tower()(torch.tensor([[1, 5, 0]])), r"a text has no end token \(2\)"),
        (lambda: text_tower()(torch.tensor([[1] * 8 + [2]])), "a text of 9 tokens, and this tower reads 8"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()
