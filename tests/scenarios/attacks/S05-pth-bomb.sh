#!/bin/bash
# Models LiteLLM 1.82.8 (2026-03): a .pth file runs code at every start of the interpreter.
# must: persistence/python-startup-hook
# must: execution/inline-code-decodes
# gate: fail
python3 -m venv --without-pip /tmp/venv
site=$(/tmp/venv/bin/python3 -c 'import site; print(site.getsitepackages()[0])')
payload=$(printf 'import os, sys\nif os.environ.get("DEPTH", "0") < "3":\n    import subprocess; subprocess.run([sys.executable, "-c", "pass"], env=dict(os.environ, DEPTH=str(int(os.environ.get("DEPTH", "0")) + 1)))' | base64 -w0)
cat > /tmp/drop.py <<PY
open("$site/litellm_init.pth", "w").write("import os, subprocess, sys; os.environ.get('DEPTH', '0') < '3' and subprocess.run([sys.executable, '-c', \"import base64; exec(base64.b64decode('$payload'))\"], env=dict(os.environ, DEPTH=str(int(os.environ.get('DEPTH', '0')) + 1)))\n")
PY
python3 /tmp/drop.py
/tmp/venv/bin/python3 -c 'print("application")'
