"""Made-up records and a ledger, for the tests of results.py and discussion.py."""

TUNED = ["tuned, seed 42", "tuned, seed 43", "tuned, seed 44"]
PRETRAINED = ["pretrained, seed 42", "pretrained, seed 43", "pretrained, seed 44"]


def made_up_row(correct):
    """A model that has `correct` of 200 answers right; the other numbers are fixed."""
    return {
        "views": "8",
        "training images": 2000,
        "Accuracy (train)": 0.875,
        "Loss (train)": 0.125,
        "Accuracy (test)": correct / 200,
        "Loss (test)": 0.25,
        "correct": correct,
        "total": 200,
        "interval": [0.5, 0.75],
    }


def calibrated(temperature, confidence, error):
    """A model of that temperature; the other numbers are fixed."""
    return {
        "temperature": temperature,
        "confidence": confidence,
        "test accuracy": 0.9,
        "calibration error": error,
        "noise floor": 0.0031,
        "test loss": 0.1875,
    }


ABOUT = {  # what both made-up records hold
    "classes": ["Forest", "Highway", "River"],
    "confusion": {
        "pretrained, seed 42": [[90, 1, 0], [0, 60, 4], [2, 5, 38]],
        "tuned, seed 42": [[88, 3, 0], [4, 58, 2], [0, 1, 44]],
    },
    "cost": {
        "our model": [10_111.0],
        "our tuned model": [19_000.0, 20_000.0, 20_400.0],
        "pretrained model": [25_000.0],
    },
    "multiply-adds": {"our tuned model": 60_400_000, "pretrained model": 300_000_000},
    "epochs": {
        "template's settings": 1,
        "our model": 16,
        "our tuned model": 16,
        "pretrained model": 6,
    },
    "mcnemar of tuning": {
        "models": ["our model", "tuned, seed 42"],
        "right alone": [10, 70],
        "p": 1e-9,
    },
    "parameters": {"our tuned model": 500_000, "pretrained model": 3_000_000},
    "pretrained": "lite2",
    "calibration": {
        "tuned, seed 42": {
            "as trained": calibrated(1.0, 0.89, 0.0912),
            "scaled": calibrated(0.6123, 0.905, 0.0048),
        },
        "pretrained, seed 42": {
            "as trained": calibrated(1.0, 0.95, 0.0502),
            "scaled": calibrated(1.25, 0.901, 0.0041),
        },
    },
    "wrong by all": 7,
    "neighbours": {
        "split by draw": {
            "copies": 0.256,
            "correct": 180,
            "total": 200,
            "interval": [0.85, 0.9375],
        },
    },
}
ONE_SEED = {
    "data": "Drawn stand-in, not EuroSAT",
    "numbers of": "quick run",
    "judged on": "validation half",
    "images": 200,
    **ABOUT,
    "seeds of": {
        "our tuned model": ["tuned, seed 42"],
        "pretrained model": ["pretrained, seed 42"],
    },
    "together": {"all 2 together": ["tuned, seed 42", "pretrained, seed 42"]},
    "results": {
        "template's settings": made_up_row(100),
        "our model": made_up_row(120),
        "tuned, seed 42": made_up_row(180),
        "pretrained, seed 42": made_up_row(184),
        "all 2 together": made_up_row(186),
    },
    "mcnemar": [
        {
            "models": ["tuned, seed 42", "pretrained, seed 42"],
            "right alone": [4, 8],
            "p": 0.3877,
        },
    ],
}
THREE_SEEDS = {
    "data": "EuroSAT",
    "numbers of": "full run",
    "judged on": "test list",
    "images": 200,
    **ABOUT,
    "seeds of": {
        "our tuned model": TUNED,
        "pretrained model": PRETRAINED,
    },
    "together": {
        "3 tuned together": TUNED,
        "all 6 together": [*TUNED, *PRETRAINED],
    },
    "results": {
        "template's settings": made_up_row(100),
        "our model": made_up_row(120),
        "tuned, train list alone": made_up_row(170),
        "tuned, seed 42": made_up_row(180),
        "tuned, seed 43": made_up_row(184),
        "tuned, seed 44": made_up_row(182),
        "pretrained, seed 42": made_up_row(196),
        "pretrained, seed 43": made_up_row(196),
        "pretrained, seed 44": made_up_row(196),
        "3 tuned together": made_up_row(186),
        "all 6 together": made_up_row(198),
    },
    "mcnemar": [
        {
            "models": ["tuned, seed 42", "pretrained, seed 42"],
            "right alone": [0, 16],
            "p": 0.0000305,
        },
        {
            "models": ["tuned, seed 43", "pretrained, seed 43"],
            "right alone": [2, 14],
            "p": 0.00418,
        },
        {
            "models": ["tuned, seed 44", "pretrained, seed 44"],
            "right alone": [3, 17],
            "p": 0.00258,
        },
    ],
}


def rung(name, below, *accuracies, in_recipe=True):
    """A made-up row of the ladder, a seed for each accuracy."""
    return {
        "rung": name,
        "below": below,
        "in recipe": in_recipe,
        "judged images": 5400,
        "validation_accuracy": list(accuracies),
    }


LEDGER = {
    "trials": [
        {
            "model": "own",
            "seeds": [42],
            "changes": {"epochs": 5, "optimizer": "Muon"},
            "images": 16200,
            "validation_accuracy": [0.97],
        },
        {
            "model": "own",
            "seeds": [42],
            "changes": {"epochs": 5, "batch_size": 32},
            "images": 16200,
            "validation_accuracy": [0.96],
        },
        {
            "model": "own",
            "seeds": [42],
            "changes": {"epochs": 5, "batch_size": 128},
            "images": 16200,
            "validation_accuracy": [0.968],
        },
        {
            "model": "first",
            "earlier": "with fewer channels",
            "seeds": [42, 43, 44],
            "changes": {"epochs": 2},
            "images": 2000,
            "validation_accuracy": [0.98, 0.97, 0.99],
        },
        {
            "model": "first",
            "earlier": "with fewer channels",
            "seeds": [42, 43, 44],
            "changes": {"epochs": 2, "ema_decay": 0.0},
            "images": 2000,
            "validation_accuracy": [0.96, 0.95, 0.97],
        },
        {
            "model": "first",
            "earlier": "with fewer channels",
            "seeds": [42, 43, 44],
            "changes": {"epochs": 2, "augment": "None"},
            "images": 2000,
            "validation_accuracy": [0.98, 0.98, 0.98],
        },
        {
            "model": "first",
            "earlier": "with fewer channels",
            "seeds": [42, 43, 44],
            "changes": {"epochs": "2", "batch_size": 32},
            "images": 2000,
            "validation_accuracy": [0.900, 0.899, 0.901],
        },
    ],
    "ladder": [
        rung("template's settings", "", 0.75),
        rung("Muon", "template's settings", 0.97, 0.98),
        rung("averaged", "Muon", 0.9725, in_recipe=False),
        rung("plain", "Muon", 0.96, in_recipe=False),
    ],
    "test": [{"what": "full run", "looks": 10}, {"what": "earlier", "looks": 3}],
}
