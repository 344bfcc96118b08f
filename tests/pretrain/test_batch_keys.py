"""Methods that compare with the batch's other images, where each network's teacher has its architecture."""

import dataclasses
import math

import pytest
import torch
from samples import SPACE
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.pretrain.recipe import Recipe, read_recipe

pytest.importorskip("lightly", reason="pre-training needs lightly")
pytest.importorskip("lightning", reason="pre-training needs lightning")

from data_plugin.pretrain.methods.batch_keys import BatchKeys
from data_plugin.pretrain.methods.key_queue import KeyQueue
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch

SETTINGS = {
    "mocov2": {"queue": 16, "hidden": 24, "dim": 8},
    "densecl": {"queue": 16, "hidden": 24, "dim": 8, "dense": 0.3},
    "ressl": {"queue": 16, "hidden": 24, "dim": 8},
    "byol": {"hidden": 24, "dim": 8},
}
WITH_QUEUE = ("mocov2", "densecl", "ressl")
IMAGES = 4


def recipe(method, **changes):
    values = {"epochs": 1, "batch_size": IMAGES, "image_size": 64, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
    values |= {"weight_decay": 1e-4, "key_momentum": 0.9, "method": method, "settings": SETTINGS[method]}
    return Recipe.from_json(values | {"teacher": "same-arch"} | changes)


def start(method, **changes):
    torch.manual_seed(0)
    training = SupernetTraining(SPACE, recipe(method, **changes), steps=10, seed=1).double().train()
    training.log = training.log_dict = lambda *args, **kwargs: None
    # Else both branches' heads say the same of the same.
    for parameter in training.method.key_head.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return training


def random_batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Batch([torch.randn(IMAGES, 3, 64, 64, generator=generator, dtype=torch.float64) for _ in range(2)], [])


def queues(method):
    return [module for module in method.modules() if isinstance(module, KeyQueue)]


def cosine(one, other):
    return F.cosine_similarity(one, other, dim=0).item()


def info_nce(query, own, others, temperature):
    positive = math.exp(cosine(query, own) / temperature)
    return -math.log(positive / (positive + sum(math.exp(cosine(query, key) / temperature) for key in others)))


def others(values, image):
    return [value for index, value in enumerate(values) if index != image]


def naive_mocov2(method, query_map, key_map):
    queries, keys = method.query_head(query_map.mean((2, 3))), method.key_head(key_map.mean((2, 3)))
    return sum(info_nce(queries[i], keys[i], others(keys, i), 0.2) for i in range(IMAGES)) / IMAGES


def naive_densecl(method, query_map, key_map):
    queries = method.query_head["whole"](query_map.mean((2, 3)))
    keys = method.key_head["whole"](key_map.mean((2, 3)))
    query_cells, key_cells = (features.flatten(2).transpose(1, 2) for features in (query_map, key_map))
    pooled = [method.key_head["cells"](cells).mean(dim=0) for cells in key_cells]
    loss = 0
    for image in range(IMAGES):
        loss += 0.7 * info_nce(queries[image], keys[image], others(keys, image), 0.2)
        for cell in query_cells[image]:
            nearest = max(key_cells[image], key=lambda key: cosine(cell, key[: len(cell)]))
            one, own = method.query_head["cells"](cell[None])[0], method.key_head["cells"](nearest[None])[0]
            loss += 0.3 * info_nce(one, own, others(pooled, image), 0.2) / len(query_cells[image])
    return loss / IMAGES


def naive_ressl(method, query_map, key_map):
    queries, keys = method.query_head(query_map.mean((2, 3))), method.key_head(key_map.mean((2, 3)))
    loss = 0
    for image in range(IMAGES):
        student = [math.exp(cosine(queries[image], key) / 0.1) for key in others(keys, image)]
        teacher = [math.exp(cosine(keys[image], key) / 0.04) for key in others(keys, image)]
        loss -= sum(t / sum(teacher) * math.log(s / sum(student)) for s, t in zip(student, teacher, strict=True))
    return loss / IMAGES


NAIVE = {"mocov2": naive_mocov2, "densecl": naive_densecl, "ressl": naive_ressl}


@pytest.mark.parametrize("name", WITH_QUEUE)
def test_a_step_compares_each_network_with_the_keys_of_its_own_architecture(name):
    training, batch = start(name), random_batch()
    key_passes = []
    training.key.register_forward_hook(lambda module, args, output: key_passes.append(args[1]))
    found = training.training_step(batch, 0).item()
    archs = training.networks(0)
    assert key_passes == archs
    assert len(set(archs)) == 3
    with torch.no_grad():
        maps = [(training.query(batch.views[0], arch)[-1], training.key(batch.views[1], arch)[-1]) for arch in archs]
        expected = sum(NAIVE[name](training.method, *pair) for pair in maps)
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", WITH_QUEUE)
def test_a_networks_loss_and_gradients_do_not_depend_on_other_architectures_keys(name):
    def losses(changed):
        training = start(name)
        whole, found = training.method.loss, []
        training.method.loss = lambda *args: found.append(whole(*args)) or found[-1]

        def change(module, args, maps):
            return tuple(torch.randn_like(each) for each in maps) if changed and args[1] != SPACE.largest else maps

        training.key.register_forward_hook(change)
        for step in range(3):
            training.training_step(random_batch(step), step)
        found[6].backward()
        return [loss.item() for loss in found], training.query.conv1.weight.grad

    (plain, gradient), (other, other_gradient) = losses(False), losses(True)
    largest = slice(0, None, 3)
    assert plain[largest] == other[largest]
    assert torch.equal(gradient, other_gradient)
    assert all(one != two for index in (1, 2) for one, two in zip(plain[index::3], other[index::3], strict=True))


@pytest.mark.parametrize("name", WITH_QUEUE)
def test_the_largest_teacher_can_compare_with_the_same_images_as_the_other(name):
    training, batch = start(name, teacher="largest", negatives="batch"), random_batch()
    found = training.training_step(batch, 0).item()
    with torch.no_grad():
        key_map = training.key(batch.views[1], SPACE.largest)[-1]
        expected = sum(
            NAIVE[name](training.method, training.query(batch.views[0], arch)[-1], key_map)
            for arch in training.networks(0)
        )
    assert found == pytest.approx(expected, rel=1e-8)


def test_a_queue_is_there_only_where_it_is_compared_with():
    assert [len(queues(start(name, teacher="largest").method)) for name in SETTINGS] == [1, 2, 1, 0]
    for changes in ({}, {"negatives": "batch"}, {"teacher": "largest", "negatives": "batch"}):
        assert not any(queues(start(name, **changes).method) for name in SETTINGS)


def test_a_method_without_a_queue_stays_as_it_is():
    def loss(**changes):
        return start("byol", teacher="largest", **changes).training_step(random_batch(), 0).item()

    assert loss() == loss(negatives="batch")


def test_a_batch_of_one_has_nothing_to_compare_with():
    key = torch.ones(1, 4)
    with pytest.raises(UserError, match="a batch of one image has no others to compare it with"):
        BatchKeys().similarities(key, key)


def test_a_queue_of_many_architectures_is_refused():
    with pytest.raises(UserError, match="would hold keys of many architectures; expected negatives = 'batch'"):
        read_recipe("micro", ["teacher=same-arch", "negatives=queue"])
    with pytest.raises(UserError, match="negatives is 'memory'; expected 'queue' or 'batch'"):
        read_recipe("micro", ["negatives=memory"])
    assert dataclasses.replace(read_recipe("micro"), negatives="queue").negatives == "queue"
