"""Time of 01_prepare.py relative to decoding and the backbones alone. Run by hand; it takes minutes.

    python tests/bench_prepare.py [--trailer FILE] [--seconds 120]

Prints ratios of times measured alternately in one run, and the memory of a worker.
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
from films import TINY, decode_images, load_prepare, thumbnail, write_video

import divita

prepare = load_prepare()


def seconds(function, *arguments):
    before = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - before


def decode_alone(path):
    """Decode a video into BGR images; return the number of frames."""
    return sum(image.size > 0 for _, image in decode_images(prepare, path))


def run_extractor(extractor, batch, batches):
    for _ in range(batches):
        extractor(batch)


def time_prepare(folder, *options):
    """Return the seconds of prepare() for a folder once the backbones are built, the job and its number of clips."""
    out = Path(tempfile.mkdtemp(dir=folder.parent))
    sys.argv = ["01_prepare.py", "--videos", str(folder), "--out", str(out), *map(str, options)]
    arguments = prepare.parse_arguments()
    arguments.workers = arguments.workers or divita.usable_cores()
    job = prepare.make_job(arguments, out, divita.find_videos([folder]), prepare.make_targets(arguments))
    prepare.build_extractors(job)
    prepare.build_extractors, build = lambda job: None, prepare.build_extractors
    took = seconds(prepare.prepare, job)
    prepare.build_extractors = build
    clips = sum(len(path.read_text().splitlines()) - 1 for path in job.clip_tables.glob("*.csv"))
    shutil.rmtree(out)
    return took, job, clips


def time_parts(path, job, clips):
    """Return the seconds of decoding a video alone and of the backbones alone."""
    decoding, backbones = seconds(decode_alone, path), 0.0
    size = job.arguments.batch_size
    for target in job.targets:
        batch = np.zeros((size, target.meta["frames"], *[target.meta["input_size"]] * 2, 3), np.uint8)
        backbones += seconds(run_extractor, target.extract, batch, -(-clips // size))
    return decoding, backbones


def compare_with_parts(folder, turns):
    """Print prepare()'s time relative to decoding plus backbones, the mean of runs before and after it."""
    options = "--weights random --image shufflenet2d --video shufflenet3d --image-frames 1".split()
    (path,) = folder.iterdir()
    _, job, clips = time_prepare(folder, *options)
    before, ratios = time_parts(path, job, clips), []
    for _ in range(turns):
        total, job, _ = time_prepare(folder, *options)
        after = time_parts(path, job, clips)
        decoding, backbones = np.mean([before, after], axis=0)
        ratios.append(total / (decoding + backbones))
        print(
            f"prepare {total:.1f} s, decoding {decoding:.1f} s + backbones {backbones:.1f} s: {ratios[-1]:.2f}",
            flush=True,
        )
        before = after
    print(f"median of {turns} turns: {np.median(ratios):.2f}", flush=True)


def compare_workers(folder, turns):
    """Print the speed-up by a second worker with backbones that cost almost nothing."""
    for _ in range(turns):
        one, *_ = time_prepare(folder, *TINY[:6], "--workers", 1)
        two, *_ = time_prepare(folder, *TINY[:6], "--workers", 2)
        print(f"1 worker {one:.1f} s, 2 workers {two:.1f} s: {one / two:.2f} times", flush=True)


def peak_memory(path, detector):
    """Return the peak memory in MB of a new process before and after it decodes a video."""
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


def time_short_trailers(folder, count):
    """Print the milliseconds per trailer for a folder of `count` one-second videos."""
    folder.mkdir()
    first = write_video(folder / "tt0.mp4", [24])
    for i in range(1, count):
        shutil.copy(first, folder / f"tt{i}.mp4")
    took, *_ = time_prepare(folder, *TINY[:6])
    print(f"{count} trailers of 1 s: {1000 * took / count:.1f} ms each", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trailer", type=Path, help="video of 1280x720 (synthetic)")
    parser.add_argument("--seconds", type=int, default=120, help="length of the synthetic video (120)")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        one, six = Path(temporary) / "one", Path(temporary) / "six"
        for length in (2, 10):  # first, while the process is small
            full = write_video(Path(temporary) / f"{length}.mp4", [53] * (length * 27), size=(1920, 1080))
            for detector in ("adaptive", "content"):
                before, after = peak_memory(full, detector)
                print(f"{length} minutes of 1080p, {detector}: {after} MB, before decoding {before} MB", flush=True)
            full.unlink()
        one.mkdir()
        six.mkdir()
        if arguments.trailer:
            path = Path(shutil.copy(arguments.trailer, one))
        else:
            path = write_video(one / "tt0.mp4", [53] * round(arguments.seconds * 24 / 53), size=(1280, 720))
        for i in range(6):
            shutil.copy(path, six / f"tt{i}{path.suffix}")
        print(f"{path.name}: {decode_alone(path)} frames, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        compare_with_parts(one, arguments.turns)
        compare_workers(six, arguments.turns)
        for count in (10, 100, 1000):
            time_short_trailers(Path(temporary) / str(count), count)


if __name__ == "__main__":
    main()
