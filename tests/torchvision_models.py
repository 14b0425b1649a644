"""torchvision, for comparison only: its models are plain PyTorch and run without its compiled operators."""

import functools
import importlib.util
import re
from pathlib import Path

import torch


def import_torchvision():
    """Import torchvision, even one whose compiled operators do not load with this build of torch."""
    found = importlib.util.find_spec("torchvision")
    if found is None:
        return None
    if not hasattr(torch.ops.torchvision, "nms"):
        global LIBRARY  # declared for as long as the process lives
        LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
        asked_for = (Path(found.origin).parent / "_meta_registrations.py").read_text()
        for name in set(re.findall(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)', asked_for)):
            LIBRARY.define(f"{name}(Tensor x) -> Tensor")
    import torchvision

    return torchvision


@functools.cache
def torchvision_model(name):
    """Return torchvision's model of one of our names, without its classification layer, and its preprocessing."""
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
