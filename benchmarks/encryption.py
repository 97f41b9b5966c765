r"""Speed of the image ciphers, and a folder encrypted in spite of `kill -9`.

Without --kill: images a second of every scheme, one process, uint8 in memory, and of loops over the
blocks in Python that do the same to the same images, turn by turn.

With --kill: encrypts Fashion-MNIST images as PNG files by the command line, kills the whole run
several times, runs it again to the end, decrypts, and compares every pixel.

Examples:
  python -m benchmarks.encryption
  python -m benchmarks.encryption --json --output=encryption_throughput.json
  python -m benchmarks.encryption --kill --work_dir=kill --output=encrypt_kill.json
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks import encryption_kill
from benchmarks.reports import checked_output, machine
from keras_dpvit import _validate
from keras_dpvit.encryption import SecretKey, ViTBlockCipher, make_cipher
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints one JSON object and no table.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 7, "How often each has its turn.", flag_values=FLAGS)
flags.DEFINE_integer("batch", 64, "Images in a batch.", flag_values=FLAGS)
flags.DEFINE_bool("kill", False, "Kill and resume the command line instead.", flag_values=FLAGS)
flags.DEFINE_integer("images", 10_000, "With --kill: how many images.", flag_values=FLAGS)
flags.DEFINE_integer("kills", 3, "With --kill: how often the run is killed.", flag_values=FLAGS)
flags.DEFINE_string(
    "work_dir",
    None,
    "With --kill: a new folder for the files, removed in the end.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)

SHAPE = (224, 224, 3)
BLOCK = 16
BARS = {"images_per_second": 2000.0, "times_a_loop": 100.0}

# Scheme and options, at 224x224x3 as above.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_block": ("vit_block", {}),
    "vit_block, independent channels": ("vit_block", {"channels": "independent"}),
    "le": ("le", {}),
    "ele": ("ele", {}),
    "etc, color": ("etc", {}),
    "etc, grayscale": ("etc", {"mode": "grayscale"}),
    "pe": ("pe", {}),
}


def loop_over_pixels(cipher: ViTBlockCipher, image: np.ndarray) -> np.ndarray:
    """The paper's steps as they are printed: block by block, quadrant by quadrant, pixel by pixel.

    Args:
        cipher: with joint channels and quadrants.
        image: uint8 (height, width, channels).
    """
    side, half = cipher.block_size, cipher.block_size // 2
    across = image.shape[1] // side
    alpha, beta = cipher.block_permutation.tolist(), cipher.pixel_permutation.tolist()
    result = np.empty_like(image)
    for i, j in enumerate(alpha):
        to_row, to_column = side * (i // across), side * (i % across)
        row, column = side * (j // across), side * (j % across)
        for down in (0, half):
            for right in (0, half):
                for k, m in enumerate(beta):
                    result[to_row + down + k // half, to_column + right + k % half] = image[
                        row + down + m // half, column + right + m % half
                    ]
    return result


def loop_over_blocks(cipher: ViTBlockCipher, image: np.ndarray) -> np.ndarray:
    """The same with NumPy inside each quadrant; see `loop_over_pixels`."""
    side, half = cipher.block_size, cipher.block_size // 2
    across = image.shape[1] // side
    beta = cipher.pixel_permutation
    result = np.empty_like(image)
    for i, j in enumerate(cipher.block_permutation.tolist()):
        to_row, to_column = side * (i // across), side * (i % across)
        row, column = side * (j // across), side * (j % across)
        for down in (0, half):
            for right in (0, half):
                a, b = row + down, column + right
                unit = image[a : a + half, b : b + half].reshape(half * half, -1)
                a, b = to_row + down, to_column + right
                result[a : a + half, b : b + half] = unit[beta].reshape(half, half, -1)
    return result


def throughput(rounds: int, batch: int) -> dict[str, Any]:
    """Images a second of every side, median over the rounds, and the ratios to the loops."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), dtype=np.uint8)
    key = SecretKey.generate()
    cipher = ViTBlockCipher.from_key(key, SHAPE, BLOCK)
    expected = cipher.encrypt(images[0])
    turns: dict[str, tuple[Callable[[], Any], int]] = {}
    for name, (scheme, options) in SIDES.items():
        other = make_cipher(scheme, key, SHAPE, **options)
        hidden = other.encrypt(images)
        turns[name] = functools.partial(other.encrypt, images), batch
        turns[f"{name}, decrypting"] = functools.partial(other.decrypt, hidden), batch
    for loop in (loop_over_pixels, loop_over_blocks):
        if not np.array_equal(loop(cipher, images[0]), expected):
            raise AssertionError(f"{loop.__name__} does something else than the cipher")
    turns["loop over blocks and pixels"] = functools.partial(loop_over_pixels, cipher, images[0]), 1
    turns["loop over blocks, NumPy in each"] = (
        functools.partial(loop_over_blocks, cipher, images[0]),
        1,
    )
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (turn, count) in turns.items():
            turn()  # brings index and memory near again after the others' turns
            start = time.perf_counter()
            turn()
            seconds[name].append((time.perf_counter() - start) / count)
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    speed = rates["vit_block"]
    ratios = {name: speed / rate for name, rate in rates.items() if name.startswith("loop")}
    return {
        "image_shape": list(SHAPE),
        "images_per_second": rates,
        "vit_block_over_loop": ratios,
        "bars": {
            "images_per_second": {
                "bar": BARS["images_per_second"],
                "measured": speed,
                "holds": speed >= BARS["images_per_second"],
            },
            **{
                f"times a {name}": {
                    "bar": BARS["times_a_loop"],
                    "measured": ratio,
                    "holds": ratio >= BARS["times_a_loop"],
                }
                for name, ratio in ratios.items()
            },
        },
    }


def main() -> None:
    """Measures, prints, writes."""
    _validate.positive_int(rounds=FLAGS.rounds)
    _validate.positive_int(batch=FLAGS.batch)
    output = checked_output(FLAGS.output)
    facts = machine()
    if FLAGS.kill:
        measured = encryption_kill.measure(FLAGS.work_dir, FLAGS.images, FLAGS.kills)
        command = f"python -m benchmarks.encryption --kill --work_dir=DIR --images={FLAGS.images}"
    else:
        measured = throughput(FLAGS.rounds, FLAGS.batch)
        command = f"python -m benchmarks.encryption --rounds={FLAGS.rounds} --batch={FLAGS.batch}"
    report = {"command": command, "machine": facts, "numpy": np.__version__, **measured}
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json or FLAGS.kill:
        print(text)
        return
    for name, rate in measured["images_per_second"].items():
        print(f"{name:42} {rate:10.0f} images/s")
    for name, bar in measured["bars"].items():
        verdict = "holds" if bar["holds"] else "does not hold"
        print(f"{name:50} {bar['measured']:8.1f}, bar {bar['bar']:.0f}: {verdict}")


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
