"""What the README and the documentation tell a user to type: every command is understood, and the quick ones run."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from fewer import cli, compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("fewer "):
                    # what takes minutes says so, and is only checked for being understood
                    marks = [pytest.mark.minutes] if "# minutes" in line else []
                    words = shlex.split(line, comments=True)[1:]
                    yield pytest.param(words, id=f"{page.name}: {line[:70]}", marks=marks)


def parsed(words):
    name, command, rest = "fewer", typer.main.get_command(cli.app), list(words)
    while hasattr(command, "resolve_command"):  # a group of commands
        context = command.make_context(name, rest)
        name, command, rest = command.resolve_command(context, context._protected_args + context.args)
    return name, command.make_context(name, rest).params


@pytest.mark.parametrize("words", commands())
def test_a_command_is_understood(words):
    name, given = parsed(words)
    if name == "race":
        for method in given["method"]:
            compose.loop(method)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small files under the names that the documentation uses."""
    folder = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    table = pd.DataFrame(x, columns=["age", "minutes", "calls", "bill"])
    table.insert(0, "id", np.arange(300))
    table["left"] = np.where(x[:, 0] + 0.5 * x[:, 1] > 0, "yes", "no")
    table.drop(columns="id").to_csv(folder / "churn.csv", index=False)
    table.to_parquet(folder / "churn.parquet")
    np.savez(folder / "features.npz", x=x, y=(x[:, 0] > 0).astype(int))
    probabilities = rng.dirichlet(np.ones(3), size=300)
    pool = pd.DataFrame(np.hstack([x, probabilities]), columns=["a", "b", "c", "d", "p_x", "p_y", "p_z"])
    pool.to_parquet(folder / "pool.parquet")
    pool[["a", "b", "c", "d"]].to_csv(folder / "pool.csv", index=False)
    from PIL import Image

    for kind, shade in (("cat", 40), ("dog", 200)):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(200):
            pixels = np.clip(rng.normal(shade, 30, size=(8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{i}.png")
    for style, kind, i in itertools.product(("photo", "sketch", "toy"), ("cat", "dog"), range(20)):
        (folder / "styles" / style / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "photos" / kind / f"{i}.png", folder / "styles" / style / kind / f"{i}.png")
    sites = np.array(["north", "south", "west", "east"])[np.arange(300) % 4]
    pd.DataFrame({"age": x[:, 0], "ill": x[:, 0] > 0, "site": sites}).to_csv(folder / "beds.csv", index=False)
    for name in ("demos", "yours"):
        seen, done = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
        np.savez(folder / f"{name}.npz", observations=seen, actions=done, episode_ends=[10, 25, 40, 60])
    return folder


QUICK = [
    each
    for each in commands()
    if not each.marks
    and (
        each.values[0][0] in ("list", "find", "show", "tasks", "select", "demos")
        or (each.values[0][0] == "race" and "mnist5k" not in each.values[0])
    )
]


@pytest.mark.parametrize("words", QUICK)
def test_a_quick_command_runs_as_written(words, folder):
    if "--labels" in words:  # what a person does in between
        asked = pd.read_csv(folder / words[words.index("--labels") + 1])
        asked["label"] = np.where(asked["a"] > 0, "yes", "no")
        asked.to_csv(folder / words[words.index("--labels") + 1], index=False)
    done = subprocess.run([sys.executable, "-m", "fewer.cli", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def examples():
    """Blocks of Python that stand for themselves; those that need what a user has are marked ``py``."""
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{page.name}: {number}")


@pytest.mark.parametrize("block", examples())
def test_an_example_runs_as_written(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "example", "exec"), {})


def test_the_readme_shows_the_verdicts_as_measured():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.with_papers(text) == text, "run make docs"
