"""How fast completions are written, against ``transformers.generate`` with the same weights, numbers and prompts."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import peak_of_process, seconds
from fewer.models.cached_decoder import CachedBlock, Product
from fewer.models.causal_lm import CausalLM
from fewer.models.pretrained_lm import load_lm, save_lm
from fewer.rollouts.decoding import decode

ROWS, LENGTH = 32, 24


def run(quick: bool = False) -> dict[str, Any]:
    """Measure both precisions, with prompts that rows share and with one for each row, and the memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            network = _tiny() if quick else load_lm("smollm2")[0]
            save_lm(network, None, folder)
            del network
            rows = [row for dtype in ("float32", "bfloat16") for row in speed(folder, dtype, quick)]
            return {"title": "rollouts: writing completions", "rows": [*rows, memory(folder, quick)]}
    finally:
        torch.set_num_threads(threads)


def speed(folder: str, dtype: str, quick: bool) -> list[dict[str, Any]]:
    """Tokens a second, prompts read included."""
    new = 8 if quick else 64
    network, model = _ours(folder, dtype), _theirs(folder, dtype)
    limit = _products(getattr(torch, dtype)) / (2 * sum(each.numel() for each in network.parameters()))
    rows = []
    for group in (8, 1):
        prompts = _prompts(ROWS // group)
        ours, theirs = (
            functools.partial(_write, network, prompts, new, group),
            functools.partial(_generate, model, prompts, new, group),
        )
        _write(network, prompts, 2, group)
        _generate(model, prompts, 2, group)
        # turn about, so that a busy moment hits both alike
        taken = np.median([[seconds(call, 1) for call in (ours, theirs)] for _ in range(3)], axis=0)
        mine, peer = (ROWS * new / taken).tolist()
        rows.append(
            {
                "what": f"{ROWS} rows of {new} new tokens, {ROWS // group} prompts of {LENGTH}, {dtype}",
                "ours": mine,
                "peer": peer,
                "peer_name": "transformers generate",
                "unit": "tokens/s",
                "ratio": mine / peer,
                "limit": limit,
                "limit_is": f"large products of {dtype} at full speed, prompts for nothing",
            }
        )
    alone = _products_of(network)
    rows.append(
        {
            "what": f"of that, the products of {ROWS} rows alone, one layer after another, {dtype}",
            "ours": ROWS / alone,
            "unit": "tokens/s",
            "limit": limit,
            "limit_is": f"large products of {dtype} at full speed",
        }
    )
    return rows


def _products_of(network: Any) -> float:
    """Seconds that the products of a token in each row take as the engine makes them, and nothing else."""
    blocks, head = [CachedBlock(block, ROWS) for block in network.model.layers], Product(network.lm_head, rows=ROWS)
    weight = network.lm_head.weight
    x, seen = (
        torch.randn(ROWS, width).to(weight.dtype) for width in (weight.shape[1], blocks[0].heads * blocks[0].of_head)
    )

    def step() -> None:
        for block in blocks:
            block.qkv(x)
            after = block.out.with_other(seen, x, "add")
            block.down.with_other(block.up.with_other(after, block.gate(after, "swish"), "mul"), after, "add")
        head(x)

    with torch.inference_mode():
        return seconds(step, repeats=15)


def memory(folder: str, quick: bool) -> dict[str, Any]:
    """Peak resident memory of a fresh process that loads the model and writes."""
    code = (
        "import re, sys; from bench import rollouts as r; f, n = sys.argv[1], int(sys.argv[3]); p = r._prompts(4)\n"
        "if sys.argv[2] == 'ours': r._write(r._ours(f, 'float32'), p, n, 8)\n"
        "else: r._generate(r._theirs(f, 'float32'), p, n, 8)\n"
        # of this program alone: what resource.getrusage says begins with its parent's
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    new = "2" if quick else "16"
    mine, peer = (peak_of_process(code, folder, who, new)[1] / 1024 for who in ("ours", "theirs"))
    return {
        "what": f"peak memory of a process that writes {ROWS} rows, float32",
        "ours": mine,
        "peer": peer,
        "peer_name": "transformers generate",
        "unit": "MiB",
        "ratio": peer / mine,
        "limit": (Path(folder) / "model.safetensors").stat().st_size / 2**20,
        "limit_is": "the weights alone",
    }


def _tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return CausalLM(width=64, layers=2, heads=4, kv_heads=2, tied=True).build(500)


def _prompts(count: int) -> Tensor:
    return torch.randint(400, (count, LENGTH), generator=torch.Generator().manual_seed(0))


def _ours(folder: str, dtype: str) -> Any:
    from transformers import AutoConfig

    from fewer.models import pretrained_lm as saved

    config = AutoConfig.from_pretrained(folder)
    shape = saved.shape_of(config)
    assert shape is not None
    return saved.decoder(shape, config, saved.weights_in(Path(folder)), getattr(torch, dtype)).eval()


def _theirs(folder: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None  # every row is as long as is asked for
    return model


def _write(network: Any, prompts: Tensor, new: int, group: int) -> None:
    draws = torch.Generator().manual_seed(0)
    made = decode(network, prompts.tolist(), new=new, end=[], pad=0, draws=draws, group=group)
    assert made.mask.sum() == ROWS * new


def _generate(model: Any, prompts: Tensor, new: int, group: int) -> None:
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": group, "pad_token_id": 0}
    with torch.inference_mode():
        made = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, **options)
    assert made.shape == (ROWS, LENGTH + new)


def _products(dtype: torch.dtype) -> float:
    """Operations a second in large products."""
    size = 1024
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: one @ other, repeats=9)
