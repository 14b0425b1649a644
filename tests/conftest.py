"""Shared by the tests: scripts run in this process, tensors of the references, data folders."""

import io
import json
import os
import runpy
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))

import divita


def pytest_configure(config):
    for message in (
        "__array__ implementation doesn't accept a copy keyword",  # raised by Keras, thousands of times
        "This process .* is multi-threaded, use of fork",  # true of the tests' process, not of a script's
    ):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


REFERENCES = Path(os.environ.get("REFERENCE_DIR", ROOT / "tests" / "data"))


@pytest.fixture
def script(monkeypatch):
    """Run a numbered script as the command line would, script("02_train.py", "--data", d) -> .code, .out, .err."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        out, err, code = io.StringIO(), io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / name), run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
        return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())

    return run


def made_tensor(name, shape):
    """Return the tensor of a name in a checkpoint by the references' rule, seeded by the name."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * abs(z)
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z if name.endswith("weight") else np.float32(0.1) * z
    if name.endswith("relative_position_bias_table"):
        return np.float32(0.1) * z
    return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def made_input(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


GENRES = ("action", "comedy", "drama")


def make_data(folder, trailers=24, clips=(1, 40), image=8, video=6, genres=GENRES, splits=True):
    """Write a data folder as 01_prepare.py does: labels, image and video vectors that depend on the genres."""
    generator = np.random.default_rng(0)
    y = (generator.random((trailers, len(genres))) < 0.4).astype(int)
    y[np.arange(trailers), np.arange(trailers) % len(genres)] = 1
    mids = [f"tt{i:04d}" for i in range(trailers)]
    columns = ["split0", "split1", "split2"][: 3 * splits]
    split = [[(i // len(genres) + k) % 3 for k in range(len(columns))] for i in range(trailers)]
    rows = [[mid, *labels, *subsets] for mid, labels, subsets in zip(mids, y, split)]
    divita.write_csv(folder / "labels.csv", ["mid", *genres, *columns], rows)
    lengths = generator.integers(*clips, size=trailers)
    for input_name, backbone, features in (("image", "shufflenet2d", image), ("video", "shufflenet3d", video)):
        directions = generator.standard_normal((len(genres), features))
        x = {
            mid: generator.standard_normal((n, features)) + 2 * row @ directions
            for mid, n, row in zip(mids, lengths, y)
        }
        write_representation(folder, input_name, backbone, x)
    return folder


def write_representation(folder, input_name, backbone, x, segmentation="shots", fps=24, video_digests=None, **changes):
    """Write one representation, x: {mid: (clips, F)}, as 01_prepare.py does.

    video_digests: {mid: digest} other than the default; changes: other fields of meta.json.
    """
    name = divita.representation_name(backbone, segmentation, fps)
    features = len(next(iter(x.values()))[0])
    detector = "adaptive" if segmentation == "shots" else None
    size = 224 if input_name == "image" else 112
    frames = {"fps": float(fps), "frames_per_clip": 24, "frames": 24, "input_size": size, "features": features}
    meta = {"format": divita.FORMAT_VERSION, "representation": name, "input": input_name, "backbone": backbone}
    meta |= {"weights": "random", "digest": "sha256:0", "segmentation": segmentation, "detector": detector, **frames}
    meta |= {"precision": "float32", "parameters": 1_000_000, "macs_per_clip": 1_000_000_000, "clips": "shots"}
    meta |= {"videos": [str(folder / "videos")], "synthetic": False, **changes}
    divita.write_text(folder / name / "meta.json", json.dumps(meta))
    for mid, clips in x.items():
        video = (video_digests or {}).get(mid, f"the video {mid}")
        write_vectors(folder / name / f"{mid}.npy", clips, video, f"{mid} in {len(clips)} clips, {segmentation} {fps}")
    return folder / name


def write_vectors(path, clips, *source):
    """Write a trailer's vectors and their source: digests of its video and its clip table."""
    with open(path, "wb") as file:
        np.save(file, clips.astype(np.float32))
        if source:
            np.save(file, np.array(source))
