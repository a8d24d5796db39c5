"""Published sizes, taps into networks of any origin, and random streams left alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdtutor import models
from kdtutor.models import build, count_parameters, tap

PUBLISHED = {  # for CIFAR-100, as its benchmark repositories list them
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_published(name):
    assert count_parameters(build(name, num_classes=100)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["cnn4k", "cnn14k", "cnn220k"])
def test_the_small_networks_have_about_the_size_in_their_name(name):
    count = count_parameters(build(name, num_classes=10, in_channels=1))
    assert count / 1000 == pytest.approx(int(name[3:-1]), rel=0.1)


@pytest.mark.parametrize("name", [name for name in models.MODELS if "110" not in name and "40" not in name])
def test_every_model_hands_out_its_map_and_its_embedding(name):
    size, channels = (28, 1) if "cnn" in name or "_w" in name else (32, 3)
    model = build(name, 10, channels, seed=0).eval()
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        logits, features = tap(model, ("feature_map", "embedding"))(images)
        torch.testing.assert_close(logits, model(images))
        # By hand: the map before pooling has a quarter of the side, the embedding is its mean over places,
        # and the logits are one linear layer away.
        width = model.classifier.in_features
        assert features["feature_map"].shape == (2, width, size // 4, size // 4)
        torch.testing.assert_close(features["embedding"], features["feature_map"].mean(dim=(2, 3)))
        W, b = model.classifier.weight, model.classifier.bias
        torch.testing.assert_close(logits, features["embedding"] @ W.T + b)
        assert (features["feature_map"] >= 0).all(), "taken after the activation"


def test_basic_block_by_hand():
    block = models.BasicBlock(2, 3, stride=2).eval()
    x = torch.randn(2, 2, 6, 6)
    out = F.batch_norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), torch.zeros(3), torch.ones(3))
    out = F.batch_norm(F.conv2d(out.relu(), block.conv2.weight, padding=1), torch.zeros(3), torch.ones(3))
    shortcut = F.batch_norm(F.conv2d(x, block.shortcut[0].weight, stride=2), torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(block(x), (out + shortcut).relu())


def test_preactivation_block_keeps_a_clean_path():
    """With its last convolution at 0 a block of unchanged width is the identity, negative values included."""
    block = models.PreActivationBlock(3, 3, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_build_with_a_seed_repeats_and_leaves_torchs_stream(monkeypatch):
    on_gpus = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", on_gpus.append)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    on_gpus.clear()
    one, two, other = build("cnn4k", 10, 1, seed=3), build("cnn4k", 10, 1, seed=3), build("cnn4k", 10, 1, seed=4)
    assert torch.equal(torch.rand(3), expected)
    assert on_gpus == []
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_build_without_a_seed_draws_from_torchs_stream():
    torch.manual_seed(5)
    first = build("cnn4k", 10, 1)
    assert not torch.equal(first.classifier.weight, build("cnn4k", 10, 1).classifier.weight)


def test_an_unknown_model_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"model is 'resnet21'.*'resnet20'"):
        build("resnet21", 10)


def test_tap_into_torchvisions_resnet18():
    from torchvision.models import resnet18

    model = resnet18(num_classes=7).eval()
    taps = {"feature_map": "layer4", "embedding": "flatten"}
    images = torch.randn(2, 3, 64, 64)
    seen = {}
    hook = model.layer4.register_forward_hook(lambda module, args, output: seen.update(map=output))
    expected = model(images)
    hook.remove()
    logits, features = tap(model, ("feature_map", "embedding"), taps)(images)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(features["feature_map"], seen["map"])
    torch.testing.assert_close(features["embedding"], seen["map"].mean(dim=(2, 3)))


class HandWritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        hidden = self.body(x * self.scale)
        return self.head(F.dropout(hidden, 0.5, self.training))


def test_tap_into_a_hand_written_module():
    model = HandWritten().eval()
    images = torch.randn(6, 1, 8, 8)
    network = tap(model, ("embedding",), {"embedding": "body"}).eval()
    logits, features = network(images)
    torch.testing.assert_close(features["embedding"], model.body(images))
    torch.testing.assert_close(logits, model(images))
    model.scale.data.fill_(2.0)
    torch.testing.assert_close(network(images).logits, model(images), msg="the weights are shared, not copied")


def test_the_tapped_network_is_in_train_mode_what_the_model_is():
    model = HandWritten()
    network = tap(model, ("embedding",), {"embedding": "body"})
    images = torch.randn(64, 1, 8, 8)
    network.train()
    before = model.body[2].running_mean.clone()
    first, second = network(images).logits, network(images).logits
    assert not torch.equal(before, model.body[2].running_mean), "BatchNorm did not learn through the tap"
    assert not torch.equal(first, second), "dropout is off in train mode"
    network.eval()
    before = model.body[2].running_mean.clone()
    assert torch.equal(network(images).logits, network(images).logits)
    assert torch.equal(before, model.body[2].running_mean)


@pytest.mark.parametrize("training", [True, False])
def test_tapping_leaves_the_mode(training):
    model = HandWritten().train(training)
    tap(model, ("embedding",), {"embedding": "body"})
    assert model.training is training and model.body[2].training is training


def test_gradients_flow_through_features_and_logits(student):
    model = student()
    _, features = tap(model, ("feature_map",))(torch.randn(4, 1, 8, 8))
    features["feature_map"].sum().backward()
    assert model.features[0].weight.grad.abs().sum() > 0
    assert model.classifier.weight.grad is None


def test_two_features_may_come_from_one_layer_and_one_from_the_logits(student):
    taps = {"feature_map": "features", "embedding": "features", "answer": "classifier"}
    logits, features = tap(student(), tuple(taps), taps)(torch.randn(4, 1, 8, 8))
    assert features.keys() == taps.keys()
    assert torch.equal(features["feature_map"], features["embedding"])
    assert torch.equal(features["answer"], logits)


def test_a_classifier_of_several_layers_can_be_tapped_by_its_name():
    model = nn.Sequential()
    model.body = nn.Flatten()
    model.classifier = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4))
    logits, features = tap(model, ("out",), {"out": "classifier"})(torch.randn(2, 1, 8, 8))
    assert torch.equal(features["out"], logits)


def test_a_wrong_layer_name_lists_near_ones(student):
    with pytest.raises(ValueError, match=r"student_taps\['embedding'\] is 'flaten'.*'flatten'"):
        tap(student(), ("embedding",), {"embedding": "flaten"}, "student")


def test_missing_taps_say_what_to_pass_and_list_the_layers():
    with pytest.raises(
        ValueError, match=r"(?s)teacher_taps names no layer for embedding.*teacher_taps=\{.*body, body.0"
    ):
        tap(HandWritten(), ("embedding",), who="teacher")


def test_a_model_that_cannot_be_traced_is_refused_by_name():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"the student \(Branching\) cannot be traced"):
        tap(Branching(), who="student")


class Extra(nn.Module):
    """Returns logits, or more than them, and computes something else after them."""

    def __init__(self, returns: str):
        super().__init__()
        self.fc, self.extra, self.returns = nn.Linear(64, 4), nn.Linear(64, 7), returns

    def forward(self, x):
        x = x.flatten(1)
        logits, extra = self.fc(x), self.extra(x)
        if self.returns == "in training both" and self.training:
            return logits, extra
        return {"first": logits, "dictionary": {"logits": logits}, "in training both": extra}[self.returns]


@pytest.mark.parametrize("returns", ["first", "dictionary", "in training both"])
def test_logits_are_what_the_model_returns_or_it_is_refused(returns):
    """Never the last thing it happens to compute."""
    with pytest.raises(ValueError, match=r"the teacher \(Extra\) must return a tensor of logits"):
        tap(Extra(returns), who="teacher")
