"""What can be wrong around a loss: each function looks at one thing and yields what it finds."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .calling import AuditError, as_scalar, prepare_call
from .inputs import Inputs
from .report import Finding
from .setup_inputs import Setup, eval_mode, logits_of

RELATIONAL = {"sp", "rkd", "pkt", "cc", "affinity", "dist"}


def judge_teacher_state(setup: Setup) -> Iterator[Finding]:
    in_train_mode = [module for module in setup.teacher.modules() if module.training]
    if in_train_mode:
        change = _change_in_train_mode(setup)
        yield Finding(
            "teacher_in_train_mode",
            expected="teacher.eval()",
            measured=f"its answers change by {change:.1%} of their spread when dropout and batch statistics are off",
            cause="the teacher was never put into eval mode, or a later .train() on a parent module reached it",
            fix="teacher.eval(), after every student.train() that may reach it",
            effect="noisy targets that depend on the batch, and running statistics that drift",
            note=change < 1e-6,
        )
    shared = {id(p) for p in setup.teacher.parameters()} & {id(p) for p in setup.student.parameters()}
    if shared:
        yield Finding(
            "shared_parameters",
            expected="two networks",
            measured=f"{len(shared)} parameter tensors belong to both",
            cause="the student was made from the teacher without a copy",
            fix="copy.deepcopy(teacher), or build a new network",
            effect="training the student changes the teacher",
        )


def _change_in_train_mode(setup: Setup) -> float:
    images = setup.batches[0][0]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = copy.deepcopy(setup.teacher)(images)
        in_train_mode = logits_of(output, "teacher", setup.teacher_logits.shape[1]).double()
    answers = setup.teacher_logits[: len(images)]
    return float((in_train_mode - answers).abs().mean() / answers.std().clamp(min=1e-12))


def judge_optimizer(setup: Setup) -> Iterator[Finding]:
    trainable = [p for p in setup.teacher.parameters() if p.requires_grad]
    if setup.optimizer is None:
        return
    held = {id(p) for group in setup.optimizer.param_groups for p in group["params"]}
    teachers = sum(id(p) in held for p in trainable)
    if teachers:
        yield Finding(
            "teacher_in_optimizer",
            expected="an optimizer that holds the student's parameters alone",
            measured=f"{teachers} trainable parameter tensors of the teacher are in it",
            cause="the optimizer was built from a module or list that contains both networks",
            fix="optimizer = torch.optim.SGD(student.parameters(), ...); teacher.requires_grad_(False)",
            effect="the teacher moves: by gradient where it is not detached, by weight decay in any case",
        )
    students = [p for p in setup.student.parameters() if p.requires_grad]
    missing = sum(id(p) not in held for p in students)
    if missing or not students:
        yield Finding(
            "student_not_in_optimizer",
            expected="all trainable parameters of the student in the optimizer",
            measured=f"{missing} of {len(students)} are missing"
            if students
            else "the student has no trainable parameter",
            cause="the optimizer was built from another network, or too early; or the student is frozen",
            fix="build the optimizer from student.parameters(), last of all",
            effect="these parameters never move",
        )


def judge_gradient(setup: Setup) -> Iterator[Finding]:
    """Through a loss as it was handed in; the training loop asks a method's teacher without gradient."""
    trainable = [p for p in setup.teacher.parameters() if p.requires_grad]
    if setup.loss is None or not trainable:
        return
    with eval_mode(setup.teacher), eval_mode(setup.student), torch.enable_grad():
        loss = _loss_of_first_batch(setup)
        reached = torch.autograd.grad(loss.sum(), trainable, allow_unused=True) if loss.requires_grad else ()
    if any(gradient is not None and gradient.any() for gradient in reached):
        yield Finding(
            "teacher_gets_gradient",
            expected="gradient for the student alone",
            measured="the loss sends a gradient to the teacher's parameters",
            cause="the teacher runs with gradients on, and the loss does not detach its answer",
            fix="with torch.no_grad(): teacher_logits = teacher(images); and teacher.requires_grad_(False)",
            effect="time and memory for nothing, and a teacher that moves if an optimizer holds it",
        )


def _loss_of_first_batch(setup: Setup) -> Tensor:
    images, labels, *_ = setup.batches[0]
    classes = setup.teacher_logits.shape[1]
    student = logits_of(setup.student(images), "student", setup.student_logits.shape[1])
    teacher = logits_of(setup.teacher(images), "teacher", classes)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device) if labels is None else labels
    labels = labels.clamp(0, classes - 1)  # those out of range are another check's affair
    try:
        call = prepare_call(setup.loss, "logits")
        temperature = call.fixed_temperature or 4.0
        return as_scalar(call(Inputs(student, teacher, labels, labels, 0.5, temperature, classes)), None)
    except Exception as error:  # whatever a stranger's loss raises
        raise AuditError(
            "method cannot be called as a loss of student_logits, teacher_logits and, if it wants, labels and T: "
            f"{type(error).__name__}: {error}"
        ) from error


def judge_answers(setup: Setup) -> Iterator[Finding]:
    for who, logits in (("teacher", setup.teacher_logits), ("student", setup.student_logits)):
        if not torch.isfinite(logits).all():
            yield Finding(
                f"{who}_not_finite",
                expected="finite logits",
                measured=f"the {who} answers NaN or infinity",
                cause="broken weights, or images that are not finite",
                fix="check the weights that were loaded, and the images",
                effect="the first step destroys the student",
            )
        elif (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-3:
            yield Finding(
                f"{who}_answers_probabilities",
                expected="logits, which losses soften by the temperature",
                measured=f"the {who}'s answers are positive and sum to 1",
                cause=f"the {who} ends in a softmax",
                fix="remove it, or use the logits before it (their logarithm serves as well)",
                effect="softmax of probabilities is nearly uniform: next to nothing is distilled",
            )


def judge_classes(setup: Setup, teacher_classes, student_classes) -> Iterator[Finding]:
    counts = setup.teacher_logits.shape[1], setup.student_logits.shape[1]
    if counts[0] != counts[1]:
        yield Finding(
            "class_count_differs",
            expected="one set of classes",
            measured=f"the teacher answers for {counts[0]} classes, the student for {counts[1]}",
            cause="the networks were built for different data sets",
            fix="choose the classes that both know, in the student's order",
            effect="logits cannot be compared",
        )
        return
    if teacher_classes is not None and student_classes is not None and list(teacher_classes) != list(student_classes):
        first = next((i for i, (a, b) in enumerate(zip(teacher_classes, student_classes, strict=False)) if a != b), 0)
        yield _order_differs(
            f"class {first} is {teacher_classes[first]!r} to the teacher and {student_classes[first]!r} to the student"
        )
        return
    if setup.labels is None:
        return
    labels = setup.labels.cpu()
    if labels.min() < -1 or labels.max() >= counts[0]:
        yield Finding(
            "labels_out_of_range",
            expected=f"labels from 0 to {counts[0] - 1}, or -1 for none",
            measured=f"labels from {int(labels.min())} to {int(labels.max())}",
            cause="labels that start at 1, or of another data set",
            fix="map them to 0 .. C - 1",
            effect="an error on the way, or wrong targets",
        )
        return
    labelled = labels >= 0
    labels, choices = labels[labelled], setup.teacher_logits.argmax(1).cpu()[labelled]
    right = choices == labels
    renamed, moved = _right_once_renamed(labels, choices, counts[0])
    lost, gained = int(right[moved].sum()), int(renamed[moved].sum())
    # A weak teacher's confusions may look like other names, but do not make it right so much more often.
    clear = gained > 4 * lost and gained - lost > 3 * (gained + lost) ** 0.5
    if clear and renamed.double().mean() > min(0.75, 5 / counts[0]):
        yield _order_differs(
            f"the teacher is right on {right.double().mean():.0%} of the labels, and on {renamed.double().mean():.0%} "
            "once classes are renamed"
        )


def _right_once_renamed(labels: Tensor, choices: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """For each image: is the choice right once the teacher's classes get the names that fit best; is its class renamed?

    The names are read off one half of the images and tried on the other, so that luck does not count.
    """
    from scipy.optimize import linear_sum_assignment

    wanted = labels.clone()
    for half in (0, 1):
        read, tried = slice(half, None, 2), slice(1 - half, None, 2)
        counts = 0.5 * torch.eye(classes)  # where nothing speaks against it, a class keeps its name
        counts.index_put_((labels[read], choices[read]), torch.tensor(1.0), accumulate=True)
        wanted[tried] = torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])[labels[tried]]
    return choices == wanted, wanted != labels


def _order_differs(measured: str) -> Finding:
    return Finding(
        "class_order_differs",
        expected="both networks (and the labels) name the classes in one order",
        measured=measured,
        cause="the class list was sorted another way when the teacher was trained",
        fix="reorder the teacher's logits: teacher_logits[:, order]",
        effect="the teacher teaches the wrong classes",
    )


def judge_roles(setup: Setup) -> Iterator[Finding]:
    sizes = [sum(p.numel() for p in model.parameters()) for model in (setup.teacher, setup.student)]
    larger = sizes[1] > sizes[0]
    if setup.labels is None or not (setup.labels >= 0).any():
        accuracies = None
    else:
        labels = setup.labels.cpu()
        accuracies = [
            float((logits.argmax(1).cpu() == labels)[labels >= 0].double().mean())
            for logits in (setup.teacher_logits, setup.student_logits)
        ]
    said = f"teacher {sizes[0]:,} parameters, student {sizes[1]:,}"
    if accuracies is not None:
        said += f"; right on {accuracies[0]:.0%} and {accuracies[1]:.0%} of the labels"
    if accuracies is not None and larger and accuracies[1] > accuracies[0] + 0.1:
        yield Finding(
            "networks_swapped",
            expected="the larger, better network teaches",
            measured=said,
            cause="teacher and student are swapped",
            fix="pass the trained, larger network as teacher",
            effect="the good network is trained to imitate the poor one",
        )
        return
    if larger:
        yield Finding(
            "student_is_larger",
            expected="a student smaller than its teacher",
            measured=said,
            cause="the student is the larger of the two: right for self-distillation or weak teachers, else swapped",
            fix="nothing to mend if it is meant",
            note=True,
        )
    if accuracies is not None:
        chance, count = 1 / setup.teacher_logits.shape[1], int((setup.labels >= 0).sum())
        if accuracies[0] < chance + 3 * (chance * (1 - chance) / count) ** 0.5:
            yield Finding(
                "teacher_knows_nothing",
                expected="a trained teacher",
                measured=f"right on {accuracies[0]:.0%} of {count} labels; chance is {chance:.0%}",
                cause="its weights were not loaded, its classes are ordered otherwise, or its images look different",
                fix="load the trained weights, and evaluate the teacher alone first",
                effect="the student imitates noise",
            )


def judge_memory(setup: Setup, memory: Tensor) -> Iterator[Finding]:
    """Each live answer should be nearest to the one remembered under its own index, in (N, views, C)."""
    if memory.shape[2] != setup.teacher_logits.shape[1] or int(setup.index.max()) >= len(memory):
        yield _stale(
            f"answers to {len(memory)} images, {memory.shape[2]} classes, for an index of {int(setup.index.max())}"
        )
        return
    live = _rows(setup.teacher_logits.cpu())
    own = _rows(memory[setup.index, setup.view.clamp(max=memory.shape[1] - 1)].double().cpu())
    near = (live - own).abs().max(dim=1).values <= 0.02 * live.abs().max()
    if near.double().mean() > 0.98:
        return
    everything = _rows(memory.flatten(0, 1).double().cpu())
    nearest = torch.cat([torch.cdist(some, everything).argmin(1) for some in live.split(256)])
    elsewhere = (live - everything[nearest]).abs().max(dim=1).values <= 0.02 * live.abs().max()
    if elsewhere.double().mean() > 0.9:
        step = nearest // memory.shape[1] - setup.index
        if not step.any():
            yield _stale(f"{1 - near.double().mean():.0%} of the answers are stored under another view of their image")
            return
        shift = f", always {int(step[0])} further" if (step == step[0]).all() else ""
        yield Finding(
            "answers_out_of_step",
            expected="remembered[index] is the teacher's answer to that image",
            measured=f"{1 - near.double().mean():.0%} of the answers are stored under another index{shift}",
            cause="the memory was filled from a shuffled loader, or the loader's order changed since",
            fix="fill it in index order, and key it by the data set's own index",
            effect="the teacher's answers belong to other images: noise",
        )
    else:
        yield _stale(
            f"{1 - near.double().mean():.0%} of the stored answers are no answers of this teacher to these images"
        )


def _rows(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _stale(measured: str) -> Finding:
    return Finding(
        "answers_stale",
        expected="answers of this teacher to these images",
        measured=measured,
        cause="they come from other weights, another augmentation, another data set or another normalisation",
        fix="fill the memory again",
        effect="targets that do not fit the images",
    )


def judge_normalization(setup: Setup, mean, std) -> Iterator[Finding]:
    if mean is not None and std is not None:
        channels = setup.images.double().transpose(0, 1).flatten(1).cpu()
        mean, std = (torch.as_tensor(value, dtype=torch.float64).flatten()[:, None] for value in (mean, std))
        lowest, highest = (0 - mean) / std, (1 - mean) / std
        slack = 0.1 * (highest - lowest)
        # A few pixels may lie outside, where noise was drawn into the images; black and white must come up.
        outside = ((channels < lowest - slack) | (channels > highest + slack)).double().mean(1)
        missed = (channels.amin(1, keepdim=True) > lowest + slack) | (channels.amax(1, keepdim=True) < highest - slack)
        off = (outside > 0.05) | missed[:, 0]
        if off.any():
            channel = int(off.double().argmax())
            yield _other_normalization(
                f"channel {channel} runs from {channels[channel].min():.2f} to {channels[channel].max():.2f}; "
                f"the teacher's mean and std make that {float(lowest[channel]):.2f} to {float(highest[channel]):.2f}"
            )
            return
    said = _surprised_batch_norm(setup)
    if said:
        yield _other_normalization(said)


def _surprised_batch_norm(setup: Setup) -> str | None:
    """The teacher's first batch normalisation remembers what its input looked like in training."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norm = next((m for m in setup.teacher.modules() if isinstance(m, norms) and m.running_mean is not None), None)
    if norm is None or not int(norm.num_batches_tracked):
        return None
    inputs = []
    hook = norm.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0].detach()))
    try:
        with eval_mode(setup.teacher), torch.no_grad():
            for images, *_ in setup.batches:
                setup.teacher(images)
    finally:
        hook.remove()
    values = torch.cat(inputs).double().transpose(0, 1).flatten(1)
    spread = norm.running_var.double().clamp(min=1e-12).sqrt()
    shift = float(((values.mean(1) - norm.running_mean.double()).abs() / spread).median())
    ratio = float((values.std(1) / spread).median())
    if shift < 0.75 and 0.5 < ratio < 2:
        return None
    return (
        f"at the teacher's first batch normalisation the inputs are {shift:.2g} standard deviations off "
        f"and {ratio:.2g} times as spread as in its training"
    )


def _other_normalization(measured: str) -> Finding:
    return Finding(
        "other_normalization",
        expected="images normalised as in the teacher's training",
        measured=measured,
        cause="the loader's normalisation is missing, doubled, or made for another data set",
        fix="normalise with the teacher's mean and std (give the student its own where they differ)",
        effect="the teacher answers to images unlike any it has learnt from",
    )


def judge_batches(setup: Setup, loader) -> Iterator[Finding]:
    try:
        count, size = len(loader.dataset), loader.batch_size
        last = 0 if loader.drop_last else count % size
    except (AttributeError, TypeError):
        return
    if last and RELATIONAL & set(setup.methods):
        yield Finding(
            "ragged_last_batch",
            expected=f"batches of {size}",
            measured=f"the last batch of an epoch has {last}",
            cause="losses on relations depend on the batch's size, and the last one is smaller",
            fix="drop_last=True, or a size that divides the data",
            effect="one step an epoch weighs the loss otherwise",
            note=True,
        )
