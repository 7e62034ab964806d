"""The plain network that part 2 used before, for a comparison in tools/ladder.py.

It has channels where MyCNNModel has fields of eight orientations, and its first layer
starts whitened.
"""

import torch
from torch import nn

from eurosat import get_batch


def initialise(layer):
    """The layer with He initialisation, which keeps the scale of its input; bias 0."""
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PlainBlock(nn.Sequential):
    """x + conv(relu(conv(relu(x)))), which starts as the identity; keeps the shape."""

    def __init__(self, channels):
        first = initialise(nn.Conv2d(channels, channels, 3, padding=1))
        second = initialise(nn.Conv2d(channels, channels, 3, padding=1))
        nn.init.zeros_(second.weight)
        super().__init__(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x):
        return x + super().forward(x)


class PlainNetwork(nn.Sequential):
    """Scores (B, n_classes) for images (B, 3, H, W) with H and W even."""

    def __init__(self, n_classes):
        super().__init__(  # shapes for 64×64 pixels
            initialise(nn.Conv2d(3, 64, 6, stride=2, padding=2)),  # (B, 64, 32, 32)
            nn.MaxPool2d(2),
            nn.ReLU(),
            initialise(nn.Conv2d(64, 80, 3, padding=1)),  # (B, 80, 16, 16)
            PlainBlock(80),
            nn.MaxPool2d(2),
            nn.ReLU(),
            initialise(nn.Conv2d(80, 128, 3, padding=1)),  # (B, 128, 8, 8)
            PlainBlock(128),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),  # (B, 128)
            nn.Linear(128, n_classes),  # (B, n_classes)
        )
        nn.init.zeros_(self[-1].weight)


def whiten(trainer, dataset, images=100):
    """Start the first layer on the directions in which patches of images vary most.

    Each direction, an eigenvector of the covariance, gets a variance near 1, and comes
    with its negative.
    """
    first = trainer.model[0]
    some = torch.linspace(0, len(dataset) - 1, images).long()
    X, _ = get_batch(dataset, some)
    patches = nn.functional.unfold(
        trainer.prepare(X), first.kernel_size, stride=first.stride
    )
    values = patches.movedim(1, 0).flatten(1).cpu().double()  # (108, patches)
    variance, directions = torch.linalg.eigh(values.cov())
    filters = (directions / (variance + 0.01).sqrt()).T
    filters = filters[-first.out_channels // 2 :]  # of the largest variance
    filters *= filters.sum(1, keepdim=True).sign()  # the same on every processor
    both = torch.cat([filters, -filters])
    first.weight.data.copy_(both.view_as(first.weight))
