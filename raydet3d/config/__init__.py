"""Config files: read them, inherit, override, write them back. Nothing here imports torch."""

from raydet3d.config.cfg_options import DictAction, parse_options, parse_value
from raydet3d.config.config import Config
from raydet3d.config.config_dict import ConfigDict, ConfigValue, PartCfg
from raydet3d.config.locate import MissingConfig, configs_root, default_work_dir, find_config, is_uri, work_dir_of
from raydet3d.config.provenance import Origin
from raydet3d.config.pure_python import read_base

__all__ = [
    "Config",
    "ConfigDict",
    "ConfigValue",
    "DictAction",
    "MissingConfig",
    "Origin",
    "PartCfg",
    "configs_root",
    "default_work_dir",
    "find_config",
    "is_uri",
    "parse_options",
    "parse_value",
    "read_base",
    "work_dir_of",
]
