"""kdtutor: knowledge distillation, taught and measured.

`import kdtutor` is light. What a name needs is loaded when the name is first used:

    from kdtutor import losses, data, models, methods, train, compare, audit, figures, explorers
"""

__version__ = "0.1.0"
