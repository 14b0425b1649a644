"""Show that the program is right on a GPU and how fast it is there: one command, within eight minutes.

    python tests/bench_gpu.py --out gpu.md
    python tests/bench_gpu.py right memory                  only these parts
    python tests/bench_gpu.py --device cpu                  in small sizes, to see that it runs

What it prints, line by line, is Markdown, and goes into the file after --out as well. Each part is a process of its
own, so that one that fails or takes longer than its budget leaves the others alone:

    machine    what it runs on
    right      backbones and heads against the same ones on the CPU; frozen networks against plain Keras
    fast       frames or clips per second of each backbone, against plain Keras and plain PyTorch
    prepare    how much of the time the GPU waits in 01_prepare.py, and for what
    train      seconds per epoch on as many trailers as Trailers12k has, and what they are spent on
    memory     the most that building a backbone, a batch of it and training take
    compile    torch.compile of torchvision's models, where torchvision is there and a compiler

The exit status is 1 where something failed or a difference is above its bound. Weights are random and films are made
here, so that no network is needed. Needed are torch from 2.11 on, numpy, keras with absl-py, ml-dtypes, namex, optree,
packaging and rich, tqdm, opencv-python, scenedetect and av. KerasCV with TensorFlow adds four backbones, torchvision
(pip install --no-deps torchvision pillow) what to compare with.
"""

import argparse
import contextlib
import gc
import importlib.util
import itertools
import multiprocessing
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

PRECISIONS = {  # the largest difference over the largest value that is taken for rounding
    "float32": 1e-4,  # 24 bits: sums of thousands of products in another order differ by 1e-6 to 1e-5
    "TF32": 1e-2,  # 11 bits, 5e-4 in a product; over 50 layers, up or down by chance, about seven times that
    "bfloat16": 5e-2,  # 8 bits, 4e-3 in a result, of which the sums inside are exact; over 50 layers likewise
}
STEP, EPOCH = 1e-3, 1e-2  # AdamW's first steps go by a gradient's sign, also where that is hardly more than rounding
OWN = ("shufflenet2d", "shufflenet3d", "r2plus1d")  # built without KerasCV
BATCH, CLIPS = 32, 30  # in training


@dataclass
class Sizes:
    clips: int  # in a batch of a backbone
    frames: int  # of a clip
    turns: int  # of which the median is taken
    films: int
    seconds: int  # of a film
    picture: tuple  # width, height
    trailers: int
    trailer_clips: int
    features: int


SIZES = {
    "cuda": Sizes(
        clips=16, frames=24, turns=5,
        films=8, seconds=120, picture=(1280, 720),
        trailers=12_000, trailer_clips=40, features=1024,
    ),
    "cpu": Sizes(
        clips=2, frames=2, turns=1,
        films=2, seconds=5, picture=(192, 108),
        trailers=64, trailer_clips=40, features=16,
    ),
}  # fmt: skip
SLOWER = 6  # times a GPU's budget is a CPU's
PARTS = {}  # name: (function of Sizes and the backbones' names, seconds that it may take on a GPU, 480 in all)


def part(budget):
    def add(function):
        PARTS[function.__name__.rstrip("_")] = function, budget
        return function

    return add


def parse_arguments():
    usage, formatter = argparse.SUPPRESS, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=formatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts (all)")
    parser.add_argument("--device", choices=SIZES, default="cuda", help="(%(default)s)")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="(all that can be imported; on a CPU our own)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="for what is printed")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds that a part may take (its own budget)")
    parser.add_argument("--here", action="store_true", help="in this process, and added to FILE")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"no part is called {unknown[0]}; there is {', '.join(PARTS)}")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"--out {arguments.out}: there is no such folder")
    return arguments


def run_all(arguments):
    """Run each part in a process of its own; return the exit status."""
    if arguments.out:
        arguments.out.write_text("")
    options = ["--here", "--device", arguments.device]
    options += ["--out", str(arguments.out)] if arguments.out else []
    options += ["--backbones", *arguments.backbones] if arguments.backbones else []
    failed, began = [], time.perf_counter()
    for name in arguments.parts or PARTS:
        _, budget = PARTS[name]
        busy = max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))  # of which others may have a part
        budget = arguments.budget or budget * busy * (1 if arguments.device == "cuda" else SLOWER)
        start = time.perf_counter()
        status = run_apart([sys.executable, __file__, name, *options], budget)
        if status != 0:
            failed.append(name)
        how = {0: "", 1: ", not all of it right", None: ", its budget, and was ended"}
        say(f"\n{name} took {time.perf_counter() - start:.0f} s{how.get(status, f' and ended with status {status}')}")
    result = f"FAILED: {', '.join(failed)}" if failed else "all as it should be"
    say(f"\n{result}; {time.perf_counter() - began:.0f} s in all")
    return 1 if failed else 0


def run_apart(command, budget):
    """Return a command's exit status, None where it took more than so many seconds; nothing it started is left."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "TMPDIR": folder})
        try:
            return process.wait(budget)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_here(arguments):
    """Run parts in this process; return the exit status."""
    sizes, names = SIZES[arguments.device], arguments.backbones or (importable() if on_gpu() else OWN)
    for name in arguments.parts or PARTS:
        say(f"\n## {name}\n")
        function, _ = PARTS[name]
        attempt(name, function, sizes, names)
    return 1 if WRONG else 0


WRONG = []  # what failed or was above its bound


def attempt(what, function, *arguments):
    """Call a function; one that fails says so and is remembered, and what comes after it goes on."""
    try:
        function(*arguments)
    except Exception as error:  # whatever a machine that nobody has seen brings up
        traceback.print_exc()
        row(what, f"**failed**: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        WRONG.append(what)


def say(line):
    print(line, flush=True)
    if ARGUMENTS.out:
        with open(ARGUMENTS.out, "a") as file:
            print(line, file=file)


def row(*cells):
    say(f"| {' | '.join(map(str, cells))} |")


def head(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def compare(what, how, found, expected, bound):
    """Print how far arrays lie apart, the largest difference over the largest value; one above its bound is wrong."""
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    good = difference <= bound  # not so where one is not a number
    row(what, how, f"{difference:.1e}", f"{bound:.0e}", "yes" if good else "**no**")
    if not good:
        WRONG.append(what)


# ---- What the parts share ----


def importable():
    """Return the names of the backbones that can be built here."""
    try:
        divita.kerascv()
    except divita.UserError:
        return list(OWN)
    return list(divita.BACKBONES)


def precisions():
    return PRECISIONS if on_gpu() else {name: PRECISIONS[name] for name in PRECISIONS if name != "TF32"}


def on_gpu():
    return ARGUMENTS.device == "cuda"


@contextlib.contextmanager
def tf32(allowed):
    """Let a GPU round the factors of convolutions and of matrix products to TF32 or not."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    yield
    for backend, value in zip(backends, before):
        backend.allow_tf32 = value


@contextlib.contextmanager
def arithmetic(precision):
    """Compute without gradients in one of the PRECISIONS."""
    half = torch.autocast(ARGUMENTS.device, torch.bfloat16, enabled=precision == "bfloat16")
    with tf32(precision == "TF32"), torch.inference_mode(), half:
        yield


def made_clips(backbone, clips, frames):
    shape = clips, frames, backbone.size, backbone.size, 3
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def as_inputs(backbone, clips):
    """Return what the network itself sees of clips: frames or clips, (P, ...)."""
    return torch.from_numpy(clips.reshape(-1, *clips.shape[2:]) if backbone.input == "image" else clips)


def extractor(name, sizes):
    return divita.Extractor(name, "random", sizes.frames, sizes.clips)


def plain_network(backbone, frames):
    return divita.with_normalization(backbone, divita.load_backbone(backbone.name, "random", frames=frames))


def made_representations(sizes):
    """Return two Representations of random vectors in memory, the trailers' mids and their genres."""
    mids = [f"tt{i:05d}" for i in range(sizes.trailers)]
    y = np.random.default_rng(0).random((sizes.trailers, 10)) < 0.25
    rows = {mid: (i * sizes.trailer_clips, (i + 1) * sizes.trailer_clips) for i, mid in enumerate(mids)}
    inputs = []
    for seed in (1, 2):
        some = np.random.default_rng(seed).standard_normal((64 * sizes.trailer_clips, sizes.features), np.float32)
        clips = np.resize(some, (len(mids) * sizes.trailer_clips, sizes.features))  # the same again and again
        inputs.append(divita.Representation(Path(), None, clips, clips.shape[1], rows, {}, {}))
    return inputs, mids, y


def made_head(features, aggregation="tsfm", fusion="late", **options):
    torch.manual_seed(0)
    return divita.compile_model(divita.divita({"image": features, "video": features}, 10, aggregation, fusion, **options))


def wait_for_gpu():
    if on_gpu():
        torch.cuda.synchronize()


def seconds(function):
    wait_for_gpu()
    start = time.perf_counter()
    function()
    wait_for_gpu()
    return time.perf_counter() - start


def usual_seconds(function, turns):
    """Return the median of some turns, after one that is not counted."""
    function()
    return float(np.median([seconds(function) for _ in range(turns)]))


# ---- The parts ----


@part(budget=20)
def machine(sizes, names):
    say(f"- {divita.select_device()}")
    if on_gpu():
        about = torch.cuda.get_device_properties(0)
        say(f"- {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}")
        say(f"- CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    say(f"- allow_tf32: {matmul} in matrix products, {cudnn} in convolutions")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    say(f"- {cores()} cores, {memory:.0f} GiB of memory, load {os.getloadavg()[0]:.1f}, {platform.platform()}")
    say(f"- Python {platform.python_version()}, torch {torch.__version__}, Keras {keras.__version__}")
    say(f"- torchvision is {'' if torchvision_is_there() else 'not '}there; backbones: {', '.join(names)}")


def cores():
    return len(os.sched_getaffinity(0))


def torchvision_is_there():
    return importlib.util.find_spec("torchvision") is not None


@part(budget=90)
def right(sizes, names):
    head("network", "what", "difference", "at most", "right")
    for name in names:
        attempt(name, right_backbone, name, sizes)
    for aggregation, fusion in itertools.product(divita.AGGREGATIONS, ("late", "early")):
        attempt(aggregation, right_head, aggregation, fusion)


def right_backbone(name, sizes):
    """Compare a backbone's vectors of two clips, (2, F), with those of plain Keras on the CPU."""
    backbone = divita.get_backbone(name)
    clips = made_clips(backbone, 2, sizes.frames)
    inputs = as_inputs(backbone, clips)

    def vectors(network, inputs):
        return network(inputs).reshape(2, -1, backbone.num_features).mean(1).cpu().numpy()

    with keras.device("cpu"):
        network = plain_network(backbone, sizes.frames)
        with arithmetic("float32"):
            expected = vectors(network, inputs)
    extract = extractor(name, sizes)
    for precision, bound in precisions().items():
        extract.precision = "bfloat16" if precision == "bfloat16" else "float32"
        with arithmetic(precision):
            compare(name, f"{precision}, against the CPU", extract(clips), expected, bound)
    network, extract.precision = plain_network(backbone, sizes.frames), "float32"
    with arithmetic("float32"):
        plain = vectors(network, inputs.to(ARGUMENTS.device))
        compare(name, "frozen, against plain Keras", extract(clips), plain, PRECISIONS["float32"])
    if not isinstance(extract.network, torch.fx.GraphModule):
        raise RuntimeError(f"{name} was not frozen")


def right_head(aggregation, fusion):
    """Compare DIViTA's logits (B, G) with those on the CPU: as built, after a step and after an epoch of training."""
    sizes = SIZES["cpu"]
    inputs, mids, y = made_representations(sizes)
    x, genres = divita.TrainingSnippets(inputs, mids, y, CLIPS, BATCH, seed=0)[0]
    options = {"dropout": 0.0} if aggregation == "tsfm" else {}  # each device draws other random numbers
    logits, weights = [], None
    for device in ("cpu", ARGUMENTS.device):
        with tf32(False), keras.device(device):
            model = made_head(sizes.features, aggregation, fusion, **options)
            weights = weights or model.get_weights()
            model.set_weights(weights)
            stages = [model.predict_on_batch(x)]
            model.train_on_batch(x, genres)
            stages.append(model.predict_on_batch(x))
            fit(model, divita.TrainingSnippets(inputs, mids, y, CLIPS, BATCH, seed=0), epochs=1)
            stages.append(model.predict_on_batch(x))
        logits.append(stages)
    bounds = {"logits": PRECISIONS["float32"], "after a step": STEP, "after an epoch": EPOCH}
    for (stage, bound), expected, found in zip(bounds.items(), *logits):
        compare(f"{aggregation}, {fusion}", stage, found, expected, bound)


def fit(model, snippets, epochs):
    """Train a model as 02_train.py does; return the seconds of each epoch."""
    times = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: times.append(time.perf_counter()),
        on_epoch_end=lambda *_: times.append(time.perf_counter() - times.pop()),
    )
    model.fit(snippets, epochs=epochs, shuffle=False, verbose=0, callbacks=[clock])
    return times


@part(budget=90)
def fast(sizes, names):
    say("Frames or clips per second. Ours: from clips in memory to vectors in memory, as 01_prepare.py has them. Plain")
    say("Keras: the same network, not frozen; reference: torchvision's or plain PyTorch, channels last; the pixels of")
    say("both lie on the device already. A ratio above 1: ours is faster.\n")
    head("network", "precision", "in a pass", "ours", "plain Keras", "ratio", "reference", "ratio")
    for name in names:
        attempt(name, fast_backbone, name, sizes)
    if on_gpu():
        say("\nThe share of our time in which the GPU computes or copies, by the profiler, as 01_prepare.py runs it:\n")
        head("network", "busy")
        for name in names:
            attempt(name, busy, name, sizes)


def fast_backbone(name, sizes):
    backbone, extract = divita.get_backbone(name), extractor(name, sizes)
    plain, clips = plain_network(backbone, sizes.frames), made_clips(backbone, sizes.clips, sizes.frames)
    inputs, in_pass = as_inputs(backbone, clips), extract.per_pass
    pixels = inputs[:in_pass].to(ARGUMENTS.device)
    reference, x = reference_of(name, inputs[:in_pass])
    for precision in precisions():
        extract.precision = "bfloat16" if precision == "bfloat16" else "float32"
        with arithmetic(precision):
            ours = len(inputs) / usual_seconds(lambda: extract(clips), sizes.turns)
            others = [in_pass / usual_seconds(lambda: plain(pixels), sizes.turns)]
            if reference:
                others.append(in_pass / usual_seconds(lambda: reference(x), sizes.turns))
        cells = [cell for other in others for cell in (f"{other:.1f}", f"{ours / other:.2f}")]
        row(name, precision, in_pass, f"{ours:.1f}", *[*cells, "-", "-"][:4])


def busy(name, sizes):
    backbone, extract = divita.get_backbone(name), extractor(name, sizes)
    clips = made_clips(backbone, sizes.clips, sizes.frames)
    took = usual_seconds(lambda: extract(clips), sizes.turns)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds(lambda: extract(clips))
    computing = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    row(name, f"{computing / took:.0%}")


def reference_of(name, inputs):
    """Return plain PyTorch's network and its input, None where there is none of this name."""
    if name not in bench_backbones.PLAIN and not torchvision_is_there():
        return None, None
    return bench_backbones.reference_and_input(name, inputs.numpy(), ARGUMENTS.device)


@part(budget=120)
def prepare(sizes, names):
    from films import load_prepare, write_video  # imports OpenCV

    script, workers = load_prepare(), cores()  # nothing here touches the GPU before processes that decode are forked
    with tempfile.TemporaryDirectory() as temporary:
        videos, out = Path(temporary) / "videos", Path(temporary) / "out"
        videos.mkdir()
        shots = [53] * round(sizes.seconds * 24 / 53)
        films = [(videos / f"tt{i}.mp4", shots, 24.0, sizes.picture, "mp4v", True, i) for i in range(sizes.films)]
        with multiprocessing.get_context("fork").Pool(min(workers, len(films))) as pool:
            pool.starmap(write_video, films)
        width, height = sizes.picture
        say(f"- {sizes.films} films of {sizes.seconds} s, {width} x {height}, {workers} workers")
        say("- smooth pictures in MPEG-4, which decode faster than films do")
        sys.argv = ["01_prepare.py", "--videos", str(videos), "--out", str(out), "--weights", "random"]
        sys.argv += ["--image", "shufflenet2d", "--video", "shufflenet3d", "--workers", str(workers)]
        given = script.parse_arguments()
        decoding, clips = decode(script, given, videos, Path(temporary) / "alone")
        say(f"- decoding alone: {decoding:.2f} s for {clips} clips")
        began, busy = run_prepare(script, given)
        whole = time.perf_counter() - began
    say(f"- prepare(), from its first batch on: {whole:.2f} s, {decoding / whole:.0%} of which decoding alone takes")
    say(f"- the device has work for {busy:.2f} s; it waits for {1 - busy / whole:.0%} of the time")
    limit = "by neither, but by what lies between them"
    if max(decoding, busy) > 0.8 * whole:
        limit = "by decoding: more cores make it faster" if decoding > busy else "by the backbones"
    say(f"- limited {limit}")


def decode(script, given, videos, out):
    """Return the seconds that it takes to decode the films as prepare() does, and the number of clips."""
    job = script.make_job(given, out, divita.find_videos([videos]), script.make_targets(given))
    start, clips, plan = time.perf_counter(), 0, script.make_plan(job)
    messages = script.decode_in_parallel(job.todo, plan, given.workers, given.patience, 2 * given.batch_size)
    for mid, kind, content in messages:
        if kind in ("failed", "error"):
            raise RuntimeError(f"{mid}: {content}")
        clips += kind == "clip"
    return time.perf_counter() - start, clips


def run_prepare(script, given):
    """Run 01_prepare.py; return when its first batch began and for how many seconds the device had work."""
    spans, starts = [], []

    def now():
        if not on_gpu():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    class Timed(divita.Extractor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            starts.clear()  # what it ran itself, to be built
            spans.clear()

        def __call__(self, clips):
            starts.append(time.perf_counter())
            begin = now()
            vectors = super().__call__(clips)
            spans.append((begin, now()))
            return vectors

    usual, divita.Extractor = divita.Extractor, Timed
    try:
        with contextlib.redirect_stdout(sys.stderr):
            status = script.main(given)
    finally:
        divita.Extractor = usual
    if status:
        raise RuntimeError(f"01_prepare.py ended with status {status}")
    wait_for_gpu()
    return starts[0], sum(begin.elapsed_time(end) / 1000 if on_gpu() else end - begin for begin, end in spans)


@part(budget=50)
def train(sizes, names):
    inputs, mids, y = made_representations(sizes)
    snippets = divita.TrainingSnippets(inputs, mids, y, CLIPS, BATCH, seed=0)
    steps = len(snippets)
    model, batch = made_head(sizes.features), snippets[0]

    def cut():
        for i in range(steps):
            _ = snippets[i]

    def step(batch):
        for _ in range(steps):
            model.train_on_batch(*batch)

    on_device = keras.tree.map_structure(lambda array: torch.from_numpy(array).to(ARGUMENTS.device), batch)
    epoch = min(fit(model, snippets, epochs=3)[1:])  # the first one warms up
    times = {"fit(), as 02_train.py trains": epoch, "cutting batches alone": seconds(cut)}
    times["steps alone, a batch in memory"] = seconds(lambda: step(batch))
    times["steps alone, a batch on the device"] = seconds(lambda: step(on_device))
    about = f"{len(mids)} trailers of 2 x {sizes.features} features"
    say(f"{about}; {steps} steps of {BATCH} trailers, {CLIPS} clips of each\n")
    head("an epoch of", "seconds", "of fit's")
    for what, took in times.items():
        row(what, f"{took:.2f}", f"{took / epoch:.0%}")


@part(budget=50)
def memory(sizes, names):
    say("GiB, allocated / reserved.\n")
    head("what", "in a pass or batch", "to build", "to run")
    for name in names:
        attempt(name, memory_of_backbone, name, sizes)
        gc.collect()  # a network holds itself
    model = made_head(sizes.features)
    x = [np.zeros((BATCH, CLIPS, sizes.features), np.float32)] * 2
    row("training", BATCH, "-", peak(lambda: model.train_on_batch(x, np.zeros((BATCH, 10), np.float32)))[1])
    if not on_gpu():
        say("\nOn a CPU: the most that this process has held so far.")


def memory_of_backbone(name, sizes):
    extract, building = peak(lambda: extractor(name, sizes))
    clips = made_clips(divita.get_backbone(name), sizes.clips, sizes.frames)
    row(name, extract.per_pass, building, peak(lambda: extract(clips))[1])


def peak(function):
    """Call a function; return its result and, as text, the most memory that it takes on the device."""
    if not on_gpu():
        return function(), f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = function()
    wait_for_gpu()
    return result, f"{torch.cuda.max_memory_allocated() / 2**30:.2f} / {torch.cuda.max_memory_reserved() / 2**30:.2f}"


@part(budget=60)
def compile_(sizes, names):
    if not torchvision_is_there():
        return say("torchvision is not there, whose models would be compiled.")
    names = [name for name in names if name not in bench_backbones.PLAIN]
    head("network", "precision", "in a pass", "compiled, per second", "seconds to compile")
    for precision, name in itertools.product(reversed(precisions()), names if on_gpu() else names[:1]):
        attempt(name, compile_backbone, name, precision, sizes)


def compile_backbone(name, precision, sizes):
    backbone, extract = divita.get_backbone(name), extractor(name, sizes)
    inputs = as_inputs(backbone, made_clips(backbone, sizes.clips, sizes.frames))[: extract.per_pass]
    reference, x = reference_of(name, inputs)
    torch.compiler.reset()
    network = torch.compile(reference, dynamic=False)
    with arithmetic(precision):
        compiling = seconds(lambda: network(x))
        took = usual_seconds(lambda: network(x), sizes.turns)
    row(name, precision, len(inputs), f"{len(inputs) / took:.1f}", f"{compiling:.0f}")


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()
    if ARGUMENTS.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also where there is one
    import torch

    if ARGUMENTS.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here; --device cpu runs the parts in small sizes", file=sys.stderr)
        sys.exit(2)
    if not ARGUMENTS.here:
        sys.exit(run_all(ARGUMENTS))
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import divita  # first, as it sets Keras's backend

    # isort: split
    import bench_backbones
    import keras
    import numpy as np

    if ARGUMENTS.device == "cpu":
        torch.set_num_threads(1)  # two wait for each other where others use the processor too
    sys.exit(run_here(ARGUMENTS))
