"""Base and new classes: the score, rounds of labels, redrawn scenes, folders of images, a race, every error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.adapt.prompt_models import coloured, save_transformers_clip, small_clip

from fewer import compose
from fewer.adapt.base_and_new import BaseAndNew, few_shot, harmonic_mean, in_rounds
from fewer.adapt.clip_images import CLIPImages, SavedCLIP
from fewer.adapt.loop import Labelled
from fewer.adapt.redrawn_scenes import RedrawnScenes
from fewer.core.errors import FewerError
from fewer.tasks.scenes import COLOURS, KINDS, SHAPES


def test_base_rows_are_scored_among_base_classes_and_new_ones_among_new():
    class Two(BaseAndNew):
        classes, new = ("a", "b"), ("c", "d", "e")

        def fingerprint(self):
            return "two"

    rows = Labelled(
        torch.zeros(0, 1), torch.zeros(0).long(), torch.arange(6.0)[:, None], torch.tensor([0, 2, 1, 4, 3, 2])
    )
    asked = []

    def predict(x, classes):
        asked.append((x[:, 0].tolist(), classes))
        return np.eye(len(classes or ("a", "b")))[[0] * len(x)]  # always the first

    score, measured = Two().evaluate(rows, predict)
    assert asked == [([0.0, 2.0], None), ([1.0, 3.0, 4.0, 5.0], ("c", "d", "e"))]
    assert measured == {"base": 0.5, "new": 0.5}
    assert score == 0.5
    assert harmonic_mean(0.0, 1.0) == harmonic_mean(0.0, 0.0) == 0.0


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_harmonic_mean_lies_between_and_near_the_lower(first, second):
    found = harmonic_mean(first, second)
    assert min(first, second) - 1e-9 <= found <= (first + second) / 2 + 1e-9
    assert found == pytest.approx(2 / (1 / first + 1 / second))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 99))
def test_rounds_hold_each_class_once(y, shots, seed):
    y = np.array(y)
    chosen = in_rounds(y, 4, shots, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == len(chosen)
    counts = np.minimum(np.bincount(y, minlength=4), shots)
    assert np.array_equal(np.bincount(y[chosen], minlength=4), counts)
    turn = [int(np.sum(y[chosen[:place]] == y[row])) for place, row in enumerate(chosen)]
    assert turn == sorted(turn)


def test_every_division_has_all_shapes_and_colours_on_both_sides():
    divisions = [RedrawnScenes(division=division) for division in range(6)]
    for task in divisions:
        assert len({*task.classes, *task.new}) == 32
        assert {*task.classes, *task.new} <= set(KINDS)
        for names in (task.classes, task.new):
            assert {name.split()[0] for name in names} == set(COLOURS)
            assert {name.split()[1] for name in names} == set(SHAPES)
    assert len({task.classes for task in divisions}) == 6


def test_redrawn_scenes_show_what_their_labels_say():
    from fewer.tasks.scenes import PLAIN

    task = RedrawnScenes(shots=3, test=200, style=PLAIN)
    rows = task.labelled(0)
    assert all(torch.equal(part.sort().values, torch.arange(16)) for part in rows.y.split(16))
    assert [int((rows.test_y < 16).sum()), int((rows.test_y >= 16).sum())] == [200, 200]
    names = [*task.classes, *task.new]
    x, y = torch.cat([rows.x, rows.test_x]), torch.cat([rows.y, rows.test_y])
    red, blue = ([name.startswith(colour) for name in names] for colour in ("red", "blue"))
    strongest = x.flatten(2).amax(2)
    assert (strongest[torch.tensor(red)[y]].argmax(1) == 0).float().mean() > 0.9
    assert (strongest[torch.tensor(blue)[y]].argmax(1) == 2).float().mean() > 0.9
    assert torch.equal(task.labelled(0).x, rows.x)
    assert not torch.equal(task.labelled(1).x, rows.x)
    assert task.fingerprint() != RedrawnScenes(shots=3, test=200, style=PLAIN, division=1).fingerprint()


def test_the_clip_is_trained_once_for_a_seed():
    task = RedrawnScenes(steps=2)
    first, again, other = task.base(0), RedrawnScenes(steps=2, division=3).base(0), task.base(1)
    states = [each.state_dict() for each in (first, again, other)]
    assert all(torch.equal(each, states[1][name]) for name, each in states[0].items())
    assert not torch.equal(states[0]["clip.logit_scale"], states[2]["clip.logit_scale"])
    texts = [task.template.format(name) for name in KINDS]
    assert first.clip.tokens(texts, whole=True).shape == (48, 8)


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"test": 0}, {"steps": 0}])
def test_wrong_settings_of_redrawn_scenes(wrong):
    with pytest.raises(FewerError, match="shots, test and steps must be 1 or more"):
        RedrawnScenes(**wrong)


def test_features_pass_and_images_are_encoded():
    clip = small_clip()
    frozen, x = CLIPImages(clip), torch.rand(3, 3, 16, 16)
    z = frozen(x)
    assert torch.equal(z, clip.encode_image(x))
    assert torch.equal(frozen(z), z)
    clip.pixels = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(frozen(x), clip.encode_image(2 * x - 1))
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.cosine_similarity(frozen(large), frozen(x)).min() > 0.9  # any size is scaled
    with pytest.raises(FewerError, match="features are 5 wide and the model's 6"):
        frozen(torch.zeros(2, 5))


NAMES = ("red cat", "blue dog", "old oak", "red fox", "blue bird")


@pytest.fixture
def model(tmp_path):
    pytest.importorskip("transformers")
    save_transformers_clip(tmp_path / "clip")
    return str(tmp_path / "clip")


def test_a_folder_of_images_and_a_folder_of_a_clip(tmp_path, model):
    pillow = pytest.importorskip("PIL.Image")
    x, y = coloured(NAMES, 50)
    for place, (image, name) in enumerate(zip(x, y, strict=True)):
        folder = tmp_path / "photos" / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        pillow.fromarray((255 * image.transpose(1, 2, 0)).astype(np.uint8)).save(folder / f"{place}.png")
    task = few_shot(str(tmp_path / "photos"), model, shots=4, size=16)
    assert task.classes == ("blue_bird", "blue_dog", "old_oak")
    assert task.new == ("red_cat", "red_fox")
    rows = task.labelled(0)
    assert torch.bincount(rows.y).tolist() == [4, 4, 4]
    assert torch.bincount(rows.test_y).tolist() == [2] * 5
    for spec in ("pre", "coop", "hand-prompt"):
        loop = compose.loop(spec)
        curve = list(type(loop)(**{**vars(loop), "steps": 3, "points": 2}).run(task, 12, 0))
        assert {"base", "new"} <= set(curve[-1].extras)
    # all classes at once, without new ones, on a task that brings no model
    whole = compose.task(f"images({str(tmp_path / 'photos')!r}, size=16)")
    loop = compose.loop(f"saved-clip({model!r}) + pre")
    assert 0 <= list(type(loop)(**{**vars(loop), "steps": 3, "points": 1}).run(whole, 20, 0))[-1].score <= 1


def test_arrays_and_errors(tmp_path, model):
    x, y = coloured(NAMES, 50)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    task = few_shot(str(tmp_path / "rows.npz"), model, shots=2)
    assert len(task.labelled(0).y) == 6
    assert task.fingerprint() != few_shot(str(tmp_path / "rows.npz"), model, shots=3).fingerprint()
    with pytest.raises(FewerError, match="shots is 0"):
        few_shot(str(tmp_path / "rows.npz"), model, shots=0)
    np.savez(tmp_path / "two.npz", x=x, y=y == NAMES[0])
    with pytest.raises(FewerError, match="there are 2 classes; at least two to learn and one to name"):
        few_shot(str(tmp_path / "two.npz"), model)
    np.savez(tmp_path / "few.npz", x=x, y=y, test_x=x[1:3], test_y=y[1:3])
    from fewer.adapt.base_and_new import FewShotImages
    from fewer.tasks.arrays import npz

    with pytest.raises(FewerError, match="no row of some half"):
        FewShotImages(npz(str(tmp_path / "few.npz"), test_x="test_x", test_y="test_y"), model).labelled(0)
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "bare").mkdir()
    for place in range(4):
        pillow.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "bare" / f"{place}.png")
    with pytest.raises(FewerError, match="have no classes; give a folder with a sub-folder for each"):
        few_shot(str(tmp_path / "bare"), model, size=16)
    with pytest.raises(FewerError, match=r"rows are of shape \(4,\); a CLIP sees images"):
        SavedCLIP(model).build((4,), 0)
