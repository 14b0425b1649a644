"""01_prepare.py on damaged and unusual files, as in a large download."""

import csv
import gc
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from films import ROOT, TINY, Job, contents, set_frame_rate, set_rotation, set_timestamps, write_video

import divita

NAME = "tiny3d_shots_fps24_fpc24"


def prepare(script, folder, *options):
    result = script("01_prepare.py", "--videos", folder, "--out", folder.parent / "out", *TINY, *options)
    assert "Traceback" not in result.err
    return result


def outcome(folder):
    """Return {mid: number of clips, or the reason of the failure}."""
    out = folder.parent / "out"
    outcome = {path.stem: len(np.load(path)) for path in (out / NAME).glob("*.npy")}
    if (out / "failed.csv").exists():
        with open(out / "failed.csv", newline="") as file:
            outcome |= {row["mid"]: row["reason"] for row in csv.DictReader(file)}
    return outcome


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def test_failures_are_listed_with_their_reasons(script, folder):
    good = write_video(folder / "good.mp4", [48])
    content = good.read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 500)
    (folder / "no_index.mp4").write_bytes(content[: len(content) // 2])  # OpenCV writes the index last
    tone = (1000 * np.sin(np.arange(8000))).astype("<i2").tobytes()
    header = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(tone), b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 0
    )
    (folder / "audio.mp4").write_bytes(header[:-4] + struct.pack("<I", len(tone)) + tone)
    (folder / "folder.mp4").mkdir()
    (folder / "link.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    shutil.copy(good, folder / "two\nlines.mp4")
    shutil.copy(good, folder / f"{'long' * 50}.mp4")
    shutil.copy(good, folder / f"{'b' * 252}.ts")
    shutil.copy(good, os.fsencode(folder) + b"/\xff\xfe.mp4")
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").touch()
    result = prepare(script, folder)
    assert result.code == 1
    found = outcome(folder)
    assert found.pop("good") == 2
    reasons = {
        "empty": "empty file", "text": "no video", "no_index": "no video", "audio": "no video",
        "folder": "not a file", "link": "broken link", "pipe": "not a file", "two\\nlines": "rename it",
        "long" * 50: "rename it", "b" * 252: "rename it", "\\udcff\\udcfe": "rename it",
    }  # fmt: skip
    assert found.keys() == reasons.keys()
    for mid, reason in reasons.items():
        assert reason in found[mid]
        assert result.err.count(f"{mid}: failed: ") == 1
    assert prepare(script, folder).code == 1 and outcome(folder).pop("good") == 2
    assert "skipped 1 files without a video suffix (notes.txt)" in result.out
    for path in list(folder.iterdir()):
        if path != good:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    prepare(script, folder)
    assert outcome(folder) == {"good": 2}  # missing videos are no failures


def test_unreadable_videos_fail(script, folder):
    write_video(folder / "a.mp4").chmod(0)
    if os.access(folder / "a.mp4", os.R_OK):
        pytest.skip("this user may read everything")
    assert prepare(script, folder).code == 1
    assert "Permission denied" in outcome(folder)["a"]


def test_unusual_videos_are_prepared(script, folder):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    write_video(folder / "one_frame.mp4", [1])
    write_video(folder / "short.mp4", [7])
    write_video(folder / "small.mp4", [30], size=(16, 16))
    write_video(
        folder / "large.avi",
        [12],
        size=(4096, 2160),
        codec="MJPG",
        paint=lambda i: np.full((2160, 4096, 3), 9 * i, np.uint8),
    )
    write_video(folder / "wide.mp4", [24], size=(640, 16))
    write_video(folder / "tall.mp4", [24], size=(16, 640))
    write_video(folder / "grey.mkv", [24], codec="FFV1", color=False)
    write_video(folder / "black.mp4", [48], paint=lambda i: np.zeros((64, 96, 3), np.uint8))
    write_video(folder / "flicker.mp4", [48], paint=lambda i: noise[i % 2])
    set_rotation(write_video(folder / "turned.mp4", [24]))
    set_timestamps(write_video(folder / "back.flv", [48], codec="FLV1"), [*range(0, 1200, 50), *range(0, 1200, 50)])
    for name, rate in {"rate0": (0, 1), "rate0b": (25, 0), "rate_absurd": (4 * 10**9, 1)}.items():
        set_frame_rate(write_video(folder / f"{name}.avi", [24], codec="MJPG"), *rate)
    for name in ("ten_bit.mkv", "alpha.webm", "variable_rate.mkv"):  # not written by OpenCV
        shutil.copy(ROOT / "tests/data" / name, folder)
    for name in ("with space", "é ü 日本", "-dash", "100%03d", "a'b\"c", "$HOME", "meta", "failed", "a,b"):
        write_video(folder / f"{name}.mp4", [10])
    result = prepare(script, folder)
    assert result.code == 0, result.err
    found = outcome(folder)
    assert found.pop("black") == found.pop("flicker") == found.pop("back") == 2
    assert found.pop("variable_rate") == 4  # 12 frames in 0.5 s, 12 in 3.5 s
    assert all(clips == 1 for clips in found.values()) and len(found) == 22


def test_flicker_with_the_content_detector(script, folder):
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    write_video(folder / "flicker.mp4", [96], paint=lambda i: noise[i % 2])
    assert prepare(script, folder, "--detector", "content").code == 0
    assert outcome(folder)["flicker"] >= 4


def test_the_frames_of_a_truncated_video_are_used(script, folder):
    path = write_video(folder / "a.avi", [96], codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = prepare(script, folder)
    assert result.code == 0 and "a: only 2.0 s of 4.0 s can be decoded" in result.err
    assert outcome(folder) == {"a": 2}


ODD_NAMES = {
    "no width": "Avengers\u200b Endgame",
    "no break": "Le\u00a0Fabuleux Destin",
    "ideographic": "\u5287\u5834\u7248\u3000\u4e88\u544a\u7de8 [dQw4w9WgXcQ]",
    "joined": "Family \U0001f468\u200d\U0001f469\u200d\U0001f467 Trailer",
    "from right to left": "\u0637\u0631\u064a\u0642\u200f \u0627\u0644\u0646\u0647\u0627\u064a\u0629",
    "a dash": "-pq-xyzABC12",
    "marks": "50% off? *: 'a' \"b\" #1 $x; y=z, [w] {v} ~u",
    "long": "\u00e9" * 90,
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_mids_with_unusual_characters(script, folder, name):
    write_video(folder / "a.mp4", [30]).rename(folder / f"{name}.mp4")
    rows = [[name, 1, 0], ["b", 0, 1], ["c", 1, 2]]
    divita.write_csv(folder.parent / "labels.csv", ["mid", "drama", "split0"], rows)
    result = prepare(script, folder, "--labels", folder.parent / "labels.csv")
    assert result.code == 0 and not result.err.count("failed"), result.err
    assert "skipped 2 of 3 labelled trailers without video: b, c" in result.out and "no labels" not in result.out
    assert outcome(folder) == {name: 1} and (folder.parent / "out" / "pictures" / f"{name}.jpg").exists()
    assert len(divita.open_representation(folder.parent / "out", NAME)[name]) == 1
    assert divita.load_labels(folder.parent / "out").mids == [name, "b", "c"]


def test_control_characters_are_escaped_in_messages(script, folder):
    write_video(folder / "a.mp4", [30])
    (folder / "a\u200b\n\x1b[31m.txt").touch()
    assert "video suffix (a\\u200b\\n\\x1b[31m.txt)" in prepare(script, folder).out


def test_two_videos_with_one_mid_are_an_error(script, folder):
    write_video(folder / "a.mp4")
    write_video(folder / "a.avi", codec="MJPG")
    result = prepare(script, folder)
    assert result.code == 2 and "a.avi has the same mid" in result.err and result.err.count("\n") == 1
    assert not (folder.parent / "out" / NAME).exists()


@pytest.mark.parametrize("how, reason", [(signal.SIGSTOP, "no clip in 3 s"), (signal.SIGSEGV, "crashed the decoder")])
@pytest.mark.parametrize("always, wait", [(False, 0.1), (False, 0.5), (True, 0.1)])  # seconds after the worker's start
def test_a_video_that_stalls_or_crashes_its_worker_is_retried(tmp_path, folder, how, reason, always, wait):
    write_video(folder / "tt0.mp4", [240], size=(1280, 720))
    for i in (1, 2):
        shutil.copy(folder / "tt0.mp4", folder / f"tt{i}.mp4")
    options = ["--videos", folder, "--out", folder.parent / "out", *TINY, "--workers", 1, "--patience", 3]
    job, seen = Job(tmp_path / "log", *options, "--batch-size", 1), set()
    while not seen or (always and "tt0: failed" not in job.text()):
        for worker in set(job.workers()) - seen:
            time.sleep(wait)
            os.kill(worker, how)
            seen.add(worker)
    assert job.end() == (1 if always else 0), job.text()
    found = outcome(folder)
    if always:
        assert reason in found.pop("tt0") and found == {"tt1": 10, "tt2": 10}
        assert Job(tmp_path / "log", *options).end() == 0
        found = outcome(folder)
    assert found == {"tt0": 10, "tt1": 10, "tt2": 10}


def test_a_failed_download_of_weights_ends_the_job(tmp_path, folder):
    for i in range(4):
        write_video(folder / f"tt{i}.mp4", [240])
    options = ["--videos", folder, "--out", tmp_path / "out", "--image", "shufflenet2d", "--video", "none"]
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    job = Job(tmp_path / "log", *options, **proxies, TORCH_HOME=str(tmp_path / "cache"))
    workers = job.workers()
    assert job.end() == 2
    last = job.text().splitlines()[-1]
    assert last.startswith("01_prepare.py: error: https://") and "download it elsewhere and put it at" in last
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not list(tmp_path.rglob(".divita*"))


def test_damaged_bytes_never_end_the_job(script, folder):
    rng = np.random.default_rng(0)
    originals = [
        write_video(folder.parent / name, [10, 20], codec=codec).read_bytes()
        for name, codec in (("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "FFV1"), ("a.flv", "FLV1"))
    ]
    for i in range(int(os.environ.get("MUTATIONS", 100))):
        content = bytearray(originals[i % 4])
        for _ in range(rng.integers(1, 20)):
            content[rng.integers(len(content))] = rng.integers(256)
        if i % 10 == 0:
            del content[rng.integers(len(content)) :]
        (folder / f"tt{i}.{['mp4', 'avi', 'mkv', 'flv'][i % 4]}").write_bytes(content)
    result = prepare(script, folder)
    found = outcome(folder)
    assert len(found) == len(list(folder.iterdir())) and result.code in (0, 1)
    assert sum(isinstance(clips, int) for clips in found.values()) > len(found) // 2
    before, threshold = contents(folder.parent / "out"), gc.get_threshold()
    shutil.rmtree(folder.parent / "out")
    gc.set_threshold(50)  # frames freed by the collector would change a decoder's memory
    try:
        prepare(script, folder, "--workers", 1)
    finally:
        gc.set_threshold(*threshold)
    assert contents(folder.parent / "out") == before


def test_a_full_disk_ends_the_job_and_a_rerun_finishes_it(tmp_path, folder):
    for i in range(4):
        write_video(folder / f"tt{i}.mp4", [240])
    small = tmp_path / "out"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", small]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        job = Job(tmp_path / "log", "--videos", folder, "--out", small, *TINY)
        assert job.end() == 2, job.text()
        assert "run the same command again" in job.text() and "Traceback" not in job.text()
        assert not list(small.rglob(".divita*"))
        subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
        assert Job(tmp_path / "log", "--videos", folder, "--out", small, *TINY).end() == 0
        assert len(list((small / NAME).glob("*.npy"))) == 4
    finally:
        subprocess.run(["umount", small], check=True)
