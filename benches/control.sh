#!/bin/sh
# Serves a measuring lab with what a ztunnel needs beside its workload file: certificates.
#
# In:  LAB_WORKLOADS  the workload file
#      LAB_DIR        a folder for this control plane's state
#      LAB_LISTEN     where to serve                        (default 10.71.9.9:15012)
#      LAB_ADMIN      where to serve the operator's pages   (default 127.0.0.1:15014)
#      AMBIT_CONTROL  the executable                        (default ../target/release/ambit-control)
# Out: KEY=VALUE lines, the environment for a ztunnel, in which {node} stands for a node's number; then `ready`.
# It serves until it is ended.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
control=${AMBIT_CONTROL:-$here/../target/release/ambit-control}
listen=${LAB_LISTEN:-10.71.9.9:15012}
: "${LAB_WORKLOADS:?is the workload file}" "${LAB_DIR:?is a folder for state}"
if [ ! -x "$control" ]; then
    echo "$control is not there: cargo build --release -p control" >&2
    exit 1
fi
mkdir -p "$LAB_DIR/control"
state=$(CDPATH='' cd -- "$LAB_DIR/control" && pwd)

cat <<END
FAKE_CA=false
CA_ADDRESS=https://$listen
CA_ROOT_CA=$state/root-cert.pem
AUTH_TOKEN=$state/tokens/n{node}
TRUST_DOMAIN=cluster.local
CLUSTER_ID=Kubernetes
END

# The executable says `ready`. Its settings are those given here, whatever the lab's own environment holds.
unset AMBIT_FROM AMBIT_STATE_DIR AMBIT_LISTEN AMBIT_ADMIN ROOT_NAMESPACE CA_TTL TRUST_DOMAIN CLUSTER_ID
exec "$control" --from "$LAB_WORKLOADS" --state-dir "$state" --listen "$listen" --admin "${LAB_ADMIN:-127.0.0.1:15014}" \
    --node n1 --node n2 --announce
