"""The trainer of the course's template, with checked settings and correct means.

Used by ps2_eurosat.ipynb, tools/ and tests/.
"""

import contextlib
import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable
from numbers import Real
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from eurosat import as_whole_numbers, get_batch, get_labels, scale, unwrap
from utils import progress, whole_number

# --- Settings -------------------------------------------------------------------------


class Setting(NamedTuple):
    """A setting's default, its kind and, where it is a number, its limits."""

    default: object
    kind: type = object  # int, float, Callable (or None), or anything
    low: float = 0
    high: float = math.inf


SETTINGS = {
    # of the course's template
    "batch_size": Setting(64, int, low=1),
    "criterion": Setting("CrossEntropyLoss"),  # a name of torch.nn, or a loss
    "epochs": Setting(1, int, low=1),
    "learning_rate": Setting(0.001, float),
    "optimizer": Setting("Adam"),  # a name of torch.optim, or a callable
    "seed": Setting(42, int, high=2**32 - 1),  # as numpy and scikit-learn take it
    # ours
    "warmup": Setting(0.0, float, high=1),  # rising share of one cycle; 0: constant
    "max_grad_norm": Setting(math.inf, float),
    "ema_decay": Setting(0.0, float, high=1),  # of the weights' moving average
    # augment(images, generator), on training batches only
    "augment": Setting(None, Callable),
    # transform(images), on every batch, scaled to [0, 1]
    "transform": Setting(None, Callable),
}


def settings(cfg):
    """All settings of a Trainer, a dictionary: those of `cfg`, and else the defaults.

    `cfg` is a dictionary, or an object with the settings as attributes. ValueError that
    names the setting and says what is allowed.
    """
    if not hasattr(cfg, "keys"):
        names = [name for name in dir(cfg) if not name.startswith("_")]
        cfg = {name: getattr(cfg, name) for name in names}
    unknown = [name for name in cfg if name not in SETTINGS]
    if unknown:
        allowed = ", ".join(SETTINGS)
        raise ValueError(f"cfg has the unknown keys {unknown}; allowed: {allowed}")
    checked = {}
    for name, setting in SETTINGS.items():
        value = cfg[name] if name in cfg else setting.default
        if setting.kind is int:
            value = whole_number(name, value, setting.low, setting.high)
        if setting.kind is float:
            value = real_number(name, value, setting.low, setting.high)
        if setting.kind is Callable and value is not None and not callable(value):
            raise ValueError(f"{name} must be a function or None, not {value!r}")
        checked[name] = value
    make_loss(checked["criterion"])
    find_optimizer(checked["optimizer"])
    return checked


def real_number(name, value, low, high):
    """`value` as a float; ValueError unless it is a number from `low` to `high`."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and low <= value <= high:
        return float(value)
    limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    raise ValueError(f"{name} must be a number, {limits}, not {value!r}")


def make_loss(criterion):
    """The loss that a name of torch.nn, a class of losses or a loss stands for.

    A loss works as loss(scores, labels) on scores (B, n_classes), labels (B,) and gives
    the mean over the batch. ValueError if a name or a class does not.
    """
    refused = f"criterion {criterion!r} is no loss for classes"
    advice = "name one of torch.nn, such as CrossEntropyLoss, or give an object"
    loss = criterion
    if isinstance(criterion, str):
        loss = find_class(nn, criterion)
    if isinstance(loss, type):
        try:
            loss = loss()
            take_a_step(loss, torch.optim.SGD)
        except Exception as error:  # what torch raises is of many kinds
            raise ValueError(f"{refused} ({first_line(error)}): {advice}.") from error
    if not callable(loss):
        raise ValueError(f"{refused}: {advice}.")
    if getattr(loss, "reduction", "mean") != "mean":
        rule = f"its reduction must be 'mean', not {loss.reduction!r}"
        raise ValueError(f"{refused}: {rule}.")
    return loss


def find_optimizer(optimizer):
    """What makes the optimizer: the class of a name of torch.optim, or a callable.

    It works as make(parameters, lr=rate).step(). ValueError if a name does not.
    """
    refused = f"optimizer {optimizer!r} cannot train here"
    advice = "name one of torch.optim, such as Adam, AdamW or SGD, or give a callable"
    make = optimizer
    if isinstance(optimizer, str):
        make = find_class(torch.optim, optimizer)
    if not callable(make):
        raise ValueError(f"{refused}: {advice}.")
    if isinstance(optimizer, str):
        try:
            take_a_step(nn.CrossEntropyLoss(), make)
        except Exception as error:  # what torch raises is of many kinds
            raise ValueError(f"{refused} ({first_line(error)}): {advice}.") from error
    return make


def find_class(module, name):
    """The class that `name` is in a module; None if it is none."""
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found
    return None


@torch.inference_mode(False)  # with gradients, wherever it is called
def take_a_step(loss, make_optimizer):
    """One step of training a convolution; fails as a longer training would."""
    kernel = nn.Parameter(torch.zeros(3, 1, 1, 1))
    bias = nn.Parameter(torch.zeros(3))
    optimizer = make_optimizer([kernel, bias], lr=0.1)
    images = torch.ones(2, 1, 1, 1)
    scores = nn.functional.conv2d(images, kernel, bias).flatten(1)
    labels = torch.tensor([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit fails, and is refused
        loss(scores.log_softmax(1), labels).backward()
    optimizer.step()


def first_line(error):
    """The first line of an error's text, for a sentence."""
    return str(error).partition("\n")[0]


# --- Trainer --------------------------------------------------------------------------


def default_device():
    """The accelerator of this machine, else its processor."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return torch.device("cpu")
    return device


def has_bfloat16(device):
    """Does the device compute in bfloat16 itself? Elsewhere float32 is faster."""
    if device.type == "cpu":
        if "ONEDNN_MAX_CPU_ISA" in os.environ:  # it may forbid these instructions
            return False
        return torch.cpu.get_capabilities().get("avx512_bf16", False)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


class Trainer:
    """Train and test a classifier, with the calls of the course's template.

    Each of SETTINGS, changed by `cfg`, becomes an attribute and stays as it is: another
    setting takes another Trainer. All of them, as they were given, are in `cfg`; the
    attributes `criterion` and `optimizer` are what they stand for. A training leaves
    the global random state as it was.
    """

    bfloat16 = True  # train in it where the device computes in it

    def __init__(self, model, cfg, device=None):
        checked = settings(cfg)
        self.device = default_device() if device is None else torch.device(device)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.generator = torch.Generator()
        self.history = []  # (loss, accuracy, images) of each step
        self.validation = []  # [loss, accuracy] after each epoch
        for name, value in checked.items():
            setattr(self, name, value)
        self.criterion = make_loss(self.criterion)
        make_optimizer = find_optimizer(self.optimizer)
        self.optimizer = make_optimizer(self.model.parameters(), lr=self.learning_rate)
        self.cfg = MappingProxyType(checked)  # from here on all settings stay

    def __setattr__(self, name, value):
        """Set an attribute; AttributeError for `cfg` and the settings, once set."""
        is_setting = name == "cfg" or name in SETTINGS
        if is_setting and hasattr(self, "cfg"):
            advice = "make a new Trainer with another cfg"
            raise AttributeError(f"{name} of a Trainer stays as it is: {advice}")
        super().__setattr__(name, value)

    # --- a batch ---

    def prepare(self, X):
        """The model's input, float32, for images (B, 3, H, W), uint8 or in [0, 1]."""
        X = scale(X.to(self.device))
        X = X.to(memory_format=torch.channels_last)
        if self.transform is not None:
            X = self.transform(X)
        return X

    def trains_in_bfloat16(self):
        """Is training faster in bfloat16 on this device?"""
        return self.bfloat16 and has_bfloat16(self.device)

    def scores(self, X, tta=None):
        """Scores (B, n_classes), float32, of images (B, 3, H, W), uint8 or in [0, 1].

        Training computes in bfloat16 where the device does. With `tta`, a function that
        gives the views of a batch: the logarithm of the mean probability over them.
        """
        X = self.prepare(X)
        in_bfloat16 = self.model.training and self.trains_in_bfloat16()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16):
            if tta is None:
                return self.model(X).float()
            views = [self.model(view).log_softmax(1) for view in tta(X)]
        return torch.stack(views).logsumexp(0) - math.log(len(views))

    def measure(self, scores, Y):
        """Loss and accuracy, as tensors, of scores (B, n_classes) for labels Y (B,)."""
        Y = as_whole_numbers("labels", Y).to(self.device)
        classes = scores.shape[1]
        if Y.max() >= classes:
            found = f"label {Y.max()}, but the model has {classes} scores an image"
            raise ValueError(f"{found}: labels must be from 0 to {classes - 1}")
        if isinstance(self.criterion, nn.NLLLoss):
            scores = scores.log_softmax(1)  # changes nothing where the model ends on it
        right = scores.argmax(1) == Y
        accuracy = right.cpu().double().mean()  # some accelerators have no float64
        return self.criterion(scores, Y), accuracy

    def iter_step(self, X, Y):
        """Loss and accuracy of a batch, as tensors; takes no optimisation step.

        X: images (B, 3, H, W), uint8 or in [0, 1]; Y: labels (B,).
        """
        return self.measure(self.scores(X), Y)

    # --- training ---

    def train(self, dataset, label="training", validation=None):
        """(avg_loss, avg_acc): lists of the means over the images so far in each epoch.

        One value an iteration. self.validation lists loss and accuracy on the dataset
        `validation` after each epoch. FloatingPointError if a loss or a gradient is
        not finite.
        """
        refuse_empty(dataset)
        base, indices = unwrap(dataset)
        batches = math.ceil(len(dataset) / self.batch_size)  # in an epoch
        all_steps = range(self.epochs * batches)
        self.start(len(all_steps))
        with (
            self.random_state_afterwards(),
            self.averages_afterwards(),
            progress(all_steps, label, self.describe_step) as steps,
        ):
            for step in steps:
                epoch, place = divmod(step, batches)
                if place == 0:
                    order = indices[self.shuffle(epoch, len(dataset))]
                    parts = order.split(self.batch_size)
                X, Y = get_batch(base, parts[place])
                self.optimise(X, Y)
                if validation is not None and place == batches - 1:
                    self.validate(validation)
        return running_means(self.history, batches)

    def start(self, steps):
        """Begin a training of so many steps, from the weights as they are."""
        self.history = []
        self.validation = []
        self.schedule = LambdaLR(self.optimizer, self.rate_of_step(steps))
        self.average = [weight.detach().clone() for weight in self.model.parameters()]

    def rate_of_step(self, steps):
        """The learning rate's factor as a function of the step: one cycle, or constant.

        One cycle is a linear rise, then half a cosine down to 0.
        """
        if self.warmup == 0:
            return lambda step: 1.0
        rise = max(1, self.warmup * steps)

        def factor(step):
            rising = min(1, (step + 1) / (rise + 1))
            fallen = max(0, step - rise) / max(1, steps - rise)
            return rising * (1 + math.cos(math.pi * fallen)) / 2

        return factor

    def random_state_afterwards(self):
        """A context: at its end the global random state is as it was."""
        devices = []  # beside the CPU
        if self.device.type != "cpu":
            devices.append(self.device)
        return torch.random.fork_rng(devices, device_type=self.device.type)

    def shuffle(self, epoch, length):
        """The order (N,) of an epoch; dropout and augmentation start from its seed."""
        seed = self.seed + 1000 * epoch
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        return torch.randperm(length, generator=self.generator)

    def optimise(self, X, Y):
        """One step. FloatingPointError leaves the weights of the step before."""
        self.model.train()
        if self.augment is not None:
            X = self.augment(X.to(self.device), self.generator)
        loss, accuracy = self.iter_step(X, Y)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if not (loss + norm).isfinite():
            found = f"the loss is {loss}, its gradient {norm} long"
            rate = f"lower learning_rate (now {self.learning_rate})"
            bound = f"max_grad_norm (now {self.max_grad_norm})"
            raise FloatingPointError(f"{found}: {rate} or {bound}")
        self.optimizer.step()
        self.schedule.step()
        self.move_average()
        self.history.append((loss.item(), accuracy.item(), len(Y)))

    def describe_step(self):
        """What the progress shows of the last step."""
        if not self.history:
            return "steps"
        loss, _, _ = self.history[-1]
        return f"steps, loss {loss:.3f}"

    # --- averaged weights, which predict ---

    def move_average(self):
        """Move the averages to the weights; the first steps are forgotten faster."""
        step = len(self.history)
        decay = 0.0
        if step > 0:
            decay = min(self.ema_decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self.model.parameters()]
        torch._foreach_lerp_(self.average, weights, 1 - decay)

    def swap_averages(self):
        """Exchange the weights and their averages."""
        for weight, average in zip(self.model.parameters(), self.average, strict=True):
            kept = weight.data
            weight.data = average.data
            average.data = kept

    @contextlib.contextmanager
    def averages_afterwards(self):
        """A context: however it ends, the model has the averaged weights then."""
        try:
            yield
        finally:
            self.swap_averages()
            self.average = []  # a copy of all weights

    def validate(self, dataset):
        """Test the averaged weights on a dataset, into self.validation."""
        self.swap_averages()
        try:
            losses, accuracies = self.test(dataset, label="")
        finally:
            self.swap_averages()
        self.validation.append([losses[-1], accuracies[-1]])

    # --- testing ---

    def predict(self, dataset, label="predicting", tta=None):
        """Scores (N, n_classes) and labels (N,) of the dataset, in order."""
        refuse_empty(dataset)
        base, indices = unwrap(dataset)
        self.model.eval()
        all_scores = []
        all_labels = []
        parts = indices.split(self.batch_size)
        with torch.inference_mode(), progress(parts, label) as parts_shown:
            for part in parts_shown:
                X, Y = get_batch(base, part)
                all_scores.append(self.scores(X, tta).cpu())
                all_labels.append(Y.cpu())
        return torch.cat(all_scores), torch.cat(all_labels)

    def test(self, dataset, label="testing"):
        """(avg_loss, avg_acc) without training: lists of the means so far."""
        scores, labels = self.predict(dataset, label)
        return self.curves(scores, labels)

    def curves(self, scores, labels):
        """The same from scores (N, n_classes) that predict gave, and labels (N,)."""
        rows = []
        for part in torch.arange(len(labels)).split(self.batch_size):
            loss, accuracy = self.measure(scores[part].to(self.device), labels[part])
            rows.append((loss.item(), accuracy.item(), len(part)))
        return running_means(rows, len(rows))

    # --- a finished network in a file, see train_or_load in utils.py ---

    def identity(self, dataset):
        """The settings and the labels of a training: a text, the same on every machine.

        A stored training is known by it. Neither the model nor the pixels are in it.
        """
        parts = [f"{name} {describe(value)}" for name, value in self.cfg.items()]
        labels = get_labels(dataset).cpu().numpy().tobytes()
        digest = hashlib.sha256(labels).hexdigest()[:16]
        return f"{', '.join(parts)}; {len(dataset)} images with labels {digest}"

    def load(self, weights, validation):
        """Take the weights of a finished training, and stay on the CPU."""
        self.device = torch.device("cpu")
        self.model.cpu().float().load_state_dict(weights)
        self.validation = validation
        # what only training needs takes several times as much memory as the weights
        self.optimizer.zero_grad()
        self.optimizer.state.clear()


def refuse_empty(dataset):
    """ValueError if there is no image."""
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: it needs at least one image")


def describe(value):
    """A setting as a text that is the same on every machine.

    A function or a class is its name; two functions of one name are taken for one.
    """
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    hidden = []  # what a loss does not say of itself
    for name in ("label_smoothing", "weight"):
        if getattr(value, name, None) is not None:
            hidden.append(getattr(value, name))
    text = re.sub(" at 0x[0-9a-fA-F]+", "", str(value))  # addresses in memory
    in_one_line = " ".join(text.split())
    return f"{in_one_line} {hidden}"


def running_means(history, batches):
    """(losses, accuracies): means over the images so far in each epoch of `batches`.

    Each row of `history` is (loss, accuracy, images) of a batch.
    """
    table = np.array(history, dtype=float).reshape(-1, batches, 3)
    losses, accuracies, images = np.moveaxis(table, -1, 0)  # each (epochs, batches)
    seen = images.cumsum(axis=1)
    mean_losses = (losses * images).cumsum(axis=1) / seen
    mean_accuracies = (accuracies * images).cumsum(axis=1) / seen
    return mean_losses.ravel().tolist(), mean_accuracies.ravel().tolist()
