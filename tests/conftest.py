"""What the tests share: scripts run in this process, and the references' tensors made from their names."""

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
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they share out the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))

import divita


def pytest_configure(config):
    for message in (
        "__array__ implementation doesn't accept a copy keyword",  # thousands of them, Keras's own
        "This process .* is multi-threaded, use of fork",  # the tests' process is, where a script's is not yet
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
    """Return the tensor that the references' rule makes from a checkpoint's name."""
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
    """Write a data folder as 01_prepare.py does: labels, an image and a video representation that tell the genres."""
    generator = np.random.default_rng(0)
    y = (generator.random((trailers, len(genres))) < 0.4).astype(int)
    y[np.arange(trailers), np.arange(trailers) % len(genres)] = 1
    mids = [f"tt{i:04d}" for i in range(trailers)]
    columns = ["split0", "split1", "split2"][: 3 * splits]
    split = [[(i // len(genres) + k) % 3 for k in range(len(columns))] for i in range(trailers)]
    rows = [[mid, *labels, *subsets] for mid, labels, subsets in zip(mids, y, split)]
    divita.write_csv(folder / "labels.csv", ["mid", *genres, *columns], rows)
    lengths = generator.integers(*clips, size=trailers)
    for kind, backbone, features in (("image", "shufflenet2d", image), ("video", "shufflenet3d", video)):
        directions = generator.standard_normal((len(genres), features))
        x = {
            mid: generator.standard_normal((n, features)) + 2 * row @ directions
            for mid, n, row in zip(mids, lengths, y)
        }
        write_representation(folder, kind, backbone, x)
    return folder


def write_representation(folder, kind, backbone, x, segmentation="shots", fps=24, films=None, **changes):
    """Write one representation, x: {mid: (clips, F)}, as 01_prepare.py does.

    films: {mid: digest of the film} of those that are not the usual ones; changes: to meta.json.
    """
    name = divita.representation_name(backbone, segmentation, fps)
    features = len(next(iter(x.values()))[0])
    detector = "adaptive" if segmentation == "shots" else None
    frames = {"fps": float(fps), "frames_per_clip": 24, "frames": 24, "input_size": 224 if kind == "image" else 112}
    meta = {"format": divita.FORMAT_VERSION, "representation": name, "input": kind, "backbone": backbone, "weights": "random"}
    meta |= {"digest": "sha256:0", "segmentation": segmentation, "detector": detector, **frames, "features": features}
    meta |= {"precision": "float32", "parameters": 1_000_000, "macs_per_clip": 1_000_000_000, "clips": "shots"}
    meta |= {"videos": [str(folder / "films")], "synthetic": False, **changes}
    divita.write_text(folder / name / "meta.json", json.dumps(meta))
    for mid, clips in x.items():
        film = (films or {}).get(mid, f"the film {mid}")
        write_vectors(folder / name / f"{mid}.npy", clips, film, f"{mid} in {len(clips)} clips, {segmentation} {fps}")
    return folder / name


def write_vectors(path, clips, *source):
    """Write a trailer's vectors, and after them what they were made from: digests of a film and a clip table."""
    with open(path, "wb") as file:
        np.save(file, clips.astype(np.float32))
        if source:
            np.save(file, np.array(source))
