"""Videos in common formats. Those in tests/data show three colours and each frame's number in eight bits at the top."""

import gc
from pathlib import Path

import cv2
import numpy as np
import pytest
from films import ROOT, decode_images, encode_video, load_prepare, make_hole, thumbnail, write_video

prepare = load_prepare()
DATA = ROOT / "tests" / "data"
COLOURS = [(200, 60, 60), (60, 170, 60), (70, 70, 200)]  # RGB, as painted


def frame_number(image):
    """Return the frame number encoded in an image (H, W, 3)."""
    height, width, _ = image.shape
    grey = image[2 : height // 4 - 2].mean((0, 2))  # (W,)
    return sum(int(grey[(2 * bit + 1) * width // 16] > 128) << bit for bit in range(8))


def colour(image):
    return image[image.shape[0] // 2 :].mean((0, 1))


def read(path, **changes):
    """Return a video's clip table, the RGB images of its clips (frames, H, W, 3) and the DecodedVideo."""
    settings = {"segmentation": "shots", "detector": "adaptive", "fps": 24.0, "frames_per_clip": 24}
    settings |= {"views": ((np.copy, 24),)} | changes
    *messages, (_, video) = prepare.decode_clips(Path(path), prepare.Plan(**settings))
    return video.rows, np.concatenate([content[0] for kind, content in messages if kind == "clip"]), video


@pytest.mark.parametrize("name, rate, length", [
    ("interlaced_h264.mp4", 24, 90), ("interlaced.vob", 25, 90), ("av1.mp4", 24, 90), ("thumb_first.mp4", 24, 90),
    ("wm_picture.wmv", 24, 90), ("tag_ycgco.mp4", 24, 90), ("tag_ictcp.mp4", 24, 90),
])  # fmt: skip
def test_frames_are_decoded_in_order_with_their_colours(name, rate, length):
    images = [image[..., ::-1] for _, image in decode_images(prepare, DATA / name)]
    assert [frame_number(image) for image in images] == list(range(length))
    for i, image in enumerate(images):
        assert np.abs(colour(image) - COLOURS[i // 30]).max() < 16, i
    rows, shown, video = read(DATA / name)
    starts = [row[4] for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == pytest.approx([0, 30 / rate, 60 / rate], abs=1e-3) and len(rows) == 3
    due = np.array([min(30 * (i // 24) + round(i % 24 * rate / 24), 89) for i in range(72)])  # the nearest frame
    assert np.abs([frame_number(image) for image in shown] - due).max() <= (rate != 24)
    assert bool(video.remarks) == name.startswith("tag_") and video.duration == pytest.approx(length / rate, abs=0.05)


def test_repeated_fields():
    rows, shown, _ = read(DATA / "telecine.mpg")  # 90 frames at 24000/1001 as 30000/1001, two of five mixed of two
    starts = [row[4] for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == pytest.approx([0, 30 * 1001 / 24000, 60 * 1001 / 24000], abs=0.04) and len(rows) == 3
    for clip in range(3):
        assert np.abs(colour(shown[24 * clip + 12]) - COLOURS[clip]).max() < 16


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_a_frozen_frame_during_sound(detector):
    rows, shown, video = read(DATA / "held.mkv", detector=detector, segmentation="seconds")
    assert len(rows) == 14 and not video.remarks
    assert [frame_number(shown[i]) for i in (12, 7 * 24, 12 * 24, 13 * 24 + 2)] == [12, 23, 23, 26]  # not a later frame


def split_strip(video):
    """Return the ten RGB images (90, W, 3) of a video's strip."""
    return np.split(cv2.imdecode(np.frombuffer(video.strip, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], 10, axis=1)


@pytest.mark.parametrize("candidates", [640, 80])
@pytest.mark.parametrize("name, due", [
    ("vfr.mp4", [4, 11, 19, 26, 34, 41, 49, 80, 116, 152]),  # 50 frames at 5 frames/s, then 120 at 24: the nearest
    ("long_gop.ts", range(7, 140, 14)),
    ("fragmented.mp4", range(7, 140, 14)),
])  # fmt: skip
def test_strips_have_the_frames_at_ten_times(monkeypatch, name, due, candidates):
    monkeypatch.setattr(prepare, "MAX_CANDIDATES", candidates)
    assert [frame_number(image) for image in split_strip(read(DATA / name)[2])] == list(due)


def test_frames_are_freed_without_the_garbage_collector():
    """Memory would not suffice for a large video."""
    import av

    def frames():
        return sum(type(x) is av.VideoFrame for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = frames()  # by other tests
        count = sum(1 for _ in decode_images(prepare, DATA / "vfr.mp4"))
        assert count == 170 and frames() - before < 5
    finally:
        gc.enable()


def test_a_truncated_fragmented_video(tmp_path):
    content = (DATA / "fragmented.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) * 3 // 5])
    _, shown, video = read(tmp_path / "a.mp4", segmentation="seconds")
    assert video.duration < 4 and frame_number(shown[23]) == 23


def test_messages_for_videos_that_cannot_be_decoded(tmp_path):
    content = (DATA / "interlaced_h264.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace(b"avc1", b"zzz1"))
    with pytest.raises(prepare.VideoError, match="no decoder for stream 0"):
        read(tmp_path / "a.mp4")
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    (tmp_path / "b.mp4").write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(prepare.VideoError, match=r"no frame of stream 0 \(h264\)"):
        read(tmp_path / "b.mp4")


FRAMES_24 = np.round(np.arange(240) * 1000 / 24)  # milliseconds


def test_encrypted_videos_fail(tmp_path):
    key = {"encryption_key": "00112233445566778899aabbccddeeff", "encryption_kid": "0123456789abcdef0123456789abcdef"}
    path = encode_video(tmp_path / "a.mp4", FRAMES_24[:48], "libx264", encryption_scheme="cenc-aes-ctr", **key)
    with pytest.raises(prepare.VideoError, match="encrypted"):
        read(path)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "flv"])
def test_only_holes_give_remarks(tmp_path, suffix):
    path = encode_video(tmp_path / f"a.{suffix}", FRAMES_24, "flv1" if suffix == "flv" else "mpeg4")
    assert not read(path, segmentation="seconds")[2].remarks
    frames = sum(1 for _ in decode_images(prepare, make_hole(path)))
    assert frames < 200
    (remark,) = read(path, segmentation="seconds")[2].remarks
    decoded, expected = [int(word) for word in remark.split() if word.isdecimal()]
    assert decoded == frames and abs(expected - 240) <= 4, remark


def test_frames_after_a_large_hole_in_mpeg_ts_are_decoded(tmp_path):
    path = encode_video(tmp_path / "a.ts", FRAMES_24, muxrate="8000000")
    assert path.stat().st_size > 2 * 6 * 2**16
    frames = sum(1 for _ in decode_images(prepare, make_hole(path)))
    assert 100 < frames < 130  # both ends


@pytest.mark.parametrize("times, options, duration", [
    (3_600_000 + FRAMES_24[:72], {}, 3), (FRAMES_24[:72], {"audio": 12}, 3),
    ([*FRAMES_24[:72], 9000], {"audio": 12}, 9.1),
])  # fmt: skip
def test_complete_videos_have_no_remarks(tmp_path, times, options, duration):
    video = read(encode_video(tmp_path / "a.mkv", times, **options))[2]
    assert video.duration == pytest.approx(duration, abs=0.1) and not video.remarks


@pytest.mark.parametrize("suffix, gap, clips", [("ts", 30, 6), ("ts", 5, 11), ("mkv", 30, 36)])
def test_gaps_in_mpeg_ts_are_discontinuities(tmp_path, suffix, gap, clips):
    times = [*FRAMES_24[:72], *(FRAMES_24[72:144] + 1000 * gap)]
    path = encode_video(tmp_path / f"a.{suffix}", times)
    rows, _, video = read(path, segmentation="seconds")
    assert len(rows) == clips and not video.remarks


def test_grey_levels_of_limited_range_are_expanded():
    _, image = next(decode_images(prepare, DATA / "monochrome_hevc.mp4"))
    levels, counts = np.unique(image, return_counts=True)
    assert {0, 255} <= set(levels) and 128 in levels[counts > 1000]


def test_the_last_frame_lasts_an_hour_at_most():
    rows, _, video = read(DATA / "last_sample_5h.mp4", segmentation="seconds", views=((thumbnail, 1),))
    assert video.duration == pytest.approx(3600 + 71 / 24) and len(rows) == 3603 and not video.remarks


def test_frames_hidden_by_an_edit_list_give_no_remark():
    video = read(DATA / "editlist_cut.mp4")[2]
    assert video.duration == pytest.approx(2.6, abs=0.05) and not video.remarks


def test_strip_images_have_square_pixels_and_one_width(tmp_path):
    """Images of 96x64 pixels are cropped to 16:9; any shape and number of frames is possible."""
    image = np.zeros((64, 96, 3), np.uint8)
    for aspect, width in ((1, 135), (2, 160), (0.5, 68), (1000, 160), (0.0001, 1)):
        assert prepare.shrink(image, aspect).shape == (90, width, 3)
    for shape in ((8, 33000), (33000, 8), (1, 1)):
        height, width, _ = prepare.shrink(np.zeros((*shape, 3), np.uint8), 1.0).shape
        assert height == 90 and 1 <= width <= 160
    for frames in (1, 3):
        video = read(write_video(tmp_path / f"{frames}.mp4", [frames]))[2]
        assert {image.shape for image in split_strip(video)} == {(90, 135, 3)}


@pytest.mark.parametrize("header_duration", [0, 100, 10, 1e5])
def test_few_images_are_kept_with_any_header_duration(header_duration):
    """Each encodes its time in seconds; one is frozen for a third of the duration."""
    strip = prepare.FrameStrip(prepare.DecodedVideo("", ""), header_duration)
    times = [*np.arange(0, 30, 0.02), *np.arange(60, 100, 0.02)]
    for i, time in enumerate(times):
        strip.add(prepare.Frame(i, time, np.full((9, 16, 3), 2 * time, np.uint8), (16, 9)))
        assert len(strip.images) < len(strip.times) <= prepare.MAX_CANDIDATES
    strip = cv2.imdecode(np.frombuffer(strip.jpeg(100), np.uint8), cv2.IMREAD_COLOR)
    shown = strip.reshape(90, 10, 160, 3).mean((0, 2, 3)) / 2
    np.testing.assert_allclose(shown, [5, 15, 25, 30, 30, 30, 65, 75, 85, 95], atol=1.5)


@pytest.mark.parametrize("name, late, paint", [
    ("HashDetector", 0, None), ("HistogramDetector", 0, lambda i: np.full((64, 96, 3), 80 * (i // 50 % 3), np.uint8)),
    ("ThresholdDetector", 4, lambda i: np.full((64, 96, 3), 150 * (i % 50 > 5), np.uint8)),  # reports a fade at its end
])  # fmt: skip
def test_cuts_of_other_pyscenedetect_detectors(monkeypatch, tmp_path, name, late, paint):
    path, detector = write_video(tmp_path / "a.mp4", [40, 30, 50, 60], paint=paint), getattr(prepare.scenedetect, name)
    scenes = prepare.scenedetect.detect(str(path), detector(min_scene_len=0.6), start_in_scene=True, backend="pyav")
    monkeypatch.setattr(prepare.scenedetect, "AdaptiveDetector", detector)
    rows, _, _ = read(path)
    starts = [row[2] for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    expected = [start.frame_num for start, _ in scenes]
    assert len(starts) == len(expected) > 2 and all(0 <= a - b <= late for a, b in zip(starts, expected))


def test_a_title_that_is_not_utf8(tmp_path):
    path = write_video(tmp_path / "a.avi", [24], codec="MJPG")
    content, title = path.read_bytes(), "Amélie".encode("latin-1") + b"\0\0"
    info = b"LIST" + (4 + 8 + len(title)).to_bytes(4, "little") + b"INFOINAM" + len(title).to_bytes(4, "little") + title
    at = content.index(b"LIST", content.index(b"strl"))  # after the streams' headers
    path.write_bytes(content[:at] + info + content[at:])
    assert len(read(path)[0]) == 1
