#!/bin/bash
# Models xz-utils 5.6.0 (2024-03): configure unpacks a test fixture into a shell, which drops an object into the build.
# must: execution/decoded-text-run
# gate: fail
mkdir -p tests/files
cat > /tmp/stage <<'SH'
printf '\177ELF' > "$WORKSPACE/liblzma_la-crc64-fast.o"
SH
xz -c /tmp/stage > tests/files/good-large_compressed.lzma
cat > configure <<'SH'
#!/bin/sh
head -c 100000 tests/files/good-large_compressed.lzma | xz -dc | /bin/sh
SH
chmod +x configure
./configure
