#!/usr/bin/env bash
# What a container of the image is: one role of the topology, or any command (`dcgan ...`, `prefect ...`).
set -euo pipefail

WORK_POOL=dcgan
WAIT_SECONDS=180

main() {
  # Ray Train's own notes go through Arrow, which reads the endpoint of an S3-compatible store from here.
  if [[ -n ${DCGAN_S3_ENDPOINT_URL:-} ]]; then
    export AWS_ENDPOINT_URL="${AWS_ENDPOINT_URL:-$DCGAN_S3_ENDPOINT_URL}"
  fi
  local role="${1:-}"
  ARGUMENTS=("${@:2}")
  case $role in
    server) server ;;
    deploy) deploy ;;
    worker) worker ;;
    ray-head) ray_head ;;
    ray-worker) ray_worker ;;
    "") usage >&2; exit 2 ;;
    *) exec "$@" ;;
  esac
}

usage() {
  echo "give a role (server, deploy, worker, ray-head, ray-worker) or a command, such as: dcgan run --plan"
}

# Prefect's API and UI. Whoever reaches it may start runs, so it asks for a login.
server() {
  if [[ -z ${PREFECT_SERVER_API_AUTH_STRING:-} ]]; then
    echo "Prefect's server needs a login that all containers share: set PREFECT_SERVER_API_AUTH_STRING" >&2
    exit 2
  fi
  exec python -m tasks.server --host "${PREFECT_SERVER_API_HOST:-0.0.0.0}"
}

# The work pool, the deployments and the automations; the files lie in the working directory. May be repeated:
# what an operator changed on the server stays (`deploy --reset` undoes it).
deploy() {
  wait_for_server
  exec dcgan-deploy "${ARGUMENTS[@]}"
}

# Starts flows as processes of this container. They are drivers of Ray, so a raylet without processors
# stands beside them, and the two live and die together. Without RAY_HEAD_ADDRESS: no cluster.
worker() {
  wait_for_server
  set -m # else bash starts them with SIGINT ignored, by which Prefect's worker stops itself
  raylet=
  if [[ -n ${RAY_HEAD_ADDRESS:-} ]]; then
    join_ray
  fi
  prefect worker start --pool "$WORK_POOL" --type process --install-policy never \
    --no-create-pool-if-not-found --with-healthcheck &
  prefect=$!
  trap stop_worker TERM INT
  local code=0
  wait -n || code=$?
  echo "worker: a process of this container ended with code $code; stopping the others" >&2
  kill "$prefect" $raylet 2>/dev/null || true
  exit $((code ? code : 1))
}

# Asked to stop: flows save and end, and go on by themselves where there is a worker; then the raylet.
stop_worker() {
  local process
  trap '' TERM INT
  pkill -TERM -P "$prefect" -f prefect.engine || true
  for process in "$prefect" $raylet; do
    kill "$process" 2>/dev/null || true
    wait "$process" || true
  done
  exit 0
}

# Returns when the raylet is up, so that no flow starts before it; Ray then writes the cluster's address.
join_ray() {
  local address_file="${RAY_TMPDIR:-${TMPDIR:-/tmp}}/ray/ray_current_cluster"
  rm -f "$address_file"
  start_ray --address="$RAY_HEAD_ADDRESS" --num-cpus=0 --num-gpus=0 &
  raylet=$!
  until [[ -e $address_file ]]; do
    if ! kill -0 "$raylet" 2>/dev/null; then
      echo "worker: could not join the Ray cluster at $RAY_HEAD_ADDRESS; its message is above" >&2
      exit 1
    fi
    sleep 1
  done
}

# The cluster's address book and dashboard; it does no work itself.
ray_head() {
  start_ray --head --port="${RAY_PORT:-6379}" --num-cpus=0 --num-gpus=0 \
    --dashboard-host="${RAY_DASHBOARD_HOST:-0.0.0.0}"
}

# Works. Ray counts the processors and GPUs that the container may use, unless told.
ray_worker() {
  local count=()
  if [[ -n ${RAY_NUM_CPUS:-} ]]; then
    count+=(--num-cpus="$RAY_NUM_CPUS")
  fi
  start_ray --address="${RAY_HEAD_ADDRESS:?set it to host:port of the Ray head}" "${count[@]}"
}

start_ray() {
  if [[ ${RAY_AUTH_MODE:-token} == token && -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
    echo "Ray needs a token that all containers share: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" >&2
    exit 2
  fi
  export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
  # Parts travel through DCGAN_ROOT, so Ray's object store may be small; it must fit into /dev/shm.
  exec ray start "$@" --object-store-memory="${RAY_OBJECT_STORE_BYTES:-268435456}" --block
}

wait_for_server() {
  local url="${PREFECT_API_URL:?set it to the address of the Prefect server, ending in /api}/health"
  local deadline=$((SECONDS + WAIT_SECONDS))
  until python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$url" 2>/dev/null; do
    if ((SECONDS >= deadline)); then
      echo "no Prefect server answered at $url within $WAIT_SECONDS s" >&2
      exit 1
    fi
    sleep 1
  done
}

main "$@"
