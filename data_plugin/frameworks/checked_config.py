"""The one answer to a config that a framework cannot use: a sentence that names the option that does not fit."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from data_plugin.frameworks.framework_config import LAST_CHECKPOINT, FrameworkConfig
from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import Arch
from data_plugin.space.resolution import Resolution
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.ranks import launched_ranks
from data_plugin.utils.silence import silence

Answer = TypeVar("Answer")
Question = Callable[[FrameworkConfig], Answer]
"""What is asked of a config, such as its taps; asking changes nothing."""

TRACEBACK = "traceback.txt"
"""The file in the output folder of a fine-tuning that holds the traceback of what stopped it."""


class CheckedConfig(FrameworkConfig):
    """A framework's config that answers every exception of the framework with a :class:`UserError`.

    Frameworks fail on options of a wrong type or shape anywhere, and seldom say which. So the question that failed is
    asked again with one option less, two less, and so on, until it is answered: the last one left out is named. What
    opens can also be written.

    Args:
        adapter: the framework's class of configs.
        title: what the framework's authors call it.
        path: the config file.
        options: ``KEY=VALUE`` strings that change entries, in the framework's own keys.
        data_root: the folder that holds the data sets, instead of the config's.
        classes: the classes of objects; None leaves them to the config and the annotations.

    Raises:
        UserError: see :class:`FrameworkConfig`.
    """

    def __init__(
        self,
        adapter: type[FrameworkConfig],
        title: str,
        path: Path,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._adapter = adapter
        self._title = title
        self._path = path
        self._options = tuple(options)
        self._data_root = data_root
        self._classes = classes
        try:
            self._config = adapter(path, self._options, data_root, classes)
            _write_once(self._config)
        except Exception as error:
            raise self.explained(error, _write_once) from error

    @property
    def input_format(self) -> InputFormat:
        """See :attr:`FrameworkConfig.input_format`."""
        return self.ask(lambda config: config.input_format)

    @property
    def taps(self) -> tuple[str, ...]:
        """See :attr:`FrameworkConfig.taps`."""
        return self.ask(lambda config: config.taps)

    @property
    def resolution(self) -> Resolution:
        """See :attr:`FrameworkConfig.resolution`."""
        return self.ask(lambda config: config.resolution)

    @property
    def data_sets(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.data_sets`."""
        return self.ask(lambda config: config.data_sets)

    @property
    def lacking(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.lacking`."""
        return self.ask(lambda config: config.lacking)

    def images(self) -> ImageSource:
        """See :meth:`FrameworkConfig.images`."""
        return _CheckedImages(self, lambda config: config.images())

    def images_of(self, images: Images) -> ImageSource:
        """See :meth:`FrameworkConfig.images_of`."""
        return _CheckedImages(self, lambda config: config.images_of(images))

    def write(self, arch: Arch, weights: Path, path: Path, iterations: int | None = None) -> None:
        """See :meth:`FrameworkConfig.write`."""
        self._config.write(arch, weights, path, iterations)

    def finetune(
        self,
        out: Path,
        *,
        resume: bool = False,
        eval_only: bool = False,
        weights: Path | None = None,
        stepped: Callable[[int], None] = lambda step: None,
    ) -> Mapping[str, float]:
        """See :meth:`FrameworkConfig.finetune`.

        What fails after the first step, or once only, is left as it is without options; with options, which may be at
        fault, it is a :class:`UserError` that names them, and the traceback is in :data:`TRACEBACK` in ``out``.
        """
        steps: int | None = None
        was_there = out.exists()

        def step(done: int) -> None:
            nonlocal steps
            steps = done
            stepped(done)

        try:
            return self._config.finetune(out, resume=resume, eval_only=eval_only, weights=weights, stepped=step)
        except Exception as error:
            if isinstance(error, UserError):
                raise
            if steps is not None:
                raise self._stopped(error, out, "in the evaluation" if eval_only else f"after step {steps}") from error
            if not was_there:
                shutil.rmtree(out, ignore_errors=True)
            if launched_ranks() == (1, 1) and (weights or not eval_only):
                found = self.explained(error, partial(_begin, eval_only=eval_only, weights=weights))
                raise (self._stopped(error, out, "before a step") if found is error else found) from error
            # Processes together, or without what they evaluate, do not begin again to find out which option it was.
            given = f"the options {' '.join(self._options)}" if self._options else f"the config {self._path}"
            raise UserError(f"{self._title} cannot run with {given} ({in_one_line(error)})") from error

    def _stopped(self, error: Exception, out: Path, when: str) -> Exception:
        """What a run ends with where an option may be at fault and trying does not tell; without any, the exception."""
        if not self._options:
            return error
        trace = "".join(traceback.format_exception(error))
        write_whole(out / TRACEBACK, lambda path: path.write_text(trace, encoding="utf-8"))
        again = "go on with --resume" if (out / LAST_CHECKPOINT).is_file() else "start again"
        return UserError(
            f"{self._title} stopped {when} ({in_one_line(error)}); if it is one of the options "
            f"{' '.join(self._options)}, correct it and {again}; the traceback is in {out / TRACEBACK}"
        )

    def explained(self, error: Exception, question: Question[object]) -> Exception:
        """What to raise in place of a framework's exception.

        Args:
            error: the exception.
            question: what raised it; must not mind being asked again.

        Returns:
            The exception itself where it is a sentence for the user already, or nothing fails a second time.
        """
        if isinstance(error, UserError) or not self._fails(question, self._options):
            return error
        for count in reversed(range(len(self._options))):
            if not self._fails(question, self._options[:count]):
                return UserError(f"{self._title} cannot use the option {self._options[count]!r} ({in_one_line(error)})")
        return UserError(f"{self._title} cannot use the config {self._path} ({in_one_line(error)})")

    def _fails(self, question: Question[object], options: Sequence[str]) -> bool:
        """Whether the framework fails with some of the options; what we refuse ourselves has an error of its own."""
        try:
            with warnings.catch_warnings(action="ignore"), silence():
                question(self._adapter(self._path, options, self._data_root, self._classes))
        except UserError:
            return False
        except Exception:
            return True
        return False

    def ask(self, question: Question[Answer]) -> Answer:
        """What the framework's own config answers.

        Args:
            question: what is asked.

        Raises:
            UserError: in the place of whatever the framework raises.
        """
        try:
            return question(self._config)
        except Exception as error:
            raise self.explained(error, question) from error


class _CheckedImages(ImageSource):
    """The images of a config that cannot take each through its preprocessing, as one sentence."""

    def __init__(self, config: CheckedConfig, source: Question[ImageSource]) -> None:
        self._config = config
        self._source = source
        self._images = config.ask(source)
        super().__init__(self._images.names, self._images.workers)

    def __getitem__(self, index: int) -> LoadedImage:
        try:
            return self._images[index]
        except Exception as error:
            raise self._config.explained(error, lambda config: self._source(config)[index]) from error


def _write_once(config: FrameworkConfig) -> None:
    """Write a config for some network, since a search that cannot write its winners' should not find out at its end."""
    with TemporaryDirectory() as scratch:
        config.write(Arch.resnet50(), Path(scratch, "backbone.pth"), Path(scratch, "config"))


class _Begun(Exception):
    """Ends a run that was begun to see whether it can be."""


def _begin(config: FrameworkConfig, eval_only: bool, weights: Path | None) -> None:
    def stop(step: int) -> None:
        raise _Begun

    with TemporaryDirectory() as scratch, contextlib.suppress(_Begun):
        config.finetune(Path(scratch, "out"), eval_only=eval_only, weights=weights, stepped=stop)


def in_one_line(error: Exception) -> str:
    """An exception's kind and the first line of what it says, for the end of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *(textwrap.shorten(line, 200, placeholder=" …") for line in lines[:1])])
