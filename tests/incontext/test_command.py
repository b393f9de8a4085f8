"""The command that trains, keeps weights, and predicts from a file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fewer.core.errors import FewerError
from fewer.incontext.__main__ import app
from fewer.incontext.boolean_icl import InContextLearner
from fewer.incontext.dpt import DecisionPretrained

TRANSFORMER = "transformer(width=8, layers=1, heads=1) + learn-to-learn(batch=8, points=2)"


def run(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(result.exception, FewerError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "majority.safetensors"
    out = run("train", "boolean('majority', dimension=3, points=8)", "-m", TRANSFORMER, "--budget", 32, "-o", file)
    assert "16 prompts  accuracy 0." in out
    assert f"weights: {file}" in out
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    return file


@pytest.fixture(scope="module")
def bandits(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "bandit.safetensors"
    run("train", "bandit(arms=3, context=8)", "-m", TRANSFORMER, "--budget", 32, "-o", file)
    return file


def test_labels_of_blank_rows(functions, tmp_path):
    table = pd.DataFrame({"a": [0, 1, 1, 0], "b": [1, 1, 0, 0], "c": [0, 1, 0, 1], "y": [0, 1, None, None]})
    file = tmp_path / "examples.csv"
    table.to_csv(file, index=False)
    lines = run("predict", functions, file).splitlines()
    x = table[["a", "b", "c"]].to_numpy()
    learner = InContextLearner.load(functions)
    said, chances = learner.predict(x[:2], [0, 1], x[2:]), learner.predict_proba(x[:2], [0, 1], x[2:]).max(1)
    assert lines == [f"row {at + 3}: {said[at]} ({chances[at]:.3f})" for at in range(2)]
    table.assign(y=["no", "yes", None, None]).rename(columns={"y": "label"}).to_csv(file, index=False)
    assert run("predict", functions, file, "--target", "label").split()[2] in ("no", "yes")
    with pytest.raises(FewerError, match="there is no column 'y'; --target names the one of labels: a, b, c, label"):
        run("predict", functions, file)
    file.write_text("a,b,c,y\n0,1,0,yes\n1,1,1,\n")
    with pytest.raises(FewerError, match="all labels are yes; say what the other one is, such as --classes yes,other"):
        run("predict", functions, file)
    with pytest.raises(FewerError, match="--classes is 'no'; write the negative label and the positive one"):
        run("predict", functions, file, "--classes", "no")
    said = learner.predict([[0, 1, 0]], ["yes"], [[1, 1, 1]], classes=("no", "yes"))
    assert run("predict", functions, file, "--classes", "no, yes").split()[2] == said[0]
    table.iloc[:2].to_csv(file, index=False)
    with pytest.raises(FewerError, match="no row has a blank y, so nothing is asked for"):
        run("predict", functions, file)


def test_the_action_after_interactions(bandits, tmp_path):
    file = tmp_path / "pulls.csv"
    pd.DataFrame({"action": [0, 2, 2], "reward": [0.1, 0.8, 0.6]}).to_csv(file, index=False)
    agent = DecisionPretrained.load(bandits)
    for action, reward in ((0, 0.1), (2, 0.8), (2, 0.6)):
        agent.observe([1.0], action, [1.0], reward)
    chances = agent.probabilities([1.0])
    lines = run("predict", bandits, file).splitlines()
    assert lines[0] == f"best action: {chances.argmax()}"
    assert lines[1:] == [f"action {at}: {chance:.3f}" for at, chance in enumerate(chances)]
    pd.DataFrame({"action": [1] * 6 + [0, 2, 2] * 2, "reward": [9.0] * 6 + [0.1, 0.8, 0.6] * 2}).to_csv(
        file, index=False
    )
    out = run("predict", bandits, file)
    assert "note: the last 8 of 12 interactions are read; the network was trained for no more" in out
    pd.read_csv(file).tail(8).to_csv(file, index=False)
    assert run("predict", bandits, file) == out.partition("\n")[2]
    with pytest.raises(FewerError, match="--query is 'left'; write the state's numbers"):
        run("predict", bandits, file, "--query", "left")
    for given, shown in (
        ("0,0.1\n,0.2", "nan"),
        ("0,0.1\n1.5,0.2", "1.5"),
        ("0,0.1\n3,0.2", "3"),
        ("0,0.1\nup,1", "up"),
    ):
        file.write_text(f"action,reward\n{given}\n")
        with pytest.raises(FewerError, match=f"row 2: action is {shown}; it must be a whole number from 0 to 2"):
            run("predict", bandits, file)
    for given, shown in (("", "nan"), ("much", "much")):
        file.write_text(f"action,reward\n0,{given}\n")
        with pytest.raises(FewerError, match=f"row 1: reward is {shown}; it must be a number"):
            run("predict", bandits, file)
    file.write_text("action,reward\n")
    assert run("predict", bandits, file).startswith("best action")
    pd.DataFrame({"action": [0]}).to_csv(file, index=False)
    with pytest.raises(FewerError, match="interactions need the column 'reward'; there are action"):
        run("predict", bandits, file)


def test_states_have_columns(tmp_path):
    weights, file = tmp_path / "room.safetensors", tmp_path / "steps.csv"
    run("train", "dark-room(size=3, context=6, episode=3)", "-m", TRANSFORMER, "--budget", 16, "-o", weights)
    steps = {
        "state_0": [0, 1],
        "state_1": [0, 0],
        "action": [0, 4],
        "next_0": [1, 1],
        "next_1": [0, 0],
        "reward": [1, 1],
    }
    pd.DataFrame(steps).to_csv(file, index=False)
    out = run("predict", weights, file, "--query", "0.5, -1")
    assert np.isclose(sum(float(line.split()[-1]) for line in out.splitlines()[1:]), 1, atol=0.01)
    with pytest.raises(FewerError, match="a state has 2 finite numbers"):
        run("predict", weights, file)


def test_an_interrupted_training_goes_on(tmp_path, functions):
    task = "boolean('majority', dimension=3, points=8)"
    file = tmp_path / "majority.safetensors"
    from fewer import compose

    run_ = compose.loop(TRANSFORMER).run(compose.task(task), 32, 0, file.with_name("majority.safetensors.checkpoint"))
    next(run_)
    run_.close()
    run("train", task, "-m", TRANSFORMER, "--budget", 32, "-o", file)
    assert file.read_bytes() == functions.read_bytes()


def test_what_cannot_run_is_one_clear_line(functions, tmp_path):
    with pytest.raises(FewerError, match="digits is no family of functions or of worlds"):
        run("train", "digits", "-o", tmp_path / "x")
    with pytest.raises(FewerError, match="margin names no network that reads prompts"):
        run("train", "bandit", "-m", "margin", "-o", tmp_path / "x")
    with pytest.raises(FewerError, match="cannot read"):
        run("predict", functions, tmp_path / "none.csv")
    with pytest.raises(FewerError, match="no checkpoint at"):
        run("predict", tmp_path / "none", tmp_path / "none.csv")
    from fewer.core import checkpoint

    checkpoint.save(tmp_path / "other", {"kind": "lc-pfn"})
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(FewerError, match="holds lc-pfn, which predicts otherwise"):
        run("predict", tmp_path / "other", tmp_path / "x.csv")
