"""`python -m trainers.PROGRAM --help` of every program, each in a new process."""

import pytest

FLAGS = {
    "plan": ["accountant", "batch_size", "delta", "epochs", "epsilon", "json", "members"],
    "train": [
        "batch_size",
        "data_dir",
        "dataset",
        "delta",
        "epochs",
        "epsilon",
        "image_size",
        "members",
        "members_data",
        "output_dir",
        "preset",
        "seed",
    ],
    "describe": ["json", "list", "member", "model", "num_classes", "picture", "preset"],
    "attention": [
        "data_dir",
        "dataset",
        "image_size",
        "member",
        "model",
        "num_images",
        "output",
        "seed",
    ],
    "export": [
        "calibration",
        "class_names",
        "model",
        "noise_at_inference",
        "outputs",
        "private_key",
        "quantize",
        "run",
        "saved_model",
        "tflite",
    ],
    "web": ["litert", "output", "saved_model", "serve", "title"],
    "check": ["bit_depth", "classes", "data_dir", "json", "transparency"],
    "predict": [
        "bit_depth",
        "transparency",
        "image",
        "json",
        "saved_model",
        "timeout",
        "top",
        "url",
    ],
    "verify": ["images", "json", "keras", "public_key", "saved_model", "signature", "tflite"],
    "evaluate": ["data_dir", "dataset", "image_size", "json", "saved_model", "tflite"],
    "report": ["data_dir", "max_images", "output", "run", "sample_images"],
    "edge": ["json", "limit", "model", "output", "source", "threads"],
    "federated": [
        "alpha",
        "clients",
        "clients_per_round",
        "epsilon",
        "output",
        "privacy",
        "rounds",
        "runtime",
    ],
    "audit": ["canaries", "dataset", "delta", "epsilon", "mechanism", "model", "output"],
    "membership": ["dataset", "epsilon", "epochs", "model", "output", "private", "references"],
    "attack": ["attack", "images", "json", "keys", "observed", "output", "scheme", "seed"],
    "reproduce": ["artifact", "data_dir", "draws", "output", "rows", "scale", "trainings_dir"],
}


@pytest.mark.parametrize("program", FLAGS)
def test_help_has_examples_and_every_flag(run_by_itself, program, tmp_path):
    result = run_by_itself(program, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "Examples:" in result.stdout
    assert f"python -m trainers.{program} --" in result.stdout
    missing = [
        name
        for name in FLAGS[program]
        if f"  --{name}:" not in result.stdout and f"  --[no]{name}:" not in result.stdout
    ]
    assert missing == []
    assert list(tmp_path.iterdir()) == []
