"""Train DIViTA heads on representations: one run per configuration and split.

    python 02_train.py                                            image, video and both on the demo, three splits
    python 02_train.py --data data/mine --image swin2d --runs runs/mine
    python 02_train.py --data data/trailers12k --experiment transfer --runs runs/trailers12k
    torchrun --nproc-per-node 4 02_train.py --data data/trailers12k --experiment transfer --runs runs/trailers12k

A run leaves runs/<name>/<run>/split<k>/ with model.keras, history.csv, predictions.npz and, last, config.json; it is
not repeated. 01_prepare.py makes what this reads, 03_evaluate.py reads what this makes.
"""

import argparse
import json
import math
import platform
import random
import re
import shlex
import signal
import sys
import time
from pathlib import Path

EPOCHS, LEARNING_RATE, BATCH_SIZE, CLIPS = 100, 1e-4, 32, 30
DEMO_DATA, DEMO_EPOCHS, DEMO_LEARNING_RATE = Path("data/demo"), 40, 2e-3  # an epoch of the demo is two batches
PATIENCE_RATE, PATIENCE_STOP = 10, 20  # epochs without a lower validation loss: learning rate divided by 10; the end
EXTENSIONS, FRAME_RATES = (10, 20, 30, 60, 0), (4, 8, 12, 24)  # 0 clips: the whole trailer in one snippet
TRANSFER = (  # the rows of the paper's table: name, image backbone, video backbone
    ("ShuffleNet-2D", "shufflenet2d", None),
    ("ShuffleNet-3D", None, "shufflenet3d"),
    ("ShuffleNet fusion", "shufflenet2d", "shufflenet3d"),
    ("ResNet50", "resnet50", None),
    ("R(2+1)D", None, "r2plus1d"),
    ("ResNet fusion", "resnet50", "r2plus1d"),
    ("Swin-2D", "swin2d", None),
    ("Swin-3D", None, "swin3d"),
)
EXPERIMENTS = ("transfer", "fusion", "aggregation", "extension", "segmentation", "frame-rate")


def parse_arguments():
    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description=__doc__.split("\n\n")[0])
    parser.epilog = "Defaults are in parentheses."
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}; see --help\n")
    what = parser.add_argument_group("what to train on")
    what.add_argument("--data", metavar="DIR", type=Path, help="what 01_prepare.py made (the demo, data/demo)")
    what.add_argument("--image", metavar="NAME", help="image representation, its backbone, or none (the first there)")
    what.add_argument("--video", metavar="NAME", help="video representation, its backbone, or none (the first there)")
    what.add_argument("--splits", metavar="K", type=int, nargs="+", help="split columns of labels.csv (all there)")
    what.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="for the runs (runs/demo)")
    what.add_argument("--overwrite", action="store_true", help="train again what is trained already")
    which = parser.add_argument_group("which runs (image only, video only and both)")
    help = f"a study of the paper: {', '.join(EXPERIMENTS)}"
    which.add_argument("--experiment", metavar="NAME", choices=EXPERIMENTS, help=help)
    which.add_argument("--aggregation", metavar="NAME", default="tsfm", help="tsfm, gru, conv or savg (tsfm)")
    which.add_argument("--fusion", choices=("late", "early"), default="late", help="of image and video (late)")
    which.add_argument("--clips", metavar="N", type=int, default=CLIPS, help="in a snippet, 0: whole trailer (30)")
    how = parser.add_argument_group("how to train")
    how.add_argument("--epochs", metavar="N", type=int, help="at most (100; the demo: 40)")
    how.add_argument("--lr", metavar="RATE", type=float, help="learning rate of AdamW (1e-4; the demo: 2e-3)")
    how.add_argument("--batch-size", metavar="N", type=int, default=BATCH_SIZE, help="trailers in a batch (32)")
    how.add_argument("--seed", metavar="N", type=int, default=0, help="of weights, order and snippets (0)")
    arguments = parser.parse_args()
    demo = arguments.data in (None, DEMO_DATA)
    arguments.data = arguments.data or DEMO_DATA
    epochs, rate = (DEMO_EPOCHS, DEMO_LEARNING_RATE) if demo else (EPOCHS, LEARNING_RATE)
    arguments.epochs = epochs if arguments.epochs is None else arguments.epochs
    arguments.lr = rate if arguments.lr is None else arguments.lr
    for name, least in (("clips", 0), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not 0 < arguments.lr < math.inf:
        parser.error("--lr must be a positive number")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until divita.run() takes over, there is nothing to lose
    ARGUMENTS = parse_arguments()

import numpy as np
import torch
from tqdm import tqdm

import divita
from divita import keras  # not import keras, which would choose a backend before divita does

# ---- What to run: rows of a table, (label, image, video, changes), where image and video name representations ----


def chosen_inputs(arguments):
    """Return the image and the video representation to use: those named, or without any name the first of each."""
    if not (arguments.image or arguments.video):
        found = [path for path in divita.representations(arguments.data) if is_standard(path)]
        kinds = [[path.name for path in found if divita.input_of(path) == kind] for kind in ("image", "video")]
        names = [kind[0] if kind else None for kind in kinds]
    else:
        given = [None if name == "none" else name for name in (arguments.image, arguments.video)]
        names = [name and divita.find_representation(arguments.data, name).name for name in given]
    if not any(names):
        raise divita.UserError(f"{arguments.data}: no representation to train on; prepare one with 01_prepare.py")
    return names


def is_standard(path):
    return path.suffix == ".zarr" or path.name == divita.representation_name(divita.backbone_of(path))


def table_rows(arguments):
    """Return the rows of the table that the arguments ask for."""
    image, video = chosen_inputs(arguments)
    if arguments.experiment == "transfer":
        return [(*row, {}) for row in transfer_rows(arguments.data)]
    if arguments.experiment == "fusion":
        if not (image and video):
            raise divita.UserError("--experiment fusion needs both inputs; name them with --image and --video")
        return [(kind, image, video, {"fusion": kind}) for kind in ("late", "early")]
    if arguments.experiment == "aggregation":
        return [(name, image, video, {"aggregation": name}) for name in sorted(divita.AGGREGATIONS)]
    if arguments.experiment == "extension":
        return [(f"{n} clips" if n else "whole trailer", image, video, {"clips": n}) for n in EXTENSIONS]
    if arguments.experiment == "segmentation":
        pairs = {"image": (image, None), "video": (None, video), "fusion": (image, video)}
        return [
            (f"{label}, {kind}", *(name and at_setting(name, segmentation=kind) for name in pair), {})
            for label, pair in pairs.items()
            if any(pair) and (label != "fusion" or all(pair))
            for kind in ("shots", "seconds")
        ]
    if arguments.experiment == "frame-rate":
        if not video:
            raise divita.UserError("--experiment frame-rate needs a video input; name it with --video")
        return [(f"{fps} frames/s", None, at_setting(video, fps=fps), {}) for fps in FRAME_RATES]
    alone = [("image", image, None, {}), ("video", None, video, {})] if not (arguments.image or arguments.video) else []
    return [row for row in alone if image and video] + [("fusion" if image and video else "single", image, video, {})]


def transfer_rows(data):
    """The paper's backbones, alone and in pairs, then those that only this data folder has."""
    known = {name for _, *names in TRANSFER for name in names}
    found = {divita.backbone_of(path): divita.input_of(path) for path in divita.representations(data)}
    images, videos = ([name for name, kind in found.items() if kind == k] for k in ("image", "video"))
    others = [(name, name, None) for name in images if name not in known]
    others += [(name, None, name) for name in videos if name not in known]
    others += [(f"{i} + {v}", i, v) for i in images for v in videos if not {i, v} <= known]
    return [*TRANSFER, *others]


def at_setting(name, segmentation=None, fps=None):
    """Return a representation's name with another segmentation or frame rate in it."""
    if name.endswith(".zarr"):
        raise divita.UserError(f"{name}: published for shots at one frame rate only; prepare videos of your own")
    if segmentation:
        name = re.sub("_(shots|seconds)_fps", f"_{segmentation}_fps", name)
    return re.sub("_fps[0-9.]+_fpc", f"_fps{fps}_fpc", name) if fps else name


def configurations(arguments):
    """Return [(label, configuration)] of the rows whose representations exist; say in one line which do not."""
    found, missing = [], []
    for label, image, video, changes in table_rows(arguments):
        try:
            image, video = (name and divita.find_representation(arguments.data, name).name for name in (image, video))
        except divita.UserError:
            missing += [name for name in (image, video) if name and not exists(arguments.data, name)]
            continue
        given = {name: getattr(arguments, name) for name in ("aggregation", "fusion", "clips", "epochs", "lr")}
        given |= {"batch_size": arguments.batch_size, "seed": arguments.seed, **changes}
        given["fusion"] = given["fusion"] if image and video else None
        found.append((label, {"image": image, "video": video, **given}))
    if missing:
        names = list(dict.fromkeys(missing))
        line = f"not in {arguments.data}: {', '.join(names)}; made by: {preparation(arguments.data, names)}"
        if not found:
            raise divita.UserError(line)
        print(line)
    return found


def exists(data, name):
    try:
        return divita.find_representation(data, name)
    except divita.UserError:
        return None


def preparation(data, names):
    """Return the 01_prepare.py command that makes what is missing."""
    command = ["python", "01_prepare.py", "--out", str(data)]
    if any(path.suffix == ".zarr" for path in divita.representations(data)):
        archives = {backbone: name for name, (backbone, _) in divita.PUBLISHED.items()}
        return shlex.join([*command, "--download", *(archives.get(name, name) for name in names)])
    if not (data / "videos").exists():  # not the demo, whose videos are its own
        command += ["--videos", "DIR", "--labels", str(data / "labels.csv")]
    parts = [re.fullmatch(r"(.+?)(?:_(shots|seconds)_fps([0-9.]+)_fpc\d+)?", name).groups() for name in names]
    for kind in ("image", "video"):
        of_kind = [name for name, *_ in parts if divita.find_backbone(name).input == kind]
        command += [f"--{kind}", *dict.fromkeys(of_kind or ["none"])]
    _, segmentation, fps = parts[0]
    command += ["--segmentation", segmentation] if segmentation == "seconds" else []
    return shlex.join(command + (["--fps", fps] if fps not in (None, "24") else []))


def run_name(configuration):
    """Return the folder's name of a run: its representations, then fusion, aggregation and clips if not the default."""
    names = [configuration[kind].removesuffix(".zarr") for kind in ("image", "video") if configuration[kind]]
    setting = re.search("_(shots|seconds)_fps[0-9.]+_fpc[0-9]+$", names[-1])
    if setting and all(name.endswith(setting[0]) for name in names):
        names = [name.removesuffix(setting[0]) for name in names[:-1]] + names[-1:]
    name = "+".join(names) + ("-early" if configuration["fusion"] == "early" else "")
    name += f"-{configuration['aggregation']}" if configuration["aggregation"] != "tsfm" else ""
    clips = configuration["clips"]
    return name + ("" if clips == CLIPS else f"-clips{clips}" if clips else "-whole")


# ---- One run ----


def is_finished(folder, config):
    """Tell whether a run is there; a UserError names one that was trained otherwise."""
    if not (folder / "config.json").exists():
        return False
    there = divita.read_json(folder / "config.json")
    other = [key for key in config if json.dumps(there.get(key)) != json.dumps(config[key])]
    if other:
        was, now = there.get(other[0]), config[other[0]]
        detail = f" ({was} there, {now} asked for)" if len(f"{was}{now}") < 80 else ""
        raise divita.UserError(
            f"{folder}: trained with another {' and '.join(other)}{detail}; choose another --runs, or --overwrite"
        )
    return True


def describe(configuration, split, inputs, labels, rows):
    """Return what identifies a run, the first part of its config.json; two equal ones give equal results."""
    kinds = [kind for kind in ("image", "video") if configuration[kind]]
    sizes = {name: len(np.intersect1d(rows, divita.subset(labels, split, name))) for name in divita.SUBSETS}
    longest = max(len(inputs[0][labels.mids[row]]) for row in rows)
    return {
        "format": divita.FORMAT,
        "run": run_name(configuration),
        **configuration,
        "split": split,
        "snippet_clips": configuration["clips"] or longest,
        "genres": labels.genres,
        **{f"{kind}_features": x.features for kind, x in zip(kinds, inputs)},
        **{f"{kind}_meta": x.meta for kind, x in zip(kinds, inputs)},
        "trailers": sizes,
        "labels": divita.digest_of([labels.mids[row] for row in rows], labels.y[rows], labels.splits[rows, split]),
    }


def train(config, inputs, labels, rows, folder, show):
    """Train one head and write its folder, config.json last; show(epoch, logs) is called after each epoch."""
    parts = {name: np.intersect1d(rows, divita.subset(labels, config["split"], name)) for name in divita.SUBSETS}
    mids = {name: [labels.mids[row] for row in part] for name, part in parts.items()}
    snippet, batch, seed = config["snippet_clips"], config["batch_size"], config["seed"]
    keras.utils.clear_session()
    random.seed(seed)  # and not keras.utils.set_random_seed(), which imports TensorFlow for 5 s
    torch.manual_seed(seed)
    features = {kind: config[f"{kind}_features"] for kind in ("image", "video") if config[kind]}
    model = divita.divita(features, len(labels.genres), config["aggregation"], config["fusion"] or "late")
    divita.compiled(model, config["lr"])
    started = time.perf_counter()
    history = model.fit(
        divita.TrainingSnippets(inputs, mids["train"], labels.y[parts["train"]], snippet, batch, seed),
        validation_data=divita.EvaluationSnippets(
            inputs, mids["validation"], labels.y[parts["validation"]], snippet, batch
        ),
        epochs=config["epochs"],
        verbose=0,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=PATIENCE_RATE),
            keras.callbacks.EarlyStopping(patience=PATIENCE_STOP, restore_best_weights=True),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LambdaCallback(on_epoch_end=show),
        ],
    ).history
    if not np.isfinite(history["loss"] + history["val_loss"]).all():
        raise divita.UserError(f"{folder}: the loss is not finite; choose a lower --lr")
    seconds = time.perf_counter() - started
    predictions = {"genres": labels.genres}
    for name in ("validation", "test"):
        trailers = [[x[mid] for x in inputs] for mid in mids[name]]
        predictions |= {f"{name}_mids": mids[name], f"{name}_true": labels.y[parts[name]]}
        predictions[f"{name}_probabilities"] = divita.predict(model, trailers, snippet)
    write_run(folder, model, config, history, predictions, seconds)


def write_run(folder, model, config, history, predictions, seconds):
    divita.save_model(model, folder / "model.keras")
    names = ["loss", "val_loss", "learning_rate"]
    epochs = zip(*([f"{value:.8g}" for value in history[name]] for name in names))
    divita.write_csv(folder / "history.csv", ["epoch", *names], [[i, *row] for i, row in enumerate(epochs, 1)])
    with divita.written(folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, **predictions)
    versions = {"python": platform.python_version(), "keras": keras.__version__, "torch": torch.__version__}
    best = int(np.argmin(history["val_loss"])) + 1
    config |= {"best_epoch": best, "seconds": round(seconds, 2), "versions": versions}
    divita.write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


# ---- All runs ----


def all_runs(arguments, found, labels):
    """Return [(folder, configuration identified, inputs, usable rows)] of every run asked for, finished or not."""
    splits = arguments.splits if arguments.splits is not None else range(labels.splits.shape[1])
    for split in splits:
        if not 0 <= split < labels.splits.shape[1]:
            raise divita.UserError(f"--splits: the labels have no column split{split}")
    opened, runs = {}, []
    for _, configuration in found:
        names = [configuration[kind] for kind in ("image", "video") if configuration[kind]]
        opened |= {name: divita.open_representation(arguments.data, name) for name in names if name not in opened}
        inputs = [opened[name] for name in names]
        rows, left_out = divita.usable(labels, inputs)
        if left_out:
            print(f"{run_name(configuration)}: {left_out}")
        for split in splits:
            for name in divita.SUBSETS:
                if not len(np.intersect1d(rows, divita.subset(labels, split, name))):
                    raise divita.UserError(f"{arguments.data}: split{split} has no {name} trailers that can be used")
            config = describe(configuration, split, inputs, labels, rows)
            runs.append((arguments.runs / config["run"] / f"split{split}", config, inputs, rows))
    return runs


def main(arguments):
    rank, world = divita.ranks()
    if arguments.aggregation not in divita.AGGREGATIONS:
        raise divita.UserError(f"--aggregation {arguments.aggregation}: there is {', '.join(divita.AGGREGATIONS)}")
    labels = divita.find_labels(arguments.data)
    found = configurations(arguments)
    runs = all_runs(arguments, found, labels)
    if rank == 0:
        divita.sweep(arguments.runs)
        if arguments.experiment:
            rows = [{"label": label, "run": run_name(configuration)} for label, configuration in found]
            content = {"format": divita.FORMAT, "experiment": arguments.experiment, "rows": rows}
            divita.write_text(arguments.runs / f"{arguments.experiment}.json", json.dumps(content, indent=1) + "\n")
    done = [not arguments.overwrite and is_finished(*run[:2]) for run in runs]
    print(f"{divita.device()}; {len(labels.mids)} trailers, {len(runs)} runs, {sum(done)} of them done already")
    share = zip(runs[rank::world], done[rank::world])  # which does not depend on when a rank starts
    mine = [run for run, finished in share if not finished]
    bar = tqdm(total=len(mine) * arguments.epochs, unit="epoch", disable=rank > 0, file=sys.stderr, mininterval=0.5)
    for number, (folder, config, inputs, rows) in enumerate(mine, 1):
        bar.set_description(f"run {number}/{len(mine)} {config['run'][:48]} split{config['split']}")
        before = bar.n

        def show(epoch, logs):
            bar.set_postfix({"loss": f"{logs['loss']:.3f}", "validation": f"{logs['val_loss']:.3f}"}, refresh=False)
            bar.update()

        train(config, inputs, labels, rows, folder, show)
        bar.total -= arguments.epochs - (bar.n - before)  # what stopping early saved
        bar.refresh()
    bar.close()
    print(f"runs: {arguments.runs}\nnext: python 03_evaluate.py --runs {arguments.runs} --data {arguments.data}")


if __name__ == "__main__":
    divita.run(main, ARGUMENTS)
