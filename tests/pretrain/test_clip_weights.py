"""Weights from and for transformers and open_clip: the same logits in both directions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
from fewer.pretrain.clip_weights import from_open_clip, from_transformers, load_clip, to_transformers
from fewer.pretrain.zero_shot import ZeroShotClassifier

transformers = pytest.importorskip("transformers")
END = 30


def configuration(**vision):
    return transformers.CLIPConfig(
        text_config={
            "vocab_size": 32,
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 10,
            "bos_token_id": 29,
            "eos_token_id": END,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 24,
            "patch_size": 8,
            **vision,
        },
        projection_dim=16,
    )


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    model = transformers.CLIPModel(configuration()).eval()
    with torch.no_grad():
        for value in model.parameters():  # so large that every part matters
            value.add_(0.2 * torch.randn(value.shape))
        model.logit_scale.fill_(2.0)
    return model


def inputs():
    drawn = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 24, 24, generator=drawn)
    tokens = torch.tensor([[29, 5, 6, END, 0], [29, 7, END, 0, 0], [29, 8, 9, 10, END], [29, END, 0, 0, 0]])
    return images, tokens


def test_a_model_of_transformers_gives_the_same_logits_here(theirs):
    images, tokens = inputs()
    with torch.inference_mode():
        expected = theirs(input_ids=tokens, pixel_values=images)
        found = from_transformers(theirs)(images, tokens)
    assert torch.allclose(found[0], expected.logits_per_image, atol=1e-5, rtol=1e-5)
    assert torch.allclose(found[1], expected.logits_per_text, atol=1e-5, rtol=1e-5)


def test_a_model_of_ours_gives_the_same_logits_there(theirs):
    torch.manual_seed(2)
    image_tower = ImageTransformer(24, 8, width=64, depth=2, heads=4)
    ours = CLIP(image_tower, TextTransformer(32, 32, 2, 2, 10, END), 16).eval()
    missing = theirs.load_state_dict(to_transformers(ours), strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith("position_ids") for key in missing.missing_keys)
    images, tokens = inputs()
    with torch.inference_mode():
        expected, found = theirs(input_ids=tokens, pixel_values=images), ours(images, tokens)
    assert torch.allclose(found[0], expected.logits_per_image, atol=1e-5, rtol=1e-5)
    back = from_transformers(theirs).state_dict()
    assert all(torch.equal(value, back[name]) for name, value in ours.state_dict().items())


def test_a_state_dict_of_open_clip():
    torch.manual_seed(0)
    image_tower = ImageTransformer(24, 8, width=128, depth=2, heads=2)
    ours = CLIP(image_tower, TextTransformer(20, 64, 1, 1, 6, 19), 16).eval()
    state = {}
    for name, value in ours.state_dict().items():
        name = name.replace("image_tower.", "visual.").replace("text_tower.", "").replace("in_proj.", "in_proj_")
        state[name.replace("blocks.", "transformer.resblocks.")] = value
    state["visual.proj"] = state.pop("image_projection.weight").T
    state["text_projection"] = state.pop("text_projection.weight").T
    read = from_open_clip(state)
    images, tokens = inputs()[0], torch.tensor([[1, 5, 19], [1, 6, 19]])
    assert torch.equal(read(images, tokens)[0], ours(images, tokens)[0])
    with pytest.raises(FewerError, match=r"has no ln_final\.weight"):
        from_open_clip({name: value for name, value in state.items() if name != "ln_final.weight"})
    with pytest.raises(FewerError, match="only ViT image towers are read"):
        from_open_clip({"visual.attnpool.q_proj.weight": torch.zeros(1)})


def test_a_folder_is_read_with_its_tokenizer_and_its_pixels(theirs, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = {"<pad>": 0, "a": 5, "photo": 6, "of": 7, "cat": 8, "dog": 9, "<start>": 29, "<end>": END, "<unk>": 1}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 29), ("<end>", END)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    theirs.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    )
    model = load_clip(tmp_path)
    x = np.random.default_rng(0).random((4, 3, 24, 24), dtype=np.float32)
    classifier = ZeroShotClassifier(model, ["cat", "dog"]).fit()
    with torch.inference_mode():
        tokens = fast(["a photo of a cat", "a photo of a dog"], return_tensors="pt")["input_ids"]
        expected = theirs(input_ids=tokens, pixel_values=torch.from_numpy(x) * 2 - 1).logits_per_image
    assert np.allclose(classifier.decision_function(x), expected.numpy(), atol=1e-4)
    assert classifier.predict(x).tolist() == [["cat", "dog"][best] for best in expected.argmax(1)]
    long = model.tokenizer(["a " * 20])
    assert long.shape == (1, 10)
    assert long[0, -1] == END
    with pytest.raises(FewerError, match="takes 22 tokens and the text tower reads 10"):
        ZeroShotClassifier(model, ["a " * 20], ["{}"]).fit()


def test_errors(theirs, tmp_path):
    with pytest.raises(FewerError, match="no folder /no/such"):
        load_clip("/no/such")
    with pytest.raises(FewerError, match="holds no CLIP model"):
        load_clip(tmp_path)
    with pytest.raises(FewerError, match="towers have quick_gelu"):
        from_transformers(transformers.CLIPModel(configuration(hidden_act="gelu")))
    tower = torch.nn.Linear(3, 4)
    tower.width = 4
    with pytest.raises(FewerError, match="two transformers as towers; these are Linear and Linear"):
        to_transformers(CLIP(tower, tower, 2))
