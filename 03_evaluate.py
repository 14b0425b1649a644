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
import shlex
import signal
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

RESAMPLES = 1000  # of the bootstrap behind a confidence interval
SEED = 0  # of them
THRESHOLD = 0.5  # a genre is predicted from this probability on


def parse_arguments():
    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description=__doc__.split("\n\n")[0])
    parser.epilog = "Defaults are in parentheses."
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}; see --help\n")
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
import sklearn
from sklearn.metrics import precision_recall_curve
from tqdm import tqdm

from divita import METRICS, UserError, say

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage


def main(arguments):
    if arguments.costs:
        say(costs_table().markdown())
    elif arguments.predict:
        return predict(arguments)
    else:
        evaluate(arguments)


def evaluate(arguments):
    """Read the runs, write their tables and figures, then print the tables."""
    out = writable(arguments.out or Path("results") / arguments.runs.resolve().name)
    runs = sorted(read_runs(finished_runs(arguments.runs), measured), key=lambda run: -run.uap)
    for run in runs:
        other = sorted(set(run.config["genres"]) ^ set(runs[0].config["genres"]))
        if run.config["genres"] != runs[0].config["genres"]:
            what = f"{runs[0].name} and {run.name} have other genres ({divita.listed(other or ['in another order'])})"
            raise UserError(f"{what}; give each its own --runs")
    by_chance = chance(max(runs, key=lambda run: len(run.tests)))
    notes = data_notes(runs)
    tables = [overall_table(runs, by_chance, notes), genres_table(runs, by_chance)]
    tables += [experiment_table(path, runs) for path in sorted(arguments.runs.glob("*.json"))]
    tables.append(claims_table(runs, notes))
    pair, why = compared(runs, arguments.compare)
    if pair:
        tables.append(comparison_table(*pair, why))
    markdown = "\n".join(table.markdown() for table in tables)
    divita.sweep(out)
    divita.write_text(out / "table.md", markdown)
    divita.write_text(out / "table.tex", "\n".join(table.latex() for table in tables))
    write_table_csv(out / "table.csv", runs)
    with plt.rc_context(STYLE):
        for name, figure in figures(runs, by_chance):
            save(figure, out / f"{name}.png")
    say(f"\n{markdown}")
    if not pair:
        say(why)
    say(f"tables (table.md, table.csv, table.tex) and figures (*.png): {out}")
    command = ["python", "03_evaluate.py", "--runs", arguments.runs, "--predict", "FILM", "--run", best(runs).name]
    say(f"next, the genres of a new trailer: {in_shell(command)}")


# ---- Reading runs ----


@dataclass
class Run:
    """A configuration and what training left of it.

    splits: split -> folder; config: of all splits, which differ in divita.OF_A_SPLIT alone; trained: mids that a split
    was trained on; validations, tests: split -> mids (N), their genres (N, G) and probabilities (N, G).

    measured() adds histories, split -> array with fields epoch, loss and val_loss; scores (splits, 4 + G), METRICS and
    each genre's area in percent, NaN for a genre without a positive; parameters and gmacs (billions of multiply-adds
    per clip) of head and backbones; unmeasured, the splits whose test trailers have no genre.
    """

    name: str
    splits: dict
    config: dict
    trained: set = field(default_factory=set)
    validations: dict = field(default_factory=dict)
    tests: dict = field(default_factory=dict)
    histories: dict = field(default_factory=dict)
    scores: np.ndarray = None
    parameters: int = 0
    gmacs: float = 0.0
    unmeasured: list = field(default_factory=list)

    @property
    def kinds(self):
        return tuple(kind for kind, _, _ in divita.inputs(self.config))

    @property
    def uap(self):
        return self.scores[:, 0].mean()

    @cached_property
    def validation(self):
        """The uAP of the validation trailers in percent, the mean over the splits where any has a genre."""
        some = [(true.ravel(), p.ravel()) for _, true, p in self.validations.values() if true.any()]
        return np.mean([100 * divita.area_under_curve(*split) for split in some] or [0.0])


def finished_runs(folder):
    """Return {run: {split: folder}} of the finished splits; say in one line which are not finished."""
    found, unfinished = {}, []
    for path in sorted(folder.glob("*/split*"), key=lambda path: (path.parent.name, len(path.name), path.name)):
        if (path / "config.json").exists():  # which is written last
            found.setdefault(path.parent.name, {})[path.name.removeprefix("split")] = path
        else:
            unfinished.append(f"{path.parent.name}/{path.name}")
    if not found:
        train = in_shell(["python", "02_train.py", "--runs", folder])
        raise UserError(f"{folder}: no finished run there; train first: {train}")
    if unfinished:
        say(f"not finished, left out: {', '.join(unfinished)}")
    return found


def read_runs(found, read):
    """Return [read(name, splits)] of {run: splits}; say in one line each which runs are left out because they fail."""
    runs, reasons = [], []
    for name, splits in tqdm(found.items(), "reading runs", unit="run", leave=False):
        try:
            runs.append(read(name, splits))
        except UserError as error:
            reasons.append(f"{name}, left out: {error}")
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = divita.one_line(error)
            reasons.append(f"{name}, left out: one of its files is broken ({reason}); train it again, --overwrite")
    if not runs:
        raise UserError(f"no run can be read: {'; '.join(reasons)}")
    for reason in reasons:
        say(reason)
    return runs


def read_run(name, splits):
    """Read the splits of a run, {split: folder}, which must be alike in what identifies the run."""
    configs = {split: divita.read_json(path / "config.json") for split, path in splits.items()}
    (first, config), *others = configs.items()
    for split, other in others:
        if fields := divita.unlike(config, other):
            what = f"split {first} and split {split} differ in {', '.join(fields)}"
            raise UserError(f"{what}; train them alike, with --overwrite, or each in its own --runs")
    run = Run(name, splits, config)
    for split, path in splits.items():
        with np.load(path / "predictions.npz", allow_pickle=False) as file:
            if list(file["genres"]) != config["genres"]:
                raise ValueError("predictions.npz has other genres than config.json")
            run.trained |= set(file["train_mids"].tolist())
            for part, kept in (("validation", run.validations), ("test", run.tests)):
                mids, true, p = (file[f"{part}_{key}"] for key in ("mids", "true", "probabilities"))
                if not (len(mids) == len(true) and true.shape == p.shape and np.isfinite(p).all()):
                    raise ValueError(f"the {part} part of predictions.npz holds NaN or does not fit together")
                kept[split] = mids.tolist(), true, p
    return run


def measured(name, splits):
    """Read a run and measure it on its test trailers."""
    run = read_run(name, splits)
    run.unmeasured = [split for split, (_, true, _) in run.tests.items() if not true.any()]
    run.tests = {split: test for split, test in run.tests.items() if split not in run.unmeasured}
    if not run.tests:
        raise UserError("no test trailer has a genre, so there is nothing to measure; train on splits where some have")
    for split, path in splits.items():
        history = np.genfromtxt(path / "history.csv", delimiter=",", names=True, ndmin=1)
        run.histories[split] = history[["epoch", "loss", "val_loss"]]
    run.parameters, run.gmacs = cost(run.config)
    run.scores = np.array([in_percent(divita.metrics(true, p)) for _, true, p in run.tests.values()])
    return run


def find_run(runs, name):
    found = {run.name: run for run in runs}
    if name not in found:
        raise UserError(f"no run is called {name}; there is {', '.join(found)}")
    return found[name]


def best(runs):
    return max(runs, key=lambda run: run.validation)


# ---- Metrics: chance, and two runs compared ----


def in_percent(metrics):
    """Return METRICS and each genre's area in percent, (4 + G,), of what divita.metrics() returns."""
    return 100 * np.array([*(metrics[name] for name in METRICS), *metrics["per_genre"]])


def chance(run):
    """Return what random probabilities get on a run's test trailers, (4 + G,), averaged over the splits."""
    scores = np.array([in_percent(divita.chance(true)) for _, true, _ in run.tests.values()])
    return np.array([mean_and_deviation(values)[0] for values in scores.T], float)  # NaN for None


def bootstrap(a, b):
    """Compare two runs by paired bootstrap: (4, 5) with a, b, a - b and its 95 % interval per metric, and a note.

    A resample draws as many trailers as there are, with replacement, from all test trailers that both runs have; a
    trailer drawn counts in each split that tests it. Metrics are averaged over the splits.
    """
    common = common_tests(a, b)
    mids = np.unique(np.concatenate([shared for shared, *_ in common.values()]))
    draws = np.random.default_rng(SEED).multinomial(len(mids), np.full(len(mids), 1 / len(mids)), RESAMPLES)
    weights = np.vstack([np.ones_like(draws[:1]), draws])  # (1 + R, mids); the first: every trailer once
    values, absent = np.zeros((2, len(weights), 4)), np.zeros(len(weights), bool)
    bar = tqdm(total=2 * len(common) * len(weights), desc="bootstrap", unit="resample", leave=False)
    for shared, true, *probabilities in common.values():
        drawn = weights[:, np.searchsorted(mids, shared)]  # (1 + R, n)
        absent |= ((drawn @ true == 0) & true.any(0)).any(1)
        for i, p in enumerate(probabilities):
            per_trailer = divita.metrics(true, p)["per_trailer"]
            for r, times in enumerate(drawn):
                with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):  # a third faster
                    found = divita.metrics(true, p, times, per_trailer)
                values[i, r] += in_percent(found)[:4] / len(common)
                bar.update()
    bar.close()
    whole, resampled = values[:, 0], values[:, 1:]
    interval = np.nanpercentile(resampled[0] - resampled[1], (2.5, 97.5), axis=0)
    note = f"{len(mids):,} test trailers of splits {', '.join(common)}, {RESAMPLES:,} resamples"
    if absent.any():
        note += f"; in {absent.sum():,} of them a genre has no positive and is left out"
    return np.stack([*whole, whole[0] - whole[1], *interval], 1), note


def common_tests(a, b):
    """Return {split: (mids, genres (n, G), probabilities of a and of b (n, G))} of the test trailers of both runs."""
    common = {}
    for split in [split for split in a.tests if split in b.tests]:
        (mids, true, p), (others, same, q) = a.tests[split], b.tests[split]
        shared, rows, columns = np.intersect1d(mids, others, return_indices=True)
        if not (true[rows] == same[columns]).all():
            raise UserError(f"{a.name} and {b.name} have other genres for a trailer; train both on the same labels")
        if true[rows].any():
            common[split] = shared, true[rows], p[rows], q[columns]
    if not common:
        raise UserError(f"{a.name} and {b.name} share no split and test trailers; train both on the same --data")
    return common


# ---- Tables ----


def overall_table(runs, by_chance, notes):
    """Return the table of all runs."""
    header = ["", "run", "splits", *METRICS, "parameters", "GMACs"]
    rows = []
    for i, run in enumerate(runs, 1):
        rows.append([f"{i}", run.name, ", ".join(run.tests), *map(plus_minus, run.scores.T[:4]), *cost_cells(run)])
    bold = largest(rows, range(3, 7))
    rows.append(["", "chance", "–", *(f"{value:.2f}" for value in by_chance[:4]), "–", "–"])
    what = [
        "Areas under precision-recall curves of the test trailers in percent, mean ± sample standard deviation over "
        "the splits; highest uAP first. Chance: what random probabilities get on average.",
        "Parameters and multiply-adds (GMACs, per clip) are those of backbones and head; a head's multiply-adds for a "
        "snippet are shared out over its clips.",
    ]
    return Table("All runs", what + gaps(runs) + notes, header, rows, bold, words=3)


def genres_table(runs, by_chance):
    """Return the table of the genres, whose columns are the rows of the table of all runs."""
    columns = [[plus_minus(values) for values in run.scores.T[4:]] for run in runs]
    by_chance = [plus_minus(value) for value in by_chance[4:, None]]
    rows = [list(row) for row in zip(runs[0].config["genres"], *columns, by_chance)]
    bold = {(j, i + 1) for i, j in largest(columns, range(len(rows)))}
    numbers = [f"{i}" for i in range(1, len(runs) + 1)]
    return Table("Genres", ["Runs by their number above."], ["", *numbers, "chance"], rows, bold)


def gaps(runs):
    """Return sentences on what could not be measured: splits, genres and trailers without a positive."""
    notes, lacking, without = [], set(), set()
    for run in runs:
        if run.unmeasured:
            splits = ", ".join(run.unmeasured)
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
    notes = ["Not the paper's data: its values and these cannot be compared."]
    metas = [meta for run in runs for _, _, meta in divita.inputs(run.config)]
    if any(meta.get("synthetic") for meta in metas):
        notes.insert(0, "The trailers are synthetic, made to try the code: nothing here is a finding about films.")
    untrained = sorted({meta["backbone"] for meta in metas if meta["weights"] == "random"})
    if untrained:
        notes.append(f"Random weights, not pretrained: {', '.join(untrained)}.")
    return notes


def is_published(run):
    return not any(run.config[f"{kind}_meta"] for kind, _, _ in divita.inputs(run.config))


def write_table_csv(path, runs):
    """Write a row per run, means and sample standard deviations in percent; what is not known stays empty."""
    header = ["run", "image", "video", "aggregation", "fusion", "splits"]
    header += [name for metric in METRICS for name in (metric, f"{metric}_std")]
    header += [*runs[0].config["genres"], "parameters", "gmacs"]
    rows = []
    for run in runs:
        cells = [run.name, *(run.config[key] or "" for key in header[1:5]), " ".join(run.tests)]
        found = [mean_and_deviation(values) for values in run.scores.T]
        values = [value for pair in found[:4] for value in pair] + [mean for mean, _ in found[4:]]
        cells += ["" if value is None else f"{value:.4f}" for value in values]
        rows.append([*cells, run.parameters, f"{run.gmacs:.6g}"])
    divita.write_csv(path, header, rows)


def experiment_table(path, runs):
    """Return the table of one experiment of 02_train.py, beside the paper's values where they are of the same data."""
    experiment, runs = divita.read_json(path), {run.name: run for run in runs}
    try:
        title, entries = experiment["experiment"], [(row["label"], runs.get(row["run"])) for row in experiment["rows"]]
    except (KeyError, TypeError):
        raise UserError(f"{path}: does not list runs; train the experiment again") from None
    beside = any(label in PAPER and run and is_published(run) for label, run in entries)
    each = ["paper", "difference"] if beside else []
    rows = []
    for label, run in entries:
        cells = []
        for i in range(4):
            mean, deviation = PAPER.get(label, [(None, None)] * 4)[i]
            cells.append(plus_minus(run.scores[:, i]) if run else "–")
            if beside:
                cells.append(f"{mean:.2f} ± {deviation:.2f}" if mean else "–")
                cells.append(f"{run.scores[:, i].mean() - mean:+.2f}" if run and mean else "–")
        rows.append([label, *cells, *cost_cells(run)])
    header = ["", *(name for metric in METRICS for name in (metric, *each)), "parameters", "GMACs"]
    missing = [label for label, run in entries if run is None]
    notes = [f"Not trained yet: {', '.join(missing)}."] if missing else []
    return Table(f"Experiment: {title}", notes, header, rows, largest(rows, range(1, len(header) - 2, 1 + len(each))))


def compared(runs, names):
    """Return two runs to compare, those named or the best on two inputs and the best on one of them, and the reason.

    The latter differ in nothing else; where there are no such runs, None and what is missing.
    """
    if names:
        return [find_run(runs, name) for name in names], "Chosen with --compare."
    pairs = paired([run for run in runs if run.config["fusion"]], [run for run in runs if not run.config["fusion"]])
    alike = [(a, b) for a, b, found in pairs if not found]
    if not alike:
        return None, f"no comparison of two runs: {obstacle(pairs, MISSING)}; name two with --compare"
    pair = max(alike, key=lambda pair: (pair[0].validation, pair[1].validation))
    return pair, "The best run on both inputs and the best on one of them, by validation, alike in all else."


def comparison_table(a, b, why):
    """Return the comparison of two runs, trailer by trailer."""
    values, note = bootstrap(a, b)
    rows = []
    for metric, (x, y, difference, low, high) in zip(METRICS, values):
        rows.append([metric, f"{x:.2f}", f"{y:.2f}", f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}"])
    notes = [f"A: {a.name}. B: {b.name}. {why} Paired bootstrap: {note}."]
    return Table("Two runs, trailer by trailer", notes, ["", "A", "B", "A - B", "95 % interval"], rows, set())


# ---- The claims of the paper's abstract ----

TRAINING = ("aggregation", "clips", "epochs", "lr", "batch_size", "seed", "labels")
PREPARATION = ("backbone", "digest", "weights", "segmentation", "detector", "fps", "frames_per_clip", "frames")
PREPARATION += ("input_size", "precision", "features")
MISSING = "missing: runs on image, on video and on both, otherwise alike (02_train.py)"


def claims_table(runs, notes):
    """Return the paper's headline claims beside ours, each from two runs that differ in what the claim is about."""
    rows = []
    for kind, paper in (("image", "+1.83 %"), ("video", "+3.75 %")):
        cuts = [[run for run in runs if run.kinds == (kind,) and cut(run) == way] for way in ("shots", "seconds")]
        missing = f"missing: {kind} on shots and on seconds (02_train.py --experiment segmentation)"
        ours = gain(paired(*cuts, about=("segmentation", "detector")), missing)
        rows.append([f"shots instead of seconds, {kind}", paper, ours])
    ways = sorted({(run.config["fusion"], cut(run)) for run in runs if run.config["fusion"]}, reverse=True)
    for way in ways or [("late", "shots")]:
        fused = [run for run in runs if (run.config["fusion"], cut(run)) == way]
        ours = gain([pair for run in fused for pair in better_input(run, runs)], MISSING)
        rows.append([f"{way[0]} fusion instead of its better input, {way[1]}", "+2.91 %", ours])
    made_by = [[meta["backbone"] for _, _, meta in divita.inputs(run.config)] for run in runs]
    light = [run for run, names in zip(runs, made_by) if names == ["shufflenet2d", "shufflenet3d"]]
    top = [run for run, names in zip(runs, made_by) if names == ["swin3d"]]
    pairs = paired(light, top, about=("backbone", "digest", "input_size", "features"), across=True)
    ours = gain(pairs, "missing: shufflenet2d+shufflenet3d or swin3d (02_train.py --experiment transfer)", shares=True)
    rows.append(["ShuffleNet fusion instead of Swin-3D", f"-3.46 %; {PAPER_SHARES}", ours])
    notes = ["Ours: uAP in points and relative; the paper does not say which of the two its percentages are.", *notes]
    return Table("The paper's claims", notes, ["", "paper", "ours"], rows, set(), words=3)


def cut(run):
    """Return how a run's clips were cut, "shots" or "seconds"."""
    return divita.inputs(run.config)[0][2]["segmentation"]


def better_input(fused, runs):
    """Return the pair of a run and the better of its inputs alone, or those on the input that no run alike is on."""
    better = []
    for kind in fused.kinds:
        pairs = paired([fused], [run for run in runs if run.kinds == (kind,)])
        alike = [(a, b, found) for a, b, found in pairs if not found]
        if not alike:
            return pairs
        better += alike
    return [max(better, key=lambda pair: pair[1].validation)]


def gain(pairs, missing, shares=False):
    """Return in words what the first of two runs gains on the second, and perhaps its shares of the cost.

    Of the pairs that differ in nothing but what the claim is about, it is that with the best first run.
    """
    alike = [(a, b) for a, b, found in pairs if not found]
    if not alike:
        return obstacle(pairs, missing)
    a, b = max(alike, key=lambda pair: pair[0].validation)
    common = [split for split in a.tests if split in b.tests]
    of_a, of_b = (np.mean([run.scores[list(run.tests).index(split), 0] for split in common]) for run in (a, b))
    words = f"{of_a - of_b:+.2f} points ({100 * (of_a / of_b - 1):+.2f} %), {a.name} against {b.name}"
    if shares:
        words += f"; {100 * a.parameters / b.parameters:.2f} % of the parameters"
        words += f", {100 * a.gmacs / b.gmacs:.2f} % of the multiply-adds"
    return words if len(alike) == 1 else f"{words}; best by validation of {len(alike)} pairs"


def obstacle(pairs, missing):
    """Return in words what the two runs that are nearest to a comparison differ in, or what is missing."""
    if not pairs:
        return missing
    a, b, found = min(pairs, key=lambda pair: len(pair[2]))
    return f"no number: {a.name} and {b.name} differ in {', '.join(found)} too"


def paired(firsts, seconds, about=(), across=False):
    """Return [(a, b, what they differ in apart from what the comparison is about)] of runs, as far as both say it.

    Image inputs are compared with image inputs and video with video, `across` each with each.
    """
    pairs = []
    for a, b in itertools.product(firsts, seconds):
        found = differing(a.config, b.config, TRAINING)
        for (kind, _, x), (other, _, y) in itertools.product(divita.inputs(a.config), divita.inputs(b.config)):
            if kind == other or across:
                found += [f"{key} of {kind}" for key in differing(x, y, PREPARATION) if key not in about]
        common = [split for split in a.tests if split in b.tests]
        if not common or any(sorted(a.tests[split][0]) != sorted(b.tests[split][0]) for split in common):
            found.append("splits" if not common else "test trailers")
        pairs.append((a, b, list(dict.fromkeys(found))))
    return pairs


def differing(x, y, keys):
    """Return the keys whose values differ in two dictionaries, as far as both know them."""
    found = [key for key in keys if None not in (x.get(key), y.get(key)) and x[key] != y[key]]
    same_weights = x.get("digest") and x["digest"] == y.get("digest")  # whatever way they came
    return [key for key in found if not (key == "weights" and same_weights)]


# ---- Figures: for half a page, in colour or without ----

COLOURS = ("#332288", "#117733", "#882255", "#0077BB", "#CC6677", "#44AA99", "#AA4499", "#999933", "#555555", "#CC7711")
LINES, HATCHES = ("-", "--", ":"), ("", "////", "....")  # tell runs apart, as colours tell genres
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,
}


def figures(runs, by_chance):
    """Yield (name, figure) of each figure of the runs."""
    of_kinds = [[run for run in runs if run.kinds == kinds] for kinds in (("image", "video"), ("image",), ("video",))]
    chosen = [best(alike) for alike in of_kinds if alike]  # the best of both inputs, of images and of video
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


def colour(genre, genres):
    """Return a genre's colour, the same in all figures; the eleventh genre has the first one's."""
    return COLOURS[genres.index(genre) % len(COLOURS)]


def short(run, separator=" + "):
    """Return what to call a run in a figure: its name without the default setting."""
    return run.name.replace("_fps24_fpc24", "").replace("_shots", "").replace("+", separator)


def legend(figure, handles, title=None):
    """Put a legend above the axes, in as many columns as there is room for."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 96 // (longest + 10)))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)


def draw_precision_recall(runs, by_chance):
    """Draw for each genre the curves of the runs, averaged over the splits, and the area of chance as a height."""
    genres = runs[0].config["genres"]
    columns = min(5, len(genres))
    rows = -(-len(genres) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7, 1 + 1.6 * rows), sharex=True, sharey=True, squeeze=False)
    recall = np.linspace(0, 1, 200, endpoint=False)
    for g, (genre, axis) in enumerate(zip(genres, axes.flat)):
        axis.axhline(by_chance[4 + g] / 100, color="0.6", linewidth=0.8)
        for run, line in zip(runs, LINES):
            tests = [(true[:, g], p[:, g]) for _, true, p in run.tests.values() if true[:, g].any()]
            curves = [precision_recall_curve(*test) for test in tests]
            if curves:
                precision = np.mean([np.interp(recall, r[::-1], p[::-1]) for p, r, _ in curves], 0)
                axis.plot(recall, precision, line, color=colour(genre, genres), linewidth=1.3)
        axis.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axis.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
        axis.set(title=textwrap.fill(genre, 17), xlim=(0, 1), ylim=(0, 1.02))
    for axis in axes.flat[len(genres) :]:
        axis.axis("off")
    handles = [plt.Line2D([], [], color="black", linestyle=line, label=short(run)) for run, line in zip(runs, LINES)]
    legend(figure, [*handles, plt.Line2D([], [], color="0.6", linewidth=0.8, label="area of chance")])
    figure.supxlabel("recall", size=8)
    figure.supylabel("precision (mean over splits)", size=8)
    return figure


def draw_genres(runs, by_chance):
    """Draw each genre's area, a bar per run, with standard deviations and a tick at chance."""
    genres = runs[0].config["genres"]
    colours = [colour(genre, genres) for genre in genres]
    figure, axis = plt.subplots(figsize=(7, 1.1 + (0.08 + 0.09 * len(runs)) * len(genres)))
    places, width, handles = np.arange(len(genres)), 0.8 / len(runs), []
    for i, (run, hatch) in enumerate(zip(runs, HATCHES)):
        found = [mean_and_deviation(values) for values in run.scores.T[4:]]
        lengths, deviations = np.nan_to_num(np.array(found, float)).T  # 0 for None
        within = np.clip(deviations, 0, [lengths, np.maximum(100 - lengths, 0)])  # no area is below 0 or above 100
        bars = {"color": "white" if i else colours, "edgecolor": colours, "hatch": hatch, "height": 0.9 * width}
        lines = {"linewidth": 0.8, "clip_on": False}
        middle = places + (i - (len(runs) - 1) / 2) * width
        axis.barh(middle, lengths, xerr=within, capsize=1.5, error_kw=lines, **bars)
        look = {"facecolor": "white" if i else "0.3", "edgecolor": "0.3", "hatch": hatch}
        handles.append(plt.Rectangle((0, 0), 1, 1, label=short(run), **look))
    axis.vlines(by_chance[4:], places - 0.45, places + 0.45, color="black", linestyle=":", linewidth=1)
    handles.append(plt.Line2D([], [], color="black", linestyle=":", linewidth=1, label="chance"))
    axis.set_yticks(places, genres)
    axis.set(xlim=(0, 100), ylim=(len(genres) - 0.5, -0.5), xlabel="area under the precision-recall curve (%)")
    axis.tick_params(left=False)
    legend(figure, handles)
    return figure


def draw_cooccurrence(run):
    """Draw what share of the test trailers of a genre is of each other genre, in truth and as predicted."""
    genres, count = run.config["genres"], len(run.config["genres"])
    true = np.concatenate([true for _, true, _ in run.tests.values()])
    predicted = np.concatenate([p >= THRESHOLD for _, _, p in run.tests.values()])
    rows, columns = (2, 1) if count > 12 else (1, 2)
    cell, names = min(0.25, 3.3 / count), 0.5 + 0.05 * max(map(len, genres))  # inches
    size = max(4.5, names + 0.5 + columns * (cell * count + 0.5)), names + 1 + rows * (cell * count + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False)
    for axis, title, y in zip(axes.flat, ("truth", "predicted"), (true, predicted)):
        together = y.T.astype(float) @ y  # (G, G)
        trailers = together.diagonal()
        share = 100 * together / np.maximum(trailers, 1)[:, None]
        share[np.eye(count, dtype=bool) | (trailers == 0)[:, None]] = np.nan
        picture = axis.imshow(share, cmap="Greys", vmin=0, vmax=100)
        for i, j in zip(*np.nonzero(np.isfinite(share))):
            if cell > 0.16:  # nobody could read it in a smaller one
                shade = "white" if share[i, j] > 55 else "black"
                axis.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=shade, size=6)
        named = axis in axes[:, 0]  # those at the left
        labels = [f"{genre} {n:.0f}" if named else f"{n:.0f}" for genre, n in zip(genres, trailers)]
        axis.set_yticks(range(count), labels, size=min(8, 56 * cell))
        axis.set_xticks(range(count), genres, rotation=90, size=min(8, 56 * cell))
        axis.set_title(title)
        axis.spines[:].set_visible(False)
    figure.suptitle(short(run), size=8)
    figure.colorbar(picture, ax=axes, location="bottom", aspect=40, shrink=0.7)
    what = "% of the row's trailers (their number, all splits, beside it)\nthat are of the column's genre too"
    figure.supxlabel(what, size=8)
    return figure


def draw_cost(runs):
    """Draw uAP against multiply-adds, parameters as the circles' areas; labels stand evenly at the right."""
    figure, axis = plt.subplots(figsize=(7, max(3, 0.8 + 0.25 * len(runs))))
    sizes = np.array([run.parameters for run in runs])
    gmacs, uaps = [run.gmacs for run in runs], [run.uap for run in runs]
    axis.scatter(gmacs, uaps, 900 * sizes / sizes.max(), alpha=0.8, facecolor="0.9", edgecolor="black")
    axis.set(xlabel="billions of multiply-adds per clip", ylabel="uAP (%)", xscale="log")
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.margins(0.15, 0.2)
    axis.set_yticks([value for value in axis.get_yticks() if 0 <= value <= 100])
    for run, place in zip(runs, np.linspace(1, 0, 2 * len(runs) + 1)[1::2]):  # best first, from the top down
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        text = f"{short(run)}: {run.parameters / 1e6:.3g} M"
        place = {"xytext": (1.06, place), "textcoords": "axes fraction", "va": "center"}
        axis.annotate(text, (run.gmacs, run.uap), size=7, arrowprops=line, **place)
    axis.set_title("area: parameters of backbones and head (M: millions)")
    return figure


def draw_training(runs):
    """Draw the losses of at most six runs' splits over the epochs, with the epoch kept."""
    rows = -(-len(runs) // 3)
    columns = -(-len(runs) // rows)
    figure, axes = plt.subplots(rows, columns, figsize=(7, 1 + 1.9 * rows), sharey=True, squeeze=False)
    for run, axis in zip(runs, axes.flat):
        for history in run.histories.values():
            epoch, kept = history["epoch"], np.argmin(history["val_loss"])
            axis.plot(epoch, history["loss"], "--", color="0.55", linewidth=0.9, label="training")
            axis.plot(epoch, history["val_loss"], "-", color=COLOURS[0], linewidth=0.9, label="validation")
            axis.plot(epoch[kept], history["val_loss"][kept], "ok", markersize=3.5, label="epoch kept")
        axis.set_title(short(run, "\n+ "))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat[len(runs) :]:
        axis.axis("off")
    legend(figure, axes[0, 0].get_lines()[:3], title="one line per split")
    figure.supxlabel("epoch", size=8)
    figure.supylabel("binary cross-entropy (nats per label)", size=8)
    return figure


# ---- New trailers ----


def predict(arguments):
    """Print the genres of new trailers, draw them over time, add them to predictions.csv; return the exit status."""
    run, status = chosen_run(arguments.runs, arguments.run), 0
    films, data = films_and_data(arguments)
    out = writable(arguments.out or Path("results") / data.resolve().name)
    folder, config = arguments.runs / run.name, run.config
    if films:
        status = prepare(folder, arguments.predict, data, arguments.weights)
        if not any((path / f"{mid}.npy").exists() for mid in films for path in divita.representations(data)):
            return status  # each film has failed and was named
    representations = [matching(data, folder, name, meta) for _, name, meta in divita.inputs(config)]
    everyone = sorted(films or set().union(*(x.rows for x in representations)))
    rows, left_out = divita.usable(divita.Labels(everyone, [], None, None), representations)
    mids = [everyone[row] for row in rows]
    if not mids:
        raise UserError(f"{data}: no trailer there can be predicted; {left_out}")
    if left_out and not status:
        say(left_out)
    films = films or prepared_from(data, representations[0].meta or {})
    models = [divita.load_model(path / "model.keras") for path in run.splits.values()]
    say(f"{divita.device()}; trailers: {len(mids)}, models: {len(models)}")
    say_what_is_odd(run, mids)
    divita.sweep(out)
    called, genres, found = f"{arguments.runs.resolve().name}/{run.name}", config["genres"], {}
    for mid in tqdm(mids, "trailers", unit="trailer", leave=False):
        clips = [x[mid] for x in representations]  # [(C, F), ...]
        p, over_time = probabilities(models, clips, config["snippet_clips"])
        found[mid] = p
        times = clip_times(data, representations[0], mid)
        pictures = shot_pictures(films[mid], times) if mid in films else []
        with plt.rc_context(STYLE):
            figure = draw_trailer(f"{mid}, by {called}", p, over_time, genres, times, pictures)
            save(figure, out / f"genres_of_{mid}_{called.replace('/', '-')}.png")
    write_predictions(out / "predictions.csv", called, genres, found)
    for mid, p in found.items():
        say(f"{mid}: {in_words(p, genres)}")
    say(f"probabilities (predictions.csv) and figures (genres_of_*.png): {out}")
    return status


def chosen_run(folder, name):
    """Return the run that is named, or the best by validation, which is said in a line."""
    found = finished_runs(folder)
    if name and name not in found:
        raise UserError(f"{folder}: no trained run {name}; there is {', '.join(found)}")
    run = best(read_runs({name: found[name]} if name else found, read_run))
    if not name:
        say(f"{run.name}: {'the only run' if len(found) == 1 else f'the best of {len(found)} runs by validation'}")
    return run


def films_and_data(arguments):
    """Return {mid: film} and the folder to prepare them in, or None and a folder that 01_prepare.py has prepared."""
    paths = arguments.predict
    prepared = [path for path in paths if path.is_dir() and divita.representations(path)]
    if prepared and len(paths) > 1:
        raise UserError(f"--predict: {prepared[0]} is a folder that 01_prepare.py made; give it alone")
    if prepared:
        return None, paths[0]
    films = divita.find_videos(paths)
    if arguments.data:
        return films, arguments.data
    if len(paths) > 1:
        name = Path(os.path.commonpath([os.path.abspath(film.parent) for film in films.values()])).name
    else:
        name = paths[0].resolve().name if paths[0].is_dir() else next(iter(films))
    return films, Path("data") / (name or "films")


def prepare(run, paths, data, weights):
    """Have 01_prepare.py prepare films as a run's were, with its bar; return 1 where some failed, 0 else."""
    command = [sys.executable, Path(__file__).with_name("01_prepare.py"), "--like", run, "--videos", *paths]
    command += ["--out", data]
    if weights:
        command += ["--weights", *weights]
    status = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL).returncode
    if status not in (0, 1):
        sys.exit(status if status > 0 else 128 - status)  # it has said why, or a signal has ended it
    return status


def matching(data, run, name, expected):
    """Open the representation in `data` that was made as an input of a run; a UserError says what differs."""
    there = {path: divita.meta_of(path) for path in divita.representations(data)}
    there = {path: meta for path, meta in there.items() if meta["backbone"] == expected["backbone"]}
    videos = next((meta["videos"] for meta in there.values() if meta.get("videos")), ["DIR"])
    new = data.with_name(f"{data.resolve().name}_like_{run.name}")
    again = in_shell(["python", "01_prepare.py", "--like", run, "--videos", *videos, "--out", new])
    if not there:
        raise UserError(f"{data}: no representation by {expected['backbone']} there; make it with: {again}")
    path = min(there, key=lambda path: len(differing(there[path], expected, PREPARATION)))
    meta = there[path]
    other = [f"{key} {meta[key]}, not {expected[key]}" for key in differing(meta, expected, PREPARATION)]
    if other:
        raise UserError(f"{path}: not made as the run's {name}: {'; '.join(other)}; make it alike with: {again}")
    return divita.open_representation(data, path.name)


def prepared_from(data, meta):
    """Return {mid: film} of the videos that a prepared folder was made from, as far as they are still there."""
    try:
        return divita.find_videos(meta.get("videos") or [data / "videos"])
    except UserError as error:
        say(f"no pictures of the shots: {error}")
        return {}


def say_what_is_odd(run, mids):
    """Say in a line each what makes predictions mean less than they seem to."""
    if any(meta.get("synthetic") for _, _, meta in divita.inputs(run.config)):
        say(f"{run.name} was trained on synthetic trailers: the genres that it finds in films mean nothing")
    known = [mid for mid in mids if mid in run.trained]
    if known:
        say(f"{run.name} was trained on {len(known)} of these trailers ({divita.listed(known)}), which flatters it")


def probabilities(models, clips, length):
    """Return a trailer's genre probabilities (G,) and those of overlapping snippets (windows, G), means over models.

    clips: those of each input, [(C, F), ...]; length: S, the clips in a snippet.
    """
    snippets = [overlapping(x, length) for x in clips]  # [(windows, S, F), ...]
    p = np.mean([divita.predict(model, [clips], length)[0] for model in models], 0)  # (G,)
    return p, np.mean([divita.snippet_probabilities(model, snippets) for model in models], 0)  # (windows, G)


def overlapping(clips, length):
    """Cut a trailer into overlapping snippets, one from each clip on: (C, F) -> (windows, S, F).

    A snippet is at most a quarter of the trailer, so that a short one has a course too, and holds the same share of
    zeros as evaluation pads the trailer with.
    """
    width = min(length, max(1, len(clips) // 4))
    zeros = round(width * max(0, length - len(clips)) / len(clips))
    cut = np.lib.stride_tricks.sliding_window_view(clips, width, axis=0).swapaxes(1, 2)  # (windows, width, F)
    return np.pad(cut, ((0, 0), (0, zeros), (0, 0)))


def in_words(p, genres):
    """Return the genres from THRESHOLD on, or the likeliest one, with their probabilities."""
    order = np.argsort(-p)
    text = ", ".join(f"{genres[g]} {p[g]:.2f}" for g in order if p[g] >= THRESHOLD)
    return text or f"no genre from {THRESHOLD} on; likeliest {genres[order[0]]} {p[order[0]]:.2f}"


def write_predictions(path, called, genres, found):
    """Put {mid: probabilities (G,)} by a run into a table that keeps the rows of other runs and trailers."""
    rows = []
    if path.exists():
        header, lines = divita.read_table(path)
        rows = [dict(zip(header, cells)) for _, cells in lines]
        rows = [row for row in rows if not (row.get("run") == called and row.get("mid") in found)]
    for mid, p in found.items():
        rows.append({"mid": mid, "run": called, **{genre: f"{value:.4f}" for genre, value in zip(genres, p)}})
    header = dict.fromkeys(["mid", "run", *(name for row in rows for name in row)])
    divita.write_csv(path, header, [[row.get(name, "") for name in header] for row in rows])


def clip_times(data, representation, mid):
    """Return the clips' shot, start_s and end_s, each (C,); a published representation's clips last a second each."""
    count = len(representation[mid])
    if not representation.meta:
        return {"shot": np.zeros(count), "start_s": np.arange(count), "end_s": np.arange(count) + 1.0}
    path = data / representation.meta["clips"] / f"{mid}.csv"
    header, rows = divita.read_table(path)
    if len(rows) != count:
        raise UserError(f"{path}: {len(rows)} clips, but {representation.name} has {count}; prepare {mid} again")
    columns = dict(zip(header, zip(*(cells for _, cells in rows))))
    return {name: np.array(columns[name], float) for name in ("shot", "start_s", "end_s")}


def draw_trailer(title, p, over_time, genres, times, pictures):
    """Draw a band per genre, likeliest first, with its probability over the trailer's time; below, its shots."""
    width, end = len(times["shot"]) - len(over_time) + 1, times["end_s"][-1]
    middle = (times["start_s"][: len(over_time)] + times["end_s"][width - 1 :]) / 2  # of each snippet
    cuts = times["start_s"][1:][np.diff(times["shot"]) > 0]
    heights = [1] * len(genres)
    if pictures:
        heights.append(1.4)
    size = (7, 0.8 + 0.27 * sum(heights))
    figure, axes = plt.subplots(len(heights), figsize=size, height_ratios=heights, sharex=True, squeeze=False)
    axes = axes[:, 0]
    for axis, g in zip(axes, np.argsort(-p)):
        x, y = [0, *middle, end], over_time[[0, *range(len(over_time)), -1], g]
        axis.fill_between(x, y, color=colour(genres[g], genres), alpha=0.5, linewidth=0)
        axis.plot(x, y, color=colour(genres[g], genres), linewidth=1)
        axis.axhline(THRESHOLD, color="0.5", linewidth=0.5, linestyle=":")
        axis.vlines(cuts, 0, 1, color="0.85", linewidth=0.5, zorder=0)
        weight = "bold" if p[g] >= THRESHOLD else "normal"
        axis.set_ylabel(f"{genres[g]} {p[g]:.2f}", rotation=0, ha="right", va="center", weight=weight)
    for place, picture in pictures:
        image = OffsetImage(picture, zoom=0.22)  # 90 pixels are 0.275 inches
        axes[-1].add_artist(AnnotationBbox(image, (place, 0.5), frameon=False, pad=0))
        axes[-1].set_ylabel("shots", rotation=0, ha="right", va="center")
    for axis in axes:
        axis.set(xlim=(0, end), ylim=(0, 1), yticks=())
        axis.tick_params(bottom=axis is axes[-1])
    axes[-1].set_xlabel("time (s); grey lines: cuts")
    snippets = f"snippets of {width} clip{'s' if width > 1 else ''}"
    title = f"{title}\nprobability (0 to 1, dots at {THRESHOLD}) in {snippets}"
    figure.suptitle(title, size=8)
    return figure


def shot_pictures(video, times, most=10):
    """Return [(time in seconds, picture)]: the middle frames of as many shots as there is room for, 90 pixels high."""
    end, apart, pictures, last = times["end_s"][-1], times["end_s"][-1] / most, [], -np.inf
    capture = cv2.VideoCapture(str(video))
    pixel = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)  # its width and height
    stretch = pixel[0] / pixel[1] if min(pixel) > 0 else 1  # of an anamorphic film
    for shot in np.unique(times["shot"]):
        clips = times["shot"] == shot
        middle = (times["start_s"][clips][0] + times["end_s"][clips][-1]) / 2
        place = np.clip(middle, apart / 2, end - apart / 2)
        if place - last < apart:
            continue
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * middle)
        decoded, frame = capture.read()
        if decoded:
            width = round(90 * frame.shape[1] / frame.shape[0] * stretch)
            frame = cv2.resize(frame, (width, 90), interpolation=cv2.INTER_AREA)
            beyond = max(0, width - 160) // 2  # 16:9, at both sides
            pictures.append((place, frame[:, beyond : width - beyond, ::-1]))  # BGR to RGB
            last = place
    capture.release()
    return pictures


# ---- Cost ----


def cost(config):
    """Return (parameters, GMACs per clip) of a run's backbones and head.

    A head's multiply-adds for one snippet are shared out over the snippet's clips.
    """
    inputs, length = divita.inputs(config), config["snippet_clips"]
    features = {kind: config[f"{kind}_features"] for kind, _, _ in inputs}
    head = divita.divita(features, len(config["genres"]), config["aggregation"], config["fusion"] or "late")
    parameters, macs = divita.cost(head, *((1, length, count) for count in features.values()))
    macs /= length
    for _, _, meta in inputs:
        known = (meta["parameters"], meta["macs_per_clip"]) if "parameters" in meta else None
        parts = known or backbone_cost(meta["backbone"], meta["frames"])
        parameters, macs = parameters + parts[0], macs + parts[1]
    return parameters, macs / 1e9


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
    rows = []
    for name, backbone in tqdm(divita.BACKBONES.items(), "backbones", unit="backbone", leave=False):
        try:
            parameters, macs = backbone_cost(name, 24)
            counted = [f"{parameters:,}", f"{macs / 1e9:.4g}", f"{macs / 24e9:.3g}"]
        except UserError as error:
            say(f"the cost of {name} is not counted: {error}")
            counted = ["–"] * 3
        rows.append([name, backbone.input, *counted])
    notes = ["Without classification layers."]
    return Table("Backbones", notes, ["", "input", "parameters", "GMACs of 24 frames", "of one"], rows, set(), words=2)


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
PAPER_SHARES = "11.82 % of the parameters, 0.81 % of the multiply-adds"  # of ShuffleNet fusion in Swin-3D's
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "%#&_${}"} | {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}"}
)


@dataclass
class Table:
    """Cells are text; notes are sentences for below; bold holds (row, column); the first `words` columns are words."""

    title: str
    notes: list
    header: list
    rows: list
    bold: set
    words: int = 1

    def cells(self, escape, bold):
        """Return the header and the rows, each cell escaped, the bold ones within the pattern `bold`."""
        rows = [[escape(cell) for cell in row] for row in self.rows]
        for i, j in self.bold:
            rows[i][j] = bold.format(rows[i][j])
        return [escape(cell) for cell in self.header], rows

    def markdown(self):
        header, rows = self.cells(lambda cell: cell.replace("|", r"\|"), "**{}**")
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        rule = ["-" * w if j < self.words else "-" * (w - 1) + ":" for j, w in enumerate(widths)]
        align = [str.ljust] * self.words + [str.rjust] * len(widths)
        lines = [" | ".join(f(c, w) for f, c, w in zip(align, row, widths)) for row in (header, rule, *rows)]
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines), "", *self.notes, ""])

    def latex(self):
        header, rows = self.cells(lambda cell: cell.translate(LATEX), r"\textbf{{{}}}")
        caption = " ".join([f"{self.title}.", *self.notes]).translate(LATEX)
        columns = "l" * self.words + "r" * (len(header) - self.words)
        lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        lines += [" & ".join(header) + r" \\", r"\hline", *(" & ".join(row) + r" \\" for row in rows)]
        return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])


def mean_and_deviation(values):
    """Return mean and sample standard deviation of the values that are known, None where there are too few."""
    known = values[np.isfinite(values)]
    return known.mean() if len(known) else None, known.std(ddof=1) if len(known) > 1 else None


def plus_minus(values):
    """Return mean ± sample standard deviation as text; the mean alone of one value, a dash for none."""
    mean, deviation = mean_and_deviation(values)
    if mean is None:
        return "–"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def cost_cells(run):
    return [f"{run.parameters:,}", f"{run.gmacs:.3g}"] if run else ["–", "–"]


def largest(rows, columns):
    """Return the cells (row, column) with the largest leading number of each column."""
    found = set()
    for j in columns:
        numbers = {i: float(row[j].split()[0]) for i, row in enumerate(rows) if row[j] != "–"}
        found |= {(i, j) for i, number in numbers.items() if number == max(numbers.values())}
    return found


def in_shell(command):
    return shlex.join(str(word) for word in command)


def writable(folder):
    """Return a folder, to be made when it is written to; a UserError says before the work that it cannot be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{folder}: cannot be written to; choose another folder with --out")
    return folder


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
