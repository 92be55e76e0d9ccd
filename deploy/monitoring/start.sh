#!/bin/sh
# deploy/monitoring/start.sh [HOST:PORT of the runtime] [FILE that holds a key]
# Runs Debian's Prometheus (apt-get install prometheus) on 127.0.0.1:9090, or PROMETHEUS_PORT, with the files beside this
# one, until Ctrl-C. Nothing is kept. RAY_FOLDER: where Ray writes its nodes' addresses, /tmp/ray by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-127.0.0.1:8000}
key=${2:+$(realpath "$2")}
address=127.0.0.1:${PROMETHEUS_PORT:-9090}
command -v prometheus >/dev/null || { echo "Prometheus is missing: apt-get install prometheus" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
with_key=
[ -z "$key" ] || with_key="s|# authorization: .*|authorization: {credentials_file: $key}|"
sed -e "s|127.0.0.1:8000|$target|" -e "s|/tmp/ray/|${RAY_FOLDER:-/tmp/ray}/|" -e "$with_key" \
  "$here/prometheus.yml" > "$folder/prometheus.yml"
cp "$here/rules.yml" "$folder"
cat <<END
Prometheus: http://$address
  requests a second   http://$address/graph?g0.tab=0&g0.range_input=5m&g0.expr=sum%20by%20(family)%20(rate(inference_requests_total%5B1m%5D))
  alerts              http://$address/alerts
  what is scraped     http://$address/targets
Grafana: a data source of type Prometheus at http://$address, then Dashboards > Import > $here/dashboard.json
END
trap 'kill $pid 2>/dev/null' INT TERM
prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" --web.listen-address="$address" \
  --log.level=warn &
pid=$!
wait $pid || true
wait $pid 2>/dev/null || true
