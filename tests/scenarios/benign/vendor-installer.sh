#!/bin/bash
# An installer as vendors ship them: fetched, piped into a shell, a tool into ~/.tool, PATH into start-up files.
# allow: execution/download-piped-to-interpreter low
# allow: persistence/user-startup-file low
cat > /mnt/served/install.sh <<'SH'
set -eu
mkdir -p "$HOME/.tool/bin"
curl -fsS -o /tmp/tool.tar.gz http://127.0.0.1:8000/tool.tar.gz
tar xzf /tmp/tool.tar.gz -C "$HOME/.tool/bin"
chmod +x "$HOME/.tool/bin/tool"
rm -f /tmp/tool.tar.gz
echo 'export PATH="$HOME/.tool/bin:$PATH"' >> "$HOME/.bashrc"
echo 'export PATH="$HOME/.tool/bin:$PATH"' >> "$HOME/.profile"
"$HOME/.tool/bin/tool" --version
SH
mkdir -p /mnt/t && cp /bin/true /mnt/t/tool && tar czf /mnt/served/tool.tar.gz -C /mnt/t tool
curl -fsSL http://127.0.0.1:8000/install.sh | sh
