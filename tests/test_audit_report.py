"""Reports: readable in a terminal, valid and escaped in a notebook."""

from html.parser import HTMLParser

from torch import nn

from kdtutor import losses
from kdtutor.audit import Check, Finding, Report, audit


def report_with(*found: Finding, name="f") -> Report:
    findings = tuple(finding for finding in found if not finding.note)
    notes = tuple(finding for finding in found if finding.note)
    return Report(name, "kd", "this is KD", findings, notes, (Check("deterministic", True), Check("edges", False)))


FINDING = Finding("mean_over_classes", "KD <whatever> C is", "0.1 KD", "the mean & not the sum", "sum", "weaker")
NOTE = Finding("weighted", "KD", "2 KD", "a weight", "nothing", note=True)


def test_notes_leave_a_report_ok():
    assert report_with(NOTE).ok and not report_with(FINDING, NOTE).ok
    assert report_with(FINDING, NOTE).codes == {"mean_over_classes", "weighted"}


def test_text_says_everything_within_the_width_of_a_terminal():
    text = str(report_with(FINDING, NOTE))
    assert text.startswith("NOT OK  f: this is KD")
    for part in ("The mean & not the sum.", "[mean_over_classes]", "0.1 KD", "weaker", "[weighted]", "edges"):
        assert part in text
    report = audit(
        nn.KLDivLoss(reduction="mean"), kind="kd", arguments=("student_log_probabilities", "teacher_probabilities")
    )
    assert max(len(line) for line in str(report).splitlines()[1:]) <= 140


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_balanced_escaped_and_says_the_same():
    page = report_with(FINDING, NOTE, name="<lambda>")._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    text = "".join(tags.text)
    for part in ("<lambda>", "KD <whatever> C is", "The mean & not the sum.", "not ok", "sum", "weaker"):
        assert part in text
    assert "<lambda>" not in page and "<whatever>" not in page


def test_html_says_what_a_check_says():
    report = Report("f", "kd", "this is KD", checks=(Check("finite at the edges", True, "refuses <a batch of one>"),))
    assert "finite at the edges (refuses <a batch of one>)" in str(report)
    assert "finite at the edges (refuses &lt;a batch of one&gt;)" in report._repr_html_()


def test_meaning_is_not_carried_by_colour_alone():
    assert "✓ ok" in report_with()._repr_html_() and "✗ not ok" in report_with(FINDING)._repr_html_()


def test_report_of_a_clean_loss_lists_what_was_looked_at():
    text = " ".join(str(audit(losses.kd_loss, kind="kd")).split())
    for check in ("deterministic", "zero where student and teacher agree", "order of the classes", "float16"):
        assert check in text
