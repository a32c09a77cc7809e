"""MMEngine's half of a comparison of configs: run by a python that has MMEngine, it says what that reads.

Stands alone: it takes a list of requests as JSON from stdin, and prints a list of answers as JSON. A request names a
``file`` and may bring ``options`` (the texts after ``--cfg-options``), ``env`` (variables to set) and ``to`` (a suffix:
dump there and load again). An answer is ``{"value": ...}``, written by ``encoded``, or ``{"error": "KeyError: ..."}``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from typing import Any


def encoded(value: Any) -> Any:
    """Plain data as JSON that still tells tuples from lists, numbers from texts as keys, and objects by their name."""
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("<") for key in value):
            return {key: encoded(item) for key, item in value.items()}
        return {"<items>": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, tuple):
        return {"<tuple>": [encoded(item) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if module and name else {"<object>": type(value).__name__}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What MMEngine makes of one request."""
    from mmengine.config import Config, DictAction

    before = dict(os.environ)
    os.environ.update(request.get("env", {}))
    try:
        cfg = Config.fromfile(request["file"], import_custom_modules=False)
        if request.get("options"):
            parser = argparse.ArgumentParser()
            parser.add_argument("--cfg-options", nargs="+", action=DictAction)
            cfg.merge_from_dict(parser.parse_args(["--cfg-options", *request["options"]]).cfg_options)
        if "to" in request:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, f"dumped{request['to']}")
                cfg.dump(path)
                cfg = Config.fromfile(path, import_custom_modules=False)
        return {"value": encoded(cfg.to_dict())}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the answer
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Answer what stdin asks."""
    requests = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        answers = [answer(request) for request in requests]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
