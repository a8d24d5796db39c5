"""After NaN the student is, to the last bit, what it was before the step that met it."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdtutor import finite, methods, train
from kdtutor.finite import FiniteWatch, NonFiniteError, first_bad_layer
from kdtutor.models import count_parameters
from kdtutor.settings import stream
from kdtutor.train import distill, make_batch


class Stop(Exception):
    """Ends a run where we want it."""


@dataclasses.dataclass
class Faulty(methods.KD):
    """KD that goes wrong in one way at one step; `fault` None stops the run there instead, before the step.

    `step` counts the calls, so a step that is made again would be another; it therefore goes by what the
    batch holds.
    """

    epoch: int = 0
    step: int = 0
    fault: str | None = None

    def start_epoch(self, progress):
        super().start_epoch(progress)
        self.seen = []

    def prepare(self, batch, generator):
        key = batch.index.tolist()
        if key not in self.seen:
            self.seen.append(key)
        self.now = self.seen.index(key)
        here = self.now == self.step and round(self.progress * 6) == self.epoch + 1
        if here and self.fault is None:
            raise Stop
        if here and self.fault == "image":
            batch.images[3, 0, 2, 2] = float("inf")
        self.faulty = here and self.fault in ("loss", "gradient")
        return batch

    def distill(self, student, teacher, batch):
        terms = super().distill(student, teacher, batch)
        weight, loss = terms["kd"]
        if self.faulty and self.fault == "loss":
            loss = loss * float("nan")
        if self.faulty and self.fault == "gradient":
            loss = loss + (student.logits - student.logits.detach()).abs().sum().sqrt()  # 0, of infinite slope
        return {"kd": (weight, loss)}


@pytest.fixture
def runs(toy, teacher, student, settings, monkeypatch):
    """A function that trains with a Faulty method and returns student, optimizer's momentum, and the error."""
    watches = []

    class Seen(FiniteWatch):
        def __init__(self, student, optimizer):
            super().__init__(student, optimizer)
            self.optimizer, self.steps = optimizer, 0
            watches.append(self)

        def after_backward(self, step, loss):
            self.steps += 1
            super().after_backward(step, loss)

    monkeypatch.setattr("kdtutor.train.FiniteWatch", Seen)

    def run(method, epochs=6, batch_size=16):
        network = student()
        settings_here = dataclasses.replace(settings, epochs=epochs, batch_size=batch_size)
        try:
            distill(network, toy, method, teacher, settings_here, progress=False)
            error = None
        except (NonFiniteError, Stop) as raised:
            error = raised
        state = watches[-1].optimizer.state
        momentum = [state[p]["momentum_buffer"].clone() if p in state else None for p in network.parameters()]
        return network, momentum, error, watches[-1].steps

    return run


@pytest.mark.parametrize("fault", ["loss", "gradient", "image"])
@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 3), (2, 5)])  # (2, 5): the last step of an epoch
def test_everything_is_as_it_was_before_the_bad_step(runs, same, fault, epoch, step):
    network, momentum, error, _ = runs(Faulty(epoch=epoch, step=step, fault=fault))
    stopped, wanted_momentum, stop, _ = runs(Faulty(epoch=epoch, step=step))
    assert isinstance(error, NonFiniteError) and isinstance(stop, Stop)
    assert f"epoch {epoch + 1}, step {step + 1}:" in str(error)
    assert same(network, stopped) == []
    for ours, theirs in zip(momentum, wanted_momentum, strict=True):
        assert torch.equal(ours, theirs)
    assert all(p.grad is None for p in network.parameters())


def test_a_first_step_that_is_bad_leaves_the_initial_weights(runs, same, student):
    network, _, error, _ = runs(Faulty(epoch=0, step=0, fault="loss"))
    assert "epoch 1, step 1:" in str(error)
    assert same(network, student()) == []


def test_the_first_of_several_bad_steps_counts(runs, same):
    @dataclasses.dataclass
    class From(Faulty):
        def prepare(self, batch, generator):
            batch = super().prepare(batch, generator)
            self.faulty = self.fault is not None and self.now >= self.step
            return batch

    network, _, error, _ = runs(From(epoch=0, step=2, fault="loss"))
    assert "epoch 1, step 3:" in str(error)
    assert same(network, runs(From(epoch=0, step=2))[0]) == []


@pytest.mark.parametrize("step", [0, 1, 24, 25, 26, 40])
def test_it_is_found_within_50_steps(runs, step):
    """An epoch of 96 / 2 steps is too short for it, so one step in 25 becomes one in 5, and 50 becomes 10."""
    finite_every = 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdtutor.train.WATCH_EVERY", finite_every)
        _, _, error, steps = runs(Faulty(epoch=0, step=step, fault="loss"), batch_size=2)
    assert f"step {step + 1}:" in str(error)
    assert step < steps <= step + 2 * finite_every


def test_the_published_interval_is_25():
    from kdtutor.train import WATCH_EVERY

    assert 2 * WATCH_EVERY <= 50


@pytest.mark.parametrize("bad", [7, 130])
def test_a_long_epoch_stops_soon_and_tells_all(bad, toy, student, same, settings, tmp_path, monkeypatch):
    """200 steps an epoch, a NaN in one of them; nothing but the batch is made for the test."""
    images = toy.take(torch.arange(800) % len(toy))
    poisoned = torch.randperm(len(images), generator=stream(0, "order", 0))[4 * bad : 4 * bad + 4]
    steps, make = [], train.make_batch

    def count(train_images, order, step, epoch, of_run):
        batch = make(train_images, order, step, epoch, of_run)
        if poisoned.tolist() == batch.index.tolist():
            batch.images[0, 0, 0, 0] = float("nan")
        steps.append(step)
        if stop_before == step:
            raise KeyboardInterrupt
        return batch

    monkeypatch.setattr(train, "make_batch", count)
    long = dataclasses.replace(settings, epochs=2, batch_size=4, seed=0)
    network, stopped, stop_before = student(), student(), None
    with pytest.raises(NonFiniteError, match=rf"epoch 1, step {bad + 1}: not a finite number in the term ce") as caught:
        distill(network, images, "ce", None, long, folder=tmp_path, progress=False)
    assert bad < len(set(steps)) <= bad + 50
    assert "first in the output of layer features.0" in str(caught.value)
    assert torch.equal(load_file(tmp_path / "bad-batch.safetensors")["index"], poisoned)
    stop_before = bad
    distill(stopped, images, "ce", None, long, progress=False)
    assert same(network, stopped) == []


@pytest.mark.parametrize(
    ("fault", "term", "layer"),
    [
        ("loss", "in the term kd;", "the gradient of classifier.bias"),
        ("gradient", "in the term kd;", "the gradient of classifier.bias"),
        ("image", "in the term ce, kd;", "the output of layer features.0"),
    ],
)
def test_the_error_names_the_term_and_the_layer(runs, fault, term, layer):
    _, _, error, _ = runs(Faulty(epoch=1, step=2, fault=fault))
    assert term in str(error)
    assert f"first in {layer}." in str(error)


def test_a_layer_that_overflows_is_named(toy, settings):
    class Exploding(nn.Sequential):
        def forward(self, x):
            return self.last(self.explode(self.first(x)))

    network = Exploding()
    network.first, network.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Linear(4, 4)
    network.explode = nn.Linear(4, 4)
    nn.init.constant_(network.explode.weight, 3e38)
    nn.init.constant_(network.first[1].weight, 3.0)
    with pytest.raises(NonFiniteError, match="in the term ce; first in the output of layer explode"):
        distill(network, toy, "ce", None, settings, progress=False)


def test_a_record_keeps_the_last_good_epoch(toy, teacher, student, settings, tmp_path):
    six = dataclasses.replace(settings, epochs=6)
    with pytest.raises(NonFiniteError, match="epoch 3"):
        distill(student(), toy, Faulty(epoch=2, step=1, fault="loss"), teacher, six, folder=tmp_path, progress=False)
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == 1 + 2
    assert not (tmp_path / "summary.json").exists()


def test_the_batch_that_did_it_is_kept(toy, teacher, student, settings, tmp_path):
    six = dataclasses.replace(settings, epochs=6)
    with pytest.raises(NonFiniteError, match=r"look at that batch, which .*bad-batch\.safetensors holds"):
        distill(student(), toy, Faulty(epoch=1, step=2, fault="image"), teacher, six, folder=tmp_path, progress=False)
    kept = load_file(tmp_path / "bad-batch.safetensors")
    order = torch.randperm(len(toy), generator=stream(settings.seed, "order", 1))
    assert torch.equal(kept["index"], order[2 * 16 : 3 * 16]) and torch.equal(kept["labels"], toy.labels[kept["index"]])
    clean = make_batch(toy, order, 2, 1, six)
    assert torch.equal(kept["view"], clean.view)
    spoilt = ~kept["images"].isfinite()
    assert spoilt.any() and torch.equal(kept["images"][~spoilt], clean.images[~spoilt])


def test_a_clean_step_is_plain_sgd(student):
    """The watch changes nothing as long as nothing is wrong."""
    watched, plain = student(), student()
    ours = torch.optim.SGD(watched.parameters(), 0.1, momentum=0.9, nesterov=True, fused=True)
    theirs = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, nesterov=True, fused=True)
    watch = FiniteWatch(watched, ours)
    images = torch.randn(16, 1, 8, 8)
    for step in range(4):
        watch.before_forward()
        loss = watched(images).square().mean()
        ours.zero_grad()
        loss.backward()
        watch.after_backward(step, loss.detach())
        ours.step()
        theirs.zero_grad()
        plain(images).square().mean().backward()
        theirs.step()
    watch.send()
    assert watch.bad_step() is None
    for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_layers_are_looked_at_once_and_left_without_hooks(student):
    network = student()
    images = torch.randn(4, 1, 8, 8)
    assert finite.first_bad_layer(network, lambda: network(images).sum().backward()).startswith("no single layer")
    images[0] = float("nan")
    assert first_bad_layer(network, lambda: network(images)) == "the output of layer features.0"
    assert not any(module._forward_hooks for module in network.modules())
    assert count_parameters(network) == count_parameters(student())
