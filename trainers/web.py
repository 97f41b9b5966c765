"""Writes a trained model as a page: pictures and the camera are classified in the browser.

The folder holds the model, its privacy card, one page without a framework and LiteRT.js, which npm
gets once. Any static host serves it; nothing leaves the device, and it works offline.

Examples:
  python -m trainers.web --saved_model=savedmodels/fashion_mnist --output=site
  python -m trainers.web --saved_model=savedmodels/fashion_mnist --output=site --serve=8000
"""

import functools
import http.server

from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "saved_model",
    None,
    "A version directory with model.tflite and privacy_card.json, or a base whose newest is taken.",
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "A new folder.", flag_values=FLAGS)
flags.DEFINE_string("title", "Classify a picture", "Of the page.", flag_values=FLAGS)
flags.DEFINE_string(
    "litert", None, "Folder of LiteRT.js (default: npm gets it into the cache).", flag_values=FLAGS
)
flags.DEFINE_integer(
    "serve", None, "Port on which the folder is served to this machine afterwards.",
    flag_values=FLAGS,
)  # fmt: skip


def main() -> None:
    """Writes the folder, and serves it if asked to."""
    for name in ("saved_model", "output"):
        if not FLAGS[name].value:
            raise InputError(f"--{name} must be given; --help shows what it may be.")
    from keras_dpvit.export import web_page
    from keras_dpvit.export.runners import version_directory

    directory = version_directory(FLAGS.saved_model)
    runtime = web_page.fetch_runtime(FLAGS.litert)
    with _quiet.quiet_stderr():
        web_page.write_page(directory, FLAGS.output, runtime, title=FLAGS.title)
    print(f"{FLAGS.output} holds the page: serve it with any static host.")
    if FLAGS.serve is not None:
        _serve(FLAGS.output, FLAGS.serve)


def _serve(folder: str, port: int) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{port}/ (Ctrl-C ends)", flush=True)
        server.serve_forever()


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
