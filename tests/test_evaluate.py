"""Accuracy, likelihood, calibration and agreement, against loops over the images."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from kdtutor.evaluate import evaluate, metrics, predict


def example(count=500, classes=7, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    labels = torch.where(
        torch.rand(count, generator=generator) < 0.5,
        logits.argmax(dim=1),
        torch.randint(0, classes, (count,), generator=generator),
    )
    return logits, labels


def probabilities(logits) -> list[list[float]]:
    rows = []
    for row in logits.double().tolist():
        total = sum(math.exp(value) for value in row)
        rows.append([math.exp(value) / total for value in row])
    return rows


@pytest.mark.parametrize("scale", [0.3, 2.0, 5.0])
@pytest.mark.parametrize("bins", [15, 10, 1])
def test_against_loops_and_sklearn(scale, bins):
    logits, labels = example(scale=scale)
    got = metrics(logits, labels, bins=bins)
    p, y = probabilities(logits), labels.tolist()
    answers = [row.index(max(row)) for row in p]
    assert got["top1"] == pytest.approx(accuracy_score(y, answers), abs=1e-12)
    assert got["nll"] == pytest.approx(log_loss(y, np.array(p), labels=list(range(7))), rel=1e-5)

    ece = 0.0
    for k in range(bins):
        inside = [
            i for i, row in enumerate(p) if k / bins <= max(row) < (k + 1) / bins or (k == bins - 1 and max(row) == 1)
        ]
        if inside:
            accuracy = sum(answers[i] == y[i] for i in inside) / len(inside)
            confidence = sum(max(p[i]) for i in inside) / len(inside)
            ece += len(inside) / len(y) * abs(accuracy - confidence)
    assert got["ece"] == pytest.approx(ece, abs=1e-6)
    signed = sum(max(row) for row in p) / len(p) - accuracy_score(y, answers)
    assert got["overconfidence"] == pytest.approx(signed, abs=1e-6)
    assert abs(got["overconfidence"]) <= got["ece"] + 1e-9
    if bins == 1:
        assert got["ece"] == pytest.approx(abs(signed), abs=1e-6)


def test_signs_of_calibration():
    sure = 20 * torch.eye(4)[torch.arange(100) % 4]
    wrong, right = (torch.arange(100) + 1) % 4, torch.arange(100) % 4
    assert metrics(sure, wrong)["overconfidence"] == pytest.approx(1, abs=1e-6)
    assert metrics(sure, right)["overconfidence"] == pytest.approx(0, abs=1e-6)
    shy = 0.01 * sure
    assert metrics(shy, right)["overconfidence"] < -0.5


def test_a_confidence_of_exactly_one_falls_into_the_last_bin():
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]])
    got = metrics(logits, torch.tensor([0, 1]))
    assert got["ece"] == pytest.approx(0.5) and got["overconfidence"] == pytest.approx(0.5)


def test_agreement():
    logits, labels = example()
    other, _ = example(seed=1)
    expected = (
        sum(a.index(max(a)) == b.index(max(b)) for a, b in zip(logits.tolist(), other.tolist(), strict=True)) / 500
    )
    assert metrics(logits, labels, other)["agreement"] == pytest.approx(expected)
    assert metrics(logits, labels, logits * 3)["agreement"] == 1.0
    assert "agreement" not in metrics(logits, labels)


def test_predict_is_the_network_on_normalised_images_in_eval_mode(toy, student):
    network = student()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = predict(network, toy, batch_size=17)
    assert network.training and all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    images = (toy.images.double() / 255 - toy.mean[0]) / toy.std[0]
    with torch.no_grad():
        expected = network.eval().double()(images)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)


def test_evaluate_puts_it_together(toy, student):
    network = student()
    logits = predict(network, toy)
    assert evaluate(network, toy, logits) == metrics(logits, toy.labels, logits)
    assert all(type(value) is float for value in evaluate(network, toy).values())


def test_evaluate_wants_a_label_for_every_image(toy, student):
    for unlabelled in (toy.without_labels(), toy.without_labels(keep=[1, 2])):
        with pytest.raises(ValueError, match="data must have a label for every image"):
            evaluate(student(), unlabelled)
