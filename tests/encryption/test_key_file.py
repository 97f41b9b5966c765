"""Key files: who may read them, what a change does, and what a passphrase is worth."""

import base64
import json
import os
import stat

import pytest

from keras_dpvit import InputError
from keras_dpvit.encryption import KeyFile, SecretKey, passphrase, read_key_file, write_key_file
from keras_dpvit.encryption.key_file import read_header


@pytest.fixture(scope="module", autouse=True)
def _cheap_scrypt():
    """Its cost is in every file, so that a test need not pay for guesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrase, "_COST", {"n": 2**10, "r": 8, "p": 1})
        yield


@pytest.fixture
def key_file():
    return KeyFile(SecretKey.generate(), "vit_block", {"block_size": 4}, (8, 12, 3))


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("secret_words", [None, "correct horse", "schlüssel ☂"])
def test_round_trip(tmp_path, key_file, secret_words):
    path = tmp_path / "key.json"
    old = os.umask(0)
    try:
        write_key_file(path, key_file, secret_words)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key.json"]
    again = read_key_file(path, secret_words)
    assert again == key_file
    assert again.key.reveal() == key_file.key.reveal()
    assert again.options == {"block_size": 4, "channels": "joint", "unit": "quadrant"}
    header = read_header(path)
    assert header["kid"] == key_file.key.kid
    assert header["wrapped"] == (secret_words is not None)
    assert "secret" not in header


def test_the_secret_is_nowhere_but_in_its_place(tmp_path, key_file):
    secret = key_file.key.reveal()
    path = tmp_path / "plain.json"
    write_key_file(path, key_file)
    content = json.loads(path.read_text())
    assert base64.b64decode(content.pop("secret")) == secret
    write_key_file(tmp_path / "wrapped.json", key_file, "words")
    for text in (json.dumps(content), (tmp_path / "wrapped.json").read_text(), repr(key_file)):
        assert secret.hex() not in text
        assert base64.b64encode(secret).decode() not in text
        assert "words" not in text


def test_kid_is_the_reference_derivation():
    import hashlib
    import hmac

    secret = bytes(range(32))
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    expected = hmac.new(extracted, b"kid\x01", hashlib.sha256).digest()[:8].hex()
    assert SecretKey(secret).kid == expected


def test_two_keys_differ():
    assert SecretKey.generate() != SecretKey.generate()


def test_nothing_is_overwritten(tmp_path, key_file):
    path = tmp_path / "key.json"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        write_key_file(path, key_file)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["key.json"]
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="exists already"):
        write_key_file(tmp_path / "link.json", key_file)


def test_a_folder_that_is_not_there_is_named(tmp_path, key_file):
    with pytest.raises(InputError, match=r"none/key.json cannot be written: No such file"):
        write_key_file(tmp_path / "none" / "key.json", key_file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o777])
def test_looser_modes_are_refused(tmp_path, key_file, mode):
    path = tmp_path / "key.json"
    write_key_file(path, key_file)
    path.chmod(mode)
    for read in (read_key_file, read_header):
        with pytest.raises(InputError, match=f"chmod 600.*{mode:04o}"):
            read(path)
    path.chmod(0o400)
    assert read_key_file(path) == key_file


CHANGES = {
    "scheme": lambda c: c.update(scheme="le", params={"block_size": 4, "variant": "tanaka"}),
    "block size": lambda c: c["params"].update(block_size=2),
    "unknown option": lambda c: c["params"].update(colour=2),
    "image shape": lambda c: c.update(image_shape=[8, 8, 3]),
    "bad image shape": lambda c: c.update(image_shape=7),
    "kid": lambda c: c.update(kid="0" * 16),
    "created": lambda c: c.update(created="2001-01-01T00:00:00+00:00"),
    "derivation": lambda c: c.update(derivation="md5"),
    "params": lambda c: c.update(params=[]),
    "missing field": lambda c: c.pop("created"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("words", [None, "words"])
def test_a_changed_header_is_noticed(tmp_path, key_file, change, words):
    path = tmp_path / "key.json"
    write_key_file(path, key_file, words)
    rewritten(path, CHANGES[change])
    with pytest.raises(InputError, match="was changed") as caught:
        read_key_file(path, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(secret=base64.b64encode(bytes(32)).decode()),
        lambda c: c.update(secret=c["secret"][:-8]),
        lambda c: c.update(secret="!"),
        lambda c: c.update(secret=None),
        lambda c: c.pop("secret"),
        lambda c: c.update(check="0" * 64),
        lambda c: c.update(check="ü"),
        lambda c: c.pop("check"),
    ],
)
def test_a_changed_secret_is_noticed(tmp_path, key_file, change):
    path = tmp_path / "key.json"
    write_key_file(path, key_file)
    rewritten(path, change)
    with pytest.raises(InputError, match="damaged or was changed"):
        read_key_file(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.update(ciphertext=base64.b64encode(bytes(48)).decode()),
        lambda w: w.update(nonce=base64.b64encode(bytes(12)).decode()),
        lambda w: w.update(nonce=base64.b64encode(b"1").decode()),
        lambda w: w.update(salt=base64.b64encode(bytes(16)).decode()),
        lambda w: w.update(salt="%"),
        lambda w: w.update(n=2**9),
        lambda w: w.update(n=2**40),
        lambda w: w.update(n=1000),
        lambda w: w.update(r="8"),
        lambda w: w.update(more=1),
        lambda w: w.update(cipher="none"),
        lambda w: w.pop("ciphertext"),
    ],
)
def test_a_changed_wrapping_is_noticed(tmp_path, key_file, change):
    path = tmp_path / "key.json"
    write_key_file(path, key_file, "words")
    rewritten(path, lambda content: change(content["wrapped"]))
    with pytest.raises(InputError, match="passphrase is wrong, or the file was changed"):
        read_key_file(path, "words")


def test_passphrases(tmp_path, key_file):
    path = tmp_path / "key.json"
    write_key_file(path, key_file, "words")
    with pytest.raises(InputError, match="needs its passphrase"):
        read_key_file(path)
    for wrong in ("Words", "words ", ""):
        with pytest.raises(InputError, match="passphrase is wrong"):
            read_key_file(path, wrong)
    with pytest.raises(InputError, match="passphrase must not be empty"):
        write_key_file(tmp_path / "other.json", key_file, "")
    assert not (tmp_path / "other.json").exists()


def test_the_same_key_is_never_wrapped_twice_alike(tmp_path, key_file):
    wrapped = []
    for name in ("a.json", "b.json"):
        write_key_file(tmp_path / name, key_file, "words")
        wrapped.append(json.loads((tmp_path / name).read_text())["wrapped"])
    for part in ("salt", "nonce", "ciphertext"):
        assert wrapped[0][part] != wrapped[1][part]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "not a key file"),
        (b'{"format": "other"}', "not a key file"),
        (b'{"format": "keras_dpvit encryption key", "version": 2}', "version 2"),
        (b'{"format": "keras_dpvit encryption key", "version": 1}', "was changed"),
    ],
)
def test_other_files_are_refused(tmp_path, data, told):
    path = tmp_path / "key.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(InputError, match=told):
        read_key_file(path)


def test_places_without_a_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_key_file(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_key_file(tmp_path)


def test_a_key_file_makes_its_cipher():
    key = SecretKey.generate()
    fixed = KeyFile(key, "ele", {}, (8, 8, 1))
    assert fixed.cipher().image_shape == (8, 8, 1)
    with pytest.raises(InputError, match=r"must have shape \(8, 8, 1\)"):
        fixed.cipher((16, 16, 1))
    loose = KeyFile(key, "ele")
    assert loose.cipher((16, 16, 1)).image_shape == (16, 16, 1)
    assert loose.cipher((16, 16, 1), block_size=8).params()["block_size"] == 8
    with pytest.raises(InputError, match="image_shape must be given"):
        loose.cipher()
    for scheme, options, shape in (
        ("rot13", {}, None),
        ("le", {"unit": "patch"}, None),
        ("le", {"block_size": 0}, None),
        ("vit_block", {"block_size": 16}, (30, 32, 3)),
        ("pe", {}, (8, 8, 2)),
    ):
        with pytest.raises(InputError):
            KeyFile(key, scheme, options, shape)
