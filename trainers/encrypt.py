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

import importlib
import sys

from absl import flags

from trainers import _cli

# Each module defines the flags of its command and a main().
COMMANDS = {
    "keygen": "trainers._encrypt_keygen",
    "encrypt": "trainers._encrypt_encrypt",
    "decrypt": "trainers._encrypt_decrypt",
    "rotate": "trainers._encrypt_rotate",
    "transform_model": "trainers._encrypt_transform_model",
    "inspect": "trainers._encrypt_inspect",
}


def main() -> None:
    """Runs the command that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "-help", "--help"):
        print((__doc__ or "").strip())
        return
    if command not in COMMANDS:
        _cli.fail(f"command must be one of {', '.join(COMMANDS)}, got {command!r}.")
    module = importlib.import_module(COMMANDS[command])
    del sys.argv[1]
    flags.adopt_module_key_flags(module)  # so that --help shows them
    sys.modules["__main__"].__doc__ = module.__doc__
    _cli.run(module.main)


if __name__ == "__main__":
    main()
