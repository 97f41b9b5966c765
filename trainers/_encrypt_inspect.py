r"""Shows what a key file, a folder of encrypted images or one such file says of itself.

No secret is shown, and no passphrase is needed.

Examples:
  python -m trainers.encrypt inspect --input=key.json
  python -m trainers.encrypt inspect --input=hidden --verify
  python -m trainers.encrypt inspect --input=hidden/cat/1.png --json
"""

import json
import pathlib
from typing import Any

from absl import flags

from keras_dpvit.encryption import image_files, tfrecords
from keras_dpvit.encryption.key_file import read_header
from keras_dpvit.encryption.manifest import read_manifest
from keras_dpvit.errors import InputError
from trainers import _encrypt_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Key file, folder, or PNG, WebP or TFRecord file.")
flags.DEFINE_bool("verify", False, "Compare every file of a folder with its manifest.")
flags.DEFINE_bool("json", False, "Prints JSON.")


def main() -> None:
    """Prints one summary."""
    path = pathlib.Path(_encrypt_flags.needed("input"))
    if path.is_dir():
        shown = _folder(path)
    elif path.suffix.lower() == ".json":
        shown = read_header(path)
    elif not path.is_file():
        raise InputError(f"input must be a file or a folder, got {str(path)!r}.")
    else:
        shown = {"kid": _kid(path)}
    if FLAGS.json:
        print(json.dumps(shown, indent=2))
        return
    width = max(len(name) for name in shown)
    for name, value in shown.items():
        print(f"{name:{width}}  {value}")


def _folder(path: pathlib.Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    shown = {
        **manifest.header,
        "num_files": len(manifest.entries),
        "num_images": manifest.num_images,
    }
    if FLAGS.verify:
        changed = [entry.file for entry in manifest.entries if not entry.is_intact(path)]
        if changed:
            raise InputError(
                f"{len(changed)} of {len(manifest.entries)} files of {path} are missing or were "
                f"changed, {changed[0]!r} first."
            )
        shown["verified"] = True
    return shown


def _kid(path: pathlib.Path) -> str:
    is_shard = path.suffix.lower() == ".tfrecord"
    kid = tfrecords.first_kid(path) if is_shard else image_files.read_kid(path)
    if kid is None:
        raise InputError(f"{path} names no key: it is not encrypted, or in a format without.")
    return kid
