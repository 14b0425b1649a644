"""The GPU benchmark, in small sizes on a CPU."""

import subprocess
import sys

from conftest import ROOT


def run_bench(*arguments):
    command = [sys.executable, ROOT / "tests/bench_gpu.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_every_part_runs(tmp_path):
    out = tmp_path / "gpu.md"
    done = run_bench("--here", "--device", "cpu", "--backbones", "shufflenet2d", "shufflenet3d", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = out.read_text().split("\n## ")
    assert [part.split()[0] for part in parts[1:]] == "machine right fast prepare train memory compile".split()
    _, machine, right, fast, prepare, train, memory, _ = parts
    assert "- Python 3." in machine and "shufflenet3d" in machine
    assert "- allow_tf32: False in matrix products, False in convolutions" in machine
    assert "| shufflenet3d | bfloat16, against the CPU |" in right and "| gru, early | after an epoch |" in right
    assert right.count("| yes |") == 2 * 3 + 4 * 2 * 3
    assert "| shufflenet2d | float32 | 4 |" in fast and "| shufflenet3d | bfloat16 | 2 |" in fast
    assert "\n- limited by " in prepare and "\n| cutting batches alone |" in train and "\n| training |" in memory
    assert "| what | in a pass or batch | to build | to run |" in memory
    assert out.read_text() in done.stdout


def test_a_failed_part_is_reported_and_the_next_one_runs(tmp_path):
    out = tmp_path / "gpu.md"
    done = run_bench("memory", "machine", "--device", "cpu", "--backbones", "nosuch", "--out", out)
    assert done.returncode == 1
    assert "| nosuch | **failed**: UserError: unknown backbone 'nosuch'" in done.stdout
    assert "| training | 32 | - |" in done.stdout and "machine took" in done.stdout
    assert "FAILED: memory; " in done.stdout
    assert out.read_text() == done.stdout


def test_a_part_over_its_budget_is_stopped():
    done = run_bench("right", "train", "--device", "cpu", "--budget", "0.2")
    assert done.returncode == 1
    assert done.stdout.count(", over its budget, stopped") == 2
    assert "FAILED: right, train; " in done.stdout


def test_an_unknown_part_is_an_error():
    done = run_bench("left", "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown part left; choose machine, right" in done.stderr
