"""A user's own model and problems: files, chat templates, verifiers, and models that are saved again."""

from __future__ import annotations

import json

import pytest
import torch

from fewer import compose
from fewer.adapt.low_rank_adapter import LoRA
from fewer.core.errors import FewerError, MissingPackage
from fewer.models.optimisers import AdamW, Cosine
from fewer.rollouts.baselines import grpo
from fewer.rollouts.language_task import lm, of_tokenizer, read_jsonl
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.preference import PreferenceLearning
from fewer.rollouts.problems import Problem

transformers = pytest.importorskip("transformers")

WORDS = ["What", "is", "+", "?", "Answer", "with", "the", "number", ".", "user", ":", *map(str, range(60))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny LLaMA with a tokenizer of words, as save_pretrained writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate(["</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlamaConfig(**sizes, vocab_size=len(vocabulary), max_position_embeddings=64, eos_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    return place


def test_a_model_is_trained_on_made_problems_saved_and_read_again(folder, tmp_path):
    task = lm(str(folder), "arithmetic", count=16, longest=4)
    loop = PostTraining(**grpo(kl=0.01), prompts=2, group=2, asked=8, points=1, optimiser=AdamW(1e-3, 0.0))
    learned = loop.learn(task, 8)
    said = learned.result.complete(["What is 3 + 4? Answer with the number."])
    learned.result.save(tmp_path / "trained")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    tokens = torch.tensor([task.language(0).encode("What is 3 + 4?")])
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, learned.result.language.network(tokens), atol=1e-4)
    assert lm(str(tmp_path / "trained"), "arithmetic", count=16, longest=4).language(0).network is not None
    assert len(said) == 1


def test_an_adapter_is_folded_in_when_saved(folder, tmp_path):
    loop = PostTraining(**grpo(), prompts=2, group=2, asked=8, points=1, adapter=LoRA(rank=2))
    learned = loop.learn(lm(str(folder), "sorting", verify=lambda *_: float(len(_[1]) % 2), count=16, longest=4), 8)
    learned.result.save(tmp_path / "trained")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, learned.result.language.network(tokens), atol=1e-4)


def test_chat_templates_are_followed(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = of_tokenizer(torch.nn.Identity(), tokenizer)
    assert tokenizer.decode(plain.encode("What is 3 ?")) == "What is 3 ?"
    tokenizer.chat_template = "{% for each in messages %}user : {{ each.content }} {% endfor %}Answer"
    told = of_tokenizer(torch.nn.Identity(), tokenizer, system="is")
    assert tokenizer.decode(told.encode("What")) == "user : is user : What Answer"
    assert told.end == (0,)
    assert told.decode([3, 0]) == "is"


def test_a_tokenizer_without_an_end_is_refused(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    with pytest.raises(FewerError, match="no token that ends a text"):
        of_tokenizer(torch.nn.Identity(), tokenizer)


def test_problems_of_a_file(tmp_path, folder):
    file = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"What is {n} ?", "answer": n, "hint": n % 2} for n in range(10)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_jsonl(str(file))[3] == Problem("What is 3 ?", "3", {"hint": 1})
    task = lm(str(folder), str(file))
    training, held_out = task.training(0), task.held_out(0)
    assert (len(training), len(held_out)) == (8, 2)
    assert {each.prompt for each in [*training, *held_out]} == {row["prompt"] for row in rows}
    assert task.held_out(1) != held_out
    assert task.verify(" 3\n", Problem("", "3")) == 1
    other = lm(str(folder), str(file), verify="last-number")
    assert other.verify("it is 3.", Problem("", "3")) == 1
    assert task.fingerprint() != other.fingerprint()
    own = lm(str(folder), str(file), verify=lambda prompt, completion, row: row["hint"])
    assert own.verify("", Problem("", "3", {"hint": 1})) == 1


def test_made_problems_are_those_of_the_level_and_the_seed(folder):
    one, two = (lm(str(folder), "sorting", level=level, count=20) for level in (1, 2))
    assert len(one.training(0)) >= 20
    assert one.training(0) == one.training(0) != one.training(1)
    assert len(one.training(0)[0].answer.split()) == 3
    assert len(two.training(0)[0].answer.split()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is no JSON"),
        ('{"prompt": "a"}\n{"question": "b"}', "line 2 has no prompt"),
        ('{"prompt": " "}', "line 1 has no prompt"),
        ("[1]", "line 1 has no prompt"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    file = tmp_path / "problems.jsonl"
    file.write_text(text)
    with pytest.raises(FewerError, match=message):
        read_jsonl(str(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": "algebra"}, "give arithmetic, countdown"),
        ({"level": 0}, "must be at least 1"),
        ({"dtype": "int8"}, "float32 or bfloat16"),
        ({"problems": [Problem("a", "b")]}, "1 problems were given"),
        ({"problems": "nowhere.jsonl"}, "cannot read nowhere.jsonl"),
        ({"verify": "exakt"}, "there is no verifier 'exakt'"),
        ({}, "no language model at model; give a folder"),
    ],
)
def test_errors(options, message):
    with pytest.raises(FewerError, match=message):
        lm("model", **options)


def test_reasoning_gym_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(MissingPackage, match="reasoning-gym"):
        lm("model", "gym:chain_sum")


def test_an_entry_sets_the_learning_rate_and_lets_an_adapter_learn():
    loop = compose.loop(
        "d3s + lora(rank=2) + adamw(lr=2e-5, weight_decay=0) + cosine(warmup=0.1) + post-training(rows=16)"
    )
    assert isinstance(loop, PostTraining)
    assert (loop.adapter, loop.optimiser, loop.schedule) == (LoRA(rank=2), AdamW(2e-5, 0), Cosine(0.1))
    other = compose.loop("xpo + adamw(lr=1e-4)")
    assert isinstance(other, PreferenceLearning)
    assert other.optimiser == AdamW(1e-4)
