"""Small videos for the tests, written with OpenCV and PyAV, and scripts run in processes that can be killed.

The backbones tiny2d and tiny3d cost almost nothing.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import runpy
import struct
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import divita

keras = divita.keras  # with the backend set by divita

TINY = ["--image", "tiny2d", "--video", "tiny3d", "--weights", "random"]


def tiny(shape):
    inputs = keras.Input(shape)
    pooling = keras.layers.AveragePooling2D if len(shape) == 3 else keras.layers.AveragePooling3D
    x = pooling(8 if len(shape) == 3 else (1, 8, 8))(inputs)
    return keras.Model(inputs, divita.mean_over_space(divita.convolution(x, 8, 3, 2, "conv1.0", "conv1.1")))


divita.add_backbone("tiny2d", "image", tiny, 8, 64, 72, **divita.IMAGENET)
divita.add_backbone("tiny3d", "video", tiny, 8, 64, 64, **divita.IMAGENET)


def load_prepare():
    """Import 01_prepare.py as a module."""
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "01_prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare"] = module
    spec.loader.exec_module(module)
    return module


def decode_images(prepare, path):
    """Yield (timestamp in seconds, upright BGR image) of a video, as 01_prepare.py decodes it."""
    container, stream = prepare.open_video(Path(path))
    frames = prepare.decode_frames(container, stream, prepare.PacketCount(stream))
    return prepare.to_bgr_images(frames, prepare.DecodedVideo("", ""))


# Videos


def write_video(path, lengths=(24,), fps=24.0, size=(96, 64), codec="mp4v", color=True, seed=0, paint=None):
    """Write a video of one shot per length (in frames); paint(frame number) -> image replaces the moving textures."""
    parameters = [cv2.VIDEOWRITER_PROP_IS_COLOR, int(color)]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size, parameters)
    assert writer.isOpened()
    number = 0
    for shot, length in enumerate(lengths):
        texture = np.random.default_rng([seed, shot]).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        texture = cv2.resize(texture, (size[0] + length, size[1]), interpolation=cv2.INTER_LINEAR)
        for shift in range(length):
            image = paint(number) if paint else texture[:, shift // 4 : shift // 4 + size[0]]
            writer.write(np.ascontiguousarray(image if color else image[..., 0]))
            number += 1
    writer.release()
    return path


def encode_video(path, times, codec="mpeg4", size=(96, 64), audio=0, **options):
    """Write a video of rising grey levels with frames at `times` in milliseconds, in any container; audio: seconds of
    silence; options: of the container."""
    import av

    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=8000) if audio else None
        for number, time_ms in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = int(time_ms), stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for block in range(audio):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 8000, 8000 * block
            out.mux(sound.encode(frame))
        if audio:
            out.mux(sound.encode(None))
    return path


def make_hole(path):
    """Overwrite the middle half of a file with zeros, as in an interrupted download."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size // 2))
    return path


def set_timestamps(path, milliseconds):
    """Set the timestamps of the frames of an .flv video."""
    content, position, times = bytearray(path.read_bytes()), 13, iter(milliseconds)
    while position < len(content):
        length = int.from_bytes(content[position + 1 : position + 4], "big")
        if content[position] == 9 and length > 5:  # a video tag; the one that ends the sequence is shorter
            stamp = int(next(times)) & 0xFFFFFFFF
            content[position + 4 : position + 8] = (stamp & 0xFFFFFF).to_bytes(3, "big") + bytes([stamp >> 24])
        position += 11 + length + 4
    assert next(times, None) is None
    path.write_bytes(content)


def set_rotation(path, a=0, b=1, c=-1, d=0):
    """Set the display matrix of an .mp4 video, x' = a x + c y, y' = b x + d y; default: a quarter turn clockwise."""
    content = path.read_bytes()
    start = content.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:start] + matrix + content[start + 36 :])


def set_frame_rate(path, numerator, denominator):
    """Set the frame rate in the header of an .avi video."""
    content = path.read_bytes()
    start = content.index(b"strh") + 8 + 20
    path.write_bytes(content[:start] + struct.pack("<II", denominator, numerator) + content[start + 8 :])


# Jobs


def run_job(name, arguments, environment, folder):
    os.environ |= environment
    sys.argv = [name, *map(str, arguments)]
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{stream}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        setattr(sys, f"std{stream}", open(descriptor, "w", closefd=False))
    if "CLOSED" in environment:  # as by 2>&- in a shell
        os.close(int(environment["CLOSED"]))
        setattr(sys, {"1": "stdout", "2": "stderr"}[environment["CLOSED"]], None)
    runpy.run_path(str(ROOT / name), run_name="__main__")


class Job:
    """A script in its own process, forked from a server that has already done the slow imports."""

    def __init__(self, folder, *arguments, name="01_prepare.py", **environment):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))  # for the fork server
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["films", "scenedetect"])  # scenedetect looks for ffmpeg in a child process
        self.process = context.Process(target=run_job, args=(name, arguments, environment, self.folder))
        for path in (self.folder / "out.txt", self.folder / "err.txt"):
            if not path.is_fifo():
                path.write_text("")
        self.process.start()

    def end(self):
        """Wait for the end; return the exit status."""
        self.process.join(120)
        assert self.process.exitcode is not None, self.text()
        return self.process.exitcode

    def text(self):
        return "".join((self.folder / f"{stream}.txt").read_text() for stream in ("out", "err"))

    def workers(self, count=1):
        """Wait for `count` workers; return their process ids."""
        while len(found := children(self.process.pid)) < count:
            assert self.process.is_alive(), self.text()
            time.sleep(0.005)
        return found


def thumbnail(image):
    """Return a small image; a transform for a Plan."""
    return cv2.resize(image, (96, 54))


def children(*processes):
    """Return the ids of the child processes of `processes`."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = [task for process in processes for task in Path(f"/proc/{process}/task").iterdir()]
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    return []


def contents(folder):
    """Return {path: content} of all files below a folder, of vectors without the video's stamp."""
    files = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if path.is_file()}
    content = {name: path.read_bytes() for name, path in files.items() if path.suffix != ".npy"}
    vectors = {name: divita.read_vectors(path) for name, path in files.items() if path.suffix == ".npy"}
    return content | {name: (clips.tobytes(), source[:2]) for name, (clips, source) in vectors.items()}


if __name__ == "__main__":  # for torchrun
    sys.argv = ["01_prepare.py", *sys.argv[1:]]
    runpy.run_path(str(ROOT / "01_prepare.py"), run_name="__main__")
