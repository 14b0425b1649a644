"""01_prepare.py on videos with known shots, frames and times."""

import csv
import errno
import functools
import gc
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import scenedetect
from conftest import made_tensor, write_vectors
from films import (
    ROOT,
    TINY,
    Job,
    contents,
    decode_images,
    load_prepare,
    set_rotation,
    set_timestamps,
    thumbnail,
    write_video,
)

import divita

prepare = load_prepare()
NAMES = ["tiny2d_shots_fps24_fpc24", "tiny3d_shots_fps24_fpc24"]


def table(folder, mid):
    with open(folder / f"{mid}.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def shot_starts(rows):
    starts = {}
    for row in rows:
        starts.setdefault(row["shot"], row["start_frame"])
    return list(starts.values())


def read(path, **changes):
    """Return a video's clip table, the images of each clip without preprocessing, and (duration, remarks)."""
    settings = {"segmentation": "shots", "detector": "adaptive", "fps": 24.0, "frames_per_clip": 24}
    settings |= {"views": ((np.copy, 24),)} | changes
    messages = list(prepare.decode_clips(path, prepare.Plan(**settings)))
    video = messages[-1][1]
    return video.rows, [content[0] for kind, content in messages if kind == "clip"], (video.duration, video.remarks)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Write six videos of different lengths to a folder."""
    folder = tmp_path_factory.mktemp("data") / "videos"
    folder.mkdir()
    for i in range(6):
        write_video(folder / f"tt{i}.mp4", [30 + 7 * i, 50, 24][: 1 + i % 3], seed=i)
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos):
    """Return {path: bytes} of an undisturbed job on the videos."""
    out = videos.parent / "undisturbed"
    assert Job(videos.parent / "log", "--videos", videos, "--out", out, *TINY, "--workers", 1).end() == 0
    return contents(out)


# Clips


def test_shots_are_detected_and_clips_stay_within_them(script, tmp_path):
    lengths = [40, 63, 24, 90]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", lengths)
    options = ["--videos", tmp_path / "videos", "--out", tmp_path / "out", *TINY]
    result = script("01_prepare.py", *options)
    assert result.code == 0, result.err
    rows = table(tmp_path / "out" / "shots", "a")
    cuts = [0, 40, 103, 127]
    assert shot_starts(rows) == cuts
    assert [sum(row["shot"] == i for row in rows) for i in range(4)] == [2, 3, 1, 4]
    for row in rows:
        start, end = cuts[int(row["shot"])], [*cuts[1:], 217][int(row["shot"])]
        assert start <= row["start_frame"] < row["end_frame"] <= end
        assert row["start_s"] == pytest.approx(row["start_frame"] / 24, abs=1e-4)
        assert row["end_s"] <= end / 24 + 1e-4
    for name in NAMES:
        clips = np.load(tmp_path / "out" / name / "a.npy")
        assert clips.shape == (10, 8) and clips.dtype == np.float32
        meta = json.loads((tmp_path / "out" / name / "meta.json").read_text())
        assert meta["features"] == 8 and meta["clips"] == "shots" and meta["digest"].startswith("sha256:")
    assert "next: python 03_evaluate.py --predict" in result.out


@pytest.mark.parametrize("detector", ["adaptive", "content"])
@pytest.mark.parametrize("fps", [3, 24, 60])
@pytest.mark.parametrize(
    "lengths", [[40, 16, 30, 15, 15, 15, 60, 10, 5, 33], [60, 3, 2, 4, 1, 5, 70, 8, 8, 8, 90, *[2] * 30, 50]]
)
def test_cuts_are_those_of_pyscenedetect(tmp_path, detector, fps, lengths):
    path = write_video(tmp_path / "a.mp4", lengths, fps=fps, size=(160, 90))
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[detector]
    scenes = scenedetect.detect(str(path), kind(min_scene_len=prepare.MIN_SHOT), start_in_scene=True, backend="pyav")
    rows, _, _ = read(path, detector=detector, views=((thumbnail, 1),))
    starts = [int(row[2]) for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == [start.frame_num for start, _ in scenes] and len(starts) > 3


@pytest.mark.parametrize("length, clips", [(1, 1), (11, 1), (12, 1), (24, 1), (35, 1), (36, 2), (48, 2), (59, 2)])
def test_a_partial_clip_is_padded_from_half_a_clip(tmp_path, length, clips):
    number = lambda i: np.full((64, 96, 3), 2 * i + 20, np.uint8)  # noqa: E731
    rows, arrays, _ = read(write_video(tmp_path / "a.avi", [length], codec="FFV1", paint=number))
    assert len(rows) == clips
    shown = (np.concatenate(arrays)[:, 32, 48, 0].astype(int) - 20) // 2
    assert list(shown) == [min(i, length - 1) for i in range(24 * clips)]  # padded with the last frame
    assert rows[-1][3] == min(length, 24 * clips)


@pytest.mark.parametrize("segmentation", ["shots", "seconds"])
@pytest.mark.parametrize("fps, per_clip", [(1, 1), (1, 2), (0.5, 1), (7, 3), (24, 1), (24, 24), (60, 2), (3, 24)])
def test_clips_stay_within_their_shots(tmp_path, fps, per_clip, segmentation):
    for source, lengths in ((24, [90]), (60, [59, 147, 89]), (10, [34, 34, 25])):
        path = write_video(tmp_path / "a.mp4", lengths, fps=source)
        changes = {"fps": float(fps), "frames_per_clip": per_clip, "segmentation": segmentation}
        rows, _, (duration, _) = read(path, views=((thumbnail, 1),), **changes)
        starts = {row[1]: row[4] for row in reversed(rows)}
        for row in rows:
            assert row[4] < row[5] <= starts.get(row[1] + 1, duration) + 1e-6
        if source == 24 and fps == per_clip == 1:
            assert [row[4:] for row in rows] == [(0, 1), (1, 2), (2, 3), (3, 3.75)]


@pytest.mark.parametrize("fps", [5, 12, 15, 23.976, 24, 25, 29.97, 30, 48, 50, 60, 120])
@pytest.mark.parametrize("segmentation", ["shots", "seconds"])
def test_any_frame_rate(tmp_path, fps, segmentation):
    seconds = 3.3
    frames = round(seconds * fps)
    image = lambda i: np.full((64, 96, 3), 20 + 60 * i / fps, np.uint8)  # noqa: E731
    path = write_video(tmp_path / "a.avi", [frames], fps=fps, codec="FFV1", paint=image)
    rows, arrays, (duration, remarks) = read(path, segmentation=segmentation)
    assert duration == pytest.approx(frames / fps, rel=1e-3) and not remarks
    assert len(rows) == 3
    shown = (np.concatenate(arrays)[:, 32, 48, 0].astype(float) - 20) / 60  # seconds, encoded as grey levels
    assert np.abs(shown - np.arange(72) / 24).max() < 0.5 / fps + 0.02  # half a source frame, and rounded grey levels


def test_variable_frame_rate(tmp_path):
    times = np.cumsum([0] + [42, 42, 84, 21, 126] * 10)
    path = write_video(
        tmp_path / "a.flv", [51], codec="FLV1", paint=lambda i: np.full((64, 96, 3), 20 + 4 * i, np.uint8)
    )
    set_timestamps(path, times)
    rows, arrays, (duration, _) = read(path)
    assert duration == pytest.approx(3.213, abs=1e-3) and len(rows) == 3
    _, everything, _ = read(path, fps=1000.0, frames_per_clip=3300, views=((np.copy, 3300),), segmentation="seconds")
    greys = everything[0][times, 32, 48, 0]  # of the source frames
    due = [np.argmin(np.abs(times - k / 0.024)) for k in range(72)]  # the nearest, or the earlier of two
    assert list(np.concatenate(arrays)[:, 32, 48, 0]) == list(greys[due]) and len(set(greys)) > 40


@pytest.mark.parametrize("fps, frames", [(12, range(0, 48, 2)), (4, range(0, 48, 6)), (16, [0, 1, 3, 4, 6, 7, 9, 10])])
def test_lower_frame_rates_use_the_nearest_frame_or_the_earlier_of_two(tmp_path, fps, frames):
    path = write_video(
        tmp_path / "a.avi", [100], codec="FFV1", paint=lambda i: np.full((64, 96, 3), 20 + 2 * i, np.uint8)
    )
    _, arrays, _ = read(path, fps=float(fps), frames_per_clip=8, views=((np.copy, 8),))
    shown = (np.concatenate(arrays)[: len(frames), 32, 48, 0].astype(int) - 20) // 2
    assert list(shown) == list(frames)


@pytest.mark.parametrize("damage", ["repeated", "back", "ahead", "restart", "zero"])
def test_damaged_timestamps_are_replaced(tmp_path, damage):
    times = np.arange(96) * 1000 / 24
    if damage == "repeated":
        times[50] = times[49]
    elif damage == "back":
        times[50] -= 1500
    elif damage == "ahead":
        times[50] += 10**6
    elif damage == "restart":
        times[48:] -= times[48]
    else:
        times[:] = 0
    path = write_video(tmp_path / "a.flv", [96], codec="FLV1")
    set_timestamps(path, times)
    rows, _, (duration, _) = read(path, segmentation="seconds")
    assert duration == pytest.approx(4, abs=0.1) and len(rows) == 4
    if damage in ("repeated", "back", "ahead"):  # a single frame
        assert [row[2:4] for row in rows] == [(24 * i, 24 * i + 24) for i in range(4)]


@pytest.mark.parametrize("times, clips", [
    ([*np.arange(0, 5000, 100), *np.arange(20000, 25000, 100)], 25),  # a frame frozen for 15 s of 25
    (np.arange(0, 120000, 15000), 120),  # a slide show
    ([*np.arange(0, 2000, 100), 700_000, 700_100], 700),
])  # fmt: skip
def test_long_pauses_are_trusted(tmp_path, times, clips):
    path = write_video(tmp_path / "a.flv", [len(times)], fps=10, codec="FLV1")
    set_timestamps(path, times)
    rows, _, (duration, remarks) = read(path, segmentation="seconds", frames_per_clip=4, fps=4.0)
    assert len(rows) == clips and duration == pytest.approx(clips, rel=0.01) and not remarks


def test_a_thousand_frames_per_second(tmp_path):
    rows, _, (duration, remarks) = read(write_video(tmp_path / "a.mp4", [2000], fps=1000, size=(32, 32)))
    assert duration == pytest.approx(2, abs=0.01) and len(rows) == 2 and not remarks


def test_a_single_frame_of_15_seconds(tmp_path):
    rows, _, (duration, remarks) = read(write_video(tmp_path / "a.mp4", [1], fps=1 / 15))
    assert duration == pytest.approx(15, rel=0.01) and len(rows) == 15 and not remarks


def test_a_cover_image_is_no_video():
    with pytest.raises(prepare.VideoError, match="cover"):
        read(ROOT / "tests" / "data" / "cover.m4v")


def test_rotated_videos_are_upright(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = 255  # the left half, at the top after a quarter turn clockwise
    path = write_video(tmp_path / "a.mp4", [24], paint=lambda i: image)
    set_rotation(path)
    _, arrays, _ = read(path)
    assert arrays[0].shape == (24, 96, 64, 3)
    assert arrays[0][:, :40].min() > 200 and arrays[0][:, 56:].max() < 50


DISPLAY = {  # display matrix, the same by NumPy
    "not": ((1, 0, 0, 1), lambda x: x),
    "no matrix": ((0, 0, 0, 0), lambda x: x),
    "by a quarter": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "by half": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "by three quarters": ((0, -1, 1, 0), lambda x: np.rot90(x)),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down, mirrored": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("matrix, transform", DISPLAY.values(), ids=DISPLAY)
def test_images_are_as_players_display_them(tmp_path, matrix, transform):
    path = write_video(
        tmp_path / "a.mp4", [2], paint=lambda i: np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3) // 9
    )
    images = []
    for _ in range(2):
        _, image = next(decode_images(prepare, path))
        images.append(image)
        set_rotation(path, *matrix)
    assert (images[1] == transform(images[0])).all()


def test_colours_and_image_frames(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 2] = 250  # red, in BGR
    _, arrays, _ = read(
        write_video(tmp_path / "a.avi", [24], codec="MJPG", paint=lambda i: image), views=((np.copy, 3),)
    )
    assert arrays[0].shape == (3, 64, 96, 3)
    assert arrays[0][..., 0].min() > 200 and arrays[0][..., 2].max() < 50
    assert prepare.positions(3, 24) == [4, 12, 20]
    assert prepare.positions(1, 24) == [12]
    assert prepare.positions(24, 24) == list(range(24))


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_few_frames_are_in_memory(tmp_path, detector):
    path = write_video(tmp_path / "a.mp4", [30] * 20)
    plan = prepare.Plan("shots", detector, 24.0, 24, ((functools.partial(cv2.resize, dsize=(8, 8)), 24),))
    counts = []
    for kind, _ in prepare.decode_clips(path, plan):
        if kind == "digest":
            continue
        counts.append(sum(type(it) is prepare.Frame and it.image is not None for it in gc.get_objects()))
    assert len(counts) > 20 and max(counts) <= (7 if detector == "adaptive" else 20)


def test_fixed_seconds_ignore_shots(script, tmp_path, videos):
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path, *TINY, "--segmentation", "seconds")
    assert result.code == 0, result.err
    rows = table(tmp_path / "shots", "tt5")
    assert {row["shot"] for row in rows} == {0} and [row["start_frame"] for row in rows] == list(range(0, 139, 24))


# Same files in any order and after interruptions


@pytest.mark.parametrize("workers", [2, 7])
def test_same_files_for_more_workers(tmp_path, videos, undisturbed, workers):
    assert Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", workers).end() == 0
    assert contents(tmp_path / "out") == undisturbed


def test_same_files_for_two_ranks_one_of_them_killed(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1]
    ranks = [Job(tmp_path / f"log{rank}", *options, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    ranks[1].workers()
    ranks[1].process.kill()
    assert ranks[0].end() == 0
    done = {path.stem for path in (tmp_path / "out" / NAMES[0]).glob("tt*.npy")}
    assert {"tt0", "tt2", "tt4"} <= done < {f"tt{i}" for i in range(6)}
    ranks = [Job(tmp_path / f"log{rank}", *options, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    assert [rank.end() for rank in ranks] == [0, 0], ranks[1].text()
    assert contents(tmp_path / "out") == undisturbed


def test_torchrun_with_a_damaged_video(tmp_path, videos, undisturbed):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    (mine / "tt00.mp4").write_text("sorted second: the other rank's first")
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, ROOT / "tests" / "films.py"]
    options = ["--videos", mine, "--out", tmp_path / "out", *TINY, "--workers", 1]
    result = subprocess.run(list(map(str, [*run, *options])), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.count("tt00: failed: no video") == 1
    counts = re.findall(r", (\d) new by rank [01] of 2\n", result.stdout)
    assert len(counts) == 2 and sum(map(int, counts)) == 6
    assert re.search(r"rank 0 of 2.* (\d)/\1 \[", result.stderr), "the bar is full at the end"
    files = contents(tmp_path / "out")
    assert files.pop("failed.csv").startswith(b"mid,reason\ntt00,")
    without_paths = [{name: x[name] for name in x if "meta" not in name} for x in (files, undisturbed)]
    assert without_paths[0] == without_paths[1]


def test_same_files_for_two_processes_at_once(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1]
    jobs = [Job(tmp_path / f"log{i}", *options) for i in range(2)]
    assert [job.end() for job in jobs] == [0, 0]
    assert contents(tmp_path / "out") == undisturbed


def test_same_files_after_kills(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1]
    generator = np.random.default_rng(0)
    for _ in range(int(os.environ.get("KILLS", 6))):
        job = Job(tmp_path / "log", *options)
        job.process.join(generator.uniform(0.1, 2.5))
        job.process.kill()
        job.process.join()
        for path in (tmp_path / "out").rglob("tt*.npy"):
            if not path.name.startswith("."):
                np.load(path)
        for mid in generator.choice(6, 3, replace=False):  # work for the next job
            for path in (tmp_path / "out").rglob(f"tt{mid}.*"):
                path.unlink()
    assert Job(tmp_path / "log", *options).end() == 0
    assert contents(tmp_path / "out") == undisturbed


def alive(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_job(tmp_path, videos, undisturbed, how):
    job = Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 2)
    workers = job.workers(2)
    os.kill(job.process.pid, how)
    assert job.end() == -how and "Traceback" not in job.text()
    before = time.monotonic()
    while any(map(alive, workers)):
        assert time.monotonic() - before < 60
        time.sleep(0.01)
    assert Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY).end() == 0
    assert contents(tmp_path / "out") == undisturbed


# Resuming


def test_finished_work_is_skipped(script, tmp_path, videos):
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    (tmp_path / NAMES[0] / "tt3.npy").unlink()
    assert "1 of 6 trailers to prepare" in script("01_prepare.py", *options).out
    assert (tmp_path / NAMES[0] / "tt3.npy").exists()


def test_vectors_without_meta_json_are_prepared_again(script, tmp_path, videos):
    """Their settings are unknown."""
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    (tmp_path / NAMES[0] / "meta.json").unlink()
    assert script("01_prepare.py", *options, "--videos", videos / "tt0.mp4", "--image-frames", "2").code == 0
    assert [path.stem for path in (tmp_path / NAMES[0]).glob("*.npy")] == ["tt0"]


def test_two_parallel_jobs_with_different_options(tmp_path, videos):
    """On a new folder, the second to build its backbones ends with an error."""
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY]
    jobs = [Job(tmp_path / f"log{n}", *options, "--image-frames", n) for n in (2, 3)]
    assert sorted(job.end() for job in jobs) == [0, 2]
    (text,) = [job.text() for job in jobs if job.process.exitcode]
    assert "other settings, frames " in text.splitlines()[-1]


def test_an_unused_detector_is_not_part_of_the_clip_setting(script, tmp_path, videos):
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    for more in ([], ["--segmentation", "seconds"]):
        assert script("01_prepare.py", *options, *more).code == 0
    result = script("01_prepare.py", *options, "--segmentation", "seconds", "--detector", "content")
    assert "0 new" in result.out, result.err
    assert [path.name for path in tmp_path.glob("shots_*")] == ["shots_seconds_fps24_fpc24"]


def test_the_next_command_from_within_a_run_folder(script, tmp_path, videos, write_run, monkeypatch):
    out = tmp_path / "out"
    assert script("01_prepare.py", "--videos", videos, "--out", out, *TINY).code == 0
    run = write_run(out, image=NAMES[0], video=NAMES[1])
    monkeypatch.chdir(run)
    result = script("01_prepare.py", "--like", ".", "--videos", videos, "--out", out)
    assert f"--runs {run.parent} --run {run.name}" in result.out, result.err


def test_a_video_passed_twice_is_one_trailer(script, tmp_path, videos):
    options = ["--videos", videos, videos / "tt0.mp4", "--out", tmp_path, *TINY]
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out


def test_an_edited_failed_csv_is_updated(script, tmp_path, videos):
    (tmp_path / "failed.csv").write_text("mid\ntt0\ntt9\n")
    assert script("01_prepare.py", "--videos", videos, "--out", tmp_path, *TINY).code == 0
    assert not (tmp_path / "failed.csv").exists()


def test_videos_of_a_finished_folder_are_not_read(script, tmp_path, videos):
    options, opened, watching = ["--videos", videos, "--out", tmp_path, *TINY], [], []

    def watch(event, arguments):  # called for every file that Python opens
        if watching and event == "open" and Path(os.fsdecode(arguments[0])).parent == videos:
            opened.append(arguments[0])

    assert script("01_prepare.py", *options).code == 0
    sys.addaudithook(watch)
    watching.append(True)
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out and not opened
    os.utime(next(videos.iterdir()))
    assert "0 new" in script("01_prepare.py", *options).out and len(opened) == 1  # to compare its digest
    watching.clear()


@pytest.mark.parametrize("options, message", [
    (["--fps", "12"], None), (["--detector", "content"], "other settings, detector adaptive, not content"),
    (["--image-frames", "2"], "frames 24, not 2"), (["--precision", "bfloat16"], "precision float32"),
])  # fmt: skip
def test_other_settings(script, tmp_path, videos, options, message):
    common = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *common).code == 0
    result = script("01_prepare.py", *common, *options)
    if message is None:  # another folder, with its own clip tables
        assert result.code == 0
        assert {"shots", "shots_shots_fps12_fpc24", "tiny2d_shots_fps12_fpc24"} <= {p.name for p in tmp_path.iterdir()}
        meta = json.loads((tmp_path / "tiny2d_shots_fps12_fpc24" / "meta.json").read_text())
        assert meta["clips"] == "shots_shots_fps12_fpc24"
    else:
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1
        assert script("01_prepare.py", *common, *options, "--overwrite").code == 0


def test_a_changed_video_is_prepared_again_by_every_backbone(script, tmp_path):
    mine = tmp_path / "videos"
    mine.mkdir()
    write_video(mine / "b.mp4", [24])
    write_video(mine / "a.mp4", [48])
    common = ["--videos", mine, "--out", tmp_path / "out", "--weights", "random"]
    image, video = ["--image", "tiny2d", "--video", "none"], ["--image", "none", "--video", "tiny3d"]
    assert script("01_prepare.py", *common, *image).code == script("01_prepare.py", *common, *video).code == 0
    shutil.copy(mine / "a.mp4", tmp_path / "copy.mp4")  # another modification time
    (tmp_path / "copy.mp4").replace(mine / "a.mp4")
    assert "0 new" in script("01_prepare.py", *common, *image).out
    complete = (mine / "a.mp4").read_bytes()
    with open(mine / "a.mp4", "r+b") as file:  # a hole, as in a partial download
        file.seek(len(complete) // 2)
        file.write(bytes(500))
    os.utime(mine / "a.mp4", (0, 0))
    assert "1 new" in script("01_prepare.py", *common, *image).out
    (mine / "a.mp4").write_bytes(complete)
    os.utime(mine / "a.mp4", (0, 0))
    assert "1 new" in script("01_prepare.py", *common, *image).out
    write_video(mine / "a.mp4", [72], seed=1)
    assert "1 new" in script("01_prepare.py", *common, *image).out
    sources = [divita.read_vectors(tmp_path / "out" / name / "a.npy")[1] for name in NAMES]
    assert sources[0][0] != sources[1][0] and sources[0][1] != sources[1][1]  # training rejects them
    assert "1 new" in script("01_prepare.py", *common, *video).out
    assert len({divita.read_vectors(tmp_path / "out" / name / "a.npy")[1] for name in NAMES}) == 1
    assert [len(np.load(tmp_path / "out" / name / "a.npy")) for name in NAMES] == [3, 3]
    (mine / "a.mp4").write_text("damaged")
    assert script("01_prepare.py", *common, *image).code == 1
    assert [path.name for path in (tmp_path / "out" / NAMES[0]).glob("*.npy")] == [
        "b.npy"
    ]  # without the earlier video's


def test_files_of_unreadable_videos_are_kept(script, tmp_path):
    """The videos are links to a disk that is removed and mounted again."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "disk" / name, seed=len(name))
        (tmp_path / "videos" / name).symlink_to(tmp_path / "disk" / name)
    options = ["--videos", tmp_path / "videos", "--out", tmp_path / "out", *TINY]
    assert script("01_prepare.py", *options).code == 0
    before = contents(tmp_path / "out")
    assert {"pictures/a.jpg", f"{NAMES[0]}/b.npy"} <= before.keys()
    (tmp_path / "disk").rename(tmp_path / "away")
    result = script("01_prepare.py", *options)
    assert result.code == 1 and result.err.count(": failed: not a file, or a broken link\n") == 2
    assert "all 2 videos failed for the same reason" in result.err and "next: " in result.out  # with the earlier files
    after = contents(tmp_path / "out")
    assert after.pop("failed.csv").count(b"broken link") == 2 and after == before
    (tmp_path / "away").rename(tmp_path / "disk")
    assert "0 new" in script("01_prepare.py", *options).out and contents(tmp_path / "out") == before


def test_no_next_command_without_prepared_trailers(script, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    result = script("01_prepare.py", "--videos", tmp_path / "a.mp4", "--out", tmp_path / "out", *TINY)
    assert result.code == 1 and "0 of 1 trailers prepared" in result.out and "next: " not in result.out


def test_an_error_in_the_code_keeps_the_files_of_all_videos(script, tmp_path, videos, monkeypatch):
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    before = contents(tmp_path)

    class Detector(scenedetect.AdaptiveDetector):
        def process_frame(self, *_):
            return {}["no such key"]

    monkeypatch.setattr(scenedetect, "AdaptiveDetector", Detector)
    for path in tmp_path.glob(f"{NAMES[0]}/*.npy"):
        path.unlink()
    result = script("01_prepare.py", *options)
    assert result.code == 1 and result.err.count("failed: KeyError: 'no such key'") == 6
    assert "all 6 videos failed for the same reason" in result.err.splitlines()[-1]
    assert (tmp_path / NAMES[1] / "tt0.npy").exists() and contents(tmp_path).keys() <= before.keys() | {"failed.csv"}


@pytest.mark.parametrize("how", ["another folder", "copied over it", "moved over it"])
def test_another_video_with_the_same_mid_size_and_time_is_prepared(script, tmp_path, how):
    for disc in (1, 2):
        (tmp_path / f"disc{disc}").mkdir()
        path = write_video(tmp_path / f"disc{disc}" / "VTS_01_1.avi", [24], codec="MJPG", seed=disc)
        with open(path, "ab") as file:
            file.write(bytes(200_000 - path.stat().st_size))
        os.utime(path, (10**9, 10**9))
    first, second = (tmp_path / f"disc{disc}" / "VTS_01_1.avi" for disc in (1, 2))
    options = ["--out", tmp_path / "out", *TINY]
    assert "1 new" in script("01_prepare.py", "--videos", first, *options).out
    vectors = np.load(tmp_path / "out" / NAMES[0] / "VTS_01_1.npy")
    if how == "copied over it":
        shutil.copy2(second, first)
    elif how == "moved over it":
        second.replace(first)
    path = second if how == "another folder" else first
    assert path.stat().st_size == 200_000 and path.stat().st_mtime == 10**9
    assert "1 new" in script("01_prepare.py", "--videos", path, *options).out
    assert (np.load(tmp_path / "out" / NAMES[0] / "VTS_01_1.npy") != vectors).any()
    assert "0 new" in script("01_prepare.py", "--videos", path, *options).out


def test_vectors_without_stamps_are_prepared_again_once(script, tmp_path, videos):
    options = ["--videos", videos / "tt0.mp4", "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    for name in NAMES:
        clips, source = divita.read_vectors(tmp_path / name / "tt0.npy")
        write_vectors(tmp_path / name / "tt0.npy", np.array(clips), *source[:2])
    assert "1 new" in script("01_prepare.py", *options).out
    assert "0 new" in script("01_prepare.py", *options).out
    (tmp_path / "pictures" / "tt0.jpg").unlink()
    assert "0 new" in script("01_prepare.py", *options).out  # a missing strip is ignored


def test_hashing_a_large_file_sends_messages(tmp_path):
    with open(tmp_path / "a.mp4", "wb") as file:
        file.truncate(100 * 2**20)
    assert sum(kind == "digest" for kind, _ in prepare.hash_video(tmp_path / "a.mp4")) > 5


def test_a_video_modified_during_decoding_fails(tmp_path):
    path = write_video(tmp_path / "a.mp4", [60])
    messages = prepare.decode_clips(path, prepare.Plan("shots", "adaptive", 24.0, 24, ((np.copy, 24),)))
    assert "clip" in (kind for kind, _ in messages)
    os.utime(path, (0, 0))
    with pytest.raises(prepare.VideoError, match="modified during decoding"):
        list(messages)


def test_labels_are_written_with_splits(script, tmp_path, videos):
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbfmid;drama;war\r\ntt0;1;0\r\ntt1;0;1\r\ngone;1;1\r\n")
    options = ["--videos", videos, "--out", tmp_path / "out", "--labels", tmp_path / "mine.csv"]
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 0, result.err
    assert "skipped 1 of 3 labelled trailers without video: gone" in result.out
    assert "4 of 6 videos have no labels" in result.out
    labels = divita.read_labels(tmp_path / "out" / "labels.csv")
    assert labels.mids == ["tt0", "tt1", "gone"] and labels.splits.shape == (3, 3)
    assert "next: python 02_train.py --data" in result.out
    before = (tmp_path / "out" / "labels.csv").read_bytes()
    assert before.startswith(b"mid,drama,war,split0,split1,split2\ntt0,1,0,")
    assert script("01_prepare.py", *options, *TINY).code == 0  # the same table
    with open(tmp_path / "mine.csv", "a") as file:
        file.write("tt2;1;0\n")
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 2 and "labels.csv: differs from" in result.err and result.err.count("\n") == 1
    assert (tmp_path / "out" / "labels.csv").read_bytes() == before


@pytest.mark.parametrize("options, message", [
    (["--videos", "nowhere"], "nowhere"), (["--videos", "."], "no videos found"), (["--image", "nonsense"], "nonsense"),
    (["--image", "tiny3d"], "--image tiny3d: wrong input; use --video"), (["--weights", "tiny2d=none.pth"], "none.pth"),
    (["--weights", "good"], "--weights good"), (["--image-frames", "25"], "only 24 frames"),
    (["--image", "none", "--video", "none"], "at least one"), (["--fps", "0"], "--fps"),
    (["--workers", "0"], "workers"), (["--labels", "nowhere.csv"], "nowhere.csv"),
])  # fmt: skip
def test_errors_of_the_command_line(script, tmp_path, videos, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY, *options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


# ---- Files of the user ----


def test_the_demo_is_not_written_to_other_folders(script, tmp_path):
    mine = tmp_path / "mine"
    (mine / "videos").mkdir(parents=True)
    write_video(mine / "videos" / "a.mp4")
    (mine / "labels.csv").write_text("mid,war,split0\na,1,0\n")
    before = contents(mine)
    result = script("01_prepare.py", "--out", mine, *TINY)
    assert result.code == 2 and "--videos" in result.err and result.err.count("\n") == 1
    assert contents(mine) == before


def test_other_videos_are_not_mixed_with_the_demo(script, tmp_path):
    (tmp_path / "true_cuts.csv").write_text("mid,frame\n")
    write_video(tmp_path / "demo.mp4")
    result = script("01_prepare.py", "--videos", tmp_path / "demo.mp4", "--out", tmp_path, *TINY)
    assert result.code == 2 and "choose another --out (03_evaluate.py: --data)" in result.err


def test_labels_that_differ_are_never_overwritten(script, tmp_path, videos):
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    table.write_text("mid,war,split0\ntt0,1,0\ntt1,0,1\ntt2,0,2\n")
    options = ["--videos", videos, "--out", out, "--labels", table, *TINY]
    assert script("01_prepare.py", *options).code == script("01_prepare.py", *options).code == 0
    before = (out / "labels.csv").read_bytes()
    table.write_text("mid,war,split0\ntt0,0,0\ntt1,0,1\ntt2,0,2\n")
    for more in ([], ["--overwrite"]):
        result = script("01_prepare.py", *options, *more)
        assert result.code == 2 and "labels.csv: differs from" in result.err and result.err.count("\n") == 1
        assert (out / "labels.csv").read_bytes() == before
    (out / "labels.csv").unlink()
    assert script("01_prepare.py", *options).code == 0 and (out / "labels.csv").read_bytes() != before


def test_a_full_disk_leaves_no_partial_demo_video(tmp_path, monkeypatch):
    small = tmp_path / "demo"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 10)
    try:
        with pytest.raises(divita.UserError, match="run the same command again"):
            prepare.make_demo(small, 2)
        assert len(contents(small / "videos")) < 10 and not list(small.rglob(".divita*"))
        subprocess.run(["mount", "-o", "remount,size=100m", small], check=True)
        prepare.make_demo(small, 2)
        prepare.make_demo(tmp_path / "roomy", 1)
        assert contents(small) == contents(tmp_path / "roomy") and len(contents(small)) == 12
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_demos_true_cuts_are_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 10)
    prepare.make_demo(tmp_path, 2)
    with open(tmp_path / "true_cuts.csv", newline="") as file:
        true = [(row["mid"], int(row["frame"])) for row in csv.DictReader(file)]
    found = []
    for path in sorted((tmp_path / "videos").iterdir()):
        rows, _, _ = read(path, views=((thumbnail, 1),))
        found += [(path.stem, row[2]) for before, row in zip(rows, rows[1:]) if row[1] != before[1]]
    assert found == true and len(true) == 80


def test_edited_labels_of_the_demo_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 2)
    prepare.make_demo(tmp_path / "demo", 2)
    changed = (tmp_path / "demo" / "labels.csv").read_text().replace("demo001,0", "demo001,1", 1)
    (tmp_path / "demo" / "labels.csv").write_text(changed)
    (tmp_path / "demo" / "videos" / "demo001.mp4").unlink()
    prepare.make_demo(tmp_path / "demo", 2)
    assert (tmp_path / "demo" / "labels.csv").read_text() == changed and (tmp_path / "demo/videos/demo001.mp4").exists()


def test_only_stale_temporary_files_are_removed(script, tmp_path, videos):
    out, host = tmp_path / "out", divita.socket.gethostname()
    (out / f"{divita.TEMPORARY}1@elsewhere@0").mkdir(parents=True)
    kept = [".tmp-note", f"{divita.TEMPORARY}note", f"{divita.TEMPORARY}999999999@{host}-b@0.npy"]
    kept.append(f"{divita.TEMPORARY}{os.getpid()}@{host}@77.npy")
    kept += [
        f"{divita.TEMPORARY}x@{host}@0.npy",
        f"{divita.TEMPORARY}1@{host}@5.npy",
    ]  # process 1 is another user's and alive
    for name in (*kept, f"{divita.TEMPORARY}999999999@{host}@0.npy", f"{divita.TEMPORARY}1@elsewhere@1.npy"):
        (out / name).touch()
    for name in (".tmp-note", f"{divita.TEMPORARY}note", f"{divita.TEMPORARY}1@elsewhere@1.npy"):
        os.utime(out / name, (0, 0))
    assert script("01_prepare.py", "--videos", videos / "tt0.mp4", "--out", out, *TINY).code == 0
    assert {path.name for path in out.iterdir() if path.is_file()} == set(kept)


def test_mids_match_in_any_unicode_form(script, tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4").rename(tmp_path / "videos" / f"{decomposed}.mp4")
    (tmp_path / "labels.csv").write_text(f"mid,war,split0\n{composed},1,0\nb,0,1\nc,0,2\n", encoding="utf-8")
    options = ["--videos", tmp_path / "videos", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 0 and "without video: b, c" in result.out and "no labels" not in result.out
    assert (tmp_path / "out" / NAMES[0] / f"{composed}.npy").exists()


# ---- Streams, cores, processes ----


def test_a_closed_pipe_does_not_end_the_job(tmp_path, videos, undisturbed):
    (tmp_path / "log").mkdir()
    os.mkfifo(tmp_path / "log" / "out.txt")
    job = Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY)
    with open(tmp_path / "log" / "out.txt") as reader:
        assert "6 of 6 trailers to prepare" in reader.readline()
    assert job.end() == 0
    assert "rror" not in (tmp_path / "log" / "err.txt").read_text() and contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("descriptor", ["1", "2"])
def test_closed_streams(tmp_path, videos, undisturbed, descriptor):
    job = Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY, CLOSED=descriptor)
    assert job.end() == 0, job.text()
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("name", ["01_prepare.py", "02_train.py", "03_evaluate.py"])
def test_help_imports_nothing_slow(name):
    command = [sys.executable, "-X", "importtime", str(ROOT / name), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "argparse" in result.stderr
    assert not {"torch", "keras", "numpy"} & {line.split()[-1] for line in result.stderr.splitlines()}


@pytest.mark.parametrize(
    "rank, world, message",
    [("3", "3", "RANK=3"), ("2", None, "=None"), (None, "0", "SIZE=0"), ("", "2", "RANK= "), ("-1", "2", "RANK=-1")],
)
def test_invalid_ranks(script, tmp_path, videos, monkeypatch, rank, world, message):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is not None:
            monkeypatch.setenv(name, value)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_workers_that_cannot_be_started(script, tmp_path, videos, monkeypatch):
    def fork():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1)
    assert result.code == 2 and "--workers" in result.err.splitlines()[-1] and "Traceback" not in result.err


def test_a_suspended_job_continues(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1, "--patience", 1.5]
    job = Job(tmp_path / "log", *options)
    processes = [*job.workers(), job.process.pid]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    time.sleep(2)
    for process in processes:
        os.kill(process, signal.SIGCONT)
    assert job.end() == 0, job.text()
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_has_complete_videos(tmp_path, how):
    job = Job(tmp_path / "log", "--out", tmp_path / "demo", *TINY)
    while not list(tmp_path.glob("demo/videos/demo*.mp4")):
        assert job.process.is_alive(), job.text()
    os.kill(job.process.pid, how)
    assert job.end() == -how and "Traceback" not in job.text()
    for path in tmp_path.glob("demo/videos/demo*.mp4"):
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 300


# ---- Settings of a run ----


@pytest.fixture
def write_run(tmp_path):
    """Write the config.json of a run on representations in `out`; return the run folder."""

    def write(out, **names):
        config = {"format": divita.FORMAT_VERSION, "run": "mine", "image": None, "video": None, **names}
        for input_name, name in names.items():
            config[f"{input_name}_meta"] = divita.read_json(out / name / "meta.json")
        divita.write_text(tmp_path / "runs" / "mine" / "split0" / "config.json", json.dumps(config))
        return tmp_path / "runs" / "mine"

    return write


@pytest.mark.parametrize("options", [
    ["--segmentation", "seconds", "--fps", "8", "--image-frames", "1"],
    ["--detector", "content", "--frames-per-clip", "6"], ["--video", "none", "--precision", "bfloat16"],
])  # fmt: skip
def test_like_a_run_gives_the_same_files(script, tmp_path, videos, write_run, options):
    first, second = tmp_path / "first", tmp_path / "second"
    assert script("01_prepare.py", "--videos", videos, "--out", first, *TINY, *options).code == 0
    names = {divita.read_json(path)["input"]: path.parent.name for path in first.glob("tiny*/meta.json")}
    run = write_run(first, **names)
    result = script("01_prepare.py", "--like", run, "--videos", videos, "--out", second)
    assert result.code == 0, result.err
    assert contents(first) == contents(second)
    words = ["03_evaluate.py", "--predict", str(second), "--runs", str(run.parent), "--run", "mine"]
    assert result.out.splitlines()[-1] == f"next: python {' '.join(words)}"


@pytest.mark.parametrize("more, words", [
    (["--fps", "12"], ["--fps 12", "--fps 24"]), (["--detector", "content"], ["--detector content", "adaptive"]),
    (["--image", "shufflenet2d"], ["--image shufflenet2d", "--image tiny2d"]), (["--weights", "random"], ["--weights"]),
    (["--image-frames", "3"], ["--image-frames 3", "--image-frames 24"]), (["--video", "none"], ["--video tiny3d"]),
    (["--precision", "bfloat16"], ["--precision bfloat16", "--precision float32"]),
])  # fmt: skip
def test_options_that_contradict_a_run(script, tmp_path, videos, write_run, more, words):
    out = tmp_path / "first"
    assert script("01_prepare.py", "--videos", videos / "tt0.mp4", "--out", out, *TINY).code == 0
    run = write_run(out, image=NAMES[0], video=NAMES[1])
    common = ["--like", run, "--videos", videos / "tt0.mp4", "--out", tmp_path / "second"]
    assert script("01_prepare.py", *common, "--fps", "24", "--image", "tiny2d").code == 0  # the run's
    result = script("01_prepare.py", *common, *more)
    assert result.code == 2 and result.err.count("\n") == 1
    assert all(word in result.err for word in [*words, str(run)]), result.err


def test_like_a_run_with_weights_from_a_file(script, tmp_path, videos, write_run):
    import torch

    tensors = json.loads((ROOT / "tests/data/backbone_shufflenet_v2_x1_0.json").read_text())["tensors"]
    checkpoint = {name: torch.from_numpy(made_tensor(name, tuple(shape))) for name, shape in tensors}
    torch.save(checkpoint, tmp_path / "weights.pth")
    torch.save({name: tensor * 1.01 for name, tensor in checkpoint.items()}, tmp_path / "others.pth")
    out, options = tmp_path / "first", ["--videos", videos / "tt0.mp4", "--image-frames", 1]
    weights = ["--weights", f"shufflenet2d={tmp_path / 'weights.pth'}"]
    result = script("01_prepare.py", *options, "--out", out, "--image", "shufflenet2d", "--video", "none", *weights)
    assert result.code == 0, result.err
    name = "shufflenet2d_shots_fps24_fpc24"
    like = ["--like", write_run(out, image=name), "--out", tmp_path / "second", *options[:2]]
    result = script("01_prepare.py", *like)
    assert result.code == 2 and "add --weights shufflenet2d=FILE" in result.err and result.err.count("\n") == 1
    result = script("01_prepare.py", *like, "--weights", f"shufflenet2d={tmp_path / 'others.pth'}")
    assert result.code == 2 and "; use those of" in result.err.splitlines()[-1]
    assert script("01_prepare.py", *like, *weights).code == 0
    assert np.array_equal(np.load(out / name / "tt0.npy"), np.load(tmp_path / "second" / name / "tt0.npy"))
    others = ["--weights", f"shufflenet2d={tmp_path / 'others.pth'}"]  # even if all trailers are prepared
    result = script("01_prepare.py", *options, "--out", out, "--image", "shufflenet2d", "--video", "none", *others)
    assert result.code == 2 and "other settings, file sha256:" in result.err


def test_like_a_run_with_two_precisions(script, tmp_path, videos, write_run):
    options = ["--videos", videos / "tt0.mp4", "--out", tmp_path / "out", "--weights", "random"]
    image, video = ["--image", "tiny2d", "--video", "none"], ["--image", "none", "--video", "tiny3d"]
    assert script("01_prepare.py", *options, *image, "--precision", "bfloat16").code == 0
    assert script("01_prepare.py", *options, *video).code == 0
    run = write_run(tmp_path / "out", image=NAMES[0], video=NAMES[1])
    result = script("01_prepare.py", "--like", run, *options[:2], "--out", tmp_path / "second")
    assert result.code == 0, result.err
    precisions = [divita.read_json(tmp_path / "second" / name / "meta.json")["precision"] for name in NAMES]
    assert precisions == ["bfloat16", "float32"]


def test_like_without_a_finished_run(script, tmp_path, videos):
    result = script("01_prepare.py", "--like", tmp_path, "--videos", videos, "--out", tmp_path / "out")
    assert result.code == 2 and f"--like {tmp_path}: no finished run; pass a run folder" in result.err


# ---- Next command ----


@pytest.mark.parametrize("options", [["--fps", "12"], ["--segmentation", "seconds"], [], ["--frames-per-clip", "12"]])
def test_the_next_command_trains(script, tmp_path, monkeypatch, videos, options):
    labels = [f"tt{i},{i % 2},{(i + 1) % 2},{i % 3}\n" for i in range(6)]
    (tmp_path / "mine.csv").write_text("mid,drama,war,split0\n" + "".join(labels))
    out = tmp_path / "my data"
    options = ["--videos", videos, "--out", out, "--labels", tmp_path / "mine.csv", *TINY, *options]
    result = script("01_prepare.py", *options)
    assert result.code == 0, result.err
    python, name, *words = shlex.split(result.out.splitlines()[-1].removeprefix("next: "))
    monkeypatch.chdir(tmp_path)
    result = script(name, *words, "--epochs", 1)
    assert python == "python" and result.code == 0, result.err
    assert list((tmp_path / "runs" / "my data").rglob("config.json"))
