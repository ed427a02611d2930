#!/bin/bash
# Tools that read their own stores, as they are meant to.
mkdir -p ~/bin
cat > ~/bin/aws <<'PY'
#!/usr/bin/python3
import configparser, os
parser = configparser.ConfigParser()
parser.read(os.path.expanduser("~/.aws/credentials"))
print(parser.sections())
PY
chmod +x ~/bin/aws
~/bin/aws s3 ls
npm config get registry
npm whoami --registry http://127.0.0.1:9 --fetch-retries 0 2> /dev/null || true
git -c credential.helper=store credential fill <<< $'protocol=https\nhost=git.example\n'
ssh -o BatchMode=yes -o ConnectTimeout=1 -i ~/.ssh/id_ed25519 -p 9 127.0.0.1 true || true
env | sort > /tmp/env.txt; printenv PATH; id; uname -a; whoami; hostname; nproc; cat /etc/os-release /etc/passwd /etc/hosts > /dev/null
