"""Checks for the course's exercises: points, and a hint that fits the mistake. One module per notebook.

    from kdtutor.exercises import notebook_01
    notebook_01.check_kd_loss(my_kd_loss)

Every check is a plain function that returns a Result, true when the answer is right, so that a
grading cell can say `assert notebook_01.check_kd_loss(my_kd_loss)`. Nothing is stored or sent.
"""

from .engine import Result

__all__ = ["Result"]
