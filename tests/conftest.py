"""Shared fixtures: the definitions of part 2, and a tiny EuroSAT of generated pictures."""
import pytest

import utils
from tools.notebook import definitions


@pytest.fixture(scope="session")
def part2():
    """What ps2_eurosat.ipynb defines; nothing is trained."""
    return definitions("ps2_eurosat.ipynb")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """Root of a EuroSAT folder with 12 generated pictures a class."""
    return utils.make_stand_in(tmp_path_factory.mktemp("data"), per_class=12)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No pictures on disk and a download that fails at once; the cache lies in an empty folder."""
    def refuse(*args, **kwargs):
        raise OSError("no network")
    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", refuse)
    monkeypatch.setattr(utils, "CACHE", tmp_path / "build")
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("EUROSAT_REQUIRED", raising=False)


@pytest.fixture
def pictures(stand_in, monkeypatch, tmp_path):
    """The stand-in pictures, loaded as load_eurosat does when there is no network."""
    monkeypatch.setattr(utils, "CACHE", tmp_path / "build")
    monkeypatch.setattr(utils, "find_eurosat", lambda root=None: (stand_in, False))
    return utils.load_eurosat()
