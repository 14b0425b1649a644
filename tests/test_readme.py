"""README's Python code runs as written, on a small data set in place of the demo's."""

import re
import textwrap

import numpy as np
import pytest
from conftest import ROOT, make_data, write_representation

import divita

BOTH = "efficientnetlite_b0+shufflenet3d_shots_fps24_fpc24"


def python_code(words):
    """Return the one Python block of README.md that contains these words."""
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    (block,) = [block for block in blocks if words in block]
    return textwrap.dedent(block)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with data/demo, which has the names of the demo's representations."""
    data = make_data(tmp_path / "data" / "demo", trailers=30, clips=(13, 22))
    image = divita.open_representation(data, "shufflenet2d")
    write_representation(data, "image", "efficientnetlite_b0", {mid: np.array(image[mid]) for mid in image})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_python(folder, capsys):
    exec(python_code("divita.TrainingSnippets"), {})
    assert 0 < float(capsys.readouterr().out.splitlines()[-1]) <= 1


def test_true_cuts_are_counted(folder, capsys):
    divita.write_csv(folder / "data/demo/true_cuts.csv", ["mid", "frame"], [("a", 20), ("a", 44), ("b", 9)])
    header = ["clip", "shot", "start_frame", "end_frame", "start_s", "end_s"]
    for mid, starts in (("a", [0, 20, 30]), ("b", [0, 10])):
        rows = [(i, shot, start + 24 * i, 0, 0, 0) for shot, start in enumerate(starts) for i in range(2)]
        divita.write_csv(folder / f"data/demo/shots/{mid}.csv", header, rows)
    exec(python_code("true_cuts.csv"), {})
    assert capsys.readouterr().out == "1 of 3 true cuts found, 2 others\n"


def test_exercises(folder, script, capsys):
    """Reversed clips are the same to the transformer; average precision is near the trapezoid's area."""
    for name in ("tsfm", "gru"):
        options = ("--image", "efficientnetlite_b0", "--video", "shufflenet3d", "--splits", 0, "--epochs", 1)
        for runs in ("runs/class", "runs/demo") if name == "tsfm" else ("runs/class",):
            assert script("02_train.py", *options, "--aggregation", name, "--runs", runs).code == 0
    capsys.readouterr()
    exec(python_code("[::step]"), {})
    (tsfm, tsfm_difference), (gru, gru_difference) = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (tsfm, gru) == (BOTH, f"{BOTH}-gru") and float(tsfm_difference) < 1e-5 < 1e-4 < float(gru_difference)
    exec(python_code("average_precision_score"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [genre for genre, *_ in lines] == ["action", "comedy", "drama"]
    assert all(abs(float(trapezoid) - float(average)) < 0.2 for _, trapezoid, average in lines)
