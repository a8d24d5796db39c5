"""The loss tests draw the same examples on every run, and no test fails for being slow."""

import pytest
from hypothesis import settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

settings.register_profile("losses", deadline=None, max_examples=30, derandomize=True, database=None)
settings.load_profile("losses")


class LargestTensor(TorchDispatchMode):
    """Within its block, remembers the number of elements of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.fixture
def largest_tensor() -> LargestTensor:
    return LargestTensor()
