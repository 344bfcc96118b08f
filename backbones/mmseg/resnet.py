"""``DATAResNet`` with the defaults of MMSegmentation's ResNet."""

from __future__ import annotations

from functools import partialmethod

from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet


class MMSegResNet(OpenMMLabResNet):
    """:class:`OpenMMLabResNet` whose batch norms learn their statistics unless ``norm_eval`` says otherwise."""

    __init__ = partialmethod(OpenMMLabResNet.__init__, norm_eval=False)  # type: ignore[assignment]
