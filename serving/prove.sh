#!/usr/bin/env bash
# Repeats benchmarks.serving_proof against TensorFlow Serving itself, which docker starts from
# serving/compose.yaml, and prints its table. Flags go to the benchmark:
#
#   serving/prove.sh
#   serving/prove.sh --threads=8 --requests=500 --output=proof.json
#
# TF_SERVING_TAG, GRPC_PORT and REST_PORT choose the image's tag (latest) and the ports (8500, 8501),
# PYTHON the interpreter (.venv/bin/python). Status 0 if every bar holds, 1 if not, 2 if it cannot run.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "error: $1" >&2
  exit 2
}

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || fail "$python is missing: run make try once, or set PYTHON."
command -v docker >/dev/null || fail "docker is missing."
docker compose version >/dev/null 2>&1 || fail "docker has no compose plugin (docker-compose-v2)."
docker info >/dev/null 2>&1 || fail "docker does not answer: its daemon must run, and let you in."

compose() {
  docker compose -f serving/compose.yaml "$@"
}

# What the page on serving says, as it says it.
rm -rf serving/work
"$python" -m trainers.export --run=savedmodels/fashion_mnist --saved_model=serving/work/fmnist/1

trap 'compose down >/dev/null 2>&1 || true' EXIT
compose up -d || fail "docker could not start serving/compose.yaml; its reason is above."

host=127.0.0.1
url="http://$host:${REST_PORT:-8501}/v1/models/fmnist"
status=0
"$python" -m benchmarks.serving_proof --saved_model=serving/work/fmnist/1 --url="$url" "$@" || status=$?
for address in "$url" "grpc://$host:${GRPC_PORT:-8500}/fmnist"; do
  echo
  echo "trainers.predict --url=$address"
  "$python" -m trainers.predict --url="$address" --image=docs/figures/trouser.png --top=1 || status=1
done
if [ "$status" != 0 ]; then
  echo
  echo "The server's last lines:"
  compose logs --tail=20 || true
fi
exit "$status"
