"""Private training inside `model.fit`."""
