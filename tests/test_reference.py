"""Results of the published PyTorch code, from the folder in the environment variable REFERENCE_DIR (tests/data)."""

import json

import keras
import numpy as np
import pytest
import torch
from conftest import REFERENCES, made_input, made_tensor

import divita


def references(pattern):
    """Parametrise a test with the reference files of a pattern; without any, it fails."""
    files = sorted(REFERENCES.glob(pattern))
    return pytest.mark.parametrize("path", files or [REFERENCES / pattern], ids=lambda path: path.stem)


def read_reference(path):
    assert path.exists(), f"no such reference in {REFERENCES}"
    return json.loads(path.read_text())


# ---- Heads ----


def build_head(reference, **options):
    features = {name: reference.get(f"{name}_features") for name in ("image", "video")}
    if reference.get("inputs") in ("image", "video"):
        features = {reference["inputs"]: features[reference["inputs"]]}
    genres = next(shape[0] for name, shape in reference["tensors"] if name.endswith("cls.weight"))
    model = divita.divita(features, genres, reference["aggregation"], reference["fusion"] or "late", **options)
    assign_published(model, {name: made_tensor(name, shape) for name, shape in reference["tensors"]})
    return model


def assign_published(model, tensors):
    """Assign the published code's tensors to the Keras model, CAM by CAM, each exactly once."""
    used = set()
    cams = {"image": "fnet.", "video": "vnet."} if any(name.startswith("fnet.") for name in tensors) else {}
    for key in {name.split(".")[0] for name in tensors}:
        stem = key + "."
        name = next((own for own, theirs in cams.items() if theirs == stem), None)
        layers = [layer for layer in model.layers if layer.weights and belongs(model, layer, name)]
        targets = [variable for layer in layers for variable in layer.weights if "seed" not in variable.path]
        values = [v for n, t in tensors.items() if n.startswith(stem) for v in to_keras_values(n, t, tensors, used)]
        assert [v.shape for v in values] == [tuple(t.shape) for t in targets]
        for variable, value in zip(targets, values):
            variable.assign(value)
    assert used == set(tensors)


def belongs(model, layer, cam):
    """Return whether a layer is on the path from the named input to the logits of its CAM."""
    if cam is None:
        return True
    path = keras.Model(model.get_layer(cam).output, model.get_layer(f"{cam}_logits").output)
    return any(layer is other for other in path.layers)


def to_keras_values(name, tensor, tensors, used):
    """Convert a PyTorch tensor to Keras's layout; a GRU's four tensors become three, gates in Keras's order."""
    used.add(name)
    if "_l0" in name:
        if not name.endswith("weight_ih_l0"):
            return []
        stem = name.removesuffix("weight_ih_l0")
        four = [tensors[stem + part] for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        kernel, recurrent, *biases = [np.concatenate(np.split(t, 3)[1::-1] + np.split(t, 3)[2:]) for t in four]
        return [kernel.T, recurrent.T, np.stack(biases)]
    if ".W_o." in name:
        return [tensor.T.reshape(divita.HEADS, -1, tensor.shape[0])]
    if ".W_" in name:
        return [tensor.T.reshape(tensor.shape[1], divita.HEADS, -1)]
    return [tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim > 1 else tensor]


def made_snippets(features, seed, batch, clips):
    """Return snippets in Keras's layout, (B, S, F), which the published code has as (B, F, S)."""
    return made_input((batch, features, clips), seed).transpose(0, 2, 1)


def inputs_of(reference, image_seed, video_seed, batch, clips):
    both = (("image", image_seed), ("video", video_seed))
    return [
        made_snippets(reference[f"{name}_features"], seed, batch, clips)
        for name, seed in both
        if reference.get(f"{name}_features") and reference.get("inputs", "both") in (name, "both")
    ]


@references("head_*.json")
def test_head(path):
    reference = read_reference(path)
    model = build_head(reference)
    x = inputs_of(reference, reference["image_seed"], reference["video_seed"], reference["batch"], reference["clips"])
    logits = keras.ops.convert_to_numpy(model(x, training=False))
    assert np.abs(logits - reference["logits"]).max() < 1e-4
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == reference["trainable_parameters"]


@references("evaluation_protocol*.json")
def test_evaluation_protocol(path):
    reference = read_reference(path)
    model, length = build_head(reference), reference["clips_per_snippet"]
    trailers = [
        [
            made_input((trailer["clips"], reference[f"{name}_features"]), trailer[f"{name}_seed"])
            for name in ("image", "video")
            if reference.get(f"{name}_features")
        ]
        for trailer in reference["trailers"]
    ]
    for trailer, expected in zip(trailers, reference["trailers"]):
        assert all(len(divita.evaluation_snippets(clips, length)) == expected["snippets"] for clips in trailer)
    expected = np.array([trailer["probabilities"] for trailer in reference["trailers"]])
    assert np.abs(divita.predict_trailers(model, trailers, length) - expected).max() < 1e-5


@references("optimisation*.json")
def test_optimisation(path):
    reference = read_reference(path)
    options = {"dropout": reference["dropout"]} if reference["aggregation"] == "tsfm" else {}
    model = divita.compile_model(build_head(reference, **options), reference["learning_rate"])
    batch, clips = reference["batch"], reference["clips"]
    losses = []
    for step in range(reference["steps"]):
        x = inputs_of(reference, reference["image_seeds"][step], reference["video_seeds"][step], batch, clips)
        y = np.random.default_rng(reference["label_seeds"][step]).random((batch, model.output.shape[-1])) < 0.3
        losses.append(float(model.train_on_batch(x, y.astype(np.float32))))
        model.reset_metrics()
    assert np.abs(np.array(losses) - reference["losses"]).max() < 1e-4
    x = inputs_of(
        reference, reference["final_image_seed"], reference["final_video_seed"], reference["final_batch"], clips
    )
    logits = keras.ops.convert_to_numpy(model(x, training=False))
    assert np.abs(logits - reference["final_logits"]).max() < 1e-2


# ---- Metrics ----


@references("metrics*.json")
def test_metrics(path):
    reference = read_reference(path)
    ours = divita.compute_metrics(reference["y_true"], reference["y_prob"])
    for name, expected in reference["expected"].items():
        assert np.abs(np.subtract(ours[name], expected)).max() < 1e-9, name


# ---- Backbones ----

CHECKPOINTS = {  # name in the references -> name
    "shufflenet_v2_x1_0": "shufflenet2d",
    "swin_t": "swin2d",
    "shufflenet3d_v2_1.0x": "shufflenet3d",
    "r2plus1d_18": "r2plus1d",
    "swin3d_t": "swin3d",
}


@references("backbone*.json")
def test_backbone(path, tmp_path):
    reference = read_reference(path)
    checkpoint = {name: torch.from_numpy(made_tensor(name, shape)) for name, shape in reference["tensors"]}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    *frames, height, width = reference["input_shape"][2:]
    options = {"frames": frames[0]} if frames else {}
    name = CHECKPOINTS[reference["checkpoint"]]
    model = divita.load_backbone(name, tmp_path / "checkpoint.pth", size=(height, width), **options)
    x = np.moveaxis(made_input(reference["input_shape"], reference["input_seed"]), 1, -1)  # channels last
    with torch.no_grad():
        features = keras.ops.convert_to_numpy(model(np.ascontiguousarray(x)))
    expected = np.array(reference["features"])
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()
