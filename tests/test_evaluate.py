"""03_evaluate.py through its command line, on hand-made runs and on tiny trained ones."""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings

import cv2
import keras
import matplotlib
import numpy as np
import pytest
from conftest import ROOT, make_data, write_representation
from sklearn.metrics import auc, average_precision_score, precision_recall_curve

import divita

GENRES = ["action", "comedy", "drama", "horror"]
PAPER = "action adventure comedy crime drama fantasy horror romance sci-fi thriller".split()
COLUMNS = "run image video aggregation fusion splits uAP uAP_std mAP mAP_std wAP wAP_std sAP sAP_std".split()


@pytest.fixture(scope="module")
def evaluate():
    """The global names of 03_evaluate.py."""
    return runpy.run_path(str(ROOT / "03_evaluate.py"))


def make_meta(backbone, input_name="image", **changes):
    """Return the metadata of a representation without vectors."""
    setting = {"segmentation": "shots", "fps": 24.0, "frames_per_clip": 24, "frames": 24, "precision": "float32"}
    setting |= {"detector": "adaptive", "weights": "pretrained", "digest": f"sha256:{backbone}"} | changes
    if setting["segmentation"] == "seconds":
        setting["detector"] = None
    name = divita.representation_name(backbone, setting["segmentation"], setting["fps"], setting["frames_per_clip"])
    cost = {"parameters": 1_000_000, "macs_per_clip": 2_000_000_000}
    return {"format": 1, "representation": name, "input": input_name, "backbone": backbone} | cost | setting


def make_run(runs, run, image=None, video=None, signal=0.5, splits=(0, 1, 2), genres=GENRES, trailers=30, **changes):
    """Write a finished run with probabilities of noise and `signal` times the truth; image, video: a meta or a name.

    changes: fields of config.json; mids, true or probabilities of the test subset; or `validation`, the signal of the
    validation subset.
    """
    validation = changes.pop("validation", signal)
    test_arrays = {key: changes.pop(key) for key in ("mids", "true", "probabilities") if key in changes}
    for split in splits:
        predictions = {"genres": genres, "train_mids": [f"train{split}{i:03d}" for i in range(trailers)]}
        for subset, strength in (("validation", validation), ("test", signal)):
            y = np.random.default_rng(split).random((trailers, len(genres))) < 0.4
            y[:2] = 1
            noise = np.random.default_rng(sum(map(ord, run)) + split).random(y.shape)
            found = {"mids": [f"{subset[:2]}{split}{i:03d}" for i in range(trailers)], "true": y.astype(np.uint8)}
            found["probabilities"] = np.float32((noise + strength * y) / (1 + strength))
            found |= test_arrays if subset == "test" else {}
            predictions |= {f"{subset}_{key}": values for key, values in found.items()}
        config = {"format": 1, "run": run, "aggregation": "tsfm", "fusion": "late" if image and video else None}
        config |= {"clips": 30, "snippet_clips": 30, "split": split, "genres": genres, "epochs": 7, "lr": 1e-4}
        config |= {"batch_size": 32, "seed": 0, "labels": "0", "subsets": f"{split}"}
        for name, meta in (("image", image), ("video", video)):
            config[name] = meta["representation"] if isinstance(meta, dict) else meta
            if meta:
                config |= {f"{name}_features": 8, f"{name}_meta": meta if isinstance(meta, dict) else None}
        folder = runs / run / f"split{split}"
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **predictions)
        losses = [f"{epoch},{1 / epoch:.3f},{0.5 + 0.05 * abs(epoch - 4):.3f},0.0001" for epoch in range(1, 8)]
        (folder / "history.csv").write_text("\n".join(["epoch,loss,val_loss,learning_rate", *losses, ""]))
        (folder / "config.json").write_text(json.dumps(config | changes))
    return runs / run


def make_three(runs, **changes):
    """Write an image, a video and a fusion run."""
    image, video = make_meta("efficientnetlite_b0"), make_meta("shufflenet3d", "video", weights="random")
    make_run(runs, "image_shots_fps24_fpc24", image=image, signal=0.4, **changes)
    make_run(runs, "video_shots_fps24_fpc24", video=video, signal=0.3, **changes)
    make_run(runs, "image+video_shots_fps24_fpc24", image=image, video=video, signal=0.9, **changes)
    return runs


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- Tables and figures ----


def test_tables_and_figures(script, tmp_path):
    genres = GENRES[:2]
    runs, out = make_three(tmp_path / "the runs", splits=(0, 1), genres=genres), tmp_path / "out"
    result = script("03_evaluate.py", "--runs", runs, "--out", out)
    assert (result.code, [line for line in result.err.splitlines() if "error" in line]) == (0, []), result.err
    rows = read_csv(out / "table.csv")
    assert list(rows[0]) == [*COLUMNS, *genres, "parameters", "gmacs"]
    assert [row["run"].partition("_")[0] for row in rows] == ["image+video", "image", "video"]  # best first
    for row in rows:
        scores = []
        for split in range(2):
            file = np.load(runs / row["run"] / f"split{split}" / "predictions.npz")
            found = divita.compute_metrics(file["test_true"], file["test_probabilities"])
            scores.append([*(found[name] for name in divita.METRICS), *found["per_genre"]])
        mean, deviation = 100 * np.mean(scores, 0), 100 * np.std(scores, 0, ddof=1)
        ours = [float(row[name]) for name in (*divita.METRICS, *genres)]
        np.testing.assert_allclose(ours, mean, atol=1e-4)
        np.testing.assert_allclose([float(row[f"{name}_std"]) for name in divita.METRICS], deviation[:4], atol=1e-4)
        assert row["splits"] == "0 1"
    both = rows[0]
    model = divita.divita({"image": 8, "video": 8}, len(genres))
    assert int(both["parameters"]) == 2_000_000 + divita.model_cost(model, (1, 30, 8), (1, 30, 8))[0]
    assert 4 < float(both["gmacs"]) < 4.1
    markdown = (out / "table.md").read_text(encoding="utf-8")
    assert markdown.strip() in result.out
    assert f"**{float(both['uAP']):.2f} ± {float(both['uAP_std']):.2f}**" in markdown
    assert "Random weights, not pretrained: shufflenet3d." in markdown
    assert "Synthetic" not in markdown
    assert "A: image+video_shots_fps24_fpc24. B: image_shots_fps24_fpc24. Paired bootstrap" in markdown
    latex = (out / "table.tex").read_text(encoding="utf-8")
    assert re.findall(r"\\caption{(.*)}", latex) == ["All runs.", "Genres.", "Two runs, trailer by trailer."]
    assert re.search(r"\\end{tabular}\n\\par\\footnotesize\n.*Random weights.*\n\\end{table}", latex)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == markdown.count("## ")
    assert r"image+video\_shots\_fps24\_fpc24" in latex and not re.search(r"(?<!\\)[_%#]", latex)
    for name in ("precision_recall", "training", "cost", "genres"):
        assert cv2.imread(str(out / f"{name}.png")).shape[1] == 1400
    assert len(list(out.iterdir())) == 7
    command = shlex.split(result.out.splitlines()[-1].partition(": ")[2])
    assert command == [*("python", "03_evaluate.py", "--runs", str(runs), "--predict", "VIDEO", "--run", both["run"])]


def test_one_split_a_missing_genre_and_special_characters(script, tmp_path):
    """No NaN in any table, whatever the genres; mAP is without the genre that has no test trailer."""
    genres = ["a_b", "50%", "x|y", "$z"]
    true = np.tile([[1, 0, 0, 1], [0, 0, 1, 1]], (15, 1)).astype(np.uint8)
    true[3], true[7] = [1, 0, 1, 0], 0
    make_run(tmp_path / "runs", "one", image=make_meta("shufflenet2d"), splits=[2], genres=genres, true=true)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    (row,) = read_csv(tmp_path / "out" / "table.csv")
    assert (row["uAP_std"], row["50%"], row["splits"]) == ("", "", "2")
    assert float(row["mAP"]) == pytest.approx(np.mean([float(row[genre]) for genre in genres if genre != "50%"]))
    for name in ("table.md", "table.tex", "table.csv"):
        assert "nan" not in (tmp_path / "out" / name).read_text(encoding="utf-8").lower()


def test_a_split_without_any_positive_is_skipped(script, tmp_path):
    none = np.zeros((30, 4), np.uint8)
    runs = tmp_path / "runs"
    make_run(runs, "one", image=make_meta("shufflenet2d"), splits=[0])
    make_run(runs, "one", image=make_meta("shufflenet2d"), splits=[1], true=none)
    make_run(runs, "none", image=make_meta("shufflenet2d"), splits=[0], true=none)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "none skipped: no test trailer has a genre" in result.out
    assert [(row["run"], row["splits"]) for row in read_csv(tmp_path / "out" / "table.csv")] == [("one", "0")]


def test_synthetic_trailers_are_noted(script, tmp_path):
    """By the runs' metadata, whatever the name of the data folder."""
    make_run(tmp_path / "runs", "one", image=make_meta("shufflenet2d", synthetic=True), splits=[0])
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert "Synthetic demo trailers: these scores say nothing about real movies." in result.out


def list_rows(runs, experiment, rows):
    """Write an experiment's file as 02_train.py does, rows: {label: name of a run}."""
    rows = [{"label": label, "run": run} for label, run in rows.items()]
    divita.write_json(runs / f"{experiment}.json", {"experiment": experiment, "rows": rows})


def test_experiment_and_claims_beside_the_paper(script, tmp_path):
    runs = tmp_path / "runs"
    image, video = "trailers_i_shufflenet_fpc24.zarr", "trailers_k_shufflenet_fps24_fpc24.zarr"
    options = {"splits": [0], "genres": PAPER}
    make_run(runs, "i", image=image, signal=0.5, **options)
    make_run(runs, "k", video=video, signal=0.1, **options)
    make_run(runs, "ik", image=image, video=video, signal=0.9, **options)
    labels = {"ShuffleNet-2D": "i", "ShuffleNet-3D": "k", "ShuffleNet fusion": "ik", "Swin-3D": "swin", "other": "ik"}
    list_rows(runs, "transfer", labels)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    table = {row["run"]: row for row in read_csv(tmp_path / "out" / "table.csv")}
    lines = [
        line.split("|")[1:-1] for line in result.out.split("## Experiment: transfer")[1].splitlines() if "|" in line
    ]
    cells = {line[0].strip(): [cell.strip(" *") for cell in line[1:]] for line in lines}
    assert cells["ShuffleNet-2D"][2] == "71.69 ± 0.44" and cells["Swin-3D"][:3] == ["–", "–", "75.71 ± 2.43"]
    assert cells["other"][2] == "–" and "Not trained yet: Swin-3D." in result.out
    head = divita.model_cost(divita.divita({"image": 8, "video": 8}, len(PAPER)), (1, 30, 8), (1, 30, 8))[0]
    assert int(table["ik"]["parameters"]) == 1_253_604 + 1_299_180 + head
    gain = float(table["ik"]["uAP"]) - float(table["i"]["uAP"])
    points, relative = claim(result.out, "the same, ShuffleNet")
    assert points == f"{gain:+.2f}" and relative == f"{100 * gain / float(table['i']['uAP']):+.2f} %"
    (table,) = [text for text in result.out.split("## ") if text.startswith("The paper's claims")]
    assert table.count("\n| ") == 3  # the header, its rule and the one claim that has a number


def test_claims_need_the_papers_genres_and_all_rows(script, tmp_path):
    runs, options = tmp_path / "runs", {"splits": [0], "trailers": 12}
    for genres, rows, printed in ((["x", "y"], "both", 0), (PAPER, "one", 0), (PAPER[::-1], "both", 1)):
        for name, backbone in (("image", "shufflenet2d"), ("video", "shufflenet3d")):
            make_run(runs, name, **{name: make_meta(backbone, name)}, genres=genres, **options)
        both = {"image": make_meta("shufflenet2d"), "video": make_meta("shufflenet3d", "video")}
        make_run(runs, "both", **both, genres=genres, **options)
        list_rows(runs, "inputs", {"image": "image", "video": "video", "fusion": rows})
        result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
        assert result.code == 0 and result.out.count("## The paper's claims") == printed, result.err
        shutil.rmtree(runs)


def claim(out, title):
    """Return our cells of a claim: the gain in points and relative to the rival."""
    lines = [line for line in out.splitlines() if line.startswith(f"| {title} ")]
    assert len(lines) < 2
    return [cell.strip() for line in lines for cell in line.split("|")[3:-1]]


def test_claims_of_segmentation_and_lightweight_backbones(script, tmp_path):
    runs, options = tmp_path / "runs", {"splits": [0], "genres": PAPER}
    for name in ("image", "video"):
        for segmentation, signal in (("shots", 0.9), ("seconds", 0.2)):
            meta = make_meta("shufflenet2d" if name == "image" else "shufflenet3d", name, segmentation=segmentation)
            make_run(runs, f"{name}_{segmentation}", **{name: meta}, signal=signal, **options)
    both = {"image": make_meta("shufflenet2d"), "video": make_meta("shufflenet3d", "video")}
    make_run(runs, "both", **both, **options)
    swin = make_meta("swin3d", "video", parameters=20_000_000, macs_per_clip=10**11)
    make_run(runs, "top", video=swin, signal=2, **options)
    rows = [(name, cut) for name in ("image", "video") for cut in ("shots", "seconds")]
    list_rows(runs, "segmentation", {f"{name}, {cut}": f"{name}_{cut}" for name, cut in rows})
    list_rows(runs, "transfer", {"ShuffleNet fusion": "both", "Swin-3D": "top"})
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out", "--compare", "both", "top")
    assert result.code == 0, result.err
    table = {row["run"]: row for row in read_csv(tmp_path / "out" / "table.csv")}
    for name in ("image", "video"):
        points = float(table[f"{name}_shots"]["uAP"]) - float(table[f"{name}_seconds"]["uAP"])
        assert claim(result.out, f"shots instead of seconds, {name}")[0] == f"{points:+.2f}"
    assert claim(result.out, "ShuffleNet fusion instead of Swin-3D")
    shares = re.search(r"has ([\d.]+) % of Swin-3D's parameters and ([\d.]+) % of its multiply-adds", result.out)
    for column, value in zip(("parameters", "gmacs"), shares.groups()):
        ratio = float(table["both"][column]) / float(table["top"][column])
        assert float(value) == pytest.approx(100 * ratio, abs=0.01)
    assert "A: both. B: top." in result.out


def test_claims_compare_runs_with_the_same_settings(script, tmp_path):
    """Fusion with its better single input; rows with other training options have no number."""
    runs = tmp_path / "runs"
    image, video = make_meta("shufflenet2d"), make_meta("shufflenet3d", "video")
    options = {"splits": [0], "trailers": 20, "genres": PAPER}
    make_run(runs, "image", image=image, signal=0.5, **options)
    make_run(runs, "video", video=video, signal=0.1, **options)
    make_run(runs, "both", image=image, video=video, signal=0.9, **options)
    make_run(runs, "other", image=image, signal=0.01, lr=1e-3, **options)
    list_rows(runs, "inputs", {"image": "image", "video": "video", "fusion": "both"})
    list_rows(runs, "segmentation", {"image, shots": "image", "image, seconds": "other"})
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out", "--compare", "both", "both")
    table = {row["run"]: float(row["uAP"]) for row in read_csv(tmp_path / "out" / "table.csv")}
    found = claim(result.out, "fusion instead of the better input")
    assert found[0] == f"{table['both'] - table['image']:+.2f}"
    assert not claim(result.out, "shots instead of seconds, image")


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, True),
        ({"weights": "file"}, True),  # the same digest
        ({"digest": None}, True),  # unknown
        ({"digest": None, "weights": "random"}, False),
        ({"digest": "sha256:1"}, False),
        ({"frames": 1}, False),
        ({"precision": "bfloat16"}, False),
        ({"detector": "content"}, False),
    ],
)
def test_claims_and_comparisons_need_equal_metadata(evaluate, tmp_path, changes, number):
    options = {"splits": [0], "trailers": 20, "genres": ["x", "y"]}
    image, video = make_meta("shufflenet2d"), make_meta("shufflenet3d", "video")
    make_run(tmp_path, "image", image=image | changes, signal=0.5, **options)
    make_run(tmp_path, "video", video=video, signal=0.1, **options)
    make_run(tmp_path, "both", image=image, video=video, signal=0.9, **options)
    list_rows(tmp_path, "inputs", {"image": "image", "video": "video", "fusion": "both"})
    runs = evaluate["read_runs"](tmp_path)
    experiments = evaluate["read_experiments"](tmp_path, runs)
    tables = "".join(table.markdown() for table in evaluate["claims_tables"](experiments, []))
    assert bool(claim(tables, "fusion instead of the better input")) == number
    pair = evaluate["select_pair"](runs, None, {})
    assert [run.name for run in pair or ()] == (["both", "image"] if number else [])


@pytest.mark.parametrize(("weights", "number"), [("pretrained", True), ("random", False)])
def test_a_claim_about_backbones_needs_equal_other_metadata(evaluate, tmp_path, weights, number):
    options = {"splits": [0], "trailers": 20, "genres": ["x", "y"]}
    make_run(tmp_path, "both", image=make_meta("shufflenet2d"), video=make_meta("shufflenet3d", "video"), **options)
    make_run(tmp_path, "top", video=make_meta("swin3d", "video", weights=weights), **options)
    list_rows(tmp_path, "transfer", {"ShuffleNet fusion": "both", "Swin-3D": "top"})
    experiments = evaluate["read_experiments"](tmp_path, evaluate["read_runs"](tmp_path))
    tables = "".join(table.markdown() for table in evaluate["claims_tables"](experiments, []))
    assert bool(claim(tables, "ShuffleNet fusion instead of Swin-3D")) == number


def test_the_compared_runs_are_selected_by_validation(script, tmp_path):
    """Not by test scores, and without runs that differ in more than the input."""
    runs, options = tmp_path / "runs", {"splits": [0], "trailers": 20, "genres": ["x", "y"]}
    image, video = make_meta("shufflenet2d"), make_meta("shufflenet3d", "video")
    make_run(runs, "both", image=image, video=video, signal=0.3, validation=3, **options)
    make_run(runs, "both_gru", image=image, video=video, signal=0.9, validation=0.3, aggregation="gru", **options)
    make_run(runs, "image", image=image, signal=0.1, validation=0.5, **options)
    make_run(runs, "video", video=video, signal=0.5, validation=0.1, **options)
    make_run(runs, "image_slow", image=image, signal=0.9, validation=0.9, lr=1e-5, **options)
    make_run(runs, "image_two_splits", image=image, validation=0.9, **options | {"splits": [0, 1]})
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
    assert "A: both. B: image. " in result.out
    assert "--run both\n" in result.out  # of the next command
    for name in ("image", "video"):
        shutil.rmtree(runs / name)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out")
    assert result.code == 0 and "## Two runs" not in result.out


def test_texts_in_figures_do_not_overlap(evaluate, tmp_path):
    """25 genres with long names, nine runs: no text overlaps another or the edge of the figure."""
    genres = [f"{'Science Fiction & Fantasy' if i % 2 else 'documentary-biographical'} {i}" for i in range(25)]
    image, video = make_meta("efficientnetlite_b0"), make_meta("shufflenet3d", "video")
    for aggregation in ("tsfm", "gru", "conv"):
        options = {"aggregation": aggregation, "splits": [0], "genres": genres}
        for inputs in ({"image": image}, {"video": video}, {"image": image, "video": video}):
            name = "+".join(meta["backbone"] for meta in inputs.values())
            make_run(tmp_path, f"{name}_shots_fps24_fpc24-{aggregation}", **inputs, **options)
    runs = evaluate["read_runs"](tmp_path)
    plt = evaluate["plt"]
    for name, figure in evaluate["figures"](runs, evaluate["chance_scores"](runs[0])):
        boxes = text_boxes(figure)
        assert len(boxes) > 5
        for i, (text, box) in enumerate(boxes):
            page = figure.bbox.padded(1)
            assert page.contains(*box.min) and page.contains(*box.max), (name, text)
            for other, other_box in boxes[:i]:
                assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, text, other)
        plt.close(figure)


def text_boxes(figure):
    """Return [(text, its box in pixels)] of the visible texts of a figure."""
    figure.canvas.draw()
    hidden = set()
    for axis in figure.axes:
        for line in (axis.xaxis, axis.yaxis):
            low, high = sorted(line.get_view_interval())
            for tick in line.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip()]
    # without the arrows of annotations
    return [(text.get_text(), matplotlib.text.Text.get_window_extent(text)) for text in texts if text not in hidden]


def test_error_bars_stay_within_the_scale(evaluate, tmp_path):
    make_run(tmp_path, "one", image=make_meta("shufflenet2d"), signal=0.9)
    (run,) = evaluate["read_runs"](tmp_path)
    scores = np.array([[10, 0.5], [100, 0], [100, 9]])
    run.mean[4:6], run.deviation[4:6] = scores.mean(0), scores.std(0, ddof=1)
    figure = evaluate["draw_genres"]([run], evaluate["chance_scores"](run))
    (bars,) = [artist for artist in figure.axes[0].containers if hasattr(artist, "has_xerr")]
    ends = np.concatenate(bars.lines[2][0].get_segments())[:, 0]
    assert ends.min() >= 0 and ends.max() <= 100 and len(ends) == 8


# ---- Misleading scores ----


def test_few_distinct_probabilities_are_noted(script, tmp_path):
    """Such as those of a run on vectors of zeros; other runs have no note."""
    options = {"image": make_meta("shufflenet2d"), "splits": [0], "genres": ["x", "y"]}
    make_run(tmp_path / "runs", "tied", probabilities=np.repeat([[0.3, 0.6], [0.2, 0.7]], 15, 0), **options)
    make_run(tmp_path / "runs", "good", **options)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    (note,) = {line for line in result.out.splitlines() if line.startswith("Ties")}
    assert "tied, 2 probabilities for 30 trailers." in note and "good" not in note


def bold_cells(out, title):
    """Return {row's label: whether its uAP is bold} of a printed table."""
    lines = [line.split("|") for line in out.split(f"## {title}\n")[1].split("##")[0].splitlines() if "|" in line]
    return {line[1].strip(): "**" in line[3] for line in lines[2:]}


def test_runs_with_different_test_trailers_are_noted_and_not_bold(script, tmp_path):
    options = {"image": make_meta("shufflenet2d"), "splits": [0], "genres": ["x", "y"]}
    make_run(tmp_path / "runs", "poor", signal=0.2, **options)
    make_run(tmp_path / "runs", "good", signal=0.6, **options)
    make_run(tmp_path / "runs", "easy", signal=5, mids=[f"easy{i}" for i in range(30)], **options)
    list_rows(tmp_path / "runs", "fusion", {"late": "good", "early": "easy"})
    list_rows(tmp_path / "runs", "extension", {"10 clips": "nothing"})
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    bold = bold_cells(result.out, "All runs")
    assert bold == {"1. easy": False, "2. good": True, "3. poor": False, "chance": False}
    assert "split of 2. good, 3. poor, not comparable with other rows: 30." in result.out
    assert "split of 1. easy, not comparable with other rows: 30." in result.out
    assert bold_cells(result.out, "Experiment: fusion") == {"late": False, "early": False}  # each the only one


@pytest.mark.parametrize(
    "signals, expected", [((0.5,), [False]), ((0.5, 0.2), [True, False]), ((-0.5, -0.6), [False] * 2)]
)
def test_only_the_best_of_several_above_chance_is_bold(script, tmp_path, signals, expected):
    for name, signal in zip("ab", signals):
        make_run(tmp_path / "runs", name, image=make_meta("shufflenet2d"), signal=signal, genres=["x", "y"])
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert [*bold_cells(result.out, "All runs").values()] == [*expected, False]


def test_the_number_of_test_trailers_is_noted(script, tmp_path):
    options = {"image": make_meta("shufflenet2d"), "genres": ["x", "y"]}
    make_run(tmp_path / "runs", "many", splits=[0, 1], **options)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert "Test trailers per split: 30, 30.\n" in result.out and "fewer than 10" not in result.out
    make_run(tmp_path / "few", "few", splits=[0], trailers=9, **options)
    result = script("03_evaluate.py", "--runs", tmp_path / "few", "--out", tmp_path / "out")
    assert "Test trailers per split: 9; with fewer than 10, differences mean little.\n" in result.out


@pytest.mark.parametrize("rest, equal", [([0, 0], True), ([1, 0], False)])
def test_equally_frequent_genres_are_noted(script, tmp_path, rest, equal):
    true = np.array([[1, 0], [0, 1]] * 14 + [[1, 1], rest], np.uint8)
    make_run(tmp_path / "runs", "a", image=make_meta("shufflenet2d"), splits=[0], genres=["x", "y"], true=true)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert ("All genres are equally frequent: wAP equals mAP." in result.out) == equal


def test_leaked_trailers_of_all_splits_are_noted(script, tmp_path):
    options = {"image": make_meta("shufflenet2d"), "genres": ["x", "y"]}
    make_run(tmp_path / "runs", "leaky", leaked=3, **options)
    make_run(tmp_path / "runs", "older", **options)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert "Leakage: 9 validation or test trailers of leaky are also in training.\n" in result.out
    assert "of older are" not in result.out


def test_many_genres_are_in_the_tables_and_the_most_frequent_in_the_figures(evaluate, tmp_path):
    genres = [f"genre {i}" for i in range(60)]
    true = (np.arange(30)[:, None] < np.arange(60) % 31).astype(np.uint8)  # the 30th is the most frequent
    make_run(tmp_path, "one", image=make_meta("shufflenet2d"), splits=[0], genres=genres, true=true)
    runs = evaluate["read_runs"](tmp_path)
    chance = evaluate["chance_scores"](runs[0])
    frequent = [genres[g] for g in range(60) if 19 < g % 31 or g == 19]
    for name, figure in list(evaluate["figures"](runs, chance))[:2]:
        texts = [text.replace("\n", " ") for text, _ in text_boxes(figure)]
        assert sum(text.startswith("genre ") for text in texts) == 20, name
        assert any("; the 20 most frequent of 60 genres" in text for text in texts)
        assert {"genre 30", "genre 59"} <= set(texts) and "genre 1" not in texts and len(frequent) > 20
        evaluate["plt"].close(figure)
    assert len(evaluate["run_tables"](runs, chance, [])[1].rows) == 61
    times = {"shot": np.zeros(8), "start_s": np.arange(8.0), "end_s": np.arange(8.0) + 1}
    p = np.linspace(0, 1, 60)
    figure = evaluate["draw_trailer"]("one", p, np.tile(p, (7, 1)), genres, times, [])
    texts = [text for text, _ in text_boxes(figure)]
    assert sum(text.startswith("genre ") for text in texts) == 20 and "genre 59 1.00" in texts
    assert "time (s); grey lines: cuts; the 20 likeliest of 60 genres" in texts


def test_rows_of_experiments_are_compared_by_their_labels(script, tmp_path):
    options = {"splits": [0], "trailers": 12, "genres": ["x", "y"]}
    for name in ("first run", "second run"):
        make_run(tmp_path / "runs", name, image=make_meta("shufflenet2d"), **options)
    list_rows(tmp_path / "runs", "aggregation", {"tsfm": "second run", "gru": "not trained"})
    compare = ("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--compare", "first run")
    assert "A: first run. B: second run." in script(*compare, "tsfm").out
    assert "--compare: unknown run gru; choose tsfm, first run, second run" in script(*compare, "gru").err


# ---- Metrics of resamples, and chance ----


def by_scikit_learn(true, probabilities):
    """Return METRICS in percent, without genres and trailers that have no positive."""

    def area(true, score):
        precision, recall, _ = precision_recall_curve(true, score)
        return auc(recall, precision)

    per_genre = [area(t, p) for t, p in zip(true.T, probabilities.T) if t.any()]
    per_trailer = [area(t, p) for t, p in zip(true, probabilities) if t.any()]
    frequency = [count for count in true.sum(0) if count]
    micro = area(true.ravel(), probabilities.ravel())
    values = [micro, np.mean(per_genre), np.average(per_genre, weights=frequency), np.mean(per_trailer)]
    return 100 * np.array(values)


@pytest.mark.parametrize("decimals", [1, 2, 7])  # few decimals: many equal scores
def test_metrics_of_resamples_are_scikit_learns(decimals):
    rng = np.random.default_rng(decimals)
    true = (rng.random((40, 5)) < 0.3).astype(np.uint8)
    true[:3], true[:, 4] = 0, 0  # trailers and a genre without a positive
    probabilities = np.round(rng.random(true.shape), decimals).astype(np.float32)
    per_trailer = divita.compute_metrics(true, probabilities)["per_trailer"]
    for rows in rng.integers(40, size=(10, 40)):
        found = divita.compute_metrics(true[rows], probabilities[rows], per_trailer[rows])
        expected = by_scikit_learn(true[rows], probabilities[rows])
        np.testing.assert_allclose([100 * found[name] for name in divita.METRICS], expected, rtol=1e-12)
        same = divita.compute_metrics(true[rows], probabilities[rows])
        assert all(found[name] == same[name] for name in divita.METRICS)


def test_metrics_without_any_positive_are_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = divita.compute_metrics(np.zeros((3, 2)), np.ones((3, 2)))
        assert np.isnan([found[name] for name in divita.METRICS]).all()
        assert np.isnan([divita.chance_metrics(np.zeros((3, 2)))[name] for name in divita.METRICS]).all()


def test_another_metric_replaces_one_function(monkeypatch):
    """All values are computed by pr_auc()."""
    rng = np.random.default_rng(0)
    true, probabilities = (rng.random((30, 4)) < 0.4).astype(int), rng.random((30, 4))
    before = divita.compute_metrics(true, probabilities)
    monkeypatch.setattr(divita, "pr_auc", average_precision_score)
    after = divita.compute_metrics(true, probabilities)
    assert after["mAP"] == pytest.approx(average_precision_score(true, probabilities, average="macro"))
    assert after["uAP"] == pytest.approx(average_precision_score(true, probabilities, average="micro"))
    assert all(after[name] != before[name] for name in divita.METRICS)


def test_chance_is_the_mean_of_random_draws():
    rng = np.random.default_rng(0)
    true = (rng.random((20, 4)) < [0.3, 0.6, 0.1, 0]).astype(int)  # without positives: the last genre, some trailers
    draws = [divita.compute_metrics(true, rng.random(true.shape)) for _ in range(500)]
    expected = divita.chance_metrics(true)
    for name in (*divita.METRICS, "per_genre", "per_trailer"):
        values = np.array([draw[name] for draw in draws])
        error = values.std(0) / np.sqrt(len(values))
        apart = np.nan_to_num(abs(values.mean(0) - expected[name]))
        np.testing.assert_array_less(apart, np.nan_to_num(4 * error) + 1e-9)
    assert np.isnan(expected["per_genre"]).tolist() == [False, False, False, True]


def measured_runs(evaluate, folder):
    return {run.name: run for run in evaluate["read_runs"](folder)}


def test_bootstrap(evaluate, tmp_path, monkeypatch):
    """The interval of a better run is positive; swapped runs change its sign."""
    monkeypatch.setitem(evaluate["bootstrap"].__globals__, "RESAMPLES", 200)
    options = {"image": make_meta("shufflenet2d"), "trailers": 60, "splits": [0], "genres": ["x", "y"]}
    for name, signal in (("a", 0.9), ("b", 0.3)):
        make_run(tmp_path, name, signal=signal, **options)
    runs = measured_runs(evaluate, tmp_path)
    a, b = runs["a"], runs["b"]
    (low, high), difference = evaluate["bootstrap"](a, b), (a.mean - b.mean)[:4]
    assert (0 < low).all() and (low < difference).all() and (difference < high).all()
    np.testing.assert_allclose(evaluate["bootstrap"](b, a), [-high, -low])  # with the same resamples


def test_bootstrap_draws_trailers_not_rows(evaluate, tmp_path, monkeypatch):
    """A test trailer of two splits is drawn for both: the interval equals that of one split."""
    monkeypatch.setitem(evaluate["bootstrap"].__globals__, "RESAMPLES", 50)
    for name in "ab":
        make_run(tmp_path, name, image=make_meta("shufflenet2d"), splits=[0], genres=["x", "y"])
    runs = measured_runs(evaluate, tmp_path)
    once = evaluate["bootstrap"](*runs.values())
    for run in runs.values():
        run.tests["1"] = run.tests["0"]
    np.testing.assert_allclose(evaluate["bootstrap"](*runs.values()), once)


def test_bootstrap_of_few_trailers(evaluate, tmp_path):
    """Genres without a positive in a resample are skipped in it, resamples without any positive as a whole."""
    true = np.zeros((6, 2), np.uint8)
    true[0], true[1] = (1, 0), (0, 1)
    for name in "ab":
        make_run(tmp_path, name, image=make_meta("shufflenet2d"), splits=[0], trailers=6, genres=["x", "y"], true=true)
    assert np.isfinite(evaluate["bootstrap"](*measured_runs(evaluate, tmp_path).values())).all()


def test_runs_with_different_test_trailers_are_not_compared(script, tmp_path):
    for name, splits in (("a", [0]), ("b", [0, 1])):
        make_run(tmp_path / "runs", name, image=make_meta("shufflenet2d"), splits=splits)
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--compare", "a", "b")
    assert result.code == 2 and "a and b: different test trailers or genres; retrain" in result.err.splitlines()[-1]


# ---- User errors ----


def nothing(runs):
    shutil.rmtree(runs)


def a_file(runs):
    shutil.rmtree(runs)
    runs.write_text("")


def unfinished(runs):
    for path in runs.glob("*/*/config.json"):
        path.unlink()


def other_genres(runs):
    make_run(runs, "other", image=make_meta("shufflenet2d"), splits=[0], genres=["action", "y"])


def an_old_experiment(runs):
    (runs / "fusion.json").write_text('{"format": 0}')


def a_foreign_list(runs):
    (runs / "notes.json").write_text('{"name": "my notes"}')


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (nothing, [], "no finished run; train first: python 02_train.py"),
        (a_file, [], "no finished run;"),
        (unfinished, [], "no finished run;"),
        (other_genres, [], "one and other differ in genres (comedy, drama, horror, ...)"),
        (an_old_experiment, [], "not of format 1"),
        (a_foreign_list, [], "notes.json: no rows of an experiment; remove it"),
        (None, ["--compare", "one", "nix"], "--compare: unknown run nix; choose one"),
        (None, ["--compare", "a"], "expected 2 arguments"),
        (None, ["--run", "one"], "--run selects the models for --predict; add --predict"),
        (None, ["--predict", "x", "--run", "nix"], "no finished run nix; choose one"),
        (None, ["--predict", "x", "--run", "one"], "x: no such"),
        (None, ["--out", str(ROOT / "divita.py" / "out")], "divita.py/out: cannot be written to"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_errors_are_one_line(script, tmp_path, change, arguments, message):
    runs = tmp_path / "runs"
    make_run(runs, "one", image=make_meta("shufflenet2d"), splits=[0])
    if change:
        change(runs)
    result = script("03_evaluate.py", "--runs", runs, "--out", tmp_path / "out", *arguments)
    line = result.err.replace("\r", "\n").strip().splitlines()[-1]
    assert result.code == 2 and line.startswith("03_evaluate.py: error: ") and message in line, result.err
    assert "Traceback" not in result.err and not (tmp_path / "out").exists()


def nan(folder):
    change_predictions(folder, test_probabilities=np.full((30, 2), np.nan))


def pickled(folder):
    change_predictions(folder, test_mids=np.array(["a"] * 30, object))


def other_trailers(folder):
    change_predictions(folder, test_mids=["a", "b"])


def change_predictions(folder, **changes):
    path = folder / "split0" / "predictions.npz"
    np.savez(path, **dict(np.load(path)) | changes)


def damage(name, text):
    return lambda folder: (folder / "split0" / name).write_text(text)


def configure(folder, **changes):
    for path in folder.glob("split*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_learning_rate(folder):
    path = folder / "split1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lr": 0.5}))


def unknown_aggregation(folder):
    configure(folder, aggregation="smax")


def unknown_backbone(folder):
    meta = make_meta("nix")
    del meta["parameters"]
    configure(folder, image_meta=meta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "damaged file (predictions.npz: test arrays contain NaN"),
        (pickled, "damaged file ("),
        (other_trailers, "test arrays contain NaN or have different shapes"),
        (damage("predictions.npz", "PK"), "damaged file ("),
        (
            damage("history.csv", "epoch,loss\n1,x\n"),
            "history.csv: not a table of numbers with the columns epoch, loss",
        ),
        (damage("history.csv", ""), "history.csv: the table is empty"),
        (damage("history.csv", "epoch,loss,val_loss\n"), "history.csv: the table is empty"),
        (damage("config.json", "{"), "config.json: invalid JSON"),
        (damage("config.json", '{"format": 0}'), "not of format 1"),
        (other_learning_rate, "its splits differ in lr; retrain all"),
        (unknown_aggregation, "unknown aggregation 'smax'; choose "),
        (unknown_backbone, "nix"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_damaged_run_is_listed_and_skipped(script, tmp_path, change, message):
    for name in ("good", "bad"):
        make_run(tmp_path / "runs", name, image=make_meta("shufflenet2d"), splits=[0, 1], genres=GENRES[:2])
    change(tmp_path / "runs" / "bad")
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("bad skipped: ")]
    assert message in line
    assert [row["run"] for row in read_csv(tmp_path / "out" / "table.csv")] == ["good"]
    shutil.rmtree(tmp_path / "runs" / "good")
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 2 and "no run can be read: bad skipped: " in result.err.splitlines()[-1]


def test_an_unfinished_split_is_listed_and_skipped(evaluate, tmp_path, capsys):
    folder = make_run(tmp_path, "run", image=make_meta("shufflenet2d"))
    (folder / "split1" / "config.json").unlink()
    shutil.copytree(folder / "split0", folder / "split0 (copy)")
    assert list(measured_runs(evaluate, tmp_path)["run"].tests) == ["0", "2"]
    assert "unfinished, skipped: run/split1" in capsys.readouterr().out


def test_a_closed_standard_output_is_no_error(tmp_path):
    """As in `python 03_evaluate.py | head -1`."""
    make_run(tmp_path / "runs", "one", image=make_meta("shufflenet2d"), splits=[0])
    command = [sys.executable, ROOT / "03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0, error
    assert (tmp_path / "out" / "table.md").exists() and (tmp_path / "out" / "genres.png").exists()


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
    """Write a prepared folder without labels, with clip tables and, except for the last trailer, strips."""
    rng = np.random.default_rng(1)
    for name, backbone, features in (("image", "shufflenet2d", width), ("video", "shufflenet3d", 6)):
        x = {mid: rng.standard_normal((count, features)) for mid, count in lengths.items()}
        path = write_representation(folder, name, backbone, x)
        meta = divita.read_json(path / "meta.json") | changes
        divita.write_text(path / "meta.json", json.dumps(meta))
    for mid, count in lengths.items():
        rows = [[i, i // 3, 24 * i, 24 * i + 24, float(i), i + 1.0] for i in range(count)]
        header = ["clip", "shot", "start_frame", "end_frame", "start_s", "end_s"]
        divita.write_csv(folder / "shots" / f"{mid}.csv", header, rows)
    (folder / "pictures").mkdir()
    for mid in list(lengths)[:-1]:
        cv2.imwrite(str(folder / "pictures" / f"{mid}.jpg"), rng.integers(0, 256, (90, 1600, 3), np.uint8))
    return folder


def write_video(path, lengths=(24,), size=(96, 64)):
    """Write a video of a shot per length (in frames), each of one moving texture."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, size)
    for shot, length in enumerate(lengths):
        texture = np.random.default_rng(shot).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        texture = cv2.resize(texture, (size[0] + length, size[1]))
        for i in range(length):
            video.write(np.ascontiguousarray(texture[:, i : i + size[0]]))
    video.release()
    return path


BOTH, IMAGE = "shufflenet2d+shufflenet3d_shots_fps24_fpc24", "shufflenet2d_shots_fps24_fpc24"


def test_predict(script, trained, tmp_path):
    """The mean of the splits' models by the paper's protocol, whatever the trailer's length; one figure each."""
    new = make_new(tmp_path / "new", {"one": 1, "short": 7, "long $x_1$": 70})
    arguments = ("--runs", trained / "runs", "--run", BOTH, "--predict", new, "--out", tmp_path / "out")
    result = script("03_evaluate.py", *arguments)
    assert result.code == 0, result.err
    models = [keras.models.load_model(path) for path in sorted((trained / "runs" / BOTH).glob("*/model.keras"))]
    assert len(models) == 2
    rows = {row["mid"]: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    assert list(rows) == ["long $x_1$", "one", "short"]
    heights = {}
    for mid, row in rows.items():
        names = ("shufflenet2d_shots_fps24_fpc24", "shufflenet3d_shots_fps24_fpc24")
        clips = [np.load(new / name / f"{mid}.npy") for name in names]
        expected = np.mean([divita.predict_trailers(model, [clips], 30)[0] for model in models], 0)
        np.testing.assert_allclose([float(row[genre]) for genre in ("action", "comedy", "drama")], expected, atol=1e-4)
        heights[mid] = cv2.imread(str(tmp_path / "out" / f"runs/{BOTH}/{mid}.png")).shape[0]
        (line,) = [line for line in result.out.splitlines() if line.startswith(f"{mid}: ")]
        assert f"{expected.max():.2f}" in line and row["run"] == f"runs/{BOTH}"
        assert ("none reaches 0.5, likeliest: " in line) == (expected.max() < 0.5)
        assert str(tmp_path / "out" / f"runs/{BOTH}/{mid}.png") in result.out.splitlines()[-1]
    assert f"probabilities: {tmp_path / 'out' / 'predictions.csv'}\nfigures: " in result.out
    assert heights["one"] == heights["short"] > heights["long $x_1$"]  # with a strip, if any
    assert result.out.count(f"{new / 'pictures'}: no strip of long $x_1$;") == 1


def test_images_of_a_strip_are_undistorted_in_figures(evaluate, tmp_path):
    """At the middle of each tenth of the time axis, each in its own colour and shape."""
    colours = [(25 * i, 10 * i, 250 - 25 * i) for i in range(10)]  # RGB
    strip = np.concatenate([np.full((90, 50, 3), colour, np.uint8) for colour in colours], axis=1)
    cv2.imwrite(str(tmp_path / "a.jpg"), strip[..., ::-1])
    times = {"shot": np.zeros(4), "start_s": np.arange(4.0), "end_s": np.arange(4.0) + 1}
    images = evaluate["read_strip"](tmp_path / "a.jpg")
    figure = evaluate["draw_trailer"]("a", np.full(2, 0.5), np.full((3, 2), 0.5), ["x", "y"], times, images)
    figure.canvas.draw()
    boxes = [artist for artist in figure.axes[0].artists if hasattr(artist, "xy")]
    assert [box.xy[0] for box in boxes] == pytest.approx(4 * (np.arange(10) + 0.5) / 10)
    for box, colour in zip(boxes, colours):
        extent = box.offsetbox.get_window_extent()
        assert extent.width / extent.height == pytest.approx(50 / 90, rel=0.02)
        assert np.abs(box.offsetbox.get_data().mean((0, 1)) - colour).max() < 6


@pytest.mark.parametrize("content", [b"", b"no JPEG", "cut off", "of another width"])
def test_figures_are_drawn_without_damaged_strips(script, trained, tmp_path, content):
    new = make_new(tmp_path / "new", {"one": 3, "two": 2})
    path = new / "pictures" / "one.jpg"
    if content == "cut off":
        content = path.read_bytes()[:300]
    elif content == "of another width":
        content = cv2.imencode(".jpg", np.zeros((90, 77, 3), np.uint8))[1].tobytes()
    path.write_bytes(content)
    result = script(
        "03_evaluate.py", "--runs", trained / "runs", "--run", BOTH, "--predict", new, "--out", tmp_path / "out"
    )
    assert result.code == 0 and (tmp_path / "out" / "runs" / BOTH / "one.png").exists(), result.err


def test_killed_preparation_is_one_message(trained, tmp_path, monkeypatch, script):
    """As by the kernel, out of memory."""
    write_video(tmp_path / "a.mp4")
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    arguments = ["--runs", trained / "runs", "--run", BOTH, "--predict", tmp_path / "a.mp4", "--data", tmp_path / "d"]
    result = script("03_evaluate.py", *arguments, "--out", tmp_path / "out")
    lines = [line for line in result.err.splitlines() if line.strip() and "%" not in line]
    assert result.code == 2 and len(lines) == 1 and "killed by signal 9" in lines[0], result.err


def test_the_device_is_selected_before_models_are_loaded(script, trained, tmp_path, monkeypatch):
    new, order = make_new(tmp_path / "new", {"one": 1}), []
    for name in ("select_device", "load_model"):
        original = getattr(divita, name)
        monkeypatch.setattr(divita, name, lambda *x, name=name, f=original: order.append(name) or f(*x))
    result = script("03_evaluate.py", "--runs", trained / "runs", "--run", IMAGE, "--predict", new, "--out", tmp_path)
    assert result.code == 0, result.err
    assert order == ["select_device", "load_model", "load_model"]


@pytest.mark.parametrize(
    "damage", ["", "shot,start_s\n0,0\n", "shot,start_s,end_s\n0,0,x\n", "shot,start_s,end_s\n0,0\n"]
)
def test_predictions_are_written_despite_a_damaged_clip_table(script, trained, tmp_path, damage):
    new = make_new(tmp_path / "new", {"one": 1, "two": 2})
    (new / "shots" / "two.csv").write_text(damage)
    arguments = ("--runs", trained / "runs", "--run", BOTH, "--predict", new, "--out", tmp_path / "out")
    result = script("03_evaluate.py", *arguments)
    assert result.code == 2 and "two.csv" in result.err.strip().splitlines()[-1]
    assert [row["mid"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == ["one", "two"]


def test_long_mids_and_narrow_strips(script, trained, tmp_path):
    mid, runs = 90 * "\u00e9", tmp_path / ("runs" * 20)
    shutil.copytree(trained / "runs", runs)
    new = make_new(tmp_path / "new", {mid: 2, "last": 1})
    cv2.imwrite(str(new / "pictures" / f"{mid}.jpg"), np.zeros((90, 10, 3), np.uint8))
    result = script("03_evaluate.py", "--runs", runs, "--run", BOTH, "--predict", new, "--out", tmp_path / "out")
    assert result.code == 0 and (tmp_path / "out" / runs.name / BOTH / f"{mid}.png").exists(), result.err


def test_special_characters_in_latex(evaluate):
    latex = evaluate["Table"]("50 %", [], [["", "a_b & c#"], ["x\\y ~z^2 $1 {}", "**1 \u00b1 2**"]]).latex()
    assert r"\caption{50 \%.}" in latex and r"a\_b \& c\#" in latex
    assert r"x\textbackslash{}y \~{}z\^{}2 \$1 \{\} & \textbf{1 $\pm$ 2}" in latex


def test_predictions_of_other_runs_are_kept(script, trained, tmp_path):
    new, out = make_new(tmp_path / "new", {"tt0000": 3, "two": 2}, synthetic=True), tmp_path / "out"
    divita.write_csv(out / "predictions.csv", ["mid", "run", "war"], [["two", f"demo/{BOTH}", "0.5"], ["x", "y", "1"]])
    for run in (BOTH, IMAGE, BOTH):
        arguments = ("--runs", trained / "runs", "--run", run, "--predict", new, "--out", out)
        result = script("03_evaluate.py", *arguments)
        assert result.code == 0, result.err
        assert f"{run} was trained on 1 of these trailers (tt0000): optimistic scores" in result.out
    rows = read_csv(out / "predictions.csv")
    assert list(rows[0]) == ["mid", "run", "war", "action", "comedy", "drama"]
    found = [(row["mid"], row["run"]) for row in rows]
    runs = [("two", f"demo/{BOTH}"), ("x", "y")]
    assert found == [*runs, *((mid, f"runs/{run}") for run in (IMAGE, BOTH) for mid in ("tt0000", "two"))]
    assert (rows[0]["war"], rows[0]["action"], rows[2]["war"]) == ("0.5", "", "")
    assert len(list(out.rglob("two.png"))) == 2
    assert "synthetic" not in result.out


def test_predict_uses_the_best_run_on_validation(script, trained, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(trained / "runs", runs)
    for path in runs.glob("*/split*/"):
        with np.load(path / "predictions.npz") as file:
            arrays = dict(file)
        arrays["validation_probabilities"] = arrays["validation_true"] * (1.0 if IMAGE == path.parent.name else -1.0)
        np.savez(path / "predictions.npz", **arrays)
        config = divita.read_json(path / "config.json")
        if config["image"]:
            config["image_meta"]["synthetic"] = True
        divita.write_text(path / "config.json", json.dumps(config))
    new = make_new(tmp_path / "new", {"one": 1, "two": 2})
    result = script("03_evaluate.py", "--runs", runs, "--predict", new, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"using {IMAGE}, best of 3 on validation" in result.out.splitlines()
    assert f"{IMAGE} was trained on synthetic trailers" in result.out
    for path in list(runs.glob("*+*")) + list(runs.glob("shufflenet3d*")):
        shutil.rmtree(path)
    result = script("03_evaluate.py", "--runs", runs, "--predict", new, "--out", tmp_path / "out")
    assert f"using {IMAGE}, best of 1 on validation" in result.out.splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "sha256:1"}, f"{IMAGE}: different digest than the image input of {BOTH}"),
        ({"frames": 1, "detector": "content"}, "different detector and frames than the image input of"),
        ({"width": 5}, "different number of features than the image input of"),
        ({"backbone": "r2plus1d"}, f"the new: {IMAGE} missing, the image input of {BOTH}"),
    ],
)
def test_predict_rejects_other_settings(script, trained, tmp_path, changes, message):
    """With the command that prepares the videos with the run's settings."""
    new = make_new(tmp_path / "the new", {"one": 1}, **changes)
    if "backbone" in changes:
        shutil.rmtree(new / IMAGE)
    result = script("03_evaluate.py", "--runs", trained / "runs", "--run", BOTH, "--predict", new, "--out", tmp_path)
    line = result.err.strip().splitlines()[-1]
    assert result.code == 2 and message in line
    like = ["python", "01_prepare.py", "--like", str(trained / "runs" / BOTH), "--videos", "DIR", "--out", "NEW"]
    assert shlex.split(line.partition("the videos with ")[2]) == like


# ---- External vectors ----


def write_external(folder, mids, features=5, meta=None):
    """Write external vectors: <mid>.npy of float32 (clips, features) and a short meta.json."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(features)
    for i, mid in enumerate(mids):
        np.save(folder / f"{mid}.npy", rng.standard_normal((3 + i % 4, features)).astype(np.float32))
    (folder / "meta.json").write_text(json.dumps(meta or {"input": "image"}))


@pytest.fixture(scope="module")
def external(tmp_path_factory):
    """Runs trained on external vectors of images and of sound, each alone and both."""
    folder = tmp_path_factory.mktemp("external")
    mids = [f"{i:03d}" for i in range(12)]
    rows = [[mid, i % 2, 1 - i % 2, i % 3] for i, mid in enumerate(mids)]
    divita.write_csv(folder / "data" / "labels.csv", ["mid", "comedy", "drama", "split0"], rows)
    write_external(folder / "data" / "clip", mids)
    write_external(folder / "data" / "sounds", mids, 6, {"input": "video", "backbone": "VGGish", "fps": 1})
    with pytest.MonkeyPatch.context() as patch:
        for inputs in ((), ("--image", "clip", "--video", "none"), ("--video", "sounds", "--image", "none")):
            arguments = ["--data", folder / "data", "--runs", folder / "runs", "--epochs", "1"]
            if not inputs:
                inputs = ("--image", "clip", "--video", "sounds", "--experiment", "inputs")
            patch.setattr("sys.argv", ["02_train.py", *map(str, arguments), *inputs])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / "02_train.py"), run_name="__main__")
            assert not end.value.code
    return folder


def test_tables_of_external_vectors(script, external, tmp_path):
    """Their unknown cost is a dash, an empty cell and not plotted."""
    result = script("03_evaluate.py", "--runs", external / "runs", "--out", tmp_path)
    assert result.code == 0, result.err
    rows = {row["run"]: row for row in read_csv(tmp_path / "table.csv")}
    assert rows.keys() == {"clip", "sounds", "clip+sounds"}
    assert all(row["uAP"] and row["parameters"] == row["gmacs"] == "" for row in rows.values())
    assert "External vectors: VGGish, clip; an unknown cost is –" in result.out
    assert "A: clip+sounds. B: " in result.out and "nan" not in result.out
    assert (tmp_path / "genres.png").exists() and not (tmp_path / "cost.png").exists()


def test_a_known_cost_of_external_vectors_is_included(script, tmp_path):
    nothing = {"parameters": 0, "macs_per_clip": 0}
    for name, cost in (("known", {"parameters": 10**6, "macs_per_clip": 10**9}), ("unknown", {}), ("free", nothing)):
        meta = {"representation": name, "input": "image", "backbone": name} | cost
        make_run(tmp_path / "runs", name, image=meta, splits=[0], genres=["x", "y"])
    result = script("03_evaluate.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    rows = {row["run"]: row for row in read_csv(tmp_path / "out" / "table.csv")}
    assert int(rows["known"]["parameters"]) > 10**6 and 1 < float(rows["known"]["gmacs"]) < 1.1
    assert int(rows["free"]["parameters"]) == int(rows["known"]["parameters"]) - 10**6
    assert float(rows["free"]["gmacs"]) == pytest.approx(float(rows["known"]["gmacs"]) - 1, abs=1e-4)
    assert rows["unknown"]["parameters"] == "" and (tmp_path / "out" / "cost.png").exists()


def test_predict_from_external_vectors(script, external, tmp_path):
    """Only from a folder of vectors; figures have no strip and assume one second per clip."""
    new, run = tmp_path / "new", ("--runs", external / "runs", "--run", "clip+sounds", "--out", tmp_path / "out")
    write_external(new / "clip", ["one", "two"])
    write_external(new / "sounds", ["one", "two"], 6, {"input": "video", "backbone": "VGGish"})
    result = script("03_evaluate.py", *run, "--predict", new)
    assert result.code == 0, result.err
    assert "figures assume one second per clip" in result.out and "no strip of one, two" in result.out
    model = divita.load_model(external / "runs" / "clip+sounds" / "split0" / "model.keras")
    for row in read_csv(tmp_path / "out" / "predictions.csv"):
        clips = [np.load(new / name / f"{row['mid']}.npy") for name in ("clip", "sounds")]
        expected = divita.predict_trailers(model, [clips], 30)[0]
        np.testing.assert_allclose([float(row["comedy"]), float(row["drama"])], expected, atol=1e-4)
    done = run_evaluate(external, *run[2:], "--predict", write_video(tmp_path / "new.mp4"), "--data", tmp_path / "data")
    message = "01_prepare.py: error: --like runs/clip+sounds: its image vectors are external, by clip"
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(message), done.stderr
    shutil.rmtree(new / "sounds")
    result = script("03_evaluate.py", *run, "--predict", new)
    line = result.err.strip().splitlines()[-1]
    assert (
        result.code == 2 and "sounds missing, the video input of clip+sounds; extract the new trailers' vectors" in line
    )


def test_vectors_without_meta_json_are_an_error(script, external, tmp_path):
    for name in ("labels.csv", "clip", "sounds"):
        path = external / "data" / name
        (shutil.copy if path.is_file() else shutil.copytree)(path, tmp_path / name)
    (tmp_path / "clip" / "meta.json").unlink()
    message = f'{tmp_path / "clip" / "meta.json"}: missing; write {{"input": "image"}} or {{"input": "video"}} into it'
    for inputs in ((), ("--image", "clip")):
        result = script("02_train.py", "--data", tmp_path, "--runs", tmp_path / "runs", *inputs)
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    predict = ("03_evaluate.py", "--runs", external / "runs", "--run", "clip", "--out", tmp_path / "out", "--predict")
    result = script(*predict, tmp_path)
    assert result.code == 2 and message in result.err.splitlines()[-1]
    result = script(*predict, tmp_path / "clip")
    assert (
        f"{tmp_path / 'clip'}: a folder of vectors; add its meta.json and pass its parent, {tmp_path}"
        in result.err.splitlines()[-1]
    )


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8"])
def test_vectors_of_any_floating_type_are_read(tmp_path, dtype):
    write_external(tmp_path / "clip", ["one", "two"])
    expected = {path.stem: np.load(path).astype(dtype) for path in (tmp_path / "clip").glob("*.npy")}
    for mid, clips in expected.items():
        np.save(tmp_path / "clip" / f"{mid}.npy", clips)
    x = divita.open_representation(tmp_path, "clip")
    assert all(
        x[mid].dtype == np.float32 and (x[mid] == clips.astype(np.float32)).all() for mid, clips in expected.items()
    )
    assert repr(x) == f"<Representation {tmp_path / 'clip'}: 2 trailers, 7 clips, 5 features>"
    assert len(x) == 2 and list(x) == ["one", "two"]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.full((3, 5), np.nan, np.float32), "a value of nan"),
        (np.full((3, 5), -np.inf), "a value of inf"),
        (np.full((3, 5), np.inf, np.float16), "a value of inf"),
        (np.full((3, 5), -1e300), "a value of 1e+300 where finite ones of about 1 are expected"),
        (np.full((3, 5), 1e30, np.float32), "a value of 1e+30"),
        (np.ones(5, np.float32), "float32 (5,), not floating-point (clips, 5)"),
        (np.ones((3, 5), int), "int64 (3, 5), not floating-point"),
        (np.ones((3, 5), complex), "complex128 (3, 5), not floating-point"),
        (np.ones((3, 4), np.float32), "float32 (3, 4), not floating-point (clips, 5)"),
        (np.ones((0, 5), np.float32), "no clips"),
        (np.array(1.0), "float64 (), not floating-point"),
        (np.array([["a"]], object), "missing or damaged"),
    ],
)
def test_invalid_vectors_of_a_trailer_are_one_line(tmp_path, clips, message):
    """The message names the trailer, and does not suggest to prepare external vectors."""
    write_external(tmp_path / "clip", ["one", "two"])
    np.save(tmp_path / "clip" / "two.npy", clips)
    with pytest.raises(divita.UserError) as error:
        divita.open_representation(tmp_path, "clip")
    assert f"{tmp_path / 'clip' / 'two'}" in str(error.value) and message in str(error.value)
    assert "prepare" not in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / ".packed").glob("*"))


def test_an_empty_folder_of_vectors_is_one_line(tmp_path):
    write_external(tmp_path / "clip", [])
    with pytest.raises(divita.UserError, match="clip: no vectors <mid>.npy; add them or remove the folder"):
        divita.open_representation(tmp_path, "clip")


@pytest.mark.parametrize(
    ("meta", "arguments", "message"),
    [
        ({"input": "sound"}, [], 'clip/meta.json: "input" missing or invalid; write "image" or "video"'),
        ({"backbone": "clip"}, [], 'clip/meta.json: "input" missing or invalid; write "image" or "video"'),
        ({"input": "image", "fps": [8]}, [], "clip/meta.json: invalid 'fps': [8]; fix it or remove it"),
        ({"input": "image", "parameters": 8.6e7}, [], "invalid 'parameters': 86000000.0; fix"),
        ({"input": "image"}, ["--video", "clip"], "use --image"),
        (
            {"input": "image"},
            ["--experiment", "segmentation"],
            "no vectors by clip with segmentation shots in meta.json",
        ),
        ({"input": "video"}, ["--experiment", "frame-rate"], "no vectors by clip with fps 4 in meta.json"),
    ],
)
def test_errors_in_external_vectors_are_one_line(script, tmp_path, meta, arguments, message):
    divita.write_csv(tmp_path / "labels.csv", ["mid", "x", "split0"], [[f"a{i}", i % 2, i % 3] for i in range(6)])
    write_external(tmp_path / "clip", [f"a{i}" for i in range(6)], meta=meta)
    result = script("02_train.py", "--data", tmp_path, "--runs", tmp_path / "runs", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_experiments_on_external_vectors(script, tmp_path):
    """Vectors by one backbone with clip settings in meta.json, whatever the names of their folders."""
    mids = [f"a{i}" for i in range(6)]
    divita.write_csv(
        tmp_path / "labels.csv", ["mid", "x", "split0"], [[mid, i % 2, i % 3] for i, mid in enumerate(mids)]
    )
    for cut in ("shots", "seconds"):
        meta = {"input": "image", "backbone": "CLIP", "segmentation": cut}
        write_external(tmp_path / f"by_{cut}", mids, meta=meta)
    arguments = ("--data", tmp_path, "--runs", tmp_path / "runs", "--image", "by_shots", "--epochs", "1")
    result = script("02_train.py", *arguments, "--experiment", "segmentation")
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "runs" / "segmentation.json").read_text())["rows"]
    assert [row["run"] for row in rows] == ["by_shots", "by_seconds"]


# ---- From videos to genres ----


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run trained by the scripts on tiny videos, segmented by seconds at 8 frames per second."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "videos").mkdir()
    rows = []
    for i in range(9):
        write_video(folder / "videos" / f"trailer{i}.mp4", [24, 12])
        rows.append([f"trailer{i}", i % 2, 1 - i % 2, i % 3])
    divita.write_csv(folder / "labels.csv", ["mid", "comedy", "drama", "split0"], rows)
    prepare = ["--videos", folder / "videos", "--labels", folder / "labels.csv", "--out", folder / "data"]
    prepare += ["--image", "shufflenet2d", "--video", "none", "--weights", "random", "--image-frames", "1"]
    prepare += ["--segmentation", "seconds", "--fps", "8", "--frames-per-clip", "8"]
    train = ["--data", folder / "data", "--runs", folder / "runs", "--epochs", "1"]
    train += ["--image", "shufflenet2d_seconds_fps8_fpc8"]
    for command in (["01_prepare.py", *prepare], ["02_train.py", *train]):
        done = subprocess.run([sys.executable, ROOT / command[0], *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def run_evaluate(folder, *arguments, **environment):
    """Run 03_evaluate.py in `folder` as a process."""
    command = [sys.executable, ROOT / "03_evaluate.py", "--runs", "runs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment)


def test_genres_of_a_video_in_one_command(prepared):
    """From videos to genres; prepared vectors are kept; a damaged video is listed and the others are predicted."""
    (prepared / "new").mkdir()
    write_video(prepared / "new" / "good.mp4", [30, 20])
    write_video(prepared / "new" / "other.mp4", [30])
    done = run_evaluate(prepared, "--predict", "new")
    assert done.returncode == 0, done.stderr
    (run,) = [path.name for path in (prepared / "runs").iterdir() if path.is_dir()]
    assert f"using {run}, best of 1" in done.stdout and "\ngood: " in done.stdout
    good, other = read_csv(prepared / "results" / "new" / "predictions.csv")
    assert (good["mid"], other["mid"], good["run"]) == ("good", "other", f"runs/{run}")
    vectors = prepared / "data" / "new" / "shufflenet2d_seconds_fps8_fpc8" / "good.npy"
    model = divita.load_model(prepared / "runs" / run / "split0" / "model.keras")
    expected = divita.predict_trailers(model, [[np.load(vectors)]], 30)[0]
    np.testing.assert_allclose([float(good["comedy"]), float(good["drama"])], expected, atol=1e-4)
    assert (prepared / "results" / "new" / f"runs/{run}/good.png").exists()

    before = vectors.stat().st_mtime_ns
    (prepared / "new" / "damaged.mp4").write_bytes(b"no video")
    videos = ("new/good.mp4", "new/damaged.mp4")
    torchrun = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x",
    }
    done = run_evaluate(prepared, "--predict", *videos, "--data", "data/new", "--run", run, **torchrun)
    assert done.returncode == 0 and vectors.stat().st_mtime_ns == before  # torchrun takes 1 for a crash
    assert len([line for line in (done.stdout + done.stderr).splitlines() if "damaged" in line]) == 1
    assert "\ngood: " in done.stdout and "other" not in done.stdout  # only the given videos of the folder
    assert [row["mid"] for row in read_csv(prepared / "results" / "new" / "predictions.csv")] == ["other", "good"]


def test_failed_preparation_is_one_message(prepared, tmp_path):
    """The status and message of 01_prepare.py, and no other."""
    shutil.copytree(prepared / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/*/config.json"):
        config = divita.read_json(path)
        config["image_meta"]["weights"] = "file"
        divita.write_text(path, json.dumps(config))
    write_video(tmp_path / "good.mp4")
    done = run_evaluate(tmp_path, "--predict", "good.mp4")
    lines = [line for line in done.stderr.splitlines() if line.strip() and "%" not in line]  # without the bar
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("01_prepare.py: error: ") and "--weights shufflenet2d=FILE" in lines[0]
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    shutil.rmtree(tmp_path / "runs")
    shutil.copytree(prepared / "runs", tmp_path / "runs")
    done = run_evaluate(tmp_path, "--predict", "damaged.mp4")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_tables_of_trained_runs(script, trained, tmp_path):
    result = script("03_evaluate.py", "--runs", trained / "runs", "--out", tmp_path)
    assert result.code == 0, result.err
    assert len(read_csv(tmp_path / "table.csv")) == 3


@pytest.mark.parametrize("clips", [1, 2, 5, 30, 75, 200])
def test_sliding_snippets(evaluate, clips):
    x = np.arange(1.0, clips + 1)[:, None]
    snippets = evaluate["sliding_snippets"](x, 30)
    width = min(30, max(1, clips // 4))
    assert len(snippets) == clips - width + 1
    for start in (0, len(snippets) - 1):
        assert (snippets[start, :width] == x[start : start + width]).all() and not snippets[start, width:].any()
    assert snippets.shape[1] == width + (round(width * (30 - clips) / clips) if clips < 30 else 0)
