"""`python -m trainers.predict` against the stand-in server and an export, and its client alone."""

import http.server
import json
import pathlib
import socket
import threading

import numpy as np
import PIL.Image
import pytest

from keras_dpvit.datasets import image_files
from keras_dpvit.errors import InputError
from keras_dpvit.export import serving_client

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def base(trained_fusion, tmp_path_factory):
    """A base directory with one version."""
    import keras_dpvit as kd

    directory = tmp_path_factory.mktemp("served") / "digits"
    kd.export.saved_model(trained_fusion, directory / "1", class_names=NAMES)
    return directory


@pytest.fixture(scope="module")
def server(serving_server, base):
    with serving_server.ServingServer({"digits": base}) as server:
        yield server


@pytest.fixture(scope="module")
def pictures(digit_images, tmp_path_factory):
    """A folder with digits of 8x8 as PNG files, and what they are read as."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(digit_images.x_test[:20]):
        PIL.Image.fromarray(image[..., 0]).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def expected(trained_fusion, digit_images):
    return trained_fusion.predict(digit_images.x_test[:20].astype("float32"), verbose=0)


def check_predictions(predictions, expected, folder, top):
    assert [p["image"] for p in predictions] == [str(folder / f"{i:02}.png") for i in range(20)]
    for row, prediction in enumerate(predictions):
        probabilities = expected["probabilities"][row]
        best = np.argsort(-probabilities, kind="stable")[:top]
        assert [c["class_id"] for c in prediction["top"]] == best.tolist()
        assert [c["label"] for c in prediction["top"]] == [NAMES[i] for i in best]
        found = [c["probability"] for c in prediction["top"]]
        np.testing.assert_allclose(found, probabilities[best], rtol=0, atol=1e-5)
        np.testing.assert_allclose(prediction["weights"], expected["weights"][row], atol=1e-5)


@pytest.mark.parametrize("how", ["rest", "grpc", "saved_model"])
def test_every_way_prints_what_keras_gives(run, server, base, pictures, expected, how, tmp_path):
    way = {
        "rest": f"--url={server.rest_url('digits')}",
        "grpc": f"--url={server.grpc_url('digits')}/versions/1",
        "saved_model": f"--saved_model={base}",
    }[how]
    result = run("predict", way, f"--image={pictures}", "--top=2", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    check_predictions(json.loads(result.stdout), expected, pictures, top=2)


def test_table_has_a_line_for_each_picture(run, server, pictures, expected, tmp_path):
    files = [pictures / "03.png", pictures / "01.png"]
    url = f"--url={server.rest_url('digits')}/versions/1:predict"
    result = run("predict", url, *(f"--image={file}" for file in files), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for line, row, file in zip(lines, (3, 1), files, strict=True):
        best = expected["probabilities"][row].argmax()
        probability = expected["probabilities"][row][best]
        assert line.startswith(f"{file}  {NAMES[best]} {probability:.4f}, ")
        assert line.count(", ") == 2


def test_a_large_rotated_photograph_is_what_training_read(server, trained_fusion, tmp_path):
    from keras_dpvit.datasets.image_files import read_image

    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (9, 6, 3)).astype("uint8"))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.jpg"
    coarse.resize((600, 900), PIL.Image.Resampling.BICUBIC).save(path, exif=exif)
    content = image_files.servable_bytes(path)
    assert content.startswith(b"\x89PNG")  # turned by the client, for the graph does not
    client = serving_client.client_for(server.rest_url("digits"), 30)
    found = client.answers([content])["probabilities"]
    pixels = read_image(path, (8, 8, 1))[None].astype("float32")
    expected = trained_fusion.predict(pixels, verbose=0)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)
    untouched = image_files.servable_bytes(pathlib.Path(path))
    assert untouched == content


def test_an_upright_file_is_sent_as_it_is(pictures):
    path = pictures / "00.png"
    assert image_files.servable_bytes(path) == path.read_bytes()


# === bad input ===


def no_picture(folder):
    (folder / "x.png").write_text("error: two\nlines\n")
    return ["--image=x.png"], "image file 'x.png' must be one whole picture"


def cut_picture(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40)).astype("uint8")
    PIL.Image.fromarray(pixels).save(folder / "x.png")
    content = (folder / "x.png").read_bytes()
    (folder / "x.png").write_bytes(content[: len(content) // 2])
    return ["--image=x.png"], "image file 'x.png' must be one whole picture"


def other_format(folder):
    PIL.Image.new("L", (8, 8)).save(folder / "x.bin", format="PPM")
    return ["--image=x.bin"], "image file 'x.bin' must be one whole picture: it is in none"


def bomb(side):
    def make(folder):
        PIL.Image.new("1", (side, side)).save(folder / "x.png")
        return ["--image=x.png"], "image file 'x.png' must be one whole picture: "

    make.__name__ = f"{side}x{side}"
    return make


def missing_picture(folder):
    return ["--image=x.png"], "image must be a file that exists, got 'x.png'"


def empty_folder(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "notes.txt").write_text("no picture")
    return ["--image=photos"], "image must hold pictures; 'photos' has none"


def no_image(folder):
    return [], "--image must be given"


@pytest.mark.parametrize(
    "make",
    [
        no_picture,
        cut_picture,
        other_format,
        bomb(12_000),
        bomb(15_000),
        missing_picture,
        empty_folder,
        no_image,
    ],
    ids=lambda f: f.__name__,
)
def test_bad_pictures_are_one_line(run, make, tmp_path):
    flags, message = make(tmp_path)
    url = "--url=http://127.0.0.1:1/v1/models/m"  # is never asked
    check_refused(run("predict", url, *flags, cwd=tmp_path), message)


def check_refused(result, message):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give one of --url=URL and --saved_model=DIR"),
        (["--url=http://h/v1/models/m", "--saved_model=d"], "Give one of --url=URL"),
        (["--url=localhost:8501"], "url must be http://HOST:8501/v1/models/NAME or grpc://"),
        (["--url=http://h:8501/models/m"], "url must be http://HOST:8501/v1/models/NAME"),
        (["--url=grpc://h/m"], "url must be http://HOST:8501/v1/models/NAME or grpc://"),
        (["--url=http://h/v1/models/m", "--top=0"], "top must be a whole number above 0"),
        (["--url=http://h/v1/models/m", "--timeout=0"], "timeout must be a finite number"),
        (["--url=http://127.0.0.1:1/v1/models/m"], "/v1/models/m cannot be reached"),
        (["--url=grpc://127.0.0.1:1/m"], "grpc://127.0.0.1:1/m cannot be reached"),
        (["--saved_model=nowhere"], "nowhere holds no SavedModel"),
    ],
    ids=str,
)
def test_bad_flags_are_one_line(run, pictures, flags, message, tmp_path):
    result = run("predict", f"--image={pictures / '00.png'}", *flags, cwd=tmp_path)
    check_refused(result, message)


# === the client alone ===


@pytest.fixture(params=["rest", "grpc"])
def url_of(request, server):
    return {"rest": server.rest_url, "grpc": server.grpc_url}[request.param]


def test_a_refusal_has_the_servers_reason(url_of):
    client = serving_client.client_for(url_of("digits"), 30)
    with pytest.raises(InputError, match="must be a whole JPEG or PNG file") as caught:
        client.answers([b"no picture"])
    assert "\n" not in str(caught.value)
    client = serving_client.client_for(url_of("nobody"), 30)
    with pytest.raises(InputError, match="Servable not found for request"):
        client.answers([b""])
    client = serving_client.client_for(f"{url_of('digits')}/versions/9", 30)
    with pytest.raises(InputError, match=r"Specific\(digits, 9\)"):
        client.answers([b""])
    assert client.class_names(3) == ["0", "1", "2"]  # where nobody tells


@pytest.fixture
def fake():
    """Serves whatever it is given, as many times as it is asked."""
    answer = {"status": 200, "body": b"{}", "delay": threading.Event(), "wait": 0.0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            answer["delay"].wait(answer["wait"])
            answer["asked"] = self.path, dict(self.headers)
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer["url"] = f"http://127.0.0.1:{server.server_address[1]}/v1/models/m"
    yield answer
    answer["delay"].set()
    server.shutdown()
    server.server_close()


ROW = {"probabilities": [[0.5, 0.5]], "class_id": [0], "label": ["a"]}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>", "answered no JSON"),
        (200, b"[1]", "answered without outputs"),
        (200, b'{"outputs": {"other": [1]}}', "serves no export of keras_dpvit"),
        (200, {**ROW, "label": ["a", "b"]}, "something else than 1 rows"),
        (200, {**ROW, "probabilities": [["a"]]}, "something else than 1 rows"),
        (200, {**ROW, "probabilities": [[float("nan")]]}, "no numbers (NaN)"),
        (500, b'{"error": "two\\nlines"}', "answered 500: two lines."),
        (503, b"", "answered 503: without a reason."),
        (502, b"<html>" + b"x" * 9999, "answered 502: <html>xxx"),
    ],
    ids=str,
)
def test_answers_of_another_server_are_one_line(fake, status, body, message):
    if isinstance(body, dict):
        body = json.dumps({"outputs": body}).encode()
    fake.update(status=status, body=body)
    with pytest.raises(InputError) as caught:
        serving_client.client_for(fake["url"], 5).answers([b"x"])
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert len(text) < 500


def test_answers_of_the_right_form_are_taken(fake):
    fake["body"] = json.dumps({"outputs": ROW}).encode()
    assert serving_client.client_for(fake["url"], 5).answers([b"x"]) == ROW


def test_a_gateways_prefix_and_headers(fake):
    fake["body"] = json.dumps({"outputs": ROW}).encode()
    url = fake["url"].replace("/v1/", "/team/vision/v1/")
    client = serving_client.client_for(url, 5, {"X-Team": "vision"})
    assert client.answers([b"x"]) == ROW
    path, headers = fake["asked"]
    assert path == "/team/vision/v1/models/m:predict"
    assert headers["X-Team"] == "vision"
    with pytest.raises(InputError, match="grpc:// takes none"):
        serving_client.client_for("grpc://127.0.0.1:8500/m", 5, {"X-Team": "vision"})


def test_a_token_comes_from_a_file_and_is_in_no_message(run, fake, pictures, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    flags = (f"--url={fake['url']}", f"--image={pictures}/00.png", "--token_file=token")
    fake["body"] = json.dumps({"outputs": ROW}).encode()
    assert run("predict", *flags, cwd=tmp_path).returncode == 0
    assert fake["asked"][1]["Authorization"] == "Bearer s3cret"
    fake.update(status=403, body=b'{"error": "not allowed"}')
    refused = run("predict", *flags, cwd=tmp_path)
    assert refused.returncode == 2
    assert "answered 403: not allowed" in refused.stderr
    assert "s3cret" not in refused.stderr + refused.stdout
    wrong = run("predict", *flags[:2], "--header=no colon", cwd=tmp_path)
    assert "header must be NAME:VALUE" in wrong.stderr


def test_a_proxy_that_does_not_answer_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    client = serving_client.client_for("http://models.example:8501/v1/models/m", 5)
    with pytest.raises(InputError, match=f"through the proxy 127.0.0.1:{port}") as caught:
        client.answers([b"x"])
    assert "s3cret" not in str(caught.value)


def test_a_host_that_is_not_there_is_told_in_the_systems_words():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = serving_client.client_for(f"http://127.0.0.1:{port}/v1/models/m", 5)
    with pytest.raises(InputError, match=r"cannot be reached: .*refused") as caught:
        client.answers([b"x"])
    assert "HTTPConnectionPool" not in str(caught.value)


def test_a_slow_server_is_given_up(fake):
    fake["wait"] = 30.0
    with pytest.raises(InputError, match=r"did not answer within 0.2 seconds \(--timeout\)"):
        serving_client.client_for(fake["url"], 0.2).answers([b"x"])


def test_a_slow_grpc_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = serving_client.client_for(f"grpc://127.0.0.1:{port}/m", 0.2)
        with pytest.raises(InputError, match=r"did not answer within 0.2 s|cannot be reached"):
            client.answers([b"x"])


def test_a_picture_may_have_as_many_pixels_as_the_graph_takes():
    from keras_dpvit.export.decoding import MAX_PIXELS

    assert image_files.MAX_PIXELS == MAX_PIXELS
