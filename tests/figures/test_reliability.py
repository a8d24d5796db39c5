"""The reliability diagram."""

import numpy as np
import torch

from kdtutor.figures import reliability


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def test_triangles_stand_at_each_bins_means_and_point_where_the_answers_are():
    logits, labels = 3 * torch.randn(300, 4, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 4
    figure = reliability({"one": logits, "two": logits / 50}, labels, bins=5)
    for axes, z in zip(figure.axes, (logits, logits / 50), strict=True):
        p = np.array([softmax(row) for row in z.double().numpy()])
        sure, right = p.max(1), p.argmax(1) == labels.numpy()
        bins = np.minimum((5 * sure).astype(int), 4)
        wanted = [(100 * sure[bins == b].mean(), 100 * right[bins == b].mean()) for b in np.unique(bins)]
        drawn = [tuple(dots.get_offsets()[0]) for dots in axes.collections]
        np.testing.assert_allclose(drawn, wanted, rtol=1e-6)
        for dots, (x, y) in zip(axes.collections, wanted, strict=True):
            points_up = dots.get_paths()[0].vertices[0][1] > 0
            assert points_up == (y >= x)
        assert axes.get_title().endswith(f"{100 * (sure.mean() - right.mean()):+.1f}")
