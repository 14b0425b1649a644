"""Trained heads -> metrics, cost, tables and figures; and the genres of new trailers.

    python 03_evaluate.py                                            the demo's runs, into results/demo
    python 03_evaluate.py --runs runs/mine --data data/mine          your own, into results/mine
    python 03_evaluate.py --compare RUN RUN                          which two runs to compare, trailer by trailer
    python 03_evaluate.py --costs                                    parameters and multiply-adds of every backbone
    python 03_evaluate.py --predict data/new --run RUN               genres of trailers that 01_prepare.py prepared

Every finished run below --runs is read. All metrics are areas under precision-recall curves of the test trailers, by
the trapezoid rule, in percent: mean and sample standard deviation over the splits.
"""

import argparse
import functools
import signal
import zipfile
from dataclasses import dataclass
from pathlib import Path

RESAMPLES = 1000  # of the bootstrap behind a confidence interval
DRAWS = 20  # of random probabilities behind the values of chance
SEED = 0  # of both
THRESHOLD = 0.5  # a genre is predicted from this probability on


def parse_arguments():
    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description=__doc__.split("\n\n")[0])
    parser.epilog = "Defaults are in parentheses."
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}; see --help\n")
    tables = parser.add_argument_group("tables and figures")
    tables.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="trained (runs/demo)")
    tables.add_argument("--data", metavar="DIR", type=Path, help="they were trained on (data/<name of --runs>)")
    tables.add_argument("--out", metavar="DIR", type=Path, help="for results (results/<name of --runs or --predict>)")
    tables.add_argument(
        "--compare", metavar="RUN", nargs=2, help="two runs (the best of two inputs and the best of one input)"
    )
    tables.add_argument("--costs", action="store_true", help="only count the cost of every backbone")
    new = parser.add_argument_group("new trailers")
    new.add_argument("--predict", metavar="DIR", type=Path, help="prepared by 01_prepare.py, with labels or without")
    new.add_argument("--run", metavar="RUN", help="whose models, one per split, predict their genres")
    new.add_argument("--videos", metavar="DIR", type=Path, help="for pictures of their shots (DIR/videos)")
    arguments = parser.parse_args()
    if bool(arguments.predict) != bool(arguments.run):
        parser.error("--predict and --run go together: which trailers, and whose models")
    arguments.data = arguments.data or Path("data") / arguments.runs.resolve().name
    arguments.out = arguments.out or Path("results") / (arguments.predict or arguments.runs).resolve().name
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until divita.run() takes over, there is nothing to lose
    ARGUMENTS = parse_arguments()

import matplotlib
import numpy as np
from sklearn.metrics import precision_recall_curve
from tqdm import tqdm

import divita
from divita import METRICS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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

# ---- Reading runs ----


@dataclass
class Run:
    """A configuration and what training left of it.

    config: the first split's, the others differ in the split alone; tests: split -> test mids, their genres (N, G) and
    probabilities (N, G); histories: split -> {"epoch": ..., "loss": ..., "val_loss": ...}; scores: (splits, 4 + G),
    METRICS and each genre's area in percent, NaN for a genre without a positive; parameters and gmacs (billions of
    multiply-adds per clip) of head and backbones, None where they cannot be counted.
    """

    name: str
    config: dict
    tests: dict
    histories: dict
    scores: np.ndarray
    parameters: int | None
    gmacs: float | None

    @property
    def kind(self):
        return " and ".join(kind for kind, _, _ in inputs(self.config))

    @property
    def uap(self):
        return self.scores[:, 0].mean()


def read_runs(folder):
    """Return the runs that have a finished split, best uAP first; say in one line each what is missing."""
    found, unfinished = {}, []
    for path in sorted(folder.glob("*/split*")):
        if (path / "config.json").exists():  # which is written last
            found.setdefault(path.parent.name, {})[path.name.removeprefix("split")] = path
        else:
            unfinished.append(f"{path.parent.name}/{path.name}")
    if not found:
        raise divita.UserError(f"{folder}: no finished run there; train first: python 02_train.py --runs {folder}")
    if unfinished:
        print(f"not finished, left out: {', '.join(unfinished)}")
    runs = [read_run(name, splits) for name, splits in tqdm(found.items(), "reading runs", leave=False)]
    other = next((run for run in runs if run.config["genres"] != runs[0].config["genres"]), None)
    if other:
        raise divita.UserError(f"{folder}: {runs[0].name} and {other.name} have other genres; give each its own --runs")
    warn_about_genres(runs)
    return sorted(runs, key=lambda run: -run.uap)


def read_run(name, splits):
    """Read the splits of a run, {split: folder}."""
    configs = {split: read_config(path / "config.json") for split, path in splits.items()}
    tests = {split: read_predictions(path / "predictions.npz", configs[split]) for split, path in splits.items()}
    histories = {split: read_history(path / "history.csv") for split, path in splits.items()}
    scores = []
    for _, true, probabilities in tests.values():
        found = divita.metrics(true, probabilities)
        per_genre = np.where(true.any(0), found["per_genre"], np.nan)
        scores.append(100 * np.array([*(found[metric] for metric in METRICS), *per_genre]))
    config = next(iter(configs.values()))
    return Run(name, config, tests, histories, np.array(scores), *cost(config))


def read_config(path):
    config = divita.read_json(path)
    absent = {"aggregation", "clips", "fusion", "genres", "image", "snippet_clips", "video"} - config.keys()
    if absent:
        raise divita.UserError(f"{path}: does not say {', '.join(sorted(absent))}; train again, --overwrite")
    return config


def read_predictions(path, config):
    """Return the test part of predictions.npz: mids (N), genres (N, G) of 0 and 1, probabilities (N, G)."""
    keys = ("genres", "test_mids", "test_true", "test_probabilities")
    try:
        with np.load(path, allow_pickle=False) as file:
            genres, mids, true, probabilities = (file[key] for key in keys)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise divita.UserError(f"{path}: cannot be read ({divita.one_line(error)}); train again, --overwrite") from None
    if list(genres) != config["genres"] or not true.shape == probabilities.shape == (len(mids), len(genres)):
        raise divita.UserError(f"{path}: does not fit the config.json beside it; train again, --overwrite")
    if not (np.isfinite(probabilities).all() and np.isin(true, (0, 1)).all() and true.any()):
        raise divita.UserError(f"{path}: holds NaN, or no genre of a test trailer; train again, --overwrite")
    return mids.tolist(), true, probabilities


def read_history(path):
    header, rows = divita.read_table(path)
    try:
        columns = np.array([row for _, row in rows], float).T
        return {name: columns[header.index(name)] for name in ("epoch", "loss", "val_loss")}
    except ValueError as error:
        raise divita.UserError(f"{path}: cannot be read ({divita.one_line(error)}); train again, --overwrite") from None


def warn_about_genres(runs):
    """Name once the genres without a positive in the test part of a split."""
    lacking = {
        f"{genre} in split {split}"
        for run in runs
        for split, (_, true, _) in run.tests.items()
        for genre, some in zip(run.config["genres"], true.any(0))
        if not some
    }
    if lacking:
        print(
            f"no test trailer is of {', '.join(sorted(lacking))}: left out of the genre's own mean, "
            "counted as an area of 50 % in mAP, as scikit-learn has it"
        )


# ---- What a run is made of, and what it costs ----


def inputs(config):
    """Return [("image" or "video", representation's name, its meta)] of a run."""
    kinds = [kind for kind in ("image", "video") if config[kind]]
    return [(kind, config[kind], config[f"{kind}_meta"] or published_meta(config[kind])) for kind in kinds]


def published_meta(name):
    """Return what is known of how a published representation was made."""
    setting = {"segmentation": "shots", "fps": 24.0, "frames_per_clip": 24, "frames": 24}
    return {"backbone": divita.published_backbone(name), "weights": "pretrained", **setting}


def is_published(run):
    return not any(run.config[f"{kind}_meta"] for kind, _, _ in inputs(run.config))


def cost(config):
    """Return (parameters, GMACs per clip) of backbones and head, (None, None) where a backbone cannot be built.

    A head's multiply-adds for one snippet are shared out over the snippet's clips.
    """
    features = tuple(config[f"{kind}_features"] for kind, _, _ in inputs(config))
    head = head_cost(features, len(config["genres"]), config["aggregation"], config["fusion"], config["snippet_clips"])
    parts = [(head[0], head[1] / config["snippet_clips"])]
    for _, _, meta in inputs(config):
        known = (meta["parameters"], meta["macs_per_clip"]) if "parameters" in meta else None
        parts.append(known or backbone_cost(meta["backbone"], meta["frames"]))
    return (None, None) if None in parts else (sum(p for p, _ in parts), sum(macs for _, macs in parts) / 1e9)


@functools.cache
def head_cost(features, genres, aggregation="tsfm", fusion=None, clips=30):
    """Return (parameters, multiply-adds per snippet) of a head on one or two inputs with so many features."""
    model = divita.divita(dict(zip(("image", "video"), features)), genres, aggregation, fusion or "late")
    return divita.cost(model, *((1, clips, f) for f in features))


@functools.cache
def backbone_cost(name, frames):
    """Return (parameters, multiply-adds per clip) of a backbone, None where what it is built with is not installed."""
    backbone = divita.find_backbone(name)
    of_images = backbone.input == "image"
    shape = (backbone.size, backbone.size, 3) if of_images else (frames, backbone.size, backbone.size, 3)
    try:
        parameters, macs = divita.cost(backbone.build(shape), (1, *shape))
    except divita.UserError as error:
        print(f"the cost of {name} is not counted: {error}")
        return None
    return parameters, macs * frames if of_images else macs


# ---- Metrics of many resamples at once ----


def weighted_areas(true, score, rows, weights):
    """Return the area of n cells under R weightings: (n,), (n,), each cell's trailer (n,), weights (R, N) -> (R,)."""
    order = np.argsort(-score, kind="stable")  # once for all weightings, which is what makes a bootstrap quick
    true, rows = true[order], rows[order]
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each run of equal scores
    found = []
    for some in np.array_split(weights.astype(float), -(-len(weights) // 8)):  # few at a time stay in the cache
        counts = some[:, rows]  # (8, n)
        found.append(divita.areas(np.cumsum(counts * true, 1)[:, last], np.cumsum(counts, 1)[:, last]))
    return np.concatenate(found)


def weighted_metrics(true, probabilities, weights):
    """Return METRICS and each genre's area in percent: (N, G), (N, G), weights (R, N) of trailers -> (R, 4 + G)."""
    each = np.arange(len(true))
    micro = weighted_areas(true.ravel(), probabilities.ravel(), np.repeat(each, true.shape[1]), weights)  # (R,)
    per_genre = [weighted_areas(t, p, each, weights) for t, p in zip(true.T, probabilities.T)]
    per_genre = np.column_stack(per_genre)  # (R, G)
    frequency = weights @ true.astype(float)  # (R, G)
    by_frequency = (per_genre * frequency).sum(1) / frequency.sum(1)
    by_trailer = weights @ divita.trailer_areas(true, probabilities) / weights.sum(1)
    return 100 * np.column_stack([micro, per_genre.mean(1), by_frequency, by_trailer, per_genre])


def chance(run):
    """Return what random probabilities get on a run's test trailers, (4 + G,), by drawing them."""
    generator = np.random.default_rng(SEED)
    tests = [(true, np.ones((1, len(true)))) for _, true, _ in run.tests.values() for _ in range(DRAWS)]
    return np.mean([weighted_metrics(true, generator.random(true.shape), weights)[0] for true, weights in tests], 0)


def bootstrap(a, b):
    """Compare two runs by paired bootstrap: (4, 5) with a, b, a - b and its 95 % interval per metric, and a note.

    A resample draws as many trailers as there are, with replacement, from all test trailers that both runs have; a
    trailer drawn counts in each split that tests it. Metrics are averaged over the splits.
    """
    common = {split: sorted(set(a.tests[split][0]) & set(b.tests[split][0])) for split in a.tests if split in b.tests}
    mids = sorted(set().union(*common.values()))
    if not mids or not all(common.values()):
        raise divita.UserError(f"{a.name} and {b.name} share no split and test trailers; train both on the same --data")
    column = {mid: i for i, mid in enumerate(mids)}
    draws = np.random.default_rng(SEED).multinomial(len(mids), np.full(len(mids), 1 / len(mids)), RESAMPLES)
    weights = np.vstack([np.ones_like(draws[:1]), draws])  # (1 + R, mids); the first: every trailer once
    values = np.zeros((2, len(weights), 4))
    for split, shared in tqdm(common.items(), "bootstrap", leave=False):
        for i, (tested, true, probabilities) in enumerate((a.tests[split], b.tests[split])):
            row = {mid: j for j, mid in enumerate(tested)}
            rows = [row[mid] for mid in shared]
            drawn = weights[:, [column[mid] for mid in shared]]
            values[i] += weighted_metrics(true[rows], probabilities[rows], drawn)[:, :4] / len(common)
    (whole_a, *some_a), (whole_b, *some_b) = values
    interval = np.percentile(np.subtract(some_a, some_b), (2.5, 97.5), axis=0)
    note = f"{len(mids):,} test trailers of splits {', '.join(common)}, {RESAMPLES:,} resamples"
    return np.stack([whole_a, whole_b, whole_a - whole_b, *interval], 1), note


# ---- Tables ----

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

    def markdown(self):
        header, *rows = [[cell.replace("|", r"\|") for cell in row] for row in [self.header, *self.rows]]
        rows = [[f"**{c}**" if (i, j) in self.bold else c for j, c in enumerate(row)] for i, row in enumerate(rows)]
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        rule = ["-" * w if j < self.words else "-" * (w - 1) + ":" for j, w in enumerate(widths)]
        align = [str.ljust] * self.words + [str.rjust] * len(widths)
        lines = [" | ".join(f(c, w) for f, c, w in zip(align, row, widths)) for row in (header, rule, *rows)]
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines), "", *self.notes, ""])

    def latex(self):
        header, *rows = [[cell.translate(LATEX) for cell in row] for row in [self.header, *self.rows]]
        rows = [
            [rf"\textbf{{{c}}}" if (i, j) in self.bold else c for j, c in enumerate(row)] for i, row in enumerate(rows)
        ]
        columns = "l" * self.words + "r" * (len(header) - self.words)
        lines = [r"\begin{table}", rf"\caption{{{' '.join([self.title + '.', *self.notes]).translate(LATEX)}}}"]
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\hline", " & ".join(header) + r" \\", r"\hline"]
        lines += [*(" & ".join(row) + r" \\" for row in rows), r"\hline", r"\end{tabular}", r"\end{table}", ""]
        return "\n".join(lines)


def plus_minus(values):
    """Return mean ± sample standard deviation as text; the mean alone of one value, a dash for none."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else "–"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def cost_cells(run):
    return ["–", "–"] if run is None or run.parameters is None else [f"{run.parameters:,}", f"{run.gmacs:.3g}"]


def best(rows, columns):
    """Return the cells (row, column) with the largest leading number of each column."""
    numbers = {(i, j): float(row[j].split()[0]) for i, row in enumerate(rows) for j in columns if row[j] != "–"}
    return {(i, j) for (i, j), x in numbers.items() if x == max(y for (_, column), y in numbers.items() if column == j)}


def overall_tables(runs, notes):
    """Return the table of all runs and the one of the genres, whose columns are the first one's rows."""
    by_chance = [f"{value:.2f}" for value in chance(runs[0])]
    header = ["", "run", *METRICS, "parameters", "GMACs"]
    rows = [[f"{i}", r.name, *map(plus_minus, r.scores.T[:4]), *cost_cells(r)] for i, r in enumerate(runs, 1)]
    what = [
        "Areas under precision-recall curves of the test trailers in percent, mean ± sample standard deviation over "
        f"splits {', '.join(sorted({split for run in runs for split in run.tests}))}. Chance: random probabilities.",
        "Parameters and multiply-adds (GMACs, per clip) are those of backbones and head; a head's multiply-adds for a "
        "snippet are shared out over its clips.",
    ]
    chances = ["", "chance", *by_chance[:4], "–", "–"]
    first = Table("All runs", what + notes, header, [*rows, chances], best(rows, range(2, 6)), words=2)
    columns = [[plus_minus(values) for values in run.scores.T[4:]] for run in runs]
    rows = [list(row) for row in zip(runs[0].config["genres"], *columns, by_chance[4:])]
    bold = {(j, i + 1) for i, j in best(columns, range(len(rows)))}
    numbers = [f"{i}" for i in range(1, len(runs) + 1)]
    return [first, Table("Genres", ["Runs by their number above."], ["", *numbers, "chance"], rows, bold)]


def write_table_csv(path, runs):
    """Write a row per run, means and sample standard deviations in percent; what is not known stays empty."""
    header = ["run", "image", "video", "aggregation", "fusion", "splits"]
    header += [name for metric in METRICS for name in (metric, f"{metric}_std")]
    header += [*runs[0].config["genres"], "parameters", "gmacs"]
    rows = []
    for run in runs:
        cells = [run.name, *(run.config[key] or "" for key in header[1:5]), " ".join(run.tests)]
        for values in run.scores.T[:4]:
            cells += [f"{values.mean():.4f}", f"{values.std(ddof=1):.4f}" if len(values) > 1 else ""]
        some = [values[np.isfinite(values)] for values in run.scores.T[4:]]
        cells += [f"{values.mean():.4f}" if len(values) else "" for values in some]
        rows.append(cells + ([run.parameters, f"{run.gmacs:.6g}"] if run.gmacs else ["", ""]))
    divita.write_csv(path, header, rows)


def data_notes(runs, data):
    """Return sentences on what the numbers are of: the paper's data, another, or made up."""
    if all(map(is_published, runs)):
        return ["Trained on the published representations of Trailers12k."]
    notes = ["Not the paper's data: its values and these cannot be compared."]
    if (data / "true_cuts.csv").exists():  # known of trailers that 01_prepare.py made
        notes = ["The trailers are synthetic, made to try the code: nothing here is a finding about films."] + notes
    metas = [meta for run in runs for _, _, meta in inputs(run.config)]
    untrained = sorted({meta["backbone"] for meta in metas if meta["weights"] == "random"})
    return notes + [f"Random weights, not pretrained: {', '.join(untrained)}."] * bool(untrained)


def experiment_table(path, runs):
    """Return the table of one experiment of 02_train.py, beside the paper's values where they are of the same data."""
    experiment, runs = divita.read_json(path), {run.name: run for run in runs}
    try:
        title, entries = experiment["experiment"], [(row["label"], runs.get(row["run"])) for row in experiment["rows"]]
    except (KeyError, TypeError):
        raise divita.UserError(f"{path}: does not list runs; train the experiment again") from None
    beside = any(label in PAPER and run and is_published(run) for label, run in entries)
    rows = []
    for label, run in entries:
        cells = [plus_minus(values) for values in run.scores.T[:4]] if run else ["–"] * 4
        if beside and label in PAPER:
            paper = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in PAPER[label]]
            differences = [f"{run.scores[:, i].mean() - PAPER[label][i][0]:+.2f}" if run else "–" for i in range(4)]
            cells = [cell for three in zip(cells, paper, differences) for cell in three]
        elif beside:
            cells = [cell for ours in cells for cell in (ours, "–", "–")]
        rows.append([label, *cells, *cost_cells(run)])
    header = ["", *(h for metric in METRICS for h in [metric, "paper", "difference"][: 3 if beside else 1])]
    missing = [label for label, run in entries if run is None]
    notes = [f"Not trained yet: {', '.join(missing)}."] if missing else []
    bold = best(rows, range(1, len(header), 3 if beside else 1))
    return Table(f"Experiment: {title}", notes, [*header, "parameters", "GMACs"], rows, bold)


def comparison_table(runs, names):
    """Return the comparison of the two runs named, or of the best of two inputs and of one; None if one is lacking."""
    both = [next((run for run in runs if (run.kind == "image and video") == fused), None) for fused in (True, False)]
    a, b = [find_run(runs, name) for name in names] if names else both
    if not (a and b):
        return None
    values, note = bootstrap(a, b)
    rows = [
        [metric, f"{x:.2f}", f"{y:.2f}", f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}"]
        for metric, (x, y, difference, low, high) in zip(METRICS, values)
    ]
    notes = [f"A: {a.name}. B: {b.name}. Paired bootstrap: {note}."]
    return Table("Two runs, trailer by trailer", notes, ["", "A", "B", "A - B", "95 % interval"], rows, set())


def find_run(runs, name):
    found = next((run for run in runs if run.name == name), None)
    if found is None:
        raise divita.UserError(f"no finished run is called {name}; there is {', '.join(run.name for run in runs)}")
    return found


# ---- The claims of the paper's abstract ----


def facts(run):
    """Return what two runs must share to be compared, {what: value}."""
    settings = ("backbone", "segmentation", "fps", "frames_per_clip", "frames")
    of_inputs = {(kind, key): meta[key] for kind, _, meta in inputs(run.config) for key in settings}
    return {key: run.config[key] for key in ("aggregation", "clips", "fusion")} | of_inputs


def segmentation_pairs(runs, kind):
    """Return the pairs of runs on one input that differ only in shots and seconds."""
    found = [(run, facts(run)) for run in runs if run.kind == kind]
    seconds = (kind, "segmentation"), "seconds"
    return [(a, b) for a, x in found for b, y in found if x != y and x | dict([seconds]) == y]


def fusion_pairs(runs):
    """Return each run on two inputs with the better one of the two runs on one of them."""
    pairs = []
    for run in runs:
        of_one = [
            {key: value for key, value in (facts(run) | {"fusion": None}).items() if key[0] != other}
            for other in ("video", "image")
        ]
        single = [other for other in runs if facts(other) in of_one]  # the better one comes first
        if run.kind == "image and video" and len(single) == 2:
            pairs.append((run, single[0]))
    return pairs


def gain(pairs, missing):
    """Return in words the mean difference in uAP of pairs of runs over their common splits, or what is missing."""
    gains = []
    for a, b in pairs:
        both = [{split: row[0] for split, row in zip(run.tests, run.scores)} for run in (a, b)]
        values = np.array([[x[split] for split in both[0] if split in both[1]] for x in both]).mean(1)  # of a, of b
        gains.append((values[0] - values[1], 100 * (values[0] / values[1] - 1)))
    if not gains:
        return f"missing: {missing}"
    points, percent = np.mean(gains, 0)
    what = f"mean of {len(pairs)} pairs" if len(pairs) > 1 else f"{pairs[0][0].name} against {pairs[0][1].name}"
    return f"{points:+.2f} points ({percent:+.2f} %), {what}"


def shares(pair, top):
    """Return in words the share of one cost (parameters, GMACs) in another."""
    return f"{100 * pair[0] / top[0]:.2f} % of the parameters, {100 * pair[1] / top[1]:.2f} % of the multiply-adds"


def claims_table(runs, notes):
    """Return the paper's four headline claims beside ours."""
    light = {}
    for names in (("shufflenet2d", "shufflenet3d"), ("swin3d",)):
        made_by = [run for run in runs if tuple(meta["backbone"] for _, _, meta in inputs(run.config)) == names]
        light["+".join(names)] = made_by[0] if made_by else None
    absent = [name for name, run in light.items() if run is None]
    pair, top = light.values()
    lightweight = gain([] if absent else [(pair, top)], f"{' and '.join(absent)} (02_train.py --experiment transfer)")
    if not absent and pair.gmacs and top.gmacs:
        lightweight += "; " + shares((pair.parameters, pair.gmacs), (top.parameters, top.gmacs))
    apart = "{} on shots and on seconds (02_train.py --experiment segmentation)"
    rows = [
        [f"shots instead of seconds, {kind}", paper, gain(segmentation_pairs(runs, kind), apart.format(kind))]
        for kind, paper in (("image", "+1.83 %"), ("video", "+3.75 %"))
    ]
    single = gain(fusion_pairs(runs), "image, video and both, otherwise alike (02_train.py)")
    rows += [
        ["fusion instead of its better input", "+2.91 %", single],
        ["ShuffleNet fusion instead of Swin-3D", f"-3.46 %; {PAPER_SHARES}", lightweight],
    ]
    notes = ["Ours: uAP in points and relative; the paper does not say which of the two its percentages are.", *notes]
    return Table("The paper's claims", notes, ["", "paper", "ours"], rows, set(), words=3)


def costs_table():
    """Return the cost of every backbone for a clip of 24 frames, and what the paper says of two of them."""
    rows, costs = [], {}
    for name, backbone in tqdm(divita.BACKBONES.items(), "backbones", leave=False):
        costs[name] = backbone_cost(name, 24)
        parameters, macs = costs[name] or (None, None)
        counted = [f"{parameters:,}", f"{macs / 1e9:.4g}", f"{macs / 24e9:.3g}"] if costs[name] else ["–"] * 3
        rows.append([name, backbone.input, *counted])
    notes = ["Without classification layers."]
    names = ("shufflenet2d", "shufflenet3d", "swin3d")
    if all(costs[name] for name in names):
        features = tuple(divita.BACKBONES[name].features for name in names)
        heads = np.array([head_cost(features[:2], 10), head_cost(features[2:], 10)]) / (1, 30)  # a clip's share
        pair, top = np.add(costs[names[0]], costs[names[1]]) + heads[0], np.array(costs[names[2]]) + heads[1]
        notes.append(f"ShuffleNet fusion in Swin-3D, heads included: {shares(pair, top)}.")
        notes.append(f"The paper: {PAPER_SHARES}, for a number of frames that it does not say.")
    return Table("Backbones", notes, ["", "input", "parameters", "GMACs of 24 frames", "of one"], rows, set(), words=2)


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


def champions(runs):
    """Return the best run on both inputs, on images and on video, those that there are."""
    first = [next((run for run in runs if run.kind == kind), None) for kind in ("image and video", "image", "video")]
    return [run for run in first if run]


def draw_precision_recall(runs, path):
    """Draw for each genre the curves of the best run of each kind, averaged over the splits."""
    runs, genres = champions(runs), runs[0].config["genres"]
    columns = min(5, len(genres))
    rows = -(-len(genres) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7, 1 + 1.6 * rows), sharex=True, sharey=True, squeeze=False)
    recall = np.linspace(0, 1, 200, endpoint=False)
    for g, (genre, axis) in enumerate(zip(genres, axes.flat)):
        tests = [test for test in runs[0].tests.values() if test[1][:, g].any()]
        axis.axhline(np.mean([true[:, g].mean() for _, true, _ in tests] or [0]), color="0.6", linewidth=0.8)
        for run, line in zip(runs, LINES):
            curves = [
                precision_recall_curve(true[:, g], p[:, g]) for _, true, p in run.tests.values() if true[:, g].any()
            ]
            if curves:
                precision = np.mean([np.interp(recall, r[::-1], p[::-1]) for p, r, _ in curves], 0)
                axis.plot(recall, precision, line, color=colour(genre, genres), linewidth=1.3)
        axis.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axis.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
        axis.set(title=genre, xlim=(0, 1), ylim=(0, 1.02))
    for axis in axes.flat[len(genres) :]:
        axis.axis("off")
    handles = [plt.Line2D([], [], color="black", linestyle=line, label=short(run)) for run, line in zip(runs, LINES)]
    handles.append(plt.Line2D([], [], color="0.6", linewidth=0.8, label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    figure.supxlabel("recall", size=8)
    figure.supylabel("precision (mean over splits)", size=8)
    save(figure, path)


def draw_training(runs, path):
    """Draw the losses of six runs' splits over the epochs, with the epoch kept."""
    figure, axes = plt.subplots(
        -(-len(runs) // 3), min(3, len(runs)), figsize=(7, 1 + 1.9 * -(-len(runs) // 3)), sharey=True, squeeze=False
    )
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
    handles = axes[0, 0].get_lines()[:3]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, title="one line per split")
    figure.supxlabel("epoch", size=8)
    figure.supylabel("binary cross-entropy (nats per label)", size=8)
    save(figure, path)


def draw_cost(runs, path):
    """Draw uAP against multiply-adds, parameters as the circles' areas; labels stand evenly at the right."""
    runs = [run for run in runs if run.gmacs][:16]
    if not runs:
        return
    figure, axis = plt.subplots(figsize=(7, max(3, 0.8 + 0.25 * len(runs))))
    largest = max(run.parameters for run in runs)
    handles = []
    for kind, hatch in zip(("image and video", "image", "video"), HATCHES):
        look = {"facecolor": "0.9", "edgecolor": "black", "hatch": hatch}
        handles.append(plt.scatter([], [], 60, label=kind, **look))
        for run in runs:
            if run.kind == kind:
                axis.scatter(run.gmacs, run.uap, 900 * run.parameters / largest, alpha=0.8, **look)
    axis.set(xlabel="billions of multiply-adds per clip", ylabel="uAP (%)", xscale="log")
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.margins(0.15, 0.2)
    for run, place in zip(runs, np.linspace(1, 0, 2 * len(runs) + 1)[1::2]):  # best first, from the top down
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        text = f"{short(run)}: {run.parameters / 1e6:.3g} M"
        place = {"xytext": (1.06, place), "textcoords": "axes fraction", "va": "center"}
        axis.annotate(text, (run.gmacs, run.uap), size=7, arrowprops=line, **place)
    title = "area: parameters of backbones and head (M: millions)"
    figure.legend(handles=handles, loc="outside upper center", ncols=3, title=title)
    save(figure, path)


def draw_genres(runs, path):
    """Draw each genre's area, the best run of each kind side by side, with standard deviations."""
    runs, genres = champions(runs), runs[0].config["genres"]
    colours = [colour(genre, genres) for genre in genres]
    figure, axis = plt.subplots(figsize=(7, 3.2))
    width, handles = 0.8 / len(runs), []
    for i, (run, hatch) in enumerate(zip(runs, HATCHES)):
        values = [column[np.isfinite(column)] for column in run.scores.T[4:]]
        heights = [column.mean() if len(column) else 0 for column in values]
        deviations = [column.std(ddof=1) if len(column) > 1 else 0 for column in values]
        places = np.arange(len(genres)) + (i - (len(runs) - 1) / 2) * width
        bars = {"color": "white" if i else colours, "edgecolor": colours, "hatch": hatch, "width": 0.9 * width}
        axis.bar(places, heights, yerr=deviations, capsize=1.5, error_kw={"linewidth": 0.8}, **bars)
        look = {"facecolor": "white" if i else "0.3", "edgecolor": "0.3", "hatch": hatch}
        handles.append(plt.Rectangle((0, 0), 1, 1, label=short(run), **look))
    axis.set_xticks(range(len(genres)), genres, rotation=30, ha="right", rotation_mode="anchor")
    axis.set(yticks=range(0, 101, 20), ylim=(0, None), ylabel="area under the precision-recall curve (%)")
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    save(figure, path)


def draw_cooccurrence(run, path):
    """Draw what share of the test trailers of a genre is of each other genre, in truth and as predicted."""
    genres = run.config["genres"]
    true = np.concatenate([true for _, true, _ in run.tests.values()])
    predicted = np.concatenate([probabilities >= THRESHOLD for _, _, probabilities in run.tests.values()])
    figure, axes = plt.subplots(1, 2, figsize=(7, 1.5 + 0.24 * len(genres)))
    for axis, title, y in zip(axes, ("truth", "predicted by " + short(run, "\n+ ")), (true, predicted)):
        together = y.T.astype(float) @ y  # (G, G)
        count = together.diagonal()
        share = 100 * together / np.maximum(count, 1)[:, None]
        share[np.eye(len(genres), dtype=bool) | (count == 0)[:, None]] = np.nan
        picture = axis.imshow(share, cmap="Greys", vmin=0, vmax=100)
        for i, j in zip(*np.nonzero(np.isfinite(share))):
            shade = "white" if share[i, j] > 55 else "black"
            axis.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=shade, size=6)
        axis.set_xticks(range(len(genres)), genres, rotation=90)
        axis.set_yticks(range(len(genres)), [f"{genre} ({n:.0f})" for genre, n in zip(genres, count)])
        axis.set_title(title)
        axis.spines[:].set_visible(False)
    label = "% of the row's trailers (their number, all splits, in brackets)\nthat are of the column's genre too"
    figure.colorbar(picture, ax=axes, location="bottom", label=label, aspect=40, shrink=0.5)
    save(figure, path)


def draw_figures(runs, out):
    with plt.rc_context(STYLE):
        draw_precision_recall(runs, out / "precision_recall.png")
        for page, first in enumerate(range(0, len(runs), 6), 1):
            draw_training(runs[first : first + 6], out / f"training{f'_{page}' if len(runs) > 6 else ''}.png")
        draw_cost(runs, out / "cost.png")
        draw_genres(runs, out / "genres.png")
        draw_cooccurrence(champions(runs)[0], out / "cooccurrence.png")


# ---- New trailers ----


def predict(arguments):
    """Print the genres of the trailers in a prepared folder, draw them over time, and write predictions.csv."""
    config, models = read_models(arguments.runs, arguments.run)
    genres, length = config["genres"], config["snippet_clips"]
    representations = [matching(arguments.predict, config, *of_input) for of_input in inputs(config)]
    everyone = sorted(set().union(*(x.rows for x in representations)))
    usable, left_out = divita.usable(divita.Labels(everyone, [], None, None), representations)
    print(f"{divita.device()}; {len(usable)} trailers, {len(models)} models{left_out and '; ' + left_out or ''}")
    divita.sweep(arguments.out)
    videos, rows = find_videos(arguments), []
    for mid in tqdm([everyone[row] for row in usable], "trailers", leave=False):
        clips = [x[mid] for x in representations]  # [(C, F), ...]
        p = np.mean([divita.predict(model, [clips], length)[0] for model in models], 0)  # (G,)
        rows.append([mid, *(f"{value:.4f}" for value in p)])
        tqdm.write(f"{mid}: {in_words(p, genres)}")
        snippets = [overlapping(x, length) for x in clips]  # [(windows, S, F), ...]
        over_time = np.mean([divita.snippet_probabilities(model, snippets) for model in models], 0)  # (windows, G)
        times = clip_times(arguments.predict, representations[0], mid)
        with plt.rc_context(STYLE):
            figure = draw_trailer(mid, p, over_time, genres, times, videos.get(mid))
            save(figure, arguments.out / f"genres_of_{mid}.png")
    divita.write_csv(arguments.out / "predictions.csv", ["mid", *genres], rows)
    print(f"probabilities (predictions.csv) and figures (genres_of_*.png): {arguments.out}")


def read_models(runs, name):
    """Return a run's configuration and its models, one per split."""
    folders = sorted(path.parent for path in (runs / name).glob("split*/config.json"))
    if not folders:
        there = sorted({path.parts[-3] for path in runs.glob("*/split*/config.json")})
        raise divita.UserError(f"{runs}: no trained run {name}; there is {', '.join(there) or 'none'}")
    return read_config(folders[0] / "config.json"), [divita.load_model(folder / "model.keras") for folder in folders]


def matching(folder, config, kind, name, expected):
    """Open the representation in `folder` that was made as a run's was; a UserError says what differs."""
    there = [path for path in divita.representations(folder) if divita.backbone_of(path) == expected["backbone"]]
    if not there:
        make = preparation(folder, kind, expected)
        raise divita.UserError(f"{folder}: no representation by {expected['backbone']} there; make it with: {make}")
    keys = ("digest" if "digest" in expected else "weights", "segmentation", "detector", "fps", "frames_per_clip")
    keys = [key for key in (*keys, "frames", "input_size") if key in expected]
    differing = []
    for path in there:
        meta = divita.meta_of(path) or published_meta(path.name)
        differing.append(
            [f"{key} {meta.get(key)}, not {expected[key]}" for key in keys if meta.get(key) != expected[key]]
        )
    path, fewest = min(zip(there, differing), key=lambda pair: len(pair[1]))
    if fewest:
        raise divita.UserError(f"{path}: not made as the run's {name}: {'; '.join(fewest)}; prepare the trailers alike")
    representation = divita.open_representation(folder, path.name)
    if representation.features != config[f"{kind}_features"]:
        features = f"{representation.features} features, not {config[f'{kind}_features']}"
        raise divita.UserError(f"{path}: {features} as the run's {name}; prepare the trailers alike")
    return representation


def preparation(folder, kind, meta):
    """Return the command that prepares new trailers in `folder` as an input of a run was prepared."""
    command = f"python 01_prepare.py --videos DIR --out {folder} --{kind} {meta['backbone']}"
    command += f" --{'video' if kind == 'image' else 'image'} none"
    weights = f"{meta['backbone']}=FILE" if meta["weights"] == "file" else meta["weights"]
    options = {"weights": (weights, "pretrained"), "segmentation": (meta["segmentation"], "shots")}
    options |= {"detector": (meta.get("detector") or "adaptive", "adaptive"), "fps": (f"{meta['fps']:g}", "24")}
    options |= {"frames-per-clip": (meta["frames_per_clip"], 24)}
    options |= {"image-frames": (meta["frames"], meta["frames_per_clip"])} if kind == "image" else {}
    return command + "".join(f" --{name} {value}" for name, (value, usual) in options.items() if value != usual)


def in_words(p, genres):
    """Return the genres from THRESHOLD on, or the likeliest one, with their probabilities."""
    order = np.argsort(-p)
    text = ", ".join(f"{genres[g]} {p[g]:.2f}" for g in order if p[g] >= THRESHOLD)
    return text or f"no genre from {THRESHOLD} on; likeliest {genres[order[0]]} {p[order[0]]:.2f}"


def overlapping(clips, length):
    """Cut a trailer into overlapping snippets, one from each clip on: (C, F) -> (windows, S, F).

    A snippet is at most a quarter of the trailer, so that a short one has a course too, and holds the same share of
    zeros as evaluation pads the trailer with.
    """
    width = min(length, max(1, len(clips) // 4))
    zeros = round(width * max(0, length - len(clips)) / len(clips))
    cut = np.lib.stride_tricks.sliding_window_view(clips, width, axis=0).swapaxes(1, 2)  # (windows, width, F)
    return np.pad(cut, ((0, 0), (0, zeros), (0, 0)))


def clip_times(folder, representation, mid):
    """Return the clips' shot, start_s and end_s, each (C,); a published representation's clips last a second each."""
    count = len(representation[mid])
    if not representation.meta:
        return {"shot": np.zeros(count), "start_s": np.arange(count), "end_s": np.arange(count) + 1.0}
    path = folder / representation.meta["clips"] / f"{mid}.csv"
    header, rows = divita.read_table(path)
    if len(rows) != count:
        raise divita.UserError(f"{path}: {len(rows)} clips, but {representation.name} has {count}; prepare {mid} again")
    return {
        name: np.array([row[header.index(name)] for _, row in rows], float) for name in ("shot", "start_s", "end_s")
    }


def find_videos(arguments):
    """Return {mid: path} of the videos that the trailers were prepared from, as far as they are still there."""
    folder = arguments.videos or arguments.predict / "videos"
    if not folder.is_dir():
        print(f"{folder}: no such folder, so no pictures of the shots; say with --videos where the videos are")
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in divita.SUFFIXES}


def draw_trailer(mid, p, over_time, genres, times, video):
    """Draw a band per genre, likeliest first, with its probability over the trailer's time; below, its shots."""
    width, end = len(times["shot"]) - len(over_time) + 1, times["end_s"][-1]
    middle = (times["start_s"][: len(over_time)] + times["end_s"][width - 1 :]) / 2  # of each snippet
    cuts = times["start_s"][1:][np.diff(times["shot"]) > 0]
    pictures = shot_pictures(video, times) if video else []
    heights = [1] * len(genres) + [1.3] * bool(pictures)
    size = (7, 0.7 + 0.27 * sum(heights))
    figure, axes = plt.subplots(len(heights), figsize=size, height_ratios=heights, sharex=True, squeeze=False)
    axes = axes[:, 0]
    for axis, g in zip(axes, np.argsort(-p)):
        x, y = [0, *middle, end], over_time[[0, *range(len(over_time)), -1], g]
        axis.fill_between(x, y, color=colour(genres[g], genres), alpha=0.5, linewidth=0)
        axis.plot(x, y, color=colour(genres[g], genres), linewidth=1)
        axis.axhline(THRESHOLD, color="0.5", linewidth=0.5, linestyle=":")
        axis.vlines(cuts, 0, 1, color="0.85", linewidth=0.5, zorder=0)
        axis.set(xlim=(0, end), ylim=(0, 1), yticks=())
        weight = "bold" if p[g] >= THRESHOLD else "normal"
        axis.set_ylabel(f"{genres[g]} {p[g]:.2f}", rotation=0, ha="right", va="center", weight=weight)
        axis.tick_params(bottom=False)
    for left, right, picture in pictures:
        axes[-1].imshow(picture, extent=(left, right, 0, 1), aspect="auto")
    if pictures:
        axes[-1].set(xlim=(0, end), ylim=(0, 1), yticks=())
        axes[-1].set_ylabel("shots", rotation=0, ha="right", va="center")
    axes[-1].tick_params(bottom=True)
    axes[-1].set_xlabel("time (s); grey lines: cuts")
    figure.suptitle(f"{mid}: probability (0 to 1, dots at {THRESHOLD}) in snippets of {width} clips", size=8)
    return figure


def shot_pictures(video, times, most=10):
    """Return [(left, right, picture)] in seconds: the middle frames of as many shots as there is room for."""
    import cv2

    pictures, end, free = [], times["end_s"][-1], 0
    capture, width = cv2.VideoCapture(str(video)), end / most
    for shot in np.unique(times["shot"]):
        clips = times["shot"] == shot
        middle = (times["start_s"][clips][0] + times["end_s"][clips][-1]) / 2
        right = np.clip(middle + width / 2, width, end)
        left = max(right - width, free)
        if right - left < 0.6 * width:
            continue
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * middle)
        decoded, frame = capture.read()
        if decoded:
            aspect = 16 / 9 * (right - left) / width  # of the room; the frame's centre is cut out to fit
            height = min(frame.shape[0], int(frame.shape[1] / aspect))
            x, y = (frame.shape[1] - int(height * aspect)) // 2, (frame.shape[0] - height) // 2
            frame = frame[y : y + height, x : x + int(height * aspect), ::-1]  # BGR to RGB
            picture = cv2.resize(frame, (int(90 * aspect), 90), interpolation=cv2.INTER_AREA)
            pictures.append((left, right - 0.03 * width, picture))
            free = right
    capture.release()
    return pictures


# ---- The command ----


def main(arguments):
    if arguments.predict:
        return predict(arguments)
    if arguments.costs:
        return print(costs_table().markdown())
    runs = read_runs(arguments.runs)
    divita.sweep(arguments.out)
    notes = data_notes(runs, arguments.data)
    tables = overall_tables(runs, notes)
    tables += [experiment_table(path, runs) for path in sorted(arguments.runs.glob("*.json"))]
    tables += [claims_table(runs, notes), comparison_table(runs, arguments.compare)]
    tables = [table for table in tables if table]
    markdown = "\n".join(table.markdown() for table in tables)
    print(f"\n{markdown}")
    divita.write_text(arguments.out / "table.md", markdown)
    divita.write_text(arguments.out / "table.tex", "\n".join(table.latex() for table in tables))
    write_table_csv(arguments.out / "table.csv", runs)
    draw_figures(runs, arguments.out)
    print(f"tables (table.md, table.csv, table.tex) and figures (*.png): {arguments.out}")
    print("next, genres of new trailers:")
    for kind, _, meta in inputs(runs[0].config):
        print(preparation("data/new", kind, meta))
    print(f"python 03_evaluate.py --runs {arguments.runs} --predict data/new --run {runs[0].name} --videos DIR")


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
