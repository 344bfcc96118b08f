"""Self-supervised backbones cut to your images, your task and your budget, without labels."""

from pathlib import Path as _Path

from data_plugin.arch import Arch
from data_plugin.errors import UserError
from data_plugin.space import SearchSpace

__all__ = ["Arch", "SearchSpace", "UserError"]
__version__ = "0.1.0"

# setup.py maps backbones/, tools/ and the configs into this package; in a source checkout they lie beside it.
_checkout = _Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").is_file() and (_checkout / "backbones" / "dynamic_resnet.py").is_file():
    __path__.append(str(_checkout))
