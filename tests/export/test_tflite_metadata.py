"""Labels, provenance, card and TFLite's metadata in a TFLite file."""

import hashlib
import io
import json
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import keras_dpvit as kd
from keras_dpvit.edge import TFLiteRunner
from keras_dpvit.errors import InputError

NAMES = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


@pytest.fixture(scope="module")
def exported(trained_fusion, tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "model.tflite"
    kd.export.tflite(trained_fusion, path, class_names=NAMES)
    return path


class Table:
    """A flatbuffer table, read slot by slot as the format says."""

    def __init__(self, content, position):
        self._table = flatbuffers.table.Table(content, position)

    @classmethod
    def root(cls, content):
        return cls(content, flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0))

    def _offset(self, slot):
        return self._table.Offset(4 + 2 * slot)

    def text(self, slot):
        offset = self._offset(slot)
        return self._table.String(offset + self._table.Pos).decode() if offset else None

    def number(self, slot, flags):
        offset = self._offset(slot)
        return self._table.Get(flags, offset + self._table.Pos) if offset else 0

    def table(self, slot):
        offset = self._offset(slot)
        return Table(self._table.Bytes, self._table.Indirect(offset + self._table.Pos))

    def tables(self, slot):
        offset = self._offset(slot)
        if not offset:
            return []
        start = self._table.Vector(offset)
        number = self._table.VectorLen(offset)
        return [
            Table(self._table.Bytes, self._table.Indirect(start + 4 * i)) for i in range(number)
        ]

    def floats(self, slot):
        vector = self._table.GetVectorAsNumpy(
            flatbuffers.number_types.Float32Flags, self._offset(slot)
        )
        return vector.tolist()


@pytest.fixture(scope="module")
def metadata(exported):
    content = exported.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    buffer = bytes(model.buffers[entry.buffer].data)
    assert flatbuffers.util.BufferHasIdentifier(buffer, 0, b"M001")
    return Table.root(buffer)


INT8 = flatbuffers.number_types.Int8Flags
UINT8 = flatbuffers.number_types.Uint8Flags
UINT32 = flatbuffers.number_types.Uint32Flags


def test_model_metadata(metadata, trained_fusion):
    assert metadata.text(0) == "keras_dpvit"
    assert metadata.text(2) == kd.__version__
    assert metadata.text(4) == f"keras_dpvit {kd.__version__}"
    assert metadata.text(7) == "1.0.0"
    text = metadata.text(1)
    assert text.startswith("Fused image classifier of 10 classes.")
    epsilon = kd.export.privacy_card(trained_fusion)["epsilon"]["rdp"]
    (printed,) = [part for part in text.split() if part.replace(".", "", 1).isdigit()][1:2]
    assert epsilon <= float(printed) <= epsilon + 0.001
    assert "at delta 0.0001, ADD_OR_REMOVE_ONE" in text


def test_input_metadata(metadata):
    (subgraph,) = metadata.tables(3)
    (images,) = subgraph.tables(2)
    assert images.text(0) == "images"
    content = images.table(3)
    assert content.number(0, UINT8) == 2  # ImageProperties
    properties = content.table(1)
    assert properties.number(0, INT8) == 2  # GRAYSCALE
    size = properties.table(1)
    assert (size.number(0, UINT32), size.number(1, UINT32)) == (8, 8)
    (unit,) = images.tables(4)
    assert unit.number(0, UINT8) == 1  # NormalizationOptions
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])
    assert (images.table(5).floats(0), images.table(5).floats(1)) == ([255.0], [0.0])


def test_output_metadata_is_in_the_order_of_the_outputs(metadata, exported):
    (subgraph,) = metadata.tables(3)
    tensors = subgraph.tables(3)
    model = schema.ModelT.InitFromPackedBuf(exported.read_bytes(), 0)
    named = {out.tensorIndex: out.name.decode() for out in model.signatureDefs[0].outputs}
    expected = [named[index] for index in model.subgraphs[0].outputs]
    assert [tensor.text(0) for tensor in tensors] == expected
    kinds = {}
    for tensor in tensors:
        for file in tensor.tables(6):
            kinds[tensor.text(0)] = (file.text(0), file.number(2, INT8))
    assert kinds == {"probabilities": ("labels.txt", 2), "class_id": ("labels.txt", 3)}


def test_attached_files(exported, trained_fusion):
    with zipfile.ZipFile(exported) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt", "privacy_card.json", "provenance.json"]
        assert archive.read("labels.txt").decode().splitlines() == NAMES
        card = json.loads(archive.read("privacy_card.json"))
        provenance = json.loads(archive.read("provenance.json"))
        start = archive.infolist()[0].header_offset
    assert card["epsilon"] == kd.export.privacy_card(trained_fusion)["epsilon"]
    assert provenance["package"] == f"keras_dpvit {kd.__version__}"
    assert provenance["quantize"] is None
    assert provenance["noise_at_inference"] is False
    assert provenance["sha256"] == hashlib.sha256(exported.read_bytes()[:start]).hexdigest()


def test_it_runs_and_has_its_labels(exported, digit_images):
    image = digit_images.x_test[:1]
    predict = Interpreter(model_path=str(exported)).get_signature_runner("serving_default")
    runner = TFLiteRunner(exported)
    expected = int(predict(images=image.astype("float32"))["class_id"][0])
    assert int(runner.predict(image)["class_id"][0]) == expected
    assert runner.labels == NAMES
    assert runner.label(expected) == NAMES[expected]
    assert runner.input_dtype == "float32"


def test_names_are_numbers_where_none_are_given(trained_members, tmp_path):
    kd.export.tflite(trained_members[0], tmp_path / "m.tflite")
    assert TFLiteRunner(tmp_path / "m.tflite").labels == [str(i) for i in range(10)]


def test_infinite_epsilon_and_a_card_that_is_given(tmp_path):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
    card = {"epsilon": {"rdp": float("inf")}, "delta": 1e-5, "adjacency": "ADD_OR_REMOVE_ONE"}
    kd.export.tflite(model, tmp_path / "m.tflite", card=card)
    content = (tmp_path / "m.tflite").read_bytes()
    assert b"Privacy: epsilon infinite by RDP at delta 1e-05" in content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert json.loads(archive.read("privacy_card.json"))["epsilon"] == {"rdp": "infinite"}


def test_labels_of_two_lines_are_refused(trained_members, tmp_path):
    with pytest.raises(InputError, match="class_names must be names of one line each"):
        kd.export.tflite(
            trained_members[0], tmp_path / "m.tflite", class_names=["a\nb", *NAMES[1:]]
        )


def noisy(noise_at_inference, norm_noise_stddev=0.05):
    backbone = kd.DPViTBackbone(
        (8, 8, 1),
        patch_size=2,
        hidden_dim=8,
        num_heads=2,
        attention_noise_stddev=0.1,
        norm_noise_stddev=norm_noise_stddev,
        noise_at_inference=noise_at_inference,
        seed=1,
    )
    return kd.DPViTClassifier(backbone, 3)


@pytest.mark.parametrize("quantize", [None, "dynamic", "int8"])
def test_noise_is_fresh_on_every_run_when_asked_for(quantize, tmp_path, digit_images):
    import keras

    keras.utils.set_random_seed(5)  # a seed of this process must not get into the file
    in_int8 = quantize == "int8"
    calibration = kd.export.synthetic_images((8, 8, 1), 30) if in_int8 else None
    kd.export.tflite(
        noisy(False, norm_noise_stddev=0.0 if in_int8 else 0.05),
        tmp_path / "m.tflite",
        quantize=quantize,
        calibration=calibration,
        noise_at_inference=True,
    )
    images = np.repeat(digit_images.x_test[:1], 20, axis=0)
    starts = []
    for _ in range(2):
        runner = TFLiteRunner(tmp_path / "m.tflite")
        assert runner.provenance["noise_at_inference"] is True
        starts.append(runner.predict(images)["probabilities"])
    # In int8 two images of twenty may well agree to the last bit.
    assert not np.array_equal(*starts)
    for probabilities in starts:
        assert len(np.unique(probabilities, axis=0)) > 10
        assert np.ptp(probabilities, axis=0).max() > 1e-4


def test_int8_refuses_noise_that_has_no_range(tmp_path):
    calibration = kd.export.synthetic_images((8, 8, 1), 3)
    with pytest.raises(InputError, match="cannot keep the noise of normalisation layers"):
        kd.export.tflite(
            noisy(True), tmp_path / "m.tflite", quantize="int8", calibration=calibration
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("made", "asked"), [(False, None), (False, False), (True, False)], ids=str)
def test_no_noise_otherwise(made, asked, tmp_path, digit_images):
    model = noisy(made)
    quiet = noisy(False)
    quiet.set_weights(model.get_weights())
    kd.export.tflite(model, tmp_path / "m.tflite", noise_at_inference=asked)
    runner = TFLiteRunner(tmp_path / "m.tflite")
    images = digit_images.x_test[:10]
    first, second = (runner.predict(images)["probabilities"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    logits = quiet.predict(images.astype("float32"), verbose=0).astype("float64")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(first, expected, atol=1e-5)
