r"""Takes a key into the weights of a vision transformer.

The new model sees images that this key encrypted as the old one sees plain images, without any
training. Whoever has the old weights, or public ones that they started from, can read the key off
the new ones. See docs/keyed_models.md for which models can be transformed. The command rotate,
given a .keras file, puts such a model under another key.

Examples:
  python -m trainers.encrypt transform_model --key=key.json --input=plain.keras --output=keyed.keras
  python -m trainers.encrypt transform_model --key=key.json --input=tuned.keras \
      --output=keyed.keras --public_base
"""

from absl import flags

from trainers import _encrypt_flags, _encrypt_models

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "A .keras file with the model.")
flags.DEFINE_string("output", None, "New .keras file.")
flags.DEFINE_string("key", None, "Key file, for blocks of the model's patch size.")
flags.DEFINE_string("passphrase_file", None, "File whose first line is the key's passphrase.")
flags.DEFINE_bool(
    "public_base", None, "Whether the weights started from public ones (default: KerasHub's do)."
)


def main() -> None:
    """Transforms one model."""
    source, target = _encrypt_flags.needed("input"), _encrypt_flags.needed("output")
    key_file = _encrypt_flags.load_key(_encrypt_flags.needed("key"), FLAGS.passphrase_file)
    from keras_dpvit.encryption.keyed_model import transform_model

    _encrypt_models.convert(
        source,
        target,
        lambda model: transform_model(model, key_file, public_base=FLAGS.public_base),
    )
    print(f"The model is under key {key_file.key.kid} in {target}.")
