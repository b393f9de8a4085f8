"""A whole step of GRPO - write, judge, learn - against TRL's ``GRPOTrainer`` with the same weights, prompts and rewards.

Both train all weights in float32 with AdamW, without a divergence from the first model, on as many rollouts of one length (no
token ends a text) and with all cores.  Each arm is a process of its own, which says at its end how much memory it has needed;
they take turns, and a number is the median of an arm's steps, the first of each process left out.  The peer keeps activations
unless its name says that it computes them again ("checkpoints"), which is its default, needs less memory and takes longer.

Where TRL is not installed, its numbers are missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

from bench import rollouts
from fewer.core.seeding import generator
from fewer.models.optimisers import AdamW
from fewer.models.pretrained_lm import load_lm, save_lm
from fewer.rollouts import generators, grpo, loop
from fewer.rollouts.language_task import of_tokenizer
from fewer.rollouts.problems import Language, Problem, Problems

PROMPTS, GROUP, RATE = 4, 8, 1e-6
PEER = "trl GRPOTrainer"


def run(quick: bool = False) -> dict[str, Any]:
    """Measure time and memory, and where ours goes."""
    threads = torch.get_num_threads()
    # threads of a network this small mostly wait for each other
    torch.set_num_threads(1 if quick else os.cpu_count() or 1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_lm(*(_tiny() if quick else load_lm("smollm2")), folder)
            return {"title": "rollouts: a step of GRPO", "rows": _rows(folder, 8 if quick else 64, 1 if quick else 2)}
    finally:
        torch.set_num_threads(threads)


def _rows(folder: str, new: int, rounds: int) -> list[dict[str, Any]]:
    there = all(importlib.util.find_spec(name) for name in ("trl", "datasets", "accelerate"))
    mine, theirs, rates = [], [], []
    for _ in range(rounds):  # turn about, so that a busy moment hits both alike
        rates.append(rollouts._products(torch.float32))
        mine.append(_process("ours", folder, new))
        if there:
            theirs.append(_process("theirs", folder, new))
    again = [_process("checkpoints", folder, new)] if there else []
    assert all(each["tokens"] == mine[0]["tokens"] for each in [*mine, *theirs, *again]), "prompts differ"
    shape = f"{PROMPTS * GROUP} rollouts of {new} new tokens, {PROMPTS} prompts of {min(mine[0]['tokens'])} or more, float32"
    whole = _compared(f"a step: {shape}", "s", _seconds(mine, "whole"), _seconds(theirs, "whole"))
    whole |= {
        "limit": _least(folder, mine[0]["tokens"], new) / max(*rates, rollouts._products(torch.float32)),
        "limit_is": "products at full speed, each prompt read once to write and once to learn",
    }
    parts = ("log-probabilities", "optimiser", "gradients and their norm", "texts, rewards and advantages")
    weights = (Path(folder) / "model.safetensors").stat().st_size / 2**20
    most = max(each["peak"] for each in mine)
    return [
        whole,
        *(
            _compared(f"of it, {name}{added}", "s", _seconds(mine, name), _seconds(theirs, name))
            for name, added in (("writing", ", which gives old log-probabilities as well"), ("all else", ""))
        ),
        *({"what": f"in that, {name}", "ours": _seconds(mine, name), "unit": "s"} for name in parts),
        {
            **_compared("a step if the peer checkpoints", "s", _seconds(mine, "whole"), _seconds(again, "whole")),
            "peer_name": f"{PEER}, checkpoints",
        },
        *(
            {
                **_compared(f"peak memory of a process that makes steps{name}", "MiB", most, peak),
                "peer_name": PEER + name,
                "limit": 4 * weights,
                "limit_is": "weights, gradients and AdamW's two averages",
            }
            for name, peak in (
                ("", max((each["peak"] for each in theirs), default=None)),
                (", checkpoints", max((each["peak"] for each in again), default=None)),
            )
        ),
    ]


def _compared(what: str, unit: str, mine: float, peer: float | None) -> dict[str, Any]:
    return {
        "what": what,
        "ours": mine,
        "peer": peer,
        "peer_name": PEER,
        "unit": unit,
        "ratio": None if peer is None else peer / mine,
    }


def _seconds(arms: Sequence[dict[str, Any]], name: str) -> Any:
    """Median over all counted steps; None without any."""
    return float(np.median([step[name] for arm in arms for step in arm["steps"]])) if arms else None


def _least(folder: str, tokens: Sequence[int], new: int) -> float:
    """Operations in the products that no step can do without."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    head = config["vocab_size"] * config["hidden_size"]
    body = (Path(folder) / "model.safetensors").stat().st_size / 4 - head
    written = PROMPTS * GROUP * new
    # two for each weight and token: once to write; to learn, once forward and twice back
    return 2 * (1 + 3) * (body * (sum(tokens) + written) + head * written)


def _process(who: str, folder: str, new: int) -> dict[str, Any]:
    """Steps of one arm in a fresh process."""
    code = f"from bench import rollouts_step as r; r.arm({who!r}, {folder!r}, {new})"
    # the same number of threads for every library that has some
    around = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=around)
    if done.returncode:
        raise RuntimeError(f"the arm {who} failed")
    return json.loads(done.stdout.splitlines()[-1])


def arm(who: str, folder: str, new: int) -> None:
    """Make one step that is not counted and one that is; print seconds, the prompts' tokens and the peak memory."""
    steps, tokens = _ours(folder, new, 2) if who == "ours" else _theirs(folder, new, 2, who == "checkpoints")
    for step in steps:
        step["all else"] = step["whole"] - step["writing"]
    # of this program alone: what resource.getrusage says begins with its parent's
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"steps": steps[1:], "tokens": sorted(tokens), "peak": int(found[1]) / 1024 if found else None}))


@contextmanager
def _clocked(step: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    step[name] = step.get(name, 0.0) + time.perf_counter() - began


def _clock(steps: list[dict[str, float]], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with what it takes added to the latest step."""

    def timed(*given: Any, **named: Any) -> Any:
        with _clocked(steps[-1], name):
            return function(*given, **named)

    return timed


def asked() -> list[Problem]:
    """What both are asked."""
    return generators.draw(generators.NAMED["arithmetic"], generator(0, "problems"), PROMPTS, 2)


def worth(completion: str) -> float:
    """A reward in which completions of any model differ."""
    return len(set(completion)) / 32


class Asked(Problems):
    """The prompts, and a model that no token stops.

    Parameters
    ----------
    folder : str
        Of the model.
    longest : int
        Tokens of each completion.
    """

    name = "asked"

    def __init__(self, folder: str, longest: int) -> None:
        self.folder, self.longest = folder, longest

    def fingerprint(self) -> str:
        return self.folder

    def language(self, seed: int) -> Language:
        network, tokenizer = load_lm(self.folder)
        language = of_tokenizer(network, tokenizer)
        return Language(network, language.encode, language.decode, (), language.pad, language.context)

    def training(self, seed: int) -> Sequence[Problem]:
        return asked()

    def held_out(self, seed: int) -> Sequence[Problem]:
        return asked()

    def verify(self, completion: str, problem: Problem) -> float:
        return worth(completion)


def post_training() -> loop.PostTraining:
    """What is measured."""
    return loop.PostTraining(**grpo(), prompts=PROMPTS, group=GROUP, optimiser=AdamW(lr=RATE, weight_decay=0.0))


def _ours(folder: str, new: int, count: int) -> tuple[list[dict[str, float]], list[int]]:
    learner, steps = post_training(), []
    state = learner.start(Asked(folder, new), PROMPTS * GROUP * count, 0)
    tokens = [len(state.language.encode(each.prompt)) for each in state.training]
    state.optimiser.step = _clock(steps, "optimiser", state.optimiser.step)
    for _ in range(count):
        steps.append({})
        with (
            mock.patch.object(loop, "decode", _clock(steps, "writing", loop.decode)),
            mock.patch.object(loop, "teacher_forced", _clock(steps, "log-probabilities", loop.teacher_forced)),
            mock.patch.object(loop.PostTraining, "learn_from", _clock(steps, "learning", loop.PostTraining.learn_from)),
            _clocked(steps[-1], "whole"),
        ):
            report = learner.learn_once(state)
        step = steps[-1]
        learning = step.pop("learning")
        step["gradients and their norm"] = learning - step["log-probabilities"] - step["optimiser"]
        step["texts, rewards and advantages"] = step["whole"] - step["writing"] - learning
        assert report["length"] == new
        assert "gradient norm" in report
    return steps, tokens


def _theirs(folder: str, new: int, count: int, again: bool) -> tuple[list[dict[str, float]], list[int]]:
    """``again``: compute activations anew for the gradient."""
    import transformers

    trl, datasets = (cast(Any, importlib.import_module(name)) for name in ("trl", "datasets"))
    steps: list[dict[str, float]] = []
    tokens: list[int] = []

    class Turns(transformers.TrainerCallback):
        """Times whole steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.append({"whole": -time.perf_counter()})

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps[-1]["whole"] += time.perf_counter()

    def reward(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert {len(each) for each in completion_ids} == {new}
        return [worth(each if isinstance(each, str) else each[0]["content"]) for each in completions]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.config._attn_implementation == "sdpa"
    chats = tokenizer.chat_template is not None
    rows = [[{"role": "user", "content": each.prompt}] if chats else each.prompt for each in asked()]
    with tempfile.TemporaryDirectory() as place:
        options = trl.GRPOConfig(
            output_dir=place,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            gradient_accumulation_steps=1,
            max_completion_length=new,
            max_steps=count,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            gradient_checkpointing=again,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = trl.GRPOTrainer(
            model,
            reward,
            options,
            datasets.Dataset.from_dict({"prompt": rows}),
            callbacks=[Turns()],
            processing_class=tokenizer,
        )
        write = _clock(steps, "writing", model.generate)

        def noted(*given: Any, **named: Any) -> Any:
            # no token ends a text, whatever the trainer and the tokenizer say
            trainer.eos_token_ids = [-1]
            named["generation_config"].eos_token_id = model.generation_config.eos_token_id = None
            tokens[:] = named["attention_mask"][::GROUP].sum(1).tolist()
            made = write(*given, **named)
            assert made.shape == (PROMPTS * GROUP, max(tokens) + new)
            return made

        model.generate = noted
        trainer.train()
    return steps, tokens


def _tiny() -> tuple[torch.nn.Module, Any]:
    """An untrained model of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "</s>",
        "?",
        *(f"w{number}" for number in range(400)),
        *sorted({word for each in asked() for word in each.prompt.split()}),
    ]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return rollouts._tiny(), PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="?")
