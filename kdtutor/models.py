"""Students and teachers, and the taps that hand out features from inside any network.

Small convolutional networks for 28 x 28 images, and the CIFAR families that the distillation
literature compares on (ResNet: He et al. 2016, arXiv 1512.03385; wide ResNet: Zagoruyko &
Komodakis 2016, arXiv 1605.07146), with the parameter counts published for them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses._checks import near_names

# A model of ours names two layers under the same keys, so that methods need not know architectures:
#   feature_map  the last feature map before pooling, (B, channels, H, W)
#   embedding    the pooled vector that the classifier reads, (B, D)


class CNN(nn.Sequential):
    """Three 3 x 3 convolutions, the first two with stride 2: 28 x 28 becomes a 7 x 7 map."""

    taps = {"feature_map": "features", "embedding": "flatten"}

    def __init__(self, widths: tuple[int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            *_conv_bn_relu(in_channels, first, stride=2),
            *_conv_bn_relu(first, second, stride=2),
            *_conv_bn_relu(second, third, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(third, num_classes)


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class ResNet(nn.Sequential):
    """The CIFAR ResNet: 6n + 2 layers in three stages of n basic blocks. widths: stem, then the three stages."""

    taps = {"feature_map": "stage3", "embedding": "flatten"}

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(*_conv_bn_relu(in_channels, widths[0], stride=1))
        self.stage1 = _stage(BasicBlock, blocks, widths[0], widths[1], stride=1)
        self.stage2 = _stage(BasicBlock, blocks, widths[1], widths[2], stride=2)
        self.stage3 = _stage(BasicBlock, blocks, widths[2], widths[3], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[3], num_classes)
        _initialize(self)


class WideResNet(nn.Sequential):
    """The wide ResNet: 6n + 4 layers in three stages of n pre-activation blocks, k times as wide."""

    taps = {"feature_map": "last", "embedding": "flatten"}

    def __init__(self, depth: int, k: int, num_classes: int, in_channels: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(PreActivationBlock, blocks, 16, 16 * k, stride=1)
        self.stage2 = _stage(PreActivationBlock, blocks, 16 * k, 32 * k, stride=2)
        self.stage3 = _stage(PreActivationBlock, blocks, 32 * k, 64 * k, stride=2)
        self.last = nn.Sequential(nn.BatchNorm2d(64 * k), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64 * k, num_classes)
        _initialize(self)


class BasicBlock(nn.Module):
    """Two convolutions, and a path around them that is added before the last activation."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Two convolutions, each after its normalisation and activation, and a path around them that stays linear."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


def _stage(block: Callable, blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _cnn(*widths: int) -> Callable:
    return lambda num_classes, in_channels: CNN(widths, num_classes, in_channels)


def _resnet(depth: int, *widths: int) -> Callable:
    return lambda num_classes, in_channels: ResNet(depth, widths, num_classes, in_channels)


def _wrn(depth: int, k: int) -> Callable:
    return lambda num_classes, in_channels: WideResNet(depth, k, num_classes, in_channels)


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    # for 28 x 28; the name says about how many parameters there are with 10 classes
    "cnn2k": _cnn(6, 10, 10),
    "cnn4k": _cnn(8, 16, 16),
    "cnn14k": _cnn(16, 32, 32),
    "cnn220k": _cnn(64, 128, 128),
    "resnet8_w24": _resnet(8, 24, 24, 48, 96),
    "resnet14_w32": _resnet(14, 32, 32, 64, 128),
    # for CIFAR
    **{f"resnet{depth}": _resnet(depth, 16, 16, 32, 64) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": _resnet(8, 32, 64, 128, 256),
    "resnet32x4": _resnet(32, 32, 64, 128, 256),
    **{f"wrn_{depth}_{k}": _wrn(depth, k) for depth, k in ((16, 1), (16, 2), (40, 1), (40, 2))},
}


def build(name: str, num_classes: int, in_channels: int = 3, seed: int | None = None) -> nn.Module:
    """A fresh network by its name in MODELS. With a seed, the same weights each time, and torch's own stream untouched.

    Raises:
        ValueError: an unknown name, answered with the near ones.
    """
    if name not in MODELS:
        raise ValueError(f"model is {name!r}, which is not known; {near_names(name, MODELS)}")
    if seed is None:
        return MODELS[name](num_classes, in_channels)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        return MODELS[name](num_classes, in_channels)


def count_parameters(model: nn.Module) -> int:
    """How many numbers training may change; BatchNorm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


class Outputs(NamedTuple):
    """What a network answers to a batch: logits (B, C), and the features that were asked for, by name."""

    logits: Tensor
    features: dict[str, Tensor]


class Tapped(nn.Module):
    """A network that returns Outputs: its logits, and what flows out of `layers`, feature name -> layer name."""

    def __init__(self, extractor: nn.Module, layers: dict[str, str]):
        super().__init__()
        self.extractor = extractor
        self.layers = layers

    def forward(self, images: Tensor) -> Outputs:
        answers = self.extractor(images)
        return Outputs(answers["logits"], {name: answers[layer] for name, layer in self.layers.items()})


def tap(
    model: nn.Module, names: tuple[str, ...] = (), taps: Mapping[str, str] | None = None, who: str = "model"
) -> Tapped:
    """Wrap any nn.Module so that it returns Outputs with the features `names`. The weights are shared, not copied.

    Args:
        model: returns logits (B, C), and computes them last.
        names: which features a method needs, for instance ("embedding",).
        taps: feature name -> layer name, as torchvision.models.feature_extraction spells them; the model's
            own `taps` where None.
        who: how messages call the model: "student" or "teacher".

    Raises:
        ValueError: a feature that no tap provides; a layer name that the model lacks, answered with the near
            ones; a model that torch.fx cannot trace, or that returns anything but the last thing it computes.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    taps = dict(getattr(model, "taps", {}) if taps is None else taps)
    missing = [name for name in names if name not in taps]
    if missing:
        raise ValueError(
            f"{who}_taps names no layer for {', '.join(missing)}, which the method needs; pass for instance "
            f"{who}_taps={{{missing[0]!r}: 'layer name'}} with a name among its layers: {_layers(model)}"
        )
    try:
        train_nodes, eval_nodes = get_graph_node_names(model)
        returns_last = _returns_last(model)
    except Exception as error:
        raise ValueError(
            f"the {who} ({type(model).__name__}) cannot be traced by torch.fx, so nothing can be tapped: {error}"
        ) from error
    if not returns_last:
        raise ValueError(
            f"the {who} ({type(model).__name__}) must return a tensor of logits, and compute nothing after it; wrap "
            "it in a module whose forward does"
        )
    layers = {name: taps[name] for name in names}
    for name, layer in layers.items():
        if not any(_is_within(node, layer) for node in eval_nodes):
            raise ValueError(
                f"{who}_taps[{name!r}] is {layer!r}, which is no layer of the {who}; {near_names(layer, eval_nodes)}"
            )
        if _is_within(eval_nodes[-1], layer):  # one node cannot be handed out under two names
            layers[name] = "logits"
    wanted = {layer: layer for layer in layers.values() if layer != "logits"}
    extractor = create_feature_extractor(
        model,
        train_return_nodes={**wanted, train_nodes[-1]: "logits"},
        eval_return_nodes={**wanted, eval_nodes[-1]: "logits"},
    )
    return Tapped(extractor, layers)


def _is_within(node: str, layer: str) -> bool:
    return node == layer or node.startswith(layer + ".")


def _returns_last(model: nn.Module) -> bool:
    """Whether what the model returns is the last thing it computes, in training and in evaluation."""
    was_training = model.training
    answers = []
    for mode in (True, False):
        *_, last, output = torch.fx.Tracer().trace(model.train(mode)).nodes
        answers.append(output.args[0] is last)
    model.train(was_training)
    return all(answers)


def _layers(model: nn.Module) -> str:
    return ", ".join(name for name, _ in model.named_modules() if name)
