"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers, made first
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --like runs/demo/RUN --videos DIR --out data/new       as the inputs of a run were made
    python 01_prepare.py --like data/mine/REPRESENTATION --fps 8         as a representation was made, but at 8 frames/s
    python 01_prepare.py --download all --out data/published          the published labels and representations
    torchrun --nproc-per-node 4 01_prepare.py --videos DIR --out data/mine      the same on four GPUs

A folder holds one video per trailer, and the video's name without its suffix is the trailer's mid. Every video is
decoded once, in a process of its own: PySceneDetect cuts it into shots, each shot is cut into clips at the target frame
rate, and the clips of all trailers fill the batches of all backbones. What is done already is skipped, so the same
command goes on after an interruption, and a video that cannot be decoded is named in failed.csv.
"""

# ruff: noqa: E402 (imports follow the command line, so that --help answers at once)
import argparse
import os
import signal

SHORTEST_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames per second, and as long at any other rate
LONGEST_STEP = 10.0  # seconds from one frame to the next that are taken on trust
LONGEST_PAUSE = 3600.0  # seconds that are believed if the timestamps go on from there; more is a damaged timestamp
FRAMES_AHEAD = 3  # decoded in advance; of more, the first leave a processor's cache before they are used
MOST_ON_SHEET = 90  # shots on a contact sheet

DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # whose weights come with a package; the demo's others are random


def parse_arguments(like=None):
    """Read the command line; like: {option: value} in place of the usual defaults."""
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # so that an error is one line
    add = parser.add_argument_group("what").add_argument
    add("--videos", metavar="PATH", nargs="+", help="folders of films, <mid>.mp4, or films (the demo)")
    add("--labels", metavar="CSV", help="genres as in mtgc.csv (none, to be predicted)")
    add("--out", metavar="DIR", default=DEMO_OUT, help="data folder to write (%(default)s)")
    add("--like", metavar="DIR", nargs="+", help="a run or representations: prepare as its inputs or these were")
    add("--download", metavar="NAME", nargs="+", help="only fetch published representations, or all")
    add = parser.add_argument_group("backbones").add_argument
    add("--image", metavar="NAME", nargs="+", default=["efficientnetlite_b0"], help="or none (efficientnetlite_b0)")
    add("--video", metavar="NAME", nargs="+", default=["shufflenet3d"], help="or none (shufflenet3d)")
    add("--weights", metavar="W", nargs="+", default=[], help="random, NAME=FILE, pretrained (pretrained)")
    add("--image-frames", metavar="N", type=int, help="of a clip, for image backbones (all)")
    add("--precision", choices=["float32", "bfloat16"], help="of the backbones (float32)")
    add("--batch-size", metavar="N", type=int, default=16, help="clips (%(default)s)")
    add = parser.add_argument_group("clips").add_argument
    add("--segmentation", choices=["shots", "seconds"], default="shots", help="cut at shots or not (%(default)s)")
    add("--detector", choices=["adaptive", "content"], default="adaptive", help="of shots (%(default)s)")
    add("--fps", metavar="F", type=float, default=24.0, help="target frames per second (%(default)g)")
    add("--frames-per-clip", metavar="N", type=int, default=24, help="(%(default)s)")
    add = parser.add_argument_group("the job").add_argument
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # not on macOS
    add("--workers", metavar="N", type=int, default=cores, help="films decoded at a time (%(default)s)")
    add("--overwrite", action="store_true", help="make again what is there")
    add("--sheets", metavar="N", type=int, default=3, help="contact sheets (%(default)s)")
    add("--patience", metavar="S", type=float, default=60, help="seconds without a frame until a video fails (60)")
    parser.set_defaults(run=None, metas={}, **(like or {}))
    arguments = parser.parse_args()
    least = {"image_frames": 1, "batch_size": 1, "fps": 0.1, "frames_per_clip": 1, "workers": 1, "sheets": 0}
    for name, smallest in {**least, "patience": 0.1}.items():
        value = getattr(arguments, name)
        if value is not None and not smallest <= value < float("inf"):
            parser.error(f"argument --{name.replace('_', '-')}: must be at least {smallest}")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # every file is written whole, so that the process may end anywhere
    ARGUMENTS = parse_arguments()

import collections
import contextlib
import ctypes
import datetime
import functools
import hashlib
import io
import multiprocessing
import queue
import shlex
import shutil
import sys
import tarfile
import threading
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path

import divita  # first, as it sets the number of threads

# isort: split
import cv2
import keras
import numpy as np
import scenedetect
import torch
from scenedetect.common import Timecode
from tqdm import tqdm

from divita import UserError, listed, say

cv2.setNumThreads(1)  # films are decoded side by side
FORK = multiprocessing.get_context("fork")  # starts at once, where a fresh process imports Keras for seconds


def main(arguments):
    """Prepare videos, or fetch what is published; return the exit status."""
    if arguments.like:
        arguments = follow(arguments)
    out = divita.writable(Path(arguments.out))
    if arguments.download:
        return download(arguments.download, out)
    if arguments.videos is None and arguments.image_frames is None:
        arguments.image_frames = DEMO_IMAGE_FRAMES
    wanted = wanted_representations(arguments)
    if arguments.videos is None:
        make_demo(out, arguments.workers)
        videos = divita.find_videos([out / "videos"])
    else:
        videos = divita.find_videos(arguments.videos)
        if (out / "true_cuts.csv").exists() and any(path.parent.parent != out.absolute() for path in videos.values()):
            raise UserError(f"{out}: is the demo's, where other films would be mixed with it; give another --out")
    job = make_job(arguments, out, videos, wanted)
    if job.todo:
        prepare(job)
    return summary(job)


# ---- From films to representations ----


@dataclass
class Job:
    """This process's share of the trailers."""

    arguments: argparse.Namespace
    out: Path
    videos: dict  # {mid: path} of all ranks
    wanted: list  # of Wanted
    tables: Path  # the folder of the clip tables
    todo: dict = field(default_factory=dict)  # {mid: path} of what this rank has to prepare
    failed: set = field(default_factory=set)  # mids
    made: int = 0  # trailers


def prepare(job):
    """Decode this rank's trailers, run the backbones over their clips and save the trailers as they are complete."""
    given, (rank, ranks) = job.arguments, divita.ranks()
    films, batch = {}, []  # {mid: Film}, once its decoding has ended; [(mid, what the backbones see of a clip)]
    vectors = collections.defaultdict(lambda: [[] for _ in job.wanted])  # {mid: a list of vectors (F) per backbone}
    with decoded(job.todo, make_plan(job), given.workers, given.patience, most=2 * given.batch_size) as messages:
        where = f"{divita.device()}, rank {rank} of {ranks}" if ranks > 1 else divita.device()
        say(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {where}")
        build(job)
        name = f"rank 0 of {ranks}" if ranks > 1 else None
        with tqdm(total=len(job.todo), desc=name, unit="trailer", disable=rank > 0, smoothing=0.05) as bar:
            for mid, kind, content in messages:
                if kind == "clip":
                    batch.append((mid, content))
                    if len(batch) == given.batch_size:
                        run_batch(job, batch, vectors)
                elif kind == "end":
                    films[mid] = content
                    if content.remark:
                        tqdm.write(f"{mid}: {content.remark}", file=sys.stderr)
                    draw_sheet(job, mid, content)
                else:
                    fail(job, mid, content)
                    bar.update()
                save_complete(job, films, vectors, bar)
            if batch:
                run_batch(job, batch, vectors)
            save_complete(job, films, vectors, bar)


def run_batch(job, batch, vectors):
    """Run the backbones over a batch's clips, hand each vector to its trailer and empty the batch."""
    for i, one in enumerate(job.wanted):
        made = one.extract(np.stack([inputs[i] for _, inputs in batch]))  # (N, T, S, S, 3) -> (N, F)
        for (mid, _), vector in zip(batch, made):
            vectors[mid][i].append(vector)
    batch.clear()


def save_complete(job, films, vectors, bar):
    """Save the trailers that are decoded to the end and have the vectors of all their clips."""
    for mid, film in list(films.items()):
        if len(vectors[mid][0]) == len(film.rows):
            save(job, mid, films.pop(mid), [np.stack(clips) for clips in vectors.pop(mid)])
            bar.update()


def save(job, mid, film, vectors):
    """Write a trailer's clip table and, with a note of what they were made from, its vectors, (clips, F) each."""
    if not all(np.isfinite(clips).all() for clips in vectors):
        return fail(job, mid, "a backbone's vectors are not all finite numbers")
    table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
    table += "".join(",".join(map(str, row)) + "\n" for row in film.rows)
    divita.write_text(job.tables / f"{mid}.csv", table)
    source = np.array([film.digest, divita.digest_of(table)])
    for one, clips in zip(job.wanted, vectors):
        with divita.written(one.folder / f"{mid}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, clips)
            np.save(file, source)
    job.made += 1


def fail(job, mid, reason):
    """Name a trailer that cannot be prepared, on the screen and in failed.csv."""
    job.failed.add(mid)
    for one in job.wanted:  # what an earlier film left
        if os.path.exists(one.folder / f"{mid}.npy"):  # also where the name is too long for any file
            (one.folder / f"{mid}.npy").unlink()
    record(job, {mid: reason})
    tqdm.write(f"{printable(mid)}: failed: {reason}", file=sys.stderr)


# ---- A film's frames ----


class VideoError(Exception):
    """Why a video cannot be prepared, in a few words."""


class Frame:
    """A frame of a film: its number, its time in seconds, its picture, uint8 BGR (H, W, 3)."""

    def __init__(self, number, time, picture):
        self.number, self.time, self.picture, self.views = number, time, picture, {}

    def view(self, look):
        """Return look(picture) as RGB, made once. Channels are turned here, where there are few pixels left."""
        if look not in self.views:
            self.views[look] = cv2.cvtColor(look(self.picture), cv2.COLOR_BGR2RGB)
        return self.views[look]


def read_frames(capture, alive, ahead):
    """Yield the Frames of a film but damaged ones, calling alive() for all; ahead: a thread decodes the next meanwhile.

    Their times increase. Timestamps that increase are true, however long a picture is held. One that is missing, stands
    still, jumps back or leaps ahead of the one that follows is replaced by one frame's duration. After a jump that
    lasts (two recordings joined), the times go on from where they were.
    """
    pictures = in_a_thread(decoded_pictures(capture)) if ahead else decoded_pictures(capture)
    usual, number, this = 1 / sane_rate(capture.get(cv2.CAP_PROP_FPS)), 0, next(pictures, None)
    while this:
        following = next(pictures, None)
        alive()
        timestamp, picture = this
        if number == 0:
            time, offset, detour = -usual, -timestamp, -timestamp  # its time will be 0
        longest = LONGEST_PAUSE if following is None or timestamp <= following[0] else LONGEST_STEP
        for shift in (offset, detour):
            if 0 < timestamp + shift - time <= longest:
                time, offset = timestamp + shift, shift
                break
        else:
            time += usual
            detour = time - timestamp
        if picture is not None:
            yield Frame(number, time, picture)
        this, number = following, number + 1


def decoded_pictures(capture):
    """Yield (timestamp in seconds, picture or None) as they come."""
    while any(capture.grab() for _ in range(5)):  # past a few damaged packets
        timestamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        whole, picture = capture.retrieve()
        yield timestamp, picture if whole else None


def in_a_thread(items):
    """Yield what an iterator yields, the next items of which a thread gets meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        following = collections.deque(thread.submit(next, items, None) for _ in range(FRAMES_AHEAD))
        while item := following.popleft().result():
            following.append(thread.submit(next, items, None))
            yield item


def sane_rate(fps):
    """Return the frame rate that a header claims, 24 where the claim is absurd."""
    return fps if 1 <= fps <= 240 else 24.0


# ---- Shots ----


def find_shots(frames, name):
    """Yield (frame, whether it starts a shot), with the cuts that PySceneDetect's SceneManager finds.

    The detector knows of a cut some frames late, so that as many frames wait.
    """
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = kind(min_scene_len=SHORTEST_SHOT)
    microsecond, rate = Fraction(1, 10**6), scenedetect.FrameTimecode(0, 24.0)  # a rate is asked for and not used
    waiting, cuts, size = collections.deque(), set(), None
    for frame in frames:
        if size is None:
            height, width, _ = frame.picture.shape
            factor = scenedetect.scene_manager.compute_downscale_factor(max(width, height))
            size = max(1, round(width / factor)), max(1, round(height / factor))
        frame.tick = round(frame.time * 10**6)
        timecode = scenedetect.FrameTimecode(timecode=Timecode(frame.tick, microsecond), fps=rate)
        small = cv2.resize(frame.picture, size, interpolation=cv2.INTER_LINEAR)
        cuts.update(cut.pts for cut in detector.process_frame(timecode, small))
        waiting.append(frame)
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
    inputs: tuple  # for each backbone a function of a picture, its preprocessing, and how many frames of a clip it sees
    ahead: bool = False  # whether a thread decodes ahead: where there are more cores than films


def make_plan(job):
    """Return the Plan that serves all backbones; those with the same preprocessing share it."""
    given, looks, inputs = job.arguments, {}, []
    for one in job.wanted:
        backbone = divita.find_backbone(one.meta["backbone"])
        preprocessing = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
        look = looks.setdefault(preprocessing, functools.partial(divita.preprocess, backbone=backbone))
        inputs.append((look, one.meta["frames"]))
    ahead = given.workers > len(job.todo)
    return Plan(given.segmentation, given.detector, given.fps, given.frames_per_clip, tuple(inputs), ahead)


def positions(frames, frames_per_clip):
    """Return which of a clip's frames are seen: `frames` of them, evenly spaced."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


@dataclass
class Film:
    """What is known of a film, all of it when it has been decoded."""

    digest: str
    rows: list = field(default_factory=list)  # of the clip table
    thumbnails: list = field(default_factory=list)  # for each shot its start in seconds and a small picture
    duration: float = 0.0  # seconds
    remark: str | None = None


class Shot:
    """Cuts one shot into clips, which it enters into the film's clip table.

    Target frame k is due k / fps seconds after the shot's start. A frame is taken for the target frame nearest to it
    in time, the first one if there are several, and stays until the next is taken.
    """

    def __init__(self, film, plan, start):
        self.film, self.plan, self.start = film, plan, start
        self.wanted = [(look, positions(n, plan.frames_per_clip)) for look, n in plan.inputs]
        self.length = 0  # target frames so far
        self.shown = self.thumbnail = None

    def add(self, frame):
        """Take a source frame; yield the clips that it completes."""
        due = round((frame.time - self.start) * self.plan.fps)
        if due >= self.length:
            yield from self.show_until(due)
            self.shown = frame
            yield from self.show_until(due + 1)

    def end(self, time):
        """Yield the last clip, if the shot ends at `time` and at least half of it is there or it is the only one."""
        length = max(self.length, round((time - self.start) * self.plan.fps))
        clips = max(1, (length + self.plan.frames_per_clip // 2) // self.plan.frames_per_clip)
        yield from self.show_until(clips * self.plan.frames_per_clip, time)
        shots = self.film.thumbnails
        shots.append((self.start, self.thumbnail if len(shots) < MOST_ON_SHEET else None))

    def show_until(self, length, end=float("inf")):
        """Show the current frame up to target frame number `length`; yield ("clip", inputs) for each that is full."""
        per_clip, film = self.plan.frames_per_clip, self.film
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
                times = round(start, 6), round(min(start + per_clip / self.plan.fps, end), 6)
                film.rows.append((len(film.rows), len(film.thumbnails), self.first, self.shown.number + 1, *times))
                yield "clip", [np.stack(pictures) for pictures in self.pictures]


def read_clips(path, plan, alive):
    """Decode a film once; yield ("clip", [uint8 (T, S, S, 3) per input of the plan]) for each clip, ("end", Film).

    FFmpeg decodes with one thread: with more, damaged files decode differently each time. Films are decoded side by
    side instead.
    """
    if not path.is_file():
        raise VideoError("not a file, or a broken link")
    film, shot, time = Film(film_digest(path)), None, 0.0
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError("no video in it that can be decoded" if path.stat().st_size else "an empty file")
    frames = read_frames(capture, alive, plan.ahead)
    if plan.segmentation == "shots":
        frames = find_shots(frames, plan.detector)
    else:
        frames = ((frame, False) for frame in frames)
    for frame, starts in frames:
        time, step = frame.time, frame.time - time
        if shot is None or starts:
            if shot:
                yield from shot.end(frame.time)
            shot = Shot(film, plan, frame.time)
        yield from shot.add(frame)
    if shot is None:
        raise VideoError("not one frame can be decoded")
    film.duration, film.remark = length_of(capture, frame, step)
    yield from shot.end(film.duration)
    capture.release()  # while a crash still fails the film
    yield "end", film


def length_of(capture, last, step):
    """Return how many seconds a film lasts, by its last frame, and a remark if that is less than its header promises.

    The last frame is taken to last as long as frames do on average or, where pauses lengthen that, as the one before it
    (`step` seconds). A picture that is no film is a VideoError: an audio file's cover, for which FFmpeg claims 90,000
    pictures a second.
    """
    rate, promised_frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if last.number == 0 and rate > 1000:
        raise VideoError("a picture, such as a cover, and no film")
    average = last.time / last.number if last.number else 1 / sane_rate(rate)
    duration = last.time + (average if average < 1 else step)
    promised = promised_frames / rate if rate > 0 else 0.0
    if promised < 24 * 3600 and last.number + 1 >= promised_frames and promised > duration + 1:
        return promised, None  # all frames are there, and the last one is held
    if promised < 24 * 3600 and promised * 0.97 - 0.5 > duration:
        return duration, f"only {duration:.1f} s of {promised:.1f} s can be decoded; they are used"
    return duration, None


# ---- What is to be made, and what is there already ----


@dataclass
class Wanted:
    """A representation to be made: its folder, what meta.json will say of it, and its backbone."""

    folder: Path
    meta: dict  # what is known before the backbone is built
    weights: str | Path
    extract: object = None  # a divita.Extractor


def follow(arguments):
    """Return the arguments with what --like names in place of the defaults.

    --like is a run, whose inputs no other option may contradict, or representations, which the other options change.
    `run` is the run's folder or None, `metas` {backbone: meta.json} of the inputs or representations.
    """
    folders = [Path(path) for path in arguments.like]
    configs = sorted(folders[0].glob("split*/config.json")) or sorted(folders[0].glob("config.json"))
    if configs:
        metas = list(divita.inputs(divita.read_json(configs[0])).values())
        options = {}
    else:
        metas = [divita.meta_of(folder) for folder in folders]
        if not all("backbone" in meta for meta in metas):
            raise UserError(f"--like {listed(arguments.like)}: no finished run there, and no representation")
        options = {"out": str(folders[0].parent), "videos": metas[0].get("videos")}
    for kind in ("image", "video"):
        options[kind] = [meta["backbone"] for meta in metas if meta["input"] == kind] or ["none"]
    for meta in metas:
        for name in ("segmentation", "detector", "fps", "frames_per_clip"):
            if meta.get(name) is not None:  # not all is known of a published representation
                options[name] = meta[name]
        if meta["input"] == "image" and (configs or meta["frames"] < meta["frames_per_clip"]):  # else all
            options["image_frames"] = meta["frames"]
    followed = parse_arguments(options)
    precisions = [meta.get("precision") or followed.precision for meta in metas] if followed.precision else []
    made = [*options.items(), *(("precision", precision) for precision in precisions)]
    for name, value in made if configs else ():
        if (given := getattr(followed, name)) != value:
            raise UserError(f"{option(name, given)} contradicts --like {folders[0]}, made with {option(name, value)}")
    followed.run = configs[0].parent.parent if configs else None
    followed.metas = {meta["backbone"]: meta for meta in metas}
    return followed


def option(name, value):
    return f"--{name.replace('_', '-')} {' '.join(value) if isinstance(value, list) else value}"


def wanted_representations(arguments):
    """Return the Wanted that the command line asks for; a UserError names what does not exist or was made otherwise."""
    asked = [(kind, name) for kind in ("image", "video") for name in getattr(arguments, kind) if name != "none"]
    if not asked:
        raise UserError("--image none --video none: nothing to make; name at least one backbone")
    weights, wanted = chosen_weights(arguments, [name for _, name in asked]), []
    for kind, name in dict.fromkeys(asked):
        backbone, frames = divita.find_backbone(name), arguments.frames_per_clip
        if backbone.input != kind:
            raise UserError(f"--{kind} {name}: it is for --{backbone.input}")
        if kind == "image" and arguments.image_frames:
            frames = arguments.image_frames
        if frames > arguments.frames_per_clip:
            raise UserError(f"--image-frames {frames}: a clip has only {arguments.frames_per_clip} frames")
        folder = divita.representation_name(name, arguments.segmentation, arguments.fps, arguments.frames_per_clip)
        kind_of_weights = "file" if isinstance(weights[name], Path) else weights[name]
        meta = {"representation": folder, "input": kind, "backbone": name, "weights": kind_of_weights}
        meta |= {**clip_setting(arguments), "frames": frames, "input_size": backbone.size}
        meta["precision"] = arguments.precision or arguments.metas.get(name, {}).get("precision") or "float32"
        if isinstance(weights[name], Path):  # so that another file is refused where nothing is left to do, too
            meta["file"] = f"sha256:{hash_of(weights[name], 'sha256')}"
        wanted.append(Wanted(Path(arguments.out) / folder, meta, weights[name]))
        check_meta(wanted[-1].folder, meta, arguments.overwrite)
    return wanted


def chosen_weights(arguments, names):
    """Return {backbone's name: "pretrained", "random" or a checkpoint's path} as --weights, --like or demo say."""
    weights = dict.fromkeys(names, "pretrained")
    if arguments.videos is None:
        weights.update({name: "random" for name in names if name not in DEMO_PRETRAINED})
    weights.update({name: meta["weights"] for name, meta in arguments.metas.items() if name in names})
    words = [] if arguments.like else ["pretrained", "random"]
    for word in sorted(arguments.weights, key=lambda word: "=" in word):  # the files last
        name, _, file = word.rpartition("=")
        if word in words:
            weights = dict.fromkeys(names, word)
        elif name in names and Path(file).is_file():
            weights[name] = Path(file)
        else:
            beside = f" beside --like {listed(arguments.like)}" if arguments.like else ""
            choices = ", ".join([*words, *(f"{name}=FILE" for name in names)])
            raise UserError(f"--weights {word}{beside}: give {choices}, with a FILE that is there")
    if of_file := [name for name in names if weights[name] == "file"]:
        like, files = listed(arguments.like), " ".join(f"{name}=FILE" for name in of_file)
        raise UserError(f"--like {like}: weights came from a file; add --weights {files}")
    return weights


def clip_setting(arguments):
    """Return the part of meta.json that says how videos became clips."""
    detector = arguments.detector if arguments.segmentation == "shots" else None
    setting = {"segmentation": arguments.segmentation, "detector": detector}
    return setting | {"fps": arguments.fps, "frames_per_clip": arguments.frames_per_clip}


def difference(folder, meta):
    """Return in what a folder's meta.json, if it is there, differs, as words, or nothing."""
    there = divita.meta_of(folder) or meta
    for name, value in meta.items():
        if there.get(name) != value:
            return f"{name} {there.get(name)}, not {value}"
    return ""


def check_meta(folder, meta, overwrite):
    """Refuse to add to a folder what was made differently."""
    if not overwrite and (other := difference(folder, meta)):
        remedy = "give the same options, another --out, or --overwrite to make it again"
        raise UserError(f"{folder}: was made with {other}; {remedy}")


def make_job(arguments, out, videos, wanted):
    """Take the labels in, look at what is there and return the Job of this rank; name what cannot be prepared."""
    rank, ranks = divita.ranks()
    if arguments.overwrite and ranks > 1:
        folders = ", ".join(str(one.folder) for one in wanted)
        raise UserError(f"--overwrite is for one process; remove {folders} instead")
    out.mkdir(parents=True, exist_ok=True)
    divita.sweep(out)
    if rank == 0:
        take_labels(arguments, out, videos)
    job = Job(arguments, out, videos, wanted, tables_folder(arguments, out))
    there = set() if arguments.overwrite else prepared(job)
    for mid in list(videos)[rank::ranks]:
        if mid in there and is_current(job, mid):
            continue
        try:
            divita.check_mid(mid, "")
            job.todo[mid] = videos[mid]
        except UserError:
            fail(job, mid, "its name cannot name a trailer's files; rename it")
    record(job, dict.fromkeys(job.todo))  # has not failed any more, until it does again
    return job


def tables_folder(arguments, out):
    """Return the folder of the clip tables: shots/ for a data folder's first setting, its own for every other."""
    folder, setting = out / "shots", clip_setting(arguments)
    if difference(folder, setting):
        detector = f"_{arguments.detector}" if arguments.detector == "content" else ""
        folder = out / f"shots_{arguments.segmentation}{detector}_fps{arguments.fps:g}_fpc{arguments.frames_per_clip}"
        check_meta(folder, setting, arguments.overwrite)
    return folder


def take_labels(arguments, out, videos):
    """Copy the labels into the data folder, with splits; say which trailers lack a video and which lack labels."""
    path = out / "labels.csv"
    given = divita.read_labels(arguments.labels) if arguments.labels else None
    if given and not path.exists():
        divita.write_csv(path, *table_of(given))
    if not path.exists():
        return
    labels = divita.read_labels(path)
    if given and table_of(given) != table_of(labels):
        raise UserError(f"{path}: differs from {arguments.labels}; remove it to have it replaced")
    if gone := sorted(set(labels.mids) - set(videos)):
        say(f"{len(gone)} of {len(labels.mids)} labelled trailers have no video and are left out ({listed(gone, 10)})")
    if others := sorted(set(videos) - set(labels.mids)):
        names = printable(listed(others))
        say(f"{len(others)} of {len(videos)} videos have no labels and are prepared all the same ({names})")


def table_of(labels):
    """Return a labels.csv's header and its rows."""
    splits = [f"split{k}" for k in range(labels.splits.shape[1])]
    cells = np.concatenate([labels.y, labels.splits], 1).tolist()
    return ["mid", *labels.genres, *splits], [[mid, *row] for mid, row in zip(labels.mids, cells)]


def prepared(job):
    """Return the trailers of all ranks that have all their files, whatever these were made from."""
    found = set(job.videos)
    for folder in [job.tables, *(one.folder for one in job.wanted)]:
        files = os.listdir(folder) if (folder / "meta.json").exists() else []
        found &= {name[:-4] for name in files if name.endswith((".csv", ".npy"))}
    return found


def is_current(job, mid):
    """Tell whether a trailer's vectors were made from the film that is there now and from its clip table."""
    try:
        source = film_digest(job.videos[mid]), divita.digest_of((job.tables / f"{mid}.csv").read_text())
        return all(divita.read_vectors(one.folder / f"{mid}.npy")[1] == source for one in job.wanted)
    except (OSError, ValueError):  # one of the files is gone or broken
        return False


def film_digest(path, end=2**16):
    """Return a digest of a file's length, beginning and end, which no two films have in common."""
    with open(path, "rb") as file:
        beginning, length = file.read(end), file.seek(0, os.SEEK_END)
        file.seek(max(0, length - end))
        return hashlib.sha256(str(length).encode() + beginning + file.read(end)).hexdigest()[:16]


def build(job):
    """Build the backbones, refuse folders that others were used for, and write what says how they are filled."""
    arguments = job.arguments
    for one in job.wanted:
        name, frames, precision = one.meta["backbone"], one.meta["frames"], one.meta["precision"]
        one.extract = divita.Extractor(name, one.weights, frames, arguments.batch_size, precision)
        expected = arguments.metas.get(name, {}).get("digest")
        if expected not in (None, one.extract.digest):
            like = listed(arguments.like)
            raise UserError(f"{name}: its weights are {one.extract.digest}, not those of {like}, {expected}")
        for key in ("features", "digest", "parameters", "macs_per_clip"):
            one.meta[key] = getattr(one.extract, key)
        check_meta(one.folder, one.meta, arguments.overwrite)
    divita.write_json(job.tables / "meta.json", clip_setting(arguments))
    paths = arguments.videos and [str(Path(path).absolute()) for path in arguments.videos]  # none: the demo's
    synthetic = any((path.parent.parent / "true_cuts.csv").exists() for path in job.videos.values())
    for one in job.wanted:
        if difference(one.folder, one.meta):  # beside --overwrite: no old files among new ones
            for path in one.folder.glob("*.npy"):
                path.unlink()
        about = {"clips": job.tables.name, "videos": paths, "synthetic": synthetic}
        divita.write_json(one.folder / "meta.json", one.meta | about)


def record(job, outcomes):
    """Bring failed.csv up to date with {mid: reason, or None for one that has not failed}."""
    path, present = job.out / "failed.csv", set(map(printable, job.videos))
    with divita.locked(job.out):
        rows = divita.read_table(path)[1] if path.exists() else []
        reasons = dict(row for _, row in rows) | {printable(mid): reason for mid, reason in outcomes.items()}
        rows = [(mid, reason) for mid, reason in sorted(reasons.items()) if mid in present and reason]
        if rows:
            divita.write_csv(path, ["mid", "reason"], rows)
        else:
            path.unlink(missing_ok=True)


def printable(mid):
    return mid if mid.isprintable() else repr(mid)[1:-1]


def summary(job):
    """Say where the results lie and what to do next; return the exit status."""
    (rank, ranks), torchrun = divita.ranks(), "TORCHELASTIC_RUN_ID" in os.environ
    made = sum_over_ranks(job.made) if ranks > 1 and torchrun else job.made
    if rank == 0:
        now = f"{made} of them now" if torchrun or ranks == 1 else f"{made} of them now by this rank, 0 of {ranks}"
        say(f"{len(prepared(job))} of {len(job.videos)} trailers prepared in {job.out}, {now}")
        folders = [one.folder for one in job.wanted]
        for path in (*folders, job.tables, job.out / "contact_sheets", job.out / "failed.csv"):
            if path.exists():
                say(f"  {path}")
        say(f"next: {shlex.join(['python', *next_command(job)])}")
    return 1 if job.failed and not torchrun else 0  # torchrun would take a 1 for a crash


def sum_over_ranks(count):
    """Wait for all of torchrun's ranks; return the sum of their counts."""
    rank, ranks = divita.ranks()
    store, *_ = next(torch.distributed.rendezvous("env://"))
    store.set_timeout(datetime.timedelta(days=99))
    store.set(f"count of {rank}", str(count))
    return sum(int(store.get(f"count of {other}")) for other in range(ranks))  # get() waits


def next_command(job):
    """Return the command that goes on from here, as a list of words."""
    out, run = job.out, job.arguments.run
    if run:
        return ["03_evaluate.py", "--predict", str(out), "--runs", str(run.parent), "--run", run.name]
    if not (out / "labels.csv").exists():
        return ["03_evaluate.py", "--predict", str(out)]
    command = ["02_train.py", "--data", str(out)]
    if not all(one.folder.name.endswith(divita.representation_name("")) for one in job.wanted):
        names = {one.meta["input"]: one.folder.name for one in reversed(job.wanted)}  # the first of each
        command += ["--image", names.get("image", "none"), "--video", names.get("video", "none")]
    return [*command, "--runs", f"runs/{out.resolve().name}"]


# ---- Processes that decode ----


@contextlib.contextmanager
def decoded(films, plan, workers, patience, most):
    """Decode films, {mid: path}, in as many processes as `workers`, ahead of the reader by up to `most` messages.

    Yields a generator of (mid, kind, content): what read_clips() yields or ("failed", why). To be entered before this
    process has threads, as a process that is forked from one with threads may hang.
    """
    messages, left, started = queue.Queue(most), iter(films.items()), []
    try:
        for _ in range(min(workers, len(films))):
            frames = FORK.RawValue("L")  # decoded so far, in memory that the processes share
            started.append((*start_process(start_decoding, plan, frames), frames))
        for connection, _, frames in started:
            receiving = connection, frames, left, patience, messages
            threading.Thread(target=receive, args=receiving, daemon=True).start()
        yield read(messages, len(films))
    finally:
        for _, process, _ in started:
            process.kill()


def read(messages, films):
    """Yield what the threads put into the queue until each film has ended; raise what is an error."""
    while films:
        message = messages.get()
        if isinstance(message, Exception):
            raise message
        if message[1] in ("end", "failed"):
            films -= 1
        yield message


def receive(connection, frames, films, patience, messages):
    """Be a thread that has one film after another decoded and puts what comes of it into the queue."""
    try:
        for mid, path in films:  # the threads share this iterator
            connection.send(path)
            with Connection(recv_handle(connection)) as film:
                kind = None
                while kind not in ("end", "failed"):
                    kind, content = next_message(film, frames, patience)
                    messages.put((mid, kind, content))
    except (EOFError, OSError):
        messages.put(UserError("a process that decodes was ended or found no room for another; give fewer --workers"))
    except Exception as error:
        messages.put(error)  # for the main thread, which would wait for ever


def next_message(film, frames, patience):
    """Return the next message of the process that decodes a film, or why there is none.

    The patience is counted in parts, so that time in which this whole job did not run is not taken for silence.
    """
    seen = parts = 0
    while not film.poll(patience / 60):
        parts = parts + 1 if frames.value == seen else 0
        seen = frames.value
        if parts == 60:
            return "failed", f"no frame in {patience:g} s of decoding"
    try:
        return film.recv()
    except (EOFError, OSError):
        return "failed", "its decoding ended the process"


def start_process(target, *arguments):
    """Start target(connection, *arguments) in a process; return the other end of its connection, and the process."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=target, args=(theirs, *arguments))
    try:
        process.start()
    except OSError as error:
        raise UserError(f"no process can be started ({error.strerror}); give fewer --workers") from None
    theirs.close()
    return ours, process


def settle():
    """Prepare a new process: it ends with the one that started it, uses one core, and shows neither FFmpeg's messages,
    since one line of ours says what is wrong, nor that its connection is broken, since nobody is there any more."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != multiprocessing.parent_process().pid:
            sys.exit()  # it has ended before this line
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def start_decoding(connection, plan, frames):
    """Be a process without threads that starts one for each film, which a damaged film may end or keep for ever, and
    ends the one before."""
    settle()
    process = None
    while True:
        path = connection.recv()
        if process:
            process.kill()
            process.join()
        film, process = start_process(decode, path, plan, frames)
        send_handle(connection, film.fileno(), None)
        film.close()


def decode(connection, path, plan, frames):
    """Be the process that decodes one film: send what read_clips() yields or ("failed", why)."""

    def alive():
        frames.value += 1

    settle()
    try:
        for message in read_clips(path, plan, alive):
            connection.send(message)
    except VideoError as error:
        connection.send(("failed", str(error)))
    except (cv2.error, MemoryError, OSError, ValueError) as error:
        connection.send(("failed", f"cannot be decoded ({divita.one_line(error)})"))


# ---- Contact sheets ----


def thumbnail(picture):
    height, width, _ = picture.shape
    width = min(400, max(40, round(96 * width / height)))
    return cv2.resize(picture, (width, 96))


def draw_sheet(job, mid, film):
    """Draw one frame per shot of one of the first films below a time axis, so that a person sees what was found."""
    if job.arguments.segmentation != "shots" or mid not in list(job.videos)[: job.arguments.sheets]:
        return
    from matplotlib.figure import Figure

    starts, shown = [start for start, _ in film.thumbnails], film.thumbnails[:MOST_ON_SHEET]
    rows = 1 + -(-len(shown) // 6)
    figure = Figure(figsize=(13, 1.6 * rows), layout="constrained")
    axis = figure.add_subplot(rows, 6, (1, 6))
    axis.eventplot(starts, lineoffsets=0.5, color="black")
    more = f", the first {len(shown)} shown" if len(shown) < len(starts) else ""
    axis.set(xlim=(0, film.duration), ylim=(0, 1), yticks=[], xlabel="time (s); lines: where a shot starts")
    axis.set_title(f"{mid}: {len(starts)} shots in {film.duration:.1f} s{more}", parse_math=False)
    for number, (start, picture) in enumerate(shown, 1):
        axis = figure.add_subplot(rows, 6, 6 + number)
        axis.imshow(picture)
        axis.set_title(f"{number}: {start:.2f} s", fontsize=10)
        axis.axis("off")
    with divita.written(job.out / "contact_sheets" / f"{mid}.png") as temporary:
        figure.savefig(temporary, dpi=100)


# ---- The published data set ----

ZENODO = "https://zenodo.org/records/5716410/files"


def download(names, out):
    """Fetch the published labels and representations, and unpack them: out/mtgc.csv, out/<name>.zarr."""
    names = list(divita.PUBLISHED) if names == ["all"] else [name.removesuffix(".zarr") for name in names]
    kinds = {divita.meta_of(Path(f"{name}.zarr"))["input"]: name for name in names}  # refuses an unknown one
    out.mkdir(parents=True, exist_ok=True)
    with divita.locked(out):  # of two processes, the second finds everything there
        divita.sweep(out)
        fetch("mtgc.csv", out, divita.LABELS_MD5)
        for name in names:
            if not (out / f"{name}.zarr" / ".zgroup").exists():
                unpack(fetch(f"{name}.zarr.tar.gz", out, divita.PUBLISHED[name][1]), out)
    say(f"the published labels are in {out / 'mtgc.csv'}, the representations beside them:")
    for name in names:
        say(f"  {out / name}.zarr")
    inputs = ["--image", kinds.get("image", "none"), "--video", kinds.get("video", "none")]
    command = ["python", "02_train.py", "--data", str(out), *inputs, "--runs", f"runs/{out.resolve().name}"]
    say(f"next: {shlex.join(command)}")
    return 0


def fetch(name, out, md5):
    """Download a file of the record into a folder, unless it is there whole, and return its path."""
    path, url = out / name, f"{os.environ.get('DIVITA_PUBLISHED', ZENODO)}/{name}?download=1"
    by_hand = shlex.join(["curl", "-fLC", "-", "-o", str(path), url])  # goes on where it was
    if path.exists():
        if hash_of(path, "md5") != md5:
            raise UserError(f"{path}: its MD5 is not the published {md5}; complete it with {by_hand} or remove it")
        return path
    say(f"downloading {url}")
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    remedy = f"run the same command again or, if the line keeps breaking, {by_hand} first"
    with divita.written(path) as temporary, divita.downloading(name, remedy), contextlib.redirect_stdout(bar):
        keras.utils.get_file(temporary.name, url, cache_subdir=out.absolute(), file_hash=md5, hash_algorithm="md5")
    return path


def hash_of(path, name):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def unpack(archive, out):
    """Unpack <name>.tar.gz, which holds the folder <name>, and remove it. Nothing is written outside `out`."""
    name, folder = archive.name.removesuffix(".tar.gz"), out / ".unpacking"
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted command left
    say(f"unpacking {archive}")
    try:
        shutil.unpack_archive(archive, folder, filter="data")  # which refuses ../, links to the outside, devices
        (folder / name).replace(out / name)
    except (shutil.ReadError, tarfile.TarError, EOFError, zlib.error, FileNotFoundError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({divita.one_line(error)}); remove it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()


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

    Writes true_cuts.csv (mid, frame: the first frame of each shot but the first), labels.csv and videos/<mid>.mp4;
    what is there already is kept. A folder that holds something else is a UserError: it is not the demo's.
    """
    if divita.ranks()[1] > 1:
        raise UserError("the demo is for one process; make it without torchrun, or give --videos")
    y, splits = demo_labels()
    mids = [f"demo{i:03d}" for i in range(len(y))]
    edits = [demo_edit(i, np.flatnonzero(row)) for i, row in enumerate(y)]
    cuts = [(mid, cut) for mid, edit in zip(mids, edits) for cut in np.cumsum([n for _, n in edit])[:-1]]
    text = "mid,frame\n" + "".join(f"{mid},{cut}\n" for mid, cut in cuts)
    true_cuts, labels = out / "true_cuts.csv", out / "labels.csv"
    if any(out.glob("[!.]*")) and not (true_cuts.exists() and true_cuts.read_text() == text):
        raise UserError(f"{out}: holds something else than the demo; say with --videos where the films are")
    divita.write_text(true_cuts, text)  # first: from now on the folder is the demo's
    if not labels.exists():
        rows = [[mid, *row, *parts] for mid, row, parts in zip(mids, y, splits)]
        divita.write_csv(labels, ["mid", *GENRES, "split0", "split1", "split2"], rows)
    jobs = [(out / "videos" / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(zip(mids, edits))]
    if jobs := [job for job in jobs if not job[0].exists()]:
        with ProcessPoolExecutor(workers, FORK, settle) as processes:
            try:
                list(tqdm(processes.map(film, jobs), "demo trailers", len(jobs), unit="trailer"))
            except BrokenProcessPool:
                raise UserError("a process that makes the demo's films was ended; run the same command again") from None


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
    return y, np.choose((blocks[:, None] - np.arange(3)) % 5, [2, 1, 0, 0, 0])


def demo_edit(trailer, genres):
    """-> [(genre, frames), ...]: a trailer's shots, 0.7 to 3 s each, its genres taking turns, 15 to 20 s in all."""
    rng = np.random.default_rng([DEMO_SEED, 1, trailer])
    frames, end = [], rng.integers(15 * DEMO_FPS, 17 * DEMO_FPS)
    while sum(frames) < end:
        frames.append(int(np.exp(rng.uniform(np.log(17), np.log(72)))))  # short ones are more frequent
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
        if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != sum(frames for _, frames in edit):
            raise UserError(f"{path}: cannot be written whole; make room on the disk and run the same command again")


def paint(picture, hue, dark, rng):
    """-> canvas (162, 288, 3) uint8 BGR, larger than a frame: forms of one kind strewn over a shaded ground."""
    width, height = 3 * DEMO_SIZE[0] // 2, 3 * DEMO_SIZE[1] // 2
    ground, form = ((50, 65), (165, 185)) if dark else ((165, 185), (50, 65))  # ranges of brightness
    corners = colours(hue + rng.uniform(-12, 12, 4), ground, rng).reshape(2, 2, 3)
    canvas = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    plain, spacing = canvas.copy(), 20
    centres = np.mgrid[spacing / 2 : width : spacing, spacing / 2 : height : spacing].reshape(2, -1).T  # (N, 2)
    centres = centres + rng.uniform(-0.3, 0.3, centres.shape) * spacing  # an irregular grid
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
    hsv = np.stack([hue % 180, rng.uniform(50, 80, len(hue)), rng.uniform(*brightness, len(hue))], axis=1)
    return cv2.cvtColor(np.uint8(hsv)[None], cv2.COLOR_HSV2BGR)[0].astype(float)


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
    t, phase = np.arange(frames), rng.uniform(size=2)
    roll = 0.12 * np.sin(2 * np.pi * (phase[0] + t / 16 * (camera == "roll")))  # radians
    light = 0.85 + 0.15 * np.sin(2 * np.pi * (phase[1] + t / 9 * (camera == "pulse")))
    angle = rng.uniform(0, 2 * np.pi, frames)
    shake = 1.5 * (camera == "shake") * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # px
    zoom = rng.uniform(0.9, 1.1)
    centre, middle = np.array([canvas.shape[1], canvas.shape[0]]) * rng.uniform(0.4, 0.6, 2), np.array(DEMO_SIZE) / 2
    for i in range(frames):
        view = cv2.getRotationMatrix2D(middle, -np.degrees(roll[i]), 1 / zoom)  # frame -> canvas
        view[:, 2] += centre + shake[i] - middle
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(canvas, view, DEMO_SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)
        yield cv2.convertScaleAbs(frame, alpha=light[i])


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
