"""`trainers.edge` as a user types it: folders, videos, cameras, annotated frames, bad input."""

import json
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd
from keras_dpvit.datasets.image_folder import load_image_folder
from keras_dpvit.edge import TFLiteRunner

NAMES = [f"digit {i}" for i in range(10)]


@pytest.fixture(scope="module")
def place(trained_fusion, digit_images, tmp_path_factory):
    """A model, a folder of pictures of several sizes, and a video of six digits."""
    root = tmp_path_factory.mktemp("edge")
    kd.export.tflite(trained_fusion, root / "m.tflite", class_names=NAMES)
    (root / "photos" / "more").mkdir(parents=True)
    for i, image in enumerate(digit_images.x_test[:12]):
        folder = root / "photos" if i < 8 else root / "photos" / "more"
        big = PIL.Image.fromarray(image[..., 0]).resize((8 * (1 + i % 3), 8 * (1 + i % 2)))
        big.convert("RGB" if i % 2 else "L").save(folder / f"{i:02}.{'jpg' if i == 5 else 'png'}")
    (root / "photos" / "notes.txt").write_text("no picture")
    writer = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12, (64, 48))
    for image in digit_images.x_test[:6]:
        frame = cv2.resize(image, (64, 48), interpolation=cv2.INTER_NEAREST)
        for _ in range(5):
            writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return root


def read_json(result):
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_folder(run, place, tmp_path):
    result = run(
        "edge",
        f"--model={place}/m.tflite",
        f"--source={place}/photos",
        "--json",
        "--threads=1",
        cwd=tmp_path,
    )
    found = read_json(result)
    assert [frame["frame"] for frame in found["frames"]] == [
        *(f"{i:02}.{'jpg' if i == 5 else 'png'}" for i in range(8)),
        *(f"more/{i:02}.png" for i in range(8, 12)),
    ]
    assert found["num_frames"] == 12
    assert found["threads"] == 1
    assert found["frames_per_second"] > 0
    assert sum(found["labels"].values()) == 12
    # The same pictures, read as for training.
    expected = TFLiteRunner(place / "m.tflite").predict(as_in_training(place, tmp_path))
    for frame, class_id, row in zip(
        found["frames"], expected["class_id"], expected["probabilities"], strict=True
    ):
        assert frame["class_id"] == class_id
        assert frame["label"] == NAMES[class_id]
        assert frame["probability"] == pytest.approx(row[class_id], abs=1e-6)


def as_in_training(place, tmp_path):
    """What `load_image_folder` makes of the pictures, in the order of their names."""
    for part in ("train", "test"):
        for name in ("photos", "photos/more"):
            target = tmp_path / "data" / part / name.replace("/", "_")
            target.mkdir(parents=True)
            for path in sorted((place / name).glob("*.[pj][np]g")):
                (target / path.name).write_bytes(path.read_bytes())
    return load_image_folder(tmp_path / "data", image_shape=(8, 8, 1)).x_train


def test_folder_prints_a_line_for_each_picture(run, place, tmp_path):
    result = run(
        "edge",
        f"--model={place}/m.tflite",
        f"--source={place}/photos",
        "--limit=3",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["00.png", "01.png", "02.png"]
    assert all(0 < float(line.split()[-1]) <= 1 for line in lines[:3])
    assert lines[4].startswith("3 frames, ")
    assert "with 2 threads" in lines[4]


def test_only_the_first_pictures_of_a_folder_have_a_line(run, place, tmp_path):
    (tmp_path / "many").mkdir()
    first = sorted((place / "photos").glob("*.png"))[0]
    for i in range(25):
        (tmp_path / "many" / f"{i:02}.png").write_bytes(first.read_bytes())
    result = run("edge", f"--model={place}/m.tflite", "--source=many", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:20]] == [f"{i:02}.png" for i in range(20)]
    assert lines[20] == "... (--json names every picture)"
    assert lines[22].startswith("25 frames, ")


def test_video(run, place, tmp_path):
    flags = (f"--model={place}/m.tflite", f"--source={place}/clip.avi")
    found = read_json(run("edge", *flags, "--json", "--output=out.mp4", cwd=tmp_path))
    assert found["num_frames"] == 30
    assert [frame["frame"] for frame in found["frames"]] == [str(i) for i in range(30)]
    # Each digit stays for five frames.
    ids = np.reshape([frame["class_id"] for frame in found["frames"]], (6, 5))
    assert np.all(ids == ids[:, :1])
    assert len(set(ids[:, 0])) > 2
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    written = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert written.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    _, frame = written.read()
    assert frame.shape == (192, 256, 3)  # four times as large, for the label to be read
    assert frame[:20].max() > 200


def test_video_prints_now_and_then(run, place, tmp_path):
    flags = (f"--model={place}/m.tflite", f"--source={place}/clip.avi", "--limit=20")
    result = run("edge", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "0"
    end = next(i for i, line in enumerate(lines) if line.startswith("20 frames"))
    assert end < 15


def test_annotated_pictures(run, place, tmp_path):
    flags = (f"--model={place}/m.tflite", f"--source={place}/photos", "--output=out")
    result = run("edge", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.png"))
    assert [str(path) for path in written] == [
        *(f"{i:02}.png" for i in range(8)),
        *(f"more/{i:02}.png" for i in range(8, 12)),
    ]
    drawn = cv2.imread(str(tmp_path / "out" / "00.png"))
    plain = cv2.imread(str(place / "photos" / "00.png"))
    factor = drawn.shape[1] // plain.shape[1]
    plain = plain.repeat(factor, axis=0).repeat(factor, axis=1)
    band = 40
    assert np.any(drawn[:band] != plain[:band])
    np.testing.assert_array_equal(drawn[band:], plain[band:])


def check_refused(result, message, folder, before):
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
    assert sorted(folder.rglob("*")) == before


def huge_png(path):
    """A PNG of 60 kilobytes that claims, and holds, 140 million black pixels."""
    width, height = 20_000, 7_000

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = zlib.compress(bytes((width + 1) * height), 9)
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source=photos"], "Give --model"),
        (["--model=m.tflite"], "Give --source"),
        (["--model=none.tflite", "--source=photos"], "none.tflite is not a file"),
        (["--model=photos", "--source=photos"], "photos is not a file"),
        (["--model=text.tflite", "--source=photos"], "text.tflite cannot be loaded as TFLite"),
        (["--model=cut.tflite", "--source=photos"], "cut.tflite cannot be loaded as TFLite"),
        (["--model=changed.tflite", "--source=photos"], "it is damaged: its SHA-256"),
        (["--model=m.tflite", "--source=nowhere"], "source must be a folder of pictures, a video"),
        (["--model=m.tflite", "--source=empty"], "source must hold pictures; 'empty'"),
        (["--model=m.tflite", "--source=text.avi"], "or a video that OpenCV can read"),
        (["--model=m.tflite", "--source=cut.avi"], "or a video that OpenCV can read"),
        (["--model=m.tflite", "--source=77"], "source must be a folder of pictures or a camera's"),
        (["--model=m.tflite", "--source=-1"], "source must be a folder of pictures, a video"),
        (["--model=m.tflite", "--source=bad", "--output=out"], "must be one whole picture"),
        (["--model=m.tflite", "--source=bad", "--output=out.mp4"], "must be one whole picture"),
        (["--model=m.tflite", "--source=huge"], "134217728 are allowed"),
        (["--model=m.tflite", "--source=huge/0.png", "--output=out"], "it has 20000x7000"),
        (["--model=m.tflite", "--source=photos", "--threads=0"], "threads must be a whole number"),
        (["--model=m.tflite", "--source=photos", "--limit=0"], "limit must be a whole number"),
        (["--model=m.tflite", "--source=photos", "--output=m.tflite"], "output must be a new"),
        (["--model=m.tflite", "--source=photos", "--output=photos"], "'photos' exists"),
        (["--model=m.tflite", "--source=photos", "--output=a/b"], "folder that can be written"),
        (["--model=m.tflite", "--source=photos", "--output=a.gif"], "ending in .mp4 or .avi"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(run, broken, flags, message):
    before = sorted(broken.rglob("*"))
    check_refused(run("edge", *flags, cwd=broken), message, broken, before)


@pytest.fixture(scope="module")
def broken(place, tmp_path_factory):
    """Good files and all sorts of bad ones."""
    root = tmp_path_factory.mktemp("broken")
    content = (place / "m.tflite").read_bytes()
    (root / "m.tflite").write_bytes(content)
    (root / "cut.tflite").write_bytes(content[: len(content) // 2])
    (root / "changed.tflite").write_bytes(content[:900] + b"\xff\x00\xff" + content[903:])
    (root / "text.tflite").write_text("no flatbuffer\n" * 30)
    (root / "text.avi").write_text("no video\n" * 300)
    (root / "cut.avi").write_bytes((place / "clip.avi").read_bytes()[:300])
    for name in ("photos", "empty", "bad", "huge"):
        (root / name).mkdir()
    picture = (place / "photos" / "00.png").read_bytes()
    (root / "photos" / "0.png").write_bytes(picture)
    (root / "bad" / "0.png").write_bytes(picture)
    (root / "bad" / "1.png").write_bytes(picture[:60])
    huge_png(root / "huge" / "0.png")
    return root


def test_frames_of_a_camera_are_never_old():
    """A live source that is faster than its reader: frames in between are dropped."""
    import threading

    from keras_dpvit.edge import frames

    class Camera(frames.Source):
        kind = "camera"
        closed = False

        def frames(self, image_shape, with_pictures):
            for number in range(50):
                yield frames.Frame(str(number), np.zeros(image_shape, np.uint8), None)
            ended.set()

        def close(self):
            Camera.closed = True

    ended = threading.Event()
    stream = frames.read_ahead(Camera(), (2, 2, 1), False)
    first = next(stream)
    assert ended.wait(10)
    last = list(stream)[-1:] or [first]
    assert last[0].name == "49"
    assert Camera.closed


def test_error_of_the_reader_is_raised_where_frames_are_asked_for():
    from keras_dpvit.edge import frames
    from keras_dpvit.errors import InputError

    class Broken(frames.Source):
        kind = "folder"

        def frames(self, image_shape, with_pictures):
            yield frames.Frame("0", np.zeros(image_shape, np.uint8), None)
            raise InputError("frame 1 is broken.")

    stream = frames.read_ahead(Broken(), (2, 2, 1), False)
    assert next(stream).name == "0"
    with pytest.raises(InputError, match=r"frame 1 is broken\."):
        next(stream)
