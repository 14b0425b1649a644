"""Damaged tables and representations, and scripts stopped at any moment."""

import codecs
import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_data, write_vectors
from films import Job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import divita

HEADER = "mid,action,drama,split0\n"
GOOD = HEADER + "tt1,1,0,0\ntt2,0,1,1\ntt3,1,1,2\n"

# ---- Tables ----


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace(",", ";"),
        GOOD.rstrip("\n"),
        GOOD + "\n\n",
        GOOD.replace("1,0,0", " 1,0 ,0"),
        GOOD.replace("tt1", '"tt1"'),
        GOOD.replace(",", "\t"),
        GOOD.replace(",", "\t").encode("utf-16"),
        GOOD.replace("\ntt2", ",,\ntt2"),
    ],
    ids=["plain", "BOM", "CRLF", "semicolons", "no last newline", "empty lines", "blanks", "quotes", "tabs", "UTF-16"]
    + ["empty cells at the end"],
)
def test_table_variants_are_read(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    labels = divita.read_labels(tmp_path / "labels.csv")
    assert labels.mids == ["tt1", "tt2", "tt3"] and labels.genres == ["action", "drama"]
    assert labels.y.tolist() == [[1, 0], [0, 1], [1, 1]] and labels.splits.tolist() == [[0], [1], [2]]


INVALID_TABLES = {  # defect: (table, part of the message)
    "empty": ("", "empty"),
    "header only": (HEADER, "empty"),
    "no mid": (GOOD.replace("mid,", "id,"), "mid"),
    "no genres": ("mid,split0\ntt1,0\n", "genres"),
    "splits in front": ("mid,split0,action\ntt1,0,1\n", "columns"),
    "split0 missing": (GOOD.replace("split0", "split1"), "split0"),
    "duplicate genre": (GOOD.replace("drama", "action"), "duplicate"),
    "column without a name": (GOOD.replace("drama", ""), "empty"),
    "missing cell": (GOOD.replace("tt2,0,1,1", "tt2,0,1"), "line 3"),
    "additional cell": (GOOD.replace("tt2,0,1,1", "tt2,0,1,1,1"), "line 3"),
    "label 2": (GOOD.replace("tt2,0,", "tt2,2,"), "line 3"),
    "label NaN": (GOOD.replace("tt2,0,", "tt2,nan,"), "line 3"),
    "label empty": (GOOD.replace("tt2,0,", "tt2,,"), "line 3"),
    "split 3": (GOOD.replace("1,1,2", "1,1,3"), "line 4"),
    "duplicate mid": (GOOD.replace("tt3", "tt1"), "line 4: duplicate trailer tt1; remove one of its rows"),
    "duplicate mid in another Unicode form": (GOOD.replace("tt3", "\u00e9").replace("tt1", "e\u0301"), "line 4"),
    "mid empty": (GOOD.replace("tt3", ""), "line 4"),
    "mid with slash": (GOOD.replace("tt3", "a/b"), "line 4: the mid 'a/b' contains U+002F SOLIDUS; rename it"),
    "mid with backslash": (GOOD.replace("tt3", "a\\b"), "line 4: the mid 'a\\\\b' contains U+005C REVERSE SOLIDUS"),
    "mid ..": (GOOD.replace("tt3", ".."), "line 4: the mid '..' begins with a dot"),
    "mid with newline": (GOOD.replace("tt3", '"a\nb"'), "line 5: the mid 'a\\nb' contains U+000A CONTROL CHARACTER"),
    "mid with NUL": (GOOD.replace("tt3", "a\0b"), "line 4"),
    "mid with escape": (
        GOOD.replace("tt3", "a\x1b[31m"),
        "the mid 'a\\x1b[31m' contains U+001B CONTROL CHARACTER",
    ),
    "mid with line separator": (GOOD.replace("tt3", "a\u2028b"), "the mid 'a\\u2028b' contains U+2028 LINE SEP"),
    "mid with leading space": (GOOD.replace("tt3", " tt3"), "line 4: the mid ' tt3' begins or ends with U+0020 SPACE"),
    "mid with trailing no-break space": (GOOD.replace("tt3", "tt3\u00a0"), "begins or ends with U+00A0 NO-BREAK SPACE"),
    "mid too long": (GOOD.replace("tt3", 91 * "\u00e9"), "has 182 bytes, not 1 to 180; rename it"),
    "Latin-1": (GOOD.replace("drama", "dram\xe9").encode("latin-1"), "not UTF-8 text"),
    "UTF-16 without a byte order mark": (GOOD.encode("utf-16-le"), "save it as CSV UTF-8"),
    "unclosed quote": (GOOD.replace("tt3", '"tt3'), "line 4: not CSV"),
    "binary": (bytes(range(256)), "labels.csv"),
}


@pytest.mark.parametrize("text, message", INVALID_TABLES.values(), ids=INVALID_TABLES)
def test_invalid_tables_are_rejected(tmp_path, script, text, message):
    data = make_data(tmp_path / "data", trailers=6)
    (data / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = script("02_train.py", "--data", data, "--runs", tmp_path / "runs", "--epochs", "1")
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "runs").exists()


WORDS = "split Split0 SPLIT1 split_0 folds fold0 kfold is_test isTrain train_test_split TestSet subset partition set"
WORDS = [*WORDS.split(), "Split 0", "test?", "validation", "dev", "mtgc_split", "CV fold 2", "data-split", "split_id"]


@pytest.mark.parametrize("name", WORDS)
def test_a_column_named_like_a_split_is_rejected(tmp_path, script, name):
    data = make_data(tmp_path / "data", trailers=6, splits=False)
    header, *rows = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join([f"{header},{name}", *(f"{row},0" for row in rows)]))
    result = script("02_train.py", "--data", data, "--runs", tmp_path / "runs", "--epochs", "1")
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert f"the column {name!r} looks like a split; name it split0 (0 train, 1 validation, 2 test)" in result.err
    assert not (tmp_path / "runs").exists()


def test_the_message_numbers_a_second_split(tmp_path):
    divita.write_csv(tmp_path / "labels.csv", ["mid", "drama", "split0", "fold2"], [["tt1", 1, 0, 0]])
    with pytest.raises(divita.UserError, match="'fold2' looks like a split; name it split1"):
        divita.read_labels(tmp_path / "labels.csv")


def test_genres_that_contain_split_words_are_accepted(tmp_path):
    genres = ["Fitness training", "Split screen", "Festival", "Setting", "Party", "Folding", "Testament", "Dev\u00f3t"]
    divita.write_csv(tmp_path / "labels.csv", ["mid", *genres, "split0"], [["tt1", *[1] * len(genres), 0]])
    assert divita.read_labels(tmp_path / "labels.csv").genres == genres


@st.composite
def damaged_tables(draw):
    """Draw the valid table with up to four bytes changed."""
    content = bytearray(GOOD.encode())
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    return bytes(content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), damaged_tables()))
def test_any_table_is_read_or_rejected(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    try:
        labels = divita.read_labels(tmp_path / "labels.csv")
    except divita.UserError as error:
        assert "\n" not in divita.one_line(error)
    else:
        assert len(labels.mids) == len(labels.y) == len(labels.splits) and set(np.unique(labels.y)) <= {0, 1}


# ---- Generated splits ----


def write_table(folder, mids):
    """Write a table without splits, of trailers t<number>; return its path."""
    divita.write_csv(folder / "labels.csv", ["mid", "action"], [[f"t{i}", i % 2] for i in mids])
    return folder / "labels.csv"


def read_subsets(path):
    """Return {mid: its subset in each split} of a table."""
    labels = divita.read_labels(path)
    return dict(zip(labels.mids, labels.splits.tolist()))


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 9, 10, 101])
def test_every_subset_of_a_generated_split_has_a_trailer(tmp_path, count):
    splits = divita.read_labels(write_table(tmp_path, range(count))).splits
    sizes = np.array([np.bincount(split, minlength=3) for split in splits.T])
    assert sizes.min() >= 1 and (np.abs(sizes - np.multiply(divita.SPLIT_FRACTIONS, count)) < 1.5).all()
    assert count < 9 or len({split.tobytes() for split in splits.T}) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_trailers_for_splits(tmp_path, count):
    with pytest.raises(divita.UserError, match=f"labels.csv: {count} trailers; splits need at least 3, one per subset"):
        divita.read_labels(write_table(tmp_path, range(count)))


def test_generated_splits_are_cut_at_70_and_80_percent_and_depend_on_the_mids_only(tmp_path):
    splits = read_subsets(write_table(tmp_path, range(1000)))
    for k in range(3):
        assert np.bincount([subsets[k] for subsets in splits.values()]).tolist() == [700, 100, 200]
    a, b, c = np.array(list(splits.values())).T
    for first, second in ((a, b), (a, c), (b, c)):  # test sets overlap as by chance
        assert 20 < ((first == 2) & (second == 2)).sum() < 60
    assert read_subsets(write_table(tmp_path, reversed(range(1000)))) == splits
    assert [splits[f"t{i}"] for i in range(2)] == [[0, 0, 0], [2, 0, 0]]  # the same in every version
    assert list(tmp_path.iterdir()) == [tmp_path / "labels.csv"]


# ---- Read-only data ----


@contextlib.contextmanager
def read_only(folder):
    """Make a folder read-only for this process, which changes its user if it is root."""
    codecs.lookup("utf-8-sig")  # before, as only root may read Python's files
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if user == 0:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)


@pytest.fixture
def data():
    """A data folder without splits, readable by all users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield make_data(Path(folder) / "data", trailers=9, splits=False)


def test_packing_into_a_read_only_folder_is_an_error(data):
    with read_only(data):
        assert len(divita.load_labels(data).mids) == 9  # writes nothing
        with pytest.raises(divita.UserError, match="data/.packed: cannot be written to"):
            divita.open_representation(data, NAME)
    assert not (data / ".packed").exists()


def test_packed_vectors_are_read_from_a_read_only_folder(data):
    before = np.array(divita.open_representation(data, NAME)["tt0003"])
    (data / ".packed").chmod(0o555)
    with read_only(data):
        assert (divita.open_representation(data, NAME)["tt0003"] == before).all()
    np.save(data / NAME / "tt0003.npy", before + 1)
    with read_only(data), pytest.raises(divita.UserError, match="data/.packed: cannot be written to"):
        divita.open_representation(data, NAME)
    (data / ".packed").chmod(0o755)
    assert (divita.open_representation(data, NAME)["tt0003"] == before + 1).all()


# ---- Representations ----

NAME = "shufflenet2d_shots_fps24_fpc24"


def with_content(content):
    return lambda folder: (folder / "tt0003.npy").write_bytes(content)


def with_array(array):
    return lambda folder: np.save(folder / "tt0003.npy", array, allow_pickle=True)


def truncate(folder):
    whole = (folder / "tt0003.npy").read_bytes()
    (folder / "tt0003.npy").write_bytes(whole[: len(whole) // 2])


def truncate_source(path):
    path.write_bytes(path.read_bytes()[:-5])


def with_value(value):
    def change(folder):
        clips = np.load(folder / "tt0003.npy")
        clips[0, 0] = value
        np.save(folder / "tt0003.npy", clips)

    return change


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/divita-ran-code",)


DAMAGES = {
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "no clips": with_array(np.zeros((0, 8), np.float32)),
    "other features": with_array(np.zeros((9, 7), np.float32)),
    "no features": with_array(np.zeros((9, 0), np.float32)),
    "integers": with_array(np.zeros((9, 8), int)),
    "one dimension": with_array(np.zeros(8, np.float32)),
    "pickle": with_array(np.array([Malicious()], dtype=object)),
    "truncated": truncate,
    "empty": with_content(b""),
    "text": with_content(b"hello"),
    "an archive": lambda folder: np.savez(open(folder / "tt0003.npy", "wb"), np.zeros((9, 8), np.float32)),
    "half a source": lambda folder: write_vectors(folder / "tt0003.npy", np.zeros((9, 8)), "only a video"),
    "truncated source": lambda folder: truncate_source(folder / "tt0003.npy"),
    "a folder": lambda folder: ((folder / "tt0003.npy").unlink(), (folder / "tt0003.npy").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_representation_is_an_error(tmp_path, damage):
    data = make_data(tmp_path / "data", trailers=6)
    damage(data / NAME)
    with pytest.raises(divita.UserError, match="tt0003"):
        divita.open_representation(data, NAME)
    assert not os.path.exists("/tmp/divita-ran-code")
    assert not list(data.rglob(".divita*"))


INVALID_METAS = {
    "not JSON": "{",
    "a list": "[]",
    "another version": json.dumps({"format": 99, "backbone": "shufflenet2d"}),
    "empty": "",
}


@pytest.mark.parametrize("text", INVALID_METAS.values(), ids=INVALID_METAS)
def test_invalid_metadata_are_an_error(tmp_path, text):
    data = make_data(tmp_path / "data", trailers=6)
    (data / NAME / "meta.json").write_text(text)
    with pytest.raises(divita.UserError, match="meta.json"):
        divita.open_representation(data, NAME)


def test_a_damaged_archive_is_an_error(tmp_path):
    import zarr

    path = tmp_path / "trailers_i_swin_fpc24.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for mid in ("tt1", "tt2"):
        group.create_array(mid, data=np.ones((4, 3), np.float32), chunks=(4, 3))
    assert divita.open_representation(tmp_path, path.name)["tt2"].shape == (4, 3)
    chunk = path / "tt2" / "0.0"
    whole = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(divita.UserError, match="tt2.*missing chunk"):
        divita.open_representation(tmp_path, path.name)
    chunk.write_bytes(whole[:5])
    with pytest.raises(divita.UserError, match="tt2.*damaged"):
        divita.open_representation(tmp_path, path.name)
    (path / "tt2" / ".zarray").write_text("{")
    with pytest.raises(divita.UserError, match="zarr"):
        divita.open_representation(tmp_path, path.name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=4),
    st.sampled_from([np.float32, np.float32, np.float64, np.int8]),
)
def test_arrays_of_any_shape_are_packed_or_rejected(tmp_path, shapes, dtype):
    folder = tmp_path / str(time.monotonic_ns())
    arrays = {f"tt{i}": np.ones(shape, dtype) for i, shape in enumerate(shapes)}
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "meta.json").write_text(
        json.dumps({"format": divita.FORMAT_VERSION, "backbone": "shufflenet2d", "input": "image"})
    )
    for mid, array in arrays.items():
        np.save(folder / NAME / f"{mid}.npy", array)
    try:
        opened = divita.open_representation(folder, NAME)
    except divita.UserError:
        assert dtype == np.int8 or any(0 in shape for shape in shapes) or len({f for _, f in shapes}) > 1
    else:
        assert all((opened[mid] == array).all() and opened[mid].shape == array.shape for mid, array in arrays.items())


def test_a_changed_representation_is_repacked(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    before = np.array(divita.open_representation(data, NAME)["tt0003"])
    np.save(data / NAME / "tt0003.npy", before + 1)
    assert (divita.open_representation(data, NAME)["tt0003"] == before + 1).all()


def test_unicode_forms_of_a_mid_are_the_same_trailer(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    composed, decomposed = (unicodedata.normalize(form, "Am\u00e9lie") for form in ("NFC", "NFD"))
    for path in data.glob("*/tt0003.npy"):
        path.rename(path.with_name(f"{decomposed}.npy"))
    image = divita.open_representation(data, NAME)
    for mid in (composed, decomposed):
        text = (data / "labels.csv").read_text().replace("tt0003", mid)
        (tmp_path / "labels.csv").write_text(text)
        labels = divita.read_labels(tmp_path / "labels.csv")
        rows, skipped = divita.select_trailers(labels.mids, [image])
        assert labels.mids[3] == composed and len(image[composed]) and len(rows) == 6 and not skipped
    shutil.copy(data / NAME / f"{decomposed}.npy", data / NAME / f"{composed}.npy")
    with pytest.raises(divita.UserError, match=f"duplicate trailer {composed}"):
        divita.open_representation(data, NAME)


def test_an_undecodable_file_name_is_an_error(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    os.rename(data / NAME / "tt0003.npy", os.fsencode(data / NAME) + b"/caf\xe9.npy")
    with pytest.raises(divita.UserError, match="contains U\\+DCE9 UNDECODABLE BYTE; rename it"):
        divita.open_representation(data, NAME)


def inode(representation):
    return os.stat(representation.clips.filename).st_ino


def test_a_packed_file_is_never_replaced_even_without_working_locks(tmp_path, monkeypatch):
    """Another process packs the same representation, as on a file system whose locks work on one machine only."""
    data, others = make_data(tmp_path / "data", trailers=6), []
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)

    def watch(event, arguments):  # every file that Python opens
        if event == "open" and not others and str(data / ".packed") in str(arguments[0]):
            others.append(None)
            others[0] = divita.open_representation(data, NAME)

    sys.addaudithook(watch)
    ours = divita.open_representation(data, NAME)
    assert inode(ours) == inode(others[0])
    for mid in ours.rows:
        expected = np.load(data / NAME / f"{mid}.npy")
        assert (ours[mid] == expected).all() and (others[0][mid] == expected).all()
    assert [path.name[:10] for path in (data / ".packed").iterdir()] == [NAME[:10]]


def test_a_mapped_file_outlives_a_change_and_is_removed_a_day_later(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    for old in (f"{NAME}.f32", f"{NAME}.json"):  # files of an earlier version
        divita.write_text(data / ".packed" / old, "")
        os.utime(data / ".packed" / old, (0, 0))
    first = divita.open_representation(data, NAME)
    before, file = np.array(first["tt0003"]), Path(first.clips.filename)
    np.save(data / NAME / "tt0003.npy", before + 1)
    divita.open_representation(data, "shufflenet3d")
    second = divita.open_representation(data, NAME)
    assert (second["tt0003"] == before + 1).all() and (np.array(first["tt0003"]) == before).all()
    assert len(list((data / ".packed").iterdir())) == 3
    os.utime(file.parent, (0, 0))
    os.utime(Path(second.clips.filename).parent, (0, 0))
    assert inode(divita.open_representation(data, NAME)) == inode(second)
    assert not file.exists() and len(list((data / ".packed").iterdir())) == 2


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = data / ".packed" / f"{divita.TEMPORARY}{dead.pid}@{socket.gethostname()}@0.0123456789abcdef"
    stale.mkdir(parents=True)
    (stale / "clips.f32").write_bytes(bytes(100))
    divita.open_representation(data, NAME)
    assert not stale.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS])
@pytest.mark.parametrize("module, function", [("fcntl", "flock"), ("builtins", "open")])
def test_work_goes_on_where_a_folder_cannot_be_locked(tmp_path, monkeypatch, code, module, function):
    """On file systems without locks and on read-only ones."""
    with monkeypatch.context() as patch:

        def fail(*_, **__):
            raise OSError(code, os.strerror(code))

        patch.setattr(f"{module}.{function}", fail)
        with divita.folder_lock(tmp_path):
            (tmp_path / "done").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


def try_lock(folder, answers):
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            answers.put("free")
        except BlockingIOError:
            answers.put("locked")


def test_locks_work_on_nfs(tmp_path, monkeypatch):
    """On NFS, flock() is a POSIX lock, which needs a file opened for writing."""
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for _ in range(2):
        with divita.folder_lock(tmp_path):
            process = context.Process(target=try_lock, args=(tmp_path, answers))
            process.start()
            assert answers.get(timeout=30) == "locked"
            process.join()
    try_lock(tmp_path, answers)
    assert answers.get(timeout=30) == "free"


def test_the_source_of_vectors_is_read(tmp_path):
    write_vectors(tmp_path / "known.npy", np.zeros((9, 8)), "video", "table", "stamp")
    write_vectors(tmp_path / "unknown.npy", np.zeros((9, 8)))
    clips, source = divita.read_vectors(tmp_path / "known.npy")
    assert clips.shape == (9, 8) and source == ("video", "table", "stamp")
    clips, source = divita.read_vectors(tmp_path / "unknown.npy")
    assert clips.shape == (9, 8) and source == (None, None, None)
    whole = (tmp_path / "known.npy").read_bytes()
    for length in (0, 100, len(whole) - 1):
        (tmp_path / "cut.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError):
            divita.read_vectors(tmp_path / "cut.npy")
    assert np.load(tmp_path / "known.npy").shape == (9, 8)


# ---- Stopping ----


def start(*arguments):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, **pipes)


def test_an_interrupt_stops_training_and_the_same_command_resumes(tmp_path, script):
    data = make_data(tmp_path / "data")
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--image", "shufflenet2d", "--clips", "5")
    process = start("02_train.py", *arguments, "--epochs", "1000000", "--lr", "1e-9")
    while "epoch" not in process.stderr.read(40):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "Traceback" not in err
    assert script("02_train.py", *arguments, "--epochs", "1").code == 0


def test_killed_and_resumed_training_has_the_same_results(tmp_path):
    options = ["--image", "shufflenet2d", "--clips", 5, "--epochs", 3]
    arguments = ["--data", make_data(tmp_path / "data"), *options, "--runs"]
    whole, runs = tmp_path / "whole", tmp_path / "runs"
    assert Job(tmp_path / "log", *arguments, whole, name="02_train.py").end() == 0
    generator = np.random.default_rng(0)
    for i in range(int(os.environ.get("KILLS", 3))):
        job = Job(tmp_path / "log", *arguments, runs, name="02_train.py")
        job.process.join(generator.uniform(0.1, 3))
        job.process.kill()
        job.process.join()
        for config in runs.rglob("config.json"):
            assert divita.load_model(config.with_name("model.keras")).count_params()
        shutil.rmtree(next(runs.rglob(f"split{i % 3}"), runs / "none"), ignore_errors=True)
    assert Job(tmp_path / "log", *arguments, runs, name="02_train.py").end() == 0
    files = {path.relative_to(runs): path for path in runs.rglob("*") if path.is_file()}
    assert set(files) == {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert len(files) == 12
    for name, path in files.items():
        if path.suffix == ".csv":
            assert path.read_text() == (whole / name).read_text()
        if path.suffix == ".npz":
            resumed, uninterrupted = np.load(path), np.load(whole / name)
            assert all((resumed[key] == uninterrupted[key]).all() for key in uninterrupted)
