"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers, made first
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --like runs/demo/RUN --videos DIR --out data/new       as the inputs of a run were made
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

DEFAULTS = {
    "image": ["efficientnetlite_b0"],
    "video": ["shufflenet3d"],
    "segmentation": "shots",
    "detector": "adaptive",
    "fps": 24.0,
    "frames_per_clip": 24,
    "precision": "float32",
}
BATCH_SIZE = 16  # clips
SHORTEST_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames per second, and as long at any other rate
LONGEST_STEP = 10.0  # seconds from one frame to the next that are taken on trust
LONGEST_PAUSE = 3600.0  # seconds that are believed if the timestamps go on from there; more is a damaged timestamp
PATIENCE = 60.0  # seconds without a new frame, after which a video counts as failed
SHEETS, MOST_ON_SHEET = 3, 90  # contact sheets, shots on one
CLIPS_PER_TRAILER = 120  # expected, to decide whether freezing a backbone repays

DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # whose weights come with a package; the demo's others are random


def parse_arguments():
    """Read the command line. What --like may say instead is None where it is not given."""
    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description="Defaults are in parentheses.")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}; see --help\n")
    add = parser.add_argument_group("what").add_argument
    add("--videos", metavar="PATH", nargs="+", help="folders of films, <mid>.mp4, or films (the demo)")
    add("--labels", metavar="CSV", help="genres as in mtgc.csv (none, to be predicted)")
    add("--out", metavar="DIR", default=DEMO_OUT, help=f"data folder to write ({DEMO_OUT})")
    add("--like", metavar="RUN", help="a run's folder: prepare as its inputs were")
    add("--download", metavar="NAME", nargs="+", help="only fetch published representations, or all")
    add = parser.add_argument_group("backbones").add_argument
    add("--image", metavar="NAME", nargs="+", help=f"for images, or none ({' '.join(DEFAULTS['image'])})")
    add("--video", metavar="NAME", nargs="+", help=f"for clips, or none ({' '.join(DEFAULTS['video'])})")
    add("--weights", metavar="W", nargs="+", help="random, NAME=FILE, pretrained (pretrained)")
    add("--image-frames", type=number(int, 1), metavar="N", help="of a clip, for image backbones (all)")
    add("--precision", choices=["float32", "bfloat16"], help="of the backbones (float32)")
    add("--batch-size", type=number(int, 1), metavar="N", default=BATCH_SIZE, help=f"clips ({BATCH_SIZE})")
    add = parser.add_argument_group("clips").add_argument
    add("--segmentation", choices=["shots", "seconds"], help="cut at shots or not (shots)")
    add("--detector", choices=["adaptive", "content"], help="of shots (adaptive)")
    add("--fps", type=number(float, 0.1), metavar="F", help="target frames per second (24)")
    add("--frames-per-clip", type=number(int, 1), metavar="N", help="(24)")
    add = parser.add_argument_group("the job").add_argument
    cores = usable_cores()
    add("--workers", type=number(int, 1), metavar="N", default=cores, help=f"films decoded at a time ({cores})")
    add("--overwrite", action="store_true", help="make again what is there")
    add("--sheets", type=number(int, 0), metavar="N", default=SHEETS, help=f"contact sheets ({SHEETS})")
    help = f"seconds without a frame until a video fails ({PATIENCE:g})"
    add("--patience", type=number(float, 0.1), metavar="S", default=PATIENCE, help=help)
    return parser.parse_args()


def number(kind, smallest):
    """Return a type for argparse: an int or float that is finite and not too small."""

    def convert(text):
        if not smallest <= kind(text) < float("inf"):
            raise ValueError
        return kind(text)

    convert.__name__ = f"{kind.__name__} of at least {smallest}"
    return convert


def usable_cores():
    """Return how many cores this process may use, which a batch scheduler may have made fewer than the machine's."""
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        return os.process_cpu_count()
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # every file is written whole, so that the process may end anywhere
    ARGUMENTS = parse_arguments()

import collections
import contextlib
import datetime
import errno
import functools
import hashlib
import http.client
import json
import multiprocessing
import queue
import shlex
import shutil
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import wait
from pathlib import Path

import divita  # first, as it sets the number of threads

# isort: split
import cv2
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
    out = divita.writable(Path(arguments.out))
    if arguments.download:
        out.mkdir(parents=True, exist_ok=True)
        return download(arguments.download, out)
    like = inputs_of_run(arguments) if arguments.like else {}
    fill_in(arguments)
    weights = chosen_weights(arguments, like)
    wanted = wanted_representations(arguments, weights, like)
    if arguments.videos is None:
        make_demo(out, arguments.workers)
        videos = divita.find_videos([out / "videos"])
    else:
        videos = divita.find_videos(arguments.videos)
        if (out / "true_cuts.csv").exists() and any(path.parent.parent != out.absolute() for path in videos.values()):
            raise UserError(f"{out}: is the demo's, where other films would be mixed with it; give another --out")
    out.mkdir(parents=True, exist_ok=True)
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
    todo: dict  # {mid: path} of what this rank has to prepare
    failed: set = field(default_factory=set)  # mids
    made: int = 0  # trailers
    clips: int = 0


@dataclass(eq=False)
class Trailer:
    """What has been found out about a trailer so far."""

    mid: str
    film: str | None = None  # a digest
    vectors: dict = field(default_factory=lambda: collections.defaultdict(dict))  # {folder: {clip: vector (F)}}
    rows: list | None = None  # of the clip table, once decoding has ended


def prepare(job):
    """Decode this rank's trailers, run the backbones over their clips and save the trailers as they are complete."""
    given, (rank, ranks) = job.arguments, divita.ranks()
    plan = make_plan(given, job.wanted)
    trailers, batches = {}, [[] for _ in job.wanted]  # a batch is filled with (trailer, number of the clip, frames)
    with decoded(job.todo, plan, given.workers, given.patience, most=2 * given.batch_size) as messages:
        where = f"{divita.device()}, rank {rank} of {ranks}" if ranks > 1 else divita.device()
        say(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {where}")
        build(job)
        name = f"rank 0 of {ranks}" if ranks > 1 else None
        with tqdm(total=len(job.todo), desc=name, unit="trailer", disable=rank > 0, smoothing=0.05) as bar:
            for mid, kind, *content in messages:
                trailer = trailers.setdefault(mid, Trailer(mid))
                if kind == "film":
                    (trailer.film,) = content
                elif kind == "clip":
                    clip, inputs = content
                    for one, batch, frames in zip(job.wanted, batches, inputs):
                        batch.append((trailer, clip, frames))
                        if len(batch) == given.batch_size:
                            run_batch(one, batch)
                elif kind == "end":
                    trailer.rows, thumbnails, duration, remark = content
                    if remark:
                        tell(f"{mid}: {remark}")
                    draw_sheet(job, mid, thumbnails, duration)
                else:
                    del trailers[mid]
                    fail(job, mid, *content)
                    bar.update()
                save_complete(job, trailers, bar)
            for one, batch in zip(job.wanted, batches):
                run_batch(one, batch)
            save_complete(job, trailers, bar)


def run_batch(wanted, batch):
    """Run a backbone over a batch's clips, hand each vector to its trailer and empty the batch."""
    if batch:
        vectors = wanted.run(np.stack([frames for _, _, frames in batch]))  # (N, T, S, S, 3) -> (N, F)
        for (trailer, clip, _), vector in zip(batch, vectors):
            trailer.vectors[wanted.folder][clip] = vector
        batch.clear()


def save_complete(job, trailers, bar):
    """Save the trailers that are decoded to the end and have the vectors of all their clips."""
    for trailer in list(trailers.values()):
        vectors = [trailer.vectors[one.folder] for one in job.wanted]
        if trailer.rows is not None and all(len(v) == len(trailer.rows) for v in vectors):
            save(job, trailers.pop(trailer.mid))
            bar.update()


def save(job, trailer):
    """Write a trailer's clip table and, with a note of what they were made from, its vectors."""
    table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
    table += "".join(",".join(map(str, row)) + "\n" for row in trailer.rows)
    vectors = {folder: np.stack([v[i] for i in range(len(v))]) for folder, v in trailer.vectors.items()}
    if not all(np.isfinite(clips).all() for clips in vectors.values()):
        return fail(job, trailer.mid, "a backbone's vectors are not all finite numbers")
    path = job.tables / f"{trailer.mid}.csv"
    if not path.exists() or path.read_text() != table:
        divita.write_text(path, table)
    source = np.array([trailer.film, divita.digest_of(table)])
    for folder, clips in vectors.items():
        with divita.written(folder / f"{trailer.mid}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, clips)  # (clips, F)
            np.save(file, source)
    job.made += 1
    job.clips += len(trailer.rows)


def tell(text):
    tqdm.write(text, file=sys.stderr)


# ---- A film's frames ----


class VideoError(Exception):
    """Why a video cannot be prepared, in a few words."""


class Frame:
    """A frame of a film: its number, its time in seconds, its picture, uint8 BGR (H, W, 3), None if damaged."""

    def __init__(self, number, time, picture):
        self.number, self.time, self.picture, self.views = number, time, picture, {}

    def view(self, look):
        """Return look(picture) as RGB, made once. Channels are turned here, where there are few pixels left."""
        if look not in self.views:
            self.views[look] = cv2.cvtColor(look(self.picture), cv2.COLOR_BGR2RGB)
        return self.views[look]


def open_film(path):
    """Return an open cv2.VideoCapture; a VideoError says why there is none.

    FFmpeg decodes with one thread: with more, damaged files decode differently each time. Films are decoded side by
    side instead.
    """
    try:
        if not path.is_file():
            raise VideoError("not a file, or a broken link")
        if path.stat().st_size == 0:
            raise VideoError("an empty file")
        open(path, "rb").close()
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from None
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError("no video in it that can be decoded")
    return capture


def read_frames(capture, alive):
    """Yield the Frames of a film, calling alive() for each; a thread decodes the next one meanwhile."""

    def read():
        if not any(capture.grab() for _ in range(5)):  # past a few damaged packets
            return None
        timestamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        whole, picture = capture.retrieve()
        return timestamp, picture if whole else None

    times, number = Times(capture.get(cv2.CAP_PROP_FPS)), 0
    with ThreadPoolExecutor(1) as thread:
        this, after = read(), thread.submit(read)
        while this:
            following, after = after.result(), thread.submit(read)
            alive()
            yield Frame(number, times(this[0], (following or this)[0]), this[1])
            this, number = following, number + 1


class Times:
    """Turns timestamps as a container gives them into times that increase, in seconds since the first frame.

    Timestamps that increase are true, however long a picture is held. One that is missing, stands still, jumps back or
    leaps ahead of the one that follows is replaced by one frame's duration. After a jump that lasts (two recordings
    joined), the times go on from where they were.
    """

    def __init__(self, fps):
        self.step = 1 / sane_rate(fps)
        self.now = None

    def __call__(self, timestamp, following):
        if self.now is None:
            self.now, self.offset, self.detour = 0.0, -timestamp, -timestamp
            return self.now
        for offset in (self.offset, self.detour):
            step = timestamp + offset - self.now
            if 0 < step <= LONGEST_STEP or 0 < step <= LONGEST_PAUSE and timestamp <= following:
                self.now, self.offset = timestamp + offset, offset
                return self.now
        self.now += self.step
        self.detour = self.now - timestamp
        return self.now


def sane_rate(fps):
    """Return the frame rate that a header claims, 24 where the claim is absurd."""
    return fps if 1 <= fps <= 240 else 24.0


# ---- Shots ----


def find_shots(frames, rate, name):
    """Yield (frame, whether it starts a shot), with the cuts that PySceneDetect's SceneManager finds.

    The detector knows of a cut some frames late, so that as many frames wait.
    """
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = kind(min_scene_len=SHORTEST_SHOT)
    microsecond, rate = Fraction(1, 10**6), Fraction(sane_rate(rate)).limit_denominator(1001)
    zero = scenedetect.FrameTimecode(0, rate)  # the others take the rate from it, which is faster
    waiting, cuts, size = collections.deque(), set(), None
    for frame in frames:
        if frame.picture is None:
            continue
        if size is None:
            height, width, _ = frame.picture.shape
            factor = scenedetect.scene_manager.compute_downscale_factor(max(width, height))
            size = max(1, round(width / factor)), max(1, round(height / factor))
        frame.tick = round(frame.time * 10**6)
        timecode = scenedetect.FrameTimecode(timecode=Timecode(frame.tick, microsecond), fps=zero)
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


def make_plan(arguments, wanted):
    """Return the Plan that serves all backbones; those with the same preprocessing share it."""
    looks, inputs = {}, []
    for one in wanted:
        backbone = divita.find_backbone(one.meta["backbone"])
        preprocessing = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
        look = looks.setdefault(preprocessing, functools.partial(divita.preprocess, backbone=backbone))
        inputs.append((look, one.meta["frames"]))
    return Plan(arguments.segmentation, arguments.detector, arguments.fps, arguments.frames_per_clip, tuple(inputs))


def positions(frames, frames_per_clip):
    """Return which of a clip's frames are seen: `frames` of them, evenly spaced."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


class Shot:
    """Cuts one shot into clips.

    Target frame k is due k / fps seconds after the shot's start. A frame is taken for the target frame nearest to it
    in time, the first one if there are several, and stays until the next is taken.
    """

    def __init__(self, number, frame, plan):
        self.number, self.start, self.plan = number, frame.time, plan
        self.wanted = [(look, positions(n, plan.frames_per_clip)) for look, n in plan.inputs]
        self.length = 0  # target frames so far
        self.shown = self.thumbnail = None

    def add(self, frame):
        """Take a source frame; yield the clips that it completes."""
        due = round((frame.time - self.start) * self.plan.fps)
        if due >= self.length and frame.picture is not None:
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
    """Decode a film once and yield ("clip", number, [uint8 (T, S, S, 3) per input of the plan]) for each clip, then
    ("end", rows of the clip table, [(time, thumbnail) per shot], seconds, a remark or None)."""
    capture = open_film(path)
    frames, rate = read_frames(capture, alive), capture.get(cv2.CAP_PROP_FPS)
    if plan.segmentation == "shots":
        frames = find_shots(frames, rate, plan.detector)
    else:
        frames = ((frame, False) for frame in frames)
    rows, thumbnails, shot, frame, time, step = [], [], None, None, 0.0, 0.0

    def numbered(clips):
        for row, arrays in clips:
            rows.append((len(rows), *row))
            yield "clip", len(rows) - 1, arrays

    def end(shot, time):
        yield from numbered(shot.end(time))
        thumbnails.append((shot.start, shot.thumbnail if len(thumbnails) < MOST_ON_SHEET else None))

    for frame, starts in frames:
        time, step = frame.time, frame.time - time
        if shot is None or starts:
            if frame.picture is None:
                continue
            if shot:
                yield from end(shot, frame.time)
            shot = Shot(len(thumbnails), frame, plan)
        yield from numbered(shot.add(frame))
    if shot is None:
        raise VideoError("not one frame can be decoded")
    duration, remark = length_of(capture, frame, step)
    yield from end(shot, duration)
    yield "end", rows, thumbnails, duration, remark


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


# ---- Processes that decode ----

ALIVE = b""  # sent now and then between the pickled messages


@contextlib.contextmanager
def decoded(films, plan, workers, patience, most):
    """Decode films, {mid: path}, in as many processes as `workers`, ahead of the reader by up to `most` messages.

    Yields a generator of (mid, kind, ...): ("film", digest), then what read_clips() yields or ("failed", why). To be
    entered before this process has threads, as a process that is forked from one with threads may hang.
    """
    messages, left, supervisors = queue.Queue(most), collections.deque(films.items()), {}
    try:
        for _ in range(min(workers, len(films))):
            connection, process = start_process(supervise, plan, patience, closing=supervisors)
            supervisors[connection] = process
        for connection in supervisors:
            threading.Thread(target=receive, args=(connection, left, messages), daemon=True).start()
        yield read(messages, len(supervisors))
    finally:
        for process in supervisors.values():
            process.terminate()


def receive(connection, left, messages):
    """Be a thread that hands one film after another to a process and puts what it answers into the queue."""
    try:
        with contextlib.suppress(IndexError):  # nothing is left
            while True:
                mid, path = left.popleft()
                connection.send(path)
                while (message := connection.recv()) is not None:
                    messages.put((mid, *message))
        messages.put(None)
    except (EOFError, OSError):
        messages.put(UserError("a process that decodes was ended or found no room for another; give fewer --workers"))


def read(messages, threads):
    """Yield what the threads put into the queue until each has put None; raise what is an error."""
    while threads:
        message = messages.get()
        if message is None:
            threads -= 1
        elif isinstance(message, UserError):
            raise message
        else:
            yield message


def start_process(target, *arguments, closing=()):
    """Start target(connection, *arguments) in a process; return the other end of its connection, and the process.

    `closing` are the connections that only this process may hold, so that it is seen when this process is gone.
    """
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=run_process, args=(target, theirs, arguments, [ours, *closing]))
    try:
        process.start()
    except OSError as error:
        raise UserError(f"no process can be started ({error.strerror}); give fewer --workers") from None
    finally:
        theirs.close()
    return ours, process


def run_process(target, connection, arguments, foreign):
    for other in foreign:
        other.close()
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg's messages; one line of ours says what is wrong
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody is there any more
        target(connection, *arguments)


def supervise(connection, plan, patience):
    """Be a process that decodes one film after another, each in a process of its own, which a damaged film may end or
    keep for ever: hand on what it sends, then None."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        path, reason = connection.recv(), None
        film, process = start_process(decode, path, plan, closing=[connection])
        try:
            while (message := next_message(film, connection, patience)) is not None:
                if message != ALIVE:
                    connection.send_bytes(message)
            process.join()
            if process.exitcode != 0:
                reason = "its decoding ended the process"
        except TimeoutError:
            reason = f"no frame in {patience:g} s of decoding"
        finally:
            process.kill()
            process.join()
            film.close()
        if reason:
            connection.send(("failed", reason))
        connection.send(None)


def next_message(film, connection, patience):
    """Return the next message of the process that decodes a film, None after its last; silence is a TimeoutError.

    The patience is counted in parts, so that time in which this whole job did not run is not taken for silence.
    """
    for _ in range(60):
        ready = wait([film, connection], patience / 60)
        if connection in ready:  # nothing is sent to this process now, so the other end is closed
            raise EOFError
        if film in ready:
            try:
                return film.recv_bytes()
            except (EOFError, OSError):
                return None
    raise TimeoutError


def decode(connection, path, plan):
    """Be the process that decodes one film: send its digest, then what read_clips() yields or ("failed", why)."""
    spoken = time.monotonic()

    def alive():
        nonlocal spoken
        if time.monotonic() > spoken + 0.2:
            connection.send_bytes(ALIVE)
            spoken = time.monotonic()

    try:
        if path.is_file():
            connection.send(("film", film_digest(path)))
        for message in read_clips(path, plan, alive):
            connection.send(message)
    except VideoError as error:
        connection.send(("failed", str(error)))
    except (cv2.error, MemoryError, ValueError) as error:
        connection.send(("failed", f"cannot be decoded ({divita.one_line(error)})"))


# ---- What is to be made, and what is there already ----


@dataclass
class Wanted:
    """A representation to be made: its folder, what meta.json will say of it, and its backbone."""

    folder: Path
    meta: dict  # what is known before the backbone is built
    weights: str | Path
    digest: str | None = None  # of the weights, if they must be a run's
    run: object = None  # divita.Extractor


def inputs_of_run(arguments):
    """Fill in the options by the run of --like; return {backbone: meta.json of the run's input}.

    A UserError names an option that contradicts the run.
    """
    folder = Path(arguments.like)
    configs = sorted(folder.glob("split*/config.json")) or sorted(folder.glob("config.json"))
    if not configs:
        raise UserError(f"--like {folder}: no finished run there; name a folder that 02_train.py made")
    arguments.like = configs[0].parent.parent
    inputs = divita.inputs(divita.read_json(configs[0]))
    of_run = {"image": ["none"], "video": ["none"]}
    for kind, _, meta in inputs:
        of_run[kind] = [meta["backbone"]]
        for name in ("segmentation", "detector", "fps", "frames_per_clip", "precision"):
            of_run[name] = meta.get(name)  # None where it is not known of a published representation
        if kind == "image":
            of_run["image_frames"] = meta["frames"]
    for name, value in of_run.items():
        given = getattr(arguments, name)
        if value is not None and given not in (None, value):
            raise UserError(f"{option(name, given)} contradicts --like {folder}, made with {option(name, value)}")
        setattr(arguments, name, value or given)
    return {meta["backbone"]: meta for _, _, meta in inputs}


def option(name, value):
    return f"--{name.replace('_', '-')} {' '.join(value) if isinstance(value, list) else value}"


def fill_in(arguments):
    """Give the options that neither the command line nor a run has said their defaults."""
    for name, value in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.videos is None and arguments.image_frames is None:
        arguments.image_frames = DEMO_IMAGE_FRAMES


def chosen_weights(arguments, like):
    """Return {backbone's name: "pretrained", "random" or a checkpoint's path} from --weights."""
    names = [name for name in arguments.image + arguments.video if name != "none"]
    weights = dict.fromkeys(names, "pretrained")
    weights.update({name: meta["weights"] for name, meta in like.items()})
    if arguments.videos is None and not arguments.weights and not like:
        weights.update({name: "random" for name in names if name not in DEMO_PRETRAINED})
    for word in arguments.weights or []:
        name, equals, file = word.rpartition("=")
        if word in ("pretrained", "random") and like:
            raise UserError(f"--weights {word} beside --like {arguments.like}, which says it; leave one of them out")
        if word in ("pretrained", "random"):
            weights = {name: weights[name] if isinstance(weights[name], Path) else word for name in names}
        elif not equals or name not in names:
            raise UserError(f"--weights {word}: neither pretrained, random nor NAME=FILE of {', '.join(names)}")
        elif not Path(file).is_file():
            raise UserError(f"--weights {word}: there is no file {file}")
        else:
            weights[name] = Path(file)
    for name in names:
        if weights[name] == "file":
            raise UserError(f"--like {arguments.like}: {name}'s weights came from a file; add --weights {name}=FILE")
    return weights


def wanted_representations(arguments, weights, like):
    """Return the Wanted that the command line asks for; a UserError names what does not exist."""
    wanted = []
    for kind, names in (("image", arguments.image), ("video", arguments.video)):
        for name in dict.fromkeys(names if names != ["none"] else []):
            backbone = divita.find_backbone(name)
            if backbone.input != kind:
                raise UserError(f"--{kind} {name}: it is for --{backbone.input}")
            wanted.append(one_wanted(arguments, backbone, weights[name], like.get(name, {})))
    if not wanted:
        raise UserError("--image none --video none: nothing to make; name at least one backbone")
    for one in wanted:
        check_meta(one.folder / "meta.json", one.meta, arguments.overwrite)
    return wanted


def one_wanted(arguments, backbone, weights, like):
    frames = arguments.frames_per_clip
    if backbone.input == "image" and arguments.image_frames:
        frames = arguments.image_frames
        if frames > arguments.frames_per_clip:
            raise UserError(f"--image-frames {frames}: a clip has only {arguments.frames_per_clip} frames")
    setting = arguments.segmentation, arguments.fps, arguments.frames_per_clip
    name = divita.representation_name(backbone.name, *setting)
    meta = {"format": divita.FORMAT, "representation": name, "input": backbone.input, "backbone": backbone.name}
    meta["weights"] = "file" if isinstance(weights, Path) else weights
    meta.update(clip_setting(arguments))
    meta.update(frames=frames, input_size=backbone.size, precision=like.get("precision") or arguments.precision)
    if isinstance(weights, Path):
        with open(weights, "rb") as file:
            meta["file"] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return Wanted(Path(arguments.out) / name, meta, weights, like.get("digest"))


def clip_setting(arguments):
    """Return the part of meta.json that says how videos became clips."""
    detector = arguments.detector if arguments.segmentation == "shots" else None
    setting = {"segmentation": arguments.segmentation, "detector": detector}
    return setting | {"fps": arguments.fps, "frames_per_clip": arguments.frames_per_clip}


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


def tables_folder(arguments, out):
    """Return the folder of the clip tables: shots/ for a data folder's first setting, its own for every other."""
    setting = {"format": divita.FORMAT, **clip_setting(arguments)}
    folder = out / "shots"
    if (folder / "meta.json").exists() and divita.read_json(folder / "meta.json") != setting:
        detector = f"_{arguments.detector}" if arguments.detector == "content" else ""
        folder = out / f"shots_{arguments.segmentation}{detector}_fps{arguments.fps:g}_fpc{arguments.frames_per_clip}"
        check_meta(folder / "meta.json", setting, arguments.overwrite)
    return folder


def make_job(arguments, out, videos, wanted):
    """Take the labels in, look at what is there and return the Job of this rank; name what cannot be prepared."""
    rank, ranks = divita.ranks()
    if arguments.overwrite and ranks > 1:
        folders = ", ".join(str(one.folder) for one in wanted)
        raise UserError(f"--overwrite is for one process; remove {folders} instead")
    divita.sweep(out)
    if rank == 0:
        take_labels(arguments, out, videos)
    job = Job(arguments, out, videos, wanted, tables_folder(arguments, out), todo={})
    there = set() if arguments.overwrite else prepared(job)
    for mid in sorted(videos)[rank::ranks]:
        if mid not in there or not is_current(job, mid):
            job.todo[mid] = videos[mid]
    record(job, dict.fromkeys(job.todo))  # has not failed any more, until it does again
    for mid in [mid for mid in job.todo if not can_name_files(mid)]:
        del job.todo[mid]
        fail(job, mid, "its name cannot name a trailer's files; rename it")
    return job


def can_name_files(mid):
    try:
        divita.check_mid(mid, "")
    except UserError:
        return False
    return len(os.fsencode(mid)) <= 180  # of 255; figures are called after the run too


def take_labels(arguments, out, videos):
    """Copy the labels into the data folder, with splits; say which trailers lack a video and which lack labels."""
    path = out / "labels.csv"

    def digest(labels):
        return divita.digest_of(labels.mids, labels.genres, labels.y, labels.splits)

    if arguments.labels:
        labels = divita.read_labels(arguments.labels)
        if not path.exists():
            splits = [f"split{k}" for k in range(labels.splits.shape[1])]
            rows = np.concatenate([labels.y, labels.splits], 1).tolist()
            rows = [[mid, *row] for mid, row in zip(labels.mids, rows)]
            divita.write_csv(path, ["mid", *labels.genres, *splits], rows)
        elif not path.samefile(arguments.labels) and digest(labels) != digest(divita.read_labels(path)):
            raise UserError(f"{path}: differs from {arguments.labels}; remove it to have it replaced")
    elif not path.exists():
        return
    mids = divita.read_labels(path).mids
    if missing := sorted(set(mids) - set(videos)):
        say(f"{len(missing)} of {len(mids)} labelled trailers have no video and are left out ({listed(missing, 10)})")
    if unlabelled := [printable(mid) for mid in sorted(set(videos) - set(mids))]:
        count = f"{len(unlabelled)} of {len(videos)}"
        say(f"{count} videos have no labels and are prepared all the same ({listed(unlabelled)})")


def prepared(job):
    """Return the trailers of all ranks that have all their files, whatever these were made from."""
    folders = [(one.folder, ".npy") for one in job.wanted] + [(job.tables, ".csv")]
    return set(job.videos).intersection(*(mids_in(*folder) for folder in folders))


def mids_in(folder, suffix):
    """Return the trailers whose files are in a folder, none if it is not there or its meta.json is missing."""
    if not (folder / "meta.json").exists():
        return set()
    return {entry.name.removesuffix(suffix) for entry in os.scandir(folder) if entry.name.endswith(suffix)}


def is_current(job, mid):
    """Tell whether a trailer's vectors were made from the film that is there now and from its clip table."""
    try:
        source = film_digest(job.videos[mid]), divita.digest_of((job.tables / f"{mid}.csv").read_text())
    except (OSError, UnicodeDecodeError):
        return False
    return all(divita.source_of(one.folder / f"{mid}.npy") == source for one in job.wanted)


def film_digest(path, end=2**16):
    """Return a digest of a file's length, beginning and end, which no two films have in common."""
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        sha = hashlib.sha256(str(length).encode())
        for start in (0, max(0, length - end)):
            file.seek(start)
            sha.update(file.read(end))
    return sha.hexdigest()[:16]


def build(job):
    """Build the backbones, refuse folders that others were used for, and write what says how they are filled."""
    arguments = job.arguments
    for one in job.wanted:
        name, clips = one.meta["backbone"], len(job.videos) * CLIPS_PER_TRAILER
        one.run = divita.extractor(
            name, one.weights, one.meta["frames"], arguments.batch_size, precision=one.meta["precision"], clips=clips
        )
        if one.digest not in (None, one.run.digest):
            raise UserError(f"{name}: its weights are {one.run.digest}, not those of {arguments.like}, {one.digest}")
        for key in ("features", "digest", "parameters", "macs_per_clip"):
            one.meta[key] = getattr(one.run, key)
        check_meta(one.folder / "meta.json", one.meta, arguments.overwrite)
    write_meta(job.tables, {"format": divita.FORMAT, **clip_setting(arguments)})
    paths = arguments.videos and [str(Path(path).absolute()) for path in arguments.videos]  # none: the demo's
    synthetic = any((folder.parent / "true_cuts.csv").exists() for folder in {p.parent for p in job.videos.values()})
    about = {"clips": job.tables.name, "videos": paths, "synthetic": synthetic}
    for one in job.wanted:
        if arguments.overwrite and (one.folder / "meta.json").exists():  # no old files among new ones
            there = divita.read_json(one.folder / "meta.json")
            alike = all(there.get(name) == value for name, value in one.meta.items())
            for mid in job.todo if alike else mids_in(one.folder, ".npy"):
                (one.folder / f"{mid}.npy").unlink(missing_ok=True)
        write_meta(one.folder, {**one.meta, **about})


def write_meta(folder, meta):
    text = json.dumps(meta, indent=1) + "\n"
    if not (folder / "meta.json").exists() or (folder / "meta.json").read_text() != text:
        divita.write_text(folder / "meta.json", text)


def fail(job, mid, reason):
    """Name a trailer that cannot be prepared, on the screen and in failed.csv."""
    job.failed.add(mid)
    record(job, {mid: reason})
    tell(f"{printable(mid)}: failed: {reason}")


def record(job, outcomes):
    """Bring failed.csv up to date with {mid: reason, or None for one that has not failed}."""
    path = job.out / "failed.csv"
    present = set(map(printable, job.videos))
    with divita.locked(job.out):
        rows = divita.read_table(path)[1] if path.exists() else []
        reasons = {mid: reason for _, (mid, reason) in rows if mid in present}
        reasons.update({printable(mid): reason for mid, reason in outcomes.items()})
        rows = sorted((mid, reason) for mid, reason in reasons.items() if reason)
        if rows:
            divita.write_csv(path, ["mid", "reason"], rows)
        else:
            path.unlink(missing_ok=True)


def printable(mid):
    return mid if mid.isprintable() else repr(mid)[1:-1]


def summary(job):
    """Say where the results lie and what to do next; return the exit status."""
    (rank, ranks), torchrun = divita.ranks(), "TORCHELASTIC_RUN_ID" in os.environ
    made, clips = sums_over_ranks(job) if ranks > 1 and torchrun else (job.made, job.clips)
    if rank == 0:
        done, of = len(prepared(job)), f", {made} of them now, {clips} clips"
        if ranks > 1 and not torchrun:
            of = f", {made} of them now by this rank, 0 of {ranks}"
        say(f"{done} of {len(job.videos)} trailers prepared in {job.out}{of}")
        for one in job.wanted:
            say(f"  {one.folder}")
        say(f"  {job.tables}: the clips' times")
        if (job.out / "contact_sheets").exists():
            say(f"  {job.out / 'contact_sheets'}: some trailers' shots as pictures")
        if (job.out / "failed.csv").exists():
            say(f"  {job.out / 'failed.csv'}: what could not be prepared")
        say(f"next: {shlex.join(['python', *next_command(job)])}")
    return 1 if job.failed and not torchrun else 0  # torchrun would take a 1 for a crash


def sums_over_ranks(job):
    """Wait for all of torchrun's ranks; return how many trailers and clips they made together."""
    rank, ranks = divita.ranks()
    store, *_ = next(torch.distributed.rendezvous("env://"))
    store.add("made", job.made)
    store.add("clips", job.clips)
    store.set(f"rank {rank}", "has ended")
    store.wait([f"rank {other}" for other in range(ranks)], datetime.timedelta(days=99))
    return store.add("made", 0), store.add("clips", 0)


def next_command(job):
    """Return the command that goes on from here, as a list of words."""
    out, arguments = job.out, job.arguments
    if arguments.like:
        run = Path(arguments.like)
        return ["03_evaluate.py", "--predict", str(out), "--runs", str(run.parent), "--run", run.name]
    if not (out / "labels.csv").exists():
        return ["03_evaluate.py", "--predict", str(out)]
    command = ["02_train.py", "--data", str(out)]
    usual = divita.representation_name("")
    if not all(one.folder.name.endswith(usual) for one in job.wanted):
        for kind in ("image", "video"):
            names = [one.folder.name for one in job.wanted if one.meta["input"] == kind]
            command += [f"--{kind}", names[0] if names else "none"]
    return [*command, "--runs", f"runs/{out.resolve().name}"]


# ---- Contact sheets ----


def thumbnail(picture):
    height, width, _ = picture.shape
    width = min(400, max(40, round(96 * width / height)))
    return cv2.resize(picture, (width, 96), interpolation=cv2.INTER_LINEAR)


def draw_sheet(job, mid, thumbnails, duration):
    """Draw one frame per shot of one of the first films over a time axis, so that a person sees what was found."""
    if job.arguments.segmentation != "shots" or mid not in list(job.videos)[: job.arguments.sheets]:
        return
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
    with divita.written(job.out / "contact_sheets" / f"{mid}.png") as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


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
    say(f"the published labels are in {out / 'mtgc.csv'}, the representations beside them:")
    for name in names:
        say(f"  {out / name}.zarr")
    kinds = {divita.find_backbone(divita.published_backbone(name)).input: name for name in names}
    command = ["python", "02_train.py", "--data", str(out)]
    for kind in ("image", "video"):
        command += [f"--{kind}", kinds.get(kind, "none")]
    say(f"next: {shlex.join([*command, '--runs', f'runs/{out.resolve().name}'])}")
    return 0


def fetch(name, out, md5):
    """Download a file of the record into a folder and return its path; an earlier attempt is gone on with."""
    url = f"{os.environ.get('DIVITA_PUBLISHED', ZENODO)}/{name}?download=1"
    part = out / f"{name}.part"
    if not (part.exists() and md5_of(part) == md5):  # it may have been interrupted after the last byte
        fetch_rest(url, part)
    if (found := md5_of(part)) != md5:
        part.unlink()
        raise UserError(f"{url}: its MD5 is {found}, not the published {md5}; removed, run the same command again")
    return part.replace(out / name)


def fetch_rest(url, part):
    """Download what a partial file lacks; a UserError says why not all of it came, and what came is kept."""
    have = part.stat().st_size if part.exists() else 0
    cut = "fewer bytes came than were announced"
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as response:
            have = have if response.status == 206 else 0  # 206: the server goes on where we were, 200: from the start
            total = have + int(response.headers.get("Content-Length") or 0)
            bar = tqdm(desc=part.stem, total=total or None, initial=have, unit="B", unit_scale=True)
            with bar, open(part, "ab" if have else "wb") as file:
                while block := response.read(2**20):
                    file.write(block)
                    bar.update(len(block))
        if part.stat().st_size >= total:
            return
    except urllib.error.HTTPError as error:
        if error.code == 416:  # longer than the file that the server has
            part.unlink()
        raise UserError(f"{url}: {error.code} {error.reason}; try again later, what is here is gone on with") from None
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        cut = divita.one_line(error)
    raise UserError(f"{url}: the connection was cut ({cut}); the same command goes on where it was")


def md5_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def unpack(archive, out):
    """Unpack <name>.tar.gz, which holds the folder <name>, and remove it. Nothing is written outside `out`."""
    name = archive.name.removesuffix(".tar.gz")
    folder = out / f".unpacking-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:  # the filter refuses ../, absolute paths, links to the outside, devices
            tar.extractall(folder, tqdm(tar, f"unpacking {name}", unit="file"), filter="data")
        if not (folder / name / ".zgroup").exists():
            raise UserError(f"{archive}: holds no {name}; remove it and run the same command again")
        (folder / name).replace(out / name)
        archive.unlink()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: cannot be unpacked ({divita.one_line(error)}); remove it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    others = [path for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    if others and not (true_cuts.exists() and true_cuts.read_text() == text):
        raise UserError(f"{out}: holds something else than the demo; say with --videos where the films are")
    divita.write_text(true_cuts, text)  # first: from now on the folder is the demo's
    if not labels.exists():
        header = ["mid", *GENRES, "split0", "split1", "split2"]
        divita.write_csv(labels, header, [[mid, *row, *parts] for mid, row, parts in zip(mids, y, splits)])
    jobs = [(out / "videos" / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(zip(mids, edits))]
    jobs = [job for job in jobs if not job[0].exists()]
    started = []  # for each worker's share the connection to a process, and the process
    try:
        for number in range(min(workers, len(jobs))):
            share, others = jobs[number::workers], [connection for connection, _ in started]
            started.append(start_process(make_films, share, closing=others))
        for number in tqdm(range(len(jobs)), "demo trailers", unit="trailer", disable=not jobs):
            if reason := started[number % workers][0].recv():
                raise UserError(reason)
    finally:
        for connection, process in started:
            connection.close()
            process.join()


def make_films(connection, jobs):
    """Be a process that makes some of the films and tells of each, with a reason where one cannot be made."""
    for job in jobs:
        try:
            film(job)
            connection.send(None)
        except UserError as error:
            connection.send(str(error))


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
        if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != sum(frames for _, frames in edit):
            raise UserError(f"{path}: cannot be written whole; make room on the disk and run the same command again")


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


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
