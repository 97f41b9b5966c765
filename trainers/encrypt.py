r"""Hides folders of images under a secret key, block by block.

This is visual obfuscation, not confidentiality: whoever holds two of the hidden images can recover
the key. See docs/encryption.md.

Commands (each has its own --help):
  keygen           makes a key file
  encrypt          encrypts every image below a folder
  decrypt          decrypts such a folder
  rotate           puts such a folder, or a model of transform_model, under another key
  transform_model  takes a key into the weights of a model
  inspect          shows what a key file, folder or image says of itself

Examples:
  python -m trainers.encrypt keygen --output=key.json
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden --size=224,224
  python -m trainers.encrypt decrypt --key=key.json --input=hidden --output=shown
"""

import json
import os
import pathlib
from typing import Any

from absl import flags

from keras_dpvit.datasets import image_files
from keras_dpvit.encryption import ciphertext_files, folders, keyed_model, tfrecords
from keras_dpvit.encryption.key_file import KeyFile, read_header, write_key_file
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.manifest import read_manifest
from keras_dpvit.encryption.passphrase import VARIABLE
from keras_dpvit.encryption.schemes import SCHEMES
from keras_dpvit.errors import InputError
from trainers import _cli, _encryption, _flags, _scheme_flags

KEYGEN = flags.FlagValues()
KEYGEN_TEXT = r"""
Makes a key file, readable by its owner alone.

The key is 32 bytes from the operating system; block and pixel permutations are derived from it.
Whoever loses it cannot decrypt any more; whoever has it can.

Examples:
  python -m trainers.encrypt keygen --output=key.json
  python -m trainers.encrypt keygen --output=key.json --image_size=224,224,3 --passphrase
  python -m trainers.encrypt keygen --output=small.json --block_size=4 --image_size=28,28,1
  python -m trainers.encrypt keygen --output=etc.json --scheme=etc --mode=grayscale
"""
_scheme_flags.define_flags(KEYGEN)
flags.DEFINE_string("output", None, "New key file.", flag_values=KEYGEN)
flags.DEFINE_enum(
    "scheme", "vit_block", list(SCHEMES), "Which cipher the key is for.", flag_values=KEYGEN
)
flags.DEFINE_list(
    "image_size",
    None,
    "height,width,channels of all images; without it images of any fitting size are taken, each "
    "size with permutations of its own.",
    flag_values=KEYGEN,
)
flags.DEFINE_bool(
    "passphrase", False, "Wrap the key under a passphrase, which is asked for.", flag_values=KEYGEN
)
flags.DEFINE_string(
    "passphrase_file", None, "Wrap it under the first line of this file.", flag_values=KEYGEN
)


def keygen() -> None:
    """Writes one key file and says what it is for."""
    output = _needed(KEYGEN, "output")
    key_file = KeyFile(
        key=SecretKey.generate(),
        scheme=KEYGEN.scheme,
        options=_scheme_flags.scheme_options(KEYGEN),
        image_shape=KEYGEN.image_size and _flags.parse_image_size(KEYGEN.image_size),
    )
    passphrase = None
    if KEYGEN.passphrase or KEYGEN.passphrase_file is not None:
        passphrase = _encryption.read_passphrase(
            "New passphrase: ", KEYGEN.passphrase_file, confirm=True
        )
    write_key_file(output, key_file, passphrase)
    print(f"Key {key_file.key.kid} for {key_file.scheme} {key_file.options} is in {output}.")
    if key_file.image_shape is not None:
        bits = key_file.cipher().key_space_bits
        print(
            f"The scheme has 2^{bits:.2f} keys, of which a 32-byte secret reaches 2^256. Known "
            "attacks need none of these tries."
        )
    print("Keep a copy in a safe place: without it nothing can be decrypted.")


def _define_folder_flags(flag_values: flags.FlagValues) -> None:
    """Defines --input --output --key --passphrase_file --jobs."""
    flags.DEFINE_string("input", None, "Folder to read.", flag_values=flag_values)
    flags.DEFINE_string(
        "output",
        None,
        "New folder to write, or that of an interrupted run.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("key", None, "Key file.", flag_values=flag_values)
    flags.DEFINE_string(
        "passphrase_file",
        None,
        f"File whose first line is the key's passphrase (otherwise ${VARIABLE}, or a prompt).",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "jobs", os.cpu_count() or 1, "Processes.", lower_bound=1, flag_values=flag_values
    )


ENCRYPT = flags.FlagValues()
ENCRYPT_TEXT = r"""
Encrypts every image below a folder into a new folder of the same tree.

EXIF's orientation is applied, then everything but the pixels is left behind. An interrupted run
resumes when the same command is given again. File names and sub-folders (labels) stay readable
unless --hash_names is given.

Examples:
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden --size=224,224
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden --format=webp
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden \
      --format=tfrecord --hash_names --jobs=8
"""
_define_folder_flags(ENCRYPT)
flags.DEFINE_list(
    "size", None, "height,width to which every image is stretched first.", flag_values=ENCRYPT
)
_flags.define_reading_flags(ENCRYPT)
flags.DEFINE_enum("resize", "bilinear", image_files.RESIZES, "How.", flag_values=ENCRYPT)
flags.DEFINE_enum(
    "format", "png", folders.FILE_FORMATS, "Of the output; all are lossless.", flag_values=ENCRYPT
)
flags.DEFINE_bool(
    "hash_names", False, "Replace names of files and folders by keyed hashes.", flag_values=ENCRYPT
)


def encrypt() -> None:
    """Encrypts one folder."""
    source, target = _needed(ENCRYPT, "input"), _needed(ENCRYPT, "output")
    size = None if ENCRYPT.size is None else _parse_size(ENCRYPT.size)
    key_file = _encryption.load_key(_needed(ENCRYPT, "key"), ENCRYPT.passphrase_file)
    with _encryption.ProgressBar("encrypting") as bar:
        result = folders.encrypt_folder(
            source,
            target,
            key_file,
            file_format=ENCRYPT.format,
            size=size,
            resize=ENCRYPT.resize,
            reading=_flags.reading(ENCRYPT),
            hash_names=ENCRYPT.hash_names,
            jobs=ENCRYPT.jobs,
            progress=bar,
        )
    _encryption.report(result, f"are encrypted with key {key_file.key.kid} in {target}.")


def _parse_size(values: list[str]) -> tuple[int, int]:
    """(height, width) from the flag's parts; one number stands for both.

    Raises:
        InputError: if they are not whole numbers above 0.
    """
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2 or min(numbers) <= 0:
        raise InputError(f"size must be height,width, got {','.join(values)!r}.")
    return numbers[0], numbers[1]


DECRYPT = flags.FlagValues()
DECRYPT_TEXT = r"""
Decrypts a folder that the command encrypt made.

Every file is compared with the manifest first. An interrupted run resumes when the same command is
given again.

Examples:
  python -m trainers.encrypt decrypt --key=key.json --input=hidden --output=shown
  python -m trainers.encrypt decrypt --key=key.json --input=hidden --output=shown --format=npy
"""
_define_folder_flags(DECRYPT)
flags.DEFINE_enum("format", "png", folders.DECRYPTED_FORMATS, "Of the output.", flag_values=DECRYPT)


def decrypt() -> None:
    """Decrypts one folder."""
    source, target = _needed(DECRYPT, "input"), _needed(DECRYPT, "output")
    key_file = _encryption.load_key(_needed(DECRYPT, "key"), DECRYPT.passphrase_file)
    with _encryption.ProgressBar("decrypting") as bar:
        result = folders.decrypt_folder(
            source, target, key_file, file_format=DECRYPT.format, jobs=DECRYPT.jobs, progress=bar
        )
    _encryption.report(result, f"are decrypted in {target}.")


ROTATE = flags.FlagValues()
ROTATE_TEXT = r"""
Puts a folder of encrypted images, or a model of transform_model, under another key.

Plain images exist in memory only. An interrupted run resumes when the same command is given again.

Examples:
  python -m trainers.encrypt rotate --key=old.json --new_key=new.json --input=hidden --output=again
  python -m trainers.encrypt rotate --key=old.json --new_key=new.json --input=old.keras \
      --output=new.keras
"""
_define_folder_flags(ROTATE)
flags.DEFINE_string("new_key", None, "Key file for the output.", flag_values=ROTATE)
flags.DEFINE_string(
    "new_passphrase_file", None, "Like --passphrase_file, for --new_key.", flag_values=ROTATE
)


def rotate() -> None:
    """Re-encrypts one folder, or moves one model."""
    source, target = _needed(ROTATE, "input"), _needed(ROTATE, "output")
    old = _encryption.load_key(_needed(ROTATE, "key"), ROTATE.passphrase_file)
    new = _encryption.load_key(_needed(ROTATE, "new_key"), ROTATE.new_passphrase_file)
    if source.endswith(".keras"):
        _encryption.convert_model(
            source, target, new, lambda model: keyed_model.rotate(model, old, new)
        )
        return
    with _encryption.ProgressBar("changing the key") as bar:
        result = folders.rotate_folder(source, target, old, new, jobs=ROTATE.jobs, progress=bar)
    _encryption.report(result, f"are encrypted with key {new.key.kid} in {target}.")


TRANSFORM = flags.FlagValues()
TRANSFORM_TEXT = r"""
Takes a key into the weights of a vision transformer.

The new model sees images that this key encrypted as the old one sees plain images, without any
training. Whoever has the old weights, or public ones that they started from, can read the key off
the new ones. See docs/keyed_models.md for which models can be transformed. The command rotate,
given a .keras file, puts such a model under another key.

Examples:
  python -m trainers.encrypt transform_model --key=key.json --input=plain.keras --output=keyed.keras
  python -m trainers.encrypt transform_model --key=key.json --input=tuned.keras \
      --output=keyed.keras --public_base
"""
flags.DEFINE_string("input", None, "A .keras file with the model.", flag_values=TRANSFORM)
flags.DEFINE_string("output", None, "New .keras file.", flag_values=TRANSFORM)
flags.DEFINE_string(
    "key", None, "Key file, for blocks of the model's patch size.", flag_values=TRANSFORM
)
flags.DEFINE_string(
    "passphrase_file", None, "File whose first line is the key's passphrase.", flag_values=TRANSFORM
)
flags.DEFINE_bool(
    "public_base",
    None,
    "Whether the weights started from public ones (default: KerasHub's do).",
    flag_values=TRANSFORM,
)


def transform_model() -> None:
    """Transforms one model."""
    source, target = _needed(TRANSFORM, "input"), _needed(TRANSFORM, "output")
    key_file = _encryption.load_key(_needed(TRANSFORM, "key"), TRANSFORM.passphrase_file)

    def move(model: Any) -> Any:
        return keyed_model.transform_model(model, key_file, public_base=TRANSFORM.public_base)

    _encryption.convert_model(source, target, key_file, move)


INSPECT = flags.FlagValues()
INSPECT_TEXT = r"""
Shows what a key file, a folder of encrypted images or one such file says of itself.

No secret is shown, and no passphrase is needed.

Examples:
  python -m trainers.encrypt inspect --input=key.json
  python -m trainers.encrypt inspect --input=hidden --verify
  python -m trainers.encrypt inspect --input=hidden/cat/1.png --json
"""
flags.DEFINE_string(
    "input", None, "Key file, folder, or PNG, WebP or TFRecord file.", flag_values=INSPECT
)
flags.DEFINE_bool(
    "verify", False, "Compare every file of a folder with its manifest.", flag_values=INSPECT
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=INSPECT)


def inspect() -> None:
    """Prints one summary."""
    path = pathlib.Path(_needed(INSPECT, "input"))
    if path.is_dir():
        shown = _describe_folder(path)
    elif path.suffix.lower() == ".json":
        shown = read_header(path)
    elif not path.is_file():
        raise InputError(f"input must be a file or a folder, got {str(path)!r}.")
    else:
        shown = {"kid": _key_id(path)}
    if INSPECT.json:
        print(json.dumps(shown, indent=2))
        return
    width = max(len(name) for name in shown)
    for name, value in shown.items():
        print(f"{name:{width}}  {value}")


def _describe_folder(path: pathlib.Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    counts = {"num_files": len(manifest.entries), "num_images": manifest.num_images}
    shown = {**manifest.header, **counts}
    if INSPECT.verify:
        changed = [entry.file for entry in manifest.entries if not entry.is_intact(path)]
        if changed:
            raise InputError(
                f"{len(changed)} of {len(manifest.entries)} files of {path} are missing or were "
                f"changed, {changed[0]!r} first."
            )
        shown["verified"] = True
    return shown


def _key_id(path: pathlib.Path) -> str:
    is_shard = path.suffix.lower() == ".tfrecord"
    kid = tfrecords.first_kid(path) if is_shard else ciphertext_files.read_kid(path)
    if kid is None:
        raise InputError(f"{path} names no key: it is not encrypted, or in a format without.")
    return kid


def _needed(flag_values: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given.

    Raises:
        InputError: if it was not.
    """
    value = flag_values[name].value
    if not value:
        raise InputError(f"--{name} must be given.")
    return str(value)


COMMANDS = {
    "keygen": (keygen, KEYGEN, KEYGEN_TEXT),
    "encrypt": (encrypt, ENCRYPT, ENCRYPT_TEXT),
    "decrypt": (decrypt, DECRYPT, DECRYPT_TEXT),
    "rotate": (rotate, ROTATE, ROTATE_TEXT),
    "transform_model": (transform_model, TRANSFORM, TRANSFORM_TEXT),
    "inspect": (inspect, INSPECT, INSPECT_TEXT),
}


def run(argv: list[str] | None = None) -> None:
    """Runs the command that the first argument names (default: the command line's arguments)."""
    _cli.run_command(COMMANDS, __doc__, argv)


if __name__ == "__main__":
    run()
