"""What a frozen teacher costs a step of distillation: its bare forward pass beside all that a step does with it.

In turn, on the same batches: the bare network on normalised images, and what a training asks, the answers for images
that are new to it, which it keeps, and for images that it has seen, each cut to the students' view.
Then whole steps with new and with remembered answers, without the making of views.

    OMP_NUM_THREADS=1 python benchmarks/teacher.py --data tiny_imagenet/train
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.augmentation import located
from data_plugin.pretrain.recipe import read_recipe
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch, EpochStream, LocatedViews, collate_located
from data_plugin.space.named_space import read_space


def seconds(act: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def on(device: str, batch: Batch) -> Batch:
    assert batch.clean is not None
    images, indices, places = batch.clean
    moved = type(batch.clean)(images.to(device), indices, [place.to(device) for place in places])
    return Batch([view.to(device) for view in batch.views], [], moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="images")
    parser.add_argument("--space", default="mini")
    parser.add_argument("--steps", type=int, default=10, help="timed batches")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    recipe, device, steps = read_recipe("micro_distill"), arguments.device, arguments.steps + 1
    torch.manual_seed(0)
    training: Any = SupernetTraining(read_space(arguments.space), recipe, steps, seed=0).to(device).train()
    training.log = training.log_dict = lambda *_, **__: None
    images = open_images(arguments.data)
    with TemporaryDirectory() as folder:
        teacher = training.teacher = training.method.open_teacher(Path(folder))
        views = located(training.method.views, recipe.image_size, InputFormat.imagenet())
        stream = EpochStream(images, steps * recipe.batch_size, recipe.batch_size)
        source = LocatedViews(images, views, 0, teacher.given.size)
        loader = DataLoader(source, recipe.batch_size, sampler=stream, collate_fn=collate_located)
        batches = [on(device, batch) for batch in loader]
        given = torch.tensor([teacher.given.mean, teacher.given.std], device=device).view(2, 1, -1, 1, 1)
        teacher.network.to(device)
        spent: dict[str, list[float]] = {}

        def timed(name: str, act: Callable[[], Any]) -> None:
            spent.setdefault(name, []).append(seconds(act, device))

        def step(batch: Batch) -> None:
            training.training_step(batch, 0).backward()

        for batch in batches:
            normalised = ((batch.clean.images - given[0]) / given[1]).contiguous(memory_format=torch.channels_last)
            # In half precision where a training asks in it.
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                timed("bare forward pass", lambda normalised=normalised: teacher.features(normalised))
            timed("answers, new images", lambda batch=batch: teacher(batch.clean, 0))
            timed("answers, remembered", lambda batch=batch: teacher(batch.clean, 0))
            timed("step, remembered", lambda batch=batch: step(batch))
            teacher.known[:] = False
            timed("step, new images", lambda batch=batch: step(batch))
    bare = sum(spent["bare forward pass"][1:])
    print(f"{recipe.batch_size} images; the teacher sees {teacher.given.size} pixels, students {recipe.image_size}")
    for name, each in spent.items():
        print(f"{name:<20} {sum(each[1:]) / arguments.steps:7.3f} s  {sum(each[1:]) / bare:5.2f} of the bare pass")
    extra = sum(spent["step, new images"][1:]) - sum(spent["step, remembered"][1:])
    print(f"a step with new images takes {extra / bare:.2f} bare passes longer than one with remembered ones")


if __name__ == "__main__":
    main()
