"""Versions, labels, metadata and states of the stand-in, as other people's clients ask for them."""

import base64
import io
import shutil

import grpc
import numpy as np
import PIL.Image
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export import serving_client

LABELS = {"digits": {"stable": 1, "canary": 2}}


@pytest.fixture(scope="module")
def base(trained_members, tmp_path_factory):
    place = tmp_path_factory.mktemp("versions") / "digits"
    for number, member in enumerate(trained_members, 1):
        kd.export.saved_model(member, place / str(number))
    return place


@pytest.fixture(scope="module")
def server(serving_server, base):
    with serving_server.ServingServer({"digits": base}, LABELS, num_versions=2) as server:
        yield server


@pytest.fixture(scope="module")
def expected(trained_members, digit_images):
    """Probabilities of each version for three digits; they differ."""
    images = digit_images.x_test[:3].astype("float32")
    found = [tf.nn.softmax(m.predict(images, verbose=0)).numpy() for m in trained_members]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    return dict(enumerate(found, 1))


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


CHOICES = {"": 2, "/versions/1": 1, "/versions/2": 2, "/labels/stable": 1, "/labels/canary": 2}


@pytest.mark.parametrize(("choice", "version"), CHOICES.items())
def test_rest_takes_versions_and_labels(server, digit_images, expected, choice, version):
    url = server.rest_url("digits") + choice
    body = {"instances": digit_images.x_test[:3].tolist()}
    rows = requests.post(f"{url}:predict", json=body, timeout=60).json()["predictions"]
    found = [row["probabilities"] for row in rows]
    np.testing.assert_allclose(found, expected[version], rtol=0, atol=1e-5)
    metadata = requests.get(f"{url}/metadata", timeout=60).json()
    assert metadata["model_spec"]["version"] == str(version)


@pytest.mark.parametrize(("choice", "version"), CHOICES.items())
@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_our_client_takes_versions_and_labels(
    server, digit_images, expected, kind, choice, version
):
    urls = {"rest": server.rest_url, "grpc": server.grpc_url}
    client = serving_client.client_for(urls[kind]("digits") + choice, 60)
    files = []
    for image in digit_images.x_test[:3]:
        written = io.BytesIO()
        PIL.Image.fromarray(image[..., 0]).save(written, "PNG")
        files.append(written.getvalue())
    found = client.answers(files)["probabilities"]
    np.testing.assert_allclose(found, expected[version], rtol=0, atol=1e-5)
    unknown = serving_client.client_for(urls[kind]("digits") + "/labels/old", 60)
    with pytest.raises(InputError, match="Unrecognized servable version label: old"):
        unknown.answers(files)


def test_metadata_are_printed_as_tf_serving_prints_them(server):
    """Against an answer of the real server that its users published (a TensorFlow 2 export)."""
    answer = requests.get(server.rest_url("digits") + "/metadata", timeout=60).json()
    assert answer["model_spec"] == {"name": "digits", "signature_name": "", "version": "2"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    init = signatures["__saved_model_init_op"]
    init.pop("defaults")
    assert init == {
        "inputs": {},
        "outputs": {
            "__saved_model_init_op": {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [], "unknown_rank": True},
                "name": "NoOp",
            }
        },
        "method_name": "",
    }
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"] == {
        "images": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {
                "dim": [{"size": size, "name": ""} for size in ("-1", "8", "8", "1")],
                "unknown_rank": False,
            },
            "name": "serving_default_images:0",
        }
    }


def test_states_of_all_versions_and_of_one(server):
    def asked(choice):
        answer = requests.get(server.rest_url("digits") + choice, timeout=60)
        return answer.status_code, answer.json()

    fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = {"model_version_status": [{"version": "1", **fine}, {"version": "2", **fine}]}
    assert asked("") == (200, both)
    # The server's own code looks at a version alone here, not at a label.
    assert asked("/labels/stable") == (200, both)
    assert asked("/versions/1") == (200, {"model_version_status": [{"version": "1", **fine}]})
    assert asked("/versions/7") == (404, {"error": "Could not find version 7 of model digits"})


def test_model_service_over_grpc(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "digits"
    states = stub.GetModelStatus(request, timeout=60).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(s.version, s.state, s.status.error_code) for s in states] == [
        (1, available, 0),
        (2, available, 0),
    ]
    request.model_spec.version.value = 2
    (state,) = stub.GetModelStatus(request, timeout=60).model_version_status
    assert state.version == 2
    request.model_spec.name = "nobody"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelStatus(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_grpc_takes_labels(channel, digit_images, expected):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.version_label = "stable"
    images = digit_images.x_test[:3].astype("float32")
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    response = stub.Predict(request, timeout=60)
    assert response.model_spec.version.value == 1
    found = tf.make_ndarray(response.outputs["probabilities"])
    np.testing.assert_allclose(found, expected[1], rtol=0, atol=1e-5)
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.CopyFrom(request.model_spec)
    assert stub.GetModelMetadata(asked, timeout=60).model_spec.version.value == 1
    asked.model_spec.version_label = "old"
    for call, message in ((stub.Predict, request), (stub.GetModelMetadata, asked)):
        message.model_spec.version_label = "old"
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=60)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "Unrecognized servable version label: old" in caught.value.details()


def test_a_new_version_takes_over_and_a_broken_one_does_not(serving_server, base, tmp_path):
    place = tmp_path / "digits"
    shutil.copytree(base / "1", place / "1")
    with serving_server.ServingServer({"digits": place}) as server:
        url = server.rest_url("digits")
        kept = server.models.servable("digits")
        with kept.in_use():
            shutil.copytree(base / "2", place / "2")
            server.models.look_for_versions()
            # A request that came before is answered by the version it came to.
            assert kept.predict("class_names", {"class_id": np.arange(1)})
        assert requests.get(f"{url}/metadata", timeout=60).json()["model_spec"]["version"] == "2"
        assert requests.get(f"{url}/versions/1/metadata", timeout=60).status_code == 404
        (place / "3").mkdir()
        (place / "3" / "saved_model.pb").write_bytes(b"no graph")
        server.models.look_for_versions()
        states = requests.get(url, timeout=60).json()["model_version_status"]
        assert [s["state"] for s in states] == ["END", "AVAILABLE", "END"]
        assert [s["status"]["error_code"] for s in states] == ["OK", "OK", "UNKNOWN"]
        assert states[2]["status"]["error_message"]
        body = {"signature_name": "class_names", "instances": [0]}
        assert requests.post(f"{url}:predict", json=body, timeout=60).ok


def test_a_picture_that_is_none_is_refused_with_the_reason(server):
    content = b"\xff\xd8\xff" + b"x" * 50
    encoded = {"b64": base64.b64encode(content).decode()}
    body = {"signature_name": "serving_bytes", "instances": [encoded]}
    answer = requests.post(server.rest_url("digits") + ":predict", json=body, timeout=60)
    assert answer.status_code == 400
    # With the node's name behind, as the server has it, which our client leaves out.
    assert answer.json()["error"].startswith("Invalid JPEG data, size 53\n")
    for url in (server.rest_url("digits"), server.grpc_url("digits")):
        with pytest.raises(InputError, match=r"answered .*: Invalid JPEG data, size 53\.$"):
            serving_client.client_for(url, 60).answers([content])
