#!/bin/bash
# Runs a scenario in a world of its own: a network with nothing but loopback, an /etc, a /home, a /tmp and a resolver that
# are thrown away, decoys where credentials are, and a listener that plays the attacker's host. Nothing reaches the
# machine's own files or network.
#
#   enter.sh SCENARIO
#
# With SCENARIO_GATE, a staghound, the scenario alone runs under its gate, which leaves its reports in SCENARIO_REPORT.
set -eu
scenario=$(realpath "$1")
here=$(dirname "$(realpath "$0")")

if [ -z "${SCENARIO_ENTERED:-}" ]; then
    exec env SCENARIO_ENTERED=1 unshare --mount --net --ipc --uts --propagation private -- "$0" "$scenario"
fi

ip link set lo up
# Addresses that scenarios reach for are on this loopback; none of them is routed anywhere.
for address in 169.254.169.254/32 198.51.100.7/32 203.0.113.9/32 10.96.0.1/32; do
    ip address add "$address" dev lo
done

mount -t tmpfs -o mode=755 tmpfs /mnt
cp -a /etc /mnt/etc
cp "$here/server.py" "$here/pipeline_agent.py" "$scenario" /mnt/
scenario=$(basename "$scenario")
mkdir -m 755 /mnt/home /mnt/served
mkdir -m 1777 /mnt/tmp
gate=()
if [ -n "${SCENARIO_GATE:-}" ]; then
    cp "$SCENARIO_GATE" /mnt/staghound
    gate=(/mnt/staghound run --report "$SCENARIO_REPORT" --)
fi
for directory in etc home; do
    mount --bind "/mnt/$directory" "/$directory"
done
echo "nameserver 127.0.0.1" > /etc/resolv.conf
echo "127.0.0.1 localhost" > /etc/hosts

export HOME=/home/runner USER=runner LOGNAME=runner CI=true GITHUB_ACTIONS=true PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export WORKSPACE=$HOME/work/app/app
mkdir -p "$WORKSPACE"
mkdir -p "$HOME"/.ssh "$HOME"/.aws "$HOME"/.docker "$HOME"/.kube "$HOME"/.config/gh "$HOME"/.config/gcloud
echo "-----BEGIN OPENSSH PRIVATE KEY----- decoy" > "$HOME/.ssh/id_ed25519"
printf '[default]\naws_access_key_id = AKIADECOY\n' > "$HOME/.aws/credentials"
echo '{"auths":{}}' > "$HOME/.docker/config.json"
echo 'apiVersion: v1' > "$HOME/.kube/config"
echo '//registry.example/:_authToken=decoy' > "$HOME/.npmrc"
echo '[pypi]' > "$HOME/.pypirc"
echo 'https://user:decoy@git.example' > "$HOME/.git-credentials"
echo 'github.com: {oauth_token: decoy}' > "$HOME/.config/gh/hosts.yml"
echo '{}' > "$HOME/.config/gcloud/application_default_credentials.json"
echo 'TOKEN=decoy' > "$WORKSPACE/.env"
touch "$HOME/.bashrc" "$HOME/.bash_history"
chmod 600 "$HOME"/.ssh/id_ed25519 "$HOME"/.aws/credentials

mount --bind /mnt/tmp /tmp

/usr/bin/python3 /mnt/server.py > /mnt/server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 200); do
    [ -s /mnt/server.log ] && break
    sleep 0.05
done
cd "$WORKSPACE"
set +e
"${gate[@]}" bash "/mnt/$scenario"
code=$?
exit $code
