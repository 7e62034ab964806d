"""Run named trials of the settings in ps2_eurosat.ipynb; append them to report/trials.json.

python -m tools.trials NAME...

A trial changes the notebook's settings, trains with each of its seeds on the published train list
or its first images, and is judged on the validation list. The test list is never read.
"""

import argparse
import json
from pathlib import Path

from torch.utils.data import Subset

import utils
from tools.definitions import load_definitions
from tools.files import command, commit

LEDGER = Path("report/trials.json")
SEEDS = [42, 43, 44]
SHORT = {"model": "own", "seeds": SEEDS, "images": 2000, "epochs": 5}
# Of the settings, a text may name a function of the notebook. "own" is the recipe for MyCNNModel.
TRIALS = {
    "short": SHORT,
    "three-epochs": {"model": "own", "seeds": SEEDS[:1], "epochs": 3},
    "short-10-epochs": SHORT | {"epochs": 10},
    "short-adamw": SHORT | {"optimizer": "AdamW", "learning_rate": 0.002},
    "short-no-average": SHORT | {"ema_decay": 0.0},
    "short-no-augmentation": SHORT | {"augment": None},
    "short-not-whitened": SHORT | {"model": "own, not whitened"},
}


def trial(name, part2, train, validation):
    """The row of the ledger for the trial `name`: what was run, and the accuracy of each seed."""
    changes = dict(TRIALS[name])
    model, seeds = changes.pop("model"), changes.pop("seeds")
    train = Subset(train, range(len(train))[: changes.pop("images", None)])
    cfg = {k: part2.get(v, v) if isinstance(v, str) else v for k, v in changes.items()}
    accuracies = []
    for seed in seeds:
        settings = part2["recipe"](train, seed=seed, **cfg)
        if model == "own":
            trainer = part2["tuned_trainer"](train, settings)
        else:
            trainer = utils.Trainer(part2["new_model"](seed), settings)
        trainer.train(part2["rotated_copy"](train, seed), f"{name}, seed {seed}")
        accuracies.append(trainer.test(validation)[1][-1])
        print(f"{name}, seed {seed}: {accuracies[-1]:.2%} on the validation list", flush=True)
    row = {"name": name, "model": model, "images": len(train), "seeds": seeds, "changes": changes}
    return row | {"validation_accuracy": accuracies, "commit": commit()[:7]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=TRIALS, metavar="NAME", help=", ".join(TRIALS))
    names = parser.parse_args().names
    part2, _ = load_definitions("ps2_eurosat.ipynb", SEED=SEEDS[0])
    data = utils.load_eurosat()
    if data.note or not data.lists:
        raise SystemExit("Trials need the images and their published lists: set EUROSAT_ROOT.")
    split = utils.split_eurosat(data)
    train, validation = (Subset(data, split[part]) for part in ("train", "val"))
    for name in names:
        row = trial(name, part2, train, validation)
        ledger = json.loads(LEDGER.read_text("utf-8"))
        ledger["trials"].append(row)
        LEDGER.write_text(json.dumps(ledger, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    command(main)
