"""A docker without containers, for serving/prove.sh: compose's `up` starts the stand-in server.

It reads the compose file as docker does, as far as the file goes: variables with defaults, the bind
mount from the file's folder, the published ports. FAKE_DOCKER names a folder for its state; its
file `lacks`, if there is one, names the command that fails.
"""

import asyncio
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import yaml

STATE = pathlib.Path(os.environ["FAKE_DOCKER"])
SERVER = pathlib.Path(__file__).parents[1] / "trainers" / "serving_server.py"


def service(file):
    """The one service of a compose file."""
    text = pathlib.Path(file).read_text("utf-8")
    text = re.sub(r"\$\{(\w+):-(\w*)\}", lambda m: os.environ.get(m[1]) or m[2], text)
    (found,) = yaml.safe_load(text)["services"].values()
    return found


def up(file):
    """Starts the server in the background."""
    found = service(file)
    (mount,) = found["volumes"]
    source = (pathlib.Path(file).parent / mount["source"]).resolve()
    name = found["environment"]["MODEL_NAME"]
    assert mount["target"] == f"/models/{name}", mount
    if not source.is_dir():
        sys.exit(f"bind source path does not exist: {source}")
    ports = {inner: outer for _, outer, inner in (port.split(":") for port in found["ports"])}
    command = [sys.executable, __file__, "serve", name, source, ports["8501"], ports["8500"]]
    with open(STATE / "log", "w") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, start_new_session=True
        )
    (STATE / "pid").write_text(str(process.pid))


def down():
    """Ends it."""
    pid = STATE / "pid"
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)
        pid.unlink()


async def forward(port, target):
    """Carries a port's connections to another."""

    async def copy(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def connected(reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def serve(name, source, rest_port, grpc_port):
    """The stand-in, on the ports that are asked for."""
    spec = importlib.util.spec_from_file_location("serving_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.ServingServer({name: pathlib.Path(source)}) as server:
        pairs = ((rest_port, server.rest_port), (grpc_port, server.grpc_port))
        await asyncio.gather(*(forward(int(port), target) for port, target in pairs))


def main(arguments):
    """One command."""
    if arguments[0] == "serve":
        asyncio.run(serve(*arguments[1:]))
        return
    with open(STATE / "calls", "a") as file:
        print(*arguments, file=file)
    lacks = STATE / "lacks"
    if lacks.exists() and " ".join(arguments) == lacks.read_text():
        sys.exit("no")
    if arguments[:2] == ["compose", "-f"]:
        {"up": lambda: up(arguments[2]), "down": down, "logs": lambda: print("a log's line")}[
            arguments[3]
        ]()
    elif arguments not in (["compose", "version"], ["info"]):
        sys.exit(f"not known here: {arguments}")


if __name__ == "__main__":
    main(sys.argv[1:])
