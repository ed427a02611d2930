#!/bin/bash
# A stage that is in no file: executed from memory, and from shared memory.
# must: stealth/exec-from-memory
# must: stealth/exec-from-shared-memory
# gate: fail
python3 - <<'PY'
import os
fd = os.memfd_create("stage", os.MFD_CLOEXEC)
os.write(fd, open("/bin/true", "rb").read())
if os.fork() == 0:
    os.execve(f"/proc/self/fd/{fd}", ["stage"], {})
os.wait()
PY
cp /bin/true /dev/shm/.stage && /dev/shm/.stage; rm -f /dev/shm/.stage
