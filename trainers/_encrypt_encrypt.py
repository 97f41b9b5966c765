r"""Encrypts every image below a folder into a new folder of the same tree.

EXIF's orientation is applied, then everything but the pixels is left behind. An interrupted run
goes on when the same command is given again. File names and sub-folders (labels) stay readable
unless --hash_names is given.

Examples:
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden --size=224,224
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden --format=webp
  python -m trainers.encrypt encrypt --key=key.json --input=photos --output=hidden \
      --format=tfrecord --hash_names --jobs=8
"""

from absl import flags

from keras_dpvit.encryption import folders
from keras_dpvit.encryption.image_files import RESIZES
from keras_dpvit.errors import InputError
from trainers import _encrypt_flags

FLAGS = flags.FLAGS
_encrypt_flags.define_folder_flags()
flags.DEFINE_list("size", None, "height,width to which every image is stretched first.")
flags.DEFINE_enum("resize", "bilinear", RESIZES, "How.")
flags.DEFINE_enum("format", "png", folders.FILE_FORMATS, "Of the output; all are lossless.")
flags.DEFINE_bool("hash_names", False, "Replace names of files and folders by keyed hashes.")
flags.adopt_module_key_flags(_encrypt_flags)


def main() -> None:
    """Encrypts one folder."""
    source, target = _encrypt_flags.needed("input"), _encrypt_flags.needed("output")
    size = None if FLAGS.size is None else parse_size(FLAGS.size)
    key_file = _encrypt_flags.load_key(_encrypt_flags.needed("key"), FLAGS.passphrase_file)
    bar = _encrypt_flags.ProgressBar("encrypting")
    try:
        result = folders.encrypt_folder(
            source,
            target,
            key_file,
            file_format=FLAGS.format,
            size=size,
            resize=FLAGS.resize,
            hash_names=FLAGS.hash_names,
            jobs=FLAGS.jobs,
            progress=bar,
        )
    finally:
        bar.close()
    _encrypt_flags.report(result, f"are encrypted with key {key_file.key.kid} in {target}.")


def parse_size(values: list[str]) -> tuple[int, int]:
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
