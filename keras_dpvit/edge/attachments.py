"""Files attached to a TFLite file: class names, provenance, privacy card.

They form a ZIP archive behind the flatbuffer, as TFLite's model metadata has it, so that `unzip`
and `zipfile` read them, and LiteRT does not mind them. The provenance holds the SHA-256 of the
flatbuffer: a file that was cut short or changed since is told from one that was not.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from typing import Any

from keras_dpvit.errors import InputError

LABELS = "labels.txt"
PROVENANCE = "provenance.json"

_MOST_BYTES = 2**24  # unpacked, of one file: an archive may say anything


@dataclasses.dataclass(frozen=True)
class Attached:
    """The files attached to a TFLite file.

    Attributes:
        labels: class names in the order of the classes, None if there are none.
        provenance: what the exporter wrote, empty if there is nothing.
        is_intact: bool, whether the flatbuffer has the digest it was written with; False too if
            no digest is known.
    """

    labels: list[str] | None
    provenance: dict[str, Any]
    is_intact: bool


def attach(flatbuffer: bytes, labels: list[str], files: dict[str, Any]) -> bytes:
    """The flatbuffer with labels and JSON files behind it.

    Args:
        flatbuffer: a TFLite model.
        labels: class names, each of one line.
        files: name to JSON-able object; the digest is added to `PROVENANCE`.
    """
    digest = hashlib.sha256(flatbuffer).hexdigest()
    files = {**files, PROVENANCE: {**files.get(PROVENANCE, {}), "sha256": digest}}
    stream = io.BytesIO()
    stream.write(flatbuffer)
    with zipfile.ZipFile(stream, "a") as archive:
        # A ZipInfo made from a name has a fixed date: equal models, equal bytes.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{name}\n" for name in labels))
        for name, content in sorted(files.items()):
            text = json.dumps(content, indent=2, allow_nan=False) + "\n"
            archive.writestr(zipfile.ZipInfo(name), text)
    return stream.getvalue()


def read_attached(content: bytes) -> Attached:
    """Reads what is attached to the bytes of a TFLite file; nothing, if it is another tool's.

    Raises:
        InputError: if the flatbuffer is not the one that the provenance was written for, or an
            attached file cannot be read.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile:
        return Attached(None, {}, False)
    try:
        with archive:
            entries = archive.infolist()
            start = min((entry.header_offset for entry in entries), default=len(content))
            files = {
                entry.filename: archive.read(entry)
                for entry in entries
                if entry.filename in (LABELS, PROVENANCE) and entry.file_size <= _MOST_BYTES
            }
    except Exception as error:  # zipfile raises many types on damaged archives
        raise InputError("the files attached to it are damaged.") from error
    try:
        labels = files[LABELS].decode().splitlines() if LABELS in files else None
        provenance = json.loads(files.get(PROVENANCE, b"{}"))
    except ValueError as error:
        raise InputError("the files attached to it are damaged.") from error
    expected = provenance.get("sha256") if isinstance(provenance, dict) else None
    if expected is None:
        return Attached(labels, {}, False)
    if hashlib.sha256(content[:start]).hexdigest() != expected:
        raise InputError("it is damaged: its SHA-256 is not the one it was written with.")
    return Attached(labels, provenance, True)
