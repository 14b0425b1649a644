"""Evaluate trained heads: metrics, cost, tables, figures; predict new trailers.

    python 03_evaluate.py                                      the demo's runs, into results/demo
    python 03_evaluate.py --runs runs/mine                     your own, into results/mine
    python 03_evaluate.py --compare RUN RUN                    these two runs, trailer by trailer
    python 03_evaluate.py --costs                              parameters and multiply-adds of every backbone
    python 03_evaluate.py --predict trailer.mp4                genres of a video, several videos or a folder of them
    python 03_evaluate.py --predict data/new --run RUN         genres of trailers prepared by 01_prepare.py

Reads every finished run in --runs. Metrics are areas under precision-recall curves (trapezoid rule) on the test
trailers, in percent: mean and sample standard deviation over the splits. The best run has the highest validation uAP.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESAMPLES, BOOTSTRAP_SEED = 1000, 0
FEW_TRAILERS, FEW_PROBABILITIES = 10, 20  # minimum per test subset and distinct ones per genre, for notes
THRESHOLD, MAX_GENRES = 0.5, 20  # lowest probability of a predicted genre; genres in a figure


def parse_arguments():
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # one-line errors
    add = parser.add_argument_group("tables and figures").add_argument
    add("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="runs of 02_train.py (runs/demo)")
    add("--out", metavar="DIR", type=Path, help="output folder (results/<name of --runs or of the new trailers' data>)")
    add("--compare", metavar="RUN", nargs=2, help="compared runs (the best fusion run and its better single input)")
    add("--costs", action="store_true", help="only the cost of every backbone")
    add = parser.add_argument_group("new trailers").add_argument
    add("--predict", metavar="PATH", type=Path, nargs="+", help="videos, folders of videos, or one prepared folder")
    add("--run", metavar="RUN", help="run whose models, one per split, predict (the best on validation)")
    add("--data", metavar="DIR", type=Path, help="data folder for the videos (data/<name of the video or folder>)")
    add("--weights", metavar="NAME=FILE", nargs="+", help="checkpoints of backbones that the run loaded from files")
    arguments = parser.parse_args()
    if arguments.run and not arguments.predict:
        parser.error("--run selects the models for --predict; add --predict")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ARGUMENTS = parse_arguments()

import divita  # isort: skip (first, as it sets the Keras backend)

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.metrics import precision_recall_curve
from tqdm import tqdm

from divita import METRICS, UserError, say


def main(arguments):
    if arguments.costs:
        return say(costs_table().markdown())
    return predict_new_trailers(arguments) if arguments.predict else evaluate(arguments)


def evaluate(arguments):
    """Read the runs, write their tables and figures, print the tables."""
    out = divita.check_writable(arguments.out or Path("results") / arguments.runs.resolve().name)
    runs = sorted(read_runs(arguments.runs), key=lambda run: -run.mean[0])
    genres = runs[0].config["genres"]
    for run in runs:
        if run.config["genres"] != genres:
            other = divita.abbreviate(sorted(set(run.config["genres"]) ^ set(genres)) or ["their order"])
            raise UserError(f"{runs[0].name} and {run.name} differ in genres ({other}); use a --runs for each")
    chance = chance_scores(next(iter(group_by_test_set({run.name: run for run in runs})[0].values())))
    notes = data_notes(runs)
    tables = run_tables(runs, chance, notes)
    experiments = read_experiments(arguments.runs, runs)  # "inputs" is in the first table
    tables += [scores_table(f"Experiment: {name}", rows) for name, rows in experiments.items() if name != "inputs"]
    if sorted(map(str.casefold, genres)) == GENRES:
        tables += claims_tables(experiments, notes)
    if pair := select_pair(runs, arguments.compare, experiments):
        tables.append(comparison_table(*pair))
    markdown = "\n".join(table.markdown() for table in tables)
    divita.remove_stale_files(out)
    divita.write_text(out / "table.md", markdown)
    divita.write_text(out / "table.tex", "\n".join(table.latex() for table in tables))
    write_table_csv(out / "table.csv", runs)
    for name, figure in figures(runs, chance):
        save_figure(figure, out / f"{name}.png")
    say(f"\n{markdown}\ntables (table.md, table.csv, table.tex) and figures (*.png): {out}")
    run = best_run(runs)
    path = "FOLDER" if any(map(divita.is_external, run.metas.values())) else "VIDEO"
    command = ["python", "03_evaluate.py", "--runs", f"{arguments.runs}", "--predict", path, "--run", run.name]
    say(f"next, the genres of a new trailer: {shlex.join(command)}")


# ---- Scores ----
# Mean and sample standard deviation over splits, chance, and a paired bootstrap of the difference between two runs.


def mean_and_std(metrics):
    """Return mean and sample standard deviation, (4 + G,) in percent, of the splits' compute_metrics()."""
    scores = [[*(split[name] for name in METRICS), *split["per_genre"]] for split in metrics]
    scores = np.ma.masked_invalid(100 * np.array(scores))  # NaN only where all splits are NaN
    return scores.mean(0).filled(np.nan), scores.std(0, ddof=1).filled(np.nan)


def chance_scores(run):
    """Return the expected metrics (4 + G,) of random scores on a run's test trailers, averaged over the splits."""
    return mean_and_std([divita.chance_metrics(true) for _, true, _ in run.tests.values()])[0]


def bootstrap(a, b):
    """Return the 95 % paired-bootstrap interval (2, 4) of two runs' METRICS differences, in percent."""
    if a.test_digest != b.test_digest:
        raise UserError(f"{a.name} and {b.name}: different test trailers or genres; retrain both on the same ones")
    trailers = np.unique([mid for mids, _, _ in a.tests.values() for mid in mids])
    tests = {x.name: [(*t, divita.compute_metrics(*t[1:])["per_trailer"]) for t in x.tests.values()] for x in (a, b)}

    def scores(run, counts):  # (trailers,) draws of each -> METRICS (4,)
        metrics = []
        for mids, true, p, per_trailer in tests[run.name]:
            rows = np.repeat(np.arange(len(mids)), counts[np.searchsorted(trailers, mids)])
            metrics.append(divita.compute_metrics(true[rows], p[rows], per_trailer[rows]))
        return np.mean([[100 * split[name] for name in METRICS] for split in metrics], 0)

    n, generator = len(trailers), np.random.default_rng(BOOTSTRAP_SEED)
    draws = tqdm(generator.multinomial(n, np.full(n, 1 / n), RESAMPLES), "bootstrap", leave=False)  # for all splits
    differences = [scores(a, counts) - scores(b, counts) for counts in draws]
    return np.nanpercentile(differences, (2.5, 97.5), axis=0)  # without resamples that lack positives


# ---- Reading runs ----


@dataclass
class Run:
    """A configuration, trained and tested on its splits."""

    name: str
    folders: list  # one per split
    config: dict  # common to all splits, except for divita.SPLIT_FIELDS; "leaked" is their sum
    metas: dict  # {input name: metadata}
    trained: set  # mids of the training subsets of all splits
    tests: dict  # split -> mids (N), genres (N, G), probabilities (N, G); without splits that have no positive
    test_digest: str  # digest of the test trailers and their genres; equal in comparable runs
    histories: list  # per split {"epoch", "loss" and "val_loss": an array over epochs}
    validation: float  # mean validation uAP over the splits, in percent
    mean: np.ndarray  # (4 + G,): METRICS and PR AUC per genre on the test trailers, in percent; NaN if unknown
    deviation: np.ndarray  # (4 + G,): their sample standard deviation over the splits
    parameters: int  # of head and backbones; NaN if unknown, of external vectors
    gmacs: float  # billions of multiply-adds per clip, of head and backbones; NaN if unknown


def read_runs(folder, only=None):
    """Return the finished runs in a folder, or `only` this one; print which are skipped."""
    paths = [path for path in folder.glob("*/split*") if path.name.removeprefix("split").isdecimal()]
    paths = sorted(paths, key=lambda path: (path.parent.name, int(path.name.removeprefix("split"))))
    finished = [path for path in paths if (path / "config.json").exists()]
    names = list(dict.fromkeys(path.parent.name for path in finished))
    if not names:
        command = f"python 02_train.py --data DIR --runs {shlex.quote(str(folder))}"
        raise UserError(f"{folder}: no finished run; train first: {command}")
    if only and only not in names:
        raise UserError(f"{folder}: no finished run {only}; choose {', '.join(names)}")
    if unfinished := [f"{path.relative_to(folder)}" for path in paths if path not in finished]:
        say(f"unfinished, skipped: {', '.join(unfinished)}")
    runs, reasons = [], []
    for name in tqdm([only] if only else names, "reading runs", unit="run", leave=False):
        try:
            runs.append(read_run(name, [path for path in finished if path.parent.name == name]))
        except Exception as error:  # damaged files may raise any
            damaged = f"damaged file ({divita.one_line(error)}); retrain it with --overwrite"
            reasons.append(f"{name} skipped: {error if isinstance(error, UserError) else damaged}")
    if not runs:
        raise UserError(f"no run can be read: {'; '.join(reasons)}")
    for reason in reasons:
        say(reason)
    return runs


def read_run(name, folders):
    """Read a run from the folders of its splits and measure it. Raises UserError if their settings differ."""
    config, *others = [divita.read_json(folder / "config.json") for folder in folders]
    for other in others:
        if fields := divita.differing_config_fields(config, other):
            raise UserError(f"its splits differ in {', '.join(fields)}; retrain all with --overwrite")
    trained, tests, validation, histories = set(), {}, [], []
    for folder in folders:
        with np.load(folder / "predictions.npz", allow_pickle=False) as file:
            trained |= set(file["train_mids"].tolist())
            for subset in ("validation", "test"):
                mids, true, p = (file[f"{subset}_{key}"] for key in ("mids", "true", "probabilities"))
                if not (true.shape == p.shape == (len(mids), len(config["genres"])) and np.isfinite(p).all()):
                    raise ValueError(f"predictions.npz: {subset} arrays contain NaN or have different shapes")
                if true.any() and subset == "test":
                    tests[folder.name.removeprefix("split")] = mids.tolist(), true, p
                elif true.any():
                    validation.append(divita.pr_auc(true.ravel(), p.ravel()))
        histories.append(divita.read_columns(folder / "history.csv", ("epoch", "loss", "val_loss")))
    if not tests:
        raise UserError("no test trailer has a genre; retrain on splits where some have")
    metas = divita.input_metas(config)
    digest = divita.array_digest(repr([(split, mids, true.tolist()) for split, (mids, true, _) in tests.items()]))
    uap = 100 * np.mean(validation or [0.0])
    config["leaked"] = sum(split.get("leaked", 0) for split in (config, *others))
    scores = mean_and_std([divita.compute_metrics(true, p) for _, true, p in tests.values()])
    return Run(name, folders, config, metas, trained, tests, digest, histories, uap, *scores, *run_cost(config, metas))


def read_experiments(folder, runs):
    """Return {experiment: {label: Run, or None if not trained}} from the rows saved by 02_train.py."""
    trained, experiments = {run.name: run for run in runs}, {}
    for path in sorted(folder.glob("*.json")):
        try:
            experiments[path.stem] = {row["label"]: trained.get(row["run"]) for row in divita.read_json(path)["rows"]}
        except (KeyError, TypeError):
            raise UserError(f"{path}: no rows of an experiment; remove it or retrain the experiment") from None
    return experiments


def best_run(runs):
    return max(runs, key=lambda run: run.validation)


# ---- Comparable runs ----
# Equal training options, test trailers and metadata, except for what the names of representations show.

TRAINING_FIELDS = ("aggregation", "clips", "epochs", "lr", "batch_size", "seed", "labels")  # of config.json


def comparable(a, b):
    """Return whether two runs have equal TRAINING_FIELDS, test trailers and metadata of common (else all) backbones."""
    if any(a.config.get(name) != b.config.get(name) for name in TRAINING_FIELDS) or a.test_digest != b.test_digest:
        return False
    pairs = [(x, y) for x in a.metas.values() for y in b.metas.values()]
    common = [(x, y) for x, y in pairs if x["backbone"] == y["backbone"]]
    return not any(differing_meta_fields(x, y) for x, y in common or pairs)


def group_by_test_set(rows):
    """Return {label: Run} in groups with the same test trailers, the largest group first."""
    groups = {}
    for label, run in rows.items():
        groups.setdefault(run.test_digest, {})[label] = run
    return sorted(groups.values(), key=len, reverse=True)


def differing_meta_fields(x, y):
    """Return the fields, except those in names, with known and different values; digests replace weights."""
    digests = x["backbone"] == y["backbone"] and x.get("digest") and y.get("digest")
    fields = ("digest" if digests else "weights", "detector", "frames", "precision")
    return [field for field in fields if None not in (x.get(field), y.get(field)) and x[field] != y[field]]


# ---- Tables ----


def run_tables(runs, chance, notes):
    """Return the table of all runs and the table of their genres."""
    scores = "PR AUC of test trailers in %, mean ± sample standard deviation over splits; bold: best above chance."
    gaps = "Chance: expected for random scores. mAP skips genres without a test trailer, sAP trailers without a genre."
    costs = "Parameters and multiply-adds (GMACs, per clip) are those of backbones and head."
    numbered = {f"{i}. {run.name}": run for i, run in enumerate(runs, 1)}
    overall = scores_table("All runs", numbered, [scores, gaps, costs, *notes])
    overall.rows.append(["chance", "–", *(f"{score:.2f}" for score in chance[: len(METRICS)]), "–", "–"])
    rows, cells = [["", *(f"{i}." for i in range(1, len(runs) + 1)), "chance"]], score_cells(runs)
    for j, genre in enumerate(runs[0].config["genres"], len(METRICS)):
        rows.append([genre, *(cells[run.name][j] for run in runs), format_number(chance[j], ".2f")])
    return [overall, Table("Genres", ["Runs are numbered as above."], rows)]


def scores_table(title, rows, notes=()):
    """Return the scores and costs of {label: Run, or None if not trained}, next to the paper's if on its data."""
    labels, runs, cells = list(rows), list(rows.values()), score_cells(rows.values())
    published = {label for label, run in rows.items() if run and not any(run.config[f"{x}_meta"] for x in run.metas)}
    columns = [["", *labels], ["splits", *(", ".join(run.tests) if run else "–" for run in runs)]]
    for j, metric in enumerate(METRICS):
        columns.append([metric, *(cells[run.name][j] if run else "–" for run in runs)])
        if published & PAPER.keys():
            columns.append(["paper", *(format_mean_std(*PAPER[x][j]) if x in PAPER else "–" for x in labels)])
    columns.append(["parameters", *(format_number(run.parameters, ",") if run else "–" for run in runs)])
    columns.append(["GMACs", *(format_number(run.gmacs, ".3g") if run else "–" for run in runs)])
    groups, notes = group_by_test_set({label: run for label, run in rows.items() if run}), [*notes]
    for group in groups:
        counts = [len(mids) for mids, _, _ in next(iter(group.values())).tests.values()]
        which = f" of {', '.join(group)}, not comparable with other rows" if len(groups) > 1 else ""
        few = f"; with fewer than {FEW_TRAILERS}, differences mean little" if min(counts) < FEW_TRAILERS else ""
        notes.append(f"Test trailers per split{which}: {', '.join(map(str, counts))}{few}.")
    if missing := [label for label, run in rows.items() if not run]:
        notes.append(f"Not trained yet: {', '.join(missing)}.")
    return Table(title, notes, list(zip(*columns)), text_columns=2)


def data_notes(runs):
    """Return sentences on misleading scores and unknown costs of the runs."""
    notes, metas = [], [meta for run in runs for meta in run.metas.values()]
    if any(meta.get("synthetic") for meta in metas):
        notes.append("Synthetic demo trailers: these scores say nothing about real movies.")
    if names := sorted({meta["backbone"] for meta in metas if meta.get("weights") == "random"}):
        notes.append(f"Random weights, not pretrained: {', '.join(names)}.")
    if names := sorted({meta["backbone"] for meta in metas if divita.is_external(meta)}):
        notes.append(f"External vectors: {', '.join(names)}; an unknown cost is – and not plotted.")
    for run in runs:
        if leaked := run.config["leaked"]:
            notes.append(f"Leakage: {leaked} validation or test trailers of {run.name} are also in training.")
        count, trailers = min((len(np.unique(column)), len(p)) for _, _, p in run.tests.values() for column in p.T)
        if count <= min(FEW_PROBABILITIES, trailers / 2):
            notes.append(f"Ties raise PR AUC above 50: {run.name}, {count} probabilities for {trailers} trailers.")
    if all(len({*true.sum(0)} - {0}) == 1 for run in runs for _, true, _ in run.tests.values()):
        notes.append("All genres are equally frequent: wAP equals mAP.")
    return notes


def write_table_csv(path, runs):
    """Write a row per run, means and sample standard deviations in percent; unknown values are empty cells."""
    header = ["run", "image", "video", "aggregation", "fusion", "splits"]
    header += [name for metric in METRICS for name in (metric, f"{metric}_std")]
    header, rows = [*header, *runs[0].config["genres"], "parameters", "gmacs"], []
    for run in runs:
        cells = [run.name, *(run.config[key] or "" for key in header[1:5]), " ".join(run.tests)]
        cells += [format_number(x, ".4f", missing="") for x in np.insert(run.mean, range(1, 5), run.deviation[:4])]
        costs = (run.parameters, ""), (run.gmacs, ".6g")
        rows.append([*cells, *(format_number(x, form, missing="") for x, form in costs)])
    divita.write_csv(path, header, rows)


PAPER = {  # the paper's transfer table: label -> mean and standard deviation of uAP, mAP, wAP and sAP
    "ShuffleNet-2D": ((71.69, 0.44), (66.47, 0.73), (70.51, 0.50), (76.60, 0.77)),
    "ShuffleNet-3D": ((63.43, 1.54), (58.18, 1.50), (63.59, 1.46), (69.49, 1.58)),
    "ShuffleNet fusion": ((72.11, 0.56), (67.08, 0.37), (71.42, 0.41), (76.66, 0.73)),
    "ResNet50": ((70.92, 3.49), (66.16, 2.45), (70.23, 2.11), (75.85, 3.05)),
    "R(2+1)D": ((71.76, 2.72), (66.09, 2.44), (70.81, 2.21), (76.33, 2.02)),
    "ResNet fusion": ((73.28, 0.66), (68.03, 0.63), (72.14, 0.72), (77.76, 0.44)),
    "Swin-2D": ((72.96, 4.17), (67.68, 2.63), (71.70, 2.44), (77.77, 4.08)),
    "Swin-3D": ((75.71, 2.43), (70.44, 2.10), (74.30, 2.11), (80.19, 2.61)),
}
GENRES = "action adventure comedy crime drama fantasy horror romance sci-fi thriller".split()  # of Trailers12k
CLAIMS = (  # the paper's abstract: claim, gain in uAP, experiment, label of a row, labels of its rivals
    ("shots instead of seconds, image", "+1.83 %", "segmentation", "image, shots", ["image, seconds"]),
    ("shots instead of seconds, video", "+3.75 %", "segmentation", "video, shots", ["video, seconds"]),
    ("fusion instead of the better input", "+2.91 %", "inputs", "fusion", ["image", "video"]),
    ("the same, ShuffleNet", "+2.91 %", "transfer", "ShuffleNet fusion", ["ShuffleNet-2D", "ShuffleNet-3D"]),
    ("the same, ResNet", "+2.91 %", "transfer", "ResNet fusion", ["ResNet50", "R(2+1)D"]),
    ("ShuffleNet fusion instead of Swin-3D", "-3.46 %", "transfer", "ShuffleNet fusion", ["Swin-3D"]),
)


def claims_tables(experiments, notes):
    """Return [the table of the paper's claims that comparable rows of experiments measure], [] if none."""
    rows = [["", "paper", "ours, points", "ours, relative"]]
    notes = ["Differences of uAP; the paper does not say whether its are in points or relative.", *notes]
    for claim, paper, experiment, label, others in CLAIMS:
        run, *runs = (experiments.get(experiment, {}).get(name) for name in (label, *others))
        if run and all(other and comparable(run, other) for other in runs):
            rival = best_run(runs)
            points = run.mean[0] - rival.mean[0]
            rows.append([claim, paper, f"{points:+.2f}", f"{100 * points / rival.mean[0]:+.2f} %"])
            if others == ["Swin-3D"]:
                ratios = run.parameters / rival.parameters, run.gmacs / rival.gmacs
                parameters, macs = (format_number(100 * ratio, ".2f", " %") for ratio in ratios)
                shares = f"{parameters} of Swin-3D's parameters and {macs} of its multiply-adds"
                notes.append(f"ShuffleNet fusion has {shares}; in the paper 11.82 % and 0.81 %.")
    return [Table("The paper's claims", notes, rows, text_columns=2)] if rows[1:] else []


def select_pair(runs, names, experiments):
    """Return the two runs with these names, else the best fusion run and its better single input, or None."""
    if names:
        named = {label: run for rows in experiments.values() for label, run in rows.items() if run}
        named |= {run.name: run for run in runs}
        if unknown := [name for name in names if name not in named]:
            raise UserError(f"--compare: unknown run {unknown[0]}; choose {', '.join(named)}")
        return named[names[0]], named[names[1]]
    for fusion in sorted(runs, key=lambda run: -run.validation):
        rivals = [run for run in runs if run.metas.keys() < fusion.metas.keys() and comparable(run, fusion)]
        single = {name: run for run in rivals for name in run.metas if run.config[name] == fusion.config[name]}
        if len(single) == 2:
            return fusion, best_run(single.values())


def comparison_table(a, b):
    """Return the comparison of two runs, trailer by trailer."""
    rows = [["", "A", "B", "A - B", "95 % interval"]]
    for metric, x, y, low, high in zip(METRICS, a.mean, b.mean, *bootstrap(a, b)):
        rows.append([metric, f"{x:.2f}", f"{y:.2f}", f"{x - y:+.2f}", f"{low:+.2f} to {high:+.2f}"])
    notes = [f"A: {a.name}. B: {b.name}. Paired bootstrap of the test trailers, {RESAMPLES:,} resamples."]
    return Table("Two runs, trailer by trailer", notes, rows)


# ---- Figures ----
# For half a page, in colour or greyscale.

COLOURS = ("#332288", "#117733", "#882255", "#0077BB", "#CC6677", "#44AA99", "#AA4499", "#999933", "#555555", "#CC7711")
RUN_LINES = plt.cycler(color=["#88CCEE", "#882255", "black"], ls=["-", "--", ":"], lw=[3.2, 1.5, 1.5])  # widest below
plt.switch_backend("Agg")
plt.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "figure.labelsize": 8, "figure.titlesize": 8, "text.parse_math": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS), "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.use": True, "legend.frameon": False, "savefig.dpi": 200,
})  # fmt: skip


def figures(runs, chance):
    """Yield (name, figure)."""
    groups = [[run for run in runs if [*run.metas] == names] for names in (["image", "video"], ["image"], ["video"])]
    best = [best_run(group) for group in groups if group]  # fusion, image, video
    yield "precision_recall", draw_precision_recall(best, chance)
    yield "genres", draw_genres(best, chance)
    if plotted := [run for run in runs if np.isfinite(run.parameters + run.gmacs)]:
        yield "cost", draw_cost(plotted)
    for page, first in enumerate(range(0, len(runs), 6), 1):
        yield f"training_{page}" if len(runs) > 6 else "training", draw_training(runs[first : first + 6])


def save_figure(figure, path):
    with divita.atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)


def short_name(run):
    """Return a run's name without the standard setting, for figures."""
    return run.name.replace("_fps24_fpc24", "").replace("_shots", "").replace("+", " + ")


def make_panels(count, columns, height, xlabel, ylabel):
    """Return a figure and its `count` axes, in at most `columns` columns and rows of `height` inches."""
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, -(-count // rows), figsize=(7, 1.3 + height * rows), sharey=True, squeeze=False)
    plt.setp(axes.flat[count:], visible=False)
    figure.supxlabel(xlabel)
    figure.supylabel(ylabel)
    return figure, axes.flat[:count]


def select_genres(run):
    """Return {index: genre} of the MAX_GENRES most frequent test genres of a run, and a remark if there are more."""
    genres, counts = run.config["genres"], sum(true.sum(0, dtype=int) for _, true, _ in run.tests.values())
    remark = f"; the {MAX_GENRES} most frequent of {len(genres)} genres" if len(genres) > MAX_GENRES else ""
    return {g: genres[g] for g in sorted(np.argsort(-counts, kind="stable")[:MAX_GENRES])}, remark


def draw_precision_recall(runs, chance):
    """Draw the runs' curves per genre, averaged over the splits, and chance, the expected PR AUC, as a height."""
    genres, remark = select_genres(runs[0])
    figure, axes = make_panels(len(genres), 5, 1.6, f"recall{remark}", "precision (mean over splits)")
    recall = np.linspace(0, 1, 200, endpoint=False)
    for (g, genre), axis in zip(genres.items(), axes):
        for run, line in zip(runs, RUN_LINES):
            precision = [np.full(len(recall), np.nan)]
            for _, true, p in run.tests.values():
                if true[:, g].any():
                    y, x, _ = precision_recall_curve(true[:, g], p[:, g])
                    precision.append(np.interp(recall, x[::-1], y[::-1]))
            axis.plot(recall, np.ma.masked_invalid(precision).mean(0), label=short_name(run), **line)
        axis.axhline(chance[4 + g] / 100, color="0.6", linewidth=0.8, zorder=0, label="PR AUC of chance")
        axis.set(title=textwrap.fill(genre, 17), xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 1), yticks=(0, 0.5, 1))
    figure.legend(handles=axes[0].get_lines(), loc="outside upper center")
    return figure


def draw_genres(runs, chance):
    """Draw the PR AUC per genre, a bar per run, with standard deviations and a tick at chance."""
    genres, remark = select_genres(runs[0])
    places, height, columns = np.arange(len(genres)), 0.8 / len(runs), [4 + g for g in genres]
    figure, axis = plt.subplots(figsize=(7, 1.5 + (0.08 + 0.09 * len(runs)) * len(genres)))
    for i, (run, shade) in enumerate(zip(runs, ("0.5", "0.8", "1"))):
        mean, deviation = np.nan_to_num([run.mean[columns], run.deviation[columns]])
        errors = np.clip(deviation, 0, [mean, np.maximum(100 - mean, 0)])  # within 0 to 100
        style = {"color": shade, "edgecolor": "black", "linewidth": 0.8, "capsize": 1.5, "label": short_name(run)}
        axis.barh(places - 0.4 + (i + 0.5) * height, mean, height, xerr=errors, error_kw={"linewidth": 0.8}, **style)
    axis.vlines(chance[columns], places - 0.45, places + 0.45, "black", ":", label="chance", linewidth=1)
    axis.set_yticks(places, genres.values())
    axis.set(xlim=(0, 100), ylim=(len(genres) - 0.5, -0.5), xlabel=f"area under the precision-recall curve (%){remark}")
    figure.legend(loc="outside upper center")
    return figure


def draw_cost(runs):
    """Draw uAP against multiply-adds, with parameters as circle areas and labels moved apart."""
    figure, axis = plt.subplots(figsize=(7, max(3, 0.8 + 0.25 * len(runs))))
    gmacs, scores, parameters = np.array([(run.gmacs, run.mean[0], run.parameters) for run in runs]).T  # best first
    areas = 900 * parameters / parameters.max()
    axis.scatter(gmacs, scores, areas, alpha=0.8, facecolor="0.9", edgecolor="black")
    axis.margins(0.15, 0.2)
    low, high = axis.get_ylim()
    down = (high - low) * 0.14 / (figure.get_figheight() - 0.8) * np.arange(len(runs))  # a line of text is 0.14 inches
    heights = np.maximum(np.minimum.accumulate(scores + down) - down, low + down[::-1])
    for run, x, y, radius, height in zip(runs, gmacs, scores, np.sqrt(areas / np.pi), heights):  # radius in points
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkB": radius, "relpos": (0, 0.5)}
        place = {"xytext": (radius + 6, height), "textcoords": ("offset points", "data"), "va": "center"}
        axis.annotate(f"{short_name(run)}: {run.parameters / 1e6:.3g} M", (x, y), size=7, arrowprops=line, **place)
    axis.set(xlabel="billions of multiply-adds per clip", ylabel="uAP (%)", xscale="log")
    axis.set_title("area: parameters of backbones and head (M: millions)")
    axis.xaxis.get_major_locator().set_params(subs=(1, 1.5, 2, 3, 5, 7))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_yticks([value for value in axis.get_yticks() if 0 <= value <= 100])
    return figure


def draw_training(runs):
    """Draw the losses of at most six runs per split and epoch, and mark the best epoch."""
    figure, axes = make_panels(len(runs), 3, 1.9, "epoch", "binary cross-entropy (nats per label)")
    for run, axis in zip(runs, axes):
        for history in run.histories:
            epoch, best = history["epoch"], np.argmin(history["val_loss"])
            axis.plot(epoch, history["loss"], "--", color="0.55", linewidth=0.9, label="training")
            axis.plot(epoch, history["val_loss"], "-", color="C0", linewidth=0.9, label="validation")
            axis.plot(epoch[best], history["val_loss"][best], "ok", markersize=3.5, label="best epoch")
        axis.set_title(textwrap.fill(short_name(run), 32))
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=axes[0].get_lines()[:3], loc="outside upper center", ncols=3, title="one line per split")
    return figure


# ---- New trailers ----


def predict_new_trailers(arguments):
    """Prepare new trailers and report their predictions; return the exit status."""
    runs, paths, status = read_runs(arguments.runs, arguments.run), arguments.predict, 0
    run = best_run(runs)
    if not arguments.run:
        say(f"using {run.name}, best of {len(runs)} on validation")
    if any(paths[0].glob("*.npy")):
        raise UserError(f"{paths[0]}: a folder of vectors; add its meta.json and pass its parent, {paths[0].parent}")
    if len(paths) == 1 and divita.list_representations(paths[0]):  # a prepared folder
        data, videos = paths[0], {}
    else:
        common = Path(os.path.commonpath([os.path.abspath(path) for path in paths]))  # the video or a folder
        name = (common.name if common.is_dir() else common.stem) or "videos"
        data, videos = arguments.data or Path("data") / name, divita.find_videos(paths)
    out = divita.check_writable(arguments.out or Path("results") / data.resolve().name)
    if videos:
        command = [sys.executable, Path(__file__).with_name("01_prepare.py"), "--like", arguments.runs / run.name]
        command += ["--videos", *(path.absolute() for path in paths), "--out", data.absolute()]
        command += ["--weights", *arguments.weights] if arguments.weights else []
        single = {k: v for k, v in os.environ.items() if not re.match("(LOCAL_)?(RANK|WORLD_SIZE)|TORCHELASTIC", k)}
        status = subprocess.run(command, stdout=subprocess.DEVNULL, env=single).returncode
        if status < 0:
            raise UserError(f"{data}: 01_prepare.py was killed by signal {-status}, perhaps out of memory; rerun")
        prepared = any((path / f"{mid}.npy").exists() for mid in videos for path in divita.list_representations(data))
        if status not in (0, 1) or not prepared:  # 1: some videos failed
            return status  # with the message of 01_prepare.py
    representations = [open_input(data, run, arguments.runs, input_name) for input_name in run.metas]
    mids = sorted(videos or set().union(*(x.rows for x in representations)))
    rows, skipped = divita.select_trailers(mids, representations)
    if not len(rows):
        raise UserError(f"{data}: no usable trailer; {skipped}")
    if skipped and not status:
        say(skipped)
    label = f"{arguments.runs.resolve().name}/{run.name}"
    report_predictions(run, label, [mids[row] for row in rows], representations, data / "pictures", out)
    return status


def open_input(data, run, runs, input_name):
    """Open the representation in `data` for an input of a run. Raises UserError if missing or with other settings."""
    meta, where = run.metas[input_name], f"the {input_name} input of {run.name}"
    name = run.config[input_name] if run.config[f"{input_name}_meta"] else meta["backbone"]  # published: any name
    path = divita.find_representation(data, name, missing_ok=True)
    if path:
        x = divita.open_representation(data, path.name)
        fields = differing_meta_fields(divita.read_meta(path), meta)
        fields += ["number of features"] if x.num_features != run.config[f"{input_name}_features"] else []
        if not fields:
            return x
    what = f"{path}: different {' and '.join(fields)} than {where}" if path else f"{data}: {name} missing, {where}"
    if divita.is_external(meta):
        raise UserError(f"{what}; extract the new trailers' vectors in the same way as the run's")
    like = shlex.join(["python", "01_prepare.py", "--like", f"{runs / run.name}", "--videos", "DIR", "--out", "NEW"])
    raise UserError(f"{what}; prepare the videos with {like}")


def report_predictions(run, label, mids, representations, strips, out):
    """Predict trailers by the mean of a run's models; print, write and draw their genres."""
    say(f"{divita.select_device()}; trailers: {len(mids)}, models: {len(run.folders)}")
    models = [divita.load_model(path / "model.keras") for path in run.folders]
    if any(meta.get("synthetic") for meta in run.metas.values()):
        say(f"{run.name} was trained on synthetic trailers: its genres for real movies mean nothing")
    if seen := [mid for mid in mids if mid in run.trained]:
        say(f"{run.name} was trained on {len(seen)} of these trailers ({divita.abbreviate(seen)}): optimistic scores")
    divita.remove_stale_files(out)
    genres, length = run.config["genres"], run.config["snippet_clips"]
    clips = [[x[mid] for x in representations] for mid in mids]  # [[(C, F), ...], ...]
    probabilities = np.mean([divita.predict_trailers(model, clips, length) for model in models], 0)  # (N, G)
    write_predictions(out / "predictions.csv", label, genres, dict(zip(mids, probabilities)))
    for mid, p in zip(mids, probabilities):
        remark = "" if p.max() >= THRESHOLD else f"none reaches {THRESHOLD}, likeliest: "
        likely = np.argsort(-p)[: max(1, (p >= THRESHOLD).sum())]
        say(f"{mid}: {remark}{', '.join(f'{genres[g]} {p[g]:.2f}' for g in likely)}")
    tables = [x.path.parent / x.meta["clips"] for x in representations if x.meta and x.meta.get("clips")]  # equal
    if not tables:
        say("no clip tables: figures assume one second per clip")
    without = []
    for mid, p, vectors in tqdm(list(zip(mids, probabilities, clips)), "figures", unit="figure", leave=False):
        snippets = [sliding_snippets(x, length) for x in vectors]  # [(N, S, F), ...]
        over_time = np.mean([divita.predict_snippets(model, snippets) for model in models], 0)  # (N, G)
        times, strip = clip_times(tables, mid, len(vectors[0])), read_strip(strips / f"{mid}.jpg")
        without += [mid] * (not strip)
        figure = draw_trailer(f"{mid}, by {label}", p, over_time, genres, times, strip)
        save_figure(figure, out / label / f"{mid}.png")
    if without:
        say(f"{strips}: no strip of {divita.abbreviate(without)}; trailers: {len(without)} of {len(mids)}")
    figures = divita.abbreviate([str(out / label / f"{mid}.png") for mid in mids])
    say(f"probabilities: {out / 'predictions.csv'}\nfigures: {figures}")


def sliding_snippets(clips, length):
    """Cut a trailer into sliding snippets with stride 1: (C, F) -> (N, S, F)."""
    width = min(length, max(1, len(clips) // 4))  # so that short trailers vary over time too
    zeros = round(width * max(0, length - len(clips)) / len(clips))  # the same share as in evaluation
    snippets = np.lib.stride_tricks.sliding_window_view(clips, width, axis=0).swapaxes(1, 2)  # (N, width, F)
    return np.pad(snippets, ((0, 0), (0, zeros), (0, 0)))


def write_predictions(path, label, genres, probabilities):
    """Update a table with a run's {mid: probabilities (G,)}; rows of other runs and trailers are kept."""
    header, lines = divita.read_table(path) if path.exists() else ([], [])
    rows = [dict(zip(header, cells)) for _, cells in lines]
    rows = [row for row in rows if row.get("run") != label or row.get("mid") not in probabilities]
    for mid, p in probabilities.items():
        rows.append({"mid": mid, "run": label} | {genre: f"{x:.4f}" for genre, x in zip(genres, p)})
    header = dict.fromkeys(["mid", "run", *(name for row in rows for name in row)])
    divita.write_csv(path, header, [[row.get(name, "") for name in header] for row in rows])


def clip_times(tables, mid, count):
    """Return shot, start_s and end_s (C,) of a trailer's clips from the first folder of clip tables, else 1 s each."""
    if not tables:
        return {"shot": np.zeros(count), "start_s": np.arange(count), "end_s": np.arange(count) + 1.0}
    times = divita.read_columns(tables[0] / f"{mid}.csv", ("shot", "start_s", "end_s"))
    if len(times["shot"]) != count:
        raise UserError(f"{tables[0] / mid}.csv: {len(times['shot'])} clips, but {count} vectors; prepare {mid} again")
    return times


def draw_trailer(title, p, over_time, genres, times, strip):
    """Draw a band per genre, likeliest first, with its probability over time; below, the images of the strip."""
    width, end = len(times["shot"]) - len(over_time) + 1, times["end_s"][-1]
    middle = (times["start_s"][: len(over_time)] + times["end_s"][width - 1 :]) / 2  # (N,)
    cuts = times["start_s"][1:][np.diff(times["shot"]) > 0]
    order = np.argsort(-p)[:MAX_GENRES]
    remark = f"; the {MAX_GENRES} likeliest of {len(p)} genres" if len(p) > MAX_GENRES else ""
    floors = -1.35 * np.arange(len(order))  # band bottoms
    bottom = floors[-1] - (1.7 if strip else 0)
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.2 * (1 - bottom)))
    axis.vlines(cuts, floors[-1], 1, color="0.85", linewidth=0.5, zorder=0)
    axis.hlines(floors + THRESHOLD, 0, end, color="0.5", linewidth=0.5, linestyle=":")
    for g, floor in zip(order, floors):
        y = floor + np.pad(over_time[:, g], 1, "edge")
        axis.fill_between([0, *middle, end], floor, y, color=f"C{g}", alpha=0.6)
        weight = "bold" if p[g] >= THRESHOLD else "normal"
        axis.text(-0.01 * end, floor + 0.5, f"{genres[g]} {p[g]:.2f}", ha="right", va="center", weight=weight)
    for i, image in enumerate(strip):
        center = (i + 0.5) / len(strip) * end, (bottom + floors[-1]) / 2  # zoom: 90 pixels are 0.275 inches
        axis.add_artist(AnnotationBbox(OffsetImage(image, zoom=0.22), center, frameon=False, pad=0))
    axis.set(xlim=(0, end), ylim=(bottom, 1), yticks=[], xlabel=f"time (s); grey lines: cuts{remark}")
    figure.suptitle(f"{title}\nprobability (0 to 1, dots at {THRESHOLD}), clips in a snippet: {width}")
    return figure


def read_strip(path):
    """Return the ten RGB images of a strip written by 01_prepare.py; [] if missing or damaged."""
    try:
        return np.split(cv2.imread(str(path))[..., ::-1], 10, axis=1) if path.is_file() else []
    except (cv2.error, TypeError, ValueError):  # too large, unreadable, another width
        return []


# ---- Cost ----


def run_cost(config, metas):
    """Return (parameters, GMACs per clip) of a run's head and backbones, NaN if unknown."""
    num_features, length = {name: config[f"{name}_features"] for name in metas}, config["snippet_clips"]
    head = divita.divita(num_features, len(config["genres"]), config["aggregation"], config["fusion"] or "late")
    parameters, macs = divita.model_cost(head, *((1, length, count) for count in num_features.values()))
    costs = [(parameters, macs / length)]  # from a snippet's to a clip's multiply-adds
    for meta in metas.values():
        if "parameters" in meta or divita.is_external(meta):
            costs.append([np.nan if meta.get(name) is None else meta[name] for name in ("parameters", "macs_per_clip")])
        else:  # published
            costs.append(backbone_cost(meta["backbone"], meta["frames"]))
    return sum(parameters for parameters, _ in costs), sum(macs for _, macs in costs) / 1e9


@cache
def backbone_cost(name, frames):
    """Return (parameters, multiply-adds per clip of `frames` frames) of a backbone."""
    backbone = divita.get_backbone(name)
    passes, depth = (frames, ()) if backbone.input == "image" else (1, (frames,))
    shape = (*depth, backbone.size, backbone.size, 3)
    parameters, macs = divita.model_cost(backbone.build(shape), (1, *shape))
    return parameters, passes * macs


def costs_table():
    """Return the cost of every backbone for a clip of 24 frames."""
    rows = [["", "input", "parameters", "GMACs, 24 frames", "1 frame"]]
    for name, backbone in tqdm(divita.BACKBONES.items(), "backbones", unit="backbone", leave=False):
        parameters, macs = backbone_cost(name, 24)
        rows.append([name, backbone.input, f"{parameters:,}", f"{macs / 1e9:.4g}", f"{macs / 24e9:.3g}"])
    return Table("Backbones", ["Without classification layers."], rows, text_columns=2)


# ---- Table formatting ----
# Markdown and LaTeX from the same cells; unknown numbers are dashes.

LATEX = str.maketrans({character: rf"\{character}" for character in "%#&_${}"})
LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}", "±": r"$\pm$"})


@dataclass
class Table:
    title: str
    notes: list  # sentences below the table
    rows: list  # lists of cells, the first is the header; **bold** as in Markdown
    text_columns: int = 1  # left-aligned columns of text; the rest are numbers

    def markdown(self):
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*rows)]
        aligns = ["<" if j < self.text_columns else ">" for j in range(len(widths))]
        rows.insert(1, ["-" * w if align == "<" else "-" * (w - 1) + ":" for align, w in zip(aligns, widths)])
        lines = [" | ".join(f"{cell:{align}{w}}" for cell, align, w in zip(row, aligns, widths)) for row in rows]
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines), "", *self.notes, ""])

    def latex(self):
        header, *rows = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in self.rows]
        columns = "l" * self.text_columns + "r" * (len(self.rows[0]) - self.text_columns)
        caption, notes = f"{self.title}.".translate(LATEX), " ".join(self.notes).translate(LATEX)
        lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        lines += [header, r"\hline", *rows, r"\hline", r"\end{tabular}", r"\par\footnotesize", notes, r"\end{table}"]
        return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", "\n".join([*lines, ""]))


def format_mean_std(mean, deviation):
    """Return mean ± sample standard deviation as text; only the mean or a dash if NaN."""
    return format_number(mean, ".2f") + ("" if np.isnan(deviation) else f" ± {deviation:.2f}")


def score_cells(runs):
    """Return {run name: cells (4 + G)}; bold: the best above chance in the largest group by test trailers."""
    named = {run.name: run for run in runs if run}
    cells = {name: [*map(format_mean_std, run.mean, run.deviation)] for name, run in named.items()}
    rivals = [*next(iter(group_by_test_set(named)), {}).values()]
    if len(rivals) > 1:
        means = np.round([run.mean for run in rivals], 2)  # (runs, 4 + G)
        for i, j in np.argwhere((means == np.fmax.reduce(means)) & (means > chance_scores(rivals[0]))):
            cells[rivals[i].name][j] = f"**{cells[rivals[i].name][j]}**"
    return cells


def format_number(value, form, unit="", missing="–"):
    """Return a number as text, `missing` for NaN."""
    return missing if np.isnan(value) else f"{value:{form}}{unit}"


if __name__ == "__main__":
    divita.run_script(main, ARGUMENTS)
