"""Films as people have them: each shows three colours in turn, and the frame's number in eight bits at the top."""

import gc
from pathlib import Path

import cv2
import numpy as np
import pytest
from films import ROOT, film, images, load_prepare

prepare = load_prepare()
DATA = ROOT / "tests" / "data"
COLOURS = [(200, 60, 60), (60, 170, 60), (70, 70, 200)]  # RGB, as painted


def number(picture):
    """Return the number that a picture (H, W, 3) shows."""
    height, width, _ = picture.shape
    grey = picture[2 : height // 4 - 2].mean((0, 2))  # (W,)
    return sum(int(grey[(2 * bit + 1) * width // 16] > 128) << bit for bit in range(8))


def colour(picture):
    return picture[picture.shape[0] // 2 :].mean((0, 1))


def read(path, **changes):
    """Return a film's clip table, the RGB pictures (frames, H, W, 3) that its clips show, and what is known of it."""
    settings = {"segmentation": "shots", "detector": "adaptive", "fps": 24.0, "frames_per_clip": 24}
    settings |= {"inputs": ((np.copy, 24),)} | changes
    *messages, (_, found) = prepare.read_clips(Path(path), prepare.Plan(**settings))
    return found.rows, np.concatenate([content[0] for kind, content in messages if kind == "clip"]), found


@pytest.mark.parametrize("name, rate, length", [
    ("interlaced_h264.mp4", 24, 90), ("interlaced.vob", 25, 90), ("av1.mp4", 24, 90), ("thumb_first.mp4", 24, 90),
    ("wm_picture.wmv", 24, 90), ("tag_ycgco.mp4", 24, 90), ("tag_ictcp.mp4", 24, 90),
])  # fmt: skip
def test_pictures_are_those_that_were_painted(name, rate, length):
    pictures = [picture[..., ::-1] for _, picture in images(prepare, DATA / name)]
    assert [number(picture) for picture in pictures] == list(range(length))
    for i, picture in enumerate(pictures):
        assert np.abs(colour(picture) - COLOURS[i // 30]).max() < 16, i
    rows, shown, found = read(DATA / name)
    starts = [row[4] for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == pytest.approx([0, 30 / rate, 60 / rate], abs=1e-3) and len(rows) == 3
    due = np.array([min(30 * (i // 24) + round(i % 24 * rate / 24), 89) for i in range(72)])  # the nearest frame
    assert np.abs([number(picture) for picture in shown] - due).max() <= (rate != 24)
    assert bool(found.remarks) == name.startswith("tag_") and found.duration == pytest.approx(length / rate, abs=0.05)


def test_fields_that_are_repeated():
    rows, shown, _ = read(DATA / "telecine.mpg")  # 90 frames at 24000/1001 as 30000/1001, two of five mixed of two
    starts = [row[4] for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == pytest.approx([0, 30 * 1001 / 24000, 60 * 1001 / 24000], abs=0.04) and len(rows) == 3
    for clip in range(3):
        assert np.abs(colour(shown[24 * clip + 12]) - COLOURS[clip]).max() < 16


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_a_picture_held_beside_sound(detector):
    rows, shown, found = read(DATA / "held.mkv", detector=detector, segmentation="seconds")
    assert len(rows) == 14 and not found.remarks
    assert [number(shown[i]) for i in (12, 7 * 24, 12 * 24, 13 * 24 + 2)] == [12, 23, 23, 26]  # not what is to come


def strip_of(film):
    """Return the ten pictures (90, W, 3) of a film's strip, RGB."""
    return np.split(cv2.imdecode(np.frombuffer(film.pictures, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], 10, axis=1)


@pytest.mark.parametrize("candidates", [640, 80])
@pytest.mark.parametrize("name, due", [
    ("vfr.mp4", [4, 11, 19, 26, 34, 41, 49, 80, 116, 152]),  # 50 frames at 5 frames/s, then 120 at 24: the nearest
    ("long_gop.ts", range(7, 140, 14)),
    ("fragmented.mp4", range(7, 140, 14)),
])  # fmt: skip
def test_pictures_are_of_the_frames_at_their_times(monkeypatch, name, due, candidates):
    monkeypatch.setattr(prepare, "MAX_CANDIDATES", candidates)
    assert [number(picture) for picture in strip_of(read(DATA / name)[2])] == list(due)


def test_frames_do_not_wait_for_the_garbage_collector():
    """Few of a large film's fit into memory."""
    import av

    def frames():
        return sum(type(x) is av.VideoFrame for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = frames()  # of other tests
        count = sum(1 for _ in images(prepare, DATA / "vfr.mp4"))
        assert count == 170 and frames() - before < 5
    finally:
        gc.enable()


def test_a_film_in_pieces_that_is_cut_off(tmp_path):
    content = (DATA / "fragmented.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) * 3 // 5])
    _, shown, found = read(tmp_path / "a.mp4", segmentation="seconds")
    assert found.duration < 4 and number(shown[23]) == 23


def test_what_cannot_be_decoded_is_said(tmp_path):
    content = (DATA / "interlaced_h264.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace(b"avc1", b"zzz1"))
    with pytest.raises(prepare.VideoError, match="stream 0 is coded in a way"):
        read(tmp_path / "a.mp4")
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    (tmp_path / "b.mp4").write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(prepare.VideoError, match=r"not one frame of stream 0 \(h264\)"):
        read(tmp_path / "b.mp4")


def test_titles_in_another_encoding(tmp_path):
    path = film(tmp_path / "a.avi", [24], codec="MJPG")
    content, title = path.read_bytes(), "Amélie".encode("latin-1") + b"\0\0"
    info = b"LIST" + (4 + 8 + len(title)).to_bytes(4, "little") + b"INFOINAM" + len(title).to_bytes(4, "little") + title
    at = content.index(b"LIST", content.index(b"strl"))  # before what follows the streams' headers
    path.write_bytes(content[:at] + info + content[at:])
    assert len(read(path)[0]) == 1
