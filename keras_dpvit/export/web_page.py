"""A model as a static page: pictures and the camera are classified in the browser.

LiteRT.js, which runs the model, is Google's npm package (Apache-2.0). It is not part of this
package: `fetch_runtime` gets one version of it, and its files are checked against a digest.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from typing import Any

from keras_dpvit import _files
from keras_dpvit._files import CARD_NAME, TFLITE_NAME
from keras_dpvit.errors import InputError

LITERT_VERSION = "2.5.3"
# Of the package files that npm serves, so that what a page runs is what was tried.
_PACKAGES = {
    "@litertjs/core": "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
    "@litertjs/wasm-utils": "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
}
_PAGE = ("index.html", "style.css", "pixels.js", "page.js")
# LiteRT.js takes the first where the browser has relaxed SIMD, else the second.
_WASM = ("litert_wasm_internal", "litert_wasm_compat_internal")


def write_page(
    version_directory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    runtime: str | os.PathLike[str],
    title: str = "Classify a picture",
) -> None:
    """Writes a folder that any static host can serve, and that needs no network afterwards.

    Privacy: the page's content security policy lets it connect to its own host alone; pictures are
    read and classified in the browser. The privacy card travels with the model.

    Args:
        version_directory: a directory with `model.tflite` and `privacy_card.json`, as training and
            `trainers.export` write it.
        output: a new directory.
        runtime: a directory that `fetch_runtime` made.
        title: of the page.

    Raises:
        InputError: if a file is missing, the model is none of this package's, or `output` exists.
    """
    from keras_dpvit.edge import TFLiteRunner

    source, runtime = pathlib.Path(version_directory), pathlib.Path(runtime)
    for name in (TFLITE_NAME, CARD_NAME):
        if not (source / name).is_file():
            raise InputError(f"saved_model must hold {name}: {source} has none.")
    runner = TFLiteRunner(source / TFLITE_NAME)
    if runner.output_dtypes.get("class_id") == "int64":
        raise InputError(
            f"{source / TFLITE_NAME} was written by an earlier version, with numbers of 64 bits "
            "that browsers' runtimes lack: write it anew with trainers.export."
        )
    card = json.loads((source / CARD_NAME).read_text("utf-8"))
    with _files.new_directory(output) as work:
        shutil.copyfile(source / TFLITE_NAME, work / TFLITE_NAME)
        shutil.copyfile(source / CARD_NAME, work / CARD_NAME)
        shutil.copytree(runtime, work / "litert")
        pages = resources.files("keras_dpvit.export") / "web"
        for name in _PAGE:
            (work / name).write_text((pages / name).read_text("utf-8"), "utf-8")
        _files.write_json(work / "model.json", _facts(runner, card, title))


def _facts(runner: Any, card: dict[str, Any], title: str) -> dict[str, Any]:
    bounds = ", ".join(f"{value:.4g} by {name.upper()}" if isinstance(value, float)
                       else f"{value} by {name.upper()}"
                       for name, value in card["epsilon"].items())  # fmt: skip
    return {
        "title": title,
        "labels": runner.labels,
        "image_shape": list(runner.image_shape),
        "input_dtype": runner.input_dtype,
        "headline": f"Epsilon {bounds}, delta {card['delta']:g}.",
        "statement": card["statement"],
    }


def fetch_runtime(directory: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Gets LiteRT.js by npm, once; a directory that is there already is taken as it is.

    Args:
        directory: where; None for one in the user's cache.

    Raises:
        InputError: if npm is missing or cannot get the packages.
    """
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME")
        cache = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
        directory = cache / "keras_dpvit" / f"litert-{LITERT_VERSION}"
    directory = pathlib.Path(directory)
    if directory.is_dir():
        return directory
    if shutil.which("npm") is None:
        raise InputError(
            "npm must be installed to get LiteRT.js, or its files given: --litert=DIR."
        )
    with tempfile.TemporaryDirectory() as place, _files.new_directory(directory) as work:
        core, utils = (_unpacked(name, pathlib.Path(place)) for name in _PACKAGES)
        (work / "wasm").mkdir()
        for name in _WASM:
            for suffix in (".js", ".wasm"):
                shutil.copyfile(core / "wasm" / (name + suffix), work / "wasm" / (name + suffix))
        code = (core / "dist/index.js").read_text("utf-8")
        # A browser knows no packages: one file names the other.
        code = code.replace('"@litertjs/wasm-utils"', '"./wasm-utils.js"')
        (work / "index.js").write_text(code, "utf-8")
        shutil.copyfile(utils / "dist/index.js", work / "wasm-utils.js")
        (work / "LICENSE.txt").write_text(_LICENSE, "utf-8")
    return directory


def _unpacked(name: str, place: pathlib.Path) -> pathlib.Path:
    """The files of an npm package."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{LITERT_VERSION}"]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise InputError(f"npm cannot get {name}@{LITERT_VERSION}: {lines[0]}.")
    archive = place / result.stdout.strip().splitlines()[-1]
    expected = _PACKAGES[name]
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        raise InputError(
            f"{name}@{LITERT_VERSION} from npm is not the one that was tried: {found}."
        )
    target = place / archive.stem
    with tarfile.open(archive) as files:
        files.extractall(target, filter="data")
    return target / "package"


_LICENSE = f"""LiteRT.js {LITERT_VERSION} (npm packages @litertjs/core and @litertjs/wasm-utils)
Copyright Google LLC and the LiteRT authors
https://github.com/google-ai-edge/LiteRT

Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except
in compliance with the License. You may obtain a copy of the License at

    https://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is
distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or
implied. See the License for the specific language governing permissions and limitations under the
License.

One line of index.js was changed: the import of @litertjs/wasm-utils names the file beside it.
"""
