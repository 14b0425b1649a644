"""02_train.py through its command line, and what it is made of in divita.py."""

import csv
import json
import shutil
import tarfile

import keras
import numpy as np
import pytest
from conftest import GENRES, REFERENCES, make_data, write_representation

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


def test_without_names_each_input_alone_and_both(train, tmp_path):
    result = train("--splits", "0", "2")
    assert result.code == 0, result.err
    names = ("shufflenet2d_shots_fps24_fpc24", "shufflenet3d_shots_fps24_fpc24")
    names += ("shufflenet2d+shufflenet3d_shots_fps24_fpc24",)
    assert runs(tmp_path) == sorted(f"{name}-clips5/split{split}" for name in names for split in (0, 2))
    folder = tmp_path / "runs" / f"{names[2]}-clips5" / "split2"
    config = json.loads((folder / "config.json").read_text())
    labels = divita.read_labels(tmp_path / "data" / "labels.csv")
    with np.load(folder / "predictions.npz") as predictions:
        assert predictions["genres"].tolist() == config["genres"] == list(GENRES)
        for name in ("validation", "test"):
            rows = divita.subset(labels, 2, name)
            assert predictions[f"{name}_mids"].tolist() == [labels.mids[row] for row in rows]
            assert (predictions[f"{name}_true"] == labels.y[rows]).all()
        model = keras.models.load_model(folder / "model.keras")
        inputs = [divita.open_representation(tmp_path / "data", config[kind]) for kind in ("image", "video")]
        again = divita.predict(model, [[x[mid] for x in inputs] for mid in predictions["test_mids"]], 5)
        assert np.allclose(again, predictions["test_probabilities"], atol=1e-6)
    with open(folder / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_training_learns(script, data, tmp_path):
    arguments = ("--data", data, "--runs", tmp_path / "runs", "--splits", "0", "--epochs", "30", "--lr", "0.003")
    assert script("02_train.py", *arguments, "--image", "shufflenet2d").code == 0
    with np.load(next((tmp_path / "runs").rglob("predictions.npz"))) as predictions:
        truth, probabilities = predictions["test_true"], predictions["test_probabilities"]
    assert divita.metrics(truth, probabilities)["uAP"] > truth.mean() + 0.2


def test_finished_run_is_skipped_and_another_configuration_refused(train, tmp_path):
    one = ("--image", "shufflenet2d", "--splits", "0")
    assert train(*one).code == 0
    config = next((tmp_path / "runs").rglob("config.json"))
    before = config.stat().st_mtime_ns
    assert "1 of them done already" in train(*one).out
    assert config.stat().st_mtime_ns == before
    refused = train(*one, "--lr", "0.01")
    assert refused.code == 2 and "lr" in refused.err and "split0" in refused.err and refused.err.count("\n") == 1
    assert train(*one, "--lr", "0.01", "--overwrite").code == 0
    assert json.loads(config.read_text())["lr"] == 0.01


def test_interrupted_run_is_trained_again_to_the_same_predictions(train, tmp_path):
    one = ("--video", "shufflenet3d", "--splits", "0")
    assert train(*one).code == 0
    folder = next((tmp_path / "runs").rglob("config.json")).parent
    first = dict(np.load(folder / "predictions.npz"))
    (folder / "config.json").unlink()  # what a run killed while it writes its last file leaves
    assert train(*one).code == 0
    assert all((first[name] == value).all() for name, value in np.load(folder / "predictions.npz").items())


def test_experiments_name_their_rows_and_what_is_missing(train, tmp_path, data):
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


def test_published_archives_are_read_as_they_lie(script, tmp_path):
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
    result = script("02_train.py", "--data", tmp_path / "data", *names, "--experiment", "segmentation")
    assert result.code == 2 and "prepare videos of your own" in result.err


def test_trailers_that_cannot_be_used_are_named_and_left_out(train, data):
    (data / "shufflenet2d_shots_fps24_fpc24" / "tt0003.npy").unlink()
    np.save(data / "shufflenet2d_shots_fps24_fpc24" / "tt0005.npy", np.zeros((99, 8), np.float32))
    result = train("--splits", "0")
    assert result.code == 0, result.err
    assert "1 not in every representation (tt0003); 1 with other numbers of clips in the two (tt0005)" in result.out


def test_labels_without_splits_get_three_beside_the_file(tmp_path, script):
    data = make_data(tmp_path / "data", trailers=40, splits=False)
    before = (data / "labels.csv").read_bytes()
    labels = divita.read_labels(data / "labels.csv")
    assert labels.splits.shape == (40, 3) and (data / "labels_splits.csv").exists()
    assert [np.bincount(split).tolist() for split in labels.splits.T] == [[28, 4, 8]] * 3
    assert (labels.splits == divita.read_labels(data / "labels.csv").splits).all()
    assert (data / "labels.csv").read_bytes() == before
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
    snippets = divita.TrainingSnippets([image], mids, np.zeros((len(mids), 3)), 5, len(mids), seed=0)
    starts = {mid: set() for mid in mids}
    for _ in range(100):
        (x,), _ = snippets[0]
        for snippet, row in zip(x, snippets.order):
            clips = image[mids[row]]
            start = next(i for i in range(len(clips)) if (clips[i] == snippet[0]).all())
            assert (snippet[: len(clips)] == clips[start : start + 5]).all() and not snippet[len(clips) :].any()
            starts[mids[row]].add(start)
        snippets.on_epoch_end()
    assert starts == {mid: set(range(max(1, len(image[mid]) - 5 + 1))) for mid in mids}


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
        (("--experiment", "fusion", "--image", "shufflenet2d"), "both inputs"),
    ],
)
def test_user_errors(train, arguments, word):
    result = train(*arguments)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1


def test_whole_folder_is_left_clean(train, tmp_path):
    shutil.copy(tmp_path / "data" / "labels.csv", tmp_path / "data" / ".tmp-elsewhere-1-labels.csv")
    (tmp_path / "runs").mkdir()
    stale = tmp_path / "runs" / f".tmp-{divita.socket.gethostname()}-999999999-model.keras"
    stale.write_bytes(b"")
    assert train("--image", "shufflenet2d", "--splits", "0").code == 0
    assert not list((tmp_path / "runs").rglob(".tmp-*"))
