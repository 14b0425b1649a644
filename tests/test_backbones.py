"""Backbones: vectors and preprocessing as torchvision's (tests/data/torchvision.npz), inference graphs, weights."""

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
import weakref
import zipfile

import keras
import numpy as np
import pytest
import torch
from conftest import ROOT, made_tensor, make_data
from films import write_video

import divita

CHECKPOINTS = {  # name -> name in the references
    "shufflenet2d": "shufflenet_v2_x1_0",
    "swin2d": "swin_t",
    "r2plus1d": "r2plus1d_18",
    "swin3d": "swin3d_t",
}
INPUTS = [  # backbone, (frames, height, width); test_reference.py has the standard sizes
    ("shufflenet2d", (160, 192)),
    ("swin2d", (256, 320)),
    ("swin3d", (5, 224, 224)),  # shorter than a window in time, and odd
]
FRAMES = [(720, 1280), (333, 517), (607, 1080), (97, 64), (256, 256)]  # (height, width) before preprocessing


def made_checkpoint(name):
    """Return the state dict of a backbone's checkpoint, made by the references' rule."""
    tensors = json.loads((ROOT / f"tests/data/backbone_{CHECKPOINTS[name]}.json").read_text())["tensors"]
    return {name: torch.from_numpy(made_tensor(name, tuple(shape))) for name, shape in tensors}


def made_frames(size):
    """Return two frames: noise, and a ramp that brightens downwards and to the right."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0 : 255 : size[0] * 1j, 0 : 255 : size[1] * 1j], 99.0), -1)
    return {"noise": noise, "ramp": ramp.astype(np.uint8)}


def sample(pixels):
    """Return 100 pixels of a preprocessed frame, (S, S, 3) -> (100, 3)."""
    rows, columns = np.random.default_rng(1).integers(0, len(pixels), (2, 100))
    return pixels[rows, columns]


@pytest.fixture(scope="module")
def torchvision():
    return np.load(ROOT / "tests/data/torchvision.npz")


def compute_vectors(model, x):
    with torch.no_grad():
        return keras.ops.convert_to_numpy(model(x))


def difference(ours, expected):
    assert ours.shape == expected.shape
    return np.abs(ours - expected).max() / np.abs(expected).max()


# ---- Vectors, cost and preprocessing ----


@pytest.mark.parametrize(("name", "size"), INPUTS)
def test_vectors_equal_torchvision(name, size, torchvision, tmp_path):
    torch.save(made_checkpoint(name), tmp_path / "checkpoint.pth")
    model = divita.load_backbone(name, tmp_path / "checkpoint.pth", frames=size[0], size=size[-2:])
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *size, 3), np.float32))
    assert difference(compute_vectors(model, x), torchvision[f"features of {name} {size}"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "features", "parameters", "gmacs"),
    [
        ("shufflenet2d", 1024, 1_253_604, 0.144),
        ("resnet50", 2048, 23_508_032, 3.86),
        ("swin2d", 768, 27_519_354, 4.49),
        ("efficientnetlite_b0", 1280, 3_371_008, 0.384),
        ("shufflenet3d", 1024, 1_299_180, 0.286),
        ("r2plus1d", 512, 31_300_125, 60.8),
        ("swin3d", 768, 27_850_470, 75.9),
    ],
)
def test_size_and_cost(name, features, parameters, gmacs):
    backbone = divita.get_backbone(name)
    size = backbone.size, backbone.size, 3
    model = backbone.build(size if backbone.input == "image" else (24, *size))
    counted, macs = divita.model_cost(model, (1, *model.input.shape[1:]))
    assert (model.output.shape[-1], counted) == (features, parameters)
    assert backbone.num_features == features
    assert float(f"{macs / 1e9:.3g}") == gmacs


def test_cost_of_a_transformer_includes_attention():
    model = divita.divita({"video": 8}, 10)
    projections = 8 * 128 + 4 * 128 * 128 + 2 * 128 * 768  # per clip
    attention = 2 * 30 * 128  # per clip, all heads: scores of 30 clips, and their weighted sum
    assert divita.model_cost(model, (1, 30, 8))[1] == 30 * (projections + attention) + 128 * 10


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("size", FRAMES)
def test_preprocessing_equals_torchvision(name, size, torchvision):
    for frame_name, frame in made_frames(size).items():
        ours = sample(divita.preprocess(frame, divita.get_backbone(name)))
        limit = 4.01 if name == "swin2d" else 1.01  # grey levels; bicubic on bytes, as in Pillow, not on floats
        assert np.abs(ours - torchvision[f"pixels of {name} {size} {frame_name}"]).max() < limit


@pytest.mark.parametrize("size", FRAMES)
def test_bicubic_preprocessing_equals_pillow(size):
    """Also on hard edges. The checkpoint was evaluated with Pillow."""
    Image = pytest.importorskip("PIL.Image")
    checks = (np.add.outer(np.arange(size[0]) // 7, np.arange(size[1]) // 9) % 2 * 255).astype(np.uint8)
    for frame in (made_frames(size)["noise"], np.stack([checks] * 3, -1)):
        shape = [232 * side // min(size) for side in size]
        theirs = np.asarray(Image.fromarray(frame).resize(shape[::-1], Image.Resampling.BICUBIC), int)
        top, left = (round((side - 224) / 2) for side in shape)
        ours = divita.preprocess(frame, divita.get_backbone("swin2d"))
        assert np.abs(ours - theirs[top : top + 224, left : left + 224]).max() <= 2


@pytest.mark.parametrize("name", divita.BACKBONES)
def test_preprocessing_of_extreme_aspect_ratios_is_fast(name):
    backbone, rng = divita.get_backbone(name), np.random.default_rng(0)
    for size in ((8, 33000), (33000, 8)):
        before = time.process_time()
        pixels = divita.preprocess(rng.integers(0, 256, (*size, 3), np.uint8), backbone)
        assert pixels.shape == (backbone.size, backbone.size, 3) and time.process_time() - before < 0.5


@pytest.mark.parametrize("name", divita.BACKBONES)
def test_preprocessing_accepts_any_frame_size(name):
    backbone = divita.get_backbone(name)
    for size in [(16, 16), (1, 1), (2160, 4096), (30, 1000)]:
        frame = np.full((*size, 3), (10, 100, 200), np.uint8)
        pixels = divita.preprocess(frame, backbone)
        assert pixels.shape == (backbone.size, backbone.size, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - (10, 100, 200)).max() <= 1
    flipped = divita.preprocess(frame[:, ::-1, ::-1], backbone)  # negative strides, as in reversed channels
    assert (flipped == pixels[:, ::-1, ::-1]).all()


def test_efficientnetlite_classifies_a_palace_and_a_daisy():
    from sklearn.datasets import load_sample_images

    backbone = divita.get_backbone("efficientnetlite_b0")
    frames = [divita.preprocess(image, backbone) for image in load_sample_images().images]
    extract = divita.Extractor("efficientnetlite_b0", "pretrained", frames=1, batch_size=2)
    checkpoint = torch.load(divita.checkpoint_path(backbone), weights_only=True)
    logits = extract(np.stack(frames)[:, None]) @ checkpoint["_fc.weight"].numpy().T + checkpoint["_fc.bias"].numpy()
    palace, daisy = logits.argmax(1)
    assert palace in (663, 698)  # monastery, palace
    assert daisy == 985


# ---- Inference graphs and passes ----


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", divita.BACKBONES)
def test_inference_graph_has_the_same_outputs(name):
    backbone = divita.get_backbone(name)
    model = divita.load_backbone(name, "random", frames=2, size=(64, 64))
    plain = divita.with_normalization(backbone, model)
    shape = (2, *model.input.shape[1:])
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    pixels = pixels.to(model.weights[0].value.device)
    graph = divita.optimize_for_inference(plain, torch.zeros_like(pixels))
    with torch.inference_mode():
        features, expected, alone = (
            f(x).cpu().numpy() for f, x in ((graph, pixels), (plain, pixels), (graph, pixels[[1, 1]]))
        )
    assert features.dtype == np.float32 and features.shape == (2, model.output.shape[-1])
    assert difference(features, expected) < 1e-5
    assert (alone == features[[1, 1]]).all(), "a clip's vector depends on its batch"
    assert 1e-2 < features.std() < 1e4
    assert_fused(graph, model)


def assert_fused(graph, model):
    """Assert that kernels are channels-last, normalisation and padding fused and activations in place."""
    targets = [node.target for node in graph.graph.nodes]
    for node in graph.graph.nodes:
        if node.target in divita.CONVOLUTIONS:
            layout = torch.channels_last if node.target == torch.conv2d else torch.channels_last_3d
            assert graph.get_buffer(node.args[1].target).is_contiguous(memory_format=layout)
    if "VideoSwin" not in str([type(layer) for layer in model.layers]):
        assert not {torch.Tensor.subtract, torch.Tensor.mul_, torch.Tensor.add_} & set(targets)
        activations = [node for node in graph.graph.nodes if node.target in divita.ACTIVATIONS]
        assert activations and all(node.kwargs["inplace"] for node in activations)
        asymmetric = [node for node in graph.graph.nodes if node.target == torch.nn.functional.pad]
        assert all(node.args[1][::2] != node.args[1][1::2] for node in asymmetric)


def test_only_equivalent_layers_are_fused():
    """Batch normalisation and padding that a convolution cannot take over stay separate."""
    layers = keras.layers

    def network(shape):
        inputs = keras.Input(shape)
        x = layers.Conv2D(8, 3, use_bias=True, bias_initializer="ones")(layers.ZeroPadding2D(((0, 1), (2, 0)))(inputs))
        both = layers.BatchNormalization(epsilon=0.1)(x)  # its convolution has two users
        x = layers.Add()([both, x])
        x = layers.Conv2D(8, 3, padding="same")(layers.ZeroPadding2D(1)(x))  # padded twice
        x = layers.BatchNormalization(axis=1)(x)  # over rows
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x - 9.0))  # zeros are the maximum
        shared = layers.Conv2D(4, 1, use_bias=False)
        y, z = shared(x), layers.BatchNormalization(epsilon=0.5)(shared(x))
        return keras.Model(inputs, divita.mean_over_space(layers.Add()([layers.ReLU()(y), y, z])))

    backbone = divita.Backbone("odd", "image", network, 4, 32, 32)
    model = network((32, 32, 3))
    plain = divita.with_normalization(backbone, model)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    pixels = pixels.to(model.weights[0].value.device)
    with torch.inference_mode():
        expected = plain(pixels).cpu().numpy()
    graph = divita.optimize_for_inference(plain, pixels)
    with torch.inference_mode():
        assert difference(graph(pixels).cpu().numpy(), expected) < 1e-5


class Odd(keras.layers.Layer):
    """Operations absent from Keras's layers: several results, attributes, keywords, in-place results."""

    def call(self, x):
        a, b = torch.chunk(x, 2, -1)
        maximum, _ = torch.max((a.mT + b.mT).mT, dim=-1, keepdim=True)
        y = torch.nn.functional.relu(input=a * maximum / x.size(1))
        return y.to(torch.float64).float().add_(torch.cat([maximum, maximum], -1).mean(-1, keepdim=True))


def test_custom_layers_are_traced():
    inputs = keras.Input((16, 16, 4))
    x = Odd()(divita.convolution(inputs, 8, 3, 2, "conv1.0", "conv1.1"))
    x = keras.layers.LayerNormalization()(keras.layers.SeparableConv2D(8, 3)(x))
    x = keras.layers.Reshape((-1, 8))(keras.layers.PReLU()(x))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4)(x, x))
    x = torch.randn((2, 16, 16, 4), device=model.weights[0].value.device)
    graph = divita.optimize_for_inference(model, torch.zeros_like(x))
    with torch.inference_mode():
        assert difference(graph(x).cpu().numpy(), model(x).cpu().numpy()) < 1e-5


# Behaviour on a GPU, tested on a CPU


def test_inference_graph_stays_on_its_device(name="efficientnetlite_b0"):
    """Tensors on the device "meta" have no values; operations that mix them with CPU tensors fail."""
    with keras.device("meta"):
        model = divita.load_backbone(name, "random", size=(32, 32))
        network = divita.with_normalization(divita.get_backbone(name), model)
        pixels = torch.zeros((2, *model.input.shape[1:]), dtype=torch.uint8, device="meta")
        graph = divita.optimize_for_inference(network, pixels)
    with torch.inference_mode():
        features = graph(pixels)
    assert features.shape == (2, model.output.shape[-1]) and features.device.type == "meta"
    used = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    assert used and all(getattr(graph, name).device.type == "meta" for name in used)


@pytest.mark.parametrize(
    ("inputs", "gmacs", "device", "expected"),
    [
        (768, 0.144, "cpu", 4),
        (768, 0.144, "cuda", 256),
        (768, 0.144, "mps", 4),  # unknown devices have the CPU's limits
        (32, 60.8, "cpu", 1),
        (32, 60.8, "cuda", 32),
        (32, 75.9, "cuda", 16),  # two equal passes
        (3, 0.286, "cpu", 3),
        (10, 0.286, "cpu", 4),
        (1, 10_000, "cuda", 1),  # at least one
    ],
)
def test_pass_size(inputs, gmacs, device, expected):
    assert divita.pass_size(inputs, int(gmacs * 1e9), device) == expected


@pytest.fixture
def small_backbone(monkeypatch):
    """The name of an image backbone with input size 32."""
    backbone = dataclasses.replace(divita.get_backbone("shufflenet2d"), name="small", size=32)
    monkeypatch.setitem(divita.BACKBONES, "small", backbone)
    return "small"


def test_vectors_do_not_depend_on_pass_size(small_backbone, monkeypatch):
    clips = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32, 3), dtype=np.uint8)
    small = divita.Extractor(small_backbone, "random", frames=3, batch_size=6)
    monkeypatch.setitem(divita.PASS_LIMITS, "cpu", divita.PASS_LIMITS["cuda"])
    large = divita.Extractor(small_backbone, "random", frames=3, batch_size=6)
    assert (small.per_pass, large.per_pass) == (4, 18)
    assert difference(large(clips), small(clips)) < 1e-5


def test_image_backbones_average_over_the_clip(small_backbone):
    extract = divita.Extractor(small_backbone, "random", frames=3, batch_size=2)
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    frames = np.stack([extract(clips[:, [i] * 3]) for i in range(3)])
    assert difference(extract(clips), frames.mean(0)) < 1e-5


def test_bfloat16(two_threads, small_backbone):
    full, half = (divita.Extractor(small_backbone, "random", 1, 8, precision) for precision in ("float32", "bfloat16"))
    assert (full.digest, full.macs_per_clip) == (half.digest, half.macs_per_clip)
    clips = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32, 3), dtype=np.uint8)
    vectors = half(clips)
    assert vectors.dtype == np.float32
    assert 0 < difference(vectors, full(clips)) < 0.05
    alone = np.concatenate([half(clips[i : i + 1]) for i in range(8)])
    assert (vectors == alone).all(), "parallel passes differ from single ones"


class Reversed(keras.layers.Layer):
    def call(self, x):
        return x[:, np.arange(x.shape[1])[::-1].copy()] if isinstance(x, torch.Tensor) else x * 1


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: keras.ops.slice_update(x, (0, 0, 0, 0), x[:, 1:] * 5),  # in place, on a slice
        lambda x: Reversed()(x),  # an array as index, which a graph cannot contain
    ],
)
def test_a_network_that_cannot_be_traced_runs_as_plain_keras(layer, monkeypatch, capsys):
    monkeypatch.setattr(divita, "BACKBONES", dict(divita.BACKBONES))

    def odd(shape):
        inputs = keras.Input(shape)
        x = layer(divita.convolution(inputs, 4, 3, 2, "conv1.0", "conv1.1"))
        return keras.Model(inputs, divita.mean_over_space(x))

    divita.add_backbone("odd", "image", odd, num_features=4, size=32, resize=32)
    extract = divita.Extractor("odd", "random", frames=1, batch_size=2)
    clips = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), dtype=np.uint8)
    assert not isinstance(extract.network, torch.fx.GraphModule)
    assert capsys.readouterr().out.count("odd: cannot be optimised; it runs as plain Keras") == 1
    expected = divita.load_backbone("odd", "random")(clips[:, 0].astype(np.float32))
    assert difference(extract(clips), keras.ops.convert_to_numpy(expected)) < 1e-5


# ---- Memory ----

LIMIT = {"batch": 1000}  # most frames per pass that fit into memory
PASS_SIZES = []  # in order of computation
FAILED = []  # weak references to tensors that did not fit


@torch.library.custom_op("divita_tests::take_memory", mutates_args=())
def take_memory(x: torch.Tensor) -> torch.Tensor:
    assert not any(tensor() is not None for tensor in FAILED), "memory was not freed"
    PASS_SIZES.append(len(x))
    result = x.clone()
    if len(x) > LIMIT["batch"]:
        FAILED.append(weakref.ref(result))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return result


@take_memory.register_fake
def _(x):
    return torch.empty_like(x)


class TakesMemory(keras.layers.Layer):
    def call(self, x):
        return take_memory(x) if isinstance(x, torch.Tensor) and x.device.type != "meta" else x * 1


@pytest.fixture
def greedy(monkeypatch):
    """The name of an image backbone that takes memory, in passes of 8 frames."""

    def build(shape):
        inputs = keras.Input(shape)
        x = TakesMemory()(divita.convolution(inputs, 4, 3, 2, "conv1.0", "conv1.1"))
        return keras.Model(inputs, divita.mean_over_space(divita.convolution(x, 6, 3, 2, "conv2.0", "conv2.1")))

    monkeypatch.setitem(divita.BACKBONES, "greedy", divita.Backbone("greedy", "image", build, 6, 32, 32))
    monkeypatch.setitem(divita.PASS_LIMITS, "cpu", divita.PASS_LIMITS["cuda"])
    monkeypatch.setitem(LIMIT, "batch", 1000)
    PASS_SIZES.clear()
    FAILED.clear()
    return "greedy"


def test_the_plain_network_runs_on_two_frames(greedy):
    """Keras keeps every layer's output until the end: 10 to 20 times a pass's memory."""
    extract = divita.Extractor(greedy, "random", frames=2, batch_size=4)
    assert isinstance(extract.network, torch.fx.GraphModule)
    assert PASS_SIZES[0] == 2 and set(PASS_SIZES[1:]) == {8} and len(PASS_SIZES) == 3  # plain, graph, first pass


@pytest.mark.parametrize("when", ["building", "a batch"])
@pytest.mark.parametrize(("limit", "per_pass"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_passes_are_halved_until_they_fit(greedy, monkeypatch, when, limit, per_pass):
    clips = np.random.default_rng(0).integers(0, 256, (4, 2, 32, 32, 3), dtype=np.uint8)
    expected = divita.Extractor(greedy, "random", frames=2, batch_size=4)(clips)
    if when == "building":
        monkeypatch.setitem(LIMIT, "batch", limit)
    extract = divita.Extractor(greedy, "random", frames=2, batch_size=4)
    monkeypatch.setitem(LIMIT, "batch", limit)
    assert difference(extract(clips), expected) < 1e-6  # 0 except for passes of one frame
    assert extract.per_pass == per_pass and isinstance(extract.network, torch.fx.GraphModule)
    assert difference(extract(clips), expected) < 1e-6


def test_memory_too_small_for_one_frame_is_a_one_line_error(greedy, monkeypatch, script, tmp_path):
    write_video(tmp_path / "tt1.mp4")
    monkeypatch.setitem(LIMIT, "batch", 0)
    arguments = ("--videos", tmp_path, "--out", tmp_path / "out", "--image", greedy, "--video", "none")
    result = script("01_prepare.py", *arguments, "--weights", "random", "--workers", "1")
    assert result.code == 2 and "Traceback" not in result.err
    line = result.err.splitlines()[-1]
    assert line.startswith("01_prepare.py: error: greedy: out of memory with one clip") and "--batch-size" in line


def test_any_out_of_memory_is_a_one_line_error(monkeypatch, capsys):
    """For example, while loading weights or training a head."""

    monkeypatch.setitem(LIMIT, "batch", 0)
    monkeypatch.setattr(sys, "argv", ["02_train.py"])
    with pytest.raises(SystemExit) as end:
        divita.run_script(take_memory, torch.zeros(1))
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1
    assert err.startswith("02_train.py: error: CUDA out of memory.") and "--batch-size" in err


# ---- Devices ----


def test_float32_is_not_rounded_in_convolutions():
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("environment", "gpu"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "2"}, 2),
        ({"LOCAL_RANK": "5"}, 1),  # ranks share four GPUs
        ({"LOCAL_RANK": "", "SLURM_LOCALID": "3"}, 3),
        ({"SLURM_LOCALID": "7"}, 3),
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "3"}, 1),
        ({"LOCAL_RANK": "", "SLURM_LOCALID": ""}, 0),
        ({"LOCAL_RANK": "x"}, None),
        ({"LOCAL_RANK": "-1"}, None),
        ({"SLURM_LOCALID": "1.5"}, None),
    ],
)
def test_gpu_of_a_rank(environment, gpu, monkeypatch):
    chosen = []
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    if gpu is None:
        with pytest.raises(divita.UserError, match="LOCAL_RANK or SLURM_LOCALID is .*; correct or unset it"):
            divita.select_device()
    else:
        assert divita.select_device() == "NVIDIA H200" and chosen == [gpu]


def test_a_gpu_that_torch_cannot_use_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(divita, "NVIDIA_FILES", [tmp_path / "nvidia0", tmp_path / "version"])
    assert "NVIDIA" not in divita.select_device()
    (tmp_path / "version").touch()
    name = divita.select_device()
    assert name.startswith("CPU, threads: ") and f"torch {torch.__version__} cannot use the NVIDIA GPU" in name
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # GPU disabled
    assert "NVIDIA" not in divita.select_device()


# ---- Weights ----


def test_random_weights_depend_on_the_seed_only():
    first, repeated, other = (
        divita.weights_digest(divita.load_backbone("shufflenet3d", "random", seed=seed)) for seed in (0, 0, 1)
    )
    assert first == repeated != other
    assert first == "sha256:4bcef0396951e6473396f7222a03d671998a330841a0f53426a2f8e660208529"  # on every machine


@pytest.fixture(scope="module")
def checkpoint():
    return made_checkpoint("shufflenet2d")


@pytest.fixture(scope="module")
def model():
    return divita.load_backbone("shufflenet2d", "random", size=(32, 32))


def load_error(path, name="shufflenet2d", model=None):
    """Return the message for a file without the backbone's weights, loaded into `model` or into a new one."""
    backbone = divita.get_backbone(name)
    with pytest.raises(divita.UserError) as error:
        if model:
            divita.load_weights(backbone, model, path)
        else:
            divita.load_backbone(name, path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


def change_tensors(checkpoint, **tensors):
    return {name: t for name, t in {**checkpoint, **tensors}.items() if t is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.0.weight": None}, "another shape: conv1.0.weight (1)"),
        (
            {"conv5.1.running_var": None, "conv1.1.bias": None},
            "missing, unexpected or of another shape: conv1.1.bias, conv5.1.running_var (2)",
        ),
        ({"stage9.0.weight": torch.zeros(3)}, "another shape: stage9.0.weight (1)"),
        ({"conv1.0.weight": torch.zeros(24, 3, 5, 5)}, "another shape: conv1.0.weight (1)"),
        ({"conv1.1.weight": torch.zeros(24, 1)}, "another shape: conv1.1.weight (1)"),
        ({"conv1.1.bias": torch.full((24,), torch.nan)}, "conv1-1/beta has non-finite values"),
        ({"conv1.1.bias": torch.full((24,), torch.inf)}, "conv1-1/beta has non-finite values"),
        ({"conv1.1.bias": "text"}, "not a dictionary of named tensors"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(change, message, checkpoint, model, tmp_path):
    torch.save(change_tensors(checkpoint, **change), tmp_path / "changed.pth")
    assert message in load_error(tmp_path / "changed.pth", model=model)


def test_a_checkpoint_of_another_backbone_is_an_error(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "other.pth")
    assert "does not fit r2plus1d, missing, unexpected or of another shape: stem.0.weight, " in load_error(
        tmp_path / "other.pth", "r2plus1d"
    )
    assert "(*.weights.h5)" in load_error(tmp_path / "other.pth", "resnet50")


@pytest.mark.parametrize("wrapping", [lambda c: c, lambda c: {"state_dict": {f"module.{n}": t for n, t in c.items()}}])
def test_a_checkpoint_that_fits_is_loaded(wrapping, checkpoint, tmp_path):
    extra = {"conv1.1.num_batches_tracked": torch.tensor(7)}
    torch.save(wrapping({**checkpoint, **extra}), tmp_path / "fits.pth")
    model = divita.load_backbone("shufflenet2d", tmp_path / "fits.pth", size=(32, 32))
    kernel = model.get_layer("conv1-0").kernel.value.detach()
    assert torch.equal(kernel.permute(3, 2, 0, 1), checkpoint["conv1.0.weight"])


class Malicious:
    """Creates a file when unpickled, like code in an untrusted checkpoint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write_empty(path, checkpoint):
    path.touch()


def write_text(path, checkpoint):
    path.write_text("conv1.0.weight\n")


def write_code(path, checkpoint):
    torch.save({**checkpoint, "code": Malicious(path.with_name("ran"))}, path)


def write_pickle(path, checkpoint):
    path.write_bytes(pickle.dumps(Malicious(path.with_name("ran"))))


def write_truncated(path, checkpoint):
    torch.save(checkpoint, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_zip(path, checkpoint):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../escaped", "text")


def write_list(path, checkpoint):
    torch.save(list(checkpoint.values()), path)


def write_model(path, checkpoint):
    torch.save(torch.nn.Linear(2, 2), path)


def write_folder(path, checkpoint):
    path.mkdir()


@pytest.mark.parametrize(
    "write",
    [
        write_empty,
        write_text,
        write_code,
        write_pickle,
        write_truncated,
        write_zip,
        write_list,
        write_model,
        write_folder,
        lambda path, checkpoint: None,
    ],
)
def test_a_damaged_checkpoint_is_an_error(write, checkpoint, model, tmp_path, name="shufflenet2d"):
    path = tmp_path / "folder" / "bad.weights.h5"
    path.parent.mkdir()
    write(path, checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_error(path, name, model)
    assert {p.name for p in tmp_path.rglob("*")} <= {"folder", "bad.weights.h5"}, "code in the file was executed"


@pytest.fixture(scope="module")
def resnet50():
    return divita.load_backbone("resnet50", "random", seed=3, size=(64, 64))


@pytest.mark.parametrize("write", [write_text, write_pickle, write_truncated, write_folder])
def test_damaged_keras_weights_are_an_error(write, checkpoint, resnet50, tmp_path):
    test_a_damaged_checkpoint_is_an_error(write, checkpoint, resnet50, tmp_path, "resnet50")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache and no internet access."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # urlopen keeps its first proxies
    for name in ("TORCH_HOME", "KAGGLEHUB_CACHE", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.parametrize("name", ["shufflenet2d", "swin2d", "shufflenet3d", "r2plus1d", "swin3d"])
def test_a_failed_download_is_an_error(name, offline):
    with pytest.raises(divita.UserError) as error:
        divita.checkpoint_path(divita.get_backbone(name))
    url = divita.get_backbone(name).checkpoint
    assert url in str(error.value) and "\n" not in str(error.value)
    assert str(offline / "TORCH_HOME/hub/checkpoints" / url.rpartition("/")[2]) in str(error.value)


def test_a_stalled_download_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(divita, "DOWNLOAD_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/weights.pth"
        backbone = dataclasses.replace(divita.get_backbone("shufflenet2d"), checkpoint=url)
        with pytest.raises(divita.UserError, match="timed out.*download it elsewhere and put it at"):
            divita.checkpoint_path(backbone)
    assert socket.getdefaulttimeout() is None


def test_a_cached_checkpoint_needs_no_internet(offline, checkpoint):
    path = offline / "TORCH_HOME/hub/checkpoints/shufflenetv2_x1-5666bf0f80.pth"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
    torch.save(checkpoint, offline / "file.pth")
    cached, file = (
        divita.weights_digest(divita.load_backbone("shufflenet2d", weights, size=(32, 32)))
        for weights in ("pretrained", offline / "file.pth")
    )
    assert cached == file
    path.write_text("cut short")
    with pytest.raises(divita.UserError, match="not a PyTorch checkpoint"):
        divita.load_backbone("shufflenet2d", size=(32, 32))


# ---- KerasCV's weights ----


def cache_preset(offline, folder, network):
    """Save a network in KerasCV's download cache; folder is owner/model/framework/variation."""
    cached = offline / "KAGGLEHUB_CACHE/models" / folder
    (cached / "2").mkdir(parents=True, exist_ok=True)
    config = {**keras.saving.serialize_keras_object(network), "weights": "model.weights.h5"}
    (cached / "2/config.json").write_text(json.dumps(config))
    network.save_weights(cached / "2/model.weights.h5")
    for file in ("config.json", "model.weights.h5"):
        marker = cached / ".complete" / "2" / f"{file}.complete"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def test_resnet50_from_keras_weights(offline, resnet50):
    with pytest.raises(divita.UserError, match="download https://www.kaggle.com/.* model.weights.h5 .*NAME=FILE"):
        divita.load_weights(divita.get_backbone("resnet50"), resnet50, "pretrained")
    resnet50.save_weights(offline / "model.weights.h5")
    digest = divita.weights_digest(resnet50)
    assert divita.weights_digest(divita.load_backbone("resnet50", offline / "model.weights.h5")) == digest
    network = divita.kerascv().models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[3, 4, 6, 3],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
    )
    network.set_weights(resnet50.get_weights())
    cache_preset(offline, "keras/resnetv1/keras/resnet50_imagenet", network)
    assert divita.weights_digest(divita.load_backbone("resnet50", "pretrained")) == digest


def test_keras_weights_with_a_classifier(resnet50, tmp_path):
    classifier = keras.Model(resnet50.input, keras.layers.Dense(3)(resnet50.output))
    classifier.save_weights(tmp_path / "classifier.weights.h5")
    loaded = divita.load_backbone("resnet50", tmp_path / "classifier.weights.h5", size=(64, 64))
    assert divita.weights_digest(loaded) == divita.weights_digest(resnet50)


def test_keras_weights_that_do_not_fit_are_an_error(tmp_path):
    model = divita.load_backbone("resnet50", "random", size=(64, 64))
    smaller = keras.Model(model.input, model.layers[5].output)
    smaller.save_weights(tmp_path / "smaller.weights.h5")
    assert "objects could not be loaded" in load_error(tmp_path / "smaller.weights.h5", "resnet50", model)
    other = divita.load_backbone("efficientnetlite_b0", "random", size=(64, 64))
    other.save_weights(tmp_path / "other.weights.h5")
    assert "could not be loaded" in load_error(tmp_path / "other.weights.h5", "resnet50", model)
    model.get_layer("conv1_conv").kernel.assign(np.full((7, 7, 3, 64), np.nan))
    model.save_weights(tmp_path / "nan.weights.h5")
    assert "conv1_conv/kernel" in load_error(tmp_path / "nan.weights.h5", "resnet50", model)


def test_kerascv_presets_are_loaded(offline):
    with pytest.raises(divita.UserError, match="resnet18: cannot be downloaded"):
        divita.load_backbone("kerascv:resnet18", "random")
    with pytest.raises(divita.UserError, match="resnet19: KerasCV cannot load this preset; .*resnet50_imagenet"):
        divita.load_backbone("kerascv:resnet19", "random")
    network = divita.kerascv().models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
        block_type="basic_block",
    )
    cache_preset(offline, "keras/resnetv1/keras/resnet18", network)
    extract = divita.Extractor("kerascv:resnet18", "pretrained", frames=1, batch_size=2)
    assert (extract.backbone.input, extract.num_features, extract.parameters) == ("image", 512, 11_176_512)
    assert extract.digest == divita.weights_digest(network)
    assert extract(np.full((2, 1, 224, 224, 3), 99, np.uint8)).shape == (2, 512)


# ---- Custom backbones and imports ----


def test_a_custom_backbone_takes_a_few_lines(monkeypatch):
    monkeypatch.setattr(divita, "BACKBONES", dict(divita.BACKBONES))

    def tiny(shape):
        inputs = keras.Input(shape)
        x = divita.convolution(inputs, 32, 3, 2, "conv1.0", "conv1.1")
        return keras.Model(inputs, divita.mean_over_space(x))

    divita.add_backbone("tiny", "image", tiny, num_features=32, size=112, resize=128, **divita.IMAGENET)
    extract = divita.Extractor("tiny", "random", frames=2, batch_size=3)
    clips = np.random.default_rng(0).integers(0, 256, (3, 2, 112, 112, 3), dtype=np.uint8)
    assert extract(clips).shape == (3, 32)
    with pytest.raises(divita.UserError, match="tiny: .*; use --weights random or --weights tiny=FILE"):
        divita.load_backbone("tiny", "pretrained")


def test_an_unknown_backbone_is_an_error():
    with pytest.raises(divita.UserError, match="'resnet51'.*resnet50.*kerascv:PRESET"):
        divita.get_backbone("resnet51")


@pytest.mark.parametrize("imported", [False, True])
def test_kerascv_without_tensorflow(tmp_path, imported):
    """Without TensorFlow, also if a module of its name is already imported and must stay."""
    for name in ("tensorflow", "tensorflow_datasets"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not to be imported')")
    program = f"""
import sys, types
import divita
imported = {{"tensorflow": types.ModuleType("tensorflow")}} if {imported} else {{}}
sys.modules.update(imported)
divita.kerascv()
assert {{name: module for name, module in sys.modules.items() if name.startswith("tensorflow")}} == imported
sys.modules.pop("tensorflow", None)  # Keras uses a module of this name
vectors = divita.Extractor("efficientnetlite_b0", "random", 1, 1)(divita.np.zeros((1, 1, 224, 224, 3), "uint8"))
assert vectors.shape == (1, 1280) and divita.np.isfinite(vectors).all()
"""
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_training_and_torch_backbones_need_no_kerascv(tmp_path):
    program = """
import runpy
import sys
sys.modules["keras_cv"] = None  # as if not installed
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0
import divita
divita.load_backbone("shufflenet3d", "random")
try:
    divita.load_backbone("swin2d", "random")
except divita.UserError as error:
    print(error)
"""
    program = program.replace("import sys", f"import sys; sys.argv.pop(0); sys.path.insert(0, {str(ROOT)!r})")
    options = ["--data", make_data(tmp_path / "data"), "--runs", tmp_path / "runs", "--splits", 0, "--epochs", 1]
    command = [sys.executable, "-c", program, ROOT / "02_train.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("KerasCV: cannot be imported")
