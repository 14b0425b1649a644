"""Measure the backbones against plain PyTorch, by hand: python tests/bench_backbones.py [NAME ...] [--threads 2]

Each backbone runs frozen, as 01_prepare.py runs it, in turn with the reference on the same batch: torchvision's model
or, for what it lacks, the same network in plain PyTorch, in channels-last layout and inference mode. Printed are
frames or clips per second, the ratio (the median over the turns), the seconds that freezing takes, and how much faster
that is than the Keras model as it is.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from torch import nn
from torchvision_models import torchvision_model

import divita


def steps(*layers, rank):
    """Convolutions with batch normalisation: (in, out, kernel, stride, groups, activation or None)."""
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
    modules = []
    for i, o, kernel, stride, groups, activation in layers:
        modules += [conv(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), norm(o)]
        modules += [activation(inplace=True)] if activation else []
    return nn.Sequential(*modules)


class MobileBlock(nn.Module):
    """An EfficientNet-Lite block: expand, convolve each channel, project, and add the input where that fits."""

    def __init__(self, i, o, kernel, stride, expansion):
        super().__init__()
        wide = i * expansion
        expand = [(i, wide, 1, 1, 1, nn.ReLU6)] if expansion > 1 else []
        self.body = steps(*expand, (wide, wide, kernel, stride, wide, nn.ReLU6), (wide, o, 1, 1, 1, None), rank=2)
        self.adds = i == o and stride == 1

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNetV2 for clips."""

    def __init__(self, i, o, stride):
        super().__init__()
        half = o // 2
        self.left = None
        if stride > 1:
            self.left = steps((i, i, 3, stride, i, None), (i, half, 1, 1, 1, nn.ReLU), rank=3)
        first = (i if stride > 1 else half, half, 1, 1, 1, nn.ReLU)
        self.right = steps(first, (half, half, 3, stride, half, None), (half, half, 1, 1, 1, nn.ReLU), rank=3)

    def forward(self, x):
        left, right = (x, x) if self.left else x.chunk(2, 1)
        x = torch.stack([self.left(left) if self.left else left, self.right(right)], 2)  # (N, C/2, 2, T, H, W)
        return x.flatten(1, 2)


def efficientnetlite_b0():
    blocks, i = [steps((3, 32, 3, 2, 1, nn.ReLU6), rank=2)], 32
    plan = [(3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (5, 2, 40, 2, 6), (3, 3, 80, 2, 6)]
    plan += [(5, 3, 112, 1, 6), (5, 4, 192, 2, 6), (3, 1, 320, 1, 6)]
    for kernel, repeats, o, stride, expansion in plan:
        for number in range(repeats):
            blocks.append(MobileBlock(i, o, kernel, 1 if number else stride, expansion))
            i = o
    return nn.Sequential(*blocks, steps((320, 1280, 1, 1, 1, nn.ReLU6), rank=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def shufflenet3d():
    stem = steps((3, 24, 3, (1, 2, 2), 1, nn.ReLU), rank=3)
    units, i = [], 24
    for o, repeats in ((116, 4), (232, 8), (464, 4)):
        for number in range(repeats):
            units.append(ShuffleUnit(i, o, 1 if number else 2))
            i = o
    last = steps((464, 1024, 1, 1, 1, nn.ReLU), rank=3)
    return nn.Sequential(stem, nn.MaxPool3d(3, 2, 1), *units, last, nn.AdaptiveAvgPool3d(1), nn.Flatten())


PLAIN = {"efficientnetlite_b0": efficientnetlite_b0, "shufflenet3d": shufflenet3d}


def reference_and_input(name, pixels, device):
    """Return plain PyTorch's network and the batch as it wants it, float32 (N, 3, ..., H, W) in channels-last."""
    network = (PLAIN[name]() if name in PLAIN else torchvision_model(name)[0]).eval()
    layout = torch.channels_last if pixels.ndim == 4 else torch.channels_last_3d
    x = torch.from_numpy(pixels).movedim(-1, 1).float().div(255).contiguous(memory_format=layout)
    return network.to(device, memory_format=layout), x.to(device)


def seconds(function):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.inference_mode():
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name, arguments):
    frames = arguments.frames
    extract = divita.extractor(name, "random", frames, arguments.batch_size, arguments.precision)
    size, per_pass = extract.backbone.size, extract.per_pass
    shape = (per_pass, size, size, 3) if extract.backbone.input == "image" else (per_pass, frames, size, size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = torch.from_numpy(pixels).to(extract.device)
    start = time.perf_counter()
    frozen = divita.frozen(extract.network, x)
    freezing = time.perf_counter() - start
    half = {"device_type": extract.device.type, "dtype": torch.bfloat16, "enabled": arguments.precision == "bfloat16"}
    reference, y = reference_and_input(name, pixels, extract.device)
    with torch.autocast(**half):
        eager = seconds(lambda: extract.network(x))
        ours, theirs = [], []
        for _ in range(arguments.turns + 1):  # the first turn is not counted
            ours.append(seconds(lambda: frozen(x)))
            theirs.append(seconds(lambda: reference(y)))
    ours, theirs = np.array(ours[1:]), np.array(theirs[1:])
    unit = "frames" if extract.backbone.input == "image" else "clips"
    speeds = f"{per_pass / np.median(ours):8.1f} {per_pass / np.median(theirs):9.1f} {unit:6}"
    print(
        f"{name:20} {per_pass:5} {speeds} {np.median(theirs / ours):6.2f} {theirs.min() / ours.min():8.2f}"
        f" {freezing:7.1f} s {eager / np.median(ours):6.1f} x",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(divita.BACKBONES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{divita.device()}, {arguments.precision}; per second; ratio above 1: ours is faster")
    columns = f"{'backbone':20} {'batch':>5} {'ours':>8} {'reference':>9} {'':6}"
    print(f"{columns} {'ratio':>6} {'of best':>8} {'freezing':>9} {'vs eager':>8}")
    for name in arguments.names:
        measure(name, arguments)


if __name__ == "__main__":
    main()
