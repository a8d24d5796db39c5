"""The audit: is this distillation loss what its name says?

    from kdtutor.audit import audit
    report = audit(my_loss, kind="kd", temperature=4.0)
    print(report)

How it works. A loss trains through its gradient alone, so that is what is looked at: on batches of
many sizes, is the gradient a constant times the definition's (`explain`)? If the factor changes with
the batch size, the number of classes or the temperature, which power is it (`fit`)? If the direction
is another, which of the mistakes that people make (`kinds`) has that very gradient? Notebook 08.
"""

from .calling import AuditError, load_loss
from .examine import audit, run
from .inputs import ROLES, Inputs
from .kinds import FAMILIES, KINDS
from .report import Check, Finding, Report
from .setup import audit_setup

__all__ = [
    "FAMILIES",
    "KINDS",
    "ROLES",
    "AuditError",
    "Check",
    "Finding",
    "Inputs",
    "Report",
    "audit",
    "audit_setup",
    "load_loss",
    "run",
]
