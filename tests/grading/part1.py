"""Part 1: the results of ps2_theory.ipynb against the problem set and plain loops."""
import numpy as np
import nbformat
import pytest

Z = [[0, 2, 0, 2], [3, 2, 5, 2], [1.5, 7.5, 2.5, 6.5], [3, 2, 5, 2]]
A = [[0.5, 0.88, 0.5, 0.88], [0.95, 0.88, 0.99, 0.88], [0.82, 1, 0.92, 1], [0.95, 0.88, 0.99, 0.88]]
LAYERS = [(96, 55), (96, 27), (256, 27), (256, 13), (384, 13), (384, 13), (256, 13), (256, 6), (9216, 1), (4096, 1),
          (4096, 1), (1000, 1)]


def equal(computed, expected, decimals=9):
    computed, expected = np.asarray(computed), np.asarray(expected)
    return computed.shape == expected.shape and np.allclose(np.round(computed, decimals), expected)


@pytest.fixture
def picture():
    return np.random.default_rng(5).random((6, 8))


@pytest.mark.points("1.1", 2)
def test_identity(notebook, picture):
    """(a) the kernel is 3 x 3 and leaves a padded picture unchanged"""
    assert notebook.IDENTITY.shape == (3, 3), "the kernel is not 3 x 3"
    assert equal(notebook.cross_correlate2d(picture, notebook.IDENTITY, padding=1), picture), "the picture changes"


@pytest.mark.points("1.1", 1)
def test_box(notebook, picture):
    """(b) the kernel of 16 times 1/16 gives the mean, 68 for the example"""
    assert equal(notebook.cross_correlate2d(notebook.M, notebook.BOX), [[68]]), "M does not give 68"
    assert equal(notebook.cross_correlate2d(picture[:4, :4], notebook.BOX), [[picture[:4, :4].mean()]]), "not the mean"


@pytest.mark.points("1.1", 1)
def test_diagonal(notebook):
    """(c) the own kernel gives 510 and 0 for the two examples"""
    for example, expected in (([[255, 0], [0, 255]], 510), ([[5, 10], [15, 20]], 0)):
        assert equal(notebook.cross_correlate2d(np.array(example), notebook.DIAGONAL), [[expected]]), f"not {expected}"


@pytest.mark.points("1.2", 2)
def test_learned_kernel(notebook):
    """the kernel is that of equation (1); it answers to dark above bright, and not to the reverse or to an upright edge"""
    edge = np.repeat([0.0, 0.0, 1.0], 3).reshape(3, 3)
    answers = [notebook.cross_correlate2d(patch, notebook.LEARNED)[0, 0] for patch in (edge, edge[::-1], edge.T)]
    assert notebook.LEARNED.sum() == pytest.approx(0.035), "other weights"
    assert answers[0] == pytest.approx(2.71) and answers[1] == pytest.approx(-2.71) and abs(answers[2]) < 0.1, "other answers"


@pytest.mark.points("1.2", 2)
def test_areas(notebook):
    """the rule for the circles finds a wide dark-to-bright line, and none where bright is above dark"""
    step = np.repeat([0.0, 1.0], 80)[:, None] * np.ones(160)
    for picture, areas in ((step, 1), (step[::-1], 0)):
        found = len(notebook.strong_areas(picture, notebook.LEARNED)[1])
        assert found == areas, f"{found} areas in place of {areas}"


@pytest.mark.points("1.3.1", 3)
def test_padding(notebook):
    """the input is padded to 6 x 6 with zeros"""
    assert equal(notebook.X_PADDED, np.pad(notebook.X, 1)) and np.shape(notebook.X_PADDED) == (6, 6), "other padding"


@pytest.mark.points("1.3.1", 4)
def test_before_the_activation(notebook):
    """the map before the activation is that of the problem set's input and kernel"""
    assert equal(notebook.Z, Z), "other values"


@pytest.mark.points("1.3.1", 3)
def test_feature_map(notebook):
    """the feature map is its sigmoid, to two decimals"""
    assert equal(notebook.A, A, decimals=2), "other values"


@pytest.mark.points("1.3.2", 2)
def test_pooled(notebook):
    """the pooled map, to two decimals"""
    assert equal(notebook.POOLED, [[0.95, 0.99], [1, 1]], decimals=2), "other values"


@pytest.mark.points("1.4", 4)
def test_average_pooling_as_convolution(notebook, picture):
    """the kernel of four quarters with stride 2 equals 2 x 2 average pooling on a random picture"""
    expected = picture.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    assert equal(notebook.cross_correlate2d(picture, notebook.QUARTERS, stride=2), expected), "other values"


@pytest.mark.points("1.4", 2)
def test_example_of_average_pooling(notebook):
    """the example gives [[3.5, 5.5], [11.5, 13.5]]"""
    result = notebook.cross_correlate2d(notebook.Y, notebook.QUARTERS, stride=2)
    assert equal(result, [[3.5, 5.5], [11.5, 13.5]]), "other values"


@pytest.mark.points("1.5", 8)
def test_dimensions(notebook):
    """the dimensions of all twelve layers"""
    found = [row["after"] for row in notebook.trace(notebook.ALEXNET)]
    assert found == [(channels, size, size) for channels, size in LAYERS], f"other dimensions: {found}"


@pytest.mark.points("1.5", 2)
def test_calculations(notebook):
    """the stored output shows how each size was computed"""
    outputs = {cell.id: cell.get("outputs") for cell in nbformat.read(notebook.path, as_version=4).cells}
    text = "".join(output.get("text", "") for output in outputs["dimensions-table"])
    for steps, stride, size in ((216, 4, 55), (52, 2, 27), (26, 1, 27), (24, 2, 13), (12, 1, 13), (10, 2, 6)):
        assert f"floor({steps}/{stride})+1 = {size}" in text, f"floor({steps}/{stride})+1 = {size} is missing"
