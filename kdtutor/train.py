"""The loop: readable from top to bottom, and as fast as loops built for speed.

The images lie on the device as uint8 and are augmented a batch at a time. The teacher is remembered
where it can be. Nothing inside an epoch waits for the device.
"""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import checkpoint, distributed, methods
from .data import ImageSet, network_input, normalize, views_of_epoch
from .evaluate import evaluate
from .finite import FiniteWatch, NonFiniteError, first_bad_layer
from .memory import LiveTeacher, RememberedTeacher, remember, send
from .methods import Batch
from .models import Tapped, count_parameters, tap
from .peak import forget_peak, peak_mib
from .records import RunFolder
from .settings import Settings, choose_device, learning_rate, stream

WATCH_EVERY = 25  # steps between two looks; what one look sends, the next one reads


@dataclass
class Run:
    """A trained student and how it came about: one dict an epoch in `epochs`."""

    student: nn.Module
    method: str
    settings: Settings
    epochs: list[dict]
    interrupted: bool = False

    @property
    def table(self):
        """The epochs as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.epochs)


def distill(
    student: nn.Module,
    train: ImageSet,
    method: "str | methods.Method | methods.Combined" = "kd",
    teacher: nn.Module | RememberedTeacher | None = None,
    settings: Settings = Settings(),
    *,
    test: ImageSet | None = None,
    folder: str | Path | None = None,
    student_taps: Mapping[str, str] | None = None,
    teacher_taps: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Run:
    """Train `student` on `train` under `method`, taught by `teacher`.

    Args:
        student: any nn.Module that returns logits; trained in place, on the device of the settings.
        train: the images; labels may be missing, as a whole or one by one (-1).
        method: a name or an expression such as "kd + sp(weight=1000)", or a Method.
        teacher: any nn.Module that returns logits, or what `remember_teacher` gave. Put into eval mode.
        test: evaluated after every epoch; only the last one counts.
        folder: where to keep the record. A run that was stopped there goes on from its last whole epoch.
        student_taps, teacher_taps: feature name -> layer name, for networks that are not ours.

    Raises:
        ValueError: arguments that cannot work together, each by name.
        NonFiniteError: a loss or gradient became NaN or infinite; names the term and the layer.

    Ctrl-C ends the training and returns the run so far, with `interrupted` set.
    """
    method = methods.build(method)
    method.load_state_dict({})  # whatever an earlier run left in it
    device, autocast_dtype = choose_device(settings)
    student.to(device, memory_format=torch.channels_last)
    train = train.to(device)
    test = None if test is None else test.to(device)
    _check(student, train, method, teacher, settings)

    network = tap(student, method.features, student_taps, "student")
    _check_answers(network, train, "student")
    teacher = _ready_teacher(teacher, train, method, settings, teacher_taps, progress)
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )
    steps = len(train) // settings.batch_size
    run = Run(student, method.name, settings, [])
    record = None
    if folder is not None:
        record = RunFolder(folder, _settings_of(run, train, method, teacher))
        run.epochs, tensors = record.load()
        if tensors:
            checkpoint.restore(tensors, student, optimizer, method)
    forward = network
    if settings.compile:
        torch._functorch.config.donated_buffer = False  # shares of the gradient need the graph twice
        forward = torch.compile(network)
    forward = distributed.parallel(forward)
    watch = FiniteWatch(student, optimizer)
    student.train()
    network.train()  # shares the student's layers, but has a graph of its own for each mode

    bar = tqdm(
        total=settings.epochs * steps, initial=len(run.epochs) * steps, desc=method.name, unit=" steps",
        disable=not (progress and distributed.is_first()), leave=False,
    )  # fmt: skip
    try:
        for epoch in range(len(run.epochs), settings.epochs):
            forget_peak(device)
            started = time.perf_counter()
            method.start_epoch((epoch + 1) / settings.epochs)
            order = torch.randperm(len(train), generator=stream(settings.seed, "order", epoch))
            sums: dict[str, Tensor] = {}
            shares: dict[str, Tensor] = {}

            def prepare(step, epoch=epoch, order=order):
                batch = make_batch(train, order, step, epoch, settings)
                return method.prepare(batch, stream(settings.seed, "mixup", epoch, step))

            def compute(batch):
                teacher_out = teacher(batch) if teacher else None
                with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                    student_out = forward(distributed.own_rows(batch.images))
                return method(distributed.gather(student_out), teacher_out, batch)

            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(settings, epoch, step, steps)
                watch.before_forward()
                terms = compute(prepare(step))
                if not terms:
                    raise ValueError(f"method {method.name!r} gives no term: there is neither a label nor a weight")
                if step == 0:
                    shares = gradient_norms(terms, watch.parameters)
                loss = sum(terms.values())
                optimizer.zero_grad()
                loss.backward()
                watch.after_backward(step, loss.detach())
                optimizer.step()
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + term.detach()
                bar.update()
                if step % WATCH_EVERY == 0:
                    if watch.bad_step() is not None:
                        break
                    watch.send()

            _stop_if_bad(watch, epoch, prepare, compute, student, record)  # waits for the device: the epoch is over
            method.end_epoch()
            distributed.agree_on_buffers(student)
            seconds = time.perf_counter() - started
            row = {"epoch": epoch + 1, "seconds": seconds, "images_per_second": steps * settings.batch_size / seconds}
            row["peak_mib"] = peak_mib(device)
            total_norm = sum(float(norm) for norm in shares.values())
            for name, value in sums.items():
                row[f"loss_{name}"] = float(value) / steps
                row[f"share_{name}"] = float(shares[name]) / total_norm if total_norm else 0.0
            if test is not None:
                row |= evaluate(student, test)
                bar.set_postfix(top1=f"{100 * row['top1']:.1f} %")
            run.epochs.append(row)
            if record is not None:
                record.save(run.epochs, checkpoint.pack(student, optimizer, method))
        if record is not None:
            record.finish({"method": method.name, **run.epochs[-1]})
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        bar.close()
        optimizer.found_inf = None
        if record is not None:
            record.release()
    return run


def make_batch(train: ImageSet, order: Tensor, step: int, epoch: int, settings: Settings) -> Batch:
    """Step `step` of epoch `epoch`: the same images in the same augmentation, whoever asks and whenever."""
    index = order[step * settings.batch_size : (step + 1) * settings.batch_size]
    on_host = index, views_of_epoch(index, epoch, settings.views, settings.augmentation)
    index, view = (send(values, train.images.device) for values in on_host)
    images = network_input(train, index, view, settings.augmentation)
    return Batch(images, None if train.labels is None else train.labels[index], index, view, on_host=on_host)


def gradient_norms(terms: dict[str, Tensor], parameters: list[Tensor]) -> dict[str, Tensor]:
    """The length of each term's own gradient: what the weights of a sum really weigh."""
    norms = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        own = [distributed.add_up(gradient) / distributed.ranks() for gradient in gradients if gradient is not None]
        norms[name] = nn.utils.get_total_norm(own)
    return norms


def remember_teacher(
    teacher: nn.Module,
    train: ImageSet,
    settings: Settings = Settings(),
    features: tuple[str, ...] = (),
    teacher_taps: Mapping[str, str] | None = None,
    progress: bool = True,
) -> RememberedTeacher:
    """Ask a teacher about every view of every training image once, for any number of `distill` runs.

    Args:
        settings: its views and augmentation must be those of the runs; the teacher answers in its precision.
        features: what the methods compare besides logits, for instance ("feature_map", "embedding").
    """
    if settings.views is None:
        raise ValueError(
            "settings.views is None: images never come twice, so there is nothing to remember; give a number"
        )
    train = train.to(choose_device(settings)[0])
    live = _live(teacher, train, features, teacher_taps, settings)
    return remember(live, train, settings.augmentation, settings.views, progress)


def _check(student: nn.Module, train: ImageSet, method, teacher, settings: Settings) -> None:
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError("student has no parameter to train; call student.requires_grad_() or pass another network")
    if method.needs_teacher and teacher is None:
        raise ValueError(f"teacher is None, but method {method.name!r} needs one; only 'ce' does without")
    if method.needs_labels and train.labels is None:
        raise ValueError(f"train has no labels, but method {method.name!r} needs them")
    if settings.batch_size % distributed.ranks():
        raise ValueError(
            f"batch_size is {settings.batch_size}, which {distributed.ranks()} processes cannot share equally"
        )
    if len(train) < settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}, but train has {len(train)} images; use a smaller one")


@torch.no_grad()
def _check_answers(network: Tapped, train: ImageSet, who: str) -> None:
    """Ask a network once, so that one that does not fit the images or the classes is refused by name."""
    images = normalize(train.images[:2], train.mean, train.std)
    try:
        logits = network.eval()(images).logits
    except Exception as error:
        shape = tuple(images.shape[1:])
        raise ValueError(f"the {who} cannot take images of shape {shape} (channels, height, width): {error}") from error
    if logits.dim() != 2 or logits.shape[1] < train.num_classes:
        raise ValueError(
            f"the {who} answers {len(images)} images with shape {tuple(logits.shape)}, but train has "
            f"{train.num_classes} classes; wanted logits (batch, classes)"
        )


def _live(teacher: nn.Module, train: ImageSet, features: tuple[str, ...], taps, settings: Settings) -> LiveTeacher:
    device, autocast_dtype = choose_device(settings)
    teacher.to(device, memory_format=torch.channels_last).eval()
    network = tap(teacher, features, taps, "teacher")
    _check_answers(network, train, "teacher")
    return LiveTeacher(network, autocast_dtype)


def _ready_teacher(teacher, train, method, settings, taps, progress) -> LiveTeacher | RememberedTeacher | None:
    if not method.needs_teacher:
        return None
    if isinstance(teacher, RememberedTeacher):
        teacher.check_fits(train, settings.augmentation, settings.views, method.features)
        return teacher
    if settings.views is not None:
        return remember_teacher(teacher, train, settings, method.features, taps, progress)
    return _live(teacher, train, method.features, taps, settings)


def _stop_if_bad(
    watch: FiniteWatch, epoch: int, prepare, compute, student: nn.Module, record: RunFolder | None
) -> None:
    """At the end of an epoch, or where the watch saw something: name the term and the layer of the first bad step."""
    if watch.first_bad < 0:
        return
    step = int(watch.first_bad)
    batch = prepare(step)
    terms: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}

    def again():
        student.zero_grad()
        terms.update(compute(batch))
        norms.update(gradient_norms(terms, watch.parameters))
        sum(terms.values()).backward()

    kept = [buffer.clone() for buffer in student.buffers()]
    layer = first_bad_layer(student, again)
    for buffer, before in zip(student.buffers(), kept, strict=True):
        buffer.copy_(before)
    student.zero_grad()
    bad = [name for name, term in terms.items() if not (term.isfinite() and norms[name].isfinite())] or list(terms)
    kept_in = "" if record is None else f", which {record.keep_batch(vars(batch))} holds"
    raise NonFiniteError(
        f"epoch {epoch + 1}, step {step + 1}: not a finite number in the term {', '.join(bad)}; first in {layer}. The "
        f"student keeps the weights from before that step. Try a lower lr or weight, or look at that batch{kept_in}"
    )


def _settings_of(run: Run, train: ImageSet, method, teacher: LiveTeacher | RememberedTeacher | None) -> dict:
    """All that a run's weights depend on, apart from the student's own first ones."""
    details = method.methods if isinstance(method, methods.Combined) else [method]
    live = teacher.live if isinstance(teacher, RememberedTeacher) else teacher
    labels = None if train.labels is None else hashlib.sha256(train.labels.cpu().numpy()).hexdigest()[:16]
    return {
        **dataclasses.asdict(run.settings),
        "method": [{"name": part.name, **dataclasses.asdict(part)} for part in details],
        "student": f"{type(run.student).__name__}, {count_parameters(run.student):,} parameters",
        "teacher": None if live is None else live.key[:16],
        "train": train.fingerprint(),
        "labels": labels,
    }
