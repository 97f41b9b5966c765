r"""Decrypts a folder that the command encrypt made.

Every file is compared with the manifest first. An interrupted run goes on when the same command is
given again.

Examples:
  python -m trainers.encrypt decrypt --key=key.json --input=hidden --output=shown
  python -m trainers.encrypt decrypt --key=key.json --input=hidden --output=shown --format=npy
"""

from absl import flags

from keras_dpvit.encryption import folders
from trainers import _encrypt_flags

FLAGS = flags.FLAGS
_encrypt_flags.define_folder_flags()
flags.DEFINE_enum("format", "png", folders.DECRYPTED_FORMATS, "Of the output.")
flags.adopt_module_key_flags(_encrypt_flags)


def main() -> None:
    """Decrypts one folder."""
    source, target = _encrypt_flags.needed("input"), _encrypt_flags.needed("output")
    key_file = _encrypt_flags.load_key(_encrypt_flags.needed("key"), FLAGS.passphrase_file)
    bar = _encrypt_flags.ProgressBar("decrypting")
    try:
        result = folders.decrypt_folder(
            source, target, key_file, file_format=FLAGS.format, jobs=FLAGS.jobs, progress=bar
        )
    finally:
        bar.close()
    _encrypt_flags.report(result, f"are decrypted in {target}.")
