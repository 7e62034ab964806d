"""Train the ladder of part 2: from the template's settings to ours, a change a rung.

python -m tools.ladder [--seed SEED] [RUNG]...

Trains the rungs that are not on record with that seed (default 42): all of them, or
those that are named. Each rung trains for 8 epochs on the published train list and is
judged on the validation list; the test list is never read. The rungs are kept in
report/trials.json.
"""

import argparse
from typing import NamedTuple

import torch

from results import LEDGER, json_text
from symmetry import symmetries
from tools import trials
from tools.files import command, commit
from tools.plain import PlainNetwork, whiten
from trainer import Trainer, settings
from utils import write_whole

EPOCHS = 8
FIRST_SEED = 42  # by which gains are measured
STEPS = {  # of the ladder, and the settings of the recipe that each of them takes over
    "template's settings, 8 epochs": [],
    "inputs standardised": ["transform"],
    "random windows": ["augment"],
    "one cycle, clipped gradients": ["warmup", "max_grad_norm"],
    "smoothed labels": ["criterion"],
    "Muon, its rate and decay": ["optimizer", "learning_rate"],
}


class Rung(NamedTuple):
    """A rung of the ladder: what it is compared with, and what it is trained with."""

    name: str
    below: str  # the name of the rung that it changes; "" for the first
    cfg: dict
    in_recipe: bool = True
    is_plain: bool = False  # the plain network in the place of MyCNNModel


def make_rungs(part2, train):
    """All rungs, from the lowest; the last of STEPS has the recipe of part 2."""
    recipe = part2["recipe"](train)
    cfg = {"epochs": EPOCHS}
    rungs = []
    below = ""
    for name, taken_over in STEPS.items():
        cfg = {**cfg, **{setting: recipe[setting] for setting in taken_over}}
        rungs.append(Rung(name, below, cfg))
        below = name
    averaged = {**cfg, "ema_decay": 0.998}
    turned = {**averaged, "augment": part2["random_symmetry_and_window"]}
    plain = "plain network, whitened, averaged, eight views"
    rungs.append(Rung("averaged weights", below, averaged, in_recipe=False))
    rungs.append(Rung(plain, below, turned, in_recipe=False, is_plain=True))
    return rungs


def make_trainer(rung, part2, train, seed):
    """The trainer of a rung with a seed."""
    cfg = {**rung.cfg, "seed": seed}
    if not rung.is_plain:
        return Trainer(part2["new_model"](seed), cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PlainNetwork(10)
    trainer = Trainer(model, cfg)
    whiten(trainer, train)
    return trainer


def climb(rung, part2, train, validation, seed):
    """Train a rung with one seed; its row of the ledger."""
    label = f"{rung.name}, seed {seed}"
    trainer = make_trainer(rung, part2, train, seed)
    trainer.train(part2["rotated_copy"](train, seed), label)
    tta = symmetries if rung.is_plain else None
    accuracy = trials.judge(trainer, validation, tta)
    print(f"{label}: {accuracy:.2%} on the validation list", flush=True)
    return {
        "rung": rung.name,
        "below": rung.below,
        "in recipe": rung.in_recipe,
        "settings": trials.as_texts(trainer.cfg),
        "images": len(train),
        "judged images": len(validation),
        "seeds": [seed],
        "validation_accuracy": [accuracy],
        "commit": commit()[:7],
    }


def find_row(ledger, name):
    """The row of a rung in the ledger, None if there is none."""
    for row in ledger["ladder"]:
        if row["rung"] == name:
            return row
    return None


def is_on_record(ledger, rung, seed):
    """Is the rung in the ledger, trained with that seed and today's settings?"""
    row = find_row(ledger, rung.name)
    if row is None or seed not in row["seeds"]:
        return False
    return row["settings"] == trials.as_texts(settings(rung.cfg))


def keep(row, names):
    """Put a row into the ledger, in the order of `names`; other seeds of it stay."""
    ledger = trials.read_ledger()
    old = find_row(ledger, row["rung"])
    if old is not None and old["settings"] == row["settings"]:
        row["seeds"] = [*old["seeds"], *row["seeds"]]
        row["validation_accuracy"] = [
            *old["validation_accuracy"],
            *row["validation_accuracy"],
        ]
    others = [other for other in ledger["ladder"] if other is not old]
    rows = [*others, row]
    rows.sort(key=lambda row: names.index(row["rung"]))
    ledger["ladder"] = rows
    write_whole(LEDGER, json_text(ledger))


def refuse_unknown(ledger, names):
    """ValueError if the ledger holds a rung that is not among `names`."""
    for row in ledger["ladder"]:
        if row["rung"] not in names:
            advice = "name it as tools/ladder.py does, or take its row out"
            raise ValueError(f"{LEDGER} has a rung {row['rung']!r}: {advice}")


def refuse_gaps(ledger, rung, seed):
    """ValueError unless what a gain is measured against is on record.

    That is the rung below, and the first seed.
    """
    if rung.below and find_row(ledger, rung.below) is None:
        raise ValueError(f"{rung.below!r} is not on record: train it first")
    if seed != FIRST_SEED and not is_on_record(ledger, rung, FIRST_SEED):
        raise ValueError(f"{rung.name!r} takes seed {FIRST_SEED} first")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rungs", nargs="*", metavar="RUNG")
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    arguments = parser.parse_args()
    ledger = trials.read_ledger()  # a fault is better found now than after hours
    part2 = trials.load_part2()
    train, validation = trials.load_lists()
    rungs = make_rungs(part2, train)
    names = [rung.name for rung in rungs]
    refuse_unknown(ledger, names)
    for name in arguments.rungs:
        if name not in names:
            raise ValueError(f"there is no rung {name!r}; the rungs are {names}")
    for rung in rungs:
        is_asked = not arguments.rungs or rung.name in arguments.rungs
        if is_asked and not is_on_record(trials.read_ledger(), rung, arguments.seed):
            refuse_gaps(trials.read_ledger(), rung, arguments.seed)
            row = climb(rung, part2, train, validation, arguments.seed)
            keep(row, names)
    print(f"{LEDGER} holds the ladder")


if __name__ == "__main__":
    command(main)
