"""Broken tables and representations, and scripts stopped at any moment: nothing lost, nothing let in."""

import codecs
import contextlib
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
def test_tables_that_are_read(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    labels = divita.read_labels(tmp_path / "labels.csv")
    assert labels.mids == ["tt1", "tt2", "tt3"] and labels.genres == ["action", "drama"]
    assert labels.y.tolist() == [[1, 0], [0, 1], [1, 1]] and labels.splits.tolist() == [[0], [1], [2]]


TABLES = {  # what is wrong with it: (the table, a word of the error)
    "empty": ("", "empty"),
    "header only": (HEADER, "empty"),
    "no mid": (GOOD.replace("mid,", "id,"), "mid"),
    "no genres": ("mid,split0\ntt1,0\n", "genres"),
    "splits in front": ("mid,split0,action\ntt1,0,1\n", "columns"),
    "split0 missing": (GOOD.replace("split0", "split1"), "split0"),
    "a genre twice": (GOOD.replace("drama", "action"), "twice"),
    "nameless column": (GOOD.replace("drama", ""), "empty"),
    "a cell too few": (GOOD.replace("tt2,0,1,1", "tt2,0,1"), "line 3"),
    "a cell too many": (GOOD.replace("tt2,0,1,1", "tt2,0,1,1,1"), "line 3"),
    "label 2": (GOOD.replace("tt2,0,", "tt2,2,"), "line 3"),
    "label NaN": (GOOD.replace("tt2,0,", "tt2,nan,"), "line 3"),
    "label empty": (GOOD.replace("tt2,0,", "tt2,,"), "line 3"),
    "split 3": (GOOD.replace("1,1,2", "1,1,3"), "line 4"),
    "mid twice": (GOOD.replace("tt3", "tt1"), "line 4: the trailer tt1"),
    "mid twice, written otherwise": (GOOD.replace("tt3", "\u00e9").replace("tt1", "e\u0301"), "line 4"),
    "mid empty": (GOOD.replace("tt3", ""), "line 4"),
    "mid with slash": (GOOD.replace("tt3", "a/b"), "line 4: the mid 'a/b' holds U+002F SOLIDUS; rename it"),
    "mid with backslash": (GOOD.replace("tt3", "a\\b"), "line 4: the mid 'a\\\\b' holds U+005C REVERSE SOLIDUS"),
    "mid ..": (GOOD.replace("tt3", ".."), "line 4: the mid '..' begins with a dot"),
    "mid with newline": (GOOD.replace("tt3", '"a\nb"'), "line 5: the mid 'a\\nb' holds U+000A CONTROL CHARACTER"),
    "mid with NUL": (GOOD.replace("tt3", "a\0b"), "line 4"),
    "mid with escape": (
        GOOD.replace("tt3", "a\x1b[31m"),
        "the mid 'a\\x1b[31m' holds U+001B CONTROL CHARACTER",
    ),
    "mid with line separator": (GOOD.replace("tt3", "a\u2028b"), "line 4: the mid 'a\\u2028b' holds U+2028 LINE SEP"),
    "mid with a blank first": (GOOD.replace("tt3", " tt3"), "line 4: the mid ' tt3' begins or ends with U+0020 SPACE"),
    "mid with an odd blank last": (GOOD.replace("tt3", "tt3\u00a0"), "begins or ends with U+00A0 NO-BREAK SPACE"),
    "mid too long": (GOOD.replace("tt3", 91 * "\u00e9"), "has 182 bytes, not 1 to 180; rename it"),
    "Latin-1": (GOOD.replace("drama", "dram\xe9").encode("latin-1"), "not UTF-8 text"),
    "UTF-16 without a byte order mark": (GOOD.encode("utf-16-le"), "save it as CSV UTF-8"),
    "a quote that is not closed": (GOOD.replace("tt3", '"tt3'), "line 4: not CSV"),
    "binary": (bytes(range(256)), "labels.csv"),
}


@pytest.mark.parametrize("text, word", TABLES.values(), ids=TABLES)
def test_tables_that_are_refused(tmp_path, script, text, word):
    data = make_data(tmp_path / "data", trailers=6)
    (data / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = script("02_train.py", "--data", data, "--runs", tmp_path / "runs", "--epochs", "1")
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "runs").exists()


WORDS = "split Split0 SPLIT1 split_0 folds fold0 kfold is_test isTrain train_test_split TestSet subset partition set"
WORDS = [*WORDS.split(), "Split 0", "test?", "validation", "dev", "mtgc_split", "CV fold 2", "data-split", "split_id"]


@pytest.mark.parametrize("name", WORDS)
def test_a_column_that_looks_like_a_split_is_no_genre(tmp_path, script, name):
    data = make_data(tmp_path / "data", trailers=6, splits=False)
    header, *rows = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join([f"{header},{name}", *(f"{row},0" for row in rows)]))
    result = script("02_train.py", "--data", data, "--runs", tmp_path / "runs", "--epochs", "1")
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert f"the column {name!r} looks like a split; call it split0 (0 train, 1 validation, 2 test)" in result.err
    assert not (tmp_path / "runs").exists()


def test_a_second_split_is_told_its_number(tmp_path):
    divita.write_csv(tmp_path / "labels.csv", ["mid", "drama", "split0", "fold2"], [["tt1", 1, 0, 0]])
    with pytest.raises(divita.UserError, match="'fold2' looks like a split; call it split1"):
        divita.read_labels(tmp_path / "labels.csv")


def test_genres_that_only_hold_such_words(tmp_path):
    genres = ["Fitness training", "Split screen", "Festival", "Setting", "Party", "Folding", "Testament", "Dev\u00f3t"]
    divita.write_csv(tmp_path / "labels.csv", ["mid", *genres, "split0"], [["tt1", *[1] * len(genres), 0]])
    assert divita.read_labels(tmp_path / "labels.csv").genres == genres


@st.composite
def damaged_tables(draw):
    """The good table with a few of its bytes changed."""
    content = bytearray(GOOD.encode())
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    return bytes(content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), damaged_tables()))
def test_any_table_is_read_or_refused(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    try:
        labels = divita.read_labels(tmp_path / "labels.csv")
    except divita.UserError as error:
        assert "\n" not in divita.one_line(error)
    else:
        assert len(labels.mids) == len(labels.y) == len(labels.splits) and set(np.unique(labels.y)) <= {0, 1}


# ---- Splits that are made ----


def table(folder, mids):
    """Write a table without splits of trailers called t<number>; return its path."""
    divita.write_csv(folder / "labels.csv", ["mid", "action"], [[f"t{i}", i % 2] for i in mids])
    return folder / "labels.csv"


def subsets(path):
    """Return {mid: its subset in each split} as read from a table."""
    labels = divita.read_labels(path)
    return dict(zip(labels.mids, labels.splits.tolist()))


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 9, 10, 101])
def test_every_part_of_a_made_split_has_a_trailer(tmp_path, count):
    splits = divita.read_labels(table(tmp_path, range(count))).splits
    sizes = np.array([np.bincount(split, minlength=3) for split in splits.T])
    assert sizes.min() >= 1 and (np.abs(sizes - np.multiply(divita.SPLIT_FRACTIONS, count)) < 1.5).all()
    assert count < 9 or len({split.tobytes() for split in splits.T}) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_trailers_for_splits(tmp_path, count):
    with pytest.raises(divita.UserError, match=f"labels.csv: {count} trailers; splits need at least 3"):
        divita.read_labels(table(tmp_path, range(count)))


def test_made_splits_are_cut_at_70_and_80_percent_and_follow_from_the_mids(tmp_path):
    splits = subsets(table(tmp_path, range(1000)))
    for k in range(3):
        assert np.bincount([parts[k] for parts in splits.values()]).tolist() == [700, 100, 200]
    a, b, c = np.array(list(splits.values())).T
    for one, other in ((a, b), (a, c), (b, c)):  # of each split's test trailers, as many are in another's as by chance
        assert 20 < ((one == 2) & (other == 2)).sum() < 60
    assert subsets(table(tmp_path, reversed(range(1000)))) == splits
    assert [splits[f"t{i}"] for i in range(2)] == [[0, 0, 0], [2, 0, 0]]  # from version to version, too
    assert list(tmp_path.iterdir()) == [tmp_path / "labels.csv"]


# ---- Data that cannot be written ----


@contextlib.contextmanager
def unwritable(folder):
    """Let this process only read a folder: root, which may write everywhere, is somebody else meanwhile."""
    codecs.lookup("utf-8-sig")  # Python's own files may be root's alone
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
    """A data folder without splits, where everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield make_data(Path(folder) / "data", trailers=9, splits=False)


def test_a_folder_that_cannot_be_written_is_named(data):
    with unwritable(data):
        assert len(divita.load_labels(data).mids) == 9  # nothing is kept
        with pytest.raises(divita.UserError, match="data/.packed: cannot be written to"):
            divita.open_representation(data, NAME)
    assert not (data / ".packed").exists()


def test_what_is_packed_already_is_read_where_nothing_can_be_written(data):
    before = np.array(divita.open_representation(data, NAME)["tt0003"])
    (data / ".packed").chmod(0o555)
    with unwritable(data):
        assert (divita.open_representation(data, NAME)["tt0003"] == before).all()
    np.save(data / NAME / "tt0003.npy", before + 1)
    with unwritable(data), pytest.raises(divita.UserError, match="data/.packed: cannot be written to"):
        divita.open_representation(data, NAME)
    (data / ".packed").chmod(0o755)
    assert (divita.open_representation(data, NAME)["tt0003"] == before + 1).all()


# ---- Representations ----

NAME = "shufflenet2d_shots_fps24_fpc24"


def overwrite(content):
    return lambda folder: (folder / "tt0003.npy").write_bytes(content)


def save(array):
    return lambda folder: np.save(folder / "tt0003.npy", array, allow_pickle=True)


def cut_short(folder):
    whole = (folder / "tt0003.npy").read_bytes()
    (folder / "tt0003.npy").write_bytes(whole[: len(whole) // 2])


def cut_end(path):
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


BROKEN = {
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "no clips": save(np.zeros((0, 8), np.float32)),
    "other features": save(np.zeros((9, 7), np.float32)),
    "no features": save(np.zeros((9, 0), np.float32)),
    "integers": save(np.zeros((9, 8), int)),
    "one dimension": save(np.zeros(8, np.float32)),
    "pickle": save(np.array([Malicious()], dtype=object)),
    "truncated": cut_short,
    "empty": overwrite(b""),
    "text": overwrite(b"hello"),
    "an archive": lambda folder: np.savez(open(folder / "tt0003.npy", "wb"), np.zeros((9, 8), np.float32)),
    "half a source": lambda folder: write_vectors(folder / "tt0003.npy", np.zeros((9, 8)), "only a video"),
    "a source cut short": lambda folder: cut_end(folder / "tt0003.npy"),
    "a folder": lambda folder: ((folder / "tt0003.npy").unlink(), (folder / "tt0003.npy").mkdir()),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_broken_representation_is_named(tmp_path, damage):
    data = make_data(tmp_path / "data", trailers=6)
    damage(data / NAME)
    with pytest.raises(divita.UserError, match="tt0003"):
        divita.open_representation(data, NAME)
    assert not os.path.exists("/tmp/divita-ran-code")
    assert not list(data.rglob(".divita*"))


METAS = {
    "not JSON": "{",
    "a list": "[]",
    "another version": json.dumps({"format": 99, "backbone": "shufflenet2d"}),
    "empty": "",
}


@pytest.mark.parametrize("text", METAS.values(), ids=METAS)
def test_broken_meta_is_named(tmp_path, text):
    data = make_data(tmp_path / "data", trailers=6)
    (data / NAME / "meta.json").write_text(text)
    with pytest.raises(divita.UserError, match="meta.json"):
        divita.open_representation(data, NAME)


def test_broken_archives_are_named(tmp_path):
    import zarr

    path = tmp_path / "trailers_i_swin_fpc24.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for mid in ("tt1", "tt2"):
        group.create_array(mid, data=np.ones((4, 3), np.float32), chunks=(4, 3))
    assert divita.open_representation(tmp_path, path.name)["tt2"].shape == (4, 3)
    chunk = path / "tt2" / "0.0"
    whole = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(divita.UserError, match="tt2.*missing"):
        divita.open_representation(tmp_path, path.name)
    chunk.write_bytes(whole[:5])
    with pytest.raises(divita.UserError, match="tt2.*broken"):
        divita.open_representation(tmp_path, path.name)
    (path / "tt2" / ".zarray").write_text("{")
    with pytest.raises(divita.UserError, match="zarr"):
        divita.open_representation(tmp_path, path.name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=4),
    st.sampled_from([np.float32, np.float32, np.float64, np.int8]),
)
def test_any_shapes_are_packed_or_refused(tmp_path, shapes, dtype):
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


def test_a_changed_representation_is_packed_again(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    before = np.array(divita.open_representation(data, NAME)["tt0003"])
    np.save(data / NAME / "tt0003.npy", before + 1)
    assert (divita.open_representation(data, NAME)["tt0003"] == before + 1).all()


def test_names_that_look_alike_are_one(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    composed, decomposed = (unicodedata.normalize(form, "Am\u00e9lie") for form in ("NFC", "NFD"))
    for path in data.glob("*/tt0003.npy"):
        path.rename(path.with_name(f"{decomposed}.npy"))
    image = divita.open_representation(data, NAME)
    for name in (composed, decomposed):
        text = (data / "labels.csv").read_text().replace("tt0003", name)
        (tmp_path / "labels.csv").write_text(text)
        labels = divita.read_labels(tmp_path / "labels.csv")
        rows, left_out = divita.select_trailers(labels.mids, [image])
        assert labels.mids[3] == composed and len(image[composed]) and len(rows) == 6 and not left_out
    shutil.copy(data / NAME / f"{decomposed}.npy", data / NAME / f"{composed}.npy")
    with pytest.raises(divita.UserError, match=f"{composed} is there twice"):
        divita.open_representation(data, NAME)


def test_a_name_that_no_text_holds_is_told(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    os.rename(data / NAME / "tt0003.npy", os.fsencode(data / NAME) + b"/caf\xe9.npy")
    with pytest.raises(divita.UserError, match="holds U\\+DCE9 UNDECODABLE BYTE; rename it"):
        divita.open_representation(data, NAME)


def inode(representation):
    return os.stat(representation.clips.filename).st_ino


def test_what_was_packed_is_never_replaced_where_locks_do_nothing(tmp_path, monkeypatch):
    """Another process packs the same while this one does, as on a file system whose locks hold on one machine only."""
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
    for old in (f"{NAME}.f32", f"{NAME}.json"):  # of an earlier version
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


def test_what_a_killed_process_packed_is_swept(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = data / ".packed" / f"{divita.TEMPORARY}{dead.pid}@{socket.gethostname()}@0.0123456789abcdef"
    left.mkdir(parents=True)
    (left / "clips.f32").write_bytes(bytes(100))
    divita.open_representation(data, NAME)
    assert not left.exists()


def try_lock(folder, answers):
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            answers.put("free")
        except BlockingIOError:
            answers.put("locked")


def test_a_lock_holds_on_nfs(tmp_path, monkeypatch):
    """NFS makes flock() a POSIX lock of the server, which a file opened for reading cannot have."""
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


def test_a_source_is_read_back(tmp_path):
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


def test_interrupt_ends_training_at_once_and_the_same_command_goes_on(tmp_path, script):
    data = make_data(tmp_path / "data")
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--image", "shufflenet2d", "--clips", "5")
    process = start("02_train.py", *arguments, "--epochs", "1000000", "--lr", "1e-9")
    while "epoch" not in process.stderr.read(40):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "Traceback" not in err
    assert script("02_train.py", *arguments, "--epochs", "1").code == 0


def test_training_killed_at_any_moment_gives_the_same_numbers(tmp_path):
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
            ours, undisturbed = np.load(path), np.load(whole / name)
            assert all((ours[key] == undisturbed[key]).all() for key in undisturbed)
