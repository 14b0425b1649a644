"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers, made first
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --download all --out data/published          the published labels and representations
    torchrun --nproc-per-node 4 01_prepare.py --videos DIR --out data/mine      the same on four GPUs

A folder holds one video per trailer, and the video's name without its suffix is the trailer's mid. Every video is
decoded once, in one of several processes: PySceneDetect cuts it into shots, each shot is cut into clips at the target
frame rate, and the clips of all trailers fill the batches of all backbones. What is done already is skipped, so the
same command goes on after an interruption, and a video that cannot be decoded is named in failed.csv.
"""

# ruff: noqa: E402 (imports follow the command line, so that --help answers at once)
import argparse
import os
import signal

IMAGE, VIDEO = ["efficientnetlite_b0"], ["shufflenet3d"]  # backbones
FPS, FRAMES_PER_CLIP = 24.0, 24
BATCH_SIZE = 16  # clips
SHORTEST_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames per second, and as long at any other rate
LONGEST_FRAME = 10.0  # seconds; a longer pause between two frames' timestamps is taken for a damaged timestamp
FRAMES_AHEAD = 16  # decoded in advance, where a video's frames are decoded in a thread of their own
PATIENCE = 60.0  # seconds without a new frame, after which a video counts as failed
SHEETS, MOST_ON_SHEET = 3, 90  # contact sheets, shots on one
CLIPS_PER_TRAILER = 120  # expected, to decide whether freezing a backbone repays

DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # whose weights come with a package; the demo's others are random


def parse_arguments():
    """Read the command line."""

    def number(kind, smallest):
        def convert(text):
            if not smallest <= kind(text) < float("inf"):
                raise ValueError
            return kind(text)

        convert.__name__ = f"{kind.__name__} of at least {smallest}"
        return convert

    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description=__doc__.split("\n\n")[0])
    parser.epilog = "Defaults are in parentheses."
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}; see --help\n")
    add = parser.add_argument_group("what").add_argument
    add("--videos", metavar="DIR", help="one file a trailer, <mid>.mp4 (the demo)")
    add("--labels", metavar="CSV", help="genres as in mtgc.csv (none, to be predicted)")
    add("--out", metavar="DIR", default=DEMO_OUT, help=f"data folder to write ({DEMO_OUT})")
    add("--download", metavar="NAME", nargs="+", help="only fetch published representations, or all")
    add = parser.add_argument_group("backbones").add_argument
    add("--image", metavar="NAME", nargs="+", default=IMAGE, help=f"for images, or none ({' '.join(IMAGE)})")
    add("--video", metavar="NAME", nargs="+", default=VIDEO, help=f"for clips, or none ({' '.join(VIDEO)})")
    add("--weights", metavar="W", nargs="+", help="random, NAME=FILE, pretrained (pretrained)")
    add("--image-frames", type=number(int, 1), metavar="N", help="of a clip, for image backbones (all)")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of the backbones (float32)")
    add("--batch-size", type=number(int, 1), metavar="N", default=BATCH_SIZE, help=f"clips ({BATCH_SIZE})")
    add = parser.add_argument_group("clips").add_argument
    add("--segmentation", choices=["shots", "seconds"], default="shots", help="cut at shots or not (shots)")
    add("--detector", choices=["adaptive", "content"], default="adaptive", help="of shots (adaptive)")
    add("--fps", type=number(float, 0.1), default=FPS, help=f"target frames per second ({FPS:g})")
    add("--frames-per-clip", type=number(int, 1), metavar="N", default=FRAMES_PER_CLIP, help=f"({FRAMES_PER_CLIP})")
    add = parser.add_argument_group("the job").add_argument
    cores = os.cpu_count()
    add("--workers", type=number(int, 1), metavar="N", default=cores, help=f"decoding processes ({cores})")
    add("--overwrite", action="store_true", help="make again what is there")
    add("--sheets", type=number(int, 0), metavar="N", default=SHEETS, help=f"contact sheets ({SHEETS})")
    help = f"seconds without a frame until a video fails ({PATIENCE:g})"
    add("--patience", type=number(float, 0.1), metavar="S", default=PATIENCE, help=help)
    return parser.parse_args()


def interrupted_early(*_):
    os.write(2, b"01_prepare.py: interrupted before it began\n")
    os._exit(130)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()
    signal.signal(signal.SIGINT, interrupted_early)  # the imports take a while; then divita.run() takes over
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]  # torchrun's; another number of threads would change the last digits

import collections
import contextlib
import ctypes
import errno
import functools
import hashlib
import http.client
import json
import multiprocessing
import queue
import shutil
import socket
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cv2
import numpy as np
import scenedetect
import torch
from scenedetect.common import Timecode
from tqdm import tqdm

import divita
from divita import UserError

cv2.setNumThreads(1)  # videos are decoded side by side; and a pool of threads would not survive a fork
FORK = multiprocessing.get_context("fork")  # starts at once, where a fresh process imports Keras for seconds

# ---- The demo data set ----


DEMO_TRAILERS, DEMO_SEED, DEMO_FPS = 100, 0, 24
DEMO_SIZE = 192, 108  # width, height
GENRES = {  # what a frame shows, how the camera moves: three genres are told by the first alone, seven only by both
    "action": ("rocks", "shake"),
    "adventure": ("rocks", "roll"),
    "comedy": ("confetti", "still"),
    "crime": ("stripes", "shake"),
    "drama": ("people", "still"),
    "fantasy": ("planets", "still"),
    "horror": ("rocks", "pulse"),
    "romance": ("hearts", "still"),
    "sci-fi": ("planets", "roll"),
    "thriller": ("stripes", "pulse"),
}


def make_demo(out, workers):
    """Make the synthetic demo data set in the folder `out`: the same files whatever the number of `workers`.

    Writes labels.csv, true_cuts.csv (mid, frame: the first frame of each shot but the first) and
    videos/<mid>.mp4; a video that is there already is kept.
    """
    videos = Path(out) / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    y, splits = demo_labels()
    mids = [f"demo{i:03d}" for i in range(len(y))]
    edits = [demo_edit(i, np.flatnonzero(row)) for i, row in enumerate(y)]
    with divita.written(videos.parent / "labels.csv") as temporary:
        rows = [["mid", *GENRES, "split0", "split1", "split2"]]
        rows += [[mid, *labels, *parts] for mid, labels, parts in zip(mids, y, splits)]
        temporary.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    with divita.written(videos.parent / "true_cuts.csv") as temporary:
        cuts = [(mid, cut) for mid, edit in zip(mids, edits) for cut in np.cumsum([n for _, n in edit])[:-1]]
        temporary.write_text("mid,frame\n" + "".join(f"{mid},{cut}\n" for mid, cut in cuts))
    jobs = [(videos / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(zip(mids, edits))]
    jobs = [job for job in jobs if not job[0].exists()]
    with FORK.Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(film, jobs), "demo trailers", len(jobs), unit="trailer"):
            pass


def demo_labels():
    """-> y (N, G) of 0 and 1, one to three genres a trailer; splits (N, 3), 0 train to 2 test.

    Of five blocks of trailers, in each of which all genres are about as frequent, one is for test, one for validation.
    """
    rng = np.random.default_rng([DEMO_SEED, 0])
    y = np.zeros((DEMO_TRAILERS, len(GENRES)), int)
    for row, count in zip(y, np.resize([1, 3, 2, 1, 2], DEMO_TRAILERS)):
        rarest = np.argsort(y.sum(0) + rng.uniform(0, 3, len(GENRES)))  # the noise keeps the pairs varied
        row[rarest[:count]] = 1
    blocks = np.arange(DEMO_TRAILERS) * 5 // DEMO_TRAILERS
    splits = [np.choose((blocks - k) % 5, [2, 1, 0, 0, 0]) for k in range(3)]
    return y, np.stack(splits, axis=1)


def demo_edit(trailer, genres):
    """-> [(genre, frames), ...]: a trailer's shots, 0.7 to 3 s each, its genres taking turns, 15 to 20 s in all."""
    rng = np.random.default_rng([DEMO_SEED, 1, trailer])
    shortest, longest = 17, 3 * DEMO_FPS
    frames, end = [], rng.integers(15 * DEMO_FPS, 17 * DEMO_FPS)
    while sum(frames) < end:
        frames.append(int(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))  # short ones are more frequent
    frames[-1] = min(frames[-1], max(shortest, 20 * DEMO_FPS - sum(frames[:-1])))
    turns = [genre for _ in frames for genre in rng.permutation(genres)]
    return [(list(GENRES)[genre], n) for genre, n in zip(turns, frames)]


def film(job):
    """Shoot and cut one trailer: `job` is its path, its number and its edit."""
    path, trailer, edit = job
    rng = np.random.default_rng([DEMO_SEED, 2, trailer])
    hue, dark = rng.uniform(0, 180), rng.integers(2)
    with divita.written(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), DEMO_FPS, DEMO_SIZE)
        for genre, frames in edit:
            hue, dark = (hue + rng.uniform(50, 130)) % 180, not dark  # a cut is seen in colour and in light
            picture, camera = GENRES[genre]
            for frame in shoot(paint(picture, hue, dark, rng), camera, frames, rng):
                writer.write(frame)
        writer.release()


def paint(picture, hue, dark, rng):
    """-> canvas (162, 288, 3) uint8 BGR, larger than a frame: forms of one kind strewn over a shaded ground."""
    width, height = 3 * DEMO_SIZE[0] // 2, 3 * DEMO_SIZE[1] // 2
    ground, form = ((50, 65), (165, 185)) if dark else ((165, 185), (50, 65))  # ranges of brightness
    corners = colours(hue + rng.uniform(-12, 12, 4), ground, rng).reshape(2, 2, 3)
    canvas = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    plain, centres = canvas.copy(), strew(width, height, 20, rng)
    tint = hue + rng.choice([-1, 1]) * rng.uniform(15, 30) + rng.uniform(-8, 8, len(centres))
    tint = rng.uniform(0, 180, len(centres)) if picture == "confetti" else tint
    scale = rng.uniform(0.9, 1.15) * rng.uniform(6, 10, len(centres))  # px
    for centre, colour, size in zip(centres, colours(tint, form, rng), scale * np.exp(1j * rng.uniform(-0.5, 0.5))):
        for outline in outlines(picture, rng):
            points = np.stack([(outline * size).real, (outline * size).imag], axis=1) + centre
            cv2.fillPoly(canvas, [np.int32(points * 16)], colour, cv2.LINE_AA, shift=4)
    if picture == "stripes":  # the ground shows through every other line
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 5.5)
        lines = (x * np.cos(angle) + y * np.sin(angle)) % period < period / 2
        canvas = np.where((canvas != plain) & lines[..., None], canvas * 0.5 + 0.5 * plain, canvas)
    return np.clip(canvas + 110.0 - canvas.mean(), 0, 255).astype(np.uint8)  # all shots are exposed alike


def colours(hue, brightness, rng):
    """-> BGR colours (N, 3), float, of N hues in OpenCV's half degrees and a range of brightness."""
    count = len(hue)
    hsv = np.stack([hue % 180, rng.uniform(50, 80, count), rng.uniform(*brightness, count)], axis=1)
    return cv2.cvtColor(np.uint8(hsv)[None], cv2.COLOR_HSV2BGR)[0].astype(float)


def strew(width, height, spacing, rng):
    """-> the centres (N, 2) of an irregular grid."""
    grid = np.mgrid[spacing / 2 : width : spacing, spacing / 2 : height : spacing].reshape(2, -1).T
    return grid + rng.uniform(-0.3, 0.3, grid.shape) * spacing


def outlines(picture, rng):
    """-> the outlines of one form as arrays of complex numbers, about 1 in radius, y pointing down."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.exp(1j * turn)
    if picture == "hearts":
        return [(16 * np.sin(turn) ** 3 - 1j * np.polynomial.chebyshev.chebval(np.cos(turn), [0, 13, -5, -2, -1])) / 15]
    if picture == "people":
        shoulders = np.where(circle.imag < 0, circle, circle.real + 0.3j) * 0.95 + 0.8j
        return [shoulders, 0.5 * circle - 0.65j]
    if picture == "planets":
        band = np.exp(0.3j) * (1.7 * circle.real + 0.35j * circle.imag)
        return [0.75 * circle, np.concatenate([band, 0.8 * band])]
    return [np.exp(1j * np.sort(rng.uniform(0, 2 * np.pi, 7))) * rng.uniform(0.8, 1.2, 7)]


def shoot(canvas, camera, frames, rng):
    """Yield `frames` frames (108, 192, 3) of the canvas, seen by a moving camera.

    Where a camera does not move, it stands where it could be at some moment if it did: a single frame tells nothing.
    """
    t = np.arange(frames)

    def swing(period, moves):
        return np.sin(2 * np.pi * (rng.uniform() + t / period * moves))

    roll = 0.12 * swing(16, camera == "roll")  # radians
    light = 0.85 + 0.15 * swing(9, camera == "pulse")
    angle = rng.uniform(0, 2 * np.pi, frames)
    shake = 1.5 * (camera == "shake") * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # px
    zoom = rng.uniform(0.9, 1.1)
    centre, middle = np.array([canvas.shape[1], canvas.shape[0]]) * rng.uniform(0.4, 0.6, 2), np.array(DEMO_SIZE) / 2
    for i in range(frames):
        turn = np.array([[np.cos(roll[i]), -np.sin(roll[i])], [np.sin(roll[i]), np.cos(roll[i])]]) / zoom
        view = np.column_stack([turn, centre + shake[i] - turn @ middle])  # frame -> canvas
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(canvas, view, DEMO_SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)
        yield cv2.convertScaleAbs(frame, alpha=light[i])


# ---- The published data set ----

ZENODO = "https://zenodo.org/records/5716410/files"
LABELS_MD5 = "d730579950345b2c0f9c4a9779bd9d44"


def download(names, out):
    """Fetch the published labels and representations, and unpack them: out/mtgc.csv, out/<name>.zarr."""
    names = list(divita.PUBLISHED) if names == ["all"] else [name.removesuffix(".zarr") for name in names]
    for name in names:
        divita.published_backbone(name)  # refuses an unknown one
    with divita.locked(out):  # of two processes, the second finds everything there
        if not ((out / "mtgc.csv").exists() and md5_of(out / "mtgc.csv") == LABELS_MD5):
            fetch("mtgc.csv", out, LABELS_MD5)
        for name in names:
            archive = out / f"{name}.zarr.tar.gz"
            if not (out / f"{name}.zarr" / ".zgroup").exists():
                unpack(archive if archive.exists() else fetch(archive.name, out, divita.PUBLISHED[name][1]), out)
    print(f"the published labels are in {out / 'mtgc.csv'}, the representations beside them:")
    for name in names:
        print(f"  {out / name}.zarr")
    kinds = {divita.find_backbone(divita.published_backbone(name)).input: name for name in names}
    chosen = " ".join(f"--{kind} {kinds.get(kind, 'none')}" for kind in ("image", "video"))
    print(f"next: python 02_train.py --data {out} {chosen} --runs runs/{out.resolve().name}")
    return 0


def fetch(name, out, md5):
    """Download a file of the record into a folder and return its path; an earlier attempt is gone on with."""
    url = f"{os.environ.get('DIVITA_PUBLISHED', ZENODO)}/{name}?download=1"
    part = out / f"{name}.part"
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as response:
            have = have if response.status == 206 else 0  # 206: the server goes on where we were, 200: from the start
            total = have + int(response.headers.get("Content-Length") or 0)
            bar = tqdm(desc=name, total=total or None, initial=have, unit="B", unit_scale=True)
            with bar, open(part, "ab" if have else "wb") as file:
                while block := response.read(2**20):
                    file.write(block)
                    bar.update(len(block))
        cut = total > part.stat().st_size
    except urllib.error.HTTPError as error:
        part.unlink(missing_ok=True)  # such as 416: there is nothing to go on with
        raise UserError(f"{url}: {error.code} {error.reason}; fetch it in another way, or try again later") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        cut = divita.one_line(error)
    except http.client.HTTPException as error:
        cut = divita.one_line(error)
    if cut:
        why = f" ({cut})" if isinstance(cut, str) else ""
        raise UserError(f"{url}: the connection was cut{why}; the same command goes on where it was")
    if (found := md5_of(part)) != md5:
        part.unlink()
        raise UserError(f"{url}: its MD5 is {found}, not the published {md5}; removed, run the same command again")
    return part.replace(out / name)


def md5_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def unpack(archive, out):
    """Unpack <name>.tar.gz, which holds the folder <name>, and remove it. Nothing is written outside `out`."""
    name = archive.name.removesuffix(".tar.gz")
    folder = out / f".unpacking-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpacking {name}", unit="file"):
                tar.extract(member, folder, filter="data")  # refuses ../, absolute paths, links to the outside, devices
        if not (folder / name / ".zgroup").exists():
            raise UserError(f"{archive}: holds no {name}; remove it and run the same command again")
        (folder / name).replace(out / name)
        archive.unlink()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: cannot be unpacked ({divita.one_line(error)}); remove it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- Which videos ----


def find_videos(folder):
    """Return {mid: path} of a folder's videos, sorted; two videos with one mid are a UserError."""
    try:
        paths = sorted(Path(folder).absolute().iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder of videos ({error.strerror})") from None
    paths = [path for path in paths if not path.name.startswith(".")]
    videos = {}
    for path in [path for path in paths if path.suffix.lower() in divita.SUFFIXES]:
        if path.stem in videos:
            raise UserError(f"{path}: {videos[path.stem].name} has the same mid; rename or remove one of the two")
        videos[path.stem] = path
    if not videos:
        raise UserError(f"{folder}: no videos there; a video's name ends in one of {' '.join(divita.SUFFIXES)}")
    others = [path.name for path in paths if path.suffix.lower() not in divita.SUFFIXES]
    if others and divita.ranks()[0] == 0:
        print(f"{folder}: {len(others)} files left out that are no videos by their suffix ({listed(others)})")
    return videos


def listed(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def take_labels(arguments, videos):
    """Copy the labels into the data folder, with splits; say which trailers lack a video and which lack labels."""
    labels = divita.read_labels(arguments.labels)
    genres, splits = list(labels.genres), [f"split{k}" for k in range(labels.splits.shape[1])]
    rows = np.concatenate([labels.y, labels.splits], 1).tolist()
    path = Path(arguments.out) / "labels.csv"
    if not (path.exists() and path.samefile(arguments.labels)):
        divita.write_csv(path, ["mid", *genres, *splits], [[mid, *row] for mid, row in zip(labels.mids, rows)])
    if missing := sorted(set(labels.mids) - set(videos)):
        print(f"{len(missing)} of {len(labels.mids)} labelled trailers have no video and are left out", end="")
        print(f" ({listed(missing)})")
    if unlabelled := sorted(set(videos) - set(labels.mids)):
        print(f"{len(unlabelled)} of {len(videos)} videos have no labels and are prepared all the same", end="")
        print(f" ({listed([repr(mid)[1:-1] for mid in unlabelled])})")


# ---- A video's frames ----


class VideoError(Exception):
    """Why a video cannot be prepared, in a few words."""


class Clock:
    """Turns timestamps as a container gives them into times that increase, in seconds since the first frame.

    A timestamp that is missing, stands still, jumps back or leaps ahead is replaced by one frame's duration. After a
    jump that lasts (two recordings joined), the times go on from where they were.
    """

    def __init__(self, fps):
        self.step = 1 / sane_rate(fps)
        self.now = None

    def __call__(self, timestamp):
        if self.now is None:
            self.now, self.offset, self.detour = 0.0, -timestamp, -timestamp
            return self.now
        for offset in (self.offset, self.detour):
            if 0 < timestamp + offset - self.now <= LONGEST_FRAME:
                self.now, self.offset = timestamp + offset, offset
                return self.now
        self.now += self.step
        self.detour = self.now - timestamp
        return self.now


def sane_rate(fps):
    """Return the frame rate that a header claims, 24 where the claim is absurd."""
    return fps if 1 <= fps <= 240 else 24.0


class Frame:
    """A frame of a video: its number, its time in seconds, and its picture once somebody looks at it."""

    def __init__(self, number, time, capture):
        self.number, self.time, self.capture, self.views = number, time, capture, {}

    @functools.cached_property
    def picture(self):
        """The whole picture, uint8 BGR (H, W, 3), or None; to be looked at before the next frame is read."""
        ok, picture = self.capture.retrieve()
        return picture if ok else None

    @property
    def damaged(self):
        return self.picture is None and not self.views

    def view(self, look):
        """Return look(picture) as RGB, made once. Channels are turned here, where there are few pixels left."""
        if look not in self.views:
            self.views[look] = cv2.cvtColor(look(self.picture), cv2.COLOR_BGR2RGB)
        return self.views[look]

    def keep_only(self, looks):
        """Make these views now and let go of the picture, which needs a hundred times the memory."""
        for look in looks:
            self.view(look)
        self.picture = None


def open_video(path):
    """Return an open cv2.VideoCapture; a VideoError says why there is none.

    FFmpeg decodes with one thread: with more, damaged files decode differently each time. Videos are decoded side by
    side instead.
    """
    try:
        if not path.is_file():
            raise VideoError("a broken link" if path.is_symlink() else "not a file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise VideoError("an empty file")
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from None
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError("no video in it that can be decoded")
    return capture


def read_frames(capture, alive):
    """Yield the Frames of a video, calling alive() for each."""
    clock = Clock(capture.get(cv2.CAP_PROP_FPS))
    number = 0
    while any(capture.grab() for _ in range(5)):  # past a few damaged packets
        alive()
        yield Frame(number, clock(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000), capture)
        number += 1


# ---- Shots ----


def reduced(picture, size):
    """Resize a picture to (width, height) by linear interpolation, as PySceneDetect does, to the last digit: where that
    comes to picking the pixels in the middle, they are picked, in half the time."""
    height, width, _ = picture.shape
    middle = all(whole % part == 0 and whole // part % 2 for whole, part in zip((width, height), size))
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST_EXACT if middle else cv2.INTER_LINEAR)


def frame_score(detector, _, picture):
    """Return how much a picture differs from the one before: what PySceneDetect's detectors compute, to the last digit,
    by OpenCV, for speed."""
    last, detector._last_frame = detector._last_frame, cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    if last is None:
        return 0.0
    height, width, _ = picture.shape
    distances = cv2.sumElems(cv2.absdiff(detector._last_frame, last))[:3]  # of hue, saturation and value
    return sum(distance / (height * width) for distance in distances) / 3


def find_shots(frames, rate, name, looks, always):
    """Yield (frame, whether it starts a shot), with the cuts that PySceneDetect's SceneManager finds.

    The detector knows of a cut some frames late, so that many frames wait; only the last few wait as whole pictures.
    Views wanted of nearly every frame (`always`) are made at once, while the picture is in the processor's cache.
    """
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = kind(min_scene_len=SHORTEST_SHOT)
    detector._calculate_frame_score = functools.partial(frame_score, detector)
    microsecond, rate = Fraction(1, 10**6), Fraction(sane_rate(rate)).limit_denominator(1001)
    zero = scenedetect.FrameTimecode(0, rate)  # the others take the rate from it, which is faster
    waiting, cuts, size = collections.deque(), set(), None
    for frame in frames:
        if frame.damaged:
            continue
        if size is None:
            height, width, _ = frame.picture.shape
            factor = scenedetect.scene_manager.compute_downscale_factor(max(width, height))
            size = max(1, round(width / factor)), max(1, round(height / factor))
        frame.tick = round(frame.time * 10**6)
        timecode = scenedetect.FrameTimecode(timecode=Timecode(frame.tick, microsecond), fps=zero)
        for look in always:  # first, as they read every pixel
            frame.view(look)
        cuts.update(cut.pts for cut in detector.process_frame(timecode, reduced(frame.picture, size)))
        waiting.append(frame)
        if len(waiting) > 4 and waiting[-4].picture is not None:
            waiting[-4].keep_only(looks)
        if len(waiting) > detector.event_buffer_length:
            first = waiting.popleft()
            yield first, first.tick in cuts
    for frame in waiting:
        yield frame, frame.tick in cuts


# ---- Clips ----


@dataclass(frozen=True)
class Plan:
    """How videos become clips, and what of a clip the backbones want to see."""

    segmentation: str
    detector: str
    fps: float
    frames_per_clip: int
    looks: tuple  # functions of a picture, each making frames for one or more backbones
    inputs: tuple  # (index of a look, frames): which frames of a clip one or more backbones want
    ahead: bool = False  # whether to decode in a thread of its own: for the last few videos, if cores are left over

    def looks_at_all(self, rate):
        """Return the looks that are wanted of nearly every frame of a video of this frame rate."""
        if self.fps < 0.9 * rate:
            return []
        return [self.looks[look] for look, frames in self.inputs if frames == self.frames_per_clip]


def positions(frames, frames_per_clip):
    """Return which of a clip's frames are seen: `frames` of them, evenly spaced."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


def thumbnail(picture):
    height, width, _ = picture.shape
    width = min(400, max(40, round(96 * width / height)))
    return cv2.resize(picture, (width, 96), interpolation=cv2.INTER_LINEAR)


class Shot:
    """Cuts one shot into clips.

    Target frame k is due k / fps seconds after the shot's start. A frame is taken for the target frame nearest to it
    in time, the first one if there are several, and stays until the next is taken.
    """

    def __init__(self, number, frame, plan):
        self.number, self.start, self.plan = number, frame.time, plan
        self.wanted = [(plan.looks[look], positions(n, plan.frames_per_clip)) for look, n in plan.inputs]
        self.length = 0  # target frames so far
        self.shown = self.thumbnail = None

    def add(self, frame):
        """Take a source frame; yield the clips that it completes."""
        due = round((frame.time - self.start) * self.plan.fps)
        if due >= self.length and not frame.damaged:
            yield from self.show_until(due)
            self.shown = frame
            yield from self.show_until(due + 1)

    def end(self, time):
        """Yield the last clip, if the shot ends at `time` and at least half of it is there or it is the only one."""
        length = max(self.length, round((time - self.start) * self.plan.fps))
        clips = max(1, (length + self.plan.frames_per_clip // 2) // self.plan.frames_per_clip)
        yield from self.show_until(clips * self.plan.frames_per_clip, time)

    def show_until(self, length, end=float("inf")):
        """Show the current frame up to target frame number `length`; yield the clips that become full."""
        per_clip = self.plan.frames_per_clip
        while self.length < length:
            position = self.length % per_clip
            if position == 0:
                self.first, self.pictures = self.shown.number, [[] for _ in self.wanted]
            for (look, seen), pictures in zip(self.wanted, self.pictures):
                if position in seen:
                    pictures.append(self.shown.view(look))
            if self.length == per_clip // 2:
                self.thumbnail = self.shown.view(thumbnail)
            self.length += 1
            if position == per_clip - 1:
                start = self.start + (self.length - per_clip) / self.plan.fps
                stop = min(start + per_clip / self.plan.fps, end)
                row = (self.number, self.first, self.shown.number + 1, round(start, 6), round(stop, 6))
                yield row, [np.stack(pictures) for pictures in self.pictures]


def read_clips(path, plan, alive):
    """Decode a video once and yield ("clip", number, [uint8 (T, S, S, 3) per input of the plan]) for each clip, then
    ("end", rows of the clip table, [(time, thumbnail) per shot], seconds, a remark or None)."""
    capture = open_video(path)
    frames, rate = read_frames(capture, alive), capture.get(cv2.CAP_PROP_FPS)
    if plan.segmentation == "shots":
        if plan.ahead:
            frames = in_background((frame for frame in frames if not frame.damaged), FRAMES_AHEAD)
        sequence = find_shots(frames, rate, plan.detector, (*plan.looks, thumbnail), plan.looks_at_all(rate))
    else:
        sequence = ((frame, False) for frame in frames)
    rows, thumbnails, shot, frame = [], [], None, None

    def end(shot, time):
        yield from numbered(shot.end(time), rows)
        thumbnails.append((shot.start, shot.thumbnail if len(thumbnails) < MOST_ON_SHEET else None))

    for frame, starts in sequence:
        if shot is None or starts:
            if frame.damaged:
                continue
            if shot:
                yield from end(shot, frame.time)
            shot = Shot(len(thumbnails), frame, plan)
        yield from numbered(shot.add(frame), rows)
    if shot is None:
        raise VideoError("not one frame can be decoded")
    duration = frame.time + (frame.time / frame.number if frame.number else 1 / sane_rate(rate))
    yield from end(shot, duration)
    yield "end", rows, thumbnails, duration, shortening(capture, duration)


def numbered(clips, rows):
    for row, arrays in clips:
        rows.append((len(rows), *row))
        yield "clip", len(rows) - 1, arrays


def shortening(capture, duration):
    """Return a remark if less of a video could be decoded than its header promises, else None."""
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT) / sane_rate(capture.get(cv2.CAP_PROP_FPS))
    if promised * 0.97 - 0.5 > duration and promised < 24 * 3600:
        return f"only {duration:.1f} s of {promised:.1f} s can be decoded; they are used"
    return None


# ---- Decoding processes ----


def start_decoding(requests, other_end, plan):
    """Be the process that starts the decoding processes: sent a connection's descriptor, it answers with a process's
    number.

    A process forked from one with threads may hang, so this one is forked before there are any.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a decoding process
    end_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg's messages; one line of ours says what is wrong
    torch.set_num_threads(1)
    other_end.close()  # so that it is seen when the parent closes it
    while descriptors := socket.recv_fds(requests, 1, 1)[1]:
        process = os.fork()
        if process == 0:
            requests.close()
            end_with_parent()
            with contextlib.suppress(EOFError, OSError):  # the parent has closed the connection
                decode(Connection(descriptors[0]), plan)
            os._exit(0)
        os.close(descriptors[0])
        requests.sendall(process.to_bytes(8))


def end_with_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def decode(connection, plan):
    """Be a decoding process: take paths from the connection, send back what read_clips() yields or ("failed", why)."""
    spoken, one_at_a_time = time.monotonic(), threading.Lock()

    def send(message):  # by two threads, where frames are read ahead
        nonlocal spoken
        with one_at_a_time:
            connection.send(message)
            spoken = time.monotonic()

    def alive():
        if time.monotonic() > spoken + 0.2:
            send(("alive",))

    while True:
        path = connection.recv()
        try:
            for message in read_clips(path, plan, alive):
                send(message)
        except VideoError as error:
            send(("failed", str(error)))
        except (cv2.error, MemoryError, ValueError) as error:
            send(("failed", f"cannot be decoded ({divita.one_line(error)})"))


class Decoder:
    """A decoding process and the video that it works on."""

    def __init__(self, requests):
        self.connection, theirs = multiprocessing.Pipe()
        socket.send_fds(requests, [b"+"], [theirs.fileno()])
        theirs.close()
        self.process = int.from_bytes(requests.recv(8))
        self.mid, self.silence, self.died = None, 0.0, False

    def receive(self):
        """Return the next message, which is that the video failed if the process died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.died = True
            return "failed", "its decoding ended the process"

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        self.connection.close()


def decoding(plan):
    """Return the socket that Decoders are asked for over; to be called before any thread is started."""
    ours, theirs = socket.socketpair()
    FORK.Process(target=start_decoding, args=(theirs, ours, plan), daemon=True).start()
    theirs.close()
    return ours


def decode_all(videos, requests, workers, patience):
    """Decode videos, {mid: path}, in as many processes as `workers`; yield (mid, *what decode() sends).

    A process that dies, or is silent for longer than `patience` seconds while it could speak, is replaced, and its
    video has failed.
    """
    left = collections.deque(videos.items())
    decoders = [Decoder(requests) for _ in range(min(workers, len(left)))]
    try:
        while True:
            for decoder in decoders:
                if decoder.mid is None and left:
                    decoder.mid, path = left.popleft()
                    with contextlib.suppress(OSError):  # it died meanwhile, as receive() will tell
                        decoder.connection.send(path)
            busy = {decoder.connection: decoder for decoder in decoders if decoder.mid is not None}
            if not busy:
                return
            before = time.monotonic()
            ready = wait(list(busy), timeout=min(1.0, patience))
            waited = time.monotonic() - before
            for connection, decoder in busy.items():
                decoder.silence = 0.0 if connection in ready else decoder.silence + waited
                message = decoder.receive() if connection in ready else None
                if decoder.silence > patience:
                    message = "failed", f"no frame in {patience:g} s of decoding"
                if message is None or message[0] == "alive":
                    continue
                yield decoder.mid, *message
                if message[0] != "clip":
                    decoder.mid = None
                if decoder.died or decoder.silence > patience:
                    decoder.stop()
                    decoders[decoders.index(decoder)] = Decoder(requests)
    finally:
        for decoder in decoders:
            decoder.stop()
        requests.close()


def in_background(items, ahead):
    """Run a generator in a thread from now on; return a generator of its items, of which up to `ahead` wait."""
    items_ahead, places, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for _ in range(ahead):  # a queue.Queue bounds itself, but for a film's frames it is too slow
        places.put(None)

    def put(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                places.get(timeout=0.1)
                return items_ahead.put(item)

    def work():
        try:
            with contextlib.closing(items):
                for item in items:
                    put((item, None))
                    if stop.is_set():
                        return
            put((None, None))
        except BaseException as error:
            put((None, error))

    def read():
        try:
            yield  # here it is from now on, so that close() gets to what follows below
            while True:
                item, error = items_ahead.get()
                places.put(None)
                if error:
                    raise error
                if item is None:
                    return
                yield item
        finally:
            stop.set()
            thread.join()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    reader = read()
    next(reader)
    return reader


# ---- Representations ----


@dataclass
class Wanted:
    """A representation to be made: its folder, what meta.json will say of it, and where its clips come from."""

    folder: Path
    meta: dict  # what is known before the backbone is built
    weights: str | Path
    look: tuple  # the fields of the backbone that decide about its preprocessing
    run: object = None  # divita.Extractor


def wanted_representations(arguments, weights):
    """Return the Wanted that the command line asks for; a UserError names what does not exist."""
    wanted = []
    for kind, names in (("image", arguments.image), ("video", arguments.video)):
        for name in dict.fromkeys(names if names != ["none"] else []):
            backbone = divita.find_backbone(name)
            if backbone.input != kind:
                raise UserError(f"--{kind} {name}: it is for --{backbone.input}")
            wanted.append(one_wanted(arguments, backbone, weights[name]))
    if not wanted:
        raise UserError("--image none --video none: nothing to make; name at least one backbone")
    return wanted


def one_wanted(arguments, backbone, weights):
    setting = arguments.segmentation, arguments.fps, arguments.frames_per_clip
    name = divita.representation_name(backbone.name, *setting)
    frames = arguments.frames_per_clip
    if backbone.input == "image":
        frames = arguments.image_frames or frames
        if frames > arguments.frames_per_clip:
            raise UserError(f"--image-frames {frames}: a clip has only {arguments.frames_per_clip} frames")
    meta = {"format": divita.FORMAT, "representation": name, "input": backbone.input, "backbone": backbone.name}
    meta |= {"weights": "file" if isinstance(weights, Path) else weights, **clip_setting(arguments), "frames": frames}
    meta |= {"input_size": backbone.size, "precision": arguments.precision}
    if isinstance(weights, Path):
        with open(weights, "rb") as file:
            meta["file"] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    look = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
    return Wanted(Path(arguments.out) / name, meta, weights, look)


def clip_setting(arguments):
    """Return the part of meta.json that says how videos became clips."""
    detector = arguments.detector if arguments.segmentation == "shots" else None
    setting = {"segmentation": arguments.segmentation, "detector": detector}
    return setting | {"fps": arguments.fps, "frames_per_clip": arguments.frames_per_clip}


def chosen_weights(arguments):
    """Return {backbone's name: "pretrained", "random" or a checkpoint's path} from --weights."""
    names = [name for name in arguments.image + arguments.video if name != "none"]
    given = arguments.weights or []
    weights = dict.fromkeys(names, "pretrained")
    if arguments.videos is None and not given:
        weights |= {name: "random" for name in names if name not in DEMO_PRETRAINED}
    for word in given:
        name, equals, file = word.rpartition("=")
        if word in ("pretrained", "random"):
            weights = {name: weights[name] if isinstance(weights[name], Path) else word for name in names}
        elif not equals or name not in names:
            raise UserError(f"--weights {word}: neither pretrained, random nor NAME=FILE of {', '.join(names)}")
        elif not Path(file).is_file():
            raise UserError(f"--weights {word}: there is no file {file}")
        else:
            weights[name] = Path(file)
    return weights


def check_meta(path, meta, overwrite):
    """Refuse to add to a folder what was made differently: a UserError names the first field that differs."""
    if overwrite or not path.exists():
        return
    there = divita.read_json(path)
    for name, value in meta.items():
        if there.get(name) != value:
            raise UserError(
                f"{path.parent}: was made with {name} {there.get(name)}, not {value}; "
                "give the same options, another --out, or --overwrite to make it again"
            )


def tables_folder(arguments):
    """Return the folder of the clip tables: shots/ for a data folder's first setting, its own for every other."""
    out, setting = Path(arguments.out), {"format": divita.FORMAT, **clip_setting(arguments)}
    first = out / "shots"
    if not (first / "meta.json").exists() or divita.read_json(first / "meta.json") == setting:
        folder = first
    else:
        folder = out / f"shots_{arguments.segmentation}_fps{arguments.fps:g}_fpc{arguments.frames_per_clip}"
        check_meta(folder / "meta.json", setting, arguments.overwrite)
    return folder, setting


def write_meta(folder, meta):
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(meta, indent=1) + "\n"
    if not (folder / "meta.json").exists() or (folder / "meta.json").read_text() != text:
        divita.write_text(folder / "meta.json", text)


def done_mids(folder, suffix):
    """Return the trailers whose files are in a folder, none if it is not there or its meta.json is missing."""
    if not (folder / "meta.json").exists():
        return set()
    return {entry.name.removesuffix(suffix) for entry in os.scandir(folder) if entry.name.endswith(suffix)}


class Batches:
    """Gathers clips of any trailers until a batch is full, and hands each clip's vector to its trailer."""

    def __init__(self, wanted, size):
        self.wanted, self.size, self.clips = wanted, size, []

    def add(self, trailer, number, array):
        self.clips.append((trailer, number, array))
        return self.flush() if len(self.clips) == self.size else []

    def flush(self):
        """Run the backbone over what is there; return the trailers that got a vector."""
        clips, self.clips = self.clips, []
        if clips:
            vectors = self.wanted.run(np.stack([array for _, _, array in clips]))  # (N, T, S, S, 3) -> (N, F)
            for (trailer, number, _), vector in zip(clips, vectors):
                trailer.vectors[self.wanted.folder][number] = vector
        return [trailer for trailer, _, _ in clips]


@dataclass(eq=False)
class Trailer:
    """What has been found out about a trailer so far."""

    mid: str
    vectors: dict = field(default_factory=lambda: collections.defaultdict(dict))  # {folder: {clip: vector (F)}}
    rows: list | None = None  # of the clip table, once decoding has ended

    def complete(self, folders):
        return self.rows is not None and all(len(self.vectors[folder]) == len(self.rows) for folder in folders)


# ---- Contact sheets ----


def draw_sheet(path, mid, thumbnails, duration):
    """Draw one frame per shot over a time axis with the cuts, so that a person sees what was found."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown, columns = thumbnails[:MOST_ON_SHEET], 6
    lines = -(-len(shown) // columns)
    figure = pyplot.figure(figsize=(13, 1.9 + 1.5 * lines), layout="constrained")
    rows = figure.add_gridspec(1 + lines, columns, height_ratios=[0.8] + [1] * lines)
    axis = figure.add_subplot(rows[0, :])
    starts = [start for start, _ in thumbnails]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], duration])):
        axis.axvspan(start, end, color="0.8" if number % 2 else "0.55", linewidth=0)
        if end - start > duration / 60:
            axis.text((start + end) / 2, 0.5, number + 1, ha="center", va="center")
    more = f", the first {len(shown)} shown" if len(shown) < len(thumbnails) else ""
    axis.set(xlim=(0, duration), yticks=[], xlabel="time (s)")
    axis.set_title(f"{mid}: {len(thumbnails)} shots in {duration:.1f} s{more}".replace("$", r"\$"))
    if 1 < len(starts) <= 25:
        axis.set_xticks([0, *starts[1:], duration], [f"{t:.1f}" for t in [0, *starts[1:], duration]], rotation=60)
    for number, (start, picture) in enumerate(shown):
        axis = figure.add_subplot(rows[1 + number // columns, number % columns])
        axis.imshow(picture)
        axis.set_title(f"{number + 1}: {start:.2f} s", fontsize=10)
        axis.axis("off")
    with divita.written(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


# ---- The job ----


class Job:
    """This process's share of the trailers: which are done, which have failed, and the bar that tells."""

    def __init__(self, arguments, videos, wanted):
        self.out, self.arguments, self.videos, self.wanted = Path(arguments.out), arguments, videos, wanted
        self.rank, self.ranks = divita.ranks()
        self.tables, self.setting = tables_folder(arguments)
        self.folders = [one.folder for one in wanted]
        share = sorted(videos)[self.rank :: self.ranks]
        if arguments.overwrite and self.ranks > 1:
            raise UserError(f"--overwrite is for one process; remove {', '.join(map(str, self.folders))} instead")
        done = set() if arguments.overwrite else self.done()
        self.todo = {mid: videos[mid] for mid in share if mid not in done}
        self.left = len(videos) - len(done)  # of all ranks
        self.made, self.clips, self.failed, self.bar, self.counted = 0, 0, {}, None, 0.0
        self.sheets = set(sorted(videos)[: arguments.sheets]) if arguments.segmentation == "shots" else set()

    def remove(self, mids):
        """Remove what is to be made again, so that an interruption cannot leave old files among the new ones."""
        for folder, suffix in [(folder, ".npy") for folder in self.folders] + [(self.tables, ".csv")]:
            for mid in done_mids(folder, suffix) & set(mids):
                (folder / f"{mid}{suffix}").unlink(missing_ok=True)
            (folder / "meta.json").unlink(missing_ok=True)

    def done(self):
        """Return the trailers of all ranks that have all their files."""
        done = done_mids(self.tables, ".csv") & set(self.videos)
        return done.intersection(*(done_mids(folder, ".npy") for folder in self.folders))

    def start(self):
        """Write the folders' meta.json, which is what makes their files count."""
        if self.arguments.overwrite:
            self.remove(self.todo)
        write_meta(self.tables, self.setting)
        for one in self.wanted:
            write_meta(one.folder, one.meta | {"clips": self.tables.name})

    def record(self, outcomes):
        """Bring failed.csv up to date with {mid: reason, or None for one that has not failed}."""
        path = self.out / "failed.csv"
        with divita.locked(self.out):
            rows = self.failures() | {printable(mid): reason for mid, reason in outcomes.items()}
            rows = sorted((mid, reason) for mid, reason in rows.items() if reason)
            if rows:
                divita.write_csv(path, ["mid", "reason"], rows)
            else:
                path.unlink(missing_ok=True)

    def fail(self, mid, reason):
        self.failed[mid] = reason
        self.record({mid: reason})
        self.say(f"{printable(mid)}: failed: {reason}")
        if self.bar is not None:
            self.advance()

    def say(self, text):
        tqdm.write(text, file=sys.stderr)

    def advance(self, now=False):
        """Move the bar by one trailer or, with several ranks, to what the folders tell of all of them."""
        if self.ranks == 1:
            self.bar.update()
        elif self.bar is not None and self.rank == 0 and (now or time.monotonic() > self.counted + 2):
            # not each time, as looking into the folders takes a while
            self.counted = time.monotonic()
            self.bar.n = self.left - len(self.videos) + len(self.done()) + len(self.failures())
            self.bar.refresh()

    def failures(self):
        """Return {mid as printed: reason}, as failed.csv has them."""
        path = self.out / "failed.csv"
        present = set(map(printable, self.videos))
        rows = divita.read_table(path)[1] if path.exists() else []
        return {mid: reason for _, (mid, reason) in rows if mid in present}

    def save(self, trailer):
        """Write a trailer's representations and, last, its clip table, with which it counts as done."""
        table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
        table += "".join(",".join(map(str, row)) + "\n" for row in trailer.rows)
        path = self.tables / f"{trailer.mid}.csv"
        vectors = {folder: np.stack([v[i] for i in range(len(v))]) for folder, v in trailer.vectors.items()}
        if path.exists() and path.read_text() != table:
            return self.fail(trailer.mid, f"its clips are not those of {path}; did the video change? use --overwrite")
        if not all(np.isfinite(clips).all() for clips in vectors.values()):
            return self.fail(trailer.mid, "a backbone's vectors are not all finite numbers")
        for folder, clips in vectors.items():
            with divita.written(folder / f"{trailer.mid}.npy") as temporary:
                np.save(temporary, clips)  # (clips, F)
        if not path.exists():
            divita.write_text(path, table)
        self.made += 1
        self.clips += len(trailer.rows)
        self.advance()


def printable(mid):
    return mid if mid.isprintable() else repr(mid)[1:-1]


def refuse_names(job):
    """Fail the videos whose names cannot name files, before anything else."""
    for mid in list(job.todo):
        try:
            divita.check_mid(mid, job.todo[mid].name)
            if len(os.fsencode(mid)) > 180:  # of 255; a temporary name is longer
                raise UserError("too long a name; rename it")
        except UserError:
            del job.todo[mid]
            job.fail(mid, "its name cannot name a trailer's files; rename it")


def make_plan(arguments, wanted, videos):
    """Return the Plan that serves all backbones, each distinct preprocessing once, and each one's input in it."""
    looks, inputs = {}, {}
    for one in wanted:
        backbone = divita.find_backbone(one.meta["backbone"])
        looks.setdefault(one.look, functools.partial(divita.preprocess, backbone=backbone))
        inputs.setdefault((list(looks).index(one.look), one.meta["frames"]))
    places = [list(inputs).index((list(looks).index(one.look), one.meta["frames"])) for one in wanted]
    clips = arguments.segmentation, arguments.detector, arguments.fps, arguments.frames_per_clip
    return Plan(*clips, tuple(looks.values()), tuple(inputs), arguments.workers > videos), places


def build(job):
    """Build the backbones, and refuse folders that others were used for."""
    arguments = job.arguments
    for one in job.wanted:
        options = {"precision": arguments.precision, "clips": len(job.videos) * CLIPS_PER_TRAILER}
        one.run = divita.extractor(
            one.meta["backbone"], one.weights, one.meta["frames"], arguments.batch_size, **options
        )
        names = "features", "digest", "parameters", "macs_per_clip"
        one.meta |= {name: getattr(one.run, name) for name in names}
        check_meta(one.folder / "meta.json", one.meta, arguments.overwrite)


def prepare(job):
    """Decode this rank's trailers, run the backbones over their clips and save the trailers as they are complete."""
    given = job.arguments
    plan, places = make_plan(given, job.wanted, len(job.todo))
    messages = decode_all(job.todo, decoding(plan), given.workers, given.patience)
    messages = in_background(messages, ahead=2 * given.batch_size)
    with contextlib.closing(messages):
        where = divita.device() + (f", rank {job.rank} of {job.ranks}" if job.ranks > 1 else "")
        print(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {where}", flush=True)
        build(job)
        job.start()
        batches = [Batches(one, given.batch_size) for one in job.wanted]
        trailers = {}
        with tqdm(total=job.left, unit="trailer", disable=job.rank > 0, smoothing=0.05) as job.bar:
            for mid, kind, *content in messages:
                trailer = trailers.setdefault(mid, Trailer(mid))
                touched = {trailer}
                if kind == "failed":
                    del trailers[mid]
                    job.fail(mid, *content)
                elif kind == "clip":
                    number, arrays = content
                    touched.update(*(b.add(trailer, number, arrays[p]) for b, p in zip(batches, places)))
                else:
                    trailer.rows = content[0]
                    finish(job, mid, *content[1:])
                save_complete(job, touched, trailers)
            save_complete(job, set().union(*(batch.flush() for batch in batches)), trailers)
            wait_for_ranks(job)


def finish(job, mid, thumbnails, duration, remark):
    if remark:
        job.say(f"{mid}: {remark}")
    if mid in job.sheets:
        draw_sheet(job.out / "contact_sheets" / f"{mid}.png", mid, thumbnails, duration)


def save_complete(job, touched, trailers):
    for trailer in sorted(touched, key=lambda trailer: trailer.mid):
        if trailers.get(trailer.mid) is trailer and trailer.complete(job.folders):
            job.save(trailers.pop(trailer.mid))


def wait_for_ranks(job):
    """Wait until all of torchrun's ranks are here: it would end the others if one of them ended with status 1."""
    if job.ranks == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    store, *_ = next(torch.distributed.rendezvous("env://"))
    store.add("prepared", 1)
    while store.add("prepared", 0) < job.ranks:
        time.sleep(0.5)
        job.advance()
    job.advance(now=True)


def main(arguments):
    """Prepare videos, or fetch what is published; return the exit status."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    if arguments.download:
        return download(arguments.download, out)
    weights = chosen_weights(arguments)
    if arguments.videos is None:
        if divita.ranks()[1] > 1:
            raise UserError("the demo is for one process; make it without torchrun, or give --videos")
        make_demo(out, arguments.workers)
        arguments.videos, arguments.labels = out / "videos", out / "labels.csv"
        arguments.image_frames = arguments.image_frames or DEMO_IMAGE_FRAMES
    videos = find_videos(arguments.videos)
    wanted = wanted_representations(arguments, weights)
    for one in wanted:
        check_meta(one.folder / "meta.json", one.meta, arguments.overwrite)
    if arguments.labels and divita.ranks()[0] == 0:
        take_labels(arguments, videos)
    divita.sweep(out)
    job = Job(arguments, videos, wanted)
    job.record(dict.fromkeys(job.todo))
    refuse_names(job)
    if job.todo:
        prepare(job)
    else:
        wait_for_ranks(job)
    return summary(job)


def summary(job):
    """Say where the results lie and what to do next; return the exit status."""
    if job.rank == 0:
        done = len(job.done())
        print(f"{done} of {len(job.videos)} trailers prepared in {job.out}, {job.made} of them now, {job.clips} clips")
        for one in job.wanted:
            print(f"  {one.folder}")
        print(f"  {job.tables}: the clips' times")
        if job.sheets:
            print(f"  {job.out / 'contact_sheets'}: some trailers' shots as pictures")
        if (job.out / "failed.csv").exists():
            print(f"  {job.out / 'failed.csv'}: what could not be prepared")
        then = f"03_evaluate.py --predict {job.out} --run NAME"
        if (job.out / "labels.csv").exists():
            then = f"02_train.py --data {job.out} --runs runs/{job.out.resolve().name}"
        print(f"next: python {then}")
    return 1 if job.failed else 0


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
