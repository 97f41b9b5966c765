"""Finished trainings in a folder, so that none is made twice."""

import hashlib
import json
import pathlib
from typing import Any

from keras_dpvit import _files
from keras_dpvit.errors import InputError


class Finished:
    """Results of trainings by what they were made of.

    Args:
        folder: of the files, one for each training; made when the first is kept.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def result(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a training, None if it is not there.

        Raises:
            InputError: if its file is damaged.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
            same = content["key"] == _as_stored(key)
            result: dict[str, Any] = content["result"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"trainings_dir: {path} is damaged: delete it, or name another."
            ) from error
        return result if same else None

    def keep(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        """Stores a result, whole or not at all."""
        _files.write_json(self._path(key), {"key": key, "result": result})

    def _path(self, key: dict[str, Any]) -> pathlib.Path:
        digest = hashlib.sha256(json.dumps(_as_stored(key), sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest[:20]}.json"


def _as_stored(key: dict[str, Any]) -> Any:
    return json.loads(json.dumps(_files.jsonable(key)))
