#!/bin/bash
# Evades by noise: as many events as the machine can make while the pipeline agent's memory is read.
# must: credential-access/pipeline-agent-reached-into | credential-access/process-memory-read
# gate: fail | inconclusive
python3 /mnt/pipeline_agent.py & worker=$!
( for round in $(seq 3000); do /bin/true; done ) & first=$!
find /usr/share /usr/lib -type f -exec cat {} + > /dev/null 2>&1 & second=$!
sleep 1
python3 - $worker <<'PY'
import sys
maps = open(f"/proc/{sys.argv[1]}/maps").readline()
memory = open(f"/proc/{sys.argv[1]}/mem", "rb", 0)
memory.seek(int(maps.split("-")[0], 16))
memory.read(64)
PY
kill $worker $second; wait $first
