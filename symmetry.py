"""Convolutions that treat an image and its rotations and mirror images alike.

Used by ps2_eurosat.ipynb, tools/ and tests/. A square has eight symmetries: four
rotations, each also mirrored. Together they are the dihedral group D4. See T. S. Cohen
and M. Welling, Group equivariant convolutional networks, ICML 2016.
"""

import torch
from torch import nn

# --- The group ------------------------------------------------------------------------


def symmetries(x):
    """The eight symmetries of x (..., H, W): a list, x itself first.

    Numbers 0 to 3 are turned counter-clockwise by 0 to 3 quarter turns; 4 to 7 are
    mirrored left to right, then turned.
    """
    forms = []
    for image in (x, x.flip(-1)):
        for turns in range(4):
            forms.append(torch.rot90(image, turns, (-2, -1)))
    return forms


def image_and_mirror(x):
    """x (..., H, W) and its mirror image, left to right: a list of two."""
    return [x, x.flip(-1)]


def product_table():
    """The table (8, 8) of the group: table[g, h] is the symmetry "first h, then g".

    It is found by trying: on a pattern whose nine entries differ, no two symmetries
    look the same.
    """
    pattern = torch.arange(9).view(3, 3)
    singles = torch.stack(symmetries(pattern))
    table = torch.zeros(8, 8, dtype=torch.long)
    for h in range(8):
        for g, twice in enumerate(symmetries(singles[h])):
            is_this_one = (singles == twice).flatten(1).all(dim=1)
            table[g, h] = is_this_one.nonzero().item()
    return table


def division_table():
    """The table (8, 8) of g⁻¹h: of the symmetry q for which "first q, then g" is h."""
    return product_table().argsort(dim=1)  # in row g of the products, h is at place q


# --- The layers -----------------------------------------------------------------------


class D4LiftingConv2d(nn.Conv2d):
    """The first convolution: each filter is used in its eight symmetries.

    `weight` (fields, channels, k, k) and `bias` (fields,) are all that is trained. For
    images (B, channels, H, W) the output has 8 * fields channels, the eight
    orientations of a field one after the other. Turn the image, and the output is
    turned, with the orientations of each field in another order. An output sums as many
    products as a filter has entries, so the usual initialisations by fan-in are right.

    ValueError if the windows would not lie on the image in a symmetric way.
    """

    def __init__(self, channels, fields, kernel_size, stride=1, padding=0):
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
        for name, size in sizes.items():
            if not isinstance(size, int):
                rule = "one whole number, the same for rows and columns"
                raise ValueError(f"{name} must be {rule}, not {size!r}")
        super().__init__(channels, fields, kernel_size, stride, padding)
        self.fields = fields
        self.out_channels = 8 * fields
        # where in a filter each entry of its eight forms comes from, so that a step of
        # training gathers all of them at once
        shape = self.weight.shape[1:]
        places = torch.arange(shape.numel()).view(shape)
        sources = torch.stack(self.eight_forms(places)).flatten()
        self.register_buffer("sources", sources, persistent=False)

    def eight_forms(self, filters):
        """The forms of filters (channels, k, k) that the eight orientations use."""
        return symmetries(filters)

    def expanded_weight(self):
        """The filters (8 * fields, channels, k, k) of the plain convolution it is."""
        filters = self.weight.flatten(1)  # (fields, channels * k * k)
        expanded = filters.index_select(1, self.sources)
        return expanded.view(self.out_channels, *self.weight.shape[1:])

    def forward(self, x):
        self.refuse_uneven(x)
        weight = self.expanded_weight()
        bias = self.bias.repeat_interleave(8)
        return nn.functional.conv2d(x, weight, bias, self.stride, self.padding)

    def refuse_uneven(self, x):
        """ValueError if the last window ends before the edge, the first one at it."""
        k, _ = self.kernel_size
        s, _ = self.stride
        p, _ = self.padding
        for side in x.shape[-2:]:
            left = (side + 2 * p - k) % s
            if left != 0:
                windows = f"kernel_size {k}, stride {s} and padding {p}"
                found = f"{windows} leave pixels over at one end of {side}"
                fitting = f"{side - left} or {side - left + s}"
                raise ValueError(f"{found}, which breaks symmetry: give {fitting}")


class D4Conv2d(D4LiftingConv2d):
    """A later convolution: from fields of eight orientations to such fields.

    `weight` (fields, 8 * in_fields, k, k) has a filter for each orientation of each
    field of the input. It is used eight times: each time its filters are turned or
    mirrored, and exchanged as the orientations are.
    """

    def __init__(self, in_fields, fields, kernel_size, stride=1, padding=0):
        super().__init__(8 * in_fields, fields, kernel_size, stride, padding)

    def eight_forms(self, filters):
        """The forms of filters (8 * in_fields, k, k) that the orientations use.

        In the turned input, orientation q has become the orientation "first q, then
        g". So form g turns each filter by g, and moves the one for q to that place.
        """
        division = division_table()
        forms = []
        for g, form in enumerate(symmetries(filters)):
            orientations = form.unflatten(0, (-1, 8))  # (in_fields, 8, k, k)
            forms.append(orientations[:, division[g]].flatten(0, 1))
        return forms


class D4MeanPool2d(nn.Module):
    """The mean over positions and orientations: (B, 8 * fields, H, W) to (B, fields).

    It stays the same, however the image is turned or mirrored.
    """

    def forward(self, x):
        orientations = x.unflatten(1, (-1, 8))
        return orientations.mean((2, 3, 4))
