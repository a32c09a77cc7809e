"""Config files: read them, inherit, override, write them back. Nothing here imports torch."""

from raydet3d.config.config import Config
from raydet3d.config.find import default_work_dir, find_config, is_uri, work_dir_of
from raydet3d.config.lazy import read_base
from raydet3d.config.options import DictAction, parse_options, parse_value
from raydet3d.config.origin import Origin
from raydet3d.config.read import MissingConfig
from raydet3d.config.shipped import configs_root
from raydet3d.config.tree import ConfigDict

__all__ = [
    "Config",
    "ConfigDict",
    "DictAction",
    "MissingConfig",
    "Origin",
    "configs_root",
    "default_work_dir",
    "find_config",
    "is_uri",
    "parse_options",
    "parse_value",
    "read_base",
    "work_dir_of",
]
