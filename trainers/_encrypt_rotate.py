r"""Puts a folder of encrypted images, or a model of transform_model, under another key.

Plain images exist in memory only. An interrupted run goes on when the same command is given again.

Examples:
  python -m trainers.encrypt rotate --key=old.json --new_key=new.json --input=hidden --output=again
  python -m trainers.encrypt rotate --key=old.json --new_key=new.json --input=old.keras \
      --output=new.keras
"""

from absl import flags

from keras_dpvit.encryption import folders
from trainers import _encrypt_flags, _encrypt_models

FLAGS = flags.FLAGS
_encrypt_flags.define_folder_flags()
flags.DEFINE_string("new_key", None, "Key file for the output.")
flags.DEFINE_string("new_passphrase_file", None, "Like --passphrase_file, for --new_key.")
flags.adopt_module_key_flags(_encrypt_flags)


def main() -> None:
    """Re-encrypts one folder, or moves one model."""
    source, target = _encrypt_flags.needed("input"), _encrypt_flags.needed("output")
    old = _encrypt_flags.load_key(_encrypt_flags.needed("key"), FLAGS.passphrase_file)
    new = _encrypt_flags.load_key(_encrypt_flags.needed("new_key"), FLAGS.new_passphrase_file)
    if source.endswith(".keras"):
        _encrypt_models.rotate(source, target, old, new)
        return
    bar = _encrypt_flags.ProgressBar("changing the key")
    try:
        result = folders.rotate_folder(source, target, old, new, jobs=FLAGS.jobs, progress=bar)
    finally:
        bar.close()
    _encrypt_flags.report(result, f"are encrypted with key {new.key.kid} in {target}.")
