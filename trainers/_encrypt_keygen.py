r"""Makes a key file, readable by its owner alone.

The key is 32 bytes from the operating system; block and pixel permutations are derived from it.
Whoever loses it cannot decrypt any more; whoever has it can.

Examples:
  python -m trainers.encrypt keygen --output=key.json
  python -m trainers.encrypt keygen --output=key.json --image_size=224,224,3 --passphrase
  python -m trainers.encrypt keygen --output=small.json --block_size=4 --image_size=28,28,1
  python -m trainers.encrypt keygen --output=etc.json --scheme=etc --mode=grayscale
"""

from absl import flags

from keras_dpvit.encryption.key_file import KeyFile, write_key_file
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.schemes import SCHEMES
from trainers import _encrypt_flags, _flags, _scheme_flags

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(_scheme_flags)

flags.DEFINE_string("output", None, "New key file.")
flags.DEFINE_enum("scheme", "vit_block", list(SCHEMES), "Which cipher the key is for.")
flags.DEFINE_list(
    "image_size",
    None,
    "height,width,channels of all images; without it images of any fitting size are taken, each "
    "size with permutations of its own.",
)
flags.DEFINE_bool("passphrase", False, "Wrap the key under a passphrase, which is asked for.")
flags.DEFINE_string("passphrase_file", None, "Wrap it under the first line of this file.")


def main() -> None:
    """Writes one key file and says what it is for."""
    output = _encrypt_flags.needed("output")
    key_file = KeyFile(
        key=SecretKey.generate(),
        scheme=FLAGS.scheme,
        options=_scheme_flags.scheme_options(),
        image_shape=FLAGS.image_size and _flags.parse_image_size(FLAGS.image_size),
    )
    passphrase = None
    if FLAGS.passphrase or FLAGS.passphrase_file is not None:
        passphrase = _encrypt_flags.read_passphrase(
            "New passphrase: ", FLAGS.passphrase_file, confirm=True
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
