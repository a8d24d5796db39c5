"""A frozen teacher answers the same image in the same way every time: ask once, and remember.

Answers are keyed by (index, view), the image and its augmentation, so they stay right under any
shuffle, batch size or resumed run. Images made within a step (mixup's) are always asked live.
"""

import hashlib
import os
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import distributed
from .data import Augmentation, ImageSet, network_input
from .methods import Batch
from .models import Outputs, Tapped

CHUNK = 500  # fixed, and filled in index order, so that a resumed run remembers the same bits


class LiveTeacher:
    """Asks the network anew for every batch."""

    def __init__(self, network: Tapped, autocast_dtype: torch.dtype | None = None):
        self.network = network.eval()
        self.autocast_dtype = autocast_dtype

    @property
    def key(self) -> str:
        """sha256 of its weights: what its answers to an image depend on."""
        return weights_digest(self.network)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        return distributed.gather(self.ask(distributed.own_rows(images)))

    @torch.no_grad()
    def ask(self, images: Tensor) -> Outputs:
        with torch.autocast(images.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            return self.network(images)


@dataclass(frozen=True)
class RememberedTeacher:
    """A teacher's answers to every view of every image, row `view * images + index`."""

    live: LiveTeacher
    logits: Tensor  # (views * N, C)
    features: dict[str, Tensor]  # name -> (views * N, ...)
    views: int
    key: str = field(repr=False)
    on_host: bool = False  # the answers lie in host memory and are sent to the device batch by batch

    def __call__(self, batch: Batch) -> Outputs:
        if batch.virtual:
            return self.live(batch)
        index, view = batch.on_host if self.on_host else (batch.index, batch.view)
        rows = view * (len(self.logits) // self.views) + index
        device = batch.images.device
        features = {name: send(values.index_select(0, rows), device) for name, values in self.features.items()}
        return Outputs(send(self.logits.index_select(0, rows), device), features)

    def check_fits(
        self, train: ImageSet, augmentation: Augmentation, views: int | None, needs: tuple[str, ...]
    ) -> None:
        """Refuse answers that were given to other images, or lack a feature that the method compares."""
        if self.key != memory_key(self.live, train, augmentation, views):
            raise ValueError(
                "teacher remembers answers to other data: its weights, the training images, the augmentation and "
                f"views={views} must be those it was remembered with; call remember_teacher again"
            )
        missing = [name for name in needs if name not in self.features]
        if missing:
            raise ValueError(
                f"teacher remembers no {', '.join(missing)}, which the method needs; call remember_teacher with "
                f"features={needs}"
            )


def remember(
    live: LiveTeacher, train: ImageSet, augmentation: Augmentation, views: int, progress: bool = True
) -> RememberedTeacher:
    """Ask `live` about all `views` views of every training image, once.

    The answers lie on the device while they leave half of its free memory to training, else on the host.

    Raises:
        MemoryError: the answers would not fit, with the size they need.
        ValueError: an answer is not finite.
    """
    device = train.images.device
    two = torch.arange(min(2, len(train)), device=device)
    first = live.ask(network_input(train, two, torch.zeros_like(two), augmentation))
    rows = views * len(train)
    size = rows * sum(answer[0].numel() * answer.element_size() for answer in (first.logits, *first.features.values()))
    on_host = _must_lie_on_host(size, device)
    place = {"device": "cpu", "pin_memory": device.type == "cuda"} if on_host else {"device": device}

    def room_for(answer: Tensor) -> Tensor:
        return torch.zeros(rows, *answer.shape[1:], dtype=answer.dtype, **place)

    logits = room_for(first.logits)
    features = {name: room_for(values) for name, values in first.features.items()}
    unusable = torch.zeros((), dtype=torch.int64, device=device)
    bar = tqdm(
        total=rows,
        desc=f"teacher's answers ({size / 2**20:.0f} MiB{' of host memory' if on_host else ''})",
        unit=" images",
        disable=not (progress and distributed.is_first()),
        leave=False,
    )
    with bar:
        for row in torch.arange(rows).split(CHUNK)[distributed.every_own(-(-rows // CHUNK))]:
            own = slice(int(row[0]), int(row[-1]) + 1)
            row = row.to(device)
            view, index = row // len(train), row % len(train)
            answer = live.ask(network_input(train, index, view, augmentation))
            logits[own] = answer.logits
            for name, values in answer.features.items():
                features[name][own] = values
            for values in (answer.logits, *answer.features.values()):
                unusable += (~values.isfinite()).sum()
            bar.update(len(row) * distributed.ranks())
    if distributed.ranks() > 1:
        for values in (logits, *features.values()):
            for some in values.split(CHUNK):  # ranks add up what lies on their device
                some.copy_(distributed.add_up(some.to(device)))
    if distributed.add_up(unusable):
        raise ValueError(
            "teacher answers with logits or features that are not finite; check its weights and the normalisation"
        )
    return RememberedTeacher(live, logits, features, views, memory_key(live, train, augmentation, views), on_host)


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. To a GPU they go from pinned memory, so that nobody waits for them."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def memory_key(live: LiveTeacher, train: ImageSet, augmentation: Augmentation, views: int | None) -> str:
    """What a teacher's answer depends on, as one digest: its weights, the images, their normalisation and views."""
    setting = f"{train.fingerprint()} {train.mean} {train.std} {augmentation} {views}"
    return hashlib.sha256((live.key + setting).encode()).hexdigest()


def weights_digest(network: nn.Module) -> str:
    """sha256 over every parameter and buffer, in order."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _must_lie_on_host(size: int, device: torch.device) -> bool:
    """Whether answers of `size` bytes are too many for a GPU. Refuses what the host could not hold either."""
    if device.type == "cuda" and size <= 0.5 * torch.cuda.mem_get_info(device)[0]:
        return False
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > 0.9 * free:
            raise MemoryError(
                f"remembering the teacher takes {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free in host "
                "memory; use fewer views or images, methods that need no feature maps, or views=None to ask the "
                "teacher live"
            )
    return device.type == "cuda"
