"""Train DIViTA heads on representations: one run per configuration and split.

    python 02_train.py                                            image, video and both on the demo, three splits
    python 02_train.py --data data/mine --image swin2d --runs runs/mine
    python 02_train.py --data data/trailers12k --experiment transfer --runs runs/trailers12k
    torchrun --nproc-per-node 4 02_train.py --data data/trailers12k --experiment transfer --runs runs/trailers12k

Each run writes model.keras, history.csv, predictions.npz and, last, config.json to runs/<name>/<run>/split<k>/.
Finished runs are skipped. Reads the output of 01_prepare.py; 03_evaluate.py reads the runs.
"""

import argparse
import collections
import functools
import logging
import math
import platform
import re
import shlex
import signal
import sys
import time
from pathlib import Path

EPOCHS, LEARNING_RATE, BATCH_SIZE, CLIPS = 100, 1e-4, 32, 30
DEMO_DATA, DEMO_EPOCHS, DEMO_LEARNING_RATE = Path("data/demo"), 40, 2e-3  # an epoch of the demo is two batches
LR_PATIENCE, STOP_PATIENCE = 10, 20  # epochs without improvement before learning rate / 10 and before stopping
INPUT_NAMES = ("image", "video")  # of inputs
OPTIONS = ("aggregation", "fusion", "clips", "epochs", "lr", "batch_size", "seed")  # that a run keeps
IMAGE, VIDEO = "--image", "--video"  # placeholders in the rows below: the input given by this option or the first
INPUTS = {"image": (IMAGE, None), "video": (None, VIDEO), "fusion": (IMAGE, VIDEO)}
EXPERIMENTS = {  # tables of runs; a row: label, image input, video input (or a backbone's name), what else is changed
    "inputs": [(label, *inputs, {}) for label, inputs in INPUTS.items()],
    "transfer": [
        ("ShuffleNet-2D", "shufflenet2d", None, {}),
        ("ShuffleNet-3D", None, "shufflenet3d", {}),
        ("ShuffleNet fusion", "shufflenet2d", "shufflenet3d", {}),
        ("ResNet50", "resnet50", None, {}),
        ("R(2+1)D", None, "r2plus1d", {}),
        ("ResNet fusion", "resnet50", "r2plus1d", {}),
        ("Swin-2D", "swin2d", None, {}),
        ("Swin-3D", None, "swin3d", {}),
    ],
    "fusion": [(fusion, IMAGE, VIDEO, {"fusion": fusion}) for fusion in ("late", "early")],
    "aggregation": [(name, IMAGE, VIDEO, {"aggregation": name}) for name in ("conv", "gru", "savg", "tsfm")],
    "extension": [(f"{n} clips" if n else "whole trailer", IMAGE, VIDEO, {"clips": n}) for n in (10, 20, 30, 60, 0)],
    "segmentation": [
        (f"{n}, {cut}", *INPUTS[n], {"segmentation": cut}) for n in INPUTS for cut in ("shots", "seconds")
    ],
    "frame-rate": [(f"{fps} frames/s", None, VIDEO, {"fps": fps}) for fps in (4, 8, 12, 24)],
}


def parse_arguments():
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # so that an error is one line
    add = parser.add_argument_group("what to train on").add_argument
    add("--data", metavar="DIR", type=Path, default=DEMO_DATA, help="what 01_prepare.py made (%(default)s)")
    add("--image", metavar="NAME", help="representation, its backbone, or none (the first; none beside --video NAME)")
    add("--video", metavar="NAME", help="representation, its backbone, or none (the first; none beside --image NAME)")
    add("--splits", metavar="K", type=int, nargs="+", help="split columns of labels.csv (all there)")
    add("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="for the runs (%(default)s)")
    add("--overwrite", action="store_true", help="train again what is trained already")
    add = parser.add_argument_group("which runs").add_argument
    add("--experiment", choices=EXPERIMENTS, help="table of runs (inputs, if no --image/--video)")
    add("--aggregation", metavar="NAME", default="tsfm", help="tsfm, gru, conv or savg (%(default)s)")
    add("--fusion", choices=("late", "early"), default="late", help="of image and video (%(default)s)")
    add("--clips", metavar="N", type=int, default=CLIPS, help="in a snippet, 0: whole trailer (%(default)s)")
    add = parser.add_argument_group("how to train").add_argument
    add("--epochs", metavar="N", type=int, help="at most (100; the demo: 40)")
    add("--lr", metavar="RATE", type=float, help="learning rate of AdamW (1e-4; the demo: 2e-3)")
    add("--batch-size", metavar="N", type=int, default=BATCH_SIZE, help="trailers in a batch (%(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="of weights, order and snippets (%(default)s)")
    add("--workers", metavar="N", type=int, help="runs trained at a time on a CPU (usable cores)")
    arguments = parser.parse_args()
    if not (arguments.experiment or arguments.image or arguments.video):
        arguments.experiment = "inputs"
    demo = (arguments.data / "true_cuts.csv").exists()
    epochs, rate = (DEMO_EPOCHS, DEMO_LEARNING_RATE) if demo else (EPOCHS, LEARNING_RATE)
    arguments.epochs = epochs if arguments.epochs is None else arguments.epochs
    arguments.lr = rate if arguments.lr is None else arguments.lr
    for name, least in (("clips", 0), ("epochs", 1), ("batch_size", 1), ("seed", 0), ("workers", 1)):
        if (value := getattr(arguments, name)) is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not 0 < arguments.lr < math.inf or arguments.seed >= 2**32:
        parser.error("--lr must be a positive number, --seed below 2**32")
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # every file is written whole, so that the process may end anywhere
    ARGUMENTS = parse_arguments()

import divita  # isort: skip (first, as it sets the Keras backend)

import keras
import numpy as np
import torch
from tqdm import tqdm

from divita import STANDARD_SETTING, UserError, say


def main(arguments):
    """Train this rank's share of the runs that are asked for and not there yet; return the exit status."""
    (rank, world), workers = divita.rank_and_world_size(), 1
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # the same results on any number of cores; runs side by side are in no other's way
        workers = arguments.workers or divita.usable_cores()
    if arguments.aggregation not in divita.AGGREGATIONS:
        raise UserError(f"--aggregation {arguments.aggregation}: there is {', '.join(divita.AGGREGATIONS)}")
    divita.check_writable(arguments.runs)
    labels = divita.load_labels(arguments.data)
    found, failed = make_configurations(arguments), []
    runs = list(make_split_runs(arguments, found, labels, failed))
    if not runs:
        raise UserError(failed[0])
    again = {run.folder for run in runs} if arguments.overwrite else set()
    done = [is_finished(run, again) for run in runs]
    if rank == 0:
        divita.remove_stale_files(arguments.runs)
        if arguments.experiment:
            rows = [{"label": label, "run": run_name(configuration)} for label, configuration in found]
            path = arguments.runs / f"{arguments.experiment}.json"
            divita.write_json(path, {"experiment": arguments.experiment, "rows": rows})
    say(f"{divita.select_device()}; {len(labels.mids)} trailers, {len(runs)} runs, {sum(done)} of them done already")
    say(f"at most {arguments.epochs} epochs, learning rate {arguments.lr:g}")
    todo = [runs[i] for i in range(rank, len(runs), world) if not done[i]]  # does not depend on when a rank starts
    for line in failed if rank == 0 else ():
        print(line, file=sys.stderr)
    failed += train_all(todo, arguments.epochs, min(workers, len(todo)), hidden=rank > 0)
    say(f"runs: {arguments.runs}\nnext: python 03_evaluate.py --runs {shlex.quote(str(arguments.runs))}")
    return 1 if failed else 0


def train_all(runs, epochs, workers, hidden):
    """Train runs, `workers` at a time, with a bar of epochs unless it is `hidden`; return a line per failed run."""
    left, failed = [epochs] * len(runs), []  # epochs left of each run
    tqdm.monitor_interval = 0  # the bar has no thread, since processes are forked
    with tqdm(total=sum(left), unit=" epochs", disable=hidden or not runs, mininterval=0.5) as bar:

        def show(message):  # of train_each()
            i, kind, text = message
            if kind == "epoch":
                left[i] -= 1
                bar.set_postfix_str(f"{runs[i].label} split{runs[i].config['split']}: {text}", refresh=False)
                return bar.update()
            bar.total -= left[i]  # stopping early saves them
            line = f"{'/'.join(runs[i].folder.parts[-2:])}: {text}"
            if kind == "failed":
                failed.append(line)
                return tqdm.write(line, file=sys.stderr)
            with tqdm.external_write_mode():
                say(line)

        if workers > 1:
            train_side_by_side(runs, workers, show)
        else:
            train_one_by_one(None, runs, range(len(runs)), show)
    return failed


def train_side_by_side(runs, workers, show):
    """Train runs in forked processes, each of which takes the next run when it is free; show() what they tell."""
    mp = torch.multiprocessing
    logging.getLogger("torch.multiprocessing.spawn").setLevel("ERROR")  # our own line says that a process was killed
    longest_first = sorted(range(len(runs)), key=lambda i: -len(runs[i].representations) * runs[i].config["snippet_clips"])
    try:
        numbers, messages = (mp.get_context("fork").SimpleQueue() for _ in range(2))
        shared = (runs, iter(numbers.get, None), messages.put)  # inherited by forked processes
        processes = mp.start_processes(train_one_by_one, shared, nprocs=workers, join=False, daemon=True, start_method="fork")
        for number in [*longest_first, *[None] * workers]:
            numbers.put(number)
        while not (processes.join(timeout=0.1) and messages.empty()):
            while not messages.empty():
                show(messages.get())
    except mp.ProcessExitedException as error:
        raise UserError(f"training {error}; rerun, with fewer --workers if memory ran out") from None
    except OSError as error:
        raise UserError(f"no process can be started ({divita.one_line(error)}); use fewer --workers") from None


def train_one_by_one(_, runs, numbers, tell):
    """Train the runs of these numbers; tell((number, "epoch", losses)), then (number, "trained" or "failed", line)."""
    for i in numbers:
        try:
            tell((i, "trained", train(runs[i], lambda text, i=i: tell((i, "epoch", text)))))
        except (UserError, OSError) as error:
            tell((i, "failed", f"failed: {divita.one_line(error)}"))
        except (MemoryError, RuntimeError) as error:
            if not re.search("alloc|MemoryError", repr(error), re.IGNORECASE):  # as in torch's RuntimeErrors
                raise
            tell((i, "failed", "failed: out of memory; use a smaller --batch-size or fewer --workers"))


# ---- One run ----


def train(run, tell):
    """Train one head and write its folder, config.json last; tell() of each epoch; return a line on the best one."""
    divita.check_writable(run.folder)
    config, inputs, parts = run.config, [*run.representations.values()], run.subsets
    if empty := [name for name, (mids, _) in parts.items() if not mids]:
        raise UserError(f"no {empty[0]} trailers that can be used; choose other --splits")
    length, batch, seed = config["snippet_clips"], config["batch_size"], config["seed"]
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)  # of the initial weights
    num_features = {name: x.num_features for name, x in run.representations.items()}
    model = divita.divita(num_features, len(config["genres"]), config["aggregation"], config["fusion"] or "late")
    divita.compile_model(model, config["lr"])
    training = divita.TrainingSnippets(inputs, *parts["train"], length, batch, seed)
    validation = divita.EvaluationSnippets(inputs, *parts["validation"], length, batch)
    started = time.perf_counter()
    history = fit(model, config, training, validation, tell)
    if not np.isfinite(history["loss"] + history["val_loss"]).all():
        raise UserError("the loss is not finite; choose a lower --lr")
    about = {"best_epoch": int(np.argmin(history["val_loss"])) + 1, "seconds": round(time.perf_counter() - started, 2)}
    predictions = {"genres": config["genres"], "train_mids": parts["train"][0]}
    for name in ("validation", "test"):
        mids, y = parts[name]
        p = divita.predict_trailers(model, [[x[mid] for x in inputs] for mid in mids], length)
        predictions |= {f"{name}_mids": mids, f"{name}_true": y, f"{name}_probabilities": p}
    (run.folder / "config.json").unlink(missing_ok=True)  # of an earlier training, whose files are replaced now
    with divita.atomic_write(run.folder / "model.keras") as temporary:
        model.save(temporary)
    with divita.atomic_write(run.folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, **predictions)
    names = ("loss", "val_loss", "learning_rate")
    rows = [[epoch, *map("{:.8g}".format, row)] for epoch, row in enumerate(zip(*map(history.get, names)), 1)]
    divita.write_csv(run.folder / "history.csv", ["epoch", *names], rows)
    versions = {"python": platform.python_version(), "keras": keras.__version__, "torch": torch.__version__}
    divita.write_json(run.folder / "config.json", config | about | {"versions": versions})
    uap = divita.compute_metrics(predictions["validation_true"], predictions["validation_probabilities"])["uAP"]
    best = f"best epoch {about['best_epoch']} of {len(history['loss'])}, validation loss {min(history['val_loss']):.4f}"
    return f"{best}, validation uAP {100 * uap:.2f} %"


def fit(model, config, training, validation, tell):
    """Train a model on batches; return {"loss", "val_loss" and "learning_rate": a list over epochs}."""
    optimizer = torch.optim.SGD([torch.zeros(1)], config["lr"])  # only holds the rate
    # PyTorch's scheduler, as published; Keras's own reduces an epoch earlier
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=LR_PATIENCE)

    def end_epoch(epoch, logs):
        logs["learning_rate"] = scheduler.get_last_lr()[0]
        scheduler.step(logs["val_loss"])
        model.optimizer.learning_rate = scheduler.get_last_lr()[0]
        tell(f"loss {logs['loss']:.3f}, validation {logs['val_loss']:.3f}")

    stop = keras.callbacks.EarlyStopping(patience=STOP_PATIENCE, restore_best_weights=True)
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=end_epoch), stop, keras.callbacks.TerminateOnNaN()]
    options = {"epochs": config["epochs"], "shuffle": False, "verbose": 0, "callbacks": callbacks}
    return model.fit(training, validation_data=validation, **options).history


# ---- The runs: a configuration on a split ----

SplitRun = collections.namedtuple("SplitRun", "label folder config representations subsets")
# subsets: {"train": (mids (M), their genres (M, G)), "validation": ..., "test": ...} of the trailers that it can use


def make_split_runs(arguments, found, labels, failed):
    """Yield the Run of every configuration and split asked for, finished or not; add a line to `failed` for others."""
    count = labels.splits.shape[1]
    splits = dict.fromkeys(arguments.splits or range(count))
    if unknown := [split for split in splits if not 0 <= split < count]:
        raise UserError(f"--splits: the labels have no column split{unknown[0]}")
    opened, leaked = functools.cache(divita.open_representation), {}
    for label, configuration in found:
        try:
            inputs = {kind: opened(arguments.data, configuration[kind]) for kind in INPUT_NAMES if configuration[kind]}
            rows, left_out = divita.select_trailers(labels.mids, [*inputs.values()])
        except (UserError, OSError) as error:
            failed.append(f"{run_name(configuration)}: failed: {divita.one_line(error)}")
            continue
        if left_out:
            say(f"{run_name(configuration)}: {left_out}")
        identity = run_identity(configuration, inputs, labels, rows)
        for split in splits:
            parts, folder = {}, arguments.runs / identity["run"] / f"split{split}"
            for name in divita.SUBSETS:
                part = np.intersect1d(rows, divita.subset(labels, split, name))
                parts[name] = [labels.mids[row] for row in part], labels.y[part]
            sizes = {name: len(mids) for name, (mids, _) in parts.items()}
            twins = find_leaks(inputs, parts)
            leaked |= twins
            config = {"split": split, "subsets": divita.array_digest(labels.splits[rows, split]), "trailers": sizes}
            yield SplitRun(label, folder, identity | config | {"leaked": len(twins)}, inputs, parts)
    if leaked and divita.rank_and_world_size()[0] == 0:
        twins = divita.abbreviate([f"{mid} as {twin}" for mid, twin in leaked.items()])
        what = f"{len(leaked)} validation or test trailers have the vectors or video of a training trailer ({twins})"
        say(f"warning: {what}; put such trailers into one subset or remove them")


def find_leaks(inputs, parts):
    """Return {mid of a validation or test trailer: mid of a training trailer with the same vectors or video}."""

    def digests(mid):
        return [digest for x in inputs.values() for digest in (x.digests[mid], x.sources[mid][0]) if digest]

    trained = {digest: mid for mid in parts["train"][0] for digest in digests(mid)}
    evaluated = [*parts["validation"][0], *parts["test"][0]]
    return {mid: trained[digest] for mid in evaluated for digest in digests(mid) if digest in trained}


def run_identity(configuration, inputs, labels, rows):
    """Return the config.json fields that identify a run; equal ones give equal results on a split."""
    mids = [labels.mids[row] for row in rows]
    clips = [len(x[mid]) for x in inputs.values() for mid in mids]
    config = {
        "format": divita.FORMAT_VERSION,
        "run": run_name(configuration),
        **configuration,
        "snippet_clips": configuration["clips"] or max(clips, default=0),
        "genres": labels.genres,
        "labels": divita.array_digest(mids, labels.y[rows]),
    }
    for kind, x in inputs.items():
        config |= {f"{kind}_features": x.num_features, f"{kind}_meta": x.meta}
        config[f"{kind}_data"] = divita.array_digest([x.digests[mid] for mid in mids])
    return config


def is_finished(run, again):
    """Return whether a run is finished and not in `again`; raise UserError if one of its splits has other settings."""
    for folder in sorted({path.parent for path in run.folder.parent.glob("split*/config.json")} - again):
        there = divita.read_json(folder / "config.json")
        other = divita.differing_config_fields(run.config, there)
        if folder == run.folder and run.config["subsets"] != there.get("subsets"):
            other.append("subsets")
        if other:
            remedy = "choose another --runs, or --overwrite with all its splits"
            raise UserError(f"{folder}: trained with another {', '.join(other)}; {remedy}")
    return run.folder not in again and (run.folder / "config.json").exists()


# ---- What to run ----


def select_inputs(arguments):
    """Return {IMAGE and VIDEO: a representation's name or None}: those named or, if none is, the first of each input,
    all at one setting, the standard one if it is there."""
    names = dict(zip(INPUT_NAMES, (arguments.image, arguments.video)))
    there = divita.list_representations(arguments.data)
    named = {kind: name for kind, name in names.items() if name not in (None, "none")}
    chosen = {kind: divita.find_representation(arguments.data, name) for kind, name in named.items()}
    for kind, path in chosen.items():
        if (other := there[path]["input"]) != kind:
            raise UserError(f"--{kind} {names[kind]}: it is for --{other}, as its meta.json says")
    if not chosen:
        kinds = [kind for kind in INPUT_NAMES if not names[kind]]
        settings, standard = {}, tuple(STANDARD_SETTING.values())  # setting -> {kind: path}
        for path, meta in there.items():
            if meta["input"] in kinds:
                setting = tuple(meta.get(key) for key in STANDARD_SETTING)
                settings.setdefault(setting, {}).setdefault(meta["input"], path)
        if not settings:
            wanted = " or ".join(kinds) or "neither image nor video"
            raise UserError(f"{arguments.data}: no representation to train on ({wanted}); prepare or name one")
        chosen = settings.get(standard) or max(settings.values(), key=len)
        if standard not in settings:
            say(f"no representation at the standard setting; trained on: {', '.join(p.name for p in chosen.values())}")
    return {f"--{kind}": chosen[kind].name if kind in chosen else None for kind in INPUT_NAMES}


def make_configurations(arguments):
    """Return [(label, configuration)] of the experiment's rows, without --experiment of the last row; missing
    representations are printed, and rows that lack an input or repeat another are skipped."""
    chosen, found, missing = select_inputs(arguments), {}, []
    for label, *names, changes in EXPERIMENTS[arguments.experiment or "inputs"]:
        setting = {key: value for key, value in changes.items() if key in STANDARD_SETTING}
        inputs = {kind: chosen.get(name, name) for kind, name in zip(INPUT_NAMES, names)}  # a backbone's name stays
        inputs = {kind: find_input(arguments.data, name, setting) for kind, name in inputs.items() if name}
        absent = [(kind, wanted) for kind, (name, wanted) in inputs.items() if not name]
        configuration = dict.fromkeys(INPUT_NAMES) | {kind: name for kind, (name, _) in inputs.items()}
        configuration |= {option: changes.get(option, getattr(arguments, option)) for option in OPTIONS}
        if len(inputs) < 2:
            configuration["fusion"] = None
        if inputs and not absent and configuration not in found.values():
            found[label] = configuration
        missing += absent
    if missing:
        line = missing_message(arguments.data, missing)
        if not found:
            raise UserError(line)
        say(line)
    if not found or (arguments.experiment == "fusion" and len(found) < 2):
        raise UserError(f"--experiment {arguments.experiment}: input missing; use --image, --video or both")
    return list(found.items()) if arguments.experiment else list(found.items())[-1:]


def find_input(data, name, changes):
    """Return the representation, its name or None, that differs from `name` by `changes` to its setting, and what its
    meta.json has to say. name: a representation, or a backbone at the standard setting."""
    there = {path.name: meta for path, meta in divita.list_representations(data).items()}
    meta = there.get(name) or {"backbone": name} | STANDARD_SETTING
    wanted = {key: meta[key] for key in ("backbone", *STANDARD_SETTING) if key in meta} | changes
    names = [other for other in (name, *there) if wanted.items() <= there.get(other, {}).items()]
    if not names and name in there and divita.is_external(meta):
        words = " and ".join(f"{key} {value}" for key, value in changes.items())
        raise UserError(f"{name}: there are no vectors by {meta['backbone']} whose meta.json says {words}")
    return names[0] if names else None, wanted


def missing_message(data, missing):
    """Return a line on missing [(kind, what its meta.json has to say)], with a command for the first one's setting."""
    names = dict.fromkeys(divita.representation_name(**wanted) for _, wanted in missing)
    setting = {key: (STANDARD_SETTING | missing[0][1])[key] for key in STANDARD_SETTING}
    command = ["python", "01_prepare.py", "--out", str(data)]
    if setting == STANDARD_SETTING and list(data.glob("*.zarr")):
        command += ["--download", "all"]
    else:
        command += [] if (data / "true_cuts.csv").exists() else ["--videos", "DIR"]  # the demo has its own
        now = [(kind, wanted["backbone"]) for kind, wanted in missing if setting.items() <= wanted.items()]
        for kind in INPUT_NAMES:
            command += [f"--{kind}", *(dict.fromkeys(name for other, name in now if other == kind) or ["none"])]
        command += ["--segmentation", setting["segmentation"], "--fps", f"{setting['fps']:g}"]
        command += ["--frames-per-clip", str(setting["frames_per_clip"])]
    return f"not in {data}: {', '.join(names)}; prepare one at a time, other options as before: {shlex.join(command)}"


def run_name(configuration):
    """Return the folder's name of a run: its representations, then fusion, aggregation and clips if not the default."""
    name = "+".join(configuration[kind].removesuffix(".zarr") for kind in INPUT_NAMES if configuration[kind])
    name = re.sub(r"(_(?:shots|seconds)_fps[0-9.]+_fpc[0-9]+)\+(.+\1)$", r"+\2", name)  # the setting of both, once
    name += "-early" if configuration["fusion"] == "early" else ""
    name += f"-{configuration['aggregation']}" if configuration["aggregation"] != "tsfm" else ""
    return name + {CLIPS: "", 0: "-whole"}.get(configuration["clips"], f"-clips{configuration['clips']}")


if __name__ == "__main__":
    divita.run_script(main, ARGUMENTS)
