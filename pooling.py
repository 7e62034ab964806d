"""The largest value of each window of an image, fast in both directions.

Used by MyMaxPool of ps2_eurosat.ipynb, where the same stands in plain form.
"""

import torch
from torch.autograd.function import once_differentiable


def window_slices(x, k, s):
    """k * k views of x (..., H, W): the values at one place of all windows.

    The windows have k×k pixels and lie s pixels apart.
    """
    height, width = x.shape[-2:]
    rows = (height - k) // s * s + 1  # from the first window to the last one
    columns = (width - k) // s * s + 1
    slices = []
    for i in range(k):
        for j in range(k):
            slices.append(x[..., i : i + rows : s, j : j + columns : s])
    return slices


def largest_of_windows(x, k, s):
    """The largest value of each window of x (..., H, W); see window_slices.

    The gradient goes to the first place in the window that holds the largest value, as
    in torch.nn.MaxPool2d.
    """
    return LargestOfWindows.apply(x, k, s)


class LargestOfWindows(torch.autograd.Function):
    """Faster than autograd on a stack of slices, which keeps a copy of each window."""

    @staticmethod
    def forward(ctx, x, k, s):
        first, *others = window_slices(x, k, s)
        largest = first.clone()
        for other in others:
            torch.maximum(largest, other, out=largest)
        ctx.save_for_backward(x, largest)
        ctx.sizes = k, s
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, largest = ctx.saved_tensors
        remaining = gradient  # of the windows whose largest value is still to come
        shares = []
        for place in window_slices(x, *ctx.sizes):
            # 1 where the largest value lies, else 0; faster than a mask of booleans
            is_largest = place.clone().eq_(largest)
            share = is_largest * remaining
            remaining = remaining - share
            shares.append(share)
        x_gradient = torch.zeros_like(x)
        # from the last place on, a pixel's windows come in the order of MaxPool2d
        for place in reversed(window_slices(x_gradient, *ctx.sizes)):
            place += shares.pop()
        return x_gradient, None, None
