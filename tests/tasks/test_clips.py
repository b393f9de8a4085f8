"""Clips: how digits move and are drawn, and what may be in a user's files."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.compose import task
from fewer.core.errors import FewerError
from fewer.tasks.clips import GROWTH, bouncing, bouncing_digits, clips, drawn_at

# --- bouncing digits -------------------------------------------------------------------------------------------------


def test_things_bounce_as_in_a_slow_version():
    rng = np.random.default_rng(0)
    start, motion, room = 12 * rng.random((40, 2)), rng.integers(16, size=40), 12.0
    found = bouncing(start, motion, 30, room)
    for clip in range(40):
        angle, speed = (motion[clip] % 8) * np.pi / 4, 1 + motion[clip] // 8
        place, step = start[clip].copy(), speed * np.array([np.sin(angle), np.cos(angle)])
        for frame in range(30):
            assert found[clip, frame] == pytest.approx(place, abs=1e-9)
            place = place + step
            for axis in range(2):
                if not 0 <= place[axis] <= room:
                    place[axis] = -place[axis] if place[axis] < 0 else 2 * room - place[axis]
                    step[axis] = -step[axis]


def test_nothing_moves_where_there_is_no_room():
    assert not bouncing(np.zeros((2, 2)), np.array([3, 9]), 5, 0.0).any()


def test_a_drawn_image_is_where_it_was_put():
    image = np.zeros((1, 8, 8))
    image[0, 2, 5] = 1
    frame = drawn_at(image, np.array([[[3.0, 4.0], [6.0, 4.0]]]), 24)[0]
    rows, columns = np.arange(24) + 0.5, np.arange(24) + 0.5
    for at, top in ((0, 3.0), (1, 6.0)):
        # a patch's middle, enlarged
        assert (frame[at].sum(1) @ rows) / frame[at].sum() == pytest.approx(top + 2.5 * GROWTH, abs=0.1)
        assert (frame[at].sum(0) @ columns) / frame[at].sum() == pytest.approx(4 + 5.5 * GROWTH, abs=0.1)
    assert np.allclose(frame[0, :-3], frame[1, 3:], atol=1e-6)  # whole pixels: the same drawing, moved


def test_the_task_is_that_of_its_labels():
    made = bouncing_digits(clips=160, test=32, noise=0.0)
    assert made.x.shape == (160, 1, 8, 24, 24)
    assert made.x.dtype == np.float32
    assert made.x.mean() == pytest.approx(0, abs=1e-4)
    assert made.x.std() == pytest.approx(1, abs=1e-4)
    bright = made.x - made.x.min()
    assert np.bincount(made.labels["motion"]).tolist() == [10] * 16
    # the centre of mass moves as the label says, at least in clips that do not bounce at once
    columns = np.arange(24) + 0.5
    middle = (bright[:, 0].sum(2) @ columns) / bright[:, 0].sum((2, 3))
    right, left = made.labels["motion"] == 8, made.labels["motion"] == 12
    assert (middle[right, 1] - middle[right, 0]).mean() > 1
    assert (middle[left, 1] - middle[left, 0]).mean() < -1


def test_rows_for_read_outs_and_a_division_for_each_seed():
    made = bouncing_digits(clips=100, test=20, probe_rows=30)
    rows = made.rows_of(0)
    assert rows.x.shape[0] == 80
    assert [(each.name, len(each.x), len(each.test_x)) for each in rows.probes] == [
        ("motion", 30, 20),
        ("digit", 30, 20),
    ]
    assert not np.array_equal(rows.held_out, made.rows_of(1).held_out)
    assert np.array_equal(bouncing_digits.__wrapped__(clips=100, test=20).x, made.x)
    assert task("bouncing-digits(clips=100, test=20)").fingerprint() != made.fingerprint()  # other rows for read-outs


@pytest.mark.parametrize("bad", [{"clips": 0}, {"frames": 0}, {"size": 11}, {"noise": -1.0}])
def test_impossible_clips_are_refused(bad):
    with pytest.raises(FewerError, match="bouncing digits: clips and frames are at least 1"):
        bouncing_digits(**bad)


# --- the user's own --------------------------------------------------------------------------------------------------

BYTES = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 5, 3), dtype=np.uint8)


def test_a_file_with_labels_and_without(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES, action=np.array(["run", "sit"] * 4), place=np.arange(8) % 2)
    made = clips(str(tmp_path / "a.npz"))
    assert made.x.shape == (8, 3, 4, 6, 5)
    assert made.x[5, 2, 3, 1, 4] == np.float32(BYTES[5, 3, 1, 4, 2]) / np.float32(255)
    assert {name: y.tolist() for name, y in made.labels.items()} == {"action": [0, 1] * 4, "place": [0, 1] * 4}
    assert set(clips(str(tmp_path / "a.npz"), labels="action").labels) == {"action"}
    assert clips(str(tmp_path / "a.npz"), labels=()).rows_of(0).probes == ()


def test_shards_and_what_only_some_of_them_know(tmp_path):
    np.savez(tmp_path / "1.npz", x=BYTES, action=np.array(["run", "sit", "", "run", "sit", "run", "sit", ""]))
    np.savez(tmp_path / "2.npz", x=BYTES[:3])
    made = clips(str(tmp_path))
    assert made.x.shape == (11, 3, 4, 6, 5)
    assert made.labels["action"].tolist() == [0, 1, -1, 0, 1, 0, 1, -1, -1, -1, -1]


def test_numbers_below_zero_say_nothing_and_grey_clips_have_one_channel(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES[..., 0].astype(np.float32), y=np.array([3, 5, -1, 3, 5, 3, 5, 3]))
    made = clips(str(tmp_path / "a.npz"))
    assert made.x.shape == (8, 1, 4, 6, 5)
    assert made.x.max() > 1  # numbers that are no bytes stay as they are
    assert made.labels["y"].tolist() == [0, 1, -1, 0, 1, 0, 1, 0]


def test_a_folder_of_classes_with_a_clip_each(tmp_path):
    for place in range(6):
        home = tmp_path / ("jump" if place % 2 else "fall")
        home.mkdir(exist_ok=True)
        np.save(home / f"{place}.npy", BYTES[place])
    made = clips(str(tmp_path))
    assert made.x.shape == (6, 3, 4, 6, 5)
    assert made.labels["folder"].tolist() == [0, 0, 0, 1, 1, 1]


def test_long_clips_are_cut_into_pieces_that_keep_their_label(tmp_path):
    np.save(tmp_path / "long.npy", np.concatenate([BYTES[0], BYTES[1], BYTES[2][:1]]))  # 9 frames
    np.save(tmp_path / "short.npy", BYTES[3])
    made = clips(str(tmp_path), frames=4)
    assert made.x.shape == (3, 3, 4, 6, 5)
    assert np.allclose(np.moveaxis(made.x[1], 0, -1) * 255, BYTES[1])
    np.savez(tmp_path / "labelled.npz", x=BYTES[:4], y=np.array([0, 1, 0, 1]))
    assert clips(str(tmp_path / "labelled.npz"), frames=2).labels["y"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert task(f"clips('{tmp_path / 'labelled.npz'}', frames=2)").x.shape == (8, 3, 2, 6, 5)


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"x": BYTES}, {"x": "z"}, "no array 'z'"),
        ({"x": BYTES}, {"labels": "y"}, "no array 'y'"),
        ({"x": BYTES[:, 0, 0]}, {}, r"an array of uint8 of shape \(8, 5, 3\) is no clips"),
        ({"x": BYTES[:0]}, {}, "is no clips"),
        ({"x": BYTES.astype(str)}, {}, "is no clips"),
        ({"x": BYTES.astype(object)}, {}, "cannot be read as arrays"),
        ({"x": BYTES, "y": np.arange(5)}, {}, r"'y' has shape \(5,\) beside 8 clips"),
        ({"x": BYTES, "y": np.arange(8)}, {}, "different values in 8 rows"),
        ({"x": BYTES}, {"frames": 9}, "its clips have 4 frames and frames=9 were asked for"),
        ({"x": BYTES}, {"frames": 0}, "frames=0 were asked for"),
        ({"x": np.full((5, 4, 6, 5, 1), np.nan)}, {}, "hold NaN or infinity"),
    ],
)
def test_files_that_are_no_clips_are_refused(tmp_path, arrays, arguments, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FewerError, match=message):
        clips(str(tmp_path / "bad.npz"), **arguments)


def test_nothing_and_mixed_shapes_are_refused(tmp_path):
    with pytest.raises(FewerError, match="there is nothing at"):
        clips(str(tmp_path / "nowhere"))
    with pytest.raises(FewerError, match=r"has no \.npz or \.npy files"):
        clips(str(tmp_path))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(FewerError, match=r"torn\.npz cannot be read as arrays"):
        clips(str(tmp_path / "torn.npz"))
    np.save(tmp_path / "a.npy", BYTES[0])
    np.save(tmp_path / "b.npy", BYTES[0, :3])
    (tmp_path / "torn.npz").unlink()
    with pytest.raises(FewerError, match=r"those of b\.npy are \(3, 6, 5, 3\)"):
        clips(str(tmp_path))
