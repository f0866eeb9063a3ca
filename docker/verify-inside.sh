# What docker/verify.sh runs in the image, with `sh -s`: who is who, how fast it starts, health, metrics, the demo.
set -eu
say() { echo "verify: $*"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

[ "$(id -u)" = 10001 ] || { say "runs as $(id -u), not as 10001" >&2; exit 1; }
say "user $(id -u), $(python --version)"
if (: >/opt/voicewatch/probe) 2>/dev/null; then say "the program's files can be written" >&2; exit 1; fi

began=$(now)
voicewatch --help >/dev/null
say "voicewatch --help took $(since "$began")"

cd "$(mktemp -d)"
export GENESYS_CLIENT_ID=verify GENESYS_CLIENT_SECRET=verify
voicewatch simulate >simulator.json 2>simulator.log &
simulator=$!
while ! [ -s simulator.json ]; do kill -0 "$simulator"; sleep 0.05; done
base_url=$(sed 's/.*"base_url": "\([^"]*\)".*/\1/' simulator.json)
cat >voicewatch.toml <<END
[genesys]
base_url = "$base_url"
[alerts]
unwatched = "default"
END
export VOICEWATCH_METRICS__LISTEN=127.0.0.1:9464
began=$(now)
voicewatch run voicewatch.toml >run.out 2>run.log &
run=$!
until voicewatch probe /readyz >ready.json 2>&1; do
    kill -0 "$run" || { cat run.log >&2; exit 1; }
    sleep 0.05
done
say "ready $(since "$began") after the start: $(cat ready.json)"
voicewatch probe /livez >/dev/null && say "alive, as the image's HEALTHCHECK asks"
say "$(voicewatch probe /metrics | grep -c '^voicewatch_') samples of metrics"
say "memory $(awk '/^VmRSS/ { printf "%.0f MB", $2 / 1000 }' "/proc/$run/status")"
began=$(now)
kill -TERM "$run"
code=0
wait "$run" || code=$?
say "stopped $(since "$began") after SIGTERM with exit code $code: $(tail -n 1 run.out)"
kill -TERM "$simulator"
[ "$code" = 0 ]

began=$(now)
voicewatch demo --seconds 10 2>demo.log || { cat demo.log >&2; exit 1; }
say "the demo of 10 s took $(since "$began")"
