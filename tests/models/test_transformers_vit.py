"""Vision transformers of transformers as encoders of patches: the same outputs, ViTMAE's masks and loss, folders, errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder, TokenPredictor, gathered
from fewer.models.transformers_vit import TransformersEncoder, TransformersViT
from fewer.pretrain.dmjd import DMJD, DisjointMasking, VisibleBranch
from fewer.pretrain.masked import Mask, MaskedModelling, Pixels, Squared, masked_losses
from fewer.tasks.representation import Representation

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def vit(**more):
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**{**SIZES, **more}), add_pooling_layer=False).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return model


def vit_mae(**more):
    torch.manual_seed(1)
    config = transformers.ViTMAEConfig(
        **SIZES, decoder_hidden_size=8, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, mask_ratio=0.5, **more,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return model


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
ORDER = NOISE.argsort(1)


# --- the same weights, the same outputs ------------------------------------------------------------------------------


def test_all_patches_are_the_networks_own_last_hidden_state():
    model = vit()
    encoder = TransformersEncoder(model)
    assert (encoder.grid, encoder.places, encoder.width, encoder.shape) == ((4, 4), 16, 16, (1, 8, 8))
    assert torch.equal(encoder.tokens(X), model(X).last_hidden_state[:, 1:])
    assert torch.allclose(encoder(X), model(X).last_hidden_state[:, 1:].mean(1))
    assert torch.allclose(encoder.tokens(X, ORDER), gathered(encoder.tokens(X), ORDER), atol=1e-5)


def test_kept_patches_are_those_of_vit_mae_on_the_same_mask():
    mae, plain = vit_mae(), vit()
    missing, unexpected = plain.load_state_dict(mae.vit.state_dict(), strict=False)
    assert not missing
    assert not unexpected
    found = TransformersEncoder(plain).tokens(X, ORDER[:, :8])
    assert torch.allclose(found, mae.vit(X, noise=NOISE).last_hidden_state[:, 1:], atol=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_vit_maes_on_the_same_mask_and_predictions(normalise):
    mae = vit_mae(norm_pix_loss=normalise)
    given = mae(X, noise=NOISE)
    targets = Pixels(normalise).build((1, 8, 8), TransformersEncoder(vit()))
    asked = ORDER[:, 8:]
    loss = Squared()(gathered(given.logits, asked), gathered(targets(X), asked)).mean()
    assert loss.item() == pytest.approx(given.loss.item(), rel=1e-5)


def weights_into(block, layer):
    """Copy a layer of transformers into a block of this library."""
    attention = layer.attention
    with torch.no_grad():
        for part in ("weight", "bias"):
            joined = torch.cat([getattr(getattr(attention, f"{each}_proj"), part) for each in "qkv"])
            getattr(block.attn.qkv, part).copy_(joined)
    block.attn.proj.load_state_dict(attention.o_proj.state_dict())
    block.norm1.load_state_dict(layer.layernorm_before.state_dict())
    block.norm2.load_state_dict(layer.layernorm_after.state_dict())
    block.mlp.fc1.load_state_dict(layer.mlp.fc1.state_dict())
    block.mlp.fc2.load_state_dict(layer.mlp.fc2.state_dict())


def test_encoder_predictor_and_loss_are_vit_maes_without_its_class_token():
    """The same weights in both; transformers' own layers are called on the sequence without a class token."""
    mae = vit_mae(norm_pix_loss=True, layer_norm_eps=1e-6)
    vit_part, decoder = mae.vit, mae.decoder
    encoder = TokenEncoder((1, 8, 8), (2, 2), 16, 2, 2, ratio=2)
    predictor = TokenPredictor((4, 4), 16, 8, 4, 2, 2)
    for block, layer in zip(encoder.blocks, vit_part.layers, strict=True):
        weights_into(block, layer)
    for block, layer in zip(predictor.blocks, decoder.decoder_layers, strict=True):
        weights_into(block, layer)
    encoder.norm.load_state_dict(vit_part.layernorm.state_dict())
    predictor.norm.load_state_dict(decoder.decoder_norm.state_dict())
    predictor.enter.load_state_dict(decoder.decoder_embed.state_dict())
    predictor.leave.load_state_dict(decoder.decoder_pred.state_dict())
    projection = vit_part.embeddings.patch_embeddings.projection
    with torch.no_grad():
        encoder.project.weight.copy_(projection.weight.permute(0, 2, 3, 1).flatten(1))
        encoder.project.bias.copy_(projection.bias)
        encoder.positions.copy_(vit_part.embeddings.position_embeddings[0, 1:])
        predictor.positions.copy_(decoder.decoder_pos_embed[0, 1:])
        predictor.mask_tokens.copy_(decoder.mask_token[0])
        # what transformers computes, step by step
        embedded, mask, restore = vit_part.embeddings(X, noise=NOISE)
        hidden = embedded[:, 1:]
        for layer in vit_part.layers:
            hidden = layer(hidden)
        hidden = vit_part.layernorm(hidden)
        assert torch.allclose(encoder.tokens(X, ORDER[:, :8]), hidden, atol=1e-5)
        known = decoder.decoder_embed(hidden)
        filled = torch.cat([known, decoder.mask_token.expand(3, 8, -1)], dim=1)
        filled = filled.gather(1, restore[..., None].expand(-1, -1, 8)) + decoder.decoder_pos_embed[:, 1:]
        for layer in decoder.decoder_layers:
            filled = layer(filled)
        said = decoder.decoder_pred(decoder.decoder_norm(filled))
        target = mae.patchify(X)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        loss = ((said - target).square().mean(-1) * mask).sum() / mask.sum()
        found = masked_losses(
            X, [Mask(ORDER[:, :8], ORDER[:, 8:])], encoder, predictor, Pixels().build((1, 8, 8), encoder), Squared()
        )
    assert float(found["masked"].mean()) == pytest.approx(float(loss), rel=1e-5)


def test_networks_with_several_tokens_before_the_patches():
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=2, num_channels=1,
        num_register_tokens=3,
    )  # fmt: skip
    model = transformers.Dinov2WithRegistersModel(config).eval()
    encoder = TransformersEncoder(model)
    assert torch.equal(encoder.tokens(X), model(X).last_hidden_state[:, 4:])
    assert encoder.tokens(X, ORDER[:, :5]).shape == (3, 5, 16)


# --- training --------------------------------------------------------------------------------------------------------


def test_no_hook_stays_and_copies_stand_alone():
    encoder = TransformersEncoder(vit())
    before = encoder.tokens(X, ORDER[:, :8])
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        for each in encoder.parameters():
            each.zero_()
    assert torch.equal(twin.tokens(X, ORDER[:, :8]), before)
    assert not encoder.model.embeddings._forward_hooks


def test_it_is_pre_trained_from_a_folder_and_written_back(tmp_path):
    vit().save_pretrained(tmp_path / "vit")
    loop = compose.loop(
        f"masked-modelling(batch=16, points=1) + transformers-vit({str(tmp_path / 'vit')!r}) + dmjd(block=1, hidden=8)"
    )
    assert isinstance(loop, MaskedModelling)
    task = Representation("rows", np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32), {}, test=2)
    network = loop.learn(task, 64).result.network
    assert isinstance(network, TransformersEncoder)
    network.model.save_pretrained(tmp_path / "trained")
    again = TransformersViT(tmp_path / "trained").build((1, 8, 8)).eval()
    assert torch.allclose(again(X), network(X), atol=1e-6)
    assert not torch.allclose(TransformersViT(tmp_path / "vit").build((1, 8, 8)).eval()(X), network(X), atol=1e-3)
    fresh = TransformersViT(tmp_path / "vit", fresh=True).build((1, 8, 8)).eval()
    assert not torch.allclose(fresh(X), again(X), atol=1e-3)


def test_it_stands_in_a_loop_of_ones_own():
    model = DMJD(
        TransformersEncoder(vit()), DisjointMasking(block=1), visible=VisibleBranch(hidden=8), predictor=(8, 1, 1)
    )
    model(X, torch.Generator().manual_seed(0)).mean().backward()
    assert all(each.grad is not None for name, each in model.encoder.named_parameters() if "mask_token" not in name)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors(tmp_path):
    with pytest.raises(FewerError, match="Linear has no embeddings of patches"):
        TransformersEncoder(torch.nn.Linear(2, 2))
    with pytest.raises(FewerError, match=r"images are \(1, 9, 8\) and the network was made for \(1, 8, 8\)"):
        TransformersEncoder(vit()).tokens(torch.zeros(1, 1, 9, 8))
    with pytest.raises(FewerError, match="load a network that masks by itself as a plain one, such as ViTModel"):
        TransformersEncoder(vit_mae().vit).tokens(X)
    with pytest.raises(FewerError, match=r"no config\.json in"):
        TransformersViT(tmp_path / "none").build((1, 8, 8))
    vit().save_pretrained(tmp_path)
    with pytest.raises(FewerError, match=r"rows are \(3, 32, 32\) and the network in .* takes \(1, 8, 8\)"):
        TransformersViT(tmp_path).build((3, 32, 32))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FewerError, match="transformers vit: cannot read"):
        TransformersViT(tmp_path).build((1, 8, 8))
