"""Choosing from a user's pool: the same rows as the loop, rounds with people, and every complaint."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from fewer import compose
from fewer.cli import app
from fewer.core.errors import FewerError
from fewer.labels import annotation
from fewer.labels.selection import select
from fewer.tasks.classification import Classification
from fewer.tasks.digits import digits


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def frame_of(rng, rows=80, classes=3, features=True, probabilities=True, labelled=()):
    """A pool whose classes can be told apart, as a data frame."""
    truth = rng.integers(classes, size=rows)
    columns = {"id": [f"ü{i:03d}" for i in range(rows)]}
    if features:
        x = rng.normal(size=(rows, 4)) + 2 * np.eye(classes, 4)[truth]
        columns |= {f"f{i}": x[:, i] for i in range(4)}
    if probabilities:
        p = rng.dirichlet(np.ones(classes), size=rows)
        columns |= {f"p_c{i}": p[:, i] for i in range(classes)}
    frame = pd.DataFrame(columns)
    frame["label"] = ""
    frame.loc[list(labelled), "label"] = [f"c{truth[row]}" for row in labelled]
    return frame


def saved(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, row_group_size=17)
    else:
        x, p = frame.filter(regex="^f").to_numpy(), frame.filter(regex="^p_").to_numpy()
        arrays = {"x": x} if x.size else {}
        arrays |= {"p": p} if p.size else {}
        np.savez(path, id=frame["id"].to_numpy(str), label=frame["label"].to_numpy(str), **arrays)
    return path


class TestChoice:
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        kind=st.sampled_from(["csv", "parquet", "npz"]),
        out=st.sampled_from(["csv", "parquet"]),
        method=st.sampled_from(["random", "margin", "entropy", "k-centre", "badge", "pcoreset", "class-balanced"]),
        seed=st.integers(0, 9),
        share=st.floats(0.01, 1),
    )
    def test_rows_are_distinct_unlabelled_and_as_many_as_asked(self, kind, out, method, seed, share, tmp_path):
        rng = np.random.default_rng(seed)
        labelled = rng.permutation(80)[: rng.integers(0, 70)]
        frame = frame_of(rng, labelled=labelled)
        keep = max(1, int(share * (80 - len(labelled))))
        made = select(saved(frame, tmp_path / f"pool.{kind}"), method, keep, tmp_path / f"out.{out}", seed=seed)
        assert len(set(made.rows.tolist())) == len(made.rows) == keep
        assert not set(made.rows.tolist()) & set(labelled.tolist())
        assert (made.labelled, made.left, made.pool) == (len(labelled), 80 - len(labelled) - keep, 80)
        read = pd.read_csv if out == "csv" else pd.read_parquet
        written = read(tmp_path / f"out.{out}")
        assert written["row"].tolist() == made.rows.tolist()
        assert written["rank"].tolist() == list(range(1, keep + 1))
        assert written["id"].tolist() == frame["id"].iloc[made.rows].tolist()

    @pytest.mark.parametrize(
        "method", ["margin", "entropy", "k-centre", "pcoreset", "hast + margin", "boosting + margin"]
    )
    def test_the_rows_that_the_loop_would_choose(self, method, tmp_path):
        task = digits(rows=400)
        loop = replace(compose.loop(method), initial=40, per_round=15, balanced=True)
        state = loop.start(task, 100, seed=0)
        loop.advance(state)
        label = np.full(400, -1)
        label[state.labelled] = state.split.y[state.labelled]
        np.savez(tmp_path / "pool.npz", x=state.split.x, label=label)
        made = select(tmp_path / "pool.npz", method, 15, tmp_path / "out.csv")
        assert made.rows.tolist() == state.pending.tolist()
        assert "by a model fitted to 40 labels" in made.by

    def test_a_table_is_standardised_as_in_a_race(self, tmp_path, rng):
        x = rng.normal(size=(120, 3))
        y = (x[:, 1] > 0).astype(int)
        task = Classification("toy", x, y, ("0", "1"), standardise=True, test=20)
        loop = replace(compose.loop("margin"), initial=20, balanced=True)
        state = loop.start(task, 100, seed=0)
        loop.advance(state)
        frame = pd.DataFrame(state.split.x * [3, 0.1, 1e4] + 7, columns=list("abc"))  # any scale is undone
        frame["label"] = [str(state.split.y[i]) if i in state.labelled else "" for i in range(len(frame))]
        made = select(saved(frame, tmp_path / "pool.csv"), "margin", 10, tmp_path / "out.csv")
        assert made.rows.tolist() == state.pending.tolist()

    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
    def test_the_kind_of_file_does_not_matter(self, kind, tmp_path, rng):
        frame = frame_of(rng, labelled=range(10))
        path = saved(frame, tmp_path / f"pool.{kind}")
        assert select(path, "margin", 5, tmp_path / "out.csv").rows.tolist() == _margins(frame)[:5]

    def test_a_seed_decides(self, tmp_path, rng):
        path = saved(frame_of(rng, probabilities=False, labelled=range(20)), tmp_path / "pool.csv")
        for method in ("random", "mlp(steps=5) + margin", "forest(trees=5) + entropy"):
            one, same, other = (select(path, method, 9, tmp_path / "out.csv", seed=s).rows.tolist() for s in (1, 1, 2))
            assert one == same != other

    @pytest.mark.filterwarnings("error")
    def test_a_network_sees_the_pool_in_blocks_without_warnings(self, tmp_path, rng):
        path = saved(frame_of(rng, probabilities=False, labelled=range(20)), tmp_path / "pool.npz")
        for method in ("mlp(steps=5) + badge", "mlp(steps=5) + k-centre"):
            assert len(select(path, method, 9, tmp_path / "out.csv").rows) == 9


def _margins(frame):
    p = np.sort(frame.filter(regex="^p_").to_numpy(), axis=1)
    order = np.argsort(p[:, -1] - p[:, -2], kind="stable")
    return [int(row) for row in order if frame["label"].iloc[row] == ""]


class TestWhatIsSeen:
    """Given probabilities, given features, a model's, or chance: by what there is and what is asked for."""

    @pytest.mark.parametrize("labelled", [(), range(12)])
    def test_given_probabilities_come_first(self, labelled, tmp_path, rng):
        frame = frame_of(rng, labelled=labelled)
        made = select(saved(frame, tmp_path / "a.csv"), "margin", 5, tmp_path / "out.csv")
        assert made.rows.tolist() == _margins(frame)[:5]
        assert made.by == "margin, by the pool's probabilities"
        assert made.columns == "features f0, f1, f2, f3; probabilities p_c0, p_c1, p_c2; left out id"

    def test_labelled_rows_count_as_covered(self, tmp_path):
        frame = pd.DataFrame(
            {"p_a": [0.99, 0.98, 0.5, 0.02], "p_b": [0.01, 0.02, 0.5, 0.98], "label": ["", "", "", ""]}
        )
        path = saved(frame, tmp_path / "a.csv")
        assert select(path, "pcoreset", 1, tmp_path / "out.csv").rows.tolist() == [0]
        frame["label"] = ["a", "", "", ""]
        assert select(saved(frame, path), "pcoreset", 2, tmp_path / "out.csv").rows.tolist() == [3, 2]

    def test_a_learner_that_is_named_is_used(self, tmp_path, rng):
        path = saved(frame_of(rng, labelled=range(30)), tmp_path / "a.csv")
        for method in ("logistic + margin", "hast + margin", "activekd(steps=5) + pcoreset"):
            assert select(path, method, 5, tmp_path / "out.csv").by.startswith(
                f"{method}, by a model fitted to 30 labels"
            )

    def test_a_learner_that_is_named_waits_for_labels(self, tmp_path, rng):
        path = saved(frame_of(rng), tmp_path / "a.csv")
        for method in ("mlp + margin", "activekd + margin"):
            assert select(path, method, 5, tmp_path / "out.csv").by == f"{method}, by the pool's probabilities"

    @pytest.mark.parametrize("method", ["random", "margin", "pcoreset", "entropy"])
    def test_probabilities_alone(self, method, tmp_path, rng):
        for labelled in ((), range(10)):
            path = saved(frame_of(rng, features=False, labelled=labelled), tmp_path / "a.parquet")
            made = select(path, method, 5, tmp_path / "out.csv")
            assert made.by == (method if method == "random" else f"{method}, by the pool's probabilities")

    @pytest.mark.parametrize("method", ["k-centre", "badge"])
    def test_probabilities_alone_are_no_features(self, method, tmp_path, rng):
        path = saved(frame_of(rng, features=False), tmp_path / "a.csv")
        with pytest.raises(FewerError, match="needs features, and the pool holds probabilities only"):
            select(path, method, 5, tmp_path / "out.csv")

    @pytest.mark.parametrize(
        ("method", "by"),
        [
            ("random", "random"),
            ("k-centre", "k-centre, by the pool's features"),
            ("margin", "at random, for margin needs a model and there are no labels to fit one to"),
            ("pcoreset", "at random, for pcoreset needs a model and there are no labels to fit one to"),
            ("badge", "at random, for badge needs a model and there are no labels to fit one to"),
            ("mlp + hast + pcoreset", "at random, for mlp + hast + pcoreset needs a model and there are no labels to"),
        ],
    )
    def test_features_alone_before_there_are_labels(self, method, by, tmp_path, rng):
        path = saved(frame_of(rng, probabilities=False), tmp_path / "a.csv")
        assert select(path, method, 5, tmp_path / "out.csv").by.startswith(by)

    def test_labels_of_one_class_are_as_good_as_none(self, tmp_path, rng):
        frame = frame_of(rng, probabilities=False)
        frame.loc[:6, "label"] = "c0"
        made = select(saved(frame, tmp_path / "a.csv"), "margin", 5, tmp_path / "out.csv")
        assert made.by == "at random, for margin needs a model and all 7 labels are of one class to fit one to"

    @pytest.mark.parametrize("method", ["random", "k-centre", "margin", "pcoreset", "badge"])
    def test_features_alone_with_labels(self, method, tmp_path, rng):
        path = saved(frame_of(rng, probabilities=False, labelled=range(20)), tmp_path / "a.csv")
        made = select(path, method, 5, tmp_path / "out.csv")
        assert made.by == (method if method == "random" else f"{method}, by a model fitted to 20 labels")

    def test_a_broken_method_is_no_missing_model(self, tmp_path, rng, monkeypatch):
        def fail(self, round, count):
            raise FewerError("something else")

        monkeypatch.setattr("fewer.labels.queries.Margin.choose", fail)
        with pytest.raises(FewerError, match="something else"):
            select(saved(frame_of(rng, probabilities=False), tmp_path / "a.csv"), "margin", 5, tmp_path / "out.csv")

    def test_labels_that_no_column_is_called_after(self, tmp_path, rng):
        frame = frame_of(rng)
        frame.loc[:9, "label"] = ["cat", "dog"] * 5
        path = saved(frame, tmp_path / "a.csv")
        assert len(select(path, "class-balanced", 9, tmp_path / "out.csv").rows) == 9
        with pytest.raises(FewerError, match="the teacher knows the classes c0, c1, c2, and there are 5 among them"):
            select(path, "activekd + margin", 5, tmp_path / "out.csv")

    def test_labels_count_for_the_columns_called_after_them(self, tmp_path):
        frame = pd.DataFrame({"p_b": [0.1, 0.9] * 20, "p_a": [0.9, 0.1] * 20, "label": [""] * 40})
        frame.loc[:29, "label"] = "b"
        made = select(saved(frame, tmp_path / "a.csv"), "class-balanced", 5, tmp_path / "out.csv")
        assert frame["p_a"].iloc[made.rows].tolist().count(0.9) >= 4  # few labels of a so far, so more of those

    def test_integers_that_blanks_made_fractions_of(self, tmp_path, rng):
        frame = frame_of(rng, probabilities=False)
        frame["label"] = [1.0, 0.0, None, 1.0] * 20
        frame["p_0"], frame["p_1"] = 0.25, 0.75
        path = saved(frame, tmp_path / "a.parquet")
        assert select(path, "activekd(steps=2) + margin", 5, tmp_path / "out.csv").labelled == 60


class Person:
    """Fills in the tables, now and then skipping a row."""

    def __init__(self, truth, skip=0):
        self.truth, self.skip = truth, skip

    def fill(self, path, out=None):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame["label"] = [self.truth[int(row)] for row in frame["row"]]
        frame.loc[frame.index[: self.skip], "label"] = ""
        frame.to_csv(out or path, index=False, sep=";", encoding="utf-8-sig")


class TestRounds:
    @pytest.fixture
    def pool(self, tmp_path):
        split = digits(rows=500).split(0)
        frame = pd.DataFrame(split.x.reshape(500, -1), columns=[f"f{i}" for i in range(64)])
        frame.insert(0, "file", [f"scan {i}.png" for i in range(500)])
        return saved(frame, tmp_path / "pool.parquet"), split

    @pytest.mark.parametrize("method", ["margin", "pcoreset", "mlp(steps=40) + hast + margin"])
    def test_three_rounds_with_a_person(self, pool, method, tmp_path):
        path, split = pool
        person = Person([str(label) for label in split.y], skip=1)
        state, accuracy, asked = tmp_path / "round.fewer", [], []
        labels: dict[str, object] = {}
        for number in range(4):
            out = tmp_path / f"round{number}.csv"
            begin = (path, method) if number == 0 else (None, None)
            made = select(*begin, 25, out, state=state, **labels)
            assert not set(made.rows.tolist()) & set(asked)
            assert made.labelled == 24 * number
            assert made.left == 500 - 25 * (number + 1)
            assert made.by.startswith("at random" if number == 0 else f"{method}, by a model fitted to {24 * number}")
            asked += made.rows.tolist()
            person.fill(out)
            labels = {"labels": out}
            known = [row for place, row in enumerate(asked) if place % 25]
            model = LogisticRegression(max_iter=500).fit(split.x[known].reshape(len(known), -1), split.y[known])
            accuracy.append(model.score(split.test_x.reshape(len(split.test_x), -1), split.test_y))
        assert accuracy[0] + 0.1 < accuracy[3]
        assert accuracy[3] > 0.85

    def test_a_round_is_the_same_whether_labels_come_back_or_are_in_the_pool(self, tmp_path, rng):
        frame = frame_of(rng, probabilities=False)
        truth = [f"c{i % 3}" for i in range(80)]
        path, state = saved(frame, tmp_path / "pool.csv"), tmp_path / "s"
        first = select(path, "margin", 20, tmp_path / "1.csv", state=state)
        Person(truth).fill(tmp_path / "1.csv")
        second = select(None, None, 10, tmp_path / "2.csv", state=state, labels=tmp_path / "1.csv")
        frame.loc[first.rows, "label"] = [truth[row] for row in first.rows]
        again = select(saved(frame, tmp_path / "other.csv"), "margin", 10, tmp_path / "3.csv")
        assert second.rows.tolist() == again.rows.tolist()

    def test_skipped_rows_are_not_asked_again_but_may_be_labelled_later(self, tmp_path, rng):
        path, state = saved(frame_of(rng), tmp_path / "pool.csv"), tmp_path / "s"
        first = select(path, "margin", 30, tmp_path / "1.csv", state=state)
        second = select(None, None, 30, tmp_path / "2.csv", state=state, labels=tmp_path / "1.csv")
        assert second.labelled == 0
        assert not set(first.rows.tolist()) & set(second.rows.tolist())
        both = pd.concat([pd.read_csv(tmp_path / "1.csv"), pd.read_csv(tmp_path / "2.csv")]).assign(label="c1")
        both.to_csv(tmp_path / "both.csv", index=False)
        assert select(None, None, 5, tmp_path / "3.csv", state=state, labels=tmp_path / "both.csv").labelled == 60

    @pytest.mark.parametrize("method", ["random", "mlp(steps=3) + badge"])
    def test_a_round_cut_off_before_its_state_is_asked_again(self, method, tmp_path, rng, monkeypatch):
        path, state = saved(frame_of(rng, labelled=range(12)), tmp_path / "pool.csv"), tmp_path / "s"
        select(path, method, 5, tmp_path / "1.csv", state=state)
        before = state.read_bytes()

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(annotation.checkpoint, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                select(None, None, 5, tmp_path / "2.csv", state=state)
        assert state.read_bytes() == before
        handed_out = (tmp_path / "2.csv").read_text()
        select(None, None, 5, tmp_path / "2.csv", state=state)
        assert (tmp_path / "2.csv").read_text() == handed_out

    def test_what_fails_changes_no_file(self, tmp_path, rng):
        path, state = saved(frame_of(rng), tmp_path / "pool.csv"), tmp_path / "s"
        select(path, "margin", 70, tmp_path / "1.csv", state=state)
        Person(["c0"] * 80).fill(tmp_path / "1.csv")
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(FewerError, match="11 rows were asked for but only 10 of 80 are neither labelled nor"):
            select(None, None, 11, tmp_path / "2.csv", state=state, labels=tmp_path / "1.csv")
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_labels_that_were_not_taken_back_are_not_written_over(self, tmp_path, rng):
        path, state = saved(frame_of(rng), tmp_path / "pool.csv"), tmp_path / "s"
        select(path, "margin", 5, tmp_path / "1.csv", state=state)
        Person(["c0"] * 80, skip=2).fill(tmp_path / "1.csv")
        filled = (tmp_path / "1.csv").read_bytes()
        with pytest.raises(
            FewerError, match=r"1\.csv holds 3 labels that have not been taken back; give it as --labels"
        ):
            select(None, None, 5, tmp_path / "1.csv", state=state)
        with pytest.raises(FewerError, match="cannot be the labels and the chosen rows at once"):
            select(None, None, 5, tmp_path / "1.csv", state=state, labels=tmp_path / "1.csv")
        assert (tmp_path / "1.csv").read_bytes() == filled
        select(None, None, 5, tmp_path / "2.csv", state=state, labels=tmp_path / "1.csv")
        select(None, None, 5, tmp_path / "1.csv", state=state)  # taken back, so it may go

    def test_a_pool_may_move_but_not_change(self, tmp_path, rng):
        frame, state = frame_of(rng), tmp_path / "s"
        path = saved(frame, tmp_path / "pool.csv")
        select(path, "margin", 5, tmp_path / "1.csv", state=state)
        moved = path.rename(tmp_path / "moved.csv")
        with pytest.raises(FewerError, match=r"there is no file .*pool\.csv; give the path of the pool"):
            select(None, None, 5, tmp_path / "2.csv", state=state)
        select(moved, None, 5, tmp_path / "2.csv", state=state)
        frame.loc[3, "f0"] = 9
        saved(frame, moved)
        with pytest.raises(FewerError, match=r"moved\.csv does not hold the numbers that the rounds were begun with"):
            select(None, None, 5, tmp_path / "3.csv", state=state)


class TestComplaints:
    @pytest.fixture
    def pool(self, tmp_path, rng):
        return saved(frame_of(rng, labelled=range(4)), tmp_path / "pool.csv")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"pool": None}, "a pool is needed to begin"),
            ({"method": None}, "a --method is needed to begin"),
            ({"keep": 0}, "--keep is 0; ask for one row or more"),
            ({"keep": 77}, "77 rows were asked for but only 76 of 80 are neither labelled nor asked for"),
            ({"output": "out.xlsx"}, "cannot write .*out.xlsx: choose a .csv, .parquet or .npz file"),
            ({"output": "pool.csv"}, "cannot be the pool and the chosen rows at once"),
            ({"state": "pool.csv"}, "cannot be the pool and the state at once"),
            ({"labels": "l.csv"}, "labels come back to the rounds they were asked for in; give --state"),
            ({"labels": "l.csv", "state": "s"}, "there is no file .*l.csv"),
            ({"method": "margn"}, "unknown name 'margn'; did you mean margin"),
            ({"method": "margin + entropy"}, "both fill the slot query"),
            ({"method": "static-random"}, "does not choose rows to label"),
            ({"features": "q"}, "no column of numbers 'q'"),
            (
                {"method": "mlp + margin", "features": None, "pool": "p.csv"},
                "fits a model, and the pool has no features",
            ),
            ({"method": "activekd + margin", "pool": "f.csv"}, "the teacher's opinions are missing from the pool"),
        ],
    )
    def test_one_line_says_what_would_do(self, pool, change, says, tmp_path, rng):
        saved(frame_of(rng, features=False), tmp_path / "p.csv")
        saved(frame_of(rng, probabilities=False), tmp_path / "f.csv")
        given = {"pool": pool, "method": "margin", "keep": 5, "output": "out.csv"} | change
        for name in ("pool", "output", "state", "labels"):
            if given.get(name) is not None:
                given[name] = tmp_path / given[name]
        before = sorted(tmp_path.iterdir())
        with pytest.raises(FewerError, match=says) as error:
            select(**given)
        assert "\n" not in str(error.value)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_strategy_that_answers_nonsense(self, pool, tmp_path, monkeypatch):
        monkeypatch.setattr("fewer.labels.queries.Margin.choose", lambda self, round, count: np.zeros(count, dtype=int))
        with pytest.raises(FewerError, match="Margin was asked for 5 different unlabelled rows"):
            select(pool, "margin", 5, tmp_path / "out.csv")

    def test_nothing_is_left_in_the_temporary_folder(self, pool, tmp_path, monkeypatch):
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        select(pool, "logistic + margin", 5, tmp_path / "out.csv")
        with pytest.raises(FewerError):
            select(pool, "margin", 500, tmp_path / "out.csv")
        assert os.listdir(folder) == []


class TestCommand:
    def test_two_rounds(self, tmp_path, rng):
        pool = saved(frame_of(rng, probabilities=False), tmp_path / "pool.csv")
        first, second, state = (str(tmp_path / name) for name in ("1.csv", "2.csv", "s"))
        run = CliRunner().invoke
        shown = run(app, ["select", str(pool), "-m", "margin", "-k", "20", "-o", first, "--state", state])
        assert shown.exit_code == 0, shown.output
        assert "20 of 80 rows in" in shown.output
        assert "--labels" in shown.output
        Person([f"c{i % 3}" for i in range(80)]).fill(first)
        shown = run(app, ["select", "--state", state, "--labels", first, "-k", "10", "-o", second])
        assert shown.exit_code == 0, shown.output
        # where lines are broken depends on how long the folder's name is
        assert re.search("10 of 80 rows in .* by a model fitted to 20 labels", " ".join(shown.output.split()))
        assert len(pd.read_csv(second)) == 10

    def test_an_error_is_for_the_user(self, tmp_path):
        result = CliRunner().invoke(
            app, ["select", str(tmp_path / "no.csv"), "-m", "margin", "-o", str(tmp_path / "o.csv")]
        )
        assert result.exit_code != 0
        assert isinstance(result.exception, FewerError)
        assert "there is no file" in str(result.exception)
