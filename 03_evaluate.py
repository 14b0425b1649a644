"""Trained heads -> metrics, cost, tables and figures; and the genres of new trailers.

    python 03_evaluate.py                                      the demo's runs, into results/demo
    python 03_evaluate.py --runs runs/mine                     your own, into results/mine
    python 03_evaluate.py --compare RUN RUN                    which two runs to compare, trailer by trailer
    python 03_evaluate.py --costs                              parameters and multiply-adds of every backbone
    python 03_evaluate.py --predict trailer.mp4                genres of a film, of several, or of a folder of films
    python 03_evaluate.py --predict data/new --run RUN         of trailers that 01_prepare.py has prepared already

Every finished run below --runs is read. All metrics are areas under precision-recall curves of the test trailers, by
the trapezoid rule, in percent: mean and sample standard deviation over the splits. Where one run is chosen among
several, it is the one with the best uAP on the validation trailers.
"""

import argparse
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESAMPLES = 1000  # of the bootstrap behind a confidence interval
SEED = 0  # of them
THRESHOLD = 0.5  # a genre is predicted from this probability on


def parse_arguments():
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # so that an error is one line
    add = parser.add_argument_group("tables and figures").add_argument
    add("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="trained by 02_train.py (runs/demo)")
    add("--out", metavar="DIR", type=Path, help="for results (results/<name of --runs, or of the new trailers' data>)")
    add("--compare", metavar="RUN", nargs=2, help="two runs (the best of two inputs and of one of them)")
    add("--costs", action="store_true", help="only count the cost of every backbone")
    add = parser.add_argument_group("new trailers").add_argument
    add("--predict", metavar="PATH", type=Path, nargs="+", help="films, folders of films, or one prepared folder")
    add("--run", metavar="RUN", help="whose models, one per split, predict their genres (the best by validation)")
    add("--data", metavar="DIR", type=Path, help="where films are prepared (data/<name of the film or folder>)")
    add("--weights", metavar="NAME=FILE", nargs="+", help="checkpoints, where the run's came from files")
    arguments = parser.parse_args()
    if arguments.run and not arguments.predict:
        parser.error("--run says whose models --predict takes; give --predict too")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ARGUMENTS = parse_arguments()

import divita  # first, as it sets Keras's backend and the number of threads

# isort: split
import cv2
import matplotlib
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve
from tqdm import tqdm

from divita import METRICS, UserError, say

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage


def main(arguments):
    if arguments.costs:
        return say(costs_table().markdown())
    return predict(arguments) if arguments.predict else evaluate(arguments)


def evaluate(arguments):
    """Read the runs, write their tables and figures, then print the tables."""
    out = divita.writable(arguments.out or Path("results") / arguments.runs.resolve().name)
    runs = sorted(read_runs(arguments.runs), key=lambda run: -run.mean[0])
    genres = runs[0].config["genres"]
    for run in runs:
        if run.config["genres"] != genres:
            other = divita.listed(sorted(set(run.config["genres"]) ^ set(genres)) or ["in another order"])
            raise UserError(f"{runs[0].name} and {run.name} have other genres ({other}); give each its own --runs")
    by_chance = chance(max(runs, key=lambda run: len(run.tests)))
    notes = data_notes(runs)
    tables = run_tables(runs, by_chance, notes)
    tables += [experiment_table(path, runs) for path in sorted(arguments.runs.glob("*.json"))]
    by_validation = sorted(runs, key=lambda run: -run.validation)
    tables.append(claims_table(by_validation, notes))
    if pair := compared(by_validation, arguments.compare):
        tables.append(comparison_table(*pair))
    markdown = "\n".join(table.markdown() for table in tables)
    divita.sweep(out)
    divita.write_text(out / "table.md", markdown)
    divita.write_text(out / "table.tex", "\n".join(table.latex() for table in tables))
    write_table_csv(out / "table.csv", runs)
    for name, figure in figures(runs, by_chance):
        save(figure, out / f"{name}.png")
    say(f"\n{markdown}")
    if not pair:
        say(f"no comparison of two runs: {MISSING}; name two with --compare")
    say(f"tables (table.md, table.csv, table.tex) and figures (*.png): {out}")
    command = shlex.join(["python", "03_evaluate.py", "--runs", f"{arguments.runs}", "--predict", "FILM"])
    say(f"next, the genres of a new trailer: {command} --run {shlex.quote(by_validation[0].name)}")


# ---- Reading runs ----


@dataclass
class Run:
    """A configuration and what training left of it."""

    name: str
    splits: dict  # split -> folder
    config: dict  # of all splits, which differ in divita.OF_A_SPLIT alone
    metas: dict  # "image" or "video" -> what the meta.json of that input says
    trained: set  # mids that a split was trained on
    tests: dict  # split -> mids (N), genres (N, G), probabilities (N, G); without splits whose trailers have no genre
    histories: list  # for each split {"epoch", "loss" and "val_loss": an array over epochs}
    validation: float  # uAP of the validation trailers in percent, the mean over the splits
    mean: np.ndarray  # (4 + G,): METRICS and each genre's area on the test trailers in percent, NaN if in no split
    deviation: np.ndarray  # (4 + G,): their sample standard deviation over the splits
    parameters: int  # of head and backbones
    gmacs: float  # of head and backbones, billions of multiply-adds per clip


def read_runs(folder, only=None):
    """Return the finished runs in a folder, or `only` one of them; say what is left out."""
    names = sorted({path.parent.parent.name for path in folder.glob("*/split*/config.json")})
    if not names:
        train = shlex.join(["python", "02_train.py", "--runs", f"{folder}"])
        raise UserError(f"{folder}: no finished run there; train first: {train}")
    if only and only not in names:
        raise UserError(f"{folder}: no trained run {only}; there is {', '.join(names)}")
    unfinished = [path for path in sorted(folder.glob(f"{only or '*'}/split*")) if not (path / "config.json").exists()]
    if unfinished:
        say(f"not finished, left out: {', '.join(f'{path.relative_to(folder)}' for path in unfinished)}")
    runs, reasons = [], []
    for name in tqdm([only] if only else names, "reading runs", unit="run", leave=False):
        try:
            runs.append(read_run(folder / name))
        except UserError as error:
            reasons.append(f"{name}, left out: {error}")
        except (OSError, ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile) as error:
            reason = divita.one_line(error)
            reasons.append(f"{name}, left out: one of its files is broken ({reason}); train it again, --overwrite")
    if not runs:
        raise UserError(f"no run can be read: {'; '.join(reasons)}")
    for reason in reasons:
        say(reason)
    return runs


def read_run(folder):
    """Read the finished splits of a run, which must be alike in what identifies it, and measure it."""
    paths = [path.parent for path in folder.glob("split*/config.json")]  # which is written last
    splits = {path.name.removeprefix("split"): path for path in sorted(paths, key=lambda path: (len(path.name), path))}
    configs = {split: divita.read_json(path / "config.json") for split, path in splits.items()}
    (first, config), *others = configs.items()
    for split, other in others:
        if fields := divita.unlike(config, other):
            what = f"split {first} and split {split} differ in {', '.join(fields)}"
            raise UserError(f"{what}; train them alike, with --overwrite, or each in its own --runs")
    trained, tests, areas, histories = set(), {}, [], []
    for split, path in splits.items():
        with np.load(path / "predictions.npz", allow_pickle=False) as file:
            trained |= set(file["train_mids"].tolist())
            for part in ("validation", "test"):
                mids, true, p = (file[f"{part}_{key}"] for key in ("mids", "true", "probabilities"))
                if not (len(mids) == len(true) and true.shape == p.shape and np.isfinite(p).all()):
                    raise ValueError(f"the {part} part of predictions.npz holds NaN or does not fit together")
                if true.any() and part == "test":
                    tests[split] = mids.tolist(), true, p
                elif true.any():
                    areas.append(divita.area_under_curve(true.ravel(), p.ravel()))
        header, epochs = divita.read_table(path / "history.csv")
        columns = dict(zip(header, np.array([cells for _, cells in epochs], float).T))
        histories.append({name: columns[name] for name in ("epoch", "loss", "val_loss")})
    if not tests:
        raise UserError("no test trailer has a genre, so there is nothing to measure; train on splits where some have")
    metas = divita.inputs(config)
    validation = 100 * np.mean(areas or [0.0])
    scores = over_splits([divita.metrics(true, p) for _, true, p in tests.values()])
    return Run(folder.name, splits, config, metas, trained, tests, histories, validation, *scores, *cost(config, metas))


def best(runs):
    return max(runs, key=lambda run: run.validation)


# ---- Metrics: chance, and two runs compared ----


def over_splits(metrics):
    """Return mean and sample standard deviation, (4 + G,) in percent, of divita.metrics() of the splits."""
    areas = [[*(of_split[name] for name in METRICS), *of_split["per_genre"]] for of_split in metrics]
    known = np.ma.masked_invalid(100 * np.array(areas))  # without NaN, or NaN for nothing
    return known.mean(0).filled(np.nan), known.std(0, ddof=1).filled(np.nan)


def chance(run):
    """Return what random probabilities get on a run's test trailers, (4 + G,), averaged over the splits."""
    return over_splits([divita.chance(true) for _, true, _ in run.tests.values()])[0]


def bootstrap(a, b):
    """Compare two runs by paired bootstrap: (4, 5) with a, b, a - b and its 95 % interval per metric, and a note.

    A resample draws as many trailers as there are, with replacement, from all test trailers that both runs have; a
    trailer drawn counts in each split that tests it. Metrics are averaged over the splits.
    """
    common = {}  # split -> mids (n), genres (n, G), probabilities of a and of b (n, G)
    for split in [split for split in a.tests if split in b.tests]:
        (mids, true, p), (others, same, q) = a.tests[split], b.tests[split]
        shared, rows, columns = np.intersect1d(mids, others, return_indices=True)
        if not (true[rows] == same[columns]).all():
            raise UserError(f"{a.name} and {b.name} have other genres for a trailer; train both on the same labels")
        if true[rows].any():
            common[split] = shared, true[rows], p[rows], q[columns]
    if not common:
        raise UserError(f"{a.name} and {b.name} share no split and test trailers; train both on the same --data")
    mids = np.unique(np.concatenate([shared for shared, *_ in common.values()]))
    draws = np.random.default_rng(SEED).multinomial(len(mids), np.full(len(mids), 1 / len(mids)), RESAMPLES)
    times = np.vstack([np.ones_like(draws[:1]), draws])  # (1 + R, mids); first, every trailer once
    values, absent = np.zeros((2, len(times), 4)), np.zeros(len(times), bool)
    for split, (shared, true, *probabilities) in common.items():
        drawn = times[:, np.searchsorted(mids, shared)]  # (1 + R, n)
        absent |= ((drawn @ true == 0) & true.any(0)).any(1)
        for i, p in enumerate(probabilities):
            per_trailer = divita.metrics(true, p)["per_trailer"]
            for r in tqdm(range(len(drawn)), f"bootstrap, split {split}, run {i + 1} of 2", leave=False):
                rows = np.repeat(np.arange(len(shared)), drawn[r])
                found = divita.metrics(true[rows], p[rows], per_trailer[rows])
                values[i, r] += 100 * np.array([found[metric] for metric in METRICS]) / len(common)
    difference = values[0] - values[1]  # (1 + R, 4)
    interval = np.nanpercentile(difference[1:], (2.5, 97.5), axis=0)
    note = f"{len(mids):,} test trailers of splits {', '.join(common)}, {RESAMPLES:,} resamples"
    if absent.any():
        note += f"; in {absent.sum():,} of them a genre has no positive and is left out"
    return np.stack([*values[:, 0], difference[0], *interval], 1), note


# ---- Tables ----


def run_tables(runs, by_chance, notes):
    """Return the table of all runs and the table of their genres."""
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    columns = [["", *numbers, ""], ["run", *(run.name for run in runs), "chance"]]
    columns.append(["splits", *(", ".join(run.tests) for run in runs), "–"])
    columns += [[metric, *score_cells(runs, j), f"{by_chance[j]:.2f}"] for j, metric in enumerate(METRICS)]
    columns += cost_columns([*runs, None])
    scores = """Areas under precision-recall curves of the test trailers in percent, mean ± sample standard deviation \
over the splits; highest uAP first. Chance: what random probabilities get on average."""
    costs = """Parameters and multiply-adds (GMACs, per clip) are those of backbones and head; a head's multiply-adds \
for a snippet are shared out over its clips."""
    overall = Table("All runs", [scores, costs, *gaps(runs), *notes], list(zip(*columns)), words=3)
    rows = [["", *numbers, "chance"]]
    for j, genre in enumerate(runs[0].config["genres"], len(METRICS)):
        rows.append([genre, *score_cells(runs, j), plus_minus(by_chance[j], np.nan)])
    return [overall, Table("Genres", ["Runs by their number above."], rows)]


def gaps(runs):
    """Return sentences on what could not be measured: splits, genres and trailers without a positive."""
    notes, lacking, without = [], set(), set()
    for run in runs:
        if splits := ", ".join(split for split in run.splits if split not in run.tests):
            notes.append(f"Left out of {run.name}: split {splits}, no test trailer of which has a genre.")
        for split, (mids, true, _) in run.tests.items():
            lacking |= {f"{run.config['genres'][g]} in split {split}" for g in np.flatnonzero(~true.any(0))}
            without |= {mids[row] for row in np.flatnonzero(~true.any(1))}
    if lacking:
        notes.append(f"No test trailer is of {', '.join(sorted(lacking))}: left out of mAP.")
    if without:
        notes.append(f"Test trailers without any genre, left out of sAP: {len(without):,}.")
    return notes


def data_notes(runs):
    """Return sentences on what the numbers are of: the paper's data, another, or made up."""
    if all(map(is_published, runs)):
        return ["Trained on the published representations of Trailers12k."]
    notes, metas = [], [meta for run in runs for meta in run.metas.values()]
    if any(meta.get("synthetic") for meta in metas):
        notes.append("The trailers are synthetic, made to try the code: nothing here is a finding about films.")
    notes.append("Not the paper's data: its values and these cannot be compared.")
    untrained = sorted({meta["backbone"] for meta in metas if meta["weights"] == "random"})
    if untrained:
        notes.append(f"Random weights, not pretrained: {', '.join(untrained)}.")
    return notes


def is_published(run):
    return not any(run.config[f"{kind}_meta"] for kind in run.metas)


def write_table_csv(path, runs):
    """Write a row per run, means and sample standard deviations in percent; what is not known stays empty."""
    header = ["run", "image", "video", "aggregation", "fusion", "splits"]
    header += [name for metric in METRICS for name in (metric, f"{metric}_std")]
    rows = [[*header, *runs[0].config["genres"], "parameters", "gmacs"]]
    for run in runs:
        values = [*np.stack([run.mean, run.deviation], 1)[:4].ravel(), *run.mean[4:]]
        cells = [run.name, *(run.config[key] or "" for key in header[1:5]), " ".join(run.tests)]
        cells += ["" if np.isnan(value) else f"{value:.4f}" for value in values]
        rows.append([*cells, run.parameters, f"{run.gmacs:.6g}"])
    divita.write_csv(path, rows[0], rows[1:])


def experiment_table(path, runs):
    """Return the table of one experiment of 02_train.py, beside the paper's values where they are of the same data."""
    experiment, trained = divita.read_json(path), {run.name: run for run in runs}
    try:
        title, rows = experiment["experiment"], experiment["rows"]
        labels, runs = [row["label"] for row in rows], [trained.get(row["run"]) for row in rows]
    except (KeyError, TypeError):
        raise UserError(f"{path}: does not list runs; train the experiment again") from None
    beside = any(label in PAPER and run and is_published(run) for label, run in zip(labels, runs))
    columns = [["", *labels]]
    for j, metric in enumerate(METRICS):
        columns.append([metric, *score_cells(runs, j)])
        if beside:
            papers = [PAPER[label][j] if label in PAPER else (np.nan, np.nan) for label in labels]
            differences = [run.mean[j] - paper[0] if run else np.nan for run, paper in zip(runs, papers)]
            columns.append(["paper", *(plus_minus(*paper) for paper in papers)])
            columns.append(["difference", *("–" if np.isnan(value) else f"{value:+.2f}" for value in differences)])
    columns += cost_columns(runs)
    missing = ", ".join(label for label, run in zip(labels, runs) if not run)
    notes = [f"Not trained yet: {missing}."] if missing else []
    return Table(f"Experiment: {title}", notes, list(zip(*columns)))


def compared(runs, names):
    """Return two runs to compare and why, those named or the best on both inputs and the best on one of them.

    runs: the best by validation first. The latter differ in nothing else; where there are no such runs, None.
    """
    if names:
        found = {run.name: run for run in runs}
        for name in names:
            if name not in found:
                raise UserError(f"no run is called {name}; there is {', '.join(found)}")
        return found[names[0]], found[names[1]], "Chosen with --compare."
    why = "The best run on both inputs and the best on one of them, by validation, alike in all else."
    pairs = [(a, b, why) for a in runs for b in runs if len(a.metas) > len(b.metas) and alike(a, b)]
    return pairs[0] if pairs else None


def comparison_table(a, b, why):
    """Return the comparison of two runs, trailer by trailer."""
    values, note = bootstrap(a, b)
    rows = [["", "A", "B", "A - B", "95 % interval"]]
    for metric, (x, y, difference, low, high) in zip(METRICS, values):
        rows.append([metric, f"{x:.2f}", f"{y:.2f}", f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}"])
    notes = [f"A: {a.name}. B: {b.name}. {why} Paired bootstrap: {note}."]
    return Table("Two runs, trailer by trailer", notes, rows)


# ---- The claims of the paper's abstract ----

TRAINING = ("aggregation", "clips", "epochs", "lr", "batch_size", "seed", "labels")
PREPARATION = ("backbone", "digest", "weights", "segmentation", "detector", "fps", "frames_per_clip", "frames")
PREPARATION += ("input_size", "precision", "features")
MISSING = "missing: runs on image, on video and on both, otherwise alike (02_train.py)"


def claims_table(runs, notes):
    """Return the paper's headline claims beside ours, each from two runs that differ in what the claim is about.

    runs: the best by validation first, so that the first of several pairs is the best.
    """
    rows = [["", "paper", "ours"]]
    cuts = {run.name: next(iter(run.metas.values()))["segmentation"] for run in runs}
    for kind, paper in (("image", "+1.83 %"), ("video", "+3.75 %")):
        alone = [run for run in runs if list(run.metas) == [kind]]
        shots, seconds = ([run for run in alone if cuts[run.name] == cut] for cut in ("shots", "seconds"))
        pairs = [(a, b) for a in shots for b in seconds if alike(a, b, about=("segmentation", "detector"))]
        missing = f"missing: {kind} on shots and on seconds, otherwise alike (02_train.py --experiment segmentation)"
        rows.append([f"shots instead of seconds, {kind}", paper, gain(pairs, missing)])
    fused = {}  # late or early, on shots or seconds -> pairs of a run on both inputs and the better one on one of them
    for run in runs:
        if run.config["fusion"]:
            pairs = fused.setdefault((run.config["fusion"], cuts[run.name]), [])
            others = [other for other in runs if len(other.metas) == 1 and alike(run, other)]
            if len({kind for other in others for kind in other.metas}) == 2:  # else one cannot say which is better
                pairs.append((run, others[0]))
    for (fusion, cut), pairs in sorted((fused or {("late", "shots"): []}).items(), reverse=True):
        rows.append([f"{fusion} fusion instead of its better input, {cut}", "+2.91 %", gain(pairs, MISSING)])
    backbones = {run.name: [meta["backbone"] for meta in run.metas.values()] for run in runs}
    light = [run for run in runs if backbones[run.name] == ["shufflenet2d", "shufflenet3d"]]
    top = [run for run in runs if backbones[run.name] == ["swin3d"]]
    about = ("backbone", "digest", "input_size", "features")
    pairs = [(a, b) for a in light for b in top if alike(a, b, about)]
    paper = "-3.46 %; 11.82 % of the parameters, 0.81 % of the multiply-adds"
    missing = "missing: shufflenet2d+shufflenet3d and swin3d, otherwise alike (02_train.py --experiment transfer)"
    rows.append(["ShuffleNet fusion instead of Swin-3D", paper, gain(pairs, missing, shares=True)])
    notes = ["Ours: uAP in points and relative; the paper does not say which of the two its percentages are.", *notes]
    return Table("The paper's claims", notes, rows, words=3)


def gain(pairs, missing, shares=False):
    """Return in words what the first of two runs gains on the second, and perhaps its shares of the cost."""
    if not pairs:
        return missing
    a, b = pairs[0]
    points, ratio = a.mean[0] - b.mean[0], a.mean[0] / b.mean[0]
    words = f"{points:+.2f} points ({100 * (ratio - 1):+.2f} %), {a.name} against {b.name}"
    if shares:
        words += f"; {100 * a.parameters / b.parameters:.2f} % of the parameters"
        words += f", {100 * a.gmacs / b.gmacs:.2f} % of the multiply-adds"
    return words if len(pairs) == 1 else f"{words}; best by validation of {len(pairs)} pairs"


def alike(a, b, about=()):
    """Tell whether two runs differ in nothing but their inputs and what the comparison is about, as far as both say it.

    Image inputs are compared with image inputs and video with video, or each with each if it is about the backbone.
    """
    found = differing(a.config, b.config, TRAINING)
    for (kind, x), (other, y) in itertools.product(a.metas.items(), b.metas.items()):
        if kind == other or "backbone" in about:
            found += [field for field in differing(x, y, PREPARATION) if field not in about]
    if found:
        return False
    trailers = [{split: sorted(mids) for split, (mids, _, _) in run.tests.items()} for run in (a, b)]
    return trailers[0] == trailers[1]


def differing(x, y, keys):
    """Return the keys whose values differ in two dictionaries, as far as both know them."""
    found = [key for key in keys if None not in (x.get(key), y.get(key)) and x[key] != y[key]]
    same_weights = x.get("digest") and x["digest"] == y.get("digest")  # whatever way they came
    return [key for key in found if not (key == "weights" and same_weights)]


# ---- Figures: for half a page, in colour or without ----

COLOURS = ("#332288", "#117733", "#882255", "#0077BB", "#CC6677", "#44AA99", "#AA4499", "#999933", "#555555", "#CC7711")
LINES, SHADES = ("-", "--", ":"), ("0.5", "0.8", "1")  # tell runs apart, as colours tell genres
plt.rc("font", size=8)
plt.rc("axes", titlesize=8, prop_cycle=plt.cycler(color=COLOURS))
plt.rc("axes.spines", top=False, right=False)
plt.rc("figure", labelsize=8, titlesize=8)
plt.rc("figure.constrained_layout", use=True)
plt.rc("legend", frameon=False)
plt.rc("savefig", dpi=200)
plt.rc("text", parse_math=False)


def figures(runs, by_chance):
    """Yield (name, figure) of each figure of the runs."""
    chosen = []  # the best of both inputs, of images and of video
    for kinds in (["image", "video"], ["image"], ["video"]):
        if alike := [run for run in runs if list(run.metas) == kinds]:
            chosen.append(best(alike))
    yield "precision_recall", draw_precision_recall(chosen, by_chance)
    yield "genres", draw_genres(chosen, by_chance)
    yield "cooccurrence", draw_cooccurrence(chosen[0])
    yield "cost", draw_cost(runs)
    for page, first in enumerate(range(0, len(runs), 6), 1):
        yield f"training_{page}" if len(runs) > 6 else "training", draw_training(runs[first : first + 6])


def save(figure, path):
    with divita.written(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)


def short(run):
    """Return what to call a run in a figure: its name without the default setting."""
    return run.name.replace("_fps24_fpc24", "").replace("_shots", "").replace("+", " + ")


def panels(count, most, height, xlabel, ylabel):
    """Return a figure and its axes, `count` of them, at most `most` in a row of `height` inches."""
    rows = -(-count // most)
    columns = -(-count // rows)
    figure, axes = plt.subplots(rows, columns, figsize=(7, 1.3 + height * rows), sharey=True, squeeze=False)
    for axis in axes.flat[count:]:
        axis.axis("off")
    figure.supxlabel(xlabel)
    figure.supylabel(ylabel)
    return figure, axes.flat[:count]


def draw_precision_recall(runs, by_chance):
    """Draw for each genre the curves of the runs, averaged over the splits, and the area of chance as a height."""
    genres = runs[0].config["genres"]
    figure, axes = panels(len(genres), 5, 1.6, "recall", "precision (mean over splits)")
    recall = np.linspace(0, 1, 200, endpoint=False)
    for g, (genre, axis) in enumerate(zip(genres, axes)):
        for run, line in zip(runs, LINES):
            precision = [np.full(len(recall), np.nan)]
            for _, true, p in run.tests.values():
                if true[:, g].any():
                    y, x, _ = precision_recall_curve(true[:, g], p[:, g])
                    precision.append(np.interp(recall, x[::-1], y[::-1]))
            mean = np.ma.masked_invalid(precision).mean(0)
            axis.plot(recall, mean, line, color=f"C{g}", linewidth=1.3, label=short(run))
        axis.axhline(by_chance[4 + g] / 100, color="0.6", linewidth=0.8, zorder=0, label="area of chance")
        axis.set(title=textwrap.fill(genre, 17), xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 1), yticks=(0, 0.5, 1))
    figure.legend(handles=axes[0].get_lines(), loc="outside upper center")
    return figure


def draw_genres(runs, by_chance):
    """Draw each genre's area, a bar per run, with standard deviations and a tick at chance."""
    genres = runs[0].config["genres"]
    places, height = np.arange(len(genres)), 0.8 / len(runs)
    figure, axis = plt.subplots(figsize=(7, 1.5 + (0.08 + 0.09 * len(runs)) * len(genres)))
    for i, (run, shade) in enumerate(zip(runs, SHADES)):
        mean, deviation = np.nan_to_num([run.mean[4:], run.deviation[4:]])
        within = np.clip(deviation, 0, [mean, np.maximum(100 - mean, 0)])  # no area is below 0 or above 100
        look = {"color": shade, "edgecolor": "black", "linewidth": 0.8, "capsize": 1.5, "label": short(run)}
        axis.barh(places - 0.4 + (i + 0.5) * height, mean, height, xerr=within, error_kw={"linewidth": 0.8}, **look)
    axis.vlines(by_chance[4:], places - 0.45, places + 0.45, color="black", linestyle=":", linewidth=1, label="chance")
    axis.set_yticks(places, genres)
    axis.set(xlim=(0, 100), ylim=(len(genres) - 0.5, -0.5), xlabel="area under the precision-recall curve (%)")
    figure.legend(loc="outside upper center")
    return figure


def draw_cooccurrence(run):
    """Draw what share of the test trailers of a genre is of each other genre, in truth and as predicted."""
    genres, count = run.config["genres"], len(run.config["genres"])
    tests = run.tests.values()
    rows, columns, height = (2, 1, 10) if count > 12 else (1, 2, 5)  # inches
    figure, axes = plt.subplots(rows, columns, figsize=(7, height), sharex=True, layout="compressed")
    for axis, title in zip(axes, ("truth", "predicted")):
        y = np.concatenate([true if title == "truth" else p >= THRESHOLD for _, true, p in tests]).astype(float)
        trailers = y.sum(0)
        share = 100 * (y.T @ y) / np.maximum(trailers, 1)[:, None]  # (G, G)
        matrix = ConfusionMatrixDisplay(share, display_labels=genres)
        shades = {"cmap": "Greys", "im_kw": {"vmin": 0, "vmax": 100}, "colorbar": False}
        text = {"include_values": count <= 20, "values_format": ".0f", "text_kw": {"size": 6}}  # where one can read it
        matrix.plot(ax=axis, xticks_rotation="vertical", **shades, **text)
        named = genres if title == "truth" or rows == 2 else [""] * count
        axis.set_yticks(range(count), [f"{genre} {n:.0f}".strip() for genre, n in zip(named, trailers)])
        axis.set(title=title, xlabel="", ylabel="")
        axis.tick_params(labelsize=min(8, 180 / count))
    figure.suptitle(short(run))
    what = "% of the row's trailers (number beside it, all splits)\nthat are of the column's genre too"
    figure.colorbar(matrix.im_, ax=axes, location="bottom", aspect=40, shrink=0.7, label=what)
    return figure


def draw_cost(runs):
    """Draw uAP against multiply-adds, parameters as the circles' areas; labels stand evenly at the right."""
    figure, axis = plt.subplots(figsize=(7, max(3, 0.8 + 0.25 * len(runs))))
    most = max(run.parameters for run in runs)
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
    options = {"textcoords": "axes fraction", "va": "center", "size": 7, "arrowprops": line}
    for i, run in enumerate(runs):  # the best at the top
        place, label = (run.gmacs, run.mean[0]), f"{short(run)}: {run.parameters / 1e6:.3g} M"
        axis.scatter(*place, 900 * run.parameters / most, alpha=0.8, facecolor="0.9", edgecolor="black")
        axis.annotate(label, place, xytext=(1.06, 1 - (i + 0.5) / len(runs)), **options)
    axis.set(xlabel="billions of multiply-adds per clip", ylabel="uAP (%)", xscale="log")
    axis.set_title("area: parameters of backbones and head (M: millions)")
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.margins(0.15, 0.2)
    axis.set_yticks([value for value in axis.get_yticks() if 0 <= value <= 100])
    return figure


def draw_training(runs):
    """Draw the losses of at most six runs' splits over the epochs, with the epoch kept."""
    figure, axes = panels(len(runs), 3, 1.9, "epoch", "binary cross-entropy (nats per label)")
    for run, axis in zip(runs, axes):
        for history in run.histories:
            epoch, kept = history["epoch"], np.argmin(history["val_loss"])
            axis.plot(epoch, history["loss"], "--", color="0.55", linewidth=0.9, label="training")
            axis.plot(epoch, history["val_loss"], "-", color="C0", linewidth=0.9, label="validation")
            axis.plot(epoch[kept], history["val_loss"][kept], "ok", markersize=3.5, label="epoch kept")
        axis.set_title(textwrap.fill(short(run), 32))
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=axes[0].get_lines()[:3], loc="outside upper center", ncols=3, title="one line per split")
    return figure


# ---- New trailers ----


def predict(arguments):
    """Print the genres of new trailers, draw them over time, add them to predictions.csv; return the exit status."""
    runs, status = read_runs(arguments.runs, arguments.run), 0
    run = best(runs)
    if not arguments.run:
        say(f"{run.name}: {'the only run' if len(runs) == 1 else f'the best of {len(runs)} runs by validation'}")
    films, data = films_and_data(arguments)
    out = divita.writable(arguments.out or Path("results") / data.resolve().name)
    if films:
        command = [sys.executable, Path(__file__).with_name("01_prepare.py"), "--like", arguments.runs / run.name]
        command += ["--videos", *arguments.predict, "--out", data]
        if arguments.weights:
            command += ["--weights", *arguments.weights]
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode  # its bar and errors are shown
        if status not in (0, 1):  # 1: some films have failed
            return status if status > 0 else 128 - status  # it has said why, or a signal has ended it
        if not any((path / f"{mid}.npy").exists() for mid in films for path in divita.representations(data)):
            return status  # each film has failed and was named
    inputs = [matching(data, arguments.runs / run.name, kind, meta) for kind, meta in run.metas.items()]
    everyone = sorted(films or set().union(*(x.rows for x in inputs)))
    rows, left_out = divita.usable(everyone, inputs)
    mids = [everyone[row] for row in rows]
    if not mids:
        raise UserError(f"{data}: no trailer there can be predicted; {left_out}")
    if left_out and not status:
        say(left_out)
    if not films:
        try:
            films = divita.find_videos((inputs[0].meta or {}).get("videos") or [data / "videos"])
        except UserError as error:
            say(f"no pictures: {error}")
            films = {}
    predict_trailers(run, f"{arguments.runs.resolve().name}/{run.name}", mids, inputs, films, out)
    return status


def predict_trailers(run, called, mids, inputs, films, out):
    """Predict trailers by the models of a run: the means over the models; draw them and put them into a table."""
    models = [divita.load_model(path / "model.keras") for path in run.splits.values()]
    say(f"{divita.device()}; trailers: {len(mids)}, models: {len(models)}")
    if any(meta.get("synthetic") for meta in run.metas.values()):
        say(f"{run.name} was trained on synthetic trailers: the genres that it finds in films mean nothing")
    if known := [mid for mid in mids if mid in run.trained]:
        say(f"{run.name} was trained on {len(known)} of these trailers ({divita.listed(known)}), which flatters it")
    divita.sweep(out)
    genres, length, found = run.config["genres"], run.config["snippet_clips"], {}
    for mid in tqdm(mids, "trailers", unit="trailer", leave=False):
        clips = [x[mid] for x in inputs]  # [(C, F), ...]
        snippets = [overlapping(x, length) for x in clips]  # [(windows, S, F), ...]
        p = np.mean([divita.predict(model, [clips], length)[0] for model in models], 0)  # (G,)
        over_time = np.mean([divita.snippet_probabilities(model, snippets) for model in models], 0)  # (windows, G)
        times = clip_times(inputs[0], mid)
        pictures = pictures_of(films[mid], times["end_s"][-1]) if mid in films else []
        figure = draw_trailer(f"{mid}, by {called}", p, over_time, genres, times, pictures)
        save(figure, out / f"genres_of_{mid}_{called.replace('/', '-')}.png")
        found[mid] = p
    write_predictions(out / "predictions.csv", called, genres, found)
    for mid, p in found.items():
        order = np.argsort(-p)
        words = ", ".join(f"{genres[g]} {p[g]:.2f}" for g in order if p[g] >= THRESHOLD)
        likeliest = f"{genres[order[0]]} {p[order[0]]:.2f}"
        say(f"{mid}: {words or f'no genre from {THRESHOLD} on; likeliest {likeliest}'}")
    say(f"probabilities (predictions.csv) and figures (genres_of_*.png): {out}")


def films_and_data(arguments):
    """Return {mid: film} and the folder to prepare them in, or None and a folder that 01_prepare.py has prepared."""
    paths = arguments.predict
    prepared = [path for path in paths if divita.representations(path)]
    if prepared and len(paths) > 1:
        raise UserError(f"--predict: {prepared[0]} is a folder that 01_prepare.py made; give it alone")
    if prepared:
        return None, prepared[0]
    films = divita.find_videos(paths)
    if arguments.data:
        return films, arguments.data
    common = Path(os.path.commonpath([os.path.abspath(path) for path in paths]))
    name = common.name if common.is_dir() else common.stem
    return films, Path("data") / (name or "films")


def matching(data, run, kind, expected):
    """Open the representation in `data` that was made as an input of a run was; a UserError says what differs."""
    found = []
    for path, meta in divita.representations(data).items():
        if meta["backbone"] == expected["backbone"]:
            found.append((differing(meta, expected, PREPARATION), path, meta))
    path, meta, what = data, {}, f"no representation by {expected['backbone']} there"
    if found:
        other, path, meta = min(found, key=lambda candidate: len(candidate[0]))
        if not other:
            return divita.open_representation(data, path.name)
        values = "; ".join(f"{field} {meta[field]}, not {expected[field]}" for field in other)
        what = f"not made as the run's {kind} input: {values}"
    new = data.with_name(f"{data.resolve().name}_like_{run.name}")
    again = ["python", "01_prepare.py", "--like", f"{run}", "--videos", *(meta.get("videos") or ["DIR"])]
    raise UserError(f"{path}: {what}; make it with: {shlex.join([*again, '--out', f'{new}'])}")


def overlapping(clips, length):
    """Cut a trailer into overlapping snippets, one from each clip on: (C, F) -> (windows, S, F).

    A snippet is at most a quarter of the trailer, so that a short one has a course too, and holds the same share of
    zeros as evaluation pads the trailer with.
    """
    width = min(length, max(1, len(clips) // 4))
    zeros = round(width * max(0, length - len(clips)) / len(clips))
    cut = np.lib.stride_tricks.sliding_window_view(clips, width, axis=0).swapaxes(1, 2)  # (windows, width, F)
    return np.pad(cut, ((0, 0), (0, zeros), (0, 0)))


def write_predictions(path, called, genres, found):
    """Put {mid: probabilities (G,)} by a run into a table that keeps the rows of other runs and trailers."""
    rows = []
    if path.exists():
        header, lines = divita.read_table(path)
        there = [dict(zip(header, cells)) for _, cells in lines]
        rows = [row for row in there if row.get("run") != called or row.get("mid") not in found]
    for mid, p in found.items():
        rows.append({"mid": mid, "run": called} | {genre: f"{x:.4f}" for genre, x in zip(genres, p)})
    header = dict.fromkeys(["mid", "run", *itertools.chain(*rows)])
    divita.write_csv(path, header, [[row.get(name, "") for name in header] for row in rows])


def clip_times(representation, mid):
    """Return the clips' shot, start_s and end_s, each (C,); a published representation's clips last a second each."""
    count = len(representation[mid])
    if not representation.meta:
        return {"shot": np.zeros(count), "start_s": np.arange(count), "end_s": np.arange(count) + 1.0}
    path = representation.path.parent / representation.meta["clips"] / f"{mid}.csv"
    times = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    if len(times) != count:
        raise UserError(f"{path}: {len(times)} clips, but {representation.path.name} has {count}; prepare {mid} again")
    return times


def draw_trailer(title, p, over_time, genres, times, pictures):
    """Draw a band per genre, likeliest first, with its probability over the trailer's time; below, pictures of it."""
    width, end = len(times["shot"]) - len(over_time) + 1, times["end_s"][-1]
    middle = (times["start_s"][: len(over_time)] + times["end_s"][width - 1 :]) / 2  # of each snippet
    cuts = times["start_s"][1:][np.diff(times["shot"]) > 0]
    floors = -1.35 * np.arange(len(genres))  # of the bands
    bottom = floors[-1] - (1.7 if pictures else 0)
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.2 * (1 - bottom)))
    axis.vlines(cuts, floors[-1], 1, color="0.85", linewidth=0.5, zorder=0)
    axis.hlines(floors + THRESHOLD, 0, end, color="0.5", linewidth=0.5, linestyle=":")
    for g, floor in zip(np.argsort(-p), floors):
        y = floor + np.pad(over_time[:, g], 1, "edge")
        axis.fill_between([0, *middle, end], floor, y, color=f"C{g}", alpha=0.6)
        weight = "bold" if p[g] >= THRESHOLD else "normal"
        axis.text(-0.01 * end, floor + 0.5, f"{genres[g]} {p[g]:.2f}", ha="right", va="center", weight=weight)
    for place, picture in pictures:
        image = OffsetImage(picture, zoom=0.22)  # 90 pixels are 0.275 inches
        axis.add_artist(AnnotationBbox(image, (place, (bottom + floors[-1]) / 2), frameon=False, pad=0))
    axis.set(xlim=(0, end), ylim=(bottom, 1), yticks=[], xlabel="time (s); grey lines: cuts")
    snippets = f"snippets of {width} clip{'s' if width > 1 else ''}"
    figure.suptitle(f"{title}\nprobability (0 to 1, dots at {THRESHOLD}) in {snippets}")
    return figure


def pictures_of(film, seconds, count=10):
    """Return [(time in seconds, frame)] of a film, evenly spaced, 90 pixels high and at most 16:9."""
    capture, pictures = cv2.VideoCapture(str(film)), []
    pixel = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)  # its width and height
    stretch = pixel[0] / pixel[1] if min(pixel) > 0 else 1  # of an anamorphic film
    for time in seconds * (np.arange(count) + 0.5) / count:
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * time)
        decoded, frame = capture.read()
        if decoded:
            width = round(90 * frame.shape[1] / frame.shape[0] * stretch)
            frame = cv2.resize(frame, (width, 90), interpolation=cv2.INTER_AREA)
            beyond = max(0, width - 160) // 2  # 16:9, at both sides
            pictures.append((time, frame[:, beyond : width - beyond, ::-1]))  # BGR to RGB
    return pictures


# ---- Cost ----


def cost(config, metas):
    """Return (parameters, GMACs per clip) of a run's head and backbones, from its config.json and its inputs' metas.

    A head's multiply-adds for one snippet are shared out over the snippet's clips.
    """
    features, length = {kind: config[f"{kind}_features"] for kind in metas}, config["snippet_clips"]
    head = divita.divita(features, len(config["genres"]), config["aggregation"], config["fusion"] or "late")
    parameters, macs = divita.cost(head, *((1, length, count) for count in features.values()))
    costs = [(parameters, macs / length)]
    for meta in metas.values():
        known = (meta["parameters"], meta["macs_per_clip"]) if "parameters" in meta else None
        costs.append(known or backbone_cost(meta["backbone"], meta["frames"]))
    return sum(parameters for parameters, _ in costs), sum(macs for _, macs in costs) / 1e9


@cache
def backbone_cost(name, frames):
    """Return (parameters, multiply-adds per clip of so many frames) of a backbone."""
    backbone = divita.find_backbone(name)
    of_images = backbone.input == "image"
    shape = (backbone.size, backbone.size, 3) if of_images else (frames, backbone.size, backbone.size, 3)
    parameters, macs = divita.cost(backbone.build(shape), (1, *shape))
    return parameters, macs * frames if of_images else macs


def costs_table():
    """Return the cost of every backbone for a clip of 24 frames."""
    rows = [["", "input", "parameters", "GMACs of 24 frames", "of one"]]
    for name, backbone in tqdm(divita.BACKBONES.items(), "backbones", unit="backbone", leave=False):
        try:
            parameters, macs = backbone_cost(name, 24)
            counted = [f"{parameters:,}", f"{macs / 1e9:.4g}", f"{macs / 24e9:.3g}"]
        except UserError as error:  # KerasCV is not there
            say(f"the cost of {name} is not counted: {error}")
            counted = ["–"] * 3
        rows.append([name, backbone.input, *counted])
    return Table("Backbones", ["Without classification layers."], rows, words=2)


# ---- What tables are written with ----

PAPER = {  # the paper's transfer table: row -> mean and standard deviation of uAP, mAP, wAP and sAP
    "ShuffleNet-2D": ((71.69, 0.44), (66.47, 0.73), (70.51, 0.50), (76.60, 0.77)),
    "ShuffleNet-3D": ((63.43, 1.54), (58.18, 1.50), (63.59, 1.46), (69.49, 1.58)),
    "ShuffleNet fusion": ((72.11, 0.56), (67.08, 0.37), (71.42, 0.41), (76.66, 0.73)),
    "ResNet50": ((70.92, 3.49), (66.16, 2.45), (70.23, 2.11), (75.85, 3.05)),
    "R(2+1)D": ((71.76, 2.72), (66.09, 2.44), (70.81, 2.21), (76.33, 2.02)),
    "ResNet fusion": ((73.28, 0.66), (68.03, 0.63), (72.14, 0.72), (77.76, 0.44)),
    "Swin-2D": ((72.96, 4.17), (67.68, 2.63), (71.70, 2.44), (77.77, 4.08)),
    "Swin-3D": ((75.71, 2.43), (70.44, 2.10), (74.30, 2.11), (80.19, 2.61)),
}
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "%#&_${}"} | {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}"}
)


@dataclass
class Table:
    """A table as Markdown and as LaTeX."""

    title: str
    notes: list  # sentences for below
    rows: list  # of cells, the first row is the header; **bold** as in Markdown
    words: int = 1  # so many columns, the first, are words, the others numbers

    def markdown(self):
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*rows)]
        aligns = ["<" if j < self.words else ">" for j in range(len(widths))]
        rows.insert(1, ["-" * w if align == "<" else "-" * (w - 1) + ":" for align, w in zip(aligns, widths)])
        lines = [" | ".join(f"{cell:{align}{w}}" for cell, align, w in zip(row, aligns, widths)) for row in rows]
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines), "", *self.notes, ""])

    def latex(self):
        escaped = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in self.rows]
        header, *rows = [re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", row) for row in escaped]
        caption = " ".join([f"{self.title}.", *self.notes]).translate(LATEX)
        columns = "l" * self.words + "r" * (len(self.rows[0]) - self.words)
        lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        lines += [header, r"\hline", *rows, r"\hline", r"\end{tabular}", r"\end{table}", ""]
        return "\n".join(lines)


def plus_minus(mean, deviation):
    """Return mean ± sample standard deviation as text; the mean alone without the latter, a dash without both."""
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f}" if np.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def score_cells(runs, j):
    """Return the cells of a score of runs, the largest in bold; a run that is None has not been trained."""
    means = [run.mean[j] if run else np.nan for run in runs]
    cells = [plus_minus(mean, run.deviation[j]) if run else "–" for run, mean in zip(runs, means)]
    largest = f"{np.fmax.reduce(means):.2f}"  # but for NaN
    return [f"**{cell}**" if cell.split()[0] == largest else cell for cell in cells]


def cost_columns(runs):
    parameters = [f"{run.parameters:,}" if run else "–" for run in runs]
    return [["parameters", *parameters], ["GMACs", *(f"{run.gmacs:.3g}" if run else "–" for run in runs)]]


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
