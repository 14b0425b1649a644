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
import contextlib
import functools
import logging
import math
import os
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
INPUT_NAMES = ("image", "video")
OPTIONS = ("aggregation", "fusion", "clips", "epochs", "lr", "batch_size", "seed")  # saved in config.json
IMAGE, VIDEO = "--image", "--video"  # placeholders in the rows below: the input given by this option or the first
INPUTS = {"image": (IMAGE, None), "video": (None, VIDEO), "fusion": (IMAGE, VIDEO)}
EXPERIMENTS = {  # name -> rows: label, image input, video input (or a backbone), other options or clip setting
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
    "segmentation": [(f"{n}, {s}", *INPUTS[n], {"segmentation": s}) for n in INPUTS for s in ("shots", "seconds")],
    "frame-rate": [(f"{fps} frames/s", None, VIDEO, {"fps": fps}) for fps in (4, 8, 12, 24)],
}


def parse_arguments():
    description = f"{__doc__.splitlines()[0]} Defaults are in parentheses."
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=description)  # one-line errors
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", type=Path, default=DEMO_DATA, help="data folder of 01_prepare.py (%(default)s)")
    add("--image", metavar="NAME", help="image representation or backbone, or none (the first; none with --video)")
    add("--video", metavar="NAME", help="video representation or backbone, or none (the first; none with --image)")
    add("--splits", metavar="K", type=int, nargs="+", help="split columns of labels.csv (all)")
    add("--runs", metavar="DIR", type=Path, default=Path("runs/demo"), help="output folder (%(default)s)")
    add("--overwrite", action="store_true", help="retrain finished runs")
    add = parser.add_argument_group("configurations").add_argument
    add("--experiment", choices=EXPERIMENTS, help="table of runs (inputs, if no --image/--video)")
    add("--aggregation", metavar="NAME", default="tsfm", help="aggregation: tsfm, gru, conv or savg (%(default)s)")
    add("--fusion", choices=("late", "early"), default="late", help="fusion of image and video (%(default)s)")
    add("--clips", metavar="N", type=int, default=CLIPS, help="clips per snippet, 0: whole trailer (%(default)s)")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", metavar="N", type=int, help="maximum number of epochs (100; the demo: 40)")
    add("--lr", metavar="RATE", type=float, help="learning rate of AdamW (1e-4; the demo: 2e-3)")
    add("--batch-size", metavar="N", type=int, default=BATCH_SIZE, help="trailers per batch (%(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="random seed of weights, order and snippets (%(default)s)")
    add("--workers", metavar="N", type=int, help="runs trained in parallel on a CPU (usable cores)")
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # safe anywhere, as files are written atomically
    ARGUMENTS = parse_arguments()

import divita  # isort: skip (first, as it sets the Keras backend)

import keras
import numpy as np
import torch
from tqdm import tqdm

from divita import STANDARD_SETTING, UserError, say


def main(arguments):
    """Train this rank's share of the unfinished runs; return the exit status."""
    (rank, world_size), workers = divita.rank_and_world_size(), 1
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # the same results on any number of cores; parallel runs do not compete for them
        workers = arguments.workers or divita.usable_cores()
    if arguments.aggregation not in divita.AGGREGATIONS:
        raise UserError(f"--aggregation {arguments.aggregation}: unknown; choose {', '.join(divita.AGGREGATIONS)}")
    divita.check_writable(arguments.runs)
    labels = divita.load_labels(arguments.data)
    configurations, failed = make_configurations(arguments), []
    runs = list(make_split_runs(arguments, configurations, labels, failed))
    if not runs:
        raise UserError(failed[0])
    retrain = {run.folder for run in runs} if arguments.overwrite else set()
    finished = [is_finished(run, retrain) for run in runs]
    if rank == 0:
        divita.remove_stale_files(arguments.runs)
        if name := arguments.experiment:
            rows = [{"label": label, "run": run_name(configuration)} for label, configuration in configurations]
            divita.write_json(arguments.runs / f"{name}.json", {"experiment": name, "rows": rows})
    say(f"{divita.select_device()}; {len(labels.mids)} trailers, {len(runs)} runs, {sum(finished)} finished")
    say(f"at most {arguments.epochs} epochs, learning rate {arguments.lr:g}")
    todo = [runs[i] for i in range(rank, len(runs), world_size) if not finished[i]]  # whenever a rank starts
    for line in failed if rank == 0 else ():
        print(line, file=sys.stderr)
    failed += train_all(todo, arguments.epochs, min(workers, len(todo)), hidden=rank > 0)
    say(f"runs: {arguments.runs}\nnext: python 03_evaluate.py --runs {shlex.quote(str(arguments.runs))}")
    return 1 if failed else 0


def train_all(runs, epochs, workers, hidden):
    """Train runs, `workers` at a time, with a bar of epochs unless it is `hidden`; return a line per failed run."""
    left, failed = [epochs] * len(runs), []  # epochs left of each run
    tqdm.monitor_interval = 0  # no thread for the bar, since processes are forked
    with tqdm(total=sum(left), unit=" epochs", disable=hidden or not runs, mininterval=0.5) as bar:

        def show(message):  # from train_in_turn()
            i, kind, text = message
            if kind == "epoch":
                left[i] -= 1
                bar.set_postfix_str(f"{runs[i].label} split{runs[i].config['split']}: {text}", refresh=False)
                return bar.update()
            bar.total -= left[i]  # saved by early stopping
            line = f"{'/'.join(runs[i].folder.parts[-2:])}: {text}"
            if kind == "failed":
                failed.append(line)
                return tqdm.write(line, file=sys.stderr)
            with tqdm.external_write_mode():
                say(line)

        if workers > 1:
            train_in_parallel(runs, workers, show)
        else:
            train_in_turn(None, runs, range(len(runs)), show)
    return failed


def train_in_parallel(runs, workers, show):
    """Train runs in forked processes, each of which takes the next run when it is free; show() their messages."""
    mp = torch.multiprocessing
    logging.getLogger("torch.multiprocessing.spawn").setLevel("ERROR")  # the UserError below reports a killed process
    costs = [-len(run.representations) * run.config["snippet_clips"] for run in runs]
    try:
        if not can_train_in_fork():
            return train_in_turn(None, runs, range(len(runs)), show)
        numbers, messages = (mp.get_context("fork").SimpleQueue() for _ in range(2))
        shared = (runs, iter(numbers.get, None), messages.put)  # inherited by forked processes
        options = {"nprocs": workers, "join": False, "daemon": True, "start_method": "fork"}
        processes = mp.start_processes(train_in_turn, shared, **options)
        for number in [*sorted(range(len(runs)), key=costs.__getitem__), *[None] * workers]:  # longest first
            numbers.put(number)
        while not (processes.join(timeout=0.1) and messages.empty()):
            while not messages.empty():
                show(messages.get())
    except mp.ProcessExitedException as error:
        raise UserError(f"training {error}; rerun, with fewer --workers if memory ran out") from None
    except OSError as error:
        raise UserError(f"cannot start a process ({divita.one_line(error)}); use fewer --workers") from None


def can_train_in_fork():
    """Return whether a forked process can train: not if this one has trained before with a CUDA build of PyTorch."""

    def probe():
        with contextlib.suppress(RuntimeError):
            torch.ones((), requires_grad=True).backward()
            os._exit(0)
        os._exit(1)

    child = torch.multiprocessing.get_context("fork").Process(target=probe)
    child.start()
    child.join()
    return child.exitcode == 0


def train_in_turn(_, runs, numbers, send):
    """Train the runs with these numbers; send (number, "epoch", losses), then (number, "trained" or "failed", text)."""
    for i in numbers:
        try:
            send((i, "trained", train(runs[i], lambda text, i=i: send((i, "epoch", text)))))
        except (UserError, OSError) as error:
            send((i, "failed", f"failed: {divita.one_line(error)}"))
        except (MemoryError, RuntimeError) as error:
            if not re.search("alloc|MemoryError", repr(error), re.IGNORECASE):  # as in torch's RuntimeErrors
                raise
            send((i, "failed", "failed: out of memory; use a smaller --batch-size or fewer --workers"))


# ---- Training ----
# AdamW with AMSGrad, binary cross-entropy, learning rate / 10 on a plateau, early stopping;
# config.json is written last and marks a finished run.


def train(run, report):
    """Train one head and write its folder; report() the losses of each epoch; return a line on the best epoch."""
    divita.check_writable(run.folder)
    config, representations, subsets = run.config, [*run.representations.values()], run.subsets
    if empty := [name for name, (mids, _) in subsets.items() if not mids]:
        raise UserError(f"no usable trailers in the {empty[0]} subset; choose other --splits")
    length, batch_size, seed = config["snippet_clips"], config["batch_size"], config["seed"]
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)  # for the initial weights
    num_features = {name: x.num_features for name, x in run.representations.items()}
    model = divita.divita(num_features, len(config["genres"]), config["aggregation"], config["fusion"] or "late")
    divita.compile_model(model, config["lr"])
    training = divita.TrainingSnippets(representations, *subsets["train"], length, batch_size, seed)
    validation = divita.EvaluationSnippets(representations, *subsets["validation"], length, batch_size)
    started = time.perf_counter()
    history = fit(model, config, training, validation, report)
    if not np.isfinite(history["loss"] + history["val_loss"]).all():
        raise UserError("the loss is not finite; choose a lower --lr")
    best, seconds = int(np.argmin(history["val_loss"])), round(time.perf_counter() - started, 2)
    predictions = {"genres": config["genres"], "train_mids": subsets["train"][0]}
    for name in ("validation", "test"):
        mids, y = subsets[name]
        p = divita.predict_trailers(model, [[x[mid] for x in representations] for mid in mids], length)
        predictions |= {f"{name}_mids": mids, f"{name}_true": y, f"{name}_probabilities": p}
    (run.folder / "config.json").unlink(missing_ok=True)  # the files of an earlier training are replaced from here on
    with divita.atomic_write(run.folder / "model.keras") as temporary:
        model.save(temporary)
    with divita.atomic_write(run.folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, **predictions)
    names = ("loss", "val_loss", "learning_rate")
    rows = [[epoch, *map("{:.8g}".format, row)] for epoch, row in enumerate(zip(*map(history.get, names)), 1)]
    divita.write_csv(run.folder / "history.csv", ["epoch", *names], rows)
    versions = {"python": platform.python_version(), "keras": keras.__version__, "torch": torch.__version__}
    outcome = {"best_epoch": best + 1, "seconds": seconds}
    divita.write_json(run.folder / "config.json", config | outcome | {"versions": versions})
    metrics = divita.compute_metrics(predictions["validation_true"], predictions["validation_probabilities"])
    losses, uap = history["val_loss"], 100 * metrics["uAP"]
    return f"best epoch {best + 1} of {len(losses)}, validation loss {losses[best]:.4f}, validation uAP {uap:.2f} %"


def fit(model, config, training, validation, report):
    """Train a model on batches; return {"loss", "val_loss" and "learning_rate": a list over epochs}."""
    optimizer = torch.optim.SGD([torch.zeros(1)], config["lr"])  # only holds the learning rate
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=LR_PATIENCE)  # Keras's: an epoch early

    def end_epoch(epoch, logs):
        logs["learning_rate"] = scheduler.get_last_lr()[0]
        scheduler.step(logs["val_loss"])
        model.optimizer.learning_rate = scheduler.get_last_lr()[0]
        report(f"loss {logs['loss']:.3f}, validation {logs['val_loss']:.3f}")

    stop = keras.callbacks.EarlyStopping(patience=STOP_PATIENCE, restore_best_weights=True)
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=end_epoch), stop, keras.callbacks.TerminateOnNaN()]
    options = {"epochs": config["epochs"], "shuffle": False, "verbose": 0, "callbacks": callbacks}
    return model.fit(training, validation_data=validation, **options).history


# ---- Split runs ----
# A run is a configuration; a split run is it on one split. Equal identity fields give equal results.

# representations: {input name: Representation}; subsets: {"train", "validation" and "test": mids (M), genres (M, G)}
SplitRun = collections.namedtuple("SplitRun", "label folder config representations subsets")


def make_split_runs(arguments, configurations, labels, failed):
    """Yield the SplitRun of each configuration and split, finished or not; add a line to `failed` where impossible."""
    count = labels.splits.shape[1]
    splits = dict.fromkeys(arguments.splits or range(count))
    if unknown := [split for split in splits if not 0 <= split < count]:
        raise UserError(f"--splits: the labels have no column split{unknown[0]}; choose numbers below {count}")
    open_cached, all_leaked = functools.cache(divita.open_representation), {}
    for label, configuration in configurations:
        try:
            names = [name for name in INPUT_NAMES if configuration[name]]
            representations = {name: open_cached(arguments.data, configuration[name]) for name in names}
            rows, skipped = divita.select_trailers(labels.mids, [*representations.values()])
        except (UserError, OSError) as error:
            failed.append(f"{run_name(configuration)}: failed: {divita.one_line(error)}")
            continue
        if skipped:
            say(f"{run_name(configuration)}: {skipped}")
        identity = run_identity(configuration, representations, labels, rows)
        for split in splits:
            subsets, folder = {}, arguments.runs / identity["run"] / f"split{split}"
            for name in divita.SUBSETS:
                subset = np.intersect1d(rows, divita.subset(labels, split, name))
                subsets[name] = [labels.mids[row] for row in subset], labels.y[subset]
            sizes = {name: len(mids) for name, (mids, _) in subsets.items()}
            leaked = find_leaks(representations, subsets)
            all_leaked |= leaked
            config = {"split": split, "subsets": divita.array_digest(labels.splits[rows, split]), "trailers": sizes}
            yield SplitRun(label, folder, identity | config | {"leaked": len(leaked)}, representations, subsets)
    if all_leaked and divita.rank_and_world_size()[0] == 0:
        pairs = divita.abbreviate([f"{mid} as {twin}" for mid, twin in all_leaked.items()])
        what = f"{len(all_leaked)} validation or test trailers duplicate the vectors or video of training trailers"
        say(f"warning: {what} ({pairs}); put such trailers into one subset or remove them")


def find_leaks(representations, subsets):
    """Return {mid of a validation or test trailer: mid of a training trailer with the same vectors or video}."""
    digests = {}  # mid -> digests of its vectors and videos
    for x in representations.values():
        for mid in x:
            digests.setdefault(mid, []).extend(filter(None, (x.digests[mid], x.sources[mid][0])))
    trained = {digest: mid for mid in subsets["train"][0] for digest in digests[mid]}
    evaluated = [*subsets["validation"][0], *subsets["test"][0]]
    return {mid: trained[digest] for mid in evaluated for digest in digests[mid] if digest in trained}


def run_identity(configuration, representations, labels, rows):
    """Return the config.json fields that identify a run; equal ones give equal results on a split."""
    mids = [labels.mids[row] for row in rows]
    clips = [len(x[mid]) for x in representations.values() for mid in mids]
    config = {"format": divita.FORMAT_VERSION, "run": run_name(configuration), **configuration}
    config |= {"snippet_clips": configuration["clips"] or max(clips, default=0), "genres": labels.genres}
    config["labels"] = divita.array_digest(mids, labels.y[rows])
    for name, x in representations.items():
        config |= {f"{name}_features": x.num_features, f"{name}_meta": x.meta}
        config[f"{name}_data"] = divita.array_digest([x.digests[mid] for mid in mids])
    return config


def is_finished(run, retrain):
    """Return whether a run is finished, outside `retrain`; raise UserError if one of its splits has other settings."""
    for folder in sorted({path.parent for path in run.folder.parent.glob("split*/config.json")} - retrain):
        config = divita.read_json(folder / "config.json")
        fields = divita.differing_config_fields(run.config, config)
        if folder == run.folder and run.config["subsets"] != config.get("subsets"):
            fields.append("subsets")
        if fields:
            what = f"other settings ({', '.join(fields)})"
            raise UserError(f"{folder}: {what}; choose another --runs, or --overwrite with all its splits")
    return run.folder not in retrain and (run.folder / "config.json").exists()


# ---- Configurations ----
# Representations and options to train, from the command line or a row of EXPERIMENTS each.


def select_inputs(arguments):
    """Return {IMAGE and VIDEO: a representation's name or None}: those given, else the first with one clip setting."""
    names = dict(zip(INPUT_NAMES, (arguments.image, arguments.video)))
    metas = divita.list_representations(arguments.data)
    given = {key: name for key, name in names.items() if name not in (None, "none")}
    selected = {key: divita.find_representation(arguments.data, name) for key, name in given.items()}
    for input_name, path in selected.items():
        if (other := metas[path]["input"]) != input_name:
            raise UserError(f"--{input_name} {names[input_name]}: a representation of {other} input; use --{other}")
    if not selected:
        candidates = [input_name for input_name in INPUT_NAMES if not names[input_name]]
        settings, standard = {}, tuple(STANDARD_SETTING.values())  # setting -> {input name: path}
        for path, meta in metas.items():
            if meta["input"] in candidates:
                setting = tuple(meta.get(key) for key in STANDARD_SETTING)
                settings.setdefault(setting, {}).setdefault(meta["input"], path)
        if not settings:
            what = f"no representation ({' or '.join(candidates) or 'neither image nor video'})"
            raise UserError(f"{arguments.data}: {what}; prepare or pass one")
        selected = settings.get(standard) or max(settings.values(), key=len)
        if standard not in settings:
            say(f"no representation with the standard setting; using {', '.join(p.name for p in selected.values())}")
    return {f"--{name}": selected[name].name if name in selected else None for name in INPUT_NAMES}


def make_configurations(arguments):
    """Return [(label, configuration)] of the experiment's complete, distinct rows; without --experiment, the last."""
    selected, configurations, missing = select_inputs(arguments), {}, []
    for label, *names, changes in EXPERIMENTS[arguments.experiment or "inputs"]:
        setting = {key: value for key, value in changes.items() if key in STANDARD_SETTING}
        inputs = {key: selected.get(name, name) for key, name in zip(INPUT_NAMES, names)}  # a backbone's name stays
        found = {key: find_input(arguments.data, name, setting) for key, name in inputs.items() if name}
        absent = [(input_name, required) for input_name, (name, required) in found.items() if not name]
        configuration = dict.fromkeys(INPUT_NAMES) | {input_name: name for input_name, (name, _) in found.items()}
        configuration |= {option: changes.get(option, getattr(arguments, option)) for option in OPTIONS}
        if len(found) < 2:
            configuration["fusion"] = None
        if found and not absent and configuration not in configurations.values():
            configurations[label] = configuration
        missing += absent
    if missing and not configurations:
        raise UserError(missing_message(arguments.data, missing))
    if missing:
        say(missing_message(arguments.data, missing))
    if not configurations or (arguments.experiment == "fusion" and len(configurations) < 2):
        raise UserError(f"--experiment {arguments.experiment}: input missing; use --image, --video or both")
    return list(configurations.items()) if arguments.experiment else list(configurations.items())[-1:]


def find_input(data, name, changes):
    """Return the representation like `name` (or a backbone's) but for `changes`, if any, and the metadata required."""
    metas = {path.name: meta for path, meta in divita.list_representations(data).items()}
    meta = metas.get(name) or {"backbone": name} | STANDARD_SETTING
    required = {key: meta[key] for key in ("backbone", *STANDARD_SETTING) if key in meta} | changes
    names = [other for other in (name, *metas) if required.items() <= metas.get(other, {}).items()]
    if not names and name in metas and divita.is_external(meta):
        fields = " and ".join(f"{key} {value}" for key, value in changes.items())
        raise UserError(f"{name}: no vectors by {meta['backbone']} with {fields} in meta.json; add some")
    return names[0] if names else None, required


def missing_message(data, missing):
    """Return a line on missing [(input name, required metadata)], with a command for the first one's clip setting."""
    names = dict.fromkeys(divita.representation_name(**required) for _, required in missing)
    setting = {key: (STANDARD_SETTING | missing[0][1])[key] for key in STANDARD_SETTING}
    command = ["python", "01_prepare.py", "--out", str(data)]
    if setting == STANDARD_SETTING and list(data.glob("*.zarr")):
        command += ["--download", "all"]
    else:
        command += [] if (data / "true_cuts.csv").exists() else ["--videos", "DIR"]  # the demo has its own
        pairs = [(name, required["backbone"]) for name, required in missing if setting.items() <= required.items()]
        for name in INPUT_NAMES:
            command += [f"--{name}", *(dict.fromkeys(x for other, x in pairs if other == name) or ["none"])]
        options = "--segmentation {segmentation} --fps {fps:g} --frames-per-clip {frames_per_clip}"
        command += options.format(**setting).split()
    return f"not in {data}: {', '.join(names)}; prepare one at a time, other options as before: {shlex.join(command)}"


def run_name(configuration):
    """Return the folder name of a run: its representations, then fusion, aggregation and clips unless default."""
    name = "+".join(configuration[key].removesuffix(".zarr") for key in INPUT_NAMES if configuration[key])
    name = re.sub(r"(_(?:shots|seconds)_fps[0-9.]+_fpc[0-9]+)\+(.+\1)$", r"+\2", name)  # a common setting once
    name += "-early" if configuration["fusion"] == "early" else ""
    name += f"-{configuration['aggregation']}" if configuration["aggregation"] != "tsfm" else ""
    return name + {CLIPS: "", 0: "-whole"}.get(configuration["clips"], f"-clips{configuration['clips']}")


if __name__ == "__main__":
    divita.run_script(main, ARGUMENTS)
