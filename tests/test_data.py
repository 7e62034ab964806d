"""Loading, caching and splitting."""
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tqdm import tqdm

import utils
from tools.notebook import definitions

RECIPE = definitions("ps2_eurosat.ipynb")

def test_offline_gives_a_stand_in_that_says_so(offline):
    data = utils.load_eurosat()
    assert not data.real and "not EuroSAT" in data.note
    assert data.classes == utils.CLASSES and data.images.shape == (1200, 3, 64, 64)


def test_a_download_bar_becomes_one_line_with_a_fixed_end(monkeypatch):
    texts = []
    monkeypatch.setattr(utils.Line, "write", lambda line, text: texts.append(text) or len(text))
    with utils.downloading("EuroSAT"):
        for _ in tqdm(range(3)):
            pass
    assert any("3/3" in text for text in texts) and texts[-1] == "EuroSAT: ready."


def test_progress_ends_on_a_text_without_times(monkeypatch):
    texts = []
    monkeypatch.setattr(utils.Line, "write", lambda line, text: texts.append(text))
    assert list(utils.progress([5, 6], "work")) == [5, 6]
    assert texts[-1] == "work: 2 of 2."
    for _ in utils.progress([5, 6], "work"):
        break
    assert texts[-1] == "work: stopped early."


def test_required_pictures_are_an_error_when_absent(offline, monkeypatch):
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    with pytest.raises(FileNotFoundError, match="EUROSAT_ROOT"):
        utils.load_eurosat()


def test_incomplete_folder_is_refused(stand_in):
    with pytest.raises(ValueError, match="120 pictures"):
        utils.load_eurosat(stand_in)


def test_pictures_are_those_of_torchvision(pictures, stand_in):
    dataset = torchvision.datasets.EuroSAT(stand_in)
    for index in (0, 57, 119):
        picture, label = dataset[index]
        assert np.array_equal(pictures.images[index].permute(1, 2, 0), np.asarray(picture))
        assert pictures[index][1] == label == pictures.labels[index]


def test_cache_is_used_and_follows_the_files(stand_in, pictures, monkeypatch):
    monkeypatch.setattr(utils, "progress", lambda *_: pytest.fail("decoded again"))
    again = utils.load_eurosat()
    assert torch.equal(again.images, pictures.images)
    file = stand_in / "eurosat/2750/Forest/Forest_1.jpg"
    before = file.read_bytes()
    Image.new("RGB", (64, 64)).save(file)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        utils.load_eurosat()
    file.write_bytes(before)


def test_split_parts_share_no_picture_and_keep_the_classes(pictures):
    split = utils.split_eurosat(pictures)
    parts = [set(index.tolist()) for index in split.values()]
    assert set.union(*parts) == set(range(120)) and sum(map(len, parts)) == 120
    assert [len(part) for part in parts] == [72, 24, 24]
    assert all(torch.bincount(pictures.labels[index]).max() <= len(index) / 10 + 1 for index in split.values())


def test_parts_are_shuffled_so_that_a_slice_of_one_holds_every_class(pictures):
    assert len(set(pictures.labels[utils.split_eurosat(pictures)["train"][:50]].tolist())) == 10


def test_published_lists_are_followed(pictures, tmp_path):
    pictures.real = True
    lists = {"train": pictures.names[:5], "val": pictures.names[5:7], "test": pictures.names[7:8]}
    (tmp_path / "eurosat").mkdir()
    for part, names in lists.items():
        (tmp_path / "eurosat" / f"eurosat-{part}.txt").write_text("\n".join(names) + "\n")
    split = utils.split_eurosat(pictures, tmp_path)
    assert {part: [pictures.names[i] for i in index] for part, index in split.items()} == lists


def test_views_are_the_eight_symmetries():
    picture = torch.arange(16).reshape(1, 4, 4)
    views = [utils.view(picture, k) for k in range(8)]
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    drawn = RECIPE["random_views"](picture.expand(400, 1, 4, 4), torch.Generator().manual_seed(0))
    assert {tuple(v.flatten().tolist()) for v in drawn} == {tuple(v.flatten().tolist()) for v in views}


def test_shift_moves_without_changing_values():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8)
    shifted = RECIPE["random_shift"](picture, torch.Generator().manual_seed(1), by=2)
    padded = torch.nn.functional.pad(picture, (2,) * 4, mode="reflect")
    places = [padded[..., i:i + 8, j:j + 8] for i in range(5) for j in range(5)]
    assert any(torch.equal(shifted, place) for place in places)
