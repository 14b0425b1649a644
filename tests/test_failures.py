"""Broken tables and representations, and scripts stopped at any moment: nothing lost, nothing let in."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, make_data
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
    ],
    ids=["plain", "BOM", "CRLF", "semicolons", "no last newline", "empty lines", "blanks", "quotes"],
)
def test_tables_that_are_read(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text.encode())
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
    "mid twice": (GOOD.replace("tt3", "tt1"), "tt1"),
    "mid empty": (GOOD.replace("tt3", ""), "line 4"),
    "mid with slash": (GOOD.replace("tt3", "a/b"), "line 4"),
    "mid with backslash": (GOOD.replace("tt3", "a\\b"), "line 4"),
    "mid ..": (GOOD.replace("tt3", ".."), "line 4"),
    "mid with newline": (GOOD.replace("tt3", '"a\nb"'), "line 5"),
    "mid with NUL": (GOOD.replace("tt3", "a\0b"), "line 4"),
    "Latin-1": (GOOD.replace("drama", "dram\xe9").encode("latin-1"), "UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-8"),
    "binary": (bytes(range(256)), "labels.csv"),
}


@pytest.mark.parametrize("text, word", TABLES.values(), ids=TABLES)
def test_tables_that_are_refused(tmp_path, script, text, word):
    data = make_data(tmp_path / "data", trailers=6)
    (data / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = script("02_train.py", "--data", data, "--runs", tmp_path / "runs")
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "runs").exists()


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


# ---- Representations ----

NAME = "shufflenet2d_shots_fps24_fpc24"


def overwrite(content):
    return lambda folder: (folder / "tt0003.npy").write_bytes(content)


def save(array):
    return lambda folder: np.save(folder / "tt0003.npy", array, allow_pickle=True)


def cut_short(folder):
    whole = (folder / "tt0003.npy").read_bytes()
    (folder / "tt0003.npy").write_bytes(whole[: len(whole) // 2])


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
    "float64": save(np.zeros((9, 8))),
    "one dimension": save(np.zeros(8, np.float32)),
    "pickle": save(np.array([Malicious()], dtype=object)),
    "truncated": cut_short,
    "empty": overwrite(b""),
    "text": overwrite(b"hello"),
    "a folder": lambda folder: ((folder / "tt0003.npy").unlink(), (folder / "tt0003.npy").mkdir()),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_broken_representation_is_named(tmp_path, damage):
    data = make_data(tmp_path / "data", trailers=6)
    damage(data / NAME)
    with pytest.raises(divita.UserError, match="tt0003"):
        divita.open_representation(data, NAME)
    assert not os.path.exists("/tmp/divita-ran-code")
    assert not list(data.rglob(".tmp-*"))


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
    (folder / NAME / "meta.json").write_text(json.dumps({"format": divita.FORMAT, "backbone": "shufflenet2d"}))
    for mid, array in arrays.items():
        np.save(folder / NAME / f"{mid}.npy", array)
    try:
        opened = divita.open_representation(folder, NAME)
    except divita.UserError:
        assert dtype != np.float32 or any(0 in shape for shape in shapes) or len({f for _, f in shapes}) > 1
    else:
        assert all((opened[mid] == array).all() and opened[mid].shape == array.shape for mid, array in arrays.items())


def test_a_changed_representation_is_packed_again(tmp_path):
    data = make_data(tmp_path / "data", trailers=6)
    before = np.array(divita.open_representation(data, NAME)["tt0003"])
    np.save(data / NAME / "tt0003.npy", before + 1)
    assert (divita.open_representation(data, NAME)["tt0003"] == before + 1).all()


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
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 2
    assert process.returncode == 130 and "python 02_train.py --data" in err and "Traceback" not in err
    assert not list(tmp_path.rglob(".tmp-*"))
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
