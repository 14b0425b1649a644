"""Measure the backbones against plain PyTorch, by hand: python tests/bench_backbones.py [NAME ...] [--threads 2]

The inference graph of each backbone, as in 01_prepare.py, takes turns with a reference on the same batch:
torchvision's model or, if missing there, the same network in plain PyTorch, channels-last and in inference mode;
--compile, which needs a C++ compiler or, on a GPU, Triton, adds torch.compile of the reference. Printed are frames or
clips per second, their ratios (medians over the turns), the seconds to build the graph, its speed-up over plain Keras,
the share of GEMM (multiply-adds per second over those of torch's product of two matrices of SIDE x SIDE at the same
precision) and the speed-up of bfloat16 over the chosen precision.

--write-references writes torchvision's results to tests/data/torchvision.npz instead. Only this script needs
torchvision: pip install --no-deps torchvision==0.28.0 pillow
"""

import argparse
import functools
import importlib.util
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from torch import nn

import divita

SIDE = 2048  # matrix size for GEMM


@functools.cache
def import_torchvision():
    """Import torchvision, even if its compiled operators, unused here, are for another build of torch."""
    folder = Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        torch.ops.load_library(folder / "_C.so")
    except OSError:
        global LIBRARY  # keeps the operators declared
        LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
        source = (folder / "_meta_registrations.py").read_text()
        for name in set(re.findall(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)', source)):
            LIBRARY.define(f"{name}(Tensor x) -> Tensor")
    import torchvision

    return torchvision


def torchvision_model(name):
    """Return torchvision's model of a backbone, without its classification layer, and its preprocessing."""
    models = import_torchvision().models
    model, layer, weights = {
        "shufflenet2d": (models.shufflenet_v2_x1_0, "fc", models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1),
        "resnet50": (models.resnet50, "fc", models.ResNet50_Weights.IMAGENET1K_V1),
        "swin2d": (models.swin_t, "head", models.Swin_T_Weights.IMAGENET1K_V1),
        "r2plus1d": (models.video.r2plus1d_18, "fc", models.video.R2Plus1D_18_Weights.KINETICS400_V1),
        "swin3d": (models.video.swin3d_t, "head", models.video.Swin3D_T_Weights.KINETICS400_V1),
    }[name]
    model = model(weights=None).eval()
    setattr(model, layer, torch.nn.Identity())
    return model, weights.transforms()


def write_references():
    """Write torchvision's vectors and preprocessed pixels of the inputs in tests/test_backbones.py."""
    from test_backbones import CHECKPOINTS, FRAMES, INPUTS, made_checkpoint, made_frames, sample

    arrays = {}
    for name, size in INPUTS:
        model, _ = torchvision_model(name)
        missing = model.load_state_dict(made_checkpoint(name), strict=False).missing_keys
        assert all(key.endswith(("relative_position_index", "num_batches_tracked")) for key in missing), missing
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *size, 3), np.float32)).movedim(-1, 1)
        with torch.no_grad():
            arrays[f"features of {name} {size}"] = model(x).numpy()
    for name in CHECKPOINTS:
        backbone, (_, transforms) = divita.get_backbone(name), torchvision_model(name)
        for size in FRAMES:
            for frame_name, frame in made_frames(size).items():
                pixels = torch.from_numpy(frame).permute(2, 0, 1)
                pixels = transforms(pixels[None] if backbone.input == "video" else pixels)
                pixels = pixels.reshape(3, backbone.size, backbone.size).permute(1, 2, 0).numpy()
                levels = sample(pixels) * np.float32(backbone.std) + np.float32(backbone.mean)
                arrays[f"pixels of {name} {size} {frame_name}"] = levels.round(3)
    np.savez_compressed(Path(__file__).parent / "data" / "torchvision.npz", **arrays)


def steps(*layers, rank):
    """Build convolutions with batch normalisation: (in, out, kernel, stride, groups, activation or None)."""
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


PLAIN_PYTORCH = {"efficientnetlite_b0": efficientnetlite_b0, "shufflenet3d": shufflenet3d}


def reference_and_input(name, pixels, device):
    """Return the reference network and its batch, float32 (N, 3, ..., H, W) in channels-last layout."""
    network = (PLAIN_PYTORCH[name]() if name in PLAIN_PYTORCH else torchvision_model(name)[0]).eval()
    layout = torch.channels_last if pixels.ndim == 4 else torch.channels_last_3d
    x = torch.from_numpy(pixels).movedim(-1, 1).float().div(255).contiguous(memory_format=layout)
    return network.to(device, memory_format=layout), x.to(device)


def measure_seconds(function):
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
    extract = divita.Extractor(name, "random", frames, arguments.batch_size, arguments.precision)
    size, per_pass = extract.backbone.size, extract.per_pass
    shape = (per_pass, size, size, 3) if extract.backbone.input == "image" else (per_pass, frames, size, size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = torch.from_numpy(pixels).to(extract.device)
    plain = divita.with_normalization(extract.backbone, divita.load_backbone(name, "random", frames=frames))
    start = time.perf_counter()
    graph = divita.optimize_for_inference(plain, x)
    building = time.perf_counter() - start
    half = {"device_type": extract.device.type, "dtype": torch.bfloat16, "enabled": arguments.precision == "bfloat16"}
    reference, y = reference_and_input(name, pixels, extract.device)
    matrix = torch.rand(SIDE, SIDE, device=extract.device)
    runs = [lambda: graph(x), lambda: reference(y), lambda: matrix @ matrix]
    runs.append(lambda: torch.autocast(extract.device.type, torch.bfloat16)(graph)(x))
    if arguments.compile:
        torch.compiler.reset()
        compiled = torch.compile(reference, dynamic=False)
        runs.append(lambda: compiled(y))
    with torch.autocast(**half):
        eager = measure_seconds(lambda: plain(x))
        turns = [[measure_seconds(run) for run in runs] for _ in range(arguments.turns + 1)]
    # without the first turn, which includes compilation
    ours, theirs, product, in_bfloat16, *rest = np.array(turns[1:]).T
    macs = per_pass * extract.macs_per_clip / (frames if extract.backbone.input == "image" else 1)
    share = np.median(macs / ours / (SIDE**3 / product))
    unit = "frames" if extract.backbone.input == "image" else "clips"
    speeds = f"{per_pass / np.median(ours):8.1f} {per_pass / np.median(theirs):9.1f} {unit:6}"
    print(
        f"{name:20} {per_pass:5} {speeds} {np.median(theirs / ours):6.2f} {theirs.min() / ours.min():8.2f}"
        f" {building:7.1f} s {eager / np.median(ours):6.1f} x {share:7.2f} {np.median(ours / in_bfloat16):8.2f}",
        *[f"{per_pass / np.median(times):9.1f} {np.median(times / ours):6.2f}" for times in rest],
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
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--write-references", action="store_true")
    arguments = parser.parse_args()
    if arguments.write_references:
        return write_references()
    torch.set_num_threads(arguments.threads)
    capable = torch.cpu.get_capabilities()
    instructions = [name for name in ("avx512_bf16", "amx_bf16", "bf16") if capable.get(name)]
    print(f"processor's bfloat16 instructions: {', '.join(instructions) or 'none'}")
    print(f"{divita.select_device()}, {arguments.precision}; per second; ratio above 1: ours is faster")
    columns = f"{'backbone':20} {'batch':>5} {'ours':>8} {'reference':>9} {'':6}"
    columns += f" {'ratio':>6} {'of best':>8} {'graph':>9} {'vs eager':>8} {'of GEMM':>7} {'bfloat16':>8}"
    print(columns + (f" {'compiled':>9} {'ratio':>6}" if arguments.compile else ""))
    for name in arguments.names:
        measure(name, arguments)


if __name__ == "__main__":
    main()
