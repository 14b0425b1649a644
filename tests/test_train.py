"""02_train.py through its command line, and the parts of divita.py that it uses."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc

import keras
import numpy as np
import pytest
import torch
from conftest import GENRES, REFERENCES, ROOT, make_data, write_representation, write_vectors
from films import TINY, Job, write_video

import divita

QUICK = ("--epochs", "2", "--batch-size", "8", "--clips", "5")


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def train(script, data, tmp_path):
    return lambda *arguments: script("02_train.py", "--data", data, "--runs", tmp_path / "runs", *QUICK, *arguments)


def runs(tmp_path):
    return sorted(str(path.parent.relative_to(tmp_path / "runs")) for path in (tmp_path / "runs").rglob("config.json"))


def config_of(tmp_path, split=0):
    return json.loads(next((tmp_path / "runs").rglob(f"split{split}/config.json")).read_text())


def history_of(tmp_path):
    with open(next((tmp_path / "runs").rglob("history.csv")), newline="") as file:
        return list(csv.DictReader(file))


def rejected(result, *words):
    """Return whether a script ended with status 2 and one line that contains the words."""
    return result.code == 2 and result.err.count("\n") == 1 and all(word in result.err for word in words)


def failures(result):
    """Return the messages on failed runs."""
    return [line for line in result.err.replace("\r", "\n").splitlines() if ": failed: " in line]


def test_default_runs_are_image_video_and_fusion(train, tmp_path):
    result = train("--splits", "0", "2")
    assert result.code == 0, result.err
    names = ("shufflenet2d_shots_fps24_fpc24", "shufflenet3d_shots_fps24_fpc24")
    names += ("shufflenet2d+shufflenet3d_shots_fps24_fpc24",)
    assert runs(tmp_path) == sorted(f"{name}-clips5/split{split}" for name in names for split in (0, 2))
    rows = json.loads((tmp_path / "runs" / "inputs.json").read_text())["rows"]
    assert {row["label"]: row["run"] for row in rows} == {
        label: f"{name}-clips5" for label, name in zip(("image", "video", "fusion"), names)
    }
    folder = tmp_path / "runs" / f"{names[2]}-clips5" / "split2"
    config = json.loads((folder / "config.json").read_text())
    labels = divita.read_labels(tmp_path / "data" / "labels.csv")
    with np.load(folder / "predictions.npz") as predictions:
        assert predictions["genres"].tolist() == config["genres"] == list(GENRES)
        for name in divita.SUBSETS:
            rows = divita.subset(labels, 2, name)
            assert predictions[f"{name}_mids"].tolist() == [labels.mids[row] for row in rows]
            assert name == "train" or (predictions[f"{name}_true"] == labels.y[rows]).all()
        model = keras.models.load_model(folder / "model.keras")
        inputs = [divita.open_representation(tmp_path / "data", config[name]) for name in ("image", "video")]
        found = divita.predict_trailers(model, [[x[mid] for x in inputs] for mid in predictions["test_mids"]], 5)
        assert np.allclose(found, predictions["test_probabilities"], atol=1e-6)
    assert [row["epoch"] for row in history_of(tmp_path)] == ["1", "2"]


def test_none_disables_one_input(train, tmp_path):
    for arguments in (("--image", "none"), ("--video", "none")):
        assert train(*arguments, "--splits", "0").code == 0
    assert runs(tmp_path) == [f"{name}_shots_fps24_fpc24-clips5/split0" for name in ("shufflenet2d", "shufflenet3d")]


def test_demo_data_select_the_demo_defaults(script, data, tmp_path):
    """Whatever the path of the data folder."""
    arguments = ("02_train.py", "--data", data, "--runs", tmp_path / "runs", "--image", "shufflenet2d", "--splits", "0")
    (data / "true_cuts.csv").touch()
    assert "at most 1 epochs, learning rate 0.002\n" in script(*arguments, "--epochs", "1").out
    (data / "true_cuts.csv").unlink()
    assert "at most 1 epochs, learning rate 0.0001\n" in script(*arguments, "--epochs", "1", "--overwrite").out


@pytest.mark.parametrize(
    "features, changes, said",
    [
        ({"image": 8, "sound": 6}, {}, "unknown or missing; use {'image': F, 'video': F}"),
        ({}, {}, "inputs {}: unknown or missing"),
        ({"image": 8, "video": None}, {}, "unknown or missing"),
        ({"image": 8}, {"fusion": "middle"}, "unknown fusion 'middle'; choose late, early"),
        ({"image": 8}, {"aggregation": "max"}, "unknown aggregation 'max'"),
    ],
)
def test_divita_rejects_unknown_options(features, changes, said):
    with pytest.raises(divita.UserError) as error:
        divita.divita(features, 3, **changes)
    assert said in str(error.value)


def test_training_learns(script, data, tmp_path):
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--splits", "0", "--epochs", "30", "--lr", "0.003")
    assert script("02_train.py", *arguments, "--image", "shufflenet2d").code == 0
    with np.load(next((tmp_path / "runs").rglob("predictions.npz"))) as predictions:
        truth, probabilities = predictions["test_true"], predictions["test_probabilities"]
    assert divita.compute_metrics(truth, probabilities)["uAP"] > truth.mean() + 0.2


def test_finished_run_is_skipped_and_another_configuration_rejected(train, tmp_path):
    one = ("--image", "shufflenet2d", "--splits", "0")
    assert train(*one).code == 0
    config = next((tmp_path / "runs").rglob("config.json"))
    before = config.stat().st_mtime_ns
    assert "1 finished" in train(*one).out
    assert config.stat().st_mtime_ns == before
    assert rejected(train(*one, "--lr", "0.01"), "other settings (lr);", "split0")
    assert train(*one, "--lr", "0.01", "--overwrite").code == 0
    assert json.loads(config.read_text())["lr"] == 0.01


def test_interrupted_retraining_leaves_an_unfinished_run(train, tmp_path, monkeypatch):
    assert train(*ONE).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", lambda *_, **__: int("full"))
        with pytest.raises(ValueError):
            train(*ONE, "--lr", "0.01", "--overwrite")
    assert "0 finished" in train(*ONE).out


def test_duplicate_splits_are_trained_once(train):
    assert "1 runs, 0 finished" in train("--image", "shufflenet2d", "--splits", "0", "0").out


def test_interrupted_run_is_retrained_to_the_same_predictions(train, tmp_path):
    one = ("--video", "shufflenet3d", "--splits", "0")
    assert train(*one).code == 0
    folder = next((tmp_path / "runs").rglob("config.json")).parent
    first = dict(np.load(folder / "predictions.npz"))
    (folder / "config.json").unlink()  # as if killed before the last file
    assert train(*one).code == 0
    assert all((first[name] == value).all() for name, value in np.load(folder / "predictions.npz").items())


def test_experiments_save_their_rows_and_print_missing_representations(train, tmp_path, data):
    result = train("--experiment", "aggregation", "--splits", "0")
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "runs" / "aggregation.json").read_text())["rows"]
    assert {row["label"] for row in rows} == set(divita.AGGREGATIONS)
    assert {row["run"] for row in rows} == {name.split("/")[0] for name in runs(tmp_path)}
    result = train("--experiment", "transfer", "--splits", "0")
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if "01_prepare.py" in line)
    assert "--image resnet50 swin2d --video r2plus1d swin3d" in line
    rows = json.loads((tmp_path / "runs" / "transfer.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["ShuffleNet-2D", "ShuffleNet-3D", "ShuffleNet fusion"]


def test_segmentation_and_frame_rate_find_their_representations(train, tmp_path, data):
    generator = np.random.default_rng(1)
    x = {mid: generator.standard_normal((7, 6)) for mid in divita.read_labels(data / "labels.csv").mids}
    write_representation(data, "video", "shufflenet3d", x, segmentation="seconds")
    write_representation(data, "video", "shufflenet3d", x, fps=8)
    result = train("--experiment", "segmentation", "--splits", "0")
    assert result.code == 0 and "--segmentation seconds" in result.out, result.err
    rows = json.loads((tmp_path / "runs" / "segmentation.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["image, shots", "video, shots", "video, seconds", "fusion, shots"]
    result = train("--experiment", "frame-rate", "--splits", "0")
    assert result.code == 0 and "--fps 4" in result.out, result.err
    rows = json.loads((tmp_path / "runs" / "frame-rate.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["8 frames/s", "24 frames/s"]


def test_published_archives_are_read_unchanged(script, tmp_path):
    with tarfile.open(REFERENCES / "representations_sample.tar.gz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    image = divita.open_representation(tmp_path / "data", "trailers_i_shufflenet_fpc24")
    video = divita.open_representation(tmp_path / "data", "trailers_k_shufflenet_fps24_fpc24.zarr")
    sums = [[x[mid].sum(dtype=np.float64) for x in (image, video)] for mid in ("tt0035423", "tt0113026")]
    assert np.allclose(sums, [[-55.21553, -34.29860], [-2.92983, -23.14067]], atol=1e-4)
    rows = [[mid, i % 2, 1 - i % 2, i % 3] for i, mid in enumerate(image.rows)]
    divita.write_csv(tmp_path / "data" / "labels.csv", ["mid", "even", "odd", "split0"], rows)
    names = ("--image", "trailers_i_shufflenet_fpc24", "--video", "shufflenet3d")
    result = script("02_train.py", "--data", tmp_path / "data", "--runs", tmp_path / "runs", *names, "--epochs", "1")
    assert result.code == 0, result.err
    assert runs(tmp_path) == ["trailers_i_shufflenet_fpc24+trailers_k_shufflenet_fps24_fpc24/split0"]
    names = ("--runs", tmp_path / "runs", *names, "--epochs", "1")
    result = script("02_train.py", "--data", tmp_path / "data", *names, "--experiment", "segmentation")
    assert result.code == 0, result.err
    command = f"python 01_prepare.py --out {tmp_path / 'data'} --videos DIR --image shufflenet2d --video shufflenet3d"
    assert f"{command} --segmentation seconds" in result.out
    result = script("02_train.py", "--data", tmp_path / "data", *names, "--experiment", "transfer")
    assert f"before: python 01_prepare.py --out {tmp_path / 'data'} --download all\n" in result.out


def test_unusable_trailers_are_listed_and_skipped(train, data):
    (data / "shufflenet2d_shots_fps24_fpc24" / "tt0003.npy").unlink()
    np.save(data / "shufflenet2d_shots_fps24_fpc24" / "tt0005.npy", np.zeros((99, 8), np.float32))
    result = train("--splits", "0")
    assert result.code == 0, result.err
    assert "1 not in every representation (tt0003); 1 with different clip counts (tt0005)" in result.out


def test_labels_without_splits_get_three(tmp_path, script):
    data = make_data(tmp_path / "data", trailers=40, splits=False)
    before = sorted(data.iterdir()), (data / "labels.csv").read_bytes()
    labels = divita.read_labels(data / "labels.csv")
    assert labels.splits.shape == (40, 3)
    assert [np.bincount(split).tolist() for split in labels.splits.T] == [[28, 4, 8]] * 3
    assert (labels.splits == divita.read_labels(data / "labels.csv").splits).all()
    assert (sorted(data.iterdir()), (data / "labels.csv").read_bytes()) == before
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--image", "shufflenet2d", *QUICK)
    assert script("02_train.py", *arguments).code == 0
    assert len(runs(tmp_path)) == 3


def test_whole_trailer_in_one_snippet(train, tmp_path):
    assert train("--image", "shufflenet2d", "--splits", "0", "--clips", "0").code == 0
    config = json.loads(next((tmp_path / "runs").rglob("config.json")).read_text())
    image = divita.open_representation(tmp_path / "data", config["image"])
    assert config["clips"] == 0 and config["snippet_clips"] == max(stop - start for start, stop in image.rows.values())


def test_snippets_start_anywhere_and_are_padded(tmp_path):
    folder = make_data(tmp_path / "data", trailers=8, clips=(2, 12))
    image = divita.open_representation(folder, "shufflenet2d")
    mids = list(image.rows)
    snippets = divita.TrainingSnippets([image], mids, np.eye(len(mids)), 5, len(mids), seed=0)
    starts = {mid: set() for mid in mids}
    for _ in range(100):
        snippets.on_epoch_end()
        (x,), y = snippets[0]
        for snippet, row in zip(x, y.argmax(1)):
            clips = image[mids[row]]
            start = next(i for i in range(len(clips)) if (clips[i] == snippet[0]).all())
            assert (snippet[: len(clips)] == clips[start : start + 5]).all() and not snippet[len(clips) :].any()
            starts[mids[row]].add(start)
    assert starts == {mid: set(range(max(1, len(image[mid]) - 5 + 1))) for mid in mids}


def test_a_validation_batch_is_copied_once(tmp_path):
    """All snippets of its trailers in order, zeros behind a trailer's last clip."""
    folder = make_data(tmp_path / "data", trailers=9, clips=(50, 70), image=800, video=600)
    inputs = [divita.open_representation(folder, name) for name in ("shufflenet2d", "shufflenet3d")]
    mids, length = list(inputs[0].rows), 20
    snippets = divita.EvaluationSnippets(inputs, mids, np.eye(len(mids)), length, batch_size=4)
    batches = [snippets[i] for i in range(len(snippets))]
    for k, representation in enumerate(inputs):
        expected = []
        for mid in mids:
            clips = representation[mid]
            expected += [np.pad(clips, ((0, -len(clips) % length), (0, 0))).reshape(-1, length, clips.shape[1])]
        found = np.concatenate([x[k] for x, _ in batches])
        assert found.dtype == np.float32 and (found == np.concatenate(expected)).all()
    assert np.concatenate([y for _, y in batches]).argmax(1).tolist() == sum(
        ([i] * len(part) for i, part in enumerate(expected)), []
    )
    tracemalloc.start()
    x, _ = snippets[0]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.1 * sum(array.nbytes for array in x)


def test_each_epoch_has_each_trailer_once_in_an_order_set_by_the_seed(tmp_path, script, monkeypatch):
    """In the batches that Keras's fit gets: new order and starts in each epoch, the same for the same seed."""
    data = make_data(tmp_path / "data", trailers=33, clips=(18, 30))
    for path in data.glob("*/*.npy"):  # the first two features are the numbers of trailer and clip
        clips = np.load(path)
        clips[:, 0], clips[:, 1] = int(path.stem[2:]), np.arange(len(clips))
        write_vectors(path, clips)
    labels, image = divita.load_labels(data), divita.open_representation(data, "shufflenet2d")
    training, validation = (divita.subset(labels, 0, name).tolist() for name in ("train", "validation"))
    snippets = [row for row in validation for _ in range(-(-len(image[labels.mids[row]]) // 8))]
    seen, results = record_steps(monkeypatch), []
    for run, seed in (("first", 0), ("same", 0), ("other", 1)):
        seen.clear()
        options = ("--epochs", "3", "--batch-size", "4", "--clips", "8", "--splits", "0", "--seed", seed)
        result = script("02_train.py", "--data", data, "--runs", tmp_path / run, "--image", "shufflenet2d", *options)
        assert result.code == 0, result.err
        assert [name for name, _ in seen] == (["train"] * 3 + ["test"] * 3) * 3  # of 11 trailers each
        epochs = [np.concatenate([first for _, first in seen[i : i + 3]]) for i in (0, 6, 12)]  # (11, 2)
        assert all(sorted(epoch[:, 0]) == training for epoch in epochs)
        assert len({tuple(epoch[:, 0]) for epoch in epochs}) == 3
        assert len({tuple(epoch[np.argsort(epoch[:, 0]), 1]) for epoch in epochs}) == 3
        for i in (3, 9, 15):
            assert np.concatenate([first for _, first in seen[i : i + 3]])[:, 0].tolist() == snippets
        history = next((tmp_path / run).rglob("history.csv")).read_text()
        model = divita.load_model(next((tmp_path / run).rglob("model.keras")))
        results.append((np.concatenate(epochs).tolist(), history, [w.tobytes() for w in model.get_weights()]))
    assert results[0] == results[1] and not any(a == b for a, b in zip(results[0], results[2]))


def record_steps(monkeypatch):
    """Return a list that records of each step ("train" or "test", the first clip's first two features (B, 2))."""
    seen = []
    for name in ("train", "test"):
        step = getattr(keras.Model, f"{name}_step")

        def recording(model, batch, name=name, step=step):
            seen.append((name, np.asarray(batch[0][0])[:, 0, :2].astype(int)))
            return step(model, batch)

        monkeypatch.setattr(keras.Model, f"{name}_step", recording)
    return seen


CURVES = {  # validation loss over epochs
    "constant": [0.5] * 24,
    "falling by less than the threshold": [0.5 * (1 - 4e-6) ** i for i in range(24)],
    "noisy": (0.5 + 0.1 * np.random.default_rng(1).standard_normal(40)).tolist(),
    "improving, then flat": [*np.linspace(1, 0.5, 8), *[0.5] * 14],
    "flat, then improving": [*[0.5] * 12, *np.linspace(0.4, 0.2, 4), *[0.2] * 13],
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_learning_rate_is_that_of_pytorchs_scheduler(train, tmp_path, monkeypatch, curve):
    losses, rates = iter(curve), []

    def evaluate(model, **_):
        rates.append(float(model.optimizer.learning_rate))
        return {"loss": next(losses)}

    monkeypatch.setattr(keras.Model, "evaluate", evaluate)
    epochs = ("--epochs", str(len(curve)), "--batch-size", "99")
    assert train("--image", "shufflenet2d", "--splits", "0", "--lr", "0.01", *epochs).code == 0
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.01)
    scheduler, expected = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), []
    for loss in curve[: len(rates)]:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    assert len(set(expected)) > 1 and np.allclose(rates, expected, rtol=1e-6)
    assert [float(row["learning_rate"]) for row in history_of(tmp_path)] == pytest.approx(expected)


# ---- A trained head without this project ----

ALONE = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
try:
    import divita
    sys.exit("divita can be imported here")
except ImportError:
    pass
model = keras.models.load_model(sys.argv[1])
snippets = np.load(sys.argv[2])
assert [x.shape for x in model.inputs] == [(None, None, 8), (None, None, 6)], model.inputs
logits = model.predict([snippets["image"], snippets["video"]], verbose=0)
np.save(sys.argv[3], keras.ops.convert_to_numpy(keras.ops.sigmoid(logits)).mean(0))
"""


def test_plain_keras_loads_a_trained_head(script, data, tmp_path):
    """In a process that cannot import divita; the mean over a trailer's snippets equals predict_trailers()."""
    arguments = ("--data", data, "--runs", tmp_path / "runs", *QUICK, "--splits", "0")
    assert script("02_train.py", *arguments, "--image", "shufflenet2d", "--video", "shufflenet3d").code == 0
    file = next((tmp_path / "runs").rglob("model.keras"))
    clips = [divita.open_representation(data, name)["tt0003"] for name in ("shufflenet2d", "shufflenet3d")]
    image, video = (divita.evaluation_snippets(x, 5) for x in clips)
    np.savez(tmp_path / "snippets.npz", image=image, video=video)
    command = [sys.executable, "-c", ALONE, file, tmp_path / "snippets.npz", tmp_path / "found.npy"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = divita.predict_trailers(divita.load_model(file), [clips], 5)[0]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-6)


# ---- What identifies a run ----

ONE = ("--image", "shufflenet2d", "--splits", "0")
BOTH = (*ONE, "--video", "shufflenet3d")


def change_vectors(data):
    path = data / "shufflenet2d_shots_fps24_fpc24" / "tt0003.npy"
    write_vectors(path, np.load(path)[:, ::-1])


def change_column(name):
    def change(data):
        header, rows = divita.read_table(data / "labels.csv")
        column, cells = header.index(name), [row for _, row in rows]
        cells[0][column] = str(1 - int(cells[0][column]))
        divita.write_csv(data / "labels.csv", header, cells)

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (change_vectors, "other settings (image_data);"),
        (change_column("action"), "labels"),
        (change_column("split0"), "subsets"),
    ],
    ids=["vectors", "labels", "splits"],
)
def test_a_run_on_changed_data_is_rejected(train, data, change, words):
    assert train(*ONE).code == 0
    change(data)
    assert rejected(train(*ONE), "split0", words, "--overwrite")
    assert train(*ONE, "--overwrite").code == 0
    assert "1 finished" in train(*ONE).out


def test_moved_videos_keep_a_run_finished(train, data):
    assert train(*ONE).code == 0
    path = data / "shufflenet2d_shots_fps24_fpc24" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"videos": ["/elsewhere"]}))
    assert "1 finished" in train(*ONE).out


def test_splits_of_a_run_have_equal_settings(train, tmp_path):
    assert train(*ONE).code == 0
    second = ("--image", "shufflenet2d", "--splits", "1", "--lr", "0.01", "--seed", "5")
    assert rejected(train(*second), "split0", "other settings (lr, seed);")
    assert rejected(train(*second, "--overwrite"), "split0", "lr", "seed")
    assert [name[-6:] for name in runs(tmp_path)] == ["split0"]
    assert train(*second, "--splits", "0", "1", "--overwrite").code == 0
    assert [config_of(tmp_path, split)["seed"] for split in (0, 1)] == [5, 5]
    assert "1 finished" in train("--image", "shufflenet2d", "--lr", "0.01", "--seed", "5", "--splits", "1").out


# ---- Matching representations ----


def rewrite(data, **changes):
    """Rewrite the video representation, with changes for write_representation()."""
    video = divita.open_representation(data, "shufflenet3d")
    write_representation(data, "video", "shufflenet3d", {mid: np.array(video[mid]) for mid in video.rows}, **changes)


def test_vectors_of_different_videos_are_rejected(train, data):
    rewrite(data, video_digests={f"tt{i:04d}": "another video" for i in range(4, 8)})
    result = train(*BOTH)
    assert rejected(result, "shufflenet2d_shots", "shufflenet3d_shots", " have different videos of 4 trailers ")
    assert "(tt0004, tt0005, tt0006, ...)" in result.err
    assert "01_prepare.py --image shufflenet2d --video shufflenet3d and your earlier options" in result.err
    assert "tt0007" not in result.err
    assert train(*ONE).code == 0


def test_vectors_of_different_cuts_are_rejected(train, data):
    rewrite(data, detector="content")
    assert rejected(train(*BOTH), "shufflenet2d_shots", "shufflenet3d_shots", "detector adaptive", "content")


def test_vectors_of_different_clip_tables_are_rejected(train, data):
    path = data / "shufflenet3d_shots_fps24_fpc24" / "tt0005.npy"
    write_vectors(path, np.load(path), "the video tt0005", "other clips")
    assert rejected(train(*BOTH), "different clip tables of 1 trailers (tt0005)", "01_prepare.py")
    write_vectors(path, np.load(path))  # of unknown origin, which matches any
    assert train("--splits", "0").code == 0


# ---- Missing representations ----


@pytest.fixture
def videos(tmp_path):
    """A data folder with videos and with representations by tiny backbones at other than default options."""
    data = make_data(tmp_path / "my data", trailers=9)
    x = {mid: np.ones((4, 8)) for mid in divita.load_labels(data).mids}
    (data / "films").mkdir()
    for i, mid in enumerate(x):
        write_video(data / "films" / f"{mid}.mp4", (30, 40), seed=i)
    for kind, backbone, frames in (("image", "tiny2d", 2), ("video", "tiny3d", 24)):
        write_representation(
            data, kind, backbone, x, detector="content", frames=frames, digest=None, videos=[str(data / "films")]
        )
    return data


@pytest.mark.parametrize("experiment, commands, rows", [("segmentation", 1, 6), ("frame-rate", 3, 4)])
def test_the_printed_command_prepares_missing_representations(videos, tmp_path, script, experiment, commands, rows):
    """One clip setting at a time; the user adds videos and earlier options."""
    options = ("--image", "tiny2d", "--video", "tiny3d", "--experiment", experiment, "--splits", "0", *QUICK)
    arguments = ("02_train.py", "--data", videos, "--runs", tmp_path / "runs", *options)
    labels = (videos / "labels.csv").read_bytes()
    for _ in range(commands):
        result = script(*arguments)
        assert result.code == 0, result.err
        (command,) = re.findall(r"before: python 01_prepare.py (.*)$", result.out, re.MULTILINE)
        command = [str(videos / "films") if word == "DIR" else word for word in shlex.split(command)]
        as_before = ["--weights", "random", "--image-frames", "2", "--detector", "content"]
        assert Job(tmp_path / "log", *command, *as_before).end() == 0, (tmp_path / "log" / "err.txt").read_text()
    result = script(*arguments)
    assert result.code == 0 and "01_prepare.py" not in result.out, result.err
    assert len(json.loads((tmp_path / "runs" / f"{experiment}.json").read_text())["rows"]) == rows
    assert (videos / "labels.csv").read_bytes() == labels


def test_the_command_for_the_demo_has_no_videos_option(train, data):
    (data / "true_cuts.csv").touch()  # marks the demo's folder
    result = train("--splits", "0", "--experiment", "segmentation")
    command = (
        f"before: python 01_prepare.py --out {data} --image shufflenet2d --video shufflenet3d --segmentation seconds"
    )
    assert command in result.out, result.err


def test_without_the_standard_setting_one_common_setting_is_used(train, tmp_path, data):
    image = divita.open_representation(data, "shufflenet2d")
    x = {mid: np.array(image[mid]) for mid in image.rows}
    for path in divita.list_representations(data):
        shutil.rmtree(path)
    write_representation(data, "video", "shufflenet3d", x, segmentation="seconds")
    write_representation(data, "image", "shufflenet2d", x, fps=12)
    write_representation(data, "video", "shufflenet3d", x, fps=12)
    result = train("--splits", "0")
    assert result.code == 0, result.err
    assert len(runs(tmp_path)) == 3 and all("_shots_fps12_fpc24" in name for name in runs(tmp_path))


# ---- Bad data ----


@pytest.mark.parametrize(
    "scale, words", [(1e30, ("shufflenet2d_shots", "tt0000: a value of ")), (1, ("choose a lower --lr",))]
)
def test_a_loss_that_is_not_finite(train, data, scale, words):
    """The message names the vectors if they are huge, else the learning rate."""
    for path in (data / "shufflenet2d_shots_fps24_fpc24").glob("*.npy"):
        write_vectors(path, np.load(path) * scale)
    result = train(*ONE, "--lr", "1e30" if scale == 1 else "1e-4")
    (line,) = failures(result)
    assert result.code == (1 if scale == 1 else 2) and all(word in line for word in words), result.err
    assert scale == 1 or "--lr" not in result.err


def test_a_huge_value_in_a_test_trailer_is_an_error(train, data, tmp_path):
    """Before anything is written, even if other vectors were packed by an earlier training."""
    assert train(*ONE, "--epochs", "1").code == 0
    with np.load(next((tmp_path / "runs").rglob("predictions.npz"))) as predictions:
        mid = predictions["test_mids"][0]
    path = data / "shufflenet2d_shots_fps24_fpc24" / f"{mid}.npy"
    clips = np.load(path)
    clips[-1, 2] = -1e30
    write_vectors(path, clips)
    shutil.rmtree(tmp_path / "runs")
    assert rejected(train(*ONE), f"{path.with_suffix('')}: a value of 1e+30", "remove it or prepare or download it")
    assert not (tmp_path / "runs").exists()


def test_leaked_trailers_are_listed(train, data, tmp_path, script):
    """Two mids with the same vectors or video; one line for all runs."""
    with open(data / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    subsets = {x: [row["mid"] for row in rows if row["split0"] == str(i)] for i, x in enumerate(divita.SUBSETS)}
    (first, second, third), test, validation = subsets["train"][:3], subsets["test"][0], subsets["validation"][0]
    for folder in data.glob("*_fpc24"):
        shutil.copy(folder / f"{first}.npy", folder / f"{test}.npy")
    rewrite(data, video_digests={mid: "one film" for mid in (second, validation)})
    shutil.rmtree(data / "shufflenet2d_shots_fps24_fpc24")
    result = train("--splits", "0", "1")
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if "duplicate the vectors or video" in line]
    assert f"{test} as {first}" in line and f"{validation} as {second}" in line and third not in line
    assert config_of(tmp_path)["leaked"] == 2
    assert "1 runs, 1 finished" in train("--splits", "0").out
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert "Leakage: " in result.out


def test_no_leakage_no_warning(train, tmp_path):
    assert "duplicate the vectors or video" not in train(*ONE).out
    assert config_of(tmp_path)["leaked"] == 0


def damage_values(data, path):
    write_vectors(path, np.load(path) * 1e30)


def damage_vectors(data, path):
    write_vectors(path, np.load(path) * np.nan)


def damage_folder(data, path):
    for name in (f"{NAME}-clips5", f"shufflenet2d+{NAME}-clips5"):
        (data.parent / "runs" / name).mkdir(parents=True)
        (data.parent / "runs" / name / "split0").touch()


NAME = "shufflenet3d_shots_fps24_fpc24"


@pytest.mark.parametrize(
    "damage, reason, workers, torchrun, code",
    [
        (damage_values, "/tt0003: a value of ", 1, False, 1),
        (damage_values, "/tt0003: a value of ", 2, False, 1),
        (damage_values, "/tt0003: a value of ", 2, True, 0),
        (damage_vectors, "/tt0003: a value of nan", 1, False, 1),
        (damage_vectors, "/tt0003: a value of nan", 1, True, 0),
        (damage_folder, "split0: cannot be written to", 2, False, 1),
    ],
)
def test_a_failed_run_is_reported_and_the_others_are_trained(
    train, data, tmp_path, monkeypatch, damage, reason, workers, torchrun, code
):
    damage(data, data / NAME / "tt0003.npy")
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    result = train("--splits", "0", "--workers", workers)
    assert result.code == code, result.err
    lines = sorted(failures(result))
    names = f"shufflenet2d+{NAME}-clips5", f"{NAME}-clips5"
    assert len(lines) == 2 and all(line.startswith(name) for line, name in zip(lines, names)), lines
    assert all(reason in line for line in lines), lines
    assert runs(tmp_path) == ["shufflenet2d_shots_fps24_fpc24-clips5/split0"]


def test_a_split_without_validation_trailers_is_reported_and_the_others_are_trained(train, data, tmp_path):
    header, rows = divita.read_table(data / "labels.csv")
    for _, row in rows:
        row[-2] = "0" if row[-2] == "1" else row[-2]  # split1
    divita.write_csv(data / "labels.csv", header, [row for _, row in rows])
    result = train("--image", "shufflenet2d")
    assert result.code == 1 and "split1: failed: no usable trailers in the validation subset" in result.err
    assert [name[-6:] for name in runs(tmp_path)] == ["split0", "split2"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_message_names_the_batch_size(train, tmp_path, monkeypatch, error):
    step = keras.Model.train_step

    def lacking(model, batch):
        if len(model.inputs) == 2:
            raise error
        return step(model, batch)

    monkeypatch.setattr(keras.Model, "train_step", lacking)
    result = train("--splits", "0", "--workers", "2")
    assert result.code == 1 and len(runs(tmp_path)) == 2
    line = f"shufflenet2d+{NAME}-clips5/split0: failed: out of memory; use a smaller --batch-size or fewer --workers\n"
    assert line in result.err


def test_a_snippet_that_does_not_fit_into_memory(train):
    result = train(*ONE, "--clips", 10**11)
    assert result.code == 1 and "split0: failed: out of memory; use a smaller --batch-size" in result.err, result.err


def test_mids_without_leading_zeros_are_an_error(script, tmp_path):
    """A spreadsheet reads them as numbers."""
    mids = [f"0{i}1161" for i in range(1, 7)]
    rows = [[mid.lstrip("0"), i % 2, i % 3] for i, mid in enumerate(mids)]
    divita.write_csv(tmp_path / "labels.csv", ["mid", "drama", "split0"], rows)
    write_representation(tmp_path, "image", "shufflenet2d", {mid: np.ones((4, 3)) for mid in mids})
    result = script("02_train.py", "--data", tmp_path, "--runs", tmp_path / "runs")
    assert rejected(result, "6 mids of the labels lack leading zeros that the files have (11161, 21161, 31161, ...)")
    assert "save the mid column as text" in result.err


# ---- Parallel runs ----


def results(folder):
    """Return {path: content without times} of all runs in a folder."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        name = str(path.relative_to(folder))
        if path.name in ("predictions.npz", "history.csv"):
            found[name] = path.read_bytes()
        elif path.name == "model.keras":
            found[name] = [weights.tobytes() for weights in divita.load_model(path).get_weights()]
        elif path.name == "config.json":
            found[name] = json.loads(path.read_text()) | {"seconds": None}
    return found


def test_parallel_runs_give_the_same_bytes_and_messages(script, data, tmp_path):
    """Messages match the files of the runs, whatever the number of processes."""
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        result = script("02_train.py", "--data", data, "--runs", folder, *QUICK, "--splits", 1, "--workers", workers)
        assert result.code == 0 and "6/6" in result.err, result.err
        expected = set()
        for path in folder.rglob("config.json"):
            config, history = (
                json.loads(path.read_text()),
                divita.read_columns(path.with_name("history.csv"), ["val_loss"]),
            )
            with np.load(path.with_name("predictions.npz")) as file:
                uap = divita.compute_metrics(file["validation_true"], file["validation_probabilities"])["uAP"]
            best = f"best epoch {config['best_epoch']} of 2, validation loss {history['val_loss'].min():.4f}"
            expected.add(f"{config['run']}/split1: {best}, validation uAP {100 * uap:.2f} %")
        lines = result.out.splitlines()
        assert len(expected) == 3 and set(lines[2:5]) == expected and lines[5] == f"runs: {folder}"
        found.append(results(folder))
    assert len(found[0]) == 12 and found[0] == found[1]


def test_a_process_that_cannot_fork_to_train_trains_in_turn(train, tmp_path, monkeypatch):
    """As one that has trained before, with a CUDA build of PyTorch."""
    parent, backward = os.getpid(), torch.Tensor.backward

    def only_in_parent(*arguments, **keywords):
        if os.getpid() != parent:
            raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")
        return backward(*arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, "backward", only_in_parent)
    result = train("--splits", "0", "--workers", "2")
    assert result.code == 0 and len(runs(tmp_path)) == 3, result.err


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_early_shortens_the_bar(train, monkeypatch, workers):
    monkeypatch.setattr(keras.Model, "evaluate", lambda *_, **__: {"loss": 0.5})
    options = ("--image", "shufflenet2d", "--splits", "0", "1", "--epochs", "30", "--batch-size", "99")
    result = train(*options, "--workers", workers)
    assert result.code == 0 and result.out.count("best epoch 1 of 21,") == 2, result.err
    assert "42/42" in result.err.splitlines()[-1]


def begin(data, tmp_path, *options):
    """Start endless training next to a finished run; return the Job and two of its processes."""
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--image", "shufflenet2d", "--clips", "5", *options)
    job = Job(tmp_path / "log", *arguments, "--epochs", "1", name="02_train.py")
    assert job.end() == 0, job.text()
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--clips", "5", "--lr", "1e-9", "--epochs", 10**6)
    job = Job(tmp_path / "log", *arguments, "--video", "shufflenet3d", "--workers", "2", name="02_train.py")
    processes = job.workers(2)
    while "split1: loss" not in job.text() and "split0: loss" not in job.text():
        assert job.process.is_alive(), job.text()
    return job, processes


def alive(process):
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(open(f"/proc/{process}/cmdline").read())
    except FileNotFoundError:
        return False


def test_a_killed_process_ends_training_with_one_message(data, tmp_path):
    job, processes = begin(data, tmp_path, "--splits", "0")
    os.kill(processes[1], signal.SIGKILL)
    assert job.end() == 2
    last = job.text().splitlines()[-1]
    assert "terminated with signal SIGKILL; rerun, with fewer --workers if memory ran out" in last
    assert "Traceback" not in job.text() and "Terminating" not in job.text()
    assert not any(map(alive, processes))
    assert runs(tmp_path) == ["shufflenet2d_shots_fps24_fpc24-clips5/split0"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_processes_end_with_their_parent(data, tmp_path, how):
    job, processes = begin(data, tmp_path, "--splits", "0")
    os.kill(job.process.pid, how)
    assert job.end() == -how and "Traceback" not in job.text()
    end = time.monotonic() + 5
    while any(map(alive, processes)):
        assert time.monotonic() < end


@pytest.mark.parametrize("size, expected", [(None, 5), ("2", 2), ("100", 1), ("", 5), ("x", 5), ("0", 5)])
def test_usable_cores_are_shared_out_under_torchrun(script, train, tmp_path, monkeypatch, size, expected):
    """As many processes decode and train, if there is work for them."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(6):
        (videos / f"tt{i}.mp4").touch()
    counts = []

    def fail(*_, nprocs=None, num_workers=None, **__):
        counts.append(nprocs or num_workers)
        raise OSError("no process")

    monkeypatch.setattr(torch.Tensor, "backward", lambda _: None)  # as where no other test has trained before
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    if size is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
    assert divita.usable_cores() == expected
    with monkeypatch.context() as patch:
        patch.setattr(torch.utils.data, "DataLoader", fail)
        assert script("01_prepare.py", "--videos", videos, "--out", tmp_path / "out", *TINY).code == 2
    monkeypatch.setattr(torch.multiprocessing, "start_processes", fail)
    if expected > 1:  # one process trains by itself
        assert train("--splits", "0", "1").code == 2
    assert counts == [expected] * (1 + (expected > 1))


def test_a_process_that_cannot_start_is_an_error(train, monkeypatch):
    def fail():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    result = train("--splits", "0", "--workers", "2")
    assert result.code == 2 and result.err.splitlines()[-1].endswith("temporarily unavailable); use fewer --workers")


# ---- Messages ----


def test_the_bar_names_runs_and_is_hidden_without_any(train):
    aggregation = ("--image", "shufflenet2d", "--experiment", "aggregation", "--splits", "1")
    bar = train(*aggregation, "--workers", "1").err
    assert all(f"{name} split1: loss" in bar for name in divita.AGGREGATIONS)
    assert train(*aggregation).err == ""


def test_the_next_command_is_quoted(script, data, tmp_path):
    runs = tmp_path / "my runs"
    result = script("02_train.py", "--data", data, "--runs", runs, *ONE, *QUICK)
    assert shlex.split(result.out.partition("next: python ")[2])[1:3] == ["--runs", str(runs)]


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("--data", "nowhere"), "nowhere"),
        (("--image", "resnet50"), "resnet50"),
        (("--aggregation", "max"), "max"),
        (("--splits", "7"), "split7"),
        (("--clips", "-1"), "--clips"),
        (("--lr", "nan"), "--lr"),
        (("--experiment", "nothing"), "nothing"),
        (("--image", "none", "--video", "none"), "no representation"),
        (("--experiment", "fusion", "--image", "shufflenet2d"), "input missing"),
        (("--experiment", "frame-rate", "--image", "shufflenet2d"), "input missing"),
        (("--image", "shufflenet3d"), "use --video"),
        (("--video", "shufflenet2d_shots_fps24_fpc24"), "use --image"),
    ],
)
def test_user_errors(train, arguments, word):
    result = train(*arguments)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1


def test_an_unwritable_folder_is_an_error_before_the_work(script, tmp_path, data):
    (tmp_path / "file").touch()
    for name, option in (("01_prepare.py", "--out"), ("02_train.py", "--runs"), ("03_evaluate.py", "--out")):
        result = script(name, option, tmp_path / "file" / "below", *(["--data", data] if option == "--runs" else []))
        assert result.code == 2 and f"{tmp_path / 'file' / 'below'}: cannot be written to" in result.err
        assert result.err.count("\n") == 1


def test_stale_files_are_removed(train, tmp_path):
    (tmp_path / "runs").mkdir()
    ended = subprocess.Popen(["true"])  # a zombie
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for process in (999999999, ended.pid, os.getpid()):
        (tmp_path / "runs" / f"{divita.TEMPORARY}{process}@{divita.socket.gethostname()}@0.keras").touch()
    assert train("--image", "shufflenet2d", "--splits", "0").code == 0
    (left,) = (tmp_path / "runs").rglob(f"{divita.TEMPORARY}*")
    assert f"{divita.TEMPORARY}{os.getpid()}@" in left.name
    ended.wait()


def test_results_do_not_depend_on_threads_or_torchrun(train, data, tmp_path):
    """On a CPU, since one thread trains each run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert train("--image", "shufflenet2d", "--splits", "0", "1").code == 0
    torch.set_num_threads(threads)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", ROOT / "02_train.py"]
    command += ["--data", data, "--runs", tmp_path / "other", "--image", "shufflenet2d", "--splits", "0", "1", *QUICK]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = []
    for name in ("runs", "other"):
        files = sorted((tmp_path / name).rglob("predictions.npz"))
        found.append([np.load(file)["test_probabilities"].tobytes() for file in files])
    assert len(found[0]) == 2 and found[0] == found[1]
