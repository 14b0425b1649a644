"""Check the results of backbones and training on a GPU and measure their speed, within eight minutes.

    python tests/bench_gpu.py --out gpu.md
    python tests/bench_gpu.py right memory                  only these parts
    python tests/bench_gpu.py --device cpu                  small sizes, to try it

The output is Markdown, also written to --out. Each part is a process of its own, so that one that fails or exceeds its
budget does not stop the others:

    machine    hardware and versions
    right      backbones and heads against the CPU; inference graphs against plain Keras
    fast       frames or clips per second of each backbone, against plain Keras and plain PyTorch
    prepare    share of the time that the GPU waits in 01_prepare.py, and its cause
    train      seconds per epoch on as many trailers as in Trailers12k, by step
    memory     peak memory of building a backbone, of a batch and of training
    compile    torch.compile of torchvision's models, if torchvision and a compiler are installed

The exit status is 1 if a part failed or a difference exceeds its bound. Weights are random and videos synthetic: no
internet access is needed. Requires torch from 2.11 on, numpy, keras with absl-py, ml-dtypes, namex, optree, packaging
and rich, tqdm, opencv-python, scenedetect and av. KerasCV with TensorFlow adds four backbones, torchvision (pip install
--no-deps torchvision pillow) the references.
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

PRECISIONS = {  # bound on the largest difference over the largest value, due to rounding
    "float32": 1e-4,  # 24 bits: sums of thousands of products in different order differ by 1e-6 to 1e-5
    "TF32": 1e-2,  # 11 bits, 5e-4 per product; over 50 layers, as a random walk, about seven times that
    "bfloat16": 5e-2,  # 8 bits, 4e-3 per layer, with exact sums; over 50 layers likewise
}
STEP, EPOCH = 1e-3, 1e-2  # AdamW's first steps follow a gradient's sign, which rounding may flip
TORCH_BACKBONES = ("shufflenet2d", "shufflenet3d", "r2plus1d")  # built without KerasCV
BATCH, CLIPS = 32, 30  # in training


@dataclass
class Sizes:
    clips: int  # per batch of a backbone
    frames: int  # per clip
    turns: int  # for the median
    videos: int
    seconds: int  # per video
    frame_size: tuple  # width, height
    trailers: int
    trailer_clips: int
    features: int


SIZES = {
    "cuda": Sizes(
        clips=16, frames=24, turns=5,
        videos=8, seconds=120, frame_size=(1280, 720),
        trailers=12_000, trailer_clips=40, features=1024,
    ),
    "cpu": Sizes(
        clips=2, frames=2, turns=1,
        videos=2, seconds=5, frame_size=(192, 108),
        trailers=64, trailer_clips=40, features=16,
    ),
}  # fmt: skip
CPU_BUDGET_FACTOR = 6  # a CPU's budget over a GPU's
PARTS = {}  # name -> (function of Sizes and backbone names, budget on a GPU in s, 480 in total)


def register_part(budget):
    def add(function):
        PARTS[function.__name__.rstrip("_")] = function, budget
        return function

    return add


def parse_arguments():
    usage, formatter = argparse.SUPPRESS, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=formatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run (all)")
    parser.add_argument("--device", choices=SIZES, default="cuda", help="device (%(default)s)")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="backbones (all available; three on a CPU)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for the output")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds per part (each part's own)")
    parser.add_argument("--here", action="store_true", help="run in this process, append to FILE")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; choose {', '.join(PARTS)}")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"--out {arguments.out}: folder missing; create it")
    return arguments


def run_all(arguments):
    """Run each part in its own process; return the exit status."""
    if arguments.out:
        arguments.out.write_text("")
    options = ["--here", "--device", arguments.device]
    options += ["--out", str(arguments.out)] if arguments.out else []
    options += ["--backbones", *arguments.backbones] if arguments.backbones else []
    failed, began = [], time.perf_counter()
    for name in arguments.parts or PARTS:
        _, budget = PARTS[name]
        busy = max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))  # others may use the machine
        budget = arguments.budget or budget * busy * (1 if arguments.device == "cuda" else CPU_BUDGET_FACTOR)
        start = time.perf_counter()
        status = run_process([sys.executable, __file__, name, *options], budget)
        if status != 0:
            failed.append(name)
        how = {0: "", 1: ", with failures", None: ", over its budget, stopped"}
        say(f"\n{name} took {time.perf_counter() - start:.0f} s{how.get(status, f', exit status {status}')}")
    result = f"FAILED: {', '.join(failed)}" if failed else "passed"
    say(f"\n{result}; {time.perf_counter() - began:.0f} s in total")
    return 1 if failed else 0


def run_process(command, budget):
    """Return a command's exit status, None if over its budget in seconds; all its processes are stopped."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "TMPDIR": folder})
        try:
            return process.wait(budget)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # already ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_here(arguments):
    """Run parts in this process; return the exit status."""
    names = arguments.backbones or (available_backbones() if on_gpu() else TORCH_BACKBONES)
    for name in arguments.parts or PARTS:
        say(f"\n## {name}\n")
        function, _ = PARTS[name]
        attempt(name, function, SIZES[arguments.device], names)
    return 1 if FAILURES else 0


FAILURES = []  # parts that failed, comparisons above their bound


def attempt(what, function, *arguments):
    """Call a function; if it fails, report it in FAILURES and continue."""
    try:
        function(*arguments)
    except Exception as error:  # an unknown machine may raise any
        traceback.print_exc()
        row(what, f"**failed**: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        FAILURES.append(what)


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
    """Print the largest difference of two arrays over the largest value and whether it is within its bound."""
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    passed = difference <= bound  # False for NaN
    row(what, how, f"{difference:.1e}", f"{bound:.0e}", "yes" if passed else "**no**")
    if not passed:
        FAILURES.append(what)


# ---- Shared by the parts ----


def available_backbones():
    """Return the names of the backbones that can be built."""
    try:
        divita.kerascv()
    except divita.UserError:
        return list(TORCH_BACKBONES)
    return list(divita.BACKBONES)


def precisions():
    return PRECISIONS if on_gpu() else {name: PRECISIONS[name] for name in PRECISIONS if name != "TF32"}


def on_gpu():
    return ARGUMENTS.device == "cuda"


@contextlib.contextmanager
def tf32(allowed):
    """Allow or forbid TF32 in a GPU's convolutions and matrix products."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    yield
    for backend, value in zip(backends, before):
        backend.allow_tf32 = value


@contextlib.contextmanager
def use_precision(precision):
    """Compute without gradients in one of the PRECISIONS."""
    half = torch.autocast(ARGUMENTS.device, torch.bfloat16, enabled=precision == "bfloat16")
    with tf32(precision == "TF32"), torch.inference_mode(), half:
        yield


def made_clips(backbone, clips, frames):
    shape = clips, frames, backbone.size, backbone.size, 3
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def as_inputs(backbone, clips):
    """Return clips as the network's inputs: frames or clips, (P, ...)."""
    return torch.from_numpy(clips.reshape(-1, *clips.shape[2:]) if backbone.input == "image" else clips)


def make_extractor(name, sizes):
    return divita.Extractor(name, "random", sizes.frames, sizes.clips)


def plain_network(backbone, frames):
    return divita.with_normalization(backbone, divita.load_backbone(backbone.name, "random", frames=frames))


def made_representations(sizes):
    """Return two Representations of random vectors in memory, mids and labels."""
    mids = [f"tt{i:05d}" for i in range(sizes.trailers)]
    y = np.random.default_rng(0).random((sizes.trailers, 10)) < 0.25
    rows = {mid: (i * sizes.trailer_clips, (i + 1) * sizes.trailer_clips) for i, mid in enumerate(mids)}
    representations = []
    for seed in (1, 2):
        vectors = np.random.default_rng(seed).standard_normal((64 * sizes.trailer_clips, sizes.features), np.float32)
        clips = np.resize(vectors, (len(mids) * sizes.trailer_clips, sizes.features))  # repeats the same vectors
        representations.append(divita.Representation(Path(), None, clips, clips.shape[1], rows, {}, {}))
    return representations, mids, y


def made_head(features, aggregation="tsfm", fusion="late", **options):
    torch.manual_seed(0)
    num_features = {"image": features, "video": features}
    return divita.compile_model(divita.divita(num_features, 10, aggregation, fusion, **options))


def wait_for_gpu():
    if on_gpu():
        torch.cuda.synchronize()


def measure_seconds(function):
    wait_for_gpu()
    start = time.perf_counter()
    function()
    wait_for_gpu()
    return time.perf_counter() - start


def median_seconds(function, turns):
    """Return the median seconds of some turns after a warm-up."""
    function()
    return float(np.median([measure_seconds(function) for _ in range(turns)]))


# ---- The parts ----


@register_part(budget=20)
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
    say(f"- torchvision {'' if has_torchvision() else 'not '}installed; backbones: {', '.join(names)}")


def cores():
    return len(os.sched_getaffinity(0))


def has_torchvision():
    return importlib.util.find_spec("torchvision") is not None


@register_part(budget=90)
def right(sizes, names):
    head("network", "what", "difference", "bound", "passed")
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
        with use_precision("float32"):
            expected = vectors(network, inputs)
    extract = make_extractor(name, sizes)
    for precision, bound in precisions().items():
        extract.precision = "bfloat16" if precision == "bfloat16" else "float32"
        with use_precision(precision):
            compare(name, f"{precision}, against the CPU", extract(clips), expected, bound)
    network, extract.precision = plain_network(backbone, sizes.frames), "float32"
    with use_precision("float32"):
        plain = vectors(network, inputs.to(ARGUMENTS.device))
        compare(name, "inference graph, against plain Keras", extract(clips), plain, PRECISIONS["float32"])
    if not isinstance(extract.network, torch.fx.GraphModule):
        raise RuntimeError(f"{name}: tracing failed")


def right_head(aggregation, fusion):
    """Compare DIViTA's logits (B, G) with those on the CPU: as built, after a step and after an epoch of training."""
    sizes = SIZES["cpu"]
    representations, mids, y = made_representations(sizes)
    x, genres = divita.TrainingSnippets(representations, mids, y, CLIPS, BATCH, seed=0)[0]
    options = {"dropout": 0.0} if aggregation == "tsfm" else {}  # random numbers differ between devices
    logits, weights = [], None
    for device in ("cpu", ARGUMENTS.device):
        with tf32(False), keras.device(device):
            model = made_head(sizes.features, aggregation, fusion, **options)
            weights = weights or model.get_weights()
            model.set_weights(weights)
            stages = [model.predict_on_batch(x)]
            model.train_on_batch(x, genres)
            stages.append(model.predict_on_batch(x))
            fit(model, divita.TrainingSnippets(representations, mids, y, CLIPS, BATCH, seed=0), epochs=1)
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


@register_part(budget=90)
def fast(sizes, names):
    say("Frames or clips per second. Ours: from clips to vectors in memory, as in 01_prepare.py. Plain Keras: without")
    say("the inference graph; reference: torchvision or plain PyTorch, channels last; both with pixels on the device.")
    say("A ratio above 1: ours is faster.\n")
    head("network", "precision", "in a pass", "ours", "plain Keras", "ratio", "reference", "ratio")
    for name in names:
        attempt(name, fast_backbone, name, sizes)
    if on_gpu():
        say("\nThe share of our time in which the GPU computes or copies, by the profiler, as in 01_prepare.py:\n")
        head("network", "busy")
        for name in names:
            attempt(name, busy_share, name, sizes)


def fast_backbone(name, sizes):
    backbone, extract = divita.get_backbone(name), make_extractor(name, sizes)
    plain, clips = plain_network(backbone, sizes.frames), made_clips(backbone, sizes.clips, sizes.frames)
    inputs, in_pass = as_inputs(backbone, clips), extract.per_pass
    pixels = inputs[:in_pass].to(ARGUMENTS.device)
    reference, x = find_reference(name, inputs[:in_pass])
    for precision in precisions():
        extract.precision = "bfloat16" if precision == "bfloat16" else "float32"
        with use_precision(precision):
            ours = len(inputs) / median_seconds(lambda: extract(clips), sizes.turns)
            others = [in_pass / median_seconds(lambda: plain(pixels), sizes.turns)]
            if reference:
                others.append(in_pass / median_seconds(lambda: reference(x), sizes.turns))
        cells = [cell for other in others for cell in (f"{other:.1f}", f"{ours / other:.2f}")]
        row(name, precision, in_pass, f"{ours:.1f}", *[*cells, "-", "-"][:4])


def busy_share(name, sizes):
    backbone, extract = divita.get_backbone(name), make_extractor(name, sizes)
    clips = made_clips(backbone, sizes.clips, sizes.frames)
    took = median_seconds(lambda: extract(clips), sizes.turns)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        measure_seconds(lambda: extract(clips))
    computing = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    row(name, f"{computing / took:.0%}")


def find_reference(name, inputs):
    """Return the reference network and its input, or None for both."""
    if name not in bench_backbones.PLAIN_PYTORCH and not has_torchvision():
        return None, None
    return bench_backbones.reference_and_input(name, inputs.numpy(), ARGUMENTS.device)


@register_part(budget=120)
def prepare(sizes, names):
    from films import load_prepare, write_video  # imports OpenCV

    script, workers = load_prepare(), cores()  # must not touch the GPU before workers are forked
    with tempfile.TemporaryDirectory() as temporary:
        videos, out = Path(temporary) / "videos", Path(temporary) / "out"
        videos.mkdir()
        shots = [53] * round(sizes.seconds * 24 / 53)
        rows = [(videos / f"tt{i}.mp4", shots, 24.0, sizes.frame_size, "mp4v", True, i) for i in range(sizes.videos)]
        with multiprocessing.get_context("fork").Pool(min(workers, len(rows))) as pool:
            pool.starmap(write_video, rows)
        width, height = sizes.frame_size
        say(f"- {sizes.videos} videos of {sizes.seconds} s, {width} x {height}, {workers} workers")
        say("- smooth frames in MPEG-4, which decode faster than real videos")
        sys.argv = ["01_prepare.py", "--videos", str(videos), "--out", str(out), "--weights", "random"]
        sys.argv += ["--image", "shufflenet2d", "--video", "shufflenet3d", "--workers", str(workers)]
        options = script.parse_arguments()
        decoding, clips = decode(script, options, videos, Path(temporary) / "alone")
        say(f"- decoding alone: {decoding:.2f} s for {clips} clips")
        began, busy = run_prepare(script, options)
        total = time.perf_counter() - began
    say(f"- prepare(), from its first batch: {total:.2f} s; decoding alone: {decoding / total:.0%} of that")
    say(f"- device busy for {busy:.2f} s, waiting for {1 - busy / total:.0%} of the time")
    limit = "by neither"
    if max(decoding, busy) > 0.8 * total:
        limit = "by decoding: use more cores" if decoding > busy else "by the backbones"
    say(f"- limited {limit}")


def decode(script, options, videos, out):
    """Return the seconds of decoding the videos as in prepare(), and the number of clips."""
    job = script.make_job(options, out, divita.find_videos([videos]), script.make_targets(options))
    start, clips, plan = time.perf_counter(), 0, script.make_plan(job)
    messages = script.decode_in_parallel(job.todo, plan, options.workers, options.patience, 2 * options.batch_size)
    for mid, kind, content in messages:
        if kind in ("failed", "error"):
            raise RuntimeError(f"{mid}: {content}")
        clips += kind == "clip"
    return time.perf_counter() - start, clips


def run_prepare(script, options):
    """Run 01_prepare.py; return the start of its first batch and the device's busy seconds."""
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
            starts.clear()  # passes while building
            spans.clear()

        def __call__(self, clips):
            starts.append(time.perf_counter())
            begin = now()
            vectors = super().__call__(clips)
            spans.append((begin, now()))
            return vectors

    original, divita.Extractor = divita.Extractor, Timed
    try:
        with contextlib.redirect_stdout(sys.stderr):
            status = script.main(options)
    finally:
        divita.Extractor = original
    if status:
        raise RuntimeError(f"01_prepare.py ended with status {status}")
    wait_for_gpu()
    return starts[0], sum(begin.elapsed_time(end) / 1000 if on_gpu() else end - begin for begin, end in spans)


@register_part(budget=50)
def train(sizes, names):
    representations, mids, y = made_representations(sizes)
    snippets = divita.TrainingSnippets(representations, mids, y, CLIPS, BATCH, seed=0)
    steps = len(snippets)
    model, batch = made_head(sizes.features), snippets[0]

    def cut():
        for i in range(steps):
            _ = snippets[i]

    def step(batch):
        for _ in range(steps):
            model.train_on_batch(*batch)

    on_device = keras.tree.map_structure(lambda array: torch.from_numpy(array).to(ARGUMENTS.device), batch)
    epoch = min(fit(model, snippets, epochs=3)[1:])  # the first one is a warm-up
    times = {"fit(), as 02_train.py trains": epoch, "cutting batches alone": measure_seconds(cut)}
    times["steps alone, a batch in memory"] = measure_seconds(lambda: step(batch))
    times["steps alone, a batch on the device"] = measure_seconds(lambda: step(on_device))
    about = f"{len(mids)} trailers of 2 x {sizes.features} features"
    say(f"{about}; {steps} steps of {BATCH} trailers, {CLIPS} clips of each\n")
    head("an epoch of", "seconds", "of fit's")
    for what, took in times.items():
        row(what, f"{took:.2f}", f"{took / epoch:.0%}")


@register_part(budget=50)
def memory(sizes, names):
    say("GiB, allocated / reserved.\n")
    head("what", "in a pass or batch", "to build", "to run")
    for name in names:
        attempt(name, memory_of_backbone, name, sizes)
        gc.collect()  # networks contain reference cycles
    model = made_head(sizes.features)
    x = [np.zeros((BATCH, CLIPS, sizes.features), np.float32)] * 2
    row("training", BATCH, "-", measure_peak(lambda: model.train_on_batch(x, np.zeros((BATCH, 10), np.float32)))[1])
    if not on_gpu():
        say("\nOn a CPU: this process's peak so far.")


def memory_of_backbone(name, sizes):
    extract, building = measure_peak(lambda: make_extractor(name, sizes))
    clips = made_clips(divita.get_backbone(name), sizes.clips, sizes.frames)
    row(name, extract.per_pass, building, measure_peak(lambda: extract(clips))[1])


def measure_peak(function):
    """Call a function; return its result and, as text, its peak memory on the device."""
    if not on_gpu():
        return function(), f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = function()
    wait_for_gpu()
    return result, f"{torch.cuda.max_memory_allocated() / 2**30:.2f} / {torch.cuda.max_memory_reserved() / 2**30:.2f}"


@register_part(budget=60)
def compile_(sizes, names):
    if not has_torchvision():
        return say("torchvision is not installed.")
    names = [name for name in names if name not in bench_backbones.PLAIN_PYTORCH]
    head("network", "precision", "in a pass", "compiled, per second", "seconds to compile")
    for precision, name in itertools.product(reversed(precisions()), names if on_gpu() else names[:1]):
        attempt(name, compile_backbone, name, precision, sizes)


def compile_backbone(name, precision, sizes):
    backbone, extract = divita.get_backbone(name), make_extractor(name, sizes)
    inputs = as_inputs(backbone, made_clips(backbone, sizes.clips, sizes.frames))[: extract.per_pass]
    reference, x = find_reference(name, inputs)
    torch.compiler.reset()
    network = torch.compile(reference, dynamic=False)
    with use_precision(precision):
        compiling = measure_seconds(lambda: network(x))
        took = median_seconds(lambda: network(x), sizes.turns)
    row(name, precision, len(inputs), f"{len(inputs) / took:.1f}", f"{compiling:.0f}")


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()
    if ARGUMENTS.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # hides any GPU
    import torch

    if ARGUMENTS.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU; use --device cpu for small sizes", file=sys.stderr)
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
        torch.set_num_threads(1)  # two are slower on a busy processor
    sys.exit(run_here(ARGUMENTS))
