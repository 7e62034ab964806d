"""Trainer: averages, repeatability, errors."""
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import utils
from tools.notebook import definitions

RECIPE = definitions("ps2_eurosat.ipynb")
CFG = utils.Config(batch_size=16, epochs=2, learning_rate=1e-2, optimizer=torch.optim.SGD, seed=3)


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(40, 3, 8, 8, generator=generator), torch.randint(0, 4, (40,), generator=generator))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 4))


def test_accuracy_is_correct_over_total(dataset):
    trainer = utils.Trainer(model(), CFG)
    losses, accuracies = trainer.test(dataset)
    scores, labels = trainer.predict(dataset)
    assert torch.equal(labels, dataset.tensors[1])
    assert len(losses) == len(accuracies) == 3  # 40 pictures in batches of 16: 16, 16, 8
    assert accuracies[-1] == pytest.approx((scores.argmax(1) == labels).sum().item() / 40)
    assert losses[-1] == pytest.approx(nn.functional.nll_loss(scores, labels).item(), abs=1e-6)


def test_training_averages_are_over_samples_and_restart_each_epoch(dataset):
    trainer = utils.Trainer(model(), CFG)
    steps = []
    step = trainer.iter_step
    trainer.iter_step = lambda X, Y: steps.append((*step(X, Y), len(Y))) or steps[-1][:2]
    losses, accuracies = trainer.train(dataset)
    for epoch in (steps[:3], steps[3:]):
        for which, values in ((0, losses), (1, accuracies)):
            expected = sum(s[which] * s[2] for s in epoch) / sum(s[2] for s in epoch)
            assert values[steps.index(epoch[-1])] == pytest.approx(expected)
    assert max(accuracies) <= 1


def test_constant_loss_stays_constant():
    means = utils.RunningMean()
    for samples in (64, 64, 3):
        means.add(1.0, 0.5, samples)
    assert means.losses == [1.0] * 3 and means.accuracies == [0.5] * 3


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, RECIPE["Muon"]])
def test_same_seed_same_numbers_and_no_side_effect(dataset, optimizer):
    cfg = dataclasses.replace(CFG, optimizer=optimizer, augment=RECIPE["random_views_and_shift"], warm_up=0.1, average=0.9)
    torch.manual_seed(5)
    networks, state = [model() for _ in range(2)], torch.random.get_rng_state()
    curves = [utils.Trainer(network, cfg).train(dataset) for network in networks]
    assert curves[0] == curves[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    other = utils.Trainer(model(), dataclasses.replace(cfg, seed=4)).train(dataset)
    assert other != curves[0]


@pytest.mark.parametrize("optimizer, rate", [(torch.optim.Adam, 0.02), (RECIPE["Muon"], 0.1)])
def test_training_learns_two_colours(optimizer, rate):
    labels = torch.arange(64) % 2
    colours = labels.view(64, 1, 1, 1) * torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1) + torch.rand(64, 3, 8, 8) / 10
    cfg = dataclasses.replace(CFG, epochs=40, learning_rate=rate, optimizer=optimizer)
    trainer = utils.Trainer(model(), cfg)
    trainer.train(TensorDataset(colours, labels))
    assert trainer.test(TensorDataset(colours, labels))[1][-1] == 1


def test_muon_changes_every_parameter(dataset):
    network = model()
    before = [p.clone() for p in network.parameters()]
    utils.Trainer(network, dataclasses.replace(CFG, optimizer=RECIPE["Muon"])).iter_step(*dataset[:16])
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters()))


def test_non_finite_loss_stops_with_advice(dataset):
    trainer = utils.Trainer(model(), CFG)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        trainer.iter_step(torch.full((4, 3, 8, 8), torch.nan), torch.zeros(4, dtype=torch.long))


def test_config_may_be_a_dictionary_or_an_object(dataset):
    class Settings:
        batch_size, epochs, learning_rate, seed = 20, 1, 0.1, 0
    for cfg in (dict(batch_size=20, epochs=1), Settings, Settings()):
        assert utils.Config.of(cfg).batch_size == 20 or cfg.__class__ is Settings


def test_one_cycle_rises_and_falls():
    rates = [utils.one_cycle(100, 0.1, step) for step in range(100)]
    top = rates.index(max(rates))
    assert top == 10 and max(rates) == 1 and rates[-1] < 0.01
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert utils.one_cycle(1, 0.1, 0) > 0


def test_interval_is_wilsons(part2):
    result = part2["Result"]("m", 1, 1, 0.0, 1.0, 0.0, correct=9, total=10)
    low, high = result.interval()
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # closed form: (p + z2/2n -+ z sqrt(...)) / (1 + z2/n)
