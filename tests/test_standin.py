"""The drawn stand-in: the same images every time, and its share of wrong labels."""

import numpy as np
import PIL.Image

import eurosat
import standin


def draw(monkeypatch):
    """Bytes of 100 images a class, by path, and the class that each one shows."""
    shown = []
    draw_scene = standin.draw_scene

    def draw_and_note(name, rng):
        shown.append(name)
        return draw_scene(name, rng)

    with monkeypatch.context() as patch:
        patch.setattr(standin, "draw_scene", draw_and_note)
        files = standin.draw_stand_in(100)
    contents = {path: file.getvalue() for path, file in files.items()}
    return contents, np.array(shown)


def test_the_stand_in_has_five_per_cent_wrong_labels_in_every_part(monkeypatch):
    files, shown = draw(monkeypatch)
    again, _ = draw(monkeypatch)
    assert again == files
    labels = np.array([path.parent.name for path in files])
    is_wrong = (shown != labels).reshape(10, 100)
    remainder = np.arange(1, 101) % 5
    for remainders in eurosat.FIFTHS.values():
        in_part = np.isin(remainder, remainders)
        shares = is_wrong[:, in_part].mean(axis=1)
        assert (shares == standin.WRONG_LABELS).all()


def test_files_are_named_as_those_of_eurosat():
    files = list(standin.draw_stand_in(2))
    assert [str(path) for path in files[:3]] == [
        "AnnualCrop/AnnualCrop_1.jpg",
        "AnnualCrop/AnnualCrop_2.jpg",
        "Forest/Forest_1.jpg",
    ]
    assert [path.parent.name for path in files[::2]] == standin.CLASSES


def test_no_two_images_are_the_same():
    pixels = set()
    for file in standin.draw_stand_in(20).values():
        pixels.add(PIL.Image.open(file).tobytes())
    assert len(pixels) == 10 * 20
