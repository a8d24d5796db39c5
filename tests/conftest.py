"""Small data and small networks that train in a blink, shared by the tests."""

import dataclasses

import pytest
import torch

from kdtutor import models
from kdtutor.data import ImageSet
from kdtutor.train import Settings


def toy_images(count: int = 96, seed: int = 0) -> ImageSet:
    """Four classes of 8 x 8 grey images: a pattern of each class, and noise over it."""
    patterns = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(7))
    noise = torch.randint(0, 100, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    labels = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed + 1))
    images = (0.6 * patterns[labels] + noise).to(torch.uint8)
    return ImageSet(images, labels, ("bag", "boot", "coat", "dress"), (0.45,), (0.22,), f"toy-{seed}")


@pytest.fixture(scope="session")
def toy() -> ImageSet:
    """96 training images."""
    return toy_images()


@pytest.fixture(scope="session")
def toy_test() -> ImageSet:
    return toy_images(60, seed=100)


@pytest.fixture
def one_thread():
    """Other threads, other bits; of one thread every process has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def student():
    """A function: a fresh student from a seed. The same seed, the same weights."""
    return lambda seed=0: models.build("cnn4k", num_classes=4, in_channels=1, seed=seed)


@pytest.fixture(scope="session")
def teacher_weights() -> dict:
    """Of a wider network that has learnt the toy images with plain torch."""
    network = models.build("cnn14k", num_classes=4, in_channels=1, seed=41)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for seed in range(20):
        batch = toy_images(64, seed)
        logits = network((batch.images / 255 - batch.mean[0]) / batch.std[0])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        optimizer.step()
    return network.state_dict()


@pytest.fixture
def teacher(teacher_weights):
    network = models.build("cnn14k", num_classes=4, in_channels=1)
    network.load_state_dict(teacher_weights)
    return network.eval()


@pytest.fixture
def settings() -> Settings:
    """Three epochs of six steps."""
    return Settings(epochs=3, batch_size=16, lr=0.05, device="cpu")


@pytest.fixture
def change():
    """dataclasses.replace, for settings and image sets."""
    return dataclasses.replace


@pytest.fixture
def same():
    """A function that says which entries of two networks' weights and buffers differ in any bit: [] if none."""

    def differing(one, other) -> list[str]:
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        return [name for name in ours if not torch.equal(ours[name], theirs[name])]

    return differing
