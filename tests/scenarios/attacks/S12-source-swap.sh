#!/bin/bash
# Models SUNSPOT (2020-09): somebody waits for the compiler, swaps a source file, and puts it back.
# must: impact/source-swapped
# gate: fail
mkdir -p src && cd src
echo 'int main(void) { return 0; }' > a.c
cat > /tmp/sunspot.py <<'PY'
import os, time
open("../evil.c", "w").write("int main(void) { return 1; }\n")
deadline = time.time() + 20
def compiler():
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                if open(f"/proc/{pid}/comm").read().strip() in ("make", "gcc"):
                    return pid
            except OSError:
                pass
while time.time() < deadline and not (pid := compiler()):
    time.sleep(0.01)
os.rename("a.c", "../a.c.saved")
os.rename("../evil.c", "a.c")
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.01)
os.rename("a.c", "../evil.c")
os.rename("../a.c.saved", "a.c")
PY
python3 /tmp/sunspot.py & watcher=$!
sleep 0.5
printf 'a: a.c\n\tsleep 0.5\n\tgcc -o a a.c\n' > Makefile
make
wait $watcher
