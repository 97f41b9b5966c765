"""Videos that lie sideways or are cut short, cameras that are unplugged, pictures that are bad."""

import struct

import cv2
import numpy as np
import PIL.Image
import pytest

from keras_dpvit.edge import frames
from keras_dpvit.errors import InputError

SHAPE = (24, 32, 3)


def collect(stream, found):
    for frame in stream:
        found.append(frame.name)


def write_clip(path, number=30, code="mp4v"):
    """Frames whose upper left quarter is bright."""
    picture = np.full(SHAPE, 20, np.uint8)
    picture[:12, :16] = 230
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 12, SHAPE[1::-1])
    for _ in range(number):
        writer.write(picture)
    writer.release()
    return path


def turn(path):
    """Writes into an MP4 file that it is to be turned clockwise, as a phone held upright does."""
    content = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    place = content.index(matrix, content.index(b"tkhd"))
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, SHAPE[0] << 16, 0, 0x40000000)
    content[place : place + len(matrix)] = turned
    path.write_bytes(content)


def read(source, shape=SHAPE, **options):
    opened = frames.open_source(str(source))
    return list(frames.read_ahead(opened, shape, True, **options))


def test_a_phones_film_stands_upright(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    plain = read(clip)[0]
    assert plain.picture[:10, :14].min() > 180
    turn(clip)
    upright = read(clip, (32, 24, 3))[0]
    assert upright.picture.shape == (32, 24, 3)
    assert upright.picture[:14, 14:].min() > 180  # the bright quarter is at the upper right
    assert upright.picture[:14, :10].max() < 80
    assert upright.pixels[:14, 14:].min() > 180


def test_a_film_that_is_cut_short_is_told_after_its_frames(tmp_path):
    clip = write_clip(tmp_path / "clip.avi", 60, "MJPG")
    assert len(read(clip)) == 60
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    found = []
    with pytest.raises(InputError, match=r"clip\.avi' ended after \d+ of 60 frames") as caught:
        collect(frames.read_ahead(frames.open_source(str(clip)), SHAPE, False), found)
    assert 10 < len(found) < 40
    assert f"after {len(found)} of" in str(caught.value)
    assert len(read(clip, limit=5)) == 5  # of which no more were asked for


class Camera:
    """As `cv2.VideoCapture`, of a camera that gives some pictures each time it is opened."""

    def __init__(self, batches):
        self.left = batches.pop(0) if batches else 0

    def read(self):
        self.left -= 1
        return (True, np.zeros(SHAPE, np.uint8)) if self.left >= 0 else (False, None)

    def get(self, which):
        return 0.0

    def release(self):
        self.left = 0


@pytest.fixture
def camera(monkeypatch):
    """Cameras that give these numbers of pictures each time they are opened."""

    def plug(*batches):
        batches = list(batches)
        monkeypatch.setattr(frames, "_opened", lambda cv2, source: Camera(batches))
        monkeypatch.setattr(frames, "_WAITS", (0.0, 0.01, 0.01))

    return plug


def test_a_camera_that_comes_back_goes_on(camera):
    camera(150, 0, 150)
    stream = frames.open_source("rtsp://camera/stream").frames(SHAPE, False)
    assert [next(stream).name for _ in range(300)][-1] == "299"


def test_a_camera_that_stays_away_is_told(camera):
    camera(150)
    found = []
    with pytest.raises(InputError, match=r"'0' gives no more pictures after 150: .* 3 times"):
        collect(frames.open_source("0").frames(SHAPE, False), found)
    assert len(found) == 150


def test_a_camera_that_is_closed_is_not_waited_for(camera, monkeypatch):
    camera(3)
    monkeypatch.setattr(frames, "_WAITS", (60.0,))
    found = list(frames.read_ahead(frames.open_source("0"), SHAPE, False, limit=1))
    assert len(found) == 1


def test_a_camera_that_is_not_there_is_refused(camera):
    camera(0)
    with pytest.raises(InputError, match="a camera's number, got '3'"):
        frames.open_source("3")
    with pytest.raises(InputError, match="an address that answers, got 'http://none/'"):
        frames.open_source("http://none/")


def test_bad_pictures_are_told_after_the_good_ones(tmp_path):
    for name in ("a", "b", "c", "d"):
        PIL.Image.new("L", (9, 9), 7).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.png").write_bytes(b"")
    found = []
    with pytest.raises(InputError, match=r"b\.png.*c\.png") as caught:
        collect(frames.open_source(str(tmp_path)).frames(SHAPE, True), found)
    assert found == ["a.png", "d.png"]
    assert "\n" not in str(caught.value)
