"""Tables on disk against what the csv module and pyarrow read of them at once."""

from __future__ import annotations

import csv
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels import pool_tables
from fewer.labels.pool_tables import TableFile, reading

AWKWARD = st.lists(st.sampled_from([*'aé,;"\n\t 0.日', "\r\n"]), max_size=6).map("".join)


def write_csv(path, rows, **kind):
    with path.open("w", newline="", encoding=kind.pop("encoding", "utf-8")) as file:
        csv.writer(file, **kind).writerows(rows)
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    """Many batches out of few rows."""
    monkeypatch.setattr(pool_tables, "BYTES", 256)


class TestCSV:
    @pytest.mark.usefixtures("small_blocks")
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=st.lists(AWKWARD, min_size=1, max_size=40), seed=st.integers(0, 9))
    def test_take_gives_back_the_very_texts(self, texts, seed, tmp_path):
        rows = [[f"id{i}", text, str(i / 8)] for i, text in enumerate(texts)]
        table = TableFile.open(write_csv(tmp_path / "t.csv", [["id", "text", "x"], *rows]))
        wanted = np.random.default_rng(seed).permutation(len(rows))[: 1 + len(rows) // 2]
        taken = table.take(wanted)
        assert [list(row.values()) for row in taken.to_pylist()] == [rows[i] for i in wanted]

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_the_separator_is_found(self, mark, tmp_path):
        path = write_csv(tmp_path / "t.csv", [["a", "b,;c", "d"], ["1", "x", "2"]], delimiter=mark)
        assert TableFile.open(path).schema.names == ["a", "b,;c", "d"]

    def test_one_column(self, tmp_path):
        path = write_csv(tmp_path / "t.csv", [["a"], ["1"], ["2"]])
        assert TableFile.open(path).take(np.array([1])).to_pylist() == [{"a": "2"}]

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path):
        path = write_csv(tmp_path / "t.csv", [["größe", "b"], ["1", "ü"]], encoding="utf-8-sig")
        table = TableFile.open(path)
        assert table.schema.names == ["größe", "b"]
        assert table.take(np.array([0])).to_pylist() == [{"größe": "1", "b": "ü"}]

    @pytest.mark.usefixtures("small_blocks")
    def test_fractions_may_come_after_whole_numbers(self, tmp_path):
        values = [*range(200), 0.5]
        table = TableFile.open(write_csv(tmp_path / "t.csv", [["x"], *([v] for v in values)]))
        assert table.schema.field("x").type == pa.int64()
        batches = list(table.batches((), ["x"]))
        assert len(batches) > 2
        assert np.concatenate([batch.column("x").to_numpy() for _, batch in batches]).tolist() == values
        assert [first for first, _ in batches] == np.cumsum([0, *(len(batch) for _, batch in batches[:-1])]).tolist()

    def test_types_are_given_back_only_where_nothing_is_lost(self, tmp_path):
        rows = [["id", "zip", "x", "n", "day", "name"], ["1", "007", "0.10", "", "2024-01-02", "007"]]
        rows.append(["2", "100", "1e3", "3", "2024-01-03", "a"])
        taken = TableFile.open(write_csv(tmp_path / "t.csv", rows)).take(np.array([1, 0]), typed=True)
        assert taken.to_pydict() == {
            "id": [2, 1],
            "zip": ["100", "007"],
            "x": [1000.0, 0.1],
            "n": [3, None],
            "day": [date(2024, 1, 3), date(2024, 1, 2)],
            "name": ["a", "007"],
        }

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "no column names"),
            (b"\n1,2\n", "no column names"),
            ("a,b\n1,ü\n".encode("utf-16"), "UTF-8"),
            (b"a,a\n1,2\n", "more than one column is called 'a'"),
            (b"a,b\n1,2\n3\n", "cannot read .*Expected 2 columns, got 1"),
        ],
    )
    def test_what_is_no_table_is_refused(self, content, says, tmp_path):
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        with pytest.raises(FewerError, match=says) as error, reading(path):
            TableFile.open(path).take(np.array([0]))
        assert "\n" not in str(error.value)

    def test_latin_texts_say_how_to_save_them(self, tmp_path):
        path = write_csv(tmp_path / "t.csv", [["a", "b"], ["1", "ü"]], encoding="latin-1")
        with pytest.raises(FewerError, match="in UTF-8"), reading(path):
            TableFile.open(path).take(np.array([0]))

    def test_a_file_that_shrinks_is_noticed(self, tmp_path):
        path = write_csv(tmp_path / "t.csv", [["a"], ["1"], ["2"]])
        table = TableFile.open(path)
        write_csv(path, [["a"], ["1"]])
        with pytest.raises(FewerError, match="lost rows"):
            table.take(np.array([1]))


class TestParquet:
    @pytest.fixture
    def path(self, tmp_path):
        rows = 1000
        names = pa.array(["a", "b"] * (rows // 2)).dictionary_encode()
        table = pa.table({"x.y": np.arange(rows), "list": [[i, i + 1] for i in range(rows)], "name": names})
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=90)
        return tmp_path / "t.parquet"

    def test_take_gives_back_the_very_rows(self, path):
        wanted = np.random.default_rng(0).permutation(1000)[:50]
        taken = TableFile.open(path).take(wanted)
        assert taken.to_pylist() == pq.read_table(path).take(pa.array(wanted)).to_pylist()
        assert taken.schema == pq.read_schema(path)

    def test_only_the_needed_parts_are_read(self, path):
        table = TableFile.open(path)
        assert {first // 90 for first, _ in table.batches(["name"], near=np.array([95, 100, 700]))} == {1, 7}
        assert sum(len(batch) for _, batch in table.batches(())) == 1000

    def test_batches_are_small_where_rows_are_wide(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pool_tables, "BYTES", 100_000)
        x = np.random.default_rng(0).normal(size=(300, 256))
        wide = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 256)
        pq.write_table(pa.table({"x": wide}), tmp_path / "t.parquet")
        sizes = [batch.nbytes for _, batch in TableFile.open(tmp_path / "t.parquet").batches(["x"])]
        assert max(sizes) < 200_000

    def test_damage_is_one_line(self, path):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(FewerError, match="cannot read"), reading(path):
            TableFile.open(path)
