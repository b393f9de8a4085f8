from __future__ import annotations

import dataclasses
import datetime
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fewer import catalogue
from fewer.core.errors import FewerError

ROOMS = {
    "adapt": 8,
    "continual": 6,
    "control": 20,
    "data": 5,
    "demos": 6,
    "explore": 9,
    "generate": 6,
    "incontext": 3,
    "labels": 11,
    "nets": 11,
    "pretrain": 9,
    "rollouts": 16,
    "trials": 3,
    "tuning": 13,
}
TABLES = tomllib.loads((catalogue.HERE / "papers.toml").read_text(encoding="utf-8"))
REQUIRED = {"title", "year", "published", "arxiv", "room", "short_of", "idea"}
OPTIONAL = {"composes_with", "fills", "loop", "slot", "yields"}


def test_every_paper_is_listed_once_and_in_its_room():
    assert len(TABLES) == 126
    counted = {room: sum(table["room"] == room for table in TABLES.values()) for room in ROOMS}
    assert counted == ROOMS
    assert list(TABLES) == sorted(TABLES, key=lambda slug: (TABLES[slug]["room"], slug))
    for field in ("title", "arxiv", "idea"):
        assert len({table[field] for table in TABLES.values()}) == 126, f"two papers share their {field}"


@pytest.mark.parametrize("slug", TABLES)
def test_a_table_has_the_right_keys_and_values(slug):
    table = TABLES[slug]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert set(table) >= REQUIRED
    assert set(table) <= REQUIRED | OPTIONAL
    assert table["title"] == table["title"].strip() != ""
    assert re.fullmatch(r"\d{4}(-\d\d-\d\d)?", table["published"])
    assert table["year"] == int(table["published"][:4])
    if len(table["published"]) > 4:
        datetime.date.fromisoformat(table["published"])
    month = re.fullmatch(r"(\d\d)(\d\d)\.\d{5}", table["arxiv"])
    assert month is not None
    assert 1 <= int(month[2]) <= 12
    assert abs(2000 + int(month[1]) - table["year"]) <= 1
    assert ("loop" in table) == ("slot" in table), "a slot is a slot of some loop"
    assert "fills" in table or "loop" not in table, "a paper with a loop has something to put into it"


@pytest.mark.parametrize("slug", TABLES)
def test_an_idea_is_one_short_line_that_starts_with_a_verb_in_lower_case(slug):
    idea = TABLES[slug]["idea"]
    assert 40 <= len(idea) <= 110
    assert idea[0].islower()
    assert "\n" not in idea
    assert not idea.endswith(".")
    # a noun phrase would start with an article, a number or a gerund
    assert not re.match(r"(an?|the|this|we|our|one|new|\w+ing)\b", idea)


def test_what_rooms_are_short_of_is_one_to_one_and_documented():
    pairs = {(table["room"], table["short_of"]) for table in TABLES.values()}
    assert len(pairs) == len(ROOMS) == len({word for _, word in pairs})
    head = (catalogue.HERE / "papers.toml").read_text(encoding="utf-8").partition("\n[")[0]
    for room, word in pairs:
        assert re.search(rf"^#   {word} +{room} ", head, flags=re.MULTILINE), f"{word} is not in the file's head"


def test_compositions_name_other_papers_once_and_in_both_directions():
    for slug, table in TABLES.items():
        others = table.get("composes_with", [])
        assert others == sorted(set(others))
        assert slug not in others
        for other in others:
            assert other in TABLES
            assert slug in TABLES[other]["composes_with"], f"{slug} names {other}, which does not name it back"
    assert all(table.get("composes_with", ["."]) for table in TABLES.values()), "leave an empty list out"


def test_papers_are_the_tables():
    for slug, paper in catalogue.papers().items():
        given_back = {name: value for name, value in dataclasses.asdict(paper).items() if value not in (None, ())}
        table = {key: tuple(value) if isinstance(value, list) else value for key, value in TABLES[slug].items()}
        assert given_back == {"slug": slug, **table}
    with pytest.raises(TypeError):
        catalogue.papers()["new"] = catalogue.show("hast")  # type: ignore[index]


def test_a_paper_works_once_it_has_something_to_give():
    planned = dataclasses.replace(catalogue.show("occam"), fills=None, loop=None, slot=None)
    assert (planned.state, planned.make, planned.slots) == ("planned", None, ())
    works = dataclasses.replace(planned, fills="math:sqrt", loop="math:cos", slot=("query", "learner"))
    assert (works.state, works.make, works.slots) == ("works", "math:sqrt", ("query", "learner"))
    assert dataclasses.replace(works, slot="query").slots == ("query",)


def test_rooms_count_their_papers():
    rooms = catalogue.rooms()
    assert {name: room.papers for name, room in rooms.items()} == ROOMS
    assert rooms["labels"].short_of == "labels"
    assert sum(room.works for room in rooms.values()) == sum("fills" in table for table in TABLES.values())


def test_show_ignores_case_and_names_the_nearest():
    assert catalogue.show(" PCoreSet ").room == "labels"
    with pytest.raises(FewerError, match=r"no paper 'pcorset'; did you mean pcoreset"):
        catalogue.show("pcorset")


# --- parts -------------------------------------------------------------------------------------


def write(folder: Path, room: str, text: str) -> None:
    (folder / room).mkdir(exist_ok=True)
    (folder / room / "parts.toml").write_text(text, encoding="utf-8")


PART = 'make = "math:sqrt"\nsays = "root"\n'


def test_parts_are_read_from_every_folder(tmp_path):
    write(
        tmp_path, "labels", f'[filling.random]\n{PART}loop = "math:cos"\nslot = ["query", "learner"]\n[loop.al]\n{PART}'
    )
    write(tmp_path, "tasks", f"[task.digits]\n{PART}")
    (tmp_path / "models").mkdir()
    read = catalogue._read_parts(tmp_path)
    assert {kind: list(known) for kind, known in read.items()} == {
        "filling": ["random"],
        "loop": ["al"],
        "task": ["digits"],
    }
    random = read["filling"]["random"]
    assert random == catalogue.Part(
        "random", "filling", "labels", "math:sqrt", "root", "math:cos", ("query", "learner")
    )
    assert random.slots == ("query", "learner")
    assert read["task"]["digits"].room == "tasks"
    assert read["task"]["digits"].slots == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[filling.random\n", r"labels/parts.toml is not TOML"),
        (f"[fillings.random]\n{PART}", r"labels/parts.toml has a table \[fillings\]; did you mean filling\?"),
        ('[task.x]\nmake = "a:b"\n', r"\[task.x\] in labels/parts.toml has the keys make; it needs make and says"),
        (f"[task.x]\n{PART}size = 3\n", r"has the keys make, says, size"),
        (f"[task.digits]\n{PART}", r"the task digits is in data/parts.toml and in labels/parts.toml; rename"),
    ],
)
def test_a_bad_part_is_named(tmp_path, text, message):
    write(tmp_path, "data", f"[task.digits]\n{PART}")
    write(tmp_path, "labels", text)
    with pytest.raises(FewerError, match=message):
        catalogue._read_parts(tmp_path)


def test_a_name_may_come_back_in_another_room_with_the_room_in_front(tmp_path):
    part = f'{PART}loop = "math:cos"\nslot = "x"\n'
    write(tmp_path, "labels", f"[filling.mlp]\n{part}")
    write(tmp_path, "nets", f'[filling."nets.mlp"]\n{part.replace("cos", "sin")}')
    read = catalogue._read_parts(tmp_path)["filling"]
    assert list(read) == ["mlp", "nets.mlp"]
    assert set(catalogue._join({}, read)) == {"mlp", "nets.mlp"}
    write(tmp_path, "nets", f'[filling."nets.mlp"]\n{part}')
    with pytest.raises(FewerError, match=r"mlp and nets.mlp are fillings of one loop; rename one of them"):
        catalogue._join({}, catalogue._read_parts(tmp_path)["filling"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[filling.mlp]\n{PART}", r'the filling mlp is in .*rename one of them, or call it "nets.mlp" where its loop'),
        (
            f'[filling."labels.x"]\n{PART}',
            r"the filling labels.x of nets/parts.toml has a dot; only fillings do, as nets",
        ),
        (f'[task."nets.x"]\n{PART}', r"the task nets.x of nets/parts.toml has a dot"),
    ],
)
def test_a_dot_is_for_a_name_that_another_room_has(tmp_path, text, message):
    write(tmp_path, "labels", f"[filling.mlp]\n{PART}")
    write(tmp_path, "nets", text)
    with pytest.raises(FewerError, match=message):
        catalogue._read_parts(tmp_path)


def test_fillings_are_the_papers_that_work_and_the_baselines():
    baseline = catalogue.Part("random", "filling", "labels", "math:sqrt", "root")
    works = dataclasses.replace(catalogue.show("hast"), fills="math:sqrt")
    planned = dataclasses.replace(catalogue.show("occam"), fills=None)
    published = {"hast": works, "occam": planned}
    assert catalogue._join(published, {"random": baseline}) == {"hast": works, "random": baseline}
    for slug in published:
        with pytest.raises(FewerError, match=f"the filling {slug} of labels/parts.toml is also a paper"):
            catalogue._join(published, {slug: baseline})


def test_the_parts_of_this_library_are_sound():
    for kind in ("filling", "loop", "task"):
        for name, part in catalogue.parts(kind).items():
            assert (part.name, part.kind) == (name, kind)
            assert re.fullmatch(r"[\w.]+:\w+", part.make)
            assert (part.loop is None) == (part.slot is None)
    assert set(catalogue.fillings()) >= set(catalogue.parts("filling"))


def test_resolve_imports_and_says_what_is_missing(tmp_path, monkeypatch):
    assert catalogue.resolve("math:sqrt")(4) == 2
    assert catalogue.resolve("fewer.core.errors:FewerError") is FewerError
    for text in ("math", "math:", ":sqrt", ""):
        with pytest.raises(FewerError, match='not of the form "module:attribute"'):
            catalogue.resolve(text)
    with pytest.raises(
        FewerError, match=r"there is no module fewer.core.nothing \(fewer.core.nothing:x was asked for\)"
    ):
        catalogue.resolve("fewer.core.nothing:x")
    with pytest.raises(FewerError, match=r"fewer.core.errors has no FewerEror; did you mean FewerError\?"):
        catalogue.resolve("fewer.core.errors:FewerEror")
    (tmp_path / "lacking.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "broken.py").write_text("import math\nmath.nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        catalogue.resolve("lacking:x")
    with pytest.raises(AttributeError, match="nothing"):  # a fault inside the module keeps its own traceback
        catalogue.resolve("broken:x")


# --- cost --------------------------------------------------------------------------------------


def test_looking_around_imports_nothing_heavy():
    code = """
import sys
from fewer import catalogue, search
catalogue.papers(), catalogue.rooms(), catalogue.fillings(), search.listing(text="labels"), catalogue.show("hast")
sys.modules["sentence_transformers"] = None
assert search.find("label budget").by == "words (BM25)"
heavy = {"torch", "numpy", "jaxtyping", "pandas", "scipy", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    path = os.pathsep.join([str(catalogue.HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
