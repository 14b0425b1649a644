"""03_evaluate.py through its command line, on hand-made runs and on tiny trained ones."""

import csv
import json
import re
import runpy
import shutil
import warnings

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT, make_data, write_representation
from sklearn.metrics import auc, precision_recall_curve

import divita

GENRES = ["action", "comedy", "drama", "horror"]
COLUMNS = "run image video aggregation fusion splits uAP uAP_std mAP mAP_std wAP wAP_std sAP sAP_std".split()


@pytest.fixture(scope="module")
def evaluate():
    """The functions of the script."""
    return runpy.run_path(str(ROOT / "03_evaluate.py"))


def made_by(backbone, kind="image", **changes):
    """Return the meta.json of a representation that was never made."""
    setting = {"segmentation": "shots", "fps": 24.0, "frames_per_clip": 24, "frames": 24} | changes
    name = divita.representation_name(backbone, setting["segmentation"], setting["fps"], setting["frames_per_clip"])
    cost = {"parameters": 1_000_000, "macs_per_clip": 2_000_000_000}
    return {"representation": name, "input": kind, "backbone": backbone, "weights": "pretrained"} | cost | setting


def make_run(runs, name, image=None, video=None, signal=0.5, splits=(0, 1, 2), genres=GENRES, trailers=30, **changes):
    """Write a finished run with probabilities of noise and `signal` times the truth; image, video: a meta or a name."""
    for split in splits:
        y = np.random.default_rng(split).random((trailers, len(genres))) < 0.4
        y[:2] = 1
        noise = np.random.default_rng(sum(map(ord, name)) + split).random(y.shape)
        config = {"format": 1, "run": name, "aggregation": "tsfm", "fusion": "late" if image and video else None}
        config |= {"clips": 30, "snippet_clips": 30, "split": split, "genres": genres}
        for kind, made in (("image", image), ("video", video)):
            config[kind] = made["representation"] if isinstance(made, dict) else made
            if made:
                config |= {f"{kind}_features": 8, f"{kind}_meta": made if isinstance(made, dict) else None}
        folder = runs / name / f"split{split}"
        folder.mkdir(parents=True)
        predictions = {"true": y.astype(np.uint8), "probabilities": np.float32((noise + signal * y) / (1 + signal))}
        predictions |= {"mids": [f"tt{split}{i:03d}" for i in range(trailers)]}
        predictions |= {key: changes.pop(key) for key in list(predictions) if key in changes}
        np.savez(folder / "predictions.npz", genres=genres, **{f"test_{key}": x for key, x in predictions.items()})
        losses = [f"{epoch},{1 / epoch:.3f},{0.5 + 0.05 * abs(epoch - 4):.3f},0.0001" for epoch in range(1, 8)]
        (folder / "history.csv").write_text("\n".join(["epoch,loss,val_loss,learning_rate", *losses, ""]))
        (folder / "config.json").write_text(json.dumps(config | changes))
    return runs / name


def make_three(runs, **changes):
    """Write a run on images, one on video and one on both."""
    image, video = made_by("efficientnetlite_b0"), made_by("shufflenet3d", "video", weights="random")
    make_run(runs, "image_shots_fps24_fpc24", image=image, signal=0.4, **changes)
    make_run(runs, "video_shots_fps24_fpc24", video=video, signal=0.3, **changes)
    make_run(runs, "image+video_shots_fps24_fpc24", image=image, video=video, signal=0.9, **changes)
    return runs


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- Tables and figures ----


def test_tables_and_figures(script, tmp_path):
    runs, out = make_three(tmp_path / "runs"), tmp_path / "out"
    result = script("03_evaluate.py", "--runs", runs, "--out", out)
    assert (result.code, [line for line in result.err.splitlines() if "error" in line]) == (0, []), result.err
    assert "--out data/new --image efficientnetlite_b0 --video none\n" in result.out  # prepared as the best run was
    assert "--out data/new --video shufflenet3d --image none --weights random\n" in result.out
    rows = read_csv(out / "table.csv")
    assert list(rows[0]) == [*COLUMNS, *GENRES, "parameters", "gmacs"]
    assert [row["run"].partition("_")[0] for row in rows] == ["image+video", "image", "video"]  # best first
    for row in rows:
        scores = []
        for split in range(3):
            file = np.load(runs / row["run"] / f"split{split}" / "predictions.npz")
            found = divita.metrics(file["test_true"], file["test_probabilities"])
            scores.append([*(found[name] for name in divita.METRICS), *found["per_genre"]])
        mean, deviation = 100 * np.mean(scores, 0), 100 * np.std(scores, 0, ddof=1)
        ours = [float(row[name]) for name in (*divita.METRICS, *GENRES)]
        np.testing.assert_allclose(ours, mean, atol=1e-4)
        np.testing.assert_allclose([float(row[f"{name}_std"]) for name in divita.METRICS], deviation[:4], atol=1e-4)
        assert row["splits"] == "0 1 2"
    both = rows[0]
    model = divita.divita({"image": 8, "video": 8}, len(GENRES))
    assert int(both["parameters"]) == 2_000_000 + divita.cost(model, (1, 30, 8), (1, 30, 8))[0]
    assert 4 < float(both["gmacs"]) < 4.1
    markdown = (out / "table.md").read_text(encoding="utf-8")
    assert markdown.strip() in result.out
    assert f"**{float(both['uAP']):.2f} ± {float(both['uAP_std']):.2f}**" in markdown
    assert float(re.search(r"chance +\| +([\d.]+)", markdown)[1]) < float(rows[2]["uAP"])
    assert "Random weights, not pretrained: shufflenet3d." in markdown and "Not the paper's data" in markdown
    latex = (out / "table.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == markdown.count("## ")
    assert r"image+video\_shots\_fps24\_fpc24" in latex and not re.search(r"(?<!\\)[_%#]", latex)
    for name in ("precision_recall", "training", "cost", "genres", "cooccurrence"):
        assert cv2.imread(str(out / f"{name}.png")).shape[1] >= 1400
    assert len(list(out.iterdir())) == 8
    assert str(out) in result.out and "--predict" in result.out.splitlines()[-1]


def test_one_split_a_lacking_genre_and_odd_genres(script, tmp_path):
    """No NaN anywhere, whatever the genres are called; one line says which genre lacks a positive."""
    genres = ["a_b", "50%", "x|y", "$z"]
    true = np.tile([[1, 0, 0, 1], [0, 0, 1, 1]], (15, 1)).astype(np.uint8)
    true[3] = [1, 0, 1, 0]
    make_run(tmp_path / "runs", "one", image=made_by("shufflenet2d"), splits=[2], genres=genres, true=true)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert [line for line in result.out.splitlines() if line.startswith("no test trailer is of 50% in split 2")]
    (row,) = read_csv(tmp_path / "out" / "table.csv")
    assert (row["uAP_std"], row["50%"], row["splits"]) == ("", "", "2")
    for name in ("table.md", "table.tex", "table.csv"):
        assert "nan" not in (tmp_path / "out" / name).read_text(encoding="utf-8").lower()


def test_synthetic_trailers_are_called_so(script, tmp_path):
    make_run(tmp_path / "runs", "one", image=made_by("shufflenet2d"), splits=[0])
    divita.write_text(tmp_path / "data" / "true_cuts.csv", "mid,frame\n")
    arguments = ("--runs", tmp_path / "runs", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert "synthetic" in script("03_evaluate.py", *arguments).out


def test_experiment_and_claims_beside_the_paper(script, tmp_path):
    runs = tmp_path / "runs"
    image, video = "trailers_i_shufflenet_fpc24.zarr", "trailers_k_shufflenet_fps24_fpc24.zarr"
    make_run(runs, "i", image=image, signal=0.5)
    make_run(runs, "k", video=video, signal=0.4)
    make_run(runs, "ik", image=image, video=video, signal=0.9)
    labels = {"ShuffleNet-2D": "i", "ShuffleNet-3D": "k", "ShuffleNet fusion": "ik", "Swin-3D": "swin", "other": "ik"}
    rows = [{"label": label, "run": run} for label, run in labels.items()]
    divita.write_text(runs / "transfer.json", json.dumps({"format": 1, "experiment": "transfer", "rows": rows}))
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    table = {row["run"]: row for row in read_csv(tmp_path / "out" / "table.csv")}
    lines = [
        line.split("|")[1:-1] for line in result.out.split("## Experiment: transfer")[1].splitlines() if "|" in line
    ]
    cells = {line[0].strip(): [cell.strip(" *") for cell in line[1:]] for line in lines}
    assert cells["ShuffleNet-2D"][1] == "71.69 ± 0.44" and cells["Swin-3D"][:3] == ["–", "75.71 ± 2.43", "–"]
    assert float(cells["ShuffleNet-3D"][2]) == pytest.approx(float(table["k"]["uAP"]) - 63.43, abs=0.011)
    assert cells["other"][1] == "–" and "Not trained yet: Swin-3D." in result.out
    head = divita.cost(divita.divita({"image": 8, "video": 8}, len(GENRES)), (1, 30, 8), (1, 30, 8))[0]
    assert int(table["ik"]["parameters"]) == 1_253_604 + 1_299_180 + head
    gain = float(table["ik"]["uAP"]) - max(float(table[run]["uAP"]) for run in ("i", "k"))
    assert f"| {gain:+.2f} points" in result.out
    assert result.out.count("missing: ") == 3 and "missing: swin3d" in result.out
    assert "Trained on the published representations" in result.out and "Not the paper's data" not in result.out


def test_claims_of_segmentation_and_lightweight_networks(script, tmp_path):
    runs = tmp_path / "runs"
    for kind in ("image", "video"):
        for segmentation, signal in (("shots", 0.9), ("seconds", 0.2)):
            meta = made_by("shufflenet2d" if kind == "image" else "shufflenet3d", kind, segmentation=segmentation)
            make_run(runs, f"{kind}_{segmentation}", **{kind: meta}, signal=signal)
    both = {"image": made_by("shufflenet2d"), "video": made_by("shufflenet3d", "video")}
    make_run(runs, "both", **both)
    make_run(runs, "top", video=made_by("swin3d", "video", parameters=20_000_000, macs_per_clip=10**11), signal=2)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out", "--compare", "both", "top")
    assert result.code == 0, result.err
    assert "missing" not in result.out
    for kind in ("image", "video"):
        assert f"{kind}_shots against {kind}_seconds" in result.out
    share = re.search(r"both against top; ([\d.]+) % of the parameters, ([\d.]+) % of the multiply-adds", result.out)
    table = {row["run"]: row for row in read_csv(tmp_path / "out" / "table.csv")}
    for column, value in zip(("parameters", "gmacs"), share.groups()):
        ratio = float(table["both"][column]) / float(table["top"][column])
        assert float(value) == pytest.approx(100 * ratio, abs=0.01)
    assert "A: both. B: top." in result.out


# ---- Metrics of resamples ----


def by_scikit_learn(true, probabilities):
    """Return METRICS in percent."""

    def area(true, score):
        precision, recall, _ = precision_recall_curve(true, score)
        return auc(recall, precision)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        per_genre = [area(t, p) for t, p in zip(true.T, probabilities.T)]
        per_trailer = [area(t, p) for t, p in zip(true, probabilities)]
        micro = area(true.ravel(), probabilities.ravel())
    values = [micro, np.mean(per_genre), np.average(per_genre, weights=true.sum(0)), np.mean(per_trailer)]
    return 100 * np.array(values)


@pytest.mark.parametrize("decimals", [1, 2, 7])  # few decimals: many equal scores
def test_weighted_metrics_are_scikit_learns_of_repeated_trailers(evaluate, decimals):
    rng = np.random.default_rng(decimals)
    true = (rng.random((40, 5)) < 0.3).astype(np.uint8)
    true[:3], true[:, 4] = 0, 0  # trailers and a genre without a positive
    probabilities = np.round(rng.random(true.shape), decimals).astype(np.float32)
    weights = rng.multinomial(40, np.full(40, 1 / 40), 20)
    found = evaluate["weighted_metrics"](true, probabilities, weights)
    for row, weight in zip(found, weights):
        rows = np.repeat(np.arange(40), weight)
        np.testing.assert_allclose(row[:4], by_scikit_learn(true[rows], probabilities[rows]), rtol=1e-12)


def test_bootstrap(evaluate, tmp_path):
    """The same run twice differs by nothing; a better one by more than nothing; the same seed, the same interval."""
    for name, signal in (("a", 0.9), ("b", 0.3)):
        make_run(tmp_path, name, image=made_by("shufflenet2d"), signal=signal, trailers=100)
    a, b = (evaluate["find_run"](evaluate["read_runs"](tmp_path), name) for name in "ab")
    values, note = evaluate["bootstrap"](a, b)
    assert "300 test trailers of splits 0, 1, 2" in note
    np.testing.assert_allclose(values[:, 0], a.scores[:, :4].mean(0))
    np.testing.assert_allclose(values[:, 2], values[:, 0] - values[:, 1])
    assert (0 < values[:, 3]).all() and (values[:, 3] < values[:, 2]).all() and (values[:, 2] < values[:, 4]).all()
    assert (evaluate["bootstrap"](a, b)[0] == values).all()
    assert (evaluate["bootstrap"](a, a)[0][:, 2:] == 0).all()


def test_bootstrap_pairs_trailers_by_name(evaluate, tmp_path):
    """Runs that left out different trailers, in another order, are compared on those that both have."""
    for name in "ab":
        make_run(tmp_path, name, image=made_by("shufflenet2d"), splits=[0])
    a, b = (evaluate["find_run"](evaluate["read_runs"](tmp_path), name) for name in "ab")
    mids, true, probabilities = a.tests["0"]
    order = np.random.default_rng(0).permutation(30)[:20]
    a.tests["0"] = [mids[i] for i in order], true[order], probabilities[order]
    values, note = evaluate["bootstrap"](a, b)
    order = np.sort(order)
    assert "20 test trailers" in note
    np.testing.assert_allclose(values[:, 1], by_scikit_learn(true[order], b.tests["0"][2][order]))


# ---- What a user can get wrong ----


def nothing(runs):
    shutil.rmtree(runs)


def unfinished(runs):
    for path in runs.glob("*/*/config.json"):
        path.unlink()


def other_genres(runs):
    make_run(runs, "other", image=made_by("shufflenet2d"), genres=["x", "y"])


def nan(runs):
    make_run(runs, "diverged", image=made_by("shufflenet2d"), probabilities=np.full((30, 4), np.nan))


def pickled(runs):
    path = next(runs.glob("*/split0/predictions.npz"))
    np.savez(path, genres=np.array(GENRES, object), test_mids=[], test_true=[], test_probabilities=[])


def spoil(name, text):
    def change(runs):
        next(runs.glob(f"*/split0/{name}")).write_text(text)

    return change


def aggregation_gone(runs):
    path = next(runs.glob("*/split0/config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"aggregation": "smax"}))


def experiment(text):
    return lambda runs: (runs / "fusion.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (nothing, [], "no finished run there; train first: python 02_train.py"),
        (unfinished, [], "no finished run there"),
        (other_genres, [], "have other genres"),
        (nan, [], "holds NaN"),
        (pickled, [], "predictions.npz: cannot be read"),
        (spoil("predictions.npz", "PK"), [], "predictions.npz: cannot be read"),
        (spoil("config.json", "{"), [], "config.json: cannot be read as JSON"),
        (spoil("config.json", '{"format": 0}'), [], "not of format 1"),
        (spoil("config.json", '{"format": 1}'), [], "config.json: does not say aggregation, clips"),
        (aggregation_gone, [], "no aggregation is called 'smax'; there is "),
        (spoil("history.csv", "epoch,loss\n1,x\n"), [], "history.csv: cannot be read"),
        (experiment("{}"), [], "not of format 1"),
        (experiment('{"format": 1, "rows": [1]}'), [], "does not list runs"),
        (None, ["--compare", "image_shots_fps24_fpc24", "nix"], "no finished run is called nix; there is image+video"),
        (None, ["--compare", "a"], "expected 2 arguments"),
        (None, ["--predict", "x"], "--predict and --run go together"),
        (None, ["--predict", "x", "--run", "nix"], "no trained run nix; there is image+video"),
        (None, ["--predict", "x", "--run", "image_shots_fps24_fpc24"], "model.keras: not a whole Keras model"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_errors_are_one_line(script, tmp_path, change, arguments, said):
    runs = make_three(tmp_path / "runs", splits=[0])
    if change:
        change(runs)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out", *arguments)
    line = result.err.replace("\r", "\n").strip().splitlines()[-1]
    assert result.code == 2 and line.startswith("03_evaluate.py: error: ") and said in line, result.err
    assert "Traceback" not in result.err and not (tmp_path / "out").exists()


def test_an_unfinished_split_is_named_and_left_out(evaluate, tmp_path, capsys):
    folder = make_run(tmp_path, "run", image=made_by("shufflenet2d"))
    (folder / "split1" / "config.json").unlink()
    (run,) = evaluate["read_runs"](tmp_path)
    assert list(run.tests) == ["0", "2"]
    assert "not finished, left out: run/split1" in capsys.readouterr().out


# ---- New trailers ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder and tiny runs on it, trained by 02_train.py."""
    folder = tmp_path_factory.mktemp("trained")
    make_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--data", folder / "data", "--runs", folder / "runs", "--epochs", "1", "--splits", "0", "1"]
        patch.setattr("sys.argv", ["02_train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "02_train.py"), run_name="__main__")
    assert not end.value.code
    return folder


def make_new(folder, lengths, width=8, **changes):
    """Write a prepared folder without labels, its clip tables and a video of each trailer but the last."""
    rng = np.random.default_rng(1)
    for kind, backbone, features in (("image", "shufflenet2d", width), ("video", "shufflenet3d", 6)):
        x = {mid: rng.standard_normal((count, features)) for mid, count in lengths.items()}
        path = write_representation(folder, kind, backbone, x)
        meta = divita.read_json(path / "meta.json") | changes
        divita.write_text(path / "meta.json", json.dumps(meta))
    for mid, count in lengths.items():
        rows = [[i, i // 3, 24 * i, 24 * i + 24, float(i), i + 1.0] for i in range(count)]
        header = ["clip", "shot", "start_frame", "end_frame", "start_s", "end_s"]
        divita.write_csv(folder / "shots" / f"{mid}.csv", header, rows)
    (folder / "videos").mkdir()
    for mid in list(lengths)[:-1]:
        video = cv2.VideoWriter(str(folder / "videos" / f"{mid}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48))
        for i in range(24 * lengths[mid]):
            video.write(np.full((48, 64, 3), i % 256, np.uint8))
        video.release()
    return folder


def test_predict(script, trained, tmp_path):
    """The mean of the splits' models by the paper's protocol, whatever the trailers' lengths; a figure each."""
    new = make_new(tmp_path / "new", {"one": 1, "short": 7, "long $x_1$": 70})
    run = "shufflenet2d+shufflenet3d_shots_fps24_fpc24"
    arguments = ("--runs", trained / "runs", "--run", run, "--predict", new, "--out", tmp_path / "out")
    result = script("03_evaluate.py", *arguments)
    assert result.code == 0, result.err
    models = [keras.models.load_model(path) for path in sorted((trained / "runs" / run).glob("*/model.keras"))]
    assert len(models) == 2
    rows = {row["mid"]: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    assert list(rows) == ["long $x_1$", "one", "short"]
    for mid, row in rows.items():
        names = ("shufflenet2d_shots_fps24_fpc24", "shufflenet3d_shots_fps24_fpc24")
        clips = [np.load(new / name / f"{mid}.npy") for name in names]
        expected = np.mean([divita.predict(model, [clips], 30)[0] for model in models], 0)
        np.testing.assert_allclose([float(row[genre]) for genre in ("action", "comedy", "drama")], expected, atol=1e-4)
        height = cv2.imread(str(tmp_path / "out" / f"genres_of_{mid}.png")).shape[0]
        assert height == (302 if mid == "long $x_1$" else 372)  # with a strip of shots where there is a video
        (line,) = [line for line in result.out.splitlines() if line.startswith(f"{mid}: ")]
        assert f"{expected.max():.2f}" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fps": 12.0}, "fps 12.0, not 24.0"),
        ({"segmentation": "seconds"}, "segmentation seconds, not shots"),
        ({"digest": "sha256:1"}, "digest sha256:1, not sha256:0"),
        ({"frames": 1, "detector": "content"}, "detector content, not adaptive; frames 1, not 24"),
        ({"width": 5}, "5 features, not 8 as the run's"),
        ({"backbone": "r2plus1d"}, "no representation by shufflenet2d there; make it with: python 01_prepare.py"),
    ],
)
def test_predict_refuses_what_was_made_otherwise(script, trained, tmp_path, changes, said):
    new = make_new(tmp_path / "new", {"one": 1}, **changes)
    run = "shufflenet2d+shufflenet3d_shots_fps24_fpc24"
    result = script("03_evaluate.py", "--runs", trained / "runs", "--run", run, "--predict", new, "--out", tmp_path)
    assert result.code == 2 and said in result.err.splitlines()[-1]


def test_tables_of_trained_runs(script, trained, tmp_path):
    result = script("03_evaluate.py", "--runs", trained / "runs", "--data", trained / "data", "--out", tmp_path)
    assert result.code == 0, result.err
    assert len(read_csv(tmp_path / "table.csv")) == 3


@pytest.mark.parametrize("clips", [1, 2, 5, 30, 75, 200])
def test_overlapping_snippets(evaluate, clips):
    x = np.arange(1.0, clips + 1)[:, None]
    snippets = evaluate["overlapping"](x, 30)
    width = min(30, max(1, clips // 4))
    assert len(snippets) == clips - width + 1
    for start in (0, len(snippets) - 1):
        assert (snippets[start, :width] == x[start : start + width]).all() and not snippets[start, width:].any()
    assert snippets.shape[1] == width + (round(width * (30 - clips) / clips) if clips < 30 else 0)
