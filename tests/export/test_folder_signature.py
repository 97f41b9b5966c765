"""Signed folders: nothing in one can change, come or go without its signature failing."""

import base64
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keras_dpvit.errors import InputError
from keras_dpvit.export import folder_signature
from keras_dpvit.export.folder_signature import sign_folder, signature_path, signature_problem

SHIPPED = pathlib.Path(__file__).parents[2] / "savedmodels" / "fashion_mnist" / "1"
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def pem(key, password=None):
    encryption = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, encryption)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, SPKI)


def write_keys(directory):
    key = ec.generate_private_key(ec.SECP256R1())
    (directory / "key.pem").write_bytes(pem(key))
    (directory / "key.pub.pem").write_bytes(public_pem(key))
    return directory / "key.pem", directory / "key.pub.pem"


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A signed export, small: the shipped one without its largest files."""
    folder = tmp_path / "fmnist" / "1"
    large = shutil.ignore_patterns("model.*", "variables.data*")
    shutil.copytree(SHIPPED, folder, ignore=large)
    return folder


@pytest.fixture
def signed(folder, keys):
    sign_folder(folder, keys[0])
    return folder


def test_a_signature_lies_beside_its_folder_and_holds(signed, keys):
    assert signature_path(signed) == signed.parent / "1.sig"
    assert {path.name for path in signed.parent.iterdir()} == {"1", "1.sig"}
    assert signature_problem(signed, keys[1]) is None
    secret = keys[0].read_bytes().splitlines()[1:-1]
    assert not any(line in (signed.parent / "1.sig").read_bytes() for line in secret)


def test_signing_changes_nothing_in_the_folder(folder, keys, file_digests):
    before = file_digests(folder)
    sign_folder(folder, keys[0])
    assert file_digests(folder) == before


def test_a_moved_and_renamed_folder_stays_signed(signed, keys, tmp_path):
    shutil.move(signed, tmp_path / "elsewhere")
    signature = signed.parent / "1.sig"
    assert signature_problem(tmp_path / "elsewhere", keys[1], signature) is None


CHANGES = {
    "added": lambda folder: (folder / "assets" / "more.txt").write_text("x"),
    "added, empty": lambda folder: (folder / "more").touch(),
    "added, hidden": lambda folder: (folder / ".more").touch(),
    "added, Git's": lambda folder: (folder / ".gitattributes").write_text("x"),
    "added, in Git's folder": lambda folder: (
        (folder / ".git").mkdir(),
        (folder / ".git" / "config").write_text("x"),
    ),
    "removed": lambda folder: (folder / "fingerprint.pb").unlink(),
    "renamed": lambda folder: (folder / "run.json").rename(folder / "ran.json"),
    "longer": lambda folder: (folder / "run.json").open("a").write("\n"),
    "emptied": lambda folder: (folder / "run.json").write_bytes(b""),
    "swapped": lambda folder: (folder / "run.json").write_bytes(
        (folder / "privacy_card.json").read_bytes()
    ),
    "a link to the same bytes": lambda folder: (
        (folder / "run.json").rename(folder.parent / "run.json"),
        (folder / "run.json").symlink_to(folder.parent / "run.json"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_folder_shows(signed, keys, change):
    CHANGES[change](signed)
    assert signature_problem(signed, keys[1])


def test_reasons_name_the_files(signed, keys):
    (signed / "run.json").write_text("{}")
    (signed / "more").touch()
    (signed / "fingerprint.pb").unlink()
    reason = signature_problem(signed, keys[1])
    for text in ("Extra files found", "more", "Missing files", "fingerprint.pb", "'run.json'"):
        assert text in reason
    assert "\n" not in reason


def test_another_key_does_not_do(signed, tmp_path):
    (tmp_path / "other").mkdir()
    _, public = write_keys(tmp_path / "other")
    assert "public key" in signature_problem(signed, public)


def resigned(signature, other):
    """The signature of another key under the hint of the right one."""
    stolen = json.loads(signature)
    stolen["dsseEnvelope"] = json.loads(other)["dsseEnvelope"]
    return json.dumps(stolen).encode()


def test_a_forged_signature_does_not_do(signed, keys, tmp_path):
    (tmp_path / "other").mkdir()
    other, _ = write_keys(tmp_path / "other")
    (signed / "run.json").write_text("{}")
    forged = sign_folder(signed, other, tmp_path / "forged.sig")
    own = signature_path(signed)
    own.write_bytes(resigned(own.read_bytes(), forged.read_bytes()))
    assert signature_problem(signed, keys[1]) == "the signature was not made with this key"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"{}",
        lambda content: b"[]",
        lambda content: b"null",
        lambda content: b"\xff\xfe",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"payload"', b'"payloud"'),
        lambda content: content.replace(b'"signatures"', b'"signature"'),
        lambda content: content.replace(b'"publicKey"', b'"certificate"'),
    ],
)
def test_a_damaged_signature_fails_without_a_traceback(signed, keys, damage, capfd):
    file = signature_path(signed)
    file.write_bytes(damage(file.read_bytes()))
    assert signature_problem(signed, keys[1]).startswith("the signature ")
    assert capfd.readouterr() == ("", "")


def test_a_missing_signature_is_a_problem(folder, keys):
    assert "1.sig cannot be read" in signature_problem(folder, keys[1])


def test_edits_of_what_was_signed_show_in_the_signature_too(signed, keys):
    file = signature_path(signed)
    bundle = json.loads(file.read_text())
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    rng = np.random.default_rng(0)
    for offset in rng.integers(len(payload), size=100):
        changed = bytearray(payload)
        changed[offset] ^= int(rng.integers(1, 256))
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
        file.write_text(json.dumps(bundle))
        assert signature_problem(signed, keys[1])


def test_a_signature_that_leaves_files_out_does_not_cover_them(folder, keys):
    from model_signing import hashing, signing

    config = hashing.Config().use_file_serialization().set_ignored_paths(paths=["run.json"])
    signer = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    signer.set_hashing_config(config).sign(folder, signature_path(folder))
    assert signature_problem(folder, keys[1]) == "the signature leaves out run.json"


def test_openssfs_own_program_reads_ours_and_is_read(folder, keys, tmp_path):
    def program(*arguments):
        command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True).returncode

    ours, theirs = sign_folder(folder, keys[0]), tmp_path / "theirs.sig"
    check = ("verify", "key", "--public_key", keys[1], "--signature")
    assert program(*check, ours, folder) == 0
    assert program("sign", "key", "--private_key", keys[0], "--signature", theirs, folder) == 0
    assert signature_problem(folder, keys[1], theirs) is None
    (folder / ".gitattributes").touch()  # which their program leaves out, and says so
    assert signature_problem(folder, keys[1], theirs) == "the signature leaves out .gitattributes"
    (folder / "run.json").write_text("{}")
    assert program(*check, ours, folder) != 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(ec.generate_private_key(ec.SECP256R1()), b"word"),
        pem(rsa.generate_private_key(65537, 2048)),
        public_pem(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=["empty", "text", "another curve", "a password", "RSA", "a public key"],
)
def test_another_file_for_the_private_key_is_refused(folder, tmp_path, content):
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(InputError, match="private_key must be a PEM file") as caught:
        sign_folder(folder, tmp_path / "key.pem")
    assert "BEGIN" not in str(caught.value)
    assert not signature_path(folder).exists()


def test_what_cannot_be_signed_is_refused(folder, keys, tmp_path):
    with pytest.raises(InputError, match="private_key must be a PEM file"):
        sign_folder(folder, tmp_path / "nowhere.pem")
    with pytest.raises(InputError, match="does not exist or is not a folder"):
        sign_folder(tmp_path / "nowhere", keys[0])
    with pytest.raises(InputError, match="signature must lie outside"):
        sign_folder(folder, keys[0], folder / "model.sig")
    with pytest.raises(InputError, match="private_key must lie outside"):
        sign_folder(folder, shutil.copy(keys[0], folder / "key.pem"))
    (folder / "key.pem").unlink()
    (folder / "link").symlink_to("run.json")
    with pytest.raises(InputError, match="cannot be signed: "):
        sign_folder(folder, keys[0])
    assert not signature_path(folder).exists()


@pytest.mark.parametrize(
    "content", [b"", pem(rsa.generate_private_key(65537, 2048))], ids=["empty", "a private key"]
)
def test_another_file_for_the_public_key_is_refused(signed, tmp_path, content):
    (tmp_path / "p.pem").write_bytes(content)
    with pytest.raises(InputError, match="public_key must be a PEM file with an EC public key"):
        signature_problem(signed, tmp_path / "p.pem")


def test_without_the_package_it_says_what_to_install(monkeypatch, signed, keys):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for call in (
        sign_folder,
        signature_problem,
        lambda f, k: folder_signature.check_private_key(k),
    ):
        with pytest.raises(InputError, match=r"pip install 'keras_dpvit\[signing\]'"):
            call(signed, keys[0])
