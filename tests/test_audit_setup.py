"""The audit of a set-up: what can be wrong around a loss that is right."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kdtutor import data, losses, methods
from kdtutor.audit import audit_setup
from kdtutor.settings import Settings
from kdtutor.train import remember_teacher

MEAN, STD, CLASSES = 0.3, 0.2, 5


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(width * 36, CLASSES),
    )


def make_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels between 0 and 1, some of them black and white; the label is where the bright stripe lies."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=g)
    pixels = 0.5 * torch.rand(count, 1, 6, 6, generator=g) ** 2
    pixels[torch.arange(count), 0, labels] += 0.5
    pixels[:, :, 5, 0] = 0
    return pixels, labels


@pytest.fixture(scope="module")
def world():
    """A trained teacher, an untrained student, normalised images, and a loader that hands out the index."""
    torch.manual_seed(0)
    pixels, labels = make_images(200, seed=1)
    images = (pixels - MEAN) / STD
    teacher, student = network(16), network(4)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(teacher(images), labels).backward()
        optimizer.step()
    teacher.eval()
    assert (teacher(images).argmax(1) == labels).double().mean() > 0.9
    return teacher.requires_grad_(False), student, images, labels


def loader(images, labels, size=50, shuffle=False, index=True):
    parts = (images, labels, torch.arange(len(images))) if index else (images, labels)
    return DataLoader(TensorDataset(*parts), size, shuffle=shuffle)


@pytest.fixture
def parts(world):
    teacher, student, images, labels = world
    return copy.deepcopy(teacher), copy.deepcopy(student), images, labels


def codes(report):
    return {finding.code for finding in report.findings}


def plain_kd(student_logits, teacher_logits):
    return F.kl_div(student_logits.log_softmax(1), teacher_logits.softmax(1), reduction="batchmean")


def test_a_right_setup_passes(parts):
    teacher, student, images, labels = parts
    with torch.no_grad():
        remembered = teacher(images)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for method in ("kd", losses.kd_loss, plain_kd):
        report = audit_setup(
            teacher,
            student,
            loader(images, labels, shuffle=True),
            method,
            optimizer=optimizer,
            remembered=remembered.half(),
            mean=(MEAN,),
            std=(STD,),
            teacher_classes=list("abcde"),
            student_classes=list("abcde"),
        )
        assert report.ok and not report.notes, str(report)
        assert all(check.ok for check in report.checks)


def test_nothing_is_changed(parts):
    teacher, student, images, labels = parts
    teacher.train()
    teacher[0].eval()
    before = [copy.deepcopy(model.state_dict()) for model in (teacher, student)]
    modes = [module.training for model in (teacher, student) for module in model.modules()]
    state = torch.get_rng_state()
    audit_setup(teacher, student, loader(images, labels), plain_kd)
    assert modes == [module.training for model in (teacher, student) for module in model.modules()]
    for model, saved in zip((teacher, student), before, strict=True):
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_teacher_in_train_mode(parts):
    teacher, student, images, labels = parts
    report = audit_setup(teacher.train(), student, loader(images, labels))
    assert codes(report) == {"teacher_in_train_mode"}
    assert "%" in report.findings[0].measured


def test_train_mode_is_a_note_where_it_changes_nothing(parts):
    _, student, images, labels = parts
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    with torch.no_grad():  # one output for each stripe
        linear[1].weight.zero_()
        for label in range(CLASSES):
            linear[1].weight[label, 6 * label : 6 * label + 6] = 1
    report = audit_setup(linear.train(), student, loader(images, labels))
    assert "teacher_in_train_mode" not in codes(report) and "teacher_in_train_mode" in report.codes


def test_optimizer_that_holds_the_teacher_or_misses_the_student(parts):
    teacher, student, images, labels = parts
    teacher.requires_grad_(True)
    both = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    assert codes(audit_setup(teacher, student, loader(images, labels), optimizer=both)) == {"teacher_in_optimizer"}
    teacher.requires_grad_(False)
    assert audit_setup(teacher, student, loader(images, labels), optimizer=both).ok
    head = torch.optim.SGD(student[-1].parameters(), lr=0.1)
    assert codes(audit_setup(teacher, student, loader(images, labels), optimizer=head)) == {"student_not_in_optimizer"}


def test_gradient_that_reaches_the_teacher(parts):
    teacher, student, images, labels = parts
    teacher.requires_grad_(True)
    assert codes(audit_setup(teacher, student, loader(images, labels), plain_kd)) == {"teacher_gets_gradient"}
    assert audit_setup(teacher, student, loader(images, labels), losses.kd_loss).ok


def with_temperature(student, teacher, T):
    return T**2 * plain_kd(student / T, teacher / T)


class Criterion(nn.Module):
    def __init__(self, temperature=2.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, z_s, z_t, target):
        return with_temperature(z_s, z_t, self.temperature) + F.cross_entropy(z_s, target)


LOSSES = {
    "a dict": lambda student, teacher: {"kd": plain_kd(student, teacher)},
    "a tuple": lambda student, teacher: (plain_kd(student, teacher), 1),
    "a loss per sample": lambda student, teacher: (
        losses.kd_loss(student, teacher, reduction="none") + plain_kd(student, teacher)
    ),
    "a temperature": with_temperature,
    "labels and a temperature": lambda student, teacher, labels, T: with_temperature(student, teacher, T),
    "the teacher first": lambda teacher_logits, student_logits: plain_kd(student_logits, teacher_logits),
    "the labels first": lambda labels, student, teacher: plain_kd(student, teacher),
    "a module": Criterion(),
    "a class": Criterion,
}


@pytest.mark.parametrize("form", LOSSES)
def test_losses_of_any_form_are_followed(parts, form):
    teacher, student, images, labels = parts
    teacher.requires_grad_(True)
    loss = LOSSES[form]
    assert codes(audit_setup(teacher, student, loader(images, labels), loss)) == {"teacher_gets_gradient"}
    assert codes(audit_setup(teacher, student, [images], loss)) == {"teacher_gets_gradient"}


def test_a_loss_that_detaches_the_teacher_wherever_it_stands_is_right(parts):
    teacher, student, images, labels = parts
    teacher.requires_grad_(True)
    right = lambda teacher_logits, student_logits: plain_kd(student_logits, teacher_logits.detach())  # noqa: E731
    assert audit_setup(teacher, student, loader(images, labels), right).ok


@pytest.mark.parametrize("method", ["kd + sp", methods.build("kd + sp"), methods.KD(), methods.KD, "sp(weight=10)"])
def test_methods_of_any_form_ask_the_teacher_without_gradient(parts, method):
    teacher, student, images, labels = parts
    teacher.requires_grad_(True)
    assert audit_setup(teacher, student, loader(images, labels), method).ok


def test_swapped_networks(parts):
    teacher, student, images, labels = parts
    report = audit_setup(student.eval(), teacher, loader(images, labels))
    assert "networks_swapped" in codes(report)
    assert "student_is_larger" in audit_setup(teacher, network(32), loader(images, labels)).codes


def test_a_teacher_that_knows_nothing(parts):
    _, student, images, labels = parts
    torch.manual_seed(1)
    blank = network(16).eval()
    nn.init.zeros_(blank[-1].weight)
    report = audit_setup(blank, student, loader(images, labels))
    assert "teacher_knows_nothing" in codes(report)


def test_shared_parameters(parts):
    teacher, _, images, labels = parts
    assert "shared_parameters" in codes(audit_setup(teacher, teacher, loader(images, labels)))


def test_remembered_answers_out_of_step(parts):
    teacher, student, images, labels = parts
    with torch.no_grad():
        answers = teacher(images)
    shuffled = answers[torch.randperm(len(answers), generator=torch.Generator().manual_seed(0))]
    report = audit_setup(teacher, student, loader(images, labels), remembered=shuffled)
    assert codes(report) == {"answers_out_of_step"}
    report = audit_setup(teacher, student, loader(images, labels), remembered=answers.roll(-3, 0), batches=2)
    assert codes(report) == {"answers_out_of_step"}
    # A loader that shuffles and hands out no index: the memory cannot be found again.
    torch.manual_seed(0)
    report = audit_setup(teacher, student, loader(images, labels, shuffle=True, index=False), remembered=answers)
    assert codes(report) == {"answers_out_of_step"}
    assert audit_setup(teacher, student, loader(images, labels, index=False), remembered=answers).ok


def test_remembered_answers_of_another_teacher_or_view(parts):
    teacher, student, images, labels = parts
    torch.manual_seed(2)
    with torch.no_grad():
        other, answers = network(16).eval()(images), teacher(images)
    assert codes(audit_setup(teacher, student, loader(images, labels), remembered=other)) == {"answers_stale"}
    assert codes(audit_setup(teacher, student, loader(images, labels), remembered=answers[:20])) == {"answers_stale"}
    views = torch.stack((other, answers), dim=1)
    with_view = [(images, labels, torch.arange(len(images)), torch.ones(len(images), dtype=torch.int64))]
    assert audit_setup(teacher, student, with_view, remembered=views).ok
    assert codes(audit_setup(teacher, student, loader(images, labels), remembered=views)) == {"answers_stale"}


def test_a_memory_may_lie_views_first_or_in_a_remembered_teacher(parts):
    teacher, student, images, labels = parts
    with torch.no_grad():
        answers, mirrored = teacher(images), teacher(images.flip(-1))
    views = torch.stack((answers, mirrored))
    assert audit_setup(teacher, student, loader(images, labels), remembered=views).ok
    swapped = views.flip(0)
    assert codes(audit_setup(teacher, student, loader(images, labels), remembered=swapped)) == {"answers_stale"}

    train = data.ImageSet(
        (255 * (images * STD + MEAN)).round().byte(), labels, tuple("abcde"), (MEAN,), (STD,), "stripes"
    )
    settings = Settings(views=2, flip=True, crop_padding=0, device="cpu")
    remembered = remember_teacher(teacher, train, settings, progress=False)
    for given in ({"remembered": remembered}, {}):
        report = audit_setup(teacher if given else remembered, student, train, **given, mean=train.mean, std=train.std)
        assert report.ok and not report.notes, str(report)
    others = train.take(torch.arange(len(train)).flip(0))
    assert codes(audit_setup(remembered, student, others)) == {"answers_out_of_step"}


@pytest.mark.parametrize("told", [True, False], ids=["mean and std told", "read from batch norm"])
@pytest.mark.parametrize("wrong", [lambda x: x * STD + MEAN, lambda x: (x - MEAN) / STD], ids=["missing", "doubled"])
def test_other_normalization(parts, wrong, told):
    teacher, student, images, labels = parts
    statistics = {"mean": (MEAN,), "std": (STD,)} if told else {}
    report = audit_setup(teacher, student, loader(wrong(images), labels), **statistics)
    assert "other_normalization" in codes(report), str(report)


def test_noise_drawn_into_some_images_is_no_other_normalization(parts):
    teacher, student, images, labels = parts
    erased = images.clone()
    erased[::4, :, 1:4, 1:4] = torch.randn(len(images[::4]), 1, 3, 3, generator=torch.Generator().manual_seed(0)) - 1
    report = audit_setup(teacher, student, loader(erased, labels), mean=(MEAN,), std=(STD,))
    assert erased.min() < (0 - MEAN) / STD - 1 and report.ok, str(report)


def test_outputs_that_are_probabilities(parts):
    teacher, student, images, labels = parts
    report = audit_setup(nn.Sequential(teacher, nn.Softmax(1)).eval(), student, loader(images, labels))
    assert codes(report) == {"teacher_answers_probabilities"}
    report = audit_setup(teacher, nn.Sequential(student, nn.Softmax(1)), loader(images, labels))
    assert codes(report) == {"student_answers_probabilities"}
    assert audit_setup(nn.Sequential(teacher, nn.LogSoftmax(1)).eval(), student, loader(images, labels)).ok


def test_class_orders_that_differ(parts):
    teacher, student, images, labels = parts
    report = audit_setup(
        teacher, student, loader(images, labels), teacher_classes=list("abcde"), student_classes=list("bacde")
    )
    assert codes(report) == {"class_order_differs"} and "'a'" in report.findings[0].measured
    report = audit_setup(teacher, student, loader(images, (labels + 1) % CLASSES))
    assert "class_order_differs" in codes(report)


class Renamed(nn.Module):
    """A teacher whose classes stand in another order."""

    def __init__(self, teacher, order):
        super().__init__()
        self.teacher, self.order = teacher, order

    def forward(self, images):
        return self.teacher(images)[:, self.order]


def test_two_classes_that_changed_places(parts):
    teacher, student, images, labels = parts
    renamed = Renamed(teacher, torch.tensor([3, 1, 2, 0, 4])).eval()
    assert "class_order_differs" in codes(audit_setup(renamed, student, loader(images, labels)))


def hundred_classes(clearness: float) -> tuple[nn.Module, nn.Module, list]:
    """A linear teacher of 100 classes, right the oftener the clearer its images are; a student; four batches."""
    g = torch.Generator().manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 100, bias=False)).eval() for _ in range(2))
    weight = torch.randn(100, 64, generator=g)
    with torch.no_grad():
        teacher[1].weight.copy_(weight)
        student[1].weight.copy_(torch.randn(100, 64, generator=g))
    labels = torch.randint(100, (512,), generator=g)
    images = (torch.randn(512, 64, generator=g) + clearness * weight[labels]).view(-1, 1, 8, 8)
    return teacher, student, list(zip(images.split(128), labels.split(128), strict=True))


LEXICOGRAPHIC = torch.tensor([int(name) for name in sorted(map(str, range(100)))])  # 0, 1, 10, 11, ...: by folder name


@pytest.mark.parametrize("order", [LEXICOGRAPHIC, torch.arange(100).roll(7)], ids=["by folder name", "rolled"])
@pytest.mark.parametrize("clearness", [0.3, 0.6])
def test_orders_of_a_hundred_classes(order, clearness):
    teacher, student, batches = hundred_classes(clearness)
    assert "class_order_differs" not in codes(audit_setup(teacher, student, batches))
    assert "class_order_differs" in codes(audit_setup(Renamed(teacher, order).eval(), student, batches))


@pytest.mark.parametrize("seed", range(5))
def test_a_weak_teacher_has_no_other_class_order(parts, seed):
    _, student, images, labels = parts
    torch.manual_seed(seed)
    assert "class_order_differs" not in codes(audit_setup(network(16).eval(), student, loader(images, labels)))
    teacher, student, batches = hundred_classes(0.1)
    shuffled = [(images, labels[torch.randperm(len(labels))]) for images, labels in batches]
    for some in (batches, shuffled):
        assert "class_order_differs" not in codes(audit_setup(teacher, student, some))


def test_class_counts_and_labels(parts):
    teacher, _, images, labels = parts
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES - 1))
    assert "class_count_differs" in codes(audit_setup(teacher, fewer, loader(images, labels)))
    assert codes(audit_setup(teacher, network(4), loader(images, labels + 1))) >= {"labels_out_of_range"}


def test_ragged_last_batch_is_a_note_for_relational_losses(parts):
    teacher, student, images, labels = parts
    assert "ragged_last_batch" in audit_setup(teacher, student, loader(images, labels, size=64), "sp").codes
    for method in ("kd + sp", "sp(weight=1000)", methods.SP(), methods.build("kd + sp")):
        assert "ragged_last_batch" in audit_setup(teacher, student, loader(images, labels, size=64), method).codes
    assert "ragged_last_batch" not in audit_setup(teacher, student, loader(images, labels, size=64), "kd").codes
    assert "ragged_last_batch" not in audit_setup(teacher, student, loader(images, labels, size=50), "sp").codes


def test_no_labels_and_other_forms_of_batches_and_answers(parts):
    teacher, student, images, labels = parts

    class Wrapped(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.model, self.form = teacher, form

        def forward(self, x):
            return self.form(self.model(x))

    forms = (lambda z: {"logits": z}, lambda z: ([z[:, :, None]], z), lambda z: torch.return_types.max((z, z)))
    for form in forms[:2]:
        assert audit_setup(Wrapped(form).eval(), student, [{"images": images, "labels": labels}]).ok
    assert audit_setup(teacher, student, [images]).ok

    class WithFeatures(nn.Module):
        def __init__(self, model, width):
            super().__init__()
            self.model, self.width = model, width

        def forward(self, x):
            return torch.zeros(len(x), self.width), self.model(x)

    both = WithFeatures(teacher, 64).eval(), WithFeatures(student, 64)
    for networks in ((both[0], student), (teacher, both[1]), both, (both[0], WithFeatures(student, 3))):
        report = audit_setup(*networks, loader(images, labels), plain_kd)
        assert report.ok, str(report)


def test_labels_may_be_one_hot_or_a_column(parts):
    teacher, student, images, labels = parts
    one_hot = F.one_hot(labels, CLASSES)
    for given in (one_hot, one_hot.float(), labels[:, None]):
        assert audit_setup(teacher, student, loader(images, given)).ok
        report = audit_setup(
            teacher, student, loader(images, given.roll(1, 1) if given.shape[1] > 1 else (given + 1) % 5)
        )
        assert "class_order_differs" in codes(report)


def boom(student, teacher):
    raise RuntimeError("boom")


def test_what_cannot_be_read_says_so(parts):
    teacher, student, images, labels = parts
    with pytest.raises(ValueError, match="loader gave no batch"):
        audit_setup(teacher, student, [])
    with pytest.raises(ValueError, match="without images"):
        audit_setup(teacher, student, ["nothing"])
    with pytest.raises(ValueError, match="teacher returned"):
        audit_setup(nn.Identity(), student, [(images, labels)])
    with pytest.raises(ValueError, match=r"loader gave images of torch.uint8, wanted .* floating point"):
        audit_setup(teacher, student, [(images.byte(), labels)])
    with pytest.raises(ValueError, match="'nonsense', which is not known"):
        audit_setup(teacher, student, [(images, labels)], "nonsense")
    with pytest.raises(ValueError, match=r"remembered is \(5,\), wanted a tensor \(images, classes\)"):
        audit_setup(teacher, student, [(images, labels)], remembered=torch.zeros(5))
    with pytest.raises(ValueError, match=r"method cannot be called as a loss of student_logits, teacher_logits.*boom"):
        audit_setup(teacher.requires_grad_(True), student, [(images, labels)], boom)
