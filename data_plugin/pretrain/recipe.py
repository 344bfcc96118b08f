"""What decides a pre-training's result beside images, space and seed: a method and its hyper-parameters."""

from __future__ import annotations

import dataclasses
import importlib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from data_plugin.pretrain.methods.settings import Settings, require_positive
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError
from data_plugin.utils.recipe_file import read_recipe_file

if TYPE_CHECKING:
    from data_plugin.pretrain.methods.method import Method

METHODS = {
    "mocov2": "data_plugin.pretrain.methods.moco:MoCoV2",
    "mocov2_symmetric": "data_plugin.pretrain.methods.moco:SymmetricMoCoV2",
    "byol": "data_plugin.pretrain.methods.byol:BYOL",
    "simclr": "data_plugin.pretrain.methods.simclr:SimCLR",
    "simsiam": "data_plugin.pretrain.methods.simsiam:SimSiam",
    "ressl": "data_plugin.pretrain.methods.ressl:ReSSL",
    "densecl": "data_plugin.pretrain.methods.densecl:DenseCL",
    "distill": "data_plugin.pretrain.methods.distill:Distill",
}
"""The methods by name. Any other is named as these are, by ``module:class``."""

RECIPES = {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}
"""The recipes that a command line can name, and their files."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what pre-training computes, save for the images, the space and the seed.

    Args:
        method: a name of :data:`METHODS`, or ``module:class`` of a method of your own.
        settings: the method's own hyper-parameters.
        epochs: passes over the images.
        batch_size: images per step, over all processes and accumulated batches.
        image_size: height and width of a view in pixels.
        lr: learning rate after the warm-up; it falls to 0 on a cosine.
        warmup: part of the steps in which the learning rate rises from 0, from 0 to less than 1.
        momentum: momentum of the optimiser.
        weight_decay: weight decay.
        key_momentum: what the key branch keeps of itself in a step; the rest comes from the query branch.
        key_momentum_end: what ``key_momentum`` has become at the end, on a cosine; without it it stays.
        decay_norms: whether biases and batch norms decay too.
        optimizer: SGD, LARS (You et al., 2017, arXiv:1708.03888) for large batches, or AdamW (Loshchilov and Hutter,
            2019, arXiv:1711.05101), whose first steps are no larger than later ones.
        teacher: which network the key branch is: the largest in every step (DATA), or for each query network the one
            of the same architecture (the ablation of DATA's Table 8).
        negatives: what the methods with a queue compare an image with: the keys of earlier steps in that queue, or
            those of the batch's other images (:class:`BatchKeys`), which are far fewer. Without it the queue, or the
            batch where the teacher is of the same architecture: in a queue that teacher's keys are of many, and a key
            of another architecture than the query's is told apart by that alone. To compare the two teachers, give
            "batch" to both.
        sampler: the query networks of a step beside the largest: two random ones (DATA), or the smallest and a random
            one (the sandwich rule of Yu and Huang, 2019, arXiv:1903.05134).
        guide: what the networks beside the largest learn from: the key branch's targets, as the largest does (DATA),
            or what the largest itself says in the same step (in-place distillation of Yu et al., 2020,
            arXiv:2003.11142), which the method has to know how to compare (:meth:`Method.imitation`).
        others_weight: weight of each of their losses beside the largest's.
        slow_start: part of the steps, from the first on, in which the largest is trained alone (Zhao et al., 2022,
            arXiv:2209.15525), from 0 to less than 1.
        codes_per_batch: how many codes the images of a batch have, in equal parts, where sub-nets are trained that each
            see one part of the data (:class:`Phases`); None trains one supernet. Methods with a queue then compare
            within the part, as above: a queue would hold keys of many sub-nets.
        phases: the phases' shares of the steps, in any unit, a number for each: one more than codes have digits. None
            gives all phases as many steps.
        norm_statistics: what batch norms normalise with under several processes: statistics of the whole batch
            (:class:`SyncedBatchNorm`), or in each process those of its part, with the keys' images shuffled over all of
            them (:class:`Shuffle`), for a fraction of the communication.

    Raises:
        UserError: if a number is out of range.
    """

    method: str
    settings: Settings
    epochs: int
    batch_size: int
    image_size: int
    lr: float
    warmup: float
    momentum: float
    weight_decay: float
    key_momentum: float
    key_momentum_end: float | None = None
    decay_norms: bool = True
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    teacher: Literal["largest", "same-arch"] = "largest"
    negatives: Literal["queue", "batch"] | None = None
    sampler: Literal["random", "sandwich"] = "random"
    guide: Literal["key", "largest"] = "key"
    others_weight: float = 1.0
    slow_start: float = 0.0
    codes_per_batch: int | None = None
    phases: list[float] | None = None
    norm_statistics: Literal["synced", "shuffled"] = "synced"

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "batch_size", "image_size", "lr")
        if not 0 <= self.key_momentum < 1:
            raise UserError(f"the key momentum is {self.key_momentum}; expected at least 0 and less than 1")
        if self.key_momentum_end is not None and not 0 <= self.key_momentum_end <= 1:
            raise UserError(f"the key momentum at the end is {self.key_momentum_end}; expected 0 to 1")
        if not 0 <= self.warmup < 1:
            raise UserError(f"the warm-up is {self.warmup} of the steps; expected at least 0 and less than 1")
        if not self.others_weight > 0:
            raise UserError(f"the weight of the other networks' losses is {self.others_weight}; expected above 0")
        if not 0 <= self.slow_start < 1:
            raise UserError(f"the slow start is {self.slow_start} of the steps; expected at least 0 and less than 1")
        if self.guide == "largest" and not _imitates(self.method):
            able = ", ".join(filter(_imitates, METHODS))
            raise UserError(
                f"the guide is 'largest', and the method {self.method} has no way to compare two query networks; "
                f"expected guide = 'key', or a method that has one: {able}"
            )
        if self.teacher == "same-arch" and self.guide == "largest":
            raise UserError(
                "the teacher is 'same-arch' and the guide 'largest': the networks beside the largest cannot learn from "
                "both; expected guide = 'key', or teacher = 'largest'"
            )
        if self.teacher == "same-arch" and self.negatives == "queue":
            raise UserError(
                "the teacher is 'same-arch' and the negatives are 'queue', which would hold keys of many "
                "architectures; expected negatives = 'batch', or none given"
            )
        self._require_codes()
        self.settings.require_batch_size(self.batch_size)

    def build_method(self, features: int) -> Method:
        """The method with fresh heads, for a largest C5 of ``features`` channels."""
        from data_plugin.pretrain.methods.batch_keys import compare_within_batch

        build: Callable[[int, Settings], Method] = method_class(self.method)
        method = build(features, self.settings)
        if self.negatives == "batch" or self.teacher == "same-arch" or self.codes_per_batch is not None:
            compare_within_batch(method)
        return method

    def _require_codes(self) -> None:
        if self.codes_per_batch is None:
            if self.phases is not None:
                raise UserError("phases are those of a training of sub-nets; give codes_per_batch, too, or no phases")
            return
        if self.codes_per_batch < 1 or self.batch_size % self.codes_per_batch:
            raise UserError(
                f"codes_per_batch is {self.codes_per_batch}; expected a number from 1 on that divides the batch of "
                f"{self.batch_size}"
            )
        if self.phases is not None and not all(0 < share < math.inf for share in self.phases):
            raise UserError(f"phases is {self.phases}; expected numbers above 0")
        if self.negatives == "queue":
            raise UserError(
                "codes_per_batch asks for sub-nets and the negatives are 'queue', which would hold keys of many of "
                "them; expected negatives = 'batch', or none given"
            )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """What :meth:`to_json` gave, or the contents of a recipe file; settings that are left out have their defaults.

        Raises:
            UserError: if there is no such method, or a name or the type of a value is wrong.
        """
        values = dict(values)
        if not isinstance(values.get("method"), str):
            raise UserError(f'a recipe names its method, such as {next(iter(METHODS))}; expected a line method = "..."')
        settings = values.pop("settings", {})
        if not isinstance(settings, Mapping):
            raise UserError(f"settings is {settings!r}; expected a table of the method's own hyper-parameters")
        settings_class = method_class(values["method"]).settings_class
        _check_fields(settings_class, settings, "settings.")
        _check_fields(cls, values, "")
        return cls(settings=settings_class(**settings), **values)


def _imitates(method: str) -> bool:
    from data_plugin.pretrain.methods.method import Method

    return method_class(method).imitation is not Method.imitation


def default_recipe(space: SearchSpace) -> str:
    """The name of the recipe that a space is trained with if none is given."""
    return "micro" if space in (SearchSpace.micro(), SearchSpace.mini()) else "data_mocov2_in1k"


def read_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name or from a file, with some values replaced.

    Args:
        name: a name of :data:`RECIPES`, or a path that ends in ``.toml``.
        changes: ``name=value`` each, the value as in TOML: ``lr=0.1``, ``settings.queue=4096``.

    Raises:
        UserError: if there is no such recipe, or it or a change cannot be used.
    """
    path = RECIPES.get(name, Path(name))
    if name not in RECIPES and path.suffix != ".toml":
        raise UserError(f"{name!r} is not a recipe; expected the path of a .toml file, or one of {', '.join(RECIPES)}")
    values = read_recipe_file(path)
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator:
            raise UserError(f"{change!r} is not a change of a recipe; expected name=value, such as lr=0.1")
        table, _, field = key.strip().rpartition(".")
        if table not in ("", "settings"):
            raise UserError(f"{key!r} is no part of a recipe; expected a name such as lr or settings.temperature")
        (values.setdefault(table, {}) if table else values)[field] = _toml_value(text)
    return Recipe.from_json(values)


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: a name of :data:`METHODS`, or ``module:class``.

    Raises:
        UserError: if there is none of that name.
    """
    from data_plugin.pretrain.methods.method import Method

    module, separator, attribute = METHODS.get(name, name).partition(":")
    if not separator:
        raise UserError(f"{name!r} is not a method; expected {', '.join(METHODS)}, or module:class of your own")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the method {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name!r} is no subclass of data_plugin.pretrain.methods.method.Method; expected one")
    return found


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()  # a string without quotes, as shells hand it over


def _check_fields(cls: type, values: Mapping[str, Any], prefix: str) -> None:
    """Check names and types of a dataclass's fields, but for ``settings``, which is a table of its own."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "settings"}
    for name in values:
        if name not in fields:
            raise UserError(f"a recipe has no {prefix}{name}; expected some of {', '.join(prefix + f for f in fields)}")
    types = get_type_hints(cls)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise UserError(f"the recipe lacks {prefix}{name}; add a line {name} = ...")
        if name in values and not _fits(values[name], types[name]):
            raise UserError(f"{prefix}{name} is {values[name]!r}; expected {_words(types[name])}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(one, *get_args(kind)) for one in value)
    if get_args(kind):  # something or None
        return any(_fits(value, one) for one in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is list:
        return "a list of numbers"
    if get_args(kind):  # something or None
        return _words(get_args(kind)[0])
    return {bool: "true or false", int: "a whole number", str: "a text"}.get(kind, "a number")
