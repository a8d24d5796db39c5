"""How answers become points and hints, whatever the exercise."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdtutor.exercises import Result, notebook_00, notebook_01
from kdtutor.exercises.engine import by_audit, by_choice, by_comparison, by_number, by_rubric


def blank(*arguments):
    raise NotImplementedError


def test_result_is_true_with_all_points_only():
    assert Result(2, 2) and not Result(1, 2, "look")
    assert str(Result(2, 2)) == "✓ 2 of 2 points" and str(Result(1, 2, "look")) == "✗ 1 of 2 points. look"
    assert "&lt;b&gt;" in Result(0, 1, "<b>")._repr_html_()


def test_functions_that_cannot_run():
    def no_return(student_logits, teacher_logits, temperature):
        student_logits.sum()

    def broken(student_logits, teacher_logits, temperature):
        return student_logits @ teacher_logits

    for check in (notebook_01.check_kd_loss, notebook_00.check_softmax, notebook_00.check_kl, notebook_00.check_gram):
        result = check(blank)
        assert result.points == 0 and "not written yet" in result.hint
        assert "Pass the function itself" in check(3.0).hint
    assert "return missing" in notebook_01.check_kd_loss(no_return).hint
    assert "RuntimeError" in notebook_01.check_kd_loss(broken).hint
    assert "return missing" in notebook_00.check_softmax(lambda z, T: None).hint
    assert "ZeroDivisionError" in notebook_00.check_softmax(lambda z, T: z / 0 + 1 / 0).hint


def test_by_audit_falls_back_on_the_cause_and_counts_what_is_left():
    def mean_without_square(student_logits, teacher_logits, temperature):
        log_p = F.log_softmax(student_logits / temperature, 1)
        return F.kl_div(log_p, F.softmax(teacher_logits / temperature, 1), reduction="mean")

    result = by_audit(mean_without_square, "kd", partial={"mean_over_classes": 1, "t_squared_missing": 1})
    assert result.points == 0 and "1 more to find" in result.hint and "reduction='mean'" in result.hint


def test_by_comparison_tells_shape_from_value():
    double = lambda x: 2 * x  # noqa: E731
    inputs = [(torch.arange(3.0),)]
    assert by_comparison(double, double, inputs)
    assert "(1, 3)" in by_comparison(lambda x: 2 * x[None], double, inputs).hint
    assert "up to 2" in by_comparison(lambda x: x, double, inputs).hint
    assert by_comparison(lambda x: x, double, inputs, [(lambda x: x, "double it")]).hint == "double it"


def test_by_comparison_survives_a_function_that_writes_to_its_arguments():
    assert by_comparison(lambda x: x.mul_(2), lambda x: 2 * x, [(torch.arange(3.0),)])


def test_by_choice_and_by_number():
    assert by_choice(" B ", "b", {"a": "no"}) and by_choice("a", "b", {"a": "no"}).hint == "no"
    assert "a, b" in by_choice("z", "b", {"a": "no"}).hint
    assert by_number("4.01", 4, {}) and by_number(2, 4, {2.0: "half"}).hint == "half"
    assert "number" in by_number("four", 4, {}).hint and by_number(9, 4, {2.0: "half"}).hint
    assert not by_number(math.nan, 4, {})


def test_by_rubric():
    assert by_rubric([("one", True), ("two", True)])
    result = by_rubric([("one", True), ("two", False)])
    assert result.points == 1 and result.out_of == 2 and "two" in result.hint


@pytest.mark.parametrize("answer", ["text", {"a": 1}, ["a"], object()])
def test_by_comparison_of_what_is_no_number(answer):
    result = by_comparison(lambda x: answer, lambda x: x, [(torch.ones(2),)])
    assert not result and "a tensor or a number is wanted" in result.hint
