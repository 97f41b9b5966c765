"""Requests in the documented REST and gRPC forms, answered by an export in the stand-in server."""

import base64
import io
import json
import urllib.error
import urllib.request

import grpc
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

import keras_dpvit as kd

NAMES = list("abcdefghij")


@pytest.fixture(scope="module")
def base(trained_fusion, trained_members, tmp_path_factory):
    place = tmp_path_factory.mktemp("contract")
    kd.export.saved_model(trained_fusion, place / "fused" / "3", class_names=NAMES)
    kd.export.saved_model(trained_members[0], place / "single" / "1", class_names=NAMES)
    kd.export.saved_model(trained_fusion, place / "noisy" / "1", noise_at_inference=True)
    return place


@pytest.fixture(scope="module")
def server(serving_server, base):
    models = {name: base / name for name in ("fused", "single", "noisy")}
    with serving_server.ServingServer(models) as server:
        yield server


@pytest.fixture(scope="module")
def images(digit_images):
    return digit_images.x_test[:3]


@pytest.fixture(scope="module")
def expected(trained_fusion, images):
    return trained_fusion.predict(images.astype("float32"), verbose=0)


def files(images):
    found = []
    for image in images:
        written = io.BytesIO()
        PIL.Image.fromarray(image[..., 0]).save(written, "PNG")
        found.append(written.getvalue())
    return found


def in_base64(images):
    return [{"b64": base64.b64encode(content).decode()} for content in files(images)]


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


ROW_FORMS = {
    "whole numbers": lambda x: {"instances": x.tolist()},
    "decimals, named": lambda x: {"instances": [{"images": i} for i in x.astype(float).tolist()]},
    "uint8": lambda x: {"signature_name": "serving_uint8", "instances": x.tolist()},
    "files": lambda x: {"signature_name": "serving_bytes", "instances": in_base64(x)},
    "named files": lambda x: {
        "signature_name": "serving_bytes",
        "instances": [{"image_bytes": content} for content in in_base64(x)],
    },
}


@pytest.mark.parametrize("form", ROW_FORMS)
def test_rows_are_answered_by_rows(server, images, expected, form):
    status, answer = ask(server.rest_url("fused") + ":predict", ROW_FORMS[form](images))
    assert status == 200, answer
    assert set(answer) == {"predictions"}
    for row, prediction in enumerate(answer["predictions"]):
        assert set(prediction) == {"probabilities", "class_id", "label", "weights"}
        for name in ("probabilities", "weights"):
            np.testing.assert_allclose(prediction[name], expected[name][row], rtol=0, atol=1e-5)
        best = int(expected["probabilities"][row].argmax())
        assert (prediction["class_id"], prediction["label"]) == (best, NAMES[best])


COLUMN_FORMS = {
    "plain": lambda x: {"inputs": x.tolist()},
    "named": lambda x: {"inputs": {"images": x.tolist()}},
    "version": lambda x: {"signature_name": "serving_default", "inputs": x.tolist()},
    "files": lambda x: {"signature_name": "serving_bytes", "inputs": {"image_bytes": in_base64(x)}},
}


@pytest.mark.parametrize("form", COLUMN_FORMS)
def test_columns_are_answered_by_columns(server, images, expected, form):
    url = server.rest_url("fused") + ("/versions/3" if form == "version" else "") + ":predict"
    status, answer = ask(url, COLUMN_FORMS[form](images))
    assert status == 200, answer
    outputs = answer["outputs"]
    for name in ("probabilities", "weights"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=0, atol=1e-5)
    best = expected["probabilities"].argmax(axis=1)
    assert outputs["label"] == [NAMES[i] for i in best]


def test_members_and_class_names(server, images, expected):
    body = {"signature_name": "member_probabilities", "inputs": images.tolist()}
    _, answer = ask(server.rest_url("fused") + ":predict", body)
    assert set(answer["outputs"]) == {"member_probabilities", "weights"}
    found = answer["outputs"]["member_probabilities"]
    np.testing.assert_allclose(found, expected["member_probabilities"], rtol=0, atol=1e-5)
    body = {"signature_name": "class_names", "instances": [4, 0]}
    # One output alone: TF Serving leaves its name out.
    assert ask(server.rest_url("fused") + ":predict", body) == (200, {"predictions": ["e", "a"]})


def test_a_single_model_answers_without_weights(server, images):
    body = {"instances": images.tolist()}
    _, answer = ask(server.rest_url("single") + ":predict", body)
    assert set(answer["predictions"][0]) == {"probabilities", "class_id", "label"}
    body = {"signature_name": "member_probabilities", "instances": images.tolist()}
    status, answer = ask(server.rest_url("single") + ":predict", body)
    assert (status, set(answer)) == (400, {"error"})


def test_noise_asked_for_is_fresh_on_every_request(server, images):
    body = {"inputs": images.tolist()}
    for name, is_fresh in (("noisy", True), ("fused", False)):
        answers = [ask(server.rest_url(name) + ":predict", body)[1]["outputs"] for _ in range(2)]
        found = [np.array(answer["probabilities"]) for answer in answers]
        assert (np.abs(found[0] - found[1]).max() > 1e-6) == is_fresh


def test_status_and_metadata(server):
    status, answer = ask(server.rest_url("fused"))
    assert status == 200
    (version,) = answer["model_version_status"]
    assert (version["version"], version["state"]) == ("3", "AVAILABLE")
    status, answer = ask(server.rest_url("fused") + "/metadata")
    assert status == 200
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert signatures["serving_uint8"]["inputs"]["images"]["dtype"] == "DT_UINT8"
    assert signatures["serving_default"]["outputs"]["label"]["dtype"] == "DT_STRING"
    assert signatures["serving_default"]["inputs"]["images"]["tensor_shape"] == {
        "dim": [{"size": size, "name": ""} for size in ("-1", "8", "8", "1")],
        "unknown_rank": False,
    }
    assert answer["model_spec"] == {"name": "fused", "signature_name": "", "version": "3"}
    assert ask(server.rest_url("nobody"))[0] == 404


# === gRPC ===


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_of(signature, name, values, dtype, model="fused"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
    return request


@pytest.mark.parametrize(
    ("signature", "name", "dtype"),
    [
        ("serving_default", "images", "float32"),
        ("serving_uint8", "images", "uint8"),
        ("serving_bytes", "image_bytes", "string"),
    ],
)
def test_predict_requests_over_grpc(stub, images, expected, signature, name, dtype):
    values = files(images) if dtype == "string" else images
    response = stub.Predict(request_of(signature, name, values, dtype), timeout=60)
    assert response.model_spec.version.value == 3
    outputs = {key: tf.make_ndarray(proto) for key, proto in response.outputs.items()}
    assert set(outputs) == {"probabilities", "class_id", "label", "weights"}
    np.testing.assert_allclose(
        outputs["probabilities"], expected["probabilities"], rtol=0, atol=1e-5
    )
    best = expected["probabilities"].argmax(axis=1)
    assert [label.decode() for label in outputs["label"]] == [NAMES[i] for i in best]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (("serving_default", "images", np.zeros((1, 8, 8, 1)), "uint8"), "INVALID_ARGUMENT"),
        (("serving_default", "images", np.zeros((1, 9, 8, 1)), "float32"), "INVALID_ARGUMENT"),
        (("serving_default", "pixels", np.zeros((1, 8, 8, 1)), "float32"), "INVALID_ARGUMENT"),
        (("nonsense", "images", np.zeros((1, 8, 8, 1)), "float32"), "INVALID_ARGUMENT"),
        (("serving_bytes", "image_bytes", [b"no picture"], "string"), "INVALID_ARGUMENT"),
        (("serving_default", "images", np.zeros((1, 8, 8, 1)), "float32", "x"), "NOT_FOUND"),
    ],
    ids=["dtype", "shape", "input", "signature", "no picture", "model"],
)
def test_bad_requests_over_grpc_have_a_status_and_a_reason(stub, request_, code):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request_of(*request_), timeout=60)
    assert caught.value.code().name == code
    assert caught.value.details()


def test_metadata_over_grpc(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "fused"
    response = stub.GetModelMetadata(request, timeout=60)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "serving_bytes" in signatures.signature_def


@pytest.mark.parametrize("name", ["fused", "single", "noisy"])
def test_warm_up_log_replays_on_the_served_graph(stub, base, name):
    (version,) = (base / name).iterdir()
    log = version / "assets.extra" / "tf_serving_warmup_requests"
    played = set()
    for record in tf.data.TFRecordDataset(str(log)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        request.model_spec.name = name
        assert stub.Predict(request, timeout=60).outputs
        played.add(request.model_spec.signature_name)
    expected = {"serving_default", "serving_uint8", "serving_bytes", "class_names"}
    assert played == (expected if name == "single" else {*expected, "member_probabilities"})
