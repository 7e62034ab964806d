"""A stand-in for EuroSAT where there is no network: drawn scenes of its ten classes.

Used by eurosat.py where it finds no images. Some labels are wrong on purpose, so that
no honest accuracy comes near 100 %.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from scipy.ndimage import gaussian_filter

from utils import progress

NOTE = "Drawn stand-in, not EuroSAT"
WRONG_LABELS = 0.05  # share of the labels, see draw_file


class Scene(NamedTuple):
    """How strong the three patterns of a class's ground are, and its colours (RGB)."""

    fields: float  # cells of one brightness
    patches: float  # of some ten pixels
    grain: float  # of single pixels
    dark: tuple
    light: tuple
    top: tuple  # of what lies on the ground: furrows, roofs, water


SCENES = {
    "AnnualCrop": Scene(1, 0, 0, (62, 90, 86), (190, 150, 132), (112, 112, 104)),
    "Forest": Scene(0, 0.15, 0.2, (28, 50, 62), (50, 76, 82), (75, 90, 92)),
    "HerbaceousVegetation": Scene(
        0, 0.2, 0.1, (58, 80, 84), (140, 124, 116), (48, 70, 74)
    ),
    "Highway": Scene(1, 0, 0, (52, 76, 81), (130, 120, 114), (114, 120, 130)),
    "Industrial": Scene(1, 0, 0, (82, 89, 98), (204, 180, 173), (66, 83, 88)),
    "Pasture": Scene(0.4, 0.15, 0, (48, 78, 80), (92, 112, 104), (42, 66, 72)),
    "PermanentCrop": Scene(0.9, 0, 0, (80, 95, 92), (175, 142, 126), (60, 84, 80)),
    "Residential": Scene(1, 0, 0, (76, 84, 92), (192, 156, 146), (62, 80, 84)),
    "River": Scene(0.7, 0.1, 0, (48, 78, 79), (120, 118, 108), (48, 78, 102)),
    "SeaLake": Scene(0, 0.06, 0, (32, 56, 78), (58, 90, 104), (80, 98, 94)),
}
CLASSES = list(SCENES)  # as EuroSAT's: a label is a place in this list
CELL_SIDES = {"Industrial": (6, 18), "Residential": (4, 10)}  # pixels; others 12 to 40


def draw_stand_in(per_class=200):
    """{class/name: a JPEG file in memory}, named as EuroSAT's files, from number 1.

    `per_class` is a multiple of 100, so that WRONG_LABELS of each class are wrong.
    """
    files = {}
    places = range(len(CLASSES) * per_class)
    with progress(places, "drawing images") as places:
        for place in places:
            label = place // per_class
            number = place % per_class + 1
            name = f"{CLASSES[label]}/{CLASSES[label]}_{number}.jpg"
            files[Path(name)] = draw_file(label, number)
    return files


def draw_file(label, number):
    """Image `number` of the class `label`, as a JPEG file in memory."""
    drawn = label
    # Five numbers in a row of each hundred: each part of the split, which goes by the
    # number modulo 5, has its share of wrong labels.
    if number % 100 < 5:
        drawn = (label + 1 + number % 9) % 10  # never the label itself
    rng = np.random.default_rng([label, number])
    pixels = draw_scene(CLASSES[drawn], rng).clip(0, 255)
    image = PIL.Image.fromarray(pixels.astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file


def draw_scene(name, rng):
    """A new image (64, 64, 3) of the class `name`, floats around 0 to 255."""
    y, x = np.mgrid[:64, :64] - rng.uniform(16, 48, (2, 1, 1))  # from a point inside
    angle = rng.uniform(0, np.pi)
    u = x * np.cos(angle) + y * np.sin(angle)  # along the scene
    v = y * np.cos(angle) - x * np.sin(angle)  # across it
    low, high = CELL_SIDES.get(name, (12, 40))
    width, height = rng.uniform(low, high, 2)
    row = rng.uniform(0.9, 1.6)  # furrows and rows of trees: radians a pixel
    brightness = rng.random((64, 64))  # of each cell
    cells = brightness[(u // width).astype(int), (v // height).astype(int)]
    border = np.minimum(u % width, v % height)  # distance to the cell's edge
    patches = noise(rng, 6)
    grain = noise(rng, 1)
    winding = rng.uniform(0, 8) * np.sin(u / rng.uniform(8, 20))
    bend = abs(v + winding)  # distance to a winding line along the scene

    # Whatever the class, each entry draws from rng: the images depend on that order.
    on_top = {
        "AnnualCrop": (border < 1) | (np.sin(u * row) > 0.3),  # furrows
        "Forest": patches > 4.5,  # clearings
        "HerbaceousVegetation": grain > rng.uniform(2.8, 4),  # shrubs
        "Highway": bend < rng.uniform(1.5, 5),
        "Pasture": (border < 1.5) & (grain > rng.uniform(1, 3)),  # hedges
        "PermanentCrop": np.sin(u * row) * np.sin(v * row) > rng.uniform(0.1, 0.7),
        "River": bend < rng.uniform(2, 11),
        "SeaLake": bend > rng.uniform(22, 60),  # shores
    }
    streets = (border < (width + height) / 8) | (cells < 0.2)  # between buildings
    covered = on_top.get(name, streets)

    scene = SCENES[name]
    colours = np.array([scene.dark, scene.light, scene.top], float)
    colours += rng.normal(0, 5, (3, 3)) + rng.normal(0, 12)
    dark, light, top = colours
    level = scene.fields * cells + scene.patches * patches + scene.grain * grain
    pixels = dark + level[..., None] * (light - dark)
    strength = rng.uniform(0.25, 1)
    pixels += covered[..., None] * strength * (top - pixels)
    return gaussian_filter(pixels, (0.6, 0.6, 0)) + rng.normal(0, 3, (64, 64, 3))


def noise(rng, size):
    """Random values (64, 64) in blobs of about `size` pixels: mean 2, deviation 1."""
    layer = gaussian_filter(rng.normal(size=(64, 64)), size, mode="wrap")
    return layer / layer.std() + 2
