"""The blocks of vision transformers, as they are laid out in this library, timm and transformers.

Knows where a block keeps its norms, its projections and its feed-forward part, how to listen to its keys and values while
the network runs, and how to send a few tokens of one's own through it that the network's tokens do not see.  Nothing of a
network is changed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.core.errors import FewerError

KeysValues = tuple[Float[Tensor, "batch heads tokens channels"], Float[Tensor, "batch heads tokens channels"]]


@dataclass(frozen=True)
class Layout:
    """Names of a block's parts.

    Parameters
    ----------
    norm1, attention, out, norm2 : str
        The norms, attention and in it the projection of what was seen.
    projections : tuple of str
        In attention: one of queries, keys and values together, or one of each.
    scale1, scale2 : str
        Learned scales of what attention and feed-forward part add, where there are some.
    """

    norm1: str
    attention: str
    projections: tuple[str, ...]
    out: str
    norm2: str
    scale1: str = ""
    scale2: str = ""

    def fits(self, block: nn.Module) -> bool:
        """Whether a block is laid out like this."""
        attention = getattr(block, self.attention, None)
        return all(hasattr(block, name) for name in (self.norm1, self.norm2, "mlp")) and all(
            isinstance(getattr(attention, name, None), nn.Linear) for name in (*self.projections, self.out)
        )


EACH = ("q_proj", "k_proj", "v_proj")
LAYOUTS = (
    Layout("norm1", "attn", ("qkv",), "proj", "norm2", "ls1", "ls2"),  # this library's and timm's
    Layout("layernorm_before", "attention", EACH, "o_proj", "layernorm_after"),  # ViT, DeiT
    Layout("norm1", "attention", EACH, "o_proj", "norm2", "layer_scale1", "layer_scale2"),  # DINOv2
    Layout("layer_norm1", "self_attn", EACH, "out_proj", "layer_norm2"),  # CLIP
)


@dataclass(frozen=True)
class VisionStack:
    """Where a model keeps its blocks.

    Parameters
    ----------
    name : str
        Of the list of blocks among the model's sub-modules.
    depth, width, patch_area : int
        Blocks, channels of a token, pixels of a patch.
    """

    name: str
    depth: int
    width: int
    patch_area: int

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks, from first to last."""
        return list(cast(nn.ModuleList, model.get_submodule(self.name)))


def vision_stack(model: nn.Module, what: str) -> VisionStack:
    """Find the blocks of a vision transformer.

    Parameters
    ----------
    model : nn.Module
        This library's :class:`~fewer.models.vit.VisionTransformer`, timm's, or ``ViTModel``, ``DeiTModel``, ``CLIPVisionModel``,
        ``Dinov2Model`` and what carries one of them, such as ``ViTForImageClassification``.
    what : str
        For whom, in the error.

    Raises
    ------
    FewerError
        If there is no list of known blocks, or several.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> vision_stack(net, "example")
    VisionStack(name='blocks', depth=2, width=16, patch_area=16)
    """
    found = [
        name
        for name, each in model.named_modules()
        if isinstance(each, nn.ModuleList | nn.Sequential) and len(each) and all(_layout(block) for block in each)
    ]
    kind = type(getattr(model, "model", model)).__name__
    if not found:
        raise FewerError(
            f"{what}: a {kind} has no blocks that can be looked into; give a vision transformer of this library, of timm, or "
            "ViT, DeiT, CLIP's vision model or DINOv2 of transformers"
        )
    if len(found) > 1:
        raise FewerError(
            f"{what}: a {kind} has several stacks of blocks ({', '.join(found)}); give its vision model alone"
        )
    blocks = cast(nn.ModuleList, model.get_submodule(found[0]))
    layout = cast(Layout, _layout(blocks[0]))
    width = getattr(getattr(blocks[0], layout.attention), layout.projections[0]).in_features
    return VisionStack(found[0], len(blocks), width, _patch_area(model))


def _layout(block: nn.Module) -> Layout | None:
    return next((each for each in LAYOUTS if each.fits(block)), None)


def _patch_area(model: nn.Module) -> int:
    for each in model.modules():
        if isinstance(each, nn.Conv2d):  # the first one cuts the image into patches
            return math.prod(each.kernel_size)
    return 256


def last_tokens(
    model: nn.Module, images: Float[Tensor, "batch channels height width"], what: str
) -> Float[Tensor, "batch tokens width"]:
    """All tokens behind the last norm, the class token first.

    Raises
    ------
    FewerError
        If the images are not what the model takes, or it draws patches at random.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise FewerError(
            f"{what}: images must be floats (rows, channels, height, width), scaled as the backbone learned them; these are "
            f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
        )
    trunk: Any = model
    while not hasattr(trunk, "forward_features") and not hasattr(trunk, "base_model") and hasattr(trunk, "model"):
        trunk = trunk.model  # a wrapper around it
    images = images.to(next(trunk.parameters()).dtype)
    if hasattr(trunk, "forward_features"):
        tokens = trunk.forward_features(images)
    else:
        for inner in ("base_model", "vision_model"):  # under a classifier or a projection
            trunk = trunk if hasattr(trunk, "embeddings") else getattr(trunk, inner, trunk)
        kind = str(getattr(getattr(trunk, "config", None), "model_type", ""))
        if kind == "vit_mae":
            raise FewerError(f"{what}: a ViTMAEModel masks patches at random; load its weights as a ViTModel")
        channels = getattr(getattr(trunk, "config", None), "num_channels", images.shape[1])
        refused = "" if images.shape[1] == channels else f"it takes {channels} channels"
        try:
            tokens = None if refused else trunk(pixel_values=images).last_hidden_state
        except (ValueError, TypeError) as error:
            refused = " ".join(str(error).split())
        if refused:
            raise FewerError(
                f"{what}: a {type(trunk).__name__} cannot see images of shape {tuple(images.shape[1:])}: {refused}"
            )
        if kind.startswith("clip"):  # its last norm is on the way to the pooled output only
            tokens = trunk.post_layernorm(tokens)
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        raise FewerError(
            f"{what}: forward_features of a {type(trunk).__name__} gives no tokens (rows, tokens, channels)"
        )
    return tokens


@contextlib.contextmanager
def listened(modules: Sequence[nn.Module], hear: Callable[[int, Any, Any], None]) -> Iterator[None]:
    """Let ``hear(place, given, output)`` know what each of some modules gets and gives, for a while."""

    def ear(place: int) -> Callable[..., None]:
        def heard(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            hear(place, args[0] if args else next(iter(named.values()), None), output)

        return heard

    handles = [each.register_forward_hook(ear(place), with_kwargs=True) for place, each in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tokens_keys_values(
    model: nn.Module, stack: VisionStack, images: Tensor, what: str
) -> tuple[Float[Tensor, "batch tokens width"], list[KeysValues]]:
    """Run a model: its last tokens (see :func:`last_tokens`), and the keys and values of each block.

    Nothing is remembered for going backwards where nothing in the model is trained.
    """
    blocks = stack.blocks(model)
    layouts = [cast(Layout, _layout(each)) for each in blocks]
    projections = [
        getattr(getattr(block, layout.attention), name)
        for block, layout in zip(blocks, layouts, strict=True)
        for name in layout.projections[-2:]
    ]
    learning = torch.is_grad_enabled() and any(each.requires_grad for each in model.parameters())
    heard: list[Tensor] = []

    def hear(place: int, given: Any, output: Tensor) -> None:
        heads = _heads(blocks[place * len(blocks) // len(projections)])
        if len(projections) == len(blocks):  # queries, keys and values in one
            output = output[..., output.shape[-1] // 3 :]
            # a copy, so that the queries of the tokens, which nobody asks for, are let go
            output = output if learning else output.clone()
            heard.extend(output.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4))
        else:
            heard.append(output.unflatten(-1, (heads, -1)).transpose(1, 2))

    with torch.set_grad_enabled(learning), listened(projections, hear):
        last = last_tokens(model, images, what)
    return last, list(zip(heard[::2], heard[1::2], strict=True))


def sent_through(
    block: nn.Module, tokens: Float[Tensor, "rows own width"], keys_values: KeysValues
) -> Float[Tensor, "batch own width"]:
    """What a block makes of tokens that read its keys and values, and that its own tokens do not see.

    Parameters
    ----------
    block : nn.Module
        Of a known layout.
    tokens : float tensor (batch or 1, own, width)
        As they would stand before the block.
    keys_values
        Of the block's own tokens.
    """
    layout = cast(Layout, _layout(block))
    attention: Any = getattr(block, layout.attention)
    key, value = keys_values
    heads = _heads(block)
    asked = getattr(attention, layout.projections[0])(getattr(block, layout.norm1)(tokens))
    asked = asked[..., : key.shape[1] * key.shape[3]].unflatten(-1, (heads, -1)).transpose(1, 2)
    scale = getattr(attention, "scaling", getattr(attention, "scale", None))
    seen = functional.scaled_dot_product_attention(asked.expand(len(key), -1, -1, -1), key, value, scale=scale)
    seen = getattr(attention, layout.out)(seen.transpose(1, 2).flatten(2))
    made = tokens + _scaled(block, layout.scale1, seen)
    made = made + _scaled(block, layout.scale2, cast(Any, block).mlp(getattr(block, layout.norm2)(made)))
    # an adapter behind the block (see fewer.adapt.built_in) changes these tokens as it changes the others
    return cast(Any, block).built_in.change(tokens, made) if hasattr(block, "built_in") else made


def refuse_other_computations(model: nn.Module, stack: VisionStack, images: Tensor, what: str) -> None:
    """See that blocks compute what :func:`sent_through` does: sent through again, the class token must come out the same.

    Raises
    ------
    FewerError
        If not: norms of queries and keys, relative positions and norms behind the skip are not known here.
    """
    blocks = stack.blocks(model)
    modes = {each: each.training for each in model.modules()}
    ends: list[tuple[Tensor, Tensor]] = []

    def hear(place: int, given: Tensor, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        ends.append((given[:, :1], output[:, :1]))

    model.eval()  # what is dropped by chance is dropped otherwise the second time
    try:
        with torch.no_grad(), listened(blocks, hear):
            _, heard = tokens_keys_values(model, stack, images[:1], what)
            made = [
                sent_through(block, given, each) for block, (given, _), each in zip(blocks, ends, heard, strict=True)
            ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    for place, (mine, (_, theirs)) in enumerate(zip(made, ends, strict=True)):
        within = 1e-3 if theirs.dtype in (torch.float32, torch.float64) else 0.05
        if not bool((mine - theirs).abs().max() <= within * theirs.abs().max()):
            raise FewerError(
                f"{what}: block {place} of this model, a {type(blocks[place]).__name__}, does more than norm, attention and "
                "feed-forward part, and cannot be asked by queries; give a plain vision transformer"
            )


def _heads(block: nn.Module) -> int:
    attention: Any = getattr(block, cast(Layout, _layout(block)).attention)
    return int(getattr(attention, "num_heads", getattr(attention, "num_attention_heads", 1)))


def _scaled(block: nn.Module, name: str, added: Tensor) -> Tensor:
    return getattr(block, name)(added) if name and hasattr(block, name) else added
