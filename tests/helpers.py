"""What several test files use."""

import contextlib

import pytest


@contextlib.contextmanager
def refused(kind, *words):
    """The block raises an error of this kind, in one line that holds all the words."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
