"""Versions of models, loaded and run as TensorFlow Serving does: by the session loader alone."""

import contextlib
import pathlib
import threading

import grpc
import tensorflow as tf
from serving_json import ServingError, invalid

tf.get_logger().setLevel("ERROR")  # the session loader is called deprecated

_INIT_OP = "__saved_model_init_op"


class Servable:
    """One version of a SavedModel, in a session of its own."""

    def __init__(self, directory):
        self.version = int(directory.name)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self._requests, self._is_old = 0, False
        self._lock = threading.Lock()
        try:
            with self._session.graph.as_default():
                graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        except BaseException:
            self._session.close()
            raise
        # The metadata list the initialisation too, which no request can ask for.
        self.all_signatures = dict(graph.signature_def)
        self.signatures = {k: v for k, v in self.all_signatures.items() if k != _INIT_OP}

    def signature(self, name):
        name = name or "serving_default"
        if name not in self.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return self.signatures[name]

    def predict(self, signature_name, inputs):
        """Arrays by name to arrays by name."""
        signature = self.signature(signature_name)
        if set(inputs) != set(signature.inputs):
            raise invalid(f"inputs must be {sorted(signature.inputs)}, got {sorted(inputs)}")
        feed = {}
        for name, info in signature.inputs.items():
            dtype = tf.as_dtype(info.dtype)
            given = tf.as_dtype(inputs[name].dtype)
            if given != dtype and not (dtype == tf.string and inputs[name].dtype == object):
                raise invalid(f"{name}: expected dtype {dtype.name}, got {given.name}")
            feed[info.name] = inputs[name]
        fetch = {name: info.name for name, info in signature.outputs.items()}
        try:
            return self._session.run(fetch, feed)
        except tf.errors.OpError as error:
            code = next(k for k, v in vars(grpc.StatusCode).items() if _is(v, error.error_code))
            # The server itself is C++: it has not the lead that TensorFlow's Python puts before.
            message = error.message.removeprefix("Graph execution error:").strip()
            raise ServingError(code, message) from error
        except (TypeError, ValueError) as error:  # the session's own check of shapes
            raise invalid(str(error)) from error

    @contextlib.contextmanager
    def in_use(self):
        """Within the context a newer version does not end this one."""
        with self._lock:
            self._requests += 1
        try:
            yield self
        finally:
            with self._lock:
                self._requests -= 1
                self._close_if_unused()

    def retire(self):
        """Closes the session behind the last request that uses it."""
        with self._lock:
            self._is_old = True
            self._close_if_unused()

    def _close_if_unused(self):
        if self._is_old and not self._requests:
            self._session.close()


def _is(status, number):
    return isinstance(status, grpc.StatusCode) and status.value[0] == number


class Models:
    """The versions of all models.

    Args:
        bases: model name to base directory, which holds numbered versions.
        labels: model name to a dict of label to version (`version_labels` in the server's file).
        num_versions: how many of the newest versions are kept (`latest { num_versions }`).
    """

    def __init__(self, bases, labels=None, num_versions=1):
        self._bases = {name: pathlib.Path(base) for name, base in bases.items()}
        self._labels = labels or {}
        self._num_versions = num_versions
        self._found = {name: {} for name in bases}
        self._states = {name: {} for name in bases}
        self._lock = threading.Lock()
        self.look_for_versions()

    def look_for_versions(self):
        """One look, about once a second; new versions are there before old ones go."""
        for name, base in self._bases.items():
            directories = [p for p in base.iterdir() if p.name.isdecimal()]
            wanted = sorted(directories, key=lambda p: int(p.name))[-self._num_versions :]
            for directory in wanted:
                if int(directory.name) not in self._states[name]:
                    self._load(name, directory)
            # A version that cannot be loaded ends none that can.
            loaded = sorted(self._found[name])
            for version in loaded[: -self._num_versions]:
                with self._lock:
                    servable = self._found[name].pop(version)
                    self._states[name][version] = ("END", "OK", "")
                servable.retire()

    def _load(self, name, directory):
        try:
            servable = Servable(directory)
        except (tf.errors.OpError, OSError, RuntimeError) as error:
            with self._lock:
                self._states[name][int(directory.name)] = ("END", "UNKNOWN", str(error))
            return
        with self._lock:
            self._found[name][servable.version] = servable
            self._states[name][servable.version] = ("AVAILABLE", "OK", "")

    def servable(self, name, version=None, label=None):
        """The version that a request is for, to be used by `in_use`.

        Args:
            name: the model's.
            version: int, or None.
            label: one of the model's labels, or None; without both it is the newest version.
        """
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid(f"Unrecognized servable version label: {label}")
        with self._lock:
            found = self._found.get(name, {})
            if version is None and found:
                version = max(found)
            if version in found:
                return found[version]
        asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")

    def states(self, name, version=None):
        """(version, state, code, message) of one version or of all; a label counts as none."""
        with self._lock:
            states = dict(self._states.get(name, {}))
        if version is not None:
            if version not in states:
                reason = f"Could not find version {version} of model {name}"
                raise ServingError("NOT_FOUND", reason)
            states = {version: states[version]}
        if not states:
            raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
        return [(number, *states[number]) for number in sorted(states)]

    def close(self):
        for servables in self._found.values():
            for servable in servables.values():
                servable.retire()
