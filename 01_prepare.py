"""Prepare: videos -> shots -> clips -> representations on disk, ready for 02_train.py.

    python 01_prepare.py                                              the demo: synthetic trailers
    python 01_prepare.py --videos DIR --labels mtgc.csv --out data/mine
    python 01_prepare.py --videos DIR --out data/mine --image shufflenet2d swin2d --video shufflenet3d swin3d
    python 01_prepare.py --like runs/demo/RUN --videos DIR --out data/new       with a run's settings
    python 01_prepare.py --download all --out data/published          the published labels and representations
    torchrun --nproc-per-node 4 01_prepare.py --videos DIR --out data/mine      the same on four GPUs

A trailer's mid is the stem of its video's file name. Videos are decoded once, in parallel: PySceneDetect detects the
shots, each shot is cut into clips at the target frame rate, and batches of clips from all trailers go through all
backbones. Finished trailers are skipped, so rerunning the command resumes; failures are listed in failed.csv.
"""

import argparse
import os
import signal
from pathlib import Path

MIN_SHOT = 0.6  # seconds; PySceneDetect's 15 frames at 24 or 25 frames/s
MAX_STEP = 10.0  # seconds between two frames that are always trusted
MAX_PAUSE = 3600.0  # seconds between two frames that are trusted if the timestamps continue increasing
MAX_EARLY = 0.5  # seconds; earliest display of a frame before its timestamp
STRIP_FRAMES, STRIP_HEIGHT = 10, 90  # frames in pictures/<mid>.jpg; height in pixels
MAX_CANDIDATES = 640  # small images in memory, from which a strip's frames are chosen at the end
DEFAULT_BACKBONES = {"image": "efficientnetlite_b0", "video": "shufflenet3d"}
INPUT_NAMES = tuple(DEFAULT_BACKBONES)
ROUNDING = 1e-6  # target frames; smaller time differences are rounding errors
ZENODO = "https://zenodo.org/records/5716410/files"  # published labels and representations
DEMO_OUT = "data/demo"
DEMO_IMAGE_FRAMES = 1  # per clip: fewer than the published 24, for speed
DEMO_PRETRAINED = ["efficientnetlite_b0"]  # weights installed by a package; other demo backbones are random


def parse_arguments(like=None):
    """Parse the command line; like: {option: value} replaces the defaults."""
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # errors are one line
    add = parser.add_argument_group("data").add_argument
    add("--videos", metavar="PATH", type=Path, nargs="+", help="video files or folders of <mid>.mp4 (the demo)")
    add("--labels", metavar="CSV", type=Path, help="genre table, see README (none: only predict)")
    add("--out", metavar="DIR", type=Path, default=DEMO_OUT, help="data folder to write (%(default)s)")
    add("--like", metavar="RUN", type=Path, help="reuse the settings of this run folder")
    add("--download", metavar="NAME", nargs="+", help="published representations to download, or all")
    add = parser.add_argument_group("backbones").add_argument
    for name, backbone in DEFAULT_BACKBONES.items():
        add(f"--{name}", metavar="NAME", nargs="+", default=[backbone], help=f"{name} backbones, or none ({backbone})")
    add("--weights", metavar="W", nargs="+", default=[], help="pretrained, random or NAME=FILE (pretrained)")
    add("--image-frames", metavar="N", type=int, help="frames per clip for image backbones (all; the demo: 1)")
    add("--precision", choices=["float32", "bfloat16"], help="inference precision (float32)")
    add("--batch-size", metavar="N", type=int, default=16, help="clips per batch (%(default)s)")
    add = parser.add_argument_group("clips").add_argument
    add("--segmentation", choices=["shots", "seconds"], default="shots", help="clip boundaries (%(default)s)")
    add("--detector", choices=["adaptive", "content"], default="adaptive", help="shot detector (%(default)s)")
    add("--fps", metavar="F", type=float, default=24.0, help="target frame rate (%(default)g)")
    add("--frames-per-clip", metavar="N", type=int, default=24, help="target frames per clip (%(default)s)")
    add = parser.add_argument_group("execution").add_argument
    add("--workers", metavar="N", type=int, help="decoding processes (usable cores)")
    add("--overwrite", action="store_true", help="recompute existing representations")
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # safe at any time: files are written atomically
    ARGUMENTS = parse_arguments()

import ast
import collections
import contextlib
import functools
import hashlib
import io
import itertools
import json
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

cv2.setNumThreads(1)  # videos are decoded in parallel
warnings.filterwarnings("ignore", message="This DataLoader will create")  # more --workers than cores

# ---- From videos to representations ----
# Clips of all videos of this rank share batches; a trailer's files are written once all its vectors are computed.


def main(arguments):
    """Prepare videos or download published data; return the exit status."""
    if arguments.like:
        arguments = parse_arguments_like(arguments.like)
    arguments.workers = arguments.workers or divita.usable_cores()
    out = divita.check_writable(arguments.out)
    if arguments.download:
        return download(arguments.download, out)
    if arguments.videos is None and arguments.image_frames is None:
        arguments.image_frames = DEMO_IMAGE_FRAMES
    targets = make_targets(arguments)
    if arguments.videos is None:
        make_demo(out, arguments.workers)
    videos = divita.find_videos(arguments.videos or [out / "videos"])
    if (out / "true_cuts.csv").exists() and any(path.parent.parent != out.absolute() for path in videos.values()):
        raise UserError(f"{out}: contains the demo; choose another --out (03_evaluate.py: --data) for your videos")
    job = make_job(arguments, out, videos, targets)
    if job.todo:
        prepare(job)
    return print_summary(job)


@dataclass
class Job:
    """The trailers to prepare by this rank."""

    arguments: argparse.Namespace
    out: Path
    videos: dict  # {mid: path} of all ranks
    targets: list
    clip_tables: Path  # folder
    todo: dict = field(default_factory=dict)  # {mid: path} of this rank
    failed: dict = field(default_factory=dict)  # {mid: reason}
    saved: int = 0  # trailers


def prepare(job):
    """Decode this rank's videos, run the backbones over their clips and save each trailer once it is complete."""
    (rank, world_size), batch_size = divita.rank_and_world_size(), job.arguments.batch_size
    decoded, batch = {}, []  # {mid: DecodedVideo}, [(mid, [uint8 (T, S, S, 3) per target])]
    vectors = collections.defaultdict(lambda: [[] for _ in job.targets])  # {mid: a list of vectors (F,) per target}
    options = job.arguments.workers, job.arguments.patience
    messages = decode_in_parallel(job.todo, make_plan(job), *options, max_queued=2 * batch_size)
    with contextlib.closing(messages):
        first = next(messages)  # starts the workers
        name = f", rank {rank} of {world_size}" if world_size > 1 else ""
        say(f"{len(job.todo)} of {len(job.videos)} trailers to prepare, {divita.select_device()}{name}")
        build_extractors(job)
        with tqdm(total=len(job.todo), desc=name[2:], unit="trailer", disable=rank > 0, smoothing=0.05) as bar:
            for mid, kind, content in itertools.chain([first], messages, [(None, "last", None)]):
                if kind == "clip":
                    batch.append((mid, content))
                elif kind == "end":
                    decoded[mid] = content
                    if content.remarks:
                        tqdm.write(f"{mid}: {'; '.join(content.remarks)}", file=sys.stderr)
                elif kind in ("digest", "failed", "error"):  # drop clips of an earlier attempt
                    vectors.pop(mid, None)
                    batch = [clip for clip in batch if clip[0] != mid]
                    if kind != "digest":
                        mark_failed(job, mid, content, delete=kind == "failed")
                        bar.update()
                if batch and (kind == "last" or len(batch) == batch_size):
                    run_batch(job, batch, vectors)
                for done in [mid for mid, video in decoded.items() if len(vectors[mid][0]) == len(video.rows)]:
                    save_trailer(job, done, decoded.pop(done), [np.stack(clips) for clips in vectors.pop(done)])
                    bar.update()


def run_batch(job, batch, vectors):
    """Run the backbones over a batch of clips, append the vectors to their trailers and empty the batch."""
    for i, target in enumerate(job.targets):
        clip_vectors = target.extract(np.stack([clips[i] for _, clips in batch]))  # (N, T, S, S, 3) -> (N, F)
        for (mid, _), vector in zip(batch, clip_vectors):
            vectors[mid][i].append(vector)
    batch.clear()


def save_trailer(job, mid, video, vectors):
    """Write a trailer's strip, clip table and vectors, (clips, F) per target, with digests of video and clip table."""
    if not all(np.isfinite(clips).all() for clips in vectors):
        return mark_failed(job, mid, "non-finite vectors", delete=True)
    table = "clip,shot,start_frame,end_frame,start_s,end_s\n"
    table += "".join(",".join(map(str, row)) + "\n" for row in video.rows)
    with divita.atomic_write(job.out / "pictures" / f"{mid}.jpg") as temporary:
        temporary.write_bytes(video.strip)
    divita.write_text(job.clip_tables / f"{mid}.csv", table)
    source = np.array([video.digest, divita.array_digest(table), video.stamp])
    for target, clips in zip(job.targets, vectors):
        with divita.atomic_write(target.folder / f"{mid}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, clips)
            np.save(file, source)
    job.saved += 1


def mark_failed(job, mid, reason, delete=False):
    """Report a trailer that cannot be prepared; if `delete`, remove its earlier strip and vectors."""
    job.failed[mid] = reason
    paths = [job.out / "pictures" / f"{mid}.jpg", *(target.folder / f"{mid}.npy" for target in job.targets)]
    for path in paths if delete else ():
        path.unlink(missing_ok=True)
    update_failed_csv(job, {mid: reason})
    tqdm.write(f"{printable(mid)}: failed: {reason}", file=sys.stderr)


# ---- Shots ----
# PySceneDetect's cuts, found while frames stream through; frames wait as long as a cut may still be reported.


def detect_shots(frames, name):
    """Yield (frame, whether it starts a shot), with the cuts of PySceneDetect's SceneManager."""
    detector_class = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[name]
    detector = detector_class(min_scene_len=MIN_SHOT)
    latest = MIN_SHOT if name == "content" else math.inf  # seconds; its event_buffer_length assumes 240 frames/s
    waiting, cuts = collections.deque(), []  # cuts: times in seconds
    for frame in itertools.chain(frames, [None]):
        if frame:
            timecode = scenedetect.FrameTimecode(frame.time, 1000.0)  # frames/s, which few detectors use
            cuts += [cut.seconds for cut in detector.process_frame(timecode, frame.small)]
            waiting.append(frame)
        buffered = detector.event_buffer_length if frame else 0
        while len(waiting) > buffered or (waiting and waiting[0].time <= frame.time - latest):
            first = waiting.popleft()
            later = [cut for cut in cuts if cut >= first.time + 1e-5]
            yield first, len(later) < len(cuts)
            cuts = later


# ---- Clips ----
# A shot is sampled at the target frame rate and cut into clips; half a clip or more is padded with its last frame.

# Clip setting, and views: per backbone (preprocessing of a frame, frames per clip)
Plan = collections.namedtuple("Plan", "segmentation detector fps frames_per_clip views")


def make_plan(job):
    """Return the Plan for all targets; backbones with the same preprocessing share one transform."""
    arguments, transforms, views = job.arguments, {}, []
    for target in job.targets:
        backbone = divita.get_backbone(target.meta["backbone"])
        preprocessing = backbone.size, backbone.resize, backbone.interpolation, backbone.antialias
        transform = transforms.setdefault(preprocessing, functools.partial(divita.preprocess, backbone=backbone))
        views.append((transform, target.meta["frames"]))
    return Plan(arguments.segmentation, arguments.detector, arguments.fps, arguments.frames_per_clip, views)


def positions(frames, frames_per_clip):
    """Return the indices of `frames` evenly spaced frames of a clip."""
    return [int((i + 0.5) * frames_per_clip / frames) for i in range(frames)]


@dataclass
class DecodedVideo:
    """Clip table, strip and properties of a video, complete once it has been decoded."""

    digest: str
    stamp: str  # see video_stamp()
    pixel_aspect: float = 1.0  # width / height of a pixel
    rows: list = field(default_factory=list)  # clip table
    duration: float = 0.0  # seconds
    remarks: list = field(default_factory=list)  # warnings
    strip: bytes = b""  # JPEG file


def display_start(before, frame):
    """Return a frame's display start in seconds: midway from the frame before, at most MAX_EARLY before its time."""
    return max((before.time + frame.time) / 2, frame.time - MAX_EARLY)


class ShotClipper:
    """Cuts a shot into clips and adds them to the clip table. Target frame k is due k / fps seconds after the start."""

    def __init__(self, video, plan, first):
        self.video, self.plan, self.start, self.shown = video, plan, first.time, first
        self.views = [(transform, positions(n, plan.frames_per_clip)) for transform, n in plan.views]
        self.number = video.rows[-1][1] + 1 if video.rows else 0
        self.length = 0  # target frames so far

    def add_frame(self, frame):
        """Add the next source frame; yield the clips completed by the frame before."""
        until = display_start(self.shown, frame) - self.start
        yield from self.fill_until(math.floor(until * self.plan.fps + ROUNDING) + 1)
        self.shown = frame

    def finish(self, time):
        """End the shot at `time`; yield its last clips. A partial clip is padded if half full or the only one."""
        length, per_clip = round((time - self.start) * self.plan.fps), self.plan.frames_per_clip
        yield from self.fill_until(max(1, (length + per_clip // 2) // per_clip) * per_clip)
        *row, clip_end = self.video.rows[-1]
        self.video.rows[-1] = (*row, min(clip_end, round(time, 6)))

    def fill_until(self, length):
        """Repeat the source frame up to target frame `length`; yield its clips."""
        per_clip, fps, rows = self.plan.frames_per_clip, self.plan.fps, self.video.rows
        while self.length < length:
            clip, position = divmod(self.length, per_clip)
            if position == 0:
                self.first, self.images = self.shown.number, [[] for _ in self.views]
            for (transform, kept), images in zip(self.views, self.images):
                if position in kept:
                    images.append(self.shown.transformed(transform))
            self.length += 1
            if position == per_clip - 1:
                start = self.start + clip * per_clip / fps
                times = round(start, 6), round(start + per_clip / fps, 6)
                rows.append((len(rows), self.number, self.first, self.shown.number + 1, *times))
                yield "clip", [np.stack(images) for images in self.images]


def decode_clips(path, plan):
    """Decode a video once; yield ("digest", ...), ("clip", [uint8 (T, S, S, 3) per view]), ("end", DecodedVideo).
    Raises OSError if the file cannot be read, VideoError if it cannot be decoded."""
    for message in hash_video(path):
        yield message
    container, stream = open_video(path)
    video, shot, time = DecodedVideo(*message[1], float(stream.sample_aspect_ratio or 1)), None, 0.0
    packets = PacketCount(stream)
    strip = FrameStrip(video, packets.header_duration)
    images = to_bgr_images(decode_frames(container, stream, packets), video)
    frames = repair_timestamps(images, packets.nominal_fps, MAX_STEP if packets.is_ts else MAX_PAUSE)
    by_shots = plan.segmentation == "shots"
    for frame, starts in detect_shots(frames, plan.detector) if by_shots else zip(frames, itertools.repeat(False)):
        time, step = frame.time, frame.time - time
        if starts and shot:
            yield from shot.finish(time)
        if starts or not shot:
            shot = ShotClipper(video, plan, frame)
        strip.add(frame)
        yield from shot.add_frame(frame)
    if not shot:
        raise VideoError(f"no frame of stream {stream.index} ({stream.codec_context.name}) can be decoded")
    average = time / frame.number if frame.number else 1 / packets.nominal_fps
    video.duration = exact = time + (average if average < 1 else step)  # step: for videos with pauses
    if frame.number + 1 == stream.frames and packets.header_duration > time:  # no frame is missing
        exact = min(packets.header_duration, time + MAX_PAUSE)
        video.duration = exact if exact > video.duration + 1 else video.duration
    video.remarks += packets.report_missing(frame.number + 1, video.duration)
    video.strip = strip.jpeg(exact)
    yield from shot.finish(video.duration)
    container.close()
    if video_stamp(path) != video.stamp:
        raise VideoError("modified during decoding; run the same command again once the file is complete")
    yield "end", video


# ---- Frames and timestamps ----


class Frame:
    """A frame of a video: its number, time in seconds and image, uint8 BGR (H, W, 3)."""

    def __init__(self, number, time, image, small_size):
        self.number, self.time, self.image, self.small_size = number, time, image, small_size
        self.transformed = functools.cache(lambda transform: cv2.cvtColor(transform(image), cv2.COLOR_BGR2RGB))

    @functools.cached_property
    def small(self):
        """The image as PySceneDetect expects it, about 256 pixels long; one size per video."""
        return cv2.resize(self.image, self.small_size, interpolation=cv2.INTER_LINEAR)


def repair_timestamps(images, fps, max_pause):
    """Yield Frames of (timestamp in seconds or NaN, image). Timestamps that increase by at most `max_pause` seconds are
    trusted; others, and one after its successor, are replaced: by the nominal fps or halfway to the next, if sooner."""
    for number, ((timestamp, image), following) in enumerate(itertools.pairwise(itertools.chain(images, [None]))):
        if number == 0:  # its time will be 0; the shifts are added to timestamps
            time, shift, shift_after_jump = -1 / fps, -timestamp, -timestamp
            factor = scenedetect.scene_manager.compute_downscale_factor(max(image.shape))
            small_size = tuple(max(1, round(side / factor)) for side in image.shape[1::-1])
        longest = max_pause if following is None or timestamp <= following[0] else MAX_STEP
        for likely in (shift, shift_after_jump):
            if 0 < timestamp + likely - time <= longest:
                time, shift = timestamp + likely, likely
                break
        else:
            gap = following[0] + shift - time if following else math.nan
            time += min(1 / fps, gap / 2) if 0 < gap <= MAX_STEP else 1 / fps
            shift_after_jump = time - timestamp  # for the next frames of a joined video
        yield Frame(number, time, image, small_size)


# ---- Video decoding ----
# PyAV: choose the stream as ffmpeg does, skip damaged frames, convert to upright BGR images.
# One thread per video, so that damaged videos decode the same every time.


class VideoError(Exception):
    """A video that cannot be decoded; its message is the reason."""


def open_video(path):
    """Return a video's PyAV container and its main video stream, chosen as ffmpeg does; raise VideoError if none."""
    if not path.stat().st_size:
        raise VideoError("empty file")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"no video stream can be read ({error.strerror})") from None
    stream = container.streams.best("video")
    if stream is None:
        raise VideoError(f"no video stream; streams: {abbreviate([s.type for s in container.streams]) or 'none'}")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError(f"stream {stream.index} is a cover image, not a video")
    if stream.codec_context is None:
        raise VideoError(f"FFmpeg has no decoder for stream {stream.index}")
    stream.codec_context.thread_count = 1  # with more, damaged videos decode differently each time
    return container, stream


def decode_frames(container, stream, packets):
    """Yield a stream's PyAV frames, skipping damaged ones. Raises VideoError if the video is encrypted."""
    failures = 0  # consecutive read errors; in MPEG-TS each one skips 64 KiB
    while failures < 5 + container.size // 2**16:
        try:
            for packet in container.demux():
                failures = 0
                packets.add(packet)
                if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:  # in MP4, in WebM
                    raise VideoError("encrypted")
                if packet.stream.index == stream.index:
                    with contextlib.suppress(av.FFmpegError):
                        yield from packet.decode()
            return
        except av.FFmpegError:
            failures += 1
    with contextlib.suppress(av.FFmpegError):
        yield from stream.decode(None)  # flush the decoder


class PacketCount:
    """Expected content of a stream: seconds by its header or else the container's (0 if unknown), and frames,
    estimated by its packets and by the time lost in bytes between packets."""

    def __init__(self, stream):
        self.nominal_fps = float(stream.guessed_rate) if 1 <= (stream.guessed_rate or 0) <= 240 else 24.0  # frames/s
        self.stream, self.rate = stream, float(stream.average_rate or self.nominal_fps)
        self.frames, self.position = 0, math.inf  # position: bytes in packets and their headers
        self.first = self.last = self.end = 0.0  # seconds; end: the last packet of any stream
        container = stream.container
        self.is_ts = container.format.name == "mpegts"  # its larger steps are discontinuities, as in ffmpeg
        seconds = ((container.duration or 0) - (container.start_time or 0)) / av.time_base
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        if stream.frames and stream.average_rate and "mp4" not in container.format.name:  # whose edit lists hide frames
            seconds = max(seconds, float(stream.frames / stream.average_rate))  # a duration may be an estimate
        self.header_duration = seconds if 0 < seconds < 24 * 3600 else 0

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

    def report_missing(self, frames, seconds):
        """Yield warnings of missing frames or of seconds missing by the header (not in MPEG-TS, which has gaps)."""
        expected = round(min(self.frames, (self.last - self.first) * self.rate + 1))
        reached = seconds if self.stream.duration else max(seconds, self.end - self.first)  # of all streams
        if frames < expected * 0.98:
            yield f"only {frames} of about {expected} frames can be decoded; they are used"
        if frames != self.stream.frames and reached < self.header_duration * 0.97 - 0.5 and not self.is_ts:
            yield f"only {seconds:.1f} s of {self.header_duration:.1f} s can be decoded; they are used"


def to_bgr_images(frames, video):
    """Yield (timestamp in seconds or NaN, upright image, uint8 BGR (H, W, 3)); set the video's pixel aspect and, if
    FFmpeg cannot convert the colour tags, ignore them with a remark."""
    reformat = functools.partial(av.video.reformatter.VideoReformatter().reformat, format="bgr24", threads=1)
    matrix = None
    for frame in frames:
        try:
            converted = reformat(frame)
        except av.FFmpegError:
            tags = f"matrix {frame.colorspace}, transfer {frame.color_trc}, primaries {frame.color_primaries}"
            frame.colorspace = frame.color_trc = frame.color_primaries = 2  # unspecified
            converted = reformat(frame)
            if not video.remarks:
                video.remarks.append(f"colour tags ignored, FFmpeg cannot convert {tags}")
        if matrix is None:  # read once, from a converted frame: a reference cycle keeps that frame alive for long
            side_data = converted.side_data.get("DISPLAYMATRIX")
            matrix = np.frombuffer(side_data, np.int32) if side_data else np.eye(3).ravel()
            a, b, _, c, d, *_ = matrix  # x' = a x + c y, y' = b x + d y
            if quarter_turn := abs(b) > abs(a):
                video.pixel_aspect = 1 / video.pixel_aspect
                a, d = c, b
        image = converted.to_ndarray()
        if frame.format.name.startswith("gray") and frame.color_range == 1:  # FFmpeg does not expand limited range
            image = cv2.convertScaleAbs(cv2.subtract(image, (16, 16, 16, 0)), alpha=255 / 219)
        image = image.swapaxes(0, 1) if quarter_turn else image
        image = np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
        yield math.nan if frame.time is None else frame.time, image


# ---- Strips ----
# A strip has the frames at (i + 0.5) / 10 of a trailer's duration, which is known at the end only. Of more than
# MAX_CANDIDATES small images, the last before each multiple of a step is kept; the step divides duration / 20.


class FrameStrip:
    """Collects small images of a video's frames, with the starts of their display in seconds."""

    def __init__(self, video, duration):
        self.video, self.step, self.last = video, (duration or 1) / 20 / 2**20, None
        self.times, self.images = [], []

    def add(self, frame):
        time = display_start(self.last, frame) + ROUNDING if self.last else 0.0
        if self.last and math.ceil(time / self.step) == math.ceil(self.times[-1] / self.step):
            self.times.pop()
        elif self.last:
            self.images.append(shrink(self.last.small, self.video.pixel_aspect))
        self.times.append(time)
        self.last = frame
        while len(self.times) > MAX_CANDIDATES:
            self.step *= 2
            *kept, last = {math.ceil(time / self.step): i for i, time in enumerate(self.times)}.values()
            self.times = [self.times[i] for i in (*kept, last)]
            self.images = [self.images[i] for i in kept]

    def jpeg(self, duration):
        """Return the strip for a duration in seconds as the bytes of a JPEG file."""
        images = [*self.images, shrink(self.last.small, self.video.pixel_aspect)]
        due = (np.arange(STRIP_FRAMES) + 0.5) / STRIP_FRAMES * duration
        strip = np.hstack([images[i - 1] for i in np.searchsorted(self.times, due, "right")])
        return cv2.imencode(".jpg", strip)[1].tobytes()


def shrink(image, pixel_aspect):
    """Return the centre of an image, at most 16:9 as displayed, with square pixels: (STRIP_HEIGHT, W, 3)."""
    height, width, _ = image.shape
    columns = min(width, max(1, round(height * 16 / 9 / pixel_aspect)))
    left, size = (width - columns) // 2, max(1, round(STRIP_HEIGHT * columns * pixel_aspect / height))
    size = min(size, STRIP_HEIGHT * 16 // 9), STRIP_HEIGHT
    return cv2.resize(image[:, left : left + columns], size)


# ---- Targets and resuming ----
# Missing or outdated representations and trailers, judged by meta.json and by digests of video and clip table.


@dataclass
class Target:
    """A representation to prepare."""

    folder: Path
    meta: dict  # complete once the backbone is built
    weights: str | Path
    extract: object = None  # divita.Extractor


def parse_arguments_like(run):
    """Parse the command line with a run's settings as defaults; raise UserError if an option contradicts them."""
    configs = sorted(run.glob("split*/config.json"))
    if not configs:
        raise UserError(f"--like {run}: no finished run; pass a run folder such as runs/demo/RUN")
    metas = divita.input_metas(divita.read_json(configs[0])).values()
    settings = [(key, [meta["backbone"] for meta in metas if meta["input"] == key] or ["none"]) for key in INPUT_NAMES]
    for meta in metas:
        if divita.is_external(meta):
            what = f"its {meta['input']} vectors are external, by {meta['backbone']}"
            raise UserError(f"--like {run}: {what}; compute the new trailers' in the same way and predict their folder")
        settings += [(name, meta[name]) for name in (*STANDARD_SETTING, "detector") if meta.get(name)]
        settings += [("image_frames", meta["frames"])] if meta["input"] == "image" else []
    arguments = parse_arguments(dict(settings))
    if arguments.precision:
        settings += [("precision", meta.get("precision", arguments.precision)) for meta in metas]
    for name, other in settings:
        if (value := getattr(arguments, name)) != other:
            words = [f"--{name.replace('_', '-')} {' '.join(x) if name in INPUT_NAMES else x}" for x in (value, other)]
            raise UserError(f"{words[0]}: --like {run} has {words[1]}; omit the option")
    arguments.metas = {meta["backbone"]: meta for meta in metas}
    return arguments


def make_targets(arguments):
    """Return the Targets of the command line; raise UserError if options are invalid or a folder has other settings."""
    pairs = [(key, name) for key in INPUT_NAMES for name in getattr(arguments, key) if name != "none"]
    if not pairs:
        raise UserError("--image none --video none: no backbone; pass at least one")
    weights, targets = choose_weights(arguments, [name for _, name in pairs]), []
    for input_name, name in dict.fromkeys(pairs):
        backbone, per_clip = divita.get_backbone(name), arguments.frames_per_clip
        if backbone.input != input_name:
            raise UserError(f"--{input_name} {name}: wrong input; use --{backbone.input}")
        frames = (input_name == "image" and arguments.image_frames) or per_clip
        if frames > per_clip:
            raise UserError(f"--image-frames {frames}: a clip has only {per_clip} frames; pass at most {per_clip}")
        folder = divita.representation_name(name, arguments.segmentation, arguments.fps, per_clip)
        meta = {"representation": folder, "input": input_name, "backbone": name, "weights": weights[name]}
        meta |= {**clip_setting(arguments), "frames": frames, "input_size": backbone.size}
        meta["precision"] = arguments.precision or arguments.metas.get(name, {}).get("precision") or "float32"
        if isinstance(weights[name], Path):  # checked even if all trailers are prepared
            meta |= {"weights": "file", "file": f"sha256:{hashlib.sha256(weights[name].read_bytes()).hexdigest()}"}
        targets.append(Target(arguments.out / folder, meta, weights[name]))
        check_folder_setting(targets[-1].folder, meta, arguments.overwrite)
    return targets


def choose_weights(arguments, names):
    """Return {backbone: "pretrained", "random" or a checkpoint's path} by --weights, --like or the demo's default."""
    pretrained = names if arguments.videos else DEMO_PRETRAINED
    weights = {name: "pretrained" if name in pretrained else "random" for name in names}
    weights |= {name: meta["weights"] for name, meta in arguments.metas.items()}
    kinds = [] if arguments.like else ["pretrained", "random"]
    for word in sorted(arguments.weights, key=lambda word: "=" in word):  # files last
        name, _, file = word.rpartition("=")
        if word in kinds:
            weights = dict.fromkeys(names, word)
        elif name in names and Path(file).is_file():
            weights[name] = Path(file)
        else:
            choices = ", ".join([*kinds, *(f"{name}=FILE" for name in names)])
            like = f" with --like {arguments.like}" if arguments.like else ""
            raise UserError(f"--weights {word}: invalid{like} or missing file; use {choices}")
    if files := " ".join(f"{name}=FILE" for name in names if weights[name] == "file"):
        raise UserError(f"--like {arguments.like}: weights came from a file; add --weights {files}")
    return weights


def clip_setting(arguments):
    """Return the clip setting as in meta.json."""
    detector = arguments.detector if arguments.segmentation == "shots" else None
    return {"detector": detector} | {name: getattr(arguments, name) for name in STANDARD_SETTING}


def check_folder_setting(folder, meta, overwrite):
    """Raise UserError if the folder has other settings."""
    old = divita.read_meta(folder) or meta
    mismatch = [f"{name} {old.get(name)}, not {value}" for name, value in meta.items() if old.get(name) != value]
    if mismatch and not overwrite:
        remedy = "use the same options, another --out (03_evaluate.py: --data), or --overwrite to redo it"
        raise UserError(f"{folder}: other settings, {mismatch[0]}; {remedy}")


def make_job(arguments, out, videos, targets):
    """Import the labels and return this rank's Job of missing or outdated trailers; report invalid mids."""
    rank, world_size = divita.rank_and_world_size()
    if arguments.overwrite and world_size > 1:
        folders = ", ".join(str(target.folder) for target in targets)
        raise UserError(f"--overwrite: only for one process; remove {folders} instead")
    out.mkdir(parents=True, exist_ok=True)
    divita.remove_stale_files(out)
    if rank == 0:
        import_labels(arguments, out, videos)
    job = Job(arguments, out, videos, targets, clip_table_folder(arguments, out))
    prepared = set() if arguments.overwrite else prepared_mids(job)
    mids = list(videos)[rank::world_size]
    update_failed_csv(job, dict.fromkeys(mids))  # clears earlier failures
    for mid in mids:
        try:
            divita.check_mid(mid, "its name")
            if mid not in prepared or not is_up_to_date(job, mid):
                job.todo[mid] = videos[mid]
        except UserError as error:
            mark_failed(job, mid, str(error))
    return job


def clip_table_folder(arguments, out):
    """Return the folder of the clip tables: shots/ for a data folder's first clip setting, shots_* for others."""
    folder, setting = out / "shots", clip_setting(arguments)
    if not setting.items() <= (divita.read_meta(folder) or setting).items():
        detector = "_content" if setting["detector"] == "content" else ""
        folder = out / f"shots_{arguments.segmentation}{detector}_fps{arguments.fps:g}_fpc{arguments.frames_per_clip}"
    return folder


def import_labels(arguments, out, videos):
    """Write labels.csv with splits; report trailers without video and videos without labels."""
    path = out / "labels.csv"
    if arguments.labels:
        labels, remarks = read_genre_table(arguments.labels)
        check_mids(arguments.labels, labels.mids, videos)
        if not path.exists():
            divita.write_csv(path, *labels_table(labels))
        if labels_table(labels) != labels_table(divita.read_labels(path)):
            raise UserError(f"{path}: differs from {arguments.labels}; remove it or add the new rows to it")
        say("\n".join(remarks))
    if not path.exists():
        return
    labels = divita.read_labels(path)
    if skipped := sorted(set(labels.mids) - set(videos)):
        say(f"skipped {len(skipped)} of {len(labels.mids)} labelled trailers without video: {abbreviate(skipped, 10)}")
    if extra := sorted(set(videos) - set(labels.mids)):
        say(f"{len(extra)} of {len(videos)} videos have no labels, but are prepared: {printable(abbreviate(extra))}")
    splits = labels.splits[[mid in videos for mid in labels.mids]]
    if empty := find_empty_subsets(splits, [f"split{k}" for k in range(splits.shape[1])]):
        say(f"warning: no video in {abbreviate(empty)}; to train, each split needs train, validation and test")


def labels_table(labels):
    """Return the header and rows of labels.csv."""
    splits = [f"split{k}" for k in range(labels.splits.shape[1])]
    cells = np.concatenate([labels.y, labels.splits], 1).tolist()
    return ["mid", *labels.genres, *splits], [[mid, *row] for mid, row in zip(labels.mids, cells)]


def prepared_mids(job):
    """Return the mids of all ranks whose files are complete, up to date or not."""
    found = set(job.videos)
    for folder in (job.clip_tables, *(target.folder for target in job.targets)):
        files = os.listdir(folder) if (folder / "meta.json").exists() else []
        found &= {name[:-4] for name in files if name.endswith((".csv", ".npy"))}
    return found


def is_up_to_date(job, mid):
    """Return whether a trailer's vectors match its video, by stamp or else digest, and its clip table."""
    video, table = job.videos[mid], job.clip_tables / f"{mid}.csv"
    try:
        sources = [divita.read_vectors(target.folder / f"{mid}.npy")[1] for target in job.targets]
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
    """Return a string that changes with a file's content, even if size and modification time are the same."""
    return "{0.st_size} {0.st_mtime_ns} {0.st_ctime_ns} {0.st_ino}".format(path.stat())


def hash_video(path):
    """Yield ("digest", None) while reading, then ("digest", (digest, stamp)). Raises OSError if it is no file."""
    if not path.is_file():
        raise OSError("not a file, or a broken link")
    sha256, stamp = hashlib.sha256(), video_stamp(path)
    with open(path, "rb") as file:
        while block := file.read(2**24):
            sha256.update(block)
            yield "digest", None
    yield "digest", (sha256.hexdigest()[:16], stamp)


def build_extractors(job):
    """Build the extractors and write each meta.json; raise UserError if weights or folders do not match."""
    arguments = job.arguments
    for target in job.targets:
        name, frames, precision = target.meta["backbone"], target.meta["frames"], target.meta["precision"]
        target.extract = divita.Extractor(name, target.weights, frames, arguments.batch_size, precision)
        expected = arguments.metas.get(name, {}).get("digest")
        if expected not in (None, target.extract.digest):
            raise UserError(f"{name}: weights {target.extract.digest}, not {expected}; use those of {arguments.like}")
        target.meta |= {"features": target.extract.num_features, "digest": target.extract.digest}
        target.meta |= {"parameters": target.extract.parameters, "macs_per_clip": target.extract.macs_per_clip}
    paths = arguments.videos and [str(path.absolute()) for path in arguments.videos]  # None: the demo's
    synthetic = any((path.parent.parent / "true_cuts.csv").exists() for path in job.videos.values())
    with divita.folder_lock(job.out):  # another job may have started on the same folders
        job.clip_tables = clip_table_folder(arguments, job.out)
        for target in job.targets:
            check_folder_setting(target.folder, target.meta, arguments.overwrite)
        divita.write_json(job.clip_tables / "meta.json", clip_setting(arguments))
        for target in job.targets:
            if not target.meta.items() <= divita.read_meta(target.folder).items():  # remove vectors of other settings
                for path in target.folder.glob("*.npy"):
                    path.unlink()
            target.meta |= {"clips": job.clip_tables.name, "videos": paths, "synthetic": synthetic}
            divita.write_json(target.folder / "meta.json", target.meta)


def update_failed_csv(job, outcomes):
    """Update failed.csv with {mid: reason, or None if it has not failed}."""
    path, present = job.out / "failed.csv", set(map(printable, job.videos))
    with divita.folder_lock(job.out):
        rows = divita.read_table(path)[1] if path.exists() else []
        reasons = {row[0]: row[-1] for _, row in rows} | {printable(mid): reason for mid, reason in outcomes.items()}
        rows = [(mid, reason) for mid, reason in sorted(reasons.items()) if mid in present and reason]
        if rows:
            divita.write_csv(path, ["mid", "reason"], rows)
        else:
            path.unlink(missing_ok=True)


def print_summary(job):
    """Print the result folders and the next command; return the exit status."""
    rank, world_size = divita.rank_and_world_size()
    by = f" by rank {rank} of {world_size}" if world_size > 1 else ""
    if len(job.failed) == len(job.todo) > 1 and len(set(job.failed.values())) == 1:
        tqdm.write(f"all {len(job.failed)} videos failed for the same reason", file=sys.stderr)
    ready = len(prepared_mids(job))
    say(f"{ready} of {len(job.videos)} trailers prepared in {job.out}, {job.saved} new{by}")
    if rank == 0:
        paths = [*(x.folder for x in job.targets), job.clip_tables, job.out / "pictures", job.out / "failed.csv"]
        say("\n".join(f"  {path}" for path in paths if path.exists()))
        if ready:
            say(f"next: {shlex.join(['python', *next_command(job)])}")
    return 1 if job.failed else 0


def next_command(job):
    """Return the words of the next command, without python."""
    out, run = job.out, job.arguments.like
    if run:
        run = run if run.name else run.absolute()
        return ["03_evaluate.py", "--predict", str(out), "--runs", str(run.parent), "--run", run.name]
    if not (out / "labels.csv").exists():
        return ["03_evaluate.py", "--predict", str(out)]
    names = {target.meta["input"]: target.folder.name for target in reversed(job.targets)}  # first of each input
    standard = STANDARD_SETTING.items() <= clip_setting(job.arguments).items()
    options = [] if standard else [x for name in INPUT_NAMES for x in (f"--{name}", names.get(name, "none"))]
    return ["02_train.py", "--data", str(out), *options, "--runs", f"runs/{out.resolve().name}"]


# ---- Genre tables ----
# Converts tables in common formats to that of labels.csv; ambiguous ones are errors.

MID_NAMES = (  # patterns of normalize_name(column), by priority
    "mid",
    "(movie|film|imdb|tmdb|title|video|youtube|yt|trailer|clip)?id|tconst|fname|video|datei(name)?"
    "|(video|movie|film)?(file|path)(name|path)?",
    "film|movie|trailer|clip|name",
)
GENRE_NAMES = "genres?", "labels?|tags?|categor(y|ies)"
NO_GENRE = (  # pattern of 0/1 columns that are no genres
    r"(?i:is|has|was)[_ -].*|(is|has|was)[A-Z].*|.*;.*|(?i:genres?|labels?|tags?|adult|video|seen|watched|liked|used?"
    r"|favou?rite|checked|done|skip(ped)?|keep|duplicate|valid|available|downloaded|missing|released|flag)\W*"
)
YES, NO = "1 1.0 1,0 true wahr yes ja y x ✓ ✔".split(), "0 0.0 0,0 false falsch no nein n".split()
UNKNOWN = {"", "n", "na", "nan", "none", "null", "unknown", "nogenreslisted"}  # normalize_name() of \N, N/A, - ...
SUBSET_WORDS = dict.fromkeys(("train", "training"), "0") | dict.fromkeys(("test", "testing"), "2")
SUBSET_WORDS |= dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "1")
FEW_TRAILERS = 30  # fewer give a warning with random splits


def read_genre_table(path):
    """Return a table's Labels and remarks, see README.md; raise UserError if one is invalid or ambiguous."""
    columns = index_columns(path, *divita.read_table(path))
    mid, text = find_column(path, columns, "mid", MID_NAMES), find_column(path, columns, "genres", GENRE_NAMES)
    if not mid:
        raise UserError(f"{path}: no mid column; rename that of the file names to mid ({abbreviate([*columns], 9)})")
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
            raise UserError(f"{path}: genres {name!r} and {other!r} differ only in case; use one spelling")
    single = text and max(map(len, found.values())) == 1  # a trailer may have a row per genre
    trailers = {}  # {mid: (first line, genres, subsets)}
    for line, cell in columns[mid].items():
        stem, suffix = os.path.splitext(re.split(r"[/\\]", cell)[-1])
        name = stem if suffix.lower() in divita.VIDEO_SUFFIXES else stem + suffix  # mid
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
    """Return {name: {line: cell}} of the named columns and of nameless ones that number the rows."""
    columns = {}
    for number, name in enumerate(header, 1):
        cells = {line: unicodedata.normalize("NFC", row[number - 1].strip()) for line, row in rows}
        if not name and any(cells.values()):
            name = f"(nameless {'first column' if number == 1 else f'column {number}'})"
            if len({*filter(str.isdecimal, cells.values())}) < len(cells):
                raise UserError(f"{path}: nameless column {number} with {max(cells.values())!r}; name or remove it")
        if name and name in columns:
            raise UserError(f"{path}: duplicate column {name!r}; rename or remove one")
        columns[name] = cells
    columns.pop("", None)
    return columns


def find_column(path, columns, what, patterns):
    """Return the name of the column of mids or genres, None if missing; raise UserError if there are two."""
    for pattern in patterns:
        found = [x for x in columns if re.fullmatch(pattern, normalize_name(x)) and flag_share(columns[x]) < 1]
        if len(found) > 1:
            raise UserError(f"{path}: {' and '.join(map(repr, found))} could each be the {what}; rename one to {what}")
        if found:
            return found[0]


def normalize_name(text):
    return re.sub(r"[\W_]", "", text.casefold())


def flag_share(cells):
    """Return the share of yes or no in a column's known cells."""
    known = [cell for cell in map(str.casefold, cells.values()) if cell in NO or normalize_name(cell) not in UNKNOWN]
    return sum(cell in YES + NO for cell in known) / max(1, len(known))


def parse_flags(path, columns, mids):
    """Return the names of the 0/1 columns and {line: set of genres}; mids: {line: mid}."""
    genres = [name for name, cells in columns.items() if flag_share(cells) > 0.5]
    if not genres:
        raise UserError(f"{path}: no genres; add a column genres or, for each genre, a column of 0 and 1")
    explicit = any(cell.casefold() in NO for name in genres for cell in columns[name].values())
    allowed = YES + (NO if explicit else [""])  # empty cells in a table of x marks
    for name in genres:
        if re.fullmatch(NO_GENRE, name) or normalize_name(name) in UNKNOWN:
            raise UserError(f"{path}: the 0/1 column {name!r} is no genre by its name; remove or rename it")
        for line, cell in columns[name].items():
            if cell.casefold() not in allowed:
                value = repr(cell) if cell else "empty"
                raise UserError(f"{path} line {line}: {name} of {mids[line]} is {value}; write 0 or 1")
    return genres, {line: {name for name in genres if columns[name][line].casefold() in YES} for line in mids}


def parse_genre_text(path, name, cells):
    """Return the sorted genres in a column of text and {line: set of genres, empty if unknown}."""
    plain = {cell for cell in cells.values() if cell[:1] not in ("[", "{")}
    separator = next((character for character in "|;," if character in "".join(plain)), None)
    whole = plain if not separator and plain.issuperset(cells.values()) else set()  # cells without separators
    plural, found = normalize_name(name).endswith("s"), {}
    for line, cell in cells.items():
        try:
            names = cell.split(separator or "|") if cell in plain else parse_list(cell)
            names = [re.sub(r"[^\S\r\n]+", " ", genre.strip()) for genre in names if genre.strip()]
        except Exception:  # Python's parser raises many kinds
            names = [cell]  # its bracket is an error below
        found[line] = set() if UNKNOWN.intersection(map(normalize_name, names)) else {*names}
        for genre in sorted(found[line]):
            words = re.split(r"[\W_]+", genre)
            several = whole and (plural and " " in genre or genre not in words and whole.issuperset(words))
            if several or re.search(r"""[|;,"\[\]{}\n\r]|^'|^[\d.]+$""", genre):
                remedy = "write names separated by |" + ", or rename the column to genre if each is one" * bool(several)
                raise UserError(f"{path} line {line}: {name} is {cell!r}; {remedy}")
    return sorted(set().union(*found.values())), found


def parse_list(cell):
    """Return the names in a list by JSON, Python or NumPy, also as [{"name": ...}] or {"choices": [...]}."""
    try:
        content = json.loads(cell)
    except ValueError:
        content = ast.literal_eval(re.sub(r"""(?<=['"])\s+(?=['"])""", ",", cell))  # NumPy writes no commas
    content = np.atleast_1d(content["choices"]).tolist() if isinstance(content, dict) else content
    return [item["name"] if isinstance(item, dict) else item for item in content]


def find_empty_subsets(splits, names):
    """Return descriptions of the subsets of the splits (N, K) without trailers."""
    pairs = itertools.product(zip(names, splits.T), enumerate(divita.SUBSETS))
    return [f"{subset} of {name}" for (name, split), (i, subset) in pairs if i not in split]


def check_mids(path, mids, videos):
    """Raise UserError if no mid has a video; its message is the difference of a pair."""
    if not videos.keys().isdisjoint(mids):
        return
    reductions = {
        "a suffix": lambda name: re.sub(r"\.\w*$", "", name),
        "case": str.casefold,
        "case or signs": normalize_name,
        "leading zeros or tt": lambda name: name.removeprefix("tt").lstrip("0"),
        "more than case and suffix": lambda name: "",
    }
    for what, reduce in reductions.items():
        stems = {reduce(stem): stem for stem in videos}
        if mid := next((mid for mid in mids if reduce(mid) in stems), None):
            pair = printable(f"{mid} and {stems[reduce(mid)]}")
            raise UserError(f"{path}: no mid has a video, {pair} differ in {what}; rename one of each pair")


# ---- Parallel decoding ----
# Workers decode a video each and send messages (mid, kind, content): digest, clip, end, failed (VideoError) or error.


class VideoDataset(torch.utils.data.IterableDataset):
    """Messages of videos {mid: path}: decode_clips() or "failed", "error". Workers take the next video not taken."""

    def __init__(self, videos, plan):
        self.videos, self.plan, self.taken = videos, plan, multiprocessing.Value("L")

    def __iter__(self):
        for number, (mid, path) in enumerate(self.videos.items()):
            with self.taken:
                if number < self.taken.value:
                    continue
                self.taken.value += 1
            try:
                for kind, content in decode_clips(path, self.plan):
                    yield mid, kind, content
            except Exception as error:  # of the disk, a damaged video or the code
                kind = "failed" if isinstance(error, VideoError) else "error"
                name = "" if isinstance(error, VideoError | OSError) else f"{type(error).__name__}: "
                yield mid, kind, name + divita.one_line(error)


def decode_in_parallel(videos, plan, workers, patience, max_queued):
    """Yield the messages of videos {mid: path} from workers, which queue about `max_queued`. If a worker dies or stalls
    for `patience` seconds, the videos in progress are retried one at a time; the second time is an error."""
    signal.signal(signal.SIGALRM, on_timeout)
    alarm = functools.partial(signal.setitimer, signal.ITIMER_REAL)
    groups = [(videos.copy(), False)]  # videos decoded in parallel, whether it is a retry
    try:
        while groups:
            left, retry = groups.pop(0)
            dataset = VideoDataset(left.copy(), plan)
            messages = start_workers(dataset, min(workers, len(left)), max_queued)
            try:
                alarm(patience)
                for message in messages:
                    alarm(0)
                    if message[1] in ("end", "failed", "error"):
                        del left[message[0]]
                    yield message
                    alarm(patience)
                alarm(0)
            except RuntimeError:  # by the loader, if a worker has died, or by on_timeout()
                alarm(0)
                stalled = multiprocessing.active_children()
                stop_workers()
                reason = f"no clip in {patience:g} s of decoding" if stalled else "crashed the decoder"
                started = [mid for mid in list(dataset.videos)[: dataset.taken.get_obj().value] if mid in left]
                for mid in started or list(left)[:1]:
                    video = {mid: left.pop(mid)}
                    if retry:
                        yield mid, "error", reason
                    else:
                        groups.append((video, True))
                if left:
                    groups.append((left, retry))
    finally:
        stop_workers()


def start_workers(dataset, workers, max_queued):
    """Start the workers and return an iterator of their messages."""
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda message: message,  # without conversion to tensors
        num_workers=workers,
        prefetch_factor=max(2, max_queued // workers),
        in_order=False,
        worker_init_fn=lambda _: threading.Thread(target=exit_with_parent, daemon=True).start(),
        multiprocessing_context="fork",  # hangs if threads run before; spawn would import Keras for seconds
    )
    try:
        messages = iter(loader)
    except (OSError, RuntimeError) as error:  # RuntimeError: a worker died at once
        raise UserError(f"no process can be started ({divita.one_line(error)}); use fewer --workers") from None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise anywhere
    return messages


def on_timeout(*_):
    raise RuntimeError("timeout")


def stop_workers():
    """Kill the workers, also stalled ones."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def exit_with_parent():
    """Exit as soon as the parent process has ended, even while waiting for their full pipe."""
    multiprocessing.parent_process().join()
    os._exit(1)


# ---- Published data ----


def download(names, out):
    """Download published labels and representations to out/mtgc.csv and out/<name>.zarr."""
    names = list(divita.PUBLISHED) if names == ["all"] else [name.removesuffix(".zarr") for name in names]
    inputs = {divita.read_meta(Path(f"{name}.zarr"))["input"]: name for name in names}  # UserError if unknown
    out.mkdir(parents=True, exist_ok=True)
    with divita.folder_lock(out):  # a second process waits
        divita.remove_stale_files(out)
        fetch("mtgc.csv", out, divita.LABELS_MD5)
        for name in names:
            if not (out / f"{name}.zarr" / ".zgroup").exists():
                unpack(fetch(f"{name}.zarr.tar.gz", out, divita.PUBLISHED[name][1]), out)
    say(f"in {out}: mtgc.csv, the published labels; {', '.join(f'{name}.zarr' for name in names)}")
    options = ["--image", inputs.get("image", "none"), "--video", inputs.get("video", "none")]
    command = ["python", "02_train.py", "--data", str(out), *options, "--runs", f"runs/{out.resolve().name}"]
    say(f"next: {shlex.join(command)}")


def fetch(name, out, md5):
    """Download a file of the record into a folder unless it exists; return its path."""
    path, url = out / name, f"{os.environ.get('DIVITA_PUBLISHED', ZENODO)}/{name}?download=1"
    curl = shlex.join(["curl", "-fLC", "-", "-o", str(path), url])  # resumes the download
    if path.exists():
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise UserError(f"{path}: its MD5 is not the published {md5}; complete it with {curl} or remove it")
        return path
    say(f"downloading {url}")
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    remedy = f"run the same command again or, if the connection keeps breaking, {curl} first"
    with divita.atomic_write(path) as temporary, divita.download_errors(name, remedy), contextlib.redirect_stdout(bar):
        keras.utils.get_file(temporary.name, url, cache_subdir=out.absolute(), file_hash=md5, hash_algorithm="md5")
    return path


def unpack(archive, out):
    """Unpack the folder <name> of <name>.tar.gz into `out`, and nothing outside it; remove the archive."""
    name, folder = archive.name.removesuffix(".tar.gz"), out / ".unpacking"
    say(f"unpacking {archive}")
    try:
        shutil.unpack_archive(archive, folder, filter="data")  # rejects ../, links to the outside, devices
        (folder / name).replace(out / name)
    except (shutil.ReadError, tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({divita.one_line(error)}); remove it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()


# ---- Demo data ----
# Synthetic trailers: markers of a genre, a camera movement and hard cuts.

DEMO_TRAILERS, DEMO_SEED, DEMO_FPS = 100, 0, 24
DEMO_SIZE = 192, 108  # width, height
GENRES = {  # OpenCV's marker, camera movement: three genres are identified by the marker, seven need both
    "action": (cv2.MARKER_TRIANGLE_UP, "shake"), "adventure": (cv2.MARKER_TRIANGLE_UP, "roll"),
    "comedy": (cv2.MARKER_STAR, "still"), "crime": (cv2.MARKER_SQUARE, "shake"),
    "drama": (cv2.MARKER_CROSS, "still"), "fantasy": (cv2.MARKER_DIAMOND, "still"),
    "horror": (cv2.MARKER_TRIANGLE_UP, "pulse"), "romance": (cv2.MARKER_TILTED_CROSS, "still"),
    "sci-fi": (cv2.MARKER_DIAMOND, "roll"), "thriller": (cv2.MARKER_SQUARE, "pulse"),
}  # fmt: skip


def make_demo(out, workers):
    """Write true_cuts.csv (mid, frame: first frame of each shot but the first), labels.csv and videos/<mid>.mp4 of the
    synthetic demo if they are missing. Raises UserError if the folder has other data."""
    y, splits = demo_labels()
    edits = {f"demo{i:03d}": demo_edit(i, np.flatnonzero(row)) for i, row in enumerate(y)}
    cuts = [f"{mid},{cut}\n" for mid, edit in edits.items() for cut in np.cumsum([n for _, n in edit])[:-1]]
    text = "mid,frame\n" + "".join(cuts)
    true_cuts, labels = out / "true_cuts.csv", out / "labels.csv"
    if any(out.glob("[!.]*")) and not (true_cuts.exists() and true_cuts.read_text() == text):
        raise UserError(f"{out}: not the demo's folder; pass your own videos with --videos")
    divita.write_text(true_cuts, text)  # first, it marks the demo's folder
    if not labels.exists():
        divita.write_csv(labels, *labels_table(divita.Labels([*edits], [*GENRES], y, splits)))
    tasks = [(out / "videos" / f"{mid}.mp4", i, edit) for i, (mid, edit) in enumerate(edits.items())]
    if tasks := [task for task in tasks if not task[0].exists()]:
        thread_map(make_video, tasks, max_workers=workers, desc="demo trailers", unit="trailer")


def demo_labels():
    """Return y (N, G), one to three genres per trailer, and splits (N, 3); every five trailers have all genres."""
    y = np.zeros((DEMO_TRAILERS, len(GENRES)), int)
    for first in range(0, DEMO_TRAILERS, 5):
        order = np.random.default_rng([DEMO_SEED, 0, first]).permutation(len(GENRES))
        for row, genres in zip(y[first:], np.split(order, [1, 3, 4, 7])):
            row[genres] = 1
    return y, np.choose((np.arange(DEMO_TRAILERS)[:, None] // 5 - np.arange(3)) % 5, [2, 1, 0, 0, 0])


def demo_edit(trailer, genres):
    """Return [(genre, frames), ...]: nine shots of 0.7 to 3 s, 15 to 20 s in all, with alternating genres."""
    rng, lengths = np.random.default_rng([DEMO_SEED, 1, trailer]), np.zeros(9, int)
    while not 15 * DEMO_FPS <= lengths.sum() <= 20 * DEMO_FPS:
        lengths = rng.integers(17, 73, 9)
    return [(list(GENRES)[genre], int(n)) for genre, n in zip(np.resize(genres, 9), lengths)]


def make_video(task):
    """Render one trailer; task: (path, number, edit)."""
    path, trailer, edit = task
    rng = np.random.default_rng([DEMO_SEED, 2, trailer])
    hue, dark = rng.integers(180), rng.integers(2)
    with divita.atomic_write(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), DEMO_FPS, DEMO_SIZE)
        for genre, frames in edit:
            hue, dark = hue + rng.integers(50, 130), not dark  # cuts change colour and brightness
            for frame in render_shot(*GENRES[genre], hue, dark, frames, rng):
                writer.write(frame)
        writer.release()
        if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != sum(frames for _, frames in edit):
            raise UserError(f"{path}: incomplete; free disk space and run the same command again")


def render_shot(marker, camera, hue, dark, frames, rng):
    """Yield `frames` frames (108, 192, 3) of markers on a plain background, none of which identifies the movement."""
    canvas = np.full((162, 288, 3), (hue % 180, 90, 100 if dark else 200), np.uint8)  # hue in half degrees
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
