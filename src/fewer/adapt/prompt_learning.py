"""Learned prompts for a frozen CLIP: a few vectors in front of a class's name take the place of "a photo of a".

A class's prompt is ``[start] V~ [name] . [end]``; its text feature w_c is the text tower's, brought to length one, and::

    p(c | x) = softmax_c( e^s <f(x) / |f(x)|, w_c> )         loss = cross-entropy

V~ are the learned vectors V themselves (CoOp), what a small network makes of them (PRE, see :mod:`fewer.adapt.pre`), or V
moved by what a small network says of the image, V + pi(f(x) / |f(x)|) (CoCoOp).

References
----------
Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv:2109.01134 (CoOp); "Conditional Prompt Learning
for Vision-Language Models", CVPR 2022, arXiv:2203.05557 (CoCoOp).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.context_encoders import ContextEncoder, Kind
from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import TextTransformer
from fewer.pretrain.clip_weights import load_clip

FORMAT = "fewer-prompt-1"
"""Of a saved context."""


def clip_of(model: CLIP | str | os.PathLike[str]) -> CLIP:
    """A CLIP, or the one in a folder that ``transformers`` wrote."""
    if isinstance(model, str | os.PathLike):
        return load_clip(model)
    if not isinstance(model, CLIP):
        raise FewerError(
            f"prompt: a {type(model).__name__} was given; give a fewer.pretrain.CLIP or the folder of a CLIPModel"
        )
    return model


class PromptLearner(nn.Module):
    """Context vectors in front of class names, and image features to logits of the classes.

    Parameters
    ----------
    clip_model : CLIP or path
        With its tokenizer, or the folder of a ``CLIPModel`` with its tokenizer.  It is frozen and put into evaluation, and is
        no sub-module: ``parameters()`` and ``state_dict()`` are those of the prompt.
    classnames : sequence of str
        What is learned to tell apart; underscores are read as spaces.
    encoder : {"lstm", "lstm2", "mlp", "mlp2", "transformer"}, optional
        What rewrites the vectors (PRE), "lstm" by default; None learns the vectors themselves (CoOp).
    n_ctx : int, optional
        Vectors, 4 by default; None takes as many as ``init`` has tokens.
    init : str, optional
        Text whose embeddings the vectors begin with; None draws them from N(0, 0.02^2).
    stop : str, default "."
        What stands behind the name; ``""`` for a model whose texts end without a full stop.
    residual, separate : bool, default True and False
        See :class:`~fewer.adapt.context_encoders.ContextEncoder`.

    Attributes
    ----------
    context : parameter (n_ctx, width)
        The vectors V.

    Examples
    --------
    >>> from fewer.pretrain.clip_towers import ImageTransformer
    >>> from fewer.pretrain.vocabulary import Vocabulary
    >>> words = Vocabulary(["a photo of a cat", "a photo of a dog"], context=12, least=1)
    >>> image_tower = ImageTransformer(16, 8, width=16, depth=1, heads=2)
    >>> text_tower = TextTransformer(words.size, width=8, depth=1, heads=2, context=12, end=words.end)
    >>> model = CLIP(image_tower, text_tower, embed_dim=4, tokenizer=words)
    >>> learner = PromptLearner(model, ["cat", "dog"], stop="")
    >>> features = model.encode_image(torch.zeros(3, 3, 16, 16))
    >>> learner(features).shape, learner(features, ["a", "photo", "cat"]).shape
    (torch.Size([3, 2]), torch.Size([3, 3]))
    """

    def __init__(
        self,
        clip_model: CLIP | str | os.PathLike[str],
        classnames: Sequence[str],
        encoder: Kind | None = "lstm",
        n_ctx: int | None = 4,
        init: str | None = "a photo of a",
        stop: str = ".",
        residual: bool = True,
        separate: bool = False,
    ) -> None:
        super().__init__()
        self.stop = stop
        self.use(clip_of(clip_model).eval().requires_grad_(False))
        if not isinstance(self.clip.text_tower, TextTransformer):
            raise FewerError(
                f"prompt: the text tower is a {type(self.clip.text_tower).__name__}, which takes no embedded tokens; learned "
                "prompts need a TextTransformer"
            )
        first = self._begun(n_ctx, init)
        self.context = nn.Parameter(first)
        self.classnames = tuple(classnames)
        self._tokens = self._names(classnames)
        tokens, width = first.shape
        self.encoder = None if encoder is None else ContextEncoder(encoder, width, tokens, residual, separate).to(first)

    @property
    def clip(self) -> CLIP:
        """The frozen model."""
        return self._clip[0]

    @property
    def _tower(self) -> TextTransformer:
        return cast(TextTransformer, self.clip.text_tower)

    def use(self, model: CLIP) -> None:
        """Put a copy of the model in its place."""
        self._clip = (model,)  # in a tuple, so that its weights are not this module's

    def _begun(self, n_ctx: int | None, init: str | None) -> Tensor:
        embedding = self._tower.token_embedding
        if init is None:
            if n_ctx is None or n_ctx < 1:
                raise FewerError(f"prompt: n_ctx is {n_ctx} and there is no init; give 1 vector or more, or a text")
            return 0.02 * torch.randn(n_ctx, embedding.embedding_dim).to(embedding.weight)
        tokens = self.clip.tokens([init], whole=True)[0]
        tokens = tokens[1 : int((tokens == self._tower.end).int().argmax())]
        if not len(tokens):
            raise FewerError(f"prompt: init {init!r} has no tokens; give a text, or init=None with n_ctx")
        if n_ctx is not None and len(tokens) != n_ctx:
            raise FewerError(
                f"prompt: init {init!r} takes {len(tokens)} tokens and n_ctx is {n_ctx}; give n_ctx={len(tokens)}, or init=None"
            )
        return embedding(tokens).detach().clone()

    def _names(self, classnames: Sequence[str]) -> Int[Tensor, "classes length"]:
        """Tokens of ``[start] name. [end]``, checked."""
        if isinstance(classnames, str) or not len(classnames):
            raise FewerError(f"prompt: classnames are {classnames!r}; give a list of one name or more")
        if len(set(classnames)) < len(classnames):
            twice = next(name for place, name in enumerate(classnames) if name in classnames[:place])
            raise FewerError(f"prompt: the class {twice!r} is named twice; give each name once")
        names = [name.replace("_", " ") for name in classnames]
        end, context = self._tower.end, self._tower.context
        for name, tokens in zip(classnames, self.clip.tokens(names, whole=True), strict=True):
            if int((tokens == end).int().argmax()) < 2:  # the start is before it
                raise FewerError(f"prompt: the name {name!r} has no tokens; give a word that the tokenizer knows")
        found = self.clip.tokens([name + self.stop for name in names], whole=True)
        lengths = (found == end).int().argmax(1) + 1 + len(self.context)
        if int(lengths.max()) > context:
            raise FewerError(
                f"prompt: {classnames[int(lengths.argmax())]!r} behind {len(self.context)} context tokens takes "
                f"{int(lengths.max())} and the text tower reads {context}; shorten the name or lower n_ctx"
            )
        return found[:, : int(lengths.max()) - len(self.context)]

    def encoded(self) -> Float[Tensor, "n_ctx width"]:
        """The context as it enters the prompts, V~."""
        return self.context if self.encoder is None else self.encoder(self.context)

    def text_features(
        self, context: Float[Tensor, "*rows n_ctx width"], classnames: Sequence[str] | None = None
    ) -> Float[Tensor, "*rows classes dim"]:
        """Features of the classes' prompts behind a context, of length one; by default of the classes that are learned."""
        tokens = self._tokens if classnames is None else self._names(classnames)
        tower = self._tower
        tokens = tokens.to(self.clip.logit_scale.device)
        rows, (classes, _) = context.shape[:-2], tokens.shape
        embedded = tower.token_embedding(tokens).expand(*rows, -1, -1, -1)
        before = context[..., None, :, :].expand(*rows, classes, -1, -1)
        prompts = torch.cat([embedded[..., :1, :], before, embedded[..., 1:, :]], dim=-2)
        ends = (tokens == tower.end).int().argmax(1) + context.shape[-2]
        found = tower.from_embeddings(prompts.flatten(0, -3), ends.expand(*rows, -1).flatten())
        return nn.functional.normalize(self.clip.text_projection(found), dim=-1).unflatten(0, (*rows, classes))

    def forward(
        self, features: Float[Tensor, "rows dim"], classnames: Sequence[str] | None = None
    ) -> Float[Tensor, "rows classes"]:
        """Logits of the classes that are learned, or of others by name.

        Parameters
        ----------
        features : tensor (rows, dim)
            As ``encode_image`` gives them; they are brought to length one here.
        classnames : sequence of str, optional
            Other classes.
        """
        known = self.text_features(self.encoded(), classnames)
        return self.clip.logit_scale.exp() * nn.functional.normalize(features, dim=1) @ known.T

    def folded(self) -> PromptLearner:
        """The same prompt without its encoder: V~ as a constant, and nothing that learns."""
        was = self.training
        with torch.no_grad():
            context = self.eval().encoded().clone()
        self.train(was)
        plain = PromptLearner(self.clip, self.classnames, None, len(context), None, self.stop)
        plain.context.data = context
        return plain.requires_grad_(False).eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folded context (n_ctx, width) and the names as safetensors; nothing of the model."""
        header = {"format": FORMAT, "classnames": self.classnames, "stop": self.stop}
        write_tensors(path, header, {"context": self.folded().context})

    @staticmethod
    def load(path: str | os.PathLike[str], clip_model: CLIP | str | os.PathLike[str]) -> PromptLearner:
        """Read what :meth:`save` wrote, for the same model.

        Raises
        ------
        FewerError
            If the file is none of these, or the model's text tower is of another width.
        """
        header, tensors = read_tensors(path, "saved prompt")
        context = tensors.get("context")
        if header.get("format") != FORMAT or context is None or context.ndim != 2:
            raise FewerError(f"{path} is no saved prompt; give a file that save() wrote")
        learner = PromptLearner(clip_model, header["classnames"], None, len(context), None, header["stop"])
        if learner.context.shape != context.shape:
            raise FewerError(
                f"{path} holds a context {context.shape[1]} wide and the text tower is {learner.context.shape[1]} wide; give "
                "the model it was learned with"
            )
        learner.context.data = context.to(learner.context)
        return learner.requires_grad_(False).eval()


class ImageConditionedPromptLearner(PromptLearner):
    """CoCoOp: each image moves the context, so each needs its own texts: rows times classes of them.

    Parameters
    ----------
    clip_model, classnames, n_ctx, init, stop
        See :class:`PromptLearner`.
    block : int, default 64
        Images at a time.
    """

    def __init__(
        self,
        clip_model: CLIP | str | os.PathLike[str],
        classnames: Sequence[str],
        n_ctx: int | None = 4,
        init: str | None = "a photo of a",
        stop: str = ".",
        block: int = 64,
    ) -> None:
        super().__init__(clip_model, classnames, None, n_ctx, init, stop)
        width, dim = self.context.shape[1], self.clip.image_projection.out_features
        hidden = max(1, dim // 16)
        self.meta = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width)).to(self.context)
        self.block = block

    def forward(
        self, features: Float[Tensor, "rows dim"], classnames: Sequence[str] | None = None
    ) -> Float[Tensor, "rows classes"]:
        """Logits, as :class:`PromptLearner` gives them."""
        parts = []
        for part in nn.functional.normalize(features, dim=1).split(self.block):
            known = self.text_features(self.context + self.meta(part)[:, None], classnames)
            parts.append(torch.einsum("rd,rcd->rc", part, known))
        return self.clip.logit_scale.exp() * torch.cat(parts)

    def folded(self) -> PromptLearner:
        """There is no constant to fold to.

        Raises
        ------
        FewerError
            Always.
        """
        raise FewerError("prompt: a context that depends on the image cannot be folded or saved as a constant")
