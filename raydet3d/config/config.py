"""`Config`: the values of a config file, its bases and the overrides, with attribute and item access."""

from __future__ import annotations

import copy
import difflib
import importlib
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from raydet3d import compat
from raydet3d.config.cfg_options import set_key, split_key
from raydet3d.config.config_dict import ConfigDict, ConfigValue, merge, to_plain, walk, with_lists
from raydet3d.config.config_file import ConfigFile, file_line
from raydet3d.config.dump import redact, to_text
from raydet3d.config.inheritance import InheritanceChain, read_chain
from raydet3d.config.interpolation import extract_references, restore_references
from raydet3d.config.locate import find_config
from raydet3d.config.provenance import Origin
from raydet3d.config.section_schemas import KNOWN_KEYS, is_misspelling, misspelled_key
from raydet3d.config.source_map import BASE_VARIABLES
from raydet3d.config.variable_overrides import select_variable_overrides
from raydet3d.errors import InputError, InputImportError, InputKeyError, InputTypeError, nearest

_OF_PYTHON = {importlib.__file__, compat.finder.__file__, compat.plugins.__file__}
RESERVED = ("filename", "text", "pretty_text", "env_variables")


class Config(ConfigDict):
    """A resolved config.

    `cfg.optim_wrapper.optimizer.lr` and `cfg["optim_wrapper"]["optimizer"]["lr"]` are the same. A missing attribute is
    an AttributeError, a missing item a KeyError.

    Args:
        cfg_dict: The config's keys.
        filename: The file it was read from.
        text: The text of that file and its bases; by default read from the file, if it exists.
        origin: Where the values come from.

    Raises:
        InputError: A key is one of the reserved names (`filename`, `text`, `pretty_text`, `env_variables`).
    """

    _filename: str | None
    _text: str
    _origin: Origin

    def __init__(
        self,
        cfg_dict: Mapping[str, ConfigValue] | None = None,
        *,
        filename: str | Path | None = None,
        text: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        if text is None:
            text = Path(filename).read_text(encoding="utf-8-sig") if filename and Path(filename).is_file() else ""
        vars(self).update(_filename=None if filename is None else str(filename), _text=text, _origin=origin or Origin())
        if cfg_dict is not None and not isinstance(cfg_dict, Mapping):
            raise InputTypeError(f"cfg_dict must be a dict, got {type(cfg_dict).__name__}")
        for key in RESERVED:
            if key in (cfg_dict or {}):
                place = self.where(key) or filename or "config"
                raise InputKeyError(f"{place}: {key} is reserved for config file attributes; rename the variable")
        super().__init__(merge({}, cfg_dict or {}))

    # ----------------------------------------------------------------------------------------------------- reading

    @classmethod
    def fromfile(
        cls,
        filename: str | Path,
        options: Mapping[str, ConfigValue] | None = None,
        *,
        import_custom_modules: bool = True,
        require_env: bool = True,
        lazy_import: bool | None = None,
        format_python_code: bool = True,
    ) -> Self:
        """Read a config file, its bases and the overrides, and import the modules in `custom_imports`.

        Args:
            filename: A path, or the path of a shipped config (`find_config`).
            options: Overrides. A key without a dot replaces the value of each module-level `NAME = ...` in every file
                of the chain, so that everything computed from it follows; a dict, and a key with dots, is merged into
                the result.
            import_custom_modules: Whether to import the modules in `custom_imports`.
            require_env: Whether an environment variable that is not set and has no default is an error; else the
                placeholder is kept as written, to compare dumped configs.
            lazy_import: Ignored, for compatibility with MMEngine: the kind of config is read from the file.
            format_python_code: Ignored, for compatibility with MMEngine: a dump is always formatted.

        Raises:
            InputError: A file cannot be read, a top-level key is misspelt, or an override names or changes nothing.
        """
        path = find_config(filename)
        options = dict(options or {})
        overrides = select_variable_overrides(options)
        chain = read_chain(path, overrides, require_env=require_env)
        for source in chain.sources:
            _refuse_misspelt(source, chain.values)
        values: dict[str, Any] = chain.values
        for key, value in options.items():
            if key in chain.overridden:
                _refuse_without_effect(path, key, overrides, chain)
                _warn_of_unread_override(path, key, chain)
            else:
                _refuse_unknown(key, values)
                values = set_key(values, key, value)
                _refuse_read_variable(key, chain)
        _warn_of_unread_variables(chain)
        text = "\n".join(f"{source.path}\n{source.text}" for source in chain.sources)
        env = {name: value for source in chain.sources for name, value in source.env.items()}
        values, references = extract_references(values, env)
        origin = Origin(lines=chain.lines, env=env, references=references)
        for where, item in walk(values):
            if isinstance(item, str) and "\0" in item:  # no path and no environment variable may contain it
                key = ".".join(map(str, where))
                raise InputError(f"{origin.where(key) or path}: {key} must not contain a NUL character, got {item!r}")
        cfg = cls(values, filename=path, text=text, origin=origin)
        if import_custom_modules:
            cfg.import_custom_modules()
        return cfg

    @classmethod
    def fromstring(cls, text: str, suffix: str = ".py", *, require_env: bool = True) -> Self:
        """Read a config from its text in the language of `suffix`. Relative bases are not found; see `fromfile`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"config{suffix}")
            path.write_text(text, encoding="utf-8")
            cfg = cls.fromfile(path, require_env=require_env)
        return cls(cfg, text=cfg.text, origin=replace(cfg.origin, lines={}))

    def import_custom_modules(self) -> None:
        """Import the modules in `custom_imports`, which register users' classes. Also called on each worker.

        Raises:
            InputError: `custom_imports` is malformed, or a module fails (unless it is not found and
                `allow_failed_imports` is set). `detail` holds the module's own traceback.
        """
        spec = self.get("custom_imports")
        if not spec:
            return
        where = self.where("custom_imports.imports") or self._filename or "config"
        if not isinstance(spec, Mapping) or set(spec) - {"imports", "allow_failed_imports"}:
            raise InputError(f"{where}: custom_imports takes imports and allow_failed_imports, got {to_plain(spec)!r}")
        names = spec.get("imports") or []
        for name in [names] if isinstance(names, str) else names:
            if not isinstance(name, str):
                raise InputError(f"{where}: custom_imports takes names of modules, got {name!r}")
            try:
                compat.import_plugin(name)
            except Exception as error:  # a user's module may raise anything
                failed = _failed_import(where, name, error)
                if not (isinstance(error, ImportError) and spec.get("allow_failed_imports", False)):
                    raise failed from error
                warnings.warn(str(failed), UserWarning, stacklevel=2)

    # ----------------------------------------------------------------------------------------------------- changing

    def merge_from_dict(self, options: Mapping[str, ConfigValue], allow_list_keys: bool = True) -> None:
        """Set values at dotted keys, as `{"model.backbone.depth": 18, "param_scheduler.0.T_max": 5}`.

        Args:
            options: Values by key.
            allow_list_keys: Whether a number in a key may index a list.

        Raises:
            InputError: A key goes through a value that is no dict or list, or past a list's end.
        """
        values: dict[str, Any] = self
        for key, value in options.items():
            values = set_key(values, key, value, allow_list_keys=allow_list_keys)
        self._replace(dict(values))

    # ----------------------------------------------------------------------------------------------------- writing

    @property
    def filename(self) -> str | None:
        """The file that the config was read from."""
        return self._filename

    @property
    def text(self) -> str:
        """The text of the file and its bases, each after its path."""
        return self._text

    @property
    def _cfg_dict(self) -> ConfigDict:
        """The top-level keys with their values, by the name under which scripts written for MMEngine read them."""
        return ConfigDict(self)

    @property
    def env_variables(self) -> dict[str, str]:
        """The environment variables that values were taken from."""
        return dict(self._origin.env)

    @property
    def origin(self) -> Origin:
        """Where the values come from; pass it to a `Config` that is made from `to_dict()` in another process."""
        return self._origin

    def where(self, key: str) -> str:
        """Return `file:line` where a dotted key, or the dict around it, was set last; empty if no file sets it."""
        return self._origin.where(key)

    @property
    def pretty_text(self) -> str:
        """Python text that loads to an equal config.

        Values of environment variables are written as placeholders, other secrets are redacted.
        """
        return to_text(self, references=self._origin.references)

    def dump(self, path: str | Path | None = None) -> str:
        """Write the config to a `.py`, `.yaml`, `.yml` or `.json` file that loads to an equal config.

        Args:
            path: The file; None only returns the text, in the language of the file that the config was read from.

        Returns:
            The text.
        """
        if path is None:
            suffix = Path(self._filename or "").suffix or ".py"
            return to_text(self, suffix, references=self._origin.references)
        file = Path(path)
        text = to_text(self, file.suffix, references=self._origin.references)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return text

    def redacted(self) -> dict[str, Any]:
        """Return the config as plain data without secrets, for records: placeholders in place of environment values."""
        plain: dict[str, Any] = redact(restore_references(self.to_dict(), self._origin.references))
        return plain

    @staticmethod
    def diff(old: Config | str | Path, new: Config | str | Path) -> str:
        """Return a unified diff of two configs as text; empty if they are equal."""
        pair = [item if isinstance(item, Config) else Config.fromfile(item) for item in (old, new)]
        before, after = (cfg.pretty_text.splitlines() for cfg in pair)
        names = [cfg.filename or "config" for cfg in pair]
        return "\n".join(difflib.unified_diff(before, after, names[0], names[1], lineterm="", n=2))

    # ----------------------------------------------------------------------------------------- copying and comparing

    def copy(self) -> Self:
        """Return a deep copy."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        values = copy.deepcopy(dict(self), memo)
        return type(self)(values, filename=self._filename, text=self._text, origin=self._origin)

    def __reduce__(self) -> tuple[Callable[..., Config], tuple[object, ...]]:
        return _restore, (type(self), dict(self), self._filename, self._text, self._origin)

    def __eq__(self, other: object) -> bool:
        """Compare keys and values; lists and tuples are equal, since JSON has no tuples."""
        return isinstance(other, Mapping) and with_lists(self.to_dict()) == with_lists(to_plain(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self.to_dict()!r}"


def _restore(
    kind: type[Config], values: dict[str, Any], filename: str | None, text: str, origin: Origin | None = None
) -> Config:
    return kind(values, filename=filename, text=text, origin=origin)


def _failed_import(where: str, name: str, error: Exception) -> InputError:
    """Return the error for a module that cannot be imported, with the module's own traceback as its detail."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames[1:] if not frame.filename.startswith("<frozen") and frame.filename not in _OF_PYTHON
    ]
    what = (
        str(error)
        if isinstance(error, ImportError | InputError)
        else f"{type(error).__name__}: {' '.join(str(error).split())}"
    )
    hint = "" if own or not isinstance(error, ModuleNotFoundError) else "; is its folder on PYTHONPATH?"
    failed = InputImportError(f"{where}: custom_imports cannot import {name!r}: {what}{hint}")
    if own or isinstance(error, SyntaxError):
        trace = [*traceback.format_list(own), *traceback.format_exception_only(error)]
        failed.detail = "Traceback (most recent call last):\n" + "".join(trace)
    return failed


def _refuse_misspelt(source: ConfigFile, merged: Mapping[str, ConfigValue]) -> None:
    """Refuse a top-level key that must be a misspelling of a known one.

    If a base has the right key, a file's key is a misspelling if the file does not set the right one and does not read
    the wrong one.
    """
    for key, value in source.values.items():
        meant = misspelled_key(key, value, merged)
        if meant is None and key not in source.used:
            meant = misspelled_key(key, value, source.values)
        if meant is not None:
            here = file_line(source.path, source.lines.get(key))
            raise InputError(f"{here}: unknown key {key!r}; did you mean {meant!r}?")


def _refuse_unknown(key: str, values: Mapping[str, ConfigValue]) -> None:
    """Refuse an override of a key that neither the config has nor the runtime reads."""
    first = str(split_key(key)[0])
    if first in values or first in KNOWN_KEYS:
        return
    names = [*values, *KNOWN_KEYS]
    slip = next((name for name in names if is_misspelling(first, name)), None)
    hint = f"; did you mean {slip!r}?" if slip else nearest(first, names)
    raise InputError(f"config option {key}: the config has no {first!r}, so this changes nothing{hint}")


def _refuse_read_variable(key: str, chain: InheritanceChain) -> None:
    """Refuse to merge into a variable that the files have read already: values computed from it would not change."""
    first = str(split_key(key)[0])
    if first not in KNOWN_KEYS and any(first in source.used for source in chain.sources):
        raise InputError(
            f"config option {key}: {first!r} is a variable, and values computed from it are set already, so this "
            "changes nothing; override the keys that use it (python -m raydet3d.show config shows them)"
        )


def _warn_of_unread_variables(chain: InheritanceChain) -> None:
    """Warn of a variable that a file sets anew and does not read: its bases have computed with their own value."""
    for number, source in enumerate(chain.sources if chain.kind == "text" else ()):
        bases = chain.sources[:number]
        for key, value in source.values.items():
            if key in KNOWN_KEYS or key in source.used or isinstance(value, Mapping):
                continue
            earlier = [base.values[key] for base in bases if key in base.values]
            reader = next((base.path.name for base in bases if key in base.used), None)
            if reader and earlier and with_lists(to_plain(earlier[-1])) != with_lists(to_plain(value)):
                warnings.warn(
                    f"{file_line(source.path, source.lines.get(key))}: {key} changes nothing that {reader} computes "
                    f"from it; {BASE_VARIABLES} = dict({key}=...) does",
                    UserWarning,
                    stacklevel=3,
                )


def _warn_of_unread_override(path: Path, key: str, chain: InheritanceChain) -> None:
    """Warn of an override of a variable that no file computes with, as in a config that was printed resolved."""
    is_read = any(key in source.used for source in chain.sources)
    if key not in KNOWN_KEYS and chain.kind != "pure" and not is_read:
        warnings.warn(
            f"config option {key}: nothing in {path.name} is computed from {key}, so only the variable changes",
            UserWarning,
            stacklevel=3,
        )


def _refuse_without_effect(path: Path, key: str, overrides: Mapping[str, ConfigValue], chain: InheritanceChain) -> None:
    """Refuse an override of a variable that later code assigns again."""
    if chain.values.get(key) == overrides[key]:
        return
    without = read_chain(path, {name: value for name, value in overrides.items() if name != key})
    if with_lists(to_plain(without.values)) == with_lists(to_plain(chain.values)):
        raise InputError(f"config option {key}: later code in {path.name} sets {key} again, so this changes nothing")
