"""How near 01_prepare.py comes to what decoding and the backbones cost by themselves. By hand: it takes minutes.

    python tests/bench_prepare.py [--film FILE] [--seconds 120]

Prints ratios of times measured in one run, by turns, and the memory of a decoding process.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from films import TINY, film, images, load_prepare, thumbnail

import divita

prepare = load_prepare()


def seconds(function, *arguments):
    before = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - before


def decode_alone(path):
    """Decode a film as it comes, into pictures of BGR."""
    return sum(image.size > 0 for _, image in images(prepare, path))


def run(extractor, batch, batches):
    for _ in range(batches):
        extractor(batch)


def prepared(folder, *options):
    """Return the seconds that prepare() takes for a folder once the backbones are built, the job, and its clips."""
    out = Path(tempfile.mkdtemp(dir=folder.parent))
    sys.argv = ["01_prepare.py", "--videos", str(folder), "--out", str(out), *map(str, options)]
    given = prepare.parse_arguments()
    wanted = prepare.make_targets(given)
    job = prepare.make_job(given, out, divita.find_videos([folder]), wanted)
    prepare.build_extractors(job)
    prepare.build_extractors, build = lambda job: None, prepare.build_extractors
    took = seconds(prepare.prepare, job)
    prepare.build_extractors = build
    clips = sum(len(path.read_text().splitlines()) - 1 for path in job.tables.glob("*.csv"))
    shutil.rmtree(out)
    return took, job, clips


def parts(path, job, clips):
    """Return the seconds that decoding a film takes alone, and the backbones alone."""
    decoding, backbones = seconds(decode_alone, path), 0.0
    size = job.arguments.batch_size
    for one in job.targets:
        batch = np.zeros((size, one.meta["frames"], *[one.meta["input_size"]] * 2, 3), np.uint8)
        backbones += seconds(run, one.extract, batch, -(-clips // size))
    return decoding, backbones


def against_its_parts(folder, turns):
    """Print prepare's time over that of decoding plus that of the backbones, the mean of just before and just after."""
    options = "--weights random --image shufflenet2d --video shufflenet3d --image-frames 1".split()
    (path,) = folder.iterdir()
    _, job, clips = prepared(folder, *options)
    before, ratios = parts(path, job, clips), []
    for _ in range(turns):
        whole, job, _ = prepared(folder, *options)
        after = parts(path, job, clips)
        decoding, backbones = np.mean([before, after], axis=0)
        ratios.append(whole / (decoding + backbones))
        print(
            f"prepare {whole:.1f} s, decoding {decoding:.1f} s + backbones {backbones:.1f} s: {ratios[-1]:.2f}",
            flush=True,
        )
        before = after
    print(f"median of {turns} turns: {np.median(ratios):.2f}", flush=True)


def workers(folder, turns):
    """Print the gain of a second worker where decoding is nearly all there is to do."""
    for _ in range(turns):
        one, *_ = prepared(folder, *TINY[:6], "--workers", 1)
        two, *_ = prepared(folder, *TINY[:6], "--workers", 2)
        print(f"1 worker {one:.1f} s, 2 workers {two:.1f} s: {one / two:.2f} times", flush=True)


def peak_memory(path, detector):
    """Return the MB that decoding a film needs at most, measured in a process of its own."""
    read, write = os.pipe()
    if os.fork() == 0:
        plan = prepare.Plan("shots", detector, 24.0, 24, ((thumbnail, 24),))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in prepare.decode_clips(path, plan):
            pass
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(write, f"{before / 1024:.0f} {after / 1024:.0f}".encode())
        os._exit(0)
    os.wait()
    return map(int, os.read(read, 99).split())


def many(folder, count):
    """Print seconds per trailer for a folder of `count` one-second films."""
    folder.mkdir()
    first = film(folder / "tt0.mp4", [24])
    for i in range(1, count):
        shutil.copy(first, folder / f"tt{i}.mp4")
    took, *_ = prepared(folder, *TINY[:6])
    print(f"{count} trailers of 1 s: {1000 * took / count:.1f} ms each", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--film", type=Path, help="a film of 1280x720 (default: one is made)")
    parser.add_argument("--seconds", type=int, default=120, help="length of the film that is made")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        one, six = Path(temporary) / "one", Path(temporary) / "six"
        for length in (2, 10):  # first, as the process is still small
            full = film(Path(temporary) / f"{length}.mp4", [53] * (length * 27), size=(1920, 1080))
            for detector in ("adaptive", "content"):
                before, after = peak_memory(full, detector)
                told = f"{after} MB at most, {before} MB of them before decoding"
                print(f"{length} minutes of 1080p, {detector}: {told}", flush=True)
            full.unlink()
        one.mkdir()
        six.mkdir()
        if given.film:
            path = Path(shutil.copy(given.film, one))
        else:
            path = film(one / "tt0.mp4", [53] * round(given.seconds * 24 / 53), size=(1280, 720))
        for i in range(6):
            shutil.copy(path, six / f"tt{i}{path.suffix}")
        print(f"{path.name}: {decode_alone(path)} frames, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        against_its_parts(one, given.turns)
        workers(six, given.turns)
        for count in (10, 100, 1000):
            many(Path(temporary) / str(count), count)


if __name__ == "__main__":
    main()
