"""01_prepare.py on films whose shots, frames and times are known."""

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
from films import ROOT, TINY, Job, contents, film, images, load_prepare, set_rotation, set_timestamps, thumbnail

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
    """Return a film's clip table and, per clip, the frames that a backbone without preprocessing sees."""
    settings = {"segmentation": "shots", "detector": "adaptive", "fps": 24.0, "frames_per_clip": 24}
    settings |= {"inputs": ((np.copy, 24),)} | changes
    messages = list(prepare.decode_clips(path, prepare.Plan(**settings)))
    found = messages[-1][1]
    return found.rows, [content[0] for kind, content in messages if kind == "clip"], (found.duration, found.remarks)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six films of different lengths in one folder."""
    folder = tmp_path_factory.mktemp("films") / "videos"
    folder.mkdir()
    for i in range(6):
        film(folder / f"tt{i}.mp4", [30 + 7 * i, 50, 24][: 1 + i % 3], seed=i)
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos):
    """What an undisturbed job makes of them, as {path: bytes}."""
    out = videos.parent / "undisturbed"
    assert Job(videos.parent / "log", "--videos", videos, "--out", out, *TINY, "--workers", 1).end() == 0
    return contents(out)


# Clips


def test_shots_are_found_and_respected(script, tmp_path):
    lengths = [40, 63, 24, 90]
    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos" / "a.mp4", lengths)
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
    path = film(tmp_path / "a.mp4", lengths, fps=fps, size=(160, 90))
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[detector]
    detector_there = kind(min_scene_len=prepare.MIN_SHOT)
    scenes = scenedetect.detect(str(path), detector_there, start_in_scene=True, backend="pyav")
    rows, _, _ = read(path, detector=detector, inputs=((thumbnail, 1),))
    starts = [int(row[2]) for i, row in enumerate(rows) if i == 0 or rows[i - 1][1] != row[1]]
    assert starts == [start.frame_num for start, _ in scenes] and len(starts) > 3


@pytest.mark.parametrize("length, clips", [(1, 1), (11, 1), (12, 1), (24, 1), (35, 1), (36, 2), (48, 2), (59, 2)])
def test_remainder_of_a_shot(tmp_path, length, clips):
    number = lambda i: np.full((64, 96, 3), 2 * i + 20, np.uint8)  # noqa: E731
    rows, arrays, _ = read(film(tmp_path / "a.avi", [length], codec="FFV1", paint=number))
    assert len(rows) == clips
    shown = (np.concatenate(arrays)[:, 32, 48, 0].astype(int) - 20) // 2
    assert list(shown) == [min(i, length - 1) for i in range(24 * clips)]  # padded with the last frame
    assert rows[-1][3] == min(length, 24 * clips)


@pytest.mark.parametrize("segmentation", ["shots", "seconds"])
@pytest.mark.parametrize("fps, per_clip", [(1, 1), (1, 2), (0.5, 1), (7, 3), (24, 1), (24, 24), (60, 2), (3, 24)])
def test_clips_lie_within_their_shots(tmp_path, fps, per_clip, segmentation):
    for source, lengths in ((24, [90]), (60, [59, 147, 89]), (10, [34, 34, 25])):
        path = film(tmp_path / "a.mp4", lengths, fps=source)
        inputs = ((thumbnail, 1),)
        changes = {"fps": float(fps), "frames_per_clip": per_clip, "segmentation": segmentation, "inputs": inputs}
        rows, _, (duration, _) = read(path, **changes)
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
    picture = lambda i: np.full((64, 96, 3), 20 + 60 * i / fps, np.uint8)  # noqa: E731
    path = film(tmp_path / "a.avi", [frames], fps=fps, codec="FFV1", paint=picture)
    rows, arrays, (duration, remarks) = read(path, segmentation=segmentation)
    assert duration == pytest.approx(frames / fps, rel=1e-3) and not remarks
    assert len(rows) == 3
    shown = (np.concatenate(arrays)[:, 32, 48, 0].astype(float) - 20) / 60  # the time that each frame's picture tells
    assert np.abs(shown - np.arange(72) / 24).max() < 0.5 / fps + 0.02  # half a source frame, and rounded greys


def test_variable_frame_rate(tmp_path):
    times = np.cumsum([0] + [42, 42, 84, 21, 126] * 10)
    path = film(tmp_path / "a.flv", [51], codec="FLV1", paint=lambda i: np.full((64, 96, 3), 20 + 4 * i, np.uint8))
    set_timestamps(path, times)
    rows, arrays, (duration, _) = read(path)
    assert duration == pytest.approx(3.213, abs=1e-3) and len(rows) == 3
    _, everything, _ = read(path, fps=1000.0, frames_per_clip=3300, inputs=((np.copy, 3300),), segmentation="seconds")
    greys = everything[0][times, 32, 48, 0]  # of the source frames
    due = [np.argmin(np.abs(times - k / 0.024)) for k in range(72)]  # the nearest, of two the earlier
    assert list(np.concatenate(arrays)[:, 32, 48, 0]) == list(greys[due]) and len(set(greys)) > 40


@pytest.mark.parametrize("fps, frames", [(12, range(0, 48, 2)), (4, range(0, 48, 6)), (16, [0, 1, 3, 4, 6, 7, 9, 10])])
def test_lower_frame_rates_take_the_nearest_frame_of_two_the_earlier(tmp_path, fps, frames):
    path = film(tmp_path / "a.avi", [100], codec="FFV1", paint=lambda i: np.full((64, 96, 3), 20 + 2 * i, np.uint8))
    _, arrays, _ = read(path, fps=float(fps), frames_per_clip=8, inputs=((np.copy, 8),))
    shown = (np.concatenate(arrays)[: len(frames), 32, 48, 0].astype(int) - 20) // 2
    assert list(shown) == list(frames)


@pytest.mark.parametrize("damage", ["still", "back", "ahead", "twice", "none"])
def test_damaged_timestamps(tmp_path, damage):
    times = np.arange(96) * 1000 / 24
    if damage == "still":
        times[50] = times[49]
    elif damage == "back":
        times[50] -= 1500
    elif damage == "ahead":
        times[50] += 10**6
    elif damage == "twice":
        times[48:] -= times[48]
    else:
        times[:] = 0
    path = film(tmp_path / "a.flv", [96], codec="FLV1")
    set_timestamps(path, times)
    rows, _, (duration, _) = read(path, segmentation="seconds")
    assert duration == pytest.approx(4, abs=0.1) and len(rows) == 4
    if damage in ("still", "back", "ahead"):  # one frame is odd, and no other one
        assert [row[2:4] for row in rows] == [(24 * i, 24 * i + 24) for i in range(4)]


@pytest.mark.parametrize("times, clips", [
    ([*np.arange(0, 5000, 100), *np.arange(20000, 25000, 100)], 25),  # one picture held for 15 s of 25
    (np.arange(0, 120000, 15000), 120),  # a slide show
    ([*np.arange(0, 2000, 100), 700_000, 700_100], 700),
])  # fmt: skip
def test_pauses_are_true_however_long(tmp_path, times, clips):
    path = film(tmp_path / "a.flv", [len(times)], fps=10, codec="FLV1")
    set_timestamps(path, times)
    rows, _, (duration, remarks) = read(path, segmentation="seconds", frames_per_clip=4, fps=4.0)
    assert len(rows) == clips and duration == pytest.approx(clips, rel=0.01) and not remarks


def test_a_thousand_frames_per_second(tmp_path):
    rows, _, (duration, remarks) = read(film(tmp_path / "a.mp4", [2000], fps=1000, size=(32, 32)))
    assert duration == pytest.approx(2, abs=0.01) and len(rows) == 2 and not remarks


def test_a_still_picture_of_15_seconds(tmp_path):
    rows, _, (duration, remarks) = read(film(tmp_path / "a.mp4", [1], fps=1 / 15))
    assert duration == pytest.approx(15, rel=0.01) and len(rows) == 15 and not remarks


def test_a_cover_is_no_trailer():
    with pytest.raises(prepare.VideoError, match="cover"):
        read(ROOT / "tests" / "data" / "cover.m4v")


def test_rotation(tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 255  # the left half, which a quarter turn clockwise brings up
    path = film(tmp_path / "a.mp4", [24], paint=lambda i: picture)
    set_rotation(path)
    _, arrays, _ = read(path)
    assert arrays[0].shape == (24, 96, 64, 3)
    assert arrays[0][:, :40].min() > 200 and arrays[0][:, 56:].max() < 50


TURNED = {  # how a film's pictures are to be displayed: the matrix, the same by NumPy
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


@pytest.mark.parametrize("matrix, shown", TURNED.values(), ids=TURNED)
def test_pictures_are_as_players_display_them(tmp_path, matrix, shown):
    path = film(tmp_path / "a.mp4", [2], paint=lambda i: np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3) // 9)
    pictures = []
    for _ in range(2):
        _, picture = next(images(prepare, path))
        pictures.append(picture)
        set_rotation(path, *matrix)
    assert (pictures[1] == shown(pictures[0])).all()


def test_colours_and_image_frames(tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[..., 2] = 250  # red, as OpenCV writes it
    _, arrays, _ = read(film(tmp_path / "a.avi", [24], codec="MJPG", paint=lambda i: picture), inputs=((np.copy, 3),))
    assert arrays[0].shape == (3, 64, 96, 3)
    assert arrays[0][..., 0].min() > 200 and arrays[0][..., 2].max() < 50
    assert prepare.frame_positions(3, 24) == [4, 12, 20]
    assert prepare.frame_positions(1, 24) == [12]
    assert prepare.frame_positions(24, 24) == list(range(24))


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_few_pictures_are_kept(tmp_path, detector):
    path = film(tmp_path / "a.mp4", [30] * 20)
    plan = prepare.Plan("shots", detector, 24.0, 24, ((functools.partial(cv2.resize, dsize=(8, 8)), 24),))
    kept = []
    for kind, _ in prepare.decode_clips(path, plan):
        if kind == "hash":
            continue
        kept.append(sum(type(it) is prepare.Frame and it.picture is not None for it in gc.get_objects()))
    assert len(kept) > 20 and max(kept) <= (7 if detector == "adaptive" else 20)


def test_fixed_seconds_ignore_shots(script, tmp_path, videos):
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path, *TINY, "--segmentation", "seconds")
    assert result.code == 0, result.err
    rows = table(tmp_path / "shots", "tt5")
    assert {row["shot"] for row in rows} == {0} and [row["start_frame"] for row in rows] == list(range(0, 139, 24))


# The same files, whatever happens


@pytest.mark.parametrize("workers", [2, 7])
def test_same_files_for_more_workers(tmp_path, videos, undisturbed, workers):
    assert Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", workers).end() == 0
    assert contents(tmp_path / "out") == undisturbed


def test_same_files_for_two_ranks_one_of_them_killed(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1]
    ranks = [Job(tmp_path / f"log{rank}", *options, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    ranks[1].decoders()
    ranks[1].process.kill()
    assert ranks[0].end() == 0
    done = {path.stem for path in (tmp_path / "out" / NAMES[0]).glob("tt*.npy")}
    assert {"tt0", "tt2", "tt4"} <= done < {f"tt{i}" for i in range(6)}
    ranks = [Job(tmp_path / f"log{rank}", *options, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    assert [rank.end() for rank in ranks] == [0, 0], ranks[1].text()
    assert contents(tmp_path / "out") == undisturbed


def test_torchrun_with_a_bad_video(tmp_path, videos, undisturbed):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    (mine / "tt00.mp4").write_text("the second in order, so the other rank's first")
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, ROOT / "tests" / "films.py"]
    options = ["--videos", mine, "--out", tmp_path / "out", *TINY, "--workers", 1]
    result = subprocess.run(list(map(str, [*run, *options])), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.count("tt00: failed: no video") == 1
    made = re.findall(r", (\d) of them now by rank [01] of 2\n", result.stdout)
    assert len(made) == 2 and sum(map(int, made)) == 6
    assert re.search(r"rank 0 of 2.* (\d)/\1 \[", result.stderr), "the bar ends full"
    made = contents(tmp_path / "out")
    assert made.pop("failed.csv").startswith(b"mid,reason\ntt00,")
    assert {name: made[name] for name in made if "meta" not in name} == {
        name: undisturbed[name]
        for name in undisturbed
        if "meta" not in name  # which says where the videos are
    }


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
        for mid in generator.choice(6, 3, replace=False):  # so that the next job has something to do
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
def test_its_processes_end_with_the_job(tmp_path, videos, undisturbed, how):
    job = Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 2)
    decoders = job.decoders(2)
    os.kill(job.process.pid, how)
    assert job.end() == -how and "Traceback" not in job.text()
    before = time.monotonic()
    while any(map(alive, decoders)):
        assert time.monotonic() - before < 60
        time.sleep(0.01)
    assert Job(tmp_path / "log", "--videos", videos, "--out", tmp_path / "out", *TINY).end() == 0
    assert contents(tmp_path / "out") == undisturbed


# What is there already


def test_finished_work_is_skipped(script, tmp_path, videos):
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    (tmp_path / NAMES[0] / "tt3.npy").unlink()
    assert "1 of 6 trailers to prepare" in script("01_prepare.py", *options).out
    assert (tmp_path / NAMES[0] / "tt3.npy").exists()


def test_vectors_without_their_meta_json_are_made_again(script, tmp_path, videos):
    """Nobody knows how they were made."""
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    (tmp_path / NAMES[0] / "meta.json").unlink()
    assert script("01_prepare.py", *options, "--videos", videos / "tt0.mp4", "--image-frames", "2").code == 0
    assert [path.stem for path in (tmp_path / NAMES[0]).glob("*.npy")] == ["tt0"]


def test_two_jobs_of_other_options_at_once(tmp_path, videos):
    """On a new folder, the second to have its backbones built is refused."""
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY]
    jobs = [Job(tmp_path / f"log{n}", *options, "--image-frames", n) for n in (2, 3)]
    assert sorted(job.end() for job in jobs) == [0, 2]
    (refused,) = [job.text() for job in jobs if job.process.exitcode]
    assert "was made with frames " in refused.splitlines()[-1]


def test_a_detector_that_nobody_asks_makes_no_other_setting(script, tmp_path, videos):
    options = ["--videos", videos, "--out", tmp_path, *TINY]
    for more in ([], ["--segmentation", "seconds"]):
        assert script("01_prepare.py", *options, *more).code == 0
    result = script("01_prepare.py", *options, "--segmentation", "seconds", "--detector", "content")
    assert "0 of them now" in result.out, result.err
    assert [path.name for path in tmp_path.glob("shots_*")] == ["shots_seconds_fps24_fpc24"]


def test_from_within_a_runs_folder_the_next_command_names_it(script, tmp_path, videos, run_of, monkeypatch):
    out = tmp_path / "out"
    assert script("01_prepare.py", "--videos", videos, "--out", out, *TINY).code == 0
    run = run_of(out, image=NAMES[0], video=NAMES[1])
    monkeypatch.chdir(run)
    result = script("01_prepare.py", "--like", ".", "--videos", videos, "--out", out)
    assert f"--runs {run.parent} --run {run.name}" in result.out, result.err


def test_a_film_given_twice_is_one(script, tmp_path, videos):
    options = ["--videos", videos, videos / "tt0.mp4", "--out", tmp_path, *TINY]
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out


def test_a_failed_csv_that_somebody_changed(script, tmp_path, videos):
    (tmp_path / "failed.csv").write_text("mid\ntt0\ntt9\n")
    assert script("01_prepare.py", "--videos", videos, "--out", tmp_path, *TINY).code == 0
    assert not (tmp_path / "failed.csv").exists()


def test_films_of_a_finished_folder_are_not_read_again(script, tmp_path, videos):
    options, opened, watching = ["--videos", videos, "--out", tmp_path, *TINY], [], []

    def watch(event, arguments):  # every file that Python opens
        if watching and event == "open" and Path(os.fsdecode(arguments[0])).parent == videos:
            opened.append(arguments[0])

    assert script("01_prepare.py", *options).code == 0
    sys.addaudithook(watch)
    watching.append(True)
    assert "6 of 6 trailers prepared" in script("01_prepare.py", *options).out and not opened
    os.utime(next(videos.iterdir()))
    assert "0 of them now" in script("01_prepare.py", *options).out and len(opened) == 1  # to see that it is the same
    watching.clear()


@pytest.mark.parametrize("options, told", [(["--fps", "12"], None), (["--detector", "content"], "detector adaptive"),
                                           (["--image-frames", "2"], "frames 24, not 2"),
                                           (["--precision", "bfloat16"], "precision float32")])  # fmt: skip
def test_other_settings(script, tmp_path, videos, options, told):
    common = ["--videos", videos, "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *common).code == 0
    result = script("01_prepare.py", *common, *options)
    if told is None:  # has another name, and clip tables of its own
        assert result.code == 0
        assert {"shots", "shots_shots_fps12_fpc24", "tiny2d_shots_fps12_fpc24"} <= {p.name for p in tmp_path.iterdir()}
        meta = json.loads((tmp_path / "tiny2d_shots_fps12_fpc24" / "meta.json").read_text())
        assert meta["clips"] == "shots_shots_fps12_fpc24"
    else:
        assert result.code == 2 and told in result.err and result.err.count("\n") == 1
        assert script("01_prepare.py", *common, *options, "--overwrite").code == 0


def test_a_changed_film_is_prepared_again_by_every_backbone(script, tmp_path):
    mine = tmp_path / "videos"
    mine.mkdir()
    film(mine / "b.mp4", [24])
    film(mine / "a.mp4", [48])
    common = ["--videos", mine, "--out", tmp_path / "out", "--weights", "random"]
    image, video = ["--image", "tiny2d", "--video", "none"], ["--image", "none", "--video", "tiny3d"]
    assert script("01_prepare.py", *common, *image).code == script("01_prepare.py", *common, *video).code == 0
    shutil.copy(mine / "a.mp4", tmp_path / "copy.mp4")  # at another time
    (tmp_path / "copy.mp4").replace(mine / "a.mp4")
    assert "0 of them now" in script("01_prepare.py", *common, *image).out
    complete = (mine / "a.mp4").read_bytes()
    with open(mine / "a.mp4", "r+b") as file:  # a hole that a download in parts fills at last
        file.seek(len(complete) // 2)
        file.write(bytes(500))
    os.utime(mine / "a.mp4", (0, 0))
    assert "1 of them now" in script("01_prepare.py", *common, *image).out
    (mine / "a.mp4").write_bytes(complete)
    os.utime(mine / "a.mp4", (0, 0))
    assert "1 of them now" in script("01_prepare.py", *common, *image).out
    film(mine / "a.mp4", [72], seed=1)
    assert "1 of them now" in script("01_prepare.py", *common, *image).out
    sources = [divita.read_vectors(tmp_path / "out" / name / "a.npy")[1] for name in NAMES]
    assert sources[0][0] != sources[1][0] and sources[0][1] != sources[1][1]  # which training refuses
    assert "1 of them now" in script("01_prepare.py", *common, *video).out
    assert len({divita.read_vectors(tmp_path / "out" / name / "a.npy")[1] for name in NAMES}) == 1
    assert [len(np.load(tmp_path / "out" / name / "a.npy")) for name in NAMES] == [3, 3]
    (mine / "a.mp4").write_text("broken now")
    assert script("01_prepare.py", *common, *image).code == 1
    assert [path.name for path in (tmp_path / "out" / NAMES[0]).glob("*.npy")] == ["b.npy"]  # not the earlier film's


def test_nothing_is_deleted_for_a_video_that_cannot_be_read(script, tmp_path):
    """Links to videos on a disk that is away, and back again."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "disk" / name, seed=len(name))
        (tmp_path / "videos" / name).symlink_to(tmp_path / "disk" / name)
    options = ["--videos", tmp_path / "videos", "--out", tmp_path / "out", *TINY]
    assert script("01_prepare.py", *options).code == 0
    before = contents(tmp_path / "out")
    assert {"pictures/a.jpg", f"{NAMES[0]}/b.npy"} <= before.keys()
    (tmp_path / "disk").rename(tmp_path / "away")
    result = script("01_prepare.py", *options)
    assert result.code == 1 and result.err.count(": failed: not a file, or a broken link\n") == 2
    assert "all 2 videos failed alike" in result.err and "next: " in result.out  # what there is can be used
    after = contents(tmp_path / "out")
    assert after.pop("failed.csv").count(b"broken link") == 2 and after == before
    (tmp_path / "away").rename(tmp_path / "disk")
    assert "0 of them now" in script("01_prepare.py", *options).out and contents(tmp_path / "out") == before


def test_where_nothing_could_be_prepared_no_command_is_next(script, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    result = script("01_prepare.py", "--videos", tmp_path / "a.mp4", "--out", tmp_path / "out", *TINY)
    assert result.code == 1 and "0 of 1 trailers prepared" in result.out and "next: " not in result.out


def test_a_fault_of_the_code_is_no_fault_of_the_videos(script, tmp_path, videos, monkeypatch):
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
    assert "all 6 videos failed alike, rather a fault of the set-up or the code" in result.err.splitlines()[-1]
    assert (tmp_path / NAMES[1] / "tt0.npy").exists() and contents(tmp_path).keys() <= before.keys() | {"failed.csv"}


@pytest.mark.parametrize("how", ["another folder", "copied over it", "moved over it"])
def test_another_video_of_the_same_name_size_and_time(script, tmp_path, how):
    for disc in (1, 2):
        (tmp_path / f"disc{disc}").mkdir()
        path = film(tmp_path / f"disc{disc}" / "VTS_01_1.avi", [24], codec="MJPG", seed=disc)
        with open(path, "ab") as file:
            file.write(bytes(200_000 - path.stat().st_size))
        os.utime(path, (10**9, 10**9))
    first, second = (tmp_path / f"disc{disc}" / "VTS_01_1.avi" for disc in (1, 2))
    options = ["--out", tmp_path / "out", *TINY]
    assert "1 of them now" in script("01_prepare.py", "--videos", first, *options).out
    vectors = np.load(tmp_path / "out" / NAMES[0] / "VTS_01_1.npy")
    if how == "copied over it":
        shutil.copy2(second, first)
    elif how == "moved over it":
        second.replace(first)
    path = second if how == "another folder" else first
    assert path.stat().st_size == 200_000 and path.stat().st_mtime == 10**9
    assert "1 of them now" in script("01_prepare.py", "--videos", path, *options).out
    assert (np.load(tmp_path / "out" / NAMES[0] / "VTS_01_1.npy") != vectors).any()
    assert "0 of them now" in script("01_prepare.py", "--videos", path, *options).out


def test_data_of_an_earlier_version_is_prepared_again_once(script, tmp_path, videos):
    options = ["--videos", videos / "tt0.mp4", "--out", tmp_path, *TINY]
    assert script("01_prepare.py", *options).code == 0
    for name in NAMES:
        clips, source = divita.read_vectors(tmp_path / name / "tt0.npy")
        write_vectors(tmp_path / name / "tt0.npy", np.array(clips), *source[:2])
    assert "1 of them now" in script("01_prepare.py", *options).out
    assert "0 of them now" in script("01_prepare.py", *options).out
    (tmp_path / "pictures" / "tt0.jpg").unlink()
    assert "0 of them now" in script("01_prepare.py", *options).out  # a figure without pictures is no reason


def test_hashing_a_large_file_gives_signs_of_life(tmp_path):
    with open(tmp_path / "a.mp4", "wb") as file:
        file.truncate(100 * 2**20)
    assert sum(kind == "hash" for kind, _ in prepare.hash_video(tmp_path / "a.mp4")) > 5


def test_a_film_that_is_written_to_while_it_is_decoded_has_failed(tmp_path):
    path = film(tmp_path / "a.mp4", [60])
    messages = prepare.decode_clips(path, prepare.Plan("shots", "adaptive", 24.0, 24, ((np.copy, 24),)))
    assert "clip" in (kind for kind, _ in messages)
    os.utime(path, (0, 0))
    with pytest.raises(prepare.VideoError, match="while it was decoded"):
        list(messages)


def test_labels_are_copied_with_splits(script, tmp_path, videos):
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbfmid;drama;war\r\ntt0;1;0\r\ntt1;0;1\r\ngone;1;1\r\n")
    options = ["--videos", videos, "--out", tmp_path / "out", "--labels", tmp_path / "mine.csv"]
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 0, result.err
    assert "1 of 3 labelled trailers have no video and are left out (gone)" in result.out
    assert "4 of 6 videos have no labels" in result.out
    labels = divita.read_labels(tmp_path / "out" / "labels.csv")
    assert labels.mids == ["tt0", "tt1", "gone"] and labels.splits.shape == (3, 3)
    assert "next: python 02_train.py --data" in result.out
    before = (tmp_path / "out" / "labels.csv").read_bytes()
    assert before.startswith(b"mid,drama,war,split0,split1,split2\ntt0,1,0,")
    assert script("01_prepare.py", *options, *TINY).code == 0  # the same table again
    with open(tmp_path / "mine.csv", "a") as file:
        file.write("tt2;1;0\n")
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 2 and "labels.csv: differs from" in result.err and result.err.count("\n") == 1
    assert (tmp_path / "out" / "labels.csv").read_bytes() == before


@pytest.mark.parametrize("options, told", [
    (["--videos", "nowhere"], "nowhere"), (["--videos", "."], "no videos found"), (["--image", "nonsense"], "nonsense"),
    (["--image", "tiny3d"], "--image tiny3d: it is for --video"), (["--weights", "tiny2d=none.pth"], "none.pth"),
    (["--weights", "good"], "--weights good"), (["--image-frames", "25"], "only 24 frames"),
    (["--image", "none", "--video", "none"], "at least one"), (["--fps", "0"], "--fps"),
    (["--workers", "0"], "workers"), (["--labels", "nowhere.csv"], "nowhere.csv"),
])  # fmt: skip
def test_errors_of_the_command_line(script, tmp_path, videos, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY, *options)
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1


# ---- The user's own files ----


def test_without_videos_nothing_but_the_demo_is_written_to(script, tmp_path):
    mine = tmp_path / "mine"
    (mine / "videos").mkdir(parents=True)
    film(mine / "videos" / "a.mp4")
    (mine / "labels.csv").write_text("mid,war,split0\na,1,0\n")
    before = contents(mine)
    result = script("01_prepare.py", "--out", mine, *TINY)
    assert result.code == 2 and "--videos" in result.err and result.err.count("\n") == 1
    assert contents(mine) == before


def test_other_videos_are_not_mixed_with_the_demo(script, tmp_path):
    (tmp_path / "true_cuts.csv").write_text("mid,frame\n")
    film(tmp_path / "demo.mp4")
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


def test_demo_films_on_a_full_disk_are_whole_or_not_there(tmp_path, monkeypatch):
    small = tmp_path / "demo"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 10)
    try:
        with pytest.raises(divita.UserError, match="run the same command again"):
            prepare.make_demo(small, 2)
        made = contents(small / "videos")
        assert len(made) < 10 and not list(small.rglob(".divita*"))
        subprocess.run(["mount", "-o", "remount,size=100m", small], check=True)
        prepare.make_demo(small, 2)
        prepare.make_demo(tmp_path / "roomy", 1)
        assert contents(small) == contents(tmp_path / "roomy") and len(contents(small)) == 12
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_demos_true_cuts_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 10)
    prepare.make_demo(tmp_path, 2)
    with open(tmp_path / "true_cuts.csv", newline="") as file:
        true = [(row["mid"], int(row["frame"])) for row in csv.DictReader(file)]
    found = []
    for path in sorted((tmp_path / "videos").iterdir()):
        rows, _, _ = read(path, inputs=((thumbnail, 1),))
        found += [(path.stem, row[2]) for before, row in zip(rows, rows[1:]) if row[1] != before[1]]
    assert found == true and len(true) == 80


def test_the_demos_labels_may_be_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "DEMO_TRAILERS", 2)
    prepare.make_demo(tmp_path / "demo", 2)
    changed = (tmp_path / "demo" / "labels.csv").read_text().replace("demo001,0", "demo001,1", 1)
    (tmp_path / "demo" / "labels.csv").write_text(changed)
    (tmp_path / "demo" / "videos" / "demo001.mp4").unlink()
    prepare.make_demo(tmp_path / "demo", 2)
    assert (tmp_path / "demo" / "labels.csv").read_text() == changed and (tmp_path / "demo/videos/demo001.mp4").exists()


def test_only_our_own_abandoned_files_are_swept(script, tmp_path, videos):
    out, host = tmp_path / "out", divita.socket.gethostname()
    (out / f"{divita.TEMPORARY}1@elsewhere@0").mkdir(parents=True)
    kept = [".tmp-note", f"{divita.TEMPORARY}note", f"{divita.TEMPORARY}999999999@{host}-b@0.npy"]
    kept.append(f"{divita.TEMPORARY}{os.getpid()}@{host}@77.npy")
    kept += [f"{divita.TEMPORARY}x@{host}@0.npy", f"{divita.TEMPORARY}1@{host}@5.npy"]  # 1: not this user's, and alive
    for name in (*kept, f"{divita.TEMPORARY}999999999@{host}@0.npy", f"{divita.TEMPORARY}1@elsewhere@1.npy"):
        (out / name).touch()
    for name in (".tmp-note", f"{divita.TEMPORARY}note", f"{divita.TEMPORARY}1@elsewhere@1.npy"):
        os.utime(out / name, (0, 0))
    assert script("01_prepare.py", "--videos", videos / "tt0.mp4", "--out", out, *TINY).code == 0
    assert {path.name for path in out.iterdir() if path.is_file()} == set(kept)


def test_names_that_look_alike_are_alike(script, tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos" / "a.mp4").rename(tmp_path / "videos" / f"{decomposed}.mp4")
    (tmp_path / "labels.csv").write_text(f"mid,war,split0\n{composed},1,0\nb,0,1\nc,0,2\n", encoding="utf-8")
    options = ["--videos", tmp_path / "videos", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    result = script("01_prepare.py", *options, *TINY)
    assert result.code == 0 and "have no video and are left out (b, c)" in result.out and "no labels" not in result.out
    assert (tmp_path / "out" / NAMES[0] / f"{composed}.npy").exists()


# ---- Streams, cores, processes ----


def test_a_reader_that_goes_away_costs_nothing(tmp_path, videos, undisturbed):
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
    "rank, world, told",
    [("3", "3", "RANK=3"), ("2", None, "=None"), (None, "0", "SIZE=0"), ("", "2", "RANK= "), ("-1", "2", "RANK=-1")],
)
def test_ranks_that_make_no_sense(script, tmp_path, videos, monkeypatch, rank, world, told):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is not None:
            monkeypatch.setenv(name, value)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY)
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1


def test_processes_that_cannot_be_started(script, tmp_path, videos, monkeypatch):
    def refused():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    result = script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1)
    assert result.code == 2 and "--workers" in result.err.splitlines()[-1] and "Traceback" not in result.err


def test_a_suspended_job_goes_on(tmp_path, videos, undisturbed):
    options = ["--videos", videos, "--out", tmp_path / "out", *TINY, "--workers", 1, "--patience", 1.5]
    job = Job(tmp_path / "log", *options)
    everyone = [*job.decoders(), job.process.pid]
    for process in everyone:
        os.kill(process, signal.SIGSTOP)
    time.sleep(2)
    for process in everyone:
        os.kill(process, signal.SIGCONT)
    assert job.end() == 0, job.text()
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_demo_may_be_stopped_while_it_is_made(tmp_path, how):
    job = Job(tmp_path / "log", "--out", tmp_path / "demo", *TINY)
    while not list(tmp_path.glob("demo/videos/demo*.mp4")):
        assert job.process.is_alive(), job.text()
    os.kill(job.process.pid, how)
    assert job.end() == -how and "Traceback" not in job.text()
    for path in tmp_path.glob("demo/videos/demo*.mp4"):
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 300


# ---- As a run was prepared ----


@pytest.fixture
def run_of(tmp_path):
    """Write the config.json of a run on representations in `out`; return the run's folder."""

    def write(out, **names):
        config = {"format": divita.FORMAT_VERSION, "run": "mine", "image": None, "video": None, **names}
        for kind, name in names.items():
            config[f"{kind}_meta"] = divita.read_json(out / name / "meta.json")
        divita.write_text(tmp_path / "runs" / "mine" / "split0" / "config.json", json.dumps(config))
        return tmp_path / "runs" / "mine"

    return write


@pytest.mark.parametrize("options", [
    ["--segmentation", "seconds", "--fps", "8", "--image-frames", "1"],
    ["--detector", "content", "--frames-per-clip", "6"], ["--video", "none", "--precision", "bfloat16"],
])  # fmt: skip
def test_prepared_as_the_inputs_of_a_run(script, tmp_path, videos, run_of, options):
    first, second = tmp_path / "first", tmp_path / "second"
    assert script("01_prepare.py", "--videos", videos, "--out", first, *TINY, *options).code == 0
    names = {divita.read_json(path)["input"]: path.parent.name for path in first.glob("tiny*/meta.json")}
    run = run_of(first, **names)
    result = script("01_prepare.py", "--like", run, "--videos", videos, "--out", second)
    assert result.code == 0, result.err
    assert contents(first) == contents(second)
    words = ["03_evaluate.py", "--predict", str(second), "--runs", str(run.parent), "--run", "mine"]
    assert result.out.splitlines()[-1] == f"next: python {' '.join(words)}"


@pytest.mark.parametrize("more, told", [
    (["--fps", "12"], ["--fps 12", "--fps 24"]), (["--detector", "content"], ["--detector content", "adaptive"]),
    (["--image", "shufflenet2d"], ["--image shufflenet2d", "--image tiny2d"]), (["--weights", "random"], ["--weights"]),
    (["--image-frames", "3"], ["--image-frames 3", "--image-frames 24"]), (["--video", "none"], ["--video tiny3d"]),
    (["--precision", "bfloat16"], ["--precision bfloat16", "--precision float32"]),
])  # fmt: skip
def test_options_that_contradict_a_run(script, tmp_path, videos, run_of, more, told):
    out = tmp_path / "first"
    assert script("01_prepare.py", "--videos", videos / "tt0.mp4", "--out", out, *TINY).code == 0
    run = run_of(out, image=NAMES[0], video=NAMES[1])
    common = ["--like", run, "--videos", videos / "tt0.mp4", "--out", tmp_path / "second"]
    assert script("01_prepare.py", *common, "--fps", "24", "--image", "tiny2d").code == 0  # says the same
    result = script("01_prepare.py", *common, *more)
    assert result.code == 2 and result.err.count("\n") == 1
    assert all(words in result.err for words in [*told, str(run)]), result.err


def test_weights_of_a_run_that_came_from_a_file(script, tmp_path, videos, run_of):
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
    like = ["--like", run_of(out, image=name), "--out", tmp_path / "second", *options[:2]]
    result = script("01_prepare.py", *like)
    assert result.code == 2 and "add --weights shufflenet2d=FILE" in result.err and result.err.count("\n") == 1
    result = script("01_prepare.py", *like, "--weights", f"shufflenet2d={tmp_path / 'others.pth'}")
    assert result.code == 2 and "not those of" in result.err.splitlines()[-1]
    assert script("01_prepare.py", *like, *weights).code == 0
    assert np.array_equal(np.load(out / name / "tt0.npy"), np.load(tmp_path / "second" / name / "tt0.npy"))
    others = ["--weights", f"shufflenet2d={tmp_path / 'others.pth'}"]  # where nothing is left to do, too
    result = script("01_prepare.py", *options, "--out", out, "--image", "shufflenet2d", "--video", "none", *others)
    assert result.code == 2 and "was made with file sha256:" in result.err


def test_like_a_run_on_inputs_of_different_precision(script, tmp_path, videos, run_of):
    options = ["--videos", videos / "tt0.mp4", "--out", tmp_path / "out", "--weights", "random"]
    one, other = ["--image", "tiny2d", "--video", "none"], ["--image", "none", "--video", "tiny3d"]
    assert script("01_prepare.py", *options, *one, "--precision", "bfloat16").code == 0
    assert script("01_prepare.py", *options, *other).code == 0
    run = run_of(tmp_path / "out", image=NAMES[0], video=NAMES[1])
    result = script("01_prepare.py", "--like", run, *options[:2], "--out", tmp_path / "second")
    assert result.code == 0, result.err
    made = [divita.read_json(tmp_path / "second" / name / "meta.json")["precision"] for name in NAMES]
    assert made == ["bfloat16", "float32"]


def test_like_no_run(script, tmp_path, videos):
    result = script("01_prepare.py", "--like", tmp_path, "--videos", videos, "--out", tmp_path / "out")
    assert result.code == 2 and f"--like {tmp_path}: no finished run there" in result.err


# ---- The command that is printed last ----


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
