"""Train a network of ps2_eurosat.ipynb with other settings, and put it on record.

python -m tools.trials NETWORK [NAME=VALUE]...

NETWORK is own (MyCNNModel with the notebook's recipe) or pretrained (the network of a
full run, or of the variable PRETRAINED_MODEL).
NAME is a setting of trainer.SETTINGS, images (so many of the train list, from its
start), seeds (joined by commas) or, of pretrained alone, pixels (a side, to which its
images are resized). VALUE is a number, None, or the name of a function or class: of the
notebook, else of torch.nn or torch.optim. For example

python -m tools.trials own epochs=5 images=2000 optimizer=AdamW seeds=42,43,44

Each seed trains on the published train list and is judged on the validation list; the
test list is never read. The trial becomes a row of report/trials.json.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from torch.utils.data import Subset

import utils
from eurosat import load_eurosat, split_eurosat
from results import LEDGER, json_text, read_json
from symmetry import image_and_mirror
from tools.definitions import load_definitions
from tools.files import command, commit
from trainer import SETTINGS, Trainer, describe, settings
from utils import whole_number, write_whole

NOTEBOOK = "ps2_eurosat.ipynb"
CHANGEABLE = [name for name in SETTINGS if name != "seed"]
NAMES = [*CHANGEABLE, "images", "pixels", "seeds"]
CALLED = {  # settings that are functions, and how the Trainer calls them
    "augment": "augment(images, generator)",
    "transform": "transform(images)",
}


# --- Networks -------------------------------------------------------------------------


def own(part2, train, seed, changes):
    """The trainer of MyCNNModel with the recipe."""
    cfg = part2["recipe"](train, seed=seed, **changes)
    return Trainer(part2["new_model"](seed), cfg)


def pretrained(part2, train, seed, changes):
    """The trainer of the pretrained network."""
    return part2["fine_tuner"](pretrained_name(part2), seed, **changes)


def pretrained_name(part2):
    """The name in timm of the pretrained network."""
    return part2["PRETRAINED"] or part2["SIZES"]["full"]["pretrained"]


class Network(NamedTuple):
    """How a trainer is made, and the views over which predictions are averaged."""

    make: Callable
    tta: Callable | None


NETWORKS = {
    "own": Network(own, None),  # its scores are the same for all eight views
    "pretrained": Network(pretrained, image_and_mirror),
}


# --- The command line -----------------------------------------------------------------


def split_words(words):
    """{NAME: VALUE}, texts, of words NAME=VALUE; ValueError if one is not of use."""
    allowed = ", ".join(NAMES)
    given = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no NAME=VALUE; the names are {allowed}")
        if name == "seed":
            raise ValueError(f"{word!r} sets one seed: give seeds={text} in its place")
        if name not in NAMES:
            raise ValueError(f"there is no setting {name!r}; the names are {allowed}")
        if name in given:
            raise ValueError(f"{name} is given twice")
        given[name] = text
    return given


def read_number(text):
    """The number that a text stands for; the text itself if it stands for none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_seeds(text):
    """The seeds in a text such as 42,43,44; ValueError if it holds anything else."""
    seeds = []
    for part in text.split(","):
        seed = settings({"seed": read_number(part)})["seed"]
        if seed in seeds:
            raise ValueError(f"seeds={text}: {seed} stands there twice")
        seeds.append(seed)
    return seeds


def read_setting(name, text, part2):
    """The value of a setting for a text; ValueError says what is allowed."""
    value = read_number(text)
    if name == "pixels":
        return whole_number("pixels", value, low=32)
    if text == "None":
        value = None
    if text in names_of(part2):
        value = part2[text]
    if name in CALLED and value is not None and not callable(value):
        known = f"None or a function of {NOTEBOOK} that works as {CALLED[name]}"
        raise ValueError(f"{name} must be {known}, not {text!r}")
    try:
        settings({name: value})
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from error
    return value


def names_of(part2):
    """The names of the notebook's own functions and classes."""
    names = []
    for name, value in part2.items():
        if getattr(value, "__module__", "") == part2["__name__"]:
            names.append(name)
    return names


# --- A trial --------------------------------------------------------------------------


class Trial(NamedTuple):
    """What a command line asks for; `images` is None for all of the train list."""

    network: str
    seeds: list
    images: int | None
    typed: dict  # of the settings, as texts
    changes: dict  # the same as values


def read_trial(network, given, part2):
    """The Trial of {NAME: VALUE}, texts; ValueError if one is not of use."""
    typed = dict(given)
    if "pixels" in typed and network != "pretrained":
        raise ValueError(
            f"pixels is for pretrained alone: {network} has no such choice"
        )
    seeds = read_seeds(typed.pop("seeds", "42"))
    images = None
    if "images" in typed:
        images = whole_number("images", read_number(typed.pop("images")))
    changes = {name: read_setting(name, text, part2) for name, text in typed.items()}
    return Trial(network, seeds, images, typed, changes)


def run_trial(trial, part2, train, validation):
    """Train with each of the seeds; the row of the ledger.

    ValueError if there are not so many images; RuntimeError if a training fails.
    """
    images = len(train)
    if trial.images is not None:
        images = whole_number("images", trial.images, 1, len(train))
    train = Subset(train, range(images))
    network = NETWORKS[trial.network]
    accuracies = []
    for seed in trial.seeds:
        label = f"{trial.network}, seed {seed}"
        print(f"{label}: training on {images:,} images", flush=True)
        try:
            trainer = network.make(part2, train, seed, trial.changes)
            trainer.train(part2["rotated_copy"](train, seed), label)
            accuracy = judge(trainer, validation, network.tta)
        except Exception as error:  # what a setting can break is of many kinds
            reason = str(error).partition("\n")[0]
            cause = f"{type(error).__name__}: {reason}"
            raise RuntimeError(f"{label}: training failed with {cause}") from error
        accuracies.append(accuracy)
        print(f"{label}: {accuracy:.2%} on the validation list", flush=True)
    model = trial.network
    if model == "pretrained":
        model = f"pretrained {pretrained_name(part2)}"
    return {
        "model": model,
        "images": images,
        "seeds": trial.seeds,
        "changes": trial.typed,
        "settings": as_texts(trainer.cfg),
        "validation_accuracy": accuracies,
        "commit": commit()[:7],
    }


def judge(trainer, validation, tta=None):
    """The accuracy on the validation list, with predictions averaged over views."""
    scores, labels = trainer.predict(validation, "validation", tta)
    return (scores.argmax(1) == labels).double().mean().item()


def as_texts(cfg):
    """{name: text} of a Trainer's settings, but for the seed."""
    texts = {}
    for name in CHANGEABLE:
        text = describe(cfg[name])
        texts[name] = text.removesuffix(" []")  # an empty list of what a value hides
    return texts


def load_part2():
    """The names that the notebook defines; ValueError if some of it cannot be run."""
    utils.set_up()
    part2, problems = load_definitions(NOTEBOOK)
    if problems:
        raise ValueError(f"{NOTEBOOK}: {problems[0]}")
    return part2


def load_lists():
    """The train list and the validation list; ValueError as load_published."""
    data = load_published()
    split = split_eurosat(data)
    return Subset(data, split["train"]), Subset(data, split["val"])


def load_published():
    """EuroSAT with its published lists; ValueError if some of it is missing."""
    data = load_eurosat()
    if data.note or not data.lists:
        needed = "the images of EuroSAT and their published lists are needed"
        raise ValueError(f"{needed}: set EUROSAT_ROOT, see README.md")
    return data


def read_ledger():
    """The ledger; ValueError if the file is none."""
    try:
        ledger = read_json(LEDGER)
    except ValueError as error:
        raise ValueError(f"{LEDGER} is no JSON: {error}") from error
    for name in ("trials", "ladder", "test"):
        if name not in ledger:
            raise ValueError(f"{LEDGER} has no list {name!r}")
    return ledger


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.trials",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("words", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()
    network = arguments.network
    if network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise ValueError(f"the first word names a network, {known}, not {network!r}")
    given = split_words(arguments.words)
    read_ledger()  # a fault in it is better found now than after hours
    part2 = load_part2()
    trial = read_trial(network, given, part2)
    train, validation = load_lists()
    row = run_trial(trial, part2, train, validation)
    ledger = read_ledger()
    ledger["trials"].append(row)
    write_whole(LEDGER, json_text(ledger))
    print(f"{LEDGER} holds {len(ledger['trials'])} trials")


if __name__ == "__main__":
    command(main)
