"""A process of a federation: SuperLink, SuperNode or client, which ends with what started it.

    python -m keras_dpvit.baselines.federated.process KIND ARGUMENTS...

Standard input begins with eight bytes, the length of what follows, a client's records as .npz; then
it stays open. Its end is the end of the process: a parent closes it, and where a parent is killed,
by `kill -9` too, the system does.
"""

import io
import os
import sys
import threading
import time
from typing import Any

from keras_dpvit.baselines.federated import flower

HEADER = 8
_POLL = 0.1  # seconds


def main() -> None:
    """Runs the process that the command line names."""
    kind, *arguments = sys.argv[1:]
    records = _read(int.from_bytes(_read(HEADER), "big"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    flower.require()
    sys.argv = [kind, *arguments]
    _KINDS[kind](records)


def _read(count: int) -> bytes:
    found = sys.stdin.buffer.read(count)
    if len(found) < count:  # the parent has ended: nobody is left to tell, nothing to keep
        os._exit(1)
    return found


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)  # at once: from a thread, sys.exit would end the thread alone


def _superlink(records: bytes) -> None:
    from flwr.server.app import run_superlink

    run_superlink()


def _supernode(records: bytes) -> None:
    from flwr.supernode.cli.flower_supernode import flower_supernode

    flower_supernode()


def _client(records: bytes) -> None:
    """Trains whatever its SuperNode asks for: one process, and one trace, for all rounds."""
    import grpc
    import numpy as np
    from flwr.common.grpc import create_channel
    from flwr.proto.appio_pb2 import ListAppsToLaunchRequest, RequestTokenRequest
    from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub

    from keras_dpvit.baselines.federated.client import make_client_app

    with np.load(io.BytesIO(records), allow_pickle=False) as file:
        own = file["x"], file["y"]
    app = make_client_app(lambda context: own)
    stub = ClientAppIoStub(create_channel(sys.argv[1], insecure=True))
    while True:
        try:
            found = stub.ListAppsToLaunch(ListAppsToLaunchRequest())
            for run_id in found.run_ids[:1]:
                token = stub.RequestToken(RequestTokenRequest(run_id=run_id)).token
                if token:
                    _answer(app, stub, token)
        except grpc.RpcError:
            time.sleep(10 * _POLL)  # the SuperNode is not there yet, or has just ended
        time.sleep(_POLL)


def _answer(app: Any, stub: Any, token: str) -> None:
    """Takes one message from the SuperNode, and gives back what the app makes of it."""
    from flwr.app import Error, Message
    from flwr.common.constant import ErrorCode
    from flwr.supercore.heartbeat import HeartbeatSender, make_app_heartbeat_fn_grpc
    from flwr.supernode.runtime.run_clientapp import pull_appinputs, push_appoutputs

    heartbeat = HeartbeatSender(make_app_heartbeat_fn_grpc(stub, token))
    heartbeat.start()
    try:
        message, context, _, _ = pull_appinputs(stub, token)
        try:
            reply = app(message, context)
        except Exception as error:
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code, f"{type(error)}:<'{error}'>"), reply_to=message)
        push_appoutputs(stub, token, reply, context)
    finally:
        heartbeat.stop()


_KINDS = {"superlink": _superlink, "supernode": _supernode, "client": _client}

if __name__ == "__main__":
    main()
