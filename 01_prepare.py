"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers, made first
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --like runs/demo/RUN --videos DIR --out data/new       as the inputs of a run were made
    python 01_prepare.py --download all --out data/published          the published labels and representations
    torchrun --nproc-per-node 4 01_prepare.py --videos DIR --out data/mine      the same on four GPUs

A video's name without its suffix is its trailer's mid. Each video is decoded once, in parallel with others:
PySceneDetect cuts it into shots, each shot is cut into clips at the target frame rate, and the clips of all trailers
fill the batches of all backbones. The same command resumes interrupted work; failed.csv lists failures.
"""

import argparse
import os
import signal
from pathlib import Path

MIN_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames per second, and as long at any other rate
MAX_STEP = 10.0  # seconds from one frame to the next that are taken on trust
MAX_PAUSE = 3600.0  # seconds that are believed if the timestamps go on from there; more is a damaged timestamp
MAX_EARLY = 0.5  # seconds before its time from which on a frame may be shown
STRIP_PICTURES, STRIP_HEIGHT = 10, 90  # of pictures/<mid>.jpg; height in pixels
MAX_CANDIDATES = 640  # small pictures in memory among which a strip's are chosen at the end
KINDS = ("image", "video")  # of inputs
ROUNDING = 1e-6  # of a target frame: less is no difference in time

DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # whose weights come with a package; the demo's others are random


def parse_arguments(like=None):
    """Read the command line; like: {option: value} in place of the usual defaults."""
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # so that an error is one line
    add = parser.add_argument_group("what").add_argument
    add("--videos", metavar="PATH", type=Path, nargs="+", help="video files or folders of <mid>.mp4 (the demo)")
    add("--labels", metavar="CSV", type=Path, help="genre table, see README (none: only predict)")
    add("--out", metavar="DIR", type=Path, default=DEMO_OUT, help="data folder to write (%(default)s)")
    add("--like", metavar="RUN", type=Path, help="reuse the settings of this run folder")
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
    add("--workers", metavar="N", type=int, help="films decoded at a time (usable cores)")
    add("--overwrite", action="store_true", help="make again what is there")
    add("--patience", metavar="S", type=float, default=60, help="decoding timeout per clip in s, one retry (60)")
    parser.set_defaults(metas={}, **(like or {}))
    arguments = parser.parse_args()
    least = {"image_frames": 1, "batch_size": 1, "fps": 0.1, "frames_per_clip": 1, "workers": 1, "patience": 0.1}
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and not smallest <= value < float("inf"):
            parser.error(f"argument --{name.replace('_', '-')}: must be at least {smallest}")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # every file is written whole, so that the process may end anywhere
    ARGUMENTS = parse_arguments()

import ast
import collections
import contextlib
import functools
import hashlib
import io
import itertools
import math
import multiprocessing
import re
import shlex
import shutil
import sys
import tarfile
import threading
import unicodedata
import warnings
from dataclasses import dataclass, field

import divita  # first, as it sets Keras's backend

# isort: split
import av
import cv2
import keras
import numpy as np
import scenedetect
import torch
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from divita import STANDARD_SETTING, UserError, abbreviate, printable, say

cv2.setNumThreads(1)  # films are decoded side by side
warnings.filterwarnings("ignore", message="This DataLoader will create")  # more processes than cores, if one says so


def main(arguments):
    """Prepare videos, or fetch what is published; return the exit status."""
    if arguments.like:
        arguments = parse_arguments_like(arguments.like)
    arguments.workers = arguments.workers or divita.usable_cores()
    out = divita.check_writable(arguments.out)
    if arguments.download:
        return download(arguments.download, out)
    if arguments.videos is None and arguments.image_frames is None:
        arguments.image_frames = DEMO_IMAGE_FRAMES
    wanted = make_targets(arguments)
    if arguments.videos is None:
        make_demo(out, arguments.workers)
    videos = divita.find_videos(arguments.videos or [out / "videos"])
    if (out / "true_cuts.csv").exists() and any(path.parent.parent != out.absolute() for path in videos.values()):
        raise UserError(f"{out}: contains the demo; choose another --out (03_evaluate.py: --data) for your videos")
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
    targets: list  # of Wanted
    tables: Path  # the folder of the clip tables
    todo: dict = field(default_factory=dict)  # {mid: path} of what this rank has to prepare
    failed: dict = field(default_factory=dict)  # {mid: reason}
    made: int = 0  # trailers


def prepare(job):
    """Decode this rank's trailers, run the backbones over their clips and save each trailer once it is complete."""
    given, (rank, ranks) = job.arguments, divita.rank_and_world_size()
    films, batch = {}, []  # {mid: Film} of the decoded trailers; [(mid, its clip as each backbone sees it)]
    vectors = collections.defaultdict(lambda: [[] for _ in job.targets])  # {mid: a list of vectors (F) per backbone}
    messages = decode_in_parallel(job.todo, make_plan(job), given.workers, given.patience, most=2 * given.batch_size)
    with contextlib.closing(messages):
        first = next(messages)  # starts the processes that decode
        name = f", rank {rank} of {ranks}" if ranks > 1 else ""
        say(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {divita.select_device()}{name}")
        build_extractors(job)
        with tqdm(total=len(job.todo), desc=name[2:], unit="trailer", disable=rank > 0, smoothing=0.05) as bar:
            for mid, kind, content in itertools.chain([first], messages, [(None, "last", None)]):
                if kind == "clip":
                    batch.append((mid, content))
                elif kind == "end":
                    films[mid] = content
                    if content.remarks:
                        tqdm.write(f"{mid}: {'; '.join(content.remarks)}", file=sys.stderr)
                elif kind in ("hash", "failed", "error"):  # clips of an earlier attempt are dropped
                    vectors.pop(mid, None)
                    batch = [clip for clip in batch if clip[0] != mid]
                    if kind != "hash":
                        mark_failed(job, mid, content, lost=kind == "failed")
                        bar.update()
                if batch and (kind == "last" or len(batch) == given.batch_size):
                    run_batch(job, batch, vectors)
                for done in [mid for mid, film in films.items() if len(vectors[mid][0]) == len(film.rows)]:
                    save_trailer(job, done, films.pop(done), [np.stack(clips) for clips in vectors.pop(done)])
                    bar.update()


def run_batch(job, batch, vectors):
    """Run the backbones over a batch's clips, hand each vector to its trailer and empty the batch."""
    for i, one in enumerate(job.targets):
        made = one.extract(np.stack([inputs[i] for _, inputs in batch]))  # (N, T, S, S, 3) -> (N, F)
        for (mid, _), vector in zip(batch, made):
            vectors[mid][i].append(vector)
    batch.clear()


def save_trailer(job, mid, film, vectors):
    """Write a trailer's pictures, its clip table and, with what they were made from, its vectors, (clips, F) each."""
    if not all(np.isfinite(clips).all() for clips in vectors):
        return mark_failed(job, mid, "a backbone's vectors are not all finite numbers", lost=True)
    table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
    table += "".join(",".join(map(str, row)) + "\n" for row in film.rows)
    with divita.atomic_write(job.out / "pictures" / f"{mid}.jpg") as temporary:
        temporary.write_bytes(film.pictures)
    divita.write_text(job.tables / f"{mid}.csv", table)
    source = np.array([film.digest, divita.array_digest(table), film.stamp])
    for one, clips in zip(job.targets, vectors):
        with divita.atomic_write(one.folder / f"{mid}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, clips)
            np.save(file, source)
    job.made += 1


def mark_failed(job, mid, reason, lost=False):
    """Report a trailer that cannot be prepared; if it is lost, as its video cannot be decoded, delete earlier files."""
    job.failed[mid] = reason
    for folder, suffix in [(job.out / "pictures", "jpg"), *((one.folder, "npy") for one in job.targets)] if lost else ():
        (folder / f"{mid}.{suffix}").unlink(missing_ok=True)
    update_failed_csv(job, {mid: reason})
    tqdm.write(f"{printable(mid)}: failed: {reason}", file=sys.stderr)


# ---- A film's frames ----


class Frame:
    """A frame of a film: its number, its time in seconds, its picture, uint8 BGR (H, W, 3)."""

    def __init__(self, number, time, picture, small_size):
        self.number, self.time, self.picture, self.small_size = number, time, picture, small_size
        self.transformed = functools.cache(lambda look: cv2.cvtColor(look(picture), cv2.COLOR_BGR2RGB))  # turns few pixels

    @functools.cached_property
    def small(self):
        """The picture as PySceneDetect wants it, some 256 pixels long; all of a film have one size."""
        return cv2.resize(self.picture, self.small_size, interpolation=cv2.INTER_LINEAR)


def repair_timestamps(pictures, rate, longest_pause):
    """Yield the Frames of (timestamp in seconds or NaN, picture), with times that increase from 0.

    Timestamps that increase by at most `longest_pause` seconds are trusted; others, and one after its successor, are
    replaced: by the usual rate or, if sooner, halfway to the next. After a lasting jump (joined videos), times go on.
    """
    for number, ((timestamp, picture), following) in enumerate(itertools.pairwise(itertools.chain(pictures, [None]))):
        if number == 0:  # its time will be 0; the shifts are what is added to timestamps
            time, shift, shift_after_jump = -1 / rate, -timestamp, -timestamp
            factor = scenedetect.scene_manager.compute_downscale_factor(max(picture.shape))
            small_size = tuple(max(1, round(side / factor)) for side in picture.shape[1::-1])
        longest = longest_pause if following is None or timestamp <= following[0] else MAX_STEP
        for likely in (shift, shift_after_jump):
            if 0 < timestamp + likely - time <= longest:
                time, shift = timestamp + likely, likely
                break
        else:
            gap = following[0] + shift - time if following else math.nan
            time += min(1 / rate, gap / 2) if 0 < gap <= MAX_STEP else 1 / rate
            shift_after_jump = time - timestamp
        yield Frame(number, time, picture, small_size)


# ---- Shots ----


def detect_shots(frames, name):
    """Yield (frame, whether it starts a shot), with the cuts that PySceneDetect's SceneManager finds.

    Frames wait for late reports: event_buffer_length of them, with the content detector (144) only SHORTEST_SHOT. A cut
    that is reported even later falls on the next frame.
    """
    kind = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = kind(min_scene_len=MIN_SHOT)
    latest = MIN_SHOT if name == "content" else math.inf  # seconds
    waiting, cuts = collections.deque(), []  # cuts: times in seconds
    for frame in itertools.chain(frames, [None]):
        if frame:
            timecode = scenedetect.FrameTimecode(frame.time, 1000.0)  # a rate, which few detectors use
            cuts += [cut.seconds for cut in detector.process_frame(timecode, frame.small)]
            waiting.append(frame)
        most = detector.event_buffer_length if frame else 0
        while len(waiting) > most or (waiting and waiting[0].time <= frame.time - latest):
            first = waiting.popleft()
            later = [cut for cut in cuts if cut >= first.time + 1e-5]
            yield first, len(later) < len(cuts)
            cuts = later


# ---- Clips ----


# How videos become clips; inputs: for each backbone (its preprocessing of a picture, how many frames of a clip it sees)
Plan = collections.namedtuple("Plan", "segmentation detector fps frames_per_clip inputs")


def make_plan(job):
    """Return the Plan of all backbones; those with the same preprocessing share it."""
    given, looks, inputs = job.arguments, {}, []
    for one in job.targets:
        backbone = divita.get_backbone(one.meta["backbone"])
        preprocessing = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
        look = looks.setdefault(preprocessing, functools.partial(divita.preprocess, backbone=backbone))
        inputs.append((look, one.meta["frames"]))
    return Plan(given.segmentation, given.detector, given.fps, given.frames_per_clip, inputs)


def frame_positions(frames, frames_per_clip):
    """Return which of a clip's frames are seen: `frames` of them, evenly spaced."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


@dataclass
class DecodedVideo:
    """What is known of a film, all of it when it has been decoded."""

    digest: str
    stamp: str  # see video_stamp()
    pixel_aspect: float = 1.0  # width of a pixel by its height
    rows: list = field(default_factory=list)  # of the clip table
    duration: float = 0.0  # seconds
    remarks: list = field(default_factory=list)  # on what is odd about it
    pictures: bytes = b""  # a JPEG file


def display_start(before, frame):
    """Return the time in seconds from which on a frame is shown: the middle, at most EARLIEST before its own."""
    return max((before.time + frame.time) / 2, frame.time - MAX_EARLY)


class ShotClipper:
    """Cuts a shot into clips, for the film's clip table too. Target frame k is due k / fps seconds after its start."""

    def __init__(self, film, plan, first):
        self.film, self.plan, self.start, self.shown = film, plan, first.time, first
        self.wanted = [(look, frame_positions(n, plan.frames_per_clip)) for look, n in plan.inputs]
        self.number = film.rows[-1][1] + 1 if film.rows else 0
        self.length = 0  # target frames so far

    def add_frame(self, frame):
        """Take the next source frame; yield the clips that the one before it completes."""
        until = display_start(self.shown, frame) - self.start
        yield from self.fill_until(math.floor(until * self.plan.fps + ROUNDING) + 1)
        self.shown = frame

    def finish(self, time):
        """Yield the last clips of a shot that ends at `time`; half a clip, or less if it is the only one, is padded."""
        length, per_clip = round((time - self.start) * self.plan.fps), self.plan.frames_per_clip
        yield from self.fill_until(max(1, (length + per_clip // 2) // per_clip) * per_clip)
        *row, clip_end = self.film.rows[-1]
        self.film.rows[-1] = (*row, min(clip_end, round(time, 6)))

    def fill_until(self, length):
        """Repeat the source frame up to target frame number `length`; yield ("clip", inputs) for each full clip."""
        per_clip, fps, rows = self.plan.frames_per_clip, self.plan.fps, self.film.rows
        while self.length < length:
            clip, position = divmod(self.length, per_clip)
            if position == 0:
                self.first, self.pictures = self.shown.number, [[] for _ in self.wanted]
            for (look, seen), pictures in zip(self.wanted, self.pictures):
                if position in seen:
                    pictures.append(self.shown.transformed(look))
            self.length += 1
            if position == per_clip - 1:
                start = self.start + clip * per_clip / fps
                times = round(start, 6), round(start + per_clip / fps, 6)
                rows.append((len(rows), self.number, self.first, self.shown.number + 1, *times))
                yield "clip", [np.stack(pictures) for pictures in self.pictures]


def decode_clips(path, plan):
    """Decode a video once. Yield what hash_video() does, ("clip", [uint8 (T, S, S, 3) per input]) for each clip and
    ("end", Film). Raises OSError if it cannot be read, VideoError if it cannot be decoded."""
    for message in hash_video(path):
        yield message
    container, stream = open_video(path)
    film, shot, time = DecodedVideo(*message[1], float(stream.sample_aspect_ratio or 1)), None, 0.0
    packets = PacketCount(stream)
    strip = PictureStrip(film, packets.promised)
    pictures = to_bgr_images(decode_frames(container, stream, packets), film)
    frames = repair_timestamps(pictures, packets.usual_rate, MAX_STEP if packets.is_ts else MAX_PAUSE)
    by_shots = plan.segmentation == "shots"
    for frame, starts in detect_shots(frames, plan.detector) if by_shots else zip(frames, itertools.repeat(False)):
        time, step = frame.time, frame.time - time
        if starts and shot:
            yield from shot.finish(time)
        if starts or not shot:
            shot = ShotClipper(film, plan, frame)
        strip.add(frame)
        yield from shot.add_frame(frame)
    if not shot:
        raise VideoError(f"not one frame of stream {stream.index} ({stream.codec_context.name}) can be decoded")
    average = time / frame.number if frame.number else 1 / packets.usual_rate
    film.duration = exact = time + (average if average < 1 else step)  # step: where there are pauses
    if frame.number + 1 == stream.frames and packets.promised > time:  # all frames are there
        exact = min(packets.promised, time + MAX_PAUSE)
        film.duration = exact if exact > film.duration + 1 else film.duration
    film.remarks += packets.missing(frame.number + 1, film.duration)
    film.pictures = strip.jpeg(exact)
    yield from shot.finish(film.duration)
    container.close()
    if video_stamp(path) != film.stamp:
        raise VideoError("it was written to while it was decoded; run the same command again when it is complete")
    yield "end", film


# ---- Video decoding ----
# PyAV: choose the stream as ffmpeg does, skip damaged frames, convert to upright BGR images.
# One thread per video, so that damaged videos decode the same every time.


class VideoError(Exception):
    """Why a video cannot be decoded, in a few words."""


def open_video(path):
    """Return a video's PyAV container and its main video stream, chosen as ffmpeg does; raise VideoError if none."""
    if not path.stat().st_size:
        raise VideoError("an empty file")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"no video in it that can be read ({error.strerror})") from None
    stream = container.streams.best("video")
    if stream is None:
        raise VideoError(f"no video in it; its streams: {abbreviate([s.type for s in container.streams]) or 'none'}")
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
    """What a stream should hold: the seconds that its header promises or, if it does not say, that of all streams (0 if
    unknown), and frames, estimated by its packets and by the time lost in bytes between packets."""

    def __init__(self, stream):
        self.usual_rate = float(stream.guessed_rate) if 1 <= (stream.guessed_rate or 0) <= 240 else 24.0  # not absurd
        self.stream, self.rate = stream, float(stream.average_rate or self.usual_rate)
        self.frames, self.position = 0, math.inf  # bytes of the file that packets and their headers fill
        self.first = self.last = self.end = 0.0  # seconds; end: the last packet of any stream
        container = stream.container
        self.is_ts = container.format.name == "mpegts"  # where a larger step is a discontinuity, as in ffmpeg
        seconds = ((container.duration or 0) - (container.start_time or 0)) / av.time_base
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        if stream.frames and stream.average_rate and "mp4" not in container.format.name:  # whose edit lists hide frames
            seconds = max(seconds, float(stream.frames / stream.average_rate))  # a duration may be guessed by length
        self.promised = seconds if 0 < seconds < 24 * 3600 else 0

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

    def missing(self, frames, seconds):
        """Yield sentences on what is missing of the frames, or of the promised seconds (not in MPEG-TS, with gaps)."""
        expected = round(min(self.frames, (self.last - self.first) * self.rate + 1))
        reached = seconds if self.stream.duration else max(seconds, self.end - self.first)  # others may last longer
        if frames < expected * 0.98:
            yield f"only {frames} of about {expected} frames can be decoded; they are used"
        if frames != self.stream.frames and reached < self.promised * 0.97 - 0.5 and not self.is_ts:
            yield f"only {seconds:.1f} s of {self.promised:.1f} s can be decoded; they are used"


def to_bgr_images(frames, film):
    """Yield (timestamp in seconds or NaN, the image that players display, uint8 BGR (H, W, 3)); set the film's pixel
    aspect. Colour tags that FFmpeg cannot convert are ignored, with a remark."""
    reformat = functools.partial(av.video.reformatter.VideoReformatter().reformat, format="bgr24", threads=1)
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
            a, b, _, c, d, *_ = matrix  # x' = a x + c y, y' = b x + d y
            if quarter_turn := abs(b) > abs(a):
                film.pixel_aspect = 1 / film.pixel_aspect
                a, d = c, b
        image = converted.to_ndarray()
        if frame.format.name.startswith("gray") and frame.color_range == 1:  # limited, which FFmpeg does not expand
            image = cv2.convertScaleAbs(cv2.subtract(image, (16, 16, 16, 0)), alpha=255 / 219)
        image = image.swapaxes(0, 1) if quarter_turn else image
        image = np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
        yield math.nan if frame.time is None else frame.time, image


# ---- Pictures ----
# A strip shows a trailer at (i + 0.5) / 10 of its duration, which is known at the end only. Of more than MAX_CANDIDATES
# pictures, the last before each multiple of a step stays, which divides a twentieth of the promised duration.


class PictureStrip:
    """Collects small pictures of a film's frames, with the times in seconds from which on they are shown."""

    def __init__(self, film, promised):
        self.film, self.step, self.last = film, (promised or 1) / 20 / 2**20, None
        self.times, self.pictures = [], []

    def add(self, frame):
        time = display_start(self.last, frame) + ROUNDING if self.last else 0.0
        if self.last and self.cell(time) == self.cell(self.times[-1]):
            self.times.pop()
        elif self.last:
            self.pictures.append(shrink(self.last.small, self.film.pixel_aspect))
        self.times.append(time)
        self.last = frame
        while len(self.times) > MAX_CANDIDATES:
            self.step *= 2
            *kept, last = {self.cell(time): i for i, time in enumerate(self.times)}.values()
            self.times = [self.times[i] for i in (*kept, last)]
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
class Target:
    """A representation to be made."""

    folder: Path
    meta: dict  # its metadata, as far as known before the backbone is built
    weights: str | Path
    extract: object = None  # a divita.Extractor


def parse_arguments_like(run):
    """Return the arguments with a run's inputs for defaults, in `metas` {backbone: metadata of an input}.

    Raises UserError if an option contradicts them.
    """
    configs = sorted(run.glob("split*/config.json"))
    if not configs:
        raise UserError(f"--like {run}: no finished run there; name a run's folder, such as runs/demo/RUN")
    metas = divita.input_metas(divita.read_json(configs[0])).values()
    made = [(kind, [meta["backbone"] for meta in metas if meta["input"] == kind] or ["none"]) for kind in KINDS]
    for meta in metas:
        if divita.is_external(meta):
            what = f"its {meta['input']} vectors were made elsewhere, by {meta['backbone']}"
            raise UserError(f"--like {run}: {what}; make the new trailers' there, too, and predict their folder")
        made += [(name, meta[name]) for name in (*STANDARD_SETTING, "detector") if meta.get(name)]  # published: not all known
        made += [("image_frames", meta["frames"])] if meta["input"] == "image" else []
    arguments = parse_arguments(dict(made))
    if arguments.precision:
        made += [("precision", meta.get("precision", arguments.precision)) for meta in metas]
    for name, value in made:
        if (given := getattr(arguments, name)) != value:
            words = [f"--{name.replace('_', '-')} {' '.join(x) if name in KINDS else x}" for x in (given, value)]
            raise UserError(f"{words[0]} contradicts --like {run}, made with {words[1]}")
    arguments.metas = {meta["backbone"]: meta for meta in metas}
    return arguments


def make_targets(arguments):
    """Return the Wanted that the command line asks for; raise UserError if one cannot be made or has other settings."""
    asked = [(kind, name) for kind in KINDS for name in getattr(arguments, kind) if name != "none"]
    if not asked:
        raise UserError("--image none --video none: nothing to make; name at least one backbone")
    weights, wanted = chosen_weights(arguments, [name for _, name in asked]), []
    for kind, name in dict.fromkeys(asked):
        backbone, per_clip = divita.get_backbone(name), arguments.frames_per_clip
        if backbone.input != kind:
            raise UserError(f"--{kind} {name}: it is for --{backbone.input}")
        frames = (kind == "image" and arguments.image_frames) or per_clip
        if frames > per_clip:
            raise UserError(f"--image-frames {frames}: a clip has only {per_clip} frames")
        folder = divita.representation_name(name, arguments.segmentation, arguments.fps, per_clip)
        meta = {"representation": folder, "input": kind, "backbone": name, "weights": weights[name]}
        meta |= {**clip_setting(arguments), "frames": frames, "input_size": backbone.size}
        meta["precision"] = arguments.precision or arguments.metas.get(name, {}).get("precision") or "float32"
        if isinstance(weights[name], Path):  # so that another file is refused where nothing is left to do, too
            digest = hashlib.sha256(weights[name].read_bytes()).hexdigest()
            meta |= {"weights": "file", "file": f"sha256:{digest}"}
        wanted.append(Target(arguments.out / folder, meta, weights[name]))
        check_folder_setting(wanted[-1].folder, meta, arguments.overwrite)
    return wanted


def chosen_weights(arguments, names):
    """Return {backbone: "pretrained", "random" or a checkpoint's path} by --weights, --like or the demo's default."""
    pretrained = names if arguments.videos else DEMO_PRETRAINED
    weights = {name: "pretrained" if name in pretrained else "random" for name in names}
    weights |= {name: meta["weights"] for name, meta in arguments.metas.items()}
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
    if files := " ".join(f"{name}=FILE" for name in names if weights[name] == "file"):
        raise UserError(f"--like {arguments.like}: weights came from a file; add --weights {files}")
    return weights


def clip_setting(arguments):
    """Return the clip setting as in meta.json."""
    detector = arguments.detector if arguments.segmentation == "shots" else None
    return {"detector": detector} | {name: getattr(arguments, name) for name in STANDARD_SETTING}


def check_folder_setting(folder, meta, overwrite):
    """Raise UserError if the folder has other settings."""
    there = divita.read_meta(folder) or meta
    unlike = [f"{name} {there.get(name)}, not {value}" for name, value in meta.items() if there.get(name) != value]
    if unlike and not overwrite:
        remedy = "use the same options, another --out (03_evaluate.py: --data), or --overwrite to redo it"
        raise UserError(f"{folder}: was made with {unlike[0]}; {remedy}")


def make_job(arguments, out, videos, wanted):
    """Import the labels and return the Job of this rank: the trailers that are missing or out of date."""
    rank, ranks = divita.rank_and_world_size()
    if arguments.overwrite and ranks > 1:
        folders = ", ".join(str(one.folder) for one in wanted)
        raise UserError(f"--overwrite is for one process; remove {folders} instead")
    out.mkdir(parents=True, exist_ok=True)
    divita.remove_stale_files(out)
    if rank == 0:
        import_labels(arguments, out, videos)
    job = Job(arguments, out, videos, wanted, clip_table_folder(arguments, out))
    there = set() if arguments.overwrite else prepared_mids(job)
    mine = list(videos)[rank::ranks]
    update_failed_csv(job, dict.fromkeys(mine))  # none has failed any more, until it does again
    for mid in mine:
        try:
            divita.check_mid(mid, "its name")
            if mid not in there or not is_up_to_date(job, mid):
                job.todo[mid] = videos[mid]
        except UserError as error:
            mark_failed(job, mid, str(error))
    return job


def clip_table_folder(arguments, out):
    """Return the folder of the clip tables: shots/ for a data folder's first setting, another for each other one."""
    folder, setting = out / "shots", clip_setting(arguments)
    if not setting.items() <= (divita.read_meta(folder) or setting).items():
        detector = "_content" if setting["detector"] == "content" else ""
        folder = out / f"shots_{arguments.segmentation}{detector}_fps{arguments.fps:g}_fpc{arguments.frames_per_clip}"
    return folder


def import_labels(arguments, out, videos):
    """Copy the labels into the data folder, with splits; say which trailers lack a video and which lack labels."""
    path = out / "labels.csv"
    if arguments.labels:
        given, remarks = read_genre_table(arguments.labels)
        check_mids(arguments.labels, given.mids, videos)
        if not path.exists():
            divita.write_csv(path, *labels_table(given))
        if labels_table(given) != labels_table(divita.read_labels(path)):
            raise UserError(f"{path}: differs from {arguments.labels}; remove it, or add to it what is new")
        say("\n".join(remarks))
    if not path.exists():
        return
    labels = divita.read_labels(path)
    if gone := sorted(set(labels.mids) - set(videos)):
        say(f"{len(gone)} of {len(labels.mids)} labelled trailers have no video and are left out ({abbreviate(gone, 10)})")
    if others := sorted(set(videos) - set(labels.mids)):
        names = printable(abbreviate(others))
        say(f"{len(others)} of {len(videos)} videos have no labels and are prepared all the same ({names})")
    splits = labels.splits[[mid in videos for mid in labels.mids]]
    if empty := find_empty_subsets(splits, [f"split{k}" for k in range(splits.shape[1])]):
        say(f"warning: no video in {abbreviate(empty)}; to train, each split needs train, validation and test")


def labels_table(labels):
    """Return a labels.csv's header and its rows."""
    splits = [f"split{k}" for k in range(labels.splits.shape[1])]
    cells = np.concatenate([labels.y, labels.splits], 1).tolist()
    return ["mid", *labels.genres, *splits], [[mid, *row] for mid, row in zip(labels.mids, cells)]


def prepared_mids(job):
    """Return the mids of all ranks whose files are complete, if perhaps out of date."""
    found = set(job.videos)
    for folder in [job.tables, *(one.folder for one in job.targets)]:
        files = os.listdir(folder) if (folder / "meta.json").exists() else []
        found &= {name[:-4] for name in files if name.endswith((".csv", ".npy"))}
    return found


def is_up_to_date(job, mid):
    """Return whether a trailer's vectors are of its present video, by stamp or else digest, and clip table."""
    video, table = job.videos[mid], job.tables / f"{mid}.csv"
    try:
        sources = [divita.read_vectors(one.folder / f"{mid}.npy")[1] for one in job.targets]
        digests, tables, stamps = map(set, zip(*sources))
        if None in stamps or tables != {divita.array_digest(table.read_text())}:
            return False
        if stamps != {video_stamp(video)}:
            *_, (_, (digest, _)) = hash_video(video)
            digests.add(digest)
        return len(digests) == 1
    except (OSError, ValueError):  # one of the files is missing or damaged
        return False


def video_stamp(path):
    """Return what changes with a file's content, even where another one has its size and modification time."""
    return "{0.st_size} {0.st_mtime_ns} {0.st_ctime_ns} {0.st_ino}".format(path.stat())


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


def build_extractors(job):
    """Build the backbones and write the metadata; raise UserError if weights or folders are not as they must be."""
    arguments = job.arguments
    for one in job.targets:
        name, frames, precision = one.meta["backbone"], one.meta["frames"], one.meta["precision"]
        one.extract = divita.Extractor(name, one.weights, frames, arguments.batch_size, precision)
        expected = arguments.metas.get(name, {}).get("digest")
        if expected not in (None, one.extract.digest):
            raise UserError(f"{name}: its weights are {one.extract.digest}, not those of {arguments.like}, {expected}")
        one.meta |= {"features": one.extract.num_features, "digest": one.extract.digest}
        one.meta |= {"parameters": one.extract.parameters, "macs_per_clip": one.extract.macs_per_clip}
    paths = arguments.videos and [str(path.absolute()) for path in arguments.videos]  # none: the demo's
    synthetic = any((path.parent.parent / "true_cuts.csv").exists() for path in job.videos.values())
    with divita.folder_lock(job.out):  # another job may have begun to fill the same folders
        job.tables = clip_table_folder(arguments, job.out)
        for one in job.targets:
            check_folder_setting(one.folder, one.meta, arguments.overwrite)
        divita.write_json(job.tables / "meta.json", clip_setting(arguments))
        for one in job.targets:
            if not one.meta.items() <= divita.read_meta(one.folder).items():  # no old files among new ones
                for path in one.folder.glob("*.npy"):
                    path.unlink()
            one.meta |= {"clips": job.tables.name, "videos": paths, "synthetic": synthetic}
            divita.write_json(one.folder / "meta.json", one.meta)


def update_failed_csv(job, outcomes):
    """Bring failed.csv up to date with {mid: reason, or None for one that has not failed}."""
    path, present = job.out / "failed.csv", set(map(printable, job.videos))
    with divita.folder_lock(job.out):
        rows = divita.read_table(path)[1] if path.exists() else []
        reasons = {row[0]: row[-1] for _, row in rows} | {printable(mid): reason for mid, reason in outcomes.items()}
        rows = [(mid, reason) for mid, reason in sorted(reasons.items()) if mid in present and reason]
        if rows:
            divita.write_csv(path, ["mid", "reason"], rows)
        else:
            path.unlink(missing_ok=True)


def summary(job):
    """Say where the results lie and what to do next; return the exit status."""
    rank, ranks = divita.rank_and_world_size()
    by = f" by rank {rank} of {ranks}" if ranks > 1 else ""
    if len(job.failed) == len(job.todo) > 1 and len(reasons := set(job.failed.values())) == 1:
        why = f"rather a fault of the set-up or the code than of the videos: {reasons.pop()}"
        tqdm.write(f"all {len(job.failed)} videos failed alike, {why}", file=sys.stderr)
    ready = len(prepared_mids(job))
    say(f"{ready} of {len(job.videos)} trailers prepared in {job.out}, {job.made} of them now{by}")
    if rank == 0:
        paths = [*(one.folder for one in job.targets), job.tables, job.out / "pictures", job.out / "failed.csv"]
        say("\n".join(f"  {path}" for path in paths if path.exists()))
        if ready:
            say(f"next: {shlex.join(['python', *next_command(job)])}")
    return 1 if job.failed else 0


def next_command(job):
    """Return the words of the command that goes on from here."""
    out, run = job.out, job.arguments.like
    if run:
        run = run if run.name else run.absolute()
        return ["03_evaluate.py", "--predict", str(out), "--runs", str(run.parent), "--run", run.name]
    if not (out / "labels.csv").exists():
        return ["03_evaluate.py", "--predict", str(out)]
    names = {one.meta["input"]: one.folder.name for one in reversed(job.targets)}  # the first of each
    standard = STANDARD_SETTING.items() <= clip_setting(job.arguments).items()
    inputs = [] if standard else [word for kind in KINDS for word in (f"--{kind}", names.get(kind, "none"))]
    return ["02_train.py", "--data", str(out), *inputs, "--runs", f"runs/{out.resolve().name}"]


# ---- Genre tables ----
# A table as people have it becomes one in the format of labels.csv. What is ambiguous is an error, never a guess.

MID_NAMES = (  # patterns of letters(column); one that matches excludes those after it
    "mid",
    "(movie|film|imdb|tmdb|title|video|youtube|yt|trailer|clip)?id|tconst|fname|video|datei(name)?"
    "|(video|movie|film)?(file|path)(name|path)?",
    "film|movie|trailer|clip|name",
)
GENRE_NAMES = "genres?", "labels?|tags?|categor(y|ies)"
NO_GENRE = (  # pattern of 0/1 columns
    r"(?i:is|has|was)[_ -].*|(is|has|was)[A-Z].*|.*;.*|(?i:genres?|labels?|tags?|adult|video|seen|watched|liked|used?"
    r"|favou?rite|checked|done|skip(ped)?|keep|duplicate|valid|available|downloaded|missing|released|flag)\W*"
)
YES, NO = "1 1.0 1,0 true wahr yes ja y x ✓ ✔".split(), "0 0.0 0,0 false falsch no nein n".split()
UNKNOWN = {"", "n", "na", "nan", "none", "null", "unknown", "nogenreslisted"}  # letters() of \N, N/A, - ...
SUBSET_WORDS = dict(train="0", training="0", val="1", valid="1", validation="1", validate="1", dev="1", test="2")
FEW_TRAILERS = 30  # for random splits


def read_genre_table(path):
    """Return a table's Labels and remarks, see README.md; raise UserError if a column or line is wrong or ambiguous."""
    columns = index_columns(path, *divita.read_table(path))
    mid, text = find_column(path, columns, "mid", MID_NAMES), find_column(path, columns, "genres", GENRE_NAMES)
    if not mid:
        raise UserError(f"{path}: no mid column; call the one with the video names mid, not {abbreviate([*columns], 9)}")
    numbered = [name for name in columns if re.fullmatch(r"split\d+", name)]
    words = [name for name, cells in columns.items() if {*map(str.casefold, cells.values())} <= SUBSET_WORDS.keys()]
    splits = [name for name in columns if name in numbered + words]
    others = {name: cells for name, cells in columns.items() if name not in (mid, text, *splits)}
    parsed = parse_genre_text(path, text, columns[text]) if text else None
    divita.check_no_split(path, others, len(splits))
    genres, found = parsed or parse_flags(path, others, columns[mid])
    if not genres:
        raise UserError(f"{path}: no genre in {text!r}; fill it in")
    for name, other in itertools.pairwise(sorted(genres, key=str.casefold)):
        if name.casefold() == other.casefold():
            raise UserError(f"{path}: genres {name!r} and {other!r} differ only in case; write one of them")
    single = text and max(map(len, found.values())) == 1  # so that a trailer may have a row per genre
    trailers = {}  # {mid: (its first line, its genres, its subsets)}
    for line, cell in columns[mid].items():
        stem, suffix = os.path.splitext(re.split(r"[/\\]", cell)[-1])
        name = stem if suffix.lower() in divita.VIDEO_SUFFIXES else stem + suffix
        cells = [columns[split][line] for split in splits]
        row = [SUBSET_WORDS.get(cell.casefold(), cell.removesuffix(".0")) for cell in cells]
        first, known, subsets = trailers.setdefault(name, (line, set(), row))
        if first != line and not (single and row == subsets and known and found[line] - known):
            raise UserError(f"{path} line {line}: duplicate trailer {name}; remove one of its rows")
        known |= found[line]
    header = ["mid", *genres, *(splits if numbered or len(words) != 1 else ["split0"])]
    kept = [(name, *trailer) for name, trailer in trailers.items() if trailer[1] or not text]
    rows = [(line, [name, *("01"[genre in known] for genre in genres), *row]) for name, line, known, row in kept]
    labels = divita.read_labels(path, (header, rows))
    for subset in find_empty_subsets(labels.splits, splits):
        raise UserError(f"{path}: no trailer in {subset}; each split needs train, validation and test")
    counts = [f"{genre} {count}" for genre, count in zip(genres, labels.y.sum(0))]
    remarks = [f"{path}: {len(rows)} trailers (mid: {mid}), genres: {abbreviate(counts, 30)}"]
    if unused := [name for name in others if name not in genres]:
        remarks.append(f"unused columns: {abbreviate(unused, 30)}")
    if skipped := [name for name in trailers if text and not trailers[name][1]]:
        remarks.append(f"skipped {len(skipped)} trailers without a known genre: {abbreviate(skipped, 30)}")
    if not splits and len(rows) < FEW_TRAILERS:
        remarks.append(f"warning: random splits of {len(rows)} trailers give unreliable scores; label {FEW_TRAILERS}")
    return labels, [*map(printable, remarks)]


def index_columns(path, header, rows):
    """Return {name: {line: cell}} of the columns with a name and of nameless ones that number the rows."""
    columns = {}
    for number, name in enumerate(header, 1):
        cells = {line: unicodedata.normalize("NFC", row[number - 1].strip()) for line, row in rows}
        if not name and any(cells.values()):
            name = f"(nameless {'first column' if number == 1 else f'column {number}'})"
            if len({*filter(str.isdecimal, cells.values())}) < len(cells):
                value = max(cells.values())
                raise UserError(f"{path}: the nameless column {number} holds {value!r}; name or remove it")
        if name and name in columns:
            raise UserError(f"{path}: duplicate column {name!r}; rename or remove one")
        columns[name] = cells
    columns.pop("", None)
    return columns


def find_column(path, columns, what, patterns):
    """Return the name of the column of mids or genres, None without any; raise UserError if there are two."""
    for pattern in patterns:
        found = [name for name, cells in columns.items() if re.fullmatch(pattern, normalize_name(name)) and flag_share(cells) < 1]
        if len(found) > 1:
            names = " and ".join(map(repr, found))
            raise UserError(f"{path}: {names} could each be the {what}; keep one or call one of them {what}")
        if found:
            return found[0]


def normalize_name(text):
    return re.sub(r"[\W_]", "", text.casefold())


def flag_share(cells):
    """Return which share of a column's known cells is yes or no."""
    known = [cell for cell in map(str.casefold, cells.values()) if cell in NO or normalize_name(cell) not in UNKNOWN]
    return sum(cell in YES + NO for cell in known) / max(1, len(known))


def parse_flags(path, columns, mids):
    """Return the names of the 0/1 columns and {line: the set of its genres}, mids: {line: mid}."""
    genres = [name for name, cells in columns.items() if flag_share(cells) > 0.5]
    if not genres:
        raise UserError(f"{path}: no genres; add a column genres or, for each genre, a column of 0 and 1")
    explicit = any(cell.casefold() in NO for name in genres for cell in columns[name].values())
    allowed = YES + (NO if explicit else [""])  # the latter in a table of x marks
    for name in genres:
        if re.fullmatch(NO_GENRE, name) or normalize_name(name) in UNKNOWN:
            raise UserError(f"{path}: the 0/1 column {name!r} looks like no genre; remove or rename it")
        for line, cell in columns[name].items():
            if cell.casefold() not in allowed:
                value = repr(cell) if cell else "empty"
                raise UserError(f"{path} line {line}: {name} of {mids[line]} is {value}; write 0 or 1")
    return genres, {line: {name for name in genres if columns[name][line].casefold() in YES} for line in mids}


def parse_genre_text(path, name, cells):
    """Return the genres in a column of text, sorted, and {line: the set of its genres, empty if unknown}."""
    plain = {cell for cell in cells.values() if cell[:1] not in ("[", "{")}
    separator = next((character for character in "|;," if character in "".join(plain)), None)
    whole = plain if not separator and plain.issuperset(cells.values()) else set()  # cells that nothing separates
    plural, found = normalize_name(name).endswith("s"), {}
    for line, cell in cells.items():
        try:
            names = cell.split(separator or "|") if cell in plain else parse_list(cell)
            names = [re.sub(r"[^\S\r\n]+", " ", genre.strip()) for genre in names if genre.strip()]
        except Exception:  # Python's parser raises many kinds
            names = [cell]  # which its bracket excludes below
        found[line] = set() if UNKNOWN.intersection(map(normalize_name, names)) else {*names}
        for genre in sorted(found[line]):
            parts = re.split(r"[\W_]+", genre)
            several = whole and (plural and " " in genre or genre not in parts and whole.issuperset(parts))
            if several or re.search(r"""[|;,"\[\]{}\n\r]|^'|^[\d.]+$""", genre):
                remedy = "write names separated by |" + ", or call the column genre if each is one" * bool(several)
                raise UserError(f"{path} line {line}: {name} is {cell!r}; {remedy}")
    return sorted(set().union(*found.values())), found


def parse_list(cell):
    """Return the names in a list that JSON, Python or NumPy wrote, also as [{"name": ...}] or {"choices": [...]}."""
    content = ast.literal_eval(re.sub(r"""(?<=['"])\s+(?=['"])""", ",", cell))  # NumPy writes no commas
    content = np.atleast_1d(content["choices"]).tolist() if isinstance(content, dict) else content
    return [item["name"] if isinstance(item, dict) else item for item in content]


def find_empty_subsets(splits, names):
    """Return which subsets of the splits (N, K) have no trailer, in words."""
    pairs = itertools.product(zip(names, splits.T), enumerate(divita.SUBSETS))
    return [f"{subset} of {name}" for (name, split), (i, subset) in pairs if i not in split]


def check_mids(path, mids, videos):
    """Raise UserError if no mid is the name of a video, with what two of them differ in."""
    if not videos.keys().isdisjoint(mids):
        return
    reductions = {"a suffix": lambda name: re.sub(r"\.\w*$", "", name), "case": str.casefold, "case or signs": normalize_name}
    reductions |= {"leading zeros or tt": lambda name: name.removeprefix("tt").lstrip("0")}
    for what, reduce in {**reductions, "more than case and suffix": lambda name: ""}.items():
        stems = {reduce(stem): stem for stem in videos}
        if mid := next((mid for mid in mids if reduce(mid) in stems), None):
            names = printable(f"{mid} and {stems[reduce(mid)]}")
            raise UserError(f"{path}: no mid is the name of a video: {names} differ in {what}; rename one of each pair")


# ---- Films decoded side by side ----


class VideoDataset(torch.utils.data.IterableDataset):
    """(mid, kind, content) of films, {mid: path}: what read_clips() yields, or at last ("failed", why) if the video
    cannot be decoded and ("error", why) for any other reason. Each worker takes the next film that none has taken."""

    def __init__(self, films, plan):
        self.films, self.plan, self.taken = films, plan, multiprocessing.Value("L")

    def __iter__(self):
        for number, (mid, path) in enumerate(self.films.items()):
            with self.taken:
                if number < self.taken.value:
                    continue
                self.taken.value += 1
            try:
                for kind, content in decode_clips(path, self.plan):
                    yield mid, kind, content
            except Exception as error:  # also of the disk, whatever a damaged video brings up, or a fault of the code
                kind = "failed" if isinstance(error, VideoError) else "error"
                name = "" if isinstance(error, VideoError | OSError) else f"{type(error).__name__}: "
                yield mid, kind, name + divita.one_line(error)


def decode_in_parallel(films, plan, workers, patience, most):
    """Yield what Films gives of films, {mid: path}, decoded in processes that are about `most` messages ahead.

    If a film ends its process, or nothing comes for `patience` seconds, the films begun are decoded again, each alone;
    the second time is an error. The first message starts the processes; no thread may run before, as forks would hang.
    """
    signal.signal(signal.SIGALRM, on_timeout)
    alarm = functools.partial(signal.setitimer, signal.ITIMER_REAL)
    groups = [(films.copy(), False)]  # films that are decoded side by side, whether again
    try:
        while groups:
            left, again = groups.pop(0)
            dataset = VideoDataset(left.copy(), plan)
            messages = start_workers(dataset, min(workers, len(left)), most)
            try:
                alarm(patience)
                for message in messages:
                    alarm(0)
                    if message[1] in ("end", "failed", "error"):
                        del left[message[0]]
                    yield message
                    alarm(patience)
                alarm(0)
            except RuntimeError:  # the loader's, when a process has ended, or give_up()'s
                alarm(0)
                silent = multiprocessing.active_children()
                stop_workers()
                why = f"no clip in {patience:g} s of decoding" if silent else "it crashed the decoder"
                begun = [mid for mid in list(dataset.films)[: dataset.taken.get_obj().value] if mid in left]
                for mid in begun or list(left)[:1]:  # the first one, where none was begun
                    film = {mid: left.pop(mid)}
                    if again:
                        yield mid, "error", why
                    else:
                        groups.append((film, True))
                if left:
                    groups.append((left, again))
    finally:
        stop_workers()


def start_workers(dataset, processes, most):
    """Start processes that decode and return an iterator of what they give."""
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda message: message,  # as it is, without tensors in place of arrays
        num_workers=processes,
        prefetch_factor=max(2, most // processes),
        in_order=False,
        worker_init_fn=lambda _: threading.Thread(target=end_with_parent, daemon=True).start(),
        multiprocessing_context="fork",  # starts at once, where a fresh process imports Keras for seconds
    )
    try:
        messages = iter(loader)
    except (OSError, RuntimeError) as error:  # or one is ended at once
        raise UserError(f"no process can be started ({divita.one_line(error)}); give fewer --workers") from None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise in the middle of anything
    return messages


def on_timeout(*_):
    raise RuntimeError("nothing came")


def stop_workers():
    """End the processes that decode, also one that would not end by itself."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def end_with_parent():
    """End this process as soon as its parent has ended, also while it waits for the full pipe between them."""
    multiprocessing.parent_process().join()
    os._exit(1)


# ---- The published data set ----

ZENODO = "https://zenodo.org/records/5716410/files"


def download(names, out):
    """Fetch the published labels and representations, and unpack them: out/mtgc.csv, out/<name>.zarr."""
    names = list(divita.PUBLISHED) if names == ["all"] else [name.removesuffix(".zarr") for name in names]
    kinds = {divita.read_meta(Path(f"{name}.zarr"))["input"]: name for name in names}  # refuses an unknown one
    out.mkdir(parents=True, exist_ok=True)
    with divita.folder_lock(out):  # of two processes, the second finds everything there
        divita.remove_stale_files(out)
        fetch("mtgc.csv", out, divita.LABELS_MD5)
        for name in names:
            if not (out / f"{name}.zarr" / ".zgroup").exists():
                unpack(fetch(f"{name}.zarr.tar.gz", out, divita.PUBLISHED[name][1]), out)
    say(f"in {out}: mtgc.csv, the published labels; {', '.join(f'{name}.zarr' for name in names)}")
    inputs = ["--image", kinds.get("image", "none"), "--video", kinds.get("video", "none")]
    command = ["python", "02_train.py", "--data", str(out), *inputs, "--runs", f"runs/{out.resolve().name}"]
    say(f"next: {shlex.join(command)}")


def fetch(name, out, md5):
    """Download a file of the record into a folder, unless it is there, and return its path."""
    path, url = out / name, f"{os.environ.get('DIVITA_PUBLISHED', ZENODO)}/{name}?download=1"
    curl = shlex.join(["curl", "-fLC", "-", "-o", str(path), url])  # resumes the download
    if path.exists():
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise UserError(f"{path}: its MD5 is not the published {md5}; complete it with {curl} or remove it")
        return path
    say(f"downloading {url}")
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    remedy = f"run the same command again or, if the line keeps breaking, {curl} first"
    with divita.atomic_write(path) as temporary, divita.download_errors(name, remedy), contextlib.redirect_stdout(bar):
        keras.utils.get_file(temporary.name, url, cache_subdir=out.absolute(), file_hash=md5, hash_algorithm="md5")
    return path


def unpack(archive, out):
    """Unpack <name>.tar.gz, which holds the folder <name>, and remove it. Nothing is written outside `out`."""
    name, folder = archive.name.removesuffix(".tar.gz"), out / ".unpacking"
    say(f"unpacking {archive}")
    try:
        shutil.unpack_archive(archive, folder, filter="data")  # which refuses ../, links to the outside, devices
        (folder / name).replace(out / name)
    except (shutil.ReadError, tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({divita.one_line(error)}); remove it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()


# ---- The demo data set ----

DEMO_TRAILERS, DEMO_SEED, DEMO_FPS = 100, 0, 24
DEMO_SIZE = 192, 108  # width, height
GENRES = {  # OpenCV's marker, how the camera moves: three genres are told by the first alone, seven only by both
    "action": (cv2.MARKER_TRIANGLE_UP, "shake"), "adventure": (cv2.MARKER_TRIANGLE_UP, "roll"),
    "comedy": (cv2.MARKER_STAR, "still"), "crime": (cv2.MARKER_SQUARE, "shake"),
    "drama": (cv2.MARKER_CROSS, "still"), "fantasy": (cv2.MARKER_DIAMOND, "still"),
    "horror": (cv2.MARKER_TRIANGLE_UP, "pulse"), "romance": (cv2.MARKER_TILTED_CROSS, "still"),
    "sci-fi": (cv2.MARKER_DIAMOND, "roll"), "thriller": (cv2.MARKER_SQUARE, "pulse"),
}  # fmt: skip


def make_demo(out, workers):
    """Make the synthetic demo data set in the folder `out`, whose files are kept; raise UserError if it holds others.

    Writes true_cuts.csv (mid, frame: the first frame of each shot but the first), labels.csv and videos/<mid>.mp4.
    """
    y, splits = demo_labels()
    edits = {f"demo{i:03d}": demo_edit(i, np.flatnonzero(row)) for i, row in enumerate(y)}
    cuts = [f"{mid},{cut}\n" for mid, edit in edits.items() for cut in np.cumsum([n for _, n in edit])[:-1]]
    text = "mid,frame\n" + "".join(cuts)
    true_cuts, labels = out / "true_cuts.csv", out / "labels.csv"
    if any(out.glob("[!.]*")) and not (true_cuts.exists() and true_cuts.read_text() == text):
        raise UserError(f"{out}: not the demo's folder; pass your own videos with --videos")
    divita.write_text(true_cuts, text)  # first: from now on the folder is the demo's
    if not labels.exists():
        divita.write_csv(labels, *labels_table(divita.Labels([*edits], [*GENRES], y, splits)))
    tasks = [(out / "videos" / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(edits.items())]
    if tasks := [task for task in tasks if not task[0].exists()]:
        thread_map(make_video, tasks, max_workers=workers, desc="demo trailers", unit="trailer")


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


def make_video(task):
    """Shoot and cut one trailer: `task` is its path, its number and its edit."""
    path, trailer, edit = task
    rng = np.random.default_rng([DEMO_SEED, 2, trailer])
    hue, dark = rng.integers(180), rng.integers(2)
    with divita.atomic_write(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), DEMO_FPS, DEMO_SIZE)
        for genre, frames in edit:
            hue, dark = hue + rng.integers(50, 130), not dark  # a cut is seen in colour and in light
            marker, camera = GENRES[genre]
            for frame in shoot(marker, hue, dark, camera, frames, rng):
                writer.write(frame)
        writer.release()
        if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != sum(frames for _, frames in edit):
            raise UserError(f"{path}: cannot be written whole; make room on the disk and run the same command again")


def shoot(marker, hue, dark, camera, frames, rng):
    """Yield `frames` frames (108, 192, 3) of markers of one kind strewn over a plain ground, seen by a moving camera.

    Where a camera does not move, it stands where it could be at some moment if it did: a single frame tells nothing.
    """
    canvas = np.full((162, 288, 3), (hue % 180, 90, 100 if dark else 200), np.uint8)  # OpenCV's hues are half degrees
    for x, y in np.ndindex(14, 8):
        place = 20 * x + rng.integers(4, 18), 20 * y + rng.integers(4, 18)
        colour = int(hue + rng.integers(15, 30)) % 180, 90, 150
        cv2.drawMarker(canvas, place, colour, marker, int(rng.integers(10, 18)), 2)
    canvas = cv2.cvtColor(canvas, cv2.COLOR_HSV2BGR)  # larger than a frame
    turn, flash, zoom = *rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.9, 1.1)
    for i in range(frames):
        angle = 7 * np.sin(turn + 2 * np.pi / 16 * i * (camera == "roll"))  # degrees
        light = 0.9 + 0.1 * np.sin(flash + 2 * np.pi / 9 * i * (camera == "pulse"))
        view = cv2.getRotationMatrix2D((144, 81), angle, zoom)  # canvas -> frame
        view[:, 2] += rng.uniform(-2, 2, 2) * (camera == "shake") - (48, 27)
        yield cv2.convertScaleAbs(cv2.warpAffine(canvas, view, DEMO_SIZE), alpha=light)


if __name__ == "__main__":
    divita.run_script(main, ARGUMENTS)
