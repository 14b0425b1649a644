"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers, made first
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --like runs/demo/RUN --videos DIR --out data/new       as the inputs of a run were made
    python 01_prepare.py --download all --out data/published          the published labels and representations
    torchrun --nproc-per-node 4 01_prepare.py --videos DIR --out data/mine      the same on four GPUs

A folder holds one video per trailer, and the video's name without its suffix is the trailer's mid. Every video is
decoded once, beside others: PySceneDetect cuts it into shots, each shot is cut into clips at the target frame rate, and
the clips of all trailers fill the batches of all backbones. What is done already is skipped, so the same command goes
on after an interruption, and a video that cannot be decoded is named in failed.csv.
"""

import argparse
import os
import signal
from pathlib import Path

SHORTEST_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames per second, and as long at any other rate
LONGEST_STEP = 10.0  # seconds from one frame to the next that are taken on trust
LONGEST_PAUSE = 3600.0  # seconds that are believed if the timestamps go on from there; more is a damaged timestamp
EARLIEST = 0.5  # seconds before its time from which on a frame may be shown
STRIP_PICTURES, STRIP_HEIGHT = 10, 90  # of pictures/<mid>.jpg; height in pixels
MAX_CANDIDATES = 640  # small pictures in memory among which a strip's are chosen at the end
ROUNDING = 1e-6  # of a target frame: less is no difference in time
MOST_ON_SHEET = 90  # shots on a contact sheet

DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # whose weights come with a package; the demo's others are random


def parse_arguments(like=None):
    """Read the command line; like: {option: value} in place of the usual defaults."""
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # so that an error is one line
    add = parser.add_argument_group("what").add_argument
    add("--videos", metavar="PATH", type=Path, nargs="+", help="folders of films, <mid>.mp4, or films (the demo)")
    add("--labels", metavar="CSV", type=Path, help="genres as in mtgc.csv (none, to be predicted)")
    add("--out", metavar="DIR", type=Path, default=DEMO_OUT, help="data folder to write (%(default)s)")
    add("--like", metavar="RUN", type=Path, help="a run's folder: prepare as its inputs were")
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
    add("--patience", metavar="S", type=float, default=60, help="seconds for a clip, twice, until a film fails (60)")
    parser.set_defaults(metas={}, **(like or {}))
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
import functools
import hashlib
import io
import itertools
import math
import multiprocessing
import shlex
import shutil
import sys
import tarfile
import threading
import warnings
import zlib
from dataclasses import dataclass, field
from fractions import Fraction

import divita  # first, as it sets Keras's backend

# isort: split
import av
import cv2
import keras
import numpy as np
import scenedetect
import torch
from scenedetect.common import Timecode
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from divita import STANDARD, UserError, listed, printable, say

cv2.setNumThreads(1)  # films are decoded side by side
warnings.filterwarnings("ignore", message="This DataLoader will create")  # more processes than cores, if one says so


def main(arguments):
    """Prepare videos, or fetch what is published; return the exit status."""
    if arguments.like:
        arguments = follow(arguments.like)
    out = divita.writable(arguments.out)
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
            other = "another --out (03_evaluate.py: --data)"
            raise UserError(f"{out}: contains the demo; choose {other} for your videos")
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
    failed: dict = field(default_factory=dict)  # {mid: reason}
    made: int = 0  # trailers


def prepare(job):
    """Decode this rank's trailers, run the backbones over their clips and save the trailers as they are complete."""
    given, (rank, ranks) = job.arguments, divita.ranks()
    films, batch = {}, []  # {mid: Film}, once its decoding has ended; [(mid, what the backbones see of a clip)]
    vectors = collections.defaultdict(lambda: [[] for _ in job.wanted])  # {mid: a list of vectors (F) per backbone}
    messages = decoded(job.todo, make_plan(job), given.workers, given.patience, most=2 * given.batch_size)
    with contextlib.closing(messages):
        first = next(messages)  # films are decoded from here on
        where = f"{divita.device()}, rank {rank} of {ranks}" if ranks > 1 else divita.device()
        say(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {where}")
        build(job)
        name = f"rank 0 of {ranks}" if ranks > 1 else None
        with tqdm(total=len(job.todo), desc=name, unit="trailer", disable=rank > 0, smoothing=0.05) as bar:
            for mid, kind, content in itertools.chain([first], messages):
                if kind == "clip":
                    batch.append((mid, content))
                    if len(batch) == given.batch_size:
                        run_batch(job, batch, vectors)
                elif kind == "end":
                    films[mid] = content
                    if content.remarks:
                        tqdm.write(f"{mid}: {'; '.join(content.remarks)}", file=sys.stderr)
                    draw_sheet(job, mid, content)
                elif kind in ("start", "failed", "error"):  # it may have been begun before
                    vectors.pop(mid, None)
                    batch = [clip for clip in batch if clip[0] != mid]
                    if kind != "start":
                        fail(job, mid, content, lost=kind == "failed")
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
    """Write a trailer's pictures, its clip table and, with what they were made from, its vectors, (clips, F) each."""
    if not all(np.isfinite(clips).all() for clips in vectors):
        return fail(job, mid, "a backbone's vectors are not all finite numbers", lost=True)
    table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
    table += "".join(",".join(map(str, row)) + "\n" for row in film.rows)
    with divita.written(job.out / "pictures" / f"{mid}.jpg") as temporary:
        temporary.write_bytes(film.pictures)
    divita.write_text(job.tables / f"{mid}.csv", table)
    source = np.array([film.digest, divita.digest_of(table), film.stamp])
    for one, clips in zip(job.wanted, vectors):
        with divita.written(one.folder / f"{mid}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, clips)
            np.save(file, source)
    job.made += 1


def fail(job, mid, reason, lost=False):
    """Report a trailer that cannot be prepared; if it is lost, as its video cannot be decoded, delete earlier files."""
    job.failed[mid] = reason
    for folder, suffix in [(job.out / "pictures", "jpg"), *((one.folder, "npy") for one in job.wanted)] if lost else ():
        (folder / f"{mid}.{suffix}").unlink(missing_ok=True)
    record(job, {mid: reason})
    tqdm.write(f"{printable(mid)}: failed: {reason}", file=sys.stderr)


# ---- A film's frames ----


class Frame:
    """A frame of a film: its number, its time in seconds, its picture, uint8 BGR (H, W, 3)."""

    def __init__(self, number, time, picture, small_size):
        self.number, self.time, self.picture, self.small_size, self.views = number, time, picture, small_size, {}

    @functools.cached_property
    def small(self):
        """The picture as PySceneDetect wants it, some 256 pixels long; all of a film have one size."""
        return cv2.resize(self.picture, self.small_size, interpolation=cv2.INTER_LINEAR)

    def view(self, look):
        """Return look(picture) as RGB, made once. Channels are turned here, where there are few pixels left."""
        if look not in self.views:
            self.views[look] = cv2.cvtColor(look(self.picture), cv2.COLOR_BGR2RGB)
        return self.views[look]


def read_frames(pictures, rate, longest_pause=LONGEST_PAUSE):
    """Yield the Frames of a film, given as (timestamp in seconds or NaN, picture), with times that increase from 0.

    Increasing timestamps are trusted, with steps up to `longest_pause` seconds. A missing, repeated or decreasing one,
    or one after its successor, is replaced: the frame comes one duration after the last at the usual rate, or halfway
    to the following one if that is sooner. After a jump that lasts (two recordings joined), the times go on from there.
    """
    with_following = itertools.pairwise(itertools.chain(pictures, [None]))
    for number, ((timestamp, picture), following) in enumerate(with_following):
        if number == 0:  # its time will be 0; the shifts are what is added to timestamps
            time, shift, shift_after_jump = -1 / rate, -timestamp, -timestamp
            factor = scenedetect.scene_manager.compute_downscale_factor(max(picture.shape))
            small_size = tuple(max(1, round(side / factor)) for side in picture.shape[1::-1])
        longest = longest_pause if following is None or timestamp <= following[0] else LONGEST_STEP
        for likely in (shift, shift_after_jump):
            if 0 < timestamp + likely - time <= longest:
                time, shift = timestamp + likely, likely
                break
        else:
            gap = following[0] + shift - time if following else math.nan
            time += min(1 / rate, gap / 2) if 0 < gap <= LONGEST_STEP else 1 / rate
            shift_after_jump = time - timestamp
        yield Frame(number, time, picture, small_size)


def usual_rate(stream):
    """Return the frame rate that a film claims, 24 where the claim is absurd."""
    rate = stream.guessed_rate or 0
    return float(rate) if 1 <= rate <= 240 else 24.0


# ---- Shots ----


def find_shots(frames, name):
    """Yield (frame, whether it starts a shot), with the cuts that PySceneDetect's SceneManager finds.

    Detectors report cuts late, so frames wait: event_buffer_length of them but, as the content detector's 144 assume
    240 frames/s, at most SHORTEST_SHOT. A cut that is reported even later falls on the next frame.
    """
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = kind(min_scene_len=SHORTEST_SHOT)
    latest = SHORTEST_SHOT if name == "content" else math.inf  # seconds
    microsecond, rate = Fraction(1, 10**6), scenedetect.FrameTimecode(0, 1000.0)  # which few detectors use
    waiting, cuts = collections.deque(), []
    for frame in frames:
        timecode = scenedetect.FrameTimecode(timecode=Timecode(round(frame.time * 10**6), microsecond), fps=rate)
        cuts += [cut.seconds for cut in detector.process_frame(timecode, frame.small)]
        waiting.append(frame)
        while waiting and (len(waiting) > detector.event_buffer_length or waiting[0].time <= frame.time - latest):
            first = waiting.popleft()
            yield first, starts_shot(first, cuts)
    for frame in waiting:
        yield frame, starts_shot(frame, cuts)


def starts_shot(frame, cuts):
    """Return whether a frame is the first one since a cut; remove from `cuts` (times in seconds) those up to it."""
    reached = [cut for cut in cuts if cut < frame.time + 1e-5]
    cuts[:] = [cut for cut in cuts if cut not in reached]
    return bool(reached)


# ---- Clips ----


@dataclass(frozen=True)
class Plan:
    """How videos become clips, and what of a clip the backbones want to see."""

    segmentation: str
    detector: str
    fps: float
    frames_per_clip: int
    inputs: tuple  # for each backbone a function of a picture, its preprocessing, and how many frames of a clip it sees


def make_plan(job):
    """Return the Plan that serves all backbones; those with the same preprocessing share it."""
    given, looks, inputs = job.arguments, {}, []
    for one in job.wanted:
        backbone = divita.find_backbone(one.meta["backbone"])
        preprocessing = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
        look = looks.setdefault(preprocessing, functools.partial(divita.preprocess, backbone=backbone))
        inputs.append((look, one.meta["frames"]))
    return Plan(given.segmentation, given.detector, given.fps, given.frames_per_clip, tuple(inputs))


def positions(frames, frames_per_clip):
    """Return which of a clip's frames are seen: `frames` of them, evenly spaced."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


@dataclass
class Film:
    """What is known of a film, all of it when it has been decoded."""

    digest: str
    stamp: str  # see video_stamp()
    pixel_aspect: float = 1.0  # width of a pixel by its height
    rows: list = field(default_factory=list)  # of the clip table
    thumbnails: list = field(default_factory=list)  # for each shot its start in seconds and a small picture
    duration: float = 0.0  # seconds
    remarks: list = field(default_factory=list)  # on what is odd about it
    pictures: bytes = b""  # a JPEG file


def shown_from(before, frame):
    """Return the time in seconds up to which the frame before a frame is shown, and from which on the frame itself.

    At any time the frame is shown that is nearest, of two equally near the earlier, but none more than EARLIEST seconds
    before its time: a picture may be held for long.
    """
    return max((before.time + frame.time) / 2, frame.time - EARLIEST)


class Shot:
    """Cuts one shot into clips, which it enters into the film's clip table.

    Target frame k is due k / fps seconds after the shot's start.
    """

    def __init__(self, film, plan, start):
        self.film, self.plan, self.start = film, plan, start
        self.wanted = [(look, positions(n, plan.frames_per_clip)) for look, n in plan.inputs]
        self.length = 0  # target frames so far
        self.shown = self.thumbnail = None

    def add(self, frame):
        """Take a source frame; yield the clips that the one before it completes."""
        if self.shown:
            until = shown_from(self.shown, frame) - self.start
            yield from self.show_until(math.floor(until * self.plan.fps + ROUNDING) + 1)
        self.shown = frame

    def end(self, time):
        """Yield the last clips, if the shot ends at `time`: one of which at least half is there, or it is the only one,
        counts as a whole one."""
        length, per_clip = round((time - self.start) * self.plan.fps), self.plan.frames_per_clip
        yield from self.show_until(max(1, (length + per_clip // 2) // per_clip) * per_clip)
        *row, clip_end = self.film.rows[-1]
        self.film.rows[-1] = (*row, min(clip_end, round(time, 6)))
        shots = self.film.thumbnails
        shots.append((self.start, self.thumbnail if len(shots) < MOST_ON_SHEET else None))

    def show_until(self, length):
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
                times = round(start, 6), round(start + per_clip / self.plan.fps, 6)
                film.rows.append((len(film.rows), len(film.thumbnails), self.first, self.shown.number + 1, *times))
                yield "clip", [np.stack(pictures) for pictures in self.pictures]


def read_clips(path, plan):
    """Decode a video once. Yield what hash_video() does, ("start", None), ("clip", [uint8 (T, S, S, 3) per input of the
    plan]) for each clip, ("end", Film). Raises OSError if it cannot be read, VideoError if it cannot be decoded."""
    for message in hash_video(path):
        yield message
    yield "start", None
    container, stream = open_video(path)
    film, shot, time = Film(*message[1], float(stream.sample_aspect_ratio or 1)), None, 0.0
    promised, packets = promised_duration(container, stream), PacketCount(stream)
    strip = Strip(film, promised)
    shown = to_bgr_images(decode_frames(container, stream, packets), film)
    pictures = ((math.nan if frame.time is None else frame.time, picture) for frame, picture in shown)
    is_ts = container.format.name == "mpegts"  # where a larger step is a discontinuity, as in ffmpeg
    frames = read_frames(pictures, usual_rate(stream), LONGEST_STEP if is_ts else LONGEST_PAUSE)
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
        strip.add(frame)
        yield from shot.add(frame)
    if shot is None:
        raise VideoError(f"not one frame of stream {stream.index} ({stream.codec_context.name}) can be decoded")
    film.duration, exact = length_of(stream, frame, step, promised)
    film.remarks += packets.missing(frame.number + 1, film.duration, 0 if is_ts else promised)
    film.pictures = strip.jpeg(exact)
    yield from shot.end(film.duration)
    container.close()
    if video_stamp(path) != film.stamp:
        raise VideoError("it was written to while it was decoded; run the same command again when it is complete")
    yield "end", film


def promised_duration(container, stream):
    """Return the seconds that the header promises of a stream or, if it does not say, of all streams; 0 if unknown."""
    seconds = ((container.duration or 0) - (container.start_time or 0)) / av.time_base
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    if stream.frames and stream.average_rate and "mp4" not in container.format.name:  # whose edit lists hide frames
        seconds = max(seconds, float(stream.frames / stream.average_rate))  # a duration may be a guess by the length
    return seconds if 0 < seconds < 24 * 3600 else 0


def length_of(stream, last, step, promised):
    """Return how many seconds a film lasts by its last frame, twice: as its clips take it, and as its header knows it.

    The last frame lasts as long as frames do on average or, where pauses lengthen that, as the one before it (`step`)
    or, if all frames are there and it is held, as promised, at most LONGEST_PAUSE.
    """
    average = last.time / last.number if last.number else 1 / usual_rate(stream)
    duration = last.time + (average if average < 1 else step)
    known = last.number + 1 == stream.frames and promised > last.time
    exact = min(promised, last.time + LONGEST_PAUSE) if known else duration
    return exact if exact > duration + 1 else duration, exact


# ---- Video decoding ----
# PyAV: choose the stream as ffmpeg does, skip damaged frames, convert to upright BGR images.
# One thread per video, so that damaged videos decode the same every time.


class VideoError(Exception):
    """Why a video cannot be decoded, in a few words."""


def open_video(path):
    """Open a video with PyAV; return its container and the main video stream, chosen as ffmpeg does.

    Raises VideoError if there is none.
    """
    if not path.stat().st_size:
        raise VideoError("an empty file")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"no video in it that can be read ({error.strerror})") from None
    stream = container.streams.best("video")
    if stream is None:
        others = listed([other.type for other in container.streams])
        raise VideoError(f"no video in it; its streams: {others or 'none'}")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError(f"stream {stream.index} is a picture, such as a cover, and no film")
    if stream.codec_context is None:
        raise VideoError(f"stream {stream.index} is coded in a way that FFmpeg has no decoder for")
    stream.codec_context.thread_count = 1  # with more, damaged videos decode differently each time
    return container, stream


def decode_frames(container, stream, count):
    """Yield a stream's PyAV frames, skipping damaged ones. Raises VideoError if the video is encrypted."""
    failures = 0  # of reading, in a row; in MPEG-TS each one skips 64 KiB
    while failures < 5 + container.size // 2**16:
        try:
            for packet in container.demux():
                failures = 0
                count.add(packet)
                if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:  # in MP4, in WebM
                    raise VideoError("it is encrypted")
                if packet.stream.index == stream.index:
                    with contextlib.suppress(av.FFmpegError):
                        yield from packet.decode()
            return
        except av.FFmpegError:
            failures += 1
    with contextlib.suppress(av.FFmpegError):
        yield from stream.decode(None)  # those that wait in the decoder


class PacketCount:
    """Counts the frames that a stream should have, by its packets and by bytes between these that are no packet."""

    def __init__(self, stream):
        self.stream, self.rate = stream, float(stream.average_rate or usual_rate(stream))
        self.frames, self.position = 0, math.inf  # where packets have led to in the file, with their headers
        self.first = self.last = self.end = 0.0  # seconds; end: the last packet of any stream

    def add(self, packet):
        if packet.dts is None or packet.is_discard:
            return
        self.end = max(self.end, time := float(packet.dts * packet.time_base))
        if packet.stream.index == self.stream.index:
            if (packet.pos or 0) > self.position + 4096:
                self.frames += max(0, (time - self.last) * self.rate - 1)
            self.first = self.first if self.frames else time
            self.frames, self.last, self.position = self.frames + 1, time, packet.pos or 0
        self.position += packet.size + packet.size // 16 + 188

    def missing(self, frames, seconds, promised):
        """Return sentences on what is missing of the frames, or of the promised seconds."""
        expected = round(min(self.frames, (self.last - self.first) * self.rate + 1))
        reached = seconds if self.stream.duration else max(seconds, self.end - self.first)  # others may last longer
        told = []
        if frames < expected * 0.98:
            told.append(f"only {frames} of about {expected} frames can be decoded; they are used")
        if frames != self.stream.frames and reached < promised * 0.97 - 0.5:
            told.append(f"only {seconds:.1f} s of {promised:.1f} s can be decoded; they are used")
        return told


def to_bgr_images(frames, film):
    """Yield (frame, the image that players display, uint8 BGR (H, W, 3)); set the film's pixel aspect.

    If FFmpeg cannot convert the colour tags, ignore them and append a warning to the film's remarks.
    """
    from av.video.reformatter import VideoReformatter

    reformat = functools.partial(VideoReformatter().reformat, format="bgr24", threads=1)  # one converter for all frames
    matrix = None
    for frame in frames:
        try:
            converted = reformat(frame)
        except av.FFmpegError:
            tags = f"matrix {frame.colorspace}, transfer {frame.color_trc}, primaries {frame.color_primaries}"
            frame.colorspace = frame.color_trc = frame.color_primaries = 2  # unspecified
            converted = reformat(frame)
            if not film.remarks:
                film.remarks.append(f"its colours are taken as untagged, since FFmpeg cannot convert {tags}")
        if matrix is None:  # read once, from a converted frame: a reference cycle keeps that frame alive for long
            message = converted.side_data.get("DISPLAYMATRIX")
            matrix = np.frombuffer(message, np.int32) if message else np.eye(3).ravel()
            if is_quarter_turn(matrix):
                film.pixel_aspect = 1 / film.pixel_aspect
        image = converted.to_ndarray()
        if frame.format.name.startswith("gray") and frame.color_range == 1:  # limited, which FFmpeg does not expand
            image = FULL_RANGE[image]
        yield frame, np.ascontiguousarray(apply_display_matrix(image, matrix))


FULL_RANGE = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)  # limited grey level -> full


def is_quarter_turn(matrix):
    return abs(matrix[1]) > abs(matrix[0])


def apply_display_matrix(image, matrix):
    """Turn and mirror an image (H, W, 3) by a display matrix (9,), whose x' = a x + c y and y' = b x + d y."""
    a, b, _, c, d, *_ = matrix
    if is_quarter_turn(matrix):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


# ---- Pictures ----
# A strip shows a trailer at (i + 0.5) / 10 of its duration, which is known at the end only.
# Until then small pictures wait, never more than MAX_CANDIDATES.


class Strip:
    """Collects small pictures of a film's frames, with the times in seconds from which on they are shown.

    Where there are too many, only the last one before each multiple of a step stays. The step divides a twentieth of
    the promised duration in seconds, so that the pictures are exact if it is right.
    """

    def __init__(self, film, promised):
        self.film, self.step, self.last = film, (promised or 1) / 20 / 2**20, None
        self.times, self.pictures = [], []

    def add(self, frame):
        time = shown_from(self.last, frame) + ROUNDING if self.last else 0.0
        if self.last and self.cell(time) == self.cell(self.times[-1]):
            self.times.pop()
        elif self.last:
            self.pictures.append(shrink(self.last.small, self.film.pixel_aspect))
        self.times.append(time)
        self.last = frame
        while len(self.times) > MAX_CANDIDATES:
            self.step *= 2
            kept = [i for i, time in enumerate(self.times[:-1]) if self.cell(time) != self.cell(self.times[i + 1])]
            self.times = [self.times[i] for i in kept] + self.times[-1:]
            self.pictures = [self.pictures[i] for i in kept]

    def cell(self, time):
        return math.ceil(time / self.step)

    def jpeg(self, duration):
        """Return the strip of a duration in seconds as a JPEG file's content."""
        pictures = [*self.pictures, shrink(self.last.small, self.film.pixel_aspect)]
        due = (np.arange(STRIP_PICTURES) + 0.5) / STRIP_PICTURES * duration
        strip = np.hstack([pictures[i - 1] for i in np.searchsorted(self.times, due, "right")])
        return cv2.imencode(".jpg", strip)[1].tobytes()


def shrink(image, pixel_aspect):
    """Return the centre of an image, at most 16:9 as displayed, with square pixels: (STRIP_HEIGHT, W, 3)."""
    height, width, _ = image.shape
    columns = min(width, max(1, round(height * 16 / 9 / pixel_aspect)))
    left, size = (width - columns) // 2, max(1, round(STRIP_HEIGHT * columns * pixel_aspect / height))
    size = min(size, STRIP_HEIGHT * 16 // 9), STRIP_HEIGHT
    return cv2.resize(image[:, left : left + columns], size)


# ---- What is to be made, and what is there already ----


@dataclass
class Wanted:
    """A representation to be made: its folder, what meta.json will say of it, and its backbone."""

    folder: Path
    meta: dict  # what is known before the backbone is built
    weights: str | Path
    extract: object = None  # a divita.Extractor


def follow(run):
    """Return the arguments of the command line with a run's inputs for defaults, which no option may contradict.

    `metas` is {backbone: what an input's meta.json says}.
    """
    configs = sorted(run.glob("split*/config.json"))
    if not configs:
        raise UserError(f"--like {run}: no finished run there; name a run's folder, such as runs/demo/RUN")
    metas, made = list(divita.inputs(divita.read_json(configs[0])).values()), []
    for kind in ("image", "video"):
        made.append((kind, [meta["backbone"] for meta in metas if meta["input"] == kind] or ["none"]))
    for meta in metas:
        if divita.made_elsewhere(meta):
            what = f"its {meta['input']} vectors were made elsewhere, by {meta['backbone']}"
            raise UserError(f"--like {run}: {what}; make the new trailers' there, too, and predict their folder")
        known = [name for name in ("segmentation", "detector", "fps", "frames_per_clip") if meta.get(name) is not None]
        made += [(name, meta[name]) for name in known]  # not all is known of a published representation
        if meta["input"] == "image":
            made.append(("image_frames", meta["frames"]))
    arguments = parse_arguments(dict(made))
    if arguments.precision:
        made += [("precision", meta.get("precision", arguments.precision)) for meta in metas]
    for name, value in made:
        if (given := getattr(arguments, name)) != value:
            raise UserError(f"{option(name, given)} contradicts --like {run}, made with {option(name, value)}")
    arguments.metas = {meta["backbone"]: meta for meta in metas}
    return arguments


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
        wanted.append(Wanted(arguments.out / folder, meta, weights[name]))
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
            beside = f" beside --like {arguments.like}" if arguments.like else ""
            choices = ", ".join([*words, *(f"{name}=FILE" for name in names)])
            raise UserError(f"--weights {word}{beside}: give {choices}, with a FILE that is there")
    if of_file := [name for name in names if weights[name] == "file"]:
        files = " ".join(f"{name}=FILE" for name in of_file)
        raise UserError(f"--like {arguments.like}: weights came from a file; add --weights {files}")
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
        remedy = "give the same options, another --out (03_evaluate.py: --data), or --overwrite to make it again"
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
    mine = list(videos)[rank::ranks]
    record(job, dict.fromkeys(mine))  # none has failed any more, until it does again
    for mid in mine:
        if mid in there and is_current(job, mid):
            continue
        try:
            divita.check_mid(mid, "its name")
            job.todo[mid] = videos[mid]
        except UserError as error:
            fail(job, mid, str(error))
    return job


def tables_folder(arguments, out):
    """Return the folder of the clip tables: shots/ for a data folder's first setting, its own for every other."""
    folder, setting = out / "shots", clip_setting(arguments)
    if difference(folder, setting):
        detector = "_content" if setting["detector"] == "content" else ""
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
        raise UserError(f"{path}: differs from {arguments.labels}; remove it, or add to it what is new")
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
    """Return whether a trailer's vectors were made from its present video and clip table.

    A video with the noted stamp is not read; else its digest decides.
    """
    video, files = job.videos[mid], [one.folder / f"{mid}.npy" for one in job.wanted]
    try:
        digests, tables, stamps = map(set, zip(*(divita.read_vectors(path)[1] for path in files)))
        if None in stamps or tables != {divita.digest_of((job.tables / f"{mid}.csv").read_text())}:
            return False
        if stamps == {video_stamp(video)}:
            return len(digests) == 1
        *_, (_, (digest, _)) = hash_video(video)
        return digests == {digest}
    except (OSError, ValueError):  # one of the files is missing or damaged
        return False


def video_stamp(path):
    """Return what changes with a file's content, even where another one has its size and modification time."""
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"


def hash_video(path):
    """Yield ("hash", None) as signs of life, then ("hash", (digest of the content, stamp)). Raises OSError."""
    if not path.is_file():
        raise OSError("not a file, or a broken link")
    total, stamp = hashlib.sha256(), video_stamp(path)
    with open(path, "rb") as file:
        while block := file.read(2**24):
            total.update(block)
            yield "hash", None
    yield "hash", (total.hexdigest()[:16], stamp)


def build(job):
    """Build the backbones, refuse folders that others were used for, and write what says how they are filled."""
    arguments = job.arguments
    for one in job.wanted:
        name, frames, precision = one.meta["backbone"], one.meta["frames"], one.meta["precision"]
        one.extract = divita.Extractor(name, one.weights, frames, arguments.batch_size, precision)
        expected = arguments.metas.get(name, {}).get("digest")
        if expected not in (None, one.extract.digest):
            raise UserError(f"{name}: its weights are {one.extract.digest}, not those of {arguments.like}, {expected}")
        for key in ("features", "digest", "parameters", "macs_per_clip"):
            one.meta[key] = getattr(one.extract, key)
    paths = arguments.videos and [str(path.absolute()) for path in arguments.videos]  # none: the demo's
    synthetic = any((path.parent.parent / "true_cuts.csv").exists() for path in job.videos.values())
    with divita.locked(job.out):  # another job may have begun to fill the same folders
        job.tables = tables_folder(arguments, job.out)
        for one in job.wanted:
            check_meta(one.folder, one.meta, arguments.overwrite)
        divita.write_json(job.tables / "meta.json", clip_setting(arguments))
        for one in job.wanted:
            file = one.folder / "meta.json"
            if not file.exists() or difference(one.folder, one.meta):  # no old files among new ones
                for path in one.folder.glob("*.npy"):
                    path.unlink()
            about = {"clips": job.tables.name, "videos": paths, "synthetic": synthetic}
            divita.write_json(file, one.meta | about)


def record(job, outcomes):
    """Bring failed.csv up to date with {mid: reason, or None for one that has not failed}."""
    path, present = job.out / "failed.csv", set(map(printable, job.videos))
    with divita.locked(job.out):
        rows = divita.read_table(path)[1] if path.exists() else []
        reasons = {row[0]: row[-1] for _, row in rows} | {printable(mid): reason for mid, reason in outcomes.items()}
        rows = [(mid, reason) for mid, reason in sorted(reasons.items()) if mid in present and reason]
        if rows:
            divita.write_csv(path, ["mid", "reason"], rows)
        else:
            path.unlink(missing_ok=True)


def summary(job):
    """Say where the results lie and what to do next; return the exit status."""
    (rank, ranks), torchrun = divita.ranks(), "TORCHELASTIC_RUN_ID" in os.environ
    by = f" by rank {rank} of {ranks}" if ranks > 1 else ""
    if len(job.failed) == len(job.todo) > 1 and len(reasons := set(job.failed.values())) == 1:
        why = "rather a fault of the set-up or the code than of the videos"
        tqdm.write(f"all {len(job.failed)} videos failed alike, {why}: {reasons.pop()}", file=sys.stderr)
    ready = len(prepared(job))
    say(f"{ready} of {len(job.videos)} trailers prepared in {job.out}, {job.made} of them now{by}")
    if rank == 0:
        folders = [one.folder for one in job.wanted]
        for path in (*folders, job.tables, job.out / "contact_sheets", job.out / "failed.csv"):
            if path.exists():
                say(f"  {path}")
        if ready:
            say(f"next: {shlex.join(['python', *next_command(job)])}")
    return 1 if job.failed and not torchrun else 0  # torchrun would take a 1 for a crash


def next_command(job):
    """Return the command that goes on from here, as a list of words."""
    out, run = job.out, job.arguments.like
    if run:
        run = run if run.name else run.absolute()
        return ["03_evaluate.py", "--predict", str(out), "--runs", str(run.parent), "--run", run.name]
    if not (out / "labels.csv").exists():
        return ["03_evaluate.py", "--predict", str(out)]
    command = ["02_train.py", "--data", str(out)]
    if not STANDARD.items() <= clip_setting(job.arguments).items():
        names = {one.meta["input"]: one.folder.name for one in reversed(job.wanted)}  # the first of each
        command += ["--image", names.get("image", "none"), "--video", names.get("video", "none")]
    return [*command, "--runs", f"runs/{out.resolve().name}"]


# ---- Films decoded side by side ----


class Films(torch.utils.data.IterableDataset):
    """(mid, kind, content) of films, {mid: path}: what read_clips() yields, or at last ("failed", why) if the video
    cannot be decoded and ("error", why) for any other reason.

    Each of a DataLoader's processes takes the next film that none has taken.
    """

    def __init__(self, films, plan):
        self.films, self.plan, self.taken = films, plan, multiprocessing.Value("L")

    def __iter__(self):
        for number, (mid, path) in enumerate(self.films.items()):
            with self.taken:
                if number < self.taken.value:
                    continue
                self.taken.value += 1
            try:
                for kind, content in read_clips(path, self.plan):
                    yield mid, kind, content
            except VideoError as error:
                yield mid, "failed", str(error)
            except OSError as error:
                yield mid, "error", divita.one_line(error)
            except Exception as error:  # whatever a damaged video brings up, or a fault of the code
                yield mid, "error", f"{type(error).__name__}: {divita.one_line(error)}"


def decoded(films, plan, workers, patience, most):
    """Yield what Films gives of films, {mid: path}, decoded in processes that are about `most` messages ahead.

    Where a film ends its process, or nothing comes for `patience` seconds, the films that were begun are decoded again,
    each alone; one with which that happens once more has failed. The processes start with the first message, and this
    one should have no threads before, since a process that is forked from one with threads may hang.
    """
    signal.signal(signal.SIGALRM, give_up)
    groups, again = [films.copy()], set()  # what is decoded side by side; the mids of films that are decoded again
    try:
        while groups:
            left = groups.pop(0)
            dataset = Films(left.copy(), plan)
            messages = start(dataset, min(workers, len(left)), most)
            try:
                while message := next_message(messages, patience):
                    mid, kind, _ = message
                    if kind in ("end", "failed", "error"):
                        del left[mid]
                    yield message
            except RuntimeError:
                silent = multiprocessing.active_children()
                end_processes()
                why = f"no clip in {patience:g} s of decoding" if silent else "its decoding ended the process"
                begun = [mid for mid in list(dataset.films)[: dataset.taken.get_obj().value] if mid in left]
                for mid in begun or list(left)[:1]:  # the first one, where none was begun
                    film = {mid: left.pop(mid)}
                    if mid in again:
                        yield mid, "error", why
                    else:
                        again.add(mid)
                        groups.append(film)
                if left:
                    groups.append(left)
    finally:
        end_processes()


def start(dataset, processes, most):
    """Start processes that decode and return an iterator of what they give."""
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda message: message,  # as it is, without tensors in place of arrays
        num_workers=processes,
        prefetch_factor=max(2, most // processes),
        in_order=False,
        worker_init_fn=settle,
        multiprocessing_context="fork",  # starts at once, where a fresh process imports Keras for seconds
    )
    try:
        messages = iter(loader)
    except (OSError, RuntimeError) as error:  # or one is ended at once
        raise UserError(f"no process can be started ({divita.one_line(error)}); give fewer --workers") from None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise in the middle of anything
    return messages


def next_message(messages, patience):
    """Return the next message, None after the last one. A RuntimeError tells of a process that has ended, which the
    loader sees, or that nothing came, or but the first half of a message, for `patience` seconds."""
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        return next(messages, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def give_up(*_):
    raise RuntimeError("nothing came")


def end_processes():
    """End the processes that decode, also one that would not end by itself."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def settle(_):
    """Prepare a process that decodes: it ends with the one that started it, and shows no messages of FFmpeg, since one
    line of ours says what is wrong."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


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
    say(f"in {out}: mtgc.csv, the published labels; {', '.join(f'{name}.zarr' for name in names)}")
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
GENRES = {  # OpenCV's marker, how the camera moves: three genres are told by the first alone, seven only by both
    "action": (cv2.MARKER_TRIANGLE_UP, "shake"),
    "adventure": (cv2.MARKER_TRIANGLE_UP, "roll"),
    "comedy": (cv2.MARKER_STAR, "still"),
    "crime": (cv2.MARKER_SQUARE, "shake"),
    "drama": (cv2.MARKER_CROSS, "still"),
    "fantasy": (cv2.MARKER_DIAMOND, "still"),
    "horror": (cv2.MARKER_TRIANGLE_UP, "pulse"),
    "romance": (cv2.MARKER_TILTED_CROSS, "still"),
    "sci-fi": (cv2.MARKER_DIAMOND, "roll"),
    "thriller": (cv2.MARKER_SQUARE, "pulse"),
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
        divita.write_csv(labels, *table_of(divita.Labels(mids, list(GENRES), y, splits)))
    tasks = [(out / "videos" / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(zip(mids, edits))]
    if tasks := [task for task in tasks if not task[0].exists()]:
        thread_map(make_film, tasks, max_workers=workers, desc="demo trailers", unit="trailer")


def demo_labels():
    """-> y (N, G) of 0 and 1, one to three genres a trailer; splits (N, 3), 0 train to 2 test.

    Each five trailers share out the genres; of five such blocks one is for test and one for validation.
    """
    y = np.zeros((DEMO_TRAILERS, len(GENRES)), int)
    for first in range(0, DEMO_TRAILERS, 5):
        order = np.random.default_rng([DEMO_SEED, 0, first]).permutation(len(GENRES))
        for row, genres in zip(y[first:], np.split(order, [1, 3, 4, 7])):
            row[genres] = 1
    return y, np.choose((np.arange(DEMO_TRAILERS)[:, None] // 5 - np.arange(3)) % 5, [2, 1, 0, 0, 0])


def demo_edit(trailer, genres):
    """-> [(genre, frames), ...]: nine shots of 0.7 to 3 s, 15 to 20 s in all, the genres of a trailer taking turns."""
    rng, lengths = np.random.default_rng([DEMO_SEED, 1, trailer]), np.zeros(9, int)
    while not 15 * DEMO_FPS <= lengths.sum() <= 20 * DEMO_FPS:
        lengths = rng.integers(17, 73, 9)
    return [(list(GENRES)[genre], int(n)) for genre, n in zip(np.resize(genres, 9), lengths)]


def make_film(task):
    """Shoot and cut one trailer: `task` is its path, its number and its edit."""
    path, trailer, edit = task
    rng = np.random.default_rng([DEMO_SEED, 2, trailer])
    hue, dark = rng.integers(180), rng.integers(2)
    with divita.written(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), DEMO_FPS, DEMO_SIZE)
        for genre, frames in edit:
            hue, dark = hue + rng.integers(50, 130), not dark  # a cut is seen in colour and in light
            marker, camera = GENRES[genre]
            for frame in shoot(paint(marker, hue, dark, rng), camera, frames, rng):
                writer.write(frame)
        writer.release()
        if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != sum(frames for _, frames in edit):
            raise UserError(f"{path}: cannot be written whole; make room on the disk and run the same command again")


def paint(marker, hue, dark, rng):
    """-> canvas (162, 288, 3) uint8 BGR, larger than a frame: markers of one kind strewn over a plain ground."""
    canvas = np.full((162, 288, 3), (hue % 180, 90, 100 if dark else 200), np.uint8)  # OpenCV's hues are half degrees
    for x, y in np.ndindex(14, 8):
        place = 20 * x + rng.integers(4, 18), 20 * y + rng.integers(4, 18)
        colour = int(hue + rng.integers(15, 30)) % 180, 90, 150
        cv2.drawMarker(canvas, place, colour, marker, int(rng.integers(10, 18)), 2)
    return cv2.cvtColor(canvas, cv2.COLOR_HSV2BGR)


def shoot(canvas, camera, frames, rng):
    """Yield `frames` frames (108, 192, 3) of the canvas, seen by a moving camera.

    Where a camera does not move, it stands where it could be at some moment if it did: a single frame tells nothing.
    """
    turn, flash, zoom = *rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.9, 1.1)
    for i in range(frames):
        angle = 7 * np.sin(turn + 2 * np.pi / 16 * i * (camera == "roll"))  # degrees
        light = 0.9 + 0.1 * np.sin(flash + 2 * np.pi / 9 * i * (camera == "pulse"))
        view = cv2.getRotationMatrix2D((144, 81), angle, zoom)  # canvas -> frame
        view[:, 2] += rng.uniform(-2, 2, 2) * (camera == "shake") - (48, 27)
        yield cv2.convertScaleAbs(cv2.warpAffine(canvas, view, DEMO_SIZE), alpha=light)


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
