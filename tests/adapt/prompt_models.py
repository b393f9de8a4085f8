"""Small CLIPs that nobody has trained, for tests of prompts."""

from __future__ import annotations

import json

import numpy as np
import torch

from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
from fewer.pretrain.vocabulary import Vocabulary

NAMES = ("red cat", "blue dog", "small green bird")
WORDS = ["a photo of a red cat .", "a photo of a blue dog .", "a photo of a small green bird ."]


def small_clip(width=8, context=14, words=True, seed=0, moved=0.2):
    """Images of 16 pixels, 6 dimensions in common."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokens = Vocabulary(WORDS, context, least=1)
        text_tower = TextTransformer(tokens.size, width, 2, 2 if width % 2 == 0 else 1, context, tokens.end)
        image_tower = ImageTransformer(16, 8, width=16, depth=1, heads=2)
        model = CLIP(image_tower, text_tower, 6, tokens if words else None)
        with torch.no_grad():  # so large that every part matters
            for value in model.text_tower.parameters():
                value.add_(moved * torch.randn(value.shape))
            model.logit_scale.fill_(1.0)
    return model.eval()


def features(rows=5, dim=6, seed=1):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def save_transformers_clip(folder):
    """A ``CLIPModel`` and its tokenizer, as ``save_pretrained`` writes them; gives both."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    words = ["a", "photo", "of", ".", "red", "blue", "cat", "dog", "bird", "fox", "old", "oak"]
    known = {
        "<pad>": 0,
        "<unk>": 1,
        **{word: 2 + place for place, word in enumerate(words)},
        "<start>": 29,
        "<end>": 30,
    }
    tokens = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 29), ("<end>", 30)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<end>")
    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 12}
    text |= {"bos_token_id": 29, "eos_token_id": 30, "pad_token_id": 0}
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape))
        model.logit_scale.fill_(2.0)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return model, fast


def coloured(names, rows, seed=0):
    """Images whose class is a colour of their own, with a little noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % len(names)
    colours = np.random.default_rng(9).random((len(names), 3, 1, 1))
    x = np.clip(colours[y] + 0.05 * rng.standard_normal((rows, 3, 16, 16)), 0, 1).astype(np.float32)
    return x, np.array(names)[y]
