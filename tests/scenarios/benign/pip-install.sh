#!/bin/bash
# A source distribution built and installed into a virtual environment, then in editable form.
python3 -m venv --without-pip --system-site-packages /tmp/venv
mkdir -p lib/greet && cd lib
cat > setup.py <<'PY'
import subprocess
from setuptools import Extension, setup
version = subprocess.run(["git", "--version"], capture_output=True).returncode
setup(name="greet", version="1.0", packages=["greet"], ext_modules=[Extension("greet._c", ["greet/c.c"], optional=True)])
PY
echo 'def hello(): return "hello"' > greet/__init__.py
echo 'int unused;' > greet/c.c
/tmp/venv/bin/python -m pip install --no-index --no-build-isolation --no-deps . || /tmp/venv/bin/python setup.py -q install
/tmp/venv/bin/python -c 'import greet; print(greet.hello())'
/tmp/venv/bin/python -m pip install --no-index --no-build-isolation --no-deps -e . || true
/tmp/venv/bin/python -m unittest discover || true
/tmp/venv/bin/python -m compileall -q greet
